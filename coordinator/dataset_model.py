"""What the coordinator knows of a dataset job while it works on it: its hosts, and the batches of each that wait.

A host's life in a job::

    (unknown) --first BATCH granted, with profile--> measuring --its profile, or that lease's end--> served
    served --every host with work is in trouble for host_patience--> given up: its rows that are left become errors

A batch waits in its host's queue, is leased, and ends as done or, after too many failures of the agents' own, as failed. That rows of
it ended as errors is no failure of the batch. The store keeps a row a batch; here a batch that waits is three numbers, so that a table
over a million hosts fits into memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..common.collect_records import batch_of_path, batch_path
from ..common.ignored_hosts import IgnoredHosts
from ..common.records import ObjectSpec, Tally
from ..common.views import ObjectStatus

if TYPE_CHECKING:
    from .model import ObjectState


class WaitingBatch(NamedTuple):
    """A batch that nobody holds: the id of its object, its partition, its rows, how often it failed and its leases ran out."""

    object_id: int
    partition: int
    rows: int
    failures: int = 0
    expiries: int = 0


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch as the store has it."""

    object_id: int
    path: str
    rows: int
    status: ObjectStatus
    failures: int = 0
    tally: Tally = ()


@dataclass(slots=True)
class DatasetHost:
    """A server of a dataset job. rows and tally count its whole share of the table."""

    host: str
    waiting: deque[WaitingBatch] = field(default_factory=deque[WaitingBatch])
    agents: dict[str, int] = field(default_factory=dict[str, int])  # agent id -> batches that it holds
    rows: int = 0
    batches: int = 0
    batches_done: int = 0
    tally: dict[int, int] = field(default_factory=dict[int, int])  # code -> rows
    profiled: bool = False
    measured_by: str = ""  # the unit whose lease measures it now

    @property
    def leased(self) -> int:
        """Batches of it that agents hold."""
        return sum(self.agents.values())

    def spec(self, batch: WaitingBatch) -> ObjectSpec:
        """The batch as an object. Its size is its rows."""
        return ObjectSpec(object_id=batch.object_id, path=batch_path(self.host, batch.partition), size=batch.rows)

    def count(self, tally: Tally) -> None:
        """Rows of it have ended."""
        for code, rows in tally:
            self.tally[code] = self.tally.get(code, 0) + rows


class DatasetState:
    """A dataset job's hosts. in_turn holds those with waiting batches, the one served longest ago first."""

    def __init__(self, rows: Iterable[BatchRow], profiled: Iterable[str], ignored: Iterable[str] = ()) -> None:
        self.hosts: dict[str, DatasetHost] = {}
        self.in_turn: dict[str, DatasetHost] = {}
        self.by_agent: dict[str, int] = {}  # batches that each agent holds of this job
        self.waiting = 0
        self.stuck_since: float | None = None  # since when only hosts in trouble are left
        self.given_up = False
        self.ignored = IgnoredHosts(ignored)
        measured = set(profiled)
        for row in rows:
            self._add(row, measured)

    def _add(self, row: BatchRow, measured: set[str]) -> None:
        name, partition = batch_of_path(row.path)
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = DatasetHost(name, profiled=name in measured)
        host.rows += row.rows
        host.batches += 1
        if row.status is ObjectStatus.QUEUED:
            self.put_back(host, WaitingBatch(row.object_id, partition, row.rows, row.failures))
        elif row.status is ObjectStatus.DONE:
            host.batches_done += 1
            host.count(row.tally)

    def rotate(self, host: DatasetHost) -> None:
        """The host's turn has come for nothing: it goes to the end of the line."""
        self.in_turn[host.host] = self.in_turn.pop(host.host)

    def put_back(self, host: DatasetHost, batch: WaitingBatch, *, first: bool = False) -> None:
        """The batch waits; first: before the host's other ones, because some of it is done already."""
        if first:
            host.waiting.appendleft(batch)
        else:
            host.waiting.append(batch)
        self.waiting += 1
        self.in_turn[host.host] = host

    def take(self, host: DatasetHost, agent_id: str) -> WaitingBatch:
        """Hand the host's next batch to an agent; the host goes to the end of the line."""
        batch = host.waiting.popleft()
        self.waiting -= 1
        self.hold(host, agent_id)
        del self.in_turn[host.host]
        if host.waiting:
            self.in_turn[host.host] = host
        return batch

    def withdraw(self, host: DatasetHost, object_id: int) -> WaitingBatch | None:
        """Take one certain batch out of the queue: it turned out to be leased."""
        for batch in host.waiting:
            if batch.object_id == object_id:
                host.waiting.remove(batch)
                self.waiting -= 1
                if not host.waiting:
                    self.in_turn.pop(host.host, None)
                return batch
        return None

    def hold(self, host: DatasetHost, agent_id: str) -> None:
        """The agent holds one more batch of the host."""
        host.agents[agent_id] = host.agents.get(agent_id, 0) + 1
        self.by_agent[agent_id] = self.by_agent.get(agent_id, 0) + 1

    def let_go(self, host: DatasetHost, agent_id: str) -> None:
        """The agent holds one batch of the host less."""
        for held, key in ((host.agents, agent_id), (self.by_agent, agent_id)):
            left = held.get(key, 0) - 1
            if left > 0:
                held[key] = left
            else:
                held.pop(key, None)

    @property
    def is_over(self) -> bool:
        """Whether no batch waits; leased ones may still come back."""
        return not self.waiting

    def tally(self) -> Tally:
        """Rows that have ended, by code."""
        total: dict[int, int] = {}
        for host in self.hosts.values():
            for code, rows in host.tally.items():
                total[code] = total.get(code, 0) + rows
        return tuple(sorted(total.items()))


def waiting_of(obj: ObjectState) -> WaitingBatch:
    """The batch that was leased as this object."""
    partition = batch_of_path(obj.spec.path)[1]
    return WaitingBatch(obj.spec.object_id, partition, obj.spec.size or 0, obj.failures, obj.expiries)


def merge_tallies(tallies: Sequence[Tally]) -> Tally:
    """The sum of tallies, by code."""
    total: dict[int, int] = {}
    for tally in tallies:
        for code, rows in tally:
            total[code] = total.get(code, 0) + rows
    return tuple(sorted(total.items()))
