"""Dataset jobs: which agent collects which batch of which host, and what its report changes.

Hosts are served in turn, so that all of them advance together: what bounds a run over hundreds of servers is how slowly each may be
asked. A host gets no more agents than its budget can feed (`HostTable.agents_max`); while it is blocked or parked nobody is sent to it.
When only hosts in trouble are left, they are waited for `host_patience`, then what is left of them becomes errors with the last code
that they really gave.

Pure and synchronous: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from ..common.collect_records import ErrorCode, HostProfile, batch_of_path
from ..common.errors import NoSpace, NotShared, NotWritable, error_class
from ..common.records import Failure, Outcome, Result
from ..common.views import HostCondition
from .assigner import Assigner
from .dataset_model import BatchRow, DatasetHost, DatasetState, WaitingBatch, merge_tallies, waiting_of
from .effects import Effects, LoadBatches, ObjectDone, ObjectFailed, ObjectRetried, PutHostProfile
from .leases import HeldLease, LeaseTable
from .model import AgentState, JobState, JobStatus, ObjectState, Phase
from .reports import EXCLUDED_S, ReportBook
from .scheduler.host_state import HostStanding
from .scheduler.spread import has_credit

BATCHES_PER_AGENT_MAX = 64
"""Hosts are slow, so an agent works on many at once; each costs it a few connections and buffers."""
BATCHES_PER_HOST_AGENT = 2
"""One is written out while the next one is fetched. Only where a host's budget feeds many agents: elsewhere it would only wait."""
FAST_HOST_AGENTS = 5
"""A host whose budget feeds so many agents is a fast one."""
HOSTS_PER_TURN_MAX = 4096
"""Hosts that one turn looks at: a table over a million hosts must not keep the coordinator from hearing heartbeats."""


class Hosts(Protocol):
    """What scheduling needs to know of hosts' budgets; see `scheduler/hosts.py`."""

    def adopt(
        self,
        host: str,
        *,
        rate: float,
        rate_multiplier: float,
        connections: int,
        backoff_initial_s: float,
        backoff_cap_s: float,
    ) -> None: ...
    def want(self, agent_id: str, host: str) -> None: ...
    def unwant(self, agent_id: str, host: str) -> None: ...
    def agents_max(self, host: str) -> int: ...
    def usable(self, host: str, now: float) -> bool: ...
    def state_of(self, host: str) -> HostStanding: ...


class DatasetBook:
    """All dataset jobs that collect a table. Shares the core's state."""

    def __init__(
        self,
        jobs: dict[str, JobState],
        agents: dict[str, AgentState],
        leases: LeaseTable,
        hosts: Hosts,
        effects: Effects,
        *,
        assigner: Assigner,
        reports: ReportBook,
        attempts: int,
    ) -> None:
        self._jobs = jobs
        self._agents = agents
        self._leases = leases
        self._hosts = hosts
        self._effects = effects
        self._assigner = assigner
        self._reports = reports
        self._attempts = attempts
        self._early: dict[str, list[HeldLease]] = {}  # leases that were restored before the batches were loaded
        self._host_of_unit: dict[str, str] = {}
        self._asking: set[str] = set()  # units whose agents ask their host
        reports.batch_back = self.give_back

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def begin(self, job: JobState) -> None:
        """The job's table is partitioned, or it was found in the store after a restart."""
        if job.row.spec is None or job.row.spec.collect is None or job.row.status.ended:
            return
        job.dataset = None
        self._effects.loads.append(LoadBatches(job.row.job_id))

    def loaded(self, job_id: str, rows: Sequence[BatchRow], profiled: Sequence[str]) -> None:
        """The store's answer to `LoadBatches`: all batches of the job, and the hosts that were measured before."""
        job = self._jobs[job_id]
        spec = job.spec.collect
        if job.row.status.ended or spec is None:
            return
        dataset = job.dataset = DatasetState(rows, profiled, spec.ignored)
        for host in dataset.hosts:
            self._hosts.adopt(
                host,
                rate=spec.rate,
                rate_multiplier=spec.rate_multiplier,
                connections=spec.connections,
                backoff_initial_s=spec.backoff_initial_s,
                backoff_cap_s=spec.backoff_cap_s,
            )
        job.row.tally = dataset.tally()
        job.changed = True
        paths = {row.object_id: row.path for row in rows}
        for lease in self._early.pop(job_id, []):
            if self._leases.holds(lease.unit) is lease and lease.object_id in paths:
                self._restored(job, dataset, dataset.hosts[batch_of_path(paths[lease.object_id])[0]], lease)

    def restored(self, lease: HeldLease) -> None:
        """An earlier incarnation's lease on a batch: its holder may come back and go on."""
        self._early.setdefault(lease.job_id, []).append(lease)

    def _restored(self, job: JobState, dataset: DatasetState, host: DatasetHost, lease: HeldLease) -> None:
        batch = dataset.withdraw(host, lease.object_id)
        if batch is not None:
            dataset.hold(host, lease.agent_id)
            self._hold(job, host, batch, lease.agent_id, lease.unit, asks=True)

    def _hold(
        self, job: JobState, host: DatasetHost, batch: WaitingBatch, agent_id: str, unit: str, *, asks: bool
    ) -> ObjectState:
        obj = ObjectState(spec=host.spec(batch), phase=Phase.LEASED, failures=batch.failures)
        obj.expiries = batch.expiries
        job.hold(obj)
        self._host_of_unit[unit] = host.host
        if asks:
            self._asking.add(unit)
            self._hosts.want(agent_id, host.host)
        return obj

    # ---- reports ----------------------------------------------------------------------------------------------------

    def result(self, agent: AgentState, lease: HeldLease, result: Result, now: float) -> bool:
        """An agent's report on a batch. Returns whether the lease has ended."""
        job = self._jobs[lease.job_id]
        obj = job.objects.get(lease.object_id)
        dataset = job.dataset
        if obj is None or dataset is None:
            return result.outcome is not Outcome.PARTIAL
        job.fetched(agent.agent_id, result.fetched)
        job.row.bytes_done += result.fetched
        agent.bytes_done += result.fetched
        host = self._host_of(dataset, obj)
        if result.profile is not None and result.profile.host == host.host:
            self._profiled(job, host, result.profile)
        if result.outcome is Outcome.PARTIAL:
            return False
        if result.outcome is Outcome.DONE:
            self._done(agent, job, host, obj, result)
        elif result.outcome is Outcome.FAILED:
            self._failed(agent, job, host, obj, result.failure, now)
        else:
            self.give_back(lease)
        return True

    def _done(self, agent: AgentState, job: JobState, host: DatasetHost, obj: ObjectState, result: Result) -> None:
        host.batches_done += 1
        host.count(result.tally)
        job.row.tally = merge_tallies([job.row.tally, result.tally])
        job.row.objects_done += 1
        job.row.objects_skipped += result.skipped
        agent.objects_done += 1
        self._effects.writes.append(
            ObjectDone(
                object_id=obj.spec.object_id,
                size=obj.spec.size or 0,
                digest="",
                etag="",
                skipped=result.skipped,
                agent_id=agent.agent_id,
                tally=result.tally,
            )
        )
        job.let_go(obj.spec.object_id)

    def _failed(
        self, agent: AgentState, job: JobState, host: DatasetHost, obj: ObjectState, failure: Failure | None, now: float
    ) -> None:
        failure = failure or Failure(code="internal", text=f"{obj.spec.path}: the agent gave no reason")
        kind = error_class(failure.code)
        assert job.dataset is not None
        if failure.code == NotShared.code:
            job.excluded[agent.agent_id] = now + EXCLUDED_S
        elif issubclass(kind, (NoSpace, NotWritable)):
            self._reports.end_with(job, failure)
            return
        else:
            obj.failures += 1
            if not failure.retryable or obj.failures >= self._attempts:
                job.row.objects_failed += 1
                write = ObjectFailed(object_id=obj.spec.object_id, failures=obj.failures, failure=failure)
                self._effects.writes.append(write)
                job.let_go(obj.spec.object_id)
                return
            retried = ObjectRetried(object_id=obj.spec.object_id, failures=obj.failures, failure=failure)
            self._effects.writes.append(retried)
        job.let_go(obj.spec.object_id)
        job.dataset.put_back(host, waiting_of(obj))

    def give_back(self, lease: HeldLease) -> None:
        """The lease ended through nobody's fault: the batch waits again."""
        job = self._jobs[lease.job_id]
        obj = job.let_go(lease.object_id)
        if obj is not None and job.dataset is not None:
            job.dataset.put_back(self._host_of(job.dataset, obj), waiting_of(obj), first=True)

    def lease_gone(self, lease: HeldLease) -> None:
        """The lease ended, for whatever reason: its agent needs the host's share no longer, unless for another batch."""
        dataset = self._jobs[lease.job_id].dataset
        host = dataset.hosts.get(self._host_of_unit.pop(lease.unit, "")) if dataset is not None else None
        if dataset is None or host is None:
            return
        dataset.let_go(host, lease.agent_id)
        if host.measured_by == lease.unit:
            host.measured_by = ""
        if lease.unit in self._asking:
            self._asking.discard(lease.unit)
            self._hosts.unwant(lease.agent_id, host.host)

    def _profiled(self, job: JobState, host: DatasetHost, profile: HostProfile) -> None:
        host.profiled, host.measured_by = True, ""
        self._effects.writes.append(PutHostProfile(job.row.job_id, profile))

    # ---- turns ------------------------------------------------------------------------------------------------------

    def assign(self, now: float) -> None:
        """Grant batches, see what has ended."""
        for job in self._jobs.values():
            dataset = job.dataset
            if dataset is None or job.row.status is not JobStatus.RUNNING or job.row.paused:
                continue
            if dataset.is_over and not job.objects:
                job.row.status = JobStatus.FINALIZING
                job.unit_failures = 0
                job.changed = True
                continue
            self._look_at_patience(job, dataset, now)
            self._grant(job, dataset, now)

    def _grant(self, job: JobState, dataset: DatasetState, now: float) -> None:
        hungry = [
            agent
            for agent in self._agents.values()
            if self._may_hold(agent, dataset) and job.excluded.get(agent.agent_id, 0.0) <= now
        ]
        if not hungry:
            return
        for host in list(islice(dataset.in_turn.values(), HOSTS_PER_TURN_MAX)):
            code = self._give_up_code(job, dataset, host, now)
            if code is None:
                dataset.rotate(host)
                continue
            while host.waiting and hungry and self._has_room(host, code):
                able = [agent for agent in hungry if host.agents.get(agent.agent_id, 0) < self._held_max(host)]
                if not able:
                    break
                agent = min(able, key=lambda each: (host.agents.get(each.agent_id, 0), each.units))
                self._issue(job, dataset, host, agent, code, now)
                if not self._may_hold(agent, dataset):
                    hungry.remove(agent)
            if not hungry:
                return

    def _issue(
        self, job: JobState, dataset: DatasetState, host: DatasetHost, agent: AgentState, code: int, now: float
    ) -> None:
        batch = dataset.take(host, agent.agent_id)
        unit = f"o{batch.object_id}"
        obj = self._hold(job, host, batch, agent.agent_id, unit, asks=not code)
        profile = not host.profiled and not code
        if profile:
            host.measured_by = unit
        self._assigner.grant_batch(agent, job, obj, unit, now, profile=profile, give_up_code=code)

    def _may_hold(self, agent: AgentState, dataset: DatasetState) -> bool:
        return has_credit(agent) and dataset.by_agent.get(agent.agent_id, 0) < BATCHES_PER_AGENT_MAX

    def _held_max(self, host: DatasetHost) -> int:
        return BATCHES_PER_HOST_AGENT if self._hosts.agents_max(host.host) >= FAST_HOST_AGENTS else 1

    def _has_room(self, host: DatasetHost, code: int) -> bool:
        if code:
            return True  # nothing will be asked of the host
        if not host.profiled:
            return not host.measured_by
        return host.leased < self._hosts.agents_max(host.host) * self._held_max(host)

    def _give_up_code(self, job: JobState, dataset: DatasetState, host: DatasetHost, now: float) -> int | None:
        """0: work on the host; another code: its rows become errors with it; None: nothing can be done about it now."""
        if dataset.ignored.refusal(host.host):
            return int(ErrorCode.REFUSED)
        if self._hosts.usable(host.host, now):
            return 0
        if dataset.given_up:
            return self._hosts.state_of(host.host).last_status or int(ErrorCode.NETWORK)
        return None

    def _look_at_patience(self, job: JobState, dataset: DatasetState, now: float) -> None:
        """Find out since when only hosts in trouble are left."""
        assert job.spec.collect is not None
        held = (batch_of_path(obj.spec.path)[0] for obj in job.objects.values())
        if any(map(self._is_open, dataset.in_turn)) or any(map(self._is_open, held)):
            dataset.stuck_since, dataset.given_up = None, False
        elif dataset.stuck_since is None:
            dataset.stuck_since = now
        elif now - dataset.stuck_since >= job.spec.collect.host_patience_s:
            dataset.given_up = True

    def _is_open(self, host: str) -> bool:
        return self._hosts.state_of(host).condition is HostCondition.OPEN

    # ---- books ------------------------------------------------------------------------------------------------------

    def _host_of(self, dataset: DatasetState, obj: ObjectState) -> DatasetHost:
        return dataset.hosts[batch_of_path(obj.spec.path)[0]]
