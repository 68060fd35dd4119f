"""Token buckets: a rate with a burst. Pure: every method that needs the time takes ``now``, in seconds of a monotonic clock.

A bucket fills at its rate up to its burst. It can be used in two ways. `take` lends: it always grants and says how long the taker must
wait for it, so that takers are served in order and a large take cannot starve. `take_at_once` does not lend: it grants only what is
there, so that a bucket whose rate is lowered or whose owner loses it has nothing promised.
"""

from __future__ import annotations

from typing import Final

BURST_S: Final = 1.0
"""An idle bucket saves up the tokens of so many seconds, and at least one token."""
_ALMOST: Final = 1e-9  # tokens; sums of floats may miss a whole one by so much


def burst_of(rate: float) -> float:
    """The burst, in tokens, that goes with a rate in tokens/s where nobody names one."""
    return max(rate * BURST_S, 1.0)


class TokenBucket:
    """A rate with a burst. Tokens are requests or bytes; a rate of 0 is unlimited."""

    __slots__ = ("_burst", "_level", "_rate", "_updated_s")

    def __init__(self, rate: float = 0.0, *, burst: float | None = None, level: float | None = None) -> None:
        """rate: tokens/s; burst and level: tokens. Without them the bucket holds one second's worth, and is full."""
        self._rate = rate
        self._burst = burst_of(rate) if burst is None else burst
        self._level = self._burst if level is None else min(level, self._burst)
        self._updated_s: float | None = None

    @property
    def rate(self) -> float:
        return self._rate

    @property
    def burst(self) -> float:
        return self._burst

    def level(self, now: float) -> float:
        """Tokens that are there; negative where they are lent."""
        self._refill(now)
        return self._level

    def copy(self) -> TokenBucket:
        """Another bucket that is as this one is."""
        other = TokenBucket(self._rate, burst=self._burst, level=self._level)
        other._updated_s = self._updated_s
        return other

    def set_rate(self, rate: float, now: float, *, burst: float | None = None) -> None:
        """Change the rate from now on. Debts stay; savings beyond the new burst are lost. What was unlimited begins full."""
        self._refill(now)
        burst = burst_of(rate) if burst is None else burst
        if rate and not self._rate:
            self._level = burst
        self._rate, self._burst = rate, burst
        self._refill(now)

    def set_level(self, level: float, now: float) -> None:
        """Hold so many tokens from now on, at most the burst."""
        self._refill(now)
        self._level = min(level, self._burst)

    def take(self, count: float, now: float) -> float:
        """Take ``count`` tokens, lent if need be. Returns for how many seconds the taker must wait before it uses them."""
        if not self._rate:
            return 0.0
        self._refill(now)
        self._level -= count
        return max(0.0, -self._level / self._rate)

    def take_at_once(self, now: float) -> float:
        """Take one token if it is there, and return 0. Otherwise take nothing, and return in how many seconds it will be."""
        if not self._rate:
            return 0.0
        self._refill(now)
        if self._level >= 1.0 - _ALMOST:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self._rate

    def _refill(self, now: float) -> None:
        if self._updated_s is not None and now > self._updated_s:
            self._level += (now - self._updated_s) * self._rate
        self._updated_s = now if self._updated_s is None else max(now, self._updated_s)
        self._level = min(self._level, self._burst)
