"""The job state in memory: for embedded runs, whose state need not outlive them, and for tests.

It keeps the contract of `base.py` but for durability: what was applied survives `close` and a new `open` of the same instance, not
the process.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...common.collect_records import HostProfile
from ...common.errors import NotFound, UsageError
from ...common.records import Failure, ObjectSpec, Tally
from ..effects import (
    AddUnits,
    DropLease,
    FinishObjects,
    ForgetHostProfiles,
    ObjectBegunAnew,
    ObjectDone,
    ObjectFailed,
    ObjectRetried,
    PutAgent,
    PutFetched,
    PutHostPolicy,
    PutHostProfile,
    PutJob,
    PutLease,
    RequeueFailed,
    Write,
)
from ..model import JobRow
from .base import Cursor, ObjectRow, ObjectStatus, RevokedRow, TokenRow
from .order import order_weight, unit_specs


@dataclass(slots=True)
class _Object:
    job_id: str
    spec: ObjectSpec
    status: ObjectStatus = ObjectStatus.QUEUED
    failures: int = 0
    failure: Failure | None = None
    skipped: bool = False
    agent_id: str = ""
    refused: bool = False
    tally: Tally = ()
    was_named: bool = True  # False: its digest is one that an agent has computed, the publisher named none

    def row(self) -> ObjectRow:
        return ObjectRow(
            job_id=self.job_id,
            spec=self.spec,
            status=self.status,
            failures=self.failures,
            failure=self.failure,
            skipped=self.skipped,
            agent_id=self.agent_id,
            tally=self.tally,
        )


@dataclass(slots=True)
class _Job:
    row: JobRow
    ids: dict[str, int] = field(default_factory=dict[str, int])  # by path; ids ascend
    profiles: dict[str, HostProfile] = field(default_factory=dict[str, HostProfile])
    fetched_by: dict[str, int] = field(default_factory=dict[str, int])
    order: list[tuple[int, int]] | None = None  # (-weight, id) of what was queued when it was sorted


class MemoryStore:
    """A `Store` of dictionaries."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """clock gives seconds since the epoch, for the creation times of credentials."""
        self._clock = clock
        self._incarnation = 0
        self._last_object_id = 0
        self._jobs: dict[str, _Job] = {}
        self._objects: dict[int, _Object] = {}
        self._leases: dict[str, PutLease] = {}
        self._agents: dict[str, PutAgent] = {}
        self._policies: dict[str, PutHostPolicy] = {}
        self._tokens: dict[str, TokenRow] = {}
        self._revoked: dict[str, RevokedRow] = {}
        self._identities: dict[str, str] = {}

    def open(self, *, begins: bool = True) -> int:
        """A new incarnation on the same state."""
        self._incarnation += begins
        return self._incarnation

    def close(self) -> None:
        """Nothing to release."""

    def apply(self, writes: Sequence[Write]) -> None:
        """Apply all writes, in order."""
        for write in writes:
            self._apply_one(write)

    def _apply_one(self, write: Write) -> None:
        match write:
            case PutJob(row):
                job = self._jobs.get(row.job_id)
                if job is None:
                    self._jobs[row.job_id] = _Job(replace(row))
                else:
                    job.row = replace(row)
            case PutFetched():
                self._job(write.job_id).fetched_by[write.agent_id] = write.bytes_fetched
            case ObjectDone() | ObjectFailed() | ObjectRetried() | ObjectBegunAnew():
                self._apply_to_object(write)
            case FinishObjects(job_id):
                self._finish_queued(job_id)
            case RequeueFailed(job_id):
                self._requeue_failed(job_id)
            case PutLease():
                self._leases[write.unit] = write
            case DropLease(unit):
                self._leases.pop(unit, None)
            case PutAgent():
                self._agents[write.agent_id] = write
            case PutHostPolicy():
                self._policies[write.host] = write
            case PutHostProfile(job_id, profile):
                self._job(job_id).profiles[profile.host] = profile
            case ForgetHostProfiles(job_id):
                self._job(job_id).profiles.clear()
            case AddUnits(job_id, count):
                self.add_objects(job_id, unit_specs(count))

    def _apply_to_object(self, write: ObjectDone | ObjectFailed | ObjectRetried | ObjectBegunAnew) -> None:
        obj = self._objects.get(write.object_id)
        if obj is None:
            return
        if isinstance(write, ObjectDone):
            spec = obj.spec
            digest, etag = write.digest or spec.digest, write.etag or spec.etag
            obj.was_named = obj.was_named and bool(spec.digest)
            obj.spec = replace(spec, size=write.size, digest=digest, etag=etag)
            obj.status, obj.failure = ObjectStatus.DONE, None
            obj.skipped, obj.agent_id, obj.tally = write.skipped, write.agent_id, write.tally
        elif isinstance(write, ObjectBegunAnew):
            obj.spec = replace(obj.spec, life=write.life, digest=obj.spec.digest if obj.was_named else "")
            obj.was_named = True
            if obj.status is ObjectStatus.DONE:
                obj.status = ObjectStatus.QUEUED
                self._jobs[obj.job_id].order = None
        else:
            obj.failures, obj.failure = write.failures, write.failure
            if isinstance(write, ObjectFailed):
                obj.status = ObjectStatus.FAILED

    def _finish_queued(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        for object_id in job.ids.values() if job is not None else ():
            obj = self._objects[object_id]
            if obj.status is ObjectStatus.QUEUED:
                obj.status, obj.failure = ObjectStatus.DONE, None

    def _requeue_failed(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is None:
            return
        job.order = None
        for object_id in job.ids.values():
            obj = self._objects[object_id]
            if obj.status is ObjectStatus.FAILED and not obj.refused:
                obj.status, obj.failures, obj.failure = ObjectStatus.QUEUED, 0, None

    def add_objects(self, job_id: str, specs: Sequence[ObjectSpec]) -> None:
        """Add a page of a job's manifest. Raises NotFound for a job that was never put."""
        job = self._job(job_id)
        for spec in specs:
            self._add(job, _Object(job_id, spec))

    def add_failed_objects(self, job_id: str, refused: Sequence[tuple[str, Failure]]) -> None:
        """Record refused names. Raises NotFound for a job that was never put."""
        job = self._job(job_id)
        for path, failure in refused:
            spec = ObjectSpec(object_id=0, path=path, size=None)
            self._add(job, _Object(job_id, spec, ObjectStatus.FAILED, failure=failure, refused=True))

    def _add(self, job: _Job, obj: _Object) -> None:
        object_id, life = job.ids.get(obj.spec.path), 0
        if object_id is None:
            self._last_object_id += 1
            object_id = job.ids[obj.spec.path] = self._last_object_id
        else:
            life = self._objects[object_id].spec.life
        obj.spec = replace(obj.spec, object_id=object_id, life=life)
        self._objects[object_id] = obj
        job.order = None

    def _job(self, job_id: str) -> _Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(f"job {job_id}", cause="the store holds no such job")
        return job

    def forget_objects(self, job_id: str) -> None:
        """Remove a job's objects."""
        job = self._jobs.get(job_id)
        if job is not None:
            for object_id in job.ids.values():
                del self._objects[object_id]
            job.ids.clear()
            job.order = None

    def counts(self, job_id: str) -> tuple[int, int]:
        """Number of objects and sum of their known sizes, in bytes."""
        objects = self._of_job(job_id)
        return len(objects), sum(obj.spec.size or 0 for obj in objects)

    def _of_job(self, job_id: str) -> list[_Object]:
        job = self._jobs.get(job_id)
        return [] if job is None else [self._objects[object_id] for object_id in job.ids.values()]

    def queued_objects(self, job_id: str, after: Cursor | None, limit: int) -> list[tuple[ObjectSpec, int]]:
        """Queued objects with their failures so far, in the order of work.

        The order is sorted once and then walked; from its beginning it is sorted anew, so that what ended since costs no walk.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return []
        if job.order is None or after is None:
            queued = (obj.spec for obj in self._of_job(job_id) if obj.status is ObjectStatus.QUEUED)
            job.order = sorted((-order_weight(spec.size), spec.object_id) for spec in queued)
        at = 0 if after is None else bisect_right(job.order, (-after.weight, after.object_id))
        found: list[tuple[ObjectSpec, int]] = []
        while at < len(job.order) and len(found) < limit:
            obj = self._objects[job.order[at][1]]
            if obj.status is ObjectStatus.QUEUED:
                found.append((obj.spec, obj.failures))
            at += 1
        return found

    def list_objects(
        self, job_id: str, *, status: ObjectStatus | None = None, after_id: int = 0, limit: int = 1000
    ) -> list[ObjectRow]:
        """Objects by ascending id, after an id."""
        job = self._jobs.get(job_id)
        ids = [] if job is None else list(job.ids.values())
        found: list[ObjectRow] = []
        for object_id in ids[bisect_right(ids, after_id) :]:
            if len(found) >= limit:
                break
            obj = self._objects[object_id]
            if status is None or obj.status is status:
                found.append(obj.row())
        return found

    def get_object(self, object_id: int) -> ObjectRow | None:
        """One object."""
        obj = self._objects.get(object_id)
        return None if obj is None else obj.row()

    def jobs(self) -> list[JobRow]:
        """All jobs, oldest first."""
        rows = (replace(job.row) for job in self._jobs.values())
        return sorted(rows, key=lambda row: (row.created_at, row.job_id))

    def fetched_by(self) -> dict[str, dict[str, int]]:
        """Bytes that came from the origin, by job and agent; jobs without any are left out."""
        return {job_id: dict(job.fetched_by) for job_id, job in self._jobs.items() if job.fetched_by}

    def leases(self) -> list[PutLease]:
        """Leases in force, in the order in which they were granted."""
        return sorted(self._leases.values(), key=lambda lease: lease.token)

    def agents(self) -> list[PutAgent]:
        """All agents ever seen, by id."""
        return [self._agents[agent_id] for agent_id in sorted(self._agents)]

    def host_policies(self) -> list[PutHostPolicy]:
        """Host limits that an administrator set, by host."""
        return [self._policies[host] for host in sorted(self._policies)]

    def profiles(self, job_id: str) -> list[HostProfile]:
        """What the hosts of a dataset job were like, by host."""
        job = self._jobs.get(job_id)
        return [] if job is None else [job.profiles[host] for host in sorted(job.profiles)]

    def put_token(self, token_id: str, *, role: str, name: str, secret_hash: bytes, expires_at: float | None) -> None:
        """Store a credential's hash."""
        self._tokens[token_id] = TokenRow(
            token_id=token_id,
            role=role,
            name=name,
            secret_hash=secret_hash,
            created_at=self._clock(),
            expires_at=expires_at,
        )

    def tokens(self) -> list[TokenRow]:
        """All credentials, by id."""
        return [self._tokens[token_id] for token_id in sorted(self._tokens)]

    def delete_token(self, token_id: str) -> bool:
        """Revoke a credential."""
        row = self._tokens.pop(token_id, None)
        if row is not None:
            self._revoked[token_id] = RevokedRow(
                token_id=token_id, secret_hash=row.secret_hash, revoked_at=self._clock()
            )
        return row is not None

    def expire_token(self, token_id: str, expires_at: float) -> None:
        """Let a credential end at this time."""
        if token_id in self._tokens:
            self._tokens[token_id] = replace(self._tokens[token_id], expires_at=expires_at)

    def revoked_tokens(self) -> list[RevokedRow]:
        """All credentials that were revoked, by id."""
        return [self._revoked[token_id] for token_id in sorted(self._revoked)]

    def put_identity(self, agent_id: str, credential: str) -> None:
        """Bind an agent's identity to a credential."""
        self._identities[agent_id] = credential

    def identities(self) -> dict[str, str]:
        """Credentials by agent id."""
        return dict(self._identities)

    def snapshot(self, path: Path) -> None:
        """There is nothing to copy."""
        raise UsageError("backup", cause="this coordinator keeps its state in memory alone")
