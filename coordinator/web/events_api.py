"""``GET /api/events``: the stream of server-sent events."""

# described() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from ...common.errors import NotFound
from .feed import HEARTBEAT, Client, encoded
from .guard import caller_of, protect
from .routing import Routes
from .schema import described
from .site import Site

HEARTBEAT_S = 15.0
"""The HTML standard, section 9.2.7, proposes a comment about every 15 s: proxies drop what is silent."""
RETRY_MS = 2000
STALLED_S = 60.0
"""A client that takes nothing for so long is gone."""

routes = Routes("fleet")


@dataclass(frozen=True, kw_only=True, slots=True)
class EventsQuery:
    """What is told beside the fleet."""

    job: str = described("Id of a job whose details are told, too.", "", maxLength=512)
    last_event_id: str = described("As the header Last-Event-ID, for clients that cannot set it.", "", maxLength=64)


@routes.get("/api/events", summary="Changes as server-sent events", content_type="text/event-stream", errors=(404, 503))
async def stream_events(site: Site, *, request: web.Request, query: EventsQuery) -> web.StreamResponse:
    """Events: ``snapshot`` (as GET /api/status, with all agents and hosts) at the start, and whenever a client missed something;
    then ``fleet``, ``jobs``, ``agents`` and ``hosts`` with what changed, and ``job`` (as GET /api/jobs/{job_id}) for the job that was
    named. Send Last-Event-ID to go on where a stream broke. A comment comes every 15 seconds."""
    feed = site.observer.feed
    if query.job:
        site.api.get_job(query.job, active=False)
    last_id = request.headers.get("Last-Event-ID", "") or query.last_event_id
    with feed.reading() as client:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "X-Accel-Buffering": "no",  # nginx would hold events back
            }
        )
        protect(site, request, response)
        await response.prepare(request)
        missed = feed.missed(last_id) if last_id else None
        begin = f"retry: {RETRY_MS}\n\n".encode()
        if missed is None:
            begin += _snapshot(site)
        else:
            begin += b"".join(event.data for event in missed)
        try:
            await _write(response, begin)
            await _stream(site, request, client, response, query.job)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
    return response


async def _stream(site: Site, request: web.Request, client: Client, response: web.StreamResponse, job_id: str) -> None:
    told = b""
    if job_id:
        told = await _job(site, response, job_id, told)
    while not client.closed:
        if not await client.wait(HEARTBEAT_S):
            await _write(response, HEARTBEAT)
            continue
        if client.closed or not still_admitted(site, request):
            return
        if client.overrun:
            client.overrun = False
            client.take()
            await _write(response, _snapshot(site))
        else:
            await _write(response, client.take())
        if job_id:
            told = await _job(site, response, job_id, told)


async def _job(site: Site, response: web.StreamResponse, job_id: str, told: bytes) -> bytes:
    """Tell the job's details if they changed. Returns what was told last."""
    try:
        detail = site.observer.detail_json(job_id)
    except NotFound:
        return told
    if detail != told:
        await _write(response, b"event: job\ndata: " + detail + b"\n\n")
    return detail


def _snapshot(site: Site) -> bytes:
    return encoded("snapshot", site.observer.snapshot_value(), site.observer.feed.last_id)


def still_admitted(site: Site, request: web.Request) -> bool:
    """Whether the login that a stream was opened with still holds."""
    caller = caller_of(request)
    if caller.session_id:
        session = site.sessions.find(caller.session_id, site.now())
        return session is not None and (not session.token_id or not site.tokens.lapse(session.token_id))
    return not caller.token_id or not site.tokens.lapse(caller.token_id)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STALLED_S):
        await response.write(data)
