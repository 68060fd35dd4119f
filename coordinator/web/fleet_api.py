"""The fleet: status, agents, hosts, queue, speed; health."""

from __future__ import annotations

from aiohttp import web

from ...common.views import HostView
from .models import Agents, Health, History, HostBody, Hosts, QueuedJobs, Status
from .routing import Routes
from .site import Site

routes = Routes("fleet")


@routes.get("/api/status", summary="The whole fleet in one look", answer=Status)
async def get_status(site: Site) -> bytes:
    """As of the last tick, at most about a second ago. Costs the coordinator nothing: ask as often as you like."""
    return site.observer.status_json()


@routes.get("/api/history", summary="Speed of the fleet over time")
async def fleet_history(site: Site) -> History:
    return site.observer.histories.fleet.history()


@routes.get("/api/agents", summary="All agents")
async def list_agents(site: Site) -> Agents:
    return Agents(agents=tuple(site.api.agents()))


@routes.post(
    "/api/agents/{agent}/drain", summary="Let an agent finish what it holds and leave", status=204, errors=(409,)
)
async def drain_agent(site: Site, *, agent: str) -> None:
    await site.api.drain_agent(agent)


@routes.get("/api/queue", summary="Jobs that have not ended, in the order of service")
async def get_queue(site: Site) -> QueuedJobs:
    return QueuedJobs(jobs=tuple(site.api.queue()))


@routes.get("/api/hosts", summary="Origin hosts and their budgets")
async def list_hosts(site: Site) -> Hosts:
    return Hosts(hosts=tuple(site.api.hosts()))


@routes.post("/api/hosts/{host}/rate", summary="Limit the whole fleet at a host, from now on and after restarts")
async def set_host_rate(site: Site, *, host: str, body: HostBody) -> HostView:
    known = next((view for view in site.api.hosts() if view.host == host.lower()), HostView(host=host.lower()))
    return await site.api.set_host_policy(
        host,
        known.requests_per_s if body.requests_per_s is None else body.requests_per_s,
        known.bytes_per_s if body.bytes_per_s is None else body.bytes_per_s,
        known.connections if body.connections is None else body.connections,
    )


@routes.get("/metrics", summary="Metrics for Prometheus", content_type="text/plain")
async def get_metrics(site: Site) -> web.StreamResponse:
    """Text exposition format. Where a login is needed, Prometheus sends an admin token as bearer_token."""
    from .metrics import exposition

    body, content_type = exposition(site.observer)
    return web.Response(body=body, headers={"Content-Type": content_type})


@routes.get("/healthz", summary="Whether the coordinator works", public=True)
async def healthz(site: Site) -> Health:
    """Needs no login and tells no secrets."""
    return Health(status="ok")
