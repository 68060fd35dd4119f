"""``rejects.parquet``: the rows that are not used, written as they are met.

Its order is that of the tables, but for duplicates that lie far from each other: those are found at the end and come last.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...common.dataset_rows import arrow_part
from ...common.dataset_schema import arrow, rejects_schema

TEXT_CHARACTERS_MAX: Final = 8192
"""What is kept of a value: a column of hostile values would else make rejects.parquet larger than what it came from."""
_ROWS_MAX: Final = 1 << 16
_CHARACTERS_MAX: Final = 16 << 20


class Reject(NamedTuple):
    """One row, as `rejects_schema` has it. file is a path, row counts from 0 after the header."""

    file: str
    row: int
    uuid: str | None
    identifier: str | None
    source_id: str | None
    reason: str


class FileStarts:
    """Where files begin in the one count of rows, *ordinals*, that goes through all of them."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._starts: list[int] = []

    def begin(self, path: str, ordinal: int) -> None:
        """A file's first row has this ordinal."""
        self._paths.append(path)
        self._starts.append(ordinal)

    def place(self, ordinal: int) -> tuple[str, int]:
        """File and row of an ordinal."""
        at = bisect_right(self._starts, ordinal) - 1
        return self._paths[at], ordinal - self._starts[at]


class Rejects:
    """Writes the file; counts holds the number of rows by reason, without what follows its colon."""

    def __init__(self, path: Path) -> None:
        self._writer: Any = arrow_part("parquet").ParquetWriter(str(path), rejects_schema(), compression="zstd")
        self._rows: list[Reject] = []
        self._characters = 0
        self.counts: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self.counts.total()

    def add(self, rejects: Iterable[Reject]) -> None:
        """Texts are cut to `TEXT_CHARACTERS_MAX`."""
        for reject in rejects:
            kept = reject._replace(
                uuid=_cut(reject.uuid), identifier=_cut(reject.identifier), source_id=_cut(reject.source_id)
            )
            self.counts[kept.reason.partition(":")[0]] += 1
            self._rows.append(kept)
            self._characters += len(kept.uuid or "") + len(kept.identifier or "") + len(kept.source_id or "")
            if len(self._rows) >= _ROWS_MAX or self._characters >= _CHARACTERS_MAX:
                self._write()

    def close(self) -> None:
        """Write what is left. Without this call the file is no Parquet file."""
        self._write()
        self._writer.close()

    def abandon(self) -> None:
        """Let the file go as it is."""
        self._writer.close()

    def _write(self) -> None:
        if self._rows:
            columns: Sequence[Sequence[Any]] = list(zip(*self._rows, strict=True))
            schema = rejects_schema()
            arrays = [arrow().array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
            self._writer.write_table(arrow().Table.from_arrays(arrays, schema=schema))
        self._rows, self._characters = [], 0


def _cut(text: str | None) -> str | None:
    return text and text[:TEXT_CHARACTERS_MAX]
