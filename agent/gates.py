"""How fast this agent may ask each origin host, by its shares of the fleet's budgets, and what the hosts say of it.

What a host's gate says to a request:

    blocked             wait: the host itself asked for it
    no share known      go: nobody limits the host (but for the general share, which then holds for it)
    share of nothing    wait for another word of the coordinator
    share ran out       wait for the session to come back: others may have it by now
    probe               one goes, the others wait for another word
    connections in use  wait until one comes back
    bucket empty        wait until it holds a token
    else                take a token, and go

Leased shares hold until `share_s` after the agent **sent** the last word that the coordinator answered, whatever happens to it
between. Once they ran out they are never used again, even if an answer comes after that: the coordinator may have given them to others
(`shares.py`); the agent says so with its next heartbeat (`lapsed_version`), and is given others.

A version is confirmed when all of it is obeyed: while more requests are under way than a lowered share has connections, it is not.

Pure and synchronous: every method takes ``now``, in seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ..common.buckets import TokenBucket, burst_of
from ..common.records import Answer, HostBudget, HostObservation

BLOCK_S_MAX: Final = 3600.0  # no host may stop us for longer with one answer: it is asked again after an hour
EVERY_HOST: Final = "*"  # the budget of this name holds for each host that has none of its own
REFUSALS: Final = frozenset({401, 403, 410})
RETRY_AFTER_TOLD_MAX_S: Final = 7 * 86_400.0  # the coordinator has a cap of its own
IDLE_GATES_MAX: Final = 10_000  # hosts without a share that are remembered although nothing is under way


@dataclass(slots=True)
class Validity:
    """Until when the leased shares of one session hold; each heartbeat that is answered puts it off."""

    until: float


ALWAYS: Final = Validity(math.inf)


@dataclass(slots=True)
class Gate:
    """One origin host as this agent knows it."""

    requests: TokenBucket = field(default_factory=TokenBucket)
    received: TokenBucket = field(default_factory=TokenBucket)
    blocked_until_s: float = 0.0
    has_budget: bool = False  # of its own
    share: HostBudget | None = None
    version: int = 0
    validity: Validity = field(default_factory=lambda: ALWAYS)
    is_stopped: bool = False  # the host throttled us: nothing more under this share
    probe_used: bool = False
    probe_told: bool = False
    lowered_at: int = 0  # the version that allowed fewer connections than are under way
    under_way: int = 0
    waiting: int = 0
    ok: int = 0
    throttled: int = 0
    errors: int = 0
    timeouts: int = 0
    unreachable: int = 0
    refused: int = 0
    retry_after_s: float = 0.0
    status: int = 0
    latency_s: float = 0.0
    crawl_delay_s: float = 0.0
    probe: int = 0
    probe_answer: Answer | None = None

    def holds(self, now: float) -> bool:
        """Whether the share lets anything through at all."""
        share = self.share
        return share is None or not (share.nothing or (share.leased and now >= self.validity.until))

    def observation(self, host: str) -> HostObservation:
        """What was met since the last call, which is forgotten."""
        seen = HostObservation(
            host=host,
            ok=self.ok,
            throttled=self.throttled,
            errors=self.errors,
            retry_after_s=self.retry_after_s,
            timeouts=self.timeouts,
            unreachable=self.unreachable,
            refused=self.refused,
            status=self.status,
            latency_s=self.latency_s,
            crawl_delay_s=self.crawl_delay_s,
            waiting=self.waiting,
            probe=self.probe,
            probe_answer=self.probe_answer,
        )
        self.ok = self.throttled = self.errors = self.timeouts = self.unreachable = self.refused = self.status = 0
        self.retry_after_s = self.latency_s = 0.0
        self.probe, self.probe_answer = 0, None
        return seen


class HostGates:
    """The gates of all hosts."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self._general: Gate | None = (
            None  # a bucket that nobody takes of: what a host that was not asked yet begins with
        )
        self._met: set[str] = set()  # hosts with something to tell since the last take_observations
        self._thirsty: set[str] = set()  # hosts with requests that wait
        self._held_up: set[str] = set()  # hosts with more requests under way than their share has connections
        self._validity = Validity(-math.inf)
        self._applied = 0
        self._lapsed = 0
        self.is_pressing = False  # something should be told before the next heartbeat is due

    # ---- shares -----------------------------------------------------------------------------------------------------

    def set_budgets(self, budgets: Iterable[HostBudget], now: float, version: int = 0) -> list[str]:
        """Take this agent's shares from the coordinator. Returns the hosts whose requests may have a shorter wait now.

        A block only ever grows here: the host's own word is the newer one. A message that was taken already is ignored.
        """
        if version and version <= self._applied:
            return []
        self._applied = max(self._applied, version)
        changed: list[str] = []
        for budget in budgets:
            if budget.host == EVERY_HOST:
                changed += self._set_general(budget, version, now)
            else:
                gate = self._gate(budget.host)
                if (
                    budget.blocked_s
                    and not gate.has_budget
                    and budget == HostBudget(host=budget.host, blocked_s=budget.blocked_s)
                ):  # the host asked to wait, and has no budget: the general one, if there is one, still holds for it
                    gate.blocked_until_s = max(gate.blocked_until_s, now + budget.blocked_s)
                    continue
                is_own, gate.has_budget = gate.has_budget, True
                self._apply(gate, budget, version, now, goes_on=is_own)
                changed.append(budget.host)
        return changed

    def renewed(self, until: float, now: float, *, anew: bool) -> None:
        """The coordinator answered: leased shares hold until then. anew: a session begins, and shares of the last one just run out."""
        if anew:
            self._validity = Validity(until)
        elif now < self._validity.until:
            self._validity.until = max(self._validity.until, until)
        else:
            self._lapsed = self._applied
            self._validity = Validity(until)

    def versions(self, now: float) -> tuple[int, int]:
        """For a heartbeat: up to which version the agent obeys, and up to which one its shares have run out."""
        if now >= self._validity.until:
            self._lapsed = self._applied
        held_up = [self._gates[host].lowered_at - 1 for host in self._held_up]
        return min([self._applied, *held_up]), self._lapsed

    @property
    def obeyed(self) -> int:
        """For a Hello: the version of the last Budgets that were taken."""
        return self._applied

    def _set_general(self, budget: HostBudget, version: int, now: float) -> list[str]:
        """The share of each host that has none of its own."""
        if self._general is None:
            self._general = Gate()
        own = [host for host, gate in self._gates.items() if not gate.has_budget]
        for gate in (self._general, *(self._gates[host] for host in own)):
            self._apply(gate, budget, version, now, goes_on=True)
        return own

    def _apply(self, gate: Gate, budget: HostBudget, version: int, now: float, *, goes_on: bool) -> None:
        """goes_on: what the bucket holds was saved up under the share that this one replaces."""
        before = gate.share
        goes_on = goes_on and before is not None and before.leased and not before.probe and gate.holds(now)
        if budget.unless_held and goes_on:
            return
        level = gate.requests.level(now) if goes_on else budget.initial
        debt = gate.received.level(now) if goes_on else min(0.0, gate.received.level(now))
        burst = budget.burst or burst_of(budget.requests_per_s)
        gate.requests.set_rate(budget.requests_per_s, now, burst=burst)
        if not (budget.nothing or budget.probe):  # bodies that are under way go on as they began
            gate.received.set_rate(budget.bytes_per_s, now)
        if budget.leased:
            gate.requests.set_level(level, now)
            gate.received.set_level(debt, now)
        gate.share, gate.version = budget, version
        gate.validity = self._validity if budget.leased else ALWAYS
        gate.is_stopped = gate.probe_used = gate.probe_told = False
        if budget.blocked_s > 0:
            gate.blocked_until_s = max(gate.blocked_until_s, now + budget.blocked_s)
        if before is not None and before.connections and gate.under_way > self._connections(gate):
            gate.lowered_at = gate.lowered_at or version
            self._held_up.add(budget.host)
        self.is_pressing = self.is_pressing or version > 0  # others wait for this word to be confirmed

    @staticmethod
    def _connections(gate: Gate) -> float:
        share = gate.share
        if share is None or not (share.nothing or share.connections):
            return math.inf
        return 0 if share.nothing else share.connections

    # ---- requests ---------------------------------------------------------------------------------------------------

    def ask(self, host: str, now: float, *, counted: bool = False) -> float:
        """Whether one request may be sent to the host now.

        Returns 0 if so: its token is taken, and if it is `counted` it needs a connection and is under way until `done`. Otherwise in
        how many seconds it is worth asking again; infinity is until another word comes or a request ends.
        """
        gate = self._gate(host)
        if gate.blocked_until_s > now:
            return gate.blocked_until_s - now
        share = gate.share
        if share is not None:
            is_full = counted and gate.under_way >= self._connections(gate)
            if gate.is_stopped or is_full or not gate.holds(now):
                return math.inf
            if share.probe:
                if gate.probe_used:
                    return math.inf
                gate.probe_used = True
                gate.under_way += counted
                return 0.0
        wait_s = gate.requests.take_at_once(now)
        if wait_s == 0.0:
            gate.under_way += counted
        return wait_s

    def done(self, host: str) -> None:
        """A counted request ended. If it was a probe of which nothing was said, nobody knows what became of it."""
        gate = self._gate(host)
        gate.under_way -= 1
        if gate.lowered_at and gate.under_way <= self._connections(gate):
            gate.lowered_at = 0
            self._held_up.discard(host)
            self.is_pressing = True
        if not gate.under_way:
            self._tell_probe(host, gate, None)

    def wait_begins(self, host: str) -> None:
        """A request waits for its turn."""
        gate = self._gate(host)
        gate.waiting += 1
        self._thirsty.add(host)
        if gate.waiting == 1 and gate.share is not None and gate.share.nothing:
            self.is_pressing = True

    def wait_ends(self, host: str) -> None:
        """A request has its turn, or gave up."""
        gate = self._gate(host)
        gate.waiting -= 1
        if not gate.waiting:
            self._thirsty.discard(host)

    def blocked_s(self, host: str, now: float) -> float:
        """For how long the host must still not be asked by its own word."""
        gate = self._gates.get(host)
        return max(0.0, gate.blocked_until_s - now) if gate is not None else 0.0

    def received(self, host: str) -> TokenBucket | None:
        """The bucket of the bytes that come from the host."""
        gate = self._gates.get(host)
        return gate.received if gate is not None else None

    # ---- what is met ------------------------------------------------------------------------------------------------

    def seen(
        self,
        host: str,
        kind: Answer,
        now: float,
        *,
        status: int = 0,
        retry_after_s: float | None = None,
        latency_s: float = 0.0,
        crawl_delay_s: float = 0.0,
    ) -> None:
        """A request ended so. A wait that the host asks for is kept at once, by all of this agent."""
        gate = self._gate(host)
        self._met.add(host)
        match kind:
            case Answer.OK:
                gate.ok += 1
            case Answer.THROTTLED:
                gate.throttled += 1
            case Answer.TIMEOUT:
                gate.timeouts += 1
            case Answer.CONNECT:
                gate.unreachable += 1
            case Answer.REFUSED:
                gate.refused += 1
            case Answer.ERROR:
                gate.errors += 1
        gate.status = -1 if kind in (Answer.TIMEOUT, Answer.CONNECT) else status or gate.status
        gate.latency_s = latency_s or gate.latency_s
        gate.crawl_delay_s = crawl_delay_s or gate.crawl_delay_s
        wait_s = min(max(retry_after_s or 0.0, 0.0), RETRY_AFTER_TOLD_MAX_S)
        if wait_s or kind is Answer.THROTTLED:
            gate.retry_after_s = max(gate.retry_after_s, wait_s)
            gate.blocked_until_s = max(gate.blocked_until_s, now + min(wait_s, BLOCK_S_MAX))
            gate.is_stopped = gate.share is not None and gate.share.leased
            self.is_pressing = True
        self._tell_probe(host, gate, kind)

    def take_observations(self) -> tuple[HostObservation, ...]:
        """What was met since the last call, and what waits now."""
        hosts = self._met | self._thirsty
        found = [self._gates[host].observation(host) for host in sorted(hosts)]
        general = self._general
        if general is not None and general.share is not None and general.share.nothing:
            thirst = sum(self._gates[host].waiting for host in self._thirsty if not self._gates[host].has_budget)
            if thirst:
                found.append(HostObservation(host=EVERY_HOST, waiting=thirst))
        self._met.clear()
        self.is_pressing = False
        return tuple(found)

    def _tell_probe(self, host: str, gate: Gate, answer: Answer | None) -> None:
        if gate.share is not None and gate.share.probe and gate.probe_used and not gate.probe_told:
            gate.probe_told = True
            gate.probe, gate.probe_answer = gate.version, answer
            self._met.add(host)
            self.is_pressing = True

    def _gate(self, host: str) -> Gate:
        gate = self._gates.get(host)
        if gate is None:
            if len(self._gates) >= IDLE_GATES_MAX:
                self._forget_idle()
            gate = self._gates[host] = Gate()
            general = self._general
            if general is not None:
                gate.requests, gate.received = general.requests.copy(), general.received.copy()
                gate.share, gate.version, gate.validity = general.share, general.version, general.validity
        return gate

    def _forget_idle(self) -> None:
        idle = [
            host
            for host, gate in self._gates.items()
            if gate.share is None and not (gate.under_way or gate.waiting or gate.blocked_until_s or host in self._met)
        ]
        for host in idle:
            del self._gates[host]
