"""The coordinator's core: events in, effects out.

Every public method is one event: a job was listed, an agent said something, an administrator asked for something, time passed.
It changes the state at once and leaves what must happen outside (`effects.py`) for `take_effects`. The shell (`service.py`)
calls, in this order: events, `assign`, `take_effects`; writes the rows; then sends the messages.

Pure and synchronous: no I/O, no clock, no randomness. The simulator in tests/simulation runs this very class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..common.records import (
    Ack,
    Acks,
    AgentMessage,
    Budgets,
    Drain,
    Failure,
    Goodbye,
    Grants,
    Heartbeat,
    HeartbeatAck,
    Hello,
    JobSpec,
    Lease,
    ObjectSpec,
    Result,
    Results,
    Revoke,
    UnitKind,
    Welcome,
    Yield,
)
from .effects import DropLease, Effects, Load, PutAgent, PutHostPolicy, PutJob, PutLease, RequeueFailed, Send
from .leases import HeldLease, LeaseTable
from .model import AgentState, JobRow, JobState, JobStatus, ObjectState
from .reports import ReportBook
from .scheduler.hosts import HostTable
from .scheduler.spread import Fleet, SpreadLimits, Work, has_credit, in_order, next_work, pick_victim

RECONNECT_GRACE_S = 5.0
"""An agent whose session broke keeps its leases so long, to come back; then others take over."""
RATE_WINDOW_S = 2.0
ASK_FOR_HALF_S = 1.0
"""Looking for a lease to split walks over all leases: an idle agent causes it no more often than this."""
WINDOW_LOW = 512
"""Objects waiting in memory below which more are read from the store: enough for the largest single round of grants."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreLimits:
    """The core's settings."""

    lease_ttl_s: float = 30.0
    heartbeat_s: float = 5.0
    attempts: int = 3
    spread: SpreadLimits = field(default_factory=SpreadLimits)


class Core:
    """All decisions of one coordinator."""

    def __init__(self, *, incarnation: int, limits: CoreLimits | None = None) -> None:
        self.limits = limits or CoreLimits()
        self.incarnation = incarnation
        self.leases = LeaseTable(incarnation=incarnation, ttl_s=self.limits.lease_ttl_s)
        self.jobs: dict[str, JobState] = {}
        self.agents: dict[str, AgentState] = {}
        self.hosts = HostTable()
        self._effects = Effects()
        self._reports = ReportBook(self.jobs, self.leases, self._effects, attempts=self.limits.attempts)
        self._grants: dict[str, list[Lease]] = {}
        self._budgeted_agents = 0

    def take_effects(self) -> Effects:
        """What is to be done since the last call: writes first, then sends."""
        for job in self.jobs.values():
            if job.changed:
                job.changed = False
                self._effects.writes.append(PutJob(replace(job.row)))
        for agent_id, leases in self._grants.items():
            agent = self.agents[agent_id]
            fresh = [job_id for job_id in {lease.job_id: None for lease in leases} if job_id not in agent.told_jobs]
            agent.told_jobs.update(fresh)
            specs = tuple(self.jobs[job_id].spec for job_id in fresh)
            self._effects.sends.append(Send(agent_id, Grants(leases=tuple(leases), jobs=specs)))
        self._grants.clear()
        taken = Effects(self._effects.writes, self._effects.sends, self._effects.loads, self._effects.ended_jobs)
        self._effects.writes, self._effects.sends = [], []
        self._effects.loads, self._effects.ended_jobs = [], []
        return taken

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def add_job(self, row: JobRow) -> None:
        """A job was submitted (or, after a restart, found in the store)."""
        self.jobs[row.job_id] = JobState(row)

    def job_listed(self, job_id: str, spec: JobSpec, objects: int, total_bytes: int) -> None:
        """The job's source is resolved and all its objects are in the store. What the row counts as failed are refused names."""
        job = self.jobs[job_id]
        if job.row.status is not JobStatus.PLANNING:
            return  # cancelled meanwhile
        job.row.spec = spec
        job.row.objects_total, job.row.bytes_total = objects, total_bytes
        job.row.objects_refused = job.row.objects_failed
        job.row.status = JobStatus.PREPARING
        job.changed = True

    def job_failed(self, job_id: str, failure: Failure, now: float) -> None:
        """The job as a whole cannot go on: its source cannot be listed, its destination cannot be written."""
        job = self.jobs[job_id]
        if not job.row.status.ended:
            self._revoke_all(job)
            self._reports.end_job(job, JobStatus.FAILED, failure)

    def objects_loaded(self, job_id: str, objects: Sequence[tuple[ObjectSpec, int]], *, more: bool) -> None:
        """The store's answer to `Load`: queued objects with their failures so far; more says if others are left.

        Every Load is answered once, even if its job has ended meanwhile. The store was read while events went on: what ended since
        is not taken in again, and an answer for a window that was cleared since is dropped.
        """
        job = self.jobs[job_id]
        ended, job.ended_while_loading = job.ended_while_loading, set()
        job.loading = False
        if job.load_stale:
            job.load_stale = False
            return
        job.exhausted = not more
        for spec, failures in objects:
            known = job.objects.get(spec.object_id)
            if known is not None:  # restored with its lease, which does not tell its failures
                known.failures = max(known.failures, failures)
            elif spec.object_id not in ended:
                job.enqueue(ObjectState(spec=spec, failures=failures))

    def restore_lease(self, lease: HeldLease, spec: ObjectSpec | None) -> None:
        """After a restart: a lease that an earlier incarnation granted. Its holder may come back and go on.

        For a RANGE the object must be opened again, by whoever is first, before further ranges are granted. What its holder had
        given back of it is not stored, but may have been granted again: of two leases on a byte the younger is in force.
        """
        job = self.jobs.get(lease.job_id)
        if job is None or job.row.status.ended or (lease.object_id and spec is None):
            self._effects.writes.append(DropLease(lease.unit))
            return
        for other in self.leases.of_object(lease.object_id) if spec is not None else ():
            older, younger = sorted((other, lease), key=lambda held: held.token)
            older.left.remove(younger.start, younger.stop)
        self.leases.restore(lease)
        if spec is None:
            return
        obj = job.objects.get(spec.object_id)
        if obj is None:
            obj = ObjectState(spec=spec)
            job.enqueue(obj)
        if lease.kind is not UnitKind.RANGE:
            job.lease_whole(obj)

    def pause(self, job_id: str) -> None:
        """Grant nothing more of the job and take back what is out. Partial data stays."""
        job = self.jobs[job_id]
        job.row.paused = True
        job.changed = True
        self._revoke_all(job)

    def resume(self, job_id: str) -> None:
        """Go on with a paused job."""
        job = self.jobs[job_id]
        job.row.paused = False
        job.changed = True

    def cancel(self, job_id: str) -> None:
        """End the job. What is complete stays; partial data stays until `shoal clean`."""
        job = self.jobs[job_id]
        if not job.row.status.ended:
            self._revoke_all(job)
            self._reports.end_job(job, JobStatus.CANCELLED, None)

    def retry(self, job_id: str) -> None:
        """Bring back a failed job's failed objects with fresh attempts."""
        job = self.jobs[job_id]
        if job.row.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
            return
        self._effects.writes.append(RequeueFailed(job_id))
        job.clear_window()
        job.row.objects_failed = job.row.objects_refused
        job.row.failure = None
        job.row.ended_at = None
        job.unit_failures, job.unit_not_before = 0, 0.0
        job.row.status = JobStatus.PREPARING if job.row.spec else JobStatus.PLANNING
        job.changed = True

    def set_host_policy(self, host: str, requests_per_s: float, bytes_per_s: float, now: float) -> None:
        """Limit the fleet's rate at a host, from now on and after restarts."""
        self.hosts.set_policy(host, requests_per_s, bytes_per_s)
        self._effects.writes.append(PutHostPolicy(host=host, requests_per_s=requests_per_s, bytes_per_s=bytes_per_s))
        self._send_budgets(now, [host])

    # ---- agents -----------------------------------------------------------------------------------------------------

    def receive(self, agent_id: str, message: AgentMessage, now: float) -> None:
        """An agent said something in its session. The first word of a session is Hello."""
        if isinstance(message, Hello):
            self._hello(message, now)
            return
        agent = self.agents[agent_id]
        agent.heard_at = now
        match message:
            case Heartbeat():
                self._heartbeat(agent, message, now)
                self._effects.sends.append(Send(agent_id, HeartbeatAck(message.seq)))
            case Results():
                self._results(agent, message.results, now)
            case Goodbye():
                self._goodbye(agent, now)

    def disconnected(self, agent_id: str, now: float) -> None:
        """An agent's session ended without goodbye: it is lost, or will be back soon."""
        agent = self.agents.get(agent_id)
        if agent is not None and agent.connected:
            agent.connected = False
            self.leases.shorten(agent_id, now + RECONNECT_GRACE_S)
            self._share_budgets(now)

    def drain_agent(self, agent_id: str) -> None:
        """Let an agent finish or give back what it holds, and leave."""
        agent = self.agents[agent_id]
        agent.draining = True
        self._effects.sends.append(Send(agent_id, Drain("an administrator asked for it")))

    def _hello(self, hello: Hello, now: float) -> None:
        agent = AgentState(
            agent_id=hello.agent_id,
            name=hello.name,
            version=hello.version,
            zone=hello.zone,
            capacity=hello.capacity,
            connected=True,
            joined_at=now,
            heard_at=now,
            rate_at=now,
        )
        before = self.agents.get(hello.agent_id)
        if before is not None:
            agent.objects_done, agent.bytes_done = before.objects_done, before.bytes_done
        self.agents[agent.agent_id] = agent
        for lease in self.leases.of_agent(agent.agent_id):
            agent.units += 1
            agent.bytes_held += lease.weight
        # A new process under an old name holds nothing: what the old one held is free at once. Reports come first, because
        # they may end leases that the agent no longer works on.
        self._results(agent, hello.results, now)
        claimed = set(hello.held)
        for lease in self.leases.of_agent(agent.agent_id):
            if lease.ref not in claimed:
                self._end_lease(lease)
                self._reports.give_back(lease)
        fenced = self.leases.renew(agent.agent_id, hello.held, now)
        self._effects.writes.append(
            PutAgent(agent_id=agent.agent_id, name=agent.name, version=agent.version, zone=agent.zone)
        )
        self._effects.sends.append(
            Send(
                agent.agent_id,
                Welcome(
                    incarnation=self.incarnation,
                    heartbeat_s=self.limits.heartbeat_s,
                    lease_ttl_s=self.limits.lease_ttl_s,
                    fenced=tuple(fenced),
                ),
            )
        )
        self._share_budgets(now)
        if budgets := self.hosts.budgets(self._connected(), now):
            self._effects.sends.append(Send(agent.agent_id, Budgets(budgets)))

    def _heartbeat(self, agent: AgentState, beat: Heartbeat, now: float) -> None:
        if fenced := self.leases.renew(agent.agent_id, beat.held, now):
            self._effects.sends.append(Send(agent.agent_id, Revoke(tuple(fenced))))
        if beat.capacity is not None:
            agent.capacity = beat.capacity
        if beat.memory:
            agent.memory = beat.memory
        for progress in beat.progress:
            lease = self.leases.find(agent.agent_id, progress.unit, progress.token)
            if lease is not None and progress.arrived > lease.arrived:
                agent.rate_bytes += progress.arrived - lease.arrived
                lease.arrived = progress.arrived
        if now - agent.rate_at >= RATE_WINDOW_S:
            measured = agent.rate_bytes / (now - agent.rate_at)
            agent.rate = measured if not agent.rate else 0.5 * agent.rate + 0.5 * measured
            agent.rate_at, agent.rate_bytes = now, 0
        blocked = [seen.host for seen in beat.hosts if self.hosts.observe(seen, now)]
        if blocked:
            self._send_budgets(now, blocked)

    def _results(self, agent: AgentState, results: Iterable[Result], now: float) -> None:
        acks: list[Ack] = []
        for result in results:
            lease = self.leases.find(agent.agent_id, result.unit, result.token)
            acks.append(Ack(result.seq, lease is not None))
            if lease is None:
                continue
            ended = self._reports.take(agent, lease, result, now)
            if ended:
                self._end_lease(lease)
            self._revoke_orphans()  # before the next result: what comes after on such a lease must not count
        if acks:
            self._effects.sends.append(Send(agent.agent_id, Acks(tuple(acks))))

    def _goodbye(self, agent: AgentState, now: float) -> None:
        agent.connected = False
        agent.left = True
        for lease in self.leases.of_agent(agent.agent_id):
            self._end_lease(lease)
            self._reports.give_back(lease)
        self._share_budgets(now)

    # ---- time and assignment ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time passed: end the leases whose deadline is over."""
        for lease in self.leases.expire(now):
            self._lease_gone(lease)
            self._reports.expired(lease, now)
            agent = self.agents.get(lease.agent_id)
            if agent is not None and agent.connected:
                self._effects.sends.append(Send(agent.agent_id, Revoke((lease.ref,))))
        self._revoke_orphans()

    def assign(self, now: float) -> None:
        """Grant whatever can be granted, one unit an agent in turn, until nothing fits any more."""
        jobs = [job for job in in_order(self.jobs.values()) if not job.row.status.ended and job.row.spec is not None]
        for job in jobs:
            self._advance(job)
        jobs = [job for job in jobs if not job.row.status.ended]
        if not jobs:
            return
        hungry = [agent for agent in self.agents.values() if has_credit(agent)]
        fleet = Fleet(self.agents.values())
        while hungry:
            still: list[AgentState] = []
            for agent in hungry:
                if self._grant_one(agent, jobs, fleet, now):
                    if has_credit(agent):
                        still.append(agent)
                elif agent.units == 0:
                    self._ask_for_half(agent, now)
            hungry = still

    def next_wakeup(self, now: float) -> float:
        """When `tick` and `assign` are due again, if nothing happens before."""
        deadline = self.leases.next_deadline()
        return min(now + self.limits.heartbeat_s, deadline if deadline is not None else now + self.limits.heartbeat_s)

    def _advance(self, job: JobState) -> None:
        if job.row.status is not JobStatus.RUNNING or job.row.paused:
            return
        if len(job.queued) < WINDOW_LOW and not job.exhausted and not job.loading:
            job.loading = True
            self._effects.loads.append(Load(job.row.job_id, restart=not job.objects))
        if job.exhausted and not job.objects and not job.loading:
            job.row.status = JobStatus.FINALIZING
            job.unit_failures = 0
            job.changed = True

    def _grant_one(self, agent: AgentState, jobs: Sequence[JobState], fleet: Fleet, now: float) -> bool:
        for job in jobs:
            work = next_work(job, agent, fleet, self.limits.spread, now)
            if work is not None and (work.obj is not None or self.leases.holds(job.unit) is None):
                self._grant(agent, job, work, now)
                return True
        return False

    def _grant(self, agent: AgentState, job: JobState, work: Work, now: float) -> None:
        if work.obj is None:
            unit, object_id = job.unit, 0
        elif work.kind is UnitKind.RANGE:
            unit, object_id = f"r{self.leases.next_token}", work.obj.spec.object_id
            job.take_range(work.obj, work.start, work.stop)
        else:
            unit, object_id = f"o{work.obj.spec.object_id}", work.obj.spec.object_id
            job.lease_whole(work.obj)
        held = self.leases.grant(
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
                ttl_s=self.limits.lease_ttl_s,
            )
        )

    def _ask_for_half(self, idle: AgentState, now: float) -> None:
        if now - idle.asked_for_half_at < ASK_FOR_HALF_S:
            return
        idle.asked_for_half_at = now
        victim = pick_victim(self.leases, idle, self.limits.spread, now)
        holder = (
            self.agents.get(victim.agent_id) if victim is not None else None
        )  # a restored lease's may not be back yet
        if victim is not None and holder is not None and holder.connected:
            job = self.jobs[victim.job_id]
            if job.excluded.get(idle.agent_id, 0.0) <= now:
                victim.yield_asked_at = now
                self._effects.sends.append(Send(victim.agent_id, Yield((victim.ref,))))

    # ---- leases -----------------------------------------------------------------------------------------------------

    def _end_lease(self, lease: HeldLease) -> None:
        self.leases.drop(lease.unit)
        self._lease_gone(lease)

    def _lease_gone(self, lease: HeldLease) -> None:
        agent = self.agents.get(lease.agent_id)
        if agent is not None:
            agent.units -= 1
            agent.bytes_held -= lease.weight
        self._effects.writes.append(DropLease(lease.unit))

    def _revoke_all(self, job: JobState) -> None:
        for lease in self.leases:
            if lease.job_id == job.row.job_id:
                self._end_lease(lease)
                self._reports.give_back(lease)
                self._revoke(lease)

    def _revoke_orphans(self) -> None:
        """Leases whose object failed for good or began anew are of no use to their holders."""
        for lease in self._reports.take_orphans():
            if self.leases.holds(lease.unit) is lease:
                self._end_lease(lease)
                self._revoke(lease)

    def _revoke(self, lease: HeldLease) -> None:
        agent = self.agents.get(lease.agent_id)
        if agent is not None and agent.connected:
            self._effects.sends.append(Send(lease.agent_id, Revoke((lease.ref,))))

    # ---- budgets ----------------------------------------------------------------------------------------------------

    def _connected(self) -> int:
        return sum(agent.connected for agent in self.agents.values())

    def _share_budgets(self, now: float) -> None:
        """The number of agents changed: so do their shares."""
        if self.hosts.limited and self._connected() != self._budgeted_agents:
            self._send_budgets(now, None)
        self._budgeted_agents = self._connected()

    def _send_budgets(self, now: float, hosts: list[str] | None) -> None:
        budgets = self.hosts.budgets(self._connected(), now, hosts)
        if budgets:
            for agent in self.agents.values():
                if agent.connected:
                    self._effects.sends.append(Send(agent.agent_id, Budgets(budgets)))
