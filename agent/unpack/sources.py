"""Where the bytes of an archive come from: a file, or one that is still arriving."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

from ...common.errors import Interrupted, Truncated

_WAKE_S = 1.0  # how often a waiting reader looks whether it was cancelled


class Source(Protocol):
    """Bytes from the beginning on."""

    def read(self, size: int) -> bytes:
        """The next bytes, at most size; b"" at the end. May block."""
        ...


class FileSource:
    """A whole file. Its descriptor's own position is neither used nor moved."""

    def __init__(self, fd: int, *, size: int, cancelled: Callable[[], bool]) -> None:
        self._fd = fd
        self._size = size
        self._cancelled = cancelled
        self._at = 0

    def read(self, size: int) -> bytes:
        """As Source. Raises Interrupted, Truncated (the file is shorter than it was), OSError."""
        if self._cancelled():
            raise Interrupted("unpacking", cause="it was cancelled")
        return self._read_there(size, self._size)

    def _read_there(self, size: int, stop: int) -> bytes:
        size = min(size, stop - self._at)
        if size <= 0:
            return b""
        data = os.pread(self._fd, size, self._at)
        if not data:
            raise Truncated("archive", cause=f"its file ends after {self._at} bytes")
        self._at += len(data)
        return data


class Arrival:
    """How much of the beginning of an object is there, told by who brings it and waited for by who reads it. Thread-safe.

    ``advance`` and ``finish`` are for the one side; ``fail`` ends the other's waiting with an error, as when a job is cancelled.
    A beginning that was found wrong and is fetched anew is a failure too: the reader has used it already.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._there = 0
        self._is_whole = False
        self._error: Exception | None = None

    def advance(self, there: int) -> None:
        """The first ``there`` bytes can be read. A smaller number than before changes nothing."""
        with self._changed:
            if there > self._there:
                self._there = there
                self._changed.notify_all()

    def finish(self, size: int) -> None:
        """All of it is there: size bytes."""
        with self._changed:
            self._there = size
            self._is_whole = True
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """It will not come. Whoever reads gets this error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def wait_beyond(self, at: int, cancelled: Callable[[], bool]) -> tuple[int, bool]:
        """Wait until more than ``at`` bytes, or all, are there: how many, and whether that is all. Raises what ``fail`` got."""
        with self._changed:
            while True:
                if cancelled():
                    raise Interrupted("unpacking", cause="it was cancelled")
                if self._error is not None:
                    raise self._error
                if self._there > at or self._is_whole:
                    return self._there, self._is_whole
                self._changed.wait(_WAKE_S)


class ArrivingSource(FileSource):
    """A file whose beginning is there and grows."""

    def __init__(self, fd: int, arrival: Arrival, *, cancelled: Callable[[], bool]) -> None:
        super().__init__(fd, size=0, cancelled=cancelled)
        self._arrival = arrival
        self._is_whole = False

    def read(self, size: int) -> bytes:
        """As Source; blocks until there is something. Raises also what ``Arrival.fail`` was given."""
        if self._at >= self._size and not self._is_whole:
            self._size, self._is_whole = self._arrival.wait_beyond(self._at, self._cancelled)
        return super().read(size)
