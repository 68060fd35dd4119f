"""Planning: a submitted job's source is resolved, listed page by page into the store, and handed to the core."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from ..common.chunks import choose_sizes
from ..common.collect_records import tool_spec_from
from ..common.errors import ShoalError, UnsafeName, UsageError
from ..common.logs import get_logger
from ..common.records import Delivery, Failure, JobSpec, Layout, OriginKind
from ..common.selection import Selection
from ..common.uri import HubUri, SourceUri, parse_uri
from ..common.uri_records import COMMIT
from ..common.views import SubmitRequest
from .collecting import Collections
from .core import Core
from .model import JobRow
from .quotas import SiteRules
from .sources.base import Source, SourceRequest
from .store.runner import StoreRunner

log = get_logger("planner")


OpenSource = Callable[[SourceRequest], Source]


def job_rows(
    request: SubmitRequest, *, created_at: float, new_id: Callable[[], str], endpoints: tuple[str, ...]
) -> list[JobRow]:
    """One job for each distinct URI of a request, in order. Raises UsageError for what no agent could do."""
    if request.delivery is Delivery.DATASET:
        return [dataset_row(request, created_at=created_at, job_id=new_id())]
    if not request.uris:
        raise UsageError("submit", cause="no URI was given")
    if request.sha256 and len(request.uris) > 1:
        raise UsageError("--sha256", cause="it names the digest of one file, but several sources were given")
    rows: dict[str, JobRow] = {}
    for text in request.uris:
        uri = parse_uri(text, hub_endpoints=endpoints)
        layout = request.layout or (
            Layout.HUB_CACHE if isinstance(uri, HubUri) and not request.destination else Layout.FOLDER
        )
        if layout is Layout.HUB_CACHE and not isinstance(uri, HubUri):
            raise UsageError(
                uri.canonical(), cause="only Hub repos can be put into the Hub cache", remedy="name a folder with --to"
            )
        if layout is Layout.FOLDER and not request.destination:
            raise UsageError(uri.canonical(), cause="no destination was given", remedy="name a folder with --to")
        asked = {
            "uri": uri.canonical(),
            "destination": request.destination,
            "layout": layout.value,
            "include": sorted(request.include),
            "exclude": sorted(request.exclude),
            "revision": request.revision,
            "sha256": request.sha256.lower(),
            "force": request.force,
            "delivery": request.delivery.value,
            "profile": request.profile,
            "unpack": request.unpack,
            "unpack_format": request.unpack_format,
            "nas": request.nas,
            **_pinned(uri, request.commit),
        }
        fingerprint = json.dumps(asked, sort_keys=True)
        rows.setdefault(
            fingerprint,
            JobRow(
                job_id=new_id(),
                uri=uri.canonical(),
                name=request.name,
                fingerprint=fingerprint,
                request=fingerprint,
                priority=request.priority,
                created_at=created_at,
            ),
        )
    return list(rows.values())


def _pinned(uri: SourceUri, commit: str) -> dict[str, str]:
    """What a commit adds to what is asked; nothing where none is named: requests of before are equal still. Raises UsageError."""
    if not commit:
        return {}
    if not isinstance(uri, HubUri):
        raise UsageError(uri.canonical(), cause="it has no commits", remedy="leave the commit out")
    if not COMMIT.fullmatch(commit):
        raise UsageError(
            f"commit {commit!r}", cause="it is not 40 hex digits", remedy="name a branch or tag as the revision"
        )
    return {"commit": commit}


def dataset_row(request: SubmitRequest, *, created_at: float, job_id: str) -> JobRow:
    """The job of a request to collect a table, or to run a tool over what was collected. Raises UsageError."""
    if (request.collect is None) == (request.tool is None):
        raise UsageError("dataset", cause="a dataset job has either a table to collect or a tool to run")
    if not request.destination:
        raise UsageError("dataset", cause="no folder was given", remedy="name it with --to, or with --data for a tool")
    asked: dict[str, Any] = {
        "destination": request.destination,
        "revision": "",
        "force": request.force,
        "delivery": request.delivery.value,
        "profile": request.profile,
    }
    if request.collect is not None:
        tables: Sequence[str] = request.collect.tables
        if not tables:
            raise UsageError("shoal collect", cause="no table was given", remedy="name a file, a glob or a folder")
        asked["collect"] = asdict(request.collect)
        more = f" and {len(tables) - 1} more" if len(tables) > 1 else ""
        uri = next(iter(tables)) + more
    else:
        assert request.tool is not None
        asked["tool"] = asdict(request.tool)
        uri = f"{request.tool.name} over {request.destination}"
    fingerprint = json.dumps(asked, sort_keys=True)
    return JobRow(
        job_id=job_id,
        uri=uri,
        name=request.name,
        fingerprint=fingerprint,
        request=fingerprint,
        priority=request.priority,
        created_at=created_at,
    )


def tool_job(row: JobRow, asked: Mapping[str, Any]) -> JobSpec:
    """What agents must know of a job that runs a tool. Its units are known when an agent has made the schedule."""
    return JobSpec(
        job_id=row.job_id,
        source=row.uri,
        origin=OriginKind.FILE,
        layout=Layout.FOLDER,
        destination=asked["destination"],
        delivery=Delivery.DATASET,
        tool=tool_spec_from(asked["tool"]),
    )


class Planner:
    """Lists sources. Each `plan` is one job's; several may run at once."""

    def __init__(
        self,
        core: Core,
        store: StoreRunner,
        open_source: OpenSource,
        clock: Callable[[], float],
        *,
        collections: Collections,
        chunk_bytes: int | None = None,
        verify_everywhere: bool = False,
        site: SiteRules | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """chunk_bytes: of replicated jobs, None for what fits them; verify_everywhere: every agent computes the digests."""
        self._collections = collections
        self._chunk_bytes = chunk_bytes
        self._verify_everywhere = verify_everywhere
        self._core = core
        self._store = store
        self._open_source = open_source
        self._clock = clock
        self.site = site or SiteRules()
        self._wall_clock = wall_clock

    async def plan(self, job_id: str) -> None:
        """List the job's source into the store. Failures end the job; they never escape."""
        row = self._core.jobs[job_id].row
        try:
            await self._plan(row)
        except ShoalError as error:
            log.info("job.planning_failed", job=job_id, error=str(error))
            self._fail(job_id, Failure(code=error.code, text=str(error), retryable=error.retryable))
        except Exception as error:
            # A defect in one listing must not take the coordinator, and every other job, with it.
            log.exception("job.planning_broke", job=job_id)
            self._fail(job_id, Failure(code="internal", text=f"{type(error).__name__}: {error}", retryable=False))

    def _fail(self, job_id: str, failure: Failure) -> None:
        self._core.job_failed(job_id, failure, self._clock())

    async def _plan(self, row: JobRow) -> None:
        asked = json.loads(row.request)
        if asked.get("tool") is not None:
            await self._store.run(self._store.store.forget_objects, row.job_id)
            self._core.job_listed(row.job_id, tool_job(row, asked), 0, 0)
            return
        if asked.get("collect") is not None:
            spec = await self._collections.plan(row, asked)
            self._core.job_listed(row.job_id, spec, spec.total_objects, 0)
            return
        source = self._open_source(
            SourceRequest(
                uri=parse_uri(asked["uri"]),
                revision=asked["revision"],
                commit=asked.get("commit", ""),
                selection=Selection(include=tuple(asked["include"]), exclude=tuple(asked["exclude"])),
                sha256=asked["sha256"],
                profile=asked.get("profile", ""),
            )
        )
        resolved = await source.resolve()
        await self._store.run(self._store.store.forget_objects, row.job_id)
        largest = 0
        async with aclosing(source.pages()) as pages:
            async for page in pages:
                largest = max(largest, max(spec.size or 0 for spec in page))
                for spec in page:
                    self.site.policy.check_object_size(spec.path, spec.size)
                await self._store.run(self._store.store.add_objects, row.job_id, page)
        refused = [(name, _unsafe(name, reason)) for name, reason in source.refused]
        if refused:
            await self._store.run(self._store.store.add_failed_objects, row.job_id, refused)
        if source.refused_count > len(refused):
            log.warning("job.names_refused", job=row.job_id, count=source.refused_count, listed=len(refused))
        for warning in source.warnings:
            log.warning("job.listing_warning", job=row.job_id, warning=warning)
        objects, total_bytes = await self._store.run(self._store.store.counts, row.job_id)
        self.site.policy.check_job_size(row.uri, total_bytes)
        others = (job.row for job in self._core.jobs.values() if job.row is not row)
        self.site.quotas.check_bytes(row.user, others, self._wall_clock(), more=total_bytes)
        delivery = Delivery(asked.get("delivery", Delivery.SPREAD))
        chunks = None
        if delivery is Delivery.REPLICATE:
            agents = sum(agent.connected for agent in self._core.agents.values())
            chunks = choose_sizes(largest=largest, total=total_bytes, agents=agents, fixed=self._chunk_bytes)
        spec = JobSpec(
            job_id=row.job_id,
            delivery=delivery,
            chunks=chunks,
            verify_everywhere=self._verify_everywhere,
            profile=asked.get("profile", ""),
            unpack=asked.get("unpack", ""),
            unpack_format=asked.get("unpack_format", ""),
            nas=asked.get("nas", ""),
            layout=Layout(asked["layout"]),
            destination=asked["destination"],
            force=asked["force"],
            total_bytes=total_bytes,
            total_objects=objects,
            **asdict(resolved),
        )
        row.objects_failed = len(refused)
        self._core.job_listed(row.job_id, spec, objects, total_bytes)


def _unsafe(name: str, reason: str) -> Failure:
    error = UnsafeName(name, cause=reason, remedy="leave it out with --exclude, or ask the publisher to rename it")
    return Failure(code=error.code, text=str(error), retryable=False)
