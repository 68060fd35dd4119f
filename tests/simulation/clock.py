"""Virtual time: events in a heap, carried out one by one."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Violation(AssertionError):
    """A promise was broken."""


def require(condition: bool, text: str) -> None:
    """Raise Violation unless the condition holds."""
    if not condition:
        raise Violation(text)


class Clock:
    """Seconds since the beginning of the simulation, and what is to happen when. Events of one moment happen in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        """Do something at a time (now, if that is past)."""
        self._count += 1
        heapq.heappush(self._heap, (max(time_s, self.now), self._count, action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something after a delay."""
        self.at(self.now + delay_s, action)

    def step(self) -> bool:
        """Carry out the next event. Returns False if there is none."""
        if not self._heap:
            return False
        self.now, _, action = heapq.heappop(self._heap)
        self.events += 1
        action()
        return True
