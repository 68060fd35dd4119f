"""Decides when an archive that is still arriving is unpacked, and how much of it may be read. It touches no file.

======== ======================================= =======================================================
state    on                                      becomes
======== ======================================= =======================================================
waiting  bytes from the first on, a turn is free feeding
feeding  the beginning has grown                 feeding: told in steps
feeding  bytes that may have been read are wrong waiting; over, when that was so RESTARTS_MAX times
feeding  the file was closed                     the same
feeding  the object has its final name           over: whoever unpacks the finished files takes the attempt
======== ======================================= =======================================================

An attempt that failed stays: the finished file will tell what is wrong with it. Only other bytes are worth another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from .pieces import MIB

STEP_BYTES: Final = 4 * MIB
"""The beginning is told to the reader in steps of as much, and the rest at the end: each wakes a thread that wants the interpreter's
lock, as the event loop does."""
RESTARTS_MAX: Final = 3
"""Whose bytes keep being wrong, or whose file keeps being closed, is unpacked when it is finished."""


class Attempt(Protocol):
    """Somebody who unpacks the beginning of a file while it grows. Never blocks."""

    def advance(self, there: int) -> None:
        """The first ``there`` bytes may be read."""
        ...

    def finish(self, size: int) -> None:
        """All of it is there: size bytes."""
        ...

    def abandon(self) -> None:
        """It comes to nothing: what was made of it is removed."""
        ...


class Feeder:
    """One object's attempts, one after the other."""

    def __init__(self, begin: Callable[[int], Attempt | None]) -> None:
        """begin: starts to unpack the file with this descriptor, which it duplicates; None while there is no turn for it."""
        self._begin = begin
        self._attempt: Attempt | None = None
        self._told = 0  # bytes that may have been read
        self._is_finished = False
        self._restarts_left = RESTARTS_MAX

    def advance(self, fd: int, frontier: int, size: int | None) -> None:
        """The bytes before frontier are in the file at fd; size: of the whole, where it is known."""
        if self._attempt is None:
            if not frontier or self._restarts_left <= 0:
                return
            self._attempt = self._begin(fd)
            if self._attempt is None:
                return
        if size is not None and frontier >= size:
            self._finish(size)
        elif frontier >= self._told + STEP_BYTES:
            self._told = frontier
            self._attempt.advance(frontier)

    def forget(self, start: int = 0) -> None:
        """What the file holds from start on is not right, or is closed."""
        if self._attempt is not None and (self._told > start or not start):
            self._attempt.abandon()
            self._attempt = None
            self._told = 0
            self._is_finished = False
            self._restarts_left -= 1

    def published(self, size: int) -> None:
        """The file was verified and has its final name: what was begun goes on without it."""
        if self._attempt is not None:
            self._finish(size)
        self._attempt = None
        self._restarts_left = 0

    def _finish(self, size: int) -> None:
        assert self._attempt is not None
        if not self._is_finished:
            self._is_finished = True
            self._told = size
            self._attempt.finish(size)
