"""One object on its way into a partial file: shared by all leases that this agent holds on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...common.digests import GIT_SHA1
from ...common.errors import Changed, ShoalError
from ...common.intervals import Interval, IntervalSet
from ...common.records import ObjectSpec
from .crew import Crew, Job, done_here
from .feeding import Feeder
from .follower import HashFollower
from .holding import Holding
from .locations import Location
from .memory import BufferPool
from .pieces import KIB
from .writing import Listener, Written, mark_spans, write_spans

if TYPE_CHECKING:
    from ...common.http import Headers
    from ..storage.destination import Destination, Published
    from ..storage.partial import Partial
    from .pieces import Piece


_MARK_BYTES_MIN: Final = 256 * KIB  # smaller writes are recorded together, now and then
_MARK_S_MAX: Final = 0.001  # a mark that takes longer waits for the disk
_FEW_CORES: Final = 4  # with no more, a thread only takes its core from the loop, and every hand-over costs some of it

_CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Transfer:
    """Lives in the event loop; everything that touches the disk goes through the crews."""

    def __init__(
        self,
        spec: ObjectSpec,
        *,
        location: Location | None,
        destination: Destination,
        disk: Crew,
        hashing: Crew,
        buffers: BufferPool,
        feeder: Feeder | None = None,
        relayed: bool = False,
    ) -> None:
        """location: None for an object that is not fetched over HTTP; feeder: of one that is unpacked while it arrives. relayed: its
        chunks are passed on while they come; they are recorded by ``settle``, and written in the loop itself where that never waits.
        """
        self.spec = spec  # its size is filled in once it is known
        self.location = location
        self.holdings: list[Holding] = []
        self.have = IntervalSet()  # bytes on disk
        self.validators: dict[str, str] = {}  # host -> what it says of the object's version
        self.etag = ""  # of the first answer
        self.rangeless = False  # the server sends the whole or nothing
        self.sweeper: Piece | None = None  # the piece whose stream brings the whole body of a rangeless object
        self.doubtful: Headers | None = None  # of an answer that may be an error page
        self.resolving = asyncio.Lock()  # held by the one request that finds out where the bytes are
        self.version: object = None  # of a source file: size and time of change
        self._destination = destination
        self._disk = disk
        self._hashing = hashing
        self._buffers = buffers
        self._partial: Partial | None = None
        self._follower: HashFollower | None = None
        self._feeder = feeder
        self._unmarked = IntervalSet()
        self._marks_are_cheap = not relayed  # until one was seen to wait for the disk, as on a network file system
        self._relayed = relayed
        self._hashable = IntervalSet()
        self._marking = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._poisoned = False  # what still comes belongs to another version
        self._changed: Changed | None = None
        self._resetting = asyncio.Lock()
        self._writing: dict[Job[Written], Interval] = {}
        self.listeners: dict[int, Listener] = {}  # by the byte that each is to hear next
        self.grown: Callable[[Iterable[Interval]], None] = lambda spans: None  # called when these bytes are on disk

    # -- the file

    @property
    def partial(self) -> Partial:
        """The partial file. Only once it is open."""
        assert self._partial is not None
        return self._partial

    @property
    def is_open(self) -> bool:
        return self._partial is not None

    async def open(self, *, create: bool) -> None:
        """Open the partial file, once. Raises what ``Destination.open_partial`` does."""
        async with self._opening:
            if self._partial is not None:
                return
            opened = self._disk.run(partial(self._destination.open_partial, self.spec, create=create), self._opened)
            await opened.wait()

    def _opened(self, job: Job[Partial]) -> None:
        # Here and not behind an await: a task that was cancelled meanwhile must not leave a file open that nobody knows of.
        if job.error is None:
            self._partial = job.result()
            self.have = self._partial.done.copy()
            self._feed()

    def follow(self, *, all_of_it: bool) -> None:
        """Begin to compute the digest of what this agent writes, and with ``all_of_it`` of what is there already.

        Without: another agent's bytes would be read over the network, and most likely another agent publishes.
        """
        if all_of_it:
            self._hashable = self.have.copy()
        if self._follower is None and (self.spec.size is not None or not self.spec.digest.startswith(GIT_SHA1)):
            self._follower = self._new_follower()
        self._advance()

    async def refresh(self) -> None:
        """Learn what other agents have written."""
        file = self.partial

        def read() -> IntervalSet:
            file.refresh()
            return file.done.copy()

        for start, stop in await self._disk.run(read).wait():
            self.have.add(start, stop)
        self._feed()

    def learn_size(self, size: int) -> None:
        """The size of an object that came without one."""
        self.spec = replace(self.spec, size=size)

    # -- bytes

    def write(self, buffer: memoryview, at: int, count: int) -> Job[Written] | None:
        """Write the first ``count`` bytes of ``buffer``, which belong at ``at``, and give the buffer back when that is done.

        Of a rangeless object only what somebody wants is written; None when that is nothing.
        """
        spans: tuple[Interval, ...] = ((at, at + count),)
        if self.rangeless:
            spans = self._wanted(at, at + count)
        if not spans or self._poisoned:
            self._buffers.give(buffer)
            return None
        mark = self._marks_are_cheap and count >= _MARK_BYTES_MIN
        stop = at + count
        listener = self.listeners.get(at)
        if listener is not None and listener.stop >= stop and spans == ((at, stop),):
            del self.listeners[at]
            if stop < listener.stop:
                self.listeners[stop] = listener
        else:
            listener = None
        write = partial(write_spans, self.partial, buffer, at, spans, mark=mark, listener=listener)
        if self._acts_here:
            return done_here(write, partial(self._written, lambda _: self._buffers.give(buffer)))
        return self.submit(write, (at, stop), lambda _: self._buffers.give(buffer))

    @property
    def _acts_here(self) -> bool:
        """Whether to write in the loop: of what is relayed, where no disk makes it wait and no core is free to do it meanwhile."""
        return self._relayed and self.partial.in_memory and _CORES <= _FEW_CORES

    def submit(
        self, call: Callable[[], Written], span: Interval, first: Callable[[Job[Written]], None]
    ) -> Job[Written]:
        """Run in a thread what writes to this span of the partial file. first hears that it is over, before a lease ends by it."""
        job = self._disk.run(call, partial(self._written, first))
        self._writing[job] = span
        return job

    def wrote(self, spans: Iterable[Interval], *, marked: bool = False) -> None:
        """These bytes are on disk now, and maybe in the chunk map too."""
        for start, stop in spans:
            self.have.add(start, stop)
            self._hashable.add(start, stop)
            if not marked:
                self._unmarked.add(start, stop)
            for holding in self.holdings:
                holding.wrote(start, stop)
        self._advance()
        for holding in self.holdings:
            if not holding.want and self.spec.size is not None:
                holding.complete()
        self.grown(spans)

    def _written(self, first: Callable[[Job[Written]], None], job: Job[Written]) -> None:
        first(job)
        self._writing.pop(job, None)
        if isinstance(job.error, Changed):
            self.poison(job.error)
        elif job.error is not None:
            self.fail(job.error)
        else:
            written = job.result()
            self.wrote(written.spans, marked=written.mark_s is not None)
            if (written.mark_s or 0.0) > _MARK_S_MAX:
                self._marks_are_cheap = False

    def _wanted(self, start: int, stop: int) -> tuple[Interval, ...]:
        if self.spec.size is None:
            return ((start, stop),)
        wanted = IntervalSet()
        for holding in self.holdings:
            for a, b in holding.want.present(start, stop):
                wanted.add(a, b)
        return tuple(wanted)

    async def settle(self) -> None:
        """Record in the chunk map what was written. Raises NoSpace, NotWritable: what was not recorded will be tried again."""
        async with self._marking:
            if not self._unmarked:
                return
            spans = tuple(self._unmarked)
            self._unmarked.clear()
            try:
                mark = partial(mark_spans, self.partial, spans)
                if self._acts_here:
                    mark()
                else:
                    await self._disk.run(mark).wait()
            except ShoalError:
                for start, stop in spans:
                    self._unmarked.add(start, stop)
                raise

    async def quiet(self, start: int = 0, stop: int = 1 << 62) -> None:
        """Wait until no thread writes, or none to [start, stop)."""
        while (job := self._writer_of(start, stop)) is not None:
            with suppress(Exception):  # whoever began it hears of it
                await job.wait()

    def _writer_of(self, start: int, stop: int) -> Job[Written] | None:
        return next((job for job, (a, b) in self._writing.items() if a < stop and start < b), None)

    def fail(self, error: BaseException) -> None:
        """Nothing more can be done for any lease on it."""
        for holding in list(self.holdings):
            holding.complete(error)

    # -- the end

    async def digest(self) -> str:
        """``ALGORITHM:HEX`` of the whole partial file; what was followed so far is not read again."""
        assert self.spec.size is not None
        if self._follower is None:
            self._follower = self._new_follower()
        return await self._follower.finish(self.spec.size)

    async def beginning(self, count: int) -> bytes:
        """The first ``count`` bytes of the partial file, or what there is of them."""
        return await self._disk.run(partial(os.pread, self.partial.fd, count, 0)).wait()

    async def reset(self) -> None:
        """Empty the partial file: what it holds is not the object. Whoever fetches must have been stopped before.

        Only for who has the object alone: of one that others write, too, the coordinator begins another life.
        """
        async with self._resetting:
            await self._forget_and(self._empty)

    async def renew(self, spec: ObjectSpec) -> None:
        """Forget what was known of the object in another life than this one's (`ObjectSpec.life`), and close that one's file.

        Raises Changed when it is known that the object has changed in this very life: what comes now would be mixed with what is there.
        """
        async with self._resetting:
            if spec.life != self.spec.life:
                await self._forget_and(self._drop)
                self.spec = spec
        if self._changed is not None:
            raise Changed(self.spec.path, cause=self._changed.cause)

    async def _forget_and(self, act: Callable[[], Awaitable[None]]) -> None:
        was_poisoned = self._poisoned
        self._poisoned = True  # what comes meanwhile must not be taken for what is in the file
        try:
            await self.quiet()
            await self._unfollow()
            async with self._marking:
                self._forget_all()
                await act()
        except BaseException:
            self._poisoned = was_poisoned
            raise
        self._poisoned, self._changed = False, None

    async def _empty(self) -> None:
        if self._partial is not None:
            await self._disk.run(self._partial.reset).wait()

    async def _drop(self) -> None:
        dropped, self._partial = self._partial, None
        if dropped is not None:
            await self._disk.run(dropped.close).wait()

    def _forget_all(self) -> None:
        self._unmarked.clear()
        self.have.clear()
        if self._feeder is not None:
            self._feeder.forget()  # again: it may have begun meanwhile with what was there
        self._hashable.clear()
        self.validators.clear()
        self.version = None
        self.doubtful = None
        self.etag = ""
        self.rangeless = False
        self.sweeper = None

    async def forget(self, start: int, stop: int) -> None:
        """What [start, stop) holds is not right. Whoever fetches it must have been stopped before. Raises what the disk raises."""
        await self.quiet(start, stop)
        async with self._marking:
            for known in (self.have, self._unmarked, self._hashable):
                known.remove(start, stop)
            if self._feeder is not None:
                self._feeder.forget(start)
            if self._follower is not None and self._follower.target > start:
                await self._follower.restart()
                self._advance()
            if self._partial is not None:
                await self._disk.run(partial(self._partial.forget, start, stop)).wait()

    def calm(self) -> None:
        """Somebody else sees to what became of the versions: what comes from now on is taken again."""
        self._poisoned, self._changed = False, None
        self.validators.clear()
        self.version = None

    def poison(self, error: Changed) -> None:
        """The object changed at its origin: nothing more is written in this life of it, and every lease on it hears why."""
        self._poisoned, self._changed = True, error
        self.fail(error)

    async def adopt(self, path: Path) -> None:
        """A file in the same file system that holds the whole object becomes the partial file. Raises what the disk raises."""
        size = self.spec.size
        assert size is not None
        await self.quiet()
        await self._unfollow()
        old, self._partial = self.partial, None

        def swap() -> Partial:
            place = self._destination.path / old.path
            old.close()
            path.replace(place)
            return self._destination.open_partial(self.spec, create=False)

        await self._disk.run(swap, self._opened).wait()
        self.wrote(((0, size),))
        await self.settle()

    async def publish(self, digest: str) -> Published:
        """Give the complete and verified file its final name. Raises what ``Destination.publish`` does."""
        await self.quiet()
        if self._follower is not None:
            await self._follower.stop()
        async with self._marking:
            published = self._disk.run(
                partial(
                    self._destination.publish, self.spec, self.partial, digest=digest, etag=self.spec.etag or self.etag
                ),
                self._published,
            )
            return await published.wait()

    def _published(self, job: Job[Published]) -> None:
        if job.error is None:
            self._partial = None  # closed by its publication
            self._follower = None
            self._unmarked.clear()
            if self._feeder is not None:
                self._feeder.published(job.result().size)

    async def close(self) -> None:
        """Close the partial file, marks written first if that is possible."""
        await self.quiet()
        await self._unfollow()
        if self._partial is not None:
            try:
                await self.settle()
            except ShoalError:
                pass  # the bytes will be fetched again
            opened, self._partial = self._partial, None
            await self._disk.run(opened.close).wait()

    def _advance(self) -> None:
        """Whoever follows the beginning of the file may read on."""
        if self._follower is not None:
            self._follower.advance(self._hashable.frontier(self._follower.position))
        self._feed()

    def _feed(self) -> None:
        if self._feeder is not None and self._partial is not None:
            self._feeder.advance(self._partial.fd, self.have.frontier(), self.spec.size)

    async def _unfollow(self) -> None:
        """Nobody follows this file any more."""
        if self._feeder is not None:
            self._feeder.forget()
        if self._follower is not None:
            await self._follower.stop()
            self._follower = None

    def _new_follower(self) -> HashFollower:
        return HashFollower(
            self._hashing, self.partial.fd, digest=self.spec.digest, size=self.spec.size, name=self.spec.path
        )  # fmt: skip
