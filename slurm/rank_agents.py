"""The agents that one process starts on its node: children of it, each with its CPUs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ..client.children import ChildDaemon

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentPlan:
    """One agent: its name in the fleet, the CPUs that it may use, and more variables for it."""

    name: str
    cpus: frozenset[int]
    environ: Mapping[str, str]


class RankAgents:
    """Some agents. Use: ``await start(...)``, then ``await stop()`` in any case."""

    def __init__(self, plans: Sequence[AgentPlan]) -> None:
        self._plans = plans
        self._children: dict[str, ChildDaemon] = {}

    async def start(self, settings: Mapping[str, object], *, authority: str, config: str) -> None:
        """Start all of them. Raises what ended the first that could not start; the others run then."""

        def start(plan: AgentPlan) -> None:
            use_cpus(plan.cpus)  # of this thread, and so of the child
            child = ChildDaemon("agent")
            self._children[plan.name] = child
            named = {**settings, "agent.name": plan.name}
            child.start(named, authority=authority, config=config, environ=plan.environ)

        outcomes = await _each(start, self._plans)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    @property
    def running(self) -> int:
        """How many run now."""
        return sum(child.poll() is None for child in self._children.values())

    def ended(self) -> dict[str, int]:
        """The exit codes of those that have ended, by name."""
        codes = {name: child.poll() for name, child in self._children.items()}
        return {name: code for name, code in codes.items() if code is not None}

    async def stop(self) -> None:
        """Let all drain, at the same time. Cancelled or not, none runs afterwards."""
        await _each(ChildDaemon.stop, list(self._children.values()))


async def _each(act: Callable[[T], object], items: Sequence[T]) -> list[BaseException | None]:
    """Call in a thread for each, all at once. Returns what each raised. When cancelled, waits for the calls all the same: they
    start and stop processes."""
    if not items:
        return []
    with ThreadPoolExecutor(len(items)) as threads:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(threads, act, item) for item in items]
        waiting = asyncio.ensure_future(asyncio.wait(calls))
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await asyncio.wait((waiting,))
            raise
        return [call.exception() for call in calls]


def use_cpus(cpus: Iterable[int]) -> None:
    """Let this thread, and what it starts, use these CPUs, where the system lets it. Launchers bind ranks to fewer."""
    wanted = set(cpus)
    if wanted and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, wanted)
        except OSError:
            pass  # what the site's cgroups do not allow stays as it is


def own_cpus() -> frozenset[int]:
    """The CPUs that this process may use; none where the system does not tell."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
