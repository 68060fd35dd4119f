"""How much to read at once of bytes that others wait for: they are passed on only once they are written."""

from __future__ import annotations

from typing import Final

from .pieces import KIB, MIB

FILL_BYTES_MIN: Final = 64 * KIB
FILL_BYTES_MAX: Final = MIB
FILL_S: Final = 0.05
"""What comes in this time is read at once: every relay in a row adds as much to the way of a byte."""
SAMPLE_S: Final = 0.02


class FillSize:
    """How much to read at once: what comes in `FILL_S`, within bounds."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._count = 0
        self.bytes = FILL_BYTES_MIN

    def arrived(self, count: int, now: float) -> None:
        """So much has come."""
        self._count += count
        elapsed = now - self._since
        if elapsed >= SAMPLE_S or self._count >= 4 * FILL_BYTES_MAX:
            wanted = int(self._count / max(elapsed, 1e-6) * FILL_S)
            self.bytes = min(FILL_BYTES_MAX, max(FILL_BYTES_MIN, wanted))
            self._since, self._count = now, 0
        elif elapsed > 0 and self._count / elapsed * FILL_S > self.bytes:
            self.bytes = min(FILL_BYTES_MAX, 2 * self.bytes)
