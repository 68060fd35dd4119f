"""Records as they lie in table columns: parameters for statements, and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ...common.chunks import ChunkSizes
from ...common.collect_records import HostProfile, collect_spec_from, tool_spec_from
from ...common.records import Delivery, Failure, JobSpec, Layout, ObjectSpec, OriginKind, Tally, UnitKind
from ..effects import ObjectDone, ObjectFailed, ObjectRetried, PutLease
from ..model import JobRow, JobStatus
from .base import ObjectRow, ObjectStatus, TokenRow

Row = tuple[Any, ...]


def failure_to_json(failure: Failure | None) -> str | None:
    """A failure as compact JSON."""
    return None if failure is None else _dump(dataclasses.asdict(failure))


def failure_from_json(text: str | None) -> Failure | None:
    """The failure that `failure_to_json` wrote."""
    return None if text is None else Failure(**json.loads(text))


def spec_to_json(spec: JobSpec | None) -> str | None:
    """A job's spec as compact JSON."""
    return None if spec is None else _dump(dataclasses.asdict(spec))


def spec_from_json(text: str | None) -> JobSpec | None:
    """The spec that `spec_to_json` wrote."""
    if text is None:
        return None
    known: dict[str, Any] = json.loads(text)
    known["origin"] = OriginKind(known["origin"])
    known["layout"] = Layout(known["layout"])
    known["endpoints"] = tuple(known["endpoints"])
    known["licenses"] = tuple(known.get("licenses", ()))
    known["delivery"] = Delivery(known.get("delivery", Delivery.SPREAD))
    if known.get("chunks") is not None:
        known["chunks"] = ChunkSizes(**known["chunks"])
    if known.get("collect") is not None:
        known["collect"] = collect_spec_from(known["collect"])
    if known.get("tool") is not None:
        known["tool"] = tool_spec_from(known["tool"])
    return JobSpec(**known)


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


JOB_COLUMNS = tuple(column.name for column in dataclasses.fields(JobRow))


def job_to_row(row: JobRow) -> Row:
    """Values in the order of JOB_COLUMNS."""
    values = {name: getattr(row, name) for name in JOB_COLUMNS}
    values |= {"spec": spec_to_json(row.spec), "failure": failure_to_json(row.failure), "status": row.status.value}
    values["tally"] = tally_to_json(row.tally)
    return tuple(values.values())


def job_from_row(values: Row) -> JobRow:
    """The job that `job_to_row` wrote."""
    row = JobRow(**dict(zip(JOB_COLUMNS, values, strict=True)))
    row.status, row.paused = JobStatus(values[JOB_COLUMNS.index("status")]), bool(row.paused)
    row.spec = spec_from_json(values[JOB_COLUMNS.index("spec")])
    row.failure = failure_from_json(values[JOB_COLUMNS.index("failure")])
    row.tally = tally_from_json(values[JOB_COLUMNS.index("tally")])
    return row


SPEC_COLUMNS = ("object_id", "path", "size", "digest", "etag", "url", "life")


def object_spec_from_row(values: Row) -> ObjectSpec:
    """values in the order of SPEC_COLUMNS."""
    object_id, path, size, digest, etag, url, life = values
    return ObjectSpec(object_id=object_id, path=path, size=size, digest=digest, etag=etag, url=url, life=life)


OBJECT_COLUMNS = (*SPEC_COLUMNS, "job_id", "status", "failures", "failure", "skipped", "agent_id", "tally")


def object_from_row(values: Row) -> ObjectRow:
    """values in the order of OBJECT_COLUMNS."""
    job_id, status, failures, failure, skipped, agent_id, tally = values[len(SPEC_COLUMNS) :]
    return ObjectRow(
        job_id=job_id,
        spec=object_spec_from_row(values[: len(SPEC_COLUMNS)]),
        status=ObjectStatus(status),
        failures=failures,
        failure=failure_from_json(failure),
        skipped=bool(skipped),
        agent_id=agent_id,
        tally=tally_from_json(tally),
    )


def done_to_row(done: ObjectDone) -> Row:
    """Parameters of OBJECT_DONE."""
    facts = (done.size, done.digest, done.etag, int(done.skipped), done.agent_id)
    return (*facts, tally_to_json(done.tally), done.object_id)


def tally_to_json(tally: Tally) -> str:
    """Rows by code as compact JSON; nothing for none."""
    return json.dumps(tally, separators=(",", ":")) if tally else ""


def tally_from_json(text: str) -> Tally:
    """The tally that `tally_to_json` wrote."""
    return tuple((code, rows) for code, rows in json.loads(text)) if text else ()


def failed_to_row(failed: ObjectFailed | ObjectRetried) -> Row:
    """Parameters of OBJECT_FAILED and OBJECT_RETRIED."""
    return (failed.failures, failure_to_json(failed.failure), failed.object_id)


def profile_to_json(profile: HostProfile) -> str:
    """A host's profile as compact JSON."""
    return _dump(dataclasses.asdict(profile))


def profile_from_json(text: str) -> HostProfile:
    """The profile that `profile_to_json` wrote."""
    return HostProfile(**json.loads(text))


LEASE_COLUMNS = ("unit", "token", "agent_id", "kind", "job_id", "object_id", "start", "stop")


def lease_to_row(lease: PutLease) -> Row:
    """Values in the order of LEASE_COLUMNS."""
    where = (lease.job_id, lease.object_id, lease.start, lease.stop)
    return (lease.unit, lease.token, lease.agent_id, lease.kind.value, *where)


def lease_from_row(values: Row) -> PutLease:
    """The lease that `lease_to_row` wrote."""
    unit, token, agent_id, kind, job_id, object_id, start, stop = values
    return PutLease(
        unit=unit,
        token=token,
        agent_id=agent_id,
        kind=UnitKind(kind),
        job_id=job_id,
        object_id=object_id,
        start=start,
        stop=stop,
    )


TOKEN_COLUMNS = ("token_id", "role", "name", "secret_hash", "created_at", "expires_at")


def token_from_row(values: Row) -> TokenRow:
    """values in the order of TOKEN_COLUMNS."""
    return TokenRow(**dict(zip(TOKEN_COLUMNS, values, strict=True)))


def storable(text: str) -> str:
    """The text with what UTF-8 cannot hold written as escapes: names from outside may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
