"""What is known of one host, how much of it may be spent, and who should have it. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain

from ...common.buckets import burst_of
from ...common.records import HostObservation
from ...common.views import HostCondition as Condition
from .conduct import FORGIVEN_AFTER_DATASET_S, Conduct, Manners
from .pace import Pace
from .portions import Portion

EVERY_HOST = "*"
"""The name whose policy holds for all hosts that have none of their own."""
AGENTS_UNLIMITED = 1_000_000
REQUESTS_PER_AGENT_MIN = 1.0
"""Requests/s: a share is not smaller. An agent must be able to save up one request, and the savings of all are the fleet's burst."""
NEED_S = 12.0
"""Who asked a host, or waited to, within so long needs a share of it: two heartbeats."""
TURN_S = 10.0
"""Where more agents need a host than can have a share of it, each keeps its own for so long."""
RESHARE_BY = 0.05
"""A rate that adapts itself is shared out anew when it has changed by so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What a dataset job asks for where nobody set a policy."""

    rate: float
    rate_multiplier: float
    connections: int
    backoff_initial_s: float
    backoff_cap_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStanding:
    """How a host is, for who grants work on it. last_status: -1 is no answer, 0 nothing yet."""

    condition: Condition = Condition.OPEN
    blocked_until: float = 0.0
    last_status: int = 0
    in_trouble_since: float | None = None  # since when there was no success


@dataclass(slots=True, kw_only=True)
class HostState:
    """One host. Rates of 0 are unlimited, and so are 0 connections; they are the whole fleet's, as an administrator set them."""

    host: str
    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0
    connections: int = 0
    has_policy: bool = False  # or had one: agents were told of the host by name
    inherits: bool = False  # it was met under the general policy, and is told of by name since it asked to wait
    adopted: Adopted | None = None
    pace: Pace = field(default_factory=Pace)
    conduct: Conduct = field(default_factory=Conduct)
    crawl_delay_s: float = 0.0
    ok: int = 0
    throttled: int = 0
    errors: int = 0
    timeouts: int = 0
    unreachable: int = 0
    refused: int = 0
    shared_rate: float = 0.0  # that was given out last
    probed_at: float = 0.0
    was_open: bool = True  # when the log was last told
    turn_at: float = 0.0  # when those who have a share give it to others
    wanted: dict[str, int] = field(default_factory=dict[str, int])  # by agent: how often
    waiting: dict[str, int] = field(default_factory=dict[str, int])  # by agent: its requests that wait
    used_at: dict[str, float] = field(default_factory=dict[str, float])  # by agent: when it last asked, or waited to
    given_at: dict[str, float] = field(
        default_factory=dict[str, float]
    )  # by agent: when its turn began, where they take turns
    tell: set[str] = field(default_factory=set[str])  # agents that must be told what they have

    @property
    def is_everyones(self) -> bool:
        """Whether each agent is told of the host by name, needed or not."""
        return self.has_policy or self.inherits

    @property
    def is_shared(self) -> bool:
        """Whether the host has a budget that is given out."""
        return self.is_everyones or self.adopted is not None

    @property
    def is_limited(self) -> bool:
        return bool(self.requests_per_s or self.bytes_per_s or self.connections)

    def settle(self, general: HostState | None) -> None:
        """Work out what holds: an administrator's rate, else the job's, at most the general one."""
        adopted, limit = self.adopted, self.requests_per_s
        at_most = 0.0 if general is None else general.requests_per_s
        base = limit or at_most
        if adopted is not None and adopted.rate and not limit:
            base = min(adopted.rate, at_most or math.inf)
        is_default = adopted is not None and base == adopted.rate and not limit
        multiplier = adopted.rate_multiplier if adopted is not None else 0.0
        self.pace.set_base(base, multiplier, may_exceed=is_default and not at_most)
        if adopted is not None:
            self.conduct.manners = Manners(
                initial_s=adopted.backoff_initial_s,
                cap_s=adopted.backoff_cap_s,
                retry_after_max_s=adopted.backoff_cap_s,
                forgiven_after_s=FORGIVEN_AFTER_DATASET_S,
            )
        self.shared_rate = self.rate()

    def rate(self) -> float:
        """Requests/s that may be given out now; 0 for no limit."""
        by_robots = 1.0 / self.crawl_delay_s if self.crawl_delay_s else math.inf
        rate = min(self.pace.rate or math.inf, by_robots)
        return 0.0 if rate == math.inf else rate

    def whole(self, general: HostState | None) -> Portion:
        """The budget as it is to be given out now."""
        rate = self.shared_rate
        is_alone = self.crawl_delay_s > 0
        fallback = general if general is not None and not self.adopted else None
        per_s = self.bytes_per_s or (fallback.bytes_per_s if fallback is not None else 0.0)
        connections = self.connections or (self.adopted.connections if self.adopted is not None else 0)
        connections = connections or (fallback.connections if fallback is not None else 0)
        return Portion(
            rate=rate or math.inf,
            burst=(1.0 if is_alone else burst_of(rate)) if rate else math.inf,
            bytes_per_s=per_s or math.inf,
            connections=1 if is_alone else connections or math.inf,
        )

    def count(self, seen: HostObservation, agent_id: str, now: float) -> int:
        """Take in the figures. Returns the number of requests."""
        self.ok += seen.ok
        self.throttled += seen.throttled
        self.errors += seen.errors
        self.timeouts += seen.timeouts
        self.unreachable += seen.unreachable
        self.refused += seen.refused
        requests = seen.ok + seen.throttled + seen.errors + seen.timeouts + seen.unreachable + seen.refused
        if seen.waiting:
            self.waiting[agent_id] = seen.waiting
        else:
            self.waiting.pop(agent_id, None)
        if requests or seen.waiting:
            self.used_at[agent_id] = now
        self.pace.count(requests, now)
        return requests

    def needy(self, now: float) -> list[str]:
        """Agents that need the host."""
        for agent_id in [agent_id for agent_id, used_at in self.used_at.items() if now - used_at > NEED_S]:
            del self.used_at[agent_id]
        return list(dict.fromkeys((*self.wanted, *self.used_at)))

    def choose(self, slots: int, holders: Collection[str], agents: Collection[str], now: float) -> list[str]:
        """Who should have a share, at most so many.

        Without demand that is known, whoever is there. Otherwise those who need the host; if they are too many, in turn.
        """
        if self.is_everyones and not self.wanted and len(agents) <= slots:
            return list(agents)
        needy = [agent_id for agent_id in self.needy(now) if agent_id in agents]
        if not needy and self.is_everyones:
            return _first(slots, chain(holders, agents))
        if len(needy) <= slots:
            return needy
        begun = {agent_id: self.given_at[agent_id] for agent_id in needy if agent_id in self.given_at}
        in_turn = [agent_id for agent_id in needy if now - begun.get(agent_id, -TURN_S) < TURN_S]
        others = [agent_id for agent_id in needy if agent_id not in in_turn]
        chosen = [*in_turn, *sorted(others, key=lambda agent_id: begun.get(agent_id, -1.0))][:slots]
        self.given_at = begun | {agent_id: now for agent_id in chosen if agent_id not in in_turn}
        return chosen

    def targets(self, whole: Portion, chosen: list[str]) -> dict[str, Portion]:
        """The budget in equal parts. What is left of whole connections goes to the first by name, so that it stays where it is."""
        share = max(1, len(chosen))
        each, extra = whole.connections, 0
        if whole.connections < math.inf:
            each, extra = divmod(int(whole.connections), share)
        ordered = sorted(chosen) if extra else chosen
        return {
            agent_id: Portion(whole.rate / share, whole.burst / share, whole.bytes_per_s / share, each + (i < extra))
            for i, agent_id in enumerate(ordered)
        }

    def agents_max(self, whole: Portion) -> int:
        """How many agents can have a share at once."""
        by_rate = max(1.0, whole.rate / REQUESTS_PER_AGENT_MIN) if not self.crawl_delay_s else 1.0
        return int(max(1.0, min(by_rate, whole.burst, whole.connections, AGENTS_UNLIMITED)))


def _first(count: int, agents: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for agent_id in agents:
        if len(found) >= count:
            break
        found[agent_id] = None
    return list(found)
