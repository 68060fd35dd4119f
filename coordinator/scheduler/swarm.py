"""The swarm: who gets which chunk of a replicated job from whom.

Every member is to end with every chunk, each chunk leaves the origin once, and members pass chunks on while these still arrive.
Decisions are made centrally with a full view, as in Meta's Owl (J. Flinn et al., "Owl: Scale and Flexibility in Distribution of Hot
Content", OSDI 2022); which chunk comes next follows BitTorrent's rarest-first (B. Cohen, "Incentives Build Robustness in BitTorrent",
2003), counting copies under way.

A member with a free download slot takes, in this order::

    a chunk that nobody has         from the origin, while the origin has a free slot
    the rarest chunk it lacks       from a member that holds it or is just receiving it (cut-through): of its own zone first,
                                    then one that holds all of it, then the least busy, then the nearest to the origin

A *flow* is one chunk on its way to one member. Its source may change; what has arrived stays::

    (none) --decide--> flowing --arrived--> (held)
                       flowing --failed, source left--> orphaned --decide--> flowing from another source
                       flowing --slow, a better source is idle--> flowing from that (hedging)

Sets of members and of chunks are integers used as bit sets: with 10,000 of each an intersection takes a fraction of a microsecond and
a set 1.25 KB, so a decision looks at the candidates of a few chunks and never at all members or chunks. Rarity is kept in classes:
exact up to `RARE_EXACT` copies, by powers of two beyond; an event moves one chunk by one class at most.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from .bits import bit_after, bits, lowest
from .members import CREDIT, Books, Flow, Member

LOOKS_MAX = 12
"""Chunks that one decision looks at before the member waits for a change: bounds what a decision costs."""
RELAYS_MAX = 16
"""Receiving members that one decision compares as sources."""
LOOK_AGAIN_S = 1.0
"""Members that wait, and slow flows, are all looked at again so often, whatever happened."""
HEDGE_AFTER_S = 3.0
"""A flow is not judged before: it may have waited for its source's first bytes."""
HEDGE_LEFT_S = 3.0
"""A flow that seems to need longer than this is moved to a better source."""
HEDGES_MAX = 1024
"""Members whose flows are judged at a time."""
TRIES_MAX = 3
"""An orphan whose sources failed so often does not wait for a holder's slot any more: the origin serves again."""
DECISIONS_MAX = 8192
"""Decisions of one turn: the coordinator must not be deaf for long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmLimits:
    """Chunks that the whole swarm takes from the origin at once: one a member, within these bounds; a lone member takes twice the
    least.

    Few on purpose: with more chunks under way than a member has slots, some cannot be passed on while they arrive, and its downlink
    idles (measured: 16 chunks for 4 members with 16 slots took 1.33 times the bound, 8 took 1.04).
    """

    origin_flows_max: int = 64
    origin_flows_min: int = 8


@dataclass(frozen=True, slots=True)
class Decision:
    """The member shall bring the chunk from the source; None is the origin."""

    member: Member
    chunk: int
    source: Member | None


class Swarm(Books):
    """Decides what flows from where."""

    def __init__(self, sizes: Iterable[int], limits: SwarmLimits | None = None, *, bundles: int = 0) -> None:
        """sizes: bytes of each chunk. The first so many are bundles of small files, which only who has all of it can pass on."""
        super().__init__(sizes)
        self._bundles = bundles
        self.asks_origin = True  # whether what nobody has may be ordered from the origin now
        self._limits = limits or SwarmLimits()
        self._looked_at = float("-inf")
        self._judged = 0

    def decide(self, now: float) -> list[Decision]:
        """What is to flow from where, beside what flows already. Orphans come first: others may wait for them."""
        decided: list[Decision] = []
        while self._resting and self._resting[0][0] <= now:
            member = self._by_index.get(heapq.heappop(self._resting)[1])
            if member is not None:
                self._free_or_not(member, now)
        self._release_holds(now)
        if now - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = now
            self._credit = len(self._waiting)
            decided += self._hedge(now)
        for _ in range(len(self._orphans)):
            flow = self._orphans.popleft()
            if flow.orphan and flow.member.flows.get(flow.chunk) is flow:
                decided += self._adopt(flow, now)
        while self._waiting and self._credit > 0:
            self._credit -= 1
            index = next(iter(self._waiting))
            self._hungry[index] = self._waiting.pop(index)
        while self._hungry and len(decided) < DECISIONS_MAX:
            for member in list(self._hungry.values()):  # in turn, one each: all progress alike
                decision = self._next(member, now)
                if decision is not None:
                    decided.append(decision)
                else:
                    del self._hungry[member.index]
        return decided

    def _next(self, member: Member, now: float) -> Decision | None:
        lacks = self.everything & ~member.have & ~member.coming & ~member.unable & ~self._held
        if not lacks or len(member.flows) >= member.download_slots:
            return None
        if self._origin_is_free_for(member):
            unseen = lacks & self._classes[0]
            if unseen:
                return self._start(member, lowest(unseen), None, now)
        looks = 0
        for rarity in range(1, len(self._classes)):
            candidates = lacks & self._classes[rarity]
            while candidates and looks < LOOKS_MAX:
                chunk = lowest(candidates)
                candidates &= candidates - 1
                looks += 1
                source = self._source(member, chunk, avoid=None)
                if source is not None:
                    return self._start(member, chunk, source, now)
                if not (self._full[chunk] | self._relays[chunk]) & self._askable and self._origin_is_free_for(member):
                    return self._start(member, chunk, None, now)
        self._waiting[member.index] = member
        return None

    def _origin_is_free_for(self, member: Member) -> bool:
        if not self.asks_origin:
            return False
        limits = self._limits
        members = len(self._members)
        flows = min(limits.origin_flows_max, max(limits.origin_flows_min * (2 if members == 1 else 1), members))
        return self._origin_flows < flows and member.from_origin < -(-flows // members)

    def _source(self, member: Member, chunk: int, *, avoid: Member | None) -> Member | None:
        """Who is best asked for the chunk, of those who have a slot free."""
        free = self._free & ~member.bit
        if avoid is not None:
            free &= ~avoid.bit
        full = self._full[chunk] & free
        relays = self._relays[chunk] & free if chunk >= self._bundles else 0
        zone = self._zones[member.zone]
        for near in (zone, -1):
            if full & near:
                return self._least_busy(full & near, member.index)
            if relays & near and (relay := self._nearest_relay(relays & near, member, chunk)):
                return relay
        return None

    def _least_busy(self, candidates: int, after: int) -> Member:
        for level in self._levels:
            if found := candidates & level:
                return self._by_index[bit_after(found, after)]
        raise AssertionError("a member is on no level")

    def _nearest_relay(self, candidates: int, member: Member, chunk: int) -> Member | None:
        best, best_cost = None, 1 << 30
        for _, index in zip(range(RELAYS_MAX), bits(candidates), strict=False):
            relay = self._by_index[index]
            hops = self._hops(relay, chunk, member)
            if hops is not None and hops + len(relay.uploads) < best_cost:
                best, best_cost = relay, hops + len(relay.uploads)
        return best

    def _hops(self, relay: Member, chunk: int, member: Member) -> int | None:
        """Relays between the relay and whoever has all of the chunk; None where the way leads to the member or to nobody."""
        hops, at = 0, relay
        while (flow := at.flows.get(chunk)) is not None:
            if flow.orphan or at is member:
                return None
            if flow.source is None:
                return hops
            hops, at = hops + 1, flow.source
        return hops

    def _adopt(self, flow: Flow, now: float) -> list[Decision]:
        """Find an orphan another source: somebody else, the origin when nobody has it all, at last whoever failed."""
        member, chunk = flow.member, flow.chunk
        source = self._source(member, chunk, avoid=flow.avoid)
        if source is None and flow.avoid is not None and not flow.avoid.barred and flow.tries < TRIES_MAX:
            source = self._source(member, chunk, avoid=None)
        if source is None:
            rooted = any(
                self._hops(self._by_index[index], chunk, member) is not None
                for index in bits(self._relays[chunk] & self._askable & ~member.bit)
            )
            if rooted or (self._full[chunk] & self._askable & ~member.bit and flow.tries < TRIES_MAX):
                self._orphans.append(flow)  # somebody has it, or will: wait for a slot
                return []
            if not self.asks_origin:
                self._orphans.append(flow)
                return []
        flow.orphan = False
        flow.tries += 1
        flow.source, flow.since, flow.arrived_before = source, now, flow.arrived
        self._attach(flow)
        return [Decision(member, chunk, source)]

    def _hedge(self, now: float) -> list[Decision]:
        """Move flows that will take long to members that hold all of the chunk and are less busy than the present source."""
        decided: list[Decision] = []
        members = list(self._members.values())
        for _ in range(min(HEDGES_MAX, len(members))):
            self._judged = (self._judged + 1) % len(members)
            for flow in list(members[self._judged].flows.values()):
                age = now - flow.since
                if flow.orphan or flow.source is None or age < HEDGE_AFTER_S:
                    continue
                rate = (flow.arrived - flow.arrived_before) / age
                left = self.sizes[flow.chunk] - flow.arrived
                if rate and left / rate < HEDGE_LEFT_S:
                    continue
                full = self._full[flow.chunk] & self._free & ~flow.member.bit & ~flow.source.bit
                if full:
                    better = self._least_busy(full, flow.member.index)
                    if len(better.uploads) < len(flow.source.uploads) or not rate:
                        self._detach(flow)
                        flow.source, flow.since, flow.arrived_before = better, now, flow.arrived
                        self._attach(flow)
                        decided.append(Decision(flow.member, flow.chunk, better))
        return decided

    def _start(self, member: Member, chunk: int, source: Member | None, now: float) -> Decision:
        flow = Flow(chunk, member, source, since=now)
        member.flows[chunk] = flow
        member.coming |= 1 << chunk
        self._relays[chunk] |= member.bit
        self._recount(chunk, 1)
        self._attach(flow)
        self._credit += CREDIT
        return Decision(member, chunk, source)
