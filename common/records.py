"""The words that coordinator and agents say to each other, as plain records.

The gRPC shells turn these into ``shoal.v1`` messages and back (`wire.py`); embedded runs and the simulator pass them as they
are. All are immutable. Sizes and positions are bytes, durations seconds; no record but Welcome holds a clock reading, because
two machines' clocks need not agree. What is said of swarms is in `swarm_records.py`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from .chunks import ChunkSizes
from .intervals import Interval

if TYPE_CHECKING:
    from .collect_records import CollectSpec, HostProfile, ToolSpec
    from .nas_records import NasReport
    from .swarm_records import PeerOffer, SwarmInventory, SwarmOrders, SwarmReport


Tally: TypeAlias = tuple[tuple[int, int], ...]
"""Rows of a batch by code: (200, successes), (HTTP status or `ErrorCode`, errors with it)."""


class Delivery(enum.StrEnum):
    """What the agents make of a source."""

    SPREAD = "spread"  # one copy in one place that every agent can write
    REPLICATE = "replicate"  # a copy on every agent
    DATASET = "dataset"  # a URL table becomes Parquet


class Layout(enum.StrEnum):
    """How files lie in the destination."""

    FOLDER = "folder"  # under their own paths, with the Hub client's metadata for Hub sources
    HUB_CACHE = "hub-cache"  # blobs, snapshots and refs as the Hub client's cache has them


class OriginKind(enum.StrEnum):
    """Who serves a job's bytes."""

    HUB = "hub"
    HTTP = "http"
    FILE = "file"
    S3 = "s3"  # its URLs need a signature


class UnitKind(enum.StrEnum):
    """What a lease asks an agent to do."""

    PREPARE = "prepare"  # job: make the destination, check that it can be written and has room
    WHOLE = "whole"  # object: fetch, verify and publish in one go
    OPEN = "open"  # object: see what is there already, preallocate the partial file
    RANGE = "range"  # object: bring [start, stop) into the partial file
    PUBLISH = "publish"  # object: verify the partial file and give it its final name
    FINALIZE = "finalize"  # job: write the manifest (and refs), remove what only the work needed
    REPLICA = "replica"  # job: a copy of all of it on this agent, by the orders of the swarm (`swarm_records.py`)
    BATCH = "batch"  # object: collect the URLs of one batch of a table (`collect_records.py`)
    TOOL_PLAN = "tool-plan"  # job: a tool's filter and schedule; its result's size is the number of units to run
    TOOL_RUN = "tool-run"  # object: one unit of a tool's schedule


class Outcome(enum.StrEnum):
    """What an agent says of a lease."""

    DONE = "done"  # all of it
    PARTIAL = "partial"  # some bytes are on disk (`done`) or given back (`released`); the lease goes on
    RETURNED = "returned"  # what is not in `done` is given back unharmed, through nobody's fault
    FAILED = "failed"  # what is not in `done` is given back with an error; counts as an attempt


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectSpec:
    """One file to deliver.

    digest is ``ALGORITHM:HEX`` with sha256 or git-sha1, or empty where the publisher names none. url is absolute, or starts
    with ``/`` and is taken below one of the job's endpoints. etag is the publisher's validator without quotes. life: not 0 where
    the object was begun anew, because what was there was not right; no two lives have the same number. Each has a partial file of
    its own, and what an agent knows of the object from another life counts no more.
    """

    object_id: int
    path: str
    size: int | None
    digest: str = ""
    etag: str = ""
    url: str = ""
    life: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """What an agent must know of a job to work on its objects."""

    job_id: str
    source: str  # canonical URI, as the user named it
    origin: OriginKind
    layout: Layout
    destination: str  # taken below the agent's root
    endpoints: tuple[str, ...] = ()  # for url paths; tried in order
    repo_kind: str = ""  # "model", "dataset", "space" for Hub sources
    repo_id: str = ""
    revision: str = ""  # as the user named it
    commit: str = ""  # what it was pinned to
    force: bool = False
    total_bytes: int = 0  # of the objects whose size is known
    total_objects: int = 0
    delivery: Delivery = Delivery.SPREAD
    profile: str = ""  # the credentials by name that the origin is asked with
    unpack: str = ""  # "": nothing; "auto": archives, where they lie; otherwise the folder that they are unpacked into
    unpack_format: str = ""  # "": by name
    chunks: ChunkSizes | None = None  # of a replicated job
    verify_everywhere: bool = False  # every agent computes the publisher's digest itself
    collect: CollectSpec | None = None  # of a dataset job that collects a URL table
    tool: ToolSpec | None = None  # of a dataset job that runs a tool
    nas: str = ""  # "": as each agent is configured; "off": no copies; otherwise the folder on the NAS
    licenses: tuple[str, ...] = ()  # that a Hub repo names, as far as is known
    pinned: bool = False  # the commit was asked for beside the revision: where that points stays as it is known here


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to do one unit of work until the deadline.

    unit names the work (``o12`` an object, ``r7`` a range, ``j…`` a job). token is the fencing token: it grows with every grant
    that a coordinator ever makes, and a report counts only with the token of the lease that is in force. ttl_s counts from
    when the lease is received or renewed.
    """

    unit: str
    token: int
    kind: UnitKind
    job_id: str
    object: ObjectSpec | None = None
    start: int = 0
    stop: int = 0
    remaining: int = 0  # bytes of the job that nobody holds yet: near the end an agent works in smaller pieces
    ttl_s: float = 30.0
    profile: bool = False  # of a BATCH: measure its host first, and report what it is like
    give_up_code: int = (
        0  # of a BATCH: not 0: its host is waited for no longer, the rows that are left become errors with this code
    )


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """A lease by name: unit and fencing token."""

    unit: str
    token: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a unit failed: the error class's code, its text, and whether trying again can help."""

    code: str
    text: str
    retryable: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A report on a lease. seq numbers an agent's reports; the coordinator acknowledges each by it."""

    seq: int
    unit: str
    token: int
    outcome: Outcome
    done: tuple[Interval, ...] = ()
    released: tuple[Interval, ...] = ()
    fetched: int = 0  # bytes taken from the origin for this report
    size: int | None = None  # of the published object
    digest: str = ""  # of the published object, as it was computed
    etag: str = ""  # validator that the origin gave
    skipped: bool = False  # it was there already
    failure: Failure | None = None
    tally: Tally = ()  # of a BATCH that is done: rows by code
    profile: HostProfile | None = None  # of a BATCH whose lease asked for it


@dataclass(frozen=True, slots=True)
class Ack:
    """The coordinator's answer to a report. A refused report is fenced: the lease was no longer the agent's."""

    seq: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of a lease that have arrived so far, published or not; for people's eyes only."""

    unit: str
    token: int
    arrived: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """How much an agent can hold: the coordinator never grants more (flow control by credit)."""

    slots: int  # units that it can really work on at once
    units_max: int  # units it can hold, those that wait included
    bytes_max: int  # bytes of units it can hold


class Answer(enum.StrEnum):
    """What became of one request to a host, as far as its budget is concerned."""

    OK = "ok"
    THROTTLED = "throttled"  # 429, 503, or Retry-After on anything
    TIMEOUT = "timeout"  # it was silent for too long
    CONNECT = "connect"  # no connection came about, or it broke
    REFUSED = "refused"  # 401, 403, 410
    ERROR = "error"  # any other 4xx or 5xx


@dataclass(frozen=True, kw_only=True, slots=True)
class HostObservation:
    """What an agent met at an origin host since it last said so."""

    host: str
    ok: int = 0
    throttled: int = 0
    errors: int = 0  # answers that are none of the kinds beside this
    retry_after_s: float = 0.0  # the longest wait that the host asked for
    timeouts: int = 0
    unreachable: int = 0  # connections that did not come about, or broke
    refused: int = 0
    status: int = 0  # the last HTTP status; -1: no answer; 0: nothing was met
    latency_s: float = 0.0  # of the last answer
    crawl_delay_s: float = 0.0  # what its robots.txt asks for; 0: not said
    waiting: int = 0  # requests that wait for their turn now
    probe: int = 0  # the permit (version of the share) whose request has ended; 0: none
    probe_answer: Answer | None = None  # how it ended; None: nobody knows


@dataclass(frozen=True, kw_only=True, slots=True)
class HostBudget:
    """An agent's share of a host's budget. Rates of 0 are unlimited, and so are 0 connections.

    A leased share runs out `Welcome.share_s` after the agent sent the last word that the coordinator answered; a share that is not
    holds until it is replaced.
    """

    host: str
    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0
    blocked_s: float = 0.0  # ask nothing of the host for so long
    burst: float = 0.0  # requests at once, at most; 0: what goes with the rate
    connections: int = 0  # requests under way at once, at most
    leased: bool = False
    nothing: bool = False  # ask nothing of the host until there is another word
    unless_held: bool = False  # with nothing: a share that is still in force stays until it runs out
    probe: bool = False  # ask once, tell how it went, and then nothing until there is another word
    initial: float = 0.0  # requests that a share which was nothing begins with


# ---- agent to coordinator -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """The first word of a session: who the agent is, what it holds, what it could not report yet."""

    agent_id: str
    name: str
    version: str
    capacity: Capacity
    held: tuple[LeaseRef, ...] = ()
    results: tuple[Result, ...] = ()
    zone: str = ""
    peer: PeerOffer | None = None  # None: it takes no part in the exchange between peers
    budgets_version: int = 0  # of the last Budgets that this process obeys; 0: it never had any
    challenge: str = ""  # what the coordinator sent at the beginning of this very session


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """I live, I hold these leases (which renews them), this is how far they are."""

    seq: int = 0
    held: tuple[LeaseRef, ...] = ()
    progress: tuple[Progress, ...] = ()
    hosts: tuple[HostObservation, ...] = ()
    capacity: Capacity | None = None  # when it changed
    memory: int = 0  # bytes resident
    sent: int = 0  # bytes sent to peers since the process began
    budgets_version: int = 0  # of the last Budgets that the agent obeys in full
    lapsed_version: int = 0  # shares of Budgets up to this one ran out at the agent: it uses them no more
    nas: NasReport | None = None  # how its copies on a NAS are doing; None: it makes none
    disk: tuple[int, int] = (0, 0)  # free and all bytes where it writes when nobody names another place; 0: not known


@dataclass(frozen=True, slots=True)
class Results:
    """Reports on leases."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last word of a session that ends on purpose. What is still held is given back."""

    reason: str = ""


# ---- coordinator to agent -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome:
    """The coordinator's first word: how often to be heard, and which of the leases claimed are no longer the agent's."""

    incarnation: int
    heartbeat_s: float
    lease_ttl_s: float
    fenced: tuple[LeaseRef, ...] = ()
    peer_key: bytes = field(default=b"", repr=False)  # a secret: capabilities for this agent are signed with it
    epoch_s: float = 0.0  # the coordinator's clock, seconds since the epoch: capabilities expire by it
    share_s: float = 0.0  # how long leased shares hold after the agent sent what the coordinator answered


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """The heartbeat arrived: its leases are renewed, counted by the agent from the moment it sent it."""

    seq: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Grants:
    """New leases, and the jobs that they belong to where the agent has not been told yet."""

    leases: tuple[Lease, ...]
    jobs: tuple[JobSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Acks:
    """Answers to reports. Sent only after what they acknowledge is on the coordinator's disk."""

    acks: tuple[Ack, ...]


@dataclass(frozen=True, slots=True)
class Revoke:
    """Stop work on these leases: they are no longer yours."""

    leases: tuple[LeaseRef, ...]


@dataclass(frozen=True, slots=True)
class Yield:
    """Others are idle: give back what you have not started of these leases, and half of what you have."""

    leases: tuple[LeaseRef, ...]


@dataclass(frozen=True, slots=True)
class Budgets:
    """New shares of host budgets. Versions grow with every message, and with every incarnation of the coordinator."""

    budgets: tuple[HostBudget, ...]
    version: int = 0


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish or give back what you hold and say goodbye."""

    reason: str = ""
    reconnect: bool = False  # the coordinator restarts: come back


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkReport:
    """What a worker says of a lease, before the session numbers it; the fields are those of `Result`."""

    unit: str
    token: int
    outcome: Outcome
    done: tuple[Interval, ...] = ()
    released: tuple[Interval, ...] = ()
    fetched: int = 0
    size: int | None = None
    digest: str = ""
    etag: str = ""
    skipped: bool = False
    failure: Failure | None = None
    tally: Tally = ()
    profile: HostProfile | None = None


AgentMessage: TypeAlias = "Hello | Heartbeat | Results | Goodbye | SwarmInventory | SwarmReport"
CoordinatorMessage: TypeAlias = (
    "Welcome | HeartbeatAck | Grants | Acks | Revoke | Yield | Budgets | Drain | SwarmOrders"
)
