"""How fast this agent may ask each origin host, and what the hosts say of it.

Buckets and host states are plain objects that take ``now``; only `Throttle.request_turn` and `Throttle.bytes_turn` wait. A
token bucket here lends: `take` always grants and says how long the taker must wait for it, so that takers are served in
order and a large take cannot starve.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from ..common.records import HostBudget, HostObservation

BLOCK_S_MAX: Final = 3600.0  # no host may stop us for longer with one answer: it is asked again after an hour
EVERY_HOST: Final = "*"  # the budget of this name holds for each host that has none of its own
_BURST_S: Final = 1.0  # an idle bucket saves up the tokens of so many seconds


class TokenBucket:
    """A rate with a burst of one second. Tokens are requests or bytes; a rate of 0 is unlimited."""

    __slots__ = ("_level", "_rate", "_updated_s")

    def __init__(self, rate: float = 0.0) -> None:
        """rate: tokens/s."""
        self._rate = rate
        self._level = max(rate * _BURST_S, 1.0)
        self._updated_s: float | None = None

    @property
    def rate(self) -> float:
        return self._rate

    def set_rate(self, rate: float, now: float) -> None:
        """Change the rate from now on. Debts stay; savings beyond the new burst are lost."""
        self._refill(now)
        if rate and not self._rate:
            self._level = max(rate * _BURST_S, 1.0)
        self._rate = rate
        self._refill(now)

    def take(self, count: float, now: float) -> float:
        """Take ``count`` tokens. Returns for how many seconds the taker must wait before it uses them."""
        if not self._rate:
            return 0.0
        self._refill(now)
        self._level -= count
        return max(0.0, -self._level / self._rate)

    def _refill(self, now: float) -> None:
        if self._updated_s is not None and now > self._updated_s:
            self._level += (now - self._updated_s) * self._rate
        self._updated_s = now if self._updated_s is None else max(now, self._updated_s)
        self._level = min(self._level, max(self._rate * _BURST_S, 1.0))


@dataclass(slots=True)
class HostState:
    """One origin host as this agent knows it."""

    requests: TokenBucket = field(default_factory=TokenBucket)
    received: TokenBucket = field(default_factory=TokenBucket)
    blocked_until_s: float = 0.0
    has_budget: bool = False  # of its own
    ok: int = 0
    throttled: int = 0
    errors: int = 0
    retry_after_s: float = 0.0


class Throttle:
    """The budgets of all hosts and of the agent's whole line."""

    def __init__(
        self,
        *,
        rate_limit: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """rate_limit: bytes/s of the whole agent, 0 for none."""
        self._line = TokenBucket(rate_limit)
        self._clock = clock
        self._sleep = sleep
        self._hosts: dict[str, HostState] = {}
        self._general: HostBudget | None = None
        self._met: set[str] = set()  # hosts with something to tell since the last take_observations
        self.urgent: Callable[[], None] = lambda: None  # called when the fleet should hear of a block at once

    # -- decisions

    def request_delay_s(self, host: str, now: float) -> float:
        """How long to wait before one request to the host. While the host is blocked nothing is taken from its budget."""
        state = self._state(host) if self._general is not None else self._hosts.get(host)
        if state is None:
            return 0.0
        if state.blocked_until_s > now:
            return state.blocked_until_s - now
        return state.requests.take(1, now)

    def bytes_rate(self, host: str) -> float:
        """The tighter of the limits in bytes/s that hold for the host; 0 for none."""
        state = self._hosts.get(host)
        rates = (self._line.rate, state.received.rate if state is not None else 0.0)
        return min((rate for rate in rates if rate), default=0.0)

    def bytes_delay_s(self, host: str, count: int, now: float) -> float:
        """How long to wait before ``count`` bytes from the host are read."""
        state = self._hosts.get(host)
        return max(self._line.take(count, now), state.received.take(count, now) if state is not None else 0.0)

    def blocked_s(self, host: str, now: float) -> float:
        """For how long the host must still not be asked."""
        state = self._hosts.get(host)
        return max(0.0, state.blocked_until_s - now) if state is not None else 0.0

    def set_budgets(self, budgets: Iterable[HostBudget], now: float) -> None:
        """Take this agent's shares from the coordinator. A block only ever grows here: the host's own word is the newer one."""
        for budget in budgets:
            if budget.host == EVERY_HOST:
                self._set_general(budget, now)
                continue
            state = self._state(budget.host)
            state.has_budget = True
            state.requests.set_rate(budget.requests_per_s, now)
            state.received.set_rate(budget.bytes_per_s, now)
            if budget.blocked_s > 0:
                state.blocked_until_s = max(state.blocked_until_s, now + budget.blocked_s)

    def _set_general(self, budget: HostBudget, now: float) -> None:
        """The budget of each host that has none of its own."""
        self._general = budget
        for state in self._hosts.values():
            if not state.has_budget:
                state.requests.set_rate(budget.requests_per_s, now)
                state.received.set_rate(budget.bytes_per_s, now)

    def answered(self, host: str) -> None:
        """The host gave a good answer."""
        self._state(host).ok += 1
        self._met.add(host)

    def failed(self, host: str) -> None:
        """The host answered with an error, or not at all."""
        self._state(host).errors += 1
        self._met.add(host)

    def throttled(self, host: str, retry_after_s: float, now: float) -> None:
        """The host asks to wait: nobody on this agent asks it before, and the fleet is told at once."""
        wait_s = min(max(retry_after_s, 0.0), BLOCK_S_MAX)
        state = self._state(host)
        state.throttled += 1
        state.retry_after_s = max(state.retry_after_s, wait_s)
        state.blocked_until_s = max(state.blocked_until_s, now + wait_s)
        self._met.add(host)
        self.urgent()

    def take_observations(self) -> tuple[HostObservation, ...]:
        """What was met since the last call, and forget it."""
        found: list[HostObservation] = []
        for host in sorted(self._met):
            state = self._hosts[host]
            found.append(
                HostObservation(
                    host=host,
                    ok=state.ok,
                    throttled=state.throttled,
                    errors=state.errors,
                    retry_after_s=state.retry_after_s,
                )
            )
            state.ok = state.throttled = state.errors = 0
            state.retry_after_s = 0.0
        self._met.clear()
        return tuple(found)

    # -- waiting

    async def request_turn(self, host: str) -> None:
        """Return when one request may be sent to the host."""
        while (delay_s := self.request_delay_s(host, self._clock())) > 0:
            blocked = self.blocked_s(host, self._clock()) > 0
            await self._sleep(delay_s)
            if not blocked and self.blocked_s(host, self._clock()) == 0:
                return  # the token is ours; a host that was blocked meanwhile is waited for again

    async def bytes_turn(self, host: str, count: int) -> None:
        """Return when ``count`` bytes from the host may be read."""
        delay_s = self.bytes_delay_s(host, count, self._clock())
        if delay_s > 0:
            await self._sleep(delay_s)

    def _state(self, host: str) -> HostState:
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = HostState()
            if self._general is not None:
                state.requests = TokenBucket(self._general.requests_per_s)
                state.received = TokenBucket(self._general.bytes_per_s)
        return state
