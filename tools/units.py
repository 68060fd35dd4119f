"""Runs one unit and records its completion. Two may run the same unit at once, or stop anywhere: what comes out is the same."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..common.collect_records import ToolSpec
from ..common.errors import Conflict, StateDamaged, UsageError
from . import durable
from .loading import user_code
from .records import Chosen, Partition, Problem, UnitReport
from .registry import Tool
from .rewriting import rewrite
from .stages import context_of, planned
from .state import ToolFolder, identity
from .tables import chosen_rows, read_chosen

Row = tuple[str, int, int]
"""A row: server, partition, number."""


class Breadcrumbs:
    """Says, in a file, which row is being worked on: when the process dies, whoever started it reads the file.

    Args: path, or None for nobody who reads it; skip, the rows that killed a process before.
    """

    def __init__(self, path: Path | None, skip: Collection[Row]) -> None:
        self._skip = frozenset(skip)
        self._fd = -1 if path is None else os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def enter(self, partition: Partition, row: int) -> bool:
        """Note a row. False when it is to be passed by."""
        if (partition.server, partition.number, row) in self._skip:
            return False
        if self._fd >= 0:
            os.pwrite(self._fd, json.dumps([partition.server, partition.number, row]).ljust(_CRUMB).encode(), 0)
        return True

    def clear(self) -> None:
        """No row is being worked on."""
        if self._fd >= 0:
            os.pwrite(self._fd, b" " * _CRUMB, 0)


_CRUMB: Final = 400  # a folder's name has at most 255 bytes


def read_breadcrumb(path: Path) -> Row | None:
    """The row that a process worked on last; None when it was at none."""
    with suppress(OSError, ValueError, TypeError):
        server, partition, row = json.loads(path.read_text(encoding="utf-8"))
        return str(server), int(partition), int(row)
    return None


def unit_record(folder: ToolFolder, number: int, plan: str) -> UnitReport | None:
    """What became of a unit that was run for this plan; None when it was not. With problems it is not complete, and is run again."""
    record = durable.read_json(folder.unit_done(number))
    return report_from(record["report"]) if record is not None and record.get("plan") == plan else None


def report_from(values: dict[str, Any]) -> UnitReport:
    """The report that `dataclasses.asdict` and JSON made these values of."""
    known: dict[str, Any] = {**values, "problems": tuple(Problem(**each) for each in values["problems"])}
    return UnitReport(**known)


def execute_unit(
    spec: ToolSpec, tool: Tool, data: Path, number: int, *, crumbs: Path | None = None, skip: Iterable[Row] = ()
) -> UnitReport:
    """Do a unit unless it is done. A partition that is damaged, or changed since the filter, becomes a problem of the report.

    Args: crumbs, a file that says which row is being worked on; skip, rows that killed a process, which are reported.
    Raises: UsageError for a number that is no unit, StateDamaged without a schedule, ToolFailed, OSError.
    """
    folder = ToolFolder(data, spec.name)
    plan, units = planned(spec, folder)
    if not 0 <= number < units:
        raise UsageError(f"unit {number} of tool {spec.name}", cause=f"it has {units} units")
    done = unit_record(folder, number, plan)
    if done is not None and not done.problems:
        return done
    folder.runs.mkdir(parents=True, exist_ok=True)
    with user_code(f"tool {spec.name}", "run", ""):
        runner = tool.runner(context_of(spec, folder, folder.path))
    problems: list[Problem] = []
    rows = removed = changed = reported = size = 0
    with Breadcrumbs(crumbs, set(skip)) as trail:
        for index, chosen in enumerate(read_chosen(folder.schedule, number)):

            def enter(row: int, partition: Partition = chosen.partition) -> bool:
                return trail.enter(partition, row)

            try:
                mark = rewrite(
                    data,
                    chosen,
                    _rows(folder, chosen),
                    runner,
                    salt=json.dumps(identity(spec), sort_keys=True),
                    report=folder.unit_rows(number, index),
                    enter=enter,
                    leave=trail.clear,
                )
            except (StateDamaged, Conflict) as error:
                where = chosen.partition
                problems.append(Problem(server_name=where.server, partition_id=where.number, reason=error.cause))
                continue
            rows, removed = rows + mark.rows, removed + mark.removed
            changed, reported = changed + mark.changed, reported + mark.reported
            size += chosen.size
    report = UnitReport(
        rows=rows, removed=removed, bytes=size, changed=changed, reported=reported, problems=tuple(problems)
    )
    durable.write_json(folder.unit_done(number), {"unit": number, "plan": plan, "report": asdict(report)})
    return report


def _rows(folder: ToolFolder, chosen: Chosen) -> list[int] | None:
    numbers = chosen_rows(folder.filter, chosen)
    return None if numbers is None else list(numbers)
