"""The tools that make datasets of URL tables: how each is called, and what is read of what it made."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from .collect_origin import HEIGHT, WIDTH, UrlTable
from .measure import RunFailed
from .tools import SCRIPTS

IMAGE_SIZE = 256
ENCODE_QUALITY = 95  # img2dataset's default, and Shoal's
SHARD_ROWS = 10_000
THREADS_TUNED = 32
VERSION_S = 120.0
TOLD_MAX = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """One run. Args: resized (to IMAGE_SIZE, else as served), target (what the tool writes to), scratch (HOME and configuration).

    rival_python is that interpreter of img2dataset.
    """

    table: UrlTable
    resized: bool
    processes: int
    target: Path
    scratch: Path
    rival_python: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row that a tool calls a success. Args: size ((height, width) as the tool says, None: it does not say)."""

    url: str
    image: bytes
    size: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectTool:
    """A tool. Args: command (and whatever files it needs), rows (of its successes), environ (beside what all have)."""

    command: Callable[[Collection], list[str]]
    rows: Callable[[Path], Generator[Row]]
    environ: Mapping[str, str]


def shoal_config(run: Collection, content: str, resampler: str = "opencv") -> str:
    """The configuration of one run."""
    encoding = "jpeg" if run.resized else "original"
    return f"""\
[collect]
content = "{content}"
image_size = {IMAGE_SIZE}
image_encoding = "{encoding}"
image_quality = {ENCODE_QUALITY}
resampler = "{resampler}"
image_workers = {run.processes}
default_rate_limit = 0
allow_private_addresses = true
"""


def _shoal(content: str = "image", resampler: str = "opencv") -> Callable[[Collection], list[str]]:
    def command(run: Collection) -> list[str]:
        config = run.scratch / "shoal.toml"
        config.write_text(shoal_config(run, content, resampler))
        options = ["--config", str(config), "--to", str(run.target)]
        return [str(SCRIPTS / "shoal"), "collect", *options, str(run.table.path)]

    return command


def _img2dataset(**tuning: object) -> Callable[[Collection], list[str]]:
    def command(run: Collection) -> list[str]:
        options: dict[str, object] = {
            "url_list": run.table.path,
            "input_format": "parquet",
            "url_col": "identifier",
            "output_folder": run.target,
            "output_format": "parquet",
            "processes_count": run.processes,
            "number_sample_per_shard": SHARD_ROWS,
            "encode_quality": ENCODE_QUALITY,
        }
        if run.resized:
            options |= {"resize_mode": "keep_ratio_largest", "image_size": IMAGE_SIZE, "resize_only_if_bigger": True}
        else:
            options |= {"resize_mode": "no", "disable_all_reencoding": True}
        options |= tuning
        script = Path(run.rival_python).with_name("img2dataset")
        return [str(script), *(f"--{name}={value}" for name, value in options.items())]

    return command


def _shoal_rows(target: Path) -> Generator[Row]:
    columns = ["identifier", "image", "resized_size"]
    for path in sorted(target.rglob("successes.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=500, columns=columns):
            for each in batch.to_pylist():
                size = each["resized_size"]
                yield Row(url=each["identifier"], image=each["image"], size=tuple(size) if size else None)


def _img2dataset_rows(target: Path) -> Generator[Row]:
    columns = ["url", "jpg", "status", "height", "width"]
    for path in sorted(target.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=500, columns=columns):
            for each in batch.to_pylist():
                if each["status"] == "success":
                    size = (each["height"], each["width"]) if each["height"] is not None else None
                    yield Row(url=each["url"], image=each["jpg"], size=size)


REFERENCE = "shoal"
ANY = "shoal, any content"
BY_PILLOW = "shoal, pillow"
RIVAL = "img2dataset"
RIVAL_TUNED = "img2dataset, tuned"
_RIVAL_ENVIRON = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
COLLECT_TOOLS: Mapping[str, CollectTool] = {
    REFERENCE: CollectTool(command=_shoal(), rows=_shoal_rows, environ={}),
    ANY: CollectTool(command=_shoal("any"), rows=_shoal_rows, environ={}),
    BY_PILLOW: CollectTool(command=_shoal(resampler="pillow"), rows=_shoal_rows, environ={}),
    RIVAL: CollectTool(command=_img2dataset(), rows=_img2dataset_rows, environ=_RIVAL_ENVIRON),
    RIVAL_TUNED: CollectTool(
        command=_img2dataset(thread_count=THREADS_TUNED, extract_exif=False),
        rows=_img2dataset_rows,
        environ=_RIVAL_ENVIRON,
    ),
}


def img2dataset_version(python: str) -> str:
    """Its version, with what decodes for it. Raises RunFailed when that interpreter does not have it."""
    packages = ("numpy", "opencv-python-headless", "albumentations", "pyarrow")
    code = (
        "import importlib.metadata as m, sys, img2dataset\n"
        f"parts = [f'{{name}} {{m.version(name)}}' for name in {packages!r}]\n"
        "print(m.version('img2dataset'), 'with', ', '.join(parts), 'on Python', sys.version.split()[0])"
    )
    command = [python, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_S, check=False)
    if done.returncode:
        raise RunFailed(f"{python} has no img2dataset: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def check(run: Collection, tool: CollectTool, keep: Mapping[str, Path] | None = None) -> int:
    """Look at every row. Returns how many arrived right. Raises RunFailed if that is not all of them.

    Right is: the URL's row is there once and its image is whole; of the right dimensions, or byte by byte what was served. Equal bytes
    are decoded once only. Args: keep (picture name to file: where to write what was made of it).
    """
    seen: set[str] = set()
    wrong: list[str] = []
    sizes: dict[str, tuple[int, int]] = {}
    for row in tool.rows(run.target):
        picture = run.table.picture_of.get(row.url)
        digest = hashlib.sha256(row.image).hexdigest()
        if picture is None or row.url in seen:
            wrong.append(f"{row.url}: {'not in the table' if picture is None else 'there twice'}")
            continue
        seen.add(row.url)
        if not run.resized:
            if digest != picture.sha256:
                wrong.append(f"{row.url}: not what was served")
            continue
        if digest not in sizes:
            sizes[digest] = _decoded_size(row.image)
        if sizes[digest] != expected_size() or row.size not in (None, expected_size()):
            wrong.append(f"{row.url}: {sizes[digest]}, and it says {row.size}, expected {expected_size()}")
        elif keep and picture.name in keep:
            keep[picture.name].write_bytes(row.image)
    lacking = len(run.table.picture_of) - len(seen)
    if wrong or lacking:
        told = "; ".join(wrong[:TOLD_MAX])
        raise RunFailed(f"{lacking} of {len(run.table.picture_of)} rows are lacking and {len(wrong)} are wrong. {told}")
    return len(seen)


def expected_size() -> tuple[int, int]:
    """Height and width of a picture whose long side is IMAGE_SIZE."""
    return round(HEIGHT * IMAGE_SIZE / WIDTH), IMAGE_SIZE


def _decoded_size(image: bytes) -> tuple[int, int]:
    """Height and width; (0, 0) for what can not be decoded."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            return opened.height, opened.width
    except (OSError, ValueError):
        return 0, 0


def picture_quality(python: str, folder: Path) -> dict[str, dict[str, float]]:
    """How near the tools' pictures are to the reference; see `collect_quality.py`. Raises RunFailed."""
    report = folder.parent / "quality.json"
    script = Path(__file__).with_name("collect_quality.py")
    command = [python, str(script), str(folder), str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_S, check=False)
    if done.returncode:
        raise RunFailed(f"comparing pictures failed: {done.stderr.strip()[-300:]}")
    return json.loads(report.read_text())
