"""When a process that ended is started again. Pure: it is told what happened and when, and says what to do.

::

    start ─► STARTING ── ready ──► RUNNING ── ended ──► WAITING ── the wait is over ──► STARTING
                │ ended, never ready before: the first start failed ─► FAILED (everything stops)
                └ ended, ready before ─► WAITING
    any state ── stop ──► STOPPING ── ended ──► ENDED

The wait doubles with each end in a row, from FIRST_WAIT_S to WAIT_MAX_S; a process that ran for STEADY_S has ended for the first
time again.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass

from ..common.retry import Backoff

FIRST_WAIT_S = 0.5
WAIT_MAX_S = 30.0
STEADY_S = 60.0
_BACKOFF = Backoff(initial_s=FIRST_WAIT_S, max_s=WAIT_MAX_S)


class ChildState(enum.Enum):
    """Where a child is; the transitions stand above."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(slots=True)
class ChildLife:
    """The life of one child. Times are seconds of one clock that only goes forward."""

    name: str
    state: ChildState = ChildState.WAITING
    started_at: float = 0.0
    restart_at: float = 0.0
    starts: int = 0
    was_ready: bool = False
    _ends_in_a_row: int = 0

    def started(self, now: float) -> None:
        """It was started."""
        self.starts += 1
        self.state, self.started_at = ChildState.STARTING, now

    def ready(self) -> None:
        """It does its work."""
        self.was_ready = True
        if self.state is ChildState.STARTING:
            self.state = ChildState.RUNNING

    def ended(self, now: float) -> float | None:
        """It ended. Returns the seconds until it is to be started again; None when it is not."""
        if self.state is ChildState.STOPPING:
            self.state = ChildState.ENDED
            return None
        if not self.was_ready:
            self.state = ChildState.FAILED
            return None
        self._ends_in_a_row = 1 if now - self.started_at >= STEADY_S else self._ends_in_a_row + 1
        wait_s = _BACKOFF.ceiling_s(self._ends_in_a_row)
        self.state, self.restart_at = ChildState.WAITING, now + wait_s
        return wait_s

    def stop(self) -> None:
        """It is to end, and not to be started again."""
        alive = self.state in (ChildState.STARTING, ChildState.RUNNING)
        self.state = ChildState.STOPPING if alive else ChildState.ENDED

    def is_due(self, now: float) -> bool:
        """Whether it is to be started now."""
        return self.state is ChildState.WAITING and now >= self.restart_at


def how_it_ended(exit_code: int) -> str:
    """An exit code, negative for a signal, in words."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"
