"""Spread: one copy of every object, brought by all agents together. Decides what an agent gets next.

Objects are taken largest first. One that is worth splitting is opened by one agent and then leased by byte ranges to all, so
that one big file uses every agent's line. Range sizes and how much an agent may hold in advance follow guided self-scheduling
(C. Polychronopoulos and D. Kuck, 1987): a grant is a share of what is left, so that pieces are large while there is much to do and
small near the end, and all agents end together. When nothing is left to grant, an idle agent gets half of what the slowest
holder has not done.

Pure: no I/O, no clock.
"""

from __future__ import annotations

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


def is_full(agent: AgentState, jobs: Sequence[JobState], fleet: Fleet) -> bool:
    """Whether the agent holds so much in advance that none of these jobs has room for more, so that `next_work` need not look."""
    if agent.units < agent.capacity.slots:
        return False
    return not any(
        job.ready or not job.queued or may_hold(agent, UNIT_WEIGHT, job.remaining, fleet) for job in jobs
    )


def has_credit(agent: AgentState) -> bool:
    """Whether the agent may be given anything at all."""
    return agent.connected and not agent.draining and agent.units < agent.capacity.units_max


def may_hold(agent: AgentState, weight: int, remaining: int, fleet: Fleet) -> bool:
    """Whether the agent may hold a further unit: its slots are always filled; in advance it gets a fair share of what is left."""
    if agent.units < agent.capacity.slots:
        return agent.units == 0 or agent.bytes_held + weight <= agent.capacity.bytes_max
    share = min(agent.capacity.bytes_max, remaining // (2 * fleet.agents))
    return agent.bytes_held + weight <= share


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
        kind = UnitKind.PREPARE if job.row.status is JobStatus.PREPARING else UnitKind.FINALIZE
        return Work(kind=kind) if job.unit_not_before <= now else None
    if job.row.status is not JobStatus.RUNNING:
        return None
    return (
        _publish(job, agent, now)
        or _open_early(job, limits, now)
        or _range(job, agent, fleet, limits, now)
        or _queued(job, agent, fleet, limits, now)
    )


def worth_splitting(obj: ObjectState, limits: SpreadLimits) -> bool:
    """Whether the object is leased by ranges."""
    return obj.spec.size is not None and obj.spec.size >= limits.split_min


def pick_victim(leases: Iterable[HeldLease], idle: AgentState, limits: SpreadLimits, now: float) -> HeldLease | None:
    """The range lease of another agent that should give half of its rest to an idle agent: the one that will end last."""
    best: HeldLease | None = None
    best_left_s = YIELD_AFTER_S
    for lease in leases:
        if lease.kind is not UnitKind.RANGE or lease.agent_id == idle.agent_id:
            continue
        if lease.yield_asked_at is not None and now - lease.yield_asked_at < YIELD_AGAIN_S:
            continue
        left = lease.left.total
        age = now - lease.granted_at
        if left < limits.range_min // 2 or age <= 0:
            continue
        rate = (lease.stop - lease.start - left) / age
        left_s = left / rate if rate else max(age, YIELD_AFTER_S * 2)
        if age >= YIELD_AFTER_S and left_s > best_left_s:
            best, best_left_s = lease, left_s
    return best


def in_order(jobs: Iterable[JobState]) -> Sequence[JobState]:
    """Jobs in the order in which they are served: by priority, then by age."""
    return sorted(jobs, key=lambda job: (-job.row.priority, job.row.created_at, job.row.job_id))


def _publish(job: JobState, agent: AgentState, now: float) -> Work | None:
    for obj in job.ready.values():
        if obj.not_before > now:
            continue
        preferred = obj.best_agent()
        if preferred in ("", agent.agent_id) or now - obj.ready_at >= PUBLISH_PATIENCE_S:
            return Work(kind=UnitKind.PUBLISH, obj=obj, weight=UNIT_WEIGHT)
    return None


def _open_early(job: JobState, limits: SpreadLimits, now: float) -> Work | None:
    """Open the next big object before the open ones are used up, so that no line is idle in between."""
    first = next(iter(job.queued.values()), None)
    if first is None or first.not_before > now or not worth_splitting(first, limits):
        return None
    if sum(obj.pending.total for obj in job.open.values()) >= limits.open_ahead:
        return None
    return Work(kind=UnitKind.OPEN, obj=first, weight=UNIT_WEIGHT)


def _range(job: JobState, agent: AgentState, fleet: Fleet, limits: SpreadLimits, now: float) -> Work | None:
    for obj in job.open.values():
        if obj.not_before > now:
            continue
        for start, stop in obj.pending:
            length = range_length(job.remaining, fleet, limits)
            # A rest shorter than the smallest range is not worth a lease of its own.
            end = stop if stop - start < length + limits.range_min else start + length
            weight = end - start + UNIT_WEIGHT
            if not may_hold(agent, weight, job.remaining, fleet):
                return None
            return Work(kind=UnitKind.RANGE, obj=obj, start=start, stop=end, weight=weight)
    return None


def _queued(job: JobState, agent: AgentState, fleet: Fleet, limits: SpreadLimits, now: float) -> Work | None:
    for obj in job.queued.values():
        if obj.not_before > now:
            continue
        if worth_splitting(obj, limits):
            return Work(kind=UnitKind.OPEN, obj=obj, weight=UNIT_WEIGHT)
        weight = obj.weight + UNIT_WEIGHT
        if not may_hold(agent, weight, job.remaining, fleet):
            return None
        return Work(kind=UnitKind.WHOLE, obj=obj, weight=weight)
    return None
