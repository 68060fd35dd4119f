"""Stored images: decoding bytes that come from strangers, and making an image smaller in the encoding that it is stored in.

Only formats whose decoders are part of Pillow itself are tried: EPS, for one, would start Ghostscript. The number of pixels is
looked at before anything is decoded. Pillow is imported where it is used.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..common.collect_records import ImageEncoding
from ..common.errors import MissingExtra

if TYPE_CHECKING:
    from types import ModuleType

    from PIL import Image

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM", "ICO")
RAW_CHANNELS: Final = 3
QUALITY: Final = 95  # as collect.image_quality
_WRITTEN: Final = {"JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM"}


class BadImage(Exception):
    """Bytes that are no sound image; the text says why."""


def is_raw(data: bytes, size: Sequence[int] | None, encoding: str) -> bool:
    """Whether the bytes are height x width x 3 values, blue first. The file says so, or, where it says nothing, their number does.

    Args: size as [height, width]; encoding as the file's metadata has it, or "".
    """
    if encoding:
        return encoding == ImageEncoding.RAW_BGR
    return size is not None and len(size) == 2 and len(data) == size[0] * size[1] * RAW_CHANNELS and len(data) > 0


def decode(data: bytes, size: Sequence[int] | None, encoding: str, pixels_max: int) -> Image.Image:
    """The image, wholly decoded. The caller closes it. Raises BadImage, MissingExtra."""
    image_module = _pillow()
    if not data:
        raise BadImage("there are no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_raw(data, size, encoding):
                return _from_raw(data, size, pixels_max)
            # Our own limit stands before it: Pillow's would only warn, once.
            setattr(image_module, "MAX_IMAGE_PIXELS", None)  # noqa: B010
            image = image_module.open(io.BytesIO(data), formats=FORMATS)
            try:
                _check_pixels(image.width, image.height, pixels_max)
                image.load()
            except BaseException:
                image.close()
                raise
            return image
    except BadImage:
        raise
    except Exception as error:  # decoders raise nearly anything: SyntaxError, struct.error, KeyError, MemoryError
        raise BadImage(f"{type(error).__name__}: {error}"[:300]) from error


def _from_raw(data: bytes, size: Sequence[int] | None, pixels_max: int) -> Image.Image:
    if size is None or len(size) != 2 or min(size) < 1:
        raise BadImage("raw values, and no size that says how they lie")
    height, width = size
    _check_pixels(width, height, pixels_max)
    if len(data) != height * width * RAW_CHANNELS:
        raise BadImage(f"{len(data)} bytes, and {height} x {width} x 3 are {height * width * RAW_CHANNELS}")
    return _pillow().frombytes("RGB", (width, height), data, "raw", "BGR")


def _check_pixels(width: int, height: int, pixels_max: int) -> None:
    if width * height > pixels_max:
        raise BadImage(f"{width} x {height} pixels, and at most {pixels_max} are decoded")


def smaller(
    data: bytes, size: Sequence[int] | None, encoding: str, *, side_max: int, quality: int, pixels_max: int
) -> tuple[bytes, list[int]] | None:
    """The image with its long side at side_max pixels, in its own encoding, and its new [height, width]; None when it is not larger.

    Averages over areas (as the reference tool does); the orientation that a camera noted is applied. Raises BadImage, MissingExtra.
    """
    from PIL import ImageOps

    image_module = _pillow()
    raw = is_raw(data, size, encoding)
    with decode(data, size, encoding, pixels_max) as image:
        if max(image.size) <= side_max:
            return None
        stored_as = image.format or ""
        if not raw and stored_as not in _WRITTEN:
            raise BadImage(f"{stored_as} is not written by this tool")
        profile = image.info.get("icc_profile")
        try:
            upright = ImageOps.exif_transpose(image)
            scale = side_max / max(upright.size)
            width, height = (max(1, math.floor(side * scale + 0.5)) for side in upright.size)
            colours = (
                upright.convert("RGBA" if "transparency" in upright.info else "RGB") if upright.mode == "P" else upright
            )
            made = colours.resize((width, height), image_module.Resampling.BOX)
            if raw:
                return made.tobytes("raw", "BGR"), [height, width]
            buffer = io.BytesIO()
            options = {"quality": quality} if stored_as in ("JPEG", "WEBP") else {}
            made.save(buffer, stored_as, icc_profile=profile, **options)
        except Exception as error:
            raise BadImage(f"{type(error).__name__}: {error}"[:300]) from error
    return buffer.getvalue(), [height, width]


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("images", cause="Pillow is not installed", remedy="pip install 'shoal[images]'") from None
    return Image
