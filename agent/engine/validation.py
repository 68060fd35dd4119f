"""Is this answer the bytes that were asked for? Pure: heads and beginnings of bodies in, verdicts or errors out.

======================== ================================== =======================================================
asked                    answered                           verdict
======================== ================================== =======================================================
a range                  206, right total, same validator   PART
a range                  206, other total or validator      `Changed`
a range                  200, right size, same validator    WHOLE: the server ignores ranges
a range                  200, other size or validator       `Changed` if a validator was known, else `ProtocolViolation`
a range of unknown size  206 or 200                         PART or WHOLE, and the size if the answer tells it
a range of unknown size  416 with a total of 0              WHOLE of an empty object
the whole                200, right size                    WHOLE
the whole                200, other size                    `ProtocolViolation` (or `Changed`), with the page's title
======================== ================================== =======================================================

Error statuses never come here: `statuses.py` has them.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from ...common.error_pages import media_type
from ...common.errors import Changed, ProtocolViolation
from ...common.http.message import ContentRange, Headers
from ...common.secrets import redact

PAGE_BYTES_MAX: Final = 64 * 1024  # of an error page; its title comes early
_TITLE_CHARS_MAX: Final = 100
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_UNSATISFIED = re.compile(r"bytes \*/([0-9]{1,18})")
_JSON_ERROR_KEYS: Final = frozenset({"error", "errors", "error_code", "message", "detail", "status", "code"})


class Body(enum.Enum):
    """What the body of a good answer holds."""

    PART = enum.auto()  # the bytes that were asked for, from `start` on
    WHOLE = enum.auto()  # the whole object from its first byte


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request. size and validator are what is known of the object so far; validator counts for the host that answers."""

    name: str  # of the object, for errors
    byte_range: tuple[int, int] | None  # (start, length)
    size: int | None
    validator: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A good answer. size: of the whole object, None where the answer does not tell."""

    body: Body
    size: int | None
    validator: str


def validator_of(headers: Headers, size: int | None) -> str:
    """What tells one version of an object from another at one host (RFC 9110 section 8.8): a strong ETag, else date and size.

    Empty where the host tells nothing. The first character tells the two forms apart: a strong ETag begins with a quote.
    """
    etag = headers.get("etag").strip()
    if len(etag) > 2 and etag.startswith('"') and etag.endswith('"'):
        return etag
    modified = headers.get("last-modified").strip()
    return f"{modified} {size}" if modified and size is not None else ""


def if_range_of(validator: str) -> str | None:
    """What If-Range may carry: only a strong ETag makes a server's promise byte for byte."""
    return validator if validator.startswith('"') else None


def judge(
    asked: Asked, *, status: int, headers: Headers, content_range: ContentRange | None, body_length: int | None
) -> Verdict:
    """The verdict on an answer with status 200, 206 or 416. Raises Changed, ProtocolViolation."""
    if status == 416:
        return _judge_unsatisfied(asked, headers)
    if status == 206:
        assert content_range is not None, (
            "the client checks that a 206 has a Content-Range and that a range was asked for"
        )
        return _judge_part(asked, headers, content_range)
    if status != 200:
        raise ProtocolViolation(asked.name, cause=f"the server answered {status} to a plain request")
    return _judge_whole(asked, headers, body_length)


def _judge_part(asked: Asked, headers: Headers, content_range: ContentRange) -> Verdict:
    total = content_range.total
    validator = validator_of(headers, total)
    _check_same(asked, validator)
    if asked.size is not None and total is not None and total != asked.size:
        if asked.validator:
            raise Changed(asked.name, cause=f"it has {total} bytes now, it had {asked.size}")
        raise _wrong_size(asked, total, headers)
    return Verdict(body=Body.PART, size=total, validator=validator)


def _judge_whole(asked: Asked, headers: Headers, body_length: int | None) -> Verdict:
    validator = validator_of(headers, body_length)
    _check_same(asked, validator)
    if asked.size is not None and body_length is not None and body_length != asked.size:
        if asked.validator:
            raise Changed(asked.name, cause=f"it has {body_length} bytes now, it had {asked.size}")
        raise _wrong_size(asked, body_length, headers)
    return Verdict(body=Body.WHOLE, size=body_length, validator=validator)


def _judge_unsatisfied(asked: Asked, headers: Headers) -> Verdict:
    match = _UNSATISFIED.fullmatch(headers.get("content-range").strip())
    total = int(match[1]) if match else None
    if total == 0 and asked.size in (0, None) and asked.byte_range is not None and asked.byte_range[0] == 0:
        return Verdict(body=Body.WHOLE, size=0, validator=validator_of(headers, 0))
    if total is not None and asked.size is not None and total != asked.size:
        if asked.validator:
            raise Changed(asked.name, cause=f"it has {total} bytes now, it had {asked.size}")
        raise _wrong_size(asked, total, headers)
    raise ProtocolViolation(asked.name, cause="the server says that the range lies outside of the file")


def _check_same(asked: Asked, validator: str) -> None:
    if asked.validator and validator and validator != asked.validator:
        raise Changed(asked.name)


def _wrong_size(asked: Asked, got: int, headers: Headers) -> ProtocolViolation:
    kind = media_type(headers)
    what = f"a {kind} body" if kind else "a body"
    return ProtocolViolation(asked.name, cause=f"the server sends {what} of {got} bytes, the file has {asked.size}")


def page_error(name: str, headers: Headers, body: bytes) -> ProtocolViolation | None:
    """The error that an HTML or JSON page stands for; None for JSON that does not look like an error. body: its beginning."""
    if "json" in media_type(headers):
        said = _json_message(body)
        if said is None:
            return None
        return ProtocolViolation(name, cause=f"the server sent a JSON error instead of the file{_quoted(said)}")
    match = _TITLE.search(body)
    title = match[1].decode("utf-8", "replace") if match else ""
    return ProtocolViolation(
        name,
        cause=f"the server sent an HTML page instead of the file{_quoted(title)}",
        remedy="look at the URL in a browser; a login page or a proxy may be in the way",
    )


def _json_message(body: bytes) -> str | None:
    import json

    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict):
        return None
    fields: dict[str, object] = {str(key).lower(): value for key, value in parsed.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    found = [fields[key] for key in fields if key in _JSON_ERROR_KEYS]
    if not found or len(fields) > 8:
        return None
    return next((value for value in found if isinstance(value, str)), "")


def _quoted(text: str) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _TITLE_CHARS_MAX]).split())
    text = redact(text)[:_TITLE_CHARS_MAX]
    return f": {text!r}" if text else ""
