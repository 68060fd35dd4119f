"""Handing out work: the scheduler's decisions become leases, grants and loads.

One turn of `Assigner.assign` looks at every job and agent once and then only at those that may have something for each other, so that
a turn with nothing to do stays cheap in a fleet of thousands.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..common.records import Grants, Lease, UnitKind, Yield
from .effects import Effects, Load, PutLease, Send
from .leases import HeldLease, LeaseTable
from .model import AgentState, JobState, JobStatus, ObjectState
from .scheduler.spread import (
    UNIT_WEIGHT,
    Fleet,
    SpreadLimits,
    Work,
    has_credit,
    has_work,
    in_order,
    next_work,
    room,
    slowest_ranges,
)

ASK_FOR_HALF_S = 1.0
"""Looking for leases to split walks over all of them: idle agents cause it no more often than this."""
GRANTS_MAX = 2048
"""Grants of one turn: a fleet that starts all at once must not keep the coordinator from hearing heartbeats for seconds."""
WINDOW_LOW = 512
"""Objects waiting in memory below which more are read from the store: enough until the store has answered."""


class Assigner:
    """Grants work to agents. Shares the core's state."""

    def __init__(
        self,
        jobs: dict[str, JobState],
        agents: dict[str, AgentState],
        leases: LeaseTable,
        effects: Effects,
        limits: SpreadLimits,
    ) -> None:
        self._jobs = jobs
        self._agents = agents
        self._leases = leases
        self._effects = effects
        self._limits = limits
        self._grants: dict[str, list[Lease]] = {}
        self._asked_for_half_at = float("-inf")

    def send_grants(self) -> None:
        """Put what was granted since the last call into messages, each with the jobs that its agent was not told of yet."""
        for agent_id, leases in self._grants.items():
            agent = self._agents[agent_id]
            fresh = [job_id for job_id in {lease.job_id: None for lease in leases} if job_id not in agent.told_jobs]
            agent.told_jobs.update(fresh)
            specs = tuple(self._jobs[job_id].spec for job_id in fresh)
            self._effects.sends.append(Send(agent_id, Grants(leases=tuple(leases), jobs=specs)))
        self._grants.clear()

    def grant_unit(self, agent: AgentState, job: JobState, kind: UnitKind, unit: str, now: float) -> HeldLease:
        """Grant a unit of the job as a whole that nobody holds."""
        return self._issue(agent, job, Work(kind=kind), unit, now)

    def grant_batch(
        self,
        agent: AgentState,
        job: JobState,
        obj: ObjectState,
        unit: str,
        now: float,
        *,
        profile: bool,
        give_up_code: int,
    ) -> HeldLease:
        """Grant a batch of a dataset job that nobody holds."""
        work = Work(kind=UnitKind.BATCH, obj=obj, weight=UNIT_WEIGHT)
        return self._issue(agent, job, work, unit, now, profile=profile, give_up_code=give_up_code)

    def assign(self, now: float) -> None:
        """Grant what can be granted, one unit an agent in turn, until nothing fits any more or it is enough for one turn."""
        active = [
            job
            for job in self._jobs.values()
            if not job.row.status.ended and job.row.spec is not None and job.replication is None
        ]
        for job in active:
            self._advance(job, now)
        jobs = in_order(job for job in active if has_work(job) and self._leases.holds(job.unit) is None)
        if jobs:
            fleet = Fleet(self._agents.values())
            hungry = self._hungry(jobs, fleet, now)
            count = 0
            while hungry and count < GRANTS_MAX:
                granted = [agent for agent in hungry[:GRANTS_MAX] if self._grant_one(agent, jobs, fleet, now)]
                count += len(granted)
                hungry = [agent for agent in granted if has_credit(agent)]
        if active and now - self._asked_for_half_at >= ASK_FOR_HALF_S:
            self._ask_for_halves(now)

    def _hungry(self, jobs: Sequence[JobState], fleet: Fleet, now: float) -> list[AgentState]:
        """The agents that `next_work` may have something for, the idlest first. Those with all they may hold are left out."""
        most = max(room(job, fleet, self._limits, now) for job in jobs)
        publishers = {obj.publisher for job in jobs for obj in job.ready.values()}
        hungry = [
            agent
            for agent in self._agents.values()
            if has_credit(agent)
            and (agent.units < agent.capacity.slots or agent.bytes_held <= most or agent.agent_id in publishers)
        ]
        hungry.sort(key=lambda agent: agent.units)
        return hungry

    def _advance(self, job: JobState, now: float) -> None:
        if job.row.status is not JobStatus.RUNNING or job.row.paused:
            return
        if job.spec.collect is not None:
            return  # `datasets.py` decides
        job.end_delays(now)
        if len(job.queued) < WINDOW_LOW and not job.exhausted and not job.loading:
            job.loading = True
            self._effects.loads.append(Load(job.row.job_id, restart=not job.objects))
        if job.exhausted and not job.objects and not job.loading:
            job.row.status = JobStatus.FINALIZING
            job.unit_failures = 0
            job.changed = True

    def _grant_one(self, agent: AgentState, jobs: Sequence[JobState], fleet: Fleet, now: float) -> bool:
        for job in jobs:
            work = next_work(job, agent, fleet, self._limits, now)
            if work is not None and (work.obj is not None or self._leases.holds(job.unit) is None):
                self._grant(agent, job, work, now)
                return True
        return False

    def _grant(self, agent: AgentState, job: JobState, work: Work, now: float) -> None:
        if work.obj is None:
            unit = job.unit
        elif work.kind is UnitKind.RANGE:
            unit = f"r{self._leases.next_token}"
            job.take_range(work.obj, work.start, work.stop)
        else:
            unit = f"o{work.obj.spec.object_id}"
            job.lease_whole(work.obj)
        self._issue(agent, job, work, unit, now)

    def _issue(
        self,
        agent: AgentState,
        job: JobState,
        work: Work,
        unit: str,
        now: float,
        *,
        profile: bool = False,
        give_up_code: int = 0,
    ) -> HeldLease:
        object_id = work.obj.spec.object_id if work.obj is not None else 0
        held = self._leases.grant(
            unit,
            agent.agent_id,
            work.kind,
            job_id=job.row.job_id,
            object_id=object_id,
            start=work.start,
            stop=work.stop,
            weight=work.weight,
            now=now,
        )
        agent.units += 1
        agent.bytes_held += work.weight
        self._effects.writes.append(
            PutLease(
                unit=unit,
                token=held.token,
                agent_id=agent.agent_id,
                kind=work.kind,
                job_id=job.row.job_id,
                object_id=object_id,
                start=work.start,
                stop=work.stop,
            )
        )
        self._grants.setdefault(agent.agent_id, []).append(
            Lease(
                unit=unit,
                token=held.token,
                kind=work.kind,
                job_id=job.row.job_id,
                object=work.obj.spec if work.obj else None,
                start=work.start,
                stop=work.stop,
                remaining=job.remaining,
                ttl_s=self._leases.ttl_s,
                profile=profile,
                give_up_code=give_up_code,
            )
        )
        return held

    def _ask_for_halves(self, now: float) -> None:
        """Let those who will end last share with agents that have nothing left to do."""
        idle = [agent for agent in self._agents.values() if agent.units == 0 and has_credit(agent)]
        if not idle or not len(self._leases):
            return
        self._asked_for_half_at = now
        slowest = slowest_ranges(self._leases, self._limits, now, count=len(idle))
        for agent, lease in zip(idle, slowest, strict=False):
            holder = self._agents.get(lease.agent_id)  # a restored lease's may not be back yet
            excluded = self._jobs[lease.job_id].excluded.get(agent.agent_id, 0.0) > now
            if holder is not None and holder.connected and not excluded:
                lease.yield_asked_at = now
                self._effects.sends.append(Send(lease.agent_id, Yield((lease.ref,))))
