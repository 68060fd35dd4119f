"""The swarm's scheduler with thousands of agents in virtual time: time over the bound, decisions a second, memory.

Run by ``python -m benchmarks.swarm --simulate``. Every link carries the same rate both ways, the origin's too, divided into
lanes: one for each slot. A relay ends a slice after its source. The decisions are those of the real `Swarm`, in turns as the
coordinator's; its CPU is measured, that of the network model is left out.
"""

from __future__ import annotations

import heapq
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.common.chunks import choose_sizes
from shoal.coordinator.scheduler.swarm import Decision, Swarm, SwarmLimits

MODEL_BYTES = 140 * 10**9
LINK_BYTES_PER_S = 1.25e9  # 10 Gbit/s
SHARDS = 30
SLICE_S = 0.02
"""A relay passes on what it received so long ago."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What one run showed; seconds are virtual, but for cpu_s."""

    agents: int
    chunks: int
    chunk_bytes: int
    seconds: float
    bound_s: float
    from_origin: float  # bytes over the model's
    decisions: int
    cpu_s: float
    memory_bytes: int


def bound_s(total: float, agents: int, *, origin: float, up: float, down: float) -> float:
    """Nobody can be faster (Kumar and Ross, 2006). Bytes and bytes/s."""
    return max(total / origin, total / down, agents * total / (origin + agents * up))


def simulate(agents: int, *, total: int = MODEL_BYTES, link: float = LINK_BYTES_PER_S, slots: int = 8) -> Simulated:
    """One broadcast. Slots are lanes of equal speed: a link's rate divided by their number."""
    sizes = choose_sizes(largest=total // SHARDS, total=total, agents=agents)
    chunk = sizes.chunk_bytes
    count = math.ceil(total / chunk)
    before = _resident_bytes()
    swarm = Swarm([chunk] * count, SwarmLimits(origin_flows_min=slots, origin_flows_max=slots))
    for number in range(agents):
        swarm.join(f"a{number}", zone="", upload_slots=slots, download_slots=slots, have=0)
    began = time.process_time()
    run = _Run(swarm, lane_s=chunk * slots / link)
    run.to_the_end(agents)
    return Simulated(
        agents=agents,
        chunks=count,
        chunk_bytes=chunk,
        seconds=run.now,
        bound_s=bound_s(total, agents, origin=link, up=link, down=link),
        from_origin=run.from_origin * chunk / total,
        decisions=run.decisions,
        cpu_s=time.process_time() - began - run.network_s,
        memory_bytes=_resident_bytes() - before,
    )


class _Run:
    """Chunks on their way: a heap of arrivals. What the network model itself costs is measured apart."""

    def __init__(self, swarm: Swarm, *, lane_s: float) -> None:
        self._swarm = swarm
        self._lane_s = lane_s
        self._turn_s = lane_s / 20
        self._arrivals: list[tuple[float, str, int, int]] = []
        self._ends: dict[tuple[str, int], float] = {}  # when a chunk under way will be complete
        self._serial = 0
        self.now = self.network_s = 0.0
        self.decisions = self.from_origin = 0

    def to_the_end(self, agents: int) -> None:
        complete = 0
        while complete < agents:
            decided = self._swarm.decide(self.now)
            began = time.process_time()
            self._depart(decided)
            self.now = max(self.now + self._turn_s, self._arrivals[0][0])
            due: list[tuple[str, int]] = []
            while self._arrivals and self._arrivals[0][0] <= self.now:
                end, agent_id, _, chunk = heapq.heappop(self._arrivals)
                if self._ends.get((agent_id, chunk)) == end:
                    del self._ends[agent_id, chunk]
                    due.append((agent_id, chunk))
            self.network_s += time.process_time() - began
            for agent_id, chunk in due:
                self._swarm.arrived(agent_id, chunk)
                member = self._swarm.member(agent_id)
                complete += member is not None and self._swarm.is_complete(member)

    def _depart(self, decided: Sequence[Decision]) -> None:
        for decision in decided:
            self.decisions += 1
            self._serial += 1
            end = self.now + self._lane_s
            if decision.source is None:
                self.from_origin += 1
            else:  # cut-through: a relay is behind its source by a slice
                end = max(end, self._ends.get((decision.source.agent_id, decision.chunk), 0.0) + SLICE_S)
            before = self._ends.get((decision.member.agent_id, decision.chunk))
            if before is not None:
                end = min(end, before)  # it moved to a better source; what had come stays
            self._ends[decision.member.agent_id, decision.chunk] = end
            heapq.heappush(self._arrivals, (end, decision.member.agent_id, self._serial, decision.chunk))


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
