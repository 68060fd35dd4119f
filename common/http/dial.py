"""Opening connections: names to addresses, a race between them, the proxy's tunnel, the TLS handshake."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from ..errors import ConnectFailed, ProtocolViolation, Refused, TimedOut
from .connection import Connection
from .message import request_head
from .proxies import proxy_authorization, proxy_label
from .tls import TlsContexts, handshake_failure
from .url import Url, host_port, is_ip_literal

RACE_DELAY_S: Final = 0.25  # Connection Attempt Delay of RFC 8305 section 8
ADDRESSES_MAX: Final = 8  # of one name; a longer answer does not make a dead host slower to give up
NAMES_KEPT_MAX: Final = 4096

_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpLimits:
    """What one client may spend. Seconds, bytes, counts."""

    connections_per_host: int
    connect_timeout_s: float = 10.0  # each of: TCP connect, the proxy's answer, TLS handshake
    read_timeout_s: float = 30.0  # silence between two reads of a body; also the time for a whole head
    head_bytes_max: int = 64 * 1024
    headers_max: int = 100
    redirects_max: int = 10
    idle_s: float = 60.0  # an unused connection is closed after this; servers commonly give 60 to 75 s
    names_s: float = 0.0  # for how long an answer of the resolver is kept; 0: every connection asks anew


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where a connection leads: connections of one route are interchangeable."""

    scheme: str
    host: str
    port: int
    proxy: Url | None

    @property
    def label(self) -> str:
        """For errors."""
        return host_port(self.host, self.port) + (f" by {proxy_label(self.proxy)}" if self.proxy else "")


class Dialer:
    """Opens connections; keeps none."""

    def __init__(
        self,
        *,
        tls: TlsContexts,
        limits: HttpLimits,
        user_agent: str,
        refuse_address: Callable[[str], str] | None = None,
    ) -> None:
        """refuse_address: says why an address must not be connected to, "" where it may."""
        self._tls = tls
        self._limits = limits
        self._user_agent = user_agent
        self._refuse_address = refuse_address
        self._names: dict[tuple[str, int], tuple[float, Sequence[_Address]]] = {}

    async def dial(self, route: Route) -> Connection:
        """A new connection along ``route``, ready for requests. Nothing stays open when it fails or is cancelled.

        Raises ConnectFailed, TimedOut, TlsFailed, ProtocolViolation (of a proxy), UsageError (an unusable CA bundle).
        """
        if route.scheme == "https":
            self._tls.get()  # before anybody is bothered: the CA bundle may be unusable
        connection = await self.connect(route)
        if route.scheme != "https":
            return connection
        try:
            if route.proxy is not None:
                await self.tunnel(connection, route, route.proxy)
            return await self.secure(connection, route)
        except BaseException:
            connection.abort()
            raise

    async def connect(self, route: Route) -> Connection:
        """The TCP connection alone: to the proxy where there is one. Raises ConnectFailed, TimedOut."""
        loop = asyncio.get_running_loop()
        host, port = (route.host, route.port) if route.proxy is None else (route.proxy.host, route.proxy.port)
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                addresses = interleave_families(await self._resolve(loop, host, port))[:ADDRESSES_MAX]
                if route.proxy is None:
                    addresses = self._permitted(route, addresses)
                sock = await _connect(loop, addresses)
        except TimeoutError:
            raise self._too_slow(route, "connection") from None
        except OSError as error:
            raise ConnectFailed(route.label, cause=connect_cause(error)) from error
        try:
            _, connection = await loop.create_connection(lambda: self._connection(loop, via_tls=False), sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection

    async def _resolve(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> Sequence[_Address]:
        """As `resolve`, with a memory for names."""
        now = loop.time()
        kept = self._names.get((host, port))
        if kept is not None and now < kept[0]:
            return kept[1]
        found = await resolve(loop, host, port)
        if self._limits.names_s:
            if len(self._names) >= NAMES_KEPT_MAX:
                self._names.clear()
            self._names[host, port] = now + self._limits.names_s, found
        return found

    def _permitted(self, route: Route, addresses: list[_Address]) -> list[_Address]:
        """The addresses that may be connected to. Raises Refused when none of them may."""
        if self._refuse_address is None:
            return addresses
        permitted: list[_Address] = []
        reason = ""
        for address in addresses:
            found = self._refuse_address(str(address[4][0]))
            reason = found or reason
            if not found:
                permitted.append(address)
        if not permitted:
            raise Refused(route.label, cause=f"it leads to {reason}", remedy="allow private addresses if that is meant")
        return permitted

    async def tunnel(self, connection: Connection, route: Route, proxy: Url) -> None:
        """CONNECT, RFC 9110 section 9.3.6. Raises ConnectFailed, TimedOut, ProtocolViolation, Truncated."""
        target = host_port(route.host, route.port)
        fields = [("Host", target), ("User-Agent", self._user_agent)]
        if authorization := proxy_authorization(proxy):
            fields.append(("Proxy-Authorization", authorization))
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                head = await connection.exchange(request_head("CONNECT", target, fields), "CONNECT", route.label)
        except TimeoutError:
            raise self._too_slow(route, "answer of the proxy") from None
        if not 200 <= head.status < 300:
            settings = "the user name and password in the proxy's URL" if head.status == 407 else "the proxy's settings"
            cause = f"the proxy answered {head.status} to CONNECT"
            raise ConnectFailed(route.label, cause=cause, remedy=f"check {settings}")
        if not connection.at_rest:
            raise ProtocolViolation(route.label, cause="the proxy sent bytes of its own into the tunnel")

    async def secure(self, connection: Connection, route: Route) -> Connection:
        """Start TLS on a plain connection; returns the connection above it. Raises TlsFailed, ConnectFailed, TimedOut, UsageError.

        Not by ``create_connection(ssl=...)``: we need the TCP transport in hand, to pause it and to close it at once.
        """
        loop = asyncio.get_running_loop()
        context = self._tls.get()
        inner = self._connection(loop, via_tls=True)
        carrier = connection.detach()
        if carrier is None:
            raise ConnectFailed(route.label, cause="the connection broke before the TLS handshake")
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                secured = await loop.start_tls(carrier, inner, context, server_hostname=route.host.rstrip("."))
            if secured is None:  # asyncio: the connection was lost just then
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        except TimeoutError:
            carrier.abort()
            raise self._too_slow(route, "TLS handshake") from None
        except OSError as error:
            carrier.abort()
            raise handshake_failure(route.label, error) from error
        except BaseException:
            carrier.abort()
            raise
        inner.secured(secured, carrier)
        return inner

    def _connection(self, loop: asyncio.AbstractEventLoop, *, via_tls: bool) -> Connection:
        limits = self._limits
        return Connection(
            loop,
            head_bytes_max=limits.head_bytes_max,
            headers_max=limits.headers_max,
            read_timeout_s=limits.read_timeout_s,
            via_tls=via_tls,
        )

    def _too_slow(self, route: Route, what: str) -> TimedOut:
        return TimedOut(route.label, cause=f"no {what} within {self._limits.connect_timeout_s:g} s")


def connect_cause(error: OSError) -> str:
    """Why a connection did not come about, in a few words."""
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved: {error.strerror}"
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


async def resolve(loop: asyncio.AbstractEventLoop, host: str, port: int) -> Sequence[_Address]:
    """The addresses of ``host``; those that are addresses already cost no thread. Raises socket.gaierror."""
    if is_ip_literal(host):
        numeric = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return cast("Sequence[_Address]", numeric)
    return cast("Sequence[_Address]", await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def _connect(loop: asyncio.AbstractEventLoop, addresses: Sequence[_Address]) -> socket.socket:
    """A connected, non-blocking socket: to the first of the addresses that answers (Happy Eyeballs, RFC 8305)."""
    if len(addresses) == 1:
        return await _attempt(loop, addresses[0])
    return await _race(loop, addresses)


def interleave_families(addresses: Sequence[_Address]) -> list[_Address]:
    """The addresses with their families in turn, the resolver's first choice first (RFC 8305 section 4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[_Address] = []
    for index in range(max(len(first), len(other))):
        mixed.extend(first[index : index + 1])
        mixed.extend(other[index : index + 1])
    return mixed


async def _attempt(loop: asyncio.AbstractEventLoop, address: _Address) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(loop: asyncio.AbstractEventLoop, addresses: Sequence[_Address]) -> socket.socket:
    """Start an attempt per address, each when the one before failed or was given its head start; the first to connect wins."""
    attempts: list[asyncio.Task[socket.socket]] = []
    pending: set[asyncio.Task[socket.socket]] = set()
    winner: asyncio.Task[socket.socket] | None = None
    failure: BaseException | None = None
    try:
        waiting = list(addresses)
        while waiting or pending:
            if waiting:
                attempts.append(loop.create_task(_attempt(loop, waiting.pop(0))))
                pending.add(attempts[-1])
            delay_s = RACE_DELAY_S if waiting else None
            done, pending = await asyncio.wait(pending, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    winner = task
                    return task.result()
                failure = failure or error
        raise failure or OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    finally:
        for task in attempts:
            task.cancel()
        for result in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(result, socket.socket) and (winner is None or result is not winner.result()):
                result.close()
