"""What a tool is made of: the base classes of its three stages. The names are those of the reference tool.

A stage's object is made once for each run of the stage, with a `ToolContext`. Stages never open or write files of the dataset: a
filter says which rows, a runner says what becomes of them, and the engine does it, so that it is done wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from ..common.errors import UsageError
from ..common.units import parse_size
from .records import ALL_ROWS, Chosen, Partition

if TYPE_CHECKING:
    import pyarrow as pa

    from .reading import DatasetReader
    from .tables import FilterTable

UNIT_BYTES: Final = 256 << 20
"""A unit takes a core some seconds to a minute: short enough to lose to a crash, long enough to hide what it costs to begin one."""

MAX_PIXELS: Final = 179_000_000  # as collect.max_pixels


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """What a stage may know: the tool's name, the dataset's folder, the options, a folder for files of its own while it runs."""

    name: str
    data: Path
    options: Mapping[str, str]
    scratch: Path


class ToolsBase:
    """Base of the base classes. The first line of a class's docstring is shown by ``shoal tools list``."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = None
    """Options that the stage knows, and what they mean; others are then refused. None: any option is passed on."""

    filter_name: ClassVar[str] = ""
    """The tool that the class belongs to where it is not registered; see --allow-unregistered."""

    def __init__(self, context: ToolContext) -> None:
        self.context = context
        self.name = context.name
        self.data = context.data
        self.options = context.options

    def integer(self, key: str, default: int, *, least: int = 0) -> int:
        """An option as a whole number. Raises UsageError."""
        text = self.options.get(key, "")
        try:
            value = int(text) if text else default
        except ValueError:
            value = least - 1
        if value < least:
            raise UsageError(f"option {key}={text}", cause=f"it is not a whole number of at least {least}")
        return value

    def size(self, key: str, default: int) -> int:
        """An option as bytes; units are understood (256MiB). Raises UsageError."""
        text = self.options.get(key, "")
        return parse_size(text) if text else default

    def flag(self, key: str) -> bool:
        """An option as yes or no. Raises UsageError."""
        text = self.options.get(key, "").lower()
        if text in ("", "0", "false", "no", "off"):
            return False
        if text in ("1", "true", "yes", "on"):
            return True
        raise UsageError(f"option {key}={text}", cause="it is neither true nor false")


# ---- filter -------------------------------------------------------------------------------------------------------------


class FilterToolBase(ToolsBase):
    """Which rows the tool is about. Override `select`, or `run` for a filter that must see more than one row at a time."""

    columns: ClassVar[Sequence[str]] = ()
    """Columns that `select` looks at. Only these (and uuid) are read; images are large."""

    keep: ClassVar[Sequence[str]] = ()
    """Of these, the ones that are written into the filter's table."""

    def select(self, partition: Partition, rows: pa.RecordBatch) -> Any:
        """Which rows of a batch: a Boolean array, or a sequence of true and false, one a row. Null is false."""
        raise NotImplementedError(f"{type(self).__name__} has neither select nor run")

    def run(self, reader: DatasetReader, table: FilterTable) -> None:
        """Read the dataset and put the rows into the table, partition by partition."""
        for partition in reader.partitions():
            with reader.skipping_damaged(partition):
                picks = (
                    (first, batch, self.select(partition, batch))
                    for first, batch in reader.batches(partition, self.columns, keep=self.keep)
                )
                table.add_picked(partition, picks, keep=self.keep)


class PythonFilterToolBase(FilterToolBase):
    """Every partition as a whole."""

    def run(self, reader: DatasetReader, table: FilterTable) -> None:
        """Put every sound partition into the table."""
        for partition in reader.partitions():
            table.add_partition(partition)


# ---- scheduler ----------------------------------------------------------------------------------------------------------


class SchedulerToolBase(ToolsBase):
    """Who does what: override `run`. A partition is written anew as a whole, so it belongs to one unit."""

    def run(self, chosen: Sequence[Chosen]) -> Iterable[Sequence[Chosen]]:
        """Units: each partition in exactly one of them. The first units are begun first."""
        raise NotImplementedError(f"{type(self).__name__} has no run")


class DefaultScheduler(SchedulerToolBase):
    """Units of about the same bytes, the largest first."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = {}

    def run(self, chosen: Sequence[Chosen]) -> Iterable[Sequence[Chosen]]:
        """Neighbouring partitions together, in units of at most `unit_size` bytes or one partition."""
        return balanced(chosen, self.size("unit_size", UNIT_BYTES))


def balanced(chosen: Sequence[Chosen], unit_bytes_max: int) -> list[list[Chosen]]:
    """Partitions in units that are about equal: none above unit_bytes_max, but for a partition that is so alone. Largest first."""
    total = sum(each.size for each in chosen)
    count = max(1, -(-total // max(1, unit_bytes_max)))
    target = total / count
    units: list[list[Chosen]] = []
    room = 0.0
    for each in chosen:
        if not units or each.size > room:
            units.append([])
            room = target
        units[-1].append(each)
        room -= each.size
    return sorted(units, key=lambda unit: -sum(each.size for each in unit))


# ---- runner -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """A row for the report. index: within the batch; reason: for people; kind: a word to sort by."""

    index: int
    reason: str
    kind: str = ""


@dataclass(kw_only=True)
class Batch:
    """Rows of a partition, in order.

    rows: all columns; first_row: the number of the first one in the partition; chosen: indexes, within this batch, of
    the rows that the filter chose.
    """

    partition: Partition
    first_row: int
    rows: pa.RecordBatch
    chosen: Sequence[int]
    encoding: str = ""  # how the images are stored, where the file says so
    enter: Callable[[int], bool] = field(default=lambda row: True)

    def visit(self, indexes: Iterable[int] | None = None) -> Iterator[int]:
        """The chosen indexes, or these, one by one, noting which one is being worked on.

        A row on which a process died before is passed by (and reported by the engine). Use it around what hostile bytes can break.
        """
        for index in self.chosen if indexes is None else indexes:
            if self.enter(self.first_row + index):
                yield index

    def others(self) -> list[int]:
        """The indexes that the filter did not choose."""
        taken = set(self.chosen)
        return [index for index in range(self.rows.num_rows) if index not in taken]

    def values(self, index: int) -> dict[str, Any]:
        """One row, as Python values by column."""
        return {name: self.value(name, index) for name in self.rows.schema.names}

    def value(self, column: str, index: int) -> Any:
        """One value, as a Python value. Raises KeyError when there is no such column."""
        return cast("Any", self.rows.column(column))[index].as_py()


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What becomes of a batch.

    changes: by index, new values of columns; leave: indexes of the rows that are moved to filtered/TOOL; reports: rows for the
    report. Rows that are not named stay as they are.
    """

    changes: dict[int, Mapping[str, Any]] = field(default_factory=dict[int, "Mapping[str, Any]"])
    leave: list[int] = field(default_factory=list[int])
    reports: list[Reported] = field(default_factory=list[Reported])


class RunnerToolBase(ToolsBase):
    """What becomes of the rows: override `apply`. It runs in a process of its own, and may run again for the same rows."""

    unlisted: ClassVar[Sequence[str]] = ()
    """Kinds of reported rows that are for `summarise` alone, and are neither listed nor counted."""

    def apply(self, batch: Batch) -> Outcome:
        """Look at a batch of a partition that the filter named, and say what becomes of its rows."""
        raise NotImplementedError(f"{type(self).__name__} has no apply")

    def summarise(self, reports: Sequence[Path]) -> Sequence[Path]:
        """Called once, when all units are done, with the files of reported rows. Returns files that it wrote into its scratch
        folder, which the run's report names."""
        return ()


class FilterRunnerTool(RunnerToolBase):
    """The chosen rows leave for filtered/TOOL."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = {}

    def apply(self, batch: Batch) -> Outcome:
        """Every chosen row leaves."""
        return Outcome(leave=list(batch.chosen))


class ReportRunnerTool(RunnerToolBase):
    """The chosen rows are listed, and nothing is changed."""

    def apply(self, batch: Batch) -> Outcome:
        """Every chosen row is reported."""
        return Outcome(reports=[Reported(index=index, reason="chosen", kind="chosen") for index in batch.chosen])


class RowRunnerTool(RunnerToolBase):
    """A runner that looks at one row at a time: override `row`. What it raises for a row is reported, and the row stays as it is."""

    def row(self, row: dict[str, Any]) -> Mapping[str, Any] | bool | None:
        """Returns new values of columns, or False when the row should leave, or None (or True) when it should stay as it is."""
        raise NotImplementedError(f"{type(self).__name__} has no row")

    def apply(self, batch: Batch) -> Outcome:
        """Ask `row` for every chosen row."""
        outcome = Outcome()
        for index in batch.visit():
            try:
                answer = self.row(batch.values(index))
            except (NotImplementedError, KeyboardInterrupt):
                raise
            except Exception as error:
                outcome.reports.append(
                    Reported(index=index, reason=f"{type(error).__name__}: {error}"[:500], kind="failed")
                )
                continue
            if answer is False:
                outcome.leave.append(index)
            elif answer is not None and answer is not True:
                outcome.changes[index] = answer
        return outcome


__all__ = [
    "ALL_ROWS",
    "Batch",
    "DefaultScheduler",
    "FilterRunnerTool",
    "FilterToolBase",
    "Outcome",
    "PythonFilterToolBase",
    "ReportRunnerTool",
    "Reported",
    "RowRunnerTool",
    "RunnerToolBase",
    "SchedulerToolBase",
    "ToolContext",
    "ToolsBase",
    "balanced",
]
