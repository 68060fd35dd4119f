"""Agents' copies of one replicated job without a coordinator: real workers with real peer servers, and a test that plays the swarm."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from shoal.agent.peer.limits import PeerLimits
from shoal.agent.peer.server import PeerServer
from shoal.agent.worker import EngineOptions, Worker
from shoal.common.capability import Capability, holder_key, issue
from shoal.common.chunks import ChunkSizes, ChunkTable
from shoal.common.records import (
    AgentMessage,
    Delivery,
    JobSpec,
    Layout,
    Lease,
    LeaseRef,
    ObjectSpec,
    OriginKind,
    Outcome,
    UnitKind,
    WorkReport,
)
from shoal.common.swarm_records import (
    ORIGIN,
    Arrival,
    FetchFailure,
    FetchOrder,
    PeerAddress,
    PublishOrder,
    SwarmInventory,
    SwarmOrders,
    SwarmReport,
    Vouch,
)

from .engine import FAST, web_spec
from .origin import FaultOrigin

KIB = 1 << 10
MIB = 1 << 20
SIZES = ChunkSizes(chunk_bytes=MIB)
MASTER = bytes(range(32))
DEADLINE_S = 30.0
_tokens = itertools.count(1)


def replica_job(to: Path, *, sizes: ChunkSizes = SIZES, **fields: object) -> JobSpec:
    """A replicated job whose objects have URLs of their own."""
    job = JobSpec(
        job_id="job1",
        source="https://web",
        origin=OriginKind.HTTP,
        layout=Layout.FOLDER,
        destination=str(to),
        delivery=Delivery.REPLICATE,
        chunks=sizes,
    )
    return replace(job, **fields)  # type: ignore[arg-type]


def specs_of(
    origin: FaultOrigin, files: dict[str, object], *, digested: bool = True, sized: bool = True
) -> list[ObjectSpec]:
    """The files of an origin as objects, numbered in their order."""
    return [
        replace(
            web_spec(origin.url_of(path), content, path=path, digested=digested, sized=sized),  # type: ignore[arg-type]
            object_id=10 + number,
        )
        for number, (path, content) in enumerate(files.items())
    ]


@dataclass
class Node:
    """One agent, and what it told."""

    number: int
    to: Path
    job: JobSpec
    objects: Sequence[ObjectSpec]
    worker: Worker
    server: PeerServer
    address: str = ""
    messages: list[AgentMessage] = field(default_factory=list[AgentMessage])
    reports: list[WorkReport] = field(default_factory=list[WorkReport])
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ref: LeaseRef = field(default_factory=lambda: LeaseRef("", 0))
    deadline_s: float = float("inf")

    @property
    def name(self) -> str:
        return f"agent-{self.number}"

    @property
    def table(self) -> ChunkTable:
        assert self.job.chunks is not None
        return ChunkTable([s.object_id for s in self.objects], [s.size for s in self.objects], self.job.chunks)

    def tell(self, message: AgentMessage) -> None:
        self.messages.append(message)
        self.changed.set()

    def report(self, report: WorkReport) -> None:
        self.reports.append(report)
        self.changed.set()

    # -- the coordinator's side

    def grant(self) -> None:
        """The lease on a copy."""
        lease = Lease(unit=f"cjob1.{self.name}", token=next(_tokens), kind=UnitKind.REPLICA, job_id=self.job.job_id)
        self.ref = LeaseRef(lease.unit, lease.token)
        self.worker.start(lease, self.job, lambda: self.deadline_s)

    async def join(self) -> SwarmInventory:
        """Grant a copy and wait for the inventory."""
        count = len(self.inventories)
        self.grant()
        await self.until(lambda: len(self.inventories) > count)
        return self.inventories[-1]

    def obey(self, **orders: object) -> None:
        """Send orders."""
        self.worker.obey(SwarmOrders(job_id=self.job.job_id, token=self.ref.token, **orders))  # type: ignore[arg-type]

    def meet(self, *others: Node) -> None:
        """Tell it how others can be asked."""
        self.obey(peers=tuple(other.as_peer() for other in others))

    def fetch(self, *chunks: int, peer: int = ORIGIN, digest: bytes = b"", size: int | None = None) -> None:
        """Order chunks."""
        self.obey(fetch=tuple(FetchOrder(chunk=chunk, peer=peer, digest=digest, size=size) for chunk in chunks))

    def as_peer(self, *, address: str = "") -> PeerAddress:
        """How others are told of it."""
        claims = Capability(
            job_id=self.job.job_id,
            first_object=self.objects[0].object_id,
            last_object=self.objects[-1].object_id,
            holder=self.name,
            expires_at=time.time() + 3600,
        )
        capability = issue(holder_key(MASTER, self.name, ""), claims)
        return PeerAddress(number=self.number, address=address or self.address, capability=capability)

    # -- what it told

    def _all(self) -> list[SwarmReport]:
        return [message for message in self.messages if isinstance(message, SwarmReport)]

    @property
    def inventories(self) -> list[SwarmInventory]:
        return [message for message in self.messages if isinstance(message, SwarmInventory)]

    @property
    def arrivals(self) -> list[Arrival]:
        return [arrival for report in self._all() for arrival in report.arrived]

    @property
    def digests(self) -> dict[int, bytes]:
        return {arrival.chunk: arrival.digest for arrival in self.arrivals}

    @property
    def failures(self) -> list[FetchFailure]:
        return [failure for report in self._all() for failure in report.failed]

    @property
    def vouches(self) -> list[Vouch]:
        return [vouch for report in self._all() for vouch in report.vouched]

    @property
    def published(self) -> list[int]:
        return [object_id for report in self._all() for object_id in report.published]

    @property
    def lost(self) -> list[int]:
        return [chunk for report in self._all() for chunk in report.lost]

    def arrived(self, chunk: int) -> int:
        """Bytes of a chunk under way, by the newest progress."""
        found = [p.arrived for report in self._all() for p in report.progress if p.chunk == chunk]
        return found[-1] if found else 0

    async def until(self, condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
        """Wait until something that it tells makes the condition true."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def until_has(self, *chunks: int) -> None:
        """Wait for chunks."""
        await self.until(lambda: set(chunks) <= self.digests.keys())

    async def ended(self) -> WorkReport:
        """The report that ends the lease."""
        await self.until(lambda: any(r.unit == self.ref.unit and r.token == self.ref.token for r in self.reports))
        return self.reports[-1]

    async def publish_all(self, *vouchers: Node) -> None:
        """Play the rest: digests by whoever vouches, names, the end of the lease."""
        voucher = vouchers[0] if vouchers else self
        large = [self.objects[at].object_id for at in self.table.large]
        missing = set(large) - {vouch.object_id for vouch in voucher.vouches}
        voucher.obey(vouch=tuple(sorted(missing)))
        await voucher.until(lambda: set(large) <= {vouch.object_id for vouch in voucher.vouches})
        orders = [PublishOrder(object_id=vouch.object_id, digest=vouch.digest) for vouch in voucher.vouches]
        self.obey(publish=tuple(orders))
        assert (await self.ended()).outcome is Outcome.DONE


@asynccontextmanager
async def node(number: int, to: Path, objects: Sequence[ObjectSpec], **options: object) -> AsyncIterator[Node]:
    """An agent with its peer server. Options are the job's (``job=…``) and the engine's."""
    loop = asyncio.get_running_loop()
    job = options.pop("job", None) or replica_job(to)
    limits = options.pop("limits", None) or PeerLimits()
    assert isinstance(job, JobSpec) and isinstance(limits, PeerLimits)

    async def list_objects(job_id: str, *, unfinished_too: bool = False) -> AsyncIterator[Sequence[ObjectSpec]]:
        assert unfinished_too
        for at in range(0, len(objects), 50):
            yield objects[at : at + 50]

    settings: dict[str, object] = {"agent_id": f"agent-{number}", "sync": False, **FAST, **options}
    worker = Worker(
        EngineOptions(**settings),  # type: ignore[arg-type]
        report=lambda report: made.report(report),
        tell=lambda message: made.tell(message),
        list_objects=list_objects,
        hub_token=lambda: None,
        clock=loop.time,
        rng=random.Random(1),
    )
    async with worker:
        name = f"agent-{number}"
        key = holder_key(MASTER, name, "")
        server = PeerServer(worker.shelf, key=lambda: key, holder=name, now=time.time, limits=limits)
        made = Node(number, to, job, objects, worker, server)
        host, port = await server.start("127.0.0.1", 0)
        made.address = f"{host}:{port}"
        try:
            yield made
        finally:
            await server.aclose()


def have(inventory: SwarmInventory) -> set[int]:
    """The chunks of an inventory."""
    return {chunk for chunk in range(inventory.chunks) if inventory.have[chunk >> 3] >> (chunk & 7) & 1}


def all_chunks(nodes: Iterable[Node]) -> range:
    """The numbers of a job's chunks."""
    return range(len(next(iter(nodes)).table))
