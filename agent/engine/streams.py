"""One connection fetches one piece: ask, check the answer, bring the bytes to the disk, try again where that can help."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ...common.errors import Changed, ProtocolViolation, ShoalError, TransferError, Truncated
from ...common.records import Delivery
from ...common.retry import Backoff
from ..throttle import Throttle
from .asking import Asker
from .crew import Job
from .filling import FillSize
from .holding import Holding
from .locations import Target
from .memory import BufferPool
from .options import EngineOptions
from .pieces import KIB, Piece, PiecePlanner
from .transfer import Transfer
from .tries import Tries, for_the_report
from .validation import Body, Verdict
from .writing import Written

if TYPE_CHECKING:
    from ...common.http import Response
    from .lanes import Lane

UNKNOWN_STOP: Final = 1 << 62  # where a piece of unknown length ends
_FILL_BYTES_MIN: Final = 64 * KIB
_FILL_BYTES_FIRST: Final = 256 * KIB
_FILL_BYTES_LIMITED: Final = 16 * KIB
_FILL_S: Final = 0.25  # what is read at once on a slow line: so much is lost when its connection is dropped


class Fetcher:
    """Fetches pieces over HTTP."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        throttle: Throttle,
        buffers: BufferPool,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        rng: random.Random,
        deliver_small: Callable[[Holding, memoryview, int, str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """deliver_small takes a whole small object: its lease, the buffer (which it gives back), the size, the ETag."""
        self._options = options
        self._throttle = throttle
        self._buffers = buffers
        self._clock = clock
        self._rng = rng
        self._asker = Asker(throttle=throttle, clock=clock, wall_clock=wall_clock)
        self._deliver_small = deliver_small
        self._sleep = sleep
        self._backoff = Backoff(initial_s=options.backoff_initial_s, max_s=options.backoff_max_s)

    async def fetch(self, piece: Piece) -> None:
        """Bring the piece, or complete its lease with the error that stays. Raises nothing but CancelledError."""
        holding = _holder(piece)
        assert holding.lane is not None and holding.transfer is not None
        transfer, lane = holding.transfer, holding.lane
        assert transfer.location is not None
        tries = Tries(
            transient_retries=self._options.transient_retries,
            backoff=self._backoff,
            throttle=self._throttle,
            rng=self._rng,
        )
        while piece.left and not piece.dropped:
            holding = _holder(piece)
            if holding.lapsed(self._clock()):
                self._end(piece, holding, lane, None)
                return
            before, target = piece.at, None
            try:
                target = self._target(transfer)
                async with self._throttle.request(target.host):
                    if await self._attempt(piece, holding, transfer, lane, target):
                        return
                tries.progress()
            except Changed as error:
                transfer.poison(error)
                self._end(piece, holding, lane, error)
                return
            except ShoalError as error:
                if piece.at > before:
                    tries.progress()
                delay_s = tries.after(error, transfer.location, target, self._clock())
                if delay_s is None:
                    self._end(piece, holding, lane, for_the_report(error))
                    return
                await self._sleep(delay_s)
            except Exception as error:  # a defect of ours costs this lease, not the agent
                self._end(piece, holding, lane, error)
                return

    def _end(self, piece: Piece, holding: Holding, lane: Lane, error: Exception | None) -> None:
        lane.remove(holding, spare=piece)
        holding.complete(error)

    def _target(self, transfer: Transfer) -> Target:
        assert transfer.location is not None
        return transfer.location.target(self._clock())

    async def _attempt(self, piece: Piece, holding: Holding, transfer: Transfer, lane: Lane, target: Target) -> bool:
        """One request and its body. Returns whether the piece needs no more of this connection."""
        if piece.dropped or not piece.left or _is_swept(piece, transfer):
            return True
        small = not transfer.is_open
        if small or target.direct:
            answer = await self._asker.ask(piece, holding, transfer, lane, target, small=small)
        else:
            async with transfer.resolving:  # one resolves; the others then ask where it was led to
                now_known = self._target(transfer)
                if _is_swept(piece, transfer):
                    return True
                answer = await self._asker.ask(piece, holding, transfer, lane, now_known, small=False)
        async with answer.response:
            if small:
                return await self._receive_small(piece, answer.response, holding, transfer, lane.planner, target.host)
            if answer.verdict.body is Body.WHOLE and transfer.sweeper not in (None, piece):
                return True
            at = self._begin(piece, answer.verdict, transfer, lane)
            try:
                await self._receive(piece, answer.response, transfer, lane.planner, at, target.host)
            finally:
                if transfer.sweeper is piece:
                    transfer.sweeper = None
        return False

    def _begin(self, piece: Piece, verdict: Verdict, transfer: Transfer, lane: Lane) -> int:
        """Fit the plan to the answer. Returns where its body begins in the object."""
        planner = lane.planner
        size = transfer.spec.size
        if size is None and verdict.size is not None:
            size = verdict.size
            self._learn(transfer, size)
            if verdict.body is Body.PART:
                piece.work.undivided = False
                planner.extend(piece.work, min(piece.stop, size), size)
            piece.stop = min(piece.stop, size)
        if verdict.body is Body.PART:
            if not transfer.rangeless:
                planner.limit(transfer, None)
                lane.kick()
            return piece.at
        transfer.rangeless = True
        transfer.sweeper = piece
        planner.limit(transfer, 1)
        planner.take_over(piece, UNKNOWN_STOP if size is None else size)
        planner.rewind(piece, 0, self._clock())
        return 0

    def _learn(self, transfer: Transfer, size: int) -> None:
        self._options.rules.policy.check_object_size(transfer.spec.path, size)
        transfer.learn_size(size)
        for holding in transfer.holdings:
            for start, stop in transfer.have.missing(0, size):
                holding.want.add(start, stop)
        transfer.wrote(())  # which completes what was nothing, or was all there

    # -- the body

    async def _receive_small(
        self, piece: Piece, response: Response, holding: Holding, transfer: Transfer, planner: PiecePlanner, host: str
    ) -> bool:
        size = transfer.spec.size
        assert size is not None
        await self._throttle.bytes_turn(host, size)
        buffer = await self._buffers.take()
        try:
            count = await response.read_into(buffer[:size])
            holding.fetched += count
            if count < size:
                raise Truncated(transfer.spec.path, cause=f"{count} bytes came, it has {size}")
            await self._check_end(response, transfer, size)
        except BaseException:
            self._buffers.give(buffer)
            raise
        planner.arrived(piece, size, self._clock())
        holding.arrived = size
        self._deliver_small(holding, buffer, size, transfer.etag)
        return True

    async def _check_end(self, response: Response, transfer: Transfer, size: int) -> None:
        """Where only the end of the body tells its length: that nothing follows."""
        if response.body_length is None and await response.read_into(memoryview(bytearray(1))):
            raise ProtocolViolation(transfer.spec.path, cause=f"the body is longer than the file's {size} bytes")

    async def _receive(
        self,
        piece: Piece,
        response: Response,
        transfer: Transfer,
        planner: PiecePlanner,
        at: int,
        host: str,
    ) -> None:
        """Bring the body to the disk, from ``at`` up to the piece's stop; receiving and writing overlap."""
        writing: Job[Written] | None = None
        came = 0
        ended = False
        relayed = FillSize(self._clock()) if _holder(piece).job.spec.delivery is Delivery.REPLICATE else None
        while at < piece.stop and not piece.dropped and not ended:
            fill = min(self._buffers.buffer_bytes, self._fill_bytes(piece, planner, host))
            if relayed is not None:
                fill = min(fill, relayed.bytes)
            await self._throttle.bytes_turn(host, min(fill, piece.stop - at))
            buffer = await self._buffers.take()
            wanted = min(fill, max(0, piece.stop - at))
            failure: ShoalError | None = None
            try:
                count = await response.read_into(buffer[:wanted])
            except TransferError as error:
                count, failure = response.received_bytes - came, error
            except BaseException:
                self._buffers.give(buffer)
                raise
            came += count
            if relayed is not None:
                relayed.arrived(count, self._clock())
            ended = count < wanted
            # The stop may have moved down meanwhile: what lies beyond it is another connection's.
            count_kept = min(count, max(0, piece.stop - at))
            holding = _holder(piece)
            if not count_kept or piece.dropped or holding.lapsed(self._clock()):
                self._buffers.give(buffer)
                if holding.lapsed(self._clock()):
                    return
            else:
                holding.fetched += count
                if writing is not None:
                    await finish_writing(writing, self._buffers, buffer)
                planner.arrived(piece, count_kept, self._clock())
                writing = transfer.write(buffer, at, count_kept)
                at += count_kept
            if failure is not None:
                raise failure
        if writing is not None:
            await writing.wait()
        await self._close_body(piece, response, transfer, at, ended=ended)

    async def _close_body(self, piece: Piece, response: Response, transfer: Transfer, at: int, *, ended: bool) -> None:
        size = transfer.spec.size
        if size is None and ended:
            self._learn(transfer, at)
            piece.stop = at
        elif ended and transfer.rangeless and at < piece.stop and not piece.dropped:
            raise Truncated(transfer.spec.path, cause=f"the body ended after {at} of {piece.stop} bytes")
        elif size is not None and at == size and transfer.rangeless:
            await self._check_end(response, transfer, size)

    def _fill_bytes(self, piece: Piece, planner: PiecePlanner, host: str) -> int:
        rate = piece.rate or planner.rate
        fill = max(_FILL_BYTES_MIN, int(rate * _FILL_S)) if rate else _FILL_BYTES_FIRST
        limit = self._throttle.bytes_rate(host)
        if limit:
            # All streams share the limit: none should have to wait for long behind another's large read.
            fill = min(fill, max(_FILL_BYTES_LIMITED, int(limit / self._options.connections_per_host)))
        return fill


def _holder(piece: Piece) -> Holding:
    """The lease that the piece is fetched for; another one may have taken it over."""
    holding = piece.work.key
    assert isinstance(holding, Holding)
    return holding


def _is_swept(piece: Piece, transfer: Transfer) -> bool:
    """Whether another stream brings the whole body of a rangeless object: what it leaves out comes back to the planner."""
    return transfer.rangeless and transfer.sweeper not in (None, piece)


async def finish_writing(writing: Job[Written], buffers: BufferPool, next_buffer: memoryview) -> None:
    """Wait for a write; if it failed, the buffer that would have been next goes back."""
    try:
        await writing.wait()
    except BaseException:
        buffers.give(next_buffer)
        raise
