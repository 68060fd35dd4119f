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
_POSITIVE: Final = (1 << 63) - 1


class Duplicates:
    """Takes uuids in the order of the table, then says which rows are to be left out."""

    def __init__(self, folder: Path, *, buckets: int) -> None:
        pa = arrow()
        self._folder = folder
        self._schema = pa.schema([("uuid", pa.string()), ("ordinal", pa.int64())])
        self._spill = Spill(folder / "level-0", self._schema, buckets=buckets)
        self.count = 0

    def first_of_block(self, uuids: pa.StringArray, ordinals: pa.Int64Array) -> pa.BooleanArray | None:
        """Which rows of a block are the first with their uuid within it; None: all are. Only these may be given to `add`."""
        if len(uuids.unique()) == len(uuids):
            return None
        return arrow_part("compute").is_in(ordinals, value_set=_firsts(uuids, ordinals))

    def add(self, uuids: pa.StringArray, ordinals: pa.Int64Array) -> None:
        """Rows of the next block, each uuid once."""
        rows = arrow().RecordBatch.from_arrays([uuids, ordinals], schema=self._schema)
        self._spill.add(rows, _hashes(uuids))

    def find(self, rows: int, check: Callable[[], None]) -> pa.BooleanArray | None:
        """One bit for each ordinal below rows, set for those whose uuid came before; None: there are none.

        check is called between buckets and may raise.
        """
        pa = arrow()
        bits = bytearray((rows + 7) // 8)
        pending = self._spill.buckets[::-1]
        while pending:
            check()
            bucket = pending.pop()
            if bucket.bytes > _BUCKET_BYTES_MAX and bucket.level + 1 < LEVELS_MAX:
                pending += self._split(bucket)
            elif bucket.rows:
                self._find_in(bucket, bits)
            bucket.remove()
        if not self.count:
            return None
        return pa.Array.from_buffers(pa.bool_(), rows, [None, pa.py_buffer(bits)])

    def _split(self, bucket: Bucket) -> list[Bucket]:
        folder = self._folder / f"{bucket.path.parent.name}-{bucket.path.name}"
        spill = Spill(folder, self._schema, buckets=BUCKETS_MAX, level=bucket.level + 1)
        for block in bucket.blocks():
            spill.add(block, _hashes(block.column("uuid")))
        return spill.buckets

    def _find_in(self, bucket: Bucket, bits: bytearray) -> None:
        pc = arrow_part("compute")
        table: Any = bucket.table().combine_chunks()
        uuids, ordinals = (table.column(name).chunk(0) for name in ("uuid", "ordinal"))
        if len(uuids.unique()) == len(uuids):
            return
        later = ordinals.filter(pc.invert(pc.is_in(ordinals, value_set=_firsts(uuids, ordinals))))
        self.count += len(later)
        for ordinal in later.to_pylist():
            bits[ordinal >> 3] |= 1 << (ordinal & 7)


def _firsts(uuids: Any, ordinals: Any) -> Any:
    """The lowest ordinal of each uuid."""
    table = arrow().Table.from_arrays([uuids, ordinals], names=["uuid", "ordinal"])
    grouped = table.group_by("uuid", use_threads=False).aggregate([("ordinal", "min")])
    return grouped.column("ordinal_min").combine_chunks()


def _hashes(uuids: Any) -> Any:
    """A hash of each. Python's own differs from run to run: no table can be made to fill one bucket, and what is found is the same."""
    pa, pc = arrow(), arrow_part("compute")
    return pc.bit_wise_and(pa.array(map(hash, uuids.to_pylist()), pa.int64(), size=len(uuids)), _POSITIVE)
