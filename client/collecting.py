"""``shoal collect``: a URL table becomes a dataset, on this machine or on a fleet."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.collect_records import (
    SUCCESS,
    CollectSpec,
    Content,
    DatasetFormat,
    ImageEncoding,
    Resampler,
    Restart,
)
from ..common.errors import ExitCode, NotWritable, UsageError, error_class
from ..common.records import Delivery, Tally
from ..common.views import JobView, ObjectView, SubmitRequest
from .dataset_alone import alone, refuse_while_active
from .output import CODES_SHOWN, error_lines, job_document, printable, reason_of, rows_summary, to_document
from .running import run

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What `collect` brought: where it lies, and rows by outcome. errors_by_code has HTTP statuses and `ErrorCode` values."""

    folder: str
    rows: int
    successes: int
    rejected: int
    errors_by_code: Mapping[int, int]

    @property
    def errors(self) -> int:
        """Rows of the errors tables."""
        return sum(self.errors_by_code.values())


def collect(options: argparse.Namespace, settings: Settings) -> int:
    """Collect and wait. Returns the exit code."""
    request = collect_request(settings, options)
    is_fleet = bool(settings.coordinator.address)
    with nullcontext() if is_fleet else alone(settings, request):
        if request.force:
            if is_fleet:
                run(refuse_while_active(settings, request.destination))
            request = begin_anew(request, options)
        job, failed = run(run_request(settings, request), fast=True)
    result = outcome(job)
    if options.json:
        document = to_document(result) | {"errors": result.errors, "job": job_document(job, failed)}
        print(json.dumps(document, indent=2))
    elif job.failure is None:
        print(result.folder)
    for line in report_lines(job, failed):
        print(line, file=sys.stderr)
    if job.failure is not None:
        return int(error_class(job.failure.code).exit_code)
    return ExitCode.OK if job.status.value == "done" else ExitCode.FAILED


async def run_request(settings: Settings, request: SubmitRequest) -> tuple[JobView, list[ObjectView]]:
    """Submit a dataset job and follow it to its end. Returns its last view and the batches that failed. Raises Interrupted."""
    from .transfer import failed_objects, follow, transfers

    async with transfers(settings) as coordinator:
        submitted = (await coordinator.submit(request))[0]
        (job,) = await follow(coordinator, [submitted.job.job_id], detach=bool(settings.coordinator.address))
        return job, await failed_objects(coordinator, job)


def collect_request(settings: Settings, options: argparse.Namespace | None = None) -> SubmitRequest:
    """What to collect, by the settings and, before them, the command line. Raises UsageError."""
    given: Mapping[str, Any] = vars(options) if options is not None else {}
    tables = tuple(given.get("tables") or ()) or settings.collect.input
    output = given.get("to") or settings.collect.output
    if not tables:
        raise UsageError(
            "shoal collect", cause="no table was named", remedy="name a file, glob or folder, or set collect.input"
        )
    if not output:
        raise UsageError(
            "shoal collect", cause="no destination was named", remedy="add --to DIR, or set collect.output"
        )
    destination = output if "://" in output else str(Path.cwd() / Path(output).expanduser())
    if "://" in destination and not destination.startswith("s3://"):
        raise UsageError(f"--to {output}", cause="a dataset goes into a folder or below an s3:// prefix")
    spec = collect_spec(settings, [str(Path.cwd() / Path(table).expanduser()) for table in tables])
    if given.get("restart"):
        spec = replace(spec, restart=Restart(given["restart"]), restart_codes=tuple(given.get("codes") or ()))
    elif given.get("codes"):
        raise UsageError("--code", cause="it goes with --restart failed")
    return SubmitRequest(
        uris=(),
        delivery=Delivery.DATASET,
        destination=destination,
        collect=spec,
        force=bool(given.get("force")),
        profile=given.get("profile") or "",
        priority=given.get("priority") or 0,
        name=given.get("name") or "",
    )


def collect_spec(settings: Settings, tables: Sequence[str]) -> CollectSpec:
    """How these tables are collected."""
    chosen = settings.collect
    agent = chosen.user_agent
    return CollectSpec(
        tables=tuple(tables),
        columns=tuple(sorted(chosen.columns.items())),
        carry=chosen.carry,
        batch_size=chosen.batch_size,
        content=Content(chosen.content),
        image_size=chosen.image_size,
        image_encoding=ImageEncoding(chosen.image_encoding),
        image_quality=chosen.image_quality,
        resampler=Resampler(chosen.resampler),
        format=DatasetFormat(chosen.format),
        row_group_bytes=chosen.row_group_size,
        request_timeout_s=chosen.request_timeout,
        idle_timeout_s=chosen.idle_timeout,
        attempts=chosen.attempts,
        redirects_max=chosen.redirects_max,
        body_bytes_max=chosen.max_body,
        pixels_max=chosen.max_pixels,
        decode_timeout_s=chosen.decode_timeout,
        decode_memory_bytes=chosen.decode_memory,
        robots=chosen.robots,
        respect_ai_opt_out=chosen.respect_ai_opt_out,
        allow_private_addresses=chosen.allow_private_addresses,
        user_agent=agent or _user_agent(chosen.contact),
        rate=chosen.default_rate_limit,
        rate_multiplier=chosen.rate_multiplier,
        connections=chosen.connections_per_host,
        backoff_initial_s=chosen.backoff_initial,
        backoff_cap_s=chosen.backoff_cap,
        host_patience_s=chosen.host_patience,
        robots_of=tuple(
            (name, host.robots) for name, host in sorted(settings.hosts.items()) if host.robots is not None
        ),
        ignored=tuple(name for name, host in sorted(settings.hosts.items()) if host.ignore),
    )


def _user_agent(contact: str) -> str:
    from ..common.version import VERSION

    return f"shoal/{VERSION} (+{contact})" if contact else f"shoal/{VERSION}"


def begin_anew(request: SubmitRequest, options: argparse.Namespace) -> SubmitRequest:
    """With --force: delete what was collected, once the folder's name was typed or given with --confirm, and read the table anew.

    Raises UsageError without it, NotWritable.
    """
    assert request.collect is not None
    if request.destination.startswith("s3://"):
        raise UsageError(
            "--force", cause="finished data in a store is never deleted from here", remedy="use the store's own tools"
        )
    folder = Path(request.destination)
    images = folder / "images"
    if images.exists():
        _confirm(images, folder.name, options.confirm)
        # Under another name first: half of a dataset must not pass for all of it.
        doomed = folder / ".shoal" / f"deleted-{os.getpid()}"
        try:
            doomed.parent.mkdir(exist_ok=True)
            images.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            raise NotWritable(f"folder {images}", cause=str(error), remedy="check its permissions") from None
    return replace(request, force=False, collect=replace(request.collect, restart=Restart.PARTITIONING))


def _confirm(images: Path, name: str, typed: str) -> None:
    if not typed and sys.stdin.isatty():
        print(f"--force deletes everything below {images}. Type {name} to go on: ", end="", file=sys.stderr, flush=True)
        typed = sys.stdin.readline().strip()
    if typed != name:
        raise UsageError(
            "--force",
            cause="deleting finished data was not confirmed",
            remedy=f"add --confirm {name}, or leave --force out",
        )


def outcome(job: JobView) -> Collected:
    """How the rows of the job's table ended."""
    by_code = dict(job.tally)
    return Collected(
        folder=job.destination,
        rows=job.rows_total,
        successes=by_code.pop(SUCCESS, 0),
        rejected=job.rows_rejected,
        errors_by_code=dict(sorted(by_code.items(), key=lambda item: -item[1])),
    )


def report_lines(job: JobView, failed: Sequence[ObjectView]) -> list[str]:
    """The outcome for people."""
    lines = [rows_summary(job), *error_lines(job)]
    if job.failure is not None:
        lines.append(f"  {printable(job.failure.text)}")
    lines += [f"  {reason_of(batch)}" for batch in failed[:CODES_SHOWN]]
    return lines


def rows_of(tally: Tally) -> tuple[int, int]:
    """Successes and errors of a tally."""
    successes = sum(rows for code, rows in tally if code == SUCCESS)
    return successes, sum(rows for _, rows in tally) - successes
