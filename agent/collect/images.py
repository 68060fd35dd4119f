"""Images in memory: checked, decoded, made smaller, encoded. Runs in a worker process, never in the agent's own.

JPEG is decoded at a reduced scale (`draft`) that is at least the result's size, then made smaller as `resampling.py` says. Measured
against a mean over areas (benchmarks/results/images.md) that is about as near as a full decode with LANCZOS and costs a fraction of it.
How is part of the order, so that the digest of a stored image does not depend on which agent made it.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from ...common.collect_records import CollectSpec, ErrorCode, ImageEncoding, Resampler
from .resampling import resampled

if TYPE_CHECKING:
    from PIL.Image import Image

# What begins with MPO (two JPEGs in one file) opens as JPEG.
FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
_ORIENTATION: Final = 0x0112  # EXIF 2.32, section 4.6.4
_MESSAGE_CHARACTERS_MAX: Final = 200


class ImageRefused(Exception):
    """An image that is not stored: code and message of its error row."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """What is to be done with an image. size: longest side in pixels, 0: as it is; memory_bytes: for decoding it."""

    encoding: ImageEncoding
    size: int
    quality: int
    pixels_max: int
    memory_bytes: int
    resampler: Resampler

    @classmethod
    def of(cls, spec: CollectSpec) -> ImageOrder:
        """What a job wants done with each of its images."""
        return cls(
            encoding=spec.image_encoding,
            size=spec.image_size,
            quality=spec.image_quality,
            pixels_max=spec.pixels_max,
            memory_bytes=spec.decode_memory_bytes,
            resampler=spec.resampler,
        )

    @property
    def wants_opencv(self) -> bool:
        """Whether there may be anything for OpenCV to do."""
        return self.resampler is Resampler.OPENCV and self.size > 0 and self.encoding is not ImageEncoding.ORIGINAL


@dataclass(frozen=True, slots=True)
class ImageMade:
    """What became of an image. stored is None where it is kept as it was served; sizes are (height, width); digests MD5."""

    stored: bytes | None
    original_size: tuple[int, int]
    stored_size: tuple[int, int]
    original_md5: bytes
    stored_md5: bytes


def process(data: bytes | bytearray | memoryview, order: ImageOrder) -> ImageMade:
    """Check, decode, resize, encode. Raises ImageRefused, whatever is wrong with the image."""
    try:
        return _process(data, order)
    except ImageRefused:
        raise
    except MemoryError:
        limit = order.memory_bytes
        raise ImageRefused(ErrorCode.TOO_LARGE, f"decoding it takes more than {limit} bytes of memory") from None
    except Exception as error:  # a decoder meets whatever bytes there are with whatever exception there is
        text = f"{type(error).__name__}: {error}".replace("\n", " ")[:_MESSAGE_CHARACTERS_MAX]
        raise ImageRefused(ErrorCode.NOT_AN_IMAGE, f"it cannot be decoded: {text}") from None


def _process(data: bytes | bytearray | memoryview, order: ImageOrder) -> ImageMade:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # our own limit, which is an error and not a warning, comes first
    original_md5 = hashlib.md5(data, usedforsecurity=False).digest()
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > order.pixels_max:
            raise ImageRefused(
                ErrorCode.TOO_LARGE, f"it has {width} x {height} pixels, more than {order.pixels_max} in all"
            )
        if order.encoding is ImageEncoding.ORIGINAL:
            _check_end(data, image.format or "")
            size = _turned((height, width), _orientation(image))
            return ImageMade(None, size, size, original_md5, original_md5)
        box = _box(width, height, order.size)
        extent: tuple[float, float] | None = None
        if image.format in ("JPEG", "MPO"):
            drafted = image.draft("RGB", box)
            extent = drafted[1][2:] if drafted is not None else image.size
        image.load()
        orientation = _orientation(image)
        if image.format == "TIFF":
            width, height = image.size  # Pillow has turned it already
            box = _box(width, height, order.size)
        small = _plain(image)
        if small.size != box:
            small = resampled(small, box, order.resampler, extent)
        if orientation != 1:
            small = small.transpose(_turns()[orientation])
        stored = _encoded(small, order)
        return ImageMade(
            stored,
            _turned((height, width), orientation),
            (small.height, small.width),
            original_md5,
            hashlib.md5(stored, usedforsecurity=False).digest(),
        )


def _box(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) with the long side at most ``size``, never larger than it is."""
    longest = max(width, height)
    if not size or longest <= size:
        return width, height
    return max(1, round(width * size / longest)), max(1, round(height * size / longest))


def _orientation(image: Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none that makes sense."""
    if image.format == "JPEG" and "exif" not in image.info:
        return 1
    found: object = image.getexif().get(_ORIENTATION)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation >= 5 else size


def _turns() -> dict[int, Any]:
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _plain(image: Image) -> Image:
    """The picture as RGB: whatever is transparent on white, 16 and 32 bits brought down to 8."""
    from PIL import Image as pillow

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        image = image.convert("I")
        return _scaled(image, 256.0).convert("RGB")
    if image.mode in ("I", "F"):
        low, high = cast("tuple[float, float]", image.getextrema())
        if low >= 0 and high <= 255:
            return image.convert("L").convert("RGB")
        return _scaled(image, 256.0 if high <= 65_535 else high / 255.0).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        ground = pillow.new("RGB", layered.size, (255, 255, 255))
        ground.paste(layered, mask=layered.getchannel("A"))
        return ground
    return image.convert("RGB")


def _scaled(image: Image, divisor: float) -> Image:
    """A picture of whole or floating numbers, brought into 0 to 255."""
    return image.convert("F").point(lambda value: value * (1 / divisor) + 0.0).convert("L")


def _encoded(image: Image, order: ImageOrder) -> bytes:
    encoding = order.encoding
    if encoding is ImageEncoding.RAW_BGR:
        return image.tobytes("raw", "BGR")
    out = io.BytesIO()
    if encoding is ImageEncoding.JPEG:
        image.save(out, "JPEG", quality=order.quality)
    elif encoding is ImageEncoding.WEBP:
        image.save(out, "WEBP", quality=order.quality)
    else:
        image.save(out, "PNG")
    return out.getvalue()


def _check_end(data: bytes | bytearray | memoryview, kind: str) -> None:
    """Refuse an image that is kept as served but ends too soon: the mark of its end is missing."""
    if kind in _ENDS and not any(
        _ENDS[kind] in bytes(memoryview(data)[-length:]) for length in (_END_BYTES, _TAIL_BYTES)
    ):
        raise ImageRefused(ErrorCode.NOT_AN_IMAGE, f"the {kind} image is cut short: its end is missing")
    if kind == "WEBP" and int.from_bytes(bytes(memoryview(data)[4:8]), "little") + 8 > len(data):
        raise ImageRefused(ErrorCode.NOT_AN_IMAGE, "the WEBP image is cut short")


_END_BYTES: Final = 16  # where it is, as a rule
_TAIL_BYTES: Final = 64 << 10  # some cameras and servers put something behind the image
_ENDS: Final = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\x3b"}
