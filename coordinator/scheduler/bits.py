"""Integers as sets of small numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterator


def lowest(found: int) -> int:
    """The smallest member of a set that is not empty."""
    return (found & -found).bit_length() - 1


def bit_after(found: int, after: int) -> int:
    """The smallest member above a number, else the smallest: asked with different numbers, a set is used evenly."""
    above = found >> (after + 1)
    return lowest(above) + after + 1 if above else lowest(found)


def bits(found: int) -> Iterator[int]:
    """The members, ascending. Walks the set once, whatever its size."""
    data = found.to_bytes((found.bit_length() + 7) // 8, "little")
    for at, byte in enumerate(data):
        while byte:
            low = byte & -byte
            yield at * 8 + low.bit_length() - 1
            byte ^= low
