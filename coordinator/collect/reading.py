"""Rows of the tables, block by block: a block is some 16 MiB, whatever the size of a file, and holds rows of one file.

A CSV has no types: all of its columns are text, also carried ones, so that no row can fail for what the first rows looked like.
Rows whose number of columns differs from the header's are set aside by the parser; the others are numbered around them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from ...common.dataset_rows import arrow_part
from ...common.dataset_schema import arrow
from ...common.errors import UsageError
from .columns import Columns, check_type, plain_type, present
from .inputs import TableFile, TableFormat, unreadable

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES: Final = 16 << 20
"""A row of a CSV must fit into a block: this leaves room for a URL of 10 MB, which becomes a reject and not an error."""
_HEADER_BYTES: Final = 1 << 18  # what is read for the header alone, unless the first rows are longer
_BUFFER_BYTES: Final = (
    1 << 20
)  # else Arrow reads a column of a whole row group at once, which may be a column of the whole file
_BLOCK_ROWS_MIN: Final = 1024
_BLOCK_ROWS_MAX: Final = 1 << 17

OnBroken = Callable[[int, str], None]
"""Told of each row that the parser cannot take apart: its number in the file, from 0 after the header, and its text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawBlock:
    """Rows as the file has them. columns are named as ours are; numbers are those of the rows in the file, from 0."""

    columns: dict[str, Any]
    numbers: pa.Int64Array

    @property
    def rows(self) -> int:
        return len(self.numbers)


class TableReader:
    """One file, opened twice: for its columns when the job is planned, then for its rows."""

    def __init__(self, file: TableFile, columns: Columns) -> None:
        """Reads the header. Raises UsageError for a file that cannot be read, and for columns that are missing or of a wrong type."""
        self.file = file
        self.rows = 0
        self._failure: Exception | None = None  # of on_broken
        self._thing = f"table {file.path}"
        with _told(file.path):
            names, types = self._parquet_header() if file.format is TableFormat.PARQUET else self._text_header()
        self._found = present(self._thing, names, columns)
        for ours, theirs in self._found:
            if (kind := types.get(theirs)) is not None:
                check_type(self._thing, ours, theirs, kind)
        text = arrow().string()
        self.carried = {name: plain_type(types[name]) if name in types else text for name in columns.carry}

    def blocks(self, on_broken: OnBroken) -> Iterator[RawBlock]:
        """All rows, in order; then `rows` is their number with the broken ones. Raises UsageError for a damaged file.

        on_broken is called at once, and may have been called for rows behind those of the block that comes next.
        """
        try:
            with _told(self.file.path):
                is_parquet = self.file.format is TableFormat.PARQUET
                yield from self._parquet_blocks() if is_parquet else self._text_blocks(on_broken)
        except UsageError:
            if self._failure:
                raise self._failure from None
            raise

    def _text_header(self) -> tuple[list[str], dict[str, Any]]:
        try:
            return self._names(_HEADER_BYTES), {}
        except arrow().ArrowInvalid as error:
            if "straddling" not in str(error):
                raise
            return self._names(BLOCK_BYTES), {}

    def _names(self, block_bytes: int) -> list[str]:
        with self._open_text(lambda row: "skip", convert=None, block_bytes=block_bytes) as reader:
            try:
                return list(reader.schema.names)
            except UnicodeDecodeError:
                remedy = "write the table as UTF-8"
                raise UsageError(self._thing, cause="its header is not UTF-8", remedy=remedy) from None

    def _text_blocks(self, on_broken: OnBroken) -> Iterator[RawBlock]:
        pa, csv = arrow(), arrow_part("csv")
        names = list(dict.fromkeys(theirs for _, theirs in self._found))
        # Binary, as a value that is not UTF-8 must cost its row and not the table.
        convert = csv.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pa.binary()),
            strings_can_be_null=True,
            null_values=[""],
        )
        gaps: list[list[int]] = []

        def set_aside(row: Any) -> str:
            number = row.number - 2  # it counts from 1, and the header as a row
            if gaps and gaps[-1][1] == number:
                gaps[-1][1] += 1
            else:
                gaps.append([number, number + 1])
            try:
                on_broken(number, row.text)
            except Exception as error:  # Arrow would print it and go on
                self._failure = error
                return "error"
            return "skip"

        with self._open_text(set_aside, convert=convert) as reader:
            for batch in reader:
                numbers, self.rows = _number(self.rows, batch.num_rows, gaps)
                columns = {ours: batch.column(theirs) for ours, theirs in self._found}
                yield RawBlock(columns=columns, numbers=numbers)
        self.rows = gaps[-1][1] if gaps else self.rows

    @contextmanager
    def _open_text(
        self, set_aside: Callable[[Any], str], *, convert: Any, block_bytes: int = BLOCK_BYTES
    ) -> Generator[Any]:
        pa, csv = arrow(), arrow_part("csv")
        # One thread, as only then the parser knows the numbers of the rows that it sets aside.
        read = csv.ReadOptions(block_size=block_bytes, use_threads=False)
        parse = csv.ParseOptions(
            delimiter="\t" if self.file.format is TableFormat.TSV else ",",
            newlines_in_values=True,
            invalid_row_handler=set_aside,
        )
        with (
            pa.input_stream(self.file.path, compression=self.file.compression or None) as stream,
            csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert) as reader,
        ):
            yield reader

    def _parquet_header(self) -> tuple[list[str], dict[str, Any]]:
        with arrow_part("parquet").ParquetFile(self.file.path) as parquet:
            schema = parquet.schema_arrow
            return list(schema.names), {entry.name: entry.type for entry in schema}

    def _parquet_blocks(self) -> Iterator[RawBlock]:
        pa = arrow()
        names = list(dict.fromkeys(theirs for _, theirs in self._found))
        with arrow_part("parquet").ParquetFile(self.file.path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as parquet:
            rows = _rows_in_a_block(parquet.metadata)
            for batch in parquet.iter_batches(batch_size=rows, columns=names, use_threads=False):
                columns = {ours: batch.column(theirs) for ours, theirs in self._found}
                start, self.rows = self.rows, self.rows + batch.num_rows
                yield RawBlock(columns=columns, numbers=pa.array(range(start, self.rows), pa.int64()))


@contextmanager
def _told(path: str) -> Generator[None]:
    """Arrow's errors as ours."""
    pa = arrow()
    try:
        yield
    except pa.ArrowInvalid as error:
        text = str(error).splitlines()[0]
        if "straddling" in text:
            raise UsageError(
                f"table {path}",
                cause=f"a row is longer than {BLOCK_BYTES >> 20} MiB, or a quote is opened and never closed",
                remedy="mend the row",
            ) from None
        if "Empty CSV" in text:
            raise UsageError(
                f"table {path}", cause="it has no header", remedy="leave it out, or make it again"
            ) from None
        raise unreadable(path, text) from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(path, (str(error).splitlines() or ["damaged"])[0]) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _number(at: int, rows: int, gaps: list[list[int]]) -> tuple[pa.Int64Array, int]:
    """Numbers of a block's rows, and the number that comes next; at is the one that came next before.

    gaps are begin and end of broken rows, in order; those before the block's last row are taken out.
    """
    parts: list[range] = []
    while rows:
        if gaps and gaps[0][0] <= at:
            at = gaps.pop(0)[1]
            continue
        count = min(rows, gaps[0][0] - at) if gaps else rows
        parts.append(range(at, at + count))
        at, rows = at + count, rows - count
    return arrow().array(chain.from_iterable(parts), arrow().int64()), at


def _rows_in_a_block(metadata: Any) -> int:
    """So many rows that they take about a block, by the sizes that the file's row groups give."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    return int(min(_BLOCK_ROWS_MAX, max(_BLOCK_ROWS_MIN, BLOCK_BYTES / max(1.0, largest))))
