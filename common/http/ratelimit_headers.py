"""What a server says about waiting: Retry-After and the RateLimit fields.

Retry-After is RFC 9110 section 10.2.3; RateLimit is an IETF draft, read here in the form that the Hub sends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .message import Headers

WAIT_S_MAX: Final = 24 * 3600.0  # a server that asks for more is obeyed for a day, then asked again
_VALUE_CHARACTERS_MAX: Final = 2048
_SECONDS = re.compile(r"[0-9]{1,18}")
_QUOTED_OR_SEPARATOR = re.compile(r'"(?:[^"\\]|\\.)*"|[,;]')
_PARAMETER = re.compile(r"([a-z][a-z0-9_\-]*)=([0-9]{1,15})")


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimit:
    """The tightest of the limits that an answer names."""

    policy: str  # the limit's name, such as "resolvers"
    remaining: int  # requests left in the window
    reset_s: float  # seconds until the window starts anew, at most WAIT_S_MAX
    quota: int | None  # requests a window, where the server names its policy
    window_s: float | None  # length of the window in seconds, where the server names its policy


def parse_retry_after(headers: Headers, now_epoch_s: float) -> float | None:
    """Seconds that Retry-After asks to wait, 0 up to WAIT_S_MAX; None without the header or when it makes no sense.

    ``now_epoch_s``: the wall clock, for the form that names a date.
    """
    value = headers.get("retry-after").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), WAIT_S_MAX)
    if not value or len(value) > 64:
        return None
    from datetime import UTC  # with email.utils 10 ms, that only this rare form needs
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    # The obsolete forms name no zone; all of them are in GMT.
    wait_s = (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp() - now_epoch_s
    return min(max(wait_s, 0.0), WAIT_S_MAX)


def parse_ratelimit(headers: Headers) -> RateLimit | None:
    """The limit with the fewest requests left; None when no ``RateLimit`` field makes sense.

    ``RateLimit: "resolvers";r=0;t=55`` with ``RateLimit-Policy: "fixed window";"resolvers";q=3000;w=300``.
    """
    policies = [item for value in headers.get_all("ratelimit-policy") for item in _items(value)]
    found: RateLimit | None = None
    for value in headers.get_all("ratelimit"):
        for names, parameters in _items(value):
            if not names or "r" not in parameters:
                continue
            no_terms: dict[str, int] = {}
            quota = next((terms for known, terms in policies if names[0] in known), no_terms)
            limit = RateLimit(
                policy=names[0],
                remaining=parameters["r"],
                reset_s=min(float(parameters.get("t", 0)), WAIT_S_MAX),
                quota=quota.get("q"),
                window_s=min(float(quota["w"]), WAIT_S_MAX) if "w" in quota else None,
            )
            if found is None or (limit.remaining, -limit.reset_s) < (found.remaining, -found.reset_s):
                found = limit
    return found


def _items(value: str) -> list[tuple[list[str], dict[str, int]]]:
    """The list's items, each with its names (quoted strings) and its whole-number parameters; what fits neither is left out."""
    if len(value) > _VALUE_CHARACTERS_MAX:
        return []
    items: list[tuple[list[str], dict[str, int]]] = [([], {})]
    position = 0
    for mark in _QUOTED_OR_SEPARATOR.finditer(value):
        _take_parameter(value[position : mark.start()], items[-1][1])
        position = mark.end()
        if mark[0] == ",":
            items.append(([], {}))
        elif mark[0] != ";":
            items[-1][0].append(mark[0][1:-1])
    _take_parameter(value[position:], items[-1][1])
    return items


def _take_parameter(text: str, parameters: dict[str, int]) -> None:
    match = _PARAMETER.fullmatch(text.strip())
    if match:
        parameters[match[1]] = int(match[2])
