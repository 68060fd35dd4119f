"""The filter and the schedule: which rows, and in which units. Each is done once and appears whole; the caller holds the lock."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.collect_records import ToolSpec
from ..common.errors import StateDamaged, ToolFailed
from . import durable
from .bases import ToolContext
from .loading import user_code
from .reading import DatasetReader
from .records import PROBLEMS_MAX, Chosen, Progress
from .registry import Tool
from .state import ToolFolder, check_identity, identity
from .tables import CHOSEN, FilterTable, read_chosen, read_metadata, write_chosen

Tell = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tells nobody."""


def context_of(spec: ToolSpec, folder: ToolFolder, scratch: Path) -> ToolContext:
    """What the stages of a tool may know."""
    return ToolContext(name=spec.name, data=folder.data, options=dict(spec.options), scratch=scratch)


def filter_record(folder: ToolFolder) -> dict[str, Any] | None:
    """What the complete filter said of itself; None when it is not complete."""
    return durable.read_json(folder.filter_done)


def run_filter(spec: ToolSpec, tool: Tool, folder: ToolFolder, tell: Tell = silent) -> dict[str, Any]:
    """Choose the rows unless that is done. Returns the filter's record. Raises Conflict for other options than the ones it was
    done with, NotFound, ToolFailed, UsageError, OSError."""
    done = filter_record(folder)
    if done is not None:
        check_identity(spec, done)
        return done
    folder.path.mkdir(parents=True, exist_ok=True)
    temporary = durable.temporary_path(folder.filter)
    temporary.mkdir()
    try:
        record = _filter_into(temporary, spec, tool, folder, tell)
        durable.sync_folder(temporary)
        try:
            durable.replace(temporary, folder.filter)
        except OSError:
            # Another agent was faster: a folder that is not empty is not replaced.
            done = filter_record(folder)
            if done is None:
                raise
            return done
        return record
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _filter_into(temporary: Path, spec: ToolSpec, tool: Tool, folder: ToolFolder, tell: Tell) -> dict[str, Any]:
    def on_partition(done: int, total: int) -> None:
        tell(Progress(stage="filter", done=done, total=total, rows=reader.rows_read))

    reader = DatasetReader(folder.data, on_partition=on_partition)
    scratch = temporary / "scratch"
    scratch.mkdir()
    with FilterTable(temporary, reader) as table:
        with user_code(f"tool {spec.name}", "filter", ""):
            tool.filter(context_of(spec, folder, scratch)).run(reader, table)
        chosen = table.finish()
    shutil.rmtree(scratch)
    problems = sorted(reader.problems, key=lambda problem: (problem.server_name, problem.partition_id))
    content = [f"{each.partition} {each.fingerprint} {each.rows}" for each in chosen]
    record = {
        **identity(spec),
        "rows": table.rows,
        "partitions": len(chosen),
        "problems": [asdict(problem) for problem in problems[:PROBLEMS_MAX]],
        "problems_total": len(problems),
        "plan": durable.checksum({**identity(spec), "chosen": content})[:32],
    }
    durable.write_json(temporary / folder.filter_done.name, record)
    return record


def run_schedule(spec: ToolSpec, tool: Tool, folder: ToolFolder, plan: str) -> int:
    """Make the units of a filter's plan unless that is done. Returns how many there are. Raises ToolFailed, OSError."""
    done = unit_count(folder, plan)
    if done is not None:
        return done
    chosen = read_chosen(folder.filter / CHOSEN)
    with user_code(f"tool {spec.name}", "schedule", ""):
        scheduler = tool.scheduler(context_of(spec, folder, folder.path))
        units = [list(unit) for unit in scheduler.run(chosen) if unit] if chosen else []
    _check_units(spec.name, chosen, units)
    temporary = durable.temporary_path(folder.schedule)
    try:
        write_chosen(temporary, units, {"plan": plan, "units": len(units)})
        durable.replace(temporary, folder.schedule)
    finally:
        temporary.unlink(missing_ok=True)
    return len(units)


def _check_units(name: str, chosen: Sequence[Chosen], units: Sequence[Sequence[Chosen]]) -> None:
    given = [each for unit in units for each in unit]
    if len(set(given)) != len(given) or set(given) != set(chosen):
        twice = len(given) - len(set(given))
        raise ToolFailed(
            f"tool {name}, stage schedule",
            cause=f"of {len(chosen)} partitions the scheduler left out {len(set(chosen) - set(given))}, "
            f"put {twice} in several units and invented {len(set(given) - set(chosen))}",
            remedy="each partition belongs to exactly one unit",
        )


def unit_count(folder: ToolFolder, plan: str) -> int | None:
    """How many units the schedule of this plan has; None when it is not complete."""
    metadata = read_metadata(folder.schedule)
    return int(metadata["units"]) if metadata is not None and metadata.get("plan") == plan else None


def planned(spec: ToolSpec, folder: ToolFolder) -> tuple[str, int]:
    """The plan that units are run by, and how many there are. Raises StateDamaged when filter or schedule is not complete,
    Conflict for other options."""
    done = filter_record(folder)
    units = unit_count(folder, done["plan"]) if done is not None else None
    if done is None or units is None:
        raise StateDamaged(f"tool {spec.name}", cause="it has no complete schedule", remedy="plan it first")
    check_identity(spec, done)
    return done["plan"], units
