"""One copy of a replicated job on this agent, from its lease to the end of the swarm. What follows from what is decided in `book.py`.

prepare --> list the objects --> look for what is there --> inventory --> orders and reports --> finalize --> seed --> ended
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from ...common.chunks import Bundle, ChunkTable, Part
from ...common.errors import Busy, ProtocolViolation, ShoalError
from ...common.logs import get_logger
from ...common.records import AgentMessage, Failure, Lease, LeaseRef, ObjectSpec, Outcome, WorkReport
from ...common.swarm_records import ChunkProgress, PeerAddress, SwarmOrders
from ..engine.crew import Crew, Job
from ..engine.jobs import JobContext
from ..engine.memory import BufferPool
from ..engine.options import EngineOptions
from ..engine.reporting import failure_of
from ..engine.units import ListObjects, Units
from .book import Book
from .catalog import Catalog
from .errands import Errands
from .looking import NAME_ERRORS, Seen, batches, bounds_of, look
from .objects import Objects
from .peers import PeerClient
from .steps import Bring, Compute, Finish, Follow, Forget, Place, Reset, Step, Stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from ..engine.lanes import Lane

REPORT_S: Final = 0.02
"""At most one report in this time: many small chunks come together."""
TICK_S: Final = 1.0
LOOKS_AHEAD: Final = 4
LIST_RETRY_S: Final = 1.0
FINALIZE_TRIES: Final = 10

log = get_logger("agent.swarm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """What a worker lends its copies."""

    options: EngineOptions
    tasks: asyncio.TaskGroup
    disk: Crew
    hashing: Crew
    buffers: BufferPool
    clock: Callable[[], float]
    units: Units
    lane_for: Callable[[JobContext, ObjectSpec], Lane]
    bytes_turn: Callable[[str, int], Awaitable[None]]
    peers: PeerClient
    list_objects: ListObjects
    report: Callable[[WorkReport], None]
    tell: Callable[[AgentMessage], None]


class Replica:
    """Lives in the event loop; `start` begins, `stop` ends, `ended` is called when everything of it is closed."""

    def __init__(
        self,
        lease: Lease,
        context: JobContext,
        deadline: Callable[[], float],
        shop: Shop,
        *,
        news: Callable[[], None],
        ended: Callable[[Replica], None],
    ) -> None:
        """Takes over context. news: is called when something changed that a reader may wait for."""
        self.ref = LeaseRef(lease.unit, lease.token)
        self.job_id = lease.job_id
        self.context = context
        self.shop = shop
        self.peers: dict[int, PeerAddress] = {}
        self.catalog = Catalog()
        self.is_ready = False  # the inventory is known
        self.is_seed = False  # complete: the lease has ended
        self.is_over = False
        self.tasks: asyncio.TaskGroup
        self.book: Book
        self.objects: Objects
        self._deadline = deadline
        self._news = news
        self._ended = ended
        self._errands = Errands(self)
        self._task: asyncio.Task[None] | None = None
        self._report_due: asyncio.TimerHandle | None = None
        self._reported_s = float("-inf")

    # -- life

    def start(self) -> None:
        """Begin to work."""
        self._task = self.shop.tasks.create_task(self._run(), name=f"shoal-replica-{self.job_id}")

    def stop(self) -> None:
        """End everything at once; nothing is reported. Partial files and their chunk maps stay."""
        if not self.is_over:
            self.is_over = True
            if self._report_due is not None:
                self._report_due.cancel()
            assert self._task is not None
            self._task.cancel()

    def fail(self, error: BaseException) -> None:
        """No source can help: the copy as a whole fails."""
        if not self.is_over:
            if not self.is_seed:
                self._report(Outcome.FAILED, failure_of(error))
            else:
                log.warning("replica.seed_failed", job=self.job_id, error=str(error))
            self.stop()

    def forgo(self, position: int, error: ShoalError) -> None:
        """An object cannot have its name here. The rest of the copy goes on; in the end it fails with the reason."""
        log.warning("replica.object_failed", job=self.job_id, error=str(error))
        self.perform(self.book.forgo(position, failure_of(error)))

    def _object_failed(self, position: int, error: BaseException) -> None:
        if isinstance(error, NAME_ERRORS):
            self.forgo(position, error)
        else:
            self.fail(error)

    def give_back(self) -> None:
        """The agent leaves: the lease is returned."""
        if not self.is_over:
            if not self.is_seed:
                self._report(Outcome.RETURNED)
            self.stop()

    def deadline(self) -> float:
        """Until when bytes may be written. A seed has no lease that could end."""
        return float("inf") if self.is_seed else self._deadline()

    def lapsed(self) -> bool:
        """Whether nothing may be written any more."""
        return self.is_over or self.shop.clock() >= self.deadline()

    @property
    def arrived(self) -> int:
        """Bytes that are there, for people."""
        return self.book.held_bytes if self.is_ready else 0

    async def closed(self) -> None:
        """Wait until everything of it is closed."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self.tasks:
                self.tasks.create_task(self._work(), name=f"shoal-replica-work-{self.job_id}")
                await asyncio.get_running_loop().create_future()  # until `stop`
        except asyncio.CancelledError:
            if not self.is_over:
                raise
        except BaseExceptionGroup as group:  # a defect of ours costs this copy, not the agent
            if not self.is_over and not self.is_seed:
                self._report(Outcome.FAILED, failure_of(group.exceptions[0]))
        finally:
            await self._close()

    async def _close(self) -> None:
        self.is_over = True
        if self.is_ready:
            self.objects.cut_all()
        await self._errands.quiet()
        try:
            await self.context.close()
        except (ShoalError, OSError) as error:
            log.warning("replica.not_closed", job=self.job_id, error=str(error))
        self._ended(self)
        self._news()

    async def _work(self) -> None:
        try:
            await self._begin()
            while not self.is_seed:
                await asyncio.sleep(TICK_S)
                self._tell_progress()
                await self.objects.settle()
        except Exception as error:
            self.fail(error)

    # -- the beginning

    async def _begin(self) -> None:
        await self.shop.disk.run(self.context.destination.prepare).wait()
        await self._list()
        plan = self.context.spec.chunks
        if plan is None:
            raise ProtocolViolation(f"job {self.job_id}", cause="the coordinator does not say how its objects are cut")
        try:
            table = self.catalog.table(plan)
        except ValueError as error:
            raise ProtocolViolation(f"job {self.job_id}", cause=str(error)) from None
        spec = self.context.spec
        self.book = Book(table, slots=self.shop.options.download_slots, compute_all=spec.verify_everywhere)
        self.objects = Objects(
            self.context,
            self.catalog,
            tasks=self.tasks,
            transfer_of=self.shop.units.transfer_of,
            wants_digest=self.book.wants_digest,
            failed=self._object_failed,
        )
        await self._look(table)
        steps = self.book.looked()
        self.is_ready = True
        self._tell_inventory()
        self.perform(steps)
        self._news()

    async def _list(self) -> None:
        while True:
            try:
                async for page in self.shop.list_objects(self.job_id, unfinished_too=True):
                    for spec in page:
                        self.catalog.add(spec)
                return
            except ShoalError as error:
                log.warning("replica.list_failed", job=self.job_id, error=str(error))
                self.catalog = Catalog()
                await asyncio.sleep(LIST_RETRY_S)

    async def _look(self, table: ChunkTable) -> None:
        under_way: deque[tuple[list[int], Job[list[Seen]]]] = deque()  # bounded by LOOKS_AHEAD
        for positions in batches(table):
            objects = [(self.catalog[at], bounds_of(table, at)) for at in positions]
            job = self.shop.hashing.run(partial(look, self.context.destination, objects))
            under_way.append((positions, job))
            if len(under_way) == LOOKS_AHEAD:
                await self._note(table, *under_way.popleft())
        while under_way:
            await self._note(table, *under_way.popleft())

    async def _note(self, table: ChunkTable, positions: list[int], looking: Job[list[Seen]]) -> None:
        for position, seen in zip(positions, await looking.wait(), strict=True):
            spec = self.catalog[position]
            if seen.published is not None and spec.life and not spec.digest:
                continue  # it may be of an earlier life
            if seen.published is not None:
                self.objects.named(position, seen.published.digest, "")
                self.book.found_object(position)
                continue
            chunks = table.chunks_of(position)
            by_start = {part.start: chunk for chunk in chunks if isinstance(part := table.chunk(chunk), Part)}
            self.book.found_chunks({by_start[start]: digest for start, digest in seen.chunks.items()})

    # -- orders

    def admitted(self) -> None:
        """A new session stands."""
        if self.is_ready and not self.is_over:
            steps = self.book.readmit()
            self.peers.clear()
            self.perform(steps)
            self._tell_inventory()

    def _tell_inventory(self) -> None:
        lives = self.catalog.lives(self.book.table.large)
        self.shop.tell(self.book.inventory(self.job_id, self.ref.token, lives))

    def obey(self, orders: SwarmOrders) -> None:
        """Do what the swarm wants."""
        if self.is_over or orders.token != self.ref.token:
            return
        if orders.ended:
            self.stop()
            return
        if self.is_ready:
            self.peers.update((peer.number, peer) for peer in orders.peers)
            try:
                self.perform(self.book.obey(orders))
            except ShoalError as error:  # a rule of this agent forbids an object; the session is sound
                self.fail(error)
                return
            for kept in self.objects:
                kept.wake()
            self._news()

    def perform(self, steps: Iterable[Step]) -> None:
        """Do what the book decided."""
        if self.is_over:
            return
        for step in steps:
            match step:
                case Bring(order):
                    self._errands.bring(order)
                case Stop(chunk):
                    self._errands.stop(chunk)
                case Forget(chunk):
                    self._forget(chunk)
                case Reset(position, life):
                    self._reset(position, life)
                case Follow(position):
                    self.objects.follow(position)
                case Compute(position):
                    self.objects.compute(position, self._computed)
                case Place(position, order):
                    self.objects.place(position, order, self._placed)
                case Finish():
                    self.tasks.create_task(self._finish(), name=f"shoal-replica-finish-{self.job_id}")
        self._report_soon()

    def _forget(self, chunk: int) -> None:
        earlier = self._errands.forget(chunk)
        part = self.book.table.chunk(chunk)
        if not isinstance(part, Bundle):
            self.objects.forget(part.position, part.start, part.stop, earlier)

    def _reset(self, position: int, life: int | None) -> None:
        earlier = [task for chunk in self.book.table.chunks_of(position) for task in self._errands.forget(chunk)]
        self.objects.reset(position, earlier, life)

    def _computed(self, position: int, digest: str, failure: Failure | None) -> None:
        self.perform(self.book.computed(position, digest, failure))

    def _placed(self, position: int) -> None:
        self.perform(self.book.placed(position))

    def lost(self, position: int) -> None:
        """A file that was published is gone or has another size."""
        log.warning("replica.file_lost", job=self.job_id, path=self.catalog[position].path)
        self.perform(self.book.lost(position))

    # -- reports

    def _report_soon(self) -> None:
        if self.book.has_news and self._report_due is None:
            delay_s = max(0.0, self._reported_s + REPORT_S - self.shop.clock())
            self._report_due = asyncio.get_running_loop().call_later(delay_s, self._tell_news)

    def _tell_news(self, progress: Sequence[ChunkProgress] = ()) -> None:
        if self._report_due is not None:
            self._report_due.cancel()
            self._report_due = None
        self._reported_s = self.shop.clock()
        if self.book.has_news or progress:
            self.shop.tell(self.book.report(self.job_id, self.ref.token, progress))

    def _tell_progress(self) -> None:
        self._tell_news(
            [ChunkProgress(chunk=chunk, arrived=self._errands.progress(chunk)) for chunk in self.book.active]
        )

    def _report(self, outcome: Outcome, failure: Failure | None = None) -> None:
        self.shop.report(
            WorkReport(unit=self.ref.unit, token=self.ref.token, outcome=outcome, failure=failure)
        )  # fmt: skip

    # -- the end

    async def _finish(self) -> None:
        try:
            await self._errands.quiet()
            await self.objects.seal()
            await self._finalize()
            await self._unpack()
        except Exception as error:
            self.fail(error)
            return
        self._tell_news()
        if reasons := self.book.forgone:
            more = f" (and {len(reasons) - 1} more like it; everything else is there)" if len(reasons) > 1 else ""
            self._report(Outcome.FAILED, replace(reasons[0], text=reasons[0].text + more, retryable=False))
            self.stop()
            return
        self.is_seed = True
        self._report(Outcome.DONE)

    async def _finalize(self) -> None:
        for tries_left in range(FINALIZE_TRIES - 1, -1, -1):
            try:
                await self.shop.disk.run(partial(self.context.destination.finalize, self._placed_specs())).wait()
                return
            except Busy:
                if not tries_left:
                    raise
                await asyncio.sleep(TICK_S)

    async def _unpack(self) -> None:
        """Archives, where the job asks for it."""
        job = self.context.spec
        if not job.unpack:
            return
        from ..engine.archives import unpack_all

        unpack = partial(
            unpack_all,
            self.context.destination,
            job,
            self._placed_specs(),
            self.shop.options,
            cancelled=lambda: self.is_over,
            streams=self.context.streams,
        )
        await self.shop.hashing.run(unpack).wait()

    def _placed_specs(self) -> Iterator[ObjectSpec]:
        """For a thread: nothing changes any more when the copy is complete."""
        for position, spec in enumerate(self.catalog):
            if self.book.is_placed(position):
                digest, etag = self.objects.name_of(spec, position)
                yield replace(spec, digest=digest, etag=etag)
