"""The coordinator's shell: feeds events to the core, carries out its effects, answers questions.

The order is what keeps the promises: events change the core at once; then, in one turn, the core assigns work, the rows are
written and committed, and only then the messages go out. So nothing is granted or acknowledged that a restart would forget.
Implements `api.CoordinatorApi` for the gRPC services and the embedded mode alike.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from ..common.errors import Conflict, UsageError
from ..common.logs import get_logger
from ..common.records import AgentMessage, Goodbye, Hello, ObjectSpec, Results
from ..common.views import (
    AgentView,
    Control,
    FleetView,
    HostView,
    JobView,
    ObjectStatus,
    ObjectView,
    QueueView,
    SubmitRequest,
    Submitted,
    TotalsView,
)
from .api import AgentSession, Close, JobFilter, Send
from .backup import backup_blocks
from .collecting import Collections, refuse_second
from .core import Core, CoreLimits
from .effects import Effects, LoadBatches, LoadTable, PutAgent, PutJob
from .host_policies import HostPolicy, set_policies
from .identities import IdentityBook
from .model import JobStatus
from .notices import tell_of_hosts, warn_of_bad_chunks, warn_of_unshared
from .peering import Peering
from .planner import OpenSource, Planner, job_rows
from .quotas import SiteRules
from .reading import Meter, Reader
from .restoring import held_again
from .sessions import OpenSession, Session
from .signing import SignedUrl, UrlSigner
from .store.base import Cursor
from .store.order import cursor_after
from .store.runner import StoreRunner
from .tables import load_table, manifest_page, object_rows
from .tokens import TokenBook

LOAD_MAX = 4096
"""Objects read from the store at a time: bounds the memory that a job takes, whatever its size."""
WATCH_S = 0.5
TURN_S = 1.0
"""Longest pause between turns: objects that wait for their next attempt have no event of their own."""

log = get_logger("coordinator")


class Coordinator:
    """One coordinator. Use: ``await start()``, ``run()`` in a task, calls of the API, ``stop()``."""

    def __init__(
        self,
        store: StoreRunner,
        *,
        open_source: OpenSource,
        new_id: Callable[[], str],
        wall_clock: Callable[[], float],
        endpoints: tuple[str, ...],
        version: str,
        limits: CoreLimits | None = None,
        host_policies: Mapping[str, HostPolicy] | None = None,
        chunk_bytes: int | None = None,
        verify_everywhere: bool = False,
        signer: UrlSigner | None = None,
        collections: Collections,
        site: SiteRules | None = None,
    ) -> None:
        """Args: store is not opened yet; new_id makes job ids; wall_clock gives seconds since the epoch, for people;
        host_policies are limits by host, as the configuration has them: an administrator's word replaces them."""
        self._store = store
        self._limits = limits or CoreLimits()
        self._open_source = open_source
        self._new_id = new_id
        self._wall_clock = wall_clock
        self._endpoints = endpoints
        self._version = version
        self._host_policies = host_policies or {}
        self._chunk_bytes = chunk_bytes
        self._verify_everywhere = verify_everywhere
        self._signer = signer or UrlSigner()
        self._collections = collections
        self._site = site or SiteRules()
        self._sessions: dict[str, Session] = {}
        self._cursors: dict[str, Cursor] = {}
        self._wake = asyncio.Event()
        self._committed: asyncio.Event = asyncio.Event()
        self._ended: dict[str, asyncio.Event] = {}
        self._to_plan: list[str] = []
        self._planning: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self.warnings: tuple[str, ...] = ()  # what needs somebody's attention, for people

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def start(self) -> None:
        """Open the state and take up what an earlier incarnation left. Raises Busy, StateDamaged, UsageError."""
        run, store = self._store.run, self._store.store
        incarnation = await run(store.open)
        self.core = core = Core(incarnation=incarnation, limits=self._limits)
        now = self._now()
        fetched_by = await run(store.fetched_by)
        for row in await run(store.jobs):
            core.add_job(row, fetched_by.get(row.job_id))
            if row.status is JobStatus.PLANNING:
                self._to_plan.append(row.job_id)
        for lease in await run(store.leases):
            found = await run(store.get_object, lease.object_id) if lease.object_id else None
            spec = found.spec if found and found.status is ObjectStatus.QUEUED else None
            core.restore_lease(held_again(lease, now=now, ttl_s=self._limits.lease_ttl_s), spec)
        await set_policies(core, self._store, self._host_policies, before={})
        known: list[PutAgent] = await run(store.agents)
        self._reader = Reader(core, known, version=self._version, started_at=now)
        self._meter = Meter()
        self._peering = Peering(core.jobs, self._wall_clock)
        self._planner = Planner(
            core,
            self._store,
            self._open_source,
            self._now,
            collections=self._collections,
            chunk_bytes=self._chunk_bytes,
            verify_everywhere=self._verify_everywhere,
            site=self._site,
            wall_clock=self._wall_clock,
        )
        self.tokens = TokenBook(self._store, self._wall_clock)
        await self.tokens.load()
        self.identities = IdentityBook(self._store, self.tokens)
        await self.identities.load()
        log.info("coordinator.started", incarnation=incarnation, jobs=len(core.jobs))

    async def run(self) -> None:
        """Work until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._collections.watch_ignored(self.core))
            while not self._stopping:
                for job_id in self._to_plan:
                    self._planning[job_id] = tasks.create_task(self._plan(job_id))
                self._to_plan.clear()
                await self._turn()
                delay_s = min(TURN_S, self.core.next_wakeup(self._now()) - self._now())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, delay_s)):
                        await self._wake.wait()
                self._wake.clear()
            for task in (watching, *self._planning.values()):  # a listing that is cut off begins anew at the next start
                task.cancel()

    def stop(self) -> None:
        """Let `run` return after the turn that is under way."""
        self._stopping = True
        self._wake.set()

    async def close(self) -> None:
        """Write what is left and close the state."""
        await self._carry_out(self.core.take_effects())
        await self._store.close()

    # ---- turns ------------------------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        while True:
            now = self._now()
            self.core.tick(now)
            self.core.assign(now)
            tell_of_hosts(self.core, now)
            effects = self.core.take_effects()
            self._meter.sample(self.core, now)
            # Before the first wait: what comes while these are written is in the next effects, and waits for those.
            committed, self._committed = self._committed, asyncio.Event()
            if effects:
                await self._carry_out(effects)
            committed.set()
            if not effects:
                break

    async def _carry_out(self, effects: Effects) -> None:
        # Messages are for the sessions of this moment: what was granted in one must not reach the next one of the same agent.
        addressees = [self._sessions.get(send.agent_id) for send in effects.sends]
        for job_id in effects.ended_jobs:
            self.core.jobs[job_id].row.ended_at = self._wall_clock()
        for write in effects.writes:
            if isinstance(write, PutJob) and write.row.status.ended:
                write.row.ended_at = self.core.jobs[write.row.job_id].row.ended_at
            elif isinstance(write, PutAgent):
                self._reader.known[write.agent_id] = write
        if effects.writes:
            await self._store.run(self._store.store.apply, effects.writes)
        for load in effects.loads:
            if isinstance(load, LoadTable):
                self.core.table_loaded(load.job_id, await load_table(self._store, load.job_id))
            elif isinstance(load, LoadBatches):
                self.core.batches_loaded(load.job_id, *await self._collections.load(load.job_id))
            else:
                await self._load(load.job_id, restart=load.restart)
        for send, session in zip(effects.sends, addressees, strict=True):
            if session is not None and self._sessions.get(send.agent_id) is session:
                session.send(self._peering.complete(send.agent_id, send.message))
        warn_of_bad_chunks(self.core, effects.bad_chunks)
        for job_id in effects.ended_jobs:
            self._peering.forget(job_id)
            self._collections.forget(job_id)
            row = self.core.jobs[job_id].row
            log.info("job.ended", job=job_id, status=row.status.value, done=row.objects_done, failed=row.objects_failed)
            self._ended.pop(job_id, asyncio.Event()).set()

    async def _load(self, job_id: str, *, restart: bool) -> None:
        after = None if restart else self._cursors.get(job_id)
        loaded = await self._store.run(self._store.store.queued_objects, job_id, after, LOAD_MAX)
        if loaded:
            self._cursors[job_id] = cursor_after(loaded[-1][0])
        self.core.objects_loaded(job_id, loaded, more=len(loaded) == LOAD_MAX)

    async def _durable(self) -> None:
        """Wait until what the core knows now is on disk."""
        event = self._committed
        self._wake.set()
        await event.wait()

    async def _plan(self, job_id: str) -> None:
        try:
            await self._planner.plan(job_id)
        finally:
            if self._planning.get(job_id) is asyncio.current_task():
                del self._planning[job_id]
            self._wake.set()

    # ---- API: jobs --------------------------------------------------------------------------------------------------

    async def submit(self, request: SubmitRequest, *, user: str = "") -> list[Submitted]:
        rows = job_rows(request, created_at=self._wall_clock(), new_id=self._new_id, endpoints=self._endpoints)
        active = {job.row.fingerprint: job.row for job in self.core.jobs.values() if not job.row.status.ended}
        submitted: list[tuple[str, bool]] = []
        fresh = sum(row.fingerprint not in active for row in rows)
        known = (job.row for job in self.core.jobs.values())
        self._site.quotas.check_jobs(user or self._site.user, known, self._wall_clock(), more=fresh)
        for row in rows:
            row.user = user or self._site.user
            before = active.get(row.fingerprint)
            if before is None:
                refuse_second(row, active.values())
                self.core.add_job(row)
                self.core.jobs[row.job_id].changed = True
                self._to_plan.append(row.job_id)
            submitted.append(((before or row).job_id, before is None))
        await self._durable()
        return [Submitted(job=self._view(job_id), created=created) for job_id, created in submitted]

    def get_job(self, job_id_or_uri: str, *, active: bool = True) -> JobView:
        job_id = self._reader.find_job(job_id_or_uri)
        return self._reader.job(job_id, self._meter.rate(job_id), active=active)

    def job_ids(self) -> list[str]:
        return self._reader.job_ids(limit=len(self.core.jobs), after="")

    def list_jobs(self, *, limit: int, after: str, wanted: JobFilter | None = None) -> list[JobView]:
        return [self._view(job_id) for job_id in self._reader.job_ids(limit=limit, after=after, wanted=wanted)]

    async def watch_job(self, job_id: str) -> AsyncIterator[JobView]:
        job_id = self._reader.find_job(job_id)
        while True:
            view = self.get_job(job_id)
            yield view
            if view.ended:
                return
            ended = self._ended.setdefault(job_id, asyncio.Event())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await ended.wait()

    async def list_objects(self, job_id: str, *, status: str, after_id: int, limit: int) -> list[ObjectView]:
        job_id = self._reader.find_job(job_id)
        rows = await object_rows(self._store, job_id, status=status, after_id=after_id, limit=limit)
        return [self._reader.object(row) for row in rows]

    async def control(self, job_id: str, action: Control) -> JobView:
        job_id = self._reader.find_job(job_id)
        status = self.core.jobs[job_id].row.status
        match action:
            case Control.RETRY if status in (JobStatus.FAILED, JobStatus.CANCELLED):
                refuse_second(self.core.jobs[job_id].row, (job.row for job in self.core.jobs.values()))
                self.core.retry(job_id)
                if self.core.jobs[job_id].row.status is JobStatus.PLANNING:
                    self._to_plan.append(job_id)
            case Control.RETRY:
                raise Conflict(f"job {job_id}", cause=f"it is {status.value}, so there is nothing to retry")
            case _ if status.ended:
                raise Conflict(
                    f"job {job_id}", cause=f"it has ended ({status.value})", remedy="shoal retry brings it back"
                )
            case Control.PAUSE:
                self.core.pause(job_id)
            case Control.RESUME:
                self.core.resume(job_id)
            case Control.CANCEL:
                self.core.cancel(job_id)
                if job_id in self._planning:  # else a retry would list beside it, and mix the pages
                    self._planning[job_id].cancel()
        await self._durable()
        return self._view(job_id)

    async def set_priority(self, job_id: str, priority: int) -> JobView:
        job = self.core.jobs[self._reader.find_job(job_id)]
        if job.row.status.ended:
            raise Conflict(f"job {job.row.job_id}", cause=f"it has ended ({job.row.status.value})")
        job.row.priority, job.changed = priority, True
        await self._durable()
        return self._view(job.row.job_id)

    # ---- API: fleet -------------------------------------------------------------------------------------------------

    def agents(self) -> list[AgentView]:
        return self._reader.agents(self._now())

    async def drain_agent(self, agent: str) -> None:
        self.core.drain_agent(self._reader.find_agent(agent))
        self._wake.set()

    def queue(self) -> list[QueueView]:
        return self._reader.queue()

    def hosts(self) -> list[HostView]:
        return self._reader.hosts(self._now())

    async def set_host_policy(
        self, host: str, requests_per_s: float, bytes_per_s: float, connections: int = 0
    ) -> HostView:
        try:
            self.core.set_host_policy(host.lower(), requests_per_s, bytes_per_s, self._now(), connections)
        except ValueError as error:
            raise UsageError(f"host {host}", cause=str(error)) from None
        await self._durable()
        return next(view for view in self.hosts() if view.host == host.lower())

    async def configure(self, host_policies: Mapping[str, HostPolicy], site: SiteRules) -> None:
        """Take up another configuration: limits of hosts, and the site's rules for what is listed from now on."""
        before, self._host_policies = self._host_policies, host_policies
        await set_policies(self.core, self._store, host_policies, before=before)
        self._site = self._planner.site = site
        self._collections.policy = site.policy
        self._wake.set()

    def fleet(self) -> FleetView:
        view = self._reader.fleet(self._now(), self._meter.total_rate(), self._wall_clock())
        return replace(view, warnings=self.warnings)

    def totals(self) -> TotalsView:
        return self._reader.totals()

    # ---- API: sessions ----------------------------------------------------------------------------------------------

    async def open_session(self, hello: Hello, send: Send, close: Close) -> AgentSession:
        before = self._sessions.pop(hello.agent_id, None)
        if before is not None:
            before.close("a newer session of the same agent was opened")
        session = Session(send, close)
        self._sessions[hello.agent_id] = session
        self.core.receive(hello.agent_id, hello, self._now())
        self._wake.set()
        log.info("agent.joined", agent=hello.name, held=len(hello.held), unreported=len(hello.results))
        return OpenSession(self, hello.agent_id, session)

    def received(self, agent_id: str, session: Session, message: AgentMessage) -> None:
        """A message of an open session; those of sessions that were replaced are dropped."""
        if self._sessions.get(agent_id) is session:
            if isinstance(message, Results):
                warn_of_unshared(self.core, agent_id, message.results)
            self.core.receive(agent_id, message, self._now())
            if isinstance(message, Goodbye):
                del self._sessions[agent_id]
                log.info("agent.left", agent=self.core.agents[agent_id].name, reason=message.reason)
            self._wake.set()

    def lost(self, agent_id: str, session: Session) -> None:
        """A session ended without goodbye."""
        if self._sessions.get(agent_id) is session:
            del self._sessions[agent_id]
            self.core.disconnected(agent_id, self._now())
            log.warning("agent.lost", agent=self.core.agents[agent_id].name)
            self._wake.set()

    async def manifest(
        self, job_id: str, after_id: int, limit: int, *, unfinished_too: bool = False
    ) -> tuple[list[ObjectSpec], int | None]:
        job_id = self._reader.find_job(job_id)
        return await manifest_page(self._store, job_id, after_id, limit, unfinished_too=unfinished_too)

    async def read_document(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        job = self.core.jobs[self._reader.find_job(job_id)]
        async for block in self._collections.read(self.core, job, name, self._now()):
            yield block

    async def sign_objects(self, job_id: str, object_ids: Sequence[int]) -> list[SignedUrl]:
        return await self._signer.sign_objects(self._store, self.core.jobs[self._reader.find_job(job_id)], object_ids)

    async def backup(self) -> AsyncIterator[bytes]:
        async for block in backup_blocks(self._store):
            yield block

    def _view(self, job_id: str) -> JobView:
        return self._reader.job(job_id, self._meter.rate(job_id), active=False)
