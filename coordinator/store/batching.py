"""Writes grouped by statement, so that one transaction takes few calls of SQLite."""

from __future__ import annotations

from collections.abc import Iterator

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
from . import statements as sql
from .order import unit_specs
from .rows import Row, done_to_row, failed_to_row, job_to_row, lease_to_row, profile_to_json


class WriteBatch:
    """Writes grouped by statement, for `executemany`.

    What one row ends up as is all that counts, so of several writes of one job, lease or agent the last is taken. Objects keep
    their order, because `RequeueFailed` depends on what came before it.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], Write] = {}
        self._objects: list[tuple[str, list[Row]]] = []

    def add(self, write: Write) -> None:
        match write:
            case PutJob(row):
                self._last["job", row.job_id] = write
            case PutFetched():
                self._last["fetched", f"{write.job_id} {write.agent_id}"] = write
            case PutLease() | DropLease():
                self._last["lease", write.unit] = write
            case PutAgent():
                self._last["agent", write.agent_id] = write
            case PutHostPolicy():
                self._last["host", write.host] = write
            case ObjectDone():
                self._object(sql.OBJECT_DONE, done_to_row(write))
            case ObjectFailed():
                self._object(sql.OBJECT_FAILED, failed_to_row(write))
            case ObjectRetried():
                self._object(sql.OBJECT_RETRIED, failed_to_row(write))
            case ObjectBegunAnew(object_id, life):
                self._object(sql.OBJECT_BEGUN_ANEW, (life, object_id))
            case FinishObjects(job_id):
                self._object(sql.FINISH_OBJECTS, (job_id,))
            case RequeueFailed(job_id):
                self._object(sql.REQUEUE_FAILED, (job_id,))
            case PutHostProfile(job_id, profile):
                self._object(sql.PUT_PROFILE, (job_id, profile.host, profile_to_json(profile)))
            case ForgetHostProfiles(job_id):
                self._object(sql.FORGET_PROFILES, (job_id,))
            case AddUnits(job_id, count):
                for spec in unit_specs(count):
                    self._object(sql.ADD_OBJECT, (job_id, spec.path, None, "", "", "", "queued", None, 0))

    def _object(self, statement: str, row: Row) -> None:
        if self._objects and self._objects[-1][0] == statement:
            self._objects[-1][1].append(row)
        else:
            self._objects.append((statement, [row]))

    def statements(self) -> Iterator[tuple[str, list[Row]]]:
        """Statements with their rows; jobs first, because objects refer to them."""
        grouped: dict[str, list[Row]] = {}
        for write in self._last.values():
            statement, row = _keyed(write)
            grouped.setdefault(statement, []).append(row)
        if sql.PUT_JOB in grouped:
            yield sql.PUT_JOB, grouped.pop(sql.PUT_JOB)
        yield from self._objects
        yield from grouped.items()


def _keyed(write: Write) -> tuple[str, Row]:
    match write:
        case PutJob(row):
            return sql.PUT_JOB, job_to_row(row)
        case PutFetched():
            return sql.PUT_FETCHED, (write.job_id, write.agent_id, write.bytes_fetched)
        case PutLease():
            return sql.PUT_LEASE, lease_to_row(write)
        case DropLease(unit):
            return sql.DROP_LEASE, (unit,)
        case PutAgent():
            return sql.PUT_AGENT, (write.agent_id, write.name, write.version, write.zone)
        case PutHostPolicy():
            return sql.PUT_HOST_POLICY, (write.host, write.requests_per_s, write.bytes_per_s, write.connections)
        case _:
            raise TypeError(f"{type(write).__name__} has no key")
