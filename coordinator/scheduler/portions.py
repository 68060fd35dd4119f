"""Parts of a host's budget, and the sums over those that are given out. Pure. Infinity is no limit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from ...common.records import HostBudget

Values: TypeAlias = tuple[float, float, float, float]
"""Requests/s, requests at once, bytes/s, requests under way."""

_RAISE_BY = 1.02
"""A portion is raised by at least so much: less is not worth a message. What it lacks to its target is, however little."""
_WORTH = 0.5
"""Who has nothing is given at least so much of what is meant for it, or waits for more to become free."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Portion:
    """A part of a host's budget, or all of it."""

    rate: float = math.inf
    burst: float = math.inf
    bytes_per_s: float = math.inf
    connections: float = math.inf
    probe: bool = False

    @property
    def is_limited(self) -> bool:
        return min(self.rate, self.bytes_per_s, self.connections) < math.inf

    @property
    def values(self) -> tuple[float, float, float, float]:
        return (self.rate, self.burst, self.bytes_per_s, self.connections)

    def budget(
        self, host: str, *, initial: float = 0.0, blocked_s: float = 0.0, unless_held: bool = False
    ) -> HostBudget:
        """The portion as an agent is told it."""
        return HostBudget(
            host=host,
            requests_per_s=finite(self.rate),
            bytes_per_s=finite(self.bytes_per_s),
            connections=int(finite(self.connections)),
            burst=finite(self.burst),
            leased=self.is_limited,
            nothing=self == NOTHING,
            probe=self.probe,
            initial=initial,
            blocked_s=blocked_s,
            unless_held=unless_held and self == NOTHING,
        )


NOTHING = Portion(0.0, 0.0, 0.0, 0.0)
PROBE = Portion(0.0, 1.0, 0.0, 1.0, probe=True)
UNLIMITED = Portion()


def finite(value: float) -> float:
    """The value as it is told: 0 is no limit."""
    return 0.0 if value == math.inf else value


class Ledger:
    """What is given out of one host's budget."""

    def __init__(self, whole: Portion, given: Iterable[Values]) -> None:
        self._whole = whole.values
        self._sums = [0.0, 0.0, 0.0, 0.0]
        self._unlimited = [0, 0, 0, 0]  # portions without a limit
        for values in given:
            self.add((0.0, 0.0, 0.0, 0.0), values)

    def add(self, own: Values, new: Values) -> None:
        """Somebody who had `own` may spend `new` from now on, where that is more."""
        for i, (before, after) in enumerate(zip(own, new, strict=True)):
            if after <= before:
                continue
            if after == math.inf:
                self._unlimited[i] += 1
                self._sums[i] -= before
            else:
                self._sums[i] += after - before

    def portion(self, own: Values, current: Portion, target: Portion) -> Portion:
        """What somebody who may still spend `own`, and was last told `current`, can be given of what is meant for it."""
        if target == NOTHING:
            return NOTHING
        values = [self._reach(i, has, wanted) for i, (has, wanted) in enumerate(zip(own, target.values, strict=True))]
        rate, burst, bytes_per_s, connections = values
        connections = math.floor(connections) if connections < math.inf else connections
        new = Portion(rate, burst, bytes_per_s, connections)
        if burst < 1 or connections < 1 or rate <= 0 or bytes_per_s <= 0:
            return NOTHING
        if current == NOTHING or current.probe:
            return new if rate >= _WORTH * target.rate or rate == math.inf else NOTHING
        is_more = all(after >= before for after, before in zip(new.values, current.values, strict=True))
        worth = rate >= current.rate * _RAISE_BY or connections > current.connections
        return current if is_more and not worth and new != target else new

    def free(self) -> tuple[float, float]:
        """Requests/s and requests at once that nobody has."""
        rate, burst = (0.0 if self._unlimited[i] else max(0.0, self._whole[i] - self._sums[i]) for i in range(2))
        return rate, burst

    def _reach(self, i: int, own: float, wanted: float) -> float:
        whole = self._whole[i]
        if whole == math.inf:
            return wanted
        others_unlimited = self._unlimited[i] - (own == math.inf)
        others = math.inf if others_unlimited else self._sums[i] - (0.0 if own == math.inf else own)
        room = max(own, whole - others)
        return wanted if room >= wanted - _ROUNDING * whole else max(0.0, room)
