"""What the agents of a fleet call: plan, run_unit, finish. Each may be called again, by another agent too, at any moment.

The agents hold the dataset's lock together. `plan` does filter and schedule and says how many units there are; `run_unit` does one, in
a process of its own; `finish` sums up. All block: call them in a thread. spec.reset is looked at by `plan` alone; who
retries a plan whose answer was lost must not ask for the reset again once a unit was run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..common.collect_records import ToolSpec
from ..common.errors import Conflict
from .durable import storage_errors
from .loading import load_tool
from .lock import dataset_lock, release_together
from .pool import Worker
from .records import ToolReport, UnitReport
from .stages import Tell, planned, run_filter, run_schedule, silent
from .state import ToolFolder
from .summary import read_summary, summarise
from .units import unit_record


def plan(spec: ToolSpec, data: Path, tell: Tell = silent) -> int:
    """Filter and schedule, unless that is done. Returns the number of units, numbered from 0; the largest come first.

    Raises: Busy (another tool is at work on the dataset), NotFound (no dataset, no such tool), Conflict (it was begun with other
    options), ToolFailed, UsageError, NoSpace, NotWritable, OSError.
    """
    with storage_errors(data), dataset_lock(data, spec.name, together=True):
        folder = ToolFolder(data, spec.name)
        folder.reset(spec.reset)
        tool = load_tool(spec)
        record = run_filter(spec, tool, folder, tell)
        return run_schedule(spec, tool, folder, record["plan"])


def run_unit(spec: ToolSpec, data: Path, number: int) -> UnitReport:
    """Do a unit, in a process of its own, unless it is done. A partition that cannot be done is in the report's problems.

    Raises as `plan` does, and UsageError for a number that is no unit, StateDamaged when it was not planned.
    """
    folder = ToolFolder(data, spec.name)
    done = unit_record(folder, number, planned(spec, folder)[0])
    if done is not None and not done.problems:
        return done  # also when the tool is finished, and nobody is left to take the lock away
    with (
        storage_errors(data),
        dataset_lock(data, spec.name, together=True) as lock,
        tempfile.TemporaryDirectory(prefix="shoal-tools-") as scratch,
        Worker(spec, data, Path(scratch, "row")) as worker,
    ):
        report = worker.run(number)
        lock.check()
        return report


def finish(spec: ToolSpec, data: Path) -> ToolReport:
    """Sum up, write report.json and release the dataset. Raises as `plan` does, and Conflict when a unit was not run."""
    with storage_errors(data), dataset_lock(data, spec.name, together=True):
        folder = ToolFolder(data, spec.name)
        plan, units = planned(spec, folder)
        missing = [number for number in range(units) if unit_record(folder, number, plan) is None]
        if missing:
            raise Conflict(
                f"tool {spec.name}",
                cause=f"{len(missing)} of {units} units were not run, the first is {missing[0]}",
                remedy="run them first",
            )
        report = read_summary(folder, plan) or summarise(spec, load_tool(spec), folder, plan, units)
    release_together(data, spec.name)
    return report
