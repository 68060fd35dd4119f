"""A tool's folder below a dataset, and its checkpoints: what is done, for which options, and what a reset takes away.

::

    .shoal/tools/lock                        who is at work on the dataset
    .shoal/tools/NAME/filter/                the filter's table; the folder appears when it is complete
    .shoal/tools/NAME/schedule.parquet       units
    .shoal/tools/NAME/runs/unit-000000.done  a completed unit; unit-000000-0000.parquet: rows that it reported
    .shoal/tools/NAME/report.parquet         all reported rows
    .shoal/tools/NAME/report.json            the end: what became of the run
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..common.collect_records import ToolSpec
from ..common.errors import Conflict, UsageError
from . import durable
from .dataset import FILTERED, WORK
from .records import ENGINE_OPTIONS

RESETS: Final = ("filtering", "scheduling", "runners")
"""In the order of the stages: a reset does its stage again and all after it."""


class ToolFolder:
    """The paths of one tool's state below a dataset."""

    def __init__(self, data: Path, name: str) -> None:
        self.data: Final = data
        self.name: Final = name
        self.path: Final = data / WORK / name
        self.filter: Final = self.path / "filter"
        self.filter_done: Final = self.filter / "_done.json"
        self.schedule: Final = self.path / "schedule.parquet"
        self.runs: Final = self.path / "runs"
        self.report: Final = self.path / "report.json"
        self.reported: Final = self.path / "report.parquet"
        self.filtered: Final = data / FILTERED / name

    def unit_done(self, number: int) -> Path:
        """The completion record of a unit."""
        return self.runs / f"unit-{number:06d}.done"

    def unit_rows(self, number: int, index: int) -> Path:
        """The rows that a unit reported of its index-th partition."""
        return self.runs / f"unit-{number:06d}-{index:04d}.parquet"

    def reset(self, what: str) -> None:
        """Take away the checkpoints of a stage and of all after it; "" takes nothing. Raises UsageError, OSError.

        From the end backwards: stopped half-way, no later stage is left beside an earlier one that is gone. What was moved to
        filtered/ stays there.
        """
        if not what:
            return
        if what not in RESETS:
            raise UsageError(f"reset {what}", cause="there is no such stage", remedy=", ".join(RESETS))
        self.report.unlink(missing_ok=True)
        self.reported.unlink(missing_ok=True)
        _remove_folder(self.runs)
        if what != "runners":
            self.schedule.unlink(missing_ok=True)
        if what == "filtering":
            _remove_folder(self.filter)

    def remove(self) -> None:
        """Take away all of it."""
        if self.path.exists():
            self.reset("filtering")
            _remove_folder(self.path)

    def clear_temporary(self) -> None:
        """Take away what stopped runs left unfinished. Only when nobody else is at work."""
        for path in self.path.glob(f".*{durable.TEMPORARY}") if self.path.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    """Remove a folder so that it is never seen half gone."""
    if not folder.exists():
        return
    aside = durable.temporary_path(folder)
    durable.replace(folder, aside)
    shutil.rmtree(aside)


def identity(spec: ToolSpec) -> dict[str, Any]:
    """What must be the same for a run to go on: the tool, its code, its options (without those that change nothing of the result)."""
    options = {key: value for key, value in spec.options if key not in ENGINE_OPTIONS}
    return {"tool": spec.name, "load": spec.load_digest, "options": options}


def check_identity(spec: ToolSpec, recorded: Mapping[str, Any]) -> None:
    """Raises Conflict when the checkpoints are of other options or other code."""
    wanted = identity(spec)
    if all(recorded.get(key) == wanted[key] for key in wanted):
        return
    if recorded.get("load") != wanted["load"]:
        cause = "its filter was run with another version of the loaded file"
    else:
        before: dict[str, str] = recorded.get("options") or {}
        now: dict[str, str] = wanted["options"]
        differ = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        cause = "its filter was run with " + ", ".join(f"{key}={before.get(key, '')}" for key in differ)
    raise Conflict(
        f"tool {spec.name}", cause=cause, remedy="--reset-filtering begins anew; rows that were moved stay in filtered/"
    )
