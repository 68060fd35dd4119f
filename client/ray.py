"""A fleet for the time of a download, inside a Ray cluster: one agent on each living node, and a coordinator beside the caller.

::

    with RayFleet() as fleet:
        fleet.download([DownloadRequest(uri="s3://bucket/model/", destination="/data/model")])

The coordinator is a child process of the caller. An actor that takes no CPU is placed on each node; it runs the agent as its child.
The credentials are made for this fleet: the agents' goes to the actors as an argument of a method call and from there to the
child's standard input. Children end when whoever started them does, so nothing stays behind when the caller, an actor or a node
is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Self

from ..common.errors import ShoalError, TimedOut, UsageError
from ..common.logs import get_logger
from ..common.records import Delivery
from ..common.settings import Settings
from ..common.settings_sources import Rank
from ..common.views import AgentStatus, JobView, ReplicaStatus
from .distributed import OnProgress, check_requests, deliver
from .fleet_head import FleetHead
from .loop_thread import LoopThread, loop_thread
from .ray_nodes import RayNodes, step
from .requests import DistributedResult, DownloadRequest
from .sdk import AsyncClient

START_TIMEOUT_S = 120.0
JOIN_POLL_S = 0.1
WATCH_S = 2.0
"""How often the nodes are asked whether their agents still run."""

_FORWARDED_SECTIONS = ("hub", "fetch", "swarm", "s3")
_FORWARDED = (
    *("agent.root", "agent.allow_paths", "agent.memory_limit", "agent.upload_slots", "agent.download_slots"),
    *("agent.upload_rate", "security.https_only", "log.level", "log.format"),
)

log = get_logger("ray")


class AsyncRayFleet:
    """The fleet, for coroutines; see `RayFleet`."""

    delivery = Delivery.REPLICATE

    def __init__(
        self,
        *,
        settings: Mapping[str, object] | None = None,
        host: str = "",
        listen_host: str = "",
        start_timeout_s: float = START_TIMEOUT_S,
        config: str = "",
    ) -> None:
        """See `RayFleet`. config: a configuration file, as ``--config`` names it."""
        self._given = dict(settings or {})
        self._config = config
        self._head: FleetHead | None = None
        self._host = host
        self._listen_host = listen_host
        self._start_timeout_s = start_timeout_s
        self._open = AsyncExitStack()
        self._client: AsyncClient | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client = self._head = None
        await self._open.aclose()

    @property
    def agents(self) -> tuple[str, ...]:
        """The names of the agents, one a node."""
        return tuple(node.agent for node in self._nodes.nodes) if self._client is not None else ()

    @property
    def client(self) -> AsyncClient:
        """A client of the fleet's coordinator. Raises UsageError outside of the block."""
        if self._client is None:
            raise UsageError("RayFleet", cause="it is not open", remedy="use it as a context manager")
        return self._client

    @property
    def head(self) -> FleetHead:
        """Its coordinator. Raises UsageError outside of the block."""
        if self._head is None:
            raise UsageError("RayFleet", cause="it is not open", remedy="use it as a context manager")
        return self._head

    async def download(
        self,
        requests: Sequence[DownloadRequest],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[DistributedResult]:
        """Bring every source to every node; see `RayFleet.download`."""
        check_requests(requests)
        coordinator, hub = self.client.coordinator, self.client.settings.hub.endpoint
        delivering = asyncio.ensure_future(
            deliver(
                coordinator,
                requests,
                self.delivery,
                hub,
                timeout=timeout,
                on_progress=on_progress,
                check=self._check,
            )
        )
        watching = asyncio.ensure_future(self._until_all_gone())
        try:
            await asyncio.wait((delivering, watching), return_when=asyncio.FIRST_COMPLETED)
            if not delivering.done():
                await watching  # raises what ended it
                raise ShoalError("Ray fleet", cause="the agents of all nodes have ended", remedy="see Ray's logs")
            return await delivering
        finally:
            for task in (delivering, watching):
                task.cancel()
            await asyncio.gather(delivering, watching, return_exceptions=True)

    # ---- starting ---------------------------------------------------------------------------------------------------

    async def _start(self, stack: AsyncExitStack) -> None:
        self._nodes = nodes = RayNodes()
        host = self._host or await nodes.own_address()
        head = self._head = FleetHead(self._given, hosts=[host], listen_host=self._listen_host, config=self._config)
        stack.push_async_callback(step, head.close)
        await step(head.start)
        mine = head.client_settings()
        self._client = await stack.enter_async_context(AsyncClient(token=head.admin_token, settings=mine))
        stack.push_async_callback(nodes.stop)
        theirs = {**forwarded(self._client.settings), **head.agent_settings()}
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await nodes.start(theirs, head.authority)
                await self._joined()
        except TimeoutError:
            alive = await self._alive()
            missing = sorted(node.agent for node in nodes.nodes if not node.gone and node.agent not in alive)
            raise TimedOut(
                f"agent {', '.join(missing)}",
                cause=f"it did not join within {self._start_timeout_s:g} s",
                remedy="see whether its node reaches the caller's, and Ray's logs",
            ) from None

    async def _joined(self) -> None:
        while True:
            alive = await self._alive()
            waiting = [node for node in self._nodes.nodes if not node.gone and node.agent not in alive]
            if not waiting:
                return
            for node in waiting:
                if await self._nodes.has_ended(node) and not await self._nodes.is_gone(node):
                    raise ShoalError(f"agent {node.agent}", cause="it has ended", remedy="see Ray's logs of that node")
            await asyncio.sleep(JOIN_POLL_S)

    async def _alive(self) -> set[str]:
        return {agent.name for agent in await self.client.agents() if agent.status is AgentStatus.ALIVE}

    # ---- nodes that end ---------------------------------------------------------------------------------------------

    async def _until_all_gone(self) -> None:
        nodes = self._nodes.nodes
        while not all(node.gone for node in nodes):
            await asyncio.sleep(WATCH_S)
            for node in nodes:
                if not node.gone and await self._nodes.has_ended(node):
                    node.gone = True
                    log.warning("ray.agent_gone", agent=node.agent)

    async def _check(self, job: JobView) -> ShoalError | None:
        """What is wrong with a job that is done: a node that lives must have its copy."""
        if self.delivery is not Delivery.REPLICATE:
            return None
        complete = {replica.name for replica in job.replicas if replica.status is ReplicaStatus.DONE}
        for node in self._nodes.nodes:
            if node.agent not in complete and await self._nodes.lives(node):
                return ShoalError(f"agent {node.agent}", cause="it has no complete copy", remedy="call it again")
        return None


class RayFleet:
    """One agent on each living node of this Ray cluster, as long as the block runs.

    Entering it starts the fleet and returns when all agents have joined; leaving it ends everything, on every path. A node that
    dies meanwhile holds nobody up.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, object] | None = None,
        host: str = "",
        listen_host: str = "",
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        """Args: settings override, by name, for the coordinator and all agents; host is where the nodes reach this one, by default
        its address in Ray; listen_host is what the coordinator listens on, by default the same.
        """
        self._fleet = AsyncRayFleet(
            settings=settings, host=host, listen_host=listen_host, start_timeout_s=start_timeout_s
        )
        self._stack = ExitStack()
        self._thread: LoopThread | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            thread = stack.enter_context(loop_thread())
            thread.run(self._fleet.__aenter__())
            stack.callback(lambda: thread.run(self._fleet.__aexit__()))
            self._stack = stack.pop_all()
        self._thread = thread
        return self

    def __exit__(self, *_: object) -> None:
        self._thread = None
        self._stack.close()

    @property
    def agents(self) -> tuple[str, ...]:
        """The names of the agents, one a node."""
        return self._fleet.agents

    def download(
        self,
        requests: Sequence[DownloadRequest],
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[DistributedResult]:
        """Bring every source to every node, and wait for it. May be called again and again.

        Args: timeout in seconds; on_progress is called from another thread.
        Raises: DeliveryFailed after all have ended, if some failed; TimedOut; ShoalError if no node is left.
        """
        if self._thread is None:
            raise UsageError("RayFleet", cause="it is not open", remedy="use it as a context manager")
        return self._thread.run(self._fleet.download(requests, timeout=timeout, on_progress=on_progress))


def forwarded(settings: Settings) -> dict[str, object]:
    """The settings of this process that count on the nodes too, where they were set here: no credential, and no path but those that
    say where agents may write. Credentials and certificate authorities are those that each node has itself."""
    found: dict[str, object] = {}
    for name, key, value in settings.values():
        if name not in _FORWARDED:
            if name.partition(".")[0] not in _FORWARDED_SECTIONS or isinstance(value, Path):
                continue
            if name == "fetch.proxy" or key.name.endswith(("_file", "_env")):
                continue
        if not key.kind.secret and settings.origin_of(name).rank is not Rank.DEFAULT:
            found[name] = key.kind.show(value)
    return found
