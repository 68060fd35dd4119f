"""Runs that collect URL tables: by host, by error, and a sheet of samples."""

# described() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from ...common.dataset_schema import OVERVIEW
from ...common.errors import NotFound, UsageError
from ...common.records import Delivery
from ...common.safe_root import SafeRoot
from ..collect.samples import SampleRow, sample_image, sample_rows
from .models import Job, JobsPage, PageQuery, cursor_field, job_of, limit_field
from .routing import Routes
from .schema import described
from .site import Site

OVERVIEW_BYTES_MAX = 64 << 20
SAMPLES_MAX = 60
SLICE_JOBS = 50
IMAGE_POLICY = "default-src 'none'; sandbox"

routes = Routes("collections")


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectedHost:
    """How a run does at one host. Rates are requests/s of the whole fleet."""

    host: str
    rows: int
    successes: int
    errors: int
    errors_by_code: Mapping[str, int]
    under_way: int
    left: int
    batches: int
    batches_done: int
    agents: int
    condition: str = described("open, half-open, blocked or parked; empty while nothing was asked.")
    rate_allowed: float
    rate_now: float
    blocked_until: float | None
    last_status: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """A run: its rows by outcome. Codes are HTTP statuses, or negative for what was no answer (docs/collecting.md)."""

    job: Job
    rows: int
    rejected: int
    successes: int
    errors: int
    errors_by_code: Mapping[str, int]
    under_way: int
    left: int
    hosts_total: int
    hosts_in_trouble: int
    rate_now: float
    blocked_until: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectedHosts:
    """A page of a run's hosts, by name."""

    hosts: tuple[CollectedHost, ...]
    next_cursor: str | None = described("null: this is the last page.")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplesQuery:
    """Which samples."""

    host: str = described("Only of this host; empty: some of each.", "", maxLength=300)
    per_host: int = described("Of each host at most.", 4, minimum=1, maximum=SAMPLES_MAX)
    limit: int = described("In all at most.", 24, minimum=1, maximum=SAMPLES_MAX)


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Rows that were collected. The picture of each is at samples/{host}/{partition}/{row}."""

    samples: tuple[SampleRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HostsPageQuery:
    """Which hosts."""

    search: str = described("Only hosts whose name holds this.", "", maxLength=253)
    cursor: str = cursor_field()
    limit: int = limit_field()


@routes.get("/api/collections", summary="Runs that collect URL tables, newest first", errors=(404,))
async def list_collections(site: Site, *, query: PageQuery) -> JobsPage:
    ids = site.api.job_ids()
    if query.cursor and query.cursor not in ids:
        raise NotFound(f"cursor {query.cursor!a}", cause="it is not one that a page named", remedy="begin without one")
    found: list[Job] = []
    for number, job_id in enumerate(ids[ids.index(query.cursor) + 1 if query.cursor else 0 :], start=1):
        view = site.api.get_job(job_id, active=False)
        if view.delivery is Delivery.DATASET:
            found.append(job_of(view))
            if len(found) == query.limit:
                break
        if number % SLICE_JOBS == 0:
            await asyncio.sleep(0)
    return JobsPage(jobs=tuple(found), next_cursor=found[-1].job_id if len(found) == query.limit else None)


@routes.get("/api/collections/{job_id}", summary="A run by outcome")
async def get_collection(site: Site, *, job_id: str) -> Collection:
    job, overview = await _overview(site, job_id)
    return Collection(
        job=job,
        rows=_number(overview, "rows"),
        rejected=_number(overview, "rejected"),
        successes=_number(overview, "successes"),
        errors=_number(overview, "errors"),
        errors_by_code=_codes(overview),
        under_way=_number(overview, "under_way"),
        left=_number(overview, "left"),
        hosts_total=len(_hosts(overview)),
        hosts_in_trouble=_number(overview, "hosts_in_trouble"),
        rate_now=float(overview.get("rate_now") or 0.0),
        blocked_until=overview.get("blocked_until"),
    )


@routes.get("/api/collections/{job_id}/hosts", summary="A run by host")
async def list_collected_hosts(site: Site, *, job_id: str, query: HostsPageQuery) -> CollectedHosts:
    _job, overview = await _overview(site, job_id)
    wanted = query.search.lower()
    names = [name for name in sorted(_hosts(overview)) if wanted in name and name > query.cursor]
    page = names[: query.limit]
    return CollectedHosts(
        hosts=tuple(_host(name, _hosts(overview)[name]) for name in page),
        next_cursor=page[-1] if len(names) > len(page) else None,
    )


@routes.get("/api/collections/{job_id}/samples", summary="Some pictures of a run")
async def list_samples(site: Site, *, job_id: str, query: SamplesQuery) -> Samples:
    """Looks at the first rows of finished batches, where the coordinator sees the dataset's folder."""
    _job, folder = _dataset(site, job_id)
    async with site.sampling:
        rows = await asyncio.to_thread(sample_rows, folder, host=query.host, per_host=query.per_host, limit=query.limit)
    return Samples(samples=tuple(rows))


@routes.get(
    "/api/collections/{job_id}/samples/{host}/{partition}/{row}", summary="One picture", content_type="image/jpeg"
)
async def get_sample(site: Site, *, job_id: str, host: str, partition: str, row: str) -> web.Response:
    """JPEG, PNG, GIF or WebP, as the picture's own first bytes tell."""
    _job, folder = _dataset(site, job_id)
    async with site.sampling:
        data, kind = await asyncio.to_thread(
            sample_image, folder, host=host, partition=_index(partition, "partition"), row=_index(row, "row")
        )
    return web.Response(
        body=data,
        content_type=kind,
        headers={"Content-Security-Policy": IMAGE_POLICY, "Cache-Control": "private, max-age=300"},
    )


# ---- where it is known from -----------------------------------------------------------------------------------------


async def _overview(site: Site, job_id: str) -> tuple[Job, dict[str, Any]]:
    """The job and its overview document: the coordinator's own, or what lies beside the data of a run that ended before it
    started. Raises NotFound for a job that collects nothing."""
    job = _run(site, job_id)
    data = b"".join([block async for block in site.api.read_document(job.job_id, OVERVIEW)])
    overview: dict[str, Any] = json.loads(data)
    if job.status.ended and not _hosts(overview):
        folder = _folder(site, job)
        found = await asyncio.to_thread(_read_overview, folder) if folder is not None else None
        if found is not None and found.get("job") == job.job_id:
            overview = {**overview, **found}
    return job, overview


def _read_overview(folder: Path) -> dict[str, Any] | None:
    try:
        with SafeRoot(folder) as root, open(root.open_beneath(OVERVIEW, 0), "rb") as file:  # noqa: PTH123  # a descriptor
            value: object = json.loads(file.read(OVERVIEW_BYTES_MAX))
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _run(site: Site, job_id: str) -> Job:
    view = site.api.get_job(job_id, active=False)
    if view.delivery is not Delivery.DATASET:
        raise NotFound(f"collection {job_id}", cause="the job collects no table")
    return job_of(view)


def _folder(site: Site, job: Job) -> Path | None:
    return None if "://" in job.destination else site.settings.agent.root / job.destination.lstrip("/")


def _dataset(site: Site, job_id: str) -> tuple[Job, Path]:
    job = _run(site, job_id)
    folder = _folder(site, job)
    if folder is None:
        raise NotFound(job.destination, cause="samples are shown of datasets in folders only")
    return job, folder


def _hosts(overview: Mapping[str, Any]) -> dict[str, Any]:
    hosts = overview.get("hosts")
    return cast("dict[str, Any]", hosts) if isinstance(hosts, dict) else {}


def _host(name: str, values: Mapping[str, Any]) -> CollectedHost:
    return CollectedHost(
        host=name,
        rows=_number(values, "rows"),
        successes=_number(values, "successes"),
        errors=_number(values, "errors"),
        errors_by_code=_codes(values),
        under_way=_number(values, "under_way"),
        left=_number(values, "left"),
        batches=_number(values, "batches"),
        batches_done=_number(values, "batches_done"),
        agents=_number(values, "agents"),
        condition=str(values.get("condition", "")),
        rate_allowed=float(values.get("rate_allowed") or 0.0),
        rate_now=float(values.get("rate_now") or 0.0),
        blocked_until=values.get("blocked_until"),
        last_status=_number(values, "last_status"),
    )


def _number(values: Mapping[str, Any], name: str) -> int:
    return int(values.get(name) or 0)


def _codes(values: Mapping[str, Any]) -> Mapping[str, int]:
    codes = values.get("errors_by_code")
    return (
        {str(code): int(rows) for code, rows in cast("dict[str, int]", codes).items()}
        if isinstance(codes, dict)
        else {}
    )


def _index(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise UsageError(name, cause="it is not a whole number")
    return int(text)
