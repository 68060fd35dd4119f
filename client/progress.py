"""Progress for people: bars on a terminal, a plain line at most every 10 s elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from ..common.records import Delivery
from ..common.units import format_rate, format_size
from ..common.views import JobStatus, JobView
from .output import printable, progress_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY_S = 10.0
FILES_SHOWN = 6


class Display(Protocol):
    """Shows jobs until it is closed."""

    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, jobs: Sequence[JobView]) -> None:
        """The newest views of all jobs that are followed."""
        ...


def open_display(out: TextIO) -> Display:
    """The display that suits where it goes."""
    return Bars(out) if out.isatty() else PlainLines(out, time.monotonic)


class PlainLines:
    """A line a job, at most every 10 s; nothing for jobs that end sooner."""

    def __init__(self, out: TextIO, clock: Callable[[], float]) -> None:
        self._out = out
        self._clock = clock
        self._next = clock() + PLAIN_EVERY_S

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.flush()

    def show(self, jobs: Sequence[JobView]) -> None:
        if self._clock() < self._next:
            return
        self._next = self._clock() + PLAIN_EVERY_S
        for job in jobs:
            if not job.ended:
                print(progress_line(job), file=self._out)
        self._out.flush()


class Bars:
    """A bar a job, and one for each of the largest files in work."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[amount]}", justify="right"),
            TimeRemainingColumn(compact=True),
            console=Console(file=out),
            expand=True,
            transient=True,
        )
        self._jobs: dict[str, TaskID] = {}
        self._files: dict[tuple[str, int], TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, jobs: Sequence[JobView]) -> None:
        for job in jobs:
            task = self._jobs.get(job.job_id)
            if task is None:
                task = self._jobs[job.job_id] = self._progress.add_task("", total=None, amount="")
            done, total = (job.rows_done, job.rows_total) if job.rows_total else (job.bytes_arrived, job.bytes_total)
            if job.status is JobStatus.PLANNING:
                total = 0  # nobody knows it yet
            self._progress.update(
                task, description=_title(job), completed=done, total=total or None, amount=_amount(job)
            )
        self._show_files(jobs)

    def _show_files(self, jobs: Sequence[JobView]) -> None:
        shown = [job for job in jobs if job.delivery is not Delivery.DATASET]
        active = {(job.job_id, obj.object_id): obj for job in shown for obj in job.active if obj.size}
        largest = sorted(active, key=lambda key: -(active[key].size or 0))[:FILES_SHOWN]
        for key in set(self._files) - set(largest):
            self._progress.remove_task(self._files.pop(key))
        for key in largest:
            if key not in self._files:
                self._files[key] = self._progress.add_task("", total=active[key].size, amount="")
            name = printable(active[key].path)
            self._progress.update(
                self._files[key],
                description=f"  {name if len(name) <= 36 else '…' + name[-35:]}",
                completed=active[key].done_bytes,
                amount=f"{format_size(active[key].done_bytes)} of {format_size(active[key].size or 0)}",
            )


def _amount(job: JobView) -> str:
    if job.delivery is Delivery.DATASET and job.status is JobStatus.PLANNING:
        return f"{job.rows_total:,} rows read"
    if job.rows_total:
        rate = f", {job.rows_per_s:,.0f}/s" if job.rows_per_s else ""
        return f"{job.rows_done:,} of {job.rows_total:,} rows{rate}"
    rate = f", {format_rate(job.rate_bytes_per_s)}" if job.rate_bytes_per_s else ""
    return f"{format_size(job.bytes_arrived)} of {format_size(job.bytes_total)}{rate}"


def _title(job: JobView) -> str:
    failed = f", {job.objects_failed} failed" if job.objects_failed else ""
    status = "paused" if job.paused else job.status.value
    count = f" {job.objects_done}/{job.objects_total}" if job.objects_total else ""
    return f"{printable(job.uri)}  {status}{count}{failed}"
