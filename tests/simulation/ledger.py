"""The coordinator's store in the simulation: it survives kills and checks every commit against what was committed before."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.coordinator.effects import ObjectDone, ObjectFailed, PutJob, PutLease, Write
from shoal.coordinator.model import JobRow
from shoal.coordinator.store.base import ObjectStatus
from shoal.coordinator.store.memory import MemoryStore

from .clock import require


class Ledger(MemoryStore):
    """A store that knows what must never be written to it."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: 0.0)
        self.highest_token = 0

    def rows(self) -> list[JobRow]:
        """The jobs as they are stored, not to be changed."""
        return [job.row for job in self._jobs.values()]

    def apply(self, writes: Sequence[Write]) -> None:
        """Check and apply."""
        held = dict(self._leases)
        for write in writes:
            if isinstance(write, PutLease):
                require(write.token > self.highest_token, f"token {write.token} after {self.highest_token}")
                self.highest_token = write.token
            elif isinstance(write, ObjectDone):
                self._check_done(write, held)
            elif isinstance(write, ObjectFailed):
                self._check_queued(write.object_id, "failed")
            super().apply([write])
        for job_id in {write.row.job_id for write in writes if isinstance(write, PutJob)}:
            self._check_counters(job_id)

    def _check_done(self, write: ObjectDone, held: dict[str, PutLease]) -> None:
        self._check_queued(write.object_id, "done")
        lease = held.get(f"o{write.object_id}")
        holder = lease.agent_id if lease else "nobody"
        require(holder == write.agent_id, f"o{write.object_id} is credited to {write.agent_id}, but {holder} holds it")

    def _check_queued(self, object_id: int, what: str) -> None:
        row = self.get_object(object_id)
        require(row is not None, f"o{object_id} is {what}, but there is no such object")
        assert row is not None
        require(row.status is ObjectStatus.QUEUED, f"o{object_id} is {what}, but was {row.status} already")

    def _check_counters(self, job_id: str) -> None:
        row = self._jobs[job_id].row
        if row.spec is not None:
            rows = self._of_job(job_id)
            done = [obj for obj in rows if obj.status is ObjectStatus.DONE]
            failed = sum(obj.status is ObjectStatus.FAILED for obj in rows)
            require(row.objects_done == len(done), f"{job_id}: {row.objects_done} done, the store has {len(done)}")
            require(row.objects_failed == failed, f"{job_id}: {row.objects_failed} failed, the store has {failed}")
            total = sum(obj.spec.size or 0 for obj in done)
            require(row.bytes_done == total, f"{job_id}: {row.bytes_done} bytes done, the store has {total}")
            skipped = sum(obj.skipped for obj in done)
            require(row.objects_skipped == skipped, f"{job_id}: {row.objects_skipped} skipped, the store has {skipped}")
