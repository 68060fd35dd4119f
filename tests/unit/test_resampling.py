"""How near pictures made smaller are to the mean over areas, and what OpenCV's filter is."""

from __future__ import annotations

import io
import math
import random
import resource
import subprocess
import sys
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.collect_quality import area_resized
from shoal.agent.collect.images import ImageMade, ImageOrder, ImageRefused, process
from shoal.agent.collect.resampling import resampled
from shoal.common.collect_records import ErrorCode, ImageEncoding, Resampler

RATIOS = (1.01, 1.1, 1.3, 1.6, 1.9, 1.99, 2.0, 2.01, 2.5, 3.0, 3.3, 4.0, 4.2, 5.0, 6.1, 7.03, 8.0)


def photo(width: int, height: int) -> Image.Image:
    """Waves of many lengths down to six pixels, and hard edges."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(7)
    pixels = np.full((height, width, 3), 128.0)
    for period in (6, 9, 17, 40, 90):
        for channel in range(3):
            turn, phase = rng.uniform(0, math.tau, 2)
            wave = np.sin((x * math.cos(turn) + y * math.sin(turn)) * math.tau / period + phase)
            pixels[:, :, channel] += wave * period**0.6
    pixels[height // 3 : height // 2, width // 4 : width // 2] += 60
    return Image.fromarray(np.clip(pixels, 0, 255).astype("u1"))


def saved(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


def made(data: bytes, size: int, resampler: Resampler) -> ImageMade:
    return process(data, ImageOrder(ImageEncoding.RAW_BGR, size, 95, 10**9, 1 << 30, resampler))


def difference(data: bytes, size: int, resampler: Resampler) -> float:
    """To the mean over areas, of all channels, in steps of 1/255."""
    result = made(data, size, resampler)
    height, width = result.stored_size
    assert result.stored is not None
    pixels = np.frombuffer(result.stored, "u1").reshape(height, width, 3)[:, :, ::-1].astype("f8")
    with Image.open(io.BytesIO(data)) as full:
        return float(np.abs(pixels - area_resized(np.asarray(full.convert("RGB")), height, width)).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("dimensions", [(240, 184), (243, 181), (181, 237)])
def test_it_is_near_the_mean_over_areas(kind: str, dimensions: tuple[int, int]) -> None:
    data = saved(photo(*dimensions), kind)
    bound = 1.2 if kind == "PNG" else 2.0  # Pillow's filter: 0.7 and, for what a reduced scale moves, 3.9
    for ratio in RATIOS:
        size = max(1, round(max(dimensions) / ratio))
        found = difference(data, size, Resampler.OPENCV)
        assert found < bound, (ratio, found)


def test_nothing_moves_where_the_size_is_no_multiple() -> None:
    """A ramp stays the same ramp, to its last column, though that stands for a part of a group only."""
    for width in (801, 802, 803, 807):
        ramp = np.repeat(np.linspace(0, 255, width)[None, :, None], 60, axis=0).repeat(3, axis=2)
        for kind in ("JPEG", "PNG"):
            data = saved(Image.fromarray(ramp.round().astype("u1")), kind)
            for size in (101, 114, 201, 267, 390):
                result = made(data, size, Resampler.OPENCV)
                assert result.stored is not None
                line = np.frombuffer(result.stored, "u1").reshape(*result.stored_size, 3)[0, :, 1].astype("f8")
                exact = area_resized(ramp, *result.stored_size)[0, :, 1]
                assert np.abs(line - exact).max() <= 1.5, (width, kind, size)


def bilinear(pixels: list[list[int]], scale: tuple[float, float], box: tuple[int, int]) -> list[list[Fraction]]:
    """The textbook's: centres of pixels at halves, the edge repeated. In exact numbers."""

    def places(count: int, by: float, length: int) -> list[tuple[int, int, Fraction]]:
        found = []
        for index in range(count):
            at = (Fraction(2 * index + 1, 2) / Fraction(by)) - Fraction(1, 2)
            low = math.floor(at)
            found.append((min(max(low, 0), length - 1), min(max(low + 1, 0), length - 1), at - low))
        return found

    columns = places(box[0], scale[0], len(pixels[0]))
    return [
        [
            (pixels[above][left] * (1 - right) + pixels[above][near] * right) * (1 - down)
            + (pixels[below][left] * (1 - right) + pixels[below][near] * right) * down
            for left, near, right in columns
        ]
        for above, below, down in places(box[1], scale[1], len(pixels))
    ]


def test_opencv_is_bilinear_within_a_step() -> None:
    rng = random.Random(3)
    for _ in range(40):
        width, height = rng.randint(1, 14), rng.randint(1, 14)
        box = (rng.randint((width + 1) // 2, width), rng.randint((height + 1) // 2, height))
        extent = tuple(max(length - rng.choice((0, 0, 0.25, 0.5)), new) for length, new in zip((width, height), box))
        grey = [[rng.randrange(256) for _ in range(width)] for _ in range(height)]
        picture = Image.fromarray(np.array(grey, "u1")).convert("RGB")
        small = resampled(picture, box, Resampler.OPENCV, extent)
        assert small.size == box and small.mode == "RGB"
        expected = bilinear(grey, (box[0] / extent[0], box[1] / extent[1]), box)
        for y in range(box[1]):
            for x in range(box[0]):
                assert all(abs(value - expected[y][x]) <= 1 for value in small.getpixel((x, y)))  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("resampler", list(Resampler))
def test_strips_of_a_pixel(kind: str, resampler: Resampler) -> None:
    for width, height in ((1, 1), (1, 2), (2, 1), (1, 999), (999, 1), (3, 1000), (1000, 3), (17, 1600)):
        data = saved(Image.new("RGB", (width, height), (200, 100, 50)), kind)
        for size in (1, 2, 3, 10, 99, 500):
            result = made(data, size, resampler)
            longest = max(width, height)
            assert max(result.stored_size) == min(size, longest) and min(result.stored_size) >= 1
            assert result.stored is not None and len(result.stored) == 3 * math.prod(result.stored_size)
            assert all(abs(byte - (50, 100, 200)[at % 3]) <= 3 for at, byte in enumerate(result.stored))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
            ErrorCode.TOO_LARGE,
        ),
        (
            cv2.error("OpenCV(5.0.0) resize.cpp:9: error: (-215:Assertion failed) x in function 'resize'"),
            ErrorCode.NOT_AN_IMAGE,
        ),
        (MemoryError(), ErrorCode.TOO_LARGE),
    ],
)
def test_what_opencv_refuses_is_a_row(error: Exception, code: ErrorCode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(cv2, "resize", fails)
    with pytest.raises(ImageRefused) as caught:
        made(saved(Image.new("RGB", (30, 20)), "PNG"), 20, Resampler.OPENCV)
    assert caught.value.code is code


def test_too_little_memory_is_a_memory_error() -> None:
    """Wherever it runs out: in NumPy, in OpenCV, in Pillow."""
    if sys.platform != "linux":
        pytest.skip("address space is limited on Linux")
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from PIL import Image\n"
        "from shoal.agent.collect.resampling import Resampler, load_opencv, resampled\n"
        "load_opencv()\n"
        "size = lambda: int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "picture = Image.new('RGB', (800_000, 2))\n"
        "for megabytes in range(100):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (size() + (megabytes << 20), resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        resampled(picture, (700_000, 1), Resampler.OPENCV)\n"
        "        print('made')\n"
        "        break\n"
        "    except MemoryError:\n"
        "        print('refused')\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
    )
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    said = done.stdout.split()
    assert said[0] == "refused" and said[-1] == "made", said
