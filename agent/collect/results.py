"""The finished files of a batch, made of its segments. Blocks: for threads.

Memory holds one row group at a time. The files are written below staging and get their names last: first what stands beside the Parquet
files, then ``errors.parquet``, then ``successes.parquet``, which says that the batch is complete.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from ...common.collect_records import SUCCESS, CollectSpec, Content, DatasetFormat, ImageEncoding
from ...common.dataset_schema import ERRORS, SUCCESSES, arrow, batch_schema, errors_schema, successes_schema
from ...common.errors import ShoalError
from .beside import Beside, beside_for
from .columns import Frame, Schema, Table, compute, parquet, values
from .footer import Footer
from .place import TEMPORARY, Place, disk_errors
from .segments import Segment, settled_frames

_PAGE_BYTES: Final = 1 << 20
_ERRORS_GROUP_ROWS: Final = 100_000
_DICTIONARY: Final = ("source_id", "is_license_full", "license", "source", "content_type", "http_status", "robots_tag", "error_code",
                      "error_msg", "retry_count")  # fmt: skip
_NO_STATISTICS: Final = ("image",)  # the least and the greatest of pictures: long, and of use to nobody


@dataclass(frozen=True, slots=True)
class Old:
    """A complete batch whose failed rows were fetched again: what it had, and those rows: uuid to code."""

    footer: Footer
    again: dict[str, int]


class Assembly:
    """Writes the result of one batch from its segments, and publishes it."""

    def __init__(
        self,
        place: Place,
        batch: str,
        *,
        rows: Table,
        spec: CollectSpec,
        folder: str,
        name: str,
        sync: bool,
        old: Old | None = None,
    ) -> None:
        """batch: its final folder; folder: its staging folder; name: what its temporary files begin with, not used by any other run."""
        self._place = place
        self._batch = batch
        self._rows = rows
        self._spec = spec
        self._folder = folder
        self._name = name
        self._sync = sync
        self._old = old
        known = set(batch_schema().names)
        self._carry = arrow().schema([field for field in rows.schema if field.name not in known])

    def write(self, segments: Sequence[Segment], footer: Footer) -> Written:
        """Write everything below staging. Raises ShoalError (NoSpace, ...); nothing is left of it then."""
        first_shard = self._place.shards(self._batch) if self._old is not None else 0
        written = Written(self._place, self._batch, footer, first_shard=first_shard)
        root = self._place.staging
        try:
            with disk_errors(f"{self._place.label}/{self._batch}"), ExitStack() as stack:
                beside = beside_for(self._spec, root, f"{self._folder}/{self._name}", written, sync=self._sync)
                stack.callback(beside.close)
                has_bytes = self._spec.format is DatasetFormat.PARQUET
                successes, errors = self._open(stack, written, footer)
                if self._old is not None:
                    self._copy_old(successes, errors)
                for frame in settled_frames(root, segments):
                    self._take(frame, successes, errors, beside, has_bytes)
                beside.finish()
                for table in (errors, successes):
                    table.finish()
        except BaseException:
            written.discard()
            raise
        return written

    def _open(self, stack: ExitStack, written: Written, footer: Footer) -> tuple[_TableWriter, _TableWriter]:
        root = self._place.staging
        writers: list[_TableWriter] = []
        for final, schema in ((SUCCESSES, successes_schema(self._carry)), (ERRORS, errors_schema())):
            staged = f"{self._folder}/{self._name}.{final}{TEMPORARY}"
            written.files.append((staged, f"{self._batch}/{final}"))
            fd = root.open_beneath(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            file = stack.enter_context(os.fdopen(fd, "wb", buffering=0))
            writer = _TableWriter(file, footer.into(schema), self._spec, sync=self._sync)
            stack.callback(writer.close)
            writers.append(writer)
        return writers[0], writers[1]

    def _take(
        self, frame: Frame, successes: _TableWriter, errors: _TableWriter, beside: Beside, has_bytes: bool
    ) -> None:
        """The rows of one frame, each into its table."""
        pa = arrow()
        pc = compute()

        good = pc.equal(frame.column("code"), SUCCESS)
        count = pc.sum(good).as_py() or 0
        if count < len(frame):
            bad = frame.filter(pc.invert(good)) if count else frame
            rows = self._rows.take(bad.column("row"))
            columns = [rows["uuid"], rows["identifier"], bad["retries"], bad["code"], bad["message"]]
            errors.add(pa.table(columns, schema=errors_schema()))
        if not count:
            return
        if count < len(frame):
            frame = frame.filter(good)
        rows = self._rows.take(frame.column("row"))
        beside.add(rows, frame)
        schema = successes_schema(self._carry)
        found = {name: rows[name] for name in rows.column_names}
        found["is_license_full"] = _all_there([rows["license"], rows["source"], rows["title"]])
        found.update({name: frame[name] for name in frame.schema.names if name in schema.names})
        if not has_bytes:
            found["image"] = pa.nulls(len(frame), pa.binary())
        successes.add(pa.table([found[name] for name in schema.names], schema=schema))

    def _copy_old(self, successes: _TableWriter, errors: _TableWriter) -> None:
        """What a complete batch had, without the errors that were fetched again."""
        pc = compute()
        pq = parquet()

        assert self._old is not None
        pa = arrow()
        again = pa.array(sorted(self._old.again), pa.string())
        with self._place.open_result(f"{self._batch}/{SUCCESSES}") as file:
            reader = pq.ParquetFile(file)
            for group in range(reader.num_row_groups):
                successes.add(_conformed(reader.read_row_group(group), successes_schema(self._carry)))
        with self._place.open_result(f"{self._batch}/{ERRORS}") as file:
            reader = pq.ParquetFile(file)
            for group in range(reader.num_row_groups):
                table = _conformed(reader.read_row_group(group), errors_schema())
                errors.add(table.filter(pc.invert(pc.is_in(table["uuid"], value_set=again))))


class Written:
    """Files below staging that wait for their final names."""

    def __init__(self, place: Place, batch: str, footer: Footer, *, first_shard: int) -> None:
        self._first_shard = first_shard
        self.files: list[tuple[str, str]] = []  # (staged, final), successes first, in the end published last
        self.beside: list[tuple[str, str]] = []
        self.footer = footer
        self._place = place
        self._batch = batch

    @property
    def first_shard(self) -> int:
        """The number of the first shard that is not there yet."""
        return self._first_shard

    def add_beside(self, staged: str, name: str) -> None:
        """A file that stands beside the Parquet files, under this name in the batch's folder."""
        self.beside.append((staged, f"{self._batch}/{name}"))

    def publish(self, check: Callable[[], None]) -> None:
        """Give the files their names; check is asked before each, and raises when it is no longer ours to do so."""
        for staged, final in [*self.beside, *reversed(self.files)]:
            check()
            self._place.publish(staged, final, self.footer)

    def discard(self) -> None:
        """Remove what was written."""
        for staged, _ in [*self.files, *self.beside]:
            with suppress(OSError, ShoalError):
                self._place.staging.unlink_beneath(staged)


class _TableWriter:
    """A Parquet file whose row groups hold a bounded number of bytes."""

    def __init__(self, file: BinaryIO, schema: Schema, spec: CollectSpec, *, sync: bool) -> None:
        pq = parquet()

        self._file = file
        self._schema = schema
        self._group_bytes = spec.row_group_bytes
        self._sync = sync
        self._tables: list[Table] = []
        self._bytes = self._rows = 0
        leaves = {name: f"{name}.list.element" if name.endswith("_size") else name for name in schema.names}
        plain = [leaves[name] for name in schema.names if name not in _NO_STATISTICS]
        options: dict[str, Any] = {
            "compression": {leaf: _codec(leaf, spec) for leaf in leaves.values()},
            "use_dictionary": [name for name in schema.names if name in _DICTIONARY],
            "write_statistics": plain,
            "write_page_index": True,
            "data_page_size": _PAGE_BYTES,
        }
        self._writer: Any = pq.ParquetWriter(file, schema, **options)

    def add(self, table: Table) -> None:
        """Rows that come next."""
        if not len(table):
            return
        self._tables.append(table)
        self._bytes += table.nbytes
        self._rows += len(table)
        if self._bytes >= self._group_bytes or self._rows >= _ERRORS_GROUP_ROWS:
            self._write_group()

    def finish(self) -> None:
        """Write what is left, and the footer, to the disk."""
        self._write_group()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        self._file.flush()
        if self._sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """After an error: let go of the writer."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError, ValueError):
                writer.close()

    def _write_group(self) -> None:
        tables, self._tables = self._tables, []
        self._bytes = self._rows = 0
        if not tables or self._writer is None:
            return
        pa = arrow()
        whole = pa.concat_tables([table.replace_schema_metadata(self._schema.metadata) for table in tables])
        self._writer.write_table(whole, row_group_size=max(1, len(whole)))


def _codec(column: str, spec: CollectSpec) -> str:
    """zstd, but for images that are compressed already: it finds nothing in them, and costs as much as fetching them."""
    packed = spec.content is Content.IMAGE and spec.image_encoding is not ImageEncoding.RAW_BGR
    return "none" if column == "image" and packed else "zstd"


def published(
    place: Place, footer: Footer, batch: str, folder: str, written: Written, check: Callable[[], None]
) -> Footer:
    """Publish what was written, unless another agent was faster. Returns the footer of what is there now. Raises ShoalError."""
    name = folder.rpartition("/")[2]
    try:
        with place.locked(name):
            there = place.find(batch)
            if there is not None and there.pair != footer.pair and there.job == footer.job and there.job:
                return there
            written.publish(check)
    finally:
        written.discard()  # what has its final name is not there any more
    return footer


def errors_again(place: Place, batch: str, codes: Sequence[int]) -> Iterator[tuple[str, int]]:
    """uuid and code of the rows of a complete batch that are to be fetched again. codes: only these; empty: all."""
    pq = parquet()

    with place.open_result(f"{batch}/{ERRORS}") as file:
        table = pq.ParquetFile(file).read(columns=["uuid", "error_code"])
    for uuid, code in zip(values(table["uuid"]), values(table["error_code"]), strict=True):
        if not codes or code in codes:
            yield str(uuid), int(code)


def merged_tally(old: Footer, again: Sequence[int], counts: Counter[int]) -> Counter[int]:
    """Rows by code after a merge. again: the old codes of the rows that were fetched again."""
    merged = Counter(dict(old.tally))
    merged.subtract(again)
    merged.update(counts)
    return merged


def _all_there(columns: Sequence[Any]) -> Any:
    """Whether each of the columns holds a text that is not empty."""
    pc = compute()

    full = [pc.fill_null(pc.greater(pc.binary_length(column), 0), False) for column in columns]
    return pc.and_(pc.and_(full[0], full[1]), full[2])


def _conformed(table: Table, schema: Schema) -> Table:
    """The table with the schema's columns: those that it lacks are empty."""
    pa = arrow()
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
