"""Where the coordinator's state may lie and who may have it open: on a local file system, one coordinator at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from ...common.errors import Busy, NotWritable, UsageError
from ...common.mounts import bears_database, filesystem_type


def refuse_network(path: Path, mounts: Iterable[str] | None = None) -> None:
    """Raise UsageError if path would lie on a network file system. path need not exist.

    mounts stands in for the lines of ``/proc/self/mountinfo`` (proc(5)). Where those cannot be read, nothing is refused.
    """
    kind = filesystem_type(path, mounts)
    if not bears_database(kind):
        raise UsageError(
            f"state folder {path.parent}",
            cause=f"it lies on a network file system ({kind}), where a database can be damaged",
            remedy="name a folder on a local disk with --state",
        )


class StateLock:
    """The right to be the one coordinator on a state file: an flock(2) that ends with the process, whatever ends it."""

    def __init__(self, path: Path) -> None:
        """path is the lock file; it stays behind, because removing it would race with the next owner."""
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock. Raises Busy, which names the holder, or NotWritable."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise not_writable(self._path.parent, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(fd, 256, 0).decode(errors="replace").strip() or "another process"
            os.close(fd)
            raise Busy(
                f"state folder {self._path.parent}",
                cause=f"a coordinator has it open already ({holder})",
                remedy="stop that one, or name another folder with --state",
            ) from None
        except OSError as error:
            os.close(fd)
            raise not_writable(self._path.parent, error) from error
        self._fd = fd

    def release(self) -> None:
        """Give it back. Harmless when it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def not_writable(folder: Path, error: OSError) -> NotWritable:
    """The error for a state folder that cannot be written."""
    cause = (error.strerror or str(error)).lower()
    return NotWritable(f"state folder {folder}", cause=cause, remedy="check its permissions, or use --state")
