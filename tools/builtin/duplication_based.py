"""``duplication_based``: of images whose originals are the same to the byte, the first stays and the others leave.

The first is the first by server_name, partition_id and row. ``--perceptual`` lists, besides, images that look alike: those of whose
64-bit perceptual hashes (pHash, by the well-known library imagehash) few bits differ. They stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Final

from ...common.errors import MissingExtra
from .. import durable
from ..arrow import arrow, compute
from ..bases import MAX_PIXELS, Batch, DefaultScheduler, FilterToolBase, Outcome, Reported, RunnerToolBase, ToolContext
from ..duplicates import BUCKETS, Buckets, bucket_of_hex, duplicate_schema, duplicates, key_schema
from ..images import BadImage, decode
from ..perceptual import DISTANCE, DISTANCE_MAX, write_alike
from ..reading import DatasetReader
from ..records import Partition
from ..registry import FilterRegister, RunnerRegister, SchedulerRegister
from ..tables import FilterTable

NAME: Final = "duplication_based"
ALIKE: Final = "perceptual.parquet"
PHASH: Final = "phash"
OPTIONS: Final = {
    "perceptual": "true: list images that look alike, too (false)",
    "perceptual_distance": f"bits of 64 that the hashes of such images may differ in, 0 to {DISTANCE_MAX} ({DISTANCE})",
}


@FilterRegister(NAME)
class DuplicatesBasedFiltering(FilterToolBase):
    """Exact duplicates, by MD5 of the original, leave: the first by server_name, partition_id and row stays."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = OPTIONS
    columns: ClassVar[Sequence[str]] = ("hashsum_original",)

    def __init__(self, context: ToolContext) -> None:
        super().__init__(context)
        self._perceptual = self.flag("perceptual")

    def run(self, reader: DatasetReader, table: FilterTable) -> None:
        """Two passes: the digests go to buckets, and what is double comes back by partition, to get its uuids."""
        order: list[Partition] = []
        with ExitStack() as stack:
            keys = stack.enter_context(Buckets(self.context.scratch / "keys", key_schema()))
            for partition in reader.partitions():
                with reader.skipping_damaged(partition):
                    pieces = list(self._keys(reader, partition, len(order)))
                    for rows in pieces:
                        keys.add(rows, bucket_of_hex(rows.column("key").combine_chunks()))
                    order.append(partition)
            found = stack.enter_context(Buckets(self.context.scratch / "found", duplicate_schema()))
            _by_partition(keys, found, len(order))
            self._write(reader, table, order, found)

    def _keys(self, reader: DatasetReader, partition: Partition, number: int) -> Iterator[Any]:
        pa = arrow()
        pc = compute()

        for first, rows in reader.batches(partition, self.columns):
            digests = pc.utf8_lower(rows.column("hashsum_original").cast(pa.string()))
            there = pc.and_kleene(pc.is_valid(digests), pc.greater(pc.fill_null(pc.utf8_length(digests), 0), 0))
            columns = [
                digests,
                pa.array([number] * len(rows), pa.int32()),
                pa.array(range(first, first + len(rows)), pa.int64()),
            ]
            yield pa.table(columns, schema=key_schema()).filter(there)

    def _write(self, reader: DatasetReader, table: FilterTable, order: list[Partition], found: Buckets) -> None:
        """Rows by partition, in the dataset's order; for the perceptual mode every other partition too."""
        pc = compute()

        waiting = iter(range(len(order)))
        for bucket in found.read():
            rows = bucket.sort_by([("partition", "ascending"), ("row", "ascending")])
            counts: list[Any] = pc.value_counts(rows.column("partition")).to_pylist()
            start = 0
            for each in sorted(counts, key=lambda count: count["values"]):
                number, count = each["values"], each["counts"]
                for other in waiting:
                    if other == number:
                        break
                    self._add_other(table, order[other])
                self._add(reader, table, order, number, rows.slice(start, count).combine_chunks())
                start += count
        for other in waiting:
            self._add_other(table, order[other])

    def _add_other(self, table: FilterTable, partition: Partition) -> None:
        if self._perceptual:
            table.add_without_rows(partition)

    def _add(self, reader: DatasetReader, table: FilterTable, order: list[Partition], number: int, rows: Any) -> None:
        pa = arrow()
        partition = order[number]
        with reader.skipping_damaged(partition):
            uuids = pa.chunked_array(
                [batch.column("uuid").cast(pa.string()) for _, batch in reader.batches(partition, ())], pa.string()
            )
            numbers = rows.column("row").combine_chunks()
            kept: list[int] = rows.column("kept_partition").to_pylist()
            columns = {
                "uuid": uuids.take(numbers).combine_chunks(),
                "hashsum_original": rows.column("key").combine_chunks(),
                "kept_server_name": pa.array([order[each].server for each in kept], pa.string()),
                "kept_partition_id": pa.array([order[each].number for each in kept], pa.int64()),
                "kept_row": rows.column("kept_row").combine_chunks(),
            }
            table.add_rows(partition, numbers, columns)


def _by_partition(keys: Buckets, found: Buckets, partitions: int) -> None:
    """Put what is double into buckets of neighbouring partitions."""
    pa = arrow()
    pc = compute()

    share = -(-max(1, partitions) // BUCKETS)
    for rows in duplicates(keys):
        found.add(rows, pc.divide(rows.column("partition"), pa.scalar(share, pa.int32())))


@SchedulerRegister(NAME)
class DuplicatesBasedScheduler(DefaultScheduler):
    """Units of about the same bytes."""


@RunnerRegister(NAME)
class DuplicationFilterRunnerTool(RunnerToolBase):
    """The duplicates are moved; with perceptual the others are hashed."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = OPTIONS
    unlisted: ClassVar[Sequence[str]] = (PHASH,)

    def __init__(self, context: ToolContext) -> None:
        super().__init__(context)
        self._perceptual = self.flag("perceptual")
        self._distance = min(DISTANCE_MAX, self.integer("perceptual_distance", DISTANCE))
        self._pixels_max = self.integer("max_pixels", MAX_PIXELS, least=1)

    def apply(self, batch: Batch) -> Outcome:
        """Move what the filter chose."""
        outcome = Outcome(leave=list(batch.chosen))
        if self._perceptual:
            outcome.reports.extend(self._hashes(batch))
        return outcome

    def _hashes(self, batch: Batch) -> Iterator[Reported]:
        hashing = _imagehash()
        for index in batch.visit(batch.others()):
            size: list[int] | None = batch.value("resized_size", index)
            if not size:
                continue
            try:
                with decode(batch.value("image", index) or b"", size, batch.encoding, self._pixels_max) as image:
                    yield Reported(index=index, reason=str(hashing.phash(image.convert("RGB"))), kind=PHASH)
            except BadImage as error:
                yield Reported(index=index, reason=str(error), kind="undecodable")

    def summarise(self, reports: Sequence[Path]) -> Sequence[Path]:
        """Group the hashes into perceptual.parquet."""
        if not self._perceptual:
            return ()
        target = self.context.scratch / ALIKE
        scratch = durable.temporary_path(target.with_suffix(""))
        try:
            write_alike(reports, PHASH, target, scratch, self._distance)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return (target,)


def _imagehash() -> Any:
    try:
        import imagehash
    except ImportError:
        raise MissingExtra(
            "duplication_based --perceptual",
            cause="imagehash is not installed",
            remedy="pip install 'shoal[perceptual]'",
        ) from None
    return imagehash
