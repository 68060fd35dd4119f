"""Agents of a replicated job that do what a core orders, in rounds and without bytes: for tests of the core."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shoal.common.chunks import Bundle, ChunkSizes, ChunkTable
from shoal.common.records import (
    Capacity,
    CoordinatorMessage,
    Delivery,
    Failure,
    Goodbye,
    Grants,
    Heartbeat,
    Hello,
    JobSpec,
    Layout,
    Lease,
    LeaseRef,
    OriginKind,
    Outcome,
    Result,
    Results,
    Revoke,
    UnitKind,
)
from shoal.common.swarm_records import (
    ORIGIN,
    Arrival,
    ChunkDigest,
    FetchFailure,
    FetchOrder,
    PeerOffer,
    SwarmInventory,
    SwarmOrders,
    SwarmReport,
    Vouch,
)
from shoal.common.views import JobStatus
from shoal.coordinator.core import Core, CoreLimits
from shoal.coordinator.effects import Effects, LoadTable, ObjectBegunAnew, ObjectFailed, PutLease
from shoal.coordinator.leases import HeldLease
from shoal.coordinator.model import JobRow
from shoal.coordinator.replica_model import TableRow

MIB = 1 << 20
SIZES = ChunkSizes(chunk_bytes=MIB)
JOB = "j"


def digest_of(chunk: int, version: str = "") -> bytes:
    """What stands for the BLAKE3 of a chunk."""
    return hashlib.sha256(f"{chunk} {version}".encode()).digest()


@dataclass
class Copy:
    """One agent: what it holds, what it is to do."""

    name: str
    table: ChunkTable
    upload_slots: int = 4
    zone: str = ""
    lease: Lease | None = None
    have: dict[int, bytes] = field(default_factory=dict[int, bytes])
    orders: dict[int, FetchOrder] = field(default_factory=dict[int, FetchOrder])
    peers: dict[int, str] = field(default_factory=dict[int, str])
    vouch: set[int] = field(default_factory=set[int])
    publish: dict[int, str] = field(default_factory=dict[int, str])
    published: set[int] = field(default_factory=set[int])
    given_up: set[int] = field(default_factory=set[int])
    reported_done: bool = False
    ended: bool = False
    corrupts: bool = False  # what it sends has flipped bytes
    mute: bool = False  # it answers no peer
    up: bool = True
    seen: int = 0
    lives: dict[int, int] = field(default_factory=dict[int, int])  # by object, of what it has

    def obey(self, orders: SwarmOrders) -> None:
        for peer in orders.peers:
            self.peers[peer.number] = peer.address
        for chunk in orders.drop:
            self.have.pop(chunk, None)
        for object_id, life in zip(orders.reset, orders.lives, strict=True):
            self.lives[object_id] = life
            self.published.discard(object_id)
            for chunk in self._chunks(object_id):
                self.have.pop(chunk, None)
                self.orders.pop(chunk, None)
            self.publish.pop(object_id, None)
        self.given_up.update(orders.give_up)
        for object_id in orders.give_up:
            for chunk in self._chunks(object_id):
                if not isinstance(self.table.chunk(chunk), Bundle):
                    self.orders.pop(chunk, None)
        self.orders.update((order.chunk, order) for order in orders.fetch)
        self.vouch.update(orders.vouch)
        self.publish.update((order.object_id, order.digest) for order in orders.publish)
        self.ended = self.ended or orders.ended
        self.seen = orders.seq

    def _chunks(self, object_id: int) -> range:
        position = self.table.position(object_id)
        assert position is not None
        return self.table.chunks_of(position)

    def holds_whole(self, object_id: int) -> bool:
        return all(chunk in self.have for chunk in self._chunks(object_id))

    def large(self) -> list[int]:
        return [self.table.object_ids[position] for position in self.table.large]

    def is_complete(self) -> bool:
        wanted = [object_id for object_id in self.large() if object_id not in self.given_up]
        return all(chunk in self.have for chunk in range(self.table.bundles)) and self.published.issuperset(wanted)


class SwarmFleet:
    """A core and its agents. `step` lets every agent do what it can do at once."""

    def __init__(self, *sizes: int, seed: int = 0, limits: CoreLimits | None = None) -> None:
        self.rows = [TableRow(object_id=number, size=size) for number, size in enumerate(sizes, 1)]
        self.table = ChunkTable([row.object_id for row in self.rows], [row.size for row in self.rows], SIZES)
        self.rng = random.Random(seed)
        self.core = Core(incarnation=1, limits=limits)
        self.limits = limits
        self.now = 0.0
        self.copies: dict[str, Copy] = {}
        self.from_origin: dict[int, int] = {}
        self.origin_fails: dict[int, list[Failure]] = {}  # by chunk: what is answered, one after the other
        self.version = ""  # of what the origin serves
        self.has_digests = True  # the publisher names digests, so whoever vouches sees what is wrong
        self.wrong: set[int] = set()  # chunks that the origin serves wrongly, once each
        self.seq = 0
        self.failed_objects: list[int] = []
        self.stored: dict[str, PutLease] = {}
        self.begin()

    def begin(self) -> None:
        spec = JobSpec(
            job_id=JOB,
            source="https://o/",
            origin=OriginKind.HTTP,
            layout=Layout.FOLDER,
            destination="/d",
            delivery=Delivery.REPLICATE,
            chunks=SIZES,
        )
        self.row = JobRow(job_id=JOB, uri="", name="", fingerprint="", request="{}", priority=0, created_at=0.0)
        self.core.add_job(self.row)
        self.core.job_listed(JOB, spec, len(self.rows), sum(row.size or 0 for row in self.rows))
        self.settle()

    def restart(self) -> None:
        """The coordinator dies and comes back; agents notice and say hello again."""
        row = self.core.jobs[JOB].row
        self.core = Core(incarnation=2, limits=self.limits)
        self.core.add_job(row)
        self.row = row
        for lease in self.stored.values():
            held = HeldLease(
                unit=lease.unit, token=lease.token, agent_id=lease.agent_id, kind=lease.kind, job_id=JOB, object_id=0,
                start=0, stop=0, weight=0, granted_at=self.now, deadline=self.now + 30,
            )  # fmt: skip
            self.core.restore_lease(held, None)
        self.settle()
        for copy in list(self.copies.values()):
            if copy.up:
                self._hello(copy)

    # ---- agents

    def join(self, name: str, **traits: object) -> Copy:
        copy = self.copies[name] = Copy(name, self.table, **traits)  # pyright: ignore[reportArgumentType]
        self._hello(copy)
        return copy

    def _hello(self, copy: Copy) -> None:
        held = (LeaseRef(copy.lease.unit, copy.lease.token),) if copy.lease and not copy.reported_done else ()
        hello = Hello(
            agent_id=copy.name,
            name=copy.name,
            version="1",
            zone=copy.zone,
            capacity=Capacity(slots=4, units_max=16, bytes_max=1 << 30),
            held=held,
            peer=PeerOffer(address=f"{copy.name}:1", upload_slots=copy.upload_slots, download_slots=4),
        )
        self.core.receive(copy.name, hello, self.now)
        if copy.lease is not None:
            self._tell_inventory(copy)
        self.settle()

    def kill(self, name: str) -> None:
        """The process is gone; what lay on its disk comes back with `revive`."""
        self.copies[name].up = False
        self.core.disconnected(name, self.now)
        self.settle()

    def revive(self, name: str) -> None:
        old = self.copies[name]
        copy = self.copies[name] = Copy(
            name, self.table, have=dict(old.have), published=set(old.published), lives=dict(old.lives)
        )
        self._hello(copy)

    def leave(self, name: str) -> None:
        self.copies[name].up = False
        self.core.receive(name, Goodbye(), self.now)
        self.settle()

    def _tell_inventory(self, copy: Copy) -> None:
        assert copy.lease is not None
        have = sum(1 << chunk for chunk in copy.have)
        self.core.receive(
            copy.name,
            SwarmInventory(
                job_id=JOB,
                token=copy.lease.token,
                chunks=len(self.table),
                have=have.to_bytes((have.bit_length() + 7) // 8, "little"),
                published=tuple(sorted(copy.published)),
                digests=tuple(ChunkDigest(chunk=chunk, digest=digest) for chunk, digest in copy.have.items()),
                lives=tuple(copy.lives.get(object_id, 0) for object_id in copy.large()),
            ),
            self.now,
        )

    # ---- time

    def settle(self) -> None:
        """Turns of the coordinator until nothing more is to be done."""
        while True:
            self.core.tick(self.now)
            self.core.assign(self.now)
            effects = self.core.take_effects()
            if not effects:
                return
            self._carry_out(effects)

    def _carry_out(self, effects: Effects) -> None:
        for write in effects.writes:
            if isinstance(write, PutLease):
                self.stored[write.unit] = write
            elif isinstance(write, ObjectFailed):
                self.failed_objects.append(write.object_id)
            elif isinstance(write, ObjectBegunAnew):
                self.rows = [
                    replace(row, life=write.life) if row.object_id == write.object_id else row for row in self.rows
                ]
            elif type(write).__name__ == "DropLease":
                self.stored.pop(write.unit, None)  # pyright: ignore[reportAttributeAccessIssue]
        for load in effects.loads:
            if isinstance(load, LoadTable):
                self.core.table_loaded(JOB, self.rows)
        for send in effects.sends:
            copy = self.copies.get(send.agent_id)
            if copy is not None and copy.up:
                self._told(copy, send.message)
        job = self.core.jobs[JOB]
        if job.replication is not None and job.replication.swarm is not None:
            job.replication.swarm.swarm.check_invariants()

    def _told(self, copy: Copy, message: CoordinatorMessage) -> None:
        match message:
            case Grants():
                for lease in message.leases:
                    assert lease.kind is UnitKind.REPLICA
                    copy.lease, copy.reported_done, copy.seen = lease, False, 0
                    self._tell_inventory(copy)
            case SwarmOrders() if copy.lease is not None and message.token == copy.lease.token:
                copy.obey(message)
            case Revoke():
                copy.lease, copy.orders = None, {}
            case _:
                pass

    def step(self) -> None:
        self.now += 1.0
        for copy in list(self.copies.values()):
            if copy.up:
                held = () if copy.lease is None else (LeaseRef(copy.lease.unit, copy.lease.token),)
                self.core.receive(copy.name, Heartbeat(held=() if copy.reported_done else held), self.now)
        names = list(self.copies)
        self.rng.shuffle(names)
        for name in names:
            copy = self.copies[name]
            if copy.up and copy.lease is not None:
                self._work(copy, copy.lease)
        self.settle()

    def _work(self, copy: Copy, lease: Lease) -> None:
        arrived: list[Arrival] = []
        failed: list[FetchFailure] = []
        for order in list(copy.orders.values()):
            outcome = self._bring(copy, order)
            if outcome is not None:
                copy.orders.pop(order.chunk, None)
                (arrived if isinstance(outcome, Arrival) else failed).append(outcome)  # pyright: ignore[reportArgumentType]
        vouched = [self._vouch(copy, object_id) for object_id in sorted(copy.vouch) if copy.holds_whole(object_id)]
        copy.vouch -= {vouch.object_id for vouch in vouched}
        published = [object_id for object_id in copy.publish if object_id not in copy.published]
        assert all(copy.holds_whole(object_id) for object_id in published), "told to publish what it does not hold"
        copy.published.update(published)
        report = SwarmReport(
            job_id=JOB,
            token=lease.token,
            arrived=tuple(arrived),
            failed=tuple(failed),
            vouched=tuple(vouched),
            published=tuple(published),
            seen=copy.seen,
        )
        self.core.receive(copy.name, report, self.now)
        if copy.is_complete() and not copy.reported_done:
            copy.reported_done = True
            self.report(copy, Outcome.DONE)

    def report(self, copy: Copy, outcome: Outcome, failure: Failure | None = None) -> None:
        assert copy.lease is not None
        self.seq += 1
        result = Result(seq=self.seq, unit=copy.lease.unit, token=copy.lease.token, outcome=outcome, failure=failure)
        self.core.receive(copy.name, Results((result,)), self.now)

    def _bring(self, copy: Copy, order: FetchOrder) -> Arrival | FetchFailure | None:
        chunk = order.chunk
        if order.peer == ORIGIN:
            if self.origin_fails.get(chunk):
                failure = self.origin_fails[chunk].pop(0)
                return FetchFailure(chunk=chunk, peer=ORIGIN, failure=failure, object_id=self._first_object(chunk))
            self.from_origin[chunk] = self.from_origin.get(chunk, 0) + 1
            digest = digest_of(chunk, self.version)
            if chunk in self.wrong:
                self.wrong.discard(chunk)
                digest = digest_of(chunk, "wrong")
            copy.have[chunk] = digest
            return Arrival(chunk=chunk, digest=digest, from_origin=self.table.chunk_bytes(chunk), etag=self.version)
        source = self.copies[copy.peers[order.peer].partition(":")[0]]
        if not source.up or source.mute:
            return FetchFailure(chunk=chunk, peer=order.peer, failure=Failure(code="timeout", text="silent"))
        if chunk not in source.have:
            return None  # cut-through: it waits
        digest = digest_of(chunk, "flipped by " + source.name) if source.corrupts else source.have[chunk]
        if order.digest and order.digest != digest:
            wrong = Failure(code="verification", text="another digest")
            return FetchFailure(chunk=chunk, peer=order.peer, failure=wrong)
        copy.have[chunk] = digest
        return Arrival(chunk=chunk, digest=digest, peer=order.peer, from_peers=self.table.chunk_bytes(chunk))

    def _first_object(self, chunk: int) -> int:
        part = self.table.chunk(chunk)
        return self.table.object_ids[part.positions[0] if isinstance(part, Bundle) else part.position]

    def _vouch(self, copy: Copy, object_id: int) -> Vouch:
        position = self.table.position(object_id)
        assert position is not None
        right = not self.has_digests or all(
            copy.have[chunk] == digest_of(chunk, self.version) for chunk in self.table.chunks_of(position)
        )
        wrong = Failure(code="verification", text="another digest")
        return Vouch(object_id=object_id, digest="sha256:00", failure=None if right else wrong)

    def run(self, *, steps_max: int = 2000) -> JobStatus:
        """Until the job has ended."""
        for _ in range(steps_max):
            if self.row.status.ended:
                self.settle()
                return self.row.status
            self.step()
        raise AssertionError(f"it does not end: {self.core.jobs[JOB].replication}")

    def check_copies(self, *, but: Sequence[str] = ()) -> None:
        """Every agent that is up holds every chunk, and the right one."""
        for copy in self.copies.values():
            if copy.up and copy.name not in but:
                assert copy.is_complete(), copy.name
                for chunk, digest in copy.have.items():
                    assert digest == digest_of(chunk, self.version), (copy.name, chunk)
