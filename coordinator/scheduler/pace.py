"""How fast a host may be asked, when its rate follows what it bears.

The rate begins at the configured one and stays within ``rate * (1 - multiplier)`` and ``rate * (1 + multiplier)``. A sign of overload
(429, 503, a timeout) cuts it by a factor of 0.7, at most once per incident. Successes let it grow along the cubic curve of CUBIC
(RFC 9438, section 4.2: ``W(t) = C (t - K)^3 + W_max`` with ``K = cbrt(W_max (1 - beta) / C)``): quickly back towards where it was cut,
carefully around there, then on. This is what botocore's adaptive retry mode does with requests/s (botocore/retries/throttling.py:
beta 0.7, C 0.4), and as there, the rate grows to at most twice what is really asked, so that an idle host's does not run away.

Pure. Rates are requests/s, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

BETA = 0.7
"""What a cut leaves (RFC 9438, section 4.6; botocore)."""
SCALE = 0.4
"""C of the curve (RFC 9438, section 4.1.1; botocore), for a rate of 1."""
UNIT_S = 20.0
"""The curve's unit of time. RFC 9438 takes a second, because TCP hears of a loss within a round trip; here word comes with a heartbeat,
every 5 s, and must have had its effect before the rate passes the point of the last cut again (K is 0.9 units, 18 s)."""
INCIDENT_S = 12.0
"""Signs within so long of a cut are of what was asked before it: two heartbeats, and the longest ordinary request."""
MEASURE_S = 10.0
"""The rate that is really asked is measured over so long, and smoothed with factor 0.8 as botocore does."""
SMOOTHING = 0.8


@dataclass(slots=True, kw_only=True)
class Pace:
    """One host's rate. base of 0 is no limit, and then nothing adapts."""

    base: float = 0.0
    multiplier: float = 0.0
    may_exceed: bool = False  # the base is a default, not somebody's limit: growth may pass it
    rate: float = 0.0
    measured: float = 0.0
    _peak: float = 0.0  # W_max
    _grows_since: float | None = None
    _cut_at: float = float("-inf")
    _counted: int = 0
    _counted_since: float | None = None

    def set_base(self, base: float, multiplier: float, *, may_exceed: bool) -> None:
        """The configured rate is this from now on. What was learned of the host is forgotten if that is new."""
        known = (self.base, self.multiplier, self.may_exceed)
        self.base, self.multiplier, self.may_exceed = base, multiplier, may_exceed
        if known != (base, multiplier, may_exceed):
            self.rate = self._peak = base
            self._grows_since = None

    @property
    def floor(self) -> float:
        return self.base * (1.0 - self.multiplier)

    @property
    def ceiling(self) -> float:
        return self.base * (1.0 + self.multiplier) if self.may_exceed else self.base

    def count(self, requests: int, now: float) -> None:
        """So many requests were answered, or not, since the last word."""
        if self._counted_since is None:
            self._counted_since = now
        self._counted += requests
        elapsed_s = now - self._counted_since
        if elapsed_s >= MEASURE_S:
            self.measured = SMOOTHING * self._counted / elapsed_s + (1.0 - SMOOTHING) * self.measured
            self._counted, self._counted_since = 0, now

    def cut(self, now: float) -> None:
        """The host showed a sign of overload."""
        if not self.multiplier or now - self._cut_at < INCIDENT_S:
            return
        self._cut_at = self._grows_since = now
        self._peak = self.rate
        self.rate = max(self.floor, BETA * self.rate)

    def reopened(self, now: float) -> None:
        """The host is asked again after a block: growth begins now, not when it was cut."""
        self._grows_since = now

    def succeeded(self, now: float) -> None:
        """Requests succeeded, and none showed a sign of overload."""
        if not self.multiplier or self.rate >= self.ceiling or now - self._cut_at < INCIDENT_S:
            return
        if self._grows_since is None:
            self._grows_since = now
        units = (now - self._grows_since) / UNIT_S
        steepness = SCALE * self.base
        turn = (self._peak * (1.0 - BETA) / steepness) ** (1 / 3) if self._peak > self.rate else 0.0
        curve = steepness * (units - turn) ** 3 + self._peak
        self.rate = max(self.rate, min(curve, self.ceiling, 2.0 * self.measured))
