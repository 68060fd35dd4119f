"""Pacing of bytes, as arithmetic over a clock that is passed in."""

from __future__ import annotations

BURST_BYTES = 64 * 1024  # what an idle connection may send at once: about one TCP window of a slow line
CATCH_UP_S = 0.1  # how much lateness (a busy machine, a reader that paused) a body may make up for


class Pacer:
    """Spreads bytes over time: each piece gets the delay after which it may be sent.

    The virtual scheduling form of the leaky bucket (ITU-T I.371, GCRA). Rates come with each call, because tests change
    them while a body is under way.
    """

    def __init__(self) -> None:
        self._free_at: float | None = None

    def begin(self, *, rate: float, now: float) -> None:
        """Starts a body at ``rate`` bytes/s: credit from idle time is worth at most BURST_BYTES."""
        floor = now - BURST_BYTES / rate
        self._free_at = floor if self._free_at is None else max(self._free_at, floor)

    def take(self, size: int, *, rate: float, now: float) -> float:
        """The seconds to wait before ``size`` more bytes may go out."""
        free_at = now if self._free_at is None else max(self._free_at, now - CATCH_UP_S - BURST_BYTES / rate)
        self._free_at = free_at + size / rate
        return max(0.0, self._free_at - now)


def piece_bytes(rate: float | None, *, largest: int) -> int:
    """How much to write at once under ``rate`` (bytes/s; None: no limit): about 50 ms worth, at most one burst."""
    return largest if rate is None else max(1, min(BURST_BYTES, int(rate * 0.05)))
