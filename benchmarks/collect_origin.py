"""What the benchmark of URL tables fetches: pictures made here, nginx that serves them from four addresses, and the table itself."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from .origin import await_answer, listening_socket, running_nginx

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 5))
WIDTH, HEIGHT = 640, 480
QUALITY = 85
SHAPES = 14
SEED = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture that is served. Args: size in bytes, sha256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlTable:
    """A table of URLs as a Parquet file. Args: picture_of (each URL's picture; no URL is in it twice)."""

    path: Path
    picture_of: dict[str, Picture]


def make_picture(seed: int) -> bytes:
    """A JPEG of about 37 kB, always the same for a seed and a release of Pillow: gradients, texture, shapes with hard edges, grain."""
    chance = random.Random(seed)
    size = (WIDTH, HEIGHT)
    picture = _noise(chance, 6, 5, "RGB").resize(size, Image.Resampling.BICUBIC)
    for texture, share in ((_noise(chance, 64, 48, "RGB"), 0.06), (_noise(chance, 213, 160, "L"), 0.02)):
        picture = Image.blend(picture, texture.resize(size, Image.Resampling.BICUBIC).convert("RGB"), share)
    draw = ImageDraw.Draw(picture)
    for _ in range(SHAPES):
        _shape(chance, draw)
    picture = Image.blend(picture, _noise(chance, WIDTH, HEIGHT, "L").convert("RGB"), 0.015)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _noise(chance: random.Random, width: int, height: int, mode: str) -> Image.Image:
    return Image.frombytes(mode, (width, height), chance.randbytes(width * height * len(mode)))


def _shape(chance: random.Random, draw: ImageDraw.ImageDraw) -> None:
    x, y = chance.randrange(WIDTH), chance.randrange(HEIGHT)
    across, down = chance.randrange(10, 160), chance.randrange(10, 120)
    red, green, blue = chance.randbytes(3)
    kind = chance.randrange(3)
    if kind == 0:
        draw.ellipse((x - across // 2, y - down // 2, x + across // 2, y + down // 2), fill=(red, green, blue))
    elif kind == 1:
        corners = [(x + chance.randrange(-across, across), y + chance.randrange(-down, down)) for _ in range(5)]
        draw.polygon(corners, fill=(red, green, blue))
    else:
        draw.line((x, y, x + across, y + down), fill=(red, green, blue), width=chance.randrange(1, 6))


def make_pictures(folder: Path, count: int) -> list[Picture]:
    """Write so many different pictures."""
    folder.mkdir(parents=True)
    pictures: list[Picture] = []
    for number in range(count):
        data = make_picture(number)
        name = f"{number:05}.jpg"
        (folder / name).write_bytes(data)
        pictures.append(Picture(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
    return pictures


def make_table(path: Path, bases: Sequence[str], pictures: Sequence[Picture], rows: int) -> UrlTable:
    """Write a table whose every URL is different. Every host has as many rows as the others, and its rows are in no order.

    Args: bases (URLs of the hosts, without a slash at their end).
    """
    chance = random.Random(SEED)
    order = list(range(rows))
    chance.shuffle(order)
    picture_of = {
        f"{bases[number % len(bases)]}/{picture.name}?row={number}": picture
        for number in order
        for picture in [pictures[number // len(bases) % len(pictures)]]
    }
    columns = {
        "uuid": [f"{chance.getrandbits(128):032x}" for _ in order],
        "identifier": list(picture_of),
        "source_id": [str(number) for number in order],
    }
    pq.write_table(pa.table(columns), path)
    return UrlTable(path=path, picture_of=picture_of)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureOrigin:
    """nginx serving pictures. Args: bases (a URL for each host), server (its master process)."""

    bases: tuple[str, ...]
    server: subprocess.Popen[bytes]


@contextmanager
def serve_pictures(nginx: str, folder: Path, work: Path) -> Generator[PictureOrigin]:
    """Serve a folder from the four addresses, on one port; ends with the block. Raises RuntimeError when nginx does not come up.

    Args: nginx (its binary), work (a folder of its own, made here).
    """
    work.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        first = stack.enter_context(listening_socket(address=(HOSTS[0], 0)))
        port = first.getsockname()[1]
        others = [stack.enter_context(listening_socket(address=(host, port))) for host in HOSTS[1:]]
        names = [f"{host}:{port}" for host in HOSTS]
        server = stack.enter_context(running_nginx(nginx, work, _config(folder, work, names), [first, *others]))
        origin = PictureOrigin(bases=tuple(f"http://{name}" for name in names), server=server)
        for base in origin.bases:
            await_answer(f"{base}/00000.jpg", work)
        yield origin


def _config(folder: Path, work: Path, names: Sequence[str]) -> str:
    temporary = "\n".join(
        f"  {name}_temp_path {work}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    listens = "\n".join(f"    listen {name};" for name in names)
    return f"""\
daemon off;
worker_processes 2;
pid {work}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  open_file_cache max=4096;
  types {{ image/jpeg jpg; }}
{temporary}
  server {{
{listens}
    root {folder};
  }}
}}
"""
