"""Idle connections by route, and who may open how many.

The connection used last is taken first: its congestion window is warm, and those that are not needed grow old and are closed.
Requests beyond the bound of a host wait in the order they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from ..errors import ConnectFailed
from .connection import Connection
from .dial import Route


class _Slots:
    """The connections of one route: ``count`` slots are taken, by connections idle, in use or being opened."""

    __slots__ = ("count", "idle", "waiting")

    def __init__(self) -> None:
        self.count = 0
        self.idle: list[Connection] = []
        self.waiting: deque[asyncio.Future[Connection | None]] = deque()  # bounded by the tasks that call acquire


class Pool:
    """Lends connections. Whoever acquired one gives it back by ``release``, exactly once, on every path."""

    def __init__(
        self, dial: Callable[[Route], Awaitable[Connection]], *, connections_per_host: int, idle_s: float
    ) -> None:
        if connections_per_host < 1:
            raise ValueError("connections_per_host must be at least 1")
        self._dial = dial
        self._connections_per_host = connections_per_host
        self._idle_s = idle_s
        self._routes: dict[Route, _Slots] = {}
        self._all: set[Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open_count(self) -> int:
        """Connections that are open, idle ones included."""
        return len(self._all)

    async def acquire(self, route: Route) -> Connection:
        """A connection for one exchange: an idle one (its ``exchanges`` is not 0), a new one, or the next that is given back.

        Raises what dialling raises; ConnectFailed when the pool is closed meanwhile.
        """
        self._check_open(route)
        slots = self._routes.get(route)
        if slots is None:
            slots = self._routes[route] = _Slots()
        while slots.idle:
            connection = slots.idle.pop()
            if connection.is_open:
                return connection
            slots.count -= 1
        if slots.count < self._connections_per_host:
            slots.count += 1
        else:
            connection = await self._queue(route, slots)
            if connection is not None:
                return connection
        return await self._dial_in_slot(route)

    async def replace(self, route: Route, connection: Connection) -> Connection:
        """A fresh connection in the slot of one that turned out to be dead. Raises what dialling raises; the slot is then free."""
        connection.abort()
        return await self._dial_in_slot(route)

    def release(self, route: Route, connection: Connection) -> None:
        """Give a connection back. One that cannot be reused is closed and its slot goes to the next in the queue."""
        if self._closed or not connection.reusable:
            connection.abort()
            self._free(route)
            return
        slots = self._routes[route]
        loop = asyncio.get_running_loop()
        connection.rest(loop.time())
        if not self._hand_on(slots, connection):
            slots.idle.append(connection)
            if self._reaper is None:
                self._reaper = loop.call_later(self._idle_s, self._close_old)

    async def aclose(self) -> None:
        """Close every connection, in use or not, and wait until the sockets are gone. Those who wait in a queue get ConnectFailed."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for route, slots in self._routes.items():
            slots.idle.clear()
            for future in slots.waiting:
                if not future.done():
                    future.set_exception(ConnectFailed(route.label, cause="the client was closed"))
        connections = list(self._all)
        for connection in connections:
            connection.abort()
        if connections:
            await asyncio.wait([connection.closed for connection in connections])

    def _check_open(self, route: Route) -> None:
        if self._closed:
            raise ConnectFailed(route.label, cause="the client was closed")

    async def _dial_in_slot(self, route: Route) -> Connection:
        try:
            connection = await self._dial(route)
        except BaseException:
            self._free(route)
            raise
        self._all.add(connection)
        connection.closed.add_done_callback(lambda _: self._all.discard(connection))
        if self._closed:
            connection.abort()
            self._free(route)
            self._check_open(route)
        return connection

    async def _queue(self, route: Route, slots: _Slots) -> Connection | None:
        """Wait for a turn: a connection, or None for a slot to open one in."""
        future: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        slots.waiting.append(future)
        try:
            connection = await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                handed = future.result()  # a turn that comes with the cancellation goes to the next
                if handed is None:
                    self._free(route)
                else:
                    self.release(route, handed)
            raise
        return connection if connection is not None and connection.is_open else None

    def _hand_on(self, slots: _Slots, connection: Connection | None) -> bool:
        while slots.waiting:
            future = slots.waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return True
        return False

    def _free(self, route: Route) -> None:
        slots = self._routes[route]
        if self._hand_on(slots, None):
            return
        slots.count -= 1
        if slots.count == 0:
            del self._routes[route]

    def _close_old(self) -> None:
        self._reaper = None
        loop = asyncio.get_running_loop()
        oldest_s = loop.time() - self._idle_s
        next_s: float | None = None
        for route, slots in list(self._routes.items()):
            # The list is a stack: what was used longest ago lies at the bottom.
            while slots.idle and (not slots.idle[0].is_open or slots.idle[0].idle_since_s <= oldest_s):
                slots.idle.pop(0).abort()
                self._free(route)
            if slots.idle:
                next_s = slots.idle[0].idle_since_s if next_s is None else min(next_s, slots.idle[0].idle_since_s)
        if next_s is not None:
            self._reaper = loop.call_at(next_s + self._idle_s, self._close_old)
