"""Which rows have a uuid that an earlier row has: found exactly, in bounded memory.

Within a block duplicates are found at once. So a uuid is spilled at most once a block, and splitting a bucket by more bits of the hash
always ends in small buckets, whatever the table holds. What is found is one bit for each row of the table: 25 MB for 200 million rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...common.dataset_rows import arrow_part
from ...common.dataset_schema import arrow
from .spill import BUCKETS_MAX, LEVELS_MAX, Bucket, Spill

if TYPE_CHECKING:
    import pyarrow as pa

_BUCKET_BYTES_MAX: Final = 96 << 20  # grouping takes about three times as much
_FINISHED: Final = -1
"""The ordinal of all finished rows: below that of every row of the tables."""
_POSITIVE: Final = (1 << 63) - 1


class Duplicates:
    """Takes uuids in the order of the table, then says which rows are to be left out."""

    def __init__(self, folder: Path, *, buckets: int) -> None:
        pa = arrow()
        self._folder = folder
        self._schema = pa.schema([("uuid", pa.string()), ("ordinal", pa.int64())])
        self._spill = Spill(folder / "level-0", self._schema, buckets=buckets)
        self.count = 0
        self.finished = 0

    def known(self, uuids: pa.StringArray) -> None:
        """Uuids of rows that are finished, before all rows of the tables: rows that have them are left out too."""
        pa = arrow()
        single = uuids.unique()
        self.add(single, pa.array([_FINISHED], pa.int64()).take(pa.array([0] * len(single), pa.int32())))

    def first_of_block(self, uuids: pa.StringArray, ordinals: pa.Int64Array) -> pa.BooleanArray | None:
        """Which rows of a block are the first with their uuid within it; None: all are. Only these may be given to `add`."""
        if len(uuids.unique()) == len(uuids):
            return None
        return arrow_part("compute").is_in(ordinals, value_set=_firsts(uuids, ordinals))

    def add(self, uuids: pa.StringArray, ordinals: pa.Int64Array) -> None:
        """Rows of the next block, each uuid once."""
        rows = arrow().RecordBatch.from_arrays([uuids, ordinals], schema=self._schema)
        self._spill.add(rows, _hashes(uuids))

    def find(self, rows: int, check: Callable[[], None]) -> tuple[pa.BooleanArray | None, pa.BooleanArray | None]:
        """A bit for each ordinal below rows, twice: set for those whose uuid an earlier row has, and for those that are finished;
        None: there are none. A row that is both counts as finished.

        check is called between buckets and may raise.
        """
        bits, finished = bytearray((rows + 7) // 8), bytearray((rows + 7) // 8)
        pending = self._spill.buckets[::-1]
        while pending:
            check()
            bucket = pending.pop()
            if bucket.bytes > _BUCKET_BYTES_MAX and bucket.level + 1 < LEVELS_MAX:
                pending += self._split(bucket)
            elif bucket.rows:
                self._find_in(bucket, bits, finished)
            bucket.remove()
        return _as_bits(bits, rows) if self.count else None, _as_bits(finished, rows) if self.finished else None

    def _split(self, bucket: Bucket) -> list[Bucket]:
        folder = self._folder / f"{bucket.path.parent.name}-{bucket.path.name}"
        spill = Spill(folder, self._schema, buckets=BUCKETS_MAX, level=bucket.level + 1)
        for block in bucket.blocks():
            spill.add(block, _hashes(block.column("uuid")))
        return spill.buckets

    def _find_in(self, bucket: Bucket, bits: bytearray, finished: bytearray) -> None:
        pc = arrow_part("compute")
        table: Any = bucket.table().combine_chunks()
        uuids, ordinals = (table.column(name).chunk(0) for name in ("uuid", "ordinal"))
        if len(uuids.unique()) == len(uuids):
            return
        repeated = pc.invert(pc.is_in(ordinals, value_set=_firsts(uuids, ordinals)))
        known = uuids.filter(pc.equal(ordinals, _FINISHED))
        done = pc.is_in(uuids, value_set=known)
        later = ordinals.filter(pc.and_(repeated, pc.invert(done)))
        again = ordinals.filter(pc.and_(repeated, done))
        self.count += len(later)
        self.finished += len(again)
        for ordinals_of, field in ((later, bits), (again, finished)):
            for ordinal in ordinals_of.to_pylist():
                field[ordinal >> 3] |= 1 << (ordinal & 7)


def _as_bits(bits: bytearray, rows: int) -> Any:
    pa = arrow()
    return pa.Array.from_buffers(pa.bool_(), rows, [None, pa.py_buffer(bits)])


def _firsts(uuids: Any, ordinals: Any) -> Any:
    """The lowest ordinal of each uuid."""
    table = arrow().Table.from_arrays([uuids, ordinals], names=["uuid", "ordinal"])
    grouped = table.group_by("uuid", use_threads=False).aggregate([("ordinal", "min")])
    return grouped.column("ordinal_min").combine_chunks()


def _hashes(uuids: Any) -> Any:
    """A hash of each. Python's own differs from run to run: no table can be made to fill one bucket, and what is found is the same."""
    pa, pc = arrow(), arrow_part("compute")
    return pc.bit_wise_and(pa.array(map(hash, uuids.to_pylist()), pa.int64(), size=len(uuids)), _POSITIVE)
