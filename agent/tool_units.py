"""Leases on tools over a dataset: the plan, one unit of its schedule, the summary. Each runs in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import Refused, ShoalError
from ..common.records import Failure, JobSpec, Lease, LeaseRef, Outcome, UnitKind, WorkReport
from ..common.roots import resolve_destination
from .engine.reporting import failure_of

UNITS_AT_ONCE = 2
"""Each unit is a process that keeps a core busy; more than the cores would only take memory. See `ToolUnits.__init__`."""


@dataclass(slots=True)
class _Held:
    """A lease that is worked on."""

    lease: Lease
    task: asyncio.Task[None]


class ToolUnits:
    """All leases on tools that this agent holds. Its tasks are the worker's."""

    def __init__(
        self,
        *,
        tasks: asyncio.TaskGroup,
        report: Callable[[WorkReport], None],
        root: Path,
        allow_paths: tuple[Path, ...],
        load_paths: tuple[Path, ...] | None,
    ) -> None:
        """load_paths: folders that tools of users are loaded from; none: none are; None: any, as on one's own machine."""
        self._tasks = tasks
        self._report = report
        self._root = root
        self._allow_paths = allow_paths
        self._load_paths = load_paths
        self._held: dict[LeaseRef, _Held] = {}
        self._turn = asyncio.Semaphore(max(1, os.cpu_count() or UNITS_AT_ONCE))

    @property
    def held(self) -> tuple[LeaseRef, ...]:
        """The leases that are being worked on."""
        return tuple(self._held)

    def start(self, lease: Lease, job: JobSpec) -> None:
        """Begin to work on a lease; never blocks."""
        ref = LeaseRef(lease.unit, lease.token)
        if ref not in self._held:
            task = self._tasks.create_task(self._work(ref, lease, job), name=f"shoal-{lease.kind}-{lease.unit}")
            self._held[ref] = _Held(lease, task)

    def stop(self, ref: LeaseRef) -> bool:
        """The lease is no longer ours. Returns whether it was one of these."""
        held = self._held.pop(ref, None)
        if held is not None:
            held.task.cancel()
        return held is not None

    def give_back(self) -> None:
        """Stop all work, and report it as given back: what is done of a unit is kept by the tool's own records."""
        for ref in list(self._held):
            self.stop(ref)
            self._report(WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.RETURNED))

    async def _work(self, ref: LeaseRef, lease: Lease, job: JobSpec) -> None:
        try:
            async with self._turn:
                answer = await _run_child(self._order(lease, job))
            report = _report_of(ref, lease, answer)
        except Exception as error:
            report = WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.FAILED, failure=failure_of(error))
        if self._held.pop(ref, None) is not None:
            self._report(report)

    def _order(self, lease: Lease, job: JobSpec) -> dict[str, Any]:
        assert job.tool is not None
        spec = job.tool
        if spec.load and self._load_paths is not None:
            file = Path(spec.load).resolve()
            if not any(file.is_relative_to(folder.resolve()) for folder in self._load_paths):
                raise Refused(
                    f"tool file {spec.load}",
                    cause="this agent loads no tools from there",
                    remedy="name its folder in the agent's tools.load_paths",
                )
        stages = {UnitKind.TOOL_PLAN: "plan", UnitKind.TOOL_RUN: "run"}
        return {
            "stage": stages.get(lease.kind, "finish"),
            "spec": dataclasses.asdict(spec),
            "data": str(resolve_destination(job.destination, root=self._root, allow=self._allow_paths)),
            "number": int(lease.object.path.rpartition("-")[2]) if lease.object is not None else 0,
        }


def _report_of(ref: LeaseRef, lease: Lease, answer: dict[str, Any]) -> WorkReport:
    if "error" in answer:
        failure = Failure(**answer["error"])
        return WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.FAILED, failure=failure)
    done: dict[str, Any] = answer["done"]
    size = done["units"] if lease.kind is UnitKind.TOOL_PLAN else int(done.get("bytes", 0))
    if problems := done.get("problems"):
        text = f"{lease.unit}: {len(problems)} partitions were not worked on, the first: {problems[0]['reason']}"
        failure = Failure(code="tool-failed", text=text, retryable=True)
        return WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.FAILED, failure=failure)
    return WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.DONE, size=size)


async def _run_child(order: dict[str, Any]) -> dict[str, Any]:
    """Run a stage to its end; all its processes are killed when this is cancelled. Raises ShoalError when it dies."""
    # Not by the loop: uvloop forks, and gRPC's handlers then run in the child, which was seen to end before it read anything. The
    # standard library's own way (vfork) runs none.
    child = await asyncio.to_thread(
        subprocess.Popen[bytes],
        [sys.executable, "-m", "shoal.agent.tool_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    talking = asyncio.ensure_future(asyncio.to_thread(child.communicate, json.dumps(order).encode()))
    try:
        said, _ = await asyncio.shield(talking)
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await asyncio.gather(talking, return_exceptions=True)
        raise
    lines = said.decode(errors="replace").strip().splitlines()
    if not lines:
        how = f"its process ended with {child.returncode}"
        raise ShoalError(
            f"tool stage {order['stage']}", cause=how, remedy="look for a lack of memory; it is done again"
        )
    return json.loads(lines[-1])
