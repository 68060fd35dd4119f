"""Which answers are the bytes that were asked for."""

from __future__ import annotations

import pytest

from shoal.agent.engine.statuses import status_error, wait_asked_s
from shoal.agent.engine.validation import Asked, Body, Verdict, if_range_of, judge, page_error, validator_of
from shoal.common.error_pages import is_page
from shoal.common.errors import AccessDenied, Changed, HttpStatus, NotFound, ProtocolViolation, RateLimited
from shoal.common.http import ContentRange, Headers
from shoal.common.hub_errors import HubSubject

ETAG = '"v1"'
DATE = "Mon, 01 Jan 2024 00:00:00 GMT"


def answer(
    status: int,
    *,
    part: tuple[int, int, int | None] | None = None,
    length: int | None = None,
    asked_range: tuple[int, int] | None = (0, 10),
    size: int | None = 100,
    known: str = "",
    **headers: str,
) -> Verdict:
    fields = Headers((name.replace("_", "-"), value) for name, value in headers.items())
    content_range = ContentRange(start=part[0], end_exclusive=part[1], total=part[2]) if part else None
    asked = Asked(name="a.bin", byte_range=asked_range, size=size, validator=known)
    return judge(asked, status=status, headers=fields, content_range=content_range, body_length=length)


def test_part_and_whole() -> None:
    assert answer(206, part=(0, 10, 100), etag=ETAG) == Verdict(body=Body.PART, size=100, validator=ETAG)
    assert answer(200, length=100, etag=ETAG) == Verdict(body=Body.WHOLE, size=100, validator=ETAG)
    assert answer(200, length=100, asked_range=None).body is Body.WHOLE
    assert answer(200, length=None, size=None).size is None
    assert answer(206, part=(0, 10, None)).size is None


def test_unknown_size_is_learned() -> None:
    assert answer(206, part=(0, 10, 77), size=None).size == 77
    assert answer(200, length=77, size=None).size == 77
    empty = answer(416, size=None, content_range="bytes */0")
    assert (empty.body, empty.size) == (Body.WHOLE, 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"status": 206, "part": (0, 10, 99)},
        {"status": 200, "length": 99},
        {"status": 200, "length": 0, "asked_range": None},
        {"status": 416, "content_range": "bytes */50"},
        {"status": 416, "content_range": "bytes */100"},
        {"status": 416},
        {"status": 416, "content_range": "bytes */0", "size": None, "asked_range": (10, 10)},
        {"status": 204},
        {"status": 304},
    ],
)
def test_nonsense(bad: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation, match=r"a\.bin"):
        answer(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"status": 206, "part": (0, 10, 100), "etag": '"v2"'},
        {"status": 206, "part": (0, 10, 99), "etag": ETAG},
        {"status": 200, "length": 100, "etag": '"v2"'},
        {"status": 200, "length": 99},
        {"status": 416, "content_range": "bytes */5"},
    ],
)
def test_changed(changed: dict[str, object]) -> None:
    with pytest.raises(Changed):
        answer(known=ETAG, **changed)  # type: ignore[arg-type]


def test_an_answer_without_validator_is_not_a_change() -> None:
    assert answer(206, part=(0, 10, 100), known=ETAG).body is Body.PART


@pytest.mark.parametrize(
    ("headers", "size", "validator", "if_range"),
    [
        ({"etag": ETAG}, 5, ETAG, ETAG),
        ({"etag": ETAG, "last-modified": DATE}, 5, ETAG, ETAG),
        ({"etag": 'W/"v1"', "last-modified": DATE}, 5, f"{DATE} 5", None),
        ({"etag": 'W/"v1"'}, 5, "", None),
        ({"etag": "v1"}, 5, "", None),
        ({"etag": '""'}, 5, "", None),
        ({"last-modified": DATE}, None, "", None),
        ({}, 5, "", None),
    ],
)
def test_validators(headers: dict[str, str], size: int | None, validator: str, if_range: str | None) -> None:
    found = validator_of(Headers(headers.items()), size)
    assert (found, if_range_of(found)) == (validator, if_range)


@pytest.mark.parametrize(
    ("kind", "path", "suspicious"),
    [
        ("text/html; charset=utf-8", "model.bin", True),
        ("TEXT/HTML", "model.bin", True),
        ("text/html", "docs/index.HTML", False),
        ("application/json", "model.bin", True),
        ("application/json", "config.json", False),
        ("text/plain", "model.bin", False),
        ("", "model.bin", False),
    ],
)
def test_which_answers_look_like_error_pages(kind: str, path: str, suspicious: bool) -> None:
    assert is_page(Headers([("content-type", kind)] if kind else []), path) is suspicious


def page(kind: str, body: bytes) -> str | None:
    error = page_error("a.bin", Headers([("content-type", kind)]), body)
    return None if error is None else str(error)


def test_pages_say_what_they_are() -> None:
    assert "'Sign in'" in (page("text/html", b"<html><HEAD><Title class=x>\n Sign\n in </title>") or "")
    assert "HTML page" in (page("text/html", b"\xff\xfe no title") or "")
    assert "'quota'" in (page("application/json", b'{"error": "quota"}') or "")
    assert "JSON error" in (page("application/json", b'{"errors": [1]}') or "")


@pytest.mark.parametrize(
    "body", [b"[1, 2]", b'"error"', b"{", b"\xff", b'{"vocab": 1}', b'{"error":' + b"[" * 100_000, b""]
)
def test_json_that_is_no_error(body: bytes) -> None:
    assert page("application/json", body) is None


def test_what_a_page_says_is_made_safe() -> None:
    said = page("text/html", b"<title>a\x1b[31m\x00 token=hf_ABCDEFGH1234567 " + b"x" * 10_000 + b"</title>") or ""
    assert "\x1b" not in said and "\x00" not in said and "hf_ABCDEFGH1234567" not in said and len(said) < 500


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (429, {"retry-after": "7"}, 7.0),
        (503, {"retry-after": "7"}, 7.0),
        (503, {}, None),
        (429, {}, 0.0),
        (429, {"ratelimit": '"resolvers";r=0;t=55'}, 55.0),
        (429, {"ratelimit": '"resolvers";r=0;t=55', "retry-after": "70"}, 70.0),
        (429, {"ratelimit": '"resolvers";r=3;t=55'}, 0.0),
        (503, {"ratelimit": '"resolvers";r=0;t=5'}, 5.0),
        (500, {"retry-after": "7"}, None),
        (404, {"retry-after": "7"}, None),
    ],
)
def test_waits(status: int, headers: dict[str, str], wait_s: float | None) -> None:
    assert wait_asked_s(status, Headers(headers.items()), NOW) == wait_s


@pytest.mark.parametrize(
    ("status", "wait_s", "kind"),
    [
        (404, None, NotFound),
        (410, None, NotFound),
        (401, None, AccessDenied),
        (403, None, AccessDenied),
        (451, None, AccessDenied),
        (429, 3.0, RateLimited),
        (503, 3.0, RateLimited),
        (503, None, HttpStatus),
        (400, None, HttpStatus),
    ],
)
def test_statuses_of_other_servers(status: int, wait_s: float | None, kind: type[Exception]) -> None:
    error = status_error("a.bin", status, Headers(), host="h:1", subject=None, wait_s=wait_s)
    assert type(error) is kind and "a.bin" in str(error)


def test_statuses_of_the_hub_are_the_hubs() -> None:
    subject = HubSubject(endpoint="https://hub", repo_kind="dataset", repo_id="o/n", path="a.bin")
    headers = Headers([("X-Error-Code", "GatedRepo")])
    error = status_error("a.bin", 403, headers, host="hub", subject=subject, wait_s=None)
    assert isinstance(error, AccessDenied) and "https://hub/datasets/o/n" in str(error)
