"""HTTP/1.1 message bodies without I/O: how long a body is and where it ends (RFC 9112 sections 6 and 7).

A body tells how many raw bytes surely come next (``expected``). While that is not zero the connection may receive straight into the
caller's buffer; while it is zero and the body is not ``done``, bytes of framing come next and are given to ``parse_framing``.

==============  =====================  ==========================  =======================
body            expected               parse_framing               done
==============  =====================  ==========================  =======================
LengthBody      what is left           never called                when nothing is left
ChunkedBody     what the chunk holds   size lines, line ends,      after the trailers
                                       trailers
CloseBody       endless                never called                when the server closed
==============  =====================  ==========================  =======================
"""

from __future__ import annotations

import re
import sys
from typing import Final

from ..errors import ProtocolViolation
from .message import ResponseHead

CHUNK_LINE_BYTES_MAX: Final = 1024  # a size and its extensions; nothing that we fetch from uses extensions
TRAILER_BYTES_MAX: Final = 8192  # the usual limit of servers for one header block
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")  # 15 digits: under 2**60
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_DECIMAL = re.compile(r"[0-9]{1,18}")


class LengthBody:
    """A body whose length is known from the start (0 for an answer that has none)."""

    __slots__ = ("done", "expected", "length")

    def __init__(self, length: int) -> None:
        self.length: int | None = length
        self.expected = length
        self.done = length == 0

    def received(self, count: int) -> None:
        """``count`` raw bytes, at most ``expected``, were taken."""
        self.expected -= count
        self.done = self.expected == 0

    def parse_framing(self, data: bytes) -> int:
        raise AssertionError("a body of known length has no framing bytes")

    def ended(self) -> bool:
        """The server closed: was that the end of the body?"""
        return self.done


class CloseBody:
    """A body that ends when the server closes the connection."""

    __slots__ = ("done", "expected", "length")

    def __init__(self) -> None:
        self.length: int | None = None
        self.expected = sys.maxsize
        self.done = False

    def received(self, count: int) -> None:
        pass

    def parse_framing(self, data: bytes) -> int:
        raise AssertionError("a body that ends with the connection has no framing bytes")

    def ended(self) -> bool:
        self.done = True
        return True


class ChunkedBody:
    """The chunked transfer coding.

    ========  ============================  =========================
    state     reads                         next state
    ========  ============================  =========================
    SIZE      a size line, not zero         DATA
    SIZE      the zero size line            TRAILER
    DATA      raw bytes, by ``received``    DATA_END when all came
    DATA_END  the chunk's CRLF              SIZE
    TRAILER   a trailer field               TRAILER
    TRAILER   the empty line                DONE
    ========  ============================  =========================
    """

    __slots__ = ("_state", "_thing", "_trailer_bytes", "done", "expected", "length")
    _SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)

    def __init__(self, thing: str) -> None:
        self.length: int | None = None
        self.expected = 0
        self.done = False
        self._state = self._SIZE
        self._thing = thing
        self._trailer_bytes = 0

    def received(self, count: int) -> None:
        self.expected -= count
        if self.expected == 0:
            self._state = self._DATA_END

    def parse_framing(self, data: bytes) -> int:
        """Take framing bytes from the front of ``data``; returns how many were taken, 0 when more must come first.

        Stops where raw bytes begin or the body ends. Raises ProtocolViolation.
        """
        taken = 0
        while self.expected == 0 and not self.done:
            line_end = data.find(b"\n", taken)
            if line_end < 0:
                if len(data) - taken > CHUNK_LINE_BYTES_MAX:
                    raise self._violation("a line of its framing is too long")
                break
            line = data[taken : line_end + 1]
            taken = line_end + 1
            if len(line) > CHUNK_LINE_BYTES_MAX or not line.endswith(b"\r\n"):
                raise self._violation("a line of its framing is too long or ends in a bare line feed")
            self._take_line(line[:-2])
        return taken

    def _take_line(self, line: bytes) -> None:
        if self._state == self._SIZE:
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise self._violation("a chunk's size is malformed")
            self.expected = int(size[1], 16)
            self._state = self._DATA if self.expected else self._TRAILER
        elif self._state == self._DATA_END:
            if line:
                raise self._violation("a chunk is longer than its size")
            self._state = self._SIZE
        elif not line:
            self._state, self.done = self._DONE, True
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > TRAILER_BYTES_MAX or not _TRAILER_LINE.fullmatch(line):
                raise self._violation("its trailer is malformed or too long")

    def ended(self) -> bool:
        return self.done

    def _violation(self, cause: str) -> ProtocolViolation:
        return ProtocolViolation(self._thing, cause=f"the chunked body is broken: {cause}")


Body = LengthBody | ChunkedBody | CloseBody


def body_of(head: ResponseHead, method: str, thing: str) -> Body:
    """The body that follows ``head`` (RFC 9112 section 6.3). Raises ProtocolViolation when its length is ambiguous."""
    if method == "CONNECT" and 200 <= head.status < 300:
        return LengthBody(0)  # what follows is the tunnel, whatever the header fields say
    headers = head.headers
    codings = [coding.lower() for coding in headers.elements("transfer-encoding")]
    lengths = set(headers.elements("content-length"))
    if "transfer-encoding" in headers and "content-length" in headers:
        raise ProtocolViolation(thing, cause="the answer has both Transfer-Encoding and Content-Length")
    if len(lengths) > 1 or ("content-length" in headers and not all(_DECIMAL.fullmatch(x) for x in lengths or [""])):
        raise ProtocolViolation(thing, cause="the answer's Content-Length is malformed or contradicts itself")
    if method == "HEAD" or head.status in (204, 304):
        return LengthBody(0)
    if "transfer-encoding" in headers:
        if codings != ["chunked"] or head.version_minor == 0:
            raise ProtocolViolation(thing, cause="the answer's Transfer-Encoding is not plain chunked")
        return ChunkedBody(thing)
    return LengthBody(int(lengths.pop())) if lengths else CloseBody()


def keeps_alive(head: ResponseHead) -> bool:
    """May the connection carry another request after this answer (RFC 9112 section 9.3)?"""
    options = {option.lower() for option in head.headers.elements("connection")}
    return "close" not in options and (head.version_minor == 1 or "keep-alive" in options)
