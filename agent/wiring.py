"""Builds an agent's parts from settings: for the daemon and for the embedded mode."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..common.policy import RulesInForce, policy_of
from ..common.records import AgentMessage, Capacity, JobSpec, WorkReport
from ..common.wiring import hub_token, s3_profiles, user_agent
from .collect.documents import ReadDocument
from .collect.options import CollectOptions
from .engine.jobs import open_destination
from .engine.options import EngineOptions
from .engine.pieces import PiecePolicy
from .engine.signatures import Sign
from .engine.units import ListObjects
from .storage.destination import Destination
from .worker import Worker

if TYPE_CHECKING:
    from ..common.settings import Settings
    from .nas.copier import Copier

BUFFER_SHARE = 4
"""The buffers get this fraction (one in so many) of `agent.memory_limit`: the rest is for the interpreter and the bookkeeping."""
MIB = 1 << 20


def engine_options(
    settings: Settings, *, agent_id: str, version: str, is_alone: bool = False, rules: RulesInForce | None = None
) -> EngineOptions:
    """The range engine's options. is_alone: no other agent works on this one's jobs; rules: those of the settings unless given."""
    connections = settings.fetch.connections_per_host
    return EngineOptions(
        agent_id=agent_id,
        is_alone=is_alone,
        root=settings.agent.root,
        allow_paths=settings.agent.allow_paths,
        lock_expiry_s=settings.fetch.lock_expiry,
        sync=settings.fetch.sync,
        places=settings.library.state if settings.library.places else None,
        connections_per_host=connections,
        rate_limit=settings.fetch.rate_limit,
        memory_limit=max(16 * MIB, settings.agent.memory_limit // BUFFER_SHARE),
        piece_bytes=settings.fetch.chunk_size,
        transient_retries=settings.fetch.transient_retries,
        connect_timeout_s=settings.fetch.connect_timeout,
        read_timeout_s=settings.fetch.read_timeout,
        verify_tls=settings.fetch.verify_tls,
        ca_bundle=settings.fetch.ca_bundle,
        proxy=settings.fetch.proxy,
        rules=rules or RulesInForce(policy_of(settings)),
        hub_verify_tls=settings.hub.verify_tls,
        hub_ca_bundle=settings.hub.ca_bundle,
        s3_tls={
            name: (store.verify_tls, store.ca_bundle)
            for name, store in settings.s3.items()
            if store.ca_bundle or not store.verify_tls
        },
        user_agent=user_agent(version),
        download_slots=settings.agent.download_slots,
        peer_ca_bundle=settings.security.tls_ca,
        unpack_bytes_max=settings.fetch.unpack_bytes_max,
        unpack_ratio_max=settings.fetch.unpack_ratio_max,
        unpack_files_max=settings.fetch.unpack_files_max,
        backend=settings.hub.backend,  # pyright: ignore[reportArgumentType]  # the setting's kind allows only these
        pieces=PiecePolicy(connections=connections),
    )


def collect_options(
    settings: Settings, options: EngineOptions, *, version: str, any_tool: bool = False
) -> CollectOptions:
    """The options of what collects URL tables and runs tools. any_tool: wherever a tool's file lies, it may be loaded."""
    return CollectOptions(
        engine=options,
        memory_limit=max(32 * MIB, settings.agent.memory_limit // BUFFER_SHARE),
        image_workers=settings.collect.image_workers,
        staging=settings.agent.data / "collect",
        stores=s3_profiles(settings, version=version).store,
        tool_paths=None if any_tool else settings.tools.load_paths,
    )


def capacity(settings: Settings) -> Capacity:
    """How much the agent can hold: work for all its connections, and some to go on with while the next grants travel."""
    connections = settings.fetch.connections_per_host
    return Capacity(
        slots=connections + 1, units_max=4 * connections + 16, bytes_max=max(64 * MIB, connections * 32 * MIB)
    )


def make_worker(
    settings: Settings,
    *,
    agent_id: str,
    version: str,
    report: Callable[[WorkReport], None],
    tell: Callable[[AgentMessage], None] = lambda message: None,
    list_objects: ListObjects,
    sign: Sign | None = None,
    read_document: ReadDocument | None = None,
    exclusive: bool = False,
    live: Callable[[], Settings] | None = None,
    copier: Copier | None = None,
    rules: RulesInForce | None = None,
) -> Worker:
    """A worker that is not started yet: use it as an async context manager.

    exclusive: this is the coordinator's only agent, and both end with this process. live: the settings in force, for what can change
    (`common.reloading`). copier: hears of every finished file. rules: what may be fetched, where that can change; that of the settings
    otherwise.
    """
    options = engine_options(settings, agent_id=agent_id, version=version, is_alone=exclusive, rules=rules)

    def make_destination(job: JobSpec) -> Destination:
        destination = open_destination(options, job, placed=copier.placed if copier is not None else None)
        if copier is not None:
            copier.opened(job, destination.path)
        return destination

    return Worker(
        options,
        report=report,
        tell=tell,
        list_objects=list_objects,
        hub_token=hub_token(live or settings),
        rng=random.Random(),
        make_destination=make_destination,
        sign=sign,
        read_document=read_document,
        collect=collect_options(settings, options, version=version, any_tool=exclusive),
    )
