"""What people and programs are shown of jobs, objects, agents and hosts, and what they ask for.

The coordinator makes these, the gRPC shells carry them (`wire_views.py`), the client and the embedded mode show them. All are
immutable. Sizes are bytes, rates bytes/s, durations seconds. Moments are seconds since the epoch on the coordinator's clock: for
people to read, never to compute with.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .intervals import Interval
from .records import Capacity, Delivery, Failure, Layout, Tally
from .secrets import Secret

if TYPE_CHECKING:
    from .collect_records import CollectSpec, ToolSpec
    from .nas_records import NasCounts


class JobStatus(enum.StrEnum):
    """Where a job is in its life."""

    PLANNING = "planning"  # its source is being listed
    PREPARING = "preparing"  # one agent makes the destination ready
    RUNNING = "running"  # objects are being brought
    FINALIZING = "finalizing"  # one agent writes the manifest
    DONE = "done"
    FAILED = "failed"  # ended, with at least one object failed for good, or could not start
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)


class ObjectStatus(enum.StrEnum):
    """What the store remembers of an object."""

    QUEUED = "queued"  # not finished; leased ones included
    DONE = "done"
    FAILED = "failed"  # for good


class ActivePhase(enum.StrEnum):
    """What is being done with an object that an agent holds."""

    FETCHING = "fetching"  # as a whole, by one agent
    OPENING = "opening"  # its partial file is being made ready
    RANGES = "ranges"  # by byte ranges, by several agents
    VERIFYING = "verifying"  # all bytes are there: it is verified and published


class AgentStatus(enum.StrEnum):
    """How an agent is doing, by when it was last heard."""

    ALIVE = "alive"
    LATE = "late"  # has missed heartbeats; its leases are still in force
    LOST = "lost"  # its session broke or its leases ran out
    DRAINING = "draining"  # finishes what it holds, then leaves
    LEFT = "left"  # said goodbye


class Role(enum.StrEnum):
    """What a credential allows."""

    AGENT = "agent"  # join the fleet and work
    ADMIN = "admin"  # submit and control jobs, govern the fleet


class Control(enum.StrEnum):
    """What can be done to a job."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitRequest:
    """What to fetch, and where to. One job is made of each URI; equal requests share one job.

    uris are as `common/uri.py` reads them. destination is a folder, or empty with the Hub cache layout for the default cache.
    layout None is the scheme's default. include and exclude are globs on paths. sha256 is the digest in hex of a single object.
    """

    uris: tuple[str, ...]
    destination: str = ""
    layout: Layout | None = None
    delivery: Delivery = Delivery.SPREAD
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    revision: str = ""
    commit: str = ""  # of a Hub repo: what the revision is pinned to, wherever it points now
    force: bool = False  # fetch again what is there
    sha256: str = ""
    priority: int = 0  # larger is sooner
    name: str = ""
    profile: str = ""  # the credentials by name that the origin is asked with
    unpack: str = ""  # "": nothing; "auto": archives, where they lie; otherwise the folder that they are unpacked into
    unpack_format: str = ""  # "": by name
    collect: CollectSpec | None = None  # with delivery by dataset: the table, which takes the place of uris
    tool: ToolSpec | None = None  # with delivery by dataset: what to run over the dataset at the destination
    nas: str = ""  # "": as each agent is configured; "off": no copies; otherwise the folder on the NAS


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveObjectView:
    """An object that agents work on at this moment. done is its chunk map: the bytes that are on disk."""

    object_id: int
    path: str
    size: int | None
    done_bytes: int
    agents: tuple[str, ...] = ()  # names
    phase: ActivePhase = ActivePhase.FETCHING
    done: tuple[Interval, ...] = ()


class ReplicaStatus(enum.StrEnum):
    """How an agent's copy of a replicated job is doing."""

    JOINING = "joining"  # it looks what is there already
    COPYING = "copying"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"  # its agent went away


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaView:
    """One agent's copy of a replicated job."""

    agent_id: str
    name: str  # of the agent
    status: ReplicaStatus
    bytes_done: int = 0
    chunks_done: int = 0
    from_origin: int = 0  # bytes
    from_peers: int = 0  # bytes
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobAgentView:
    """What one agent brought of a job that is not replicated."""

    agent_id: str
    name: str  # of the agent
    from_origin: int = 0  # bytes that it took from the origin, those that were thrown away and fetched again included


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """A job as people see it."""

    job_id: str
    uri: str
    status: JobStatus
    created_at: float
    name: str = ""
    paused: bool = False
    priority: int = 0
    ended_at: float | None = None
    destination: str = ""
    revision: str = ""  # as the user named it
    commit: str = ""  # what it was pinned to
    objects_total: int = 0
    objects_done: int = 0  # skipped ones included
    objects_skipped: int = 0  # were there already
    objects_failed: int = 0
    bytes_total: int = 0
    bytes_done: int = 0  # of finished objects
    bytes_fetched: int = 0  # taken from the origin
    bytes_arrived: int = 0  # of finished objects, and of unfinished ones so far: what a progress bar shows
    rate_bytes_per_s: float = 0.0
    eta_s: float | None = None  # None: not known
    failure: Failure | None = None
    active: tuple[ActiveObjectView, ...] = ()  # empty in lists
    delivery: Delivery = Delivery.SPREAD
    bytes_from_peers: int = 0
    replicas: tuple[ReplicaView, ...] = ()  # of a replicated job, by agent
    agents: tuple[JobAgentView, ...] = ()  # of any other job: who brought something, most first; empty in lists
    agents_more: int = 0  # that brought something and are not among agents: those are bounded
    rows_total: int = 0  # of a dataset job's table, without those that were rejected
    rows_rejected: int = 0
    rows_done: int = 0  # that have ended, those of unfinished batches included
    rows_per_s: float = 0.0
    tally: Tally = ()  # of a dataset job: rows that have ended, by code (`collect_records.py`)
    nas: NasCounts | None = None  # copies on a NAS, of all agents together; None: there are none

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more, unless it is retried."""
        return self.status.ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """The job that a URI became. created is false where an equal request had made it before."""

    job: JobView
    created: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectView:
    """An object of a job. After it is done, size and digest are those of the published file."""

    object_id: int
    path: str
    size: int | None
    status: ObjectStatus
    digest: str = ""  # ALGORITHM:HEX
    failures: int = 0
    failure: Failure | None = None  # the last one
    skipped: bool = False
    agent: str = ""  # name of the one that published it


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentView:
    """An agent as people see it."""

    agent_id: str
    name: str
    status: AgentStatus
    version: str = ""
    zone: str = ""
    capacity: Capacity | None = None  # None: not seen since the coordinator started
    units: int = 0  # leases held
    bytes_held: int = 0
    rate_bytes_per_s: float = 0.0
    objects_done: int = 0  # since the coordinator started
    bytes_done: int = 0
    memory_bytes: int = 0
    connected_s: float = 0.0  # since its session began
    silent_s: float = 0.0  # since it was last heard
    peer_address: str = ""  # HOST:PORT of its peer exchange
    sent_bytes: int = 0  # to peers, since its process began
    bad_chunks: int = 0  # that it sent and that were not right
    cut_off: bool = False  # it sent bad bytes repeatedly: nobody is sent to it any more
    nas: NasCounts | None = None  # its copies on a NAS; None: it makes none
    disk_free_bytes: int = 0  # of the file system that it writes to when nobody names another; 0: not known
    disk_total_bytes: int = 0


class HostCondition(enum.StrEnum):
    """What may be asked of a host now."""

    OPEN = "open"
    HALF_OPEN = "half-open"  # one request probes it
    BLOCKED = "blocked"  # it asked to wait
    PARKED = "parked"  # it refused too often, or cannot be reached; a request probes it at growing intervals


@dataclass(frozen=True, kw_only=True, slots=True)
class HostShareView:
    """One agent's share of a host's budget. 0 is unlimited."""

    agent: str  # its name
    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0
    connections: int = 0
    probe: bool = False  # it probes the host: one request


@dataclass(frozen=True, kw_only=True, slots=True)
class HostView:
    """An origin host: the fleet's limits for it, and what the fleet met there. Rates of 0 are unlimited."""

    host: str
    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0
    blocked_s: float = 0.0  # the whole fleet waits for so long
    throttled: int = 0
    errors: int = 0  # answers that are none of the kinds beside this
    connections: int = 0  # requests under way at once; 0: no limit
    condition: HostCondition = HostCondition.OPEN
    rate_now: float = 0.0  # requests/s that are given out now; 0: no limit
    rate_measured: float = 0.0  # requests/s that are really asked
    last_status: int = 0  # -1: no answer; 0: nothing was met
    ok: int = 0
    timeouts: int = 0
    unreachable: int = 0
    refused: int = 0
    crawl_delay_s: float = 0.0
    shares: tuple[HostShareView, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueView:
    """The work of a job that has not ended, in the order of service."""

    job_id: str
    uri: str
    status: JobStatus
    name: str = ""
    paused: bool = False
    priority: int = 0
    objects_waiting: int = 0  # neither done nor failed nor leased
    bytes_waiting: int = 0
    units_leased: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetView:
    """The whole fleet in one look."""

    version: str  # of the coordinator
    incarnation: int
    uptime_s: float
    agents_alive: int = 0  # draining ones included
    agents_late: int = 0
    agents_lost: int = 0
    jobs_active: int = 0
    jobs_ended: int = 0
    objects_waiting: int = 0
    bytes_waiting: int = 0
    units_leased: int = 0
    rate_bytes_per_s: float = 0.0
    warnings: tuple[str, ...] = ()  # what needs somebody's attention, for people
    nas: NasCounts | None = None  # copies on a NAS, of all agents together; None: there are none
    epoch_s: float = 0.0  # what the coordinator's clock shows, seconds since 1970; 0: it does not tell


@dataclass(frozen=True, kw_only=True, slots=True)
class TotalsView:
    """Sums over all jobs that the coordinator remembers."""

    bytes_from_origin: int = 0
    bytes_from_peers: int = 0
    objects_done: int = 0
    objects_failed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenView:
    """A credential, without its secret."""

    token_id: str
    role: Role
    name: str
    created_at: float
    expires_at: float | None = None  # None: never


@dataclass(frozen=True, kw_only=True, slots=True)
class NewToken:
    """A credential that was just made. Its secret is shown this once: only a hash is stored."""

    token: Secret
    view: TokenView
