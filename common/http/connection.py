"""One HTTP/1.1 connection: a request goes out, the head comes back, the body lands in the caller's buffers.

The protocol's callbacks decide nothing. They put bytes in one of two places and wake the coroutine that waits:

* the **direct target**, a part of the caller's buffer, while raw body bytes are due and somebody waits for them: no copy;
* the **spill**, a small buffer of our own, for the head, for chunk framing and for what arrives while nobody waits. In the last case
  reading pauses after one receive, so a slow caller holds the server back through TCP.

States: idle (in the pool) -> exchange (request sent, head awaited) -> body -> idle again, or closed from anywhere.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from ..errors import ConnectFailed, ProtocolViolation, TimedOut, Truncated
from .body import Body, LengthBody, body_of, keeps_alive
from .message import ResponseHead, find_head_end, parse_response_head

SPILL_BYTES: Final = 16 * 1024  # holds any usual head; the rest of it costs one copy of at most this much of a body
SPILL_ROOM_BYTES_MIN: Final = 4 * 1024  # never offer the kernel less than this
TLS_RECORD_BYTES: Final = (
    17 * 1024
)  # one TLS record with its overhead (RFC 8446 section 5.2: 2**14 + 256, and the header)
DIRECT_BYTES_MIN: Final = (
    16 * 1024
)  # chunks shorter than this are copied out of the spill: fewer system calls than a receive each


class Connection(asyncio.BufferedProtocol):
    """A connection to an origin or a proxy, used by one exchange at a time and owned by a pool."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        head_bytes_max: int,
        headers_max: int,
        read_timeout_s: float,
        via_tls: bool,
    ) -> None:
        self._loop = loop
        self._head_bytes_max = head_bytes_max
        self._headers_max = headers_max
        self._read_timeout_s = read_timeout_s
        self._via_tls = via_tls
        self._transport: asyncio.Transport | None = None  # requests are written here
        self._carrier: asyncio.Transport | None = None  # the TCP transport: the same, or the one below the TLS layer
        self.closed: asyncio.Future[None] = loop.create_future()  # done once the transport is gone
        self.exchanges = 0
        self.answer_started = False  # has any byte of the present answer arrived?
        self.idle_since_s = 0.0
        self.body_bytes = (
            0  # body bytes of the present answer that were put into callers' buffers, also by a call that failed
        )
        self._thing = ""
        self._body: Body = LengthBody(0)
        self._keep_alive = False
        self._busy = False
        self._spill_bytes = bytearray()
        self._spill = memoryview(self._spill_bytes)
        self._start = self._end = 0  # the unread part of the spill
        self._direct: memoryview | None = None
        self._direct_filled = 0
        self._direct_ends_body = False
        self._lent_direct = False  # which of the two get_buffer gave last
        self._paused = self._eof = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_since_s = 0.0
        self._in_head = False

    # -- what the owner calls

    @property
    def is_open(self) -> bool:
        """Could another request be sent?"""
        carrier = self._carrier
        return carrier is not None and not self._eof and self._failure is None and not carrier.is_closing()

    @property
    def tls_version(self) -> str:
        """The version of TLS, such as ``TLSv1.3``; "" without TLS."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None and self._via_tls else None
        return str(tls.version() or "") if tls is not None else ""

    @property
    def certificate(self) -> bytes:
        """The certificate that the server showed, in DER; empty without TLS."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None and self._via_tls else None
        return bytes(tls.getpeercert(binary_form=True) or b"") if tls is not None else b""

    @property
    def at_rest(self) -> bool:
        """Open, the answer read to its end, and not a byte more than that has come."""
        return self._body.done and not self._busy and self._start == self._end and self.is_open

    @property
    def reusable(self) -> bool:
        """May the connection carry another request now?"""
        return self._keep_alive and self.at_rest

    @property
    def body(self) -> Body:
        """The body of the present answer."""
        return self._body

    async def exchange(self, request: bytes, method: str, thing: str) -> ResponseHead:
        """Send ``request`` and read the final head of its answer; interim answers are skipped.

        ``thing`` names the request in errors. The whole head must come within the read timeout and ``head_bytes_max``.
        Raises ConnectFailed (closed without an answer), Truncated, TimedOut, ProtocolViolation.
        """
        self._thing, self._busy, self.answer_started = thing, True, False
        self.exchanges += 1
        if self._transport is None or not self.is_open:
            raise ConnectFailed(thing, cause="the connection was closed before the request was sent")
        self._transport.write(request)
        self._in_head, self._quiet_since_s = True, self._loop.time()
        budget = self._head_bytes_max
        while True:
            raw = await self._receive_head(budget)
            budget -= len(raw)
            head = parse_response_head(raw, thing, self._headers_max)
            if head.status >= 200:
                break
            if head.status == 101:
                raise ProtocolViolation(thing, cause="the server switches protocols without being asked")
        self._in_head = False
        self._body, self.body_bytes = body_of(head, method, thing), 0
        self._keep_alive = keeps_alive(head)
        self._busy = False
        return head

    async def receive_into(self, target: memoryview) -> int:
        """Fill ``target`` (bytes) with what comes next of the body; less only at the body's end, 0 once it is over.

        Not safe to call twice at once. Raises Truncated, TimedOut, ProtocolViolation.
        """
        if self._busy:
            raise RuntimeError("another task already reads from this connection")
        body, size, filled = self._body, len(target), 0
        self._busy = True
        while filled < size and not body.done:
            expected = body.expected
            unread = self._end - self._start
            if unread:
                if not expected:
                    taken = body.parse_framing(bytes(self._spill[self._start : self._end]))
                    self._start += taken
                    if not taken:
                        await self._more(body)
                    continue
                count = min(unread, expected, size - filled)
                target[filled : filled + count] = self._spill[self._start : self._start + count]
                self._start += count
            elif expected >= DIRECT_BYTES_MIN or type(body) is LengthBody:
                count = await self._fill(target[filled : filled + min(expected, size - filled)], body)
            else:
                await self._more(body)
                continue
            filled += count
            self.body_bytes += count
            body.received(count)
        self._busy = False
        return filled

    def finish_early(self) -> bool:
        """Take the end of the body if it has already arrived and needs no more raw bytes; returns whether the body is done."""
        body = self._body
        if not body.done and not body.expected and not self._busy:
            self._start += body.parse_framing(bytes(self._spill[self._start : self._end]))
        return body.done

    def rest(self, now_s: float) -> None:
        """The pool keeps the connection: read on, so that the server's close is noticed."""
        self.idle_since_s = now_s
        self._start = self._end = 0
        self._resume()

    def abort(self) -> None:
        """Drop the connection now. Safe to call at any time, more than once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._failure is None:
            self._failure = Truncated(self._thing, cause="the connection was dropped on this side")
        if self._carrier is not None:
            self._carrier.abort()
        self._wake()

    def detach(self) -> asyncio.Transport | None:
        """Give up the transport without closing it: a TLS layer above it takes over. None when it is closed already."""
        carrier = self._carrier
        self.connection_lost(None)
        return carrier

    def secured(self, transport: asyncio.Transport, carrier: asyncio.Transport) -> None:
        """The TLS layer ``transport`` stands, on the TCP transport ``carrier``."""
        self._transport, self._carrier = transport, carrier

    # -- waiting

    async def _receive_head(self, budget: int) -> bytes:
        scanned = 0
        while True:
            length = find_head_end(self._spill_bytes, self._start, self._end, scanned, self._thing)
            unread = self._end - self._start
            if (length if length >= 0 else unread) > budget:
                raise ProtocolViolation(
                    self._thing, cause=f"the answer's head is longer than {self._head_bytes_max} bytes"
                )
            if length >= 0:
                raw = bytes(self._spill[self._start : self._start + length])
                self._start += length
                return raw
            if self._eof or self._failure is not None:
                raise self._head_failure()
            scanned = unread
            await self._wait()

    def _head_failure(self) -> Exception:
        if isinstance(self._failure, TimedOut):
            return self._failure
        if not self.answer_started:
            return ConnectFailed(self._thing, cause="the connection was closed without an answer")
        return Truncated(self._thing, cause="the connection was closed in the middle of the answer's head")

    async def _fill(self, target: memoryview, body: Body) -> int:
        """Receive straight into ``target``; returns early when the body ended or bytes had to go to the spill."""
        self._direct, self._direct_filled = target, 0
        self._direct_ends_body = len(target) == body.expected
        try:
            while self._direct_filled < len(target) and self._start == self._end and not self._is_over(body):
                await self._wait()
        except BaseException:
            self.body_bytes += self._direct_filled
            raise
        finally:
            self._direct = None
        return self._direct_filled

    async def _more(self, body: Body) -> None:
        """Wait until the spill holds more than now, or the body ended with the connection."""
        unread = self._end - self._start
        while self._end - self._start == unread and not self._is_over(body):
            await self._wait()

    def _is_over(self, body: Body) -> bool:
        if self._failure is not None:
            raise self._failure
        if not self._eof:
            return False
        if body.ended():
            return True
        raise Truncated(self._thing, cause="the server closed the connection before the end of the body")

    async def _wait(self) -> None:
        """Sleep until something happens: bytes, the end of the connection or too long a silence."""
        waiter = self._waiter = self._loop.create_future()
        if not self._in_head:
            self._quiet_since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._quiet_since_s + self._read_timeout_s, self._check_silence)
        self._resume()
        try:
            await waiter
        finally:
            self._waiter = None

    def _check_silence(self) -> None:
        """One timer for the connection's life while somebody waits: it re-arms itself instead of being moved at every read."""
        self._timer = None
        if self._waiter is None:
            return
        due_s = self._quiet_since_s + self._read_timeout_s
        if self._loop.time() < due_s:
            self._timer = self._loop.call_at(due_s, self._check_silence)
            return
        part = "answer" if self._in_head else "body"
        self._failure = TimedOut(self._thing, cause=f"nothing of the {part} came for {self._read_timeout_s:g} s")
        self.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _pause(self) -> None:
        # The TCP transport also under TLS: a TLS layer that was paused itself drops what it holds when the server closes.
        if not self._paused and self._carrier is not None:
            self._paused = True
            self._carrier.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._carrier is not None:
            self._paused = False
            self._carrier.resume_reading()

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._carrier = cast(
            "asyncio.Transport", transport
        )  # uvloop's transports do not inherit from asyncio's

    def get_buffer(self, sizehint: int) -> memoryview:
        # A TLS layer that fills our buffer to the brim while the server closes drops what it still holds, and it may hold a record
        # beyond the hint. So over TLS the buffer is always larger than what can come; plain sockets keep the rest in the kernel.
        wanted = sizehint + TLS_RECORD_BYTES if self._via_tls else SPILL_ROOM_BYTES_MIN
        direct = self._direct
        # Once bytes had to go to the spill, those behind them must too: several receives may come before the reader wakes.
        if direct is not None and self._start == self._end:
            left = len(direct) - self._direct_filled
            if left > (wanted if self._via_tls else 0):
                self._lent_direct = True
                return direct[self._direct_filled :]
        self._lent_direct = False
        return self._room(wanted)

    def buffer_updated(self, nbytes: int) -> None:
        if not self._in_head:
            self._quiet_since_s = self._loop.time()
        if self._lent_direct:
            self._direct_filled += nbytes
            if self._direct is not None and self._direct_filled == len(self._direct):
                self._wake()
                if not self._direct_ends_body:
                    self._pause()  # before what comes next goes to the spill: the reader brings its next buffer in a moment
            return
        self._end += nbytes
        self.answer_started = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            if len(self._spill) - self._end < SPILL_ROOM_BYTES_MIN:
                self._pause()  # the spill does not grow for a body that has come with its head
        elif self._body.done and not self._busy:
            self.abort()  # bytes that nobody asked for: what follows could be taken for the next answer
        else:
            self._pause()

    def eof_received(self) -> bool:
        if not self._via_tls or self._tls_said_goodbye():
            self._eof = True
        elif self._failure is None:
            self._failure = Truncated(self._thing, cause="the connection was cut without a TLS goodbye")
        self._wake()
        return False  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        if self._failure is None and not self._eof:
            self._failure = Truncated(
                self._thing, cause=f"the connection broke: {exc}" if exc else "the connection broke"
            )
        self._transport = self._carrier = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()
        if not self.closed.done():
            self.closed.set_result(None)

    def _room(self, wanted: int) -> memoryview:
        """The free end of the spill, at least ``wanted`` bytes; the unread part moves to the front when there is too little."""
        if self._start == self._end:
            self._start = self._end = 0
        if len(self._spill) - self._end < wanted:
            unread = bytes(self._spill[self._start : self._end])
            size = max(len(self._spill), SPILL_BYTES)
            while size - len(unread) < wanted:
                size *= 2
            if size > len(self._spill):
                self._spill_bytes = bytearray(size)
                self._spill = memoryview(self._spill_bytes)
            self._spill[: len(unread)] = unread
            self._start, self._end = 0, len(unread)
        return self._spill[self._end :]

    def _tls_said_goodbye(self) -> bool:
        """Did the peer close the TLS session, or was only the TCP connection cut, perhaps by somebody else?"""
        import ssl

        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if not isinstance(tls, ssl.SSLObject):
            return False
        try:
            return tls.read(1) == b""
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False
