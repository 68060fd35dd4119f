"""Zstandard in bounded steps: the frames' blocks are told apart here and decompressed a few at a time.

The library's own readers either hand out what a kilobyte of input makes at once, which can be gigabytes (a block of four
bytes stands for up to 128 KiB), or do not tell a frame that ended from one that was cut. Blocks begin with their length, so
both follow from walking them (RFC 8878, 3.1.1).
"""

from __future__ import annotations

from typing import Any

from ...common.errors import MissingExtra
from .members import damaged
from .sources import Source

WINDOW_BYTES_MAX = 128 << 20
"""What the zstd command takes unasked (``--long=27``); a frame may ask for 3.75 TiB."""

_READ_BYTES = 256 << 10
_STEP_BLOCKS_MAX = 8  # 128 KiB each at most: a step makes at most 1 MiB
_STEP_BYTES_MAX = 256 << 10
_FRAME = b"\x28\xb5\x2f\xfd"
_RAW, _RLE, _COMPRESSED, _RESERVED = range(4)


class ZstdSource:
    """A source of the decompressed bytes of all frames in a row; skippable frames are skipped."""

    def __init__(self, source: Source, archive: str) -> None:
        """Raises MissingExtra."""
        try:
            import zstandard
        except ImportError:
            raise MissingExtra("zstandard", cause="it is not installed", remedy="pip install 'shoal[unpack]'") from None
        self._error = zstandard.ZstdError
        self._context = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        self._frame: Any = None  # the object that decompresses the frame that is open
        self._has_checksum = False
        self._source = source
        self._archive = archive
        self._buffer = bytearray()
        self._out = memoryview(b"")

    def read(self, size: int) -> bytes:
        """As Source. Raises DamagedArchive when a frame is cut or wrong."""
        while not self._out:
            if self._frame is None:
                if not self._begin():
                    return b""
                continue
            data, is_last = self._blocks()
            self._decompress(data)
            if is_last:
                if not self._frame.eof:
                    raise damaged(self._archive, "a frame of it does not end where it says")
                self._frame = None
        out, self._out = self._out[:size], self._out[size:]
        return bytes(out)

    def _begin(self) -> bool:
        """Open the next frame; False at the end of the source."""
        if not self._buffer:
            self._buffer += self._source.read(_READ_BYTES)
            if not self._buffer:
                return False
        magic = self._peek(4)
        if magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18":
            self._skip(8 + int.from_bytes(self._peek(8)[4:], "little"))
            return True
        if magic != _FRAME:
            raise damaged(self._archive, "something follows its end, or is in place of a frame")
        # The header's length follows from its first byte (RFC 8878, 3.1.1.1).
        flags = self._peek(5)[4]
        is_single = bool(flags & 0x20)
        size_bytes = (1 if is_single else 0, 2, 4, 8)[flags >> 6]
        header = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[flags & 3] + size_bytes
        self._has_checksum = bool(flags & 0x04)
        self._frame = self._context.decompressobj()
        self._decompress(self._take(header))
        return True

    def _blocks(self) -> tuple[bytes, bool]:
        """The next few whole blocks, and whether the frame's last is among them (then with the checksum)."""
        end, is_last = 0, False
        for number in range(_STEP_BLOCKS_MAX):
            if number and (end >= _STEP_BYTES_MAX or len(self._buffer) < end + 3):
                break
            self._fill(end + 3)
            head = int.from_bytes(self._buffer[end : end + 3], "little")
            kind, size = head >> 1 & 3, head >> 3
            if kind == _RESERVED or size > 128 << 10:  # Block_Maximum_Size
                raise damaged(self._archive, "a block of it is not possible")
            end += 3 + (1 if kind == _RLE else size)
            if head & 1:
                is_last = True
                end += 4 if self._has_checksum else 0
                break
        return self._take(end), is_last

    def _decompress(self, data: bytes) -> None:
        try:
            self._out = memoryview(self._frame.decompress(data))
        except self._error as error:
            raise damaged(self._archive, f"it cannot be decompressed: {error}") from None

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            data = self._source.read(_READ_BYTES)
            if not data:
                raise damaged(self._archive, "it is cut: its compressed data does not end")
            self._buffer += data

    def _peek(self, size: int) -> bytes:
        self._fill(size)
        return bytes(self._buffer[:size])

    def _take(self, size: int) -> bytes:
        data = self._peek(size)
        del self._buffer[:size]
        return data

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._take(min(size, max(1, len(self._buffer)))))
