"""Backoff: how long to wait before a try again. Pure; the random generator is passed in.

Exponential backoff with full jitter: the wait is drawn evenly from zero up to a ceiling that doubles with every failure. Many clients
that failed at the same moment so come back spread out (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

_DOUBLINGS_MAX = 64  # beyond any ceiling that fits a delay; keeps the power finite


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """The shape of a backoff; seconds."""

    initial_s: float = 1.0  # ceiling of the first wait
    max_s: float = 60.0  # ceiling of every wait

    def __post_init__(self) -> None:
        if not 0 < self.initial_s <= self.max_s:
            raise ValueError(f"a backoff needs 0 < initial_s <= max_s, not {self.initial_s} and {self.max_s}")

    def ceiling_s(self, failures: int) -> float:
        """The longest wait after ``failures`` failures in a row (1 or more)."""
        if failures < 1:
            raise ValueError(f"a wait follows at least one failure, not {failures}")
        return min(self.max_s, self.initial_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))

    def delay_s(self, failures: int, rng: random.Random, *, at_least_s: float = 0.0) -> float:
        """Seconds to wait after ``failures`` failures in a row.

        ``at_least_s`` is what the server asked for (Retry-After). The jitter comes on top of it: a whole fleet was told the same.
        """
        return at_least_s + rng.uniform(0.0, self.ceiling_s(failures))
