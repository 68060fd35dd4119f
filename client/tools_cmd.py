"""``shoal tools``: list, run, restore."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from ..common.errors import ExitCode, Interrupted, UsageError
from ..common.units import format_size
from ..tools import loading, registry
from ..tools.records import Problem, Progress, ToolReport
from ..tools.restore import RestoreReport, restore_rows
from .output import printable, table, to_document
from .progress import PLAIN_EVERY_S
from .tools_api import dataset_folder, executor, tool_spec

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

PROBLEMS_SHOWN = 10
REDRAW_S = 0.2
FLAGS = ("threshold_size", "new_size", "perceptual", "remove")


def tools(options: argparse.Namespace, settings: Settings) -> int:
    """Run the action that was named. Returns the exit code. Raises ShoalError."""
    actions: dict[str, Callable[[argparse.Namespace, Settings], int]] = {
        "list": _list,
        "run": _run,
        "restore": _restore,
    }
    return actions[options.action](options, settings)


# ---- list ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listed:
    """A tool, as the list shows it. missing: stages that no class is registered for; options: None when it takes any."""

    name: str
    origin: str
    missing: tuple[str, ...]
    options: dict[str, str] | None
    about: str


def _list(options: argparse.Namespace, settings: Settings) -> int:
    loading.load_builtin()
    if settings.tools.load:
        loading.load_file(settings.tools.load)
    broken = loading.load_entry_points()
    found = [_listed(name) for name in registry.names()]
    if options.json:
        failed = [{"code": each.code, "thing": each.thing, "cause": each.cause} for each in broken]
        print(json.dumps({"tools": to_document(found), "broken": failed}, indent=2))
    else:
        columns: dict[str, Callable[[_Listed], str]] = {
            "tool": lambda tool: tool.name,
            "from": lambda tool: tool.origin,
            "options": lambda tool: "any" if tool.options is None else ", ".join(tool.options) or "-",
            "about": lambda tool: f"no {' and no '.join(tool.missing)}" if tool.missing else tool.about,
        }
        print(table(found, columns))
    for error in broken:
        print(f"shoal: {printable(str(error))}", file=sys.stderr)
    return ExitCode.FAILED if broken else ExitCode.OK


def _listed(name: str) -> _Listed:
    tool = registry.find_tool(name, allow_unregistered=True)
    classes = [register.classes[name] for register in registry.REGISTERS if name in register.classes]
    module = sys.modules.get(classes[0].__module__)
    own = classes[0].__module__.partition(".tools.builtin")[1]
    documented = next((cls.__doc__ for cls in classes if cls.__doc__), "")
    return _Listed(
        name=name,
        origin="built in" if own else str(getattr(module, "__file__", None) or classes[0].__module__),
        missing=tuple(registry.missing_stages(name)),
        options=tool.options,
        about=(documented or "").strip().splitlines()[0] if documented else "",
    )


# ---- run ----------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, settings: Settings) -> int:
    spec = tool_spec(
        settings,
        options.tool,
        [_pair(text) for text in options.tool_options],
        reset=options.reset,
        allow_unregistered=options.allow_unregistered,
        flags=[flag for flag in FLAGS if getattr(options, flag) is not None],
    )
    data = dataset_folder(settings)
    with stoppable("run it again: it goes on where it stopped"), Line(sys.stderr) as line:
        report = executor(settings)(spec, data, line.show)
    if options.json:
        print(json.dumps(to_document(report), indent=2))
    _tell(report, sys.stderr)
    if report.problems_total:
        return ExitCode.FAILED
    # What verification found and left where it is: whoever reads the dataset meets it.
    is_unsound = report.name == "image_verification" and report.reported > report.removed
    return ExitCode.VERIFICATION if is_unsound else ExitCode.OK


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f"--option {text}", cause="it is not KEY=VALUE", remedy="for example --option threshold_size=256"
        )
    return key.strip(), value


def _tell(report: ToolReport, out: TextIO) -> None:
    """What became of the run, for people."""
    parts = [f"{report.rows} rows in {report.units} units ({format_size(report.bytes)})"]
    parts += [f"{report.removed} moved to {report.filtered}"] if report.removed else []
    parts += [f"{report.changed} changed"] if report.changed else []
    parts += [f"{report.reported} listed in {report.report}"] if report.reported else []
    parts += [f"see {path}" for path in report.also]
    if not (report.removed or report.changed or report.reported):
        parts.append("nothing to change")
    before = "done before (--reset-filtering looks at the data again): " if report.done_before else ""
    print(printable(f"{report.name}: {before}{', '.join(parts)}"), file=out)
    _tell_problems(report.problems, report.problems_total, out)


def _tell_problems(problems: tuple[Problem, ...], total: int, out: TextIO) -> None:
    for each in problems[:PROBLEMS_SHOWN]:
        place = f"server_name={each.server_name}/partition_id={each.partition_id}"
        print(printable(f"not worked on: {place}: {each.reason}"), file=out)
    if total > PROBLEMS_SHOWN:
        print(f"and {total - PROBLEMS_SHOWN} more partitions", file=out)


# ---- restore ------------------------------------------------------------------------------------------------------------


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    data: Path = dataset_folder(settings)
    with stoppable("run it again: it goes on where it stopped"), Line(sys.stderr) as line:
        report: RestoreReport = restore_rows(
            data, options.tool, lambda rows: line.show(Progress(stage="restore", rows=rows))
        )
    if options.json:
        print(json.dumps(to_document(report), indent=2))
    print(f"{report.name}: {report.rows} rows are back in {report.partitions} partitions", file=sys.stderr)
    _tell_problems(report.problems, len(report.problems), sys.stderr)
    return ExitCode.FAILED if report.problems else ExitCode.OK


# ---- while it runs ------------------------------------------------------------------------------------------------------


class Line:
    """How far a run is: on a terminal a line that is written over, elsewhere a plain line at most every 10 s."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._is_terminal = out.isatty()
        self._next = clock() + (0.0 if self._is_terminal else PLAIN_EVERY_S)
        self._is_shown = False

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown and self._is_terminal:
            print("\r\x1b[2K", end="", file=self._out, flush=True)

    def show(self, progress: Progress) -> None:
        """The newest progress; most of them are passed by."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + (REDRAW_S if self._is_terminal else PLAIN_EVERY_S)
        text = describe(progress)
        self._is_shown = True
        print(f"\r\x1b[2K{text}" if self._is_terminal else text, end="" if self._is_terminal else "\n", file=self._out)
        self._out.flush()


def describe(progress: Progress) -> str:
    """Progress in a line."""
    share = f" {100 * progress.done // progress.total}%" if progress.total else ""
    size = f", {format_size(progress.done)} of {format_size(progress.total)}" if progress.stage == "run" else ""
    moved = f", {progress.removed} moved" if progress.removed else ""
    return f"{progress.stage}{share}{size}, {progress.rows} rows{moved}"


@contextmanager
def stoppable(remedy: str) -> Generator[None]:
    """Within the block SIGTERM stops as Ctrl+C does. Raises Interrupted for either."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Any = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("", cause="interrupted", remedy=remedy) from None
    finally:
        signal.signal(signal.SIGTERM, before)
