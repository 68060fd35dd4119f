"""Tools on the agents of a fleet: the coordinator hands out the units, agents that see the dataset's folder run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.collect_records import ToolSpec
from ..common.errors import error_class
from ..common.records import Delivery
from ..common.views import JobStatus, JobView, SubmitRequest
from ..tools.durable import read_json
from ..tools.records import Problem, Progress, ToolReport
from ..tools.state import ToolFolder
from .running import run
from .transfer import failed_objects, transfers
from .watching import watch_patiently

if TYPE_CHECKING:
    from ..common.settings import Settings

STAGES = {JobStatus.PLANNING: "filter", JobStatus.PREPARING: "filter", JobStatus.FINALIZING: "finish"}


def run_on_fleet(settings: Settings, spec: ToolSpec, data: Path, tell: Callable[[Progress], None]) -> ToolReport:
    """As `tools.local.run_tool`, on the agents of the configured coordinator; data is a folder that they all see.

    Blocks. Where this process does not see the folder, the report has nothing but the number of units.
    Raises the ShoalError that ended the job, Unreachable.
    """
    written = _written_at(data, spec.name)
    job, reasons = run(_run(settings, spec, data, tell))
    if job.failure is not None:
        cause = reasons[0] if reasons else job.failure.text
        raise error_class(job.failure.code)(f"tool {spec.name}", cause=cause, remedy="run it again: it goes on")
    return _report(data, spec.name, job, done_before=written is not None and written == _written_at(data, spec.name))


async def _run(
    settings: Settings, spec: ToolSpec, data: Path, tell: Callable[[Progress], None]
) -> tuple[JobView, list[str]]:
    request = SubmitRequest(uris=(), delivery=Delivery.DATASET, destination=str(data), tool=spec, name=spec.name)
    async with transfers(settings) as coordinator:
        job = (await coordinator.submit(request))[0].job
        async for view in watch_patiently(coordinator, job.job_id):
            job = view
            stage = STAGES.get(view.status, "run")
            tell(Progress(stage=stage, done=view.objects_done, total=view.objects_total))
        failed = await failed_objects(coordinator, job)
    return job, [unit.failure.text for unit in failed if unit.failure is not None]


def _written_at(data: Path, name: str) -> int | None:
    try:
        return ToolFolder(data, name).report.stat().st_mtime_ns
    except OSError:
        return None


def _report(data: Path, name: str, job: JobView, *, done_before: bool) -> ToolReport:
    document: dict[str, Any] | None = read_json(ToolFolder(data, name).report)
    if document is None:
        zeros = dict.fromkeys(("chosen", "rows", "removed", "changed", "reported", "bytes"), 0)
        return ToolReport(name=name, units=job.objects_total, **zeros)
    document.pop("plan", None)
    problems = tuple(Problem(**each) for each in document.pop("problems"))
    known: dict[str, Any] = {
        **document,
        "problems": problems,
        "also": tuple(document["also"]),
        "done_before": done_before,
    }
    return ToolReport(**known)
