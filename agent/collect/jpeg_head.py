"""How large a plain JPEG is, read from its markers alone: ITU-T T.81, annex B. No decoder, no allocation by the file's word.

Images that are stored as they were served need no decoder, only their size and a look at whether they are whole. For most of them that
is this: it costs a hundredth of the way to an image worker and back. Whatever is in any way unusual is not judged here: the caller
then asks a worker, whose verdict is Pillow's.
"""

from __future__ import annotations

from typing import Final

SEGMENTS_MAX: Final = 64  # before the picture itself; cameras write about twenty
TAIL_BYTES: Final = 16  # where the end's mark is
_SOI: Final = b"\xff\xd8\xff"
_EOI: Final = b"\xff\xd9"
_FRAMES: Final = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: what Pillow decodes
_SCAN: Final = 0xDA
_TABLES: Final = 0xDB  # of quantization
_SIMPLE: Final = frozenset((0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))  # tables, comments, applications' own
_TELLING: Final = {0xE1: b"Exif\0", 0xE2: b"MPF\0"}  # may turn the picture; several pictures in one file
_NEVER: Final[tuple[bytes, ...]] = ()


def plain_jpeg_size(data: bytes | bytearray) -> tuple[int, int] | None:
    """(height, width) of a whole JPEG with one frame of 8 bits in grey or three colours, that EXIF says nothing of.

    None for anything else, broken ones too.
    """
    if data[:3] != _SOI or _EOI not in data[-TAIL_BYTES:]:
        return None
    size: tuple[int, int] | None = None
    at, end = 2, len(data)
    for _ in range(SEGMENTS_MAX):
        if at + 4 > end or data[at] != 0xFF:
            return None
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        follows = at + 2 + length
        if length < 2 or follows >= end:
            return None
        if marker == _SCAN:
            return size
        if marker in _FRAMES:
            if size is not None or length < 8:
                return None
            precision, components = data[at + 4], data[at + 9]
            if precision != 8 or components not in (1, 3) or length != 8 + 3 * components:
                return None
            size = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            if not all(size):
                return None
        elif (
            (marker == _TABLES and not _whole_tables(data, at + 4, follows))
            or marker not in _SIMPLE
            or data.startswith(_TELLING.get(marker, _NEVER), at + 4)
        ):
            return None
        at = follows
    return None


def _whole_tables(data: bytes | bytearray, at: int, end: int) -> bool:
    """Whether a segment holds nothing but whole quantization tables of 64 numbers, of 8 or of 16 bits."""
    while at < end:
        at += 65 if data[at] < 0x10 else 129
    return at == end
