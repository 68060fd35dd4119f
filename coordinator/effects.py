"""What the core wants done: rows to write, messages to send, objects to load.

The shell writes first and sends afterwards, so that nothing is granted or acknowledged that a restart would forget.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..common.collect_records import HostProfile
from ..common.records import CoordinatorMessage, Failure, Tally, UnitKind
from .model import JobRow, JobState


@dataclass(frozen=True, slots=True)
class PutJob:
    """Store a job's row as it is now."""

    row: JobRow


@dataclass(frozen=True, kw_only=True, slots=True)
class PutFetched:
    """So many bytes of a job came from the origin through this agent, in all."""

    job_id: str
    agent_id: str
    bytes_fetched: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectDone:
    """The object is complete under its final name."""

    object_id: int
    size: int
    digest: str
    etag: str
    skipped: bool
    agent_id: str
    tally: Tally = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectFailed:
    """The object failed for good."""

    object_id: int
    failures: int
    failure: Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRetried:
    """The object failed and will be tried again."""

    object_id: int
    failures: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class ObjectBegunAnew:
    """What is there of the object is not it: it has this life from now on (`ObjectSpec.life`), and is queued."""

    object_id: int
    life: int


@dataclass(frozen=True, slots=True)
class FinishObjects:
    """All queued objects of the job are complete on every agent that has its copy."""

    job_id: str


@dataclass(frozen=True, slots=True)
class RequeueFailed:
    """All failed objects of the job are to be tried again, with fresh attempts."""

    job_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PutLease:
    """A lease was granted."""

    unit: str
    token: int
    agent_id: str
    kind: UnitKind
    job_id: str
    object_id: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class DropLease:
    """The unit's lease ended."""

    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PutAgent:
    """An agent was seen."""

    agent_id: str
    name: str
    version: str
    zone: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PutHostPolicy:
    """An administrator set a host's limits."""

    host: str
    requests_per_s: float
    bytes_per_s: float
    connections: int = 0


@dataclass(frozen=True, slots=True)
class PutHostProfile:
    """A host of a dataset job was measured; the latest word counts."""

    job_id: str
    profile: HostProfile


@dataclass(frozen=True, slots=True)
class ForgetHostProfiles:
    """The hosts of a dataset job are to be measured anew."""

    job_id: str


@dataclass(frozen=True, slots=True)
class AddUnits:
    """A tool's schedule has so many units: they become the job's objects, and are then loaded like others."""

    job_id: str
    count: int


Write = (
    PutJob
    | PutFetched
    | ObjectDone
    | ObjectFailed
    | ObjectRetried
    | ObjectBegunAnew
    | FinishObjects
    | RequeueFailed
    | PutLease
    | DropLease
    | PutAgent
    | PutHostPolicy
    | PutHostProfile
    | ForgetHostProfiles
    | AddUnits
)


def take_changes(job: JobState) -> list[Write]:
    """What of a job differs from its stored rows, as it is now; from then on it counts as stored."""
    fetchers, job.fetchers = job.fetchers, set()
    job.changed = False
    parts = (
        PutFetched(job_id=job.row.job_id, agent_id=agent_id, bytes_fetched=job.fetched_by[agent_id])
        for agent_id in sorted(fetchers)
    )
    return [PutJob(replace(job.row)), *parts]


@dataclass(frozen=True, slots=True)
class Send:
    """A message for one agent's session."""

    agent_id: str
    message: CoordinatorMessage


@dataclass(frozen=True, slots=True)
class Load:
    """Read the job's next queued objects from the store and hand them to `Core.objects_loaded`."""

    job_id: str
    restart: bool  # from the beginning of the order


@dataclass(frozen=True, slots=True)
class LoadTable:
    """Read all objects of a replicated job, but those that failed, and hand them to `Core.table_loaded`."""

    job_id: str


@dataclass(frozen=True, slots=True)
class LoadBatches:
    """Read all batches of a dataset job, and which hosts were measured, and hand them to `Core.batches_loaded`."""

    job_id: str


@dataclass(slots=True)
class Effects:
    """What one turn of the core asks for, in order."""

    writes: list[Write] = field(default_factory=list[Write])
    sends: list[Send] = field(default_factory=list[Send])
    loads: list[Load | LoadTable | LoadBatches] = field(default_factory=list[Load | LoadTable | LoadBatches])
    ended_jobs: list[str] = field(default_factory=list[str])
    bad_chunks: list[str] = field(default_factory=list[str])  # agents that sent one, for the log

    def take(self) -> Effects:
        """All of it; nothing is left here."""
        taken = Effects(self.writes, self.sends, self.loads, self.ended_jobs, self.bad_chunks)
        self.writes, self.sends, self.loads, self.ended_jobs, self.bad_chunks = [], [], [], [], []
        return taken

    def __bool__(self) -> bool:
        return bool(self.writes or self.sends or self.loads or self.ended_jobs or self.bad_chunks)
