"""The end of a run: one table of all reported rows, and what became of everything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.collect_records import ToolSpec
from . import durable
from .arrow import arrow, compute
from .dataset import open_table
from .loading import user_code
from .records import PROBLEMS_MAX, Problem, ToolReport, UnitReport
from .registry import Tool
from .rows import TableWriter, report_schema
from .stages import context_of, filter_record
from .state import ToolFolder
from .units import unit_record

if TYPE_CHECKING:
    import pyarrow as pa


def read_summary(folder: ToolFolder, plan: str) -> ToolReport | None:
    """The report of a finished run of this plan. None when there is none, or it has problems, which another run may not have."""
    document = durable.read_json(folder.report)
    if document is None or document.pop("plan", None) != plan or document["problems_total"]:
        return None
    problems = tuple(Problem(**each) for each in document.pop("problems"))
    known: dict[str, Any] = {**document, "problems": problems, "also": tuple(document["also"]), "done_before": True}
    return ToolReport(**known)


def summarise(spec: ToolSpec, tool: Tool, folder: ToolFolder, plan: str, units: int) -> ToolReport:
    """Write report.parquet (where a row was reported) and report.json. Raises ToolFailed, OSError."""
    filtered = filter_record(folder) or {}
    reports = [unit_record(folder, number, plan) or UnitReport() for number in range(units)]
    problems = [Problem(**each) for each in filtered.get("problems", [])]
    problems += [problem for report in reports for problem in report.problems]
    total = filtered.get("problems_total", 0) + sum(len(report.problems) for report in reports)
    files = sorted(folder.runs.glob("unit-*.parquet")) if folder.runs.is_dir() else []
    with user_code(f"tool {spec.name}", "summary", ""):
        runner = tool.runner(context_of(spec, folder, folder.path))
        also = tuple(str(path) for path in runner.summarise(files))
    reported = _merge(files, folder.reported, runner.unlisted)
    removed = sum(report.removed for report in reports)
    summary = ToolReport(
        name=spec.name,
        units=units,
        chosen=filtered.get("rows", 0),
        rows=sum(report.rows for report in reports),
        removed=removed,
        changed=sum(report.changed for report in reports),
        reported=reported,
        bytes=sum(report.bytes for report in reports),
        report=str(folder.reported) if reported else "",
        also=also,
        filtered=str(folder.filtered) if folder.filtered.is_dir() else "",
        problems=tuple(problems[:PROBLEMS_MAX]),
        problems_total=total,
    )
    document: dict[str, Any] = json.loads(json.dumps(asdict(summary)))
    document.pop("done_before")
    durable.write_json(folder.report, {**document, "plan": plan})
    return summary


def _merge(files: Sequence[Path], target: Path, unlisted: Sequence[str]) -> int:
    """One table of all reported rows, but for kinds that are not listed. Returns how many; for none there is no table."""
    pa = arrow()
    pc = compute()

    count = 0
    with TableWriter(target, report_schema()) as writer:
        for path in files:
            with open_table(path) as file:
                for rows in file.iter_batches():
                    listed = pc.invert(pc.is_in(rows.column("kind"), value_set=pa.array(unlisted, pa.string())))
                    count += _write(writer, rows.filter(listed))
        if count:
            writer.finish(())
            durable.replace(writer.temporary, target)
    return count


def _write(writer: TableWriter, rows: pa.RecordBatch) -> int:
    writer.write(rows)
    return rows.num_rows
