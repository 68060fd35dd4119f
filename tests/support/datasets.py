"""Small collected datasets: several servers, one with a port, several partitions, and whatever a test wants to be wrong."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from shoal.common.dataset_schema import errors_schema, successes_schema

HOSTS = ("a.example", "b.example%3A8080", "c.example")


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture that no other seed has, and that looks different."""
    small = hashlib.sha256(str(seed).encode()).digest() * 2
    return Image.frombytes("RGB", (4, 5), small[:60]).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, encoding: str) -> bytes:
    """The image as it is stored in a dataset of this encoding."""
    if encoding == "raw-bgr":
        return image.tobytes("raw", "BGR")
    buffer = io.BytesIO()
    image.save(buffer, encoding.upper(), **({"quality": 95} if encoding != "png" else {}))
    return buffer.getvalue()


def row(number: int, server: str, *, encoding: str = "jpeg", width: int = 64, height: int = 48, seed: int = -1) -> Any:
    """A sound row. Rows with the same seed are duplicates."""
    seed = number if seed < 0 else seed
    image = encoded(picture(seed, width, height), encoding)
    return {
        "uuid": f"uuid-{number:06d}",
        "source_id": str(number),
        "identifier": f"http://{server.replace('%3A', ':')}/{number}.jpg",
        "is_license_full": False,
        "license": None if number % 3 else "CC0",
        "source": None,
        "title": None,
        "hashsum_original": hashlib.md5(f"original {seed}".encode()).hexdigest(),
        "hashsum_resized": hashlib.md5(image).hexdigest(),
        "original_size": [height * 8, width * 8],
        "resized_size": [height, width],
        "image": image,
        "content_type": "image/jpeg",
        "http_status": 200,
        "etag": None,
        "robots_tag": None,
        "fetched_at": datetime(2026, 1, 1, tzinfo=UTC),
    }


@dataclass(kw_only=True)
class Dataset:
    """A dataset on disk. `edit` is called with each row before it is written."""

    folder: Path
    hosts: tuple[str, ...] = HOSTS
    partitions: int = 2
    rows: int = 10  # of a partition
    encoding: str = "jpeg"
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    edit: Callable[[int, dict[str, Any]], None] = lambda number, row: None

    def write(self) -> Dataset:
        """Makes the files."""
        number = 0
        for host in self.hosts:
            for partition in range(self.partitions):
                rows: list[dict[str, Any]] = []
                for _ in range(self.rows):
                    made = row(number, host, encoding=self.encoding)
                    self.edit(number, made)
                    rows.append(made)
                    number += 1
                self.put(host, partition, rows)
        return self

    def path(self, host: str, partition: int, *, below: str = "") -> Path:
        return self.folder / below / f"images/server_name={host}/partition_id={partition}/successes.parquet"

    def put(self, host: str, partition: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes one partition."""
        path = self.path(host, partition)
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = successes_schema().with_metadata(dict(self.metadata) or None)
        pq.write_table(pa.Table.from_pylist([dict(each) for each in rows], schema), path, row_group_size=4)
        pq.write_table(errors_schema().empty_table(), path.with_name("errors.parquet"))

    def read(self, *, below: str = "") -> list[dict[str, Any]]:
        """All rows in the order of partitions, with `server_name`, `partition_id`."""
        return rows_of(self.folder / below)

    def uuids(self, *, below: str = "") -> list[str]:
        """The uuids of all rows, sorted: what was lost or doubled shows."""
        return sorted(each["uuid"] for each in self.read(below=below))

    def digests(self) -> dict[str, str]:
        """Path below the folder -> digest of every file with rows, moved ones too."""
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("successes.parquet"))
        }

    def leftovers(self) -> list[str]:
        """Files that no run should leave: temporary ones, moves that were stopped, the lock."""
        found = [
            path for path in self.folder.rglob("*") if path.name.endswith((".tmp", ".next")) or path.name == "lock"
        ]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows below a folder that has images/."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("images/*/*/successes.parquet")):
        server, partition = (part.partition("=")[2] for part in path.parts[-3:-1])
        with pq.ParquetFile(path) as file:
            place = {"server_name": server, "partition_id": int(partition)}
            found += [{**each, **place} for each in file.read().to_pylist()]
    return found
