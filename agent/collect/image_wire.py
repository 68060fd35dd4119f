"""How agent and image workers speak: frames over a socket, orders one way and results the other, both in the same order.

=========== =======================================================================================================
frame       bytes
=========== =======================================================================================================
order       length of the image u32, longest side u32, encoding, quality, resampler u8, 1 unused, pixels, memory u64; image
result      code i32 (0: made, 1: no OpenCV, else an ErrorCode), payload u32, four sizes u32, two MD5; payload (image or text)
=========== =======================================================================================================

Numbers are little-endian, text is UTF-8. A payload of `AS_SERVED` bytes means: kept as it was served, and none follow.
"""

from __future__ import annotations

import struct
from typing import Final, cast

from ...common.collect_records import ErrorCode, ImageEncoding, Resampler
from ...common.errors import MissingExtra
from .images import ImageMade, ImageOrder, ImageRefused
from .resampling import opencv_missing

ORDER: Final = struct.Struct("<IIBBBxQQ")
RESULT: Final = struct.Struct("<iI4I16s16s")
READY: Final = b"R"  # a worker's first byte: from now on it works
AS_SERVED: Final = 0xFFFFFFFF
_NO_OPENCV: Final = 1  # no ErrorCode: those are negative
_ENCODINGS: Final[tuple[ImageEncoding, ...]] = tuple(ImageEncoding)
_NUMBERS: Final = {encoding: number for number, encoding in enumerate(_ENCODINGS)}
_RESAMPLERS: Final[tuple[Resampler, ...]] = tuple(Resampler)


def order_head(order: ImageOrder, length: int) -> bytes:
    """The head of an order; the image follows it."""
    return ORDER.pack(
        length,
        order.size,
        _NUMBERS[order.encoding],
        order.quality,
        _RESAMPLERS.index(order.resampler),
        order.pixels_max,
        order.memory_bytes,
    )


def read_order(head: bytes) -> tuple[int, ImageOrder]:
    """(length of the image, what is to be done with it)."""
    length, size, encoding, quality, resampler, pixels, memory = ORDER.unpack(head)
    order = ImageOrder(
        encoding=_ENCODINGS[int(encoding)],
        size=int(size),
        quality=int(quality),
        pixels_max=int(pixels),
        memory_bytes=int(memory),
        resampler=_RESAMPLERS[int(resampler)],
    )
    return int(length), order


def no_opencv_frame(cause: str) -> tuple[bytes, bytes]:
    """(head, payload) of the answer to an order that no image of the job can be made by; cause: for a person."""
    return _told(_NO_OPENCV, cause)


def _told(code: int, text: str) -> tuple[bytes, bytes]:
    payload = text.encode(errors="replace")
    return RESULT.pack(code, len(payload), 0, 0, 0, 0, bytes(16), bytes(16)), payload


def result_frame(made: ImageMade | ImageRefused) -> tuple[bytes, bytes]:
    """(head, payload) of a result."""
    if isinstance(made, ImageRefused):
        return _told(made.code, made.message)
    stored = made.stored if made.stored is not None else b""
    length = len(stored) if made.stored is not None else AS_SERVED
    head = RESULT.pack(0, length, *made.original_size, *made.stored_size, made.original_md5, made.stored_md5)
    return head, stored


def payload_length(head: bytes | memoryview) -> int:
    """How many bytes follow a result's head."""
    length = cast("int", RESULT.unpack(head)[1])
    return 0 if length == AS_SERVED else length


def read_result(head: bytes | memoryview, payload: bytes) -> ImageMade | ImageRefused | MissingExtra:
    """What a worker says of one image, or, an error, of itself."""
    code, length, height, width, stored_height, stored_width, original_md5, stored_md5 = RESULT.unpack(head)
    if code == _NO_OPENCV:
        return opencv_missing(payload.decode(errors="replace"))
    if code:
        return ImageRefused(ErrorCode(code), payload.decode(errors="replace"))
    stored = None if length == AS_SERVED else payload
    return ImageMade(stored, (height, width), (stored_height, stored_width), original_md5, stored_md5)
