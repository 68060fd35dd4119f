"""Leases: who may do which unit of work, until when, and whose report counts.

A lease is granted with a fencing token that grows with every grant of every incarnation of the coordinator. A report counts
only if it carries the token of the lease in force, so an agent that slept through its deadline cannot get credit for, or
undo, the work of its successor (fencing tokens: M. Kleppmann, "How to do distributed locking", 2016; C. Gray and
D. Cheriton, "Leases", SOSP 1989).

    (none) --grant--> held --renew--> held
                      held --finish--> (none)      the report's token is the lease's
                      held --expire--> (none)      the deadline passed without a renewal
                      held --revoke--> (none)      the coordinator took it back

No I/O and no clock: every method that needs the time takes ``now``, in seconds of any monotonic clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from ..common.intervals import IntervalSet
from ..common.records import LeaseRef, UnitKind

K = TypeVar("K")

TOKENS_PER_INCARNATION = 1 << 32
"""Tokens of one incarnation all lie above those of earlier ones, even if a power failure rolled back the last grants."""


@dataclass(slots=True, kw_only=True)
class HeldLease:
    """A lease in force. left is what remains of a RANGE lease's bytes; weight counts against the agent's credit."""

    unit: str
    token: int
    agent_id: str
    kind: UnitKind
    job_id: str
    object_id: int
    start: int
    stop: int
    weight: int
    granted_at: float
    deadline: float
    left: IntervalSet = field(default_factory=IntervalSet)
    arrived: int = 0  # bytes, or rows of a batch, as far as is known
    fetched: int = 0  # bytes that its reports named
    yield_asked_at: float | None = None

    @property
    def ref(self) -> LeaseRef:
        return LeaseRef(self.unit, self.token)

    def arrive(self, arrived: int) -> int:
        """So much of it has come in all. Returns how much of that was not known."""
        news = max(0, arrived - self.arrived)
        self.arrived += news
        return news

    def report(self, fetched: int) -> int:
        """So many more bytes were fetched. Returns how many of them no heartbeat had told of."""
        self.fetched += fetched
        return self.arrive(self.fetched)


class LeaseTable:
    """All leases in force, by unit and by agent, with their deadlines."""

    def __init__(self, *, incarnation: int, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self._next_token = incarnation * TOKENS_PER_INCARNATION
        self._by_unit: dict[str, HeldLease] = {}
        self._by_agent: dict[str, dict[str, HeldLease]] = {}
        self._by_object: dict[int, dict[str, HeldLease]] = {}
        self._by_job: dict[str, dict[str, HeldLease]] = {}
        self._deadlines: list[tuple[float, int, str]] = []

    def grant(
        self,
        unit: str,
        agent_id: str,
        kind: UnitKind,
        *,
        job_id: str,
        object_id: int,
        start: int,
        stop: int,
        weight: int,
        now: float,
    ) -> HeldLease:
        """Grant a unit that nobody holds. Raises ValueError if somebody does: that would be a scheduler's error."""
        if unit in self._by_unit:
            raise ValueError(f"{unit} is held already")
        self._next_token += 1
        lease = HeldLease(
            unit=unit,
            token=self._next_token,
            agent_id=agent_id,
            kind=kind,
            job_id=job_id,
            object_id=object_id,
            start=start,
            stop=stop,
            weight=weight,
            granted_at=now,
            deadline=now + self.ttl_s,
        )
        if kind is UnitKind.RANGE:
            lease.left.add(start, stop)
        self._insert(lease)
        return lease

    def new_life(self) -> int:
        """A number for an object's life (`ObjectSpec.life`): a token that no lease will have, so unique over all incarnations."""
        self._next_token += 1
        return self._next_token

    @property
    def next_token(self) -> int:
        """The token that the next grant will carry: unique over all incarnations."""
        return self._next_token + 1

    def restore(self, lease: HeldLease) -> None:
        """Put back a lease that an earlier incarnation granted, so that its holder can go on."""
        self._insert(lease)

    def find(self, agent_id: str, unit: str, token: int) -> HeldLease | None:
        """The lease in force, if this agent holds it under this token; else None: the report is fenced."""
        lease = self._by_unit.get(unit)
        return lease if lease and lease.token == token and lease.agent_id == agent_id else None

    def renew(self, agent_id: str, refs: Iterable[LeaseRef], now: float) -> list[LeaseRef]:
        """Renew what the agent says it holds. Returns the references that are not its own (any more)."""
        fenced: list[LeaseRef] = []
        for ref in refs:
            lease = self.find(agent_id, ref.unit, ref.token)
            if lease is None:
                fenced.append(ref)
            else:
                lease.deadline = now + self.ttl_s
        return fenced

    def shorten(self, agent_id: str, deadline: float) -> None:
        """Let an agent's leases end no later than deadline: its session broke and it has only so long to come back."""
        for lease in self._by_agent.get(agent_id, {}).values():
            if lease.deadline > deadline:
                lease.deadline = deadline
                heapq.heappush(self._deadlines, (deadline, lease.token, lease.unit))

    def drop(self, unit: str) -> HeldLease | None:
        """End a lease, for whatever reason."""
        lease = self._by_unit.pop(unit, None)
        if lease is not None:
            _remove(self._by_agent, lease.agent_id, unit)
            _remove(self._by_object, lease.object_id, unit)
            _remove(self._by_job, lease.job_id, unit)
        return lease

    def expire(self, now: float) -> list[HeldLease]:
        """End all leases whose deadline has passed, and return them."""
        expired: list[HeldLease] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, token, unit = heapq.heappop(self._deadlines)
            lease = self._by_unit.get(unit)
            if lease is None or lease.token != token:
                continue
            if lease.deadline > now:  # renewed since: a renewal moves the deadline but not the heap entry
                heapq.heappush(self._deadlines, (lease.deadline, token, unit))
                continue
            self.drop(unit)
            expired.append(lease)
        return expired

    def next_deadline(self) -> float | None:
        """A time before which no lease expires, or None if there is no lease."""
        return self._deadlines[0][0] if self._deadlines else None

    def of_agent(self, agent_id: str) -> list[HeldLease]:
        """The leases that an agent holds, oldest first."""
        return list(self._by_agent.get(agent_id, {}).values())

    def of_object(self, object_id: int) -> list[HeldLease]:
        """The leases on an object or parts of it, oldest first."""
        return list(self._by_object.get(object_id, {}).values())

    def of_job(self, job_id: str) -> list[HeldLease]:
        """The leases on a job's work, oldest first."""
        return list(self._by_job.get(job_id, {}).values())

    def holds(self, unit: str) -> HeldLease | None:
        """The lease on a unit, whoever holds it."""
        return self._by_unit.get(unit)

    def __iter__(self) -> Iterator[HeldLease]:
        return iter(list(self._by_unit.values()))

    def __len__(self) -> int:
        return len(self._by_unit)

    def _insert(self, lease: HeldLease) -> None:
        self._by_unit[lease.unit] = lease
        self._by_agent.setdefault(lease.agent_id, {})[lease.unit] = lease
        self._by_object.setdefault(lease.object_id, {})[lease.unit] = lease
        self._by_job.setdefault(lease.job_id, {})[lease.unit] = lease
        heapq.heappush(self._deadlines, (lease.deadline, lease.token, lease.unit))


def _remove(index: dict[K, dict[str, HeldLease]], key: K, unit: str) -> None:
    held = index[key]
    del held[unit]
    if not held:
        del index[key]
