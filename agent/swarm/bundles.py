"""Bringing bundles of small files: one by one from the origin, or all in one answer from a peer."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ...common.chunks import Bundle
from ...common.errors import Truncated, VerificationFailed
from ...common.records import ObjectSpec, UnitKind, WorkReport
from ...common.swarm_records import ORIGIN, Arrival, FetchOrder
from ..engine.crew import Job
from ..engine.units import Lapsed
from .errand import Errand, ObjectFailed, Unable, cut_short, expected_digest, own_lease, peer_of
from .looking import NAME_ERRORS, BundlePlaced, digest_of_files, is_ours, publish_bundle

if TYPE_CHECKING:
    from .replica import Replica


class Bundles:
    """The bundles of one copy."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._committing = 0  # threads that give files their names, waited for or not
        self._idle = asyncio.Event()
        self._idle.set()

    async def quiet(self) -> None:
        """Wait until no thread gives a file its name."""
        await self._idle.wait()

    def _commits(self, change: int) -> None:
        self._committing += change
        if self._committing:
            self._idle.clear()
        else:
            self._idle.set()

    async def from_origin(self, errand: Errand, order: FetchOrder) -> Arrival:
        """Its objects are fetched, verified and published one by one."""
        replica = self._replica
        positions = replica.book.missing_of(order.chunk)
        results = await asyncio.gather(*(self._small(errand, position) for position in positions))
        if replica.lapsed():
            raise Lapsed
        failures: list[ObjectFailed] = []
        for position, failure in zip(positions, results, strict=True):
            if failure is not None and isinstance(failure.error, NAME_ERRORS):
                replica.forgo(position, failure.error)
            elif failure is not None:
                failures.append(failure)
        if failures:
            raise min(failures, key=lambda failure: (not is_ours(failure.error), failure.is_retryable))
        self._check_able(order.chunk)
        digest = await self._digest(order.chunk)
        expected = expected_digest(replica, order)
        if expected and digest != expected:
            raise VerificationFailed(f"bundle {order.chunk}", cause="what came is not what the first agent had")
        return Arrival(
            chunk=order.chunk, digest=digest, peer=ORIGIN, from_origin=errand.from_origin, from_peers=errand.from_peers
        )

    def _check_able(self, chunk: int) -> None:
        """Raises ObjectFailed when all is done that can be, but an object cannot have its name: so it is no bundle to pass on."""
        unable = self._replica.book.unable(chunk)
        if unable is not None:
            raise ObjectFailed(unable.object_id, Unable(unable.failure))

    async def _digest(self, chunk: int) -> bytes:
        replica = self._replica
        files = [(at, replica.catalog[at]) for at in replica.book.present_of(chunk)]
        names = {spec.object_id: replica.objects.name_of(spec, at) for at, spec in files}
        destination = replica.context.destination

        def open_file(spec: ObjectSpec) -> int | None:
            digest, etag = names[spec.object_id]
            return destination.open_published(spec, digest=digest, etag=etag)

        read = partial(digest_of_files, open_file, [spec for _, spec in files])
        return await self._replica.shop.hashing.run(read).wait()

    async def _small(self, errand: Errand, position: int) -> ObjectFailed | None:
        """Fetch one small object; what went wrong, if anything did."""
        replica = self._replica
        spec = replica.catalog[position]
        heard: asyncio.Future[WorkReport | BaseException] = asyncio.get_running_loop().create_future()
        is_late = False
        holding = own_lease(replica, f"s{replica.job_id}.o{spec.object_id}", UnitKind.WHOLE, spec)

        def hear(result: WorkReport | BaseException) -> None:
            if isinstance(result, WorkReport):  # also when nobody waits for it any more: the file has its name
                replica.objects.named(position, result.digest, result.etag)
                replica.book.small_placed([position])
                errand.fetched(result.fetched)
                errand.arrived += result.size or 0
            if not heard.done():
                heard.set_result(result)
            if is_late:
                self._commits(-1)

        holding.heard = hear
        replica.shop.units.fetch_small(holding)
        try:
            result = await heard
        except asyncio.CancelledError:
            if holding.committing and heard.cancelled():  # else it has been heard already
                is_late = True
                self._commits(+1)
            if not holding.committing:
                holding.ended = True  # nor is it given a name from now on
            raise
        finally:
            if holding.lane is not None:
                holding.lane.remove(holding)
            transfer = replica.context.transfers.get(spec.object_id)
            if transfer is not None and transfer is holding.transfer:
                del replica.context.transfers[spec.object_id]
        if isinstance(result, WorkReport | Lapsed):
            return None
        return ObjectFailed(spec.object_id, result)

    async def from_peer(self, errand: Errand, order: FetchOrder) -> Arrival:
        """Through one buffer; all files are published by one call."""
        replica, shop = self._replica, self._replica.shop
        positions = replica.book.present_of(order.chunk)
        specs = [replica.catalog[position] for position in positions]
        size = sum(spec.size or 0 for spec in specs)
        missing = set(replica.book.missing_of(order.chunk))
        wanted = [position in missing for position in positions]
        pooled = 0 < size <= shop.buffers.buffer_bytes
        buffer = await shop.buffers.take() if pooled else memoryview(bytearray(size))
        lent = pooled

        def done(job: Job[BundlePlaced]) -> None:
            self._commits(-1)
            if pooled:
                shop.buffers.give(buffer)
            if job.error is None:
                placed = job.result()
                there = [at for place, at in enumerate(positions) if wanted[place] and place not in placed.refused]
                for position, digest in zip(positions, placed.digests, strict=True):
                    replica.objects.named(position, digest, "")
                replica.book.small_placed(there)

        try:
            if size:
                await self._receive_bundle(errand, order, buffer[:size])
            if replica.lapsed():
                raise Lapsed
            data, expected = buffer[:size], expected_digest(replica, order)
            publish = partial(publish_bundle, replica.context.destination, specs, wanted, data, expected)
            job, lent = shop.disk.run(publish, done), False
            self._commits(+1)
        finally:
            if lent:
                shop.buffers.give(buffer)
        placed = await job.wait()
        for place, error in placed.refused.items():
            replica.forgo(positions[place], error)
        self._check_able(order.chunk)
        return Arrival(
            chunk=order.chunk,
            digest=placed.digest,
            peer=order.peer,
            from_origin=errand.from_origin,
            from_peers=errand.from_peers,
        )

    async def _receive_bundle(self, errand: Errand, order: FetchOrder, data: memoryview) -> None:
        replica = self._replica
        peer = peer_of(replica, order.peer)
        part = replica.book.table.chunk(order.chunk)
        assert isinstance(part, Bundle)
        ids = replica.book.table.object_ids
        first, last = ids[part.positions[0]], ids[part.positions[-1]]
        await replica.shop.bytes_turn(peer.address, len(data))
        async with await replica.shop.peers.ask_bundle(peer, replica.job_id, order.chunk, first, last) as response:
            if response.body_length != len(data):
                raise Truncated(
                    f"bundle {order.chunk}", cause=f"the peer has {response.body_length} bytes of {len(data)}"
                )
            count = await response.read_into(data)
        errand.from_peers += count
        errand.arrived = count
        if count < len(data):
            raise cut_short(peer, len(data) - count)
