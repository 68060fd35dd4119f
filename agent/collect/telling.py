"""What an agent's log says of batches: one event when it begins to work on one, one when it ends, with rows by code."""

from __future__ import annotations

from ...common.collect_records import SUCCESS, batch_of_path
from ...common.logs import get_logger
from ...common.records import JobSpec, ObjectSpec, Outcome
from .batch import BatchResult

log = get_logger("agent.collect")


def batch_begun(job: JobSpec, batch: ObjectSpec, host: str) -> None:
    """An agent fetches rows of the batch from now on."""
    log.info("batch.started", job=job.job_id, host=host, partition=batch_of_path(batch.path)[1], rows=batch.size)


def batch_ended(job: JobSpec, batch: ObjectSpec, host: str, result: BatchResult, seconds: float) -> None:
    """It is finished, or was given back because its host must be left alone."""
    partition = batch_of_path(batch.path)[1]
    if result.outcome is not Outcome.DONE:
        log.info("batch.returned", job=job.job_id, host=host, partition=partition, seconds=round(seconds, 3))
        return
    errors = {str(code): rows for code, rows in result.tally if code != SUCCESS}
    log.info(
        "batch.done",
        job=job.job_id,
        host=host,
        partition=partition,
        rows=sum(rows for _, rows in result.tally),
        errors=sum(errors.values()),
        errors_by_code=errors,
        bytes=result.fetched,
        seconds=round(seconds, 3),
    )
