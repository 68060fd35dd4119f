"""Downloads: submit, look at, control."""

from __future__ import annotations

import asyncio
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from aiohttp import web

from ...common.errors import Refused, UsageError
from ...common.uri import FileUri, SourceUri, parse_uri
from ...common.views import Control, JobStatus, SubmitRequest
from ..requests import id_token, next_token
from .guard import caller_of
from .models import (
    DetailQuery,
    DownloadBody,
    Downloads,
    History,
    Job,
    JobDetail,
    JobsPage,
    JobsQuery,
    JobState,
    ObjectsPage,
    ObjectsQuery,
    PriorityBody,
    SubmittedJob,
    detail_of,
    job_of,
    submit_layout,
)
from .routing import Routes
from .site import Site

if TYPE_CHECKING:
    from ...common.settings import Settings
    from ..api import JobFilter

HUB_CACHE = "hf-cache"

routes = Routes("jobs")


@routes.post("/download", summary="Fetch sources", status=202, errors=(403, 409))
async def download(site: Site, *, request: web.Request, body: DownloadBody) -> Downloads:
    """One job is made of each URI; on return they survive a restart. Follow them with GET /api/jobs/{job_id} or the events."""
    check_destination(site.settings, body.destination)
    if body.unpack not in ("", "auto"):
        check_destination(site.settings, body.unpack)
    destination, layout = submit_layout(body.destination)
    uris = [(await source_of(site, text)).canonical() for text in body.uris]
    submitted = await site.api.submit(
        SubmitRequest(
            uris=tuple(uris),
            destination=destination,
            layout=layout,
            delivery=body.delivery,
            include=body.include,
            exclude=body.exclude,
            revision=body.revision,
            force=body.force,
            sha256=body.sha256,
            priority=body.priority,
            name=body.name,
            profile=body.profile,
            unpack=body.unpack,
        ),
        user=caller_of(request).user,
    )
    return Downloads(jobs=tuple(SubmittedJob(created=each.created, job=job_of(each.job)) for each in submitted))


async def source_of(site: Site, text: str) -> SourceUri:
    """The source that a caller names; a local file by its real path. Raises UsageError, and Refused for a local file that
    `web.file_sources` does not hold."""
    uri = parse_uri(text, bare_hub=True, hub_endpoints=tuple(site.settings.hub.endpoint))
    return await asyncio.to_thread(_real_file, site, uri) if isinstance(uri, FileUri) else uri


def _real_file(site: Site, uri: FileUri) -> FileUri:
    real = PurePosixPath(os.path.realpath(uri.path))
    if not any(real.is_relative_to(os.path.realpath(each)) for each in site.settings.web.file_sources):
        cause = "local files can be named here only below a folder of web.file_sources"
        raise Refused(uri.canonical(), cause=cause, remedy="add the folder to it, or use the command line")
    return FileUri(path=str(real))


def check_destination(settings: Settings, destination: str) -> None:
    """Raise UsageError for what is no absolute folder, Refused for one that `web.destinations` does not hold."""
    allowed = settings.web.destinations
    if destination in ("", HUB_CACHE):
        if allowed and HUB_CACHE not in allowed:
            raise Refused("destination", cause="the Hub's cache is not among web.destinations")
        return
    if not destination.isprintable():
        raise UsageError("destination", cause="it holds characters that do not show")
    if "://" in destination:
        if allowed and not any(
            destination == each or destination.startswith(f"{each.rstrip('/')}/") for each in allowed
        ):
            raise Refused(f"destination {destination!a}", cause="it is not below any of web.destinations")
        return
    path = PurePosixPath(destination)
    if not path.is_absolute() or ".." in path.parts:
        raise UsageError(
            "destination", cause="it is not an absolute folder without '..'", remedy="such as /data/models"
        )
    if allowed and not any(path.is_relative_to(each) for each in allowed if each.startswith("/")):
        raise Refused(f"destination {destination!a}", cause="it is not below any of web.destinations")


@routes.get("/api/jobs", summary="Jobs, newest first", errors=(404,))
async def list_jobs(site: Site, *, query: JobsQuery) -> JobsPage:
    views = site.api.list_jobs(limit=query.limit, after=query.cursor, wanted=_filter(query.state))
    return JobsPage(
        jobs=tuple(map(job_of, views)), next_cursor=next_token(views, query.limit, lambda view: view.job_id) or None
    )


def _filter(state: JobState | None) -> JobFilter | None:
    match state:
        case None:
            return None
        case JobState.ACTIVE:
            return lambda status, _paused: not status.ended
        case JobState.PAUSED:
            return lambda status, paused: paused and not status.ended
        case JobState.ENDED:
            return lambda status, _paused: status.ended
        case _:
            wanted = JobStatus(state.value)
            return lambda status, _paused: status is wanted


@routes.get("/api/jobs/{job_id}", summary="One job with what is under way")
async def get_job(site: Site, *, job_id: str, query: DetailQuery) -> JobDetail:
    """job_id may also be the job's name or source: then it is the newest of them."""
    return detail_of(site.api.get_job(job_id), cells=query.cells)


@routes.get("/api/jobs/{job_id}/objects", summary="Objects of a job, with reasons of those that failed")
async def list_objects(site: Site, *, job_id: str, query: ObjectsQuery) -> ObjectsPage:
    status, after_id = query.status or "", id_token(query.cursor)
    views = await site.api.list_objects(job_id, status=status, after_id=after_id, limit=query.limit)
    return ObjectsPage(
        objects=tuple(views), next_cursor=next_token(views, query.limit, lambda view: view.object_id) or None
    )


@routes.get("/api/jobs/{job_id}/history", summary="Speed of a job over time")
async def job_history(site: Site, *, job_id: str) -> History:
    return site.observer.histories.job(site.api.get_job(job_id, active=False).job_id)


@routes.post("/api/jobs/{job_id}/pause", summary="Stop working on a job; what was fetched stays", errors=(409,))
async def pause_job(site: Site, *, job_id: str) -> Job:
    return job_of(await site.api.control(job_id, Control.PAUSE))


@routes.post("/api/jobs/{job_id}/resume", summary="Go on with a paused job", errors=(409,))
async def resume_job(site: Site, *, job_id: str) -> Job:
    return job_of(await site.api.control(job_id, Control.RESUME))


@routes.post("/api/jobs/{job_id}/cancel", summary="End a job; finished files stay", errors=(409,))
async def cancel_job(site: Site, *, job_id: str) -> Job:
    return job_of(await site.api.control(job_id, Control.CANCEL))


@routes.post("/api/jobs/{job_id}/retry", summary="Bring back what failed in a job that ended", errors=(409,))
async def retry_job(site: Site, *, job_id: str) -> Job:
    return job_of(await site.api.control(job_id, Control.RETRY))


@routes.post("/api/jobs/{job_id}/priority", summary="Change when a job is served", errors=(409,))
async def set_priority(site: Site, *, job_id: str, body: PriorityBody) -> Job:
    return job_of(await site.api.set_priority(job_id, body.priority))
