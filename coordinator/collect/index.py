"""The index of a plan: one entry for each batch, by server and partition, in an Arrow file that is mapped into memory.

Entries are made bucket by bucket; each bucket's are sorted and written as a run, and the runs are merged at the end. So neither
making nor reading an index takes memory that grows with the number of batches.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...common.dataset_rows import arrow_part
from ...common.dataset_schema import arrow

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_ENTRIES: Final = 8192
"""Every block of an index but the last has so many: an entry's place is found by division."""


class Entry(NamedTuple):
    """Where a batch's rows are: in bytes offset to offset + length of a container, whose CRC-32 is crc. Those hold so many rows as held
    says; the batch's begin at skip. row_bytes is about their size in memory."""

    host: str
    partition: int
    rows: int
    row_bytes: int
    container: int
    offset: int
    length: int
    crc: int
    skip: int
    held: int


def _schema() -> Any:
    pa = arrow()
    numbers = ("partition", "rows", "row_bytes", "container", "offset", "length", "crc", "skip", "held")
    return pa.schema([("host", pa.string()), *((name, pa.int64()) for name in numbers)])


def write_run(path: Path, entries: Iterable[Entry]) -> None:
    """Entries, already sorted, as a file that `read_run` streams."""
    with arrow().OSFile(str(path), "wb") as file, arrow_part("ipc").new_stream(file, _schema()) as writer:
        for block in _blocks(iter(entries)):
            writer.write_batch(block)


def read_run(path: Path) -> Iterator[Entry]:
    """The entries of a run, a block in memory at a time."""
    with arrow().OSFile(str(path)) as file, arrow_part("ipc").open_stream(file) as stream:
        for block in stream:
            yield from _entries(block)


def write_index(path: Path, runs: Iterable[Path], check: Callable[[], None]) -> None:
    """The index that these runs make. check is called between blocks and may raise."""
    merged = heapq.merge(*(read_run(run) for run in runs))
    with arrow().OSFile(str(path), "wb") as file, arrow_part("ipc").new_file(file, _schema()) as writer:
        for block in _blocks(merged):
            check()
            writer.write_batch(block)


class Index:
    """A finished index. Threads may share it."""

    def __init__(self, path: Path, entries: int) -> None:
        """Maps the file; entries is their number. Raises OSError, pyarrow.ArrowException and ValueError when it is no such index."""
        self._file = arrow_part("ipc").open_file(arrow().memory_map(str(path)))
        self._entries = entries
        if self._file.schema != _schema() or self._file.num_record_batches != -(-entries // BLOCK_ENTRIES):
            raise ValueError("it is not the index of this plan")

    def __iter__(self) -> Iterator[Entry]:
        for i in range(self._file.num_record_batches):
            yield from _entries(self._file.get_batch(i))

    def find(self, host: str, partition: int) -> Entry | None:
        """The entry of a batch."""
        wanted = (host, partition)
        at = bisect_left(range(self._entries), wanted, key=self._key)
        if at == self._entries or self._key(at) != wanted:
            return None
        block = self._file.get_batch(at // BLOCK_ENTRIES)
        return next(_entries(block.slice(at % BLOCK_ENTRIES, 1)))

    def _key(self, at: int) -> tuple[str, int]:
        block: Any = self._file.get_batch(at // BLOCK_ENTRIES)
        row = at % BLOCK_ENTRIES
        return block.column(0)[row].as_py(), block.column(1)[row].as_py()


def _blocks(entries: Iterator[Entry]) -> Iterator[pa.RecordBatch]:
    pa = arrow()
    while block := list(islice(entries, BLOCK_ENTRIES)):
        columns = zip(*block, strict=True)
        arrays = [pa.array(values, entry.type) for values, entry in zip(columns, _schema(), strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_schema())


def _entries(block: Any) -> Iterator[Entry]:
    yield from map(Entry._make, zip(*(column.to_pylist() for column in block.columns), strict=True))
