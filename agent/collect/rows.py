"""Which rows of a batch are still to be fetched, how often each was tried, and what a failure means for it. Pure.

======= ========================================= ========
row     on                                        becomes
======= ========================================= ========
ready   `take`                                    out
out     `settle`                                  settled
out     `failed`, and another try is left         waiting
out     `failed`, and none is left                settled
out     `put_back` (the run ends)                 ready
waiting its time has come                         ready
======= ========================================= ========
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterable, Mapping

from ...common.retry import Backoff
from .answers import Failed


class RowQueue:
    """The rows of one batch by their index."""

    def __init__(
        self,
        rows: Iterable[int],
        *,
        attempts: int,
        backoff: Backoff,
        rng: random.Random,
        tries: Mapping[int, int] | None = None,
    ) -> None:
        """tries: how often rows were tried by earlier runs."""
        self._ready = deque(rows)
        self._waiting: list[tuple[float, int]] = []  # by the time that they are due
        self._attempts = attempts
        self._backoff = backoff
        self._rng = rng
        self._tries = dict(tries or {})
        self._out = 0

    @property
    def left(self) -> int:
        """Rows that are not settled."""
        return len(self._ready) + len(self._waiting) + self._out

    @property
    def pending(self) -> int:
        """Rows that nobody works on."""
        return len(self._ready) + len(self._waiting)

    def take(self, now: float) -> int | None:
        """A row to fetch, which is then out; None when none is due."""
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.append(heapq.heappop(self._waiting)[1])
        if not self._ready:
            return None
        self._out += 1
        return self._ready.popleft()

    def due_s(self, now: float) -> float | None:
        """Seconds until a row is due; None when none waits."""
        if self._ready:
            return 0.0
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None

    def settle(self, row: int) -> int:
        """The row has its result. Returns how often it was tried again."""
        self._out -= 1
        return self._tries.pop(row, 0)

    def failed(self, row: int, failure: Failed, now: float) -> int | None:
        """A try failed. Returns None when the row is tried again, else how often it was: the row is settled then.

        A row that the host put off waits for the host alone: the gate knows for how long.
        """
        tries = self._tries.get(row, 0) + 1
        if not failure.retry or tries >= self._attempts:
            self._tries[row] = tries - 1
            return self.settle(row)
        self._tries[row] = tries
        self._out -= 1
        delay_s = 0.0 if failure.throttled else self._backoff.delay_s(tries, self._rng)
        heapq.heappush(self._waiting, (now + delay_s, row))
        return None

    def put_back(self, row: int) -> None:
        """Nothing became of the row, through no fault of its host."""
        self._out -= 1
        self._ready.appendleft(row)

    def drain(self) -> list[int]:
        """Every row that nobody works on, in order; they are out then."""
        rows = sorted([*self._ready, *(row for _, row in self._waiting)])
        self._ready.clear()
        self._waiting.clear()
        self._out += len(rows)
        return rows

    def tried(self) -> dict[int, int]:
        """How often rows that are not settled were tried."""
        return dict(self._tries)
