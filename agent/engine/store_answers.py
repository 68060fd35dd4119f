"""What the answers of S3-compatible stores mean for a fetch. Pure.

An error's body is XML with a code. Only the code is used: the rest may quote the signature that was asked with.

=============================== ===================================================================
answer                          becomes
=============================== ===================================================================
412                             `Changed`: the ETag is no longer that of the listing
404                             `NotFound`
403, 401, 400 ExpiredToken      `SignatureRefused`: a fresh signature is tried, once
403 InvalidObjectState          `AccessDenied`: the object is in an archive
503 SlowDown and kin, 429       `RateLimited`
the rest                        `HttpStatus`
200 with the range asked for    206: some stores forget to say that a part is one
=============================== ===================================================================
"""

from __future__ import annotations

import re
from typing import Final

from ...common.errors import (
    AccessDenied,
    Changed,
    HttpStatus,
    NotFound,
    ProtocolViolation,
    RateLimited,
    ShoalError,
    TimedOut,
)
from ...common.http.message import ContentRange, Headers, parse_content_range
from ...common.s3_errors import ARCHIVED, REFUSED, SLOW_CLIENT, THROTTLED
from .tries import SignatureRefused

ERROR_BYTES_MAX: Final = 16 * 1024
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,60})</Code>")


def error_code(body: bytes) -> str:
    """The code of an error answer; "" where its body names none. body: its beginning."""
    found = _CODE.search(body)
    return found[1].decode() if found else ""


def store_answer_error(name: str, status: int, code: str, *, host: str, wait_s: float | None) -> ShoalError:
    """The error for an answer with a status of 300 or more.

    name: of the object; code: from error_code; host: that answered; wait_s: that the answer asks to stay away, None for none.
    """
    said = f"{host} answered {status}{f' ({code})' if code else ''}"
    if status == 412:
        return changed_since_listing(name)
    if code in ARCHIVED:
        return AccessDenied(name, cause="the object is in an archive", remedy="restore it at the store first")
    if code in THROTTLED or status in (429, 503):
        return RateLimited(name, retry_after_s=wait_s or 0.0)
    if code in SLOW_CLIENT:
        return TimedOut(name, cause=said)
    if status in (404, 410):
        return NotFound(name, cause=said, remedy="it was removed after the job was listed: submit it again")
    if status in (401, 403) or code in REFUSED:
        return SignatureRefused(name, cause=said)
    if 300 <= status < 400:
        return HttpStatus(name, status=status, cause=said, remedy="set the profile's region to that of the bucket")
    return HttpStatus(name, status=status, cause=said)


def changed_since_listing(name: str) -> Changed:
    """The object is another one than the job was made for."""
    return Changed(name, cause="it changed at the store after the job was listed", remedy="submit the job again")


def part_of_answer(
    asked: tuple[int, int] | None, status: int, headers: Headers, body_length: int | None
) -> ContentRange | None:
    """The part that an answer with status 200 carries, if it says that it is exactly the one asked for as (start, length)."""
    if status != 200 or asked is None or "content-range" not in headers:
        return None
    try:
        found = parse_content_range(headers.get("content-range"), "")
    except ProtocolViolation:
        return None
    start, length = asked
    fits = found.start == start and found.length == body_length and found.length <= length
    return found if fits else None


def pinned_validator(etag: str) -> str:
    """The ETag of the listing as headers carry it; "" for the time of change that stands for one, which holds blanks."""
    return f'"{etag}"' if etag and " " not in etag else ""
