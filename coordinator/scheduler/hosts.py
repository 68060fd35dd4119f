"""Host budgets: how fast the whole fleet may ask one origin host, given out to the agents as shares.

A host's budget is one, however many agents there are. This table knows what is allowed (policies, what a dataset job asks for, the
rate that adapts itself), how each host is (`conduct.py`), and who needs it; it works out who should have which share and lets the
`ShareBook` bring that about without ever giving out more than there is. Only what changed is looked at again (`_dirty`).

Who is told of a host: one with a policy, every agent, because any download may lead there; one that only a dataset job asks for, the
agents that want it. A host that has neither is asked as fast as it bears; what it asks of one agent (a wait) is told to all.

Pure: no I/O, no clock; the random generator is passed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from random import Random
from typing import Final

from ...common.records import Budgets, HostBudget, HostObservation
from ...common.views import HostCondition as Condition
from .host_state import EVERY_HOST, RESHARE_BY, TURN_S, Adopted, HostStanding, HostState
from .portions import NOTHING, Portion
from .shares import ShareBook

PROBE_IDLE_S: Final = 45.0
"""A probe that says nothing for so long, of an agent that waits for nothing, goes to another one; longer than a request may take."""
_OPEN: Final = HostStanding()

__all__ = ["EVERY_HOST", "Condition", "HostState", "HostTable", "HostStanding"]


class HostTable:
    """All origin hosts that the fleet has met or that have a policy."""

    def __init__(self, *, incarnation: int = 1, share_s: float = 20.0, rng: Random | None = None) -> None:
        """share_s: how long a share holds after its agent's word. rng: for the jitter of waits; unless given, the incarnation's."""
        self._incarnation = incarnation
        self._rng = rng or Random(incarnation)
        self._hosts: dict[str, HostState] = {}
        self._everyones: dict[str, None] = {}  # hosts that each agent is told of
        self._agents: dict[str, None] = {}  # those that are connected
        self._wants: dict[str, set[str]] = {}  # hosts by agent
        self._blocked: dict[str, None] = {}  # hosts that nobody has shares of and that asked to wait
        self._dirty: dict[str, None] = {}
        self._news: dict[str, None] = {}
        self._timers: list[tuple[float, str]] = []
        self._shares = ShareBook(incarnation=incarnation, share_s=share_s)
        self._unsettled = 2 if incarnation > 1 else 0  # shares of earlier incarnations, and requests that they allowed

    # ---- what is allowed --------------------------------------------------------------------------------------------

    def set_policy(self, host: str, requests_per_s: float, bytes_per_s: float, connections: int = 0) -> None:
        """Limit the fleet's rates at a host, or at each that has no policy of its own (`EVERY_HOST`); 0 is no limit.

        Raises ValueError for a negative limit.
        """
        if requests_per_s < 0 or bytes_per_s < 0 or connections < 0:
            raise ValueError("a limit is 0 (unlimited) or positive")
        state = self._state(host)
        was_everyones = state.is_everyones
        state.requests_per_s, state.bytes_per_s, state.connections = requests_per_s, bytes_per_s, connections
        state.settle(self._general(state))
        if state.is_limited or state.has_policy:
            state.has_policy = True
            self._now_everyones(state, was_everyones)
        if host == EVERY_HOST:
            self._dirty.update(self._everyones)

    def adopt(
        self,
        host: str,
        *,
        rate: float,
        rate_multiplier: float,
        connections: int,
        backoff_initial_s: float,
        backoff_cap_s: float,
    ) -> None:
        """Take a dataset job's values for a host. Where an administrator or the configuration set a limit, that one holds.

        rate: requests/s, 0 for no limit; connections: requests at once. The last job's values hold.
        """
        state = self._state(host)
        state.adopted = Adopted(
            rate=rate,
            rate_multiplier=rate_multiplier,
            connections=connections,
            backoff_initial_s=backoff_initial_s,
            backoff_cap_s=backoff_cap_s,
        )
        state.settle(self._general(state))
        self._dirty[host] = None

    def want(self, agent_id: str, host: str) -> None:
        """The agent got work on the host: it needs a share. Each `want` is ended by one `unwant`."""
        state = self._state(host)
        state.wanted[agent_id] = state.wanted.get(agent_id, 0) + 1
        if state.wanted[agent_id] == 1:
            self._wants.setdefault(agent_id, set()).add(host)
            state.tell.add(agent_id)
            self._dirty[host] = None

    def unwant(self, agent_id: str, host: str) -> None:
        """A piece of the agent's work on the host ended."""
        state = self._state(host)
        left = state.wanted.get(agent_id, 0) - 1
        if left > 0:
            state.wanted[agent_id] = left
            return
        state.wanted.pop(agent_id, None)
        state.used_at.pop(agent_id, None)
        self._wants.get(agent_id, set()).discard(host)
        self._dirty[host] = None

    def agents_max(self, host: str) -> int:
        """How many agents may work on the host at once: with more, shares would be too small to be used."""
        state = self._hosts.get(host)
        return HostState(host=host).agents_max(Portion()) if state is None else state.agents_max(self._whole(state))

    def usable(self, host: str, now: float) -> bool:
        """Whether work on the host may be granted now: it is open, or nobody is there who could probe it."""
        state = self._hosts.get(host)
        if state is None or state.conduct.condition is Condition.OPEN:
            return True
        return now >= state.conduct.blocked_until and not any(
            self._shares.reachable(agent_id, now) for agent_id in state.wanted
        )

    def state_of(self, host: str) -> HostStanding:
        """How a host is."""
        state = self._hosts.get(host)
        if state is None:
            return _OPEN
        conduct = state.conduct
        return HostStanding(
            condition=conduct.condition,
            blocked_until=conduct.blocked_until,
            last_status=conduct.last_status,
            in_trouble_since=conduct.in_trouble_since,
        )

    def known(self, host: str) -> HostState | None:
        """A host that was met or has a limit."""
        return self._hosts.get(host)

    def states(self) -> list[HostState]:
        """All hosts, by name."""
        return [self._hosts[name] for name in sorted(self._hosts)]

    def take_news(self) -> list[HostState]:
        """Hosts that came into trouble or out of it since the last call, for the log; longer waits of one trouble are no news."""
        news, self._news = self._news, {}
        return [self._hosts[host] for host in news]

    def whole(self, state: HostState) -> Portion:
        """A host's budget as it is given out now."""
        return self._whole(state)

    def holders(self, host: str) -> Iterator[tuple[str, Portion]]:
        """Agents and their shares."""
        return self._shares.holders(host)

    # ---- agents -----------------------------------------------------------------------------------------------------

    def joined(self, agent_id: str, version: int, now: float) -> None:
        """An agent's session began; version is that of the Budgets that it obeys."""
        self._shares.begin(now)
        freed = self._shares.join(agent_id, version, now)
        self._dirty.update(dict.fromkeys(freed))
        self._agents[agent_id] = None
        self._refresh(agent_id)
        self._members_changed()

    def heard(self, agent_id: str, confirmed: int, lapsed: int, now: float) -> None:
        """A heartbeat came: its agent obeys Budgets up to the one version, and uses no share of those up to the other."""
        if agent_id not in self._agents:
            return
        was_silent = not self._shares.reachable(agent_id, now)
        freed = self._shares.heard(agent_id, confirmed, lapsed, now)
        self._dirty.update(dict.fromkeys(freed))
        if was_silent:
            self._refresh(agent_id)

    def parted(self, agent_id: str, now: float) -> None:
        """An agent's session broke."""
        if agent_id in self._agents:
            del self._agents[agent_id]
            self._forget_demand(agent_id, self._shares.part(agent_id))

    def left(self, agent_id: str, now: float) -> None:
        """An agent ended, and asks nothing any more."""
        if agent_id in self._agents:
            del self._agents[agent_id]
            self._forget_demand(agent_id, self._shares.leave(agent_id))

    def observe(self, agent_id: str, seen: HostObservation, now: float) -> None:
        """Take in what an agent met."""
        state = self._state(seen.host)
        had_waited = agent_id in state.used_at
        general = self._hosts.get(EVERY_HOST)
        if state.count(seen, agent_id, now) and not state.is_shared and general is not None:
            general.used_at[agent_id] = now
        if seen.crawl_delay_s and seen.crawl_delay_s != state.crawl_delay_s:
            state.crawl_delay_s = seen.crawl_delay_s
            self._dirty[seen.host] = None
        if state.conduct.observe(seen, now, self._rng, is_shared=state.is_shared):
            self._condition_changed(state, now)
        if seen.throttled or seen.timeouts or seen.retry_after_s:
            state.pace.cut(now)
        elif seen.ok and state.conduct.condition is Condition.OPEN:
            state.pace.succeeded(now)
        is_news = seen.waiting and (not had_waited or state.conduct.may_probe(now))
        if state.is_shared and (is_news or abs(state.rate() - state.shared_rate) > RESHARE_BY * state.shared_rate):
            self._dirty[seen.host] = None

    # ---- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time passed: shares run out, waits end."""
        self._shares.begin(now)
        self._dirty.update(dict.fromkeys(self._shares.due(now)))
        while self._timers and self._timers[0][0] <= now:
            _, host = heapq.heappop(self._timers)
            self._dirty[host] = None
            if self._hosts[host].conduct.pass_time(now, is_shared=self._hosts[host].is_shared):
                self._blocked.pop(host, None)
                self._note_news(self._hosts[host])
        while self._unsettled and now >= self._shares.known_from(connections=self._unsettled == 1):
            self._unsettled -= 1
            self._dirty.update(dict.fromkeys(self._hosts))

    def take_budgets(self, now: float) -> list[tuple[str, Budgets]]:
        """Share out anew what changed. Returns the messages to agents."""
        self.tick(now)
        dirty, self._dirty = self._dirty, {}
        for host in dirty:
            self._share(self._hosts[host], now)
        return self._shares.take_messages()

    def next_wakeup(self) -> float:
        """When `tick` is due again; infinity for never."""
        soonest = min(self._shares.next_due(), self._timers[0][0] if self._timers else float("inf"))
        if self._unsettled:
            soonest = min(soonest, self._shares.known_from(connections=self._unsettled == 1))
        return soonest

    # ---- within -----------------------------------------------------------------------------------------------------

    def _state(self, host: str) -> HostState:
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = HostState(host=host)
        return state

    def _general(self, state: HostState) -> HostState | None:
        return self._hosts.get(EVERY_HOST) if state.host != EVERY_HOST else None

    def _whole(self, state: HostState) -> Portion:
        return state.whole(self._general(state))

    def _refresh(self, agent_id: str) -> None:
        """Tell an agent of everything that concerns it."""
        wanted = self._wants.get(agent_id, ())
        for host in (*self._everyones, *self._blocked, *wanted, *self._shares.hosts_of(agent_id)):
            self._hosts[host].tell.add(agent_id)
            self._dirty[host] = None

    def _members_changed(self) -> None:
        self._dirty.update(self._everyones)

    def _forget_demand(self, agent_id: str, hosts: set[str]) -> None:
        for host in (*hosts, *self._wants.get(agent_id, ())):
            self._hosts[host].waiting.pop(agent_id, None)
            self._hosts[host].used_at.pop(agent_id, None)
            self._dirty[host] = None
        self._members_changed()

    def _now_everyones(self, state: HostState, was_everyones: bool) -> None:
        self._everyones[state.host] = None
        self._dirty[state.host] = None
        if not was_everyones:
            if state.host != EVERY_HOST:
                self._shares.inherit(state.host, EVERY_HOST)
            state.tell.update(self._agents)

    def _condition_changed(self, state: HostState, now: float) -> None:
        self._dirty[state.host] = None
        self._note_news(state)
        conduct = state.conduct
        general = self._hosts.get(EVERY_HOST)
        if conduct.condition is Condition.OPEN:
            state.pace.reopened(now)
            return
        if not state.is_shared and general is not None and general.is_limited:
            state.inherits = True
            self._now_everyones(state, was_everyones=False)
        if conduct.blocked_until > now:
            heapq.heappush(self._timers, (conduct.blocked_until, state.host))
            if not state.is_shared:
                self._blocked[state.host] = None
                state.tell.update(self._agents)

    def _note_news(self, state: HostState) -> None:
        is_open = state.conduct.condition is Condition.OPEN
        if is_open is not state.was_open:
            state.was_open = is_open
            self._news[state.host] = None

    def _share(self, state: HostState, now: float) -> None:
        told, state.tell = state.tell, set[str]()
        blocked_s = max(0.0, state.conduct.blocked_until - now)
        if not state.is_shared:
            for agent_id in told:
                self._shares.tell(agent_id, HostBudget(host=state.host, blocked_s=blocked_s))
            return
        state.settle(self._general(state))
        whole, host = self._whole(state), state.host
        if self._shares.unknown(whole, now):
            self._shares.offer(host, whole, {}, now, tell=told, blocked_s=blocked_s)
        elif state.conduct.condition is Condition.OPEN:
            slots = state.agents_max(whole)
            holders = [agent_id for agent_id, _ in self._shares.holders(host)]
            chosen = state.choose(slots, holders, self._agents, now)
            chosen = [agent_id for agent_id in chosen if self._shares.reachable(agent_id, now)]
            self._shares.offer(host, whole, state.targets(whole, chosen), now, tell=told)
            if len(state.wanted) + len(state.used_at) > slots < len(self._agents) and state.turn_at <= now:
                state.turn_at = now + TURN_S
                heapq.heappush(self._timers, (state.turn_at, host))
        else:
            self._share_in_trouble(state, whole, told, blocked_s, now)

    def _share_in_trouble(self, state: HostState, whole: Portion, told: set[str], blocked_s: float, now: float) -> None:
        """Nobody gets anything, but for one who probes."""
        conduct, host = state.conduct, state.host
        if conduct.permit and conduct.prober not in {agent_id for agent_id, _ in self._shares.holders(host)}:
            conduct.lose_probe()
        if conduct.permit and conduct.prober not in told:
            is_idle = now - state.probed_at >= PROBE_IDLE_S and conduct.prober not in state.waiting
            if not is_idle:
                for agent_id in told:
                    self._shares.tell(agent_id, NOTHING.budget(host, blocked_s=blocked_s))
                return
        conduct.lose_probe()
        self._shares.offer(host, whole, {}, now, tell=told, blocked_s=blocked_s)
        if not conduct.may_probe(now):
            return
        waiting = (*state.waiting, *state.wanted)
        prober = next((agent_id for agent_id in waiting if self._shares.reachable(agent_id, now)), None)
        if prober is None:
            return
        conduct.permit, wait_s = self._shares.offer_probe(host, whole, prober, now)
        if wait_s and wait_s < float("inf"):
            heapq.heappush(self._timers, (now + wait_s, host))
        if conduct.permit:
            conduct.prober, state.probed_at = prober, now
            if prober in state.waiting:
                state.waiting[prober] = state.waiting.pop(prober)  # to the end: another one is next
            heapq.heappush(self._timers, (now + PROBE_IDLE_S, host))
