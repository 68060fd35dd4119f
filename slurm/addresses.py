"""At which addresses other nodes may reach this one. A cluster node has several; which one works is found by trying."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from ..common.channel import is_loopback

LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"
SIOCGIFADDR = 0x8915
"""netdevice(7): the IPv4 address of an interface."""
ADDRESSES_MAX = 8


def reachable_hosts(given: str = "") -> list[str]:
    """Addresses of this node, the likeliest first: what the site's name service says of its name, then those of its network
    interfaces. Loopback comes last, for nodes that are one machine. With `given` just that."""
    if given:
        return [given]
    found = [*_of_name(socket.gethostname()), *_of_interfaces(), *_ipv6_of_interfaces()]
    usable = distinct(address for address in found if _is_usable(address))
    return [*usable[:ADDRESSES_MAX], LOOPBACK]


def listen_host(hosts: list[str]) -> str:
    """What to listen on to be reached at these."""
    return hosts[0] if len(hosts) == 1 and is_loopback(f"{hosts[0]}:0") else ANY


def distinct(items: Iterable[str]) -> list[str]:
    """The items without repetitions, in their order."""
    return list(dict.fromkeys(items))


def _of_name(name: str) -> list[str]:
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except OSError:
        return []


def _of_interfaces() -> list[str]:
    if sys.platform != "linux":
        return []
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _index, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has none
            found.append(socket.inet_ntoa(answer[20:24]))
    return found


def _ipv6_of_interfaces(table: Path = Path("/proc/net/if_inet6")) -> list[str]:
    try:
        lines = table.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    return [str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in lines]


def _is_usable(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # an IPv6 address with its interface
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified or parsed.is_multicast)
