"""Buffers for bytes under way, bounded in number: when all are in use, new reads wait.

Whoever took a buffer gives it back exactly once, on every path. The buffer given back last is lent first: it is the likeliest to be in
the processor's cache.
"""

from __future__ import annotations

import asyncio
import mmap
from collections import deque

from .pieces import MIB


class BufferPool:
    """Buffers of one size; at most ``limit`` bytes of them (but always two: one receives while the other is written)."""

    def __init__(self, limit: int, *, buffer_bytes: int = MIB) -> None:
        """limit, buffer_bytes: bytes."""
        self.buffer_bytes = buffer_bytes
        self._count_max = max(2, limit // buffer_bytes)
        self._count = 0  # made
        self._free: list[memoryview] = []
        self._waiting: deque[asyncio.Future[memoryview]] = deque()  # bounded by the streams, one each

    @property
    def in_use(self) -> int:
        """Buffers that are lent."""
        return self._count - len(self._free)

    def try_take(self) -> memoryview | None:
        """A buffer if one is to be had at once and nobody waits for it."""
        if self._free:
            return self._free.pop()
        if self._count < self._count_max:
            self._count += 1
            # Anonymous memory costs nothing until it is touched; a bytearray is zeroed whole, for a small file in vain.
            return memoryview(mmap.mmap(-1, self.buffer_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        return None

    async def take(self) -> memoryview:
        """A buffer, as soon as there is one; first come, first served."""
        buffer = self.try_take()
        if buffer is not None:
            return buffer
        future: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(future.result())
            raise

    def give(self, buffer: memoryview) -> None:
        """Return a buffer."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(buffer)
                return
        self._free.append(buffer)
