"""Files that are copied and are to be removed when their job has ended: a queue of its own for each job, beside the copy queue."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .book import CopyItem
from .queue_file import QueueFile, make_queue, take_queue
from .removal import Pass, job_is_alive
from .trouble import CopyTrouble

if TYPE_CHECKING:
    from .book import CopyBook

SUFFIX = ".remove"
BATCH = 1000
POLL_S = (0.25, 30.0)
"""A job is looked at again after so long, doubled each time: whether it has ended."""


class _Job:
    def __init__(self, queue: QueueFile, now: float) -> None:
        self.queue = queue
        self.due_s = now
        self.wait_s = POLL_S[0]
        self.batch: list[CopyItem] = []  # read, and not done


class Removals:
    """The removal queues of one process. Not thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds, monotonic."""
        self._clock = clock
        self._jobs: dict[str, _Job] = {}

    def put(self, item: CopyItem, folder: Path) -> None:
        """Remember that a file is to be removed; folder is that of the queue which it came from. Raises OSError."""
        path = folder / f"{item.job_key}{SUFFIX}"
        job = self._jobs.get(str(path))
        if job is None:
            job = self._jobs[str(path)] = _Job(make_queue(path), self._clock())
        job.queue.put(item)
        job.due_s = min(job.due_s, self._clock() + job.wait_s)

    @staticmethod
    def left_in(folder: Path) -> list[QueueFile]:
        """The removal queues that earlier processes left. Raises OSError."""
        return [queue for path in sorted(folder.glob(f"*{SUFFIX}")) if (queue := take_queue(path)) is not None]

    def adopt(self, queue: QueueFile, book: CopyBook) -> None:
        """Go on with one of `left_in`."""
        self._jobs[str(queue.path)] = _Job(queue, self._clock())
        for job_id, counts in queue.counts.items():
            book.to_remove(job_id, counts.files_waiting)

    def due(self, now: float) -> bool:
        """Whether there is something to look at now."""
        return any(job.due_s <= now and (job.queue.pending > 0) for job in self._jobs.values())

    def next(self, now: float) -> list[CopyItem]:
        """Files of one job and destination that has ended, as far as is known."""
        for job in self._jobs.values():
            if job.due_s > now or job.queue.pending <= 0:
                continue
            try:
                if not job.batch:
                    job.batch = job.queue.read(BATCH)
                ended = bool(job.batch) and not job_is_alive(job.batch[0])
            except (OSError, CopyTrouble):
                ended = False
            if ended:
                return [item for item in job.batch if item.folder == job.batch[0].folder]
            self._later(job, now)
        return []

    def hurry(self) -> None:
        """Look at all of them now."""
        for job in self._jobs.values():
            job.due_s, job.wait_s = float("-inf"), POLL_S[0]

    def settled(self, batch: list[CopyItem], done: Pass) -> None:
        """The pass is over: strike off what is done."""
        job = self._jobs[batch[0].queue]
        for item in (*done.removed, *done.kept, *done.again):
            with suppress(OSError):
                job.queue.done(item, "")
        gone = {item.seq for item in batch}
        job.batch = [item for item in job.batch if item.seq not in gone]
        job.wait_s = POLL_S[0]
        if job.queue.pending <= 0 and not job.batch:
            job.queue.close()
            del self._jobs[batch[0].queue]

    def failed(self, batch: list[CopyItem], now: float) -> None:
        """Nothing could be done: later."""
        self._later(self._jobs[batch[0].queue], now)

    def close(self) -> None:
        """Let go of the queues."""
        for job in self._jobs.values():
            job.queue.close()
        self._jobs.clear()

    def _later(self, job: _Job, now: float) -> None:
        job.due_s = now + job.wait_s
        job.wait_s = min(2 * job.wait_s, POLL_S[1])
