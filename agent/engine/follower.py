"""A digest that follows the contiguous beginning of a file while the rest of it is still arriving.

It reads what was written just before (from the page cache) in a thread of its own. When the last byte has come, only what arrived
out of order is left to be hashed.
"""

from __future__ import annotations

import mmap
import os

from ...common.digests import new_hasher
from ...common.errors import VerificationFailed
from .crew import Crew, Job
from .pieces import MIB

_READ_BYTES = (
    4 * MIB
)  # each read and each update takes the interpreter's lock, which the event loop is busy with: few and long ones


class HashFollower:
    """The running digest of one open file. Its methods are called in the event loop; only the reading happens in threads."""

    def __init__(self, crew: Crew, fd: int, *, digest: str, size: int | None, name: str) -> None:
        """digest: what the publisher names, which chooses the algorithm; name: of the file, for errors."""
        self._crew = crew
        self._fd = fd
        self._digest = digest
        self._size = size
        self._name = name
        self._hasher = new_hasher(digest, size)
        self._buffer: memoryview | None = None
        self.target = 0  # bytes that are hashed or will be without being asked
        self._job: Job[None] | None = None
        self._stopped = False
        self.position = 0  # bytes hashed; written by the thread while a job runs

    def advance(self, frontier: int) -> None:
        """The bytes up to ``frontier`` are on disk and may be read."""
        self.target = max(self.target, frontier)
        if self._job is None and self.position < self.target and not self._stopped:
            self._job = self._crew.run(self._read, self._read_on)

    async def finish(self, size: int) -> str:
        """``ALGORITHM:HEX`` of the first ``size`` bytes, all of which are on disk.

        Raises VerificationFailed when the file is shorter, OSError when it cannot be read.
        """
        self.advance(size)
        while self.position < size:
            assert self._job is not None
            await self._job.wait()
        return self._hasher.result()

    async def restart(self) -> None:
        """Forget everything: the file begins anew."""
        await self.stop()
        self._stopped = False
        self._hasher = new_hasher(self._digest, self._size)
        self.position = self.target = 0

    async def stop(self) -> None:
        """Read no more. When this returns, no thread uses the descriptor."""
        self._stopped = True
        while self._job is not None:
            try:
                await self._job.wait()
            except (OSError, VerificationFailed):
                pass
        self._buffer = None

    def _read(self) -> None:
        if self._buffer is None:
            self._buffer = memoryview(mmap.mmap(-1, _READ_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        buffer = self._buffer
        while not self._stopped and self.position < self.target:
            count = os.preadv(self._fd, [buffer[: self.target - self.position]], self.position)
            if count == 0:
                raise VerificationFailed(self._name, cause=f"its partial file ends at byte {self.position}")
            self._hasher.update(buffer[:count])
            self.position += count

    def _read_on(self, job: Job[None]) -> None:
        self._job = None
        if job.error is None:
            self.advance(self.target)
