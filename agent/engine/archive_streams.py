"""Archives that are unpacked while they arrive: the threads, descriptors and staged folders behind ``feeding.py``.

::

    bytes come ──► Feeder ──► ArchiveStream, a thread: members go into the staged folder, hidden
                                   │ verified, published        │ wrong bytes, closed, an error of its own
                                   ▼                            ▼
         all objects have their names: ``take``, ``commit``    nothing is left; the finished file is unpacked instead

Each stream reads the partial file through a descriptor of its own, mostly from the page cache: so it may lag behind as it likes, and
whoever writes never waits for it. What is wrong with an archive is told by unpacking the finished file, never by a stream: a stream
only saves the time.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...common.errors import Interrupted, ShoalError
from ...common.logs import get_logger
from ...common.records import Delivery, JobSpec, ObjectSpec
from ..unpack.formats import ArchiveFormat, unpack_target
from ..unpack.sources import Arrival
from ..unpack.unpacking import StreamingUnpacker, find_unpacked
from .archives import UnpackPlace, limits_of, unpack_place
from .crew import Job
from .feeding import Feeder
from .options import EngineOptions
from .turns import Turns

if TYPE_CHECKING:
    from ..storage.destination import Destination
    from ..unpack.formats import UnpackTarget

STAGED_MAX: Final = 64
"""Of one job, under way and staged: each keeps up to three descriptors open until the job is whole."""
_WAKE_S: Final = 1.0  # how often one who waits looks whether it was cancelled

log = get_logger("agent.unpack")


class ArchiveStreams:
    """The streams of one job. Lives in the event loop, but for ``take``."""

    def __init__(self, job: JobSpec, destination: Destination, options: EngineOptions, turns: Turns) -> None:
        self._job = job
        self._destination = destination
        self._options = options
        self._turns = turns
        self._streams: dict[int, ArchiveStream] = {}  # by object id; whoever takes one out ends it
        self._made: list[Path] = []  # folders, those above others first
        self._ending = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def feeder(self, spec: ObjectSpec) -> Feeder | None:
        """For an object that is unpacked while it arrives; None for any other.

        A zip is read from its end. Of an object that a fleet brings together this agent sees only its own ranges, and another
        one may finish the job.
        """
        if not self._options.is_alone and self._job.delivery is not Delivery.REPLICATE:
            return None
        try:
            target = unpack_target(spec.path, unpack=self._job.unpack, unpack_format=self._job.unpack_format)
        except ShoalError:
            return None  # said by who unpacks the finished file
        if target is None or target.format is ArchiveFormat.ZIP:
            return None
        return Feeder(partial(self._begin, spec, target))

    def take(self, object_id: int) -> ArchiveStream | None:
        """The stream of an object that has its final name, for a thread that will ``commit`` or ``end`` it."""
        return self._streams.pop(object_id, None)

    async def close(self) -> None:
        """Abandon all, and wait until nothing is left of them, nor of folders that were made for what did not come."""
        for object_id in list(self._streams):
            stream = self.take(object_id)
            if stream is not None:  # else a thread was quicker, and sees to it
                stream.abandon()
        await self._quiet.wait()
        if self._made:
            await self._turns.crew.run(partial(_remove_empty, self._made)).wait()

    def _begin(self, spec: ObjectSpec, target: UnpackTarget, fd: int) -> ArchiveStream | None:
        if not self._turns.is_free or len(self._streams) >= STAGED_MAX or spec.object_id in self._streams:
            return None
        try:
            own_fd = os.dup(fd)
        except OSError:
            return None  # too many are open
        stream = ArchiveStream(
            own_fd,
            spec,
            place=partial(unpack_place, self._destination, self._job, target, self._options),
            format=target.format,
            options=self._options,
            abandoned=partial(self._abandoned, spec.object_id),
        )
        self._streams[spec.object_id] = stream
        self._ending += 1
        self._quiet.clear()
        self._turns.run(stream.run, partial(self._ran, stream))
        return stream

    def _ran(self, stream: ArchiveStream) -> None:
        stream.has_run = True
        self._made.extend(stream.made)
        if stream.is_abandoned:
            self._turns.crew.run(stream.end, self._ended)
        else:
            self._ended()

    def _abandoned(self, object_id: int, stream: ArchiveStream) -> None:
        if self._streams.get(object_id) is stream:
            del self._streams[object_id]
        if stream.has_run:
            self._ending += 1
            self._quiet.clear()
            self._turns.crew.run(stream.end, self._ended)

    def _ended(self, job: Job[None] | None = None) -> None:
        self._ending -= 1
        if not self._ending:
            self._quiet.set()


class ArchiveStream:
    """One attempt to unpack an object while it arrives; as ``feeding.Attempt``."""

    def __init__(
        self,
        fd: int,
        spec: ObjectSpec,
        *,
        place: Callable[[], UnpackPlace],
        format: ArchiveFormat,
        options: EngineOptions,
        abandoned: Callable[[ArchiveStream], None],
    ) -> None:
        """Takes over fd. place opens where it goes, in the thread; abandoned hears, in the loop, of an end that nobody takes over."""
        self._fd = fd
        self._spec = spec
        self._open_place = place
        self._format = format
        self._options = options
        self._abandon = abandoned
        self._arrival = Arrival()
        self._place: UnpackPlace | None = None
        self._unpacker: StreamingUnpacker | None = None
        self._is_staged = False
        self._over = threading.Event()
        self._ending = threading.Lock()
        self.has_run = False  # as the loop knows it
        self.is_abandoned = False

    # -- in the loop

    @property
    def made(self) -> tuple[Path, ...]:
        """The folders that were made to unpack into, once it has run."""
        return self._place.made if self._place is not None else ()

    def advance(self, there: int) -> None:
        """As Attempt."""
        self._arrival.advance(there)

    def finish(self, size: int) -> None:
        """As Attempt."""
        self._arrival.finish(size)

    def abandon(self) -> None:
        """As Attempt. Safe to call twice."""
        if not self.is_abandoned:
            self._cancel()
            self._abandon(self)

    # -- in threads

    def run(self) -> None:
        """Unpack into the staged folder, waiting for the bytes; an error is kept to itself."""
        try:
            self._place = place = self._open_place()
            spec = self._spec
            if spec.digest and find_unpacked(
                place.root, name=spec.path, into=place.into, format=self._format, stamp=spec.digest, work=place.work
            ):
                return
            self._unpacker = StreamingUnpacker(
                place.root,
                self._fd,
                self._arrival,
                name=spec.path,
                into=place.into,
                format=self._format,
                limits=limits_of(self._options),
                cancelled=lambda: self.is_abandoned,
                size=spec.size,
                work=place.work,
                sync=self._options.sync,
            )
            self._unpacker.run()
            self._is_staged = True
        except Exception as error:
            if not self.is_abandoned:
                log.debug("unpack.stream_failed", path=self._spec.path, error=str(error))
        finally:
            self._over.set()

    def commit(self, published_fd: int, stamp: str, cancelled: Callable[[], bool]) -> bool:
        """Put in place what was staged from the file that is open at published_fd; False where that cannot be: nothing is left.

        stamp: as ``unpack_file`` takes it. Waits for the stream. Raises what ``StreamingUnpacker.commit`` does, Interrupted.
        """
        try:
            while not self._over.wait(_WAKE_S):
                if cancelled():
                    raise Interrupted("unpacking", cause="it was cancelled")
            if not self._is_staged or not os.path.samestat(os.fstat(self._fd), os.fstat(published_fd)):
                return False
            place, unpacker = self._place, self._unpacker
            assert place is not None and unpacker is not None
            name, into = self._spec.path, place.into
            if find_unpacked(place.root, name=name, into=into, format=self._format, stamp=stamp, work=place.work):
                return False  # by somebody else meanwhile
            unpacker.commit(stamp)
            return True
        finally:
            self.end()

    def end(self) -> None:
        """Remove what is staged and close everything, once the thread is over. Safe to call twice."""
        self._cancel()
        self._over.wait()
        with self._ending:
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            try:
                if self._unpacker is not None:
                    self._unpacker.discard()
            finally:
                os.close(fd)
                if self._place is not None:
                    self._place.close()

    def _cancel(self) -> None:
        self.is_abandoned = True
        self._arrival.fail(Interrupted("unpacking", cause="it was cancelled"))


def _remove_empty(folders: list[Path]) -> None:
    for folder in reversed(folders):
        with suppress(OSError):  # somebody put something there
            folder.rmdir()
