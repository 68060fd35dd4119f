"""Which kind of file system a path lies on: read from ``/proc/self/mountinfo`` (proc(5)), and judged in one place."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_NETWORK_TYPES: Final = frozenset(
    {
        *("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "beegfs", "afs", "coda"),
        *("orangefs", "pvfs2", "panfs", "wekafs", "glusterfs", "gfs2", "ocfs2", "dvs", "vboxsf", "ncpfs", "acfs"),
    }
)
"""Types whose pages another machine may hold, or whose server may be gone. See proc(5), ``/proc/filesystems``."""

_LOCAL_FUSE_TYPES: Final = frozenset({"fuse.fuse-overlayfs", "fuse.mergerfs"})
"""Of FUSE, what only joins local folders."""

_MEMORY_TYPES: Final = frozenset({"tmpfs", "ramfs"})


def filesystem_type(path: Path, mounts: Iterable[str] | None = None) -> str:
    """The type of the file system that holds path, as ``/proc/self/mountinfo`` names it; empty where that is not known.

    path need not exist. mounts stands in for the lines of ``/proc/self/mountinfo`` (proc(5)); of several mounts over one
    point the last is the one seen.
    """
    return mount_of(path, mounts)[1]


def mount_of(path: Path, mounts: Iterable[str] | None = None) -> tuple[str, str]:
    """Where the file system that holds path is mounted, and its type, as `filesystem_type`; empty where that is not known."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        except OSError:
            return "", ""
    real = os.path.realpath(path)
    best, where, found = -1, "", ""
    for line in mounts:
        fields = line.split(" ")
        try:
            kind = fields[fields.index("-", 6) + 1]
        except (ValueError, IndexError):
            continue
        point = _unescape(fields[4])
        if len(point) >= best and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, where, found = len(point), point, kind
    return where, found


def _unescape(text: str) -> str:
    """Undo the octal escapes of blanks and backslashes in mountinfo."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def is_network(kind: str) -> bool:
    """Whether a file system of this type can be shared between machines. FUSE counts: what is behind it is not known."""
    return kind in _NETWORK_TYPES or kind == "fuse" or kind.startswith("fuse.")


def bears_database(kind: str) -> bool:
    """Whether SQLite's locks and fsync can be relied on (https://www.sqlite.org/howtocorrupt.html, section 2.1)."""
    return kind in _LOCAL_FUSE_TYPES or not is_network(kind)


def is_memory(kind: str) -> bool:
    """Whether a file system of this type lives in memory."""
    return kind in _MEMORY_TYPES
