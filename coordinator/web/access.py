"""Who may ask what. Pure: no I/O, no clock; the middleware in `guard.py` carries it out.

Loopback is open, as everywhere in Shoal: the machine's own permissions are the credential. It is closed as soon as anybody else can
come: a listening address that others reach, a trusted proxy, `web.login = "always"`, or a request that says it was forwarded.

What protects browsers, always:

* the Host must be an address or a name that was allowed (a page that rebinds its own name to this server is refused);
* a change needs an Origin of ours, if the browser names one, and a token that other sites' pages cannot read;
* sessions are cookies that are not sent along from other sites.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ...common.channel import is_loopback
from ...common.errors import Refused, UsageError
from ...common.settings_kinds import BadValue, split_address
from ...common.settings_web import Network

LOOPBACK_NAMES = frozenset({"localhost"})
FORWARDED_MAX = 32
"""Addresses of one X-Forwarded-For that are looked at."""
FORWARDING = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-real-ip", "via")


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessRules:
    """What the settings say."""

    closed: bool  # everybody must log in
    encrypted: bool  # we speak TLS ourselves
    open_wire: bool = False  # passwords may travel in plain text: web.insecure was said out loud
    trusted_proxies: tuple[Network, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a request really came from, and what it was sent to."""

    address: str  # of the client
    scheme: str  # http or https
    host: str  # as the Host header has it: name and port
    direct: bool  # not through a proxy, as far as anybody says


def rules(
    *,
    listen: str,
    login: str,
    insecure: bool,
    has_tls: bool,
    has_credential: bool,
    trusted_proxies: Sequence[Network],
    allowed_hosts: Collection[str],
    allowed_origins: Collection[str],
    machine: str,
) -> AccessRules:
    """The rules for an address. machine: this machine's name. Raises UsageError for an address that may not be opened like this."""
    local = is_loopback(listen)
    closed = login == "always" or bool(trusted_proxies) or not (local or insecure)
    if not local and not insecure and not has_tls and not trusted_proxies:
        raise UsageError(
            f"web.listen {listen}",
            cause="an address that other machines can reach needs TLS, or a proxy that brings it",
            remedy="set web.tls_cert and web.tls_key, or web.trusted_proxies; or listen on 127.0.0.1; "
            "or say --insecure on a network that you trust",
        )
    if closed and not has_credential:
        raise UsageError(
            f"web.listen {listen}",
            cause="nobody could log in: there is neither a password nor an admin token",
            remedy="set web.password_hash to what shoal web password prints, or make a token: shoal token create --role admin",
        )
    host, _port = split_address(listen)
    names = {name.strip("[]") for name in allowed_hosts} | LOOPBACK_NAMES | {machine.lower(), host.lower()} - {""}
    return AccessRules(
        closed=closed,
        encrypted=has_tls,
        open_wire=insecure,
        trusted_proxies=tuple(trusted_proxies),
        allowed_hosts=frozenset(names),
        allowed_origins=frozenset(origin.lower().rstrip("/") for origin in allowed_origins),
    )


def origin_of(access: AccessRules, *, peer: str, headers: Mapping[str, str]) -> Origin:
    """Where a request came from. headers: by lower-case name, values of one name joined by commas. Raises Refused."""
    scheme = "https" if access.encrypted else "http"
    host = headers.get("host", "")
    if not _trusted(access, peer):
        forwarded = any(name in headers for name in FORWARDING)
        return Origin(address=_plain(peer), scheme=scheme, host=host, direct=not forwarded)
    chain = [part.strip() for part in headers.get("x-forwarded-for", "").split(",") if part.strip()][-FORWARDED_MAX:]
    address = peer
    for text in reversed(chain):
        address = _address_only(text)
        if not _trusted(access, address):
            break
    proto = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
    if proto in ("http", "https"):
        scheme = proto
    forwarded_host = headers.get("x-forwarded-host", "").rpartition(",")[2].strip()
    return Origin(address=_plain(address), scheme=scheme, host=forwarded_host or host, direct=False)


def check_host(access: AccessRules, host: str) -> None:
    """Raise Refused for a Host that is neither an address nor a name of ours."""
    name, _port = split_host(host)
    if name in access.allowed_hosts or _is_address(name):
        return
    raise Refused(
        f"Host {host[:100]!a}",
        cause="this server is not known by that name",
        remedy="call it by its address, or add the name to web.allowed_hosts",
    )


def check_change(access: AccessRules, origin: Origin, *, named: str | None, fetch_site: str | None) -> None:
    """Raise Refused where a browser says that another site's page asks for a change.

    named: the Origin header; fetch_site: the Sec-Fetch-Site header (W3C Fetch Metadata).
    """
    if named is not None:
        if not _is_own(origin, named) and named.lower().rstrip("/") not in access.allowed_origins:
            raise Refused(
                f"Origin {named[:100]!a}",
                cause="another site's page asks for a change here",
                remedy="if that site is yours, add it to web.allowed_origins",
            )
    elif fetch_site is not None and fetch_site not in ("same-origin", "none"):
        raise Refused("request", cause="another site's page asks for a change here")


def must_log_in(access: AccessRules, origin: Origin) -> bool:
    """Whether the request needs a login. What was forwarded by somebody whom we do not know comes from anywhere."""
    if access.closed or not origin.direct:
        return not access.open_wire or access.closed
    return False


def check_wire(access: AccessRules, origin: Origin, *, peer: str) -> None:
    """Raise Refused for a login or a token that would travel, or has travelled, in plain text over a network."""
    if access.encrypted or access.open_wire or not access.closed or _trusted(access, peer) or _is_loopback(peer):
        return
    raise Refused(
        "request",
        cause="it came in plain text and past the proxy",
        remedy="go through the proxy of web.trusted_proxies, or set web.tls_cert and web.tls_key",
    )


def split_host(host: str) -> tuple[str, str]:
    """A Host header's name in lower case, without brackets and dot at the end, and its port. Raises Refused for nonsense."""
    try:
        name, port = split_address(host if host.rpartition(":")[2].isdigit() and not _bare_ipv6(host) else f"{host}:0")
    except BadValue:
        raise Refused(f"Host {host[:100]!a}", cause="it is not the name of a host") from None
    return name.lower().rstrip("."), "" if port == 0 else str(port)


def limit_key(address: str) -> str:
    """Whom the logins of an address count for: IPv6 users have whole networks of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _is_own(origin: Origin, named: str) -> bool:
    parts = urlsplit(named.lower())
    default = {"http": "80", "https": "443"}.get(parts.scheme, "")
    try:
        theirs = split_host(parts.netloc)
        ours = split_host(origin.host)
    except Refused:
        return False
    ours_default = {"http": "80", "https": "443"}[origin.scheme]
    return (
        parts.scheme == origin.scheme and theirs[0] == ours[0] and (theirs[1] or default) == (ours[1] or ours_default)
    )


def _bare_ipv6(host: str) -> bool:
    return host.count(":") > 1 and not host.startswith("[")


def _trusted(access: AccessRules, address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(_plain(address))
    except ValueError:
        return False
    return any(parsed in network for network in access.trusted_proxies)


def _plain(address: str) -> str:
    """An address without its zone, and IPv4 that was mapped into IPv6 as what it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _address_only(text: str) -> str:
    """An address of X-Forwarded-For, which some proxies write with a port."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(_plain(address)).is_loopback
    except ValueError:
        return False
