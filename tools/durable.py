"""Files that are there whole or not at all: written under a temporary name, synced, renamed, and the folder synced."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from ..common.errors import NoSpace, NotWritable

TEMPORARY = ".tmp"
STOP_AFTER = "SHOAL_TOOLS_TEST_STOP_AFTER"
"""For tests: the process kills itself right after this many names were changed, so that a stop at every step can be tried."""

_stop_after: int | None = int(os.environ[STOP_AFTER]) if os.environ.get(STOP_AFTER, "").isdigit() else None


def temporary_path(path: Path) -> Path:
    """A name beside path that nobody else uses, hidden, so that readers of datasets pass it by."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY}")


def sync_folder(folder: Path) -> None:
    """fsync a folder: names that were made, replaced or removed in it survive power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """fsync a file that was written and closed by others."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(source: Path, target: Path) -> None:
    """Rename source (a file that is synced, or a folder) to target and sync the folder. Raises OSError."""
    source.replace(target)
    sync_folder(target.parent)
    _stop_here()


def _stop_here() -> None:
    global _stop_after
    if _stop_after is not None:
        _stop_after -= 1
        if _stop_after < 0:
            os.kill(os.getpid(), 9)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document with a checksum of its own. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**document, "checksum": checksum(document)}, sort_keys=True, indent=1)
    temporary = temporary_path(path)
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The document that `write_json` wrote there; None when there is none, or it is not whole. Raises OSError."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    values = cast("dict[str, Any]", document)
    return values if values.pop("checksum", "") == checksum(values) else None


def checksum(document: dict[str, Any]) -> str:
    """The sha256, in hex, of a document as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@contextmanager
def storage_errors(thing: Path) -> Generator[None]:
    """Turn what the file system refuses into NoSpace or NotWritable with a remedy; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or thing)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(where, remedy="make room and run it again: it goes on where it stopped") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotWritable(where, cause=str(error.strerror), remedy="tools write below the dataset") from error
        raise
