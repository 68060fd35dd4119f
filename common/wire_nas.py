"""How copies on a NAS are doing, to and from ``shoal.v1`` messages. Decoding raises `ProtocolViolation`."""

from __future__ import annotations

from dataclasses import fields

from shoal.v1 import work_pb2 as work

from .nas_records import NasCounts, NasJob, NasReport
from .wire_values import count, each, name, prose

_NUMBERS = tuple(field.name for field in fields(NasCounts) if field.name != "reason")


def encode_nas_counts(counts: NasCounts | None) -> work.NasCounts | None:
    """Counts; None where there is nothing to count."""
    if counts is None:
        return None
    return work.NasCounts(**{field: getattr(counts, field) for field in _NUMBERS}, reason=prose(counts.reason))


def decode_nas_counts(counts: work.NasCounts) -> NasCounts:
    """Counts."""
    numbers = {field: count(getattr(counts, field), f"NasCounts.{field}") for field in _NUMBERS}
    return NasCounts(**numbers, reason=counts.reason)


def encode_nas_report(report: NasReport | None) -> work.NasReport | None:
    """What an agent says of its copies; None where it makes none."""
    if report is None:
        return None
    jobs = (work.NasJob(job_id=job.job_id, counts=encode_nas_counts(job.counts)) for job in report.jobs)
    return work.NasReport(total=encode_nas_counts(report.total), jobs=jobs)


def decode_nas_report(report: work.NasReport) -> NasReport:
    """What an agent says of its copies."""
    return NasReport(total=decode_nas_counts(report.total), jobs=each(_decode_job, report.jobs, "NasReport.jobs"))


def _decode_job(job: work.NasJob) -> NasJob:
    return NasJob(job_id=name(job.job_id, "NasJob.job_id"), counts=decode_nas_counts(job.counts))
