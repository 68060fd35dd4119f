"""What must hold in a core after every event, recomputed from scratch."""

from __future__ import annotations

from collections import Counter

from shoal.common.intervals import IntervalSet
from shoal.common.records import Delivery, UnitKind
from shoal.coordinator.core import Core
from shoal.coordinator.leases import HeldLease, LeaseTable
from shoal.coordinator.model import JobState, ObjectState, Phase

from .clock import Violation, require


def check_invariants(core: Core) -> None:
    """Raise Violation if the state of the core contradicts itself. Costs a walk over all of it."""
    check_leases(core.leases)
    by_object: dict[int, list[HeldLease]] = {}
    units: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    for lease in core.leases:
        job = core.jobs.get(lease.job_id)
        if job is None or job.row.status.ended:
            raise Violation(f"{lease.unit} is leased, but its job has ended")
        units[lease.agent_id] += 1
        weights[lease.agent_id] += lease.weight
        early = lease.kind is UnitKind.BATCH and job.dataset is None  # restored before the batches were loaded
        if lease.object_id and not early:
            by_object.setdefault(lease.object_id, []).append(lease)
    for job in core.jobs.values():
        _check_job(job, by_object)
    require(not by_object, f"leases on objects that no job knows: {by_object}")
    for agent in core.agents.values():
        held = (units[agent.agent_id], weights[agent.agent_id])
        if (agent.units, agent.bytes_held) != held:
            raise Violation(f"{agent.name} holds {held}, but is counted as {agent.units}, {agent.bytes_held}")


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
            if job.objects.get(object_id) is not obj or obj.phase is not phase:
                raise Violation(f"{name}: o{object_id} is {obj.phase} in the queue of {phase}")
    for object_id, obj in job.objects.items():
        _check_object(job, obj, by_object.pop(object_id, []))
        here = True
        if obj.phase is Phase.QUEUED:
            here = object_id in job.queued or (obj.not_before, object_id) in job.delayed
            remaining += obj.weight
        elif obj.phase is Phase.RANGES:
            here = object_id in job.open and (object_id in job.wanted) == bool(obj.pending)
            pending += obj.pending.total
        elif obj.phase is Phase.READY:
            here = object_id in job.ready
        if not here or object_id != obj.spec.object_id:
            raise Violation(f"{name}: o{object_id} is {obj.phase} and not in the right queues")
    begun = {object_id for object_id, obj in job.objects.items() if obj.phase is not Phase.QUEUED}
    require(job.begun.keys() == begun, f"{name}: {job.begun.keys() ^ begun} are begun and queued at once, or neither")
    remaining += pending
    require(job.remaining == remaining, f"{name}: remaining is {job.remaining}, not {remaining}")
    require(job.open_pending == pending, f"{name}: open_pending is {job.open_pending}, not {pending}")
    require(len(job.wanted) <= len(job.open), f"{name}: bytes of an object that is not open are wanted")
    row = job.row
    if row.spec is None or row.spec.delivery is not Delivery.REPLICATE:
        fetched = sum(job.fetched_by.values())
        require(fetched == row.bytes_fetched, f"{name}: agents fetched {fetched} bytes, the job {row.bytes_fetched}")
    if row.spec is not None:
        counted = row.objects_done + row.objects_failed
        require(counted <= row.objects_total, f"{name}: {counted} objects ended of {row.objects_total}")
        require(counted + len(job.objects) <= row.objects_total, f"{name}: more objects than there are")


def _check_object(job: JobState, obj: ObjectState, leases: list[HeldLease]) -> None:
    if obj.phase is Phase.QUEUED and not leases and not obj.pending and not obj.done and not obj.done_bytes:
        return  # most are so: this keeps the walk cheap
    name = f"{job.row.job_id} o{obj.spec.object_id}"
    whole = [lease for lease in leases if lease.kind is not UnitKind.RANGE]
    if len(whole) != (1 if obj.phase is Phase.LEASED else 0):
        raise Violation(f"{name}: {obj.phase} with leases {whole}")
    if obj.done_bytes != obj.done.total:
        raise Violation(f"{name}: done_bytes is {obj.done_bytes}, not {obj.done.total}")
    leased = IntervalSet()
    for lease in leases:
        for start, stop in lease.left:
            if not lease.start <= start < stop <= lease.stop:
                raise Violation(f"{name}: {lease.unit} left more than it had")
            if leased.add(start, stop) != stop - start:
                raise Violation(f"{name}: bytes [{start}, {stop}) are leased twice")
    if obj.phase is not Phase.RANGES:
        require(not obj.pending, f"{name} has bytes pending, but is not open")
        return
    size = obj.spec.size or 0
    require(not obj.done.covers(0, size), f"{name}: all of it is there, and nobody publishes it")
    parts = obj.done.total + obj.pending.total + leased.total
    require(parts == size, f"{name}: done, pending and leased bytes are {parts} of {size}")
    both = IntervalSet([*obj.done, *obj.pending, *leased])
    require(both.covers(0, size), f"{name}: some bytes are done and pending or leased, others neither")
