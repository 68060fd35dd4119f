"""The agent's shell: carries messages between the session core, the worker and the coordinator.

Thin on purpose: what to do is decided in `session.py`, the work is done in `worker.py`; here are the tasks, the clock and the
connection. One `Agent` is one identity; the daemon and the embedded mode both run it, with another `connect`.
"""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..common.errors import AccessDenied, Conflict, NotFound, ShoalError, Unauthenticated, Unreachable, UsageError
from ..common.logs import get_logger
from ..common.nas_records import NasReport
from ..common.records import (
    AgentMessage,
    Capacity,
    CoordinatorMessage,
    HostBudget,
    HostObservation,
    JobSpec,
    Lease,
    LeaseRef,
    ObjectSpec,
    Progress,
    Result,
    WorkReport,
)
from ..common.retry import Backoff
from ..common.room import room_at
from ..common.s3_signing import SignedUrl
from ..common.swarm_records import PeerOffer, SwarmOrders
from .session import (
    Admitted,
    GiveBackHalf,
    Identity,
    Journal,
    Leave,
    Obey,
    Outlook,
    RenewShares,
    SessionCore,
    SessionEffect,
    SetBudgets,
    Settle,
    StartWork,
    StopWork,
    Tell,
)

OUTGOING_MAX = 10_000
"""Messages that wait for the coordinator; reports are bounded by the credit, so more means that the coordinator is stuck."""
DISK_EVERY_S = 15.0
POLL_S = 0.5
"""How often the worker is asked whether a host wants to be left alone: that news cannot wait for a heartbeat."""
FATAL = (Unauthenticated, AccessDenied, UsageError, Conflict)
"""Refusals that only a person can put right. After all else, an error inside gRPC or the coordinator too, the agent tries again."""
DRAIN_GRACE_S = 10.0
LINK_CLOSE_S = 5.0

log = get_logger("agent")


class Link(Protocol):
    """An open session with the coordinator."""

    async def send(self, message: AgentMessage) -> None:
        """Send; raises ShoalError if the connection is broken."""
        ...

    def __aiter__(self) -> AsyncIterator[CoordinatorMessage]:
        """What the coordinator says, until the connection ends."""
        ...

    def manifest_pages(self, job_id: str, *, unfinished_too: bool = False) -> AsyncIterator[Sequence[ObjectSpec]]:
        """The published objects of a job, in pages; unfinished ones as well if asked for, but none that failed for good."""
        ...

    async def sign_objects(self, job_id: str, object_ids: Sequence[int]) -> Sequence[SignedUrl]:
        """URLs of a job's objects that its origin accepts for a while."""
        ...

    def read_document(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        """A file that the coordinator keeps for a job, block by block."""
        ...


class Budgeted(Protocol):
    """What keeps to the shares of hosts' budgets; see `throttle.py`."""

    urgent: Callable[[], None]

    @property
    def obeyed(self) -> int: ...
    @property
    def is_pressing(self) -> bool: ...
    def set_budgets(self, budgets: Sequence[HostBudget], now: float, version: int) -> None: ...
    def renewed(self, until: float, now: float, *, anew: bool) -> None: ...
    def versions(self, now: float) -> tuple[int, int]: ...
    def take_observations(self) -> tuple[HostObservation, ...]: ...


class Worker(Protocol):
    """What does the work; see `worker.py`."""

    def start(self, lease: Lease, job: JobSpec, deadline: Callable[[], float]) -> None: ...
    def stop(self, ref: LeaseRef) -> None: ...
    def give_back(self, ref: LeaseRef) -> None: ...
    @property
    def throttle(self) -> Budgeted: ...
    def admitted(self) -> None: ...
    def obey(self, orders: SwarmOrders) -> None: ...
    def progress(self) -> tuple[Progress, ...]: ...
    async def drain(self, grace_s: float) -> None: ...


class Exchange(Protocol):
    """How this agent serves its peers; see `exchange.py`."""

    @property
    def offer(self) -> PeerOffer: ...
    @property
    def sent_bytes(self) -> int: ...
    def admitted(self, key: bytes, epoch_s: float) -> None: ...


class ResultJournal(Protocol):
    """Where unacknowledged reports are kept; see `journal.py`."""

    @property
    def pending(self) -> dict[int, Result]: ...
    def put(self, results: Iterable[Result]) -> None: ...
    def drop(self, seqs: Iterable[int]) -> None: ...


class Agent:
    """One agent: reconnects for ever, until it is told to stop."""

    def __init__(
        self,
        *,
        identity: Identity,
        capacity: Capacity,
        journal: ResultJournal,
        connect: Callable[[], AbstractAsyncContextManager[Link]],
        rng: random.Random,
        hub_cache: Path,
        home: Path | None = None,
        clock: Callable[[], float] | None = None,
        exchange: Exchange | None = None,
        copies: Callable[[], NasReport | None] | None = None,
    ) -> None:
        """Args: connect opens a session with the coordinator; hub_cache is this agent's Hub cache, for jobs that name no other;
        home is the folder whose file system the fleet is shown, the Hub cache unless given; clock is the running loop's unless
        given, in seconds; exchange is this agent's part in the exchange between peers; copies tells how copies on a NAS are doing."""
        self._clock = clock or asyncio.get_running_loop().time
        self._exchange = exchange
        self._copies = copies
        self._session = SessionCore(identity, capacity, unreported=dict(journal.pending))
        self._journal = journal
        self._connect = connect
        self._backoff = Backoff(initial_s=0.5, max_s=15.0)
        self._rng = rng
        self._hub_cache = str(hub_cache)
        self._home = home or hub_cache
        self._disk = (0, 0)
        self._worker: Worker | None = None
        self._link: Link | None = None
        self._outgoing: asyncio.Queue[AgentMessage] = asyncio.Queue(OUTGOING_MAX)
        self._reports: list[WorkReport] = []
        self._flush_due = False
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._recalled = False  # the coordinator restarts: this session is over, the next one comes soon
        self.connected = asyncio.Event()

    def report(self, report: WorkReport) -> None:
        """The worker's callback. Reports of one turn of the loop travel together."""
        self._reports.append(report)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def tell(self, message: AgentMessage) -> None:
        """The worker's word on a swarm. Without a session it is lost: the next one begins with all that is held."""
        if self._session.welcomed:
            self._outgoing.put_nowait(message)

    async def manifest_pages(self, job_id: str, *, unfinished_too: bool = False) -> AsyncIterator[Sequence[ObjectSpec]]:
        """The published objects of a job, as the coordinator knows them; unfinished ones as well if asked for."""
        if self._link is None:
            raise ShoalError("manifest", cause="the coordinator is not connected")
        async for page in self._link.manifest_pages(job_id, unfinished_too=unfinished_too):
            yield page

    async def sign_objects(self, job_id: str, object_ids: Sequence[int]) -> Sequence[SignedUrl]:
        """URLs of a job's objects that its origin accepts for a while; while the coordinator is away, this waits."""
        while True:
            await self.connected.wait()
            try:
                if self._link is not None:
                    return await self._link.sign_objects(job_id, object_ids)
            except Unreachable as error:
                log.debug("agent.signing_waits", job=job_id, error=str(error))
            await asyncio.sleep(POLL_S)

    async def read_document(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        """A file that the coordinator keeps for a job, block by block. Raises ShoalError, Unreachable while it is away."""
        if self._link is None:
            raise Unreachable("coordinator", cause=f"it is not connected: {name} of job {job_id} cannot be read")
        async for block in self._link.read_document(job_id, name):
            yield block

    def stop(self) -> None:
        """Begin to drain: work is given back, then `run` returns."""
        self._stopping.set()

    @property
    def held(self) -> int:
        """How many leases are held now."""
        return len(self._session.held)

    async def run(self, worker: Worker) -> None:
        """Work until `stop`. Raises what the worker raises if it breaks."""
        self._worker = worker
        worker.throttle.urgent = self._wake.set
        self._session.peer = self._exchange.offer if self._exchange is not None else None
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            async with asyncio.TaskGroup() as tasks:
                main = [tasks.create_task(self._keep_connected()), tasks.create_task(self._keep_time())]
                main.append(tasks.create_task(self._watch_disk()))
                await asyncio.wait([stopped, *main], return_when=asyncio.FIRST_COMPLETED)
                if self._stopping.is_set():
                    await self._drain(worker)
                for task in main:
                    task.cancel()
        finally:
            stopped.cancel()

    # ---- connection -------------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        failures, said = 0, ""
        while True:
            try:
                async with self._connect() as link:
                    log.debug("agent.connected")
                    await self._converse(link)
                    failures = 0
            except ShoalError as error:
                failures = 1 if self.connected.is_set() else failures + 1
                if failures == 1 or str(error) != said:
                    said = str(error)
                    log.warning("agent.disconnected", error=str(error))
                if isinstance(error, FATAL):
                    raise
            finally:
                self._link = None
                self.connected.clear()
                self._perform(self._session.closed())
            await asyncio.sleep(self._backoff.delay_s(max(1, failures), self._rng))

    async def _converse(self, link: Link) -> None:
        """One session: send and receive until the connection ends."""
        while not self._outgoing.empty():  # meant for the session before; reports are in the hello again
            self._outgoing.get_nowait()
            self._outgoing.task_done()
        self._recalled = False
        assert self._worker is not None
        self._perform(self._session.open(self._clock(), self._worker.throttle.obeyed))
        self._link = link
        self._wake.set()
        writer = asyncio.ensure_future(self._write(link))
        try:
            async for message in link:
                self._perform(self._session.receive(message, self._clock()))
                if self._recalled:
                    return  # without a Goodbye: the leases stay ours, and the work goes on
                if self._worker.throttle.is_pressing:
                    self._wake.set()
                if self._session.welcomed and not self.connected.is_set():
                    self.connected.set()
                    self._wake.set()
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, link: Link) -> None:
        while True:
            message = await self._outgoing.get()
            try:
                await link.send(message)
            finally:
                self._outgoing.task_done()

    # ---- time -------------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        assert self._worker is not None
        while True:
            now = self._clock()
            if self._worker.throttle.is_pressing:
                self._session.hasten(now)
            self._tick(now)
            delay_s = min(POLL_S, max(0.0, self._session.next_wakeup(now) - now))
            try:
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()
                self._wake.clear()
            except TimeoutError:
                pass

    async def _watch_disk(self) -> None:
        """Look at the disk now and then, in a thread: a heartbeat must not wait for a file system that hangs."""
        while True:
            with suppress(NotFound):
                room = await asyncio.to_thread(room_at, self._home)
                self._disk = (room.free_bytes, room.total_bytes)
            await asyncio.sleep(DISK_EVERY_S)

    def _tick(self, now: float) -> None:
        assert self._worker is not None
        outlook = Outlook()
        if self._session.beat_is_due(now):
            obeyed, lapsed = self._worker.throttle.versions(now)
            outlook = Outlook(
                progress=self._worker.progress(),
                hosts=self._worker.throttle.take_observations(),
                budgets_version=obeyed,
                lapsed_version=lapsed,
                disk=self._disk,
                memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                sent=self._exchange.sent_bytes if self._exchange is not None else 0,
                nas=self._copies() if self._copies is not None else None,
            )
        self._perform(self._session.tick(now, outlook))

    # ---- effects ----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        reports, self._reports = self._reports, []
        self._perform(self._session.report(reports))

    def _perform(self, effects: Iterable[SessionEffect]) -> None:
        assert self._worker is not None
        for effect in effects:
            match effect:
                case StartWork(lease, job):
                    ref = LeaseRef(lease.unit, lease.token)
                    placed = job if job.destination else replace(job, destination=self._hub_cache)
                    self._worker.start(lease, placed, lambda ref=ref: self._session.deadline(ref))
                case StopWork(ref):
                    self._worker.stop(ref)
                case GiveBackHalf(ref):
                    self._worker.give_back(ref)
                case SetBudgets(budgets, version):
                    self._worker.throttle.set_budgets(budgets, self._clock(), version)
                case RenewShares(until, anew):
                    self._worker.throttle.renewed(until, self._clock(), anew=anew)
                case Journal(results):
                    self._keep(lambda: self._journal.put(results))
                case Settle(seqs):
                    self._keep(lambda: self._journal.drop(seqs))
                case Tell(message):
                    self._outgoing.put_nowait(message)
                case Admitted(peer_key, epoch_s):
                    if self._exchange is not None:
                        self._exchange.admitted(peer_key, epoch_s)
                    self._worker.admitted()
                case Obey(orders):
                    self._worker.obey(orders)
                case Leave(reason, reconnect):
                    log.info("agent.asked_to_drain", reason=reason, reconnect=reconnect)
                    if reconnect:
                        self._recalled = True
                    else:
                        self.stop()

    def _keep(self, write: Callable[[], None]) -> None:
        """The journal saves work after a kill, no more: a full disk must not keep reports from being sent."""
        try:
            write()
        except OSError as error:
            log.error("journal.not_written", error=str(error))

    async def _drain(self, worker: Worker) -> None:
        """Give everything back, say goodbye, and wait until both are on the wire."""
        await worker.drain(DRAIN_GRACE_S)
        self._flush()
        if self._session.welcomed:
            self._perform(self._session.goodbye("draining"))
            try:
                async with asyncio.timeout(LINK_CLOSE_S):
                    await self._outgoing.join()
            except TimeoutError:
                log.warning("agent.goodbye_unsent")
