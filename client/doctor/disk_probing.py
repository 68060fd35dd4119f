"""Tries what a destination can do: makes, writes, syncs, renames, locks and removes files there. Decides nothing."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...common.disk_errors import disk_error
from ...common.errors import ShoalError
from ...common.mounts import filesystem_type
from ...common.paths import SafeRoot
from ...common.room import nearest_folder, prove_writable
from ...common.roots import ignores_case, resolve_destination

if TYPE_CHECKING:
    from ...common.settings import Settings

_PROBES: Final = ".shoal-doctor"
_STALE_S: Final = 3600.0  # no check takes as long


@dataclass(frozen=True, kw_only=True, slots=True)
class Ability:
    """Something that a file system was asked to do, and what came of it. reason: "" where it did it."""

    name: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What was seen of a folder. error: it cannot be written. Bytes, counts; None where the system does not tell."""

    folder: Path
    nearest: Path  # itself, or the nearest folder above it that exists
    error: ShoalError | None = None
    kind: str = ""  # of the file system
    free_bytes: int = 0
    size_bytes: int = 0
    free_files: int | None = None
    abilities: tuple[Ability, ...] = field(default_factory=tuple[Ability, ...])
    ignores_case: bool = False


def look_at(settings: Settings, destination: str) -> Looked:
    """Try everything in a folder of our own below the destination, or where it would be made, and remove it. Blocks."""
    folder = Path(destination)
    try:
        folder = resolve_destination(destination, root=settings.agent.root, allow=settings.agent.allow_paths)
        nearest = nearest_folder(folder)
        room = os.statvfs(nearest)
    except ShoalError as error:
        return Looked(folder=folder, nearest=folder, error=error)
    except OSError as error:
        return Looked(folder=folder, nearest=folder, error=disk_error(error, str(folder)))
    looked = Looked(
        folder=folder,
        nearest=nearest,
        kind=filesystem_type(nearest),
        free_bytes=room.f_bavail * room.f_frsize,
        size_bytes=room.f_blocks * room.f_frsize,
        free_files=room.f_favail if room.f_files else None,
    )
    return _tried(looked)


def _tried(looked: Looked) -> Looked:
    try:
        own = _own_folder(looked.nearest / _PROBES)
    except OSError as error:
        return replace(looked, error=disk_error(error, str(looked.folder)))
    try:
        with SafeRoot(own) as root:
            prove_writable(root, "a.tmp", "b.tmp")
            return replace(looked, abilities=tuple(_abilities(root)), ignores_case=ignores_case(root, "sub/name"))
    except ShoalError as error:
        return replace(looked, error=error)
    except OSError as error:
        return replace(looked, error=disk_error(error, str(looked.folder)))
    finally:
        _remove(own)
        with suppress(OSError):
            own.parent.rmdir()  # unless another run is at work in it


def _own_folder(probes: Path) -> Path:
    """A new folder below probes. What killed runs left there is removed. Raises OSError."""
    own = probes / secrets.token_hex(6)
    for is_last_try in (False, True):
        probes.mkdir(exist_ok=True)
        try:
            own.mkdir()
        except FileNotFoundError:  # a run that ended took the empty folder away meanwhile
            if is_last_try:
                raise
            continue
        break
    with suppress(OSError):
        for left in probes.iterdir():
            if time.time() - left.stat().st_mtime > _STALE_S:
                _remove(left)
    return own


def _remove(folder: Path) -> None:
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            with suppress(OSError):
                Path(path, name).unlink()
        for name in folders:
            with suppress(OSError):
                Path(path, name).rmdir()
    with suppress(OSError):
        folder.rmdir()


def _abilities(root: SafeRoot) -> list[Ability]:
    root.makedirs_beneath("sub")
    tries: Sequence[tuple[str, Callable[[SafeRoot], str]]] = (
        ("O_EXCL", _try_exclusive),
        ("rename", _try_rename),
        ("flock", _try_flock),
        ("copy_file_range", _try_copy_range),
    )
    found: list[Ability] = []
    for name, attempt in tries:
        try:
            reason = attempt(root)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
        found.append(Ability(name=name, reason=reason))
    return found


def _make(root: SafeRoot, path: str) -> int:
    return root.open_beneath(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)


def _try_exclusive(root: SafeRoot) -> str:
    os.close(_make(root, "excl"))
    try:
        os.close(_make(root, "excl"))
    except FileExistsError:
        return ""
    return "two could make the same file"


def _try_rename(root: SafeRoot) -> str:
    for name, content in (("old", b"old"), ("new", b"new")):
        fd = _make(root, name)
        os.write(fd, content)
        os.close(fd)
    root.replace_beneath("new", "old")
    fd = root.open_beneath("old", os.O_RDONLY)
    try:
        return "" if os.read(fd, 3) == b"new" else "the file of before is still there"
    finally:
        os.close(fd)


def _try_flock(root: SafeRoot) -> str:
    first = _make(root, "lock")
    try:
        second = root.open_beneath("lock", os.O_RDWR)
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return ""
            return "two could hold one lock"
        finally:
            os.close(second)
    finally:
        os.close(first)


def _try_copy_range(root: SafeRoot) -> str:
    if not hasattr(os, "copy_file_range"):
        return "this system does not have it"
    source, target = _make(root, "source"), _make(root, "target")
    try:
        os.write(source, bytes(4096))
        return "" if os.copy_file_range(source, target, 4096, 0, 0) == 4096 else "it copies too little"
    finally:
        os.close(source)
        os.close(target)
