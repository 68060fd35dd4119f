"""Who sends now, and how fast: a fixed number of slots, a short queue for newcomers, those who go on ahead of them; one shared rate.

A body holds a slot only while its bytes can move. While it waits for bytes that have not arrived here, or for a receiver that takes
nothing, somebody else sends: so neither slow receivers nor two agents that wait for each other can hold up the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from ...common.errors import Busy
from ..throttle import TokenBucket

TURN_S: Final = 0.1  # of the shared rate, what one body may take at a time


class UploadSlots:
    """Slots are handed over directly, oldest waiter first, so that nobody overtakes."""

    def __init__(self, count: int, *, queue_max: int) -> None:
        self._free = count
        self._queue_max = queue_max
        self._newcomers: deque[asyncio.Future[None]] = deque()  # bounded by queue_max
        self._returning: deque[asyncio.Future[None]] = deque()  # bounded by the connections

    @property
    def free(self) -> int:
        return self._free

    @property
    def waiting(self) -> int:
        return len(self._newcomers) + len(self._returning)

    async def take(self) -> None:
        """Return with a slot. Raises Busy when too many wait already; how long to wait is up to the caller."""
        if self._free:
            self._free -= 1
        elif len(self._newcomers) >= self._queue_max:
            raise Busy("upload slots", cause="all are taken, and so is the queue for them")
        else:
            await self._queue(self._newcomers)

    async def take_again(self) -> None:
        """Return with a slot for a body that has begun: ahead of the newcomers, and never refused."""
        if self._free:
            self._free -= 1
        else:
            await self._queue(self._returning)

    def give_back(self) -> None:
        """Let go of a slot."""
        for queue in (self._returning, self._newcomers):
            while queue:
                future = queue.popleft()
                if not future.done():
                    future.set_result(None)
                    return
        self._free += 1

    async def _queue(self, queue: deque[asyncio.Future[None]]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back()  # it came together with the cancellation
            else:
                queue.remove(future)
            raise


class UploadRate:
    """The bytes/s that all bodies share. Each pays before it sends, a tenth of a second's worth at a time, so that all get turns."""

    def __init__(
        self, rate: float, *, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """rate: bytes/s, 0 for no limit. clock gives seconds that never go back."""
        self._bucket = TokenBucket(rate)
        self._clock = clock
        self._sleep = sleep

    def set_rate(self, rate: float) -> None:
        """Bytes/s from now on, 0 for no limit."""
        self._bucket.set_rate(rate, self._clock())

    async def turn(self, count: int) -> int:
        """Return when bytes may be sent: how many, at most ``count``."""
        if not self._bucket.rate:
            return count
        count = max(1, min(count, int(self._bucket.rate * TURN_S)))
        delay_s = self._bucket.take(count, self._clock())
        if delay_s > 0:
            await self._sleep(delay_s)
        return count
