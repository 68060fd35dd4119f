"""What an answer is worth: pure decisions about statuses, errors, bodies.

==================================== ================= ======= ==========================================
what came                            error_code        retried said to the gate
==================================== ================= ======= ==========================================
200, 203 with the right bytes        –                 –       OK
429, 503                             the status        yes     THROTTLED, with Retry-After
another 5xx                          the status        yes     ERROR
401, 403, 410, 451                   the status        no      REFUSED
another 4xx, another 2xx, 3xx        the status        no      ERROR
no connection, a reset before a head NETWORK           yes     CONNECT
silence, or too slow in all          NETWORK           yes     TIMEOUT
a body cut short, broken framing     NETWORK           yes     ERROR
a certificate that is not trusted    NETWORK           no      CONNECT
a redirect that leads nowhere        NETWORK           no      ERROR
an address or a host not allowed     REFUSED           no      –
a body too large                     TOO_LARGE         no      OK
noai, where that is respected        OPTED_OUT         no      OK
a page or text instead of an image   NOT_AN_IMAGE      no      OK
==================================== ================= ======= ==========================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ...common.collect_records import ErrorCode
from ...common.errors import ConnectFailed, RedirectRefused, Refused, ShoalError, TimedOut, TlsFailed
from .gate import Answer

GOOD: Final = frozenset((200, 203))
THROTTLING: Final = frozenset((429, 503))
REFUSING: Final = frozenset((401, 403, 410, 451))
MESSAGE_CHARACTERS_MAX: Final = 500
_OPT_OUT: Final = frozenset(("noai", "noimageai", "noindex"))
_NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(slots=True)
class Fetched:
    """A body as it was served."""

    body: bytearray
    status: int
    content_type: str
    etag: str
    robots_tag: str
    fetched_us: int  # since 1970


@dataclass(frozen=True, slots=True)
class Failed:
    """A try that brought nothing. code: an HTTP status or an `ErrorCode`."""

    code: int
    message: str
    retry: bool = False
    throttled: bool = False


def kind_of_status(status: int) -> Answer:
    """What pacing is to think of a final answer."""
    if status in GOOD:
        return Answer.OK
    if status in THROTTLING:
        return Answer.THROTTLED
    return Answer.REFUSED if status in REFUSING else Answer.ERROR


def of_status(status: int) -> Failed | None:
    """The failure that a status means; None for one whose body counts."""
    if status in GOOD:
        return None
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    message = f"the server answered {status} {phrase}".rstrip()
    return Failed(status, message, retry=status == 429 or status >= 500, throttled=status in THROTTLING)


def of_error(error: ShoalError) -> tuple[Failed, Answer | None]:
    """The failure that an error of a request means, and what pacing is to hear of it."""
    message = shown(f"{error.cause}")
    if isinstance(error, Refused):
        return Failed(ErrorCode.REFUSED, message), None
    if isinstance(error, RedirectRefused):
        return Failed(ErrorCode.NETWORK, message), Answer.ERROR
    if isinstance(error, TlsFailed):
        return Failed(ErrorCode.NETWORK, message), Answer.CONNECT
    if isinstance(error, TimedOut):
        return Failed(ErrorCode.NETWORK, message, retry=True), Answer.TIMEOUT
    if isinstance(error, ConnectFailed):
        return Failed(ErrorCode.NETWORK, message, retry=True), Answer.CONNECT
    return Failed(ErrorCode.NETWORK, message, retry=error.retryable), Answer.ERROR


def too_large(limit: int) -> Failed:
    """limit: bytes."""
    return Failed(ErrorCode.TOO_LARGE, f"the body is larger than {limit} bytes")


def opted_out(robots_tag: str, *, product: str = "shoal") -> bool:
    """Whether X-Robots-Tag asks not to be used: noai, noimageai, noindex, for everybody or for a robot of our name."""
    agent = ""
    for part in robots_tag.lower().split(","):
        name, colon, rest = part.partition(":")
        directive = part.strip()
        if colon and name.strip() not in ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"):
            agent, directive = name.strip(), rest.strip()
        if directive in _OPT_OUT and agent in ("", "*", product):
            return True
    return False


def sniffed(head: bytes | bytearray) -> str:
    """The image format that a body begins like, as Pillow names it; "" for none that is decoded here.

    Magic numbers by the formats' own specifications. Of RIFF and TIFF the variants that Pillow opens.
    """
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    return "BMP" if head[:2] == b"BM" else ""


def not_an_image(body: bytes | bytearray, content_type: str) -> Failed:
    """The failure for a body that begins like no image of ours: says what came instead."""
    start = bytes(body[:512]).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    named = f" (Content-Type {shown(content_type, 60)})" if content_type else ""
    if not body:
        what = "the body is empty"
    elif start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        what = "an HTML page came"
    elif b"<svg" in start:
        what = "an SVG drawing came, which is not decoded"
    elif start.startswith((b"{", b"[")):
        what = "JSON or text came"
    elif start.startswith(b"%!ps") or start[:4] == b"\xc5\xd0\xd3\xc6":
        what = "an EPS file came, which is not decoded"
    elif start.startswith(b"<"):
        what = "an XML document came"
    elif start.startswith(b"%pdf"):
        what = "a PDF file came"
    elif start.startswith(b"8bps"):
        what = "a Photoshop file came, which is not decoded"
    else:
        what = f"the body begins with {bytes(body[:8]).hex()}, like no image that is decoded here"
    return Failed(ErrorCode.NOT_AN_IMAGE, what + named)


def shown(text: str, limit: int = MESSAGE_CHARACTERS_MAX) -> str:
    """Text from outside, for a table: one line, no control characters, not long."""
    text = _NOT_PRINTED.sub(" ", text).strip()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
