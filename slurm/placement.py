"""Which agents run where: the ranks of one node, and the CPUs that each agent may use. No I/O but for reading /sys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

AgentsPer = Literal["node", "numa", "rank"]
NUMA_NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One agent: the rank of the node that starts it, the CPUs that it may use, and what its name ends with."""

    node_rank: int
    cpus: frozenset[int]
    suffix: str = ""


def places(
    agents_per: AgentsPer, rank_cpus: Sequence[frozenset[int]], domains: Sequence[frozenset[int]]
) -> list[Place]:
    """The agents of a node.

    Args: rank_cpus are the CPUs that each of its ranks may use, for launchers bind ranks to some of them: the one agent of a node
    may use those of all its ranks. domains are the CPUs of each NUMA domain; those that no rank may use get no agent.
    """
    every = frozenset[int]().union(*rank_cpus)
    if agents_per == "rank":
        if len(rank_cpus) == 1:
            return [Place(node_rank=0, cpus=every)]
        return [Place(node_rank=rank, cpus=cpus, suffix=f"-{rank}") for rank, cpus in enumerate(rank_cpus)]
    usable = [(number, cpus & every) for number, cpus in enumerate(domains) if cpus & every]
    if agents_per == "node" or len(usable) < 2:
        return [Place(node_rank=0, cpus=every)]
    found: list[Place] = []
    for number, cpus in usable:
        # By a rank that is there anyway, so that one dead rank costs as few agents as can be.
        near = [rank for rank, own in enumerate(rank_cpus) if own & cpus]
        taken = [place.node_rank for place in found]
        rank = min(near, key=lambda rank: (taken.count(rank), rank))
        found.append(Place(node_rank=rank, cpus=cpus, suffix=f"-numa{number}"))
    return found


def node_names(names: Sequence[str]) -> list[str]:
    """A name for each node that no other has: its own, with its number where several are called the same."""
    return [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names)]


def numa_domains(folder: Path = NUMA_NODES) -> list[frozenset[int]]:
    """The CPUs of each NUMA domain of this machine, by number; none where the system does not tell."""
    found: list[frozenset[int]] = []
    for path in sorted(folder.glob("node[0-9]*"), key=lambda path: int(path.name.removeprefix("node"))):
        try:
            cpus = parse_cpu_list((path / "cpulist").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if cpus:  # a domain may be memory alone
            found.append(cpus)
    return found


def parse_cpu_list(text: str) -> frozenset[int]:
    """``0-3,8`` as the kernel writes it. Raises ValueError."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)
