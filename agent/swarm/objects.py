"""The large objects of a copy that are at work: their partial files, who reads them, what is done to them as a whole.

What touches a whole object (forget, reset, digest, publish, close) waits for what began before it, in order: so an errand that is
ordered after a reset begins after it.

An object that has its final name is not opened any more, not even for a peer that asked a moment before: that would make an empty
partial file anew, which nobody fills and nobody removes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ...common.digests import matches
from ...common.errors import Changed, NotFound
from ...common.intervals import Interval
from ...common.records import Failure, ObjectSpec
from ...common.swarm_records import PublishOrder
from ..engine.jobs import JobContext
from ..engine.reporting import failure_of
from ..engine.transfer import Transfer
from ..engine.units import wrong_digest
from .catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN_IDLE_MAX: Final = 16
"""Partial files that stay open while nobody brings or reads a chunk of them."""
ORDER_GRACE_S: Final = 5.0
"""A peer may be told of a chunk here before this agent is: so long it waits until the chunk is ordered."""


class Kept:
    """A large object without its final name. Lives in the event loop."""

    def __init__(self, position: int, transfer: Transfer) -> None:
        self.position = position
        self.transfer = transfer
        self.users = 0  # errands and readers
        self.placed = ""  # the digest that it was published with, once it has its final name
        self.pending: list[asyncio.Task[None]] = []  # what is done to it as a whole
        self.computing: asyncio.Task[None] | None = None
        self.readers: set[PartialStretch] = set()
        self._waiting: list[tuple[int | None, asyncio.Future[None]]] = []  # bounded by the readers
        transfer.grown = self.grown

    def wake(self) -> None:
        """Something has come, or will not."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_result(None)

    def grown(self, spans: Iterable[Interval]) -> None:
        """These bytes are there now: wake who waits for one of them, and who waits for anything. Most readers wait for others."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for at, future in waiting:
            if at is not None and not any(start <= at < stop for start, stop in spans):
                self._waiting.append((at, future))
            elif not future.done():
                future.set_result(None)

    async def change(self, at: int | None = None) -> None:
        """Wait for `wake`, or until byte ``at`` has come; without it, until any has."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = at, future
        self._waiting.append(waiting)
        try:
            await future
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    def cut(self, start: int = 0, stop: int = 1 << 62) -> None:
        """Whoever reads any of [start, stop) gets nothing more: it is not right."""
        for reader in self.readers:
            if reader.start < stop and start < reader.stop:
                reader.is_cut = True
        self.wake()

    async def earlier(self) -> None:
        """Wait for what is being done to it as a whole."""
        self.pending = [task for task in self.pending if not task.done()]
        if self.pending:
            await asyncio.wait(self.pending)


class PartialStretch:
    """Bytes of a partial file, for a peer; see ``peer/stretch.py``. What has not arrived is waited for as long as it may still come."""

    def __init__(self, kept: Kept, start: int, stop: int, *, is_coming: Callable[[int], bool]) -> None:
        """The file must be open. is_coming: whether the byte at this position is there, or on its way."""
        self.start = start
        self.stop = stop
        self.is_cut = False
        self._kept = kept
        self._is_coming = is_coming
        self._fd = os.dup(kept.transfer.partial.fd)
        kept.users += 1
        kept.readers.add(self)

    @property
    def length(self) -> int:
        return self.stop - self.start

    def ready(self, sent: int) -> tuple[int, int, int]:
        at = self.start + sent
        if self.is_cut:
            return self._fd, at, 0
        return self._fd, at, max(0, min(self.stop, self._kept.transfer.have.frontier(at)) - at)

    async def more(self, sent: int) -> None:
        while not self.ready(sent)[2]:
            if self.is_cut:
                raise Changed(self._kept.transfer.spec.path, cause="what was there of it is not right")
            if self._is_coming(self.start + sent):
                await self._kept.change(self.start + sent)
                continue
            try:
                async with asyncio.timeout(ORDER_GRACE_S):
                    await self._kept.change(self.start + sent)
            except TimeoutError:
                if not self._is_coming(self.start + sent):
                    raise NotFound(self._kept.transfer.spec.path, cause="it is not here and not on its way") from None

    def close(self) -> None:
        os.close(self._fd)
        self._kept.users -= 1
        self._kept.readers.discard(self)
        self._kept.wake()


class Objects:
    """The kept objects of one copy."""

    def __init__(
        self,
        job: JobContext,
        catalog: Catalog,
        *,
        tasks: asyncio.TaskGroup,
        transfer_of: Callable[[JobContext, ObjectSpec], Transfer],
        wants_digest: Callable[[int], bool],
        failed: Callable[[int, BaseException], None],
    ) -> None:
        """wants_digest: whether an object's digest is computed here; failed: the disk lets nothing more be done with it."""
        self._job = job
        self._catalog = catalog
        self._tasks = tasks
        self._transfer_of = transfer_of
        self._wants_digest = wants_digest
        self._failed = failed
        self._kept: dict[int, Kept] = {}
        self._is_sealed = False
        self.names: dict[
            int, tuple[str, str]
        ] = {}  # digest and ETag that objects were published with, where not the listed ones

    def __iter__(self) -> Iterator[Kept]:
        return iter(list(self._kept.values()))

    def find(self, position: int) -> Kept | None:
        """The object, if it is at work."""
        return self._kept.get(position)

    def get(self, position: int) -> Kept:
        """The object, taken to work. Raises UsageError, Refused for a bad URL."""
        kept = self._kept.pop(position, None)
        if kept is None:
            kept = Kept(position, self._transfer_of(self._job, self._catalog[position]))
        self._kept[position] = kept  # last in line to be closed
        return kept

    async def open(self, kept: Kept) -> None:
        """Open its partial file, where it is not and the object has not got its name meanwhile.

        Raises NotFound when the copy is complete without the object, and what the disk raises.
        """
        while True:
            await kept.earlier()
            # From here to the caller nothing waits: what is open now is not just being renamed and closed by a thread.
            if kept.placed:
                return
            if self._is_sealed:
                raise NotFound(kept.transfer.spec.path, cause="the copy is complete without it")
            if kept.transfer.is_open:
                break
            await kept.transfer.open(create=True)
        self.follow(kept.position)

    def follow(self, position: int) -> None:
        """Begin with the object's digest, if it is wanted."""
        kept = self._kept.get(position)
        if kept is not None and kept.transfer.is_open and self._wants_digest(position):
            kept.transfer.follow(all_of_it=True)

    def learn_size(self, kept: Kept, size: int) -> None:
        """The size of an object that came without one."""
        if kept.transfer.spec.size is None:
            kept.transfer.learn_size(size)
        self._catalog.learn_size(kept.position, size)

    def name_of(self, spec: ObjectSpec, position: int) -> tuple[str, str]:
        """Digest and ETag that an object was published with."""
        digest, etag = self.names.get(position, ("", ""))
        return digest or spec.digest, etag or spec.etag

    def named(self, position: int, digest: str, etag: str) -> None:
        """An object was published with this digest and ETag."""
        spec = self._catalog[position]
        if not spec.digest:  # otherwise it tells where the file lies, in every layout
            self.names[position] = digest, etag or spec.etag

    # -- as a whole

    def forget(self, position: int, start: int, stop: int | None, errands: Iterable[asyncio.Task[None]]) -> None:
        """These bytes are not right. errands: that were stopped, but may not have ended."""
        if self._is_sealed:
            return
        kept = self.get(position)
        end = 1 << 62 if stop is None else stop
        kept.cut(start, end)

        async def forget() -> None:
            if stop is None:
                await kept.transfer.reset()
                return
            await self._open_anew(kept)
            for at in [at for at in kept.transfer.listeners if start <= at <= stop]:
                del kept.transfer.listeners[at]
            await kept.transfer.forget(start, stop)

        self._whole(kept, forget, errands, undoes=True)

    def reset(self, position: int, errands: Iterable[asyncio.Task[None]], life: int | None = None) -> None:
        """Nothing of it is right. life: that it has from now on, None for the same; each has a partial file of its own."""
        if life is not None:
            self._catalog.begin_life(position, life)
        if self._is_sealed:
            return
        kept = self.get(position)
        kept.cut()

        async def reset() -> None:
            await self._open_anew(kept)
            kept.transfer.listeners.clear()
            await kept.transfer.reset()
            self._catalog.forget_size(position)
            await kept.transfer.renew(self._catalog[position])
            kept.transfer.spec = self._catalog[position]
            await self._open_anew(kept)
            self.follow(position)

        self._whole(kept, reset, errands, undoes=True)

    def compute(self, position: int, then: Callable[[int, str, Failure | None], None]) -> None:
        """Compute the digest of an object that is whole."""
        kept = self.get(position)

        async def compute() -> None:
            if kept.placed:  # the order to place it and the one to compute its digest have crossed
                then(position, kept.placed, None)
                return
            await kept.transfer.open(create=True)
            kept.transfer.follow(all_of_it=True)
            actual = await kept.transfer.digest()
            spec = kept.transfer.spec
            right = matches(spec.digest, actual)
            then(position, actual, None if right else failure_of(wrong_digest(spec, actual)))

        kept.computing = self._whole(kept, compute)

    def place(self, position: int, order: PublishOrder, then: Callable[[int], None]) -> None:
        """Give a whole object its final name."""
        kept = self.get(position)

        async def place() -> None:
            transfer = kept.transfer
            await transfer.open(create=True)
            transfer.etag = order.etag or transfer.etag
            await transfer.publish(order.digest)
            kept.placed = order.digest
            self.named(position, order.digest, transfer.spec.etag or transfer.etag)
            if (
                kept.pending[-1] is task
            ):  # else what comes after goes on with this one: there must not be two of an object
                del self._kept[position]
                self._job.transfers.pop(transfer.spec.object_id, None)
            then(position)

        task = self._whole(kept, place)

    def close_idle(self) -> None:
        """Close partial files that nobody needs at present, but for the last few."""
        idle = [kept for kept in self._kept.values() if self._is_idle(kept)]
        for kept in idle[: max(0, len(idle) - OPEN_IDLE_MAX)]:
            self._whole(kept, kept.transfer.close)

    def _is_idle(self, kept: Kept) -> bool:
        transfer = kept.transfer
        busy = kept.users or not all(task.done() for task in kept.pending) or self._wants_digest(kept.position)
        return transfer.is_open and not busy and self._catalog[kept.position].size is not None

    async def settle(self) -> None:
        """Record in the chunk maps what was written. Raises NoSpace, NotWritable."""
        for kept in self:
            if kept.transfer.is_open and kept.users:
                await kept.transfer.settle()

    async def seal(self) -> None:
        """The copy is complete. What has no name was given up: it is closed, and from now on nothing is opened or begun anew."""
        self._is_sealed = True
        for kept in self:
            if not kept.placed:
                kept.cut()
            await kept.earlier()
            await kept.transfer.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(ORDER_GRACE_S):
                    while (
                        kept.readers and not kept.placed
                    ):  # their descriptors would keep the partial file from being removed
                        await kept.change()

    def cut_all(self) -> None:
        """Nobody reads partial files any more."""
        for kept in self._kept.values():
            kept.cut()

    async def _open_anew(self, kept: Kept) -> None:
        """Also where it was placed: what has the name is not right, and is replaced in the end."""
        kept.placed = ""
        await kept.transfer.open(create=True)

    def _whole(
        self,
        kept: Kept,
        act: Callable[[], Awaitable[None]],
        errands: Iterable[asyncio.Task[None]] = (),
        *,
        undoes: bool = False,
    ) -> asyncio.Task[None]:
        before = [task for task in (*kept.pending, *errands) if not task.done()]
        if kept.computing is not None and undoes:
            kept.computing.cancel()

        async def run() -> None:
            try:
                if before:
                    await asyncio.wait(before)
                await act()
            except Exception as error:
                self._failed(kept.position, error)

        task = self._tasks.create_task(run(), name=f"shoal-object-{kept.position}")
        kept.pending = [*(task for task in kept.pending if not task.done()), task]
        return task


def part_name(spec: ObjectSpec, chunk: int) -> str:
    """A chunk as errors name it."""
    return f"{spec.path} (chunk {chunk})"
