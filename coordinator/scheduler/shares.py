"""Leased shares: who may spend how much of a host's budget, until when.

A host's budget is one for the whole fleet. Agents spend it without asking for each request, so each gets a *portion* that is its own
for a while. What must hold is that the portions that may be in force anywhere never add up to more than the budget. Agents can be
cut off, frozen or dead, and words can be late, so the coordinator counts as in force what it cannot know to be over:

    (none) --put--> current --put--> older --confirm, expire--> (none)
                    current --expire, lapse--> (none)

* `put` tells an agent a new portion, in a message with a version that only grows. The portion before it stays counted (*older*) until
  the agent says that it obeys that version (with every heartbeat), or until it has certainly run out. So a portion can be lowered at
  once, and is raised only by what nobody else may still spend.
* A share runs out by itself `share_s` after the agent **sent** the last word that the coordinator answered. The coordinator counts from
  when it **received** the last word, which is later, and adds a margin for clocks that do not run alike. So the agent always stops
  first (leases: C. Gray and D. Cheriton, SOSP 1989).
* An agent that let its shares run out says so (`lapsed_version`), and uses none of them again whatever is answered to it later.
* A message belongs to a session, whose messages arrive in order or not at all. So after a reconnect, what was told and not confirmed
  never arrives.

In any interval the fleet then asks at most ``rate * t + burst``: at each moment the rates in force add up to at most the rate; what was
saved up when the interval began is at most the sum of the bursts in force then; and who gets a share within it begins empty. So that
the first one need not begin empty, what is not given out is a bucket, too (`reserve`): it fills at the rate that nobody has, and a new
share may begin with what is in it (hierarchical token buckets, as in Linux' HTB).

After a restart the shares of the earlier incarnation are not known. Nothing is given out until they have run out.

Pure: no I/O, no clock. Rates are requests/s and bytes/s, times seconds of a monotonic clock; infinity is no limit.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ...common.buckets import TokenBucket
from ...common.records import Budgets, HostBudget
from .portions import NOTHING, PROBE, Ledger, Portion, Values

VERSIONS_PER_INCARNATION = 1 << 32
CLOCK_DRIFT = 0.01
"""Two machines' clocks run alike within this: NTP slews by 0.05 % at most, oscillators differ by less."""
MARGIN_S = 1.0
LINGER_S = 30.0
"""A request that was under way when its agent's share ran out may last so much longer (`collect.request_timeout`)."""


@dataclass(slots=True)
class _Older:
    """A portion that was replaced, and may still be in force."""

    portion: Portion
    version: int
    until: float
    replaced: int | None  # the version whose confirmation ends it; None: its agent was not told yet


@dataclass(slots=True)
class _Holding:
    """What one agent may spend of one host."""

    current: Portion = NOTHING
    version: int = 0
    older: list[_Older] = field(default_factory=list[_Older])

    @property
    def is_empty(self) -> bool:
        return not self.older and self.current == NOTHING

    def counted(self) -> Values:
        """The most that may be in force, each value by itself."""
        if not self.older:
            return self.current.values
        rows = [self.current.values, *(one.portion.values for one in self.older)]
        return (max(r[0] for r in rows), max(r[1] for r in rows), max(r[2] for r in rows), max(r[3] for r in rows))


@dataclass(slots=True)
class Shared:
    """One host's budget as it is given out."""

    holdings: dict[str, _Holding] = field(default_factory=dict[str, _Holding])  # by agent
    reserve: TokenBucket | None = None  # None: the host has had no rate yet
    is_short: bool = False  # somebody was given less than was meant for it: try again when something is over


@dataclass(slots=True)
class _Member:
    """An agent."""

    heard_at: float
    connected: bool = True
    version: int = 0  # of the last message to it
    pending: deque[tuple[int, str]] = field(default_factory=deque[tuple[int, str]])  # versions to be confirmed
    hosts: set[str] = field(default_factory=set[str])


class ShareBook:
    """All shares of all hosts."""

    def __init__(self, *, incarnation: int, share_s: float) -> None:
        """share_s: how long a share holds after its agent's word."""
        self.hold_s = share_s * (1 + CLOCK_DRIFT) + MARGIN_S
        self._version = incarnation * VERSIONS_PER_INCARNATION
        self._is_first = incarnation <= 1
        self._begun_at: float | None = None
        self._hosts: dict[str, Shared] = {}
        self._members: dict[str, _Member] = {}
        self._order: OrderedDict[str, None] = OrderedDict()  # agents with shares; whoever was heard last is last
        self._ends: list[tuple[float, str, str]] = []  # (when, host, agent) of older portions
        self._batch: dict[str, tuple[int, list[HostBudget]]] = {}

    def begin(self, now: float) -> None:
        """The first event of this incarnation: what an earlier one gave out may be in force from now on for a share's life."""
        if self._begun_at is None:
            self._begun_at = now

    def known_from(self, *, connections: bool) -> float:
        """From when on nothing of an earlier incarnation is in force; with connections: nor under way."""
        if self._is_first or self._begun_at is None:
            return self._begun_at or 0.0
        return self._begun_at + self.hold_s + (LINGER_S if connections else 0.0)

    def unknown(self, whole: Portion, now: float) -> bool:
        """Whether a part of the budget may be spent by shares of an earlier incarnation."""
        return whole.is_limited and now < self.known_from(connections=whole.connections < math.inf)

    # ---- agents -----------------------------------------------------------------------------------------------------

    def join(self, agent_id: str, version: int, now: float) -> set[str]:
        """A session began. version is what the agent obeys; 0: it is a new process, and what an older one had is over.

        Returns the hosts that something became free of.
        """
        hosts = self.part(agent_id)
        for host in hosts:
            holding = self._hosts[host].holdings[agent_id]
            if version == 0:
                holding.older.clear()
            else:
                holding.older = [
                    one for one in holding.older if one.version <= version and (one.replaced or math.inf) > version
                ]
        member = self._members.setdefault(agent_id, _Member(heard_at=now))
        member.heard_at, member.connected = now, True
        for host in hosts:
            self._drop_if_empty(host, agent_id)
        return hosts

    def heard(self, agent_id: str, confirmed: int, lapsed: int, now: float) -> set[str]:
        """A heartbeat came. Returns the hosts that something became free of."""
        member = self._members[agent_id]
        member.heard_at = now
        if agent_id in self._order:
            self._order.move_to_end(agent_id)
        freed: set[str] = set()
        while member.pending and member.pending[0][0] <= confirmed:
            _, host = member.pending.popleft()
            holding = self._hosts[host].holdings.get(agent_id)
            if holding is not None:
                holding.older = [one for one in holding.older if (one.replaced or math.inf) > confirmed]
                self._drop_if_empty(host, agent_id)
                freed.add(host)
        if lapsed:
            freed |= self._lapse(agent_id, member, lapsed, now)
        return freed

    def part(self, agent_id: str) -> set[str]:
        """A session ended. Its agent spends its shares until they run out, or comes back. Returns its hosts."""
        member = self._members.get(agent_id)
        if member is None:
            return set()
        member.connected = False
        member.pending.clear()
        self._order.pop(agent_id, None)
        for host in member.hosts:
            holding = self._hosts[host].holdings[agent_id]
            if holding.current != NOTHING:
                self._count_older(host, agent_id, holding, None, member.heard_at + self.hold_s)
                holding.current, holding.version = NOTHING, 0
        hosts = set(member.hosts)
        if not hosts:
            del self._members[agent_id]
        return hosts

    def leave(self, agent_id: str) -> set[str]:
        """An agent ended on purpose: it asks nothing any more. Returns its hosts."""
        self._order.pop(agent_id, None)
        member = self._members.pop(agent_id, None)
        if member is None:
            return set()
        for host in member.hosts:
            del self._hosts[host].holdings[agent_id]
        return member.hosts

    def reachable(self, agent_id: str, now: float) -> bool:
        """Whether the agent can be told anything, and was heard of lately enough to hold a share."""
        member = self._members.get(agent_id)
        return member is not None and member.connected and member.heard_at + self.hold_s > now

    def due(self, now: float) -> set[str]:
        """Take back what ran out by now. Returns the hosts that something became free of."""
        freed: set[str] = set()
        while self._ends and self._ends[0][0] <= now:
            _, host, agent_id = heapq.heappop(self._ends)
            holding = self._hosts[host].holdings.get(agent_id)
            if holding is not None:
                holding.older = [one for one in holding.older if one.until > now]
                self._drop_if_empty(host, agent_id)
                freed.add(host)
        while self._order:
            agent_id = next(iter(self._order))
            member = self._members[agent_id]
            if member.heard_at + self.hold_s > now:
                break
            del self._order[agent_id]
            freed |= self._lapse(agent_id, member, self._version, now)
        return freed

    def next_due(self) -> float:
        """When `due` has something to do again; infinity for never."""
        soonest = self._ends[0][0] if self._ends else math.inf
        if self._order:
            soonest = min(soonest, self._members[next(iter(self._order))].heard_at + self.hold_s)
        return soonest

    def hosts_of(self, agent_id: str) -> set[str]:
        """The hosts that the agent may spend of."""
        member = self._members.get(agent_id)
        return set(member.hosts) if member is not None else set()

    def holders(self, host: str) -> Iterator[tuple[str, Portion]]:
        """Agents and what they were told last."""
        shared = self._hosts.get(host)
        for agent_id, holding in shared.holdings.items() if shared is not None else ():
            if holding.current != NOTHING:
                yield agent_id, holding.current

    def is_short(self, host: str) -> bool:
        """Whether somebody was given less than was meant for it."""
        shared = self._hosts.get(host)
        return shared is not None and shared.is_short

    def _lapse(self, agent_id: str, member: _Member, lapsed: int, now: float) -> set[str]:
        """Shares of versions up to this ran out at the agent. Requests that they allowed may still be under way."""
        freed: set[str] = set()
        for host in list(member.hosts):
            holding = self._hosts[host].holdings[agent_id]
            if holding.current != NOTHING and holding.version <= lapsed:
                self._linger(host, agent_id, holding, None, now)
                holding.current, holding.version = NOTHING, 0
                freed.add(host)
            holding.older = [one for one in holding.older if one.version > lapsed or not one.portion.burst]
            self._drop_if_empty(host, agent_id)
        return freed

    def _count_older(self, host: str, agent_id: str, holding: _Holding, replaced: int | None, until: float) -> None:
        """The current portion may be in force until then, unless its replacement is confirmed before."""
        holding.older.append(_Older(holding.current, holding.version, until, replaced))
        heapq.heappush(self._ends, (until, host, agent_id))
        self._linger(host, agent_id, holding, replaced, until)

    def _linger(self, host: str, agent_id: str, holding: _Holding, replaced: int | None, over_at: float) -> None:
        """Requests outlive the share that allowed them: its connections are counted for a while after it ran out."""
        if 0 < holding.current.connections < math.inf:
            still = Portion(0.0, 0.0, 0.0, holding.current.connections)
            holding.older.append(_Older(still, holding.version, over_at + LINGER_S, replaced))
            heapq.heappush(self._ends, (over_at + LINGER_S, host, agent_id))

    def _drop_if_empty(self, host: str, agent_id: str) -> None:
        holdings = self._hosts[host].holdings
        if holdings[agent_id].is_empty:
            del holdings[agent_id]
            member = self._members[agent_id]
            member.hosts.discard(host)
            if not member.connected and not member.hosts:
                del self._members[agent_id]

    # ---- giving out -------------------------------------------------------------------------------------------------

    def offer(
        self,
        host: str,
        whole: Portion,
        targets: Mapping[str, Portion],
        now: float,
        *,
        tell: Iterable[str] = (),
        blocked_s: float = 0.0,
    ) -> None:
        """Bring the agents' portions to what is meant for them, as far as that is free. Who is not named gets nothing.

        tell: agents that are told what they have even if it does not change.
        """
        shared = self._shared(host, whole, now)
        tell = frozenset(tell)
        ledger = Ledger(whole, (holding.counted() for holding in shared.holdings.values()))
        shared.is_short, given = False, 0.0
        for agent_id in dict.fromkeys((*shared.holdings, *targets, *tell)):
            if not self.reachable(agent_id, now):
                continue
            holding = shared.holdings.get(agent_id) or _Holding()
            target = targets.get(agent_id, NOTHING)
            own = holding.counted()
            new = ledger.portion(own, holding.current, target)
            shared.is_short = shared.is_short or new != target
            if new == holding.current and agent_id not in tell:
                continue
            ledger.add(own, new.values)
            initial = 0.0
            if shared.reserve is not None and own[1] == 0 and 0 < new.burst < math.inf:
                initial = max(0.0, min(new.burst, shared.reserve.level(now) - given))
                given += initial
            told = new.budget(host, initial=initial, blocked_s=blocked_s, unless_held=self.unknown(whole, now))
            self._put(host, shared, agent_id, new, told)
        self._refill(shared, whole, ledger, given, now)

    def offer_probe(self, host: str, whole: Portion, agent_id: str, now: float) -> tuple[int, float]:
        """Let one agent ask once, as soon as nobody may ask any more and the budget has a request to spare.

        Returns the permit (the version of its share), 0 if not yet, and then in how many seconds it is worth trying again; infinity is
        when something becomes free.
        """
        shared = self._shared(host, whole, now)
        if shared.holdings or self.unknown(whole, now) or not self.reachable(agent_id, now):
            return 0, math.inf
        if shared.reserve is not None:
            wait_s = shared.reserve.take_at_once(now)
            if wait_s > 0:
                return 0, wait_s
        self._put(host, shared, agent_id, PROBE, PROBE.budget(host))
        self._refill(shared, whole, Ledger(whole, [PROBE.values]), 0.0, now)
        return shared.holdings[agent_id].version, 0.0

    def tell(self, agent_id: str, budget: HostBudget) -> int:
        """Put a word into the agent's next message. Returns the message's version."""
        if agent_id not in self._batch:
            self._version += 1
            self._batch[agent_id] = (self._version, [])
        version, budgets = self._batch[agent_id]
        budgets.append(budget)
        return version

    def take_messages(self) -> list[tuple[str, Budgets]]:
        """The messages to agents since the last call."""
        batch, self._batch = self._batch, {}
        return [(agent_id, Budgets(tuple(budgets), version)) for agent_id, (version, budgets) in batch.items()]

    def inherit(self, host: str, parent: str) -> None:
        """The host's shares were those of another name until now: what that allows counts until agents are told of this one."""
        shared, holdings = self._hosts.setdefault(host, Shared()), self._hosts.get(parent, Shared()).holdings
        for agent_id, holding in holdings.items():
            member = self._members[agent_id]
            heir = shared.holdings.setdefault(agent_id, _Holding())
            member.hosts.add(host)
            until = member.heard_at + self.hold_s
            heir.older.append(_Older(Portion(*holding.counted()), holding.version, until, None))
            heapq.heappush(self._ends, (until, host, agent_id))

    def _shared(self, host: str, whole: Portion, now: float) -> Shared:
        shared = self._hosts.setdefault(host, Shared())
        if shared.reserve is None and whole.rate < math.inf:
            level = 0.0 if self.unknown(whole, now) else whole.burst
            shared.reserve = TokenBucket(whole.rate, burst=whole.burst, level=level)
        return shared

    def _put(self, host: str, shared: Shared, agent_id: str, new: Portion, budget: HostBudget) -> None:
        member = self._members[agent_id]
        holding = shared.holdings.setdefault(agent_id, _Holding())
        member.hosts.add(host)
        version = self.tell(agent_id, budget)
        for one in holding.older:
            one.replaced = version if one.replaced is None else one.replaced
        before = holding.current
        if any(old > value for old, value in zip(before.values, new.values, strict=True)):
            self._count_older(host, agent_id, holding, version, member.heard_at + self.hold_s)
        holding.current, holding.version = new, version
        if holding.older:
            member.pending.append((version, host))
        if new != NOTHING and agent_id not in self._order:
            self._order[agent_id] = None
        self._drop_if_empty(host, agent_id)

    def _refill(self, shared: Shared, whole: Portion, ledger: Ledger, given: float, now: float) -> None:
        """What is given out and what is not have changed: so have the rate and the burst of the reserve."""
        reserve = shared.reserve
        if reserve is None:
            return
        level = reserve.level(now) - given
        rate, burst = (0.0, 0.0) if self.unknown(whole, now) else ledger.free()
        if rate == math.inf:
            shared.reserve = None
            return
        reserve.set_rate(rate, now, burst=burst)
        reserve.set_level(level, now)
