"""Brings back the rows that a tool moved to filtered/: they are put at the end of the partitions that they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import Conflict, NotFound, StateDamaged
from . import durable, registry
from .arrow import arrow
from .dataset import (
    FILTERED,
    MARKS_KEY,
    Mark,
    clear_temporary,
    damaged,
    fingerprint,
    marks_of,
    metadata_of,
    open_table,
    partitions,
    settle,
    table_path,
)
from .durable import storage_errors
from .lock import dataset_lock
from .records import Partition, Problem
from .rows import TableWriter
from .state import ToolFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreReport:
    """What came back. problems: partitions whose rows are still in filtered/, and why."""

    name: str
    partitions: int
    rows: int
    problems: tuple[Problem, ...] = ()


def restore_rows(data: Path, name: str, tell: Callable[[int], None] = lambda rows: None) -> RestoreReport:
    """Bring back all rows that a tool moved, and forget its checkpoints: its next run begins anew. Stopped, run it again.

    Args: tell is called with the number of rows that are back. Raises: NotFound when nothing was moved, Busy, UsageError, NoSpace,
    NotWritable, OSError.
    """
    registry.check_name(name)
    data = data.absolute()
    with storage_errors(data), dataset_lock(data, name) as lock:
        folder = ToolFolder(data, name)
        below = f"{FILTERED}/{name}"
        if not folder.filtered.is_dir():
            known = sorted(path.name for path in (data / FILTERED).iterdir()) if (data / FILTERED).is_dir() else []
            raise NotFound(
                f"rows that {name} moved",
                cause=f"there is no folder {folder.filtered}",
                remedy=f"rows were moved by {', '.join(known)}" if known else "no tool has moved rows of this dataset",
            )
        folder.remove()
        count = rows = 0
        problems: list[Problem] = []
        for partition in list(partitions(data, below=below)):
            lock.check()
            try:
                rows += _bring_back(data, partition, name, below)
                count += 1
            except (StateDamaged, Conflict) as error:
                problems.append(
                    Problem(server_name=partition.server, partition_id=partition.number, reason=error.cause)
                )
            tell(rows)
        _remove_empty(folder.filtered)
        return RestoreReport(name=name, partitions=count, rows=rows, problems=tuple(problems))


def _bring_back(data: Path, partition: Partition, name: str, below: str) -> int:
    """Put the rows of one partition back. The new file says which rows' file it has taken in, so that it is not taken in twice."""
    pa = arrow()
    clear_temporary(data, partition, name)
    if table_path(data, partition).exists():
        settle(data, partition)
    moved, table = table_path(data, partition, below=below), table_path(data, partition)
    with open_table(moved) as back:
        count = back.metadata.num_rows
        of = fingerprint(moved)
        mark = Mark(
            id=hashlib.sha256(f"restore {of}".encode()).hexdigest()[:32], tool=f"restore {name}", of=of, rows=count
        )
        if not table.exists():
            table.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(moved, table)
            return count
        with open_table(table) as there:
            marks = marks_of(metadata_of(there))
            if all(each.id != mark.id for each in marks):
                metadata = {key: value for key, value in metadata_of(there).items() if key != MARKS_KEY}
                plain = {key: value for key, value in metadata.items() if not key.startswith(b"ARROW:")}
                schema = pa.unify_schemas(
                    [there.schema_arrow.remove_metadata(), back.schema_arrow.remove_metadata()]
                ).with_metadata(plain)
                with TableWriter(table, schema) as writer:
                    try:
                        writer.copy(there)
                        writer.copy(back)
                    except pa.ArrowException as error:
                        raise damaged(table, error) from error
                    writer.finish([*marks, mark])
                    durable.replace(writer.temporary, table)
    moved.unlink()
    durable.sync_folder(moved.parent)
    return count


def _remove_empty(folder: Path) -> None:
    """Remove folders in which nothing is left, from the inside out."""
    for path in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    if not any(folder.iterdir()):
        folder.rmdir()
