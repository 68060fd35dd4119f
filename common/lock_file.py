"""A lock file that holds on NFS, where flock(2) may not: it is made with O_EXCL (open(2)), and its holder touches it now and then.

The text in the file names the holder. A lock that nobody has touched for a while is *expired*; who waits for it goes by its own
clock and by whether the lock changes, because the clocks of two machines need not agree. Paths are below a `SafeRoot`.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

from .safe_root import SafeRoot

OWNER_BYTES_MAX = 500


def take_lock(root: SafeRoot, path: str, owner: bytes) -> bool:
    """Make the lock, in the name of owner (at most OWNER_BYTES_MAX). False when there is one. Raises UnsafeName, OSError."""
    try:
        fd = root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    try:
        os.write(fd, owner)
    finally:
        os.close(fd)
    return True


def touch_lock(root: SafeRoot, path: str, owner: bytes) -> bool:
    """Give the lock a new modification time. False when it is somebody else's by now. Raises UnsafeName, OSError."""
    fd = root.open_beneath(path, os.O_RDWR)
    try:
        if os.pread(fd, OWNER_BYTES_MAX, 0) != owner:
            return False
        os.pwrite(fd, owner, 0)
    finally:
        os.close(fd)
    return True


def look_at_lock(root: SafeRoot, path: str) -> tuple[bytes, int] | None:
    """Who holds the lock and when it was last touched (ns); None when nobody does. Raises UnsafeName, OSError."""
    try:
        fd = root.open_beneath(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, OWNER_BYTES_MAX), os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)


def break_lock(root: SafeRoot, path: str, owner: bytes) -> None:
    """Remove an expired lock. Renamed first, so that of two that break it one does; a newer lock caught so is put back."""
    aside = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        root.replace_beneath(path, aside)
    except FileNotFoundError:
        return
    caught = look_at_lock(root, aside)
    if caught is not None and caught[0] != owner:
        take_lock(root, path, caught[0])
    root.unlink_beneath(aside)


def release_lock(root: SafeRoot, path: str, owner: bytes) -> None:
    """Remove the lock if it is still owner's."""
    with suppress(OSError):
        state = look_at_lock(root, path)
        if state is not None and state[0] == owner:
            root.unlink_beneath(path)
