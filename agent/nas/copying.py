"""Moving the bytes of one copy: in the kernel where it can (copy_file_range(2)), through a bounded buffer where it cannot."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ...common.digests import new_hasher
from .trouble import FileTrouble

STEP_BYTES_FIRST = 256 << 10
STEP_BYTES_MAX = 8 << 20
"""Bytes of one call: it cannot be broken off, so it grows only while the NAS is quick."""
QUICK_S = 0.1

_NOT_IN_THE_KERNEL = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF, errno.EPERM, errno.ETXTBSY}
)
"""copy_file_range(2): not between these file systems, not on this kernel, or not allowed by a container's filter."""

Pace = Callable[[int], None]
"""Called after so many bytes: keeps to the rate, shows that it goes on, raises Stopped."""


class ByteMover:
    """Copies and hashes by one buffer. One thread at a time."""

    def __init__(self, buffer_bytes: int, *, pace: Pace, clock: Callable[[], float]) -> None:
        """clock: seconds, monotonic."""
        self.beat: Callable[[], None] = lambda: (
            None
        )  # called after every step as well, by whoever has something to keep alive
        self._buffer = memoryview(bytearray(buffer_bytes))
        self._pace = pace
        self._clock = clock
        self._in_kernel = True

    def copy(self, source_fd: int, target_fd: int, start: int, size: int) -> None:
        """Bring the bytes from start up to size to the same place of the target. Raises OSError (of the target), FileTrouble (the
        source), Stopped."""
        at, step = start, STEP_BYTES_FIRST
        while at < size:
            began = self._clock()
            moved = self._move(source_fd, target_fd, at, min(step, size - at))
            if moved == 0:
                raise FileTrouble(f"the local file ends at byte {at} of {size}")
            at += moved
            is_quick = self._clock() - began < QUICK_S
            step = min(2 * step, STEP_BYTES_MAX) if is_quick else max(step // 2, STEP_BYTES_FIRST)
            self._pace(moved)
            self.beat()

    def _move(self, source_fd: int, target_fd: int, at: int, count: int) -> int:
        if self._in_kernel:
            try:
                moved = os.copy_file_range(source_fd, target_fd, count, at, at)
            except OSError as error:
                if error.errno not in _NOT_IN_THE_KERNEL:
                    self._check_readable(source_fd, at)
                    raise
                self._in_kernel = False
            else:
                if moved:
                    return moved  # nothing moved: some file systems say so of what they cannot do
        try:
            read = os.preadv(source_fd, [self._buffer[: min(count, len(self._buffer))]], at)
        except OSError as error:
            raise FileTrouble(f"the local file cannot be read at byte {at}: {error.strerror}") from error
        view = self._buffer[:read]
        written = 0
        while written < read:
            written += os.pwrite(target_fd, view[written:], at + written)
        return read

    def _check_readable(self, source_fd: int, at: int) -> None:
        """An error of a copy in the kernel may be of either file: raises FileTrouble where it is the source's."""
        try:
            os.preadv(source_fd, [self._buffer[:1]], at)
        except OSError as error:
            raise FileTrouble(f"the local file cannot be read at byte {at}: {error.strerror}") from error

    def digest(self, fd: int, digest: str, size: int) -> str:
        """Hash the first size bytes of a file as ``digest`` names it, from the device or the server, not from the cache, as far as
        the system can be told so. Raises OSError, Stopped."""
        hasher = new_hasher(digest, size)
        forget_cached(fd)
        at = 0
        while at < size:
            read = os.preadv(fd, [self._buffer[: min(len(self._buffer), size - at)]], at)
            if read == 0:
                break
            hasher.update(self._buffer[:read])
            at += read
            self._pace(read)
            self.beat()
        forget_cached(fd)  # what nobody reads again must not push out what others use
        return hasher.result()


def forget_cached(fd: int) -> None:
    """Let the page cache drop a file's clean pages (posix_fadvise(2)): what is read next comes from where it lies."""
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except (OSError, AttributeError):
        pass
