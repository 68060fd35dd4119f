"""Sets of byte positions as sorted, disjoint, half-open intervals.

Both sides think in these: the coordinator in what is leased and what is done, the agent in what lies on its disk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Interval = tuple[int, int]
"""(start, stop): byte positions from start up to, not including, stop."""


class IntervalSet:
    """A mutable set of byte positions. Touching intervals are merged, so equal sets have equal interval lists."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in intervals:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> int:
        """Add [start, stop). Returns how many positions were new. Raises ValueError for a negative or reversed interval."""
        if start < 0 or stop < start:
            raise ValueError(f"not an interval: [{start}, {stop})")
        if start == stop:
            return 0
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        covered = 0
        low, high = start, stop
        if first < last:
            low = min(start, self._starts[first])
            high = max(stop, self._stops[last - 1])
            for i in range(first, last):
                covered += max(0, min(stop, self._stops[i]) - max(start, self._starts[i]))
        self._starts[first:last] = [low]
        self._stops[first:last] = [high]
        return stop - start - covered

    def remove(self, start: int, stop: int) -> int:
        """Remove [start, stop). Returns how many positions were removed."""
        if start < 0 or stop < start:
            raise ValueError(f"not an interval: [{start}, {stop})")
        if start == stop:
            return 0
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return 0
        kept: list[Interval] = []
        removed = 0
        for i in range(first, last):
            a, b = self._starts[i], self._stops[i]
            removed += min(b, stop) - max(a, start)
            if a < start:
                kept.append((a, start))
            if b > stop:
                kept.append((stop, b))
        self._starts[first:last] = [a for a, _ in kept]
        self._stops[first:last] = [b for _, b in kept]
        return removed

    def missing(self, start: int, stop: int) -> Iterator[Interval]:
        """The parts of [start, stop) that are not in the set, in order."""
        at = start
        for i in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[i] >= stop:
                break
            if self._starts[i] > at:
                yield at, self._starts[i]
            at = max(at, self._stops[i])
        if at < stop:
            yield at, stop

    def present(self, start: int, stop: int) -> Iterator[Interval]:
        """The parts of [start, stop) that are in the set, in order."""
        if start >= stop:
            return
        for i in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[i] >= stop:
                break
            yield max(start, self._starts[i]), min(stop, self._stops[i])

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of [start, stop) is in the set."""
        return next(self.missing(start, stop), None) is None

    def frontier(self, start: int = 0) -> int:
        """The first position at or after start that is not in the set."""
        i = bisect_right(self._starts, start) - 1
        return max(start, self._stops[i]) if i >= 0 else start

    @property
    def total(self) -> int:
        """How many positions are in the set."""
        return sum(self._stops) - sum(self._starts)

    def copy(self) -> IntervalSet:
        """An independent copy."""
        twin = IntervalSet()
        twin._starts, twin._stops = self._starts.copy(), self._stops.copy()
        return twin

    def clear(self) -> None:
        """Remove everything."""
        self._starts.clear()
        self._stops.clear()

    def __iter__(self) -> Iterator[Interval]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntervalSet) and self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IntervalSet({list(self)!r})"
