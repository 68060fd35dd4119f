"""http and https URLs: strict splitting, references against a base (RFC 3986), and what of a URL may be shown.

A path and query are sent as they were given: a signed URL must not change by one byte. Only what may never stand in a request line is
percent-encoded; control characters are refused.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Final

from ..errors import Refused

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^#]*)(?:#.*)?", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ILLEGAL = re.compile(r"[^!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._\-]{0,251}[A-Za-z0-9.])?")
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")
_AUTHORITY = re.compile(
    r"(?:(?P<user>.*)@)?(?:\[(?P<ipv6>[^\[\]@]*)\]|(?P<host>[^\[\]:@]*))(?::(?P<port>[0-9]{0,5}))?", re.DOTALL
)
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Url:
    """A checked http or https URL."""

    scheme: str  # "http" or "https"
    host: str  # lower case, IDNA-encoded; an IPv6 address without brackets
    port: int
    target: str  # path and query as they go into the request line; begins with "/"
    userinfo: str = ""  # only where ``parse_url`` was told to allow it

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: the borders that a credential must not cross (RFC 6454)."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and port as in the Host header: the default port is left out."""
        return host_port(self.host, None if self.port == DEFAULT_PORTS[self.scheme] else self.port)

    @property
    def text(self) -> str:
        """The whole URL, without fragment. It may hold a signature: show ``label`` to people instead."""
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def label(self) -> str:
        """The URL for logs and errors: without its query, cut to 200 characters."""
        text = f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"
        return text if len(text) <= 200 else f"{text[:197]}..."

    def __repr__(self) -> str:
        return f"Url({self.label})"


def host_port(host: str, port: int | None) -> str:
    """``host:port`` with brackets around an IPv6 address; only the host when ``port`` is None."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def parse_url(text: str, *, allow_userinfo: bool = False) -> Url:
    """Split and check an absolute http(s) URL. Raises Refused for anything else; the error never shows a query or a password."""
    match = _URL.fullmatch(text)
    if match is None:
        raise Refused("URL", cause="it is not absolute", remedy="give http://HOST/PATH or https://HOST/PATH")
    scheme = match[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise Refused(f"URL with scheme {scheme[:20]}", cause="only http and https are spoken here")
    if _CONTROL.search(text):
        raise Refused(f"{scheme} URL", cause="it holds a control character")
    authority = _AUTHORITY.fullmatch(match[2])
    if authority is None:
        raise Refused(f"{scheme} URL", cause="its host or port is malformed")
    if authority["user"] is not None and not allow_userinfo:
        raise Refused(
            f"{scheme} URL", cause="it holds a user name", remedy="give credentials by configuration, not in the URL"
        )
    port = int(authority["port"]) if authority["port"] else DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:
        raise Refused(f"{scheme} URL", cause="its port is out of range")
    host = _check_ipv6(authority["ipv6"]) if authority["ipv6"] is not None else _check_host(authority["host"])
    target = _encode_illegal(match[3])
    if not target.startswith("/"):
        target = f"/{target}"
    return Url(scheme=scheme, host=host, port=port, target=target, userinfo=authority["user"] or "")


def resolve_reference(base: Url, reference: str) -> Url:
    """The URL that a Location header names (RFC 3986 section 5.2). Raises Refused as ``parse_url`` does.

    ``reference`` is the header's value decoded as latin-1, so bytes beyond ASCII are encoded as the bytes that they are.
    """
    if _CONTROL.search(reference):
        raise Refused("Location header", cause="it holds a control character")
    reference = _encode_illegal(reference, "latin-1").partition("#")[0]
    if _SCHEME.match(reference):
        return parse_url(reference)
    root = f"{base.scheme}://{base.authority}"
    if reference.startswith("//"):
        return parse_url(f"{base.scheme}:{reference}")
    if reference.startswith("/"):
        return parse_url(root + reference)
    path, _, _ = base.target.partition("?")
    if not reference:
        return base
    if reference.startswith("?"):
        return parse_url(root + path + reference)
    relative, mark, query = reference.partition("?")
    return parse_url(root + _remove_dots(path[: path.rfind("/") + 1] + relative) + mark + query)


def is_ip_literal(host: str) -> bool:
    """Is ``host`` an IPv4 or IPv6 address in its usual form?"""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return True
    return False


def _check_ipv6(host: str) -> str:
    if ":" not in host or not is_ip_literal(host):
        raise Refused("URL", cause="its IPv6 address is malformed")
    return host.lower()


def _check_host(host: str) -> str:
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise Refused("URL", cause="its host is not a valid internationalised name") from None
    if not _HOST.fullmatch(host) or ".." in host:
        raise Refused("URL", cause="its host is empty or malformed")
    # Resolvers read 2130706433, 0x7f.1 and 0177.0.0.1 as addresses: a way around every rule about hosts.
    if _NUMERIC_END.fullmatch(host) and not is_ip_literal(host):
        raise Refused("URL", cause="its host is a number but not a plain IPv4 address")
    return host.lower()


def _encode_illegal(text: str, encoding: str = "utf-8") -> str:
    if not _ILLEGAL.search(text):
        return text
    try:
        return _ILLEGAL.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode(encoding)), text)
    except UnicodeEncodeError:
        raise Refused("URL", cause="it holds characters that cannot be encoded") from None


def _remove_dots(path: str) -> str:
    """RFC 3986 section 5.2.4, for a path that begins with a slash."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
