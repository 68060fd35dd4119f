"""Groups images that look alike, by 64-bit perceptual hashes of which at most a few bits differ.

Two hashes that differ in at most d bits are the same in at least one of d + 1 bands of their bits: there are more bands than
differences. So the hashes go to buckets on disk by one band after the other, and only those with an equal band are compared.
What is held in memory is a bucket, and the hashes that have a partner. The time grows with the square of the hashes whose
band is equal: a million images take a minute, a hundred million days. With d = 0 only equal hashes are grouped, in one pass.

numpy comes with imagehash, the library that makes the hashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from . import durable
from .arrow import arrow, compute
from .dataset import open_table
from .duplicates import Buckets, bucket_of_hex
from .rows import TableWriter, report_schema

if TYPE_CHECKING:
    import pyarrow as pa

BITS: Final = 64
DISTANCE: Final = 4
"""Bits that may differ by default. The same picture saved anew differs in 0 to 4 bits; different pictures in about 32."""

DISTANCE_MAX: Final = 10
BLOCK: Final = 512  # hashes that are compared with all others of their band at once


class Groups:
    """Which hashes belong together: a forest, with the smallest hash of a group as its root."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def root(self, hash: int) -> int:
        """The hash that stands for the group of this one."""
        path: list[int] = []
        while (parent := self._parents.get(hash, hash)) != hash:
            path.append(hash)
            hash = parent
        for each in path:
            self._parents[each] = hash
        return hash

    def join(self, one: int, other: int) -> None:
        """Put two hashes, and all that belongs to either, into one group."""
        first, second = sorted((self.root(one), self.root(other)))
        if first != second:
            self._parents[second] = first


def alike_schema() -> pa.Schema:
    """An image that another one looks like: the group's smallest hash, its own, and where it is."""
    pa = arrow()
    return pa.schema([("group", pa.string()), ("phash", pa.string()), *list(report_schema())[:4]])


def write_alike(reports: Sequence[Path], kind: str, target: Path, scratch: Path, distance: int) -> None:
    """Write the images that look alike into a Parquet file, group by group.

    Args: reports, files of reported rows, of which those of this kind have a hash (16 hexadecimal digits) as their reason;
    scratch, a folder for buckets, which the caller removes; distance, the bits that may differ.
    """
    scratch.mkdir()
    groups = _groups(reports, kind, scratch, distance) if distance else Groups()
    schema = alike_schema()
    with Buckets(scratch / "groups", schema) as found, TableWriter(target, schema) as writer:
        for rows in _hashed(reports, kind):
            roots = [f"{groups.root(int(value, 16)):016x}" for value in rows.column("reason").to_pylist()]
            named = rows.select(["reason", "server_name", "partition_id", "row", "uuid"])
            named = named.add_column(0, "group", arrow().array(roots, arrow().string())).rename_columns(schema.names)
            found.add(named, bucket_of_hex(named.column("group").combine_chunks()))
        for rows in found.read():
            for batch in _shared(rows).to_batches():
                writer.write(batch)
        writer.finish(())
        durable.replace(writer.temporary, target)


def _hashed(reports: Sequence[Path], kind: str) -> Iterator[Any]:
    pa, pc = arrow(), compute()
    for path in reports:
        with open_table(path) as file:
            for batch in file.iter_batches():
                yield pa.table(batch).filter(pc.equal(batch.column("kind"), kind))


def _shared(rows: Any) -> Any:
    """The rows whose group has more than one, sorted."""
    pc = compute()
    counts = rows.group_by("group").aggregate([("group", "count")])
    several = counts.filter(pc.greater(counts.column("group_count"), 1)).column("group")
    order = [(name, "ascending") for name in ("group", "server_name", "partition_id", "row")]
    return rows.filter(pc.is_in(rows.column("group"), value_set=several.combine_chunks())).sort_by(order)


def _groups(reports: Sequence[Path], kind: str, scratch: Path, distance: int) -> Groups:
    np, pa = numpy(), arrow()
    groups = Groups()
    for number, (start, width) in enumerate(bands(distance)):
        with Buckets(scratch / f"band-{number}", pa.schema([("hash", pa.uint64())])) as buckets:
            for rows in _hashed(reports, kind):
                values = np.array([int(value, 16) for value in rows.column("reason").to_pylist()], dtype=np.uint64)
                heads = _band(values, start, min(width, 8)).astype(np.int32)
                buckets.add(pa.table({"hash": pa.array(values)}), pa.array(heads))
            for table in buckets.read():
                _join_near(table.column("hash").to_numpy(), start, width, distance, groups)
    return groups


def bands(distance: int) -> list[tuple[int, int]]:
    """distance + 1 bands of the bits: the first bit of each, from the top, and how many it has."""
    count = distance + 1
    edges = [BITS * index // count for index in range(count + 1)]
    return [(start, end - start) for start, end in itertools.pairwise(edges)]


def _band(values: Any, start: int, width: int) -> Any:
    np = numpy()
    return (values >> np.uint64(BITS - start - width)) & np.uint64((1 << width) - 1)


def _join_near(values: Any, start: int, width: int, distance: int, groups: Groups) -> None:
    """Join the hashes of one bucket whose band is the same and of which few bits differ."""
    np = numpy()
    distinct = np.unique(values)
    band = _band(distinct, start, width)
    order = np.argsort(band, kind="stable")
    distinct, band = distinct[order], band[order]
    edges = [0, *(np.flatnonzero(band[1:] != band[:-1]) + 1).tolist(), len(distinct)]
    for first, last in itertools.pairwise(edges):
        same = distinct[first:last]
        for begin in range(0, len(same) - 1, BLOCK):
            differences = np.bitwise_count(same[begin : begin + BLOCK, None] ^ same[None, begin:])
            left, right = np.nonzero(differences <= distance)
            for one, other in zip(left[left < right].tolist(), right[left < right].tolist(), strict=True):
                groups.join(int(same[begin + one]), int(same[begin + other]))


def numpy() -> ModuleType:
    """numpy, without its types."""
    import numpy

    return numpy
