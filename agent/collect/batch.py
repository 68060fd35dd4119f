"""One batch: its rows are fetched, made and recorded at the same time, then become the finished files.

::

    rows ─► fetch (several at once, through the host's gate) ─► image worker ─► segment on disk ─► Parquet

What is under way is bounded by the budget that bodies are held in. A run ends with all rows settled (DONE), or, where its host must be
left alone for longer than is worth waiting for, with what it has on disk (RETURNED); the next run, of any agent, goes on from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ...common.collect_records import SUCCESS, CollectSpec, Content, HostProfile, ImageEncoding, Restart
from ...common.errors import ShoalError
from ...common.records import Outcome, Tally
from ...common.retry import Backoff
from ..engine.crew import Crew
from .answers import Failed, Fetched
from .budget import Budget, Share
from .columns import Table, values
from .fetch import Fetcher, Timing
from .footer import Footer, tally_of
from .gate import HostGate
from .image_pool import ImageJob, ImagePool, ImageResult
from .images import ImageMade, ImageOrder, ImageRefused
from .jpeg_head import plain_jpeg_size
from .place import Place, remove_folder
from .recorder import Recorder
from .results import Assembly, Old, errors_again, merged_tally, published
from .rows import RowQueue
from .segments import Entry

PATIENCE_S: Final = 5.0  # a host that is blocked for longer gives its agent's slot to another
WATCH_S: Final = 0.5
HURRY_S: Final = 2.0  # that answers may still come once the agent is to stop
TASKS_MAX: Final = 64  # for one batch; the gate allows fewer
BACKOFF: Final = Backoff(initial_s=1.0, max_s=30.0)


class LeaseLost(Exception):
    """The batch is no longer ours: nothing more is published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchResult:
    """What became of a run. fetched: bytes of bodies; tally: of all rows, where it is done."""

    outcome: Outcome
    tally: Tally = ()
    fetched: int = 0
    profile: HostProfile | None = None
    skipped: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What all batches of an agent share."""

    crew: Crew
    images: ImagePool
    budget: Budget
    gate: HostGate
    clock: Callable[[], float]
    rng: random.Random
    agent: str  # as it stands in file names
    sync: bool
    backoff: Backoff = BACKOFF
    patience_s: float = PATIENCE_S


class BatchRun:
    """One run over one batch. Lives in the event loop; cancelling `run` keeps what was recorded."""

    def __init__(
        self,
        tools: Tools,
        *,
        spec: CollectSpec,
        job: str,
        batch: str,
        host: str,
        rows: Table,
        place: Place,
        fetcher: Fetcher,
        still_ours: Callable[[], bool],
        give_up_code: int = 0,
        profiler: Callable[[Timing, Failed | None], HostProfile] | None = None,
    ) -> None:
        """batch: the path of its result; job names the run in footers; profiler: makes the host's profile of its first answer."""
        self._tools = tools
        self._spec = spec
        self._job = job
        self._batch = batch
        self._host = host
        self._rows = rows
        self._place = place
        self._fetcher = fetcher
        self._still_ours = still_ours
        self._give_up_code = give_up_code
        self._profiler = profiler
        self._profile: HostProfile | None = None
        self._order = ImageOrder.of(spec)
        self._urls: list[str] = []
        self._jobs: dict[ImageJob, Share] = {}  # with the image workers
        self._changed = asyncio.Event()
        self._stopping = False
        self._hurried = False  # somebody waits for this run to end
        self._failure: ShoalError | None = None
        self._ended = self._closed = False
        self.fetched = 0  # bytes
        self._settled: Collection[int] = ()

    @property
    def rows_done(self) -> int:
        """Rows that have ended so far, in earlier runs too."""
        return len(self._settled)

    async def run(self) -> BatchResult:
        """Do the batch. Raises ShoalError, LeaseLost."""
        there = await self._find()
        old: Old | None = None
        if there is not None:
            if self._spec.restart is Restart.FAILED and there.job != self._job:
                old = Old(there, dict(await self._tools.crew.run(self._again).wait()))
            if old is None or not old.again:
                return BatchResult(outcome=Outcome.DONE, tally=there.tally, skipped=True)
        try:
            return await self._run(old)
        except ShoalError:
            # Another agent, which lost its lease to us, may have finished it all the same, and tidied behind us.
            there = await self._find()
            if there is None or there.job != self._job:
                raise
            return BatchResult(outcome=Outcome.DONE, tally=there.tally, fetched=self.fetched, profile=self._profile)

    async def _run(self, old: Old | None) -> BatchResult:
        crew = self._tools.crew
        self._urls = values(self._rows["identifier"])
        folder = self._place.staged(self._key(old))
        self._recorder = Recorder(crew, self._place, folder, self._tools.agent, failed=self._broke)
        await self._recorder.open()
        recorded = self._recorder.recorded
        self._settled = recorded.settled
        self._queue = RowQueue(
            [row for row in self._wanted(old) if row not in recorded.settled],
            attempts=self._spec.attempts,
            backoff=self._tools.backoff,
            rng=self._tools.rng,
            tries=recorded.tries,
        )
        try:
            await self._collect()
            await self._close()
            if self._failure is not None:
                raise self._failure
            if self._queue.left:
                return BatchResult(outcome=Outcome.RETURNED, fetched=self.fetched, profile=self._profile)
            footer = await crew.run(partial(self._finish, folder, old)).wait()
        except BaseException:
            self._ended = True
            await self._close()
            raise
        return BatchResult(outcome=Outcome.DONE, tally=footer.tally, fetched=self.fetched, profile=self._profile)

    async def _close(self) -> None:
        """Nothing is made any more; what was is recorded. Safe to call twice."""
        for job, share in self._jobs.items():
            job.abandoned = True
            share.close()
        self._jobs.clear()
        if not self._closed:
            self._closed = True
            self._recorder.note_tries(self._queue.tried())
        await self._recorder.close()

    async def _find(self) -> Footer | None:
        return await self._tools.crew.run(partial(self._place.find, self._batch)).wait()

    def give_back(self) -> None:
        """Begin nothing more: `run` returns with what comes within HURRY_S recorded."""
        self._stopping = True
        self._hurried = True
        self._changed.set()

    # -- which rows

    def _again(self) -> list[tuple[str, int]]:
        return list(errors_again(self._place, self._batch, self._spec.restart_codes))

    def _wanted(self, old: Old | None) -> list[int]:
        if old is None:
            return list(range(len(self._rows)))
        uuids = values(self._rows["uuid"])
        found = [row for row, uuid in enumerate(uuids) if uuid in old.again]
        # Rows that are not in the table any more stay errors.
        here = {uuids[row] for row in found}
        for uuid in [uuid for uuid in old.again if uuid not in here]:
            del old.again[uuid]
        return found

    def _key(self, old: Old | None) -> str:
        """Names the batch's staging: what was recorded under other settings, or of other rows, must not be mixed in."""
        spec = self._spec
        words: list[object] = [self._batch, spec.content, spec.image_size, spec.image_encoding, spec.image_quality]
        words += [spec.pixels_max, spec.body_bytes_max, spec.respect_ai_opt_out, self._job if old is not None else ""]
        if self._order.wants_opencv:  # Pillow's key is what it was before there was a choice
            words.append(spec.resampler)
        digest = hashlib.sha256(repr([str(word) for word in words]).encode())
        for uuid, url in zip(values(self._rows["uuid"]), self._urls, strict=True):
            digest.update(f"{uuid}\0{url}\n".encode(errors="surrogatepass"))
        return digest.hexdigest()[:32]

    def _give_up(self) -> None:
        for row in self._queue.drain():
            retries = max(0, self._queue.settle(row) - 1)
            message = "its host was not waited for any longer"
            self._record(Entry(row, self._give_up_code, retries, message), None)

    # -- fetching

    async def _collect(self) -> None:
        """Return when every row is settled, or this run ends without."""
        if self._give_up_code:
            self._give_up()
        count = min(max(1, self._spec.connections), TASKS_MAX, self._queue.left)
        async with asyncio.TaskGroup() as tasks:
            if count and self._profiler is not None:
                await self._watch([tasks.create_task(self._fetch_first(), name=f"shoal-collect-{self._host}-first")])
            fetching = [
                tasks.create_task(self._fetch_some(), name=f"shoal-collect-{self._host}-{number}")
                for number in range(count)
            ]
            await self._watch(fetching)
        while self._jobs and self._failure is None:  # with the image workers still
            self._changed.clear()
            await self._changed.wait()

    async def _watch(self, fetching: Sequence[asyncio.Task[None]]) -> None:
        """Wait for the fetching tasks.

        When this run is to end, what waits for its host is stopped; what is just coming may come.
        """
        pending = set(fetching)
        hurried_s = float("inf")
        while pending:
            _, pending = await asyncio.wait(pending, timeout=WATCH_S, return_when=asyncio.FIRST_COMPLETED)
            blocked_s = self._tools.gate.blocked_s(self._host, self._tools.clock())
            if blocked_s > self._tools.patience_s or not self._still_ours():
                self._stopping = True
            if self._stopping:
                self._changed.set()
                if self._hurried:
                    hurried_s = min(hurried_s, self._tools.clock())
                is_late = self._tools.clock() - hurried_s > HURRY_S
                for task in pending if is_late else pending & self._fetcher.waiting:
                    task.cancel()

    async def _fetch_first(self) -> None:
        try:
            await self._fetch_one(first=True)
        except ShoalError as error:
            self._broke(error)

    async def _fetch_some(self) -> None:
        try:
            while not self._stopping and self._queue.left:
                if not await self._fetch_one():
                    await self._row_due()
        except ShoalError as error:
            self._broke(error)

    def _broke(self, error: ShoalError) -> None:
        """Something that concerns more than one row: this run ends with it."""
        self._failure = self._failure or error
        self._stopping = True
        self._changed.set()

    async def _row_due(self) -> None:
        """Wait until a row is due, or all are settled."""
        due_s = self._queue.due_s(self._tools.clock())
        self._changed.clear()
        try:
            async with asyncio.timeout(due_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _fetch_one(self, *, first: bool = False) -> bool:
        """Fetch the next row that is due; False when none is."""
        row = self._queue.take(self._tools.clock())
        if row is None:
            return False
        share = self._tools.budget.share()
        timing = Timing() if first else None
        try:
            outcome = await self._fetcher.fetch(self._urls[row], self._host, share, timing)
        except BaseException:
            share.close()
            self._queue.put_back(row)
            raise
        if timing is not None and self._profiler is not None:
            failure = outcome if isinstance(outcome, Failed) else None
            self._profile = self._profiler(timing, failure)
        if isinstance(outcome, Fetched):
            self._take(row, outcome, share)
        else:
            share.close()
            self._fail(row, outcome)
        return True

    def _fail(self, row: int, failure: Failed) -> None:
        retries = self._queue.failed(row, failure, self._tools.clock())
        if retries is not None:
            self._record(Entry(row, failure.code, retries, failure.message), None)
        self._changed.set()

    # -- making

    def _take(self, row: int, fetched: Fetched, share: Share) -> None:
        self.fetched += len(fetched.body)
        if self._spec.content is Content.ANY:
            self._settle(row, fetched, share, fetched.body)
            return
        size = plain_jpeg_size(fetched.body) if self._order.encoding is ImageEncoding.ORIGINAL else None
        if size is not None and size[0] * size[1] <= self._order.pixels_max:
            self._settle(row, fetched, share, fetched.body, size=size)
            return

        def made(result: ImageResult | ShoalError) -> None:
            self._made_one(job, row, fetched, share, result)

        job = ImageJob(fetched.body, self._order, self._spec.decode_timeout_s, made)
        self._jobs[job] = share
        self._tools.images.submit(job)

    def _made_one(
        self, job: ImageJob, row: int, fetched: Fetched, share: Share, result: ImageResult | ShoalError
    ) -> None:
        """The image workers are done with a row."""
        self._jobs.pop(job, None)
        if isinstance(result, ShoalError):
            self._broke(result)
            share.close()
            self._queue.put_back(row)
        elif isinstance(result, ImageRefused):
            share.close()
            self._fail(row, Failed(result.code, result.message))
        else:
            stored = result.stored if result.stored is not None else fetched.body
            self._settle(row, fetched, share, stored, result)
        self._changed.set()

    def _settle(
        self,
        row: int,
        fetched: Fetched,
        share: Share,
        stored: bytes | bytearray,
        made: ImageMade | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """The row is a success. Without ``made`` the bytes are as they were served, and their digest is still to come; size: of an
        image, (height, width)."""
        entry = Entry(
            row,
            SUCCESS,
            self._queue.settle(row),
            image=stored,
            content_type=fetched.content_type,
            status=fetched.status,
            etag=fetched.etag,
            robots_tag=fetched.robots_tag,
            fetched_us=fetched.fetched_us,
        )
        if made is not None:
            entry.original_md5, entry.stored_md5 = made.original_md5, made.stored_md5
            entry.original_size, entry.stored_size = made.original_size, made.stored_size
        elif size is not None:
            entry.original_size = entry.stored_size = size
        self._record(entry, share)

    def _record(self, entry: Entry, share: Share | None) -> None:
        self._recorder.add(entry, share)
        if not self._queue.left:
            self._changed.set()

    # -- the finished files, in a thread

    def _finish(self, folder: str, old: Old | None) -> Footer:
        counts = self._recorder.recorded.counts
        if old is not None:
            counts = merged_tally(old.footer, list(old.again.values()), counts)
        footer = Footer(pair=secrets.token_hex(16), job=self._job, tally=tally_of(counts))
        assembly = Assembly(
            self._place,
            self._batch,
            rows=self._rows,
            spec=self._spec,
            folder=folder,
            name=f"{self._tools.agent}-{footer.pair[:12]}",
            sync=self._tools.sync,
            old=old,
        )
        written = assembly.write(self._recorder.segments, footer)
        footer = published(self._place, footer, self._batch, folder, written, self._check)
        remove_folder(self._place.staging, folder)
        return footer

    def _check(self) -> None:
        if self._ended or not self._still_ours():
            raise LeaseLost
