"""Which addresses a URL of a stranger may lead to. Pure.

Checked is the address that a connection is made to, after the name was resolved and at every hop: a name that points inwards, or comes
to do so between two look-ups, is no way in. Addresses that carry another one inside are judged by that one as well.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = (
    ipaddress.IPv6Network("64:ff9b::/96"),  # RFC 6052
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # RFC 8215: local use, so what it leads to is not known
)
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")  # RFC 4291 section 2.5.5.1
_SITE_LOCAL: Final = ipaddress.IPv6Network("fec0::/10")  # RFC 3879
_SHARED: Final = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598: networks of providers, and of clouds inside


def inward_reason(text: str) -> str:
    """Why strangers' URLs must not lead to this address; "" when they may. Raises ValueError for what is no address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    reason = _reason(address)
    if reason:
        return reason
    for inner in _inside(address):
        if reason := _reason(inner):
            return f"{reason}, inside an IPv6 address"
    return ""


def _reason(address: _Address) -> str:
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if isinstance(address, ipaddress.IPv4Address) and address in _SHARED:
        return "an address of a provider's own network"
    if isinstance(address, ipaddress.IPv6Address):
        if address in _SITE_LOCAL:
            return "a private address"
        if address in _NAT64[1]:
            return "an address of a local NAT64"
        if any(True for _ in _inside(address)):
            return ""  # `ipaddress` counts most of these as private, whatever they carry
    if address.is_private or address.is_reserved:
        return "a private or reserved address"
    return ""


def _inside(address: _Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for: mapped, compatible, 6to4, Teredo, NAT64."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if address in _NAT64[0] or (address in _COMPATIBLE and int(address) > 1):
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return []
