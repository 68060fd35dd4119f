"""The HTTP clients of a worker, and a lane for each origin that it fetches from."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.records import JobSpec, ObjectSpec, OriginKind
from .lanes import Lane
from .options import EngineOptions

if TYPE_CHECKING:
    from ...common.http import HttpClient
    from .jobs import JobContext
    from .pieces import Piece

Fetch = Callable[["Piece"], Awaitable[None]]


class Origins:
    """Owns the clients; the lanes' tasks belong to the task group."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        tasks: asyncio.TaskGroup,
        clock: Callable[[], float],
        fetch_web: Fetch,
        fetch_local: Fetch,
    ) -> None:
        """fetch_web, fetch_local: bring a piece over HTTP, and from a file of this machine."""
        self._options = options
        self._tasks = tasks
        self._clock = clock
        self._fetch_web = fetch_web
        self._fetch_local = fetch_local
        self._clients: dict[tuple[bool, Path | None], HttpClient] = {}  # by TLS settings
        self._lanes: dict[str, Lane] = {}

    def client_for(self, job: JobSpec) -> HttpClient:
        """The client with the TLS settings of the job's origin: the Hub (and where it redirects to) has its own, so have stores."""
        options = self._options
        tls = options.verify_tls, options.ca_bundle
        if job.origin is OriginKind.HUB:
            tls = options.hub_verify_tls, options.hub_ca_bundle
        elif job.origin is OriginKind.S3:
            tls = options.s3_tls.get(job.profile.lower(), tls)
        client = self._clients.get(tls)
        if client is None:
            client = self._clients[tls] = _make_client(options, *tls)
        return client

    def lane_for(self, job: JobContext, spec: ObjectSpec) -> Lane:
        """The lane of the host that the object is first asked for at."""
        local = job.spec.origin is OriginKind.FILE
        if local:
            key = "file:"
        elif spec.url.startswith("/"):
            key = job.endpoints.hosts[job.endpoints.bases[0]]
        else:
            key = spec.url.split("/", 3)[2]
        lane = self._lanes.get(key)
        if lane is None:
            fetch = self._fetch_local if local else self._fetch_web
            lane = self._lanes[key] = Lane(self._options.policy, tasks=self._tasks, clock=self._clock, fetch=fetch)
        return lane

    def tend(self) -> None:
        """Drop stalled connections, and start streams for what has become worth one."""
        for lane in self._lanes.values():
            lane.drop_stalled()
            lane.kick()

    def close_lanes(self) -> None:
        """Drop every connection that fetches, and begin none any more."""
        for lane in self._lanes.values():
            lane.close()

    async def aclose(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            await client.aclose()


def _make_client(options: EngineOptions, verify: bool, bundle: Path | None) -> HttpClient:
    from ...common.http import HttpClient, HttpLimits, TlsOptions, proxies_for

    return HttpClient(
        limits=HttpLimits(
            connections_per_host=options.connections_per_host,
            connect_timeout_s=options.connect_timeout_s,
            read_timeout_s=options.read_timeout_s,
        ),
        user_agent=options.user_agent,
        tls=TlsOptions(verify=verify, ca_bundle=str(bundle or "")),
        proxies=proxies_for(options.proxy, os.environ),
        https_only=options.rules.is_https_only,
        check_host=options.rules.check_denied_host,
    )
