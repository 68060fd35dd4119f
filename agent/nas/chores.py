"""What is done beside copying: syncing the queue, removing local files, bringing records into the NAS's manifest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from .book import CopyBook, CopyItem
from .place import NasPlace
from .queue_file import TOUCH_S, QueueFile
from .removal import remove_local
from .removals import Removals
from .trouble import CopyTrouble, Stopped

IDLE_S = 1.0
"""How often the queue is synced; a thread without work looks again after so long."""


class Warn(Protocol):
    """Logs a warning, once for each reason."""

    def __call__(self, action: str, reason: str, /, **more: object) -> None: ...


class Chores:
    """The chores of one copier. One thread at a time runs them; the condition guards all else."""

    def __init__(
        self,
        condition: threading.Condition,
        book: CopyBook,
        queues: Mapping[str, QueueFile],
        folders: Mapping[Path, QueueFile],
        place: Callable[[str], NasPlace],
        removals: Removals,
        clock: Callable[[], float],
    ) -> None:
        """All of it belongs to the copier: queues by the path of their file, folders those that new files are put into. place gives
        the NAS folder of that path. clock: seconds, monotonic."""
        self._condition = condition
        self._book = book
        self._queues = queues
        self._folders = folders
        self._place = place
        self._removals = removals
        self._clock = clock
        self._synced_s = self._touched_s = clock()
        self.under_way = False

    def due(self, now: float, places: Mapping[str, NasPlace]) -> bool:
        """Whether a thread shall run them; the condition is held."""
        if self.under_way:
            return False
        return (
            (self._is_touch_due and bool(self._queues))
            or (now - self._synced_s >= IDLE_S and any(queue.dirty for queue in self._queues.values()))
            or self._removals.due(now)
            or any(place.records.merge_due(now, idle=self._idle) for place in places.values())
        )

    def run(self, places: Mapping[str, NasPlace], sleep: Callable[[float], None], warn: Warn) -> bool:
        """Do what is due. sleep raises Stopped when it is time to stop. Returns whether something has come of it."""
        with self._condition:
            queues, there = list(self._queues.values()), list(places.values())
            idle = self._idle
            self._synced_s = self._clock()
            touch = self._is_touch_due
            if touch:
                self._touched_s = self._clock()
        for queue in queues:
            if touch:
                queue.touch()
            try:
                queue.sync()
                queue.compact()
            except OSError as error:
                warn("nas.queue_not_written", f"{queue.path}: {error}")
        useful = self._remove(sleep, warn)
        for place in there:
            if place.records.merge_due(self._clock(), idle=idle):
                try:
                    place.merge(sleep)
                    useful = True
                except CopyTrouble as error:
                    if not isinstance(error, Stopped):
                        warn("nas.manifest_not_written", str(error), remedy="it is tried again")
        return useful

    @property
    def _is_touch_due(self) -> bool:
        return self._clock() - self._touched_s >= TOUCH_S

    @property
    def _idle(self) -> bool:
        return not self._book.waiting

    def _remove(self, sleep: Callable[[float], None], warn: Warn) -> bool:
        """Remove what was copied and whose job has ended. Returns whether there was any."""
        useful = False
        while True:
            with self._condition:
                batch = self._removals.next(self._clock())
            if not batch:
                return useful
            try:
                done = remove_local(batch, self._is_there, sleep=sleep)
            except CopyTrouble as error:
                if not isinstance(error, Stopped):
                    warn("nas.not_removed", str(error), remedy="it is tried again")
                with self._condition:
                    self._removals.failed(batch, self._clock())
                return useful
            useful = True
            with self._condition:
                for item in done.again:
                    self._again(item)
                self._removals.settled(batch, done)
                self._book.removed(batch[0].job_id, count=len(done.removed), kept=len(done.kept) + len(done.again))
                queue = self._folders.get(Path(batch[0].queue).parent)
                if queue is not None:
                    queue.removed(batch[0].job_id, len(done.removed))

    def _is_there(self, item: CopyItem) -> bool:
        return self._place(item.nas).check(item.target, item.size, item.target_mtime_ns)

    def _again(self, item: CopyItem) -> None:
        """The copy is not there any more as it was made: copy once more."""
        queue = self._folders.get(Path(item.queue).parent)
        if queue is not None:
            self._book.expect(item.job_id, item.size)
            queue.put(replace(item, target="", target_mtime_ns=0))
