"""The threads that copy finished files to a NAS, beside the downloads and below them.

Downloads only ever append a line to the queue file, on the machine's own disk. Everything that touches a NAS happens in threads of
their own, so that one that hangs holds up nobody: what is asked of a copier from outside never waits for them, and stopping waits a
bounded time. The threads are daemons; a process may end while the system still holds one of them.
"""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ...common.buckets import TokenBucket
from ...common.errors import ShoalError
from ...common.logs import get_logger
from ...common.manifest import WORK_FOLDER, ManifestEntry
from ...common.nas_records import NasReport
from ...common.records import JobSpec
from ...common.retry import Backoff
from ..storage.layouts import work_folder
from .book import CopyBook, CopyItem
from .chores import IDLE_S, Chores
from .copying import ByteMover
from .items import item_of_job
from .mounts import Mounts
from .options import NasOptions
from .place import NasPlace
from .priority import lower_priority
from .queue_file import Outcome, QueueFile, new_queue, take_over
from .removals import Removals
from .trouble import CopyTrouble, Held, NasDown, NeverCopied, Stopped

TO_THE_END_AT = 3
"""Failures in a row after which a file makes room in memory for others."""
QUEUE_FOLDER = "nas"

log = get_logger("nas")


class Clock(Protocol):
    def __call__(self) -> float: ...


class Copier:
    """Copies what downloads have finished. An async context manager; `placed` may be called from any thread."""

    def __init__(
        self,
        options: NasOptions,
        *,
        owner: str,
        clock: Clock,
        rng: random.Random,
        queue_folder: Path | None = None,
    ) -> None:
        """owner: a plain name, for logs on the NAS. queue_folder: of the queue of all jobs; without it each destination has a queue
        of its own, in its work folder."""
        self.options = options
        self._owner = owner
        self._clock = clock
        self._queue_folder = queue_folder
        self._condition = threading.Condition()
        backoff = Backoff(
            initial_s=options.backoff_initial_s, max_s=max(options.backoff_initial_s, options.backoff_max_s)
        )
        self._book = CopyBook(backoff=backoff, rng=rng)
        self._mounts = Mounts(options.state / "nas-mounts.json", require=options.require_mount)
        self._places: dict[str, NasPlace] = {}
        self._queues: dict[str, QueueFile] = {}  # by the path of the file
        self._folders: dict[Path, QueueFile] = {}  # the one that new files are put into
        self._to_adopt: list[Path] = []
        self._adopting = 0
        self._removals = Removals(clock)
        self._bucket = TokenBucket(options.rate_limit)
        self._threads: list[threading.Thread] = []
        self._busy: dict[int, float] = {}  # thread -> when the NAS was last heard by it, while it works
        self._stopping = threading.Event()
        self._chores = Chores(
            self._condition, self._book, self._queues, self._folders, self._place, self._removals, clock
        )
        self._progress_s = clock()
        self._closed = False
        self._warned: set[str] = set()

    # ---- from outside -----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Copier:
        if self._queue_folder is not None:
            self.adopt(self._queue_folder)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: copies break off where they can, and go on in a later process. Waits at most `drain_s` for a NAS that hangs."""
        self._stopping.set()
        with self._condition:
            self._condition.notify_all()
        ends_s = self._clock() + self.options.drain_s
        while self._alive and self._clock() < ends_s:  # noqa: ASYNC110 - a thread that may hang sets no event
            await asyncio.sleep(0.01)
        if self._alive:
            log.warning("nas.left_hanging", threads=self._alive, remedy="what they copied is copied again")
        with self._condition:
            self._closed = True
            for queue in self._queues.values():
                queue.close(keep=queue.path.parent == self._queue_folder)
                _remove_empty(queue.path.parent)
            self._queues.clear()
            self._removals.close()

    @property
    def _alive(self) -> int:
        return sum(thread.is_alive() for thread in self._threads)

    def placed(self, job: JobSpec, folder: Path, base: str, name: str, entry: ManifestEntry) -> None:
        """A file has its final name: remember that it is to be copied. Never raises, never waits for the NAS."""
        try:
            nas = self.options.folder_for(job)
            if nas is None:
                return
            item = item_of_job(job, entry, self.options, nas=nas, folder=folder, base=base, name=name)
            self.put(item, self._queue_folder or queue_folder_of(folder / base))
        except (OSError, ShoalError) as error:
            self._warn("nas.not_queued", str(error), remedy="shoal nas copy DIR copies it later")
            with self._condition:
                self._book.not_queued(job.job_id, str(error))

    def adopt(self, folder: Path) -> None:
        """Go on with what earlier processes left in a queue folder, if it is there."""
        if self.options.enabled and folder.is_dir():
            with self._condition:
                self._to_adopt.append(folder)
                self._wake()

    def opened(self, job: JobSpec, destination: Path) -> None:
        """A job begins to work in a destination: go on with what earlier runs left to copy there."""
        if self._queue_folder is None:
            self.adopt(destination / work_folder(job) / QUEUE_FOLDER)

    def put(self, item: CopyItem, folder: Path) -> None:
        """Put a file into the queue of a folder. Raises OSError, StateDamaged."""
        with self._condition:
            queue = self._queue(folder)
            if any(each.inherited(item) for each in self._queues.values()):
                return
            self._book.expect(item.job_id, item.size)
            queue.put(item)
            self._wake()

    def report(self) -> NasReport | None:
        """How the copies are doing; None where there were none and are to be none."""
        with self._condition:
            if not self._book.counts() and (self.options.path is None or not self.options.enabled):
                return None
            return self._book.report(self._stalled())

    def hurry(self) -> None:
        """All jobs have ended: try at once what waits for its next try, and look for what is to be removed."""
        with self._condition:
            self._book.hurry(self._clock())
            self._removals.hurry()
            self._condition.notify_all()

    @property
    def quiet_s(self) -> float:
        """For how long nothing has come of anything: no byte moved, no file done."""
        return self._clock() - self._progress_s

    @property
    def unfinished(self) -> bool:
        """Whether something is still to be copied, removed or noted."""
        with self._condition:
            return (
                self._book.report().total.unfinished
                or self._book.running > 0
                or self._chores.under_way
                or bool(self._to_adopt)
                or self._adopting > 0
                or any(place.records.unmerged for place in self._places.values())
            )

    # ---- the queue --------------------------------------------------------------------------------------------------

    def _queue(self, folder: Path) -> QueueFile:
        """The queue that new files of a folder are put into; the condition is held."""
        if self._closed:
            raise OSError(f"the copies to the NAS have ended: {folder}")
        queue = self._folders.get(folder)
        if queue is None:
            folder.mkdir(parents=True, exist_ok=True)
            queue = self._folders[folder] = new_queue(folder)
            self._queues[str(queue.path)] = queue
        return queue

    def _wake(self) -> None:
        """There is work: the condition is held. Threads begin with the first of it."""
        if not self._threads and not self._stopping.is_set():
            for number in range(self.options.threads):
                thread = threading.Thread(target=self._work, args=(number,), name=f"shoal-nas-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._condition.notify()

    # ---- the threads ------------------------------------------------------------------------------------------------

    def _work(self, number: int) -> None:
        lower_priority()
        mover = ByteMover(self.options.buffer_bytes, pace=lambda count: self._pace(number, count), clock=self._clock)
        while not self._stopping.is_set():
            item, chores = self._next(number)
            try:
                if item is not None:
                    self._copy(item, mover)
                elif chores:
                    self._progressed(self._chores.run(self._places, self._sleep, self._warn))
            except Exception as error:  # a defect of ours must not end the thread, and with it all copies
                log.exception("nas.thread_failed", error=str(error))
                self._stopping.wait(IDLE_S)
            finally:
                with self._condition:
                    self._busy.pop(number, None)
                    if chores:
                        self._chores.under_way = False
                    self._condition.notify()

    def _next(self, number: int) -> tuple[CopyItem | None, bool]:
        """A file to copy, or whether the chores are this thread's; neither of them when it is time to stop."""
        self._adopt()
        with self._condition:
            if self._chores.due(self._clock(), self._places):
                self._chores.under_way = True
                return None, True
            self._load()
            item = self._book.next(self._clock())
            if item is not None:
                self._busy[number] = self._clock()
                return item, False
            wakeup = self._book.wakeup(self._clock())
            wait_s = IDLE_S if wakeup is None else min(IDLE_S, max(0.01, wakeup - self._clock()))
            self._condition.wait(wait_s)
            return None, False

    def _adopt(self) -> None:
        """Read what earlier processes left: without the condition, for it may be long."""
        with self._condition:
            if not self._to_adopt:
                return
            folder = self._to_adopt.pop()
            self._adopting += 1
        queue: QueueFile | None = None
        removals: list[QueueFile] = []
        try:
            queue = take_over(folder, alone=folder == self._queue_folder)
            removals = Removals.left_in(folder)
        except (OSError, ShoalError) as error:
            self._warn("nas.queue_not_opened", f"{folder}: {error}", remedy="check its permissions")
        finally:
            with self._condition:
                self._adopting -= 1
                if queue is not None:
                    self._queues[str(queue.path)] = queue
                    self._folders.setdefault(folder, queue)
                    for job_id, counts in queue.counts.items():
                        self._book.recall(job_id, counts)
                for each in removals:
                    self._removals.adopt(each, self._book)

    def _load(self) -> None:
        for queue in self._queues.values():
            if queue.unread and (room := self._book.room):
                try:
                    self._book.load(queue.read(room), self._clock())
                except OSError as error:
                    self._warn("nas.queue_not_read", f"{queue.path}: {error}")

    def _pace(self, number: int, count: int) -> None:
        """Called by a thread after every step of a copy."""
        with self._condition:
            now = self._clock()
            self._busy[number] = self._progress_s = now
            wait_s = self._bucket.take(count, now) if self.options.rate_limit else 0.0
        while wait_s > 0 or self._stopping.is_set():
            if self._stopping.wait(min(wait_s, IDLE_S)):
                raise Stopped("stopping")
            wait_s -= IDLE_S
            self._busy[number] = self._progress_s = self._clock()

    def _place(self, nas: str) -> NasPlace:
        with self._condition:
            place = self._places.get(nas)
            if place is None:
                place = self._places[nas] = NasPlace(
                    Path(nas),
                    owner=self._owner,
                    mounts=self._mounts,
                    recheck=self.options.recheck,
                    clock=self._clock,
                )
            return place

    def _copy(self, item: CopyItem, mover: ByteMover) -> None:
        try:
            brought = self._place(item.nas).bring(item, mover)
        except Exception as error:
            self._failed(item, error)
            if not isinstance(error, CopyTrouble):
                raise
            return
        remove = item.remove and not brought.itself
        gone = replace(item, target=brought.target, target_mtime_ns=brought.mtime_ns, failures=0) if remove else None
        self._settle(item, "copied" if brought.moved else "there", remove=gone)
        with self._condition:
            self._book.copied(item, moved=brought.moved, remove=remove)
        self._progressed()
        log.debug("nas.copied", file=item.name, to=brought.target, moved=brought.moved)

    def _failed(self, item: CopyItem, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        match error:
            case NeverCopied():
                self._warn("nas.never_copied", reason)
                self._settle(item, "refused")
                with self._condition:
                    self._book.refused(item, reason)
                self._progressed()
            case Held():
                with self._condition:
                    self._book.held(item, self._clock())
            case Stopped():
                with self._condition:
                    self._book.stopped(item)
            case NasDown():
                self._warn("nas.down", reason, remedy="copies are tried again")
                with self._condition:
                    self._book.failed_for_all(item, reason, self._clock())
            case _:
                self._warn("nas.copy_failed", reason, remedy="it is tried again")
                with self._condition:
                    failures = self._book.failed_alone(item, reason, self._clock())
                    self._give_way(item, failures)

    def _give_way(self, item: CopyItem, failures: int) -> None:
        """Let a file that fails again and again go to the end of the queue, if others wait for its place in memory."""
        queue = self._queue_of(item)
        if failures < TO_THE_END_AT or queue is None or not queue.unread or self._book.room:
            return
        try:
            queue.put(replace(item, failures=failures))
            self._book.give_way(item)
            queue.done(item, "")
        except OSError as error:
            self._warn("nas.queue_not_written", f"{queue.path}: {error}")

    def _settle(self, item: CopyItem, how: Outcome, *, remove: CopyItem | None = None) -> None:
        """Strike a file off the queue, after it was written down that it is to be removed."""
        with self._condition:
            queue = self._queue_of(item)
            try:
                if remove is not None and queue is not None:
                    self._removals.put(remove, queue.path.parent)
                if queue is not None:
                    queue.done(item, how)
            except OSError as error:
                self._warn("nas.queue_not_written", f"{item.queue}: {error}", remedy="it is looked at again later")

    def _queue_of(self, item: CopyItem) -> QueueFile | None:
        return self._queues.get(item.queue)

    # ---- small things -----------------------------------------------------------------------------------------------

    def _progressed(self, really: bool = True) -> None:
        if really:
            self._progress_s = self._clock()

    def _sleep(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Stopped("stopping")

    def _stalled(self) -> str:
        now = self._clock()
        silent = max((now - heard for heard in self._busy.values()), default=0.0)
        return f"the NAS has not answered for {silent:.0f} s" if silent >= self.options.stall_s else ""

    def _warn(self, action: str, reason: str, **more: object) -> None:
        """Once for each reason: a NAS that is away for a week must not fill the log."""
        if f"{action} {reason}" not in self._warned and len(self._warned) < 1000:
            self._warned.add(f"{action} {reason}")
            log.warning(action, reason=reason, **more)


def queue_folder_of(destination: Path) -> Path:
    """Where the queue of a destination lies, for runs on one machine."""
    return destination / WORK_FOLDER / QUEUE_FOLDER


def _remove_empty(folder: Path) -> None:
    for each in (folder, folder.parent):
        try:
            each.rmdir()
        except OSError:
            return
