"""Finds rows with the same key among hundreds of millions, with a bounded part of them in memory.

Keys go to buckets on disk by a digest of theirs, so that equal ones meet in one bucket, and a bucket fits into memory. A row is told
by two numbers, of its partition in the dataset's order and within the partition; of equal ones the first is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from .arrow import arrow, compute

if TYPE_CHECKING:
    import pyarrow as pa

BUCKETS: Final = 256
"""200 million rows make buckets of 800,000, some 40 MB each. Each is an open file while it is written."""

WAITING_ROWS: Final = 1 << 18
"""Rows that are sorted into buckets at a time, so that a bucket is written in pieces of about a thousand rows."""


class Buckets:
    """Rows, by a number from 0 to BUCKETS - 1, in files of a folder. Write all, then read. Close it, or use it as a context manager."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema
        self._files: dict[int, tuple[Any, Any]] = {}
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        folder.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for writer, sink in self._files.values():
            with suppress(OSError):
                writer.close()
            with suppress(OSError):
                sink.close()
        self._files.clear()

    def add(self, rows: pa.Table, bucket: Any) -> None:
        """Put rows into buckets. Args: bucket, one number a row."""
        if rows.num_rows:
            self._waiting.append(rows.append_column("bucket", bucket))
            self._waiting_rows += rows.num_rows
        if self._waiting_rows >= WAITING_ROWS:
            self._flush()

    def _flush(self) -> None:
        pa = arrow()
        if self._waiting:
            rows = pa.concat_tables(self._waiting).sort_by("bucket").combine_chunks()
            counts: list[Any] = rows.column("bucket").value_counts().to_pylist()
            start = 0
            for each in sorted(counts, key=lambda count: count["values"]):
                piece = rows.slice(start, each["counts"]).drop_columns(["bucket"])
                self._writer(each["values"]).write_table(piece)
                start += each["counts"]
        self._waiting, self._waiting_rows = [], 0

    def _writer(self, bucket: int) -> Any:
        pa = arrow()
        if bucket not in self._files:
            sink = pa.OSFile(str(self._folder / f"{bucket:03d}.arrow"), "wb")
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            self._files[bucket] = (pa.ipc.new_stream(sink, self._schema, options=options), sink)
        return self._files[bucket][0]

    def read(self) -> Iterator[pa.Table]:
        """Each bucket that has rows, in order of their numbers; its file is removed afterwards."""
        pa = arrow()
        self._flush()
        for writer, sink in self._files.values():
            writer.close()
            sink.close()
        numbers = sorted(self._files)
        self._files.clear()
        for bucket in numbers:
            path = self._folder / f"{bucket:03d}.arrow"
            with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as stream:
                yield stream.read_all()
            path.unlink()


def key_schema() -> pa.Schema:
    """A key and the row that has it: numbers of the partition in the dataset's order, and of the row within it."""
    pa = arrow()
    return pa.schema([("key", pa.string()), ("partition", pa.int32()), ("row", pa.int64())])


def duplicate_schema() -> pa.Schema:
    """A row whose key an earlier row has too, and that earlier row."""
    pa = arrow()
    numbers = [(name, pa.int64() if "row" in name else pa.int32()) for name in _NUMBERS]
    return pa.schema([*numbers, ("key", pa.string())])


_NUMBERS: Final = ("partition", "row", "kept_partition", "kept_row")


def duplicates(keys: Buckets) -> Iterator[pa.Table]:
    """The rows whose key an earlier row has, with the first of them, bucket by bucket; see `duplicate_schema`."""
    pa = arrow()
    pc = compute()

    for table in keys.read():
        rows = table.sort_by([("key", "ascending"), ("partition", "ascending"), ("row", "ascending")]).combine_chunks()
        if rows.num_rows < 2:
            continue
        key = rows.column("key").combine_chunks()
        same = pc.equal(key.slice(1), key.slice(0, rows.num_rows - 1))
        repeats = pa.concat_arrays([pa.array([False]), same])
        kept: dict[str, Any] = {}
        for name in ("partition", "row"):
            numbers = rows.column(name).combine_chunks()
            blank = pa.nulls(rows.num_rows, numbers.type)
            kept[f"kept_{name}"] = pc.fill_null_forward(pc.if_else(repeats, blank, numbers))
        columns = [rows.column("partition"), rows.column("row"), kept["kept_partition"], kept["kept_row"], key]
        yield pa.table(columns, schema=duplicate_schema()).filter(repeats)


def bucket_of_hex(key: Any) -> Any:
    """Buckets of hexadecimal keys, by their first two digits; other keys go by the bytes that they begin with."""
    pa = arrow()
    pc = compute()

    heads = pc.binary_slice(key.cast(pa.binary()), 0, 2) if key.type == pa.string() else key
    known = pc.unique(heads)
    numbers = pa.array([_bucket(value) for value in known.to_pylist()], pa.int32())
    return pc.take(numbers, pc.index_in(heads, value_set=known))


def _bucket(head: bytes | None) -> int:
    try:
        return int(head or b"", 16)
    except ValueError:
        return sum(head or b"") % BUCKETS
