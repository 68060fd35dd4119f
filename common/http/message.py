"""HTTP/1.1 heads without I/O: parsing answers, writing requests (RFC 9110, RFC 9112).

The parser is strict where leniency has been used to smuggle: a bare line feed, a folded line, a space before the colon or a control
character anywhere makes the head a protocol violation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import ProtocolViolation, Refused

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 section 5.6.2
_TOKEN_ONLY = re.compile(_TOKEN)
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FIELD_LINE = re.compile(rf"({_TOKEN}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_STATUS_PREFIX = b"HTTP/1."
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


class Headers:
    """Header fields in the order they came; names compare without case."""

    __slots__ = ("_fields", "_values")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = tuple(fields)
        values: dict[str, list[str]] = {}
        for name, value in self._fields:
            values.setdefault(name.lower(), []).append(value)
        self._values = values

    def get(self, name: str, default: str = "") -> str:
        """The first value of ``name``, or ``default``."""
        values = self._values.get(name.lower())
        return values[0] if values else default

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name``, in order."""
        return list(self._values.get(name.lower(), ()))

    def elements(self, name: str) -> list[str]:
        """The elements of a comma-separated list field, over all its lines, trimmed; empty elements are dropped."""
        lines = self._values.get(name.lower(), ())
        return [element for line in lines for part in line.split(",") if (element := part.strip(" \t"))]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Headers({', '.join(name for name, _ in self._fields)})"  # values may hold cookies and signed URLs


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseHead:
    """A parsed status line and its header fields."""

    version_minor: int  # 0 or 1
    status: int  # 100 to 599
    reason: str
    headers: Headers


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentRange:
    """The bytes that a 206 answer carries: ``start`` up to ``end_exclusive`` of ``total`` (None: not known)."""

    start: int
    end_exclusive: int
    total: int | None

    @property
    def length(self) -> int:
        return self.end_exclusive - self.start


def find_head_end(data: bytes | bytearray, start: int, end: int, scanned: int, thing: str) -> int:
    """Length of the head at the front of ``data[start:end]``, with the empty line at its end; -1 while that has not come.

    ``scanned``: how many bytes from ``start`` an earlier call has looked at. What cannot become an HTTP/1 head is refused at once
    instead of waited for. Raises ProtocolViolation.
    """
    if not _STATUS_PREFIX.startswith(data[start : min(end, start + len(_STATUS_PREFIX))]):
        raise ProtocolViolation(
            thing, cause="the answer is not HTTP/1", remedy="check the scheme and the port of the URL"
        )
    at = data.find(b"\r\n\r\n", start + max(0, scanned - 3), end)
    if at >= 0:
        return at + 4 - start
    if _BARE_LINE_FEED.search(data, start + scanned, end):
        raise ProtocolViolation(thing, cause="a line of the answer's head ends in a bare line feed")
    return -1


def parse_response_head(head: bytes, thing: str, headers_max: int) -> ResponseHead:
    """Parse a whole head, with the empty line at its end. Raises ProtocolViolation that names ``thing``."""
    lines = head[:-4].decode("latin-1").split("\r\n")
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise ProtocolViolation(thing, cause="the answer's status line is malformed")
    if len(lines) - 1 > headers_max:
        raise ProtocolViolation(thing, cause=f"the answer has more than {headers_max} header fields")
    fields: list[tuple[str, str]] = []
    for line in lines[1:]:
        field = _FIELD_LINE.fullmatch(line)
        if field is None:
            folded = line.startswith((" ", "\t"))
            raise ProtocolViolation(thing, cause="a folded header line" if folded else "a malformed header line")
        fields.append((field[1], field[2].rstrip(" \t")))
    return ResponseHead(
        version_minor=int(status_line[1]),
        status=int(status_line[2]),
        reason=status_line[3] or "",
        headers=Headers(fields),
    )


def check_field(name: str, value: str) -> None:
    """Refuse a request header that would break the head apart. Raises Refused; the value is not shown, it may be a secret."""
    if not _TOKEN_ONLY.fullmatch(name):
        raise Refused(f"header {name[:40]!r}", cause="its name is not a token")
    if not _FIELD_VALUE.fullmatch(value):
        raise Refused(f"header {name}", cause="its value holds a control character or one outside latin-1")


def request_head(method: str, target: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of a request without a body. ``target`` and ``fields`` must have been checked."""
    lines = [f"{method} {target} HTTP/1.1"]
    lines.extend([f"{name}: {value}" for name, value in fields])
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


def parse_content_range(value: str, thing: str) -> ContentRange:
    """Parse the ``Content-Range`` of a 206 answer (RFC 9110 section 14.4). Raises ProtocolViolation."""
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None:
        raise ProtocolViolation(thing, cause="the answer's Content-Range is missing or malformed")
    start, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < start or (total is not None and last >= total):
        raise ProtocolViolation(thing, cause="the answer's Content-Range contradicts itself")
    return ContentRange(start=start, end_exclusive=last + 1, total=total)
