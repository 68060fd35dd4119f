"""Which files the tables of a job are, and in which order. That order decides which of two rows with one uuid is kept.

Patterns keep their order; what one of them names is sorted by path, so that the order is the same on every machine. A file that
several patterns name is read once.
"""

from __future__ import annotations

import enum
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...common.errors import NotFound, UsageError
from ...common.policy import Policy


class TableFormat(enum.StrEnum):
    """How the rows of a file are written."""

    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


_SUFFIXES: Final = {
    ".csv": TableFormat.CSV,
    ".tsv": TableFormat.TSV,
    ".tab": TableFormat.TSV,
    ".parquet": TableFormat.PARQUET,
    ".pq": TableFormat.PARQUET,
}
_COMPRESSIONS: Final = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
"""Those that Arrow unpacks as a stream. Parquet compresses inside, so only text may have one of these."""
_KNOWN: Final = "known are .csv, .tsv and .tab, also with .gz, .bz2, .zst or .lz4 after it, and .parquet and .pq"

EXPANSION: Final = {TableFormat.CSV: 1, TableFormat.TSV: 1, TableFormat.PARQUET: 4}
_TEXT_EXPANSION: Final = 5
"""Bytes of rows for a byte of a file: rough, as it only decides among how many files rows are spilled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFile:
    """One file of the input as it was when it was looked for. size is bytes, mtime_ns nanoseconds since the epoch."""

    path: str  # absolute, without symlinks
    format: TableFormat
    compression: str  # "" or a name that Arrow knows
    size: int
    mtime_ns: int

    @property
    def row_bytes_expected(self) -> int:
        """About how many bytes its rows are once they are read."""
        return self.size * (_TEXT_EXPANSION if self.compression else EXPANSION[self.format])


def find_tables(patterns: Sequence[str], policy: Policy) -> list[TableFile]:
    """The files that files, globs and folders name.

    Raises NotFound (nothing there), UsageError (no table, a form that is not known, an empty file), Refused (``security`` rules).
    """
    if not patterns:
        raise UsageError(
            "the input", cause="no table is named", remedy="name CSV, TSV or Parquet files, globs or folders"
        )
    found: dict[str, TableFile] = {}
    for pattern in patterns:
        for path in _readable_paths_of(pattern):
            real = os.path.realpath(path)
            if real not in found:
                policy.check_file(real)
                found[real] = look_at(real)
    return list(found.values())


def look_at(path: str) -> TableFile:
    """One file. Raises NotFound, UsageError."""
    form = _form_of(path)
    if form is None:
        raise UsageError(f"table {path}", cause="its suffix names no form of table", remedy=_KNOWN)
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise NotFound(f"table {path}", cause="there is no such file", remedy="check the path") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"table {path}", cause="it is not a regular file", remedy="name a file, a glob or a folder")
    if status.st_size == 0:
        raise UsageError(f"table {path}", cause="the file is empty", remedy="leave it out, or make it again")
    return TableFile(path=path, format=form[0], compression=form[1], size=status.st_size, mtime_ns=status.st_mtime_ns)


def unreadable(path: str, error: OSError | str) -> UsageError:
    """The error for a file that cannot be opened or read to its end."""
    cause = error if isinstance(error, str) else error.strerror or str(error)
    return UsageError(
        f"table {path}",
        cause=f"it cannot be read: {cause}",
        remedy="check that it is whole and that the coordinator may read it",
    )


def _readable_paths_of(pattern: str) -> Iterator[str]:
    try:
        yield from _paths_of(pattern)
    except OSError as error:
        raise unreadable(pattern, error) from None


def _paths_of(pattern: str) -> Iterator[str]:
    if "\0" in pattern:
        raise UsageError(f"table {pattern!r}", cause="a path cannot hold a NUL", remedy="check the path")
    if "://" in pattern and not pattern.startswith("file://"):
        raise UsageError(
            f"table {pattern}", cause="only local files are read as tables", remedy="bring the table here first"
        )
    path = Path(pattern.removeprefix("file://")).expanduser()
    text = str(path)
    if path.is_dir():
        yield from _files_below(path, pattern)
        return
    # A name that exists is meant literally: brackets and asterisks are legal in names.
    if os.path.lexists(text) or not glob.has_magic(text):
        yield text
        return
    matched = sorted(path for path in glob.glob(text, recursive=True) if not Path(path).is_dir())  # noqa: PTH207
    if not matched:
        raise NotFound(
            f"tables {pattern}", cause="no file matches", remedy="quote the pattern, and check folder and suffix"
        )
    yield from matched


def _files_below(folder: Path, pattern: str) -> Iterator[str]:
    """Tables of a folder and all below it. Spark and others leave ``_SUCCESS`` and hidden files beside their tables."""

    def refuse(error: OSError) -> None:
        raise unreadable(str(error.filename or folder), error)

    found: list[str] = []
    for parent, names, files in os.walk(folder, onerror=refuse):
        names[:] = [name for name in names if not name.startswith((".", "_"))]
        tables = [name for name in files if not name.startswith((".", "_")) and _form_of(name)]
        found += [str(Path(parent, name)) for name in tables]
    if not found:
        raise NotFound(f"folder {pattern}", cause="there is no table in it", remedy=_KNOWN)
    yield from sorted(found)


def _form_of(name: str) -> tuple[TableFormat, str] | None:
    *_, before, last = ("", "", *(suffix.lower() for suffix in Path(name).suffixes))
    compression = _COMPRESSIONS.get(last, "")
    form = _SUFFIXES.get(before if compression else last)
    if form is None or (compression and form is TableFormat.PARQUET):
        return None
    return form, compression
