"""Host budgets: how fast the whole fleet may ask one origin host, shared out to the agents.

A host's budget is one, however many agents there are: each agent gets an equal share of the rates, and a wait that the host asked
of one agent (429, or 503 with Retry-After) holds for all. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...common.records import HostBudget, HostObservation

RETRY_AFTER_MAX_S = 24 * 3600.0
THROTTLED_FIRST_S = 1.0  # a throttling answer that names no wait: begin with this, double at every further one
THROTTLED_MAX_S = 300.0
EVERY_HOST = "*"
"""The name whose policy holds for all hosts that have none of their own."""
FORGIVEN_AFTER_S = 60.0  # so long without a throttling answer, and the doubling begins anew


@dataclass(slots=True, kw_only=True)
class HostState:
    """What is known of a host. Rates of 0 are unlimited; they are the whole fleet's."""

    host: str
    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0
    blocked_until: float = 0.0
    throttled_at: float = float("-inf")
    streak: int = 0  # throttling answers without a named wait, in a row
    ok: int = 0
    throttled: int = 0
    errors: int = 0


class HostTable:
    """All origin hosts that the fleet has met or that have a policy."""

    def __init__(self) -> None:
        self._hosts: dict[str, HostState] = {}

    def set_policy(self, host: str, requests_per_s: float, bytes_per_s: float) -> None:
        """Limit the fleet's rate at a host, or at each that has no policy of its own (`EVERY_HOST`); 0 is no policy.

        Raises ValueError for a negative rate.
        """
        if requests_per_s < 0 or bytes_per_s < 0:
            raise ValueError("a rate is 0 (unlimited) or positive")
        state = self._state(host)
        state.requests_per_s, state.bytes_per_s = requests_per_s, bytes_per_s

    def observe(self, observation: HostObservation, now: float) -> bool:
        """Take in what an agent met. Returns whether the host is blocked for longer than before."""
        state = self._state(observation.host)
        state.ok += observation.ok
        state.throttled += observation.throttled
        state.errors += observation.errors
        if not observation.throttled and not observation.retry_after_s:
            if now - state.throttled_at > FORGIVEN_AFTER_S:
                state.streak = 0
            return False
        if observation.retry_after_s > 0:
            wait_s = min(observation.retry_after_s, RETRY_AFTER_MAX_S)
        elif now < state.blocked_until:
            return False  # the same incident, seen by another agent
        else:
            state.streak += 1
            wait_s = min(THROTTLED_MAX_S, THROTTLED_FIRST_S * 2 ** min(state.streak - 1, 16))
        state.throttled_at = now
        if now + wait_s <= state.blocked_until:
            return False
        state.blocked_until = now + wait_s
        return True

    def budgets(self, agents: int, now: float, hosts: Iterable[str] | None = None) -> tuple[HostBudget, ...]:
        """The share of each of so many agents in the hosts that are limited or blocked (or in those named)."""
        chosen = self._hosts.values() if hosts is None else [self._state(host) for host in hosts]
        share = max(1, agents)
        general = self._hosts.get(EVERY_HOST) or HostState(host=EVERY_HOST)
        return tuple(
            HostBudget(
                host=state.host,
                requests_per_s=(state.requests_per_s or general.requests_per_s) / share,
                bytes_per_s=(state.bytes_per_s or general.bytes_per_s) / share,
                blocked_s=max(0.0, state.blocked_until - now),
            )
            for state in chosen
            if hosts is not None or state.requests_per_s or state.bytes_per_s or state.blocked_until > now
        )

    def states(self) -> list[HostState]:
        """All hosts, by name."""
        return [self._hosts[name] for name in sorted(self._hosts)]

    @property
    def limited(self) -> bool:
        """Whether any host has a rate, so that shares change with the number of agents."""
        return any(state.requests_per_s or state.bytes_per_s for state in self._hosts.values())

    def _state(self, host: str) -> HostState:
        return self._hosts.setdefault(host, HostState(host=host))
