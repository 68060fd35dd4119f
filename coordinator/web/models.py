"""What the API shows of jobs and what it takes. Agents, hosts, objects and the queue are shown as `common/views.py` has them."""

# ruff: noqa: RUF009  # described() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...common.nas_records import NasCounts
from ...common.records import Delivery, Failure, Layout
from ...common.views import (
    ActiveObjectView,
    ActivePhase,
    AgentView,
    FleetView,
    HostView,
    JobAgentView,
    JobStatus,
    JobView,
    ObjectStatus,
    ObjectView,
    QueueView,
    ReplicaView,
)
from .schema import described

PAGE_DEFAULT, PAGE_MAX = 100, 1000
CURSOR_CHARS_MAX = 128
PRIORITY_MIN, PRIORITY_MAX = -(2**31), 2**31 - 1
MAP_CELLS_DEFAULT, MAP_CELLS_MAX = 128, 4096
URIS_MAX = 1000


class JobState(enum.StrEnum):
    """Which jobs a list holds."""

    ACTIVE = "active"  # have not ended
    PAUSED = "paused"
    ENDED = "ended"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job."""

    job_id: str
    uri: str
    name: str
    status: JobStatus
    paused: bool
    priority: int
    created_at: float
    ended_at: float | None
    destination: str
    delivery: Delivery
    revision: str
    commit: str
    objects_total: int
    objects_done: int
    objects_skipped: int
    objects_failed: int
    bytes_total: int
    bytes_arrived: int = described("Of finished objects, and of unfinished ones so far.")
    bytes_from_origin: int
    bytes_from_peers: int
    rate_bytes_per_s: float
    eta_s: float | None = described("Seconds left; null while unknown.")
    failure: Failure | None
    rows_total: int = described("Of a URL table: rows without those that were rejected.")
    rows_rejected: int
    rows_done: int
    rows_per_s: float
    nas: NasCounts | None = described("Copies on a NAS, of all agents together; null: there are none.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveObject:
    """An object that agents work on at this moment."""

    object_id: int
    path: str
    size: int | None
    done_bytes: int
    agents: tuple[str, ...]
    phase: ActivePhase
    map: str = described("The chunk map: one digit a cell from the file's begin to its end, 0 nothing to 9 all of it.")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDetail:
    """A job with what is under way."""

    job: Job
    active: tuple[ActiveObject, ...]
    replicas: tuple[ReplicaView, ...]
    agents: tuple[JobAgentView, ...] = described(
        "Who brought how much, most first; at most 100. Empty for a replicated job: it has replicas."
    )
    agents_more: int = described("How many more brought something.")
    tally: Mapping[str, int] = described("Of a URL table: rows that have ended, by code; 200 is success.")


def job_of(view: JobView) -> Job:
    """A job as the API shows it."""
    return Job(
        job_id=view.job_id,
        uri=view.uri,
        name=view.name,
        status=view.status,
        paused=view.paused,
        priority=view.priority,
        created_at=view.created_at,
        ended_at=view.ended_at,
        destination=view.destination,
        delivery=view.delivery,
        revision=view.revision,
        commit=view.commit,
        objects_total=view.objects_total,
        objects_done=view.objects_done,
        objects_skipped=view.objects_skipped,
        objects_failed=view.objects_failed,
        bytes_total=view.bytes_total,
        bytes_arrived=view.bytes_arrived,
        bytes_from_origin=view.bytes_fetched,
        bytes_from_peers=view.bytes_from_peers,
        rate_bytes_per_s=view.rate_bytes_per_s,
        eta_s=view.eta_s,
        failure=view.failure,
        rows_total=view.rows_total,
        rows_rejected=view.rows_rejected,
        rows_done=view.rows_done,
        rows_per_s=view.rows_per_s,
        nas=view.nas,
    )


def detail_of(view: JobView, *, cells: int = MAP_CELLS_DEFAULT) -> JobDetail:
    """A job with what is under way. cells: digits of each chunk map."""
    return JobDetail(
        job=job_of(view),
        active=tuple(_active(each, cells) for each in view.active),
        replicas=view.replicas,
        agents=view.agents,
        agents_more=view.agents_more,
        tally={str(code): rows for code, rows in view.tally},
    )


def _active(view: ActiveObjectView, cells: int) -> ActiveObject:
    return ActiveObject(
        object_id=view.object_id,
        path=view.path,
        size=view.size,
        done_bytes=view.done_bytes,
        agents=view.agents,
        phase=view.phase,
        map=chunk_map(view, cells),
    )


def chunk_map(view: ActiveObjectView, cells: int) -> str:
    """How full each of so many equal parts of an object is, as digits; empty where nothing is known of its parts."""
    if not view.size or not view.done:
        return ""
    cells = min(cells, view.size)
    filled = [0] * cells
    size = view.size
    for start, stop in view.done:
        start, stop = max(0, start), min(size, stop)
        if start >= stop:
            continue
        first, last = start * cells // size, (stop - 1) * cells // size
        for cell in range(first, last + 1):
            low, high = _bound(cell, size, cells), _bound(cell + 1, size, cells)
            filled[cell] += max(0, min(stop, high) - max(start, low))
    digits: list[str] = []
    for cell, done in enumerate(filled):
        width = _bound(cell + 1, size, cells) - _bound(cell, size, cells)
        digits.append("9" if done >= width else str(min(8, 9 * done // width)))
    return "".join(digits)


def _bound(cell: int, size: int, cells: int) -> int:
    """The first byte of a cell: the least x with x * cells // size == cell."""
    return -(-cell * size // cells)


# ---- what is asked --------------------------------------------------------------------------------------------------


def cursor_field() -> Any:
    """The place where a page begins."""
    return described("next_cursor of the page before.", "", maxLength=CURSOR_CHARS_MAX)


def limit_field() -> Any:
    """How many items a page holds at most."""
    return described("Items at most.", PAGE_DEFAULT, minimum=1, maximum=PAGE_MAX)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobsQuery:
    """Which jobs."""

    state: JobState | None = described("Only jobs in this state.", None)
    cursor: str = cursor_field()
    limit: int = limit_field()


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectsQuery:
    """Which objects."""

    status: ObjectStatus | None = described("Only objects with this status.", None)
    cursor: str = cursor_field()
    limit: int = limit_field()


@dataclass(frozen=True, kw_only=True, slots=True)
class DetailQuery:
    """How much of a job."""

    cells: int = described("Digits of each chunk map.", MAP_CELLS_DEFAULT, minimum=1, maximum=MAP_CELLS_MAX)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageQuery:
    """Which part of a list."""

    cursor: str = cursor_field()
    limit: int = limit_field()


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadBody:
    """What to fetch, and where to. One job is made of each URI; a request that is under way already is not doubled."""

    uris: tuple[str, ...] = described(
        "hf://ORG/NAME[@REV][/PATH], ORG/NAME, s3://…, https://…", minItems=1, maxItems=URIS_MAX
    )
    destination: str = described(
        "An absolute folder; empty or hf-cache: the Hub's cache (Hub repos only).", "", maxLength=4096
    )
    delivery: Delivery = described("spread: one copy; replicate: one on every agent.", Delivery.SPREAD)
    include: tuple[str, ...] = described("Only files that match one of these globs.", (), maxItems=10_000)
    exclude: tuple[str, ...] = described("No files that match one of these globs.", (), maxItems=10_000)
    revision: str = described("Branch, tag or commit.", "", maxLength=250)
    force: bool = described("Fetch again what is there.", False)
    sha256: str = described("What the one file must be, in hex.", "", pattern="^(?:[0-9a-fA-F]{64})?$")
    priority: int = described("Larger is sooner.", 0, minimum=PRIORITY_MIN, maximum=PRIORITY_MAX)
    name: str = described("A name to find the job by.", "", maxLength=256)
    profile: str = described("Credentials of [s3.NAME].", "", maxLength=256)
    unpack: str = described(
        "auto: archives where they lie; else the folder that they are unpacked into.", "", maxLength=4096
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorityBody:
    """A job's place."""

    priority: int = described("Larger is sooner.", minimum=PRIORITY_MIN, maximum=PRIORITY_MAX)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostBody:
    """Limits of the whole fleet at one host. What is left out stays as it is; 0 is unlimited."""

    requests_per_s: float | None = described("Requests/s.", None, minimum=0, maximum=1e6)
    bytes_per_s: float | None = described("Bytes/s.", None, minimum=0, maximum=1e15)
    connections: int | None = described("Requests under way at once.", None, minimum=0, maximum=10_000)


# ---- what is answered -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class JobsPage:
    """A page of jobs, newest first."""

    jobs: tuple[Job, ...]
    next_cursor: str | None = described("null: this is the last page.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectsPage:
    """A page of a job's objects."""

    objects: tuple[ObjectView, ...]
    next_cursor: str | None = described("null: this is the last page.")


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmittedJob:
    """The job that a URI became."""

    created: bool = described("false: an equal request had made it before.")
    job: Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloads:
    """The jobs of a request, in its order."""

    jobs: tuple[SubmittedJob, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Sums over all jobs that the coordinator remembers."""

    bytes_from_origin: int
    bytes_from_peers: int
    objects_done: int
    objects_failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The whole fleet in one look, as it was at the last tick, at most about a second ago."""

    taken_at: float
    fleet: FleetView
    totals: Totals
    jobs: tuple[Job, ...] = described("Jobs that have not ended, in the order of service; at most 100.")
    jobs_more: int = described("How many more there are.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Agents:
    """All agents that were seen, by name."""

    agents: tuple[AgentView, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hosts:
    """Origin hosts with a limit or with trouble, by name."""

    hosts: tuple[HostView, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedJobs:
    """Jobs that have not ended, in the order of service."""

    jobs: tuple[QueueView, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A moment of a job or of the fleet."""

    at: float
    rate: float = described("Bytes/s; of a URL table rows/s.")
    bytes_from_origin: int
    bytes_from_peers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Speed over time, oldest first. Long runs are told at longer intervals."""

    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The coordinator works."""

    status: str = described("ok")


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionState:
    """Who asks."""

    user: str = described("Empty: nobody logged in.")
    login_required: bool = described("Whether this caller must log in first.")
    csrf_token: str = described("For the header X-CSRF-Token of every change; empty before the login.")
    version: str
    base_url: str
    left_s: float | None = described("Seconds until the session ends; null: there is none.")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoginBody:
    """A user's name with a password, or a token alone."""

    user: str = described("Name.", "", maxLength=256)
    password: str = described("Password.", "", maxLength=1024)
    token: str = described("What shoal token create --role admin printed.", "", maxLength=512)


def submit_layout(destination: str) -> tuple[str, Layout | None]:
    """A destination as the API has it, in the coordinator's words."""
    return ("", Layout.HUB_CACHE) if destination == "hf-cache" else (destination, None)
