"""What a stand-in server decides for one request, as plain data: no I/O here (RFC 9110 sections 13 and 14).

A server routes a `RequestHead` to an `Entity` (a file that can be asked for in ranges) or straight to an `Answer`;
`answer_entity` turns the first into the second; faults may change each of them on the way (see `support.faults`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from .contents import BytesContent, Content

ServerName = Literal["hub", "cdn", "origin"]
Kind = Literal[
    "info", "tree", "paths-info", "refs", "resolve", "file", "cdn", "xet-token", "whoami", "unknown"
]  # "file": bytes from the Hub itself or from a FaultOrigin; "cdn": bytes from the CDN
Framing = Literal["length", "chunked", "close"]  # how the end of a body is told
EMPTY = BytesContent(b"")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestHead:
    """One request as the server reads it."""

    server: ServerName
    method: str
    target: str  # path and query exactly as sent
    headers: Mapping[str, str]  # names in lower case
    body: bytes = b""
    now: float  # seconds, the loop's clock
    wall_now: float  # seconds since 1970

    @property
    def path(self) -> str:
        """The path as sent, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, decoded; the last of a name wins."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def segments(self) -> list[str]:
        """The path's components, decoded after splitting: an encoded slash stays inside its component."""
        return [unquote(part) for part in self.path.split("/")[1:]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entity:
    """One file as HTTP sees it."""

    content: Content
    etag: str | None = None  # with its quotes
    last_modified: float | None = None  # seconds since 1970
    content_type: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    range_required: bool = False  # 400 without a Range, as the Hub does above 50 GB


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One response, and how its body is sent. Byte counts are of this answer's body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: Content = EMPTY
    span: range = range(0)  # which bytes of the content are the body
    framing: Framing = "length"
    cut_after: int | None = None  # close the connection after so many bytes
    stall_after: int | None = None  # go silent after so many bytes
    stall_s: float | None = None  # for how long; None: until the client gives up
    rate: float | None = None  # bytes/s of this body, on top of the server's own limits
    drop: bool = False  # send nothing at all and reset the connection


def whole(content: Content) -> range:
    """All of ``content``."""
    return range(content.size)


def json_answer(document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """``document`` as JSON."""
    return text_answer(
        json.dumps(document), status=status, headers=headers, content_type="application/json; charset=utf-8"
    )


def text_answer(
    text: str, *, status: int, headers: Mapping[str, str] | None = None, content_type: str = "text/plain; charset=utf-8"
) -> Answer:
    """``text`` as UTF-8."""
    content = BytesContent(text.encode("utf-8", "surrogateescape"))
    return Answer(
        status=status, headers={"Content-Type": content_type, **(headers or {})}, content=content, span=whole(content)
    )


def redirect_answer(status: int, location: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A redirect to ``location``, with the short text body that the Hub sends along."""
    return text_answer(f"Redirecting to {location}", status=status, headers={**(headers or {}), "Location": location})


_BYTE_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII | re.IGNORECASE)


def parse_range(value: str, size: int) -> range | None:
    """The bytes that a Range header asks for, of ``size``.

    Returns: the range, empty when it cannot be satisfied (416); None for what a server may ignore (other units, several
    ranges, bad syntax).
    """
    match = _BYTE_RANGE.fullmatch(value)
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        return range(max(0, size - int(last)), size)
    if last == "":
        return range(int(first), size)
    if int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size))


def answer_entity(head: RequestHead, entity: Entity) -> Answer:
    """The answer of a server that behaves: conditional, ranged, or whole."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": entity.content_type, **entity.headers}
    if entity.etag is not None:
        headers["ETag"] = entity.etag
    if entity.last_modified is not None:
        headers["Last-Modified"] = formatdate(entity.last_modified, usegmt=True)
    if entity.etag is not None and _none_match(head.headers.get("if-none-match", ""), entity.etag):
        return Answer(status=304, headers=headers)
    size = entity.content.size
    wanted = None
    if head.method == "GET" and _if_range_holds(head.headers.get("if-range"), entity):
        wanted = parse_range(head.headers.get("range", ""), size)
    if wanted is None:
        if entity.range_required and head.method == "GET":
            return text_answer("This file is too large to be sent without a Range header", status=400)
        return Answer(status=200, headers=headers, content=entity.content, span=range(size))
    if not wanted:
        return text_answer("Range Not Satisfiable", status=416, headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
    return Answer(status=206, headers=headers, content=entity.content, span=wanted)


def _none_match(value: str, etag: str) -> bool:
    """RFC 9110 section 13.1.2: the weak comparison."""
    known = [item.strip().removeprefix("W/") for item in value.split(",")]
    return "*" in known or etag.removeprefix("W/") in known


def _if_range_holds(value: str | None, entity: Entity) -> bool:
    """RFC 9110 section 13.1.5: a strong ETag or the exact date; anything else asks for the whole."""
    if value is None:
        return True
    if value.startswith('"'):
        return value == entity.etag
    if value.startswith("W/") or entity.last_modified is None:
        return False
    try:
        return parsedate_to_datetime(value).timestamp() == int(entity.last_modified)
    except ValueError:
        return False
