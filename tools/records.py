"""What the stages of a tool hand to each other, and what a run reports. Sizes are bytes; rows are counted from 0 within a partition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALL_ROWS: Final = -1
"""As a row's number or a count of rows: the whole partition, not single rows of it."""

PROBLEMS_MAX: Final = 1000
"""Problems that a report lists one by one; the others are only counted."""

ENGINE_OPTIONS: Final = {
    "unit_size": "bytes of a unit of work (256MiB)",
    "max_pixels": "an image with more pixels is not decoded, but reported (179000000)",
}
"""Options that every tool has. They change how the work is done, not what comes out, so a run may go on with other ones."""


@dataclass(frozen=True, order=True, slots=True)
class Partition:
    """A partition of a dataset. server is the folder's name, with ``%3A`` for a colon. Sorted by server, then by number."""

    server: str
    number: int

    @property
    def path(self) -> str:
        """Its folder below the dataset."""
        return f"images/server_name={self.server}/partition_id={self.number}"

    def __str__(self) -> str:
        return f"{self.server}/{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A partition that a filter chose something of: what a schedule is made from.

    rows: how many were chosen, or ALL_ROWS; size: bytes of its file; fingerprint: of its file when the filter read it.
    part: the file of the filter's table that has its rows.
    """

    partition: Partition
    rows: int
    size: int
    fingerprint: str
    part: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A partition that could not be worked on, and why."""

    server_name: str
    partition_id: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitReport:
    """What became of a unit. rows: seen; removed: moved to filtered/; changed: written anew with other values; reported: listed.

    bytes: size of the partition files that were read.
    """

    rows: int = 0
    removed: int = 0
    bytes: int = 0
    changed: int = 0
    reported: int = 0
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolReport:
    """What became of a tool's run.

    chosen: rows that the filter named one by one; rows, removed, changed, reported, bytes: sums over the units. report: the
    Parquet file with the rows that were reported, or ""; also: further files of the tool. filtered: the folder of the rows
    that were moved, or "". problems_total counts what problems (at most PROBLEMS_MAX) lists. done_before: this call found
    the run finished and did nothing.
    """

    name: str
    units: int
    chosen: int
    rows: int
    removed: int
    changed: int
    reported: int
    bytes: int
    report: str = ""
    also: tuple[str, ...] = ()
    filtered: str = ""
    problems: tuple[Problem, ...] = ()
    problems_total: int = 0
    done_before: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is. stage: "filter", "schedule", "run" or "finish"; done and total: partitions in the filter, bytes of units
    in the run; total is 0 while it is not known."""

    stage: str
    done: int = 0
    total: int = 0
    rows: int = 0
    removed: int = 0
