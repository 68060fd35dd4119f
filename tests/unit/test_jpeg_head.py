"""`agent/collect/jpeg_head.py`: never another size than Pillow's, never a file that Pillow would refuse to open."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shoal.agent.collect.images import ImageOrder, ImageRefused, process
from shoal.agent.collect.jpeg_head import SEGMENTS_MAX, plain_jpeg_size
from shoal.common.collect_records import ImageEncoding, Resampler

AS_SERVED = ImageOrder(ImageEncoding.ORIGINAL, 0, 95, 10**9, 1 << 30, Resampler.PILLOW)


def jpeg(size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


PLAIN = jpeg()


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        jpeg(progressive=True),
        jpeg(mode="L"),
        jpeg((1, 1)),
        jpeg((3000, 7)),
        jpeg(comment=b"a comment"),
        jpeg(icc_profile=b"\0" * 3000),
        jpeg(dpi=(72, 72)),
        PLAIN + b"\0" * 8,
    ],
    ids=["baseline", "progressive", "grey", "one pixel", "wide", "comment", "icc", "dpi", "padded"],
)
def test_a_plain_one_has_the_size_that_pillow_sees(data: bytes) -> None:
    assert plain_jpeg_size(bytearray(data)) == process(data, AS_SERVED).original_size


def test_what_may_be_turned_or_holds_several_is_left_to_pillow() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert plain_jpeg_size(jpeg(exif=exif)) is None
    assert plain_jpeg_size(jpeg(mode="CMYK")) is None
    several = PLAIN[:2] + segment(0xE2, b"MPF\0" + bytes(20)) + PLAIN[2:]
    assert plain_jpeg_size(several) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\xff\xd8\xff",
        PLAIN[:-2],
        PLAIN[: len(PLAIN) // 2],
        PLAIN[:2] + segment(0xE5, b"x") * SEGMENTS_MAX + PLAIN[2:],
        PLAIN[:2] + b"\xff" + PLAIN[2:],
        PLAIN[:2] + segment(0xC3, b"\x08\0\1\0\1\1\0\0\0") + PLAIN[2:],
        PLAIN[:2] + segment(0xC0, b"\x08\0\1\0\1\1\0\0\0") + PLAIN[2:],
        PLAIN[:2] + segment(0xC0, b"\x0c\0\1\0\1\1\0\0\0") + b"\xff\xd9",
        PLAIN[:2] + segment(0xDA, b"") + b"\xff\xd9",
        PLAIN[:2] + b"\xff\xe0\0\0" + PLAIN[2:],
        PLAIN.replace(b"\xff\xdb\0\x43\0", b"\xff\xdb\0\x43\x10"),
        PLAIN[:2] + b"\xff\xe0\xff\xff" + b"\xff\xd9",
        b"\x89PNG\r\n\x1a\n" + PLAIN,
    ],
)
def test_what_is_unusual_or_broken_is_not_judged(data: bytes) -> None:
    assert plain_jpeg_size(data) is None


@given(st.integers(0, len(PLAIN) - 1), st.integers(0, 255))
def test_whatever_byte_is_wrong_pillow_would_say_the_same(at: int, value: int) -> None:
    data = bytearray(PLAIN)
    data[at] = value
    size = plain_jpeg_size(data)
    if size is not None:
        try:
            assert process(data, AS_SERVED).original_size == size
        except ImageRefused as refused:
            pytest.fail(f"Pillow refuses it: {refused.message}")


@given(st.binary(max_size=300))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    whole = b"\xff\xd8\xff" + data + b"\xff\xd9"
    size = plain_jpeg_size(whole)
    if size is not None:
        assert process(whole, AS_SERVED).original_size == size
