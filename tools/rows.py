"""Writers of Parquet files that are swapped in when they are whole: partitions with their marks, and reported rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from . import durable
from .arrow import arrow, parquet
from .dataset import BUFFER_BYTES, MARKS_KEY, Mark, batch_rows, marks_value
from .records import Partition

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP_BYTES: Final = 32 << 20  # as collect.row_group_size


class TableWriter:
    """Writes a table beside its final place, in row groups of bounded bytes. The file is made with the first row, or by `finish`.

    Leaving the context closes the file and removes it if it is still under its temporary name.
    """

    def __init__(self, target: Path, schema: pa.Schema) -> None:
        self.temporary: Final = durable.temporary_path(target)
        self.is_closed_to_new = False  # rows that come are dropped: they are in the target already
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._close()
        finally:
            with suppress(FileNotFoundError):
                self.temporary.unlink()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _open(self) -> pq.ParquetWriter:

        writer: pq.ParquetWriter = self._writer or parquet().ParquetWriter(
            self.temporary, self._schema, compression="zstd", write_page_index=True
        )
        self._writer = writer
        return writer

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows. Raises pyarrow's errors when they do not fit the schema, OSError."""
        if self.is_closed_to_new or not rows.num_rows:
            return
        plain = rows.schema.remove_metadata()
        if not plain.equals(self._schema.remove_metadata()):
            rows = _fitted(rows, self._schema)
        self._waiting.append(rows)
        self._waiting_bytes += rows.nbytes
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def copy(self, file: pq.ParquetFile) -> None:
        """Append all rows of a file."""
        for rows in file.iter_batches(batch_size=batch_rows(file)):
            self.write(rows)

    def _flush(self) -> None:
        pa = arrow()
        if self._waiting:
            schema = self._schema.remove_metadata()
            plain = [pa.record_batch(rows.columns, schema=schema) for rows in self._waiting]
            table = pa.Table.from_batches(plain).replace_schema_metadata(self._schema.metadata)
            self._open().write_table(table, row_group_size=max(1, table.num_rows))
        self._waiting, self._waiting_bytes = [], 0

    def finish(self, marks: Sequence[Mark]) -> None:
        """Complete the file under its temporary name, with its marks, and sync it."""
        self._flush()
        self._open().add_key_value_metadata({MARKS_KEY.decode(): marks_value(marks).decode()})
        self._close()
        durable.sync_file(self.temporary)


def _fitted(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows with the columns of a wider schema; what they lack is null."""
    pa = arrow()
    there: Any = rows
    columns: list[Any] = [
        there.column(field.name).cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(len(rows), field.type)
        for field in list[Any](schema)
    ]
    return pa.record_batch(columns, schema=schema.remove_metadata())


def report_schema() -> pa.Schema:
    """Rows that a tool reported. kind is a word to sort by, reason is for people; row is the row's number when it was looked at."""
    pa = arrow()
    return pa.schema(
        [
            ("server_name", pa.string()),
            ("partition_id", pa.int64()),
            ("row", pa.int64()),
            ("uuid", pa.string()),
            ("kind", pa.string()),
            ("reason", pa.string()),
        ]
    )


class ReportWriter:
    """Collects a partition's reported rows and writes them when they are all there. A bounded number is held in memory."""

    def __init__(self, target: Path, partition: Partition) -> None:
        self.count = 0
        self._target = target
        self._partition = partition
        self._rows: list[dict[str, Any]] = []
        self._writer = TableWriter(target, report_schema())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, at)

    def add(self, number: int, rows: pa.RecordBatch, index: int, kind: str, reason: str) -> None:
        """A row of a batch. Args: number, the row's in the partition; index, in the batch."""
        uuid = cast("Any", rows.column("uuid")[index]).as_py() if "uuid" in rows.schema.names else None
        self._rows.append(
            {
                "server_name": self._partition.server,
                "partition_id": self._partition.number,
                "row": number,
                "uuid": None if uuid is None else str(uuid),
                "kind": kind,
                "reason": reason.encode(errors="replace").decode(),
            }
        )
        self.count += 1
        if len(self._rows) >= BUFFER_BYTES >> 8:  # a row is about 256 bytes
            self._flush()

    def _flush(self) -> None:
        pa = arrow()
        if self._rows:
            self._writer.write(pa.RecordBatch.from_pylist(self._rows, schema=report_schema()))
        self._rows = []

    def commit(self) -> None:
        """Put the file in its place if there is anything to report."""
        if not self.count:
            self._target.unlink(missing_ok=True)
        else:
            self._flush()
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._writer.finish(())
            durable.replace(self._writer.temporary, self._target)
