"""How many connections to one origin are worth having at once. Pure: takes ``now``, seconds.

Many connections help where each is slow. Where a few fill the line, or the processor that receives them, more only cost: system calls
for less data each, and a contiguous beginning of the file that lags behind, so that the digest ends later. So, once the rate of all is
high, the number is cut to a few on trial, and stays cut if they bring as much.

========= ========================================= =========
state     after                                     becomes
========= ========================================= =========
all       a window with FULL_RATE or more           trial
trial     TRIAL_S, less than KEPT of the rate       settled on all
trial     TRIAL_S, otherwise                        settled on few
========= ========================================= =========
"""

from __future__ import annotations

from typing import Final

FEW: Final = 4
FULL_RATE: Final = 400e6  # bytes/s; about what one event loop receives, writes and hashes with little left over
WINDOW_S: Final = 0.15
TRIAL_S: Final = 0.4
KEPT: Final = 0.85


class Concurrency:
    """The number of streams of one lane."""

    def __init__(self, most: int) -> None:
        """most: the configured number, used until fewer have proved enough."""
        self.limit = most
        self._most = most
        self._settled = most <= FEW
        self._began_s: float | None = None
        self._bytes = 0
        self._full_rate = 0.0  # of all streams together, before the trial; 0 outside of it

    def arrived(self, count: int, now: float) -> None:
        """So many bytes of big objects have come in."""
        if self._settled:
            return
        if self._began_s is None:
            self._began_s = now
            return
        self._bytes += count
        elapsed_s = now - self._began_s
        if elapsed_s < (TRIAL_S if self._full_rate else WINDOW_S):
            return
        rate = self._bytes / elapsed_s
        self._began_s, self._bytes = now, 0
        if self._full_rate:
            self._settled = True
            if rate < KEPT * self._full_rate:
                self.limit = self._most
        elif rate >= FULL_RATE:
            self._full_rate = rate
            self.limit = FEW
