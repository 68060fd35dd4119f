"""What is copied next, and when again: the decisions of the copy queue.

A file's life::

    (queue file) --load--> READY --next--> RUNNING --copied, there, refused--> (forgotten: counted)
    RUNNING --failed for reasons of its own--> DELAYED by its own backoff --due--> READY
    RUNNING --failed for reasons of the NAS--> READY; the NAS rests, and is then tried with one file alone
    RUNNING --somebody else copies it--> DELAYED for a moment

A NAS that fails costs one try per wait, not one per file. There is no limit on tries: a copy waits as long as the NAS is away. In
memory is a window of the queue; a file that failed while others wait outside of the window goes to the end of the queue.

Pure and synchronous: no I/O, no clock.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from ...common.nas_records import NasCounts, NasJob, NasReport

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from ...common.retry import Backoff

WINDOW = 1000
"""Files of the queue that are in memory: about a kilobyte each."""
JOBS_MAX = 16
"""Jobs with nothing left to copy that are still reported, the newest ones."""
HELD_S = 2.0
"""When a file that somebody else is copying is looked at again."""

Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyItem:
    """A finished file that is to be copied. Sizes are bytes; `queue` and `seq` say where it is remembered.

    folder is the destination on this machine, base the folder of a repo in the Hub's cache below it ("" otherwise), path where the
    file is found below base, name its path within the source. job_key is what the job's marker in the destination is called.
    """

    queue: str
    seq: int
    job_id: str
    job_key: str
    nas: str
    folder: str
    base: str
    path: str
    source: str
    name: str
    size: int
    digest: str
    mtime_ns: int
    etag: str = ""
    revision: str = ""
    commit: str = ""
    preserve: bool = True
    remove: bool = False  # the local file goes when the job has ended
    shared: bool = False  # several agents have a copy of their own: whoever is first copies
    failures: int = 0  # before it was put to the end of the queue
    target: str = ""  # where it is on the NAS; empty until it was copied
    target_mtime_ns: int = 0

    @property
    def key(self) -> Key:
        """What it is called in the book."""
        return self.queue, self.seq


@dataclass(slots=True)
class _Entry:
    item: CopyItem
    failures: int = 0
    not_before: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class _Nas:
    """One NAS folder. While it has failures, one file at a time probes it, and none before not_before."""

    ready: deque[Key] = field(default_factory=deque[Key])
    failures: int = 0
    not_before: float = 0.0
    reason: str = ""
    running: int = 0


class CopyBook:
    """Decides on copies. Not thread-safe."""

    def __init__(self, *, backoff: Backoff, rng: random.Random, window: int = WINDOW) -> None:
        self._backoff = backoff
        self._rng = rng
        self._window = window
        self._entries: dict[Key, _Entry] = {}
        self._delayed: list[tuple[float, Key]] = []
        self._places: dict[str, _Nas] = {}
        self._failing: dict[Key, str] = {}  # with its job
        self._counts: OrderedDict[str, NasCounts] = OrderedDict()
        self._past = NasCounts()  # of jobs that are no longer told apart

    # ---- what there is ----------------------------------------------------------------------------------------------

    def expect(self, job_id: str, size: int) -> None:
        """A file was put into the queue."""
        self._count(job_id, files_waiting=1, bytes_waiting=size)

    def not_queued(self, job_id: str, reason: str) -> None:
        """A file could not be put into the queue: it must not go there, or the queue cannot be written."""
        self._count(job_id, files_refused=1)
        self._say(job_id, reason)

    def recall(self, job_id: str, counts: NasCounts) -> None:
        """What an earlier process did for a job, or left to do."""
        self._counts[job_id] = self._counts.get(job_id, NasCounts()) + replace(counts, reason="", files_failing=0)
        self._counts.move_to_end(job_id)
        self._forget_old()

    @property
    def room(self) -> int:
        """How many more files of the queue fit into memory."""
        return max(0, self._window - len(self._entries))

    def load(self, items: Iterable[CopyItem], now: float) -> None:
        """Take files of the queue into memory. Those that several agents have wait for a moment that differs between agents."""
        for item in items:
            entry = self._entries[item.key] = _Entry(item, item.failures)
            if item.failures:
                self._delay(entry, now + self._wait(item.failures))
            elif item.shared:
                self._delay(entry, now + self._rng.uniform(0.0, HELD_S))
            else:
                self._place(item.nas).ready.append(item.key)

    # ---- what is done -----------------------------------------------------------------------------------------------

    def next(self, now: float) -> CopyItem | None:
        """A file to copy now, which counts as running from here on; None where there is none."""
        while self._delayed and self._delayed[0][0] <= now:
            due, key = heapq.heappop(self._delayed)
            entry = self._entries.get(key)
            if entry is not None and entry.not_before == due:  # else it was delayed anew since
                entry.not_before = 0.0
                self._place(entry.item.nas).ready.append(key)
        for place in self._places.values():
            if not place.ready or place.not_before > now or (place.failures and place.running):
                continue
            place.running += 1
            return self._entries[place.ready.popleft()].item
        return None

    def wakeup(self, now: float) -> float | None:
        """When `next` may have another answer if nothing happens before; None: not by time alone."""
        due = [place.not_before for place in self._places.values() if place.ready and not place.running]
        if self._delayed:
            due.append(self._delayed[0][0])
        return max(now, min(due)) if due else None

    def copied(self, item: CopyItem, *, moved: bool, remove: bool = False) -> None:
        """The file is on the NAS, verified. moved: its bytes were copied just now; otherwise it was there already. remove: the
        local file is to go."""
        self._ended(item, works=True)
        if moved:
            self._count(item.job_id, files_copied=1, bytes_copied=item.size)
        else:
            self._count(item.job_id, files_there=1)
        if remove:
            self._count(item.job_id, files_to_remove=1)

    def refused(self, item: CopyItem, reason: str) -> None:
        """The file can never be copied."""
        self._ended(item, works=False)
        self._count(item.job_id, files_refused=1)
        self._say(item.job_id, reason)

    def to_remove(self, job_id: str, count: int) -> None:
        """An earlier process left so many local files to remove."""
        self._count(job_id, files_to_remove=count)

    def removed(self, job_id: str, *, count: int, kept: int = 0) -> None:
        """Local files were removed after their copy; others are to be kept, because they changed or are gone."""
        self._count(job_id, files_removed=count, files_to_remove=-count - kept)

    def held(self, item: CopyItem, now: float) -> None:
        """Somebody else is copying the file: look again in a moment."""
        entry = self._entries[item.key]
        self._place(item.nas).running -= 1
        self._delay(entry, now + HELD_S)

    def stopped(self, item: CopyItem) -> None:
        """The copy was broken off because we are to stop: nothing is wrong with it."""
        place = self._place(item.nas)
        place.running -= 1
        place.ready.appendleft(item.key)

    def failed_alone(self, item: CopyItem, reason: str, now: float) -> int:
        """The copy of this file failed; others may work. Returns how often it has failed in a row."""
        place = self._place(item.nas)
        place.running -= 1
        place.failures, place.reason, place.not_before = 0, "", 0.0  # it answers
        entry = self._entries[item.key]
        entry.failures += 1
        self._note(item, entry, reason)
        self._delay(entry, now + self._wait(entry.failures))
        return entry.failures

    def failed_for_all(self, item: CopyItem, reason: str, now: float) -> None:
        """The NAS does not work: nothing is asked of it for a while, and then by one file."""
        place = self._place(item.nas)
        place.running -= 1
        place.reason = reason
        if now >= place.not_before:  # else it failed together with the one that was counted
            place.failures += 1
            place.not_before = now + self._wait(place.failures)
        place.ready.appendleft(item.key)
        self._note(item, self._entries[item.key], reason)

    def give_way(self, item: CopyItem) -> None:
        """The file was put to the end of the queue: it is not in memory any more."""
        del self._entries[item.key]
        self._failing.pop(item.key, None)

    def hurry(self, now: float) -> None:
        """Try all that waits for its next try now, as if it had never failed."""
        for place in self._places.values():
            place.failures, place.not_before = 0, now
        for entry in self._entries.values():
            if entry.not_before > now:
                entry.failures = 0
                self._delay(entry, now)

    # ---- what is told -----------------------------------------------------------------------------------------------

    def report(self, stalled: str = "") -> NasReport:
        """How it goes. stalled: what is said of a NAS that hangs."""
        failing: dict[str, int] = {}
        reasons: dict[str, str] = {}
        for key, job_id in self._failing.items():
            failing[job_id] = failing.get(job_id, 0) + 1
            if reason := self._entries[key].reason:
                reasons[job_id] = reason
        down = stalled or next((place.reason for place in self._places.values() if place.failures), "")
        jobs: list[NasJob] = []
        for job_id, counts in self._counts.items():
            reason = (down if counts.files_waiting else "") or reasons.get(job_id, "") or counts.reason
            jobs.append(
                NasJob(job_id=job_id, counts=replace(counts, files_failing=failing.get(job_id, 0), reason=reason))
            )
        total = sum((job.counts for job in reversed(jobs)), self._past)
        return NasReport(total=total, jobs=tuple(jobs))

    def counts(self) -> dict[str, NasCounts]:
        """What was done and is to be done, by job: what the queue file keeps of it."""
        return dict(self._counts)

    @property
    def waiting(self) -> bool:
        """Whether any file is still to be copied."""
        return any(counts.files_waiting for counts in self._counts.values())

    @property
    def running(self) -> int:
        """Copies under way."""
        return sum(place.running for place in self._places.values())

    # ---- how --------------------------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        """Raises AssertionError where the book contradicts itself."""
        ready = [key for place in self._places.values() for key in place.ready]
        assert len(ready) == len(set(ready)), "a file waits twice"
        assert set(ready) <= set(self._entries)
        delayed = {key for _, key in self._delayed} & set(self._entries)
        assert len(self._entries) <= len(set(ready) | delayed) + self.running
        assert all(place.running >= 0 for place in self._places.values())
        for counts in self._counts.values():
            assert all(getattr(counts, each.name) >= 0 for each in fields(counts) if each.name != "reason"), counts

    def _place(self, nas: str) -> _Nas:
        place = self._places.get(nas)
        if place is None:
            place = self._places[nas] = _Nas()
        return place

    def _ended(self, item: CopyItem, *, works: bool) -> None:
        place = self._place(item.nas)
        place.running -= 1
        if works:
            place.failures, place.reason, place.not_before = 0, "", 0.0
        del self._entries[item.key]
        self._failing.pop(item.key, None)
        self._count(item.job_id, files_waiting=-1, bytes_waiting=-item.size)

    def _delay(self, entry: _Entry, until: float) -> None:
        entry.not_before = until
        heapq.heappush(self._delayed, (until, entry.item.key))

    def _wait(self, failures: int) -> float:
        """Half of the ceiling at least: a NAS that is away is not asked at once again."""
        ceiling = self._backoff.ceiling_s(failures)
        return self._rng.uniform(ceiling / 2, ceiling)

    def _note(self, item: CopyItem, entry: _Entry, reason: str) -> None:
        entry.reason = reason
        self._failing[item.key] = item.job_id

    def _count(self, job_id: str, **changes: int) -> None:
        counts = self._counts.get(job_id, NasCounts())
        self._counts[job_id] = replace(
            counts, **{name: getattr(counts, name) + change for name, change in changes.items()}
        )
        if "files_waiting" in changes and changes["files_waiting"] > 0:
            self._counts.move_to_end(job_id)
            self._forget_old()

    def _say(self, job_id: str, reason: str) -> None:
        self._counts[job_id] = replace(self._counts.get(job_id, NasCounts()), reason=reason)

    def _forget_old(self) -> None:
        old = [job_id for job_id, counts in self._counts.items() if not counts.unfinished]
        for job_id in old[: max(0, len(old) - JOBS_MAX)]:
            self._past += replace(self._counts.pop(job_id), reason="")
