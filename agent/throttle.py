"""Waits until a host may be asked, as `gates.py` decides.

Requests to one host are let through in the order in which they came: the first one waits for the gate, the others for the first one.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from ..common.buckets import TokenBucket
from ..common.records import Answer, HostBudget, HostObservation
from .gates import BLOCK_S_MAX, HostGates

__all__ = ["BLOCK_S_MAX", "Throttle"]


async def pause(changed: asyncio.Event, wait_s: float) -> None:
    """Return after so many seconds, or when something changed."""
    try:
        async with asyncio.timeout(None if wait_s == math.inf else wait_s):
            await changed.wait()
    except TimeoutError:
        pass


class _Request:
    """One request that counts against its host's budget. A class of its own: a generator costs three times as much, for every URL."""

    __slots__ = ("_host", "_throttle")

    def __init__(self, throttle: Throttle, host: str) -> None:
        self._throttle = throttle
        self._host = host

    async def __aenter__(self) -> None:
        await self._throttle.request_begins(self._host)

    async def __aexit__(self, *_error: object) -> None:
        self._throttle.request_ends(self._host)


class Throttle:
    """The budgets of all hosts and of the agent's whole line."""

    def __init__(
        self,
        *,
        rate_limit: float,
        clock: Callable[[], float],
        pause: Callable[[asyncio.Event, float], Awaitable[None]] = pause,
    ) -> None:
        """rate_limit: bytes/s of the whole agent, 0 for none."""
        self._line = TokenBucket(rate_limit)
        self._clock = clock
        self._pause = pause
        self._gates = HostGates()
        self._queues: dict[str, deque[asyncio.Event]] = {}
        self.urgent: Callable[[], None] = lambda: None  # called when the fleet should hear of something at once

    # -- requests

    async def request_turn(self, host: str) -> None:
        """Return when one request may be sent to the host. It needs no connection of the share: it follows another one on its own,
        as after a redirect."""
        await self._turn(host, counted=False)

    def request(self, host: str) -> _Request:
        """Wait until one request may be sent to the host. While the block runs it counts among those that are under way."""
        return _Request(self, host)

    async def request_begins(self, host: str) -> None:
        """Return when one request may be sent to the host; whoever awaited it owes `request_ends`."""
        await self._turn(host, counted=True)

    def request_ends(self, host: str) -> None:
        """The request is no longer under way."""
        self._gates.done(host)
        self._stir(host)

    async def _turn(self, host: str, *, counted: bool) -> None:
        queue = self._queues.get(host)
        if queue is None and self._gates.ask(host, self._clock(), counted=counted) == 0:
            return
        queue = self._queues.setdefault(host, deque())
        changed = asyncio.Event()
        queue.append(changed)
        self._gates.wait_begins(host)
        self._press()
        try:
            while queue[0] is not changed:
                await changed.wait()
                changed.clear()
            while (wait_s := self._gates.ask(host, self._clock(), counted=counted)) > 0:
                await self._pause(changed, wait_s)
                changed.clear()
        finally:
            self._gates.wait_ends(host)
            queue.remove(changed)
            if queue:
                queue[0].set()
            else:
                del self._queues[host]

    def _stir(self, *hosts: str) -> None:
        """Let the first that waits for each of the hosts look again."""
        for host in hosts:
            queue = self._queues.get(host)
            if queue:
                queue[0].set()
        self._press()

    def _press(self) -> None:
        if self._gates.is_pressing:
            self.urgent()

    # -- bytes

    def bytes_rate(self, host: str) -> float:
        """The tighter of the limits in bytes/s that hold for the host; 0 for none."""
        received = self._gates.received(host)
        rates = (self._line.rate, received.rate if received is not None else 0.0)
        return min((rate for rate in rates if rate), default=0.0)

    def bytes_delay_s(self, host: str, count: int, now: float) -> float:
        """How long to wait before ``count`` bytes from the host are read."""
        received = self._gates.received(host)
        return max(self._line.take(count, now), received.take(count, now) if received is not None else 0.0)

    async def bytes_turn(self, host: str, count: int) -> None:
        """Return when ``count`` bytes from the host may be read."""
        delay_s = self.bytes_delay_s(host, count, self._clock())
        if delay_s > 0:
            await self._pause(asyncio.Event(), delay_s)

    def set_rate_limit(self, rate_limit: float) -> None:
        """Bytes/s of the whole agent from now on, 0 for none."""
        self._line.set_rate(rate_limit, self._clock())

    # -- shares

    def set_budgets(self, budgets: Iterable[HostBudget], now: float, version: int = 0) -> None:
        """Take this agent's shares from the coordinator."""
        self._stir(*self._gates.set_budgets(budgets, now, version))

    def renewed(self, until: float, now: float, *, anew: bool) -> None:
        """Leased shares hold until then. anew: a session begins."""
        self._gates.renewed(until, now, anew=anew)

    def versions(self, now: float) -> tuple[int, int]:
        """For a heartbeat: up to which version of Budgets the agent obeys, and up to which one its shares have run out."""
        return self._gates.versions(now)

    @property
    def obeyed(self) -> int:
        """For a Hello: the version of the last Budgets that were taken."""
        return self._gates.obeyed

    @property
    def is_pressing(self) -> bool:
        """Whether something should be told before the next heartbeat is due."""
        return self._gates.is_pressing

    def blocked_s(self, host: str, now: float) -> float:
        """For how long the host must still not be asked by its own word."""
        return self._gates.blocked_s(host, now)

    # -- what is met

    def seen(
        self,
        host: str,
        kind: Answer,
        *,
        status: int = 0,
        retry_after_s: float | None = None,
        latency_s: float = 0.0,
        crawl_delay_s: float = 0.0,
    ) -> None:
        """A request ended so. status: of HTTP, 0 if there was no answer. A wait that the host asks for is kept at once by all of this
        agent, and told to the fleet at once; the rest is told with the next heartbeat."""
        self._gates.seen(
            host,
            kind,
            self._clock(),
            status=status,
            retry_after_s=retry_after_s,
            latency_s=latency_s,
            crawl_delay_s=crawl_delay_s,
        )
        self._press()

    def answered(self, host: str) -> None:
        """The host gave a good answer."""
        self.seen(host, Answer.OK)

    def failed(self, host: str) -> None:
        """The host answered with an error, or not at all."""
        self.seen(host, Answer.ERROR)

    def throttled(self, host: str, retry_after_s: float, now: float) -> None:
        """The host asks to wait: nobody on this agent asks it before, and the fleet is told at once."""
        self._gates.seen(host, Answer.THROTTLED, now, retry_after_s=retry_after_s)
        self._press()

    def take_observations(self) -> tuple[HostObservation, ...]:
        """What was met since the last call, which is forgotten, and what waits now."""
        return self._gates.take_observations()
