"""Post-processing of collected datasets: filters, schedules and runners, built in and of the users' own.

A tool of your own is one Python file::

    from shoal.tools import FilterRegister, FilterToolBase, FilterRunnerTool, RunnerRegister, DefaultScheduler, SchedulerRegister

    @FilterRegister("mytool")
    class MyFilter(FilterToolBase):
        columns = ("license",)

        def select(self, partition, rows):
            return [not value for value in rows.column("license").to_pylist()]

    SchedulerRegister("mytool")(DefaultScheduler)
    RunnerRegister("mytool")(FilterRunnerTool)

``shoal tools run mytool --data DIR --load mytool.py`` runs it. See docs/tools.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bases import (
        Batch,
        DefaultScheduler,
        FilterRunnerTool,
        FilterToolBase,
        Outcome,
        PythonFilterToolBase,
        Reported,
        ReportRunnerTool,
        RowRunnerTool,
        RunnerToolBase,
        SchedulerToolBase,
        ToolContext,
        ToolsBase,
    )
    from .fleet import finish, plan, run_unit
    from .local import run_tool
    from .reading import DatasetReader
    from .records import ALL_ROWS, Chosen, Partition, Problem, Progress, ToolReport, UnitReport
    from .registry import FilterRegister, RunnerRegister, SchedulerRegister
    from .restore import RestoreReport, restore_rows
    from .tables import FilterTable

_HOMES = {
    "bases": (
        *("Batch", "DefaultScheduler", "FilterRunnerTool", "FilterToolBase", "Outcome", "PythonFilterToolBase"),
        *(
            "ReportRunnerTool",
            "Reported",
            "RowRunnerTool",
            "RunnerToolBase",
            "SchedulerToolBase",
            "ToolContext",
            "ToolsBase",
        ),
    ),
    "fleet": ("finish", "plan", "run_unit"),
    "local": ("run_tool",),
    "reading": ("DatasetReader",),
    "records": ("ALL_ROWS", "Chosen", "Partition", "Problem", "Progress", "ToolReport", "UnitReport"),
    "registry": ("FilterRegister", "RunnerRegister", "SchedulerRegister"),
    "restore": ("RestoreReport", "restore_rows"),
    "tables": ("FilterTable",),
}

__all__ = [
    "ALL_ROWS",
    "Batch",
    "Chosen",
    "DatasetReader",
    "DefaultScheduler",
    "FilterRegister",
    "FilterRunnerTool",
    "FilterTable",
    "FilterToolBase",
    "Outcome",
    "Partition",
    "Problem",
    "Progress",
    "PythonFilterToolBase",
    "ReportRunnerTool",
    "Reported",
    "RestoreReport",
    "RowRunnerTool",
    "RunnerRegister",
    "RunnerToolBase",
    "SchedulerRegister",
    "SchedulerToolBase",
    "ToolContext",
    "ToolReport",
    "ToolsBase",
    "UnitReport",
    "finish",
    "plan",
    "restore_rows",
    "run_tool",
    "run_unit",
]


def __getattr__(name: str) -> object:
    # The command line imports this package to list tools: what a call does not need must not be paid for.
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
