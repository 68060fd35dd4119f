"""The range engine's front: it does the work that leases name, and reports it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from ..common.errors import ShoalError
from ..common.records import (
    AgentMessage,
    JobSpec,
    Lease,
    LeaseRef,
    ObjectSpec,
    Progress,
    UnitKind,
    WorkReport,
)
from ..common.swarm_records import SwarmOrders
from .backends import Backends
from .collect.documents import ReadDocument
from .collect.options import CollectOptions
from .dataset_leases import DatasetLeases
from .engine.admission import Admission
from .engine.crew import Crew
from .engine.files import FileFetcher
from .engine.holding import Holding
from .engine.jobs import JobContext, JobTable, open_destination
from .engine.lanes import Lane
from .engine.memory import BufferPool
from .engine.options import REPORT_S, TICK_S, EngineOptions
from .engine.origins import Origins
from .engine.reporting import failed, not_taken, released, report_grown, returned
from .engine.rules import check_job
from .engine.signatures import Sign
from .engine.streams import Fetcher
from .engine.turns import Turns
from .engine.units import Lapsed, ListObjects, Units
from .engine.waiting import either
from .swarm.peers import PeerClient
from .swarm.replica import Shop
from .swarm.replicas import Replicas
from .throttle import Throttle

if TYPE_CHECKING:
    from ..common.secrets import Secret
    from .storage.destination import Destination

__all__ = ["EngineOptions", "WorkReport", "Worker"]


class Worker:
    """Works on leases; an async context manager that owns its tasks, threads, connections and files.

    All methods are called in the event loop that it was entered in.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        report: Callable[[WorkReport], None],
        tell: Callable[[AgentMessage], None] = lambda message: None,
        list_objects: ListObjects,
        hub_token: Callable[[], Secret | None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        make_destination: Callable[[JobSpec], Destination] | None = None,
        sign: Sign | None = None,
        read_document: ReadDocument | None = None,
        collect: CollectOptions | None = None,
    ) -> None:
        """report: is called in the loop with each report, in order; tell with what is said of swarms. clock: seconds; that of the
        deadlines, so the loop's own. read_document: a file that the coordinator keeps for a job, block by block."""
        self._options = options
        self._report = report
        self._tell = tell
        self._list_objects = list_objects
        self._hub_token = hub_token
        self._sign = sign
        self._read_document = read_document
        self._collect = collect or CollectOptions(engine=options)
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()
        self._make_destination = make_destination or partial(open_destination, options)
        self._throttle = Throttle(rate_limit=options.rate_limit, clock=clock)
        self._holdings: dict[LeaseRef, Holding] = {}
        self._jobs = JobTable(self._new_job)
        self._busy = asyncio.Event()
        self._left = asyncio.Event()
        self._hurry = asyncio.Event()
        self._draining = False

    # -- life

    async def __aenter__(self) -> Worker:
        self._disk = Crew("disk", self._options.io_threads)
        self._hashing = Crew("hash", self._options.hash_threads)
        self._unpacking = Turns(self._options)
        self._buffers = BufferPool(self._options.memory_limit, buffer_bytes=self._options.buffer_bytes)
        self._units = Units(
            self._options,
            disk=self._disk,
            hashing=self._hashing,
            buffers=self._buffers,
            clock=self._clock,
            lane_for=self._lane_for,
            list_objects=self._list_objects,
            fill=Backends(self._options).fill,
            finished=self._finished,
        )
        fetcher = Fetcher(
            self._options,
            throttle=self._throttle,
            buffers=self._buffers,
            clock=self._clock,
            wall_clock=self._wall_clock,
            rng=self._rng,
            deliver_small=self._units.publish_small,
        )
        files = FileFetcher(
            disk=self._disk, buffers=self._buffers, clock=self._clock, deliver_small=self._units.publish_small
        )
        self._tasks = asyncio.TaskGroup()
        self._origins = Origins(
            self._options, tasks=self._tasks, clock=self._clock, fetch_web=fetcher.fetch, fetch_local=files.fetch
        )
        self._admission = Admission(
            disk=self._disk, tasks=self._tasks, units=self._units, begin=self._begin, finished=self._finished, clock=self._clock
        )  # fmt: skip
        self._replicas = Replicas(self._shop(), self._new_job)
        self.shelf = self._replicas.shelf
        self._collector = DatasetLeases(
            self._collect,
            tasks=self._tasks,
            throttle=self._throttle,
            read_document=self._read_document,
            report=self._report,
            clock=self._clock,
            wall_clock=self._wall_clock,
            rng=self._rng,
        )
        await self._tasks.__aenter__()
        self._ticker = self._tasks.create_task(self._tick(), name="shoal-worker-tick")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for holding in list(self._holdings.values()):
            self._end(holding)
        self._origins.close_lanes()
        self._ticker.cancel()
        try:
            await self._replicas.aclose()
            await self._collector.aclose()
            await self._tasks.__aexit__(None, None, None)
        finally:
            await self._jobs.close()
            await self._disk.idle()
            await self._origins.aclose()
            await self._disk.aclose()
            await self._hashing.aclose()
            await self._unpacking.aclose()

    # -- leases

    def start(self, lease: Lease, job: JobSpec, deadline: Callable[[], float]) -> None:
        """Begin to work on a lease; never blocks.

        deadline: when, on the worker's clock, the lease ends unless it is renewed; no byte is written after it.
        """
        ref = LeaseRef(lease.unit, lease.token)
        if ref in self._holdings:
            return
        if self._draining:
            self._report(not_taken(ref))
            return
        if job.collect is not None or job.tool is not None:
            self._collector.start(lease, job, deadline)
            return
        if lease.kind is UnitKind.REPLICA:
            self._replicas.start(lease, job, deadline)
            self._busy.set()
            return
        try:
            context = self._jobs.get(job)
        except ShoalError as error:
            self._report(not_taken(ref, error))
            return
        holding = Holding(lease, context, deadline)
        self._holdings[ref] = holding
        self._busy.set()
        if lease.kind is UnitKind.WHOLE:
            self._admission.add(holding)
        else:
            self._begin(holding)

    def stop(self, ref: LeaseRef) -> None:
        """The lease is no longer ours: stop now, report nothing."""
        holding = self._holdings.get(ref)
        if holding is not None:
            self._end(holding)
        else:
            self._replicas.stop(ref)
            self._collector.stop(ref)

    def give_back(self, ref: LeaseRef) -> None:
        """Others are idle: release what has not been started of the lease and about half of what is under way."""
        self._collector.give_back(ref)
        holding = self._holdings.get(ref)
        if holding is None or holding.committing:
            return
        if holding.lease.kind is UnitKind.RANGE:
            self._release_range(holding)
        fetching = holding.lane is not None and holding.lane.planner.is_active(holding)
        if holding.lease.kind is UnitKind.WHOLE and not holding.arrived and not fetching:
            self._give_up(holding)

    def admitted(self) -> None:
        """A new session with the coordinator stands."""
        self._replicas.admitted()

    def obey(self, orders: SwarmOrders) -> None:
        """A swarm wants something of this agent's copy."""
        self._replicas.obey(orders)

    @property
    def held(self) -> tuple[LeaseRef, ...]:
        """The leases that are being worked on."""
        return (*self._holdings, *self._replicas.held, *self._collector.held)

    def progress(self) -> tuple[Progress, ...]:
        """How far each lease with bytes is, for people."""
        working = [(ref, holding.arrived) for ref, holding in self._holdings.items() if holding.arrived]
        own = (Progress(ref.unit, ref.token, arrived) for ref, arrived in working)
        return (*own, *self._replicas.progress(), *self._collector.progress())

    @property
    def throttle(self) -> Throttle:
        """What holds its requests to the fleet's budgets."""
        return self._throttle

    async def drain(self, grace_s: float) -> None:
        """Give everything back: RETURNED reports, with what is on disk. Files that are just getting their name may still get it.

        grace_s: how long to wait for those, in seconds. A second call ends the wait of the first.
        """
        if self._draining:
            self._hurry.set()
        self._draining = True
        self._replicas.give_back()
        collecting = self._tasks.create_task(self._collector.drain(grace_s), name="shoal-collect-drain")
        for holding in list(self._holdings.values()):
            if not holding.committing:
                await self._return(holding)
        try:
            async with asyncio.timeout(grace_s):
                while self._holdings and not self._hurry.is_set():
                    self._left.clear()
                    await either(self._left, self._hurry)
        except TimeoutError:
            pass
        for holding in list(self._holdings.values()):
            await self._return(holding)
        if self._hurry.is_set():
            collecting.cancel()
        await asyncio.wait([collecting])

    # -- how

    def _begin(self, holding: Holding) -> None:
        holding.task = self._tasks.create_task(
            self._work(holding), name=f"shoal-{holding.lease.kind}-{holding.ref.unit}"
        )

    async def _work(self, holding: Holding) -> None:
        try:
            self._finished(holding, await self._units.run(holding))
        except Exception as error:
            await self._settle_failed(holding)
            self._finished(holding, error)

    async def _settle_failed(self, holding: Holding) -> None:
        if holding.lane is not None:
            holding.lane.remove(holding)
        if holding.transfer is not None and holding.transfer.is_open and holding.unreported:
            await holding.transfer.quiet()
            try:
                await holding.transfer.settle()
            except ShoalError:
                holding.unreported.clear()

    def _finished(self, holding: Holding, result: WorkReport | BaseException) -> None:
        """The lease's work is over."""
        if holding.ended:
            return
        if holding.heard is not None:
            self._end(holding, task_too=False)
            holding.heard(result)
            return
        if isinstance(result, WorkReport):
            self._report(result)
            if holding.lease.kind is UnitKind.FINALIZE:
                self._jobs.retire(holding.job)
        elif not isinstance(result, Lapsed):
            self._report(failed(holding, result))
        self._end(holding, task_too=False)

    def _end(self, holding: Holding, *, task_too: bool = True) -> None:
        """Forget the lease. Nothing is written or reported for it any more."""
        holding.ended = True
        self._holdings.pop(holding.ref, None)
        if holding.claimed:
            holding.job.destination.let_go(holding.spec)
        if holding.lane is not None:
            holding.lane.remove(holding)
        if task_too and holding.task is not None:
            holding.task.cancel()
        transfer = holding.transfer
        if transfer is not None:
            if holding in transfer.holdings:
                transfer.holdings.remove(holding)
            if not transfer.is_open and not transfer.holdings:
                holding.job.transfers.pop(transfer.spec.object_id, None)
        self._left.set()

    async def _return(self, holding: Holding) -> None:
        """Stop work on the lease and report RETURNED with what is on disk."""
        if holding.lane is not None:
            holding.lane.remove(holding)
        if holding.task is not None:
            holding.task.cancel()
        await self._settle_failed(holding)
        self._give_up(holding)

    def _give_up(self, holding: Holding) -> None:
        if holding.ended:
            return
        self._report(returned(holding))
        self._end(holding)

    def _release_range(self, holding: Holding) -> None:
        if holding.lane is None:  # not begun
            self._give_up(holding)
            return
        given = holding.lane.planner.release(holding)
        for start, stop in given:
            holding.want.remove(start, stop)
        if given:
            self._report(released(holding, given))
            if not holding.want:
                holding.complete()

    # -- time

    async def _tick(self) -> None:
        """Now and then: report what has come, look for stalled connections, start what has become worth it."""
        reported_s = self._clock()
        while True:
            await self._busy.wait()
            await asyncio.sleep(TICK_S)
            self._origins.tend()
            if self._clock() - reported_s >= REPORT_S:
                reported_s = self._clock()
                await report_grown(self._holdings.values(), self._report)
                await self._jobs.close_idle({holding.job for holding in self._holdings.values()}, self._clock())
            if not self._holdings and not self._jobs and not self._replicas:
                self._busy.clear()

    # -- what leases share

    def _new_job(self, spec: JobSpec) -> JobContext:
        check_job(self._options.rules.policy, spec)
        destination = self._make_destination(spec)
        return JobContext(
            spec,
            destination=destination,
            client=self._origins.client_for(spec),
            disk=self._disk,
            hub_token=self._hub_token,
            now=self._clock(),
            sign=self._sign,
            clock=self._clock,
            streams=self._unpacking.streams(spec, destination),
        )

    def _lane_for(self, job: JobContext, spec: ObjectSpec) -> Lane:
        return self._origins.lane_for(job, spec)

    def _shop(self) -> Shop:
        options = self._options
        return Shop(
            options=options,
            tasks=self._tasks,
            disk=self._disk,
            hashing=self._hashing,
            buffers=self._buffers,
            clock=self._clock,
            units=self._units,
            lane_for=self._origins.lane_for,
            bytes_turn=self._throttle.bytes_turn,
            peers=PeerClient(user_agent=options.user_agent, ca_bundle=str(options.peer_ca_bundle or "")),
            list_objects=self._list_objects,
            report=self._report,
            tell=self._tell,
        )
