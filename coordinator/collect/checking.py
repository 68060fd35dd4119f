"""Each row is judged here: it is used, or it is a reject with the first reason that holds against it.

The order of reasons is that of `RowChecker._reasons`; whether a uuid came before is asked last, as only a row that could be used makes
later ones duplicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ...common.collect_records import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from ...common.dataset_rows import arrow_part
from ...common.dataset_schema import arrow
from ...common.policy import Policy
from .columns import as_text, blank, plain_array
from .reading import RawBlock
from .reasons import Reason
from .rejects import FileStarts, Reject
from .servers import Servers

if TYPE_CHECKING:
    import pyarrow as pa

_JOINED_ROWS: Final = 1 << 16
_JOINED_BYTES: Final = 12 << 20
"""Blocks of small files are joined until they have so much: the work per block is then little beside that per row."""


class RowChecker:
    """Makes blocks of usable rows out of what readers give. Rows of its blocks have ordinal, host, and the columns of a batch."""

    def __init__(self, batch_schema: Any, policy: Policy, starts: FileStarts) -> None:
        pa = arrow()
        self._schema: Any = batch_schema
        self._servers = Servers(policy)
        self._starts = starts
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        nullable = [pa.field(entry.name, entry.type) for entry in batch_schema]
        self._raw_schema = pa.schema([("ordinal", pa.int64()), ("bad", pa.bool_()), *nullable])
        self.schema: pa.Schema = pa.schema([("ordinal", pa.int64()), ("host", pa.string()), *nullable])

    def take(self, raw: RawBlock, first_ordinal: int) -> Iterator[tuple[pa.RecordBatch, list[Reject]]]:
        """Rows of a file that begins at an ordinal. Gives what there is to give so far: usable rows, rejects."""
        if raw.rows:
            block = self._as_block(raw, first_ordinal)
            self._waiting.append(block)
            self._waiting_rows += block.num_rows
            self._waiting_bytes += block.nbytes
        if self._waiting_rows >= _JOINED_ROWS or self._waiting_bytes >= _JOINED_BYTES:
            yield self._judge(self._joined())

    def rest(self) -> Iterator[tuple[pa.RecordBatch, list[Reject]]]:
        """What is left after the last file."""
        if self._waiting:
            yield self._judge(self._joined())

    def rejects_of(self, rows: Any, reasons: list[str]) -> list[Reject]:
        """Rejects out of rows that have ordinal, uuid, identifier and source_id."""
        columns = [rows.column(name).to_pylist() for name in ("ordinal", *REQUIRED_COLUMNS)]
        found: list[Reject] = []
        for ordinal, uuid, identifier, source_id, reason in zip(*columns, reasons, strict=True):
            file, row = self._starts.place(ordinal)
            found.append(Reject(file, row, uuid, identifier, source_id, reason))
        return found

    def _joined(self) -> Any:
        table = arrow().Table.from_batches(self._waiting).combine_chunks()
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        return table.to_batches()[0]

    def _as_block(self, raw: RawBlock, first_ordinal: int) -> pa.RecordBatch:
        """Columns of their final types; the column bad says which rows hold text that is not UTF-8."""
        pa, pc = arrow(), arrow_part("compute")
        arrays: list[Any] = []
        bad: Any = None
        for entry in self._schema:
            column = raw.columns.get(entry.name)
            if column is None:
                arrays.append(pa.nulls(raw.rows, entry.type))
                continue
            is_text = entry.name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) or pa.types.is_string(entry.type)
            values, wrong = as_text(column) if is_text else (plain_array(column), None)
            arrays.append(values)
            if wrong is not None:
                bad = wrong if bad is None else pc.or_(bad, wrong)
        if bad is None:
            bad = pa.array([False] * raw.rows, pa.bool_())
        ordinals = pc.add(raw.numbers, first_ordinal)
        return pa.RecordBatch.from_arrays([ordinals, bad, *arrays], schema=self._raw_schema)

    def _judge(self, block: Any) -> tuple[pa.RecordBatch, list[Reject]]:
        pa, pc = arrow(), arrow_part("compute")
        urls, hosts, reasons = self._servers.of(block.column("identifier"))
        reasons = self._reasons(block, reasons)
        columns = {entry.name: block.column(entry.name) for entry in self._schema} | {"identifier": urls}
        ordinals = block.column("ordinal")
        rows = pa.RecordBatch.from_arrays([ordinals, hosts, *columns.values()], schema=self.schema)
        if reasons.null_count == len(reasons):
            return rows, []
        used = pc.is_null(reasons)
        unused = pc.invert(used)
        return rows.filter(used), self.rejects_of(block.filter(unused), reasons.filter(unused).to_pylist())

    def _reasons(self, block: Any, reasons: Any) -> Any:
        """The reason that holds first, from the last to the first."""
        pc = arrow_part("compute")
        for mask, reason in (
            (blank(block.column("identifier")), Reason.URL),
            (blank(block.column("source_id")), Reason.SOURCE_ID),
            (blank(block.column("uuid")), Reason.UUID),
            (block.column("bad"), Reason.ENCODING),
        ):
            if mask.true_count:
                reasons = pc.if_else(mask, reason.value, reasons)
        return reasons
