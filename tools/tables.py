"""The filter's table (which rows) and the schedule (who does what), as Parquet files.

The filter's table is a folder of parts. A part has the rows of many partitions, in their order, and a partition's rows are all in one
part. ``_chosen.parquet`` beside them (readers of datasets pass over such names) has a row for each partition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from ..common.errors import StateDamaged, ToolFailed
from . import durable
from .arrow import arrow, compute, parquet
from .reading import DatasetReader
from .records import ALL_ROWS, Chosen, Partition

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CHOSEN: Final = "_chosen.parquet"
PART_ROWS: Final = 1_000_000
GROUP_ROWS: Final = 65_536


class FilterTable:
    """Writes the parts into a folder. Close it, or use it as a context manager; `finish` writes the table of partitions.

    Args: folder, reader (whose partitions are added, in its order).
    """

    def __init__(self, folder: Path, reader: DatasetReader) -> None:
        self.rows = 0
        self._folder = folder
        self._reader = reader
        self._chosen: list[Chosen] = []
        self._part = 0
        self._part_rows = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def add_partition(self, partition: Partition) -> None:
        """The whole partition."""
        self._note(partition, ALL_ROWS, "")

    def add_without_rows(self, partition: Partition) -> None:
        """The partition, of which no row is chosen: for a runner that looks at the others."""
        self._note(partition, 0, "")

    def add_picked(
        self, partition: Partition, picks: Iterable[tuple[int, pa.RecordBatch, Any]], *, keep: Sequence[str]
    ) -> None:
        """Rows of one partition. Args: picks, for each batch its first row's number, itself (with uuid and what is kept), and one
        true or false a row. Raises ToolFailed when there are not as many of those as rows."""
        pa = arrow()
        pc = compute()

        pieces: list[tuple[Any, dict[str, Any]]] = []
        for first, batch, picked in picks:
            mask = picked if isinstance(picked, pa.Array) else pa.array(picked, pa.bool_())
            if len(mask) != batch.num_rows:
                cause = f"select gave {len(mask)} answers for {batch.num_rows} rows"
                raise ToolFailed(f"filter, partition {partition}", cause=cause)
            where = pc.indices_nonzero(pc.fill_null(mask, False))
            if len(where):
                taken: dict[str, Any] = {name: batch.column(name).take(where) for name in ("uuid", *keep)}
                pieces.append((pc.add(where.cast(pa.int64()), first), taken))
        for rows, columns in pieces:
            self._append(partition, rows, columns)
        if pieces:
            self._note(partition, sum(len(rows) for rows, _ in pieces), self._part_name)

    def add_rows(self, partition: Partition, rows: Any, columns: Mapping[str, Any]) -> None:
        """Rows of one partition by number (an int64 array), with uuid and what else is to be kept, as arrays."""
        self._append(partition, rows, columns)
        self._note(partition, len(rows), self._part_name)

    @property
    def _part_name(self) -> str:
        return f"part-{self._part:05d}.parquet"

    def _note(self, partition: Partition, rows: int, part: str) -> None:
        known = self._reader.known(partition)
        self._chosen.append(
            Chosen(partition=partition, rows=rows, size=known.size, fingerprint=known.fingerprint, part=part)
        )
        self.rows += max(0, rows)
        if self._part_rows >= PART_ROWS:
            self._close_part()

    def _append(self, partition: Partition, rows: Any, columns: Mapping[str, Any]) -> None:
        pa = arrow()
        arrays = [
            pa.array([partition.server] * len(rows), pa.string()),
            pa.array([partition.number] * len(rows), pa.int64()),
            rows,
            *columns.values(),
        ]
        names = ["server_name", "partition_id", "row", *columns]
        batch = pa.record_batch(arrays, names=names)
        if self._schema is None:
            self._schema = batch.schema
        self._waiting.append(batch if batch.schema.equals(self._schema) else batch.cast(self._schema))
        self._waiting_rows += batch.num_rows
        self._part_rows += batch.num_rows
        if self._waiting_rows >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        pa = arrow()

        if self._waiting and self._schema is not None:
            if self._writer is None:
                path = self._folder / self._part_name
                self._writer = cast("pq.ParquetWriter", parquet().ParquetWriter(path, self._schema, compression="zstd"))
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        self._waiting, self._waiting_rows = [], 0

    def _close_part(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            durable.sync_file(self._folder / self._part_name)
            self._part += 1
        self._part_rows = 0

    def finish(self) -> list[Chosen]:
        """Write what is left and the table of partitions. Returns the partitions."""
        self._close_part()
        write_chosen(self._folder / CHOSEN, [self._chosen], {})
        return self._chosen


def write_chosen(path: Path, units: Iterable[Sequence[Chosen]], metadata: Mapping[str, Any]) -> None:
    """Write partitions, unit by unit, and sync the file. metadata, as JSON, goes into the file's own."""
    pa = arrow()
    pq = parquet()

    rows = [
        {
            "unit": number,
            "server_name": each.partition.server,
            "partition_id": each.partition.number,
            "rows": each.rows,
            "bytes": each.size,
            "fingerprint": each.fingerprint,
            "part": each.part,
        }
        for number, unit in enumerate(units)
        for each in unit
    ]
    fields: list[tuple[str, Any]] = [
        ("unit", pa.int32()),
        ("server_name", pa.string()),
        ("partition_id", pa.int64()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("fingerprint", pa.string()),
        ("part", pa.string()),
    ]
    schema = pa.schema(fields, metadata={"shoal": json.dumps(metadata)})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
    durable.sync_file(path)


def read_chosen(path: Path, unit: int | None = None) -> list[Chosen]:
    """Partitions, of one unit or all, in the order of the file. Raises StateDamaged, OSError."""
    pa = arrow()
    pq = parquet()

    try:
        only: Any = None if unit is None else [("unit", "=", unit)]
        table = pq.read_table(path, filters=only, partitioning=None)
        return [_chosen(row) for row in table.to_pylist()]
    except (pa.ArrowException, KeyError) as error:
        raise StateDamaged(str(path), remedy="run it again with --reset-filtering") from error


def _chosen(row: Mapping[str, Any]) -> Chosen:
    return Chosen(
        partition=Partition(row["server_name"], row["partition_id"]),
        rows=row["rows"],
        size=row["bytes"],
        fingerprint=row["fingerprint"],
        part=row["part"],
    )


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What `write_chosen` put into the file's metadata; None when there is no such file, or it is not whole."""
    pa = arrow()
    pq = parquet()

    try:
        metadata: Any = pq.read_metadata(path).metadata or {}
        values: Any = json.loads(metadata[b"shoal"])
    except (FileNotFoundError, pa.ArrowException, ValueError, KeyError):
        return None
    return values


def unit_sizes(path: Path, units: int) -> list[int]:
    """Bytes of each unit of a schedule. Raises OSError."""
    pq = parquet()

    sizes = [0] * units
    table = pq.read_table(path, columns=["unit", "bytes"], partitioning=None)
    numbers: list[Any] = table.column("unit").to_pylist()
    for number, size in zip(numbers, table.column("bytes").to_pylist(), strict=True):
        sizes[number] += size or 0
    return sizes


def chosen_rows(folder: Path, chosen: Chosen) -> Iterator[int] | None:
    """The numbers of the chosen rows of a partition, ascending; None for all of them. Raises OSError."""
    pq = parquet()

    if chosen.rows == ALL_ROWS:
        return None
    if chosen.rows == 0:
        return iter(())
    only: Any = [("server_name", "=", chosen.partition.server), ("partition_id", "=", chosen.partition.number)]
    table = pq.read_table(folder / chosen.part, columns=["row"], filters=only, partitioning=None)
    numbers: list[Any] = table.column("row").to_pylist()
    return iter(sorted(numbers))
