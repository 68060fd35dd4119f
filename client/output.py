"""How views are shown: JSON documents for programs, aligned tables and lines for people."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..common.collect_records import SUCCESS, ErrorCode
from ..common.records import Delivery
from ..common.secrets import Secret
from ..common.units import format_duration, format_rate, format_size
from ..common.views import AgentView, JobStatus, JobView, ObjectView, ReplicaStatus

T = TypeVar("T")
CODES_SHOWN = 12
_MEANINGS = {
    ErrorCode.NETWORK: "no answer",
    ErrorCode.NOT_AN_IMAGE: "no decodable image",
    ErrorCode.REFUSED: "refused by policy",
    ErrorCode.TOO_LARGE: "too large",
    ErrorCode.OPTED_OUT: "opted out",
}


def to_document(value: Any) -> Any:
    """A view as plain JSON values: dataclasses become objects, enums their value, a Secret its mask."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_document(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_document(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (tuple, list)):
        return [to_document(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def job_document(job: JobView, failed: Sequence[ObjectView]) -> dict[str, Any]:
    """A job with its failed objects."""
    return {**to_document(job), "failed": to_document(list(failed))}


def printable(text: str) -> str:
    """Text from outside, safe on a terminal: control characters (an escape sequence needs one) are shown as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def table(rows: Iterable[T], columns: Mapping[str, Callable[[T], str]]) -> str:
    """An aligned table with a head, or "none" when there is no row. Columns whose head ends in ``>`` are right-aligned."""
    cells = [[printable(show(row)) for show in columns.values()] for row in rows]
    if not cells:
        return "none"
    heads = [head.rstrip(">").upper() for head in columns]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    right = [head.endswith(">") for head in columns]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if flush else value.ljust(width)
            for value, width, flush in zip(values, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join(line(values) for values in [heads, *cells])


def moment(epoch_s: float | None) -> str:
    """A moment in local time, or a dash."""
    if epoch_s is None:
        return "-"
    return datetime.fromtimestamp(epoch_s, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def percent(job: JobView) -> str:
    """How much of a job has arrived."""
    if job.status is JobStatus.DONE:
        return "100%"
    if job.rows_total:
        return f"{min(99, 100 * job.rows_done // job.rows_total)}%"
    if not job.bytes_total:
        return "-"
    return f"{min(99, 100 * job.bytes_arrived // job.bytes_total)}%"


def speed_of(job: JobView) -> str:
    """How fast it goes: rows or bytes a second; "" while nothing is known."""
    if job.rows_per_s:
        return f"{job.rows_per_s:,.1f} rows/s"
    return format_rate(job.rate_bytes_per_s) if job.rate_bytes_per_s else ""


def state(job: JobView) -> str:
    """A job's status in a word."""
    return f"{job.status.value} (paused)" if job.paused and not job.ended else job.status.value


def agent_state(agent: AgentView) -> str:
    """An agent's status in a word or two."""
    return f"{agent.status.value}, cut off" if agent.cut_off else agent.status.value


def reason_of(obj: ObjectView) -> str:
    """Why an object failed, with its name: an error of a connection knows only the URL."""
    path, text = printable(obj.path), printable(obj.failure.text if obj.failure else "")
    return text if path in text else f"{path}: {text}"


def progress_line(job: JobView) -> str:
    """A running job in one line."""
    if job.delivery is Delivery.DATASET and job.status is JobStatus.PLANNING:
        return f"{printable(job.uri)}: {state(job)}, {job.rows_total:,} rows read"
    if job.delivery is Delivery.DATASET and job.rows_total:
        return _rows_line(job)
    parts = [
        f"{printable(job.uri)}: {state(job)}",
        f"{job.objects_done}/{job.objects_total} files",
        f"{format_size(job.bytes_arrived)} of {format_size(job.bytes_total)}",
    ]
    if job.rate_bytes_per_s:
        parts.append(format_rate(job.rate_bytes_per_s))
    if job.eta_s is not None:
        parts.append(f"{format_duration(job.eta_s)} left")
    if job.objects_failed:
        parts.append(f"{job.objects_failed} failed")
    return ", ".join(parts)


def _rows_line(job: JobView) -> str:
    errors = sum(rows for code, rows in job.tally if code != SUCCESS)
    parts = [f"{printable(job.uri)}: {state(job)}", f"{job.rows_done:,} of {job.rows_total:,} rows"]
    if job.rows_per_s:
        parts.append(f"{job.rows_per_s:.1f} rows/s")
    if job.eta_s is not None:
        parts.append(f"{format_duration(job.eta_s)} left")
    if errors:
        parts.append(f"{errors:,} errors")
    return ", ".join(parts)


def summary_line(job: JobView) -> str:
    """How a job ended, in one line."""
    if job.delivery is Delivery.DATASET and job.rows_total:
        return rows_summary(job)
    uri = printable(job.uri)
    fetched = job.objects_done - job.objects_skipped
    if job.status is JobStatus.DONE:
        there = f", {job.objects_skipped} were there already" if job.objects_skipped else ""
        copies = sum(replica.status is ReplicaStatus.DONE for replica in job.replicas)
        where = f", on {copies} of {len(job.replicas)} agents" if job.replicas else ""
        files = f"{fetched} of {job.objects_total} files fetched ({format_size(job.bytes_fetched)})"
        return f"{uri}: done, {files}{there}{where}"
    why = f": {printable(job.failure.text)}" if job.failure else ""
    return f"{uri}: {job.status.value}{why}; {job.objects_done} of {job.objects_total} files are there"


def rows_summary(job: JobView) -> str:
    """How the rows of a table ended, in one line."""
    by_code = dict(job.tally)
    collected = by_code.pop(SUCCESS, 0)
    return (
        f"{printable(job.uri)}: {job.status.value}, {collected:,} of {job.rows_total:,} rows collected, "
        f"{sum(by_code.values()):,} errors, {job.rows_rejected:,} rejected"
    )


def error_lines(job: JobView) -> list[str]:
    """Rows of a table that ended as errors, a line a code, the most frequent ones first."""
    errors = sorted(((rows, code) for code, rows in job.tally if code != SUCCESS), reverse=True)
    return [f"  {rows:>12,}  {code_name(code)}" for rows, code in errors[:CODES_SHOWN]]


def code_name(code: int) -> str:
    """An error code with its meaning."""
    try:
        return f"{code} ({_MEANINGS[ErrorCode(code)]})"
    except ValueError:
        return str(code)
