"""The memory that bodies under way may take, shared by all batches of an agent.

What is known to fit is granted at once; what is not waits its turn. So that those who hold a part and wait for more cannot wait for
each other for ever, one of them, the *elder*, gets whatever it asks for until it is done: the bound is the limit and one body.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """Bytes under way, at most ``limit`` and what one share, the elder, has beyond. Used from one event loop."""

    def __init__(self, limit: int) -> None:
        """limit: bytes."""
        self._limit = limit
        self._used = 0
        self._elder: Share | None = None
        self._waiting: deque[tuple[Share, int, asyncio.Future[None]]] = deque()  # bounded by the tasks that fetch

    @property
    def used(self) -> int:
        """Bytes that are held now."""
        return self._used

    def share(self) -> Share:
        """A share of nothing yet; whoever asked for it closes it."""
        return Share(self)

    async def take(self, share: Share, count: int) -> None:
        """Add to a share as soon as there is room."""
        if not self._waiting and self._grant(share, count):
            return
        if self._elder is share:
            self._add(share, count)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, count, future))
        self._serve()
        try:
            await future
        except asyncio.CancelledError:
            self._waiting = deque(entry for entry in self._waiting if entry[2] is not future)
            self._serve()
            raise

    def give(self, share: Share, count: int, *, ends: bool) -> None:
        """Take from a share."""
        share.held -= count
        self._used -= count
        if ends and self._elder is share:
            self._elder = None
        self._serve()

    def _grant(self, share: Share, count: int) -> bool:
        if self._used + count > self._limit and self._elder is not share:
            if self._elder is not None:
                return False
            self._elder = share
        self._add(share, count)
        return True

    def _add(self, share: Share, count: int) -> None:
        share.held += count
        self._used += count

    def _serve(self) -> None:
        while self._waiting:
            share, count, future = self._waiting[0]
            if future.done():
                self._waiting.popleft()
            elif self._grant(share, count):
                self._waiting.popleft()
                future.set_result(None)
            else:
                return


class Share:
    """The bytes of one row under way."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    async def grow(self, count: int) -> None:
        """Take so many bytes more; waits while others hold too much."""
        await self._budget.take(self, count)

    def shrink(self, held: int) -> None:
        """Keep only so many bytes."""
        if held < self.held:
            self._budget.give(self, self.held - held, ends=False)

    def close(self) -> None:
        """Give all back. Safe to call twice."""
        self._budget.give(self, self.held, ends=True)
