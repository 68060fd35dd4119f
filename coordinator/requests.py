"""Reading what callers ask for. Whatever is wrong with a request is a UsageError that names the field.

Pages of lists are as Google's AIP-158 describes them: a size that the caller may ask for, an opaque token for the next page.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ..common.errors import ProtocolViolation, UsageError

PAGE_MAX = 2000
"""Items of a page: with paths of 4 KiB and long failure texts it stays below MESSAGE_BYTES_MAX."""

T = TypeVar("T")


@contextmanager
def reading() -> Generator[None]:
    """In here, a value that the records do not allow is the caller's mistake. Raises UsageError."""
    try:
        yield
    except ProtocolViolation as error:
        raise UsageError(error.thing, cause=error.cause) from None


def said(value: str, field: str) -> str:
    """A field that may not be empty. Raises UsageError."""
    if not value:
        raise UsageError(field, cause="it is empty")
    return value


def page_size(asked: int) -> int:
    """How many items to give. Raises UsageError for a negative number."""
    if asked < 0:
        raise UsageError("page_size", cause=f"{asked} is negative")
    return min(asked or PAGE_MAX, PAGE_MAX)


def id_token(token: str) -> int:
    """The id after which a page of objects begins. Raises UsageError."""
    if not token:
        return 0
    if not (token.isascii() and token.isdigit()) or len(token) > 18:
        raise UsageError("page_token", cause="it is not one that a page named", remedy="begin without one")
    return int(token)


def next_token(page: Sequence[T], size: int, key: Callable[[T], object]) -> str:
    """The token of the page after this one; empty if this one is not full."""
    return str(key(page[-1])) if len(page) >= size else ""
