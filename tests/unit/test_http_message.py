"""Heads: what is read, and what is refused before it can be misread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import ProtocolViolation, Refused
from shoal.common.http.message import (
    Headers,
    check_field,
    find_head_end,
    parse_content_range,
    parse_response_head,
    request_head,
)

HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nX-A:  one \t\r\nx-a: two\r\nEmpty:\r\n\r\n"


def parse(data: bytes, headers_max: int = 100):
    length = find_head_end(bytearray(data), 0, len(data), 0, "thing")
    assert length > 0, "the head is not complete"
    return parse_response_head(data[:length], "thing", headers_max)


def test_a_plain_head():
    head = parse(HEAD + b"hello")
    assert (head.version_minor, head.status, head.reason) == (1, 206, "Partial Content")
    assert head.headers.get("content-length") == "5"
    assert head.headers.get_all("X-A") == ["one", "two"]
    assert head.headers.get("empty", "default") == ""
    assert head.headers.get("missing", "default") == "default"
    assert "EMPTY" in head.headers and "missing" not in head.headers
    assert next(iter(head.headers)) == ("Content-Length", "5") and len(head.headers) == 4


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 200 \xc3\xa9t\xe9"])
def test_status_lines_that_servers_send(line: bytes):
    assert parse(line + b"\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 099 Low",
        b"HTTP/1.1 600 High",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200OK",
    ],
)
def test_malformed_status_lines(line: bytes):
    with pytest.raises(ProtocolViolation):
        parse(line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"Name : space before the colon",
        b" Name: leading space",
        b"Name",
        b": no name",
        b"Na me: x",
        b"Na\x00me: x",
        b"N\xe4me: x",
        b"Name: a\x00b",
        b"Name: a\rb",
        b"Name: a\x0bb",
        b"Name: a\x7fb",
        b"Name(: x",
    ],
)
def test_malformed_header_lines(line: bytes):
    with pytest.raises(ProtocolViolation):
        parse(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n")


def test_folded_lines_are_named():
    with pytest.raises(ProtocolViolation, match="folded"):
        parse(b"HTTP/1.1 200 OK\r\nA: one\r\n two\r\n\r\n")


def test_the_number_of_fields_is_bounded():
    lines = b"".join(b"A%d: x\r\n" % number for number in range(4))
    assert len(parse(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n", headers_max=4).headers) == 4
    with pytest.raises(ProtocolViolation, match="more than 3"):
        parse(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n", headers_max=3)


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02", b"HTTP/2", b"\r\nHTTP/1.1 200", b"<", b"hTTP"]
)
def test_what_is_not_http_is_refused_at_once(data: bytes):
    with pytest.raises(ProtocolViolation, match="not HTTP/1"):
        find_head_end(bytearray(data), 0, len(data), 0, "thing")


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\nA: b", b"HTTP/1.1 200 OK\r\nA: b\n", b"HTTP/1.1 200 OK\r\nA: b\n\r\n"]
)
def test_bare_line_feeds_are_refused(data: bytes):
    with pytest.raises(ProtocolViolation):
        parse(data)


@pytest.mark.parametrize("offset", [0, 7])
def test_the_end_is_found_wherever_the_head_is_cut(offset: int):
    """One byte at a time, telling each time how far the call before looked."""
    data = bytearray(b"#" * offset + HEAD + b"body")
    scanned = 0
    for end in range(offset, offset + len(HEAD)):
        assert find_head_end(data, offset, end, scanned, "thing") == -1
        scanned = end - offset
    assert find_head_end(data, offset, len(data), scanned, "thing") == len(HEAD)


def test_a_bare_line_feed_is_seen_across_a_cut():
    data = bytearray(b"HTTP/1.1 200 OK\r\nA: b\n")
    assert find_head_end(data, 0, len(data) - 1, 0, "thing") == -1
    with pytest.raises(ProtocolViolation):
        find_head_end(data, 0, len(data), len(data) - 1, "thing")
    split = bytearray(b"HTTP/1.1 200 OK\r\n")  # the cut lies between CR and LF
    assert find_head_end(split, 0, len(split), len(split) - 1, "thing") == -1


@given(st.binary(max_size=200))
def test_hostile_bytes_end_in_a_head_or_a_violation(tail: bytes):
    data = b"HTTP/1.1 200 OK\r\n" + tail + b"\r\n\r\n"
    try:
        head = parse(data)
    except ProtocolViolation:
        return
    for name, value in head.headers:
        assert not set(name + value) & set("\r\n\0")


NAMES = st.text(alphabet="abcXYZ-_!~09", min_size=1, max_size=12)
VALUES = st.text(
    alphabet=st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30
).map(lambda text: "".join(char for char in text if not 0x80 <= ord(char) < 0xA0).strip(" \t"))


@given(st.lists(st.tuples(NAMES, VALUES), max_size=10))
def test_what_we_write_we_read(fields: list[tuple[str, str]]):
    raw = request_head("GET", "/x", fields)
    line, _, rest = raw.partition(b"\r\n")
    assert line == b"GET /x HTTP/1.1"
    assert list(parse(b"HTTP/1.1 200 OK\r\n" + rest).headers) == fields


def test_lists_over_several_lines():
    headers = Headers([("Connection", "close, X"), ("connection", " ,keep-alive,")])
    assert headers.elements("CONNECTION") == ["close", "X", "keep-alive"]


def test_the_repr_of_headers_shows_no_values():
    assert "secret" not in repr(Headers([("Set-Cookie", "secret")]))


@pytest.mark.parametrize(
    ("name", "value"), [("A\r\nB", "x"), ("", "x"), ("A B", "x"), ("A", "x\r\nB: y"), ("A", "x\0"), ("A", "\u20ac")]
)
def test_request_fields_cannot_break_the_head(name: str, value: str):
    with pytest.raises(Refused) as caught:
        check_field(name, value)
    assert "B: y" not in str(caught.value)


def test_content_range():
    found = parse_content_range("bytes 5-9/100", "thing")
    assert (found.start, found.end_exclusive, found.total, found.length) == (5, 10, 100, 5)
    assert parse_content_range("bytes 0-0/*", "thing").total is None


@pytest.mark.parametrize(
    "value",
    ["", "bytes */100", "bytes 9-5/100", "bytes 5-100/100", "bytes -5/100", "5-9/100", "bytes 5-9", "bytes 5-9/100, bytes 5-9/100",
     "bytes 5-9/1e3", "bytes \u0665-9/100", "bytes 1-99999999999999999999/*"],
)  # fmt: skip
def test_lying_content_ranges(value: str):
    with pytest.raises(ProtocolViolation):
        parse_content_range(value, "thing")
