"""What becomes of each kind of image, and of what only looks like one."""

from __future__ import annotations

import hashlib
import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shoal.agent.collect.answers import not_an_image, sniffed
from shoal.agent.collect.image_wire import (
    RESULT,
    order_head,
    payload_length,
    read_order,
    read_result,
    result_frame,
)
from shoal.agent.collect.images import ImageOrder, ImageRefused, process
from shoal.common.collect_records import ErrorCode, ImageEncoding, Resampler
from support.collecting import picture

resamplers = list(Resampler)  # the fixture leaves the one that orders name


@pytest.fixture(autouse=True, params=list(Resampler))
def each_resampler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "resamplers", [request.param])


def order(encoding: ImageEncoding = ImageEncoding.PNG, size: int = 64, pixels: int = 10_000_000) -> ImageOrder:
    return ImageOrder(encoding, size, 95, pixels, 1 << 30, resamplers[0])


def made(data: bytes, **what: Any) -> Image.Image:
    result = process(data, order(**what))
    assert result.stored is not None
    image = Image.open(io.BytesIO(result.stored))
    assert (image.height, image.width) == result.stored_size
    return image.convert("RGB")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is huge, and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_each_format_is_made_smaller(kind: str) -> None:
    data = picture(200, 100, kind=kind)
    assert sniffed(data[:16]) == kind
    result = process(data, order())
    assert result.original_size == (100, 200)
    assert result.stored_size == (32, 64)
    assert result.original_md5 == hashlib.md5(data).digest()
    assert result.stored is not None and result.stored_md5 == hashlib.md5(result.stored).digest()


@pytest.mark.parametrize("size", [0, 96, 500])
def test_nothing_is_enlarged(size: int) -> None:
    assert process(picture(96, 48), order(size=size)).stored_size == (48, 96)


def test_a_very_long_image_keeps_a_pixel() -> None:
    assert process(picture(1000, 2, kind="PNG"), order(size=10)).stored_size == (1, 10)


@pytest.mark.parametrize("encoding", list(ImageEncoding))
def test_each_encoding(encoding: ImageEncoding) -> None:
    data = picture(200, 100)
    result = process(data, order(encoding))
    if encoding is ImageEncoding.ORIGINAL:
        assert result.stored is None and result.stored_md5 == hashlib.md5(data).digest()
        assert result.stored_size == result.original_size == (100, 200)
        return
    assert result.stored is not None
    assert result.stored_md5 == hashlib.md5(result.stored).digest()
    if encoding is ImageEncoding.RAW_BGR:
        array = np.frombuffer(result.stored, "u1").reshape(32, 64, 3)
        assert np.array_equal(array[:, :, ::-1], np.asarray(made(data)))
    else:
        assert Image.open(io.BytesIO(result.stored)).format == encoding.value.upper()


def test_it_is_near_the_mean_over_areas() -> None:
    data = picture(256, 256)
    full = np.asarray(Image.open(io.BytesIO(data))).astype("f8")
    mean = full.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(made(data)).astype("f8") - mean).mean() < 1.5


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert made(saved(clear, "PNG")).getpixel((3, 3)) == (255, 255, 255)
    half = Image.new("LA", (8, 8), (0, 128))
    assert made(saved(half, "PNG")).getpixel((3, 3)) == (127, 127, 127)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 255] + [0] * 765)
    assert made(saved(palette, "PNG", transparency=0)).getpixel((3, 3)) == (255, 255, 255)
    assert made(saved(palette, "PNG")).getpixel((3, 3)) == (0, 0, 255)
    assert made(saved(palette, "GIF", transparency=0)).getpixel((3, 3)) == (255, 255, 255)


def test_sixteen_bits_become_eight() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x8000, "u2"))
    for kind in ("PNG", "TIFF"):
        assert abs(made(saved(grey, kind)).getpixel((3, 3))[0] - 128) <= 1  # type: ignore[index]
    floats = Image.fromarray(np.full((8, 8), 200.0, "f4"))
    assert made(saved(floats, "TIFF")).getpixel((3, 3)) == (200, 200, 200)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_other_modes(mode: str) -> None:
    kind = "JPEG" if mode != "1" else "PNG"
    white = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    assert min(made(saved(white, kind)).getpixel((3, 3))) >= 250  # type: ignore[type-var]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """The corner that is red belongs where a viewer shows it."""
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    image.paste((255, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[orientation]
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = saved(image, kind, exif=exif)
        result = process(data, order())
        assert result.original_size == ((40, 20) if orientation >= 5 else (20, 40)), kind
        found = made(data)
        pixel = found.getpixel((corner[0] * (found.width - 1), corner[1] * (found.height - 1)))
        assert pixel[0] > 200 and pixel[1] < 80, (kind, pixel)  # type: ignore[index, operator]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_picture_of_an_animation_counts(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ((255, 0, 0), (0, 255, 0))]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    pixel = made(data).getpixel((8, 8))
    assert pixel[0] > 240 and pixel[1] < 20  # type: ignore[index, operator]


def refused(data: bytes, **what: Any) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        process(data, order(**what))
    return caught.value


def test_a_pixel_bomb_is_refused_by_its_header() -> None:
    error = refused(png_of(60_000, 60_000), pixels=179_000_000)
    assert error.code is ErrorCode.TOO_LARGE and "60000 x 60000" in error.message


@pytest.mark.parametrize("encoding", [ImageEncoding.JPEG, ImageEncoding.ORIGINAL])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_cut_image_is_refused(kind: str, encoding: ImageEncoding) -> None:
    data = picture(200, 100, kind=kind)
    error = refused(data[: len(data) * 2 // 3], encoding=encoding)
    assert error.code is ErrorCode.NOT_AN_IMAGE


def test_a_picture_with_less_data_than_it_says_is_refused() -> None:
    assert refused(png_of(100, 100)).code is ErrorCode.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6\0\0\0\0", "EPS"),
        (b"8BPS\0\1", "Photoshop"),
        (b"  <!DOCTYPE HTML><html>", "HTML"),
        (b'{"error": "no"}', "JSON"),
        (b"%PDF-1.4", "PDF"),
        (b"\0\0\0\x1cftypavif", "like no image"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, what: str) -> None:
    assert not sniffed(data)
    failure = not_an_image(data, "image/jpeg")
    assert failure.code == ErrorCode.NOT_AN_IMAGE and what in failure.message and not failure.retry
    if data:
        assert "image/jpeg" in failure.message
    assert refused(data).code is ErrorCode.NOT_AN_IMAGE


def test_frames_come_back_as_they_went() -> None:
    head = order_head(order(ImageEncoding.WEBP, 224, 179_000_000), 12345)
    assert read_order(head) == (12345, order(ImageEncoding.WEBP, 224, 179_000_000))
    for result in (process(picture(), order()), process(picture(), order(ImageEncoding.ORIGINAL))):
        reply, payload = result_frame(result)
        assert len(reply) == RESULT.size and payload_length(reply) == len(payload)
        assert read_result(reply, payload) == result
    reply, payload = result_frame(ImageRefused(ErrorCode.TOO_LARGE, "so big"))
    back = read_result(reply, payload)
    assert isinstance(back, ImageRefused) and (back.code, back.message) == (ErrorCode.TOO_LARGE, "so big")
