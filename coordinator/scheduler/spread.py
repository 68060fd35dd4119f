"""Spread: one copy of every object, brought by all agents together. Decides what an agent gets next.

Objects are taken largest first. One that is worth splitting is opened by one agent and then leased by byte ranges to all, so
that one big file uses every agent's line. Range sizes and how much an agent may hold in advance follow guided self-scheduling
(C. Polychronopoulos and D. Kuck, 1987): a grant is a share of what is left, so that pieces are large while there is much to do and
small near the end, and all agents end together. When nothing is left to grant, an idle agent gets half of what the slowest
holder has not done.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...common.records import UnitKind
from ..leases import HeldLease
from ..model import AgentState, JobState, JobStatus, ObjectState

MIB = 1 << 20
UNIT_WEIGHT = 256 << 10
"""What a unit costs beside its bytes, in bytes: a request and a publish take about as long as so many bytes."""
YIELD_AFTER_S = 2.0
"""A lease is split for an idle agent only if it seems to need longer than this: splitting costs a connection."""
YIELD_AGAIN_S = 5.0
YIELD_SMALL_AFTER_S = 20.0
"""A rest that is smaller than a range should be is split only if it seems to need longer than this."""
ANY_ROOM = 1 << 62
PUBLISH_PATIENCE_S = 2.0
"""How long a complete object waits for the agent that brought most of it, and so has hashed most of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadLimits:
    """Sizes in bytes."""

    split_min: int = 16 * MIB  # smaller objects are leased whole
    range_min: int = 4 * MIB
    range_max: int = 32 * MIB
    range_align: int = MIB
    fixed_range: int = 0  # `fetch.chunk_size` where it is not "auto"
    open_ahead: int = 256 * MIB  # the next object is opened while less than this is left to grant of the open ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A unit to grant."""

    kind: UnitKind
    obj: ObjectState | None = None
    start: int = 0
    stop: int = 0
    weight: int = 0


class Fleet:
    """What sizing needs to know of all agents: how many there are, and how much they can do at once."""

    def __init__(self, agents: Iterable[AgentState]) -> None:
        usable = [agent for agent in agents if agent.connected and not agent.draining]
        self.agents = max(1, len(usable))
        self.slots = max(1, sum(agent.capacity.slots for agent in usable))


def has_work(job: JobState) -> bool:
    """Whether there may be anything to do for the job now, for any agent. Says quickly no for most jobs that have nothing."""
    if job.row.paused:
        return False
    if job.row.status is JobStatus.RUNNING:
        return bool(job.ready or job.wanted or job.queued)
    return job.row.status in (JobStatus.PREPARING, JobStatus.FINALIZING)


def room(job: JobState, fleet: Fleet, limits: SpreadLimits, now: float) -> int:
    """The most bytes that an agent whose slots are all filled may hold and still be given something of the job; -1 if nothing.

    What it says no to, `next_work` would too; so one look at the job spares a look at it for every agent.
    """
    if job.row.status is not JobStatus.RUNNING or _opens_early(job, limits):
        return ANY_ROOM
    if any(_for_anybody(obj, now) for obj in job.ready.values()):
        return ANY_ROOM
    lightest: list[int] = []
    for obj in job.wanted.values():
        if obj.not_before <= now:
            lightest.append(min(range_length(job.remaining, fleet, limits), _first_pending(obj)[1]))
            break
    first = next(iter(job.queued.values()), None)
    if first is not None and not worth_splitting(first, limits):
        lightest.append(first.weight)
    return max(-1, _share(job.remaining, fleet) - min(lightest) - UNIT_WEIGHT) if lightest else -1


def has_credit(agent: AgentState) -> bool:
    """Whether the agent may be given anything at all."""
    return agent.connected and not agent.draining and not agent.silent and agent.units < agent.capacity.units_max


def may_hold(agent: AgentState, weight: int, remaining: int, fleet: Fleet) -> bool:
    """Whether the agent may hold a further unit: its slots are always filled; in advance it gets a fair share of what is left."""
    if agent.units < agent.capacity.slots:
        return agent.units == 0 or agent.bytes_held + weight <= agent.capacity.bytes_max
    return agent.bytes_held + weight <= min(agent.capacity.bytes_max, _share(remaining, fleet))


def _share(remaining: int, fleet: Fleet) -> int:
    return remaining // (2 * fleet.agents)


def range_length(remaining: int, fleet: Fleet, limits: SpreadLimits) -> int:
    """Bytes of the next range when so many bytes of the job are not granted yet."""
    if limits.fixed_range:
        return limits.fixed_range
    guided = remaining // (2 * fleet.slots)
    bounded = max(limits.range_min, min(limits.range_max, guided))
    return -(-bounded // limits.range_align) * limits.range_align


def next_work(job: JobState, agent: AgentState, fleet: Fleet, limits: SpreadLimits, now: float) -> Work | None:
    """What this agent should do next for this job, or None if there is nothing for it now."""
    if job.row.paused or job.excluded.get(agent.agent_id, 0.0) > now:
        return None
    if job.row.status in (JobStatus.PREPARING, JobStatus.FINALIZING):
        begin = UnitKind.PREPARE if job.spec.tool is None else UnitKind.TOOL_PLAN
        kind = begin if job.row.status is JobStatus.PREPARING else UnitKind.FINALIZE
        return Work(kind=kind) if job.unit_not_before <= now else None
    if job.row.status is not JobStatus.RUNNING:
        return None
    return (
        _publish(job, agent, now)
        or _open_early(job, limits)
        or _range(job, agent, fleet, limits, now)
        or _queued(job, agent, fleet, limits)
    )


def worth_splitting(obj: ObjectState, limits: SpreadLimits) -> bool:
    """Whether the object is leased by ranges."""
    return obj.spec.size is not None and obj.spec.size >= limits.split_min


def slowest_ranges(leases: Iterable[HeldLease], limits: SpreadLimits, now: float, *, count: int) -> list[HeldLease]:
    """The range leases whose holders should give half of their rest to idle agents: those that will end last, the last first."""
    candidates: list[tuple[float, int, HeldLease]] = []
    for lease in leases:
        age = now - lease.granted_at
        if lease.kind is not UnitKind.RANGE or age < YIELD_AFTER_S:
            continue
        if lease.yield_asked_at is not None and now - lease.yield_asked_at < YIELD_AGAIN_S:
            continue
        left = lease.left.total
        rate = (lease.stop - lease.start - left) / age
        left_s = left / rate if rate else max(age, YIELD_AFTER_S * 2)
        if left_s > (YIELD_AFTER_S if left >= limits.range_min // 2 else YIELD_SMALL_AFTER_S):
            candidates.append((left_s, -lease.token, lease))
    return [lease for _, _, lease in heapq.nlargest(count, candidates)]


def in_order(jobs: Iterable[JobState]) -> Sequence[JobState]:
    """Jobs in the order in which they are served: by priority, then by age."""
    return sorted(jobs, key=lambda job: (-job.row.priority, job.row.created_at, job.row.job_id))


def _for_anybody(obj: ObjectState, now: float) -> bool:
    """Whether a complete object has waited long enough for the agent that hashed most of it."""
    return obj.not_before <= now and (not obj.publisher or now - obj.ready_at >= PUBLISH_PATIENCE_S)


def _publish(job: JobState, agent: AgentState, now: float) -> Work | None:
    for obj in job.ready.values():
        if _for_anybody(obj, now) or (obj.publisher == agent.agent_id and obj.not_before <= now):
            return Work(kind=UnitKind.PUBLISH, obj=obj, weight=UNIT_WEIGHT)
    return None


def _opens_early(job: JobState, limits: SpreadLimits) -> bool:
    """Whether to open the next big object: before the open ones are used up, so that no line is idle in between."""
    first = next(iter(job.queued.values()), None)
    return first is not None and worth_splitting(first, limits) and job.open_pending < limits.open_ahead


def _open_early(job: JobState, limits: SpreadLimits) -> Work | None:
    if not _opens_early(job, limits):
        return None
    return Work(kind=UnitKind.OPEN, obj=next(iter(job.queued.values())), weight=UNIT_WEIGHT)


def _first_pending(obj: ObjectState) -> tuple[int, int]:
    """Start and length of the first bytes of an open object that nobody holds."""
    start, stop = next(obj.pending.present(0, obj.weight))
    return start, stop - start


def _range(job: JobState, agent: AgentState, fleet: Fleet, limits: SpreadLimits, now: float) -> Work | None:
    for obj in job.wanted.values():
        if obj.not_before > now:
            continue
        start, available = _first_pending(obj)
        length = range_length(job.remaining, fleet, limits)
        if (
            available < length + limits.range_min
        ):  # a rest shorter than the smallest range is not worth a lease of its own
            length = available
        weight = length + UNIT_WEIGHT
        if not may_hold(agent, weight, job.remaining, fleet):
            return None
        return Work(kind=UnitKind.RANGE, obj=obj, start=start, stop=start + length, weight=weight)
    return None


def _queued(job: JobState, agent: AgentState, fleet: Fleet, limits: SpreadLimits) -> Work | None:
    obj = next(iter(job.queued.values()), None)
    if obj is None or worth_splitting(
        obj, limits
    ):  # those are opened when their turn has come, not for want of other work
        return None
    weight = obj.weight + UNIT_WEIGHT
    if not may_hold(agent, weight, job.remaining, fleet):
        return None
    kind = UnitKind.WHOLE if job.spec.tool is None else UnitKind.TOOL_RUN
    return Work(kind=kind, obj=obj, weight=weight)
