"""What was unpacked, kept so that the same bytes are not unpacked twice.

::

    .shoal/unpacked/KEY.json      which archive, its digest, where to; sealed with a SHA-256 over itself
    .shoal/unpacked/KEY.list      a line of JSON for every file (size, modification time), folder and link; a last line with
                                  their count and a SHA-256 over the others
    .shoal/unpacked/KEY.journal   while it is put in place (placing.py)

KEY is a hash of the archive's path and of the folder. Lists are read and written line by line: they may have millions.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from ...common.errors import StateDamaged, UnsafeName
from ...common.paths import SafeRoot
from ..storage.workfolder import TEMPORARY, short_hash
from .members import MemberKind, joined

UNPACKED = "unpacked"
TOPS_MAX = 1000  # names on top that the record itself repeats
_VERSION = 1
_SEALED_BYTES_MAX = 2 << 20
_LINE_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list. size in bytes and mtime_ns are a file's, target a symlink's. path is relative to the folder."""

    kind: MemberKind
    path: str
    size: int = 0
    mtime_ns: int = 0
    target: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What was unpacked from one archive. tops are the names on top; None when there are more than TOPS_MAX."""

    archive: str
    stamp: str
    format: str
    folder: str
    files: int
    bytes: int
    list_digest: str
    tops: tuple[str, ...] | None


def key_of(archive: str, folder: str) -> str:
    """Names an archive and where it was unpacked to in file names."""
    return short_hash(archive, folder, hex_digits=16)


class ListWriter:
    """Writes a list. Close it."""

    def __init__(self, root: SafeRoot, path: str) -> None:
        """Raises OSError."""
        self.path = path
        self.files = 0
        self.bytes = 0
        self.links = 0
        self.digest = ""  # when it is closed
        self.tops: list[str] | None = []
        self._root = root
        self._count = 0
        self._hash = hashlib.sha256(usedforsecurity=False)
        fd = root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._file = os.fdopen(fd, "wb", buffering=1 << 16)

    def add(self, entry: Entry) -> None:
        """Write a line. Raises OSError."""
        if entry.kind is MemberKind.FILE:
            fields: list[object] = [entry.kind.value, entry.path, entry.size, entry.mtime_ns]
            self.files += 1
            self.bytes += entry.size
        elif entry.kind is MemberKind.SYMLINK:
            fields = [entry.kind.value, entry.path, entry.target]
            self.files += 1
            self.links += 1
        else:
            fields = [entry.kind.value, entry.path]
        line = json.dumps(fields).encode() + b"\n"
        self._hash.update(line)
        self._file.write(line)
        self._count += 1
        if "/" not in entry.path and self.tops is not None:
            self.tops.append(entry.path)
            if len(self.tops) > TOPS_MAX:
                self.tops = None

    def close(self, *, sync: bool) -> None:
        """Write the last line and close. Safe to call twice. Raises OSError."""
        if self._file.closed:
            return
        try:
            self.digest = self._hash.hexdigest()
            self._file.write(json.dumps(["end", self._count, self.digest]).encode() + b"\n")
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def entries(self) -> Iterator[Entry]:
        """What was written, from the disk; it must be closed. Raises OSError, StateDamaged."""
        return read_entries(self._root, self.path)


def read_entries(root: SafeRoot, path: str, *, expected: str = "") -> Iterator[Entry]:
    """The lines of a list. expected is the digest that it must have, or "".

    Raises StateDamaged at the end, or where a line is not readable; OSError, UnsafeName.
    """
    fd = root.open_beneath(path, os.O_RDONLY)
    with os.fdopen(fd, "rb", buffering=1 << 16) as file:
        digest = hashlib.sha256(usedforsecurity=False)
        count = 0
        try:
            while line := file.readline(_LINE_BYTES_MAX):
                value = cast("list[Any]", json.loads(line))
                if value[0] == "end":
                    found = digest.hexdigest()
                    if value[1:] != [count, found] or (expected and found != expected) or file.read(1):
                        break
                    return
                digest.update(line)
                count += 1
                yield _entry(value)
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
    raise StateDamaged(path, cause="it was cut or changed", remedy="the archive is unpacked again")


def _entry(value: list[Any]) -> Entry:
    kind = MemberKind(value[0])
    path: Any = value[1]
    if not isinstance(path, str):
        raise TypeError
    if kind is MemberKind.FILE:
        return Entry(kind, path, size=int(value[2]), mtime_ns=int(value[3]))
    return Entry(kind, path, target=str(value[2]) if kind is MemberKind.SYMLINK else "")


def write_record(root: SafeRoot, path: str, record: Record) -> None:
    """Write a record at a free path below root, durably. Raises OSError."""
    fields = {name: getattr(record, name) for name in record.__slots__}
    write_sealed(root, path, fields, temporary=path + TEMPORARY)


def read_record(root: SafeRoot, work: str, key: str) -> Record | None:
    """The record of a key; None when there is none, or it is damaged. Raises OSError."""
    fields = read_sealed(root, f"{work}/{UNPACKED}/{key}.json")
    if fields is None:
        return None
    texts = [fields.get(name) for name in ("archive", "stamp", "format", "folder", "list_digest")]
    numbers = [fields.get(name) for name in ("files", "bytes")]
    tops = fields.get("tops")
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
        return None
    if tops is not None and not (
        isinstance(tops, list) and all(isinstance(top, str) for top in cast("list[Any]", tops))
    ):
        return None
    known = {name: fields[name] for name in Record.__slots__ if name != "tops"}
    return Record(**known, tops=None if tops is None else tuple(cast("list[str]", tops)))


def write_sealed(root: SafeRoot, path: str, fields: Mapping[str, object], *, temporary: str) -> None:
    """Write fields as JSON with a checksum, in place of what is at path, durably and all at once. Raises OSError.

    temporary is a free path, in a folder that is removed when this process is killed.
    """
    body = {"version": _VERSION, **fields}
    data = json.dumps({**body, "checksum": _checksum(body)}).encode() + b"\n"
    fd = root.open_beneath(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        root.replace_beneath(temporary, path)
    except OSError:
        with suppress(OSError):
            root.unlink_beneath(temporary)
        raise
    root.sync_folder_beneath(path.rpartition("/")[0])


def read_sealed(root: SafeRoot, path: str) -> dict[str, Any] | None:
    """What write_sealed wrote; None when nothing is there, or it is damaged, or of another version. Raises OSError."""
    try:
        fd = root.open_beneath(path, os.O_RDONLY)
    except (FileNotFoundError, UnsafeName):
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(_SEALED_BYTES_MAX)
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    body = cast("dict[str, Any]", value)
    checksum = body.pop("checksum", None)
    return body if checksum == _checksum(body) and body.get("version") == _VERSION else None


def _checksum(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def is_still_there(root: SafeRoot, work: str, key: str, record: Record) -> bool:
    """Whether everything that was unpacked is there, unchanged as far as size and modification time tell. Raises OSError."""
    files = total = 0
    try:
        for entry in read_entries(root, f"{work}/{UNPACKED}/{key}.list", expected=record.list_digest):
            path = joined(record.folder, entry.path)
            found = root.stat_beneath(path)
            if entry.kind is MemberKind.FOLDER:
                if not stat.S_ISDIR(found.st_mode):
                    return False
                continue
            files += 1
            if entry.kind is MemberKind.SYMLINK:
                if not stat.S_ISLNK(found.st_mode) or root.readlink_beneath(path) != entry.target:
                    return False
                continue
            total += entry.size
            if not stat.S_ISREG(found.st_mode) or (found.st_size, found.st_mtime_ns) != (entry.size, entry.mtime_ns):
                return False
    except (FileNotFoundError, NotADirectoryError, StateDamaged, UnsafeName):
        return False
    return (files, total) == (record.files, record.bytes)
