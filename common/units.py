"""Sizes in bytes, durations in seconds and rates in bytes/s, read from and written for people.

``KB``, ``MB``, ``GB`` count in thousands and ``KiB``, ``MiB``, ``GiB`` in 1024s (IEC 80000-13). A bare letter (``64M``)
counts in 1024s, as in systemd, curl and aria2. Letters may be upper or lower case.
"""

from __future__ import annotations

import math
import re

from .errors import UsageError

SIZE_BYTES_MAX = 2**63 - 1  # what a signed 64-bit integer (protobuf, SQLite, off_t) holds
DURATION_S_MAX = 10 * 365 * 86400.0  # ten years: anything longer is a slip of the unit

_SIZE = re.compile(r"(?P<whole>[0-9]{1,30})(?:\.(?P<part>[0-9]{1,30}))? ?(?P<unit>[a-z]{0,3})", re.IGNORECASE)
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?[a-z]+)+", re.IGNORECASE)
_DURATION_PART = re.compile(r"([0-9.]+)([a-z]+)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")

_LETTERS = "kmgtpe"
_SIZE_UNITS: dict[str, int] = {"": 1, "b": 1}
for _power, _letter in enumerate(_LETTERS, start=1):
    _SIZE_UNITS[_letter] = _SIZE_UNITS[f"{_letter}ib"] = 1024**_power
    _SIZE_UNITS[f"{_letter}b"] = 1000**_power

# Largest first: the parts of a duration must come in this order, each at most once.
_DURATION_UNITS: dict[str, float] = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def parse_size(value: str | int) -> int:
    """Bytes from ``"64MiB"``, ``"1.5GB"``, ``"0"`` or a whole number. A broken byte counts as a whole one.

    Raises: UsageError, naming the text.
    """
    return _parse_bytes(value, thing="size", example='write a size such as "64MiB" or "1.5GB"')


def parse_rate(value: str | int) -> int:
    """Bytes/s from ``"10MiB/s"``, ``"10MiB"`` or a whole number; 0 means unlimited.

    Raises: UsageError, naming the text.
    """
    text = value
    if isinstance(text, str) and text.rstrip().lower().endswith("/s"):
        text = text.rstrip()[:-2].rstrip()
    return _parse_bytes(text, thing="rate", example='write a rate such as "10MiB/s", or "0" for no limit', shown=value)


def parse_duration(value: str | float) -> float:
    """Seconds from ``"30s"``, ``"5m"``, ``"1h30m"``, ``"250ms"`` or a number of seconds.

    Raises: UsageError, naming the text.
    """
    seconds = _duration_seconds(value)
    if seconds is None or not math.isfinite(seconds) or not 0 <= seconds <= DURATION_S_MAX:
        raise UsageError(
            f"duration {value!r}",
            cause="it is longer than ten years"
            if seconds is not None and seconds > DURATION_S_MAX
            else _NOT_UNDERSTOOD,
            remedy='write a duration such as "30s", "5m", "1h30m" or "250ms"',
        )
    return seconds


def format_size(size_bytes: int) -> str:
    """``1536`` -> ``"1.5KiB"``: three significant digits, binary units, read back by ``parse_size``."""
    if size_bytes < 1024:
        return f"{size_bytes}B"
    value, unit = float(size_bytes), "B"
    for letter in _LETTERS:
        # 1023.95 would be rounded up to "1024"; it belongs to the next unit.
        if value < 1023.5:
            break
        value, unit = value / 1024, f"{letter.upper()}iB"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


def format_rate(bytes_per_s: float) -> str:
    """``10485760`` -> ``"10MiB/s"``."""
    return f"{format_size(round(bytes_per_s))}/s"


def format_duration(seconds: float) -> str:
    """``5400`` -> ``"1h30m"``, ``0.25`` -> ``"250ms"``: the two largest parts, read back by ``parse_duration``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms" if seconds >= 0.0005 else "0s"
    if seconds < 59.95 and not float(seconds).is_integer():
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return "".join(parts)


_NOT_UNDERSTOOD = "it is not understood"


def _parse_bytes(value: object, *, thing: str, example: str, shown: object = None) -> int:
    size: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        factor = _SIZE_UNITS.get(match["unit"].lower())
        part = match["part"] or ""
        if factor is not None:
            # Whole numbers only: 0.1 GiB must not depend on floating point.
            size = -(-int(match["whole"] + part) * factor // 10 ** len(part))
    if size is None or not 0 <= size <= SIZE_BYTES_MAX:
        cause = _NOT_UNDERSTOOD if size is None else "it is negative" if size < 0 else "it is too large"
        raise UsageError(f"{thing} {value if shown is None else shown!r}", cause=cause, remedy=example)
    return size


def _duration_seconds(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) <= 1e300 else math.inf  # a whole number may be too large for a float
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    total, order = 0.0, list(_DURATION_UNITS)
    for number, unit in _DURATION_PART.findall(text.lower()):
        if unit not in order:
            return None
        order = order[order.index(unit) + 1 :]
        total += float(number) * _DURATION_UNITS[unit]
    return total
