"""Decompression in bounded steps, noticing where a compressed stream ends and whether it ended at all.

The standard library's file objects hide that: they hand out what they got before they complain, or take what follows a
stream for its next part. Here a stream that is cut raises, several streams in a row are one (as parallel compressors write
them), and after the last one only zero padding may follow, where the format has it.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

from .formats import ArchiveFormat
from .members import damaged
from .sources import Source

BLOCK_BYTES = 256 << 10  # of input or output at a time

XZ_MEMORY_MAX = 128 << 20
"""``xz -9`` needs 65 MiB to decompress (xz(1)); a header may ask for 4 GiB."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's object with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # a gzip header, and its CRC and length checked
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._object.decompress(self._object.unconsumed_tail + data, max_length)
        # A full step may have left output inside without a byte of input.
        self.needs_input = not self._object.unconsumed_tail and len(out) < max_length
        return out


class _Streams:
    """A source of the decompressed bytes of all streams in a row."""

    def __init__(self, source: Source, archive: str, new: Callable[[], _Decompressor], *, has_padding: bool) -> None:
        self._source = source
        self._archive = archive
        self._new = new
        self._has_padding = has_padding
        self._stream: _Decompressor | None = new()
        self._is_padding = False
        self._left = b""  # read and not fed yet

    def read(self, size: int) -> bytes:
        """As Source. Raises DamagedArchive when a stream is cut or wrong."""
        while True:
            if self._stream is None and not self._begin():
                return b""
            stream = self._stream
            assert stream is not None
            try:
                out = stream.decompress(self._input(stream), min(size, BLOCK_BYTES))
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise damaged(self._archive, f"it cannot be decompressed: {error}") from None
            if stream.eof:
                self._left = stream.unused_data
                self._stream = None
            if out:
                return out

    def _input(self, stream: _Decompressor) -> bytes:
        if not stream.needs_input:
            return b""
        data, self._left = self._left or self._source.read(BLOCK_BYTES), b""
        if not data:
            raise damaged(self._archive, "it is cut: its compressed data does not end")
        return data

    def _begin(self) -> bool:
        """Begin the next stream; False at the end of the source."""
        while True:
            data = self._left or self._source.read(BLOCK_BYTES)
            if not data:
                return False
            if self._has_padding and data[0] == 0:
                self._is_padding = True
                data = data.lstrip(b"\0")
            if not data:
                self._left = b""
                continue
            if self._is_padding:
                raise damaged(self._archive, "something follows its end")
            self._left = data
            self._stream = self._new()
            return True


def _new_bzip2() -> _Decompressor:
    return bz2.BZ2Decompressor()


def _new_xz() -> _Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX)


def decompressed(source: Source, kind: ArchiveFormat, archive: str) -> Source:
    """A source of the tar inside a source of that format. Raises MissingExtra when what reads the format is not installed."""
    if kind is ArchiveFormat.TAR_GZ:
        return _Streams(source, archive, _Gzip, has_padding=True)  # tapes and dd leave zeros; gzip(1) allows them
    if kind is ArchiveFormat.TAR_BZ2:
        return _Streams(source, archive, _new_bzip2, has_padding=False)
    if kind is ArchiveFormat.TAR_XZ:
        return _Streams(source, archive, _new_xz, has_padding=True)  # the .xz file format 2.2
    if kind is ArchiveFormat.TAR_ZST:
        from .zstd import ZstdSource

        return ZstdSource(source, archive)
    return source
