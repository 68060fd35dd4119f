"""Runs a tool's runner over one partition and swaps in what comes out. See `dataset` for how it survives being stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from ..common.errors import Conflict, StateDamaged, ToolFailed
from . import durable
from .arrow import arrow
from .bases import Batch, Outcome, RunnerToolBase
from .dataset import (
    ENCODING_KEYS,
    FILTERED,
    MARKS_KEY,
    Mark,
    batch_rows,
    damaged,
    fingerprint,
    marks_of,
    metadata_of,
    next_path,
    open_table,
    settle,
    table_path,
)
from .loading import user_code
from .records import Chosen
from .rows import ReportWriter, TableWriter

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

DIED: Final = "the process that worked on this row died"
_TRIES = 3


class _Overtaken(Exception):
    """Somebody else changed the partition's file while it was worked on."""


def rewrite(
    data: Path,
    chosen: Chosen,
    rows: Sequence[int] | None,
    runner: RunnerToolBase,
    *,
    salt: str,
    report: Path,
    enter: Callable[[int], bool] = lambda row: True,
    leave: Callable[[], None] = lambda: None,
) -> Mark:
    """Run the runner over a partition. Returns what became of it, from the file's marks if it was done before.

    Args: rows, the chosen rows' numbers, None for all; salt, what the change depends on besides the file and the rows (the
    tool and its options); report, where reported rows go; enter, called before a row is worked on, false for a row that
    killed a process before; leave, called when no row is worked on any more.
    Raises: Conflict when the file is not the one that the filter read, StateDamaged, ToolFailed, OSError.
    """
    path = table_path(data, chosen.partition)
    what = hashlib.sha256(json.dumps([salt, chosen.fingerprint, rows]).encode()).hexdigest()[:32]
    for _ in range(_TRIES):
        settle(data, chosen.partition)
        try:
            was = os.stat(path) if path.exists() else None  # noqa: PTH116  # beside os.path.samestat
            done = _done_before(path, chosen, what)
            if done is not None:
                return done
            with ExitStack() as stack:
                job = _Rewriting(data, chosen, rows, runner, what, stack, was)
                return job.run(report, enter, leave)
        except _Overtaken:
            continue
    raise Conflict(str(path), cause="others keep changing it", remedy="run one tool at a time")


def _done_before(path: Path, chosen: Chosen, what: str) -> Mark | None:
    """The mark of the change if it was made. Raises Conflict when the file is another one than the filter read."""
    if not path.exists():
        raise StateDamaged(str(path), cause="it vanished", remedy="run it again with --reset-filtering")
    with open_table(path) as file:
        found = next((mark for mark in marks_of(metadata_of(file)) if mark.id == what), None)
    if found is None and fingerprint(path) != chosen.fingerprint:
        raise Conflict(
            str(path), cause="it changed since the filter read it", remedy="run it again with --reset-filtering"
        )
    return found


class _Rewriting:
    """One pass over one partition's file. What it opens is closed, and what it wrote in vain removed, by the stack."""

    def __init__(
        self,
        data: Path,
        chosen: Chosen,
        rows: Sequence[int] | None,
        runner: RunnerToolBase,
        what: str,
        stack: ExitStack,
        was: os.stat_result | None,
    ) -> None:
        self._chosen = chosen
        self._rows = rows
        self._runner = runner
        self._stack = stack
        self._path = table_path(data, chosen.partition)
        self._moved_path = table_path(data, chosen.partition, below=f"{FILTERED}/{runner.name}")
        self._source: pq.ParquetFile = stack.enter_context(open_table(self._path))
        self._was = was  # from before its fingerprint was taken
        self._check_unchanged()
        self._metadata = metadata_of(self._source)
        self._encoding = next((self._metadata[key].decode() for key in ENCODING_KEYS if key in self._metadata), "")
        self._mark = Mark(id=what, tool=runner.name, of=chosen.fingerprint)
        self._kept: TableWriter | None = None
        self._moved: TableWriter | None = None
        self._moves_before: list[Mark] = []

    def run(self, report: Path, enter: Callable[[int], bool], leave: Callable[[], None]) -> Mark:
        schema = self._source.schema_arrow.with_metadata(
            {key: value for key, value in self._metadata.items() if key != MARKS_KEY and not key.startswith(b"ARROW:")}
        )
        self._kept = self._stack.enter_context(TableWriter(self._path, schema))
        lines = self._stack.enter_context(ReportWriter(report, self._chosen.partition))
        for batch in self._batches(enter, lines):
            with user_code(self._runner.name, "run", str(self._chosen.partition)):
                outcome = self._runner.apply(batch)
            leave()
            self._take(batch, outcome, lines)
        self._mark = replace(self._mark, reported=lines.count)
        lines.commit()
        if self._mark.removed:
            self._move()
        elif self._mark.changed:
            self._check_unchanged()
            self._kept.finish(self._marks())
            self._check_unchanged()
            durable.replace(self._kept.temporary, self._path)
        return self._mark

    def _batches(self, enter: Callable[[int], bool], lines: ReportWriter) -> Iterator[Batch]:
        first, position, numbers = 0, 0, self._rows
        pa = arrow()
        try:
            for rows in self._source.iter_batches(batch_size=batch_rows(self._source)):
                end = first + rows.num_rows
                if numbers is None:
                    picked: Sequence[int] = range(rows.num_rows)
                else:
                    start = position
                    while position < len(numbers) and numbers[position] < end:
                        position += 1
                    picked = [number - first for number in numbers[start:position]]

                def enter_row(row: int, rows: pa.RecordBatch = rows, first: int = first) -> bool:
                    if enter(row):
                        return True
                    lines.add(row, rows, row - first, "died", DIED)
                    return False

                yield Batch(
                    partition=self._chosen.partition,
                    first_row=first,
                    rows=rows,
                    chosen=picked,
                    encoding=self._encoding,
                    enter=enter_row,
                )
                first = end
        except (pa.ArrowException, OSError) as error:
            raise damaged(self._path, error) from error

    def _take(self, batch: Batch, outcome: Outcome, lines: ReportWriter) -> None:
        """Write one batch's rows to where they go, and count them."""
        pa = arrow()
        assert self._kept is not None
        leaving = sorted(set(outcome.leave))
        bad = [
            i for i in (*leaving, *outcome.changes, *(r.index for r in outcome.reports)) if not 0 <= i < len(batch.rows)
        ]
        if bad:
            raise ToolFailed(
                f"tool {self._runner.name}", cause=f"apply named row {bad[0]} of {len(batch.rows)} in a batch"
            )
        for each in outcome.reports:
            lines.add(batch.first_row + each.index, batch.rows, each.index, each.kind, each.reason)
        rows = _changed(batch.rows, outcome, self._runner.name) if outcome.changes else batch.rows
        if leaving:
            self._open_moved(rows.schema).write(rows.take(pa.array(leaving, pa.int64())))
            gone = set(leaving)
            rows = rows.take(pa.array([i for i in range(len(rows)) if i not in gone], pa.int64()))
        self._kept.write(rows)
        self._mark = replace(
            self._mark,
            rows=self._mark.rows + len(batch.rows),
            removed=self._mark.removed + len(leaving),
            changed=self._mark.changed + len(outcome.changes),
        )

    def _open_moved(self, schema: pa.Schema) -> TableWriter:
        """The writer of the rows that leave; it begins with those that left before."""
        if self._moved is not None:
            return self._moved
        plain = self._source.schema_arrow.remove_metadata()
        self._moved_path.parent.mkdir(parents=True, exist_ok=True)
        if not self._moved_path.exists():
            self._moved = self._stack.enter_context(TableWriter(self._moved_path, plain))
            return self._moved
        with open_table(self._moved_path) as before:
            self._moves_before = marks_of(metadata_of(before))
            both = arrow().unify_schemas([before.schema_arrow.remove_metadata(), plain])
            self._moved = self._stack.enter_context(TableWriter(self._moved_path, both))
            # They are there already when a run was stopped between the two renames, and its third file is lost.
            self._moved.is_closed_to_new = any(mark.id == self._mark.id for mark in self._moves_before)
            if not self._moved.is_closed_to_new:
                self._moved.copy(before)
        return self._moved

    def _move(self) -> None:
        """The three steps of `dataset`."""
        assert self._kept is not None and self._moved is not None
        self._check_unchanged()
        self._kept.finish(self._marks())
        waiting = next_path(self._path, self._runner.name)
        durable.replace(self._kept.temporary, waiting)
        if not self._moved.is_closed_to_new:
            self._moved.finish([*self._moves_before, self._mark])
            try:
                self._check_unchanged()
            except _Overtaken:
                with suppress(FileNotFoundError):
                    waiting.unlink()
                raise
            durable.replace(self._moved.temporary, self._moved_path)
        try:
            durable.replace(waiting, self._path)
        except FileNotFoundError:
            raise _Overtaken from None  # whoever took it finished our move; the next look says so

    def _marks(self) -> list[Mark]:
        return [*marks_of(self._metadata), self._mark]

    def _check_unchanged(self) -> None:
        if self._was is None or not os.path.samestat(os.stat(self._path), self._was):  # noqa: PTH116
            raise _Overtaken


def _changed(rows: pa.RecordBatch, outcome: Outcome, tool: str) -> pa.RecordBatch:
    """The batch with the new values. Raises ToolFailed for a column that is not there, or a value that does not fit."""
    pa = arrow()
    touched = {name for values in outcome.changes.values() for name in values}
    unknown = sorted(touched - set(rows.schema.names))
    if unknown:
        raise ToolFailed(f"tool {tool}", cause=f"there is no column {unknown[0]}")
    columns: list[Any] = []
    for field in list[Any](rows.schema):
        column = cast("Any", rows.column(field.name))
        if field.name in touched:
            values: list[Any] = column.to_pylist()
            for index, new in outcome.changes.items():
                if field.name in new:
                    values[index] = new[field.name]
            try:
                column = pa.array(values, field.type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise ToolFailed(f"tool {tool}", cause=f"a value does not fit column {field.name}: {error}") from error
        columns.append(column)
    return pa.record_batch(columns, schema=rows.schema)
