"""How agent and image workers speak: frames over a socket, orders one way and results the other, both in the same order.

=========== =======================================================================================================
frame       bytes
=========== =======================================================================================================
order       length of the image u32, longest side u32, encoding u8, quality u8, 2 unused, pixels u64, memory u64; image
result      code i32 (0: made, else an ErrorCode), payload u32, four sizes u32, two MD5; payload (image or UTF-8 text)
=========== =======================================================================================================

Numbers are little-endian. A payload of `AS_SERVED` bytes means: kept as it was served, and none follow.
"""

from __future__ import annotations

import struct
from typing import Final, cast

from ...common.collect_records import ErrorCode, ImageEncoding
from .images import ImageMade, ImageOrder, ImageRefused

ORDER: Final = struct.Struct("<IIBBxxQQ")
RESULT: Final = struct.Struct("<iI4I16s16s")
READY: Final = b"R"  # a worker's first byte: from now on it works
AS_SERVED: Final = 0xFFFFFFFF
_ENCODINGS: Final[tuple[ImageEncoding, ...]] = tuple(ImageEncoding)
_NUMBERS: Final = {encoding: number for number, encoding in enumerate(_ENCODINGS)}


def order_head(order: ImageOrder, length: int) -> bytes:
    """The head of an order; the image follows it."""
    return ORDER.pack(length, order.size, _NUMBERS[order.encoding], order.quality, order.pixels_max, order.memory_bytes)


def read_order(head: bytes) -> tuple[int, ImageOrder]:
    """(length of the image, what is to be done with it)."""
    length, size, encoding, quality, pixels, memory = ORDER.unpack(head)
    return int(length), ImageOrder(_ENCODINGS[int(encoding)], int(size), int(quality), int(pixels), int(memory))


def result_frame(made: ImageMade | ImageRefused) -> tuple[bytes, bytes]:
    """(head, payload) of a result."""
    if isinstance(made, ImageRefused):
        text = made.message.encode(errors="replace")
        return RESULT.pack(made.code, len(text), 0, 0, 0, 0, bytes(16), bytes(16)), text
    stored = made.stored if made.stored is not None else b""
    length = len(stored) if made.stored is not None else AS_SERVED
    head = RESULT.pack(0, length, *made.original_size, *made.stored_size, made.original_md5, made.stored_md5)
    return head, stored


def payload_length(head: bytes | memoryview) -> int:
    """How many bytes follow a result's head."""
    length = cast("int", RESULT.unpack(head)[1])
    return 0 if length == AS_SERVED else length


def read_result(head: bytes | memoryview, payload: bytes) -> ImageMade | ImageRefused:
    """What a worker says of one image."""
    code, length, height, width, stored_height, stored_width, original_md5, stored_md5 = RESULT.unpack(head)
    if code:
        return ImageRefused(ErrorCode(code), payload.decode(errors="replace"))
    stored = None if length == AS_SERVED else payload
    return ImageMade(stored, (height, width), (stored_height, stored_width), original_md5, stored_md5)
