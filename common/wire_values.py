"""Checks of single values that came over the wire. Protobuf holds types; ranges, enum members and lengths are held here.

Every check names the field and raises `ProtocolViolation`: whatever a peer sends, the reader never meets a value that its records
do not allow.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .errors import ProtocolViolation

ITEMS_MAX = 100_000
"""Items of one repeated field. More than any agent can hold; keeps a hostile message from costing seconds of the event loop."""

NAME_CHARS_MAX = 256
"""Ids and names that end up in tables, logs and metrics."""

TEXT_CHARS_MAX = 4096
"""Texts for people (reasons, failures) are cut to this on the way out, so that a page of them fits into one message."""

E = TypeVar("E", bound=enum.StrEnum)
M = TypeVar("M")
T = TypeVar("T")


def violation(field: str, cause: str) -> ProtocolViolation:
    """The error for a field of a message, named as ``Message.field``."""
    return ProtocolViolation(field, cause=cause, remedy="let both ends run the same version of Shoal")


def count(value: int, field: str) -> int:
    """A number of bytes, things or the like: not negative. Its type keeps it below 2^63."""
    if value < 0:
        raise violation(field, f"{value} is negative")
    return value


def amount(value: float, field: str) -> float:
    """A duration or rate: finite and not negative."""
    if not 0 <= value < math.inf:
        raise violation(field, f"{value} is not a finite number from 0 on")
    return value


def name(value: str, field: str) -> str:
    """An id or name: some text, printable and not too long."""
    if not value or len(value) > NAME_CHARS_MAX or not value.isprintable():
        raise violation(field, f"it must be 1 to {NAME_CHARS_MAX} printable characters")
    return value


def each(decode: Callable[[Any], T], items: Sequence[Any], field: str) -> tuple[T, ...]:
    """Every item of a repeated field, decoded."""
    if len(items) > ITEMS_MAX:
        raise violation(field, f"{len(items)} items are more than {ITEMS_MAX}")
    return tuple([decode(item) for item in items])


def texts(items: Sequence[str], field: str) -> tuple[str, ...]:
    """A repeated field of strings."""
    return each(str, items, field)


def prose(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A text for people, ready to be sent: of any length, and from any file name, it becomes valid and short."""
    text = text[: chars_max + 1].encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


class EnumCodec(Generic[E]):
    """A record's enum and its protobuf twin, matched by name: HUB_CACHE is LAYOUT_HUB_CACHE.

    Raises ValueError, at import, for a member that the protobuf enum lacks.
    """

    def __init__(self, members: type[E], twin: Any, prefix: str) -> None:
        self._numbers: dict[E, int] = {member: twin.Value(f"{prefix}_{member.name}") for member in members}
        self._members = {number: member for member, number in self._numbers.items()}

    def number(self, member: E) -> Any:
        """The number on the wire (typed as any of protobuf's own enum types)."""
        return self._numbers[member]

    def member(self, number: int, field: str) -> E:
        """The member for a number."""
        member = self._members.get(number)
        if member is None:
            raise violation(field, "it is not said" if number == 0 else f"{number} is not known")
        return member

    def optional(self, number: int, field: str) -> E | None:
        """The member for a number, None for the unspecified one."""
        return None if number == 0 else self.member(number, field)
