"""The grammar of the peer exchange, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.agent.peer.message import (
    FIELDS_MAX,
    Extent,
    Refusal,
    Request,
    answer_head,
    find_head_end,
    parse_request,
    refusal_bytes,
    resolve,
)

OBJECT = "/v1/jobs/job-1/objects/7"
BUNDLE = "/v1/jobs/job-1/bundles/3"


def head(
    target: str = OBJECT, *fields: str, method: str = "GET", version: str = "HTTP/1.1", host: bool = True
) -> bytes:
    lines = [f"{method} {target} {version}", *(["Host: peer"] if host else []), *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def good(raw: bytes) -> Request:
    request = parse_request(raw)
    assert isinstance(request, Request), request
    return request


def status(raw: bytes) -> int:
    refusal = parse_request(raw)
    assert isinstance(refusal, Refusal)
    return refusal.status


def test_an_object() -> None:
    request = good(head(OBJECT, "Authorization: Bearer v1.a.b", "Range: bytes=5-9"))
    assert (request.job_id, request.first_object, request.last_object, request.bundle) == ("job-1", 7, 7, None)
    assert request.byte_range == (5, 9) and request.keep_alive
    assert request.token.reveal() == "v1.a.b" and "v1.a.b" not in repr(request)


def test_a_bundle() -> None:
    request = good(head(BUNDLE + "?objects=10-20"))
    assert (request.job_id, request.first_object, request.last_object, request.bundle) == ("job-1", 10, 20, 3)
    assert request.byte_range is None and not request.token


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["Range: bytes=0-"], (0, None)),
        (["range:bytes=0-0  "], (0, 0)),
        (["RANGE: BYTES=1-2"], (1, 2)),
        ([], None),
    ],
)
def test_ranges(fields: list[str], expected: tuple[int, int | None] | None) -> None:
    assert good(head(OBJECT, *fields)).byte_range == expected


@pytest.mark.parametrize(
    ("version", "fields", "expected"),
    [
        ("HTTP/1.1", [], True),
        ("HTTP/1.1", ["Connection: close"], False),
        ("HTTP/1.1", ["Connection: x, Close"], False),
        ("HTTP/1.0", [], False),
    ],
)
def test_keep_alive(version: str, fields: list[str], expected: bool) -> None:
    assert good(head(OBJECT, *fields, version=version)).keep_alive is expected


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "*",
        "/v1/jobs/job-1/objects/",
        "/v1/jobs/job-1/objects/7/",
        "/v1/jobs/job-1/objects/07",
        "/v1/jobs/job-1/objects/-7",
        "/v1/jobs/job-1/objects/+7",
        "/v1/jobs/job-1/objects/7?x=1",
        "/v1/jobs/job-1/objects/7?",
        "/v1/jobs/job-1/objects/7#a",
        "/v1/jobs/job-1/objects/1000000000000000000",
        "/v1/jobs//objects/7",
        "/v1/jobs/../objects/7",
        "/v1/jobs/job-1/../../../etc/passwd",
        "/v1/jobs/job-1/objects/../objects/7",
        "/v1/jobs/%2e%2e/objects/7",
        "/v1/jobs/..%2f..%2fetc/objects/7",
        "/v1/jobs/job-1/objects/%37",
        "/v1/jobs/job-1/objects/7%00",
        "/v1/jobs/job.1/objects/7",
        "/v1/jobs/" + "j" * 65 + "/objects/7",
        "//v1/jobs/job-1/objects/7",
        "/V1/jobs/job-1/objects/7",
        "/v2/jobs/job-1/objects/7",
        "http://peer/v1/jobs/job-1/objects/7",
        "../../etc/passwd",
    ],
)
def test_nothing_else_is_there(target: str) -> None:
    assert status(head(target)) == 404


@pytest.mark.parametrize(
    "raw",
    [
        head(method="G ET"),
        head(version="HTTP/2.0"),
        head(version="HTTP/1.11"),
        head(OBJECT + " x"),
        head("/\xe9"),
        head("/\x00"),
        head(host=False),
        head(OBJECT, "Host: other"),
        head(OBJECT, "Authorization: Bearer a", "Authorization: Bearer b"),
        head(OBJECT, "Range: bytes=0-1", "Range: bytes=2-3"),
        head(OBJECT, "Content-Length: 5"),
        head(OBJECT, "Content-Length: 0", "Content-Length: 5"),
        head(OBJECT, "Transfer-Encoding: chunked"),
        head(OBJECT, "If-Range: x"),
        head(OBJECT, "no colon"),
        head(OBJECT, "Space : before"),
        head(OBJECT, " folded: line"),
        head(OBJECT, "A: \x01"),
        head(OBJECT, "A: b\nC: d"),
        *(head(OBJECT, f"Range: {text}") for text in ("bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b",
                                                     "bytes=0-1-2", "", "bytes=" + "9" * 19 + "-")),
        *(head(BUNDLE + text) for text in ("", "?", "?objects=1", "?objects=2-1", "?objects=1-2&x=1", "?x=1", "?objects=%31-2",
                                           "?objects=-1-2")),
        b"\r\n\r\n",
    ],
)  # fmt: skip
def test_malformed(raw: bytes) -> None:
    assert status(raw) == 400


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "get", "FOO"])
def test_other_methods(method: str) -> None:
    refusal = parse_request(head(method=method))
    assert isinstance(refusal, Refusal) and refusal.status == 405 and ("Allow", "GET") in refusal.fields


def test_too_many_fields() -> None:
    assert status(head(OBJECT, *(f"X-{n}: y" for n in range(FIELDS_MAX)))) == 431
    good(head(OBJECT, *(f"X-{n}: y" for n in range(FIELDS_MAX - 1))))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    assert isinstance(parse_request(data + b"\r\n\r\n"), Request | Refusal)


def test_the_end_of_a_head_is_found_however_it_comes() -> None:
    raw = head()
    scanned = 0
    for length in range(1, len(raw)):
        assert find_head_end(raw[:length], scanned, 1000) == -1
        scanned = length
    assert find_head_end(raw + b"GET next", scanned, 1000) == len(raw)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\n\n", b"\x16\x03\x01\x02", b" GET", b"get", b"\r\n", b"GET / HTTP/1.1\r\nA: b\n"]
)
def test_what_can_be_no_head_is_refused_at_once(data: bytes) -> None:
    refusal = find_head_end(data, 0, 1000)
    assert isinstance(refusal, Refusal) and refusal.status == 400


@pytest.mark.parametrize("tail", [b"", b"\r\n\r\n"])
def test_a_head_that_is_too_long(tail: bytes) -> None:
    refusal = find_head_end(b"G" * 1001 + tail, 0, 1000)
    assert isinstance(refusal, Refusal) and refusal.status == 431


def test_what_a_range_means() -> None:
    assert resolve(None, 10, keep_alive=True) == Extent(start=0, stop=10, size=10, partial=False)
    assert resolve((2, 5), 10, keep_alive=True) == Extent(start=2, stop=6, size=10, partial=True)
    assert resolve((2, 500), 10, keep_alive=True) == Extent(start=2, stop=10, size=10, partial=True)
    assert resolve((9, None), 10, keep_alive=True) == Extent(start=9, stop=10, size=10, partial=True)
    assert resolve(None, 0, keep_alive=True) == Extent(start=0, stop=0, size=0, partial=False)


@pytest.mark.parametrize(("start", "size"), [(10, 10), (11, 10), (0, 0)])
def test_ranges_beyond_the_end(start: int, size: int) -> None:
    refusal = resolve((start, None), size, keep_alive=True)
    assert isinstance(refusal, Refusal) and refusal.status == 416
    assert refusal.fields == (("Content-Range", f"bytes */{size}"),)


def test_answers() -> None:
    extent = Extent(start=2, stop=6, size=10, partial=True)
    assert answer_head(extent, keep_alive=True) == (
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Range: bytes 2-5/10\r\n\r\n"
    )
    whole = answer_head(Extent(start=0, stop=10, size=10, partial=False), keep_alive=False)
    assert whole.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n") and b"Connection: close\r\n" in whole
    assert refusal_bytes(Refusal(status=404, text="there is nothing here", keep_alive=True)) == (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 22\r\nContent-Type: text/plain\r\n\r\nthere is nothing here\n"
    )
