"""Time limits of many requests at once, with one timer for all of them.

A timer a request is what `asyncio.timeout` would set, and move each time the request begins and ends to wait for the server: a tenth of
all the work for a small image. Here starting and stopping only note a time; the one timer stands at the earliest end that was
known when it was set, and looks again when it goes off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


class Stopwatches:
    """All stopwatches of one fetcher. Used from one event loop."""

    def __init__(self, limit_s: float) -> None:
        """limit_s: how long the server may be waited for, in all, for one request."""
        self._limit_s = limit_s
        self._running: set[Stopwatch] = set()  # bounded by the tasks that fetch
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, timer: asyncio.Timeout) -> Stopwatch:
        """A stopwatch that stands still; it ends ``timer``, which must have been entered, when the request's time is over."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return Stopwatch(self, timer, self._limit_s, self._loop)

    def close(self) -> None:
        """No timer is left in the loop. Stopwatches that still run never end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def started(self, watch: Stopwatch) -> None:
        """A stopwatch runs from now on."""
        self._running.add(watch)
        if self._timer is None:
            self._timer = watch.loop.call_at(watch.ends_s, self._look)
        elif watch.ends_s < self._timer.when():
            self._timer.cancel()
            self._timer = watch.loop.call_at(watch.ends_s, self._look)

    def stopped(self, watch: Stopwatch) -> None:
        """A stopwatch no longer runs."""
        self._running.discard(watch)

    def _look(self) -> None:
        self._timer = None
        assert self._loop is not None  # it set the timer
        now_s = self._loop.time()
        for watch in [watch for watch in self._running if watch.ends_s <= now_s]:
            self._running.discard(watch)
            watch.expire(now_s)
        if self._running:
            self._timer = self._loop.call_at(min(watch.ends_s for watch in self._running), self._look)


class Stopwatch:
    """The time of one request: runs while the server is the one who is waited for."""

    __slots__ = ("_left_s", "_timer", "_watches", "ends_s", "loop")

    def __init__(
        self, watches: Stopwatches, timer: asyncio.Timeout, limit_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._watches = watches
        self._timer = timer
        self._left_s = limit_s
        self.loop = loop
        self.ends_s = 0.0  # by the loop's clock, while it runs

    def start(self) -> None:
        """Run, with what is left of the time."""
        self.ends_s = self.loop.time() + self._left_s
        self._watches.started(self)

    def stop(self) -> None:
        """Stand still; what is left stays. Too late for one whose time was over: that has cancelled the task already."""
        self._watches.stopped(self)
        self._left_s = max(0.0, self.ends_s - self.loop.time())
        if self._timer.when() is not None and not self._timer.expired():
            self._timer.reschedule(None)

    async def waits(self, wait: Awaitable[None]) -> None:
        """Wait for something that the server has no part in."""
        self.stop()
        try:
            await wait
        finally:
            self.start()

    def expire(self, now_s: float) -> None:
        """The time is over."""
        self._timer.reschedule(now_s)
