"""flock(2) on files below a folder: who is at work there, as long as its process lives. Between machines see `lock_file`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager

from .errors import UnsafeName
from .paths import SafeRoot


@contextmanager
def held_alone(root: SafeRoot, path: str) -> Generator[bool]:
    """Try to lock a file for the moment. Yields whether nobody else has it locked; True for what is not a file of ours.

    flock(2) goes with the process, so ``kill -9`` leaves no lock behind. It may do nothing between machines on a network file
    system: there the age of a partial file's maps must tell as well.
    """
    try:
        fd = root.open_beneath(path, os.O_RDONLY)
    except (UnsafeName, FileNotFoundError):
        yield True
        return
    try:
        yield lock_now(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def lock_now(fd: int, kind: int) -> bool:
    """Take a lock (fcntl.LOCK_SH or LOCK_EX) without waiting. False when somebody holds it; True where there are no locks."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
