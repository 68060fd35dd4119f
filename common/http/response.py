"""An answer whose body is still on its way: the caller brings the buffers."""

from __future__ import annotations

from types import TracebackType

from ..errors import ProtocolViolation, Truncated
from .connection import Connection
from .dial import Route
from .message import ContentRange, Headers, ResponseHead
from .pool import Pool
from .url import Url

_READ_BYTES = 64 * 1024  # step of ``read`` where the length is not known


class Response:
    """Status and headers, and a body that is read once, by one task.

    The connection goes back to the pool as soon as the body has been read to its end. ``close`` (or leaving ``async with``) drops it
    if that has not happened.
    """

    __slots__ = ("_connection", "_encoded", "_ended", "_pool", "_received", "_route", "_url", "body_length", "content_range", "headers",
                 "reason", "redirects", "status")  # fmt: skip

    def __init__(
        self,
        *,
        pool: Pool,
        route: Route,
        connection: Connection,
        head: ResponseHead,
        url: Url,
        redirects: tuple[tuple[int, str], ...],
        content_range: ContentRange | None,
        encoded: bool,
    ) -> None:
        """Made by HttpClient. ``encoded``: the body has a content coding that nobody asked for."""
        self.status = head.status
        self.reason = head.reason
        self.headers: Headers = head.headers
        self.redirects = redirects  # what was followed: status and URL that answered with it
        self.content_range = content_range
        self.body_length: int | None = connection.body.length  # bytes, None where only the end of the body tells
        self._pool = pool
        self._route = route
        self._connection: Connection | None = connection
        self._url = url
        self._encoded = encoded
        self._received = 0
        self._ended = False
        if connection.body.done:
            self._end()

    @property
    def url(self) -> str:
        """The URL that answered in the end. It may be signed: for requests, not for logs."""
        return self._url.text

    @property
    def protocol(self) -> str:
        """``HTTP/1.1``, with the version of TLS where the connection has it and is still this answer's."""
        tls = self._connection.tls_version if self._connection is not None else ""
        return f"HTTP/1.1 {tls}" if tls else "HTTP/1.1"

    @property
    def received_bytes(self) -> int:
        """Body bytes put into the caller's buffers so far; after a ``read_into`` that failed this counts what it had put there."""
        return self._received

    async def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` (writable bytes) with the next part of the body; returns less than its size only at the end, 0 after it.

        Raises Truncated (cut short), TimedOut (silence), ProtocolViolation (broken framing, a content coding that was not asked for,
        more or less than the Content-Range said). After an error the response is closed.
        """
        connection = self._connection
        if connection is None:
            if self._ended:
                return 0
            raise Truncated(self._url.label, cause="the response was closed before the end of its body")
        self._check_coding()
        try:
            count = await connection.receive_into(buffer)
            self._received = connection.body_bytes
            self._check_range(connection.body.done)
        except BaseException:
            self._received = connection.body_bytes
            self.abort()
            raise
        if connection.body.done:
            self._end()
        return count

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises ProtocolViolation when it is larger than ``limit_bytes``, else as ``read_into``."""
        if self.body_length is not None and self.body_length > limit_bytes:
            raise self._too_large(limit_bytes)
        step = min(_READ_BYTES, limit_bytes + 1) if self.body_length is None else self.body_length
        parts = bytearray()
        while not self._ended:
            part = bytearray(step)
            with memoryview(part) as view:
                count = await self.read_into(view)
            parts += part[:count] if count < step else part
            if len(parts) > limit_bytes:
                raise self._too_large(limit_bytes)
        return bytes(parts)

    def close(self) -> None:
        """Let go of the connection: back to the pool if the body has been read to its end, else closed. Safe to call twice."""
        connection = self._connection
        if connection is None:
            return
        try:
            done = connection.finish_early()
        except ProtocolViolation:
            done = False
        if done:
            self._end()
        else:
            self.abort()

    def abort(self) -> None:
        """Drop the connection now, also under a task that reads from it. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            self._pool.release(self._route, connection)

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Response {self.status} {self._url.label}>"

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        self._ended = True
        if connection is not None:
            self._pool.release(self._route, connection)

    def _check_coding(self) -> None:
        if self._encoded:
            self.abort()
            raise ProtocolViolation(
                self._url.label,
                cause=f"the body has the content coding {self.headers.get('content-encoding')[:40]!r} though none was accepted",
                remedy="the server or a proxy in between must send the file as it is",
            )

    def _check_range(self, ended: bool) -> None:
        if self.content_range is None:
            return
        length = self.content_range.length
        if self._received > length:
            raise ProtocolViolation(
                self._url.label, cause=f"the body is longer than its Content-Range of {length} bytes"
            )
        if ended and self._received < length:
            raise Truncated(
                self._url.label, cause=f"the body has {self._received} of the {length} bytes of its Content-Range"
            )

    def _too_large(self, limit_bytes: int) -> ProtocolViolation:
        self.abort()
        return ProtocolViolation(self._url.label, cause=f"the body is larger than {limit_bytes} bytes")
