"""Framing: how long a body is, and the chunked coding cut at every byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import ProtocolViolation
from shoal.common.http.body import (
    CHUNK_LINE_BYTES_MAX,
    TRAILER_BYTES_MAX,
    ChunkedBody,
    CloseBody,
    LengthBody,
    body_of,
    keeps_alive,
)
from shoal.common.http.message import Headers, ResponseHead


def head_of(*fields: tuple[str, str], status: int = 200, minor: int = 1) -> ResponseHead:
    return ResponseHead(version_minor=minor, status=status, reason="", headers=Headers(fields))


def decode(body: ChunkedBody, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Feed pieces as a connection does; returns the content and what was left over."""
    content, pending = bytearray(), b""
    for piece in pieces:
        pending += piece
        while pending and not body.done:
            if body.expected:
                part = pending[: body.expected]
                content += part
                pending = pending[len(part) :]
                body.received(len(part))
            else:
                taken = body.parse_framing(pending)
                pending = pending[taken:]
                if not taken:
                    break
    return bytes(content), pending


@pytest.mark.parametrize(
    ("method", "status", "fields", "kind", "length"),
    [
        ("GET", 200, [("Content-Length", "5")], LengthBody, 5),
        ("GET", 200, [("Content-Length", "5"), ("Content-Length", "5")], LengthBody, 5),
        ("GET", 200, [("Content-Length", "5, 5")], LengthBody, 5),
        ("GET", 200, [("Content-Length", "0")], LengthBody, 0),
        ("GET", 200, [("Transfer-Encoding", "Chunked")], ChunkedBody, None),
        ("GET", 200, [], CloseBody, None),
        ("HEAD", 200, [("Content-Length", "5")], LengthBody, 0),
        ("HEAD", 200, [("Transfer-Encoding", "chunked")], LengthBody, 0),
        ("GET", 204, [], LengthBody, 0),
        ("GET", 304, [("Content-Length", "5")], LengthBody, 0),
        ("CONNECT", 200, [("Content-Length", "5"), ("Transfer-Encoding", "chunked")], LengthBody, 0),
        ("CONNECT", 407, [("Content-Length", "5")], LengthBody, 5),
    ],
)
def test_the_kind_of_body(method: str, status: int, fields: list[tuple[str, str]], kind: type, length: int | None):
    body = body_of(head_of(*fields, status=status), method, "thing")
    assert type(body) is kind and body.length == length
    assert body.done == (length == 0)


@pytest.mark.parametrize(
    "fields",
    [
        [("Content-Length", "5"), ("Content-Length", "6")],
        [("Content-Length", "5, 6")],
        [("Content-Length", "")],
        [("Content-Length", ",")],
        [("Content-Length", "-5")],
        [("Content-Length", "+5")],
        [("Content-Length", "0x5")],
        [("Content-Length", "5 5")],
        [("Content-Length", "1e3")],
        [("Content-Length", "\u00b2")],
        [("Content-Length", "9" * 30)],
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "gzip")],
        [("Transfer-Encoding", "gzip, chunked")],
        [("Transfer-Encoding", "chunked, chunked")],
        [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked, identity")],
        [("Transfer-Encoding", "")],
        [("Transfer-Encoding", "xchunked")],
    ],
)
def test_ambiguous_framing_is_refused(fields: list[tuple[str, str]]):
    with pytest.raises(ProtocolViolation):
        body_of(head_of(*fields), "GET", "thing")


def test_http_1_0_knows_no_chunks():
    with pytest.raises(ProtocolViolation):
        body_of(head_of(("Transfer-Encoding", "chunked"), minor=0), "GET", "thing")


@pytest.mark.parametrize(
    ("minor", "connection", "expected"),
    [
        (1, "", True),
        (1, "close", False),
        (1, "X, Close", False),
        (0, "", False),
        (0, "Keep-Alive", True),
        (0, "keep-alive, close", False),
    ],
)
def test_keep_alive(minor: int, connection: str, expected: bool):
    assert keeps_alive(head_of(("Connection", connection), minor=minor)) is expected


CHUNKED = b'5\r\nhello\r\nA;name="v;w"\r\n0123456789\r\n000\r\nTrailer: x\r\n\r\n'


@pytest.mark.parametrize("cut", range(len(CHUNKED) + 1))
def test_chunks_cut_in_two_anywhere(cut: int):
    body = ChunkedBody("thing")
    assert decode(body, [CHUNKED[:cut], CHUNKED[cut:] + b"next"]) == (b"hello0123456789", b"next")
    assert body.done and body.ended()


def test_chunks_byte_by_byte():
    body = ChunkedBody("thing")
    assert decode(body, [bytes([byte]) for byte in CHUNKED]) == (b"hello0123456789", b"")
    assert body.done


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_any_content_in_any_cuts(chunks: list[bytes], steps: list[int]):
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    pieces, position = [], 0
    while position < len(wire):
        step = steps[len(pieces) % len(steps)]
        pieces.append(wire[position : position + step])
        position += step
    body = ChunkedBody("thing")
    assert decode(body, pieces) == (b"".join(chunks), b"")
    assert body.done


@given(st.binary(max_size=120))
def test_hostile_chunks_end_in_a_violation_or_wait_for_more(wire: bytes):
    body = ChunkedBody("thing")
    try:
        content, _ = decode(body, [wire])
    except ProtocolViolation:
        return
    assert len(content) <= len(wire)


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1_0\r\n",
        b"5\nhello",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n",
        b"5\r\nhello5\r\n",
        b"1" * 16 + b"\r\n",
        b"5;a\x00b\r\n",
        b"5;" + b"a" * CHUNK_LINE_BYTES_MAX + b"\r\n",
        b"5;" + b"a" * CHUNK_LINE_BYTES_MAX,
        b"0\r\n folded\r\n",
        b"0\r\nno colon\r\n",
        b"0\r\n\n",
        b"0\r\n" + b"A: b\r\n" * TRAILER_BYTES_MAX,
    ],
)
def test_broken_chunks(wire: bytes):
    with pytest.raises(ProtocolViolation, match="chunked body is broken"):
        decode(ChunkedBody("thing"), [wire])


def test_the_end_of_the_connection():
    assert not LengthBody(5).ended()
    assert not ChunkedBody("thing").ended()
    close = CloseBody()
    assert not close.done and close.ended() and close.done
