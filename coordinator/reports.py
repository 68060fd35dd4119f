"""What a report on a lease changes: the transitions of `model.py`, driven by results, expiries and returns.

A report is taken only for a lease in force (the core checks the fencing token first), so nothing here can count work twice.
Faults are attributed: a bad object costs its own attempts, an agent that does not see the shared folder is left out of the job
for a while, a full disk ends the job with the reason, an agent that vanished costs nothing but its time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..common.errors import Busy, Changed, NoSpace, NotShared, NotWritable, Refused, VerificationFailed, error_class
from ..common.records import Failure, Outcome, Result, UnitKind
from .effects import AddUnits, Effects, ObjectBegunAnew, ObjectDone, ObjectFailed, ObjectRetried
from .leases import HeldLease, LeaseTable
from .model import AgentState, JobState, JobStatus, ObjectState, Phase

RETRY_FIRST_S = 1.0
"""An object that failed waits so long before the next attempt, doubled each time; the agent has had its own, quicker retries."""
RETRY_MAX_S = 60.0
EXCLUDED_S = 30.0
"""How long an agent that does not see the destination gets nothing of the job: longer than NFS hides a new file by default."""
JOB_UNITS = (UnitKind.PREPARE, UnitKind.FINALIZE, UnitKind.TOOL_PLAN)
EXPIRIES_MAX = 10
"""An object whose leases ran out so often is given up: it may be what kills the agents."""


def retry_delay_s(failures: int) -> float:
    """Seconds before the next attempt after so many failures."""
    return min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** (failures - 1))


class ReportBook:
    """Applies reports to jobs and objects."""

    def __init__(self, jobs: dict[str, JobState], leases: LeaseTable, effects: Effects, *, attempts: int) -> None:
        self._jobs = jobs
        self._leases = leases
        self._effects = effects
        self._attempts = attempts
        self._orphans: list[HeldLease] = []
        self.batch_back: Callable[[HeldLease], None] = lambda lease: None  # how a batch of a dataset job is given back

    def take(self, agent: AgentState, lease: HeldLease, result: Result, now: float) -> bool:
        """Take a report on a lease in force. Returns whether the lease has ended."""
        job = self._jobs[lease.job_id]
        job.fetched(agent.agent_id, result.fetched)
        if result.outcome is Outcome.FAILED and result.failure is None:
            result = replace(result, failure=Failure(code="internal", text=f"{lease.unit}: the agent gave no reason"))
        if lease.kind in JOB_UNITS:
            return self._job_unit(agent, job, lease, result, now)
        obj = job.objects.get(lease.object_id)
        if obj is None:
            return True
        obj.fetched += result.fetched
        if lease.kind is UnitKind.RANGE:
            return self._range(agent, job, obj, lease, result, now)
        return self._object(agent, job, obj, lease, result, now)

    def give_back(self, lease: HeldLease) -> None:
        """The lease ended through nobody's fault: its work waits again."""
        if lease.kind is UnitKind.BATCH:
            self.batch_back(lease)
            return
        job = self._jobs[lease.job_id]
        obj = job.objects.get(lease.object_id)
        if obj is None:
            return
        if lease.kind is UnitKind.RANGE:
            if obj.phase is Phase.RANGES:
                for start, stop in lease.left:
                    job.release_range(obj, start, stop)
        elif lease.kind is UnitKind.PUBLISH:
            job.make_ready(obj, obj.ready_at)
        elif lease.kind in (UnitKind.WHOLE, UnitKind.OPEN, UnitKind.TOOL_RUN) and obj.phase is Phase.LEASED:
            job.enqueue(obj)

    def expired(self, lease: HeldLease, now: float) -> None:
        """The lease's deadline passed: the agent is lost or stuck."""
        job = self._jobs[lease.job_id]
        obj = job.objects.get(lease.object_id)
        # The ranges of a lost agent run out together: those granted before the last expiry belong to it.
        if obj is not None and lease.granted_at >= obj.expired_at:
            obj.expiries += 1
            obj.expired_at = now
            if obj.expiries >= EXPIRIES_MAX:
                text = f"{obj.spec.path}: its lease ran out {obj.expiries} times (look at the agents' logs)"
                self._fail(job, obj, Failure(code="lost", text=text, retryable=False))
                return
        self.give_back(lease)

    def end_job(self, job: JobState, status: JobStatus, failure: Failure | None) -> None:
        """The job ends here. The shell fills in the time when it stores the row."""
        job.row.status = status
        job.row.failure = failure
        job.changed = True
        job.clear_window()
        self._effects.ended_jobs.append(job.row.job_id)

    def take_orphans(self) -> list[HeldLease]:
        """Leases that have lost their purpose since the last call."""
        orphans, self._orphans = self._orphans, []
        return orphans

    # ---- job units --------------------------------------------------------------------------------------------------

    def _job_unit(self, agent: AgentState, job: JobState, lease: HeldLease, result: Result, now: float) -> bool:
        if result.outcome is Outcome.PARTIAL:
            return False
        if result.outcome is Outcome.RETURNED:
            return True
        if result.failure is not None:
            self._job_unit_failed(agent, job, lease, result.failure, now)
            return True
        if lease.kind is UnitKind.TOOL_PLAN:
            self._planned(job, result)
        elif lease.kind is UnitKind.PREPARE:
            job.row.status = JobStatus.RUNNING
            job.unit_failures = 0
        elif job.row.objects_failed:
            count = job.row.objects_failed
            text = f"{count} of {job.row.objects_total} objects failed (shoal errors {job.row.job_id} lists them)"
            self.end_job(job, JobStatus.FAILED, Failure(code="objects-failed", text=text, retryable=True))
        else:
            self.end_job(job, JobStatus.DONE, None)
        return True

    def _planned(self, job: JobState, result: Result) -> None:
        """A tool's schedule is made: its units become the job's objects."""
        count = result.size or 0
        assert job.spec.tool is not None
        # What is done again is done again once: a retry of the job goes on.
        job.row.spec = replace(job.spec, tool=replace(job.spec.tool, reset=""))
        self._effects.writes.append(AddUnits(job.row.job_id, count))
        job.row.objects_total = count
        job.row.objects_done = job.row.objects_failed = 0
        job.row.status = JobStatus.RUNNING
        job.unit_failures = 0

    def _job_unit_failed(
        self, agent: AgentState, job: JobState, lease: HeldLease, failure: Failure, now: float
    ) -> None:
        if failure.code == NotShared.code:
            job.excluded[agent.agent_id] = now + EXCLUDED_S
            return
        job.unit_failures += 1
        job.unit_not_before = now + retry_delay_s(job.unit_failures)
        if not failure.retryable or job.unit_failures >= self._attempts:
            self.end_job(job, JobStatus.FAILED, failure)

    # ---- objects ----------------------------------------------------------------------------------------------------

    def _object(
        self, agent: AgentState, job: JobState, obj: ObjectState, lease: HeldLease, result: Result, now: float
    ) -> bool:
        if result.outcome is Outcome.PARTIAL:
            return False
        if result.outcome is Outcome.RETURNED:
            self.give_back(lease)
        elif result.failure is not None:
            self.give_back(lease)
            self._object_failed(agent, job, obj, result.failure, now)
        elif lease.kind is UnitKind.OPEN and not result.skipped:
            self._opened(job, obj, result, now)
        else:
            self._done(agent, job, obj, result)
        return True

    def _opened(self, job: JobState, obj: ObjectState, result: Result, now: float) -> None:
        size = obj.spec.size
        assert size is not None, "only objects of known size are opened"
        done = obj.done.copy()
        for start, stop in result.done:
            if 0 <= start < stop <= size:
                done.add(start, stop)
        job.open_ranges(obj, done)
        # After a coordinator's restart, agents may still hold ranges that an earlier incarnation granted.
        for lease in self._leases.of_object(obj.spec.object_id):
            if lease.kind is UnitKind.RANGE:
                for start, stop in list(done.present(lease.start, lease.stop)):
                    lease.left.remove(start, stop)
                for start, stop in lease.left:
                    job.take_range(obj, start, stop)
        self._maybe_ready(job, obj, now)

    def _range(
        self, agent: AgentState, job: JobState, obj: ObjectState, lease: HeldLease, result: Result, now: float
    ) -> bool:
        for start, stop in result.done:
            # What was given back meanwhile belongs to others by now, even if it arrived after all.
            for a, b in list(lease.left.present(max(start, lease.start), min(stop, lease.stop))):
                lease.left.remove(a, b)
                self._bytes_done(agent, job, obj, a, b)
        for start, stop in result.released:
            for a, b in list(lease.left.present(max(start, lease.start), max(start, min(stop, lease.stop)))):
                lease.left.remove(a, b)
                if obj.phase is Phase.RANGES:
                    job.release_range(obj, a, b)
        ended = result.outcome is not Outcome.PARTIAL or not lease.left
        if ended:
            self.give_back(lease)
            lease.left.clear()
        if result.failure is not None:
            # Ranges fail together when their origin does: those granted before the last failure belong to it. Of wrong bytes
            # all leases are over once they are known, so a report of them tells something new.
            is_wrong = issubclass(error_class(result.failure.code), (Changed, VerificationFailed))
            if lease.granted_at > obj.failed_at or is_wrong or not result.failure.retryable:
                self._object_failed(agent, job, obj, result.failure, now, transfer=True)
        elif obj.phase is Phase.RANGES:
            self._maybe_ready(job, obj, now)
        return ended

    def _bytes_done(self, agent: AgentState, job: JobState, obj: ObjectState, start: int, stop: int) -> None:
        added = obj.done.add(start, stop)
        if obj.phase is Phase.RANGES:
            job.take_range(obj, start, stop)
        obj.done_bytes += added
        obj.expiries = obj.unseen = 0
        obj.failures -= obj.transfer_failures
        obj.transfer_failures = 0
        obj.bytes_by_agent[agent.agent_id] = obj.bytes_by_agent.get(agent.agent_id, 0) + added

    def _maybe_ready(self, job: JobState, obj: ObjectState, now: float) -> None:
        assert obj.spec.size is not None
        if obj.phase is Phase.RANGES and obj.done.covers(0, obj.spec.size):
            job.make_ready(obj, now)

    def _done(self, agent: AgentState, job: JobState, obj: ObjectState, result: Result) -> None:
        size = result.size if result.size is not None else (obj.spec.size or 0)
        job.row.objects_done += 1
        job.row.objects_skipped += result.skipped
        job.row.bytes_done += size
        if obj.spec.size is None:
            job.row.bytes_total += size
        agent.objects_done += 1
        agent.bytes_done += size
        self._effects.writes.append(
            ObjectDone(
                object_id=obj.spec.object_id,
                size=size,
                digest=result.digest,
                etag=result.etag,
                skipped=result.skipped,
                agent_id=agent.agent_id,
            )
        )
        self._orphan_leases(obj)
        job.forget(obj)

    def _object_failed(
        self,
        agent: AgentState,
        job: JobState,
        obj: ObjectState,
        failure: Failure,
        now: float,
        *,
        transfer: bool = False,
    ) -> None:
        """transfer says that a range failed: that counts against the object only while no other range brings anything."""
        kind = error_class(failure.code)
        if failure.code == NotShared.code:
            job.excluded[agent.agent_id] = now + EXCLUDED_S
            obj.unseen += 1
            if obj.unseen >= self._attempts and obj.phase is not Phase.QUEUED:
                # Its partial file is really gone, or all of them are blind: who opens it will see.
                self._start_over(job, obj)
            return
        if issubclass(kind, (NoSpace, NotWritable)):
            self.end_with(job, failure)
            return
        if failure.code == Busy.code:  # another run fetches it, or has taken it over: it is looked at again
            if transfer or obj.phase is not Phase.QUEUED:
                self._begin_anew(job, obj)
            job.delay(obj, now + RETRY_FIRST_S)
            return
        obj.failures += 1
        obj.failed_at = now
        if not failure.retryable or issubclass(kind, Refused) or obj.failures >= self._attempts:
            if issubclass(kind, (Changed, VerificationFailed)):
                self._give_another_life(obj)  # for a retry of the job
            self._fail(job, obj, failure)
            return
        self._effects.writes.append(ObjectRetried(object_id=obj.spec.object_id, failures=obj.failures, failure=failure))
        if issubclass(kind, (Changed, VerificationFailed)):
            self._begin_anew(job, obj)
        elif transfer:
            obj.transfer_failures += 1
        job.delay(obj, now + retry_delay_s(obj.failures))

    def _begin_anew(self, job: JobState, obj: ObjectState) -> None:
        self._give_another_life(obj)
        self._start_over(job, obj)

    def _start_over(self, job: JobState, obj: ObjectState) -> None:
        # A queued one may have leases, too: of ranges that an earlier incarnation granted.
        self._orphan_leases(obj)
        obj.unseen = 0
        job.reset(obj)

    def _give_another_life(self, obj: ObjectState) -> None:
        obj.spec = replace(obj.spec, life=self._leases.new_life())
        self._effects.writes.append(ObjectBegunAnew(obj.spec.object_id, obj.spec.life))

    def _fail(self, job: JobState, obj: ObjectState, failure: Failure) -> None:
        job.row.objects_failed += 1
        job.changed = True
        self._effects.writes.append(ObjectFailed(object_id=obj.spec.object_id, failures=obj.failures, failure=failure))
        self._orphan_leases(obj)
        job.forget(obj)

    def end_with(self, job: JobState, failure: Failure) -> None:
        """No object of the job can be written any more: end it, with everything resumable by `retry`."""
        self._orphans.extend(self._leases.of_job(job.row.job_id))
        self.end_job(job, JobStatus.FAILED, failure)

    def _orphan_leases(self, obj: ObjectState) -> None:
        self._orphans.extend(self._leases.of_object(obj.spec.object_id))
