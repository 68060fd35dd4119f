"""Leases of dataset jobs: PREPARE makes the place, BATCH collects, FINALIZE writes what the run says of itself.

One of these is in each worker. All batches share a pool of image workers, a memory budget and a few threads; most of them wait for
their hosts most of the time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from ...common.collect_records import Content, HostProfile, Restart, batch_of_path
from ...common.dataset_rows import read_rows
from ...common.dataset_schema import OVERVIEW, PROFILES, REJECTS
from ...common.errors import NotFound, ShoalError, Unreachable
from ...common.http.url import parse_url
from ...common.logs import get_logger
from ...common.records import JobSpec, Lease, LeaseRef, Outcome, Progress, UnitKind, WorkReport
from ..engine.crew import Crew
from ..engine.reporting import failure_of, not_taken
from ..storage.workfolder import plain_name
from .answers import Failed
from .batch import BatchRun, LeaseLost, Tools
from .budget import Budget
from .columns import values
from .documents import ReadDocument, read_whole, remove_staging, write_document, write_profiles
from .fetch import Timing
from .footer import check_same
from .gate import HostGate
from .image_pool import ImagePool
from .images import ImageOrder
from .options import JOB_IDLE_S, OVERVIEW_S, THREADS, CollectOptions
from .profile import profile_of
from .side import JobSide
from .telling import batch_begun, batch_ended

ASK_AGAIN_S: Final = 1.0
MEASURE_S: Final = 30.0  # that measuring a host waits for its turn, at most
DOCUMENTS: Final = (REJECTS, PROFILES, OVERVIEW)
_URLS_LOOKED_AT: Final = 1000  # when it is said how much of a host robots.txt leaves

log = get_logger("agent.collect")


class _Run:
    """A lease in this collector's hands."""

    __slots__ = ("batch", "deadline", "ended", "job", "lease", "ref", "returning", "task")

    def __init__(self, lease: Lease, job: JobSpec, deadline: Callable[[], float]) -> None:
        self.lease = lease
        self.job = job
        self.ref = LeaseRef(lease.unit, lease.token)
        self.deadline = deadline
        self.batch: BatchRun | None = None
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self.returning = False


class Collector:
    """Works on the leases of dataset jobs; its tasks live in the worker's group. Everything is called in one event loop."""

    def __init__(
        self,
        options: CollectOptions,
        *,
        tasks: asyncio.TaskGroup,
        throttle: HostGate,
        read_document: ReadDocument | None,
        report: Callable[[WorkReport], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """read_document: a file that the coordinator keeps for a job, block by block; clock: that of the deadlines, seconds."""
        self._options = options
        self._tasks = tasks
        self._gate = throttle
        self._read_document = read_document
        self._report = report
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng
        self._runs: dict[LeaseRef, _Run] = {}
        self._sides: dict[str, JobSide] = {}
        self._batches: WeakValueDictionary[str, asyncio.Lock] = (
            WeakValueDictionary()
        )  # two runs of one batch take turns
        self._slots = asyncio.Semaphore(options.batches_max)
        self._crew: Crew | None = None
        self._tools: Tools | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()
        self._draining = False

    # -- what the worker calls

    def start(self, lease: Lease, job: JobSpec, deadline: Callable[[], float]) -> None:
        """Begin to work on a lease; never blocks."""
        run = _Run(lease, job, deadline)
        if run.ref in self._runs:
            return
        if self._draining:
            self._report(not_taken(run.ref))
            return
        self._runs[run.ref] = run
        run.task = self._tasks.create_task(self._work(run), name=f"shoal-{lease.kind}-{lease.unit}")

    def stop(self, ref: LeaseRef) -> None:
        """The lease is no longer ours: stop now, report nothing. What is recorded stays for whoever comes next."""
        run = self._runs.get(ref)
        if run is not None:
            self._end(run)

    def give_back(self, ref: LeaseRef) -> None:
        """Others are idle: give the lease back if it was not begun."""
        run = self._runs.get(ref)
        if run is not None and run.batch is None and run.lease.kind is UnitKind.BATCH:
            self._say(run, WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.RETURNED))
            self._end(run)

    @property
    def held(self) -> tuple[LeaseRef, ...]:
        """The leases that are being worked on."""
        return tuple(self._runs)

    def progress(self) -> tuple[Progress, ...]:
        """Rows of each batch that have ended, for people."""
        return tuple(
            Progress(ref.unit, ref.token, run.batch.rows_done)
            for ref, run in self._runs.items()
            if run.batch is not None and run.batch.rows_done
        )

    async def drain(self, grace_s: float) -> None:
        """Give everything back, with what is under way recorded, if that takes no longer than ``grace_s`` seconds."""
        self._draining = True
        for ref, run in list(self._runs.items()):
            run.returning = True
            if run.batch is not None:
                run.batch.give_back()
            else:
                self.give_back(ref)
        try:
            async with asyncio.timeout(grace_s):
                while self._runs:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            pass
        finally:  # also when somebody is in a hurry, and cancels this
            for ref, run in list(self._runs.items()):
                self._say(run, WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.RETURNED))
                self._end(run)

    async def aclose(self) -> None:
        """Stop everything, and close what is open."""
        for run in list(self._runs.values()):
            self._end(run)
        if self._ending:
            await asyncio.wait(self._ending)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        for side in self._sides.values():
            await self._close(side)
        self._sides.clear()
        if self._crew is not None:
            await self._crew.aclose()

    # -- how

    async def _work(self, run: _Run) -> None:
        try:
            report = await self._unit(run)
        except LeaseLost:
            report = None
        except Exception as error:
            failure = failure_of(error)
            log.info(
                "lease.failed", job=run.job.job_id, unit=run.ref.unit, kind=run.lease.kind.value, error=failure.text
            )
            report = WorkReport(unit=run.ref.unit, token=run.ref.token, outcome=Outcome.FAILED, failure=failure)
        if report is not None:
            self._say(run, report)
        self._end(run)

    async def _unit(self, run: _Run) -> WorkReport:
        """Do the lease's work. Raises ShoalError, LeaseLost."""
        async with self._side(run.job) as side:
            if run.lease.kind is UnitKind.BATCH:
                return await self._batch(run, side)
            crew = self._shared().crew
            if run.lease.kind is UnitKind.PREPARE:
                await crew.run(side.place.prepare).wait()
            elif run.lease.kind is UnitKind.FINALIZE:
                for name in DOCUMENTS:
                    await self._document(run.job, side, name)
                await crew.run(partial(remove_staging, side.place)).wait()
            else:
                raise ShoalError(f"lease of kind {run.lease.kind}", cause="a dataset job has no such units")
        return WorkReport(unit=run.ref.unit, token=run.ref.token, outcome=Outcome.DONE)

    async def _batch(self, run: _Run, side: JobSide) -> WorkReport:
        spec, lease = run.lease.object, run.lease
        if spec is None or self._read_document is None:
            raise ShoalError(f"lease {lease.unit}", cause="it names no batch, or nobody can read it here")
        host, _ = batch_of_path(spec.path)
        before = self._batches.setdefault(
            f"{run.job.job_id} {spec.path}", asyncio.Lock()
        )  # kept as long as one holds it
        async with before, self._slots:
            tools = self._shared()
            there = await tools.crew.run(partial(side.place.find, spec.path)).wait()
            if there is not None and spec.size is not None:
                check_same(there, spec.path, spec.size)
            if there is not None and side.spec.restart is not Restart.FAILED:
                # Before its rows are asked for: a table that was read anew has them no more.
                measure = lease.profile and side.spec.restart is Restart.PROFILING
                return WorkReport(
                    unit=lease.unit,
                    token=lease.token,
                    outcome=Outcome.DONE,
                    tally=there.tally,
                    profile=await self._measured(run, side, host) if measure else None,
                    skipped=True,
                )
            await side.reread_ignored()
            if side.spec.content is Content.IMAGE:
                tools.images.check(ImageOrder.of(side.spec))
            rows = read_rows(await self._rows(run, f"batch/{spec.object_id}"))
            profiler: Callable[[Timing, Failed | None], HostProfile] | None = None
            if lease.profile:
                urls = values(rows["identifier"].slice(0, _URLS_LOOKED_AT))
                profiler = await self._profiler(side, host, urls)
            run.batch = BatchRun(
                tools,
                spec=side.spec,
                job=run.job.job_id,
                batch=spec.path,
                host=host,
                rows=rows,
                place=side.place,
                fetcher=side.fetcher,
                still_ours=lambda: not run.ended and self._clock() < run.deadline(),
                give_up_code=lease.give_up_code,
                profiler=profiler,
            )
            if run.returning:
                run.batch.give_back()
            began_s = self._clock()
            batch_begun(run.job, spec, host)
            result = await run.batch.run()
            batch_ended(run.job, spec, host, result, self._clock() - began_s)
        if result.outcome is Outcome.DONE and not result.skipped:
            await self._overview(run.job, side)
        async with side.overview_lock:
            pass  # one that is being written tells of a time before this batch's report: it must not come after the last one
        return WorkReport(
            unit=lease.unit,
            token=lease.token,
            outcome=result.outcome,
            fetched=result.fetched,
            tally=result.tally,
            profile=result.profile,
            skipped=result.skipped,
        )

    async def _rows(self, run: _Run, name: str) -> bytes:
        """A batch's rows; while the coordinator is away this waits, as long as the lease is ours. Raises ShoalError, LeaseLost."""
        assert self._read_document is not None
        while True:
            try:
                return await read_whole(self._read_document, run.job.job_id, name)
            except Unreachable as error:
                log.debug("collect.rows_wait", job=run.job.job_id, error=str(error))
            if self._clock() >= run.deadline():
                raise LeaseLost
            await asyncio.sleep(ASK_AGAIN_S)

    async def _profiler(
        self, side: JobSide, host: str, urls: list[str]
    ) -> Callable[[Timing, Failed | None], HostProfile]:
        """Makes the host's profile of its first answer; its robots.txt is looked at here."""
        robots, delay_s = "", 0.0
        if urls:
            try:
                rules = await side.robots.rules(parse_url(urls[0]), host)
                robots, delay_s = rules.described(urls, side.robots.product), rules.crawl_delay_s
            except ShoalError:
                robots = "unreachable"
        return lambda timing, failure: profile_of(host, timing, failure, robots=robots, crawl_delay_s=delay_s)

    async def _measured(self, run: _Run, side: JobSide, host: str) -> HostProfile | None:
        """Measure a host of which this batch was collected before; None where it cannot be asked in time, or no row is known."""
        assert run.lease.object is not None
        share = self._shared().budget.share()
        try:
            rows = read_rows(await self._rows(run, f"batch/{run.lease.object.object_id}"))
            urls = values(rows["identifier"].slice(0, _URLS_LOOKED_AT))
            timing = Timing()
            async with asyncio.timeout(MEASURE_S + side.spec.request_timeout_s):
                profiler = await self._profiler(side, host, urls)
                outcome = await side.fetcher.fetch(urls[0], host, share, timing)
        except (NotFound, TimeoutError, IndexError):
            return None
        finally:
            share.close()
        return profiler(timing, outcome if isinstance(outcome, Failed) else None)

    async def _document(self, job: JobSpec, side: JobSide, name: str) -> None:
        if self._read_document is None:
            return
        crew, sync = self._shared().crew, self._options.engine.sync
        if name == PROFILES:
            await write_profiles(side.place, crew, self._read_document, job.job_id, sync=sync)
        else:
            await write_document(side.place, crew, self._read_document, job.job_id, name, sync=sync)

    async def _overview(self, job: JobSpec, side: JobSide) -> None:
        """Refresh the overview now and then; it is for people, so that a batch is not lost over it."""
        async with side.overview_lock:
            now = self._clock()
            if now - side.overview_s < OVERVIEW_S:
                return
            side.overview_s = now
            try:
                await self._document(job, side, OVERVIEW)
            except ShoalError as error:
                log.debug("collect.no_overview", job=job.job_id, error=str(error))

    async def _keep_overview(self, job: JobSpec, side: JobSide) -> None:
        """Refresh it while batches are under way, however long they take."""
        while True:
            await asyncio.sleep(OVERVIEW_S)
            if any(run.batch is not None and run.job == job for run in self._runs.values()):
                await self._overview(job, side)

    # -- books

    def _shared(self) -> Tools:
        """What all batches share, made when it is first needed: most agents collect nothing."""
        if self._tools is None:
            self._crew = Crew("collect", THREADS)
            images = ImagePool(self._options.workers)
            self._tools = Tools(
                crew=self._crew,
                images=images,
                budget=Budget(self._options.memory_limit),
                gate=self._gate,
                clock=self._clock,
                rng=self._rng,
                agent=plain_name(self._options.engine.agent_id),
                sync=self._options.engine.sync,
            )
            self._keeping = self._tasks.create_task(images.run(), name="shoal-image-workers")
        return self._tools

    @asynccontextmanager
    async def _side(self, job: JobSpec) -> AsyncGenerator[JobSide]:
        """The job's side for the length of one lease; those that nobody used for a while are closed."""
        now = self._clock()
        for job_id, side in list(self._sides.items()):
            stale = side.job != job if job_id == job.job_id else now - side.idle_since_s > JOB_IDLE_S
            if not side.leases and stale:
                await self._close(self._sides.pop(job_id))
        side = self._sides.get(job.job_id)
        if side is None or side.job != job:
            crew = self._shared().crew
            side = JobSide(
                job, self._options, gate=self._gate, crew=crew, clock=self._clock, wall_clock=self._wall_clock
            )
            side.keeping = (
                self._tasks.create_task(side.keep_ignored(), name="shoal-collect-ignored"),
                self._tasks.create_task(self._keep_overview(job, side), name="shoal-collect-overview"),
            )
            old = self._sides.pop(job.job_id, None)
            if old is not None:
                self._sides[f"{job.job_id} {id(old)}"] = old  # closed when its last lease is over
            self._sides[job.job_id] = side
        side.leases += 1
        try:
            yield side
        finally:
            side.leases -= 1
            side.idle_since_s = self._clock()

    async def _close(self, side: JobSide) -> None:
        for task in side.keeping:
            task.cancel()
            await asyncio.wait([task])
        await side.close()

    def _say(self, run: _Run, report: WorkReport) -> None:
        if not run.ended:
            self._report(report)

    def _end(self, run: _Run) -> None:
        """Forget the lease. Nothing is published or reported for it any more."""
        run.ended = True
        self._runs.pop(run.ref, None)
        task = run.task
        if task is not None and not task.done() and task is not asyncio.current_task():
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()
        self._left.set()
