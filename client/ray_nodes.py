"""Agents on the nodes of a Ray cluster: all that is asked of Ray itself.

Ray's calls block, so each runs in a thread and takes at most STEP_S: between two of them the caller can be interrupted.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from ..common.errors import MissingExtra, ShoalError, UsageError
from ..common.logs import get_logger
from .children import STOP_S, ChildDaemon

T = TypeVar("T")

STEP_S = 0.5
VERDICT_S = 60.0
"""A node that was cut off answers nothing; Ray counts it as dead after five health checks, 3 s apart, with time-outs of 10 s."""

log = get_logger("ray")


class NodeAgent:
    """One agent, on the node that this actor was placed on."""

    def __init__(self) -> None:
        self._child = ChildDaemon("agent")

    def start(self, settings: Mapping[str, object], authority: str) -> str:
        """Start it. Returns what went wrong, or an empty string: Ray cannot carry every error."""
        try:
            self._child.start(settings, authority=authority)
        except ShoalError as error:
            return str(error)
        return ""

    def poll(self) -> int | None:
        """The exit code of an agent that has ended."""
        return self._child.poll()

    def stop(self) -> None:
        """End it in order."""
        self._child.stop()


@dataclass(slots=True)
class Node:
    """A node of the cluster, with the actor on it."""

    node_id: str
    agent: str  # its agent's name
    actor: Any = field(repr=False)
    gone: bool = False  # the node or its agent has ended


class RayNodes:
    """The living nodes of the cluster that this process takes part in, an agent on each. Use: `start`, and `stop` in any case."""

    def __init__(self) -> None:
        """Raises UsageError if this process is not in a cluster, or not inside of it; MissingExtra."""
        try:
            self._ray: Any = import_module("ray")
        except ImportError:
            raise MissingExtra("RayFleet", cause="ray is not installed", remedy="pip install 'shoal[ray]'") from None
        self.nodes: list[Node] = []
        if not self._ray.is_initialized():
            raise UsageError("RayFleet", cause="this process is not in a Ray cluster", remedy="call ray.init() first")
        if import_module("ray.util.client").ray.is_connected():
            cause = "this process is connected to the cluster from outside, through Ray Client"
            raise UsageError("RayFleet", cause=cause, remedy="call it in a task or a job that runs in the cluster")

    async def own_address(self) -> str:
        """The IP address of the node that this process is on."""
        return str(await step(self._ray.util.get_node_ip_address))

    async def start(self, settings: Mapping[str, object], authority: str) -> None:
        """Start an agent on each node, and wait until all have started or their nodes are gone.

        Raises ShoalError for what is wrong on a node.
        """
        strategies = import_module("ray.util.scheduling_strategies")
        make = self._ray.remote(num_cpus=0, max_restarts=0)(NodeAgent)
        starting: dict[Any, Node] = {}
        for found in await step(self._ray.nodes):
            if found["Alive"]:
                placed = strategies.NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
                actor = make.options(scheduling_strategy=placed).remote()
                name = f"{found['NodeManagerHostname']}-{found['NodeID'][:8]}"
                node = Node(node_id=found["NodeID"], agent=name, actor=actor)
                self.nodes.append(node)
                starting[actor.start.remote({**settings, "agent.name": name}, authority)] = node
        while starting:
            ready, _ = await step(functools.partial(self._ray.wait, list(starting), timeout=STEP_S))
            for ref in ready:
                node = starting.pop(ref)
                wrong = await self._outcome(ref)
                if wrong is not None and not await self.is_gone(node):
                    raise ShoalError(f"agent {node.agent}", cause=wrong, remedy="is Shoal installed on that node?")

    async def has_ended(self, node: Node) -> bool:
        """Whether the node's agent has ended, with its actor or alone. An actor that does not answer at once has not."""
        ref = node.actor.poll.remote()
        ready, _ = await step(functools.partial(self._ray.wait, [ref], timeout=STEP_S))
        return bool(ready) and await self._outcome(ref) is not None

    async def is_gone(self, node: Node) -> bool:
        """Whether the cluster has lost the node."""
        found = await step(self._ray.nodes)
        if not any(each["NodeID"] == node.node_id and each["Alive"] for each in found):
            node.gone = True
            return True
        return False

    async def lives(self, node: Node) -> bool:
        """Whether the node lives, as far as can be known: its actor answers, or the cluster keeps it for VERDICT_S without it."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + VERDICT_S
        while not await self.is_gone(node):
            ref = node.actor.poll.remote()
            ready, _ = await step(functools.partial(self._ray.wait, [ref], timeout=STEP_S))
            try:
                if ready:
                    await step(functools.partial(self._ray.get, ref))
                    return True
            except Exception as error:
                log.debug("ray.actor_gone", agent=node.agent, error=type(error).__name__)
            if loop.time() > ends_at:
                return True
            await asyncio.sleep(STEP_S)
        return False

    async def stop(self) -> None:
        """End all agents in order, and their actors in any case. Never raises: the cluster may be gone already."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + STOP_S + 2.0
        try:
            left = [node.actor.stop.remote() for node in self.nodes]
            while left and loop.time() < ends_at:
                wait = functools.partial(self._ray.wait, left, num_returns=len(left), timeout=STEP_S)
                _, left = await step(wait)
        except Exception as error:
            log.debug("ray.stop_failed", error=f"{type(error).__name__}: {error}")
        for node in self.nodes:
            try:
                self._ray.kill(node.actor)
            except Exception as error:
                log.debug("ray.kill_failed", agent=node.agent, error=f"{type(error).__name__}: {error}")
        self.nodes.clear()

    async def _outcome(self, ref: Any) -> str | None:
        """What is wrong with a finished call of an actor; None if nothing."""
        try:
            answer = await step(functools.partial(self._ray.get, ref))
        except Exception as error:  # Ray's errors and those of the call, all of them texts to us
            return (str(error) or type(error).__name__).strip().splitlines()[-1]
        return None if answer in (None, "") else str(answer)


async def step(function: Callable[[], T]) -> T:
    """Run a blocking call in a thread. When the wait is cancelled, the call has ended on return: nothing goes on unseen."""
    running = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        raise
