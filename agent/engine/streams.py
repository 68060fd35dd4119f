"""One connection fetches one piece: ask, check the answer, bring the bytes to the disk, try again where that can help."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ...common.errors import (
    AccessDenied,
    Changed,
    ConnectFailed,
    HttpStatus,
    ProtocolViolation,
    RateLimited,
    ShoalError,
    TimedOut,
    TransferError,
    Truncated,
)
from ...common.hub_auth import is_below_any
from ...common.intervals import Interval
from ...common.retry import Backoff
from ..throttle import Throttle
from .crew import Job
from .holding import Holding
from .locations import Target
from .memory import BufferPool
from .options import RESOLVES_MAX, EngineOptions
from .pieces import KIB, Piece, PiecePlanner
from .statuses import REFUSALS, status_error, wait_asked_s
from .transfer import Transfer
from .validation import PAGE_BYTES_MAX, Asked, Body, Verdict, if_range_of, is_html, is_page, judge, page_error

if TYPE_CHECKING:
    from ...common.http import Response
    from .lanes import Lane

UNKNOWN_STOP: Final = 1 << 62  # where a piece of unknown length ends
_FILL_BYTES_MIN: Final = 64 * KIB
_FILL_BYTES_FIRST: Final = 256 * KIB
_FILL_BYTES_LIMITED: Final = 16 * KIB
_FILL_S: Final = 0.25  # what is read at once on a slow line: so much is lost when its connection is dropped
_VIOLATIONS_MAX: Final = 2  # nonsense is not weather: it is asked for again, but not for long


class _SignedUrlRefused(TransferError):
    """The URL that the server redirected to is no longer good."""


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
        self._wall_clock = wall_clock
        self._rng = rng
        self._deliver_small = deliver_small
        self._sleep = sleep
        self._backoff = Backoff(initial_s=options.backoff_initial_s, max_s=options.backoff_max_s)

    async def fetch(self, piece: Piece) -> None:
        """Bring the piece, or complete its lease with the error that stays. Raises nothing but CancelledError."""
        holding = piece.work.key
        assert isinstance(holding, Holding) and holding.lane is not None and holding.transfer is not None
        tries = _Tries(self._options, self._throttle, self._backoff, self._rng)
        transfer, lane = holding.transfer, holding.lane
        while piece.left and not piece.dropped:
            if holding.lapsed(self._clock()):
                self._end(piece, holding, lane, None)
                return
            before, target = piece.at, None
            try:
                target = self._target(transfer)
                await self._throttle.request_turn(target.host)
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
                delay_s = tries.after(error, transfer, target, self._clock())
                if delay_s is None:
                    self._end(piece, holding, lane, _for_the_report(error))
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
        planner = lane.planner
        if piece.dropped or not piece.left:
            return True
        small = self._is_small(piece, transfer)
        if transfer.rangeless and transfer.sweeper is not piece and transfer.sweeper is not None:
            return True  # another stream brings the whole body; what it does not bring comes back
        byte_range = (
            None if small or transfer.rangeless else (piece.at, min(piece.stop, piece.at + (1 << 40)) - piece.at)
        )
        asked = Asked(
            name=transfer.spec.path,
            byte_range=byte_range,
            size=transfer.spec.size,
            validator=transfer.validators.get(target.host, "") if target.direct else "",
        )
        authorization = holding.job.authorization(target)
        planner.asked(piece, self._clock())
        response = await holding.job.client.request(
            target.url,
            authorization=authorization,
            byte_range=byte_range,
            if_range=if_range_of(asked.validator) if byte_range else None,
        )
        async with response:
            planner.answered(piece, self._clock())
            self._check_status(response, holding, transfer, target, authenticated=authorization is not None)
            verdict = await self._check_answer(asked, response, transfer)
            self._throttle.answered(target.host)
            self._accept(verdict, response, transfer, target, lane, small=small)
            if small:
                return await self._receive_small(piece, response, holding, transfer, planner, target.host)
            at = self._begin(piece, verdict, transfer, planner)
            try:
                await self._receive(piece, response, holding, transfer, planner, at, target.host)
            finally:
                if transfer.sweeper is piece:
                    transfer.sweeper = None
        return False

    # -- the head

    def _is_small(self, piece: Piece, transfer: Transfer) -> bool:
        size = transfer.spec.size
        return not transfer.is_open and size is not None and size == piece.stop and piece.start == 0

    def _check_status(
        self, response: Response, holding: Holding, transfer: Transfer, target: Target, *, authenticated: bool
    ) -> None:
        status = response.status
        if status < 400 or status == 416:
            return
        from_endpoint = is_below_any(response.url, holding.job.endpoints.bases)
        wait_s = wait_asked_s(status, response.headers, self._wall_clock())
        host = response.url.split("/", 3)[2]
        if status in REFUSALS and (target.direct or response.redirects) and not from_endpoint:
            raise _SignedUrlRefused(
                transfer.spec.path, cause=f"{host} answered {status} to the URL that was redirected to"
            )
        subject = (
            holding.job.subject(transfer.spec, target, authenticated=authenticated)
            if holding.job.on_hub and from_endpoint
            else None
        )
        error = status_error(transfer.spec.path, status, response.headers, host=host, subject=subject, wait_s=wait_s)
        if isinstance(error, RateLimited):
            self._throttle.throttled(host, error.retry_after_s, self._clock())
        else:
            self._throttle.failed(host)
        raise error

    async def _check_answer(self, asked: Asked, response: Response, transfer: Transfer) -> Verdict:
        path = transfer.spec.path
        suspicious = is_page(response.headers, path)
        try:
            verdict = judge(
                asked,
                status=response.status,
                headers=response.headers,
                content_range=response.content_range,
                body_length=response.body_length,
            )
        except ProtocolViolation as error:
            page = await self._page_error(response, path) if suspicious else None
            raise page or error from None
        if suspicious and asked.size is None:
            if is_html(response.headers):
                raise await self._page_error(response, path) or ProtocolViolation(
                    path, cause="the server sent an HTML page"
                )
            transfer.doubtful = response.headers  # JSON may be the file itself: its body tells, once it is here
        return verdict

    async def _page_error(self, response: Response, path: str) -> ProtocolViolation | None:
        buffer = memoryview(bytearray(PAGE_BYTES_MAX))
        try:
            count = await response.read_into(buffer)
        except ShoalError:
            return None
        return page_error(path, response.headers, bytes(buffer[:count]))

    def _accept(
        self, verdict: Verdict, response: Response, transfer: Transfer, target: Target, lane: Lane, *, small: bool
    ) -> None:
        """Remember what a good answer tells of the object."""
        if not transfer.etag:
            transfer.etag = (
                response.headers.get("x-linked-etag", response.headers.get("etag")).removeprefix("W/").strip('"')
            )
        if small:
            return
        assert transfer.location is not None
        was_located = transfer.location.located
        transfer.location.answered(target, response.url)
        if not was_located:
            located = transfer.location.target(self._clock())
            if verdict.validator:
                known = transfer.validators.setdefault(located.host, verdict.validator)
                if known != verdict.validator:
                    raise Changed(transfer.spec.path)
            lane.planner.limit(transfer, 1 if transfer.rangeless else None)
            lane.kick()
        elif verdict.validator:
            transfer.validators.setdefault(target.host, verdict.validator)

    def _begin(self, piece: Piece, verdict: Verdict, transfer: Transfer, planner: PiecePlanner) -> int:
        """Fit the plan to the answer. Returns where its body begins in the object."""
        size = transfer.spec.size
        if size is None and verdict.size is not None:
            self._learn(transfer, verdict.size)
            size = verdict.size
            if verdict.body is Body.PART:
                piece.work.undivided = False
                planner.extend(piece.work, min(piece.stop, size), size)
            piece.stop = min(piece.stop, size)
        if verdict.body is Body.PART:
            if size is None:
                transfer.rangeless = True  # asked for the whole, it will have to tell where the file ends
                raise ProtocolViolation(
                    transfer.spec.path, cause="the server sends a part and does not tell of what size the whole is"
                )
            return piece.at
        transfer.rangeless = True
        transfer.sweeper = piece
        planner.limit(transfer, 1)
        planner.take_over(piece, UNKNOWN_STOP if size is None else size)
        planner.rewind(piece, 0, self._clock())
        return 0

    def _learn(self, transfer: Transfer, size: int) -> None:
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
        holding: Holding,
        transfer: Transfer,
        planner: PiecePlanner,
        at: int,
        host: str,
    ) -> None:
        """Bring the body to the disk, from ``at`` up to the piece's stop; receiving and writing overlap."""
        writing: Job[tuple[Interval, ...]] | None = None
        came = 0
        ended = False
        while at < piece.stop and not piece.dropped and not ended:
            fill = min(self._buffers.buffer_bytes, self._fill_bytes(piece, planner, host))
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
            ended = count < wanted
            # The stop may have moved down meanwhile: what lies beyond it is another connection's.
            count_kept = min(count, max(0, piece.stop - at))
            if not count_kept or piece.dropped or holding.lapsed(self._clock()):
                self._buffers.give(buffer)
                if holding.lapsed(self._clock()):
                    return
            else:
                holding.fetched += count
                if writing is not None:
                    await _finish_writing(writing, self._buffers, buffer)
                planner.arrived(piece, count_kept, self._clock())
                writing = transfer.write(buffer, at, count_kept)
                at += count_kept
            if failure is not None:
                raise failure
        if writing is not None:
            await writing.wait()
        await self._close_body(piece, response, holding, transfer, at, ended=ended)

    async def _close_body(
        self, piece: Piece, response: Response, holding: Holding, transfer: Transfer, at: int, *, ended: bool
    ) -> None:
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


async def _finish_writing(writing: Job[tuple[Interval, ...]], buffers: BufferPool, next_buffer: memoryview) -> None:
    try:
        await writing.wait()
    except BaseException:
        buffers.give(next_buffer)
        raise


class _Tries:
    """Counts one piece's failures, and says what to do after each."""

    def __init__(self, options: EngineOptions, throttle: Throttle, backoff: Backoff, rng: random.Random) -> None:
        self._options = options
        self._throttle = throttle
        self._backoff = backoff
        self._rng = rng
        self._failures = 0
        self._violations = 0
        self._resolves = 0
        self._throttles = 0

    def progress(self) -> None:
        """Bytes have come: what failed before is forgiven."""
        self._failures = self._violations = self._resolves = self._throttles = 0

    def after(self, error: ShoalError, transfer: Transfer, target: Target | None, now: float) -> float | None:
        """Seconds to wait before the next try; None when there is none."""
        location = transfer.location
        if target is None or location is None:
            return None
        if isinstance(error, RateLimited):
            return self._throttled(error, target, now)
        if isinstance(error, _SignedUrlRefused):
            self._resolves += 1
            location.forget(target)
            if self._resolves > RESOLVES_MAX:
                return None
            return self._backoff.delay_s(self._resolves, self._rng) if self._resolves > 1 else 0.0
        if isinstance(error, ProtocolViolation):
            self._violations += 1
            if self._violations <= _VIOLATIONS_MAX:
                return self._backoff.delay_s(self._violations, self._rng)
            return self._elsewhere(error, transfer, target)
        if _is_transient(error):
            return self._transient(error, transfer, target, now)
        return self._elsewhere(error, transfer, target)

    def _throttled(self, error: RateLimited, target: Target, now: float) -> float:
        """Not a failure of ours: never counted. The throttle waits for the host that was asked; the jitter spreads those who waited."""
        if error.retry_after_s > 0:
            asked_s = 0.0 if self._throttle.blocked_s(target.host, now) > 0 else error.retry_after_s
            return asked_s + self._rng.uniform(0.0, self._backoff.initial_s)
        self._throttles += 1
        return self._backoff.delay_s(self._throttles, self._rng)

    def _transient(self, error: ShoalError, transfer: Transfer, target: Target, now: float) -> float | None:
        assert transfer.location is not None
        self._failures += 1
        if not isinstance(error, HttpStatus):
            self._throttle.failed(target.host)
        if isinstance(error, ConnectFailed | TimedOut):
            transfer.location.unreachable(target, now)
        if self._failures > self._options.transient_retries:
            return self._elsewhere(error, transfer, target)
        return self._backoff.delay_s(self._failures, self._rng)

    def _elsewhere(self, error: ShoalError, transfer: Transfer, target: Target) -> float | None:
        assert transfer.location is not None
        self._failures = self._violations = self._resolves = 0
        return 0.0 if transfer.location.refused(target, error) else None


def _for_the_report(error: ShoalError) -> ShoalError:
    if isinstance(error, _SignedUrlRefused):
        return AccessDenied(
            error.thing, cause=error.cause, remedy="look whether the host serves this file to this machine at all"
        )
    return error


def _is_transient(error: ShoalError) -> bool:
    if isinstance(error, HttpStatus):
        return error.status >= 500 or error.status in (408, 425)
    return isinstance(error, TransferError) and error.retryable
