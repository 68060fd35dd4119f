"""Requests and answers of the peer exchange, without I/O (RFC 9110, RFC 9112).

::

    GET /v1/jobs/JOB/objects/ID                         one object
    GET /v1/jobs/JOB/bundles/NUMBER?objects=FIRST-LAST  all small files of a bundle, one after the other

Only what our own client sends is understood, and all else is refused rather than guessed at: no body, one range, no percent-encoding.
A path is compared with these two patterns and never touches a file system.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ...common.http.message import Headers
from ...common.secrets import Secret

FIELDS_MAX: Final = 64  # ours has six
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 section 5.6.2
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD_LINE = re.compile(rf"({_TOKEN}):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_PATH = re.compile(r"/v1/jobs/([A-Za-z0-9_-]{1,64})/(objects|bundles)/(0|[1-9][0-9]{0,17})")
_OBJECTS = re.compile(r"objects=(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,17})")
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?", re.IGNORECASE)
_BEARER = re.compile(r"bearer +([\x21-\x7e]+)", re.IGNORECASE)
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_REASONS: Final = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    416: "Range Not Satisfiable",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked for. For an object, first and last are the same id and bundle is None."""

    job_id: str
    first_object: int
    last_object: int
    bundle: int | None
    byte_range: tuple[int, int | None] | None  # first and last byte, both included; None for the end
    token: Secret  # empty when there is none
    keep_alive: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An error answer: a status, one plain line, and whether the connection can carry another request after it."""

    status: int
    text: str
    fields: tuple[tuple[str, str], ...] = ()
    keep_alive: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """The bytes of an answer: ``start`` up to ``stop`` of ``size``."""

    start: int
    stop: int
    size: int
    partial: bool


def find_head_end(data: bytes | bytearray, scanned: int, bytes_max: int) -> int | Refusal:
    """Length of the request head at the front of ``data`` with its empty line; -1 while that has not come.

    ``scanned``: bytes that an earlier call has looked at. What cannot become a request is refused at once instead of waited for.
    """
    if not 0x41 <= data[0] <= 0x5A:  # no method begins with anything but a capital letter; a TLS handshake does
        return Refusal(status=400, text="this is not HTTP/1.1")
    at = data.find(b"\r\n\r\n", max(0, scanned - 3))
    if (at + 4 if at >= 0 else len(data)) > bytes_max:
        return Refusal(status=431, text=f"the head of the request is longer than {bytes_max} bytes")
    if at >= 0:
        return at + 4
    if _BARE_LINE_FEED.search(data, scanned):
        return Refusal(status=400, text="a line of the head ends in a bare line feed")
    return -1


def parse_request(head: bytes) -> Request | Refusal:
    """Parse a whole head, with the empty line at its end."""
    lines = head[:-4].decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(lines[0])
    if line is None:
        return Refusal(status=400, text="the request line is malformed")
    fields: list[tuple[str, str]] = []
    for text in lines[1:]:
        field = _FIELD_LINE.fullmatch(text)
        if field is None:
            return Refusal(status=400, text="a header field is malformed")
        fields.append((field[1], field[2].rstrip(" \t")))
    if len(fields) > FIELDS_MAX:
        return Refusal(status=431, text=f"the request has more than {FIELDS_MAX} header fields")
    headers = Headers(fields)
    is_latest = line[3] == "1"
    if wrong := _framing_fault(headers, is_latest):
        return Refusal(status=400, text=wrong)
    options = {option.lower() for option in headers.elements("connection")}
    keep_alive = is_latest and "close" not in options
    if line[1] != "GET":
        return Refusal(status=405, text="only GET is spoken here", fields=(("Allow", "GET"),), keep_alive=keep_alive)
    return _request(line[2], headers, keep_alive)


def _framing_fault(headers: Headers, is_latest: bool) -> str:
    """What makes it uncertain where the request ends or what it says; empty when nothing does."""
    for name in ("host", "authorization", "range"):
        if len(headers.get_all(name)) > 1:
            return f"there is more than one {name} field"
    if is_latest and "host" not in headers:
        return "the host field is missing"
    if "transfer-encoding" in headers or any(value != "0" for value in headers.get_all("content-length")):
        return "a request with a body is not understood here"
    if "if-range" in headers:
        return "if-range is not understood here: objects of a job do not change"
    return ""


def _request(target: str, headers: Headers, keep_alive: bool) -> Request | Refusal:
    path, question, query = target.partition("?")
    match = _PATH.fullmatch(path)
    if match is None or (question and match[2] == "objects"):
        return Refusal(status=404, text="there is nothing here", keep_alive=keep_alive)
    first = last = int(match[3])
    bundle = None
    if match[2] == "bundles":
        objects = _OBJECTS.fullmatch(query)
        if objects is None or int(objects[1]) > int(objects[2]):
            return Refusal(
                status=400, text="a bundle is asked for with ?objects=FIRST-LAST, in that order", keep_alive=keep_alive
            )
        bundle, first, last = first, int(objects[1]), int(objects[2])
    byte_range = None
    if "range" in headers:
        spec = _RANGE.fullmatch(headers.get("range"))
        if spec is None or (spec[2] and int(spec[2]) < int(spec[1])):
            return Refusal(status=400, text="a range is bytes=FIRST-LAST or bytes=FIRST-", keep_alive=keep_alive)
        byte_range = int(spec[1]), int(spec[2]) if spec[2] else None
    bearer = _BEARER.fullmatch(headers.get("authorization"))
    return Request(
        job_id=match[1],
        first_object=first,
        last_object=last,
        bundle=bundle,
        byte_range=byte_range,
        token=Secret(bearer[1] if bearer else ""),
        keep_alive=keep_alive,
    )


def resolve(byte_range: tuple[int, int | None] | None, size: int, *, keep_alive: bool) -> Extent | Refusal:
    """The bytes that a range means of ``size`` bytes: one that ends beyond them is cut short (RFC 9110 section 14.1.2)."""
    if byte_range is None:
        return Extent(start=0, stop=size, size=size, partial=False)
    start, last = byte_range
    if start >= size:
        fields = (("Content-Range", f"bytes */{size}"),)
        return Refusal(status=416, text="the range begins beyond the end", fields=fields, keep_alive=keep_alive)
    return Extent(start=start, stop=size if last is None else min(last + 1, size), size=size, partial=True)


def answer_head(extent: Extent, *, keep_alive: bool) -> bytes:
    """The head of a good answer."""
    fields = [("Content-Type", "application/octet-stream")]
    if extent.partial:
        fields.append(("Content-Range", f"bytes {extent.start}-{extent.stop - 1}/{extent.size}"))
    return _head(206 if extent.partial else 200, extent.stop - extent.start, fields, keep_alive)


def refusal_bytes(refusal: Refusal) -> bytes:
    """The whole of an error answer."""
    body = f"{refusal.text}\n".encode("ascii", "replace")
    fields = [("Content-Type", "text/plain"), *refusal.fields]
    return _head(refusal.status, len(body), fields, refusal.keep_alive) + body


def _head(status: int, length: int, fields: list[tuple[str, str]], keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if not keep_alive:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
