"""Builds a coordinator from settings: for the daemon and for the embedded mode."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ..common.errors import Refused
from ..common.policy import policy_of
from ..common.uri import HubUri
from ..common.wiring import http_client, hub_token, s3_profiles
from .collecting import Collections, work_folder_of
from .core import CoreLimits
from .quotas import Quotas, SiteRules
from .scheduler.hosts import EVERY_HOST
from .scheduler.spread import SpreadLimits
from .scheduler.swarm import SwarmLimits
from .service import Coordinator
from .signing import UrlSigner
from .sources import Source, SourceContext, SourceRequest, open_source

if TYPE_CHECKING:
    from ..common.s3_profiles import S3Profiles
    from ..common.settings import Settings
    from .collecting import WorkFolder
    from .host_policies import HostPolicy
    from .planner import OpenSource
    from .store.runner import StoreRunner


@asynccontextmanager
async def sources(
    settings: Settings,
    *,
    version: str,
    live: Callable[[], Settings] | None = None,
    stores: S3Profiles | None = None,
) -> AsyncGenerator[OpenSource]:
    """What opens sources, with the HTTP clients behind it.

    live: the settings in force, for what can change (`common.reloading`); stores: shared with whoever signs, if anybody does.
    """
    current = live or (lambda: settings)
    async with AsyncExitStack() as stack:
        contexts: dict[bool, SourceContext] = {}
        s3 = stores or s3_profiles(settings, version=version)

        def context(*, hub: bool) -> SourceContext:
            if hub not in contexts:
                http = http_client(settings, os.environ, hub=hub, version=version, live=current)
                stack.push_async_exit(http)
                contexts[hub] = SourceContext(
                    http=http,
                    hub_endpoints=tuple(endpoint.rstrip("/") for endpoint in settings.hub.endpoint),
                    hub_token=hub_token(current),
                    clock=time.time,
                    sleep=asyncio.sleep,
                    rng=random.Random(),
                    s3=s3,
                )
            return contexts[hub]

        def open_one(request: SourceRequest) -> Source:
            hub = isinstance(request.uri, HubUri)
            if hub and settings.hub.offline:
                raise Refused(request.uri.canonical(), cause="hub.offline is set", remedy="unset HF_HUB_OFFLINE")
            return open_source(request, replace(context(hub=hub), policy=policy_of(current())))

        yield open_one


def core_limits(settings: Settings, *, heartbeat_s: float | None = None) -> CoreLimits:
    """The core's limits from settings."""
    return CoreLimits(
        lease_ttl_s=settings.coordinator.lease_ttl,
        heartbeat_s=settings.coordinator.heartbeat if heartbeat_s is None else heartbeat_s,
        attempts=settings.fetch.attempts,
        spread=SpreadLimits(fixed_range=settings.fetch.chunk_size or 0),
        swarm=SwarmLimits(
            origin_flows_max=settings.swarm.origin_connections,
            origin_flows_min=min(SwarmLimits().origin_flows_min, settings.swarm.origin_connections),
        ),
    )


def host_policies_of(settings: Settings) -> dict[str, HostPolicy]:
    """Limits of hosts, as the configuration has them."""
    return {
        EVERY_HOST: (settings.fetch.request_rate, 0.0, 0),
        **{name: (host.rate, 0.0, host.connections) for name, host in settings.hosts.items()},
    }


def site_rules_of(settings: Settings, *, user: str = "") -> SiteRules:
    """What may be fetched, and how much of it, as the configuration has it."""
    quota = settings.quota
    return SiteRules(
        user=user,
        policy=policy_of(settings),
        quotas=Quotas(bytes=quota.bytes, jobs=quota.jobs, period_s=quota.period),
    )


def make_coordinator(
    settings: Settings,
    store: StoreRunner,
    open_one: OpenSource,
    *,
    version: str,
    stores: S3Profiles,
    heartbeat_s: float | None = None,
    work_folder: WorkFolder | None = None,
    user: str = "",
) -> Coordinator:
    """A coordinator that is not started yet.

    stores: shared with ``open_one``, because each of them reads all that botocore knows of stores; work_folder: of partitioned
    tables; those of the settings unless given.
    """
    tables = settings.coordinator.tables or settings.coordinator.state / "collect"
    return Coordinator(
        store,
        open_source=open_one,
        new_id=lambda: secrets.token_hex(4),
        wall_clock=time.time,
        endpoints=tuple(settings.hub.endpoint),
        version=version,
        signer=UrlSigner(stores),
        limits=core_limits(settings, heartbeat_s=heartbeat_s),
        host_policies=host_policies_of(settings),
        chunk_bytes=settings.swarm.chunk_size,
        verify_everywhere=settings.swarm.verify == "every-agent",
        collections=Collections(
            store,
            work_folder=work_folder or (lambda to, profile: work_folder_of(tables, to, profile)),
            dataset_of=lambda to: None if "://" in to else settings.agent.root / to.lstrip("/"),
            policy=policy_of(settings),
            wall_clock=time.time,
        ),
        site=site_rules_of(settings, user=user),
    )
