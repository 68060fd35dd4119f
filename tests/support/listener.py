"""The shell around the stand-in servers' decisions: one listening port, faults, pacing, the log."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from .contents import FileContent
from .faults import Fault
from .http_answer import Answer, Entity, Kind, RequestHead, ServerName, answer_entity
from .request_log import RequestLog, RequestRecord
from .switchboard import Faults
from .throttle import Pacer, piece_bytes

# One step of a body that nothing paces. The log counts in these steps: of a body that the client breaks off, it counts up
# to one step (and what the kernel holds) too much.
WRITE_BYTES = 256 << 10
SENDFILE_BYTES = 1 << 20
TARGET_BYTES_MAX = 1 << 16  # the longest request line: a deep path, each byte of it percent-encoded
SHUTDOWN_S = 0.05  # what a request under way gets at the end of a test


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """What a request is about, and how to answer it."""

    kind: Kind
    repo: str | None = None
    path: str | None = None
    respond: Callable[[RequestHead, list[Fault]], Answer | Entity]


class Site(Protocol):
    """What a server knows: plain decisions, no I/O."""

    def route(self, head: RequestHead) -> Route:
        """Where ``head`` leads. Never fails: what is unknown is routed to an error answer."""
        ...


@dataclass(slots=True, eq=False)
class _Connection:
    number: int
    pacer: Pacer = field(default_factory=Pacer)


class _Response(web.StreamResponse):
    """A response whose end may be told by closing the connection."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(status=answer.status, headers=answer.headers)
        if answer.framing == "length":
            self.content_length = len(answer.span)
        elif answer.framing == "chunked":
            self.enable_chunked_encoding()
        else:
            self._length_check = False
            self.force_close()


class Listener:
    """One listening TCP port on ``host`` that serves ``site``.

    Args: name (as the log calls it), log and faults (shared by the servers of one stand-in), total (the pacer of
        `Faults.total_rate`, shared too), wall_clock (seconds since 1970), port (0: any free one).
    """

    def __init__(
        self,
        name: ServerName,
        site: Site,
        *,
        log: RequestLog,
        faults: Faults,
        total: Pacer,
        wall_clock: Callable[[], float],
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._name: ServerName = name
        self._site = site
        self._log = log
        self._faults = faults
        self._total = total
        self._wall_clock = wall_clock
        self._host = host
        self._port = port
        self._tls = tls
        self._runner: web.ServerRunner | None = None
        self._connections: weakref.WeakKeyDictionary[asyncio.BaseTransport, _Connection] = weakref.WeakKeyDictionary()
        self._connection_count = 0

    @property
    def url(self) -> str:
        """Scheme, host and port, once `start` returned."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    async def start(self) -> None:
        """Binds and listens. Raises OSError when the port is taken."""
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            max_line_size=TARGET_BYTES_MAX,
            max_field_size=TARGET_BYTES_MAX,
            auto_decompress=False,
        )
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        self._runner = runner
        await web.TCPSite(runner, self._host, self._port, ssl_context=self._tls, backlog=1024).start()
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the port and every connection; answers under way are cut."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        transport = request.transport
        if transport is None:
            return web.Response(status=500)  # the client is gone: nobody will read this
        connection = self._connection(transport)
        record = RequestRecord(
            started_at=loop.time(),
            server=self._name,
            connection=connection.number,
            method=request.method,
            target=request.raw_path,
            range=request.headers.get("Range"),
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        head = RequestHead(
            server=self._name,
            method=request.method,
            target=record.target,
            headers=record.headers,
            now=record.started_at,
            wall_now=self._wall_clock(),
            body=await request.read() if request.can_read_body else b"",
        )
        route = self._site.route(head)
        record.kind, record.repo, record.path = route.kind, route.repo, route.path
        self._log.opened(record)
        try:
            answer = await self._decide(head, route, record)
            record.status = answer.status or None
            if answer.drop:
                return _dropped(transport)
            response = _Response(answer)
            try:
                await response.prepare(request)
                if request.method != "HEAD":
                    await self._send_body(transport, response, answer, connection, record)
                record.complete = answer.cut_after is None
            except ConnectionError:
                pass  # the client is gone; the record says so
            return response
        finally:
            self._log.closed(record, loop.time())

    def _connection(self, transport: asyncio.BaseTransport) -> _Connection:
        connection = self._connections.get(transport)
        if connection is None:
            self._connection_count += 1
            connection = self._connections[transport] = _Connection(self._connection_count)
        return connection

    async def _decide(self, head: RequestHead, route: Route, record: RequestRecord) -> Answer:
        faults = list(
            self._faults.firing(
                server=self._name, kind=route.kind, method=head.method, repo=route.repo, path=route.path
            )
        )
        record.faults = tuple(type(fault).__name__ for fault in faults)
        for fault in faults:
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            head = fault.on_head(head)
        answer = next((made for fault in faults if (made := fault.on_request(head)) is not None), None)
        if answer is None:
            result = route.respond(head, faults)
            if isinstance(result, Entity):
                for fault in faults:
                    result = fault.on_entity(result)
                result = answer_entity(head, result)
            answer = result
        for fault in faults:
            answer = fault.on_answer(head, answer)
        return answer

    async def _send_body(
        self,
        transport: asyncio.Transport,
        response: web.StreamResponse,
        answer: Answer,
        connection: _Connection,
        record: RequestRecord,
    ) -> None:
        marks = {mark for mark in (len(answer.span), answer.stall_after, answer.cut_after) if mark is not None}
        drip = Pacer()
        sent = 0
        self._begin_pacing(connection)
        for mark in sorted(marks):
            while sent < mark:
                rate = self._slowest_rate(answer)
                offset = answer.span.start + sent
                if rate is None and answer.framing == "length" and self._can_sendfile(answer):
                    sent += await self._sendfile(transport, answer, offset, min(SENDFILE_BYTES, mark - sent), record)
                    continue
                data = answer.content.read(offset, min(piece_bytes(rate, largest=WRITE_BYTES), mark - sent))
                await self._pace(len(data), connection, drip, answer)
                await self._write(transport, response, data, record)
                sent += len(data)
            if mark == answer.stall_after:
                await _silence(answer.stall_s)
            if mark == answer.cut_after:
                transport.close()
                return

    async def _write(
        self,
        transport: asyncio.Transport,
        response: web.StreamResponse,
        data: bytes | memoryview,
        record: RequestRecord,
    ) -> None:
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        # Counted before the bytes leave: a client that has them all must find them in the log.
        self._log.sent(record, len(data))
        await response.write(data)

    def _can_sendfile(self, answer: Answer) -> bool:
        # Only asyncio's own loop has it; over TLS the bytes have to pass through user space anyway.
        return (
            isinstance(answer.content, FileContent)
            and self._tls is None
            and isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
        )

    async def _sendfile(
        self, transport: asyncio.Transport, answer: Answer, offset: int, count: int, record: RequestRecord
    ) -> int:
        assert isinstance(answer.content, FileContent)
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._log.sent(record, count)
        with answer.content.path.open("rb") as file:
            sent = await asyncio.get_running_loop().sendfile(transport, file, offset, count)
        if sent != count:
            raise OSError(f"{answer.content.path} became shorter while it was served")
        return sent

    def _slowest_rate(self, answer: Answer) -> float | None:
        rates = [self._faults.connection_rate, self._total_rate(), answer.rate]
        return min((rate for rate in rates if rate is not None), default=None)

    def _begin_pacing(self, connection: _Connection) -> None:
        now = asyncio.get_running_loop().time()
        if self._faults.connection_rate is not None:
            connection.pacer.begin(rate=self._faults.connection_rate, now=now)
        if (total := self._total_rate()) is not None:
            self._total.begin(rate=total, now=now)

    def _total_rate(self) -> float | None:
        return self._faults.total_rate_at(self._log.bytes_served)

    async def _pace(self, size: int, connection: _Connection, drip: Pacer, answer: Answer) -> None:
        now = asyncio.get_running_loop().time()
        pairs = [
            (connection.pacer, self._faults.connection_rate),
            (self._total, self._total_rate()),
            (drip, answer.rate),
        ]
        delays = [pacer.take(size, rate=rate, now=now) for pacer, rate in pairs if rate is not None]
        if delays and max(delays) > 0:
            await asyncio.sleep(max(delays))


async def _silence(seconds: float | None) -> None:
    """Waits; without a limit until the connection or the server ends, which cancels the handler."""
    if seconds is None:
        await asyncio.Event().wait()
    else:
        await asyncio.sleep(seconds)


def _dropped(transport: asyncio.Transport) -> web.StreamResponse:
    """Resets the connection (RST, by SO_LINGER 0) and returns a response that aiohttp then cannot send."""
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    return web.Response(status=500)
