"""Objects of ``file://`` sources: copied in threads, checked for changes under our hands."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ...common.errors import AccessDenied, Changed, NotFound, TransferError, UsageError
from ..storage.filesystems import disk_error
from .crew import Crew, Job
from .holding import Holding
from .memory import BufferPool
from .pieces import MIB, Piece
from .transfer import Transfer
from .writing import Written

_STEP_BYTES: Final = 4 * MIB  # between two looks at the lease's deadline
_NOT_COPIED_THERE: Final = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EBADF}
)


@dataclass(frozen=True, slots=True)
class Version:
    """What tells that a file was changed: its identity, size and time of change."""

    device: int
    inode: int
    size: int
    modified_ns: int


def path_of(url: str) -> Path:
    """The path that a ``file://`` URL or a plain absolute path names. Raises UsageError."""
    if url.startswith("/"):
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise UsageError(f"source {url[:200]!r}", cause="it is not a file of this machine", remedy="write file:///PATH")
    return Path(unquote(parts.path))


class SourceFile:
    """An open source file. Used in a thread."""

    def __init__(self, url: str) -> None:
        """Raises NotFound, AccessDenied, TransferError."""
        self.path = path_of(url)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"file {self.path}", cause="there is no such file") from None
        except PermissionError:
            raise AccessDenied(f"file {self.path}", cause="this user may not read it") from None
        except OSError as error:
            raise TransferError(f"file {self.path}", cause=(error.strerror or str(error)).lower()) from error

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def version(self) -> Version:
        """As it is now."""
        stat = os.fstat(self._fd)
        return Version(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def check(self, expected_size: int | None, known: object) -> Version:
        """Raises Changed when its size is not the expected one or it is not the version that is known."""
        version = self.version()
        if (expected_size is not None and version.size != expected_size) or (known is not None and version != known):
            raise Changed(f"file {self.path}", cause="it was changed while it was copied")
        return version

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer from the file's beginning; returns how many bytes there were. Raises TransferError."""
        filled = 0
        try:
            while filled < len(buffer) and (count := os.preadv(self._fd, [buffer[filled:]], filled)):
                filled += count
        except OSError as error:
            raise TransferError(f"file {self.path}", cause=(error.strerror or str(error)).lower()) from error
        return filled

    def copy_to(self, fd: int, start: int, stop: int, write: Callable[[memoryview, int], None]) -> None:
        """Copy [start, stop) to the same place of fd, inside the kernel where it can (on some file systems by reference).

        Raises Changed when it ends before, and what ``write`` raises.
        """
        at = start
        while at < stop:
            try:
                count = os.copy_file_range(self._fd, fd, stop - at, at, at)
            except OSError as error:
                if error.errno not in _NOT_COPIED_THERE:
                    raise disk_error(error, f"copy of {self.path}") from error
                self._pump(at, stop, write)
                return
            if count == 0:
                raise Changed(f"file {self.path}", cause=f"it ends at byte {at} now")
            at += count

    def _pump(self, start: int, stop: int, write: Callable[[memoryview, int], None]) -> None:
        buffer = memoryview(bytearray(min(MIB, stop - start)))
        at = start
        while at < stop:
            try:
                count = os.preadv(self._fd, [buffer[: stop - at]], at)
            except OSError as error:
                raise TransferError(f"file {self.path}", cause=(error.strerror or str(error)).lower()) from error
            if count == 0:
                raise Changed(f"file {self.path}", cause=f"it ends at byte {at} now")
            write(buffer[:count], at)
            at += count


class FileFetcher:
    """Brings pieces of files of this machine."""

    def __init__(
        self,
        *,
        disk: Crew,
        buffers: BufferPool,
        clock: Callable[[], float],
        deliver_small: Callable[[Holding, memoryview, int, str], None],
    ) -> None:
        """deliver_small: as for `streams.Fetcher`."""
        self._disk = disk
        self._buffers = buffers
        self._clock = clock
        self._deliver_small = deliver_small

    async def fetch(self, piece: Piece) -> None:
        """Bring the piece, or complete its lease with the error. Raises nothing but CancelledError."""
        holding = piece.work.key
        assert isinstance(holding, Holding) and holding.lane is not None and holding.transfer is not None
        lane, transfer = holding.lane, holding.transfer
        error: Exception | None = None
        try:
            if transfer.is_open:
                await self._copy(piece, holding, transfer)
            else:
                await self._read_small(piece, holding, transfer)
            if piece.dropped or not piece.left:
                return
        except Exception as raised:
            error = raised
        lane.remove(holding, spare=piece)
        holding.complete(error)

    async def _copy(self, piece: Piece, holding: Holding, transfer: Transfer) -> None:
        assert holding.lane is not None
        while piece.left and not piece.dropped and not holding.lapsed(self._clock()):
            start, stop = piece.at, min(piece.stop, piece.at + _STEP_BYTES)
            copy = partial(_copy, transfer, start, stop)
            await transfer.submit(copy, (start, stop), partial(_count, holding)).wait()
            holding.lane.planner.arrived(piece, stop - start, self._clock())

    async def _read_small(self, piece: Piece, holding: Holding, transfer: Transfer) -> None:
        size = transfer.spec.size
        assert size is not None and holding.lane is not None
        buffer = await self._buffers.take()
        reading = self._disk.run(
            partial(_read_small, transfer.spec.url, buffer[:size]), partial(self._have_read, holding, buffer)
        )
        await reading.wait()
        holding.arrived = size
        holding.lane.planner.arrived(piece, size, self._clock())

    def _have_read(self, holding: Holding, buffer: memoryview, job: Job[int]) -> None:
        if job.error is not None:
            self._buffers.give(buffer)
        else:
            holding.fetched += job.result()
            self._deliver_small(holding, buffer, job.result(), "")


def _count(holding: Holding, job: Job[Written]) -> None:
    """Before the lease can end by these bytes: its last report is to name them."""
    if job.error is None:
        holding.fetched += sum(stop - start for start, stop in job.result().spans)


def _copy(transfer: Transfer, start: int, stop: int) -> Written:
    with SourceFile(transfer.spec.url) as source:
        transfer.version = source.check(transfer.spec.size, transfer.version)
        source.copy_to(transfer.partial.fd, start, stop, transfer.partial.write)
        source.check(transfer.spec.size, transfer.version)
    return Written(((start, stop),))


def _read_small(url: str, buffer: memoryview) -> int:
    with SourceFile(url) as source:
        version = source.check(len(buffer), None)
        count = source.read_into(buffer)
        source.check(count, version)
    return count
