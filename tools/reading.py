"""Streams the columns that a filter looks at, partition by partition. A partition that cannot be read is named and passed by."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ..common.errors import ShoalError, StateDamaged
from .arrow import arrow
from .dataset import damaged, fingerprint, open_table, partitions, settle, table_path
from .records import Partition, Problem

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS: Final = 16_384  # without the images a row is some hundred bytes


class Known(NamedTuple):
    """A partition's file as it was when it was first read. size in bytes."""

    fingerprint: str
    size: int
    rows: int


class DatasetReader:
    """Args: data (the dataset's folder), on_partition (called with how many were begun and how many there are)."""

    def __init__(self, data: Path, *, on_partition: Callable[[int, int], None] = lambda done, total: None) -> None:
        self.data: Final = data
        self.problems: Final[list[Problem]] = []
        self.rows_read = 0
        self._on_partition = on_partition
        self._all: list[Partition] | None = None
        self._known: dict[Partition, Known] = {}
        self._damaged: set[Partition] = set()

    def partitions(self) -> Iterator[Partition]:
        """The sound partitions in order, each time anew. A move that was stopped half-way is finished first. Raises NotFound."""
        if self._all is None:
            self._all = list(partitions(self.data))
        for done, partition in enumerate(self._all):
            self._on_partition(done, len(self._all))
            if partition not in self._known and partition not in self._damaged:
                with self.skipping_damaged(partition):
                    self._known[partition] = self._look(partition)
            if partition not in self._damaged:
                yield partition
        self._on_partition(len(self._all), len(self._all))

    def _look(self, partition: Partition) -> Known:
        settle(self.data, partition)
        path = table_path(self.data, partition)
        print_ = fingerprint(path)
        with open_table(path) as file:
            return Known(print_, path.stat().st_size, file.metadata.num_rows)

    def known(self, partition: Partition) -> Known:
        """What was seen of a partition that `partitions` gave."""
        return self._known[partition]

    @contextmanager
    def skipping_damaged(self, partition: Partition) -> Generator[None]:
        """Within the block a damaged file becomes a problem of the partition, which is left out from then on."""
        try:
            yield
        except (StateDamaged, FileNotFoundError) as error:
            self._damaged.add(partition)
            cause = error.cause if isinstance(error, ShoalError) else "it vanished"
            self.problems.append(Problem(server_name=partition.server, partition_id=partition.number, reason=cause))

    def batches(
        self, partition: Partition, columns: Sequence[str], *, keep: Sequence[str] = ()
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """First row's number and rows, with the columns asked for and uuid. Raises StateDamaged, also for a missing column."""
        pa = arrow()
        path = table_path(self.data, partition)
        wanted = list(dict.fromkeys(["uuid", *columns, *keep]))
        with open_table(path) as file:
            absent = [name for name in wanted if name not in file.schema_arrow.names]
            if absent:
                raise StateDamaged(str(path), cause=f"it has no column {', '.join(absent)}")
            first = 0
            try:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
                    yield first, batch
                    first += batch.num_rows
                    self.rows_read += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, error) from error
