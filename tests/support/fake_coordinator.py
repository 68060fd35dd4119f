"""A coordinator that answers from memory and writes down what it was told: the real gRPC server runs on top of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from shoal.common.errors import Conflict, NotFound, UsageError
from shoal.common.records import AgentMessage, Goodbye, Hello, LeaseRef, ObjectSpec, Welcome
from shoal.common.settings_table import SecuritySettings
from shoal.common.views import (
    ActiveObjectView,
    AgentStatus,
    AgentView,
    Control,
    FleetView,
    HostView,
    JobStatus,
    JobView,
    NewToken,
    ObjectStatus,
    ObjectView,
    QueueView,
    Role,
    SubmitRequest,
    Submitted,
    TokenView,
)
from shoal.coordinator.api import AgentSession, Close, Send
from shoal.coordinator.identities import IdentityBook
from shoal.coordinator.server import CoordinatorServer
from shoal.coordinator.store.memory import MemoryStore
from shoal.coordinator.store.runner import StoreRunner
from shoal.coordinator.tokens import TokenBook

NOW = 1_700_000_000.0


@dataclass(slots=True, eq=False)
class FakeSession:
    """One agent's session, as the coordinator sees it."""

    hello: Hello
    send: Send
    close: Close
    log: list[str]
    received: list[AgentMessage] = field(default_factory=list[AgentMessage])
    over: asyncio.Event = field(default_factory=asyncio.Event)  # lost, or left
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, message: AgentMessage) -> None:
        self.received.append(message)
        self.log.append(f"{type(message).__name__.lower()} {self.hello.name}")
        self.news.set()
        if isinstance(message, Goodbye):
            self.over.set()

    def lost(self) -> None:
        self.log.append(f"lost {self.hello.name}")
        self.over.set()

    async def until_received(self, count: int) -> None:
        """Wait until so many messages have arrived."""
        while len(self.received) < count:
            self.news.clear()
            await self.news.wait()


class FakeCoordinator:
    """Implements `coordinator.api.CoordinatorApi`."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobView] = {}
        self.objects: list[ObjectView] = []
        self.requests: list[SubmitRequest] = []
        self.sessions: list[FakeSession] = []
        self.opened = asyncio.Event()
        self.log: list[str] = []
        self.host = HostView(host="hub.example.org", requests_per_s=5)
        self.changed = asyncio.Event()  # a job that somebody watches
        self.unwatched = asyncio.Event()
        self.drained: list[str] = []
        self.defect: Exception | None = None
        self.now = NOW
        store = StoreRunner(MemoryStore(clock=lambda: self.now), blocks=False)
        self.tokens = TokenBook(store, lambda: self.now)
        self.identities = IdentityBook(store, self.tokens)

    def add_job(self, job_id: str, **fields: object) -> JobView:
        """A running job."""
        view = JobView(job_id=job_id, uri=f"hf://acme/{job_id}", status=JobStatus.RUNNING, created_at=NOW)
        self.jobs[job_id] = replace(view, **fields)  # type: ignore[arg-type]
        return self.jobs[job_id]

    # ---- the API

    async def submit(self, request: SubmitRequest, *, user: str = "") -> list[Submitted]:
        self.requests.append(request)
        return [
            Submitted(job=self.add_job(f"j{len(self.jobs) + 1}", uri=uri, name=request.name), created=True)
            for uri in request.uris
        ]

    def get_job(self, job_id_or_uri: str) -> JobView:
        if self.defect is not None:
            raise self.defect
        if job_id_or_uri not in self.jobs:
            raise NotFound(f"job {job_id_or_uri}", cause="there is none", remedy="shoal jobs lists them")
        active = ActiveObjectView(object_id=1, path="a.bin", size=10, done_bytes=4, agents=("n1",), done=((0, 4),))
        return replace(self.jobs[job_id_or_uri], active=(active,))

    def list_jobs(self, *, limit: int, after: str) -> list[JobView]:
        ids = sorted(self.jobs, reverse=True)
        start = ids.index(after) + 1 if after else 0
        return [self.jobs[job_id] for job_id in ids[start : start + limit]]

    async def watch_job(self, job_id: str) -> AsyncIterator[JobView]:
        try:
            yield self.get_job(job_id)
            await self.changed.wait()
            yield self.jobs[job_id]
        finally:
            self.unwatched.set()

    async def list_objects(self, job_id: str, *, status: str, after_id: int, limit: int) -> list[ObjectView]:
        self.get_job(job_id)
        fitting = (o for o in self.objects if o.object_id > after_id and status in ("", o.status))
        return [obj for _, obj in zip(range(limit), fitting)]

    async def control(self, job_id: str, action: Control) -> JobView:
        job = self.get_job(job_id)
        if job.ended and action is not Control.RETRY:
            raise Conflict(f"job {job_id}", cause=f"it is {job.status}")
        match action:
            case Control.PAUSE | Control.RESUME:
                job = replace(job, paused=action is Control.PAUSE)
            case Control.CANCEL:
                job = replace(job, status=JobStatus.CANCELLED)
            case Control.RETRY:
                job = replace(job, status=JobStatus.RUNNING)
        self.jobs[job_id] = job
        return job

    def agents(self) -> list[AgentView]:
        return [
            AgentView(
                agent_id=session.hello.agent_id,
                name=session.hello.name,
                status=AgentStatus.LOST if session.over.is_set() else AgentStatus.ALIVE,
                capacity=session.hello.capacity,
            )
            for session in self.sessions
        ]

    async def drain_agent(self, agent: str) -> None:
        self.drained.append(agent)

    def queue(self) -> list[QueueView]:
        return [QueueView(job_id=job.job_id, uri=job.uri, status=job.status) for job in self.jobs.values()]

    def hosts(self) -> list[HostView]:
        return [self.host]

    async def set_host_policy(
        self, host: str, requests_per_s: float, bytes_per_s: float, connections: int = 0
    ) -> HostView:
        if host != self.host.host:
            raise UsageError(f"host {host}", cause="not known")
        self.host = replace(self.host, requests_per_s=requests_per_s, bytes_per_s=bytes_per_s, connections=connections)
        return self.host

    def fleet(self) -> FleetView:
        return FleetView(version="1.2.3", incarnation=7, uptime_s=1.5, jobs_active=len(self.jobs))

    async def open_session(self, hello: Hello, send: Send, close: Close) -> AgentSession:
        self.log.append(f"hello {hello.name}")
        session = FakeSession(hello, send, close, self.log)
        self.sessions.append(session)
        self.opened.set()
        send(Welcome(incarnation=7, heartbeat_s=5.0, lease_ttl_s=30.0, fenced=(LeaseRef("o1", 2),)))
        return session

    async def manifest(
        self, job_id: str, after_id: int, limit: int, *, unfinished_too: bool = False
    ) -> tuple[list[ObjectSpec], int | None]:
        status = "" if unfinished_too else ObjectStatus.DONE
        page = await self.list_objects(job_id, status=status, after_id=after_id, limit=limit)
        specs = [ObjectSpec(object_id=obj.object_id, path=obj.path, size=obj.size) for obj in page]
        return specs, specs[-1].object_id if len(specs) == limit else None

    async def create_token(self, role: Role, name: str, expires_s: float | None) -> NewToken:
        return await self.tokens.create(role, name, expires_s)

    async def list_tokens(self) -> list[TokenView]:
        return self.tokens.list()

    async def revoke_token(self, token_id: str) -> None:
        await self.tokens.revoke(token_id)

    async def backup(self) -> AsyncIterator[bytes]:
        for block in (b"one", b"two"):
            yield block

    def fail_with(self, error: Exception) -> None:
        """Break every question about a job from now on."""
        self.defect = error


@asynccontextmanager
async def serving(
    api: FakeCoordinator, *, listen: str = "127.0.0.1:0", security: SecuritySettings | None = None
) -> AsyncIterator[CoordinatorServer]:
    """A real gRPC server on the fake."""
    server = CoordinatorServer(
        api, listen=listen, security=security or SecuritySettings(), tokens=api.tokens, identities=api.identities
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.0)
