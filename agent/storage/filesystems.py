"""What kind of file system a folder is on, and how an ``OSError`` from it reads to a person."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ...common.errors import Conflict, NoSpace, NotWritable, ShoalError, UnsafeName

_NETWORK_TYPES = frozenset(
    {
        *("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "beegfs", "afs", "coda"),
        *("orangefs", "pvfs2", "panfs", "wekafs", "glusterfs", "gfs2", "ocfs2", "dvs", "vboxsf", "ncpfs", "acfs"),
    }
)
"""Types whose pages another machine may hold, or whose server may be gone. See proc(5), ``/proc/filesystems``."""

_MEMORY_TYPES = frozenset({"tmpfs", "ramfs"})

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_IN_THE_WAY = frozenset({errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST})


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


def is_memory(kind: str) -> bool:
    """Whether a file system of this type lives in memory."""
    return kind in _MEMORY_TYPES


@cache
def boot_id() -> bytes:
    """16 bytes that differ from one boot of the kernel to the next (random(4)); zeros where the system has none."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)


def disk_error(error: OSError, thing: str) -> ShoalError:
    """The error to raise for an ``OSError`` met while writing thing below a destination."""
    cause = (error.strerror or str(error)).lower()
    if error.errno in _NO_SPACE:
        return NoSpace(thing, cause=cause, remedy="free some space or quota, or choose another destination")
    if error.errno in _IN_THE_WAY:
        return Conflict(thing, cause=f"something else of that name is in the way: {cause}", remedy="move it away")
    if error.errno == errno.ELOOP:
        return UnsafeName(
            thing, cause="a symbolic link lies where a file or folder of ours should be", remedy="remove it"
        )
    if error.errno == errno.ENAMETOOLONG:
        return UnsafeName(thing, cause="the name is too long for this file system")
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return NotWritable(thing, cause="too many open files", remedy="raise the limit with ulimit -n")
    return NotWritable(thing, cause=cause, remedy="check the destination's permissions, mount and disk")
