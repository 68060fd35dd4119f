"""The least time in which a file can reach every node, and what a link carries of it: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

FRAME_BYTES = 1514  # a full Ethernet frame as tc counts it: 14 of header, 1500 of IP packet
SEGMENT_BYTES = 1448  # of payload in it: less 20 of IPv4, 20 of TCP, 12 of TCP's time stamps


def nominal(bits_s: float) -> float:
    """Bytes/s of a link, framing included."""
    return bits_s / 8


def framed(bits_s: float) -> float:
    """Bytes/s of TCP payload that a link can carry one way, in full frames and with nothing going the other way.

    The acknowledgements of what comes in also take their part of a link's way out (66 bytes for two segments or more, up to 2 %).
    That is not taken off, so the bound is, if anything, too low and a ratio to it too high.
    """
    return nominal(bits_s) * SEGMENT_BYTES / FRAME_BYTES


def lower_bound_s(size: int, *, origin: float, uploads: Sequence[float], downloads: Sequence[float]) -> float:
    """Seconds below which no scheme can bring ``size`` bytes from an origin to every node.

    Kumar and Ross, "Peer-Assisted File Distribution: The Minimum Distribution Time", 2006: the origin must send every byte once, the
    slowest node must receive them all, and all links together must carry one copy for each node. Rates are bytes/s; they may be
    infinite.
    """
    copies = len(downloads) * size
    return max(size / origin, size / min(downloads), copies / (origin + sum(uploads)))


def late_bound_s(size: int, bound_s: float, *, joined_s: float | None, download: float) -> float:
    """The bound when one node joins ``joined_s`` seconds after the start: it can not have all before it has received all."""
    return bound_s if joined_s is None else max(bound_s, joined_s + size / download)
