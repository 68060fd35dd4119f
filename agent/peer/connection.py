"""One connection of another agent: a request, its answer, the next request.

::

    HEAD ── whole head ──► ASKED ── allowed, a slot ──► BODY ── all sent ──► HEAD
     │ silence, too long,    │ refused                   │ silence, the file is short,
     ▼ gone, turned out      ▼                           ▼ gone
    CLOSED                  ANSWER, then HEAD or CLOSED  CLOSED: the length was announced, so only a cut tells

In HEAD the server may turn a connection out to make room. In BODY the connection holds an upload slot while bytes move, and lends it to
others while it waits: for bytes that have not arrived here (``Stretch.more``) or for a receiver that takes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ...common.capability import check
from ...common.errors import AccessDenied, Busy, NotFound, Refused, ShoalError, Unauthenticated
from ...common.logs import get_logger
from .limits import PeerCounters, PeerLimits
from .message import Extent, Refusal, Request, answer_head, find_head_end, parse_request, refusal_bytes, resolve
from .slots import UploadRate, UploadSlots
from .stretch import Shelf, Stretch
from .transport import Transport

SLOT_BYTES = 64 << 20
"""After so many bytes a body lets others go first: a chunk never pays for that, and a whole object does not hold a slot for hours."""

log = get_logger("peer")


@dataclass(kw_only=True, slots=True)
class Service:
    """What all connections of a server share."""

    shelf: Shelf
    key: Callable[[], bytes | None] = field(repr=False)
    holder: str
    now: Callable[[], float]
    limits: PeerLimits
    slots: UploadSlots
    rate: UploadRate
    counters: PeerCounters
    waiting: dict[PeerConnection, None]  # for a head, longest first


class _Cut(Exception):
    """The announced body cannot be sent to its end."""


class PeerConnection:
    """Serves one transport until either side ends it."""

    def __init__(self, transport: Transport, service: Service) -> None:
        self._transport = transport
        self._service = service
        self._limits = service.limits
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._is_first = True
        self._gone = False
        self._has_slot = False
        self._blocked_since_s: float | None = None  # the receiver takes nothing
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve requests one after the other; returns when the connection is closed. Raises nothing but cancellation."""
        try:
            while await self._exchange():
                self._is_first = False
        except OSError as error:  # TimeoutError too
            log.debug("peer.connection_lost", cause=str(error))
        except Exception as error:
            log.error("peer.connection_failed", error=type(error).__name__, cause=str(error))
        finally:
            await self._transport.aclose()

    def turn_out(self) -> None:
        """Make room for somebody else. Only while it waits for a head."""
        self._transport.abort()

    async def _exchange(self) -> bool:
        """One request and its answer; returns whether another may follow."""
        self._service.waiting[self] = None
        try:
            head = await self._receive_head()
        finally:
            self._service.waiting.pop(self, None)
        if head is None:
            return False
        self._service.counters.requests += 1
        request = parse_request(head) if isinstance(head, bytes) else head
        refusal = request if isinstance(request, Refusal) else await self._serve(request)
        if refusal is not None:
            self._service.counters.refused += 1
            log.debug("peer.refused", status=refusal.status, cause=refusal.text)
            async with asyncio.timeout(self._limits.write_stall_s):
                await self._transport.send(refusal_bytes(refusal))
        if request.keep_alive:
            return True
        await self._transport.finish(self._limits.linger_s, self._limits.write_stall_s)
        return False

    async def _receive_head(self) -> bytes | Refusal | None:
        """The next head; None when the other side has nothing more to ask, or takes too long about it."""
        limits, received, scanned = self._limits, self._received, 0
        is_begun = False
        try:
            async with asyncio.timeout(limits.head_timeout_s if self._is_first else limits.idle_timeout_s) as patience:
                while True:
                    if received:
                        if not is_begun and not patience.expired():
                            patience.reschedule(self._loop.time() + limits.head_timeout_s)
                        is_begun = True
                        length = find_head_end(received, scanned, limits.head_bytes_max)
                        if isinstance(length, Refusal):
                            return length
                        if length >= 0:
                            head = bytes(received[:length])
                            del received[:length]
                            return head
                        scanned = len(received)
                    data = await self._transport.receive()
                    if not data:
                        return None
                    received += data
        except TimeoutError:
            return None

    # -- deciding

    async def _serve(self, request: Request) -> Refusal | None:
        """Send what is asked for, or say why not."""
        keep_alive = request.keep_alive
        extent: Extent | Refusal
        try:
            self._authorize(request)
            async with asyncio.timeout(self._limits.stall_s):
                size = await self._size(request)
            extent = resolve(request.byte_range, size, keep_alive=keep_alive)
            if isinstance(extent, Refusal):
                return extent
            await self._take_slot()
        except (ShoalError, TimeoutError) as error:
            return self._refusal(error, keep_alive)
        self._service.counters.active_uploads += 1
        try:
            async with asyncio.timeout(self._limits.stall_s):
                stretch = await self._open(request, extent)
        except (ShoalError, TimeoutError) as error:
            self._end_upload()
            return self._refusal(error, keep_alive)
        except BaseException:
            self._end_upload()
            raise
        try:
            if stretch.length != extent.stop - extent.start:
                raise _Cut("what was opened does not have the length that was asked for")
            await self._send_body(stretch, answer_head(extent, keep_alive=keep_alive))
        except BaseException as error:
            self._service.counters.cut += 1
            if not isinstance(error, ShoalError | TimeoutError | _Cut):
                raise
            log.info("peer.upload_cut", job=request.job_id, object=request.first_object, cause=str(error))
            raise ConnectionError("the body was cut") from error
        finally:
            self._end_upload()
            stretch.close()
        return None

    def _authorize(self, request: Request) -> None:
        """Raises Unauthenticated, AccessDenied, Busy (nobody can be let in yet)."""
        service, key = self._service, self._service.key()
        if key is None:
            raise Busy("peer exchange", cause="this agent has no session with the coordinator")
        for object_id in {request.first_object, request.last_object}:
            token = request.token.reveal()
            check(key, token, now=service.now(), holder=service.holder, job_id=request.job_id, object_id=object_id)

    def _refusal(self, error: ShoalError | TimeoutError, keep_alive: bool) -> Refusal:
        """The answer to an error. What the shelf says may name its folders: only the capability's own words are passed on."""
        fields: tuple[tuple[str, str], ...] = ()
        if isinstance(error, Unauthenticated):
            status, text, fields = (
                401,
                f"the capability does not hold: {error.cause}",
                (("WWW-Authenticate", "Bearer"),),
            )
        elif isinstance(error, AccessDenied | Refused):
            status, text = 403, error.cause if isinstance(error, AccessDenied) else "refused"
        elif isinstance(error, NotFound):
            status, text = 404, "it is not here"
        elif isinstance(error, TimeoutError) or error.retryable:
            status, text, fields = 503, "busy", (("Retry-After", str(self._limits.retry_after_s)),)
        else:
            log.warning("peer.request_failed", code=error.code, cause=str(error))
            status, text = 500, "it cannot be read"
        return Refusal(status=status, text=text, fields=fields, keep_alive=keep_alive)

    async def _size(self, request: Request) -> int:
        shelf = self._service.shelf
        if request.bundle is None:
            return await shelf.object_size(request.job_id, request.first_object)
        return await shelf.bundle_size(request.job_id, request.bundle, request.first_object, request.last_object)

    async def _open(self, request: Request, extent: Extent) -> Stretch:
        shelf, start, stop = self._service.shelf, extent.start, extent.stop
        if request.bundle is None:
            return await shelf.open_object(request.job_id, request.first_object, start, stop)
        return await shelf.open_bundle(
            request.job_id, request.bundle, request.first_object, request.last_object, start, stop
        )

    # -- sending

    async def _send_body(self, stretch: Stretch, head: bytes) -> None:
        """Raises OSError (the receiver), ShoalError and TimeoutError (the bytes do not come), _Cut (the file is short)."""
        transport, counters = self._transport, self._service.counters
        self._check_stall()
        transport.cork(True)
        await self._while_blocked(transport.send(head))
        sent = allowed = since_turn = 0
        while sent < stretch.length:
            fd, offset, count = stretch.ready(sent)
            if count <= 0:
                await self._wait_for_more(stretch, sent)
                continue
            count = min(count, stretch.length - sent)
            if not allowed:
                allowed = await self._service.rate.turn(count)
            moved = await transport.send_file(fd, offset, min(count, allowed))
            if moved is None:
                await self._while_blocked(transport.writable())
                await self._take_slot_again()
                continue
            if not moved:
                raise _Cut("the file is shorter than it was")
            sent, allowed, since_turn = sent + moved, allowed - moved, since_turn + moved
            counters.sent_bytes += moved
            if since_turn >= SLOT_BYTES and self._service.slots.waiting:
                since_turn = 0
                self._lend_slot()
                await self._take_slot_again()
            else:
                await asyncio.sleep(0)  # a receiver that keeps up must not keep the loop from everything else
        transport.cork(False)

    async def _wait_for_more(self, stretch: Stretch, sent: int) -> None:
        """Cut-through: return when the next bytes have arrived. Raises ShoalError, TimeoutError."""
        self._transport.cork(False)
        self._lend_slot()
        async with self._patience(self._limits.stall_s):
            while stretch.ready(sent)[2] <= 0:
                await stretch.more(sent)
                await asyncio.sleep(0)  # a shelf that wakes us for nothing must not keep the loop
        await self._take_slot_again()
        self._transport.cork(True)

    async def _while_blocked(self, sending: Awaitable[None]) -> None:
        """Wait for the receiver, whose patience ends in ``_check_stall``."""
        self._blocked_since_s = self._loop.time()
        try:
            await sending
        finally:
            self._blocked_since_s = None

    def _check_stall(self) -> None:
        """One timer for the whole body: a timer for each wait would cost as much as the sending."""
        limits = self._limits
        if self._blocked_since_s is not None:
            blocked_s = self._loop.time() - self._blocked_since_s
            if blocked_s >= limits.write_stall_s:
                self._transport.abort()
                return
            if blocked_s >= limits.slot_hold_s:
                self._lend_slot()
        self._timer = self._loop.call_later(min(limits.slot_hold_s, limits.write_stall_s), self._check_stall)

    @asynccontextmanager
    async def _patience(self, seconds: float) -> AsyncGenerator[None]:
        """Raises TimeoutError after so many seconds, ConnectionResetError as soon as the other side goes away."""

        def on_gone() -> None:
            self._gone = True
            if not patience.expired():
                patience.reschedule(self._loop.time())

        try:
            async with asyncio.timeout(seconds) as patience:
                self._transport.watch(on_gone)
                try:
                    yield
                finally:
                    self._transport.unwatch()
        except TimeoutError:
            if self._gone:
                raise ConnectionResetError("the other side went away") from None
            raise

    # -- slots

    async def _take_slot(self) -> None:
        """Raises Busy, TimeoutError."""
        slots = self._service.slots
        if slots.free:
            await slots.take()
        else:
            async with self._patience(self._limits.slot_wait_s):
                await slots.take()
        self._has_slot = True

    async def _take_slot_again(self) -> None:
        if not self._has_slot:
            await self._service.slots.take_again()
            self._has_slot = True

    def _lend_slot(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._service.slots.give_back()

    def _end_upload(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lend_slot()
        self._service.counters.active_uploads -= 1
