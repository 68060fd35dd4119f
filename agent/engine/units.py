"""What each kind of unit asks for, step by step.

======== ===================================================================================
unit     steps
======== ===================================================================================
PREPARE  make the destination
WHOLE    is it there? fetch, verify, publish
OPEN     is it there? open the partial file, tell what it holds
RANGE    fetch what of [start, stop) is missing
PUBLISH  is every byte there? verify, publish
FINALIZE write the manifest
======== ===================================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ...common.digests import matches, new_hasher
from ...common.errors import Changed, ShoalError, VerificationFailed
from ...common.records import Delivery, ObjectSpec, OriginKind, Outcome, UnitKind, WorkReport
from .crew import Crew, Job
from .elsewhere import claimed
from .holding import Holding
from .jobs import JobContext
from .locations import Location
from .memory import BufferPool
from .options import CHANGES_MAX, EngineOptions
from .rules import check_job, check_object
from .transfer import Transfer
from .validation import PAGE_BYTES_MAX, page_error

if TYPE_CHECKING:
    from ..storage.claims import HeldElsewhere
    from ..storage.destination import Destination, Published
    from .lanes import Lane


class ListObjects(Protocol):
    """Lists a job's published objects, by ascending id; unfinished ones as well if asked for, but none that failed for good."""

    def __call__(self, job_id: str, *, unfinished_too: bool = False) -> AsyncIterator[Sequence[ObjectSpec]]: ...


class Lapsed(Exception):
    """The lease is no longer ours; nobody is told."""


class Units:
    """Does the work of leases, one call each."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        disk: Crew,
        hashing: Crew,
        buffers: BufferPool,
        clock: Callable[[], float],
        lane_for: Callable[[JobContext, ObjectSpec], Lane],
        list_objects: ListObjects,
        fill: Callable[[Holding, Transfer], Awaitable[bool]],
        finished: Callable[[Holding, WorkReport | BaseException], None],
    ) -> None:
        """Args:
        lane_for: the connections to an object's origin.
        fill: brings a whole object into its partial file by another program; False where our own engine is to do it.
        finished: hears of small objects, which have no task of their own.
        """
        self._options = options
        self._disk = disk
        self._hashing = hashing
        self._buffers = buffers
        self._clock = clock
        self._lane_for = lane_for
        self._list_objects = list_objects
        self._fill = fill
        self._finished = finished

    async def run(self, holding: Holding) -> WorkReport:
        """Do the unit's work; the report is its last. Raises ShoalError, Lapsed. WHOLE comes by `admit` first."""
        kind = holding.lease.kind
        if kind is UnitKind.PREPARE:
            return await self._prepare(holding)
        await holding.job.check_shared()
        if kind is UnitKind.OPEN:
            return await self._open(holding)
        if kind is UnitKind.RANGE:
            return await self._range(holding)
        if kind is UnitKind.PUBLISH:
            return await self._publish(holding)
        if kind is UnitKind.FINALIZE:
            return await self._finalize(holding)
        return await self._whole(holding)

    # -- whole objects

    def is_small(self, spec: ObjectSpec) -> bool:
        """Whether the object goes through one buffer in memory."""
        return spec.size is not None and spec.size <= self._buffers.buffer_bytes

    def fetch_small(self, holding: Holding) -> None:
        """Fetch, verify and publish a small object that is not there yet; `finished` hears of it. Never blocks."""
        spec = holding.spec
        try:
            if spec.size == 0:
                self.publish_small(holding, memoryview(b""), 0, "")
                return
            assert spec.size is not None
            self.attach(holding)
            holding.gave_up = lambda error: self._finished(holding, error or Lapsed())
            self._lane_for(holding.job, spec).add(holding, holding, [(0, spec.size)], undivided=True)
        except ShoalError as error:
            self._finished(holding, error)

    def publish_small(self, holding: Holding, buffer: memoryview, size: int, etag: str) -> None:
        """Verify and publish the first ``size`` bytes of the buffer, which goes back to the pool."""
        if holding.lapsed(self._clock()):
            if size:
                self._buffers.give(buffer)
            self._finished(holding, Lapsed())
            return
        holding.committing = True
        publish = partial(_publish_small, holding.job.destination, holding.spec, buffer[:size], etag)
        self._disk.run(publish, partial(self._small_published, holding, buffer if size else None, etag))

    def _small_published(self, holding: Holding, buffer: memoryview | None, etag: str, job: Job[Published]) -> None:
        if buffer is not None:
            self._buffers.give(buffer)
        if job.error is not None:
            self._finished(holding, job.error)
        else:
            self._finished(holding, self.done(holding, job.result(), etag))

    async def _whole(self, holding: Holding) -> WorkReport:
        transfer = await self._attach_now(holding)
        for changes_left in range(CHANGES_MAX, -1, -1):
            try:
                await self._fetch_all(holding, transfer)
                break
            except Changed:
                self._remove(holding)
                await transfer.reset()
                transfer.spec = holding.spec
                if not changes_left or holding.job.pinned(holding.spec):
                    raise  # the version that the job was listed with is gone
                holding.begin_anew()
                if transfer.location is not None:
                    transfer.location.pardon()
        return await self._verify_and_publish(holding, transfer)

    async def _fetch_all(self, holding: Holding, transfer: Transfer) -> None:
        await transfer.open(create=True)
        size = transfer.spec.size
        if size is None and transfer.have:
            await transfer.reset()  # without a size there is nothing that an old part could be held against
        if await self._fill(holding, transfer):
            return
        transfer.follow(all_of_it=True)
        if size is None:
            await self._fetch(holding, transfer, 0, self._options.pieces.piece_bytes_first)
        else:
            await self._fetch(holding, transfer, 0, size)

    # -- parts of objects

    async def _open(self, holding: Holding) -> WorkReport:
        present = await self._claim(holding)
        if present is not None:
            return self.done(holding, present, "")
        transfer = await self._attach_now(holding)
        if transfer.is_open and len(transfer.holdings) == 1:
            await transfer.close()  # other agents may have written, or begun anew, since it was opened here
        elif transfer.is_open:
            await transfer.refresh()  # ranges of it are at work here: it stays open, but others may have written, too
        await transfer.open(create=True)
        await self._fill(holding, transfer)
        transfer.follow(all_of_it=True)
        return self._report(holding, done=tuple(transfer.have))

    async def _claim(self, holding: Holding) -> Published | None:
        """The object when it is there; otherwise it is ours to fetch. Raises Busy when another run has it all the time."""
        found: list[Published | Exception | None] = []

        async def ask(holdings: Sequence[Holding]) -> list[Published | HeldElsewhere | None]:
            return [await self._disk.run(partial(holding.job.destination.claim, holding.spec)).wait()]

        await claimed([holding], ask, lambda _, answer: found.append(answer), self._clock)
        if not found:
            raise Lapsed
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    async def _hold(self, holding: Holding) -> None:
        """Be one of those who keep other runs from the object. Raises Busy when one has taken it over."""
        destination = holding.job.destination
        if holding.job.spec.delivery is Delivery.SPREAD and not destination.holds(holding.spec):
            await self._disk.run(partial(destination.hold, holding.spec)).wait()

    async def _range(self, holding: Holding) -> WorkReport:
        lease = holding.lease
        await self._hold(holding)
        transfer = await self._attach_now(holding)
        await transfer.open(create=False)
        transfer.follow(all_of_it=False)
        if remembered := tuple(transfer.have.present(lease.start, lease.stop)):
            await self._disk.run(transfer.partial.check_ours).wait()  # of a file that is gone it would be worth nothing
        for start, stop in remembered:
            holding.unreported.add(start, stop)
            holding.arrived += stop - start
        try:
            await self._fetch(holding, transfer, lease.start, lease.stop)
        except Changed:
            self._remove(holding)
            holding.unreported.clear()
            raise
        await transfer.settle()
        return self._report(holding, done=self.take_unreported(holding))

    async def _fetch(self, holding: Holding, transfer: Transfer, start: int, stop: int) -> None:
        missing = list(transfer.have.missing(start, stop))
        if transfer.spec.size is not None:
            for a, b in missing:
                holding.want.add(a, b)
        if missing:
            lane = self._lane_for(holding.job, holding.spec)
            if transfer.location is not None and not transfer.location.located:
                lane.planner.limit(transfer, 1)
            lane.add(holding, transfer, missing, undivided=transfer.spec.size is None)
            await holding.completed()
        self._remove(holding)
        if holding.lapsed(self._clock()):
            raise Lapsed

    async def _publish(self, holding: Holding) -> WorkReport:
        await self._hold(holding)
        transfer = await self._attach_now(holding)
        await transfer.open(create=False)
        size = transfer.spec.size
        assert size is not None, "only objects of known size are published by a lease of their own"
        if not transfer.have.covers(0, size):
            await transfer.refresh()
        if not transfer.have.covers(0, size):
            there = sum(b - a for a, b in transfer.have.present(0, size))
            raise VerificationFailed(
                holding.spec.path,
                cause=f"only {there} of its {size} bytes are in the partial file",
                remedy="it is fetched again",
            )
        return await self._verify_and_publish(holding, transfer)

    async def _verify_and_publish(self, holding: Holding, transfer: Transfer) -> WorkReport:
        await transfer.quiet()
        if transfer.doubtful is not None and not transfer.spec.digest and (transfer.spec.size or 0) <= PAGE_BYTES_MAX:
            error = page_error(transfer.spec.path, transfer.doubtful, await transfer.beginning(PAGE_BYTES_MAX))
            if error is not None:
                await transfer.reset()
                raise error
        actual = await transfer.digest()
        if not matches(transfer.spec.digest, actual):
            await transfer.reset()
            raise wrong_digest(transfer.spec, actual)
        if holding.lapsed(self._clock()):
            raise Lapsed
        holding.committing = True
        published = await transfer.publish(actual)
        return self.done(holding, published, transfer.etag)

    # -- jobs

    async def _prepare(self, holding: Holding) -> WorkReport:
        holding.committing = True
        await self._disk.run(holding.job.destination.prepare).wait()
        return self._report(holding)

    async def _finalize(self, holding: Holding) -> WorkReport:
        holding.committing = True
        pages = self._list_objects(holding.lease.job_id)
        objects = _from_thread(pages, asyncio.get_running_loop())
        await self._disk.run(partial(holding.job.destination.finalize, objects)).wait()
        if holding.job.spec.unpack:
            from .archives import unpack_all

            objects = _from_thread(self._list_objects(holding.lease.job_id), asyncio.get_running_loop())
            unpack = partial(
                unpack_all,
                holding.job.destination,
                holding.job.spec,
                objects,
                self._options,
                cancelled=lambda: holding.ended,
                streams=holding.job.streams,
            )
            await self._disk.run(unpack).wait()
        return self._report(holding)

    # -- books

    def attach(self, holding: Holding) -> Transfer:
        """The transfer of the lease's object, made where there is none yet. Raises Refused, UsageError for a bad URL or format."""
        transfer = self.transfer_of(holding.job, holding.spec)
        if holding not in transfer.holdings:
            transfer.holdings.append(holding)
        holding.transfer = transfer
        return transfer

    async def _attach_now(self, holding: Holding) -> Transfer:
        """As `attach`, without what is known of another life of the object."""
        transfer = self.attach(holding)
        await transfer.renew(holding.spec)
        return transfer

    def _check_allowed(self, job: JobContext, spec: ObjectSpec) -> None:
        """Before an object is taken up; of its job again where the rules are others now. Raises Refused."""
        rules = self._options.rules.policy
        if job.allowed_by is not rules:
            check_job(rules, job.spec)
            job.allowed_by = rules
        check_object(rules, job.spec, spec)

    def transfer_of(self, job: JobContext, spec: ObjectSpec) -> Transfer:
        """The transfer of an object, as `attach` makes it."""
        transfer = job.transfers.pop(spec.object_id, None)
        if transfer is None:
            self._check_allowed(job, spec)
            local = job.spec.origin is OriginKind.FILE
            transfer = Transfer(
                spec,
                location=None if local else Location(spec.path, spec.url, job.endpoints),
                destination=job.destination,
                disk=self._disk,
                hashing=self._hashing,
                buffers=self._buffers,
                feeder=job.streams.feeder(spec) if job.streams is not None else None,
                relayed=job.spec.delivery is Delivery.REPLICATE,
            )
        job.transfers[spec.object_id] = transfer  # last in line to be closed
        return transfer

    def take_unreported(self, holding: Holding) -> tuple[tuple[int, int], ...]:
        """Bytes on disk and in the chunk map that the next report may name."""
        done = tuple(holding.unreported)
        holding.unreported.clear()
        return done

    def _remove(self, holding: Holding) -> None:
        if holding.lane is not None:
            holding.lane.remove(holding)

    def done(self, holding: Holding, published: Published, etag: str) -> WorkReport:
        """The last report of a lease whose object has its final name."""
        return WorkReport(
            unit=holding.ref.unit,
            token=holding.ref.token,
            outcome=Outcome.DONE,
            fetched=holding.take_fetched(),
            size=published.size,
            digest=published.digest,
            etag=holding.spec.etag or etag,
            skipped=published.skipped,
        )

    def _report(self, holding: Holding, *, done: tuple[tuple[int, int], ...] = ()) -> WorkReport:
        return WorkReport(
            unit=holding.ref.unit,
            token=holding.ref.token,
            outcome=Outcome.DONE,
            done=done,
            fetched=holding.take_fetched(),
        )


def wrong_digest(spec: ObjectSpec, actual: str) -> VerificationFailed:
    """The error for bytes of the right number that are not the publisher's."""
    return VerificationFailed(
        spec.path,
        cause=f"the digest of what came is {actual}, the publisher names {spec.digest}",
        remedy="it is fetched again; if that does not help, a server or proxy on the way sends wrong bytes",
    )


def _publish_small(destination: Destination, spec: ObjectSpec, data: memoryview, etag: str) -> Published:
    hasher = new_hasher(spec.digest, len(data))
    hasher.update(data)
    actual = hasher.result()
    if not matches(spec.digest, actual):
        raise wrong_digest(spec, actual)
    return destination.publish_bytes(spec, (data,), digest=actual, etag=spec.etag or etag)


def _from_thread(pages: AsyncIterator[Sequence[ObjectSpec]], loop: asyncio.AbstractEventLoop) -> Iterator[ObjectSpec]:
    """The objects of all pages, for a thread: each page is asked for when the one before is used up."""

    async def next_page() -> Sequence[ObjectSpec] | None:
        return await anext(pages, None)

    while (page := asyncio.run_coroutine_threadsafe(next_page(), loop).result()) is not None:
        yield from page
