"""The shared disk: partial files with the truth of what lies in them, chunk maps, final files.

Each life of an object has a partial file of its own. Whoever has a file open still has it when its name is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.common.intervals import Interval, IntervalSet


@dataclass(slots=True)
class Partial:
    """A file in work. good and bad hold the bytes that are right and wrong; recorded is what the chunk maps say. life: whose it is."""

    size: int
    life: int = 0
    good: IntervalSet = field(default_factory=IntervalSet)
    bad: IntervalSet = field(default_factory=IntervalSet)
    recorded: IntervalSet = field(default_factory=IntervalSet)
    writers: dict[Interval, str] = field(
        default_factory=dict[Interval, str]
    )  # who wrote last, for reports of violations

    def write(self, start: int, stop: int, writer: str, *, right: bool) -> None:
        """Bytes of the origin's version, or wrong ones, are written and recorded."""
        put, other = (self.good, self.bad) if right else (self.bad, self.good)
        other.remove(start, stop)
        put.add(start, stop)
        self.recorded.add(start, stop)
        self.writers[start, stop] = writer


@dataclass(frozen=True, slots=True)
class Final:
    """A published file."""

    size: int
    right: bool
    publisher: str
    life: int = 0


@dataclass(slots=True)
class Disk:
    """What all agents that see the destination see. Objects go by their ids."""

    partials: dict[int, Partial] = field(default_factory=dict[int, Partial])
    finals: dict[int, Final] = field(default_factory=dict[int, Final])
    prepared: set[str] = field(default_factory=set[str])
    full: bool = False

    def open(self, object_id: int, life: int, size: int) -> Partial:
        """The partial file of this life, created if need be. Those of other lives are stale, and are removed."""
        found = self.find(object_id, life)
        if found is None:
            found = self.partials[object_id] = Partial(size, life)
        return found

    def find(self, object_id: int, life: int) -> Partial | None:
        """The partial file of this life."""
        found = self.partials.get(object_id)
        return found if found is not None and found.life == life else None

    def names(self, object_id: int, partial: Partial) -> bool:
        """Whether the name of the partial file still stands for this one."""
        return self.partials.get(object_id) is partial

    def publish(self, object_id: int, partial: Partial, publisher: str, *, verifies: bool) -> str:
        """Give a partial file its final name, verified if there is a digest. Returns what is wrong: "bytes", "gone", "" for nothing."""
        if object_id in self.finals:
            self.partials.pop(object_id, None)
            return ""
        right = partial.good.covers(0, partial.size)
        if verifies and not right:
            for known in (partial.good, partial.bad, partial.recorded):
                known.clear()  # what is wrong is not known, so all of it goes
            return "bytes"
        if not self.names(object_id, partial):
            return "gone"
        del self.partials[object_id]
        self.finals[object_id] = Final(partial.size, right, publisher, partial.life)
        return ""

    def put(self, object_id: int, life: int, size: int, publisher: str) -> None:
        """A whole file is brought, verified and published."""
        self.finals[object_id] = Final(size, True, publisher, life)

    def corrupt(self, object_ids: Iterable[int], at: float) -> int | None:
        """A byte of the first partial file that has any rots. at is a place in it, from 0 to 1. Returns the object."""
        for object_id in object_ids:
            partial = self.partials.get(object_id)
            if partial is not None and partial.good:
                start, stop = list(partial.good)[int(at * len(partial.good))]
                place = start + int(at * (stop - start))
                partial.good.remove(place, place + 1)
                partial.bad.add(place, place + 1)
                return object_id
        return None
