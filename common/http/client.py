"""The client: requests, redirects, one retry where a kept connection turned out to be dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final

from ..errors import ConnectFailed, ProtocolViolation, RedirectRefused, Refused, TransferError
from ..secrets import Secret
from .connection import Connection
from .dial import Dialer, HttpLimits, Route
from .message import ContentRange, ResponseHead, check_field, parse_content_range, request_head
from .pool import Pool
from .proxies import ProxyChooser, proxy_authorization
from .redirects import CARRIED_ACROSS_ORIGINS, FOLLOWED, next_url
from .response import Response
from .tls import TlsContexts, TlsOptions
from .url import Url, parse_url

DRAIN_BYTES_MAX: Final = 64 * 1024  # of a redirect's body: reading it is cheaper than a new connection
# Framing, routing and ranges are the client's own business: a caller that sets them could split a request in two.
_RESERVED: Final = frozenset(
    ("authorization", "connection", "content-length", "expect", "host", "if-range", "keep-alive", "proxy-authorization",
     "proxy-connection", "range", "te", "trailer", "transfer-encoding", "upgrade")
)  # fmt: skip

_Fields = tuple[tuple[str, str], ...]


class HttpClient:
    """Fetches URLs over HTTP/1.1 with kept connections; one per process or job. An async context manager that owns its connections.

    Sends no body and keeps no cookies. URLs never appear with their query in an error, credentials not at all.
    """

    def __init__(
        self,
        *,
        limits: HttpLimits,
        user_agent: str,
        tls: TlsOptions = TlsOptions(),  # noqa: B008 (frozen)
        proxies: Mapping[str, str] | None = None,
        https_only: Callable[[], bool] = lambda: False,
        refuse_address: Callable[[str], str] | None = None,
        check_host: Callable[[str], None] | None = None,
    ) -> None:
        """``proxies``: as ``proxies_from_environ`` returns them; None for none. ``https_only``: whether every http URL
        is refused; asked for each, because that may change.

        ``refuse_address``: says why an address must not be connected to, "" where it may; asked after a name was resolved. What a
        proxy connects to is the proxy's business. ``check_host``: raises Refused for a host that nothing may be asked of, redirects
        included.
        """
        check_field("User-Agent", user_agent)
        self._limits = limits
        self._user_agent = user_agent
        self._proxies = ProxyChooser(proxies)
        self._https_only = https_only
        self._check_host = check_host
        dialer = Dialer(tls=TlsContexts(tls), limits=limits, user_agent=user_agent, refuse_address=refuse_address)
        self._pool = Pool(dialer.dial, connections_per_host=limits.connections_per_host, idle_s=limits.idle_s)

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; a body that is still being read ends in Truncated."""
        await self._pool.aclose()

    @property
    def open_connections(self) -> int:
        """Connections that are open now, idle ones included."""
        return self._pool.open_count

    async def request(
        self,
        url: str | Url,
        *,
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        authorization: Secret | str | None = None,
        byte_range: tuple[int, int] | None = None,
        if_range: str | None = None,
        follow_redirects: bool = True,
        before_redirect: Callable[[str], Awaitable[None]] | None = None,
    ) -> Response:
        """Ask for ``url`` and return when the head of the final answer is there, whatever its status.

        Args: authorization is the whole value of the header (``Bearer ...``). byte_range is (start, length) in bytes. if_range is a
        strong validator: when it no longer holds the server answers 200 with the whole file.
        A 206 answer is checked against ``byte_range``: it starts there and is not longer. With an ``Accept-Encoding`` of the caller's
        own in ``headers`` the body is handed over as it comes, still encoded. before_redirect is awaited with each URL that an answer
        leads to, before it is asked: the place to wait for a host's budget.
        Raises Refused (URL or headers that must not be sent, http under ``https_only``), RedirectRefused, ConnectFailed, TlsFailed,
        TimedOut, ProtocolViolation, Truncated (the head was cut short).
        """
        target = parse_url(url) if isinstance(url, str) else url
        self._check_allowed(target)
        fields = self._fields(method, headers, byte_range, if_range)
        credential = authorization.reveal() if isinstance(authorization, Secret) else authorization
        if credential is not None:
            check_field("Authorization", credential)
            fields = (*fields, ("Authorization", credential))
        accepts_codings = any(name.lower() == "accept-encoding" for name, _ in headers)
        redirects: list[tuple[int, str]] = []
        seen = {target.text}
        while True:
            route, connection, head = await self._exchange(target, method, fields)
            if head.status in FOLLOWED and follow_redirects and "location" in head.headers:
                try:
                    onward = self._onward(target, head, redirects, seen)
                    self._check_allowed(onward)
                    await self._drain(connection)
                finally:
                    self._pool.release(route, connection)
                if onward.origin != target.origin:
                    fields = tuple(
                        field
                        for field in fields
                        if field[0] in _OWN_FIELDS or field[0].lower() in CARRIED_ACROSS_ORIGINS
                    )
                redirects.append((head.status, target.text))
                target = onward
                if before_redirect is not None:
                    await before_redirect(target.text)
                continue
            try:
                body_length = None if method == "HEAD" else connection.body.length
                content_range = _checked_range(head, byte_range, body_length, target.label)
            except ProtocolViolation:
                self._discard(route, connection)
                raise
            coding = ",".join(head.headers.elements("content-encoding")).lower()
            return Response(
                pool=self._pool,
                route=route,
                connection=connection,
                head=head,
                url=target,
                redirects=tuple(redirects),
                content_range=content_range,
                encoded=coding not in ("", "identity") and not accepts_codings,
            )

    def _check_allowed(self, target: Url) -> None:
        if self._https_only() and target.scheme != "https":
            raise Refused(
                target.label,
                cause="only https is allowed here",
                remedy="use an https URL or set security.https_only=false",
            )
        if self._check_host is not None:
            self._check_host(target.host)

    def _fields(
        self, method: str, headers: Sequence[tuple[str, str]], byte_range: tuple[int, int] | None, if_range: str | None
    ) -> _Fields:
        if method not in ("GET", "HEAD"):
            raise ValueError(f"only GET and HEAD are spoken here, not {method!r}")
        named: set[str] = set()
        for name, value in headers:
            check_field(name, value)
            if name.lower() in _RESERVED:
                raise Refused(
                    f"header {name}", cause="the client sets it itself", remedy="use the arguments of request()"
                )
            named.add(name.lower())
        fields = [
            field for field in (("User-Agent", self._user_agent), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
            if field[0].lower() not in named
        ]  # fmt: skip
        if byte_range is not None:
            start, length = byte_range
            if start < 0 or length < 1:
                raise ValueError(f"not a range of bytes: start {start}, length {length}")
            fields.append(("Range", f"bytes={start}-{start + length - 1}"))
            if if_range is not None:
                check_field("If-Range", if_range)
                fields.append(("If-Range", if_range))
        fields.extend(headers)
        return tuple(fields)

    async def _exchange(self, url: Url, method: str, fields: _Fields) -> tuple[Route, Connection, ResponseHead]:
        """One request and the head of its answer; the caller then owes the pool the connection."""
        proxy = self._proxies.choose(url)
        route = Route(scheme=url.scheme, host=url.host, port=url.port, proxy=proxy)
        target, own = url.target, [("Host", url.authority)]
        if proxy is not None and url.scheme == "http":
            target = url.text  # absolute-form, RFC 9112 section 3.2.2
            if authorization := proxy_authorization(proxy):
                own.append(("Proxy-Authorization", authorization))
        request = request_head(method, target, (*own, *fields))
        connection = await self._pool.acquire(route)
        while True:
            reused = connection.exchanges > 0
            try:
                return route, connection, await connection.exchange(request, method, url.label)
            except ConnectFailed:
                # The server closed the idle connection while the request was on its way: it has not seen it (RFC 9112 section 9.3.1).
                if not reused:
                    self._discard(route, connection)
                    raise
                connection = await self._pool.replace(route, connection)
            except BaseException:
                self._discard(route, connection)
                raise

    def _discard(self, route: Route, connection: Connection) -> None:
        connection.abort()
        self._pool.release(route, connection)

    def _onward(self, url: Url, head: ResponseHead, redirects: list[tuple[int, str]], seen: set[str]) -> Url:
        onward = next_url(url, head.headers, https_only=self._https_only())
        if onward.text in seen:
            raise RedirectRefused(url.label, cause="the redirects go in a circle")
        if len(redirects) >= self._limits.redirects_max:
            raise RedirectRefused(url.label, cause=f"more than {self._limits.redirects_max} redirects")
        seen.add(onward.text)
        return onward

    async def _drain(self, connection: Connection) -> None:
        """Read a redirect's body, if it is short, so that the connection can be used again. What fails here harms nobody."""
        length = connection.body.length
        if connection.body.done or length is None or length > DRAIN_BYTES_MAX:
            return
        try:
            await connection.receive_into(memoryview(bytearray(length)))
        except TransferError:
            connection.abort()
        except asyncio.CancelledError:
            connection.abort()
            raise


_OWN_FIELDS: Final = frozenset(("User-Agent", "Accept", "Accept-Encoding", "Range", "If-Range"))


def _checked_range(
    head: ResponseHead, asked: tuple[int, int] | None, body_length: int | None, thing: str
) -> ContentRange | None:
    """The range that a 206 answer carries, which must begin where it was asked to and not be longer."""
    if head.status != 206:
        return None
    if asked is None:
        raise ProtocolViolation(thing, cause="the server sent a part though the whole was asked for")
    found = parse_content_range(",".join(head.headers.get_all("content-range")), thing)
    start, length = asked
    if found.start != start or found.length > length:
        raise ProtocolViolation(
            thing,
            cause=f"the server sent bytes {found.start}-{found.end_exclusive - 1}, asked were {start}-{start + length - 1}",
        )
    if body_length is not None and body_length != found.length:
        raise ProtocolViolation(thing, cause=f"the answer announces {body_length} bytes for a range of {found.length}")
    return found
