"""Which library decodes, resizes and encodes images: CPU time and difference of the picture, one core.

::

    python -m benchmarks.images [--size 256] [--count 60] [--seconds 3]

The reference picture is the full decode, averaged over areas in numpy: what "area-like antialiasing" promises. Difference is the mean
over all channels of the absolute difference to it, in steps of 1/255, before the picture is encoded again. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

Decode = Callable[[bytes, int], Any]


def pictures(count: int, *, width: int = 640, height: int = 480, size_bytes: int = 37_000) -> list[bytes]:
    """JPEGs like photographs: noise of all wavelengths, in colours that hang together, each about ``size_bytes`` long."""
    made: list[bytes] = []
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = np.zeros((height, width, 3))
        for step in (3, 6, 12, 24, 48, 96):
            noise = rng.normal(size=(height // step + 2, width // step + 2, 3)) * step**0.75
            noise = 0.25 * noise + 0.75 * noise.mean(axis=2, keepdims=True)
            scaled = [
                np.asarray(
                    Image.fromarray(noise[:, :, c].astype("f4")).resize((width, height), Image.Resampling.BICUBIC)
                )
                for c in range(3)
            ]
            picture += np.stack(scaled, axis=2)
        image = Image.fromarray(np.clip(picture * 1.6 + 128, 0, 255).astype("u1"))
        low, high = 5, 95
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(_jpeg(image, middle)) < size_bytes else (low, middle)
        made.append(_jpeg(image, low))
    return made


def _jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def target(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) with the long side at most ``size``."""
    scale = min(1.0, size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def area(data: bytes, size: int) -> np.ndarray[Any, Any]:
    """The reference: each pixel of the result is the mean of the area that it covers."""
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype("f8")
    width, height = target(full.shape[1], full.shape[0], size)
    for axis, length in ((0, height), (1, width)):
        edges = np.linspace(0, full.shape[axis], length + 1)
        sums = np.concatenate([np.zeros_like(full.take([0], axis)), full.cumsum(axis)], axis)
        below = np.floor(edges).astype(int)
        part = (edges - below).reshape([-1 if i == axis else 1 for i in range(3)])
        above = np.minimum(below + 1, full.shape[axis])
        at = sums.take(below, axis) * (1 - part) + sums.take(above, axis) * part
        full = np.diff(at, axis=axis) / (edges[1] - edges[0])
    return full


def pillow(resample: Image.Resampling, gap: float | None) -> Decode:
    """Pillow; with a gap the JPEG is decoded at a reduced scale that is at least so many times the result's."""

    def decode(data: bytes, size: int) -> Image.Image:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        box = target(*image.size, size)
        if gap is not None:
            image.draft("RGB", (int(box[0] * gap), int(box[1] * gap)))
        if image.mode != "RGB":
            image = image.convert("RGB")
        return image.resize(box, resample, reducing_gap=None)

    return decode


def pillow_opencv() -> Decode:
    """What Shoal does by default: Pillow decodes at a reduced scale, `agent/collect/resampling.py` does the rest with OpenCV."""
    from shoal.agent.collect.resampling import load_opencv, resampled
    from shoal.common.collect_records import Resampler

    load_opencv()

    def decode(data: bytes, size: int) -> Image.Image:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        box = target(*image.size, size)
        drafted = image.draft("RGB", box)
        extent = drafted[1][2:] if drafted else None
        return resampled(image.convert("RGB"), box, Resampler.OPENCV, extent)

    return decode


def encode_pillow(image: Image.Image) -> bytes:
    return _jpeg(image, 95)


def simplejpeg_cv2(factor: float) -> Decode:
    """simplejpeg (libjpeg-turbo) at a reduced scale of at least ``factor`` times the result's, then OpenCV's area resize."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)

    def decode(data: bytes, size: int) -> Any:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        box = target(width, height, size)
        least = {"min_height": int(box[1] * factor), "min_width": int(box[0] * factor)} if factor else {}
        array = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True, min_factor=1, **least)
        return cv2.resize(array, box, interpolation=cv2.INTER_AREA)

    return decode


def encode_simplejpeg(array: Any) -> bytes:
    import simplejpeg

    return simplejpeg.encode_jpeg(array, 95, "RGB", "420", fastdct=True)


def simplejpeg_pillow(factor: float, resample: Image.Resampling) -> Decode:
    """simplejpeg decodes at a reduced scale, Pillow resizes."""
    import simplejpeg

    def decode(data: bytes, size: int) -> Any:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        box = target(width, height, size)
        least = {"min_height": int(box[1] * factor), "min_width": int(box[0] * factor)} if factor else {}
        array = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True, min_factor=1, **least)
        return np.asarray(Image.fromarray(array).resize(box, resample))

    return decode


def vips() -> Decode:
    import pyvips

    pyvips.voperation.cache_set_max(0)

    def decode(data: bytes, size: int) -> Any:
        return pyvips.Image.thumbnail_buffer(data, size, height=size, size="down")

    return decode


def encode_vips(image: Any) -> bytes:
    return image.jpegsave_buffer(Q=95)


def ways() -> list[tuple[str, Decode, Callable[[Any], bytes]]]:
    """Every way that is installed."""
    resampling = Image.Resampling
    found: list[tuple[str, Decode, Callable[[Any], bytes]]] = [
        ("Pillow, LANCZOS", pillow(resampling.LANCZOS, None), encode_pillow),
        ("Pillow, HAMMING", pillow(resampling.HAMMING, None), encode_pillow),
        ("Pillow, BOX", pillow(resampling.BOX, None), encode_pillow),
        ("Pillow, draft at 1 or more, BOX", pillow(resampling.BOX, 1.0), encode_pillow),
        ("Pillow, draft at 1 or more, HAMMING", pillow(resampling.HAMMING, 1.0), encode_pillow),
        ("Pillow, draft at 1.5 or more, HAMMING", pillow(resampling.HAMMING, 1.5), encode_pillow),
        ("Pillow, draft at 2 or more, BOX", pillow(resampling.BOX, 2.0), encode_pillow),
    ]
    try:
        found.append(("Pillow, draft at 1 or more, OpenCV linear exact", pillow_opencv(), encode_pillow))
    except ImportError as error:
        print(f"left out: {error}")
    try:
        for factor, name in ((0, "full"), (1, "1 or more"), (1.5, "1.5 or more"), (2, "2 or more")):
            found.append((f"simplejpeg at {name}, OpenCV area", simplejpeg_cv2(factor), encode_simplejpeg))
        found.append(("simplejpeg full, Pillow BOX", simplejpeg_pillow(0, resampling.BOX), encode_simplejpeg))
        found.append(("simplejpeg at 1 or more, Pillow BOX", simplejpeg_pillow(1, resampling.BOX), encode_simplejpeg))
    except ImportError as error:
        print(f"left out: {error}")
    try:
        found.append(("libvips thumbnail", vips(), encode_vips))
    except (ImportError, OSError) as error:
        print(f"left out: {error}")
    return found


def _array(picture: Any) -> np.ndarray[Any, Any]:
    return picture.numpy() if hasattr(picture, "numpy") else np.asarray(picture)


def measure(images: Sequence[bytes], size: int, seconds: float) -> None:
    """Print the table."""
    references = [area(data, size) for data in images[:10]]
    print("| way | CPU ms an image | of it decode and resize | difference |\n| --- | --- | --- | --- |")
    for name, decode, encode in ways():
        differences = [
            float(np.abs(_array(decode(data, size)).astype("f8") - reference).mean())
            for data, reference in zip(images, references)
        ]
        total = part = 0.0
        count = 0
        ends_s = time.perf_counter() + seconds
        while time.perf_counter() < ends_s:
            data = images[count % len(images)]
            began_s = time.process_time()
            picture = decode(data, size)
            part += time.process_time() - began_s
            encode(picture)
            total += time.process_time() - began_s
            count += 1
        print(
            f"| {name} | {total / count * 1e3:.2f} | {part / count * 1e3:.2f} | {np.mean(differences):.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--bytes", type=int, default=37_000)
    options = parser.parse_args()
    images = pictures(options.count, width=options.width, height=options.height, size_bytes=options.bytes)
    print(
        f"{len(images)} JPEGs of {options.width} x {options.height}, {sum(map(len, images)) // len(images)} bytes each"
    )
    measure(images, options.size, options.seconds)


if __name__ == "__main__":
    main()
