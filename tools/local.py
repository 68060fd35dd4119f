"""A tool's whole run on this machine: filter, schedule, units in worker processes, summary."""

from __future__ import annotations

import os
from pathlib import Path

from ..common.collect_records import ToolSpec
from .dataset import clear_temporary
from .durable import storage_errors
from .loading import load_tool
from .lock import Held, dataset_lock
from .pool import run_units
from .records import Progress, ToolReport
from .registry import Tool
from .stages import Tell, run_filter, run_schedule, silent
from .state import ToolFolder
from .summary import read_summary, summarise
from .tables import read_chosen, unit_sizes
from .units import unit_record


def run_tool(spec: ToolSpec, data: Path, tell: Tell = silent) -> ToolReport:
    """Run a tool over a dataset, or go on where an earlier run was stopped. What is finished is not done again.

    Blocks; tell is called with the progress, in this thread. Nobody else may work on the dataset meanwhile.
    Raises: Busy, NotFound (no dataset, no such tool), Conflict (it was begun with other options), ToolFailed, UsageError,
    NoSpace, NotWritable, OSError.
    """
    data = data.absolute()
    tool = load_tool(spec)
    with storage_errors(data), dataset_lock(data, spec.name) as lock:
        folder = ToolFolder(data, spec.name)
        folder.clear_temporary()
        folder.reset(spec.reset)
        return _stages(spec, tool, folder, lock, tell)


def _stages(spec: ToolSpec, tool: Tool, folder: ToolFolder, lock: Held, tell: Tell) -> ToolReport:
    record = run_filter(spec, tool, folder, tell)
    plan = record["plan"]
    lock.check()
    units = run_schedule(spec, tool, folder, plan)
    done = read_summary(folder, plan)
    if done is not None:
        return done
    sizes = unit_sizes(folder.schedule, units)
    tell(Progress(stage="run", total=sum(sizes)))
    before = {number: unit_record(folder, number, plan) for number in range(units)}
    finished = {number: report for number, report in before.items() if report is not None and not report.problems}
    waiting = [number for number in range(units) if number not in finished]
    for chosen in read_chosen(folder.schedule) if waiting else ():
        clear_temporary(folder.data, chosen.partition, spec.name)
    bytes_done = sum(sizes[number] for number in finished)
    rows = sum(report.rows for report in finished.values())
    removed = sum(report.removed for report in finished.values())
    for number, report in run_units(spec, folder.data, waiting, spec.workers or cores(), lock.check):
        bytes_done, rows, removed = bytes_done + sizes[number], rows + report.rows, removed + report.removed
        tell(Progress(stage="run", done=bytes_done, total=sum(sizes), rows=rows, removed=removed))
    tell(Progress(stage="finish", done=bytes_done, total=bytes_done, rows=rows, removed=removed))
    return summarise(spec, tool, folder, plan, units)


def cores() -> int:
    """Cores that this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
