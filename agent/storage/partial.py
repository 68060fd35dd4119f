"""A partial file that several agents on a shared folder may write to at once, each its own ranges."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from ...common.errors import Busy, NoSpace
from ...common.intervals import IntervalSet
from ...common.paths import SafeRoot
from .chunkmap import ChunkMapWriter
from .filesystems import disk_error

PART = ".part"
MAP = ".map"
"""Endings of a partial file and of a chunk map beside it: KEY.part, KEY.AGENT.map."""


class Partial:
    """An open partial file with its chunk maps. Made by ``Destination.open_partial``; the caller closes it. Thread-safe.

    fd is open for reading and writing. done is what the maps said when it was opened (every agent's) and what was marked here
    since; ``refresh`` asks again. fresh says that nothing of it existed before, in_memory that no disk can make a write wait.
    """

    def __init__(
        self,
        fd: int,
        *,
        thing: str,
        root: SafeRoot,
        path: str,
        size: int | None,
        writer: ChunkMapWriter,
        durable: bool,
        fresh: bool,
        in_memory: bool,
        preallocate: Callable[[int, int], None],
        read_maps: Callable[[], IntervalSet],
    ) -> None:
        """Takes over fd and writer. path is below root; thing names the object in errors; durable: fdatasync before marks."""
        self.fd = fd
        self.done = IntervalSet() if fresh else read_maps()
        self.fresh = fresh
        self.in_memory = in_memory
        self.path = path
        self._thing = thing
        self._root = root
        self._size = size
        self._writer = writer
        self._durable = durable
        self._preallocate = preallocate
        self._read_maps = read_maps
        self._lock = threading.Lock()
        self.guard: Callable[[], None] = lambda: None
        """Raises Busy when another run may work on the file by now: then nothing that it holds may be thrown away."""
        stat = os.fstat(fd)
        self._inode = stat.st_dev, stat.st_ino

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of data at offset.

        Raises NoSpace, NotWritable, and Busy when the file is no longer a partial: an agent that was frozen past its
        lease must not write into what another one has published since.
        """
        try:
            self.check_ours()
            written = os.pwrite(self.fd, data, offset)
            while written < len(data):
                more = os.pwrite(self.fd, data[written:], offset + written)
                if more == 0:
                    raise NoSpace(self._thing, cause="the file system takes no more bytes")
                written += more
        except OSError as error:
            raise disk_error(error, self._thing) from error

    def mark(self, start: int, stop: int) -> None:
        """Record that [start, stop) is written. Raises NoSpace, NotWritable; then it is as if it had not been called.

        On a network file system the bytes are made durable first, because this machine's page cache is not what others read;
        so they are for an object without a digest, because nothing would notice their loss. Elsewhere that is not needed: the
        page cache survives ``kill -9``, and what a power failure takes is noticed by the digest.
        """
        try:
            if self._durable:
                os.fdatasync(self.fd)
            self._writer.append(start, stop)
        except OSError as error:
            raise disk_error(error, self._thing) from error
        with self._lock:
            self.done.add(start, stop)

    def refresh(self) -> None:
        """Read the chunk maps again, for what other agents have marked since, into ``done``."""
        found = self._read_maps()
        with self._lock:
            for start, stop in found:
                self.done.add(start, stop)

    def reset(self) -> None:
        """Forget everything, as after a digest that does not match: no map, no byte. Raises NoSpace, NotWritable, Busy.

        The maps go first, so that a crash on the way leaves none that claims what is not there.
        """
        self.guard()
        with self._lock:
            try:
                self.check_ours()
                self._writer.clear()
                remove_maps(self._root, self.path, but=self._writer.name)
                self.done.clear()
                os.ftruncate(self.fd, 0)
                if self._size is not None:
                    self._preallocate(self.fd, self._size)
            except OSError as error:
                raise disk_error(error, self._thing) from error

    def forget(self, start: int, stop: int) -> None:
        """Forget [start, stop): no map claims it any more. Raises NoSpace, NotWritable; then less may be claimed than is there."""
        self.guard()
        with self._lock:
            try:
                self._writer.clear()
                remove_maps(self._root, self.path, but=self._writer.name)
                self.done.remove(start, stop)
                for a, b in self.done:
                    self._writer.append(a, b)
            except OSError as error:
                raise disk_error(error, self._thing) from error

    def discard(self) -> None:
        """Remove the file and all of its maps, and close. Leaves alone what another agent has put in its place."""
        with suppress(OSError, Busy):
            self.guard()
            self.check_ours()
            remove_maps(self._root, self.path)
            self._root.unlink_beneath(self.path)
        self.close()

    def remove_maps(self) -> None:
        """Remove all chunk maps, once the file has its final name. Raises OSError."""
        remove_maps(self._root, self.path)

    def close(self) -> None:
        """Close the descriptors. Safe to call twice."""
        with self._lock:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        self._writer.close()

    def check_ours(self) -> None:
        """Raise Busy when the name of the partial file no longer stands for the file that is open here, NotWritable when none tells."""
        try:
            stat = self._root.stat_beneath(self.path)
        except FileNotFoundError:
            stat = None
        except OSError as error:
            raise disk_error(error, self._thing) from error
        if stat is None or (stat.st_dev, stat.st_ino) != self._inode:
            raise Busy(self._thing, cause="its partial file was published or removed by another agent meanwhile")


def map_names(root: SafeRoot, part: str) -> list[str]:
    """The names of the chunk maps beside the partial file at this path below root."""
    folder, _, name = part.rpartition("/")
    prefix = name.removesuffix(PART) + "."
    return [found for found in root.listdir_beneath(folder) if found.startswith(prefix) and found.endswith(MAP)]


def remove_maps(root: SafeRoot, part: str, *, but: str = "") -> None:
    """Remove the chunk maps beside the partial file at this path below root, all but one where named. Raises OSError."""
    folder = part.rpartition("/")[0]
    for name in map_names(root, part):
        if name != but:
            with suppress(FileNotFoundError):
                root.unlink_beneath(f"{folder}/{name}")
