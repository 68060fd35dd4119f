"""Bringing chunks: from the origin with the range engine, from peers over HTTP, in parts or in bundles.

A chunk may be begun at one source and go on at another: what is on the disk stays. So each attempt begins with what is missing, and
ends with the digest of the whole chunk, which was followed while its bytes were written in order, or else is read back.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from ...common.chunks import Bundle, Part
from ...common.errors import Changed, ShoalError, TransferError, VerificationFailed
from ...common.records import UnitKind
from ...common.swarm_records import MIXED, ORIGIN, Arrival, FetchFailure, FetchOrder
from ..engine.crew import Job
from ..engine.filling import FillSize
from ..engine.reporting import failure_of
from ..engine.streams import finish_writing
from ..engine.transfer import Transfer
from ..engine.units import Lapsed
from ..engine.writing import Written
from .bundles import Bundles
from .errand import RESUMED, UNKNOWN_STOP, Errand, ObjectFailed, Unable, cut_short, expected_digest, own_lease, peer_of
from .looking import NAME_ERRORS, ChunkHash, is_ours
from .objects import Kept, part_name

if TYPE_CHECKING:
    from .replica import Replica


class Errands:
    """The chunks of one copy that are under way."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._bundles = Bundles(replica)
        self._errands: dict[int, Errand] = {}

    def bring(self, order: FetchOrder) -> None:
        """Bring a chunk, or go on with it from another source."""
        errand = self._errands.setdefault(order.chunk, Errand(order.chunk))
        earlier = self._cancel(errand)
        task = self._replica.tasks.create_task(self._attempt(errand, order, earlier), name=f"shoal-chunk-{order.chunk}")
        errand.tasks.append(task)

    def stop(self, chunk: int) -> None:
        """Bring it no more; what came stays."""
        errand = self._errands.get(chunk)
        if errand is not None:
            self._cancel(errand)

    def forget(self, chunk: int) -> list[asyncio.Task[None]]:
        """Stop, and begin from nothing when it is ordered again. Returns what has not ended yet."""
        errand = self._errands.pop(chunk, None)
        return self._cancel(errand) if errand is not None else []

    def progress(self, chunk: int) -> int:
        """Bytes of the chunk that have come."""
        replica = self._replica
        part = replica.book.table.chunk(chunk)
        if isinstance(part, Bundle):
            errand = self._errands.get(chunk)
            return errand.arrived if errand is not None else 0
        kept = replica.objects.find(part.position)
        if kept is None:
            return 0
        stop = UNKNOWN_STOP if part.stop is None else part.stop
        return sum(b - a for a, b in kept.transfer.have.present(part.start, stop))

    async def quiet(self) -> None:
        """Wait until nobody brings anything and no thread gives a file its name: attempts that were cancelled leave such ones."""
        while tasks := [task for errand in self._errands.values() for task in errand.tasks if not task.done()]:
            await asyncio.wait(tasks)
        await self._bundles.quiet()

    def _cancel(self, errand: Errand) -> list[asyncio.Task[None]]:
        errand.tasks = [task for task in errand.tasks if not task.done()]
        for task in errand.tasks:
            task.cancel()
        return list(errand.tasks)

    # -- an attempt

    async def _attempt(self, errand: Errand, order: FetchOrder, earlier: list[asyncio.Task[None]]) -> None:
        if earlier:
            await asyncio.wait(earlier)
        replica = self._replica
        part = replica.book.table.chunk(order.chunk)
        object_id = 0
        try:
            if isinstance(part, Part):
                arrival = await self._bring_part(errand, order, part)
            elif order.peer == ORIGIN:
                arrival = await self._bundles.from_origin(errand, order)
            else:
                arrival = await self._bundles.from_peer(errand, order)
        except Lapsed:
            return
        except Exception as raised:
            error: BaseException = raised
            if isinstance(raised, ObjectFailed):
                object_id, error = raised.object_id, raised.error
            if is_ours(error):
                replica.fail(error)
                return
            told = error.failure if isinstance(error, Unable) else failure_of(error)
            failure = FetchFailure(chunk=order.chunk, peer=order.peer, failure=told, object_id=object_id)
            replica.perform(replica.book.failed(failure))
            if isinstance(part, Part) and isinstance(error, NAME_ERRORS):
                replica.forgo(part.position, error)
            replica.objects.close_idle()
            return
        self._errands.pop(order.chunk, None)
        replica.perform(replica.book.arrived(arrival))
        replica.objects.close_idle()

    # -- parts

    async def _bring_part(self, errand: Errand, order: FetchOrder, part: Part) -> Arrival:
        objects = self._replica.objects
        kept = objects.get(part.position)
        kept.users += 1
        try:
            await objects.open(kept)
            while True:
                arrival = await self._fill_part(errand, order, part, kept)
                if arrival is not None:
                    return arrival
        finally:
            kept.users -= 1

    async def _fill_part(self, errand: Errand, order: FetchOrder, part: Part, kept: Kept) -> Arrival | None:
        """Bring what is missing, and check it; None when all of it must come again."""
        transfer = kept.transfer
        start, stop = part.start, part.stop
        await transfer.quiet(start, UNKNOWN_STOP if stop is None else stop)
        if stop is None:
            if transfer.spec.size is None and transfer.have:
                await transfer.reset()  # without a size there is nothing that an old part could be held against
            if transfer.spec.size is None and order.size is not None:
                self._replica.objects.learn_size(kept, order.size)
            stop = transfer.spec.size
        self._listen(errand, transfer, start, stop)
        missing: list[tuple[int, int | None]] = [(start, None)]
        if stop is not None:
            missing = [*transfer.have.missing(start, stop)]
        if order.peer == ORIGIN:
            if missing:
                await self._from_origin(errand, kept, missing)
        else:
            for a, b in missing:
                await self._from_peer(errand, kept, order.peer, a, b)
        if stop is None:
            stop = transfer.spec.size
            assert stop is not None, "whoever brings all of an object knows its size then"
            self._replica.objects.learn_size(kept, stop)
        digest = await self._digest(errand, transfer, start, stop)
        expected = expected_digest(self._replica, order)
        if expected and digest != expected:
            was_mixed = errand.sources != {order.peer}
            kept.cut(start, stop)
            await transfer.forget(start, stop)
            errand.hash = None
            errand.sources.clear()
            if was_mixed:
                self._replica.book.spoiled(order.chunk)
                self._replica.perform(())
                return None  # nobody knows whose bytes were wrong: all of it from one source tells
            name = part_name(transfer.spec, order.chunk)
            raise VerificationFailed(name, cause="what came is not what the first agent had that fetched it")
        await transfer.settle()  # what others are told that we hold survives a kill
        return Arrival(
            chunk=order.chunk,
            digest=digest,
            peer=order.peer if errand.sources <= {order.peer} else MIXED,
            from_origin=errand.from_origin,
            from_peers=errand.from_peers,
            etag=transfer.etag if order.peer == ORIGIN else "",
            size=stop if part.stop is None else None,
        )

    def _listen(self, errand: Errand, transfer: Transfer, start: int, stop: int | None) -> None:
        """Follow the digest from where the bytes on disk end, if all before has been followed."""
        end = UNKNOWN_STOP if stop is None else stop
        at = min(end, transfer.have.frontier(start))
        if errand.hash is None and at == start:
            errand.hash = ChunkHash(start, end)
        elif errand.hash is None:
            errand.sources.add(RESUMED)
        if errand.hash is not None and errand.hash.position == at < end:
            transfer.listeners[at] = errand.hash

    async def _digest(self, errand: Errand, transfer: Transfer, start: int, stop: int) -> bytes:
        await transfer.quiet(start, stop)
        hashed = errand.hash or ChunkHash(start, stop)
        errand.hash = None  # a thread may be at it: nobody else goes on with it
        for at in [at for at, listener in transfer.listeners.items() if listener is hashed]:
            del transfer.listeners[at]
        if hashed.position == stop:
            return hashed.finish(-1, stop)
        fd = os.dup(transfer.partial.fd)  # the file may be closed while the thread reads

        def read_back() -> bytes:
            try:
                return hashed.finish(fd, stop)
            finally:
                os.close(fd)

        return await self._replica.shop.hashing.run(read_back).wait()

    async def _from_origin(self, errand: Errand, kept: Kept, missing: list[tuple[int, int | None]]) -> None:
        """By the range engine, each gap in one piece: what arrives in order can be passed on."""
        replica, transfer = self._replica, kept.transfer
        piece_bytes = replica.shop.options.pieces.piece_bytes_first
        spans = [(a, piece_bytes if b is None else b) for a, b in missing]
        holding = own_lease(replica, f"s{replica.job_id}.{errand.chunk}", UnitKind.RANGE, transfer.spec, *spans[0])
        if transfer.spec.size is not None:
            for a, b in spans:
                holding.want.add(a, b)
        replica.shop.units.attach(holding)
        lane = replica.shop.lane_for(replica.context, transfer.spec)
        if transfer.location is not None and not transfer.location.located:
            lane.planner.limit(transfer, 1)
        try:
            lane.add(holding, transfer, spans, undivided=True)
            await holding.completed()
        except Changed:
            transfer.calm()  # all of its chunks are compared by the coordinator, which begins the object anew
            raise
        finally:
            holding.ended = True
            lane.remove(holding)
            if holding in transfer.holdings:
                transfer.holdings.remove(holding)
            errand.fetched(holding.take_fetched())
        if holding.want or replica.lapsed():
            raise Lapsed

    async def _from_peer(self, errand: Errand, kept: Kept, number: int, start: int, stop: int | None) -> None:
        replica, transfer = self._replica, kept.transfer
        shop = replica.shop
        object_id = transfer.spec.object_id
        span = None if stop is None else (start, stop)
        peer = peer_of(replica, number)
        async with await shop.peers.ask_object(peer, replica.job_id, object_id, span) as response:
            if stop is None:
                stop = response.body_length
                if stop is None:
                    raise TransferError(f"peer {peer.address}", cause="it does not tell the size of what it sends")
                replica.objects.learn_size(kept, stop)
            fill = FillSize(shop.clock())
            writing: Job[Written] | None = None
            at, came = start, 0
            while at < stop:
                await shop.bytes_turn(peer.address, min(fill.bytes, stop - at))
                buffer = await shop.buffers.take()
                wanted = min(fill.bytes, stop - at, len(buffer))
                failure: ShoalError | None = None
                try:
                    count = await response.read_into(buffer[:wanted])
                except TransferError as error:
                    count, failure = response.received_bytes - came, error
                except BaseException:
                    shop.buffers.give(buffer)
                    raise
                came += count
                fill.arrived(count, shop.clock())
                if writing is not None:
                    await finish_writing(writing, shop.buffers, buffer)
                if not count or replica.lapsed():
                    shop.buffers.give(buffer)
                    raise failure or (Lapsed() if replica.lapsed() else cut_short(peer, stop - at))
                errand.from_peers += count
                errand.sources.add(number)
                writing = transfer.write(buffer, at, count)
                if writing is None:
                    raise Changed(transfer.spec.path)
                at += count
                if failure is not None:
                    raise failure
            if writing is not None:
                await writing.wait()
