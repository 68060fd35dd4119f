"""Replicated jobs: who gets a copy, how each is doing, when all is done. The life of a copy is in `replica_model.py`.

Each agent holds one REPLICA lease for its copy. What it does under that lease is told by `SwarmOrders`: the scheduler's decisions
(`scheduler/swarm.py`) and what follows from reports (`swarm_reports.py`) are gathered over a turn and sent together.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..common.chunks import ChunkTable
from ..common.records import Delivery, Failure, Outcome, Result, UnitKind
from ..common.swarm_records import ORIGIN, FetchOrder, PeerAddress, SwarmInventory, SwarmOrders, SwarmReport
from ..common.views import ReplicaStatus
from .assigner import Assigner
from .effects import Effects, FinishObjects, LoadTable, Send
from .leases import HeldLease, LeaseTable
from .model import AgentState, JobState, JobStatus
from .replica_model import ReplicaJob, ReplicaState, Replication, TableRow, replicas_to_json
from .reports import ReportBook, retry_delay_s
from .scheduler.swarm import Decision, SwarmLimits
from .swarm_reports import SwarmReports

JOIN_PATIENCE_S = 3.0
"""The origin is not asked while an agent that has just joined may still find on its disk what would be asked for."""
RESTART_PATIENCE_S = 10.0
"""The same after a restart of the coordinator, when agents come back one by one."""
CAPABILITY_RENEW_S = 1200.0
"""Addresses of peers, with fresh capabilities, are told anew so often: well within a capability's life."""


class ReplicaBook:
    """All replicated jobs. Shares the core's state."""

    def __init__(
        self,
        jobs: dict[str, JobState],
        agents: dict[str, AgentState],
        leases: LeaseTable,
        effects: Effects,
        *,
        assigner: Assigner,
        reports: ReportBook,
        attempts: int,
        limits: SwarmLimits,
    ) -> None:
        self._jobs = jobs
        self._agents = agents
        self._leases = leases
        self._effects = effects
        self._assigner = assigner
        self._reports = reports
        self._attempts = attempts
        self._limits = limits
        self._swarm_reports = SwarmReports(
            agents, effects, attempts=attempts, new_life=leases.new_life, cut_off=self._cut_off
        )

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def begin(self, job: JobState) -> None:
        """The job's source is listed, or it was found in the store after a restart."""
        if job.row.spec is None or job.row.spec.delivery is not Delivery.REPLICATE or job.row.status.ended:
            return
        job.replication = Replication()
        job.row.status = JobStatus.RUNNING
        self._effects.loads.append(LoadTable(job.row.job_id))

    def table_loaded(self, job_id: str, rows: Sequence[TableRow]) -> None:
        """The store's answer to `LoadTable`: all objects but those that failed for good, by ascending id."""
        job = self._jobs[job_id]
        if job.replication is None or job.row.status.ended:
            return
        assert job.spec.chunks is not None, "a replicated job's chunks are chosen when it is planned"
        table = ChunkTable([row.object_id for row in rows], [row.size for row in rows], job.spec.chunks)
        job.replication.swarm = ReplicaJob(table, rows, self._limits)
        early, job.replication.early = job.replication.early, {}
        for agent_id, inventory in early.items():
            self.inventory(agent_id, inventory)

    def end(self, job: JobState) -> None:
        """The job ended: its seeds need not stay."""
        if job.replication is not None and job.replication.swarm is not None:
            for member in job.replication.swarm.swarm:
                job.replication.swarm.draft(member.agent_id).ended = True
            self._send(job, job.replication.swarm)
        if job.replication is not None:
            job.row.replicas = replicas_to_json(job)

    def restored(self, lease: HeldLease) -> None:
        """An earlier incarnation's lease on a copy: its holder is waited for."""
        replication = self._jobs[lease.job_id].replication
        if replication is not None:
            name = self._agents[lease.agent_id].name if lease.agent_id in self._agents else lease.agent_id
            replication.replicas[lease.agent_id] = ReplicaState(
                agent_id=lease.agent_id,
                name=name,
                token=lease.token,
                joining_until=lease.granted_at + RESTART_PATIENCE_S,
            )

    # ---- agents -----------------------------------------------------------------------------------------------------

    def absent(self, agent_id: str) -> None:
        """The agent's session broke or begins anew: nothing can be had from it until its inventory comes."""
        for job in self._jobs.values():
            if job.replication is not None and job.replication.swarm is not None:
                self._leave(job.replication.swarm, job.replication.replicas.get(agent_id), agent_id)
            if job.replication is not None:
                job.replication.early.pop(agent_id, None)

    def lease_gone(self, lease: HeldLease) -> None:
        """The lease on a copy ended without a report."""
        replication = self._jobs[lease.job_id].replication
        replica = replication.replicas.get(lease.agent_id) if replication is not None else None
        if replication is None or replica is None or replica.token != lease.token or not replica.is_active:
            return
        replica.status = ReplicaStatus.LOST
        if replication.swarm is not None:
            self._leave(replication.swarm, replica, lease.agent_id)

    def result(self, agent: AgentState, lease: HeldLease, result: Result, now: float) -> bool:
        """An agent's report on its copy as a whole. Returns whether the lease has ended."""
        job = self._jobs[lease.job_id]
        replication = job.replication
        replica = replication.replicas.get(agent.agent_id) if replication is not None else None
        if replication is None or replica is None or result.outcome is Outcome.PARTIAL:
            return replication is None
        if result.outcome is Outcome.DONE:
            replica.status = ReplicaStatus.DONE
            replica.failure = None
            return True
        if replication.swarm is not None:
            self._leave(replication.swarm, replica, agent.agent_id)
        if result.outcome is Outcome.RETURNED:
            replica.status = ReplicaStatus.LOST
            return True
        replica.failure = result.failure or Failure(code="internal", text="the agent gave no reason")
        replica.failures += 1
        replica.not_before = now + retry_delay_s(replica.failures)
        if not replica.failure.retryable or replica.failures >= self._attempts:
            replica.status = ReplicaStatus.FAILED
        else:
            replica.status = ReplicaStatus.LOST  # it is granted again, after a while
        return True

    def inventory(self, agent_id: str, inventory: SwarmInventory) -> None:
        """An agent told all that it holds of a job."""
        job = self._jobs.get(inventory.job_id)
        replication = job.replication if job is not None else None
        if job is None or replication is None or job.row.status.ended:
            self._dismiss(agent_id, inventory.job_id, inventory.token)
            return
        replica = replication.replicas.get(agent_id)
        if replica is None or replica.token != inventory.token:
            return  # of a lease that is over: a new one is on its way
        swarm = replication.swarm
        if swarm is None:
            replication.early[agent_id] = inventory
            return
        if inventory.chunks != len(swarm.table):
            text = f"the agent cuts the job into {inventory.chunks} chunks, the coordinator into {len(swarm.table)}"
            replica.failure = Failure(code="conflict", text=text, retryable=False)
            replica.status = ReplicaStatus.FAILED
            return
        if replica.is_active:
            replica.status = ReplicaStatus.COPYING
        self._swarm_reports.inventory(job, swarm, replica, inventory)

    def report(self, agent_id: str, report: SwarmReport, now: float) -> None:
        """Something happened to an agent's copy."""
        job = self._jobs.get(report.job_id)
        replication = job.replication if job is not None else None
        if job is None or replication is None or replication.swarm is None or job.row.status.ended:
            return
        replica = replication.replicas.get(agent_id)
        known = replica is not None and replica.token == report.token
        if replica is not None and known and replication.swarm.swarm.member(agent_id) is not None:
            self._swarm_reports.report(job, replication.swarm, replica, report, now)

    # ---- turns ------------------------------------------------------------------------------------------------------

    def assign(self, now: float) -> None:
        """Grant copies, order chunks, see what has ended."""
        for job in self._jobs.values():
            if job.replication is None or job.row.status is not JobStatus.RUNNING or job.row.paused:
                continue
            self._grant(job, job.replication, now)
            swarm = job.replication.swarm
            if swarm is None:
                continue
            if now - job.replication.told_anew_at >= CAPABILITY_RENEW_S:
                job.replication.told_anew_at = now
                for replica in job.replication.replicas.values():
                    replica.told.clear()
            self._choose_vouchers(job.replication, swarm)
            swarm.swarm.asks_origin = not any(
                replica.status is ReplicaStatus.JOINING and replica.joining_until > now
                for replica in job.replication.replicas.values()
            )
            for decision in swarm.swarm.decide(now):
                self._order(job.replication, swarm, decision)
            self._send(job, swarm)
            self._end_if_over(job, job.replication)

    def _grant(self, job: JobState, replication: Replication, now: float) -> None:
        for agent in self._agents.values():
            if not agent.connected or agent.draining or agent.silent:
                continue
            replica = replication.replicas.get(agent.agent_id)
            if replica is None:
                replica = replication.replicas[agent.agent_id] = ReplicaState(
                    agent_id=agent.agent_id, name=agent.name, status=ReplicaStatus.LOST
                )
            if replica.status is not ReplicaStatus.LOST or replica.not_before > now:
                continue
            unit = f"c{job.row.job_id}.{agent.agent_id}"
            if self._leases.holds(unit) is None:
                held = self._assigner.grant_unit(agent, job, UnitKind.REPLICA, unit, now)
                replica.token, replica.status = held.token, ReplicaStatus.JOINING
                replica.orders_sent = 0
                replica.joining_until = now + JOIN_PATIENCE_S

    def _choose_vouchers(self, replication: Replication, swarm: ReplicaJob) -> None:
        if not swarm.unvouched:
            return
        candidates = [replication.replicas[member.agent_id] for member in swarm.swarm]
        for object_id in sorted(swarm.unvouched):
            able = [replica for replica in candidates if replica.is_active and object_id not in replica.published]
            if not able:
                continue
            voucher = min(able, key=lambda replica: replica.vouches)
            voucher.vouches += 1
            swarm.large[object_id].voucher = voucher.agent_id
            swarm.draft(voucher.agent_id).vouch.append(object_id)
            swarm.unvouched.discard(object_id)

    def _order(self, replication: Replication, swarm: ReplicaJob, decision: Decision) -> None:
        receiver, source = decision.member, decision.source
        draft = swarm.draft(receiver.agent_id)
        replica = replication.replicas[receiver.agent_id]
        if source is not None and source.number not in replica.told:
            peer = self._agents[source.agent_id].peer
            assert peer is not None, "only who offers is a source"
            replica.told.add(source.number)
            # The shell puts the capability where the holder's id is: signing needs a clock and a secret.
            draft.peers[source.number] = PeerAddress(
                number=source.number, address=peer.address, capability=source.agent_id, tls=peer.tls
            )
        known = swarm.large_of(decision.chunk)
        if known is None and source is None and not swarm.swarm.holders(decision.chunk):
            swarm.digests[decision.chunk] = b""  # nobody is left whose copy the origin's would have to equal
        size = swarm.table.size(known.position) if known and known.object_id in swarm.unknown_sizes else None
        draft.fetch[decision.chunk] = FetchOrder(
            chunk=decision.chunk,
            peer=ORIGIN if source is None else source.number,
            digest=swarm.digests[decision.chunk],
            size=size,
        )

    def _send(self, job: JobState, swarm: ReplicaJob) -> None:
        replication = job.replication
        assert replication is not None
        for agent_id, draft in swarm.drafts.items():
            replica = replication.replicas.get(agent_id)
            if replica is not None:
                replica.orders_sent += 1
                orders = draft.orders(job.row.job_id, replica.token, replica.orders_sent)
                self._effects.sends.append(Send(agent_id, orders))
        swarm.drafts.clear()

    def _end_if_over(self, job: JobState, replication: Replication) -> None:
        """The job is over when every agent that is there has its copy or failed for good."""
        states = list(replication.replicas.values())
        done = sum(replica.status is ReplicaStatus.DONE for replica in states)
        failed = [replica for replica in states if replica.status is ReplicaStatus.FAILED]
        waiting = any(
            replica.is_active
            or (replica.status is ReplicaStatus.LOST and replica.failure is not None and self._is_here(replica))
            for replica in states
        )
        if waiting or not (done or failed):
            return
        row = job.row
        if done:
            self._effects.writes.append(FinishObjects(row.job_id))
            row.objects_done = row.objects_total - row.objects_failed
            row.bytes_done = row.bytes_total
        failure = None
        if failed:
            first = failed[0]
            assert first.failure is not None
            text = f"{len(failed)} of {done + len(failed)} copies failed, first on {first.name}: {first.failure.text}"
            failure = Failure(code=first.failure.code, text=text, retryable=True)
        elif row.objects_failed:
            text = f"{row.objects_failed} of {row.objects_total} objects failed (shoal errors {row.job_id} lists them)"
            failure = Failure(code="objects-failed", text=text, retryable=True)
        self.end(job)
        self._reports.end_job(job, JobStatus.FAILED if failure else JobStatus.DONE, failure)

    def _is_here(self, replica: ReplicaState) -> bool:
        agent = self._agents.get(replica.agent_id)
        return agent is not None and agent.connected and not agent.draining

    # ---- books ------------------------------------------------------------------------------------------------------

    def _leave(self, swarm: ReplicaJob, replica: ReplicaState | None, agent_id: str) -> None:
        swarm.swarm.leave(agent_id)
        swarm.drafts.pop(agent_id, None)
        if replica is not None:
            self._swarm_reports.forget_voucher(swarm, replica)

    def _cut_off(self, agent: AgentState) -> None:
        for job in self._jobs.values():
            if job.replication is not None and job.replication.swarm is not None:
                job.replication.swarm.swarm.bar(agent.agent_id)

    def _dismiss(self, agent_id: str, job_id: str, token: int) -> None:
        """The agent seeds a job that has ended."""
        self._effects.sends.append(Send(agent_id, SwarmOrders(job_id=job_id, token=token, ended=True)))
