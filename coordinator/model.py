"""What the coordinator knows of jobs, objects and agents while it works on them.

An object's life::

    QUEUED --grant WHOLE--> LEASED --done--> (forgotten: the store remembers)
    QUEUED --grant OPEN---> LEASED --done--> RANGES --all bytes there--> READY --grant PUBLISH--> LEASED --done--> (forgotten)
    LEASED --failed, returned, expired--> where it was before the grant, or QUEUED after a failed verification
    any ----attempts used up, or final error--> (forgotten: the store remembers the failure)

A job's life::

    PLANNING --listed--> PREPARING --prepared--> RUNNING --no object left--> FINALIZING --done--> DONE or FAILED
    any of them --cancel--> CANCELLED;   any of them --error for the whole job--> FAILED;   FAILED --retry--> PREPARING

Pausing is a flag beside the status: a paused job keeps its place and gets no grants.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..common.intervals import IntervalSet
from ..common.records import Capacity, Failure, Heartbeat, JobSpec, ObjectSpec, Tally
from ..common.swarm_records import PeerOffer
from ..common.views import JobStatus

if TYPE_CHECKING:
    from ..common.nas_records import NasCounts, NasReport
    from .dataset_model import DatasetState
    from .replica_model import Replication


class Phase(enum.Enum):
    """Where an object is in its life."""

    QUEUED = enum.auto()
    LEASED = enum.auto()  # as a whole: WHOLE, OPEN or PUBLISH
    RANGES = enum.auto()  # open: its byte ranges are leased one by one
    READY = enum.auto()  # every byte is there; waits to be verified and published


@dataclass(slots=True, kw_only=True)
class JobRow:
    """A job as it is stored. request is the submitter's request as JSON; spec is empty until the source is resolved."""

    job_id: str
    uri: str
    name: str
    fingerprint: str  # equal for requests that ask for the same thing
    request: str
    priority: int
    created_at: float  # seconds since the epoch: for people
    status: JobStatus = JobStatus.PLANNING
    paused: bool = False
    spec: JobSpec | None = None
    objects_total: int = 0
    bytes_total: int = 0
    objects_done: int = 0
    objects_skipped: int = 0
    objects_failed: int = 0  # for good; those of objects_refused included
    objects_refused: int = 0  # names that the listing refused: a retry does not bring them back
    bytes_done: int = 0
    bytes_fetched: int = 0
    failure: Failure | None = None
    ended_at: float | None = None
    bytes_from_peers: int = 0
    replicas: str = ""  # of a replicated job that has ended: its copies as JSON
    rows_total: int = 0  # of a dataset job's table, without those that were rejected
    rows_rejected: int = 0
    tally: Tally = ()  # of a dataset job: rows that have ended, by code
    user: str = ""  # who submitted it: the credential's name


@dataclass(slots=True, kw_only=True)
class ObjectState:
    """An object that is being worked on."""

    spec: ObjectSpec
    phase: Phase = Phase.QUEUED
    failures: int = 0
    expiries: int = 0
    not_before: float = 0.0
    done: IntervalSet = field(default_factory=IntervalSet)
    pending: IntervalSet = field(default_factory=IntervalSet)  # neither done nor leased
    done_bytes: int = 0
    fetched: int = 0
    bytes_by_agent: dict[str, int] = field(default_factory=dict[str, int])
    ready_at: float = 0.0
    publisher: str = ""  # the agent that brought most of it: its hasher is likely to have seen the beginning
    failed_at: float = float("-inf")  # of the last failure that was counted
    expired_at: float = float("-inf")  # of the last expiry that was counted
    transfer_failures: int = 0  # those of failures that new bytes make up for
    unseen: int = 0  # times in a row that an agent did not find its partial file

    @property
    def weight(self) -> int:
        """Bytes that the object counts for in scheduling."""
        return UNKNOWN_SIZE_WEIGHT if self.spec.size is None else self.spec.size


RATE_WINDOW_S = 2.0
"""An agent's rate is measured over so long."""

UNKNOWN_SIZE_WEIGHT = 64 << 20
"""An object of unknown size is scheduled as if it were of a middling size."""


@dataclass(slots=True)
class JobState:
    """A job in work: its row, the window of its objects that is in memory, and its queues.

    The queues change only through the methods, which keep the sums true: they are read at every grant and must not cost a walk
    over the objects.
    """

    row: JobRow
    objects: dict[int, ObjectState] = field(default_factory=dict[int, ObjectState])
    queued: dict[int, ObjectState] = field(default_factory=dict[int, ObjectState])  # in order of work
    delayed: list[tuple[float, int]] = field(
        default_factory=list[tuple[float, int]]
    )  # heap: (not_before, id) of queued
    open: dict[int, ObjectState] = field(default_factory=dict[int, ObjectState])
    wanted: dict[int, ObjectState] = field(default_factory=dict[int, ObjectState])  # open ones with bytes pending
    ready: dict[int, ObjectState] = field(default_factory=dict[int, ObjectState])
    begun: dict[int, ObjectState] = field(default_factory=dict[int, ObjectState])  # all that are not queued
    remaining: int = 0  # bytes of queued (delayed ones included) and open objects that nobody holds
    open_pending: int = 0  # those of open objects
    loading: bool = False
    load_stale: bool = False  # the window that the load under way was meant for is gone
    ended_while_loading: set[int] = field(default_factory=set[int])
    exhausted: bool = False  # the store holds no queued object that is not in memory
    excluded: dict[str, float] = field(default_factory=dict[str, float])  # agent -> until when it gets none of this job
    unit_not_before: float = 0.0  # for PREPARE and FINALIZE after a failure
    unit_failures: int = 0
    changed: bool = False  # its counters differ from the stored row
    replication: Replication | None = None  # of a replicated job
    nas: dict[str, NasCounts] = field(default_factory=dict[str, "NasCounts"])  # agent -> its copies of the job on a NAS
    dataset: DatasetState | None = None  # of a job that collects a table, once its batches are loaded
    fetched_by: dict[str, int] = field(default_factory=dict[str, int])  # agent -> its part of the row's bytes_fetched
    fetchers: set[str] = field(default_factory=set[str])  # those whose part differs from the stored one

    @property
    def spec(self) -> JobSpec:
        assert self.row.spec is not None
        return self.row.spec

    @property
    def unit(self) -> str:
        """The unit of the job itself, for PREPARE and FINALIZE."""
        return f"j{self.row.job_id}"

    def fetched(self, agent_id: str, count: int) -> None:
        """The agent took so many bytes from the origin. They stay counted where they are thrown away and fetched again.

        Not for replicated jobs: `replica_model.py` counts by copy.
        """
        self.changed = True
        if count:
            self.row.bytes_fetched += count
            self.fetched_by[agent_id] = self.fetched_by.get(agent_id, 0) + count
            self.fetchers.add(agent_id)

    def enqueue(self, obj: ObjectState) -> None:
        """Let the object wait for a WHOLE or OPEN lease."""
        obj.phase = Phase.QUEUED
        self.open.pop(obj.spec.object_id, None)
        self.ready.pop(obj.spec.object_id, None)
        self.begun.pop(obj.spec.object_id, None)
        self.objects[obj.spec.object_id] = obj
        self.queued[obj.spec.object_id] = obj
        self.remaining += obj.weight

    def delay(self, obj: ObjectState, until: float) -> None:
        """Grant nothing of the object before then."""
        obj.not_before = until
        if self.queued.pop(obj.spec.object_id, None) is not None:
            heapq.heappush(self.delayed, (until, obj.spec.object_id))

    def end_delays(self, now: float) -> None:
        """Let objects whose delay is over wait for their turn again."""
        while self.delayed and self.delayed[0][0] <= now:
            _, object_id = heapq.heappop(self.delayed)
            obj = self.objects.get(object_id)
            if obj is not None and obj.phase is Phase.QUEUED and obj.not_before <= now:
                self.queued[object_id] = obj

    def lease_whole(self, obj: ObjectState) -> None:
        """A lease on the whole object was granted: it waits no longer."""
        self._leave_queue(obj)
        self.ready.pop(obj.spec.object_id, None)
        self.begun[obj.spec.object_id] = obj
        obj.phase = Phase.LEASED

    def open_ranges(self, obj: ObjectState, done: IntervalSet) -> None:
        """The partial file exists and holds done already: the rest may be leased by ranges."""
        assert obj.spec.size is not None
        obj.phase = Phase.RANGES
        obj.done = done
        obj.done_bytes = done.total
        obj.pending = IntervalSet(done.missing(0, obj.spec.size))
        self.open[obj.spec.object_id] = obj
        self.begun[obj.spec.object_id] = obj
        if obj.pending:
            self.wanted[obj.spec.object_id] = obj
        self._count_pending(obj.pending.total)

    def take_range(self, obj: ObjectState, start: int, stop: int) -> None:
        """A lease on these bytes was granted, or they turned out to be there."""
        self._count_pending(-obj.pending.remove(start, stop))
        if not obj.pending:
            self.wanted.pop(obj.spec.object_id, None)

    def release_range(self, obj: ObjectState, start: int, stop: int) -> None:
        """Nobody holds these bytes any more, and they are not there: they wait again."""
        for a, b in obj.done.missing(start, stop):
            self._count_pending(obj.pending.add(a, b))
            self.wanted[obj.spec.object_id] = obj

    def make_ready(self, obj: ObjectState, now: float) -> None:
        """All bytes are there: the object waits to be published."""
        self._close(obj)
        obj.phase = Phase.READY
        self.begun[obj.spec.object_id] = obj
        obj.ready_at = now
        obj.publisher = max(obj.bytes_by_agent, key=lambda agent: obj.bytes_by_agent[agent], default="")
        self.ready[obj.spec.object_id] = obj

    def hold(self, obj: ObjectState) -> None:
        """An object that is leased from the start, and was in no queue: a batch of a dataset."""
        self.objects[obj.spec.object_id] = self.begun[obj.spec.object_id] = obj

    def let_go(self, object_id: int) -> ObjectState | None:
        """Forget an object that `hold` named."""
        self.begun.pop(object_id, None)
        return self.objects.pop(object_id, None)

    def forget(self, obj: ObjectState) -> None:
        """The object has ended, well or badly."""
        self._close(obj)
        self._leave_queue(obj)
        self.ready.pop(obj.spec.object_id, None)
        self.begun.pop(obj.spec.object_id, None)
        self.objects.pop(obj.spec.object_id, None)
        if self.loading:
            self.ended_while_loading.add(obj.spec.object_id)

    def reset(self, obj: ObjectState) -> None:
        """What was fetched is worthless: begin again from nothing."""
        self._close(obj)
        obj.done.clear()
        obj.done_bytes = 0
        obj.bytes_by_agent.clear()
        if obj.phase is not Phase.QUEUED:
            self.enqueue(obj)

    def clear_window(self) -> None:
        """Forget all objects in memory; the store has them."""
        for queue in (self.objects, self.queued, self.open, self.wanted, self.ready, self.begun):
            queue.clear()
        self.delayed.clear()
        self.remaining = self.open_pending = 0
        self.exhausted = False
        self.load_stale = self.loading

    def _close(self, obj: ObjectState) -> None:
        if self.open.pop(obj.spec.object_id, None) is not None:
            self._count_pending(-obj.pending.total)
            self.wanted.pop(obj.spec.object_id, None)
        obj.pending.clear()

    def _leave_queue(self, obj: ObjectState) -> None:
        if obj.phase is Phase.QUEUED and obj.spec.object_id in self.objects:
            self.queued.pop(obj.spec.object_id, None)
            self.remaining -= obj.weight

    def _count_pending(self, change: int) -> None:
        self.open_pending += change
        self.remaining += change


@dataclass(slots=True, kw_only=True)
class AgentState:
    """An agent that has said hello."""

    agent_id: str
    name: str
    version: str
    zone: str
    capacity: Capacity
    connected: bool
    joined_at: float
    heard_at: float
    units: int = 0  # held
    bytes_held: int = 0
    draining: bool = False
    silent: bool = False  # a lease of it ran out, and it was not heard since: it may be frozen
    left: bool = False  # said goodbye
    told_jobs: set[str] = field(default_factory=set[str])  # jobs whose spec was sent in this session
    objects_done: int = 0
    bytes_done: int = 0
    memory: int = 0
    rate: float = 0.0  # bytes/s, smoothed
    rate_bytes: int = 0  # arrived since rate_at
    rate_at: float = 0.0
    peer: PeerOffer | None = None
    sent: int = 0  # bytes to peers, since its process began
    disk: tuple[int, int] = (0, 0)  # free and all bytes where it writes
    bad_chunks: int = 0  # that it sent and that were not right
    cut_off: bool = False  # nobody is sent to it any more
    strikes: int = 0  # times in a row that it did not answer a peer
    rests_until: float = 0.0
    nas: NasReport | None = None  # its copies on a NAS; None: it makes none

    def inherit(self, before: AgentState) -> None:
        """A new session of the same agent: what was counted goes on, and it is not trusted more than before."""
        self.objects_done, self.bytes_done = before.objects_done, before.bytes_done
        self.bad_chunks, self.cut_off = before.bad_chunks, before.cut_off
        self.nas = before.nas

    def tell(self, beat: Heartbeat, jobs: Mapping[str, JobState]) -> None:
        """What a heartbeat says of the agent itself, and of its copies of jobs on a NAS."""
        if beat.capacity is not None:
            self.capacity = beat.capacity
        self.memory = beat.memory or self.memory
        self.sent = beat.sent or self.sent
        self.nas, self.disk = beat.nas, beat.disk
        for copies in beat.nas.jobs if beat.nas is not None else ():
            if copies.job_id in jobs:
                jobs[copies.job_id].nas[self.agent_id] = copies.counts

    def measure(self, now: float) -> None:
        """Bring the rate up to date, if its window is over."""
        if now - self.rate_at >= RATE_WINDOW_S:
            measured = self.rate_bytes / (now - self.rate_at)
            self.rate = measured if not self.rate else 0.5 * self.rate + 0.5 * measured
            self.rate_at, self.rate_bytes = now, 0
