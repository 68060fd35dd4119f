"""Goes to an endpoint as a download would, step by step, and writes down how far it came. Decides nothing."""

from __future__ import annotations

import asyncio
import enum
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime

from ...common.errors import ConnectFailed, ShoalError, TimedOut
from ...common.http.connection import Connection
from ...common.http.dial import Dialer, HttpLimits, Route, connect_cause, resolve
from ...common.http.message import Headers, request_head
from ...common.http.proxies import proxy_authorization
from ...common.http.tls import TlsContexts, TlsOptions
from ...common.http.url import Url, host_port


class Stage(enum.IntEnum):
    """The steps to an answer, in their order."""

    DNS = 0
    CONNECT = 1
    PROXY = 2  # its port, and where TLS is to come its tunnel
    TLS = 3
    HTTP = 4
    DONE = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """An endpoint to go to. ca_setting names what its authorities are set by."""

    url: Url
    what: str  # "Hub endpoint", "source", …
    tls: TlsOptions
    ca_setting: str
    is_hub: bool = False
    asks_http: bool = True  # False: the last step is TLS
    proxy: Url | None = None
    proxy_origin: str = ""  # where the proxy was set

    @property
    def label(self) -> str:
        """Host and port, as rows name it."""
        return host_port(self.url.host, self.url.port)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """How far it came: all steps before stage went well; error is why it ended there, None at DONE. Times in seconds."""

    target: Target
    stage: Stage = Stage.DNS
    error: ShoalError | None = None
    verify_code: int = 0  # of OpenSSL, where it was the certificate
    verify_message: str = ""
    addresses: tuple[str, ...] = ()
    certificate: bytes = b""  # DER
    tls_version: str = ""
    status: int = 0
    headers: Headers = field(default_factory=Headers)
    connect_s: float = 0.0
    ahead_s: float | None = None  # of this machine's clock, the server's; exact to a second or so


async def probe(
    target: Target, *, timeout_s: float, user_agent: str, wall_clock: Callable[[], float] = time.time
) -> Probed:
    """Go there. timeout_s bounds each step. Raises nothing but cancellation and UsageError for an unusable CA bundle."""
    limits = HttpLimits(connections_per_host=1, connect_timeout_s=timeout_s, read_timeout_s=timeout_s)
    dialer = Dialer(tls=TlsContexts(target.tls), limits=limits, user_agent=user_agent)
    route = Route(scheme=target.url.scheme, host=target.url.host, port=target.url.port, proxy=target.proxy)
    seen = Probed(target=target)
    hop = target.proxy or target.url
    try:
        async with asyncio.timeout(timeout_s):
            found = await resolve(asyncio.get_running_loop(), hop.host, hop.port)
        seen = replace(seen, addresses=tuple(dict.fromkeys(str(address[4][0]) for address in found)))
    except TimeoutError:
        return replace(seen, error=TimedOut(hop.host, cause=f"the resolver does not answer within {timeout_s:g} s"))
    except OSError as error:
        return replace(seen, error=ConnectFailed(hop.host, cause=connect_cause(error)))
    connection: Connection | None = None
    try:
        seen = replace(seen, stage=Stage.PROXY if target.proxy else Stage.CONNECT)
        began_at = time.monotonic()
        connection = await dialer.connect(route)
        seen = replace(seen, connect_s=time.monotonic() - began_at)
        if route.scheme == "https":
            if target.proxy is not None:
                await dialer.tunnel(connection, route, target.proxy)
            seen = replace(seen, stage=Stage.TLS)
            connection = await dialer.secure(connection, route)
            seen = replace(seen, certificate=connection.certificate, tls_version=connection.tls_version)
        if not target.asks_http:
            return replace(seen, stage=Stage.DONE)
        seen = replace(seen, stage=Stage.HTTP)
        return await _ask(connection, seen, user_agent, wall_clock)
    except ShoalError as error:
        refused = error.__cause__
        if isinstance(refused, ssl.SSLCertVerificationError):
            der = await _shown_certificate(route, limits, user_agent)
            seen = replace(
                seen, verify_code=refused.verify_code, verify_message=refused.verify_message, certificate=der
            )
        return replace(seen, error=error)
    finally:
        if connection is not None:
            connection.abort()


async def _ask(connection: Connection, seen: Probed, user_agent: str, wall_clock: Callable[[], float]) -> Probed:
    target = seen.target
    fields = [("Host", target.url.authority), ("User-Agent", user_agent), ("Accept", "*/*")]
    path = target.url.target
    if target.proxy is not None and target.url.scheme == "http":
        path = target.url.text  # absolute-form, RFC 9112 section 3.2.2
        if authorization := proxy_authorization(target.proxy):
            fields.append(("Proxy-Authorization", authorization))
    sent_at = wall_clock()
    head = await connection.exchange(request_head("GET", path, fields), "GET", target.url.label)
    ahead_s = clock_ahead_s(head.headers.get("date"), sent_at=sent_at, received_at=wall_clock())
    return replace(seen, stage=Stage.DONE, status=head.status, headers=head.headers, ahead_s=ahead_s)


def clock_ahead_s(date: str, *, sent_at: float, received_at: float) -> float | None:
    """By how much a server's clock is ahead of ours, from its Date header; None without one.

    A Date is cut to the second, so half a second is added; the answer was made about half-way between sending and receiving.
    """
    try:
        then = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return then + 0.5 - (sent_at + received_at) / 2


async def _shown_certificate(route: Route, limits: HttpLimits, user_agent: str) -> bytes:
    """The certificate that was refused, in DER: asked for once more, by a connection that trusts anybody and says nothing."""
    dialer = Dialer(tls=TlsContexts(TlsOptions(verify=False)), limits=limits, user_agent=user_agent)
    try:
        connection = await dialer.dial(route)
    except ShoalError:
        return b""
    try:
        return connection.certificate
    finally:
        connection.abort()
