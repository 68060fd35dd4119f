"""Embedded mode: coordinator and one agent in this process, for ``shoal get`` on one machine.

The same code as the daemons run, with three parts exchanged: messages are handed over as records instead of through gRPC, the job state
is kept in memory, and reports need no journal. All that a later run needs lies in the destination: partial files with their chunk
maps, and the manifest. This module alone imports both daemons.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import random
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..agent.journal import MemoryJournal
from ..agent.service import Agent
from ..agent.session import Identity
from ..agent.wiring import capacity, make_worker
from ..common.errors import ShoalError
from ..common.nas_records import NasCounts
from ..common.records import AgentMessage, CoordinatorMessage, Hello, ObjectSpec
from ..common.s3_signing import SignedUrl
from ..common.selection import Selection
from ..common.uri import parse_uri
from ..common.version import VERSION
from ..common.views import SubmitRequest
from ..common.wiring import s3_profiles, warn_of_open_tls
from ..coordinator.collecting import work_folder_of
from ..coordinator.questions import HubQuestions
from ..coordinator.sources import Resolved, Source, SourceRequest
from ..coordinator.store.memory import MemoryStore
from ..coordinator.store.runner import StoreRunner
from ..coordinator.wiring import make_coordinator, sources
from .copies import finish_quietly

if TYPE_CHECKING:
    from ..agent.nas.copier import Copier
    from ..common.settings import Settings
    from ..coordinator.api import AgentSession
    from ..coordinator.service import Coordinator

HEARTBEAT_S = 0.5
"""Heartbeats carry the progress that people watch; within one process they cost next to nothing."""
PAGE = 1000


class LocalLink:
    """A session without a wire."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._incoming: asyncio.Queue[CoordinatorMessage] = asyncio.Queue(100_000)
        self._session: AgentSession | None = None

    async def send(self, message: AgentMessage) -> None:
        """Hand over one message; the first is the Hello."""
        if isinstance(message, Hello):
            self._session = await self._coordinator.open_session(message, self._incoming.put_nowait, self._closed)
        else:
            assert self._session is not None, "a session begins with Hello"
            self._session.receive(message)

    async def __aiter__(self) -> AsyncIterator[CoordinatorMessage]:
        while True:
            yield await self._incoming.get()

    async def manifest_pages(self, job_id: str, *, unfinished_too: bool = False) -> AsyncIterator[Sequence[ObjectSpec]]:
        """The published objects of a job, in pages; unfinished ones as well if asked for."""
        after: int | None = 0
        while after is not None:
            page, after = await self._coordinator.manifest(job_id, after, PAGE, unfinished_too=unfinished_too)
            yield page

    async def sign_objects(self, job_id: str, object_ids: Sequence[int]) -> Sequence[SignedUrl]:
        """URLs of a job's objects that its origin accepts for a while."""
        return await self._coordinator.sign_objects(job_id, object_ids)

    async def read_document(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        """A file that the coordinator keeps for a job, block by block."""
        async for block in self._coordinator.read_document(job_id, name):
            yield block

    def _closed(self, reason: str) -> None:
        raise ShoalError("embedded session", cause=reason)


@asynccontextmanager
async def embedded(
    settings: Settings, *, finish: Callable[[Copier], Awaitable[None]] = finish_quietly
) -> AsyncGenerator[Coordinator]:
    """A coordinator with one agent at work, as long as the block runs. Leaving it gives back and stops all work.

    finish: waits for the copies on a NAS, where one is configured and the block ended well.
    """
    warn_of_open_tls(settings)
    stores = s3_profiles(settings, version=VERSION)
    async with sources(settings, version=VERSION, stores=stores) as open_source:
        store = StoreRunner(MemoryStore(), blocks=False)
        coordinator = make_coordinator(
            settings,
            store,
            open_source,
            version=VERSION,
            stores=stores,
            heartbeat_s=HEARTBEAT_S,
            user=_this_user(),
            work_folder=lambda to, profile: table_folder(settings, to, profile),
        )
        await coordinator.start()
        try:
            async with _working(settings, coordinator, finish):
                yield coordinator
        finally:
            await coordinator.close()


def _this_user() -> str:
    """The name of the user that the process runs as, or the number where it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def table_folder(settings: Settings, destination: str, profile: str) -> Path:
    """Where a table's partition is kept: beside the dataset, so that a later run finds it."""
    if destination.startswith("s3://"):
        return work_folder_of(settings.coordinator.state / "collect", destination, profile)
    return settings.agent.root / destination.lstrip("/") / ".shoal" / "table"


@asynccontextmanager
async def _working(
    settings: Settings, coordinator: Coordinator, finish: Callable[[Copier], Awaitable[None]]
) -> AsyncGenerator[None]:
    @asynccontextmanager
    async def connect() -> AsyncGenerator[LocalLink]:
        yield LocalLink(coordinator)

    # A name of its own for every run: two runs at once must not take each other for the same agent, and the chunk maps of
    # earlier runs are read whatever their name.
    agent_id = secrets.token_hex(16)
    copier = _copier(settings, agent_id)
    agent = Agent(
        identity=Identity(agent_id=agent_id, name=settings.agent.name or socket.gethostname(), version=VERSION),
        capacity=capacity(settings),
        journal=MemoryJournal(),
        connect=connect,
        rng=random.Random(),
        hub_cache=settings.hub.cache,
        copies=None if copier is None else copier.report,
    )
    worker = make_worker(
        settings,
        agent_id=agent_id,
        version=VERSION,
        report=agent.report,
        tell=agent.tell,
        list_objects=agent.manifest_pages,
        sign=agent.sign_objects,
        read_document=agent.read_document,
        exclusive=True,
        copier=copier,
    )
    async with copier or nullcontext(), worker, asyncio.TaskGroup() as tasks:
        deciding = tasks.create_task(coordinator.run())
        working = tasks.create_task(agent.run(worker))
        try:
            yield
            if copier is not None:
                await finish(copier)
        finally:
            agent.stop()
            await working
            coordinator.stop()
            await deciding


def _copier(settings: Settings, agent_id: str) -> Copier | None:
    """What copies to the NAS; None where there is none to copy to."""
    if settings.nas.path is None or not settings.nas.enabled:
        return None
    from ..agent.nas.wiring import make_copier

    return make_copier(settings, owner=agent_id)


async def planned(settings: Settings, request: SubmitRequest) -> AsyncGenerator[tuple[Resolved, Source]]:
    """The sources of a request, pinned, and what lists their objects. Fetches nothing."""
    async with sources(settings, version=VERSION) as open_source:
        for text in request.uris:
            source = open_source(
                SourceRequest(
                    uri=parse_uri(text, bare_hub=True, hub_endpoints=settings.hub.endpoint),
                    revision=request.revision,
                    selection=Selection(include=request.include, exclude=request.exclude),
                    sha256=request.sha256,
                    profile=request.profile,
                )
            )
            resolved = await source.resolve()
            yield resolved, source


def described(resolved: Resolved) -> str:
    """A pinned source for people: its URI, with the commit where there is one."""
    return f"{resolved.source} at {resolved.commit}" if resolved.commit else resolved.source


@asynccontextmanager
async def hub_questions(settings: Settings) -> AsyncGenerator[HubQuestions]:
    """What answers questions about the Hub, without a coordinator."""
    async with sources(settings, version=VERSION) as open_source:
        yield HubQuestions(open_source)


def clean_destination(folder: Path, *, older_than_s: float) -> list[str]:
    """Remove stale partial data, markers and temporary files below a destination. Returns what was removed."""
    from ..agent.storage.cleaning import clean_folder

    return clean_folder(folder, older_than_s=older_than_s)


def nas_copier(settings: Settings) -> Copier:
    """What copies finished files to the NAS, without any download. Not started yet: use it as an async context manager."""
    from ..agent.nas.wiring import make_copier

    return make_copier(settings, owner=secrets.token_hex(16))


def queue_finished(copier: Copier, folder: Path, base: str) -> None:
    """Let a copier copy what waits below a destination, and all that its manifest names."""
    from ..agent.nas.finished import queue_finished as queue

    queue(copier, folder, base)


def waiting_copies(destination: Path) -> NasCounts:
    """What waits to be copied from a destination, as its queue says."""
    from ..agent.nas.finished import waiting_in

    return waiting_in(destination)
