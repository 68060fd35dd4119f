"""Rows on disk in buckets, by the hash of a key: each bucket is small enough to be worked on in memory, or is split again.

A bucket is an Arrow IPC stream that grows by appending: no file is open between two blocks, so that the number of buckets is not
bounded by that of open files. Level n takes seven bits of the hash, other ones than the levels before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...common.dataset_rows import arrow_part, stream_head
from ...common.dataset_schema import arrow

if TYPE_CHECKING:
    import pyarrow as pa

_LEVEL_BITS: Final = 7
BUCKETS_MAX: Final = 1 << _LEVEL_BITS
LEVELS_MAX: Final = 63 // _LEVEL_BITS
_BUCKET_BYTES_AIMED: Final = 48 << 20


def buckets_for(row_bytes: int) -> int:
    """How many buckets so many bytes of rows should have: a power of two, at most `BUCKETS_MAX`."""
    wanted = max(1, row_bytes // _BUCKET_BYTES_AIMED)
    return min(BUCKETS_MAX, 1 << (wanted - 1).bit_length())


@dataclass(slots=True)
class Bucket:
    """Rows of one bucket; bytes are those that they take in memory."""

    path: Path
    level: int
    rows: int = 0
    bytes: int = 0

    def blocks(self) -> Iterator[pa.RecordBatch]:
        """The rows in the order in which they came."""
        if self.rows:
            with arrow().OSFile(str(self.path)) as file, arrow_part("ipc").open_stream(file) as stream:
                yield from stream

    def table(self) -> pa.Table:
        """All rows at once."""
        return arrow().Table.from_batches(list(self.blocks()))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Spill:
    """Writes the buckets of one level."""

    def __init__(self, folder: Path, schema: pa.Schema, *, buckets: int, level: int = 0) -> None:
        """Makes the folder. buckets is a power of two, at most `BUCKETS_MAX`."""
        ipc = arrow_part("ipc")
        folder.mkdir(parents=True)
        self._mask = buckets - 1
        self._shift = level * _LEVEL_BITS
        self._schema = schema
        self._head = stream_head(schema)
        self._options = ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        self.buckets = [Bucket(folder / f"{i:03d}", level) for i in range(buckets)]

    def add(self, rows: pa.RecordBatch, hashes: pa.Int64Array) -> None:
        """Rows of the spill's schema, with the hash of each one's key, which is not negative."""
        pa, pc = arrow(), arrow_part("compute")
        if not rows.num_rows:
            return
        if not self._mask:
            self._append([(0, rows)])
            return
        numbers = pc.bit_wise_and(pc.shift_right(hashes, self._shift), self._mask).cast(pa.uint8())
        counts = {count["values"]: count["counts"] for count in numbers.value_counts().to_pylist()}
        # The sort is stable: within a bucket rows stay in the order of the table.
        ordered = rows.take(pc.sort_indices(numbers))
        pieces: list[tuple[int, pa.RecordBatch]] = []
        at = 0
        for number in sorted(counts):
            pieces.append((number, ordered.slice(at, counts[number])))
            at += counts[number]
        self._append(pieces)

    def _append(self, pieces: list[tuple[int, Any]]) -> None:
        sink = arrow().BufferOutputStream()
        ends = [len(self._head)]
        with arrow_part("ipc").new_stream(sink, self._schema, options=self._options) as writer:
            for _, piece in pieces:
                writer.write_batch(piece)
                ends.append(sink.tell())
        data = memoryview(sink.getvalue())
        for (number, piece), start, end in zip(pieces, ends, ends[1:], strict=False):
            bucket = self.buckets[number]
            with bucket.path.open("ab", buffering=0) as file:
                if not bucket.rows:
                    _write(file, self._head)
                _write(file, data[start:end])
            bucket.rows += piece.num_rows
            bucket.bytes += piece.nbytes


def _write(file: Any, data: memoryview | bytes) -> None:
    while len(data):
        data = data[file.write(data) :]
