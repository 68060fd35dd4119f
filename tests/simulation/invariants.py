"""What must hold in a core after every event, recomputed from scratch."""

from __future__ import annotations

from collections import Counter

from shoal.common.intervals import IntervalSet
from shoal.common.records import UnitKind
from shoal.coordinator.core import Core
from shoal.coordinator.leases import HeldLease, LeaseTable
from shoal.coordinator.model import JobState, ObjectState, Phase

from .clock import require


def check_invariants(core: Core) -> None:
    """Raise Violation if the state of the core contradicts itself. Costs a walk over all of it."""
    check_leases(core.leases)
    by_object: dict[int, list[HeldLease]] = {}
    units: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for lease in core.leases:
        job = core.jobs.get(lease.job_id)
        require(job is not None and not job.row.status.ended, f"{lease.unit} is leased, but its job has ended")
        units[lease.agent_id] += 1
        weights[lease.agent_id] += lease.weight
        if lease.object_id:
            by_object.setdefault(lease.object_id, []).append(lease)
    for job in core.jobs.values():
        _check_job(job, by_object)
    require(not by_object, f"leases on objects that no job knows: {by_object}")
    for agent in core.agents.values():
        require(agent.units == units[agent.agent_id], f"{agent.name}: {agent.units} units, not {units[agent.agent_id]}")
        require(agent.bytes_held == weights[agent.agent_id], f"{agent.name}: bytes_held is {agent.bytes_held}")


def check_leases(table: LeaseTable) -> None:
    """The table's indexes agree, and no lease can miss its deadline."""
    leases = {lease.unit: lease for lease in table}
    require(all(table.holds(unit) is lease for unit, lease in leases.items()), "by unit")
    agents = {lease.agent_id for lease in leases.values()}
    objects = {lease.object_id for lease in leases.values()}
    require(sum(len(table.of_agent(agent)) for agent in agents) == len(leases), "by agent")
    require(sum(len(table.of_object(object_id)) for object_id in objects) == len(leases), "by object")
    require(all(lease.token < table.next_token for lease in leases.values()), "a token is not below the next one")
    soonest = min((lease.deadline for lease in leases.values()), default=None)
    if soonest is not None:
        wakeup = table.next_deadline()
        require(wakeup is not None and wakeup <= soonest, f"a lease ends at {soonest}, the table wakes at {wakeup}")


def _check_job(job: JobState, by_object: dict[int, list[HeldLease]]) -> None:
    name = job.row.job_id
    remaining = pending = 0
    for container, phase in ((job.queued, Phase.QUEUED), (job.open, Phase.RANGES), (job.ready, Phase.READY)):
        for object_id, obj in container.items():
            require(job.objects.get(object_id) is obj, f"{name}: o{object_id} is in a queue but not in the window")
            require(obj.phase is phase, f"{name}: o{object_id} is {obj.phase} in the queue of {phase}")
    for object_id, obj in job.objects.items():
        require(object_id == obj.spec.object_id, f"{name}: o{object_id} under another's id")
        leases = by_object.pop(object_id, [])
        _check_object(job, obj, leases)
        if obj.phase is Phase.QUEUED:
            waits = object_id in job.queued or (obj.not_before, object_id) in job.delayed
            require(waits, f"{name}: o{object_id} is queued nowhere")
            remaining += obj.weight
        elif obj.phase is Phase.RANGES:
            require(object_id in job.open, f"{name}: o{object_id} is not among the open")
            remaining += obj.pending.total
            pending += obj.pending.total
            wanted = job.wanted.get(object_id) is obj
            require(wanted == bool(obj.pending), f"{name}: o{object_id} is wanted ({wanted}) for {obj.pending}")
        elif obj.phase is Phase.READY:
            require(object_id in job.ready, f"{name}: o{object_id} is not among the ready")
    require(job.remaining == remaining, f"{name}: remaining is {job.remaining}, not {remaining}")
    require(job.open_pending == pending, f"{name}: open_pending is {job.open_pending}, not {pending}")
    require(len(job.wanted) <= len(job.open), f"{name}: bytes of an object that is not open are wanted")
    row = job.row
    if row.spec is not None:
        counted = row.objects_done + row.objects_failed
        require(counted <= row.objects_total, f"{name}: {counted} objects ended of {row.objects_total}")
        require(counted + len(job.objects) <= row.objects_total, f"{name}: more objects than there are")


def _check_object(job: JobState, obj: ObjectState, leases: list[HeldLease]) -> None:
    name = f"{job.row.job_id} o{obj.spec.object_id}"
    whole = [lease for lease in leases if lease.kind is not UnitKind.RANGE]
    ranges = [lease for lease in leases if lease.kind is UnitKind.RANGE]
    require((obj.phase is Phase.LEASED) == (len(whole) == 1), f"{name}: {obj.phase} with leases {whole}")
    require(len(whole) <= 1, f"{name}: leased twice as a whole: {whole}")
    require(obj.done_bytes == obj.done.total, f"{name}: done_bytes is {obj.done_bytes}, not {obj.done.total}")
    leased = IntervalSet()
    for lease in ranges:
        for start, stop in lease.left:
            require(lease.start <= start < stop <= lease.stop, f"{name}: {lease.unit} left more than it had")
            require(leased.add(start, stop) == stop - start, f"{name}: bytes [{start}, {stop}) are leased twice")
    require(obj.phase is Phase.RANGES or not obj.pending, f"{name}: {obj.phase} with bytes pending")
    if obj.phase is Phase.RANGES:
        size = obj.spec.size or 0
        require(not obj.done.covers(0, size), f"{name}: all of it is there, and nobody publishes it")
        parts = obj.done.total + obj.pending.total + leased.total
        require(parts == size, f"{name}: done, pending and leased bytes are {parts} of {size}")
        both = IntervalSet([*obj.done, *obj.pending, *leased])
        require(both.covers(0, size), f"{name}: bytes are missing: {list(both.missing(0, size))}")
