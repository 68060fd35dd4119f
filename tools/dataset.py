"""A collected dataset on disk: its partitions, what identifies a partition's file, and what tools noted in it.

A partition's file is never changed in place. It is written anew beside the old one and swapped in, and the new one says in its own
metadata what was done to it: its *marks*. So what is done and what is not is told by the file itself, and goes with it when the
dataset is copied. A mark names the change by an id made of the tool, its options, the chosen rows, and the fingerprint of the
file that was changed; a change whose mark is there is not made again.

Moving rows takes two renames, so a third file bridges them::

    write    .successes.parquet.TOOL.next         the partition without the rows
    rename   filtered/TOOL/…/successes.parquet    the rows, and those that were there: from here on the move counts
    rename   .….next to successes.parquet

Stopped before the second step, nothing has happened. Stopped after it, whoever comes next (`settle`) does the third step: the mark
of the move is in the rows' file, and the partition's file is still the one that the move was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from ..common.dataset_schema import SUCCESSES
from ..common.errors import NotFound, StateDamaged
from . import durable
from .arrow import arrow, parquet
from .records import Partition

if TYPE_CHECKING:
    import pyarrow.parquet as pq

IMAGES: Final = "images"
FILTERED: Final = "filtered"
WORK: Final = ".shoal/tools"
NEXT: Final = ".next"

MARKS_KEY: Final = b"shoal.tools"
MARKS_MAX: Final = 50  # a mark is about 200 bytes of the file's footer

ENCODING_KEYS: Final = (b"shoal.image_encoding", b"image_encoding")
BUFFER_BYTES: Final = 1 << 20
"""Column chunks are read through a buffer of this size: a file from elsewhere may have one row group of gigabytes."""

BATCH_BYTES: Final = 16 << 20
BATCH_ROWS_MAX: Final = 4096

_FOOTER_END: Final = 8  # the footer's length and "PAR1" (Parquet format specification)
_PARTITION = re.compile(r"partition_id=(\d{1,18})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A change that was made to a file: id, by which tool, of a file with which fingerprint, rows seen, moved, changed, reported."""

    id: str
    tool: str
    of: str
    rows: int = 0
    removed: int = 0
    changed: int = 0
    reported: int = 0


def partitions(data: Path, *, below: str = "") -> Iterator[Partition]:
    """The partitions that have a successes table, in order. Args: below, a folder that has its own ``images/``, as filtered/TOOL.

    Raises NotFound when there is no dataset. What is not named like a partition is passed by.
    """
    images = data / below / IMAGES
    if not images.is_dir():
        raise NotFound(
            str(data), cause="there is no folder images/ in it", remedy="--data names the folder of a collected dataset"
        )
    for folder in sorted(images.iterdir()):
        key, equals, server = folder.name.partition("=")
        if key != "server_name" or not equals or not server or not folder.is_dir():
            continue
        numbers = (_PARTITION.fullmatch(entry.name) for entry in folder.iterdir())
        for number in sorted(int(match[1]) for match in numbers if match):
            found = Partition(server, number)
            if (data / below / found.path / SUCCESSES).is_file():
                yield found


def table_path(data: Path, partition: Partition, *, below: str = "") -> Path:
    """The file with a partition's rows, or with the rows that a tool moved out of it (below: filtered/TOOL)."""
    return data / below / partition.path / SUCCESSES


def fingerprint(path: Path) -> str:
    """What tells one version of a Parquet file from another: a digest of its length and its footer. Raises StateDamaged, OSError.

    The footer has the place, length and statistics of every column chunk; reading it costs the same whatever the file's size.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _FOOTER_END))
        end = file.read(_FOOTER_END)
        length = int.from_bytes(end[:4], "little") + _FOOTER_END
        if len(end) < _FOOTER_END or end[4:] != b"PAR1" or length > size:
            raise StateDamaged(str(path), cause="it is not a whole Parquet file", remedy="collect this partition again")
        file.seek(size - length)
        return hashlib.sha256(size.to_bytes(8, "little") + file.read(length)).hexdigest()[:32]


def open_table(path: Path) -> pq.ParquetFile:
    """A partition's file; the caller closes it. Raises StateDamaged when it is not sound, OSError."""
    pa = arrow()
    pq = parquet()

    try:
        return pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, ValueError) as error:
        raise damaged(path, error) from error


def batch_rows(file: pq.ParquetFile) -> int:
    """How many rows of a file make about BATCH_BYTES."""
    metadata = file.metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(BATCH_ROWS_MAX, BATCH_BYTES // max(1, size // max(1, metadata.num_rows))))


def damaged(path: Path, error: Exception) -> StateDamaged:
    """What pyarrow says of a file that it cannot read, as an error."""
    return StateDamaged(str(path), cause=first_line(error), remedy="collect this partition again")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def metadata_of(file: pq.ParquetFile) -> Mapping[bytes, bytes]:
    """A file's own key-value metadata."""
    return cast("Mapping[bytes, bytes] | None", file.metadata.metadata) or {}


def marks_of(metadata: Mapping[bytes, bytes]) -> list[Mark]:
    """The changes that were made to a file, oldest first. What is not readable counts as none."""
    try:
        document: Any = json.loads(metadata.get(MARKS_KEY, b"[]"))
        return [Mark(**values) for values in document]
    except (ValueError, TypeError):
        return []


def marks_value(marks: Sequence[Mark]) -> bytes:
    """Marks as a file's metadata has them; the oldest are dropped above MARKS_MAX."""
    return json.dumps([asdict(mark) for mark in marks[-MARKS_MAX:]]).encode()


def read_marks(path: Path) -> list[Mark]:
    """The marks of a file; none when there is no such file. Raises StateDamaged, OSError."""
    if not path.exists():
        return []
    with open_table(path) as file:
        return marks_of(metadata_of(file))


def next_path(table: Path, tool: str) -> Path:
    """Where a partition without the rows that a tool moves waits for the move to count."""
    return table.with_name(f".{table.name}.{tool}{NEXT}")


def clear_temporary(data: Path, partition: Partition, tool: str) -> None:
    """Remove what a stopped run left unfinished beside a partition's files. Only when nobody else is at work on the dataset."""
    for below in ("", f"{FILTERED}/{tool}"):
        for path in table_path(data, partition, below=below).parent.glob(f".{SUCCESSES}.*{durable.TEMPORARY}"):
            path.unlink(missing_ok=True)


def settle(data: Path, partition: Partition) -> None:
    """Finish the moves of this partition that were stopped half-way. Raises StateDamaged, OSError."""
    table = table_path(data, partition)
    for waiting in sorted(table.parent.glob(f".{SUCCESSES}.*{NEXT}")):
        tool = waiting.name.removeprefix(f".{SUCCESSES}.").removesuffix(NEXT)
        try:
            mark = read_marks(waiting)[-1]
        except FileNotFoundError:
            continue  # another agent was faster
        if fingerprint(table) != mark.of:
            waiting.unlink(missing_ok=True)
        elif any(moved.id == mark.id for moved in read_marks(table_path(data, partition, below=f"{FILTERED}/{tool}"))):
            try:
                durable.replace(waiting, table)
            except FileNotFoundError:
                continue
