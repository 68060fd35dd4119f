"""What peers are given: chunks from partial files while these grow, and from files that have their names. See ``peer/stretch.py``."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ...common.chunks import Bundle
from ...common.errors import NotFound
from ...common.records import ObjectSpec
from .objects import ORDER_GRACE_S, Kept, PartialStretch
from .replica import Replica

OpenFile = Callable[[ObjectSpec], int | None]


class FileStretch:
    """Bytes of a file that is complete. Owns the descriptor."""

    def __init__(self, fd: int, start: int, stop: int) -> None:
        self._fd = fd
        self._start = start
        self._stop = stop

    @property
    def length(self) -> int:
        return self._stop - self._start

    def ready(self, sent: int) -> tuple[int, int, int]:
        return self._fd, self._start + sent, self.length - sent

    async def more(self, sent: int) -> None:
        """There is always more."""

    def close(self) -> None:
        os.close(self._fd)


class AgentShelf:
    """Implements ``peer.stretch.Shelf`` for the copies of a worker."""

    def __init__(self, find: Callable[[str], Awaitable[Replica]], change: Callable[[], Awaitable[None]]) -> None:
        """find: the copy of a job, or NotFound; change: waits until copies or their orders have changed."""
        self._find = find
        self._change = change

    async def object_size(self, job_id: str, object_id: int) -> int:
        """See `Shelf`. The size that the origin did not tell is waited for."""
        replica = await self._find(job_id)
        position = _position(replica, object_id)
        kept: Kept | None = None
        try:
            async with asyncio.timeout(ORDER_GRACE_S):
                while (size := replica.catalog[position].size) is None:
                    kept = replica.objects.find(position)
                    await (kept.change() if kept is not None else self._change())
        except TimeoutError:
            raise NotFound(f"object {object_id}", cause="its size is not known") from None
        return size

    async def open_object(self, job_id: str, object_id: int, start: int, stop: int) -> PartialStretch | FileStretch:
        """See `Shelf`."""
        replica = await self._find(job_id)
        position = _position(replica, object_id)
        book = replica.book
        chunks = book.table.chunks_of(position)

        def is_coming(at: int) -> bool:
            if replica.is_over:
                return False
            chunk = chunks.start + (at // book.table.plan.chunk_bytes if len(chunks) > 1 else 0)
            return book.is_placed(position) or book.has(chunk) or book.is_ordered(chunk)

        await self._until(replica, lambda: is_coming(start), object_id)
        if book.is_placed(position):
            return await self._final(replica, position, start, stop)
        if chunks.start < book.table.bundles:
            raise NotFound(f"object {object_id}", cause="it is not here yet")
        kept = replica.objects.get(position)
        kept.users += 1
        try:
            await replica.objects.open(kept)
            if kept.transfer.is_open:
                return PartialStretch(kept, start, stop, is_coming=is_coming)
        finally:
            kept.users -= 1
        return await self._final(replica, position, start, stop)  # it was given its name meanwhile

    async def bundle_size(self, job_id: str, bundle: int, first_object: int, last_object: int) -> int:
        """See `Shelf`."""
        replica = await self._find(job_id)
        specs = [replica.catalog[position] for position in _bundle(replica, bundle, first_object, last_object)]
        return sum(spec.size or 0 for spec in specs)

    async def open_bundle(
        self, job_id: str, bundle: int, first_object: int, last_object: int, start: int, stop: int
    ) -> FileStretch:
        """See `Shelf`. A bundle goes out when all of it is here, from one temporary file: its files may be many."""
        replica = await self._find(job_id)
        _bundle(replica, bundle, first_object, last_object)
        await self._until(replica, lambda: replica.book.has(bundle), bundle)
        positions = replica.book.present_of(bundle)
        specs = [replica.catalog[position] for position in positions]
        fd, lost = await replica.shop.disk.run(partial(_gather, _opener(replica, positions), specs)).wait()
        if lost is not None:
            replica.lost(positions[lost])
            raise NotFound(specs[lost].path, cause="it is not here any more")
        return FileStretch(fd, start, stop)

    async def _until(self, replica: Replica, condition: Callable[[], bool], what: int) -> None:
        """Wait a moment: a peer may have been told before this agent is, or orders are on their way."""
        try:
            async with asyncio.timeout(ORDER_GRACE_S):
                while not condition():
                    if replica.is_over:
                        break
                    await self._change()
        except TimeoutError:
            pass
        if not condition():
            raise NotFound(f"{what} of job {replica.job_id}", cause="it is not here and not on its way")

    async def _final(self, replica: Replica, position: int, start: int, stop: int) -> FileStretch:
        open_file = _opener(replica, [position])
        fd = await replica.shop.disk.run(partial(open_file, replica.catalog[position])).wait()
        if fd is None:
            if replica.book.is_placed(position):
                replica.lost(position)
            raise NotFound(replica.catalog[position].path, cause="it is not here any more")
        return FileStretch(fd, start, stop)


def _position(replica: Replica, object_id: int) -> int:
    position = replica.book.table.position(object_id)
    if position is None:
        raise NotFound(f"object {object_id}", cause=f"it is not of job {replica.job_id}")
    return position


def _bundle(replica: Replica, number: int, first_object: int, last_object: int) -> Sequence[int]:
    """The positions of a bundle's objects that are not given up. Raises NotFound when it is not that bundle."""
    table = replica.book.table
    part = table.chunk(number) if number < table.bundles else None
    if not isinstance(part, Bundle):
        raise NotFound(f"bundle {number}", cause=f"job {replica.job_id} has none of this number")
    ids = table.object_ids
    if (ids[part.positions[0]], ids[part.positions[-1]]) != (first_object, last_object):
        raise NotFound(f"bundle {number}", cause="it begins and ends with other objects")
    return replica.book.present_of(number)


def _opener(replica: Replica, positions: Sequence[int]) -> OpenFile:
    """Opens final files, in a thread."""
    names = {
        spec.object_id: replica.objects.name_of(spec, at) for at in positions for spec in (replica.catalog[at],)
    }  # fmt: skip
    destination = replica.context.destination

    def open_file(spec: ObjectSpec) -> int | None:
        digest, etag = names[spec.object_id]
        return destination.open_published(spec, digest=digest, etag=etag)

    return open_file


def _gather(open_file: OpenFile, specs: Sequence[ObjectSpec]) -> tuple[int, int | None]:
    """The files one after the other in an anonymous one, whose descriptor the caller owns; or (-1, the first that is lost)."""
    out = os.memfd_create("bundle", os.MFD_CLOEXEC) if hasattr(os, "memfd_create") else _anonymous()
    try:
        for number, spec in enumerate(specs):
            if not spec.size:
                continue
            fd = open_file(spec)
            if fd is None:
                os.close(out)
                return -1, number
            try:
                data = os.pread(fd, spec.size, 0)
            finally:
                os.close(fd)
            os.write(out, data)
        return out, None
    except BaseException:
        os.close(out)
        raise


def _anonymous() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
