"""The coordinator's core: events in, effects out.

Every public method is one event: a job was listed, an agent said something, an administrator asked for something, time passed.
It changes the state at once and leaves what must happen outside (`effects.py`) for `take_effects`. The shell (`service.py`)
calls, in this order: events, `assign`, `take_effects`; writes the rows; then sends the messages.

Pure and synchronous: no I/O, no clock, no randomness. The simulator in tests/simulation runs this very class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..common.records import (
    Ack,
    Acks,
    AgentMessage,
    Drain,
    Failure,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    Hello,
    JobSpec,
    ObjectSpec,
    Result,
    Results,
    Revoke,
    UnitKind,
    Welcome,
)
from ..common.swarm_records import SwarmInventory, SwarmReport
from .assigner import Assigner
from .dataset_model import BatchRow
from .datasets import DatasetBook
from .effects import DropLease, Effects, PutAgent, PutHostPolicy, RequeueFailed, Send, take_changes
from .leases import HeldLease, LeaseTable
from .limits import RECONNECT_GRACE_S, CoreLimits
from .model import AgentState, JobRow, JobState, JobStatus, ObjectState
from .replica_model import TableRow
from .replicas import ReplicaBook
from .reports import ReportBook
from .scheduler.hosts import HostTable
from .scheduler.spread import UNIT_WEIGHT


class Core:
    """All decisions of one coordinator."""

    def __init__(self, *, incarnation: int, limits: CoreLimits | None = None) -> None:
        self.limits = limits or CoreLimits()
        self.incarnation = incarnation
        self.leases = LeaseTable(incarnation=incarnation, ttl_s=self.limits.lease_ttl_s)
        self.jobs: dict[str, JobState] = {}
        self.agents: dict[str, AgentState] = {}
        self.hosts = HostTable(incarnation=incarnation, share_s=self.limits.share_s)
        self._effects = Effects()
        self._reports = ReportBook(self.jobs, self.leases, self._effects, attempts=self.limits.attempts)
        self._assigner = Assigner(self.jobs, self.agents, self.leases, self._effects, self.limits.spread)
        self._replicas = ReplicaBook(
            self.jobs,
            self.agents,
            self.leases,
            self._effects,
            assigner=self._assigner,
            reports=self._reports,
            attempts=self.limits.attempts,
            limits=self.limits.swarm,
        )
        self._datasets = DatasetBook(
            self.jobs,
            self.agents,
            self.leases,
            self.hosts,
            self._effects,
            assigner=self._assigner,
            reports=self._reports,
            attempts=self.limits.attempts,
        )

    def take_effects(self) -> Effects:
        """What is to be done since the last call: writes first, then sends."""
        for job in self.jobs.values():
            if job.changed:
                self._effects.writes.extend(take_changes(job))
        self._assigner.send_grants()
        return self._effects.take()

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def add_job(self, row: JobRow, fetched_by: Mapping[str, int] | None = None) -> None:
        """A job was submitted (or, after a restart, found in the store). fetched_by: bytes that came through each agent before."""
        job = self.jobs[row.job_id] = JobState(row, fetched_by=dict(fetched_by or {}))
        self._replicas.begin(job)
        self._datasets.begin(job)

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
        self._replicas.begin(job)
        self._datasets.begin(job)

    def table_loaded(self, job_id: str, rows: Sequence[TableRow]) -> None:
        """The store's answer to `LoadTable`: all objects of a replicated job but those that failed, by ascending id."""
        self._replicas.table_loaded(job_id, rows)

    def batches_loaded(self, job_id: str, rows: Sequence[BatchRow], profiled: Sequence[str]) -> None:
        """The store's answer to `LoadBatches`: all batches of a dataset job, and the hosts that were measured before."""
        self._datasets.loaded(job_id, rows, profiled)

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
        given back of it is not stored, but may have been granted again: of two leases on a byte the younger is in force. Nor is its
        weight, which is set here.
        """
        job = self.jobs.get(lease.job_id)
        if job is None or job.row.status.ended or (lease.object_id and spec is None):
            self._effects.writes.append(DropLease(lease.unit))
            return
        for other in self.leases.of_object(lease.object_id) if spec is not None else ():
            older, younger = sorted((other, lease), key=lambda held: held.token)
            older.left.remove(younger.start, younger.stop)
        self.leases.restore(lease)
        if lease.kind is UnitKind.REPLICA:
            self._replicas.restored(lease)
        if lease.kind is UnitKind.BATCH:
            lease.weight = UNIT_WEIGHT
            self._datasets.restored(lease)
        if spec is None or lease.kind is UnitKind.BATCH:
            return
        obj = job.objects.get(spec.object_id)
        if obj is None:
            obj = ObjectState(spec=spec)
            job.enqueue(obj)
        lease.weight = UNIT_WEIGHT + lease.stop - lease.start + (obj.weight if lease.kind is UnitKind.WHOLE else 0)
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
            self._replicas.end(job)
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
        self._replicas.begin(job)
        self._datasets.begin(job)

    def set_host_policy(
        self, host: str, requests_per_s: float, bytes_per_s: float, now: float, connections: int = 0
    ) -> None:
        """Limit the fleet's rate at a host, from now on and after restarts. Raises ValueError for a negative limit."""
        self.hosts.set_policy(host, requests_per_s, bytes_per_s, connections)
        self._effects.writes.append(
            PutHostPolicy(host=host, requests_per_s=requests_per_s, bytes_per_s=bytes_per_s, connections=connections)
        )
        self._send_budgets(now)

    # ---- agents -----------------------------------------------------------------------------------------------------

    def receive(self, agent_id: str, message: AgentMessage, now: float) -> None:
        """An agent said something in its session. The first word of a session is Hello."""
        if isinstance(message, Hello):
            self._hello(message, now)
            return
        agent = self.agents[agent_id]
        agent.heard_at = now
        agent.silent = False
        match message:
            case Heartbeat():
                self._heartbeat(agent, message, now)
                self._effects.sends.append(Send(agent_id, HeartbeatAck(message.seq)))
            case Results():
                self._results(agent, message.results, now)
            case Goodbye():
                self._goodbye(agent, now)
            case SwarmInventory():
                self._replicas.inventory(agent_id, message)
            case SwarmReport():
                self._replicas.report(agent_id, message, now)

    def disconnected(self, agent_id: str, now: float) -> None:
        """An agent's session ended without goodbye: it is lost, or will be back soon."""
        agent = self.agents.get(agent_id)
        if agent is not None and agent.connected:
            agent.connected = False
            self.hosts.parted(agent_id, now)
            self._replicas.absent(agent_id)
            self.leases.shorten(agent_id, now + RECONNECT_GRACE_S)

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
            peer=hello.peer,
        )
        self._replicas.absent(agent.agent_id)
        before = self.agents.get(hello.agent_id)
        if before is not None:
            agent.inherit(before)
        self.agents[agent.agent_id] = agent
        for lease in self.leases.of_agent(agent.agent_id):
            agent.units += 1
            agent.bytes_held += lease.weight
        # A new process under an old name holds nothing: what the old one held is free at once. Reports come first, because
        # they may end leases that the agent no longer works on.
        self._results(agent, hello.results, now)
        agent.rate_bytes = 0  # those came before this session
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
                    share_s=self.limits.share_s,
                ),
            )
        )
        self.hosts.joined(agent.agent_id, hello.budgets_version, now)
        self._send_budgets(now)

    def _heartbeat(self, agent: AgentState, beat: Heartbeat, now: float) -> None:
        if fenced := self.leases.renew(agent.agent_id, beat.held, now):
            self._effects.sends.append(Send(agent.agent_id, Revoke(tuple(fenced))))
        agent.tell(beat, self.jobs)
        for progress in beat.progress:
            lease = self.leases.find(agent.agent_id, progress.unit, progress.token)
            if lease is not None:
                news = lease.arrive(progress.arrived)
                agent.rate_bytes += news if lease.kind is not UnitKind.BATCH else 0  # whose progress counts rows
        agent.measure(now)
        self.hosts.heard(agent.agent_id, beat.budgets_version, beat.lapsed_version, now)
        for seen in beat.hosts:
            self.hosts.observe(agent.agent_id, seen, now)

    def _results(self, agent: AgentState, results: Iterable[Result], now: float) -> None:
        acks: list[Ack] = []
        for result in results:
            lease = self.leases.find(agent.agent_id, result.unit, result.token)
            acks.append(Ack(result.seq, lease is not None))
            if lease is None:
                continue
            agent.rate_bytes += lease.report(result.fetched) if lease.kind is not UnitKind.BATCH else 0
            if lease.kind is UnitKind.REPLICA:
                ended = self._replicas.result(agent, lease, result, now)
            elif lease.kind is UnitKind.BATCH:
                ended = self._datasets.result(agent, lease, result, now)
            else:
                ended = self._reports.take(agent, lease, result, now)
            if ended:
                self._end_lease(lease)
            self._revoke_orphans()  # before the next result: what comes after on such a lease must not count
        if acks:
            self._effects.sends.append(Send(agent.agent_id, Acks(tuple(acks))))

    def _goodbye(self, agent: AgentState, now: float) -> None:
        agent.connected = False
        self.hosts.left(agent.agent_id, now)
        self._replicas.absent(agent.agent_id)
        agent.left = True
        for lease in self.leases.of_agent(agent.agent_id):
            self._end_lease(lease)
            self._reports.give_back(lease)

    # ---- time and assignment ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time passed: end the leases whose deadline is over."""
        for lease in self.leases.expire(now):
            self._lease_gone(lease)
            self._reports.expired(lease, now)
            agent = self.agents.get(lease.agent_id)
            if agent is not None and agent.connected:
                agent.silent = True  # else it would be granted the same work again, for nothing
                self._effects.sends.append(Send(agent.agent_id, Revoke((lease.ref,))))
        self._revoke_orphans()
        self.hosts.tick(now)

    def assign(self, now: float) -> None:
        """Grant what can be granted, one unit an agent in turn, until nothing fits any more or it is enough for one turn."""
        self._replicas.assign(now)
        self._datasets.assign(now)
        self._assigner.assign(now)
        self._send_budgets(now)  # before the grants: who gets work on a host knows what it may ask of it

    def next_wakeup(self, now: float) -> float:
        """When `tick` and `assign` are due again, if nothing happens before."""
        deadline = self.leases.next_deadline()
        due = [now + self.limits.heartbeat_s, self.hosts.next_wakeup()]
        return min(due if deadline is None else [*due, deadline])

    # ---- leases -----------------------------------------------------------------------------------------------------

    def _end_lease(self, lease: HeldLease) -> None:
        self.leases.drop(lease.unit)
        self._lease_gone(lease)

    def _lease_gone(self, lease: HeldLease) -> None:
        agent = self.agents.get(lease.agent_id)
        if agent is not None:
            agent.units -= 1
            agent.bytes_held -= lease.weight
        if lease.kind is UnitKind.REPLICA:
            self._replicas.lease_gone(lease)
        elif lease.kind is UnitKind.BATCH:
            self._datasets.lease_gone(lease)
        self._effects.writes.append(DropLease(lease.unit))

    def _revoke_all(self, job: JobState) -> None:
        for lease in self.leases.of_job(job.row.job_id):
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

    def _send_budgets(self, now: float) -> None:
        """Tell the agents whose shares of host budgets change."""
        self._effects.sends.extend(Send(agent_id, budgets) for agent_id, budgets in self.hosts.take_budgets(now))
