"""What the coordinator knows of a replicated job while it works on it: the copies, the swarm, and what is known of its chunks.

A copy's life on one agent::

    (none) --grant REPLICA--> JOINING --inventory--> COPYING --its report--> DONE (and stays in the swarm as a seed)
    JOINING, COPYING --its report of a failure--> FAILED, or after a delay JOINING again
    JOINING, COPYING --lease ended otherwise--> LOST --agent is back--> JOINING

A large object's life; a bundle of small ones has none, because its receivers verify it against a digest that is known beforehand::

    (unknown) --vouch--> vouched: every member whose chunks are all right may publish it
              --digest wrong, changed at the origin--> (unknown): everybody begins anew with it
              --attempts used up--> given up

Nothing of this is stored but the leases, the lives of objects that were begun anew and, in the end, the job's row: after a restart
the agents tell it again, and what they tell of another life than the stored one does not count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..common.chunks import Bundle, ChunkTable
from ..common.records import Failure
from ..common.swarm_records import FetchOrder, PeerAddress, PublishOrder, SwarmInventory, SwarmOrders
from ..common.views import ReplicaStatus, ReplicaView
from .scheduler.swarm import Member, Swarm, SwarmLimits

if TYPE_CHECKING:
    from .model import JobState


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """An object as a replicated job's table needs it. vouched is its digest where it was verified by an earlier incarnation."""

    object_id: int
    size: int | None
    vouched: str = ""
    etag: str = ""
    life: int = 0  # `ObjectSpec.life`
    given_up: bool = False  # it failed for good, but agents that were there before have it in their tables


@dataclass(slots=True, kw_only=True)
class ReplicaState:
    """One agent's copy."""

    agent_id: str
    name: str
    status: ReplicaStatus = ReplicaStatus.JOINING
    token: int = 0  # of its lease
    failures: int = 0
    not_before: float = 0.0
    failure: Failure | None = None
    from_origin: int = 0  # bytes
    from_peers: int = 0
    published: set[int] = field(default_factory=set[int])  # object ids
    vouches: int = 0  # objects that it is to vouch for
    orders_sent: int = 0
    joining_until: float = 0.0  # so long others need not ask the origin for what it may turn out to hold
    told: set[int] = field(default_factory=set[int])  # numbers of peers whose address it knows

    @property
    def is_active(self) -> bool:
        return self.status in (ReplicaStatus.JOINING, ReplicaStatus.COPYING)


@dataclass(slots=True, kw_only=True)
class LargeObject:
    """An object that is not bundled. mask is the set of its chunks."""

    object_id: int
    position: int
    chunks: range
    mask: int
    vouched: str = ""  # ALGORITHM:HEX
    etag: str = ""
    life: int = 0  # not 0: it was begun anew, and nobody's copy of another life counts
    voucher: str = ""  # agent id
    failures: int = 0
    anew: dict[str, int] = field(
        default_factory=dict[str, int]
    )  # agent -> seq of the orders that told it to begin anew


@dataclass(slots=True)
class Draft:
    """Orders for one agent that are not sent yet."""

    peers: dict[int, PeerAddress] = field(default_factory=dict[int, PeerAddress])
    fetch: dict[int, FetchOrder] = field(default_factory=dict[int, FetchOrder])
    drop: list[int] = field(default_factory=list[int])
    vouch: list[int] = field(default_factory=list[int])
    publish: list[PublishOrder] = field(default_factory=list[PublishOrder])
    reset: dict[int, int] = field(default_factory=dict[int, int])  # object id -> its life from now on
    give_up: list[int] = field(default_factory=list[int])
    ended: bool = False

    def orders(self, job_id: str, token: int, seq: int) -> SwarmOrders:
        """As a message."""
        return SwarmOrders(
            job_id=job_id,
            token=token,
            peers=tuple(self.peers.values()),
            fetch=tuple(self.fetch.values()),
            drop=tuple(self.drop),
            vouch=tuple(self.vouch),
            publish=tuple(self.publish),
            reset=tuple(self.reset),
            give_up=tuple(self.give_up),
            ended=self.ended,
            seq=seq,
            lives=tuple(self.reset.values()),
        )


class ReplicaJob:
    """The swarm of one job."""

    def __init__(self, table: ChunkTable, rows: Sequence[TableRow], limits: SwarmLimits) -> None:
        """rows: the objects of the table, in its order."""
        self.table = table
        self.swarm = Swarm((table.chunk_bytes(number) for number in range(len(table))), limits, bundles=table.bundles)
        self.large: dict[int, LargeObject] = {}
        for position in table.large:
            chunks = table.chunks_of(position)
            self.large[rows[position].object_id] = LargeObject(
                object_id=rows[position].object_id,
                position=position,
                chunks=chunks,
                mask=((1 << len(chunks)) - 1) << chunks.start,
                vouched=rows[position].vouched,
                etag=rows[position].etag,
                life=rows[position].life,
            )
        self.unknown_sizes = {row.object_id for row in rows if row.size is None}
        self.unvouched = {object_id for object_id, known in self.large.items() if not known.vouched}  # and no voucher
        self.digests: list[bytes] = [b""] * len(table)
        self.witness: list[str] = [""] * len(table)  # the agent that named the digest
        self.small_failures: dict[int, int] = {}
        self.given_up: set[int] = set()
        self.suspects: dict[int, list[tuple[str, str]]] = {}  # chunk: (receiver, source) of copies that differ
        for row in rows:
            if row.given_up:
                self.forgo(row.object_id)
        self.had_wrong: dict[int, set[str]] = {}  # chunk: agents whose own copy was wrong once, and was passed on maybe
        self.drafts: dict[str, Draft] = {}
        self.numbers: dict[int, str] = {}  # peer number -> agent id

    def forgo(self, object_id: int) -> None:
        """The copies are complete without the object. A bundle goes on without it."""
        self.given_up.add(object_id)
        self.unvouched.discard(object_id)
        if object_id in self.large:
            self.swarm.give_up(self.large[object_id].chunks)

    def draft(self, agent_id: str) -> Draft:
        """The orders that are being written for the agent."""
        return self.drafts.setdefault(agent_id, Draft())

    def large_of(self, chunk: int) -> LargeObject | None:
        """The object that the chunk is a part of; None for a bundle."""
        part = self.table.chunk(chunk)
        return None if isinstance(part, Bundle) else self.large[self.table.object_ids[part.position]]

    def source(self, number: int) -> Member | None:
        """The member with this number, while it is one."""
        member = self.swarm.member(self.numbers.get(number, ""))
        return member if member is not None and member.number == number else None


@dataclass(slots=True)
class Replication:
    """Everything about the copies of one job: `swarm` is None until its objects are read from the store."""

    replicas: dict[str, ReplicaState] = field(default_factory=dict[str, ReplicaState])  # by agent
    swarm: ReplicaJob | None = None
    early: dict[str, SwarmInventory] = field(default_factory=dict[str, SwarmInventory])  # came before the table
    told_anew_at: float = 0.0

    def bytes_done(self) -> int:
        """Bytes of the average copy that is not lost or failed."""
        if self.swarm is None:
            return 0
        members = [member for member in self.swarm.swarm if member.agent_id in self.replicas]
        return sum(member.held_bytes for member in members) // len(members) if members else 0


def replica_views(job: JobState) -> tuple[ReplicaView, ...]:
    """The copies of a job, by the names of their agents; of one that ended before a restart, as they were then."""
    if job.replication is None:
        return tuple(_from_json(values) for values in json.loads(job.row.replicas or "[]"))
    swarm = job.replication.swarm
    views: list[ReplicaView] = []
    for replica in job.replication.replicas.values():
        member = swarm.swarm.member(replica.agent_id) if swarm is not None else None
        done = replica.status is ReplicaStatus.DONE
        views.append(
            ReplicaView(
                agent_id=replica.agent_id,
                name=replica.name,
                status=replica.status,
                bytes_done=job.row.bytes_total if done else member.held_bytes if member is not None else 0,
                chunks_done=member.have.bit_count() if member is not None else 0,
                from_origin=replica.from_origin,
                from_peers=replica.from_peers,
                failure=replica.failure,
            )
        )
    return tuple(sorted(views, key=lambda view: (view.name, view.agent_id)))


def replicas_to_json(job: JobState) -> str:
    """The copies of a job that ends, for its row."""
    return json.dumps([asdict(view) for view in replica_views(job)], separators=(",", ":"))


def _from_json(values: dict[str, Any]) -> ReplicaView:
    values["failure"] = Failure(**values["failure"]) if values["failure"] else None
    values["status"] = ReplicaStatus(values["status"])
    return ReplicaView(**values)
