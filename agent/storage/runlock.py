"""The lock of an embedded run: two ``shoal get`` of one source into one folder would fetch everything twice."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

from ...common.errors import Busy, UnsafeName
from ...common.flock import lock_now
from ...common.paths import SafeRoot


@contextmanager
def run_lock(root: SafeRoot, path: str, *, thing: str) -> Generator[None]:
    """Hold the lock file at path below root. Raises Busy naming the holder's pid and host, UnsafeName, OSError.

    flock(2): the kernel drops it with the process, ``kill -9`` included. Between machines on a network file system it is best
    effort; where it does nothing, two runs do double work and still publish only whole, verified files.
    """
    fd = _take(root, path, thing)
    try:
        yield
    finally:
        with suppress(OSError, UnsafeName):
            root.unlink_beneath(path)  # while it is held: whoever waits for it sees that it is gone and makes a new one
        os.close(fd)


def _take(root: SafeRoot, path: str, thing: str) -> int:
    while True:
        fd = root.open_beneath(path, os.O_RDWR | os.O_CREAT)
        try:
            if not lock_now(fd, fcntl.LOCK_EX):
                holder = os.pread(fd, 500, 0).decode(errors="replace").strip()
                raise Busy(thing, cause=f"{holder or 'another run'} is at work on it", remedy="wait for it, or stop it")
            if _is_still(root, fd, path):
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_still(root: SafeRoot, fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), root.stat_beneath(path))
    except FileNotFoundError:
        return False
