"""The books of a swarm: who is in it, who holds and receives what, who can be asked. `swarm.py` decides by them.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .bits import bits

RARE_EXACT = 8
"""Up to so many copies a chunk's class is their number."""
CREDIT = 4
"""Waiting members that are looked at again for every slot or copy that became free."""


@dataclass(slots=True, eq=False)
class Flow:
    """A chunk on its way to a member. source None is the origin; an orphan waits for a source."""

    chunk: int
    member: Member
    source: Member | None
    orphan: bool = False
    since: float = 0.0  # when this source was chosen
    arrived: int = 0  # bytes, of the whole chunk
    arrived_before: int = 0  # of them when this source was chosen
    tries: int = 0
    avoid: Member | None = None  # the source that failed last


@dataclass(slots=True, eq=False)
class Member:
    """An agent in the swarm. have, coming and unable are sets of chunks; the last are those that its disk cannot have."""

    agent_id: str
    index: int
    number: int  # by which others are told of it; never used again
    zone: str
    upload_slots: int
    download_slots: int
    have: int = 0
    held_bytes: int = 0
    coming: int = 0
    unable: int = 0
    flows: dict[int, Flow] = field(default_factory=dict[int, Flow])
    uploads: dict[tuple[int, int], Flow] = field(default_factory=dict[tuple[int, int], Flow])  # (member, chunk)
    from_origin: int = 0  # flows from the origin
    resting_until: float = 0.0
    barred: bool = False

    @property
    def bit(self) -> int:
        return 1 << self.index


class Books:
    """The members of one job and their chunks, numbered from 0. Every method leaves the books in agreement (`check_invariants`)."""

    def __init__(self, sizes: Iterable[int]) -> None:
        """sizes: bytes of each chunk."""
        self.sizes = list(sizes)
        count = len(self.sizes)
        self.everything = (1 << count) - 1  # but what was given up
        self._full = [0] * count  # members that hold the chunk
        self._relays = [0] * count  # members that receive it
        self._copies = [0] * count
        self._classes = [self.everything]  # chunks by rarity
        self._members: dict[str, Member] = {}
        self._by_index: dict[int, Member] = {}
        self._spare: list[int] = []
        self._numbers = 0
        self._zones: dict[str, int] = {}
        self._levels: list[int] = [0]  # members by uploads under way
        self._free = 0  # members with a free upload slot
        self._askable = 0  # members that may have one some day
        self._origin_flows = 0
        self._hungry: dict[int, Member] = {}
        self._waiting: dict[int, Member] = {}  # found no source
        self._credit = 0
        self._orphans: deque[Flow] = deque()  # bounded by the flows
        self._resting: list[tuple[float, int]] = []  # heap: (until, index)
        self._held = 0  # chunks that are ordered from nobody for a while
        self._holds: list[tuple[float, int]] = []  # heap: (until, chunk)

    # ---- members ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def member(self, agent_id: str) -> Member | None:
        """The member, if the agent is one."""
        return self._members.get(agent_id)

    def holders(self, chunk: int) -> int:
        """How many members hold the chunk."""
        return self._full[chunk].bit_count()

    def holds(self, agent_id: str, chunk: int) -> bool:
        """Whether the agent is a member and holds the chunk."""
        member = self._members.get(agent_id)
        return member is not None and bool(member.have >> chunk & 1)

    def join(self, agent_id: str, *, zone: str, upload_slots: int, download_slots: int, have: int) -> Member:
        """An agent that holds these chunks becomes a member. One that was a member begins anew."""
        self.leave(agent_id)
        index = self._spare.pop() if self._spare else len(self._by_index)
        self._numbers += 1
        member = Member(agent_id, index, self._numbers, zone, upload_slots, download_slots)
        self._members[agent_id] = self._by_index[index] = member
        self._zones[zone] = self._zones.get(zone, 0) | member.bit
        self._levels[0] |= member.bit
        if upload_slots:
            self._askable |= member.bit
        self._free_or_not(member)
        for chunk in bits(have & ((1 << len(self.sizes)) - 1)):
            self._gain(member, chunk)
        self._hungry[index] = member
        return member

    def leave(self, agent_id: str) -> None:
        """The agent is gone, with all it holds. Whoever received from it needs another source."""
        member = self._members.pop(agent_id, None)
        if member is None:
            return
        for flow in list(member.flows.values()):
            self._end(flow)
        for flow in list(member.uploads.values()):
            self._orphan(flow)
        for chunk in bits(member.have):
            self._lose(member, chunk)
        self._levels[0] &= ~member.bit
        self._free &= ~member.bit
        self._askable &= ~member.bit
        self._zones[member.zone] &= ~member.bit
        if not self._zones[member.zone]:
            del self._zones[member.zone]
        self._hungry.pop(member.index, None)
        self._waiting.pop(member.index, None)
        del self._by_index[member.index]
        self._spare.append(member.index)

    def rest(self, agent_id: str, until: float) -> None:
        """Send nobody to the agent for a while: it did not answer."""
        member = self._members.get(agent_id)
        if member is not None and until > member.resting_until:
            member.resting_until = until
            heapq.heappush(self._resting, (until, member.index))
            self._free_or_not(member)

    def bar(self, agent_id: str) -> None:
        """Send nobody to the agent any more, and those who are there elsewhere."""
        member = self._members.get(agent_id)
        if member is not None:
            member.barred = True
            self._askable &= ~member.bit
            self._free_or_not(member)
            for flow in list(member.uploads.values()):
                flow.avoid = member
                self._orphan(flow)

    # ---- chunks -----------------------------------------------------------------------------------------------------

    def arrived(self, agent_id: str, chunk: int) -> None:
        """The agent holds the chunk now."""
        member = self._members.get(agent_id)
        if member is None or member.have >> chunk & 1:
            return
        flow = member.flows.get(chunk)
        if flow is not None:
            self._end(flow)
        self._gain(member, chunk)
        self._hungry[member.index] = member

    def progressed(self, agent_id: str, chunk: int, arrived: int) -> None:
        """So many bytes of the chunk have come."""
        member = self._members.get(agent_id)
        flow = member.flows.get(chunk) if member is not None else None
        if flow is not None:
            flow.arrived = max(flow.arrived, arrived)

    def failed(self, agent_id: str, chunk: int, source: Member | None) -> bool:
        """The agent could not bring the chunk from there. Returns whether that was its source at this moment."""
        member = self._members.get(agent_id)
        flow = member.flows.get(chunk) if member is not None else None
        if flow is None or flow.orphan or flow.source is not source:
            return False
        flow.avoid = source
        self._orphan(flow)
        return True

    def again(self, agent_id: str, chunk: int) -> None:
        """The agent must begin the chunk again, by no fault of its present source."""
        member = self._members.get(agent_id)
        flow = member.flows.get(chunk) if member is not None else None
        if flow is not None:
            flow.arrived = flow.arrived_before = 0
            self._orphan(flow)
        if member is not None:
            self._hungry[member.index] = member

    def forgo(self, agent_id: str, chunk: int) -> None:
        """The agent's disk cannot have the chunk, wherever it comes from: it is ordered there no more."""
        member = self._members.get(agent_id)
        if member is None:
            return
        member.unable |= 1 << chunk
        if (flow := member.flows.get(chunk)) is not None:
            self._end(flow)
            for upload in [upload for (_, what), upload in member.uploads.items() if what == chunk]:
                upload.avoid = member
                self._orphan(upload)
        self._hungry[member.index] = member

    def lost(self, agent_id: str, chunk: int) -> None:
        """The agent does not hold the chunk any more, or never rightly did."""
        member = self._members.get(agent_id)
        if member is None:
            return
        if member.have >> chunk & 1:
            self._lose(member, chunk)
        flow = member.flows.get(chunk)
        if flow is not None:
            flow.arrived = flow.arrived_before = 0
        for upload in [upload for (_, what), upload in member.uploads.items() if what == chunk]:
            upload.avoid = member
            self._orphan(upload)
        self._hungry[member.index] = member

    def reset(self, chunks: Iterable[int]) -> None:
        """Nobody holds these any more, nor receives them."""
        for chunk in chunks:
            for index in bits(self._relays[chunk]):
                self._end(self._by_index[index].flows[chunk])
            for index in bits(self._full[chunk]):
                self._lose(self._by_index[index], chunk)
        self._hungry.update((member.index, member) for member in self._members.values())

    def give_up(self, chunks: Iterable[int]) -> None:
        """Nobody is to get these any more."""
        given = list(chunks)
        for chunk in given:
            for index in bits(self._relays[chunk]):
                self._end(self._by_index[index].flows[chunk])
            self.everything &= ~(1 << chunk)
        self._hungry.update((member.index, member) for member in self._members.values())

    def hold(self, chunk: int, until: float) -> None:
        """Order the chunk from nobody before then: its origin has trouble. Those who receive it stop."""
        for index in bits(self._relays[chunk]):
            self._end(self._by_index[index].flows[chunk])
        self._held |= 1 << chunk
        heapq.heappush(self._holds, (until, chunk))

    def _release_holds(self, now: float) -> None:
        while self._holds and self._holds[0][0] <= now:
            chunk = heapq.heappop(self._holds)[1]
            if all(chunk != other for _, other in self._holds):
                self._held &= ~(1 << chunk)
                self._hungry.update((member.index, member) for member in self._members.values())

    def is_complete(self, member: Member) -> bool:
        """Whether the member holds all there is to hold."""
        return not self.everything & ~member.have

    # ---- books ------------------------------------------------------------------------------------------------------

    def _attach(self, flow: Flow) -> None:
        if flow.source is None:
            self._origin_flows += 1
            flow.member.from_origin += 1
        else:
            self._shift(flow.source, 1)
            flow.source.uploads[flow.member.index, flow.chunk] = flow

    def _detach(self, flow: Flow) -> None:
        if flow.orphan:
            return
        self._credit += CREDIT
        if flow.source is None:
            self._origin_flows -= 1
            flow.member.from_origin -= 1
        else:
            del flow.source.uploads[flow.member.index, flow.chunk]
            self._shift(flow.source, -1)

    def _orphan(self, flow: Flow) -> None:
        if not flow.orphan:
            self._detach(flow)
            flow.orphan, flow.source = True, None
            self._orphans.append(flow)

    def _end(self, flow: Flow) -> None:
        self._detach(flow)
        member = flow.member
        del member.flows[flow.chunk]
        member.coming &= ~(1 << flow.chunk)
        self._relays[flow.chunk] &= ~member.bit
        self._recount(flow.chunk, -1)

    def _gain(self, member: Member, chunk: int) -> None:
        member.have |= 1 << chunk
        member.held_bytes += self.sizes[chunk]
        self._full[chunk] |= member.bit
        self._recount(chunk, 1)
        self._credit += CREDIT

    def _lose(self, member: Member, chunk: int) -> None:
        member.have &= ~(1 << chunk)
        member.held_bytes -= self.sizes[chunk]
        self._full[chunk] &= ~member.bit
        self._recount(chunk, -1)

    def _recount(self, chunk: int, change: int) -> None:
        before = self._copies[chunk]
        self._copies[chunk] = after = before + change
        old, new = _class(before), _class(after)
        if old != new:
            while len(self._classes) <= new:
                self._classes.append(0)
            self._classes[old] &= ~(1 << chunk)
            self._classes[new] |= 1 << chunk

    def _shift(self, member: Member, change: int) -> None:
        """The member sends one more, or one less."""
        level = len(member.uploads)  # before the change is noted there, or after it was
        before, after = (level, level + 1) if change > 0 else (level + 1, level)
        while len(self._levels) <= after:
            self._levels.append(0)
        self._levels[before] &= ~member.bit
        self._levels[after] |= member.bit
        self._free_or_not(member, uploads=after)

    def _free_or_not(self, member: Member, now: float | None = None, *, uploads: int | None = None) -> None:
        busy = (len(member.uploads) if uploads is None else uploads) >= member.upload_slots
        resting = member.resting_until > (now if now is not None else float("-inf")) and member.resting_until > 0
        if now is not None and not resting:
            member.resting_until = 0.0
        if busy or resting or member.barred:
            self._free &= ~member.bit
        else:
            self._free |= member.bit

    def check_invariants(self) -> None:
        """Raises AssertionError when the books do not agree with each other; for tests."""
        origin = 0
        for member in self._members.values():
            assert self._by_index[member.index] is member
            assert member.coming == sum(1 << chunk for chunk in member.flows)
            assert not member.coming & (member.have | member.unable)
            assert self._levels[len(member.uploads)] & member.bit, "level"
            assert sum(bool(level & member.bit) for level in self._levels) == 1
            assert len(member.uploads) <= member.upload_slots
            busy = len(member.uploads) >= member.upload_slots or member.barred or member.resting_until > 0
            assert bool(self._free & member.bit) is not busy, "free"
            assert member.from_origin == sum(not f.orphan and f.source is None for f in member.flows.values())
            origin += member.from_origin
            for (index, chunk), flow in member.uploads.items():
                assert flow.source is member and self._by_index[index].flows[chunk] is flow
            for chunk, flow in member.flows.items():
                assert flow.source is None or flow.source.uploads[member.index, chunk] is flow
        assert origin == self._origin_flows
        for chunk in range(len(self.sizes)):
            full = sum(m.bit for m in self._members.values() if m.have >> chunk & 1)
            relays = sum(m.bit for m in self._members.values() if chunk in m.flows)
            assert self._full[chunk] == full and self._relays[chunk] == relays
            assert self._copies[chunk] == full.bit_count() + relays.bit_count()
            assert self._classes[_class(self._copies[chunk])] >> chunk & 1


def _class(copies: int) -> int:
    if copies <= RARE_EXACT:
        return copies
    return RARE_EXACT + (copies // RARE_EXACT).bit_length() - 1 if copies >= 2 * RARE_EXACT else RARE_EXACT
