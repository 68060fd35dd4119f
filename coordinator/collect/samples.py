"""A look at what a run collected: some pictures of a dataset's first rows. Blocks: for threads.

Only names that the dataset's layout has are opened, through `SafeRoot`; what a picture is, its own first bytes tell, not the
server that it came from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...common.collect_records import batch_path, host_of_server
from ...common.dataset_schema import SUCCESSES, arrow
from ...common.errors import NotFound, StateDamaged
from ...common.safe_root import SafeRoot

ROWS_MAX: Final = 64
"""Rows of a batch that are looked at: its first ones, so that little of a file is read."""
FOLDERS_MAX: Final = 10_000
IMAGE_BYTES_MAX: Final = 8 << 20
_READ_BYTES: Final = 256 << 10

_MAGIC: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
"""What browsers show as pictures and nothing else (https://mimesniff.spec.whatwg.org/#image-type-pattern-matching-algorithm)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRow:
    """A row that was collected. row counts from 0 in its batch; sizes are in pixels, 0 where they are not known."""

    host: str
    partition: int
    row: int
    uuid: str
    url: str
    license: str
    height: int
    width: int


def sample_rows(folder: Path, *, host: str, per_host: int, limit: int) -> list[SampleRow]:
    """Rows of a dataset: so many of each host in turn, or of one host. Raises NotFound, MissingExtra."""
    found: list[SampleRow] = []
    with _opened(folder) as root:
        for each in [host] if host else _hosts(root):
            for partition in _partitions(root, each):
                wanted = min(limit - len(found), ROWS_MAX if host else per_host)
                try:
                    rows = _rows(root, each, partition, wanted)
                except (FileNotFoundError, NotADirectoryError):  # a batch that is not finished
                    continue
                found += rows
                if len(found) >= limit or (rows and not host):
                    break
            if len(found) >= limit:
                break
    return found


def sample_image(folder: Path, *, host: str, partition: int, row: int) -> tuple[bytes, str]:
    """A picture and its media type. Raises NotFound, also for what is no picture that browsers show, and MissingExtra."""
    thing = f"image {row} of {host}, partition {partition}"
    with _opened(folder) as root:
        try:
            at = 0
            for batch in _batches(root, host, partition, ["image"]):
                if at + len(batch) > row:
                    value: Any = batch.column(0)[row - at].as_py()
                    data = value if isinstance(value, bytes) else b""
                    kind = media_type(data)
                    if not kind or len(data) > IMAGE_BYTES_MAX:
                        raise NotFound(thing, cause="it is not a picture that can be shown")
                    return data, kind
                at += len(batch)
                if at >= ROWS_MAX:
                    break
        except (FileNotFoundError, NotADirectoryError):
            pass
    raise NotFound(thing, cause="the dataset has no such row among the first ones")


def media_type(data: bytes) -> str:
    """What a picture is, by its first bytes; empty for anything else."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    return "image/webp" if data[:4] == b"RIFF" and data[8:14] == b"WEBPVP" else ""


def _opened(folder: Path) -> SafeRoot:
    try:
        return SafeRoot(folder)
    except OSError as error:
        raise NotFound(f"dataset {folder}", cause=f"the coordinator does not see it: {error.strerror}") from None


def _hosts(root: SafeRoot) -> Iterator[str]:
    try:
        names = sorted(root.listdir_beneath("images"))[:FOLDERS_MAX]
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith("server_name="):
            yield host_of_server(name.removeprefix("server_name="))


def _partitions(root: SafeRoot, host: str) -> Iterator[int]:
    try:
        names = root.listdir_beneath(batch_path(host, 0).rpartition("/")[0])
    except (FileNotFoundError, NotADirectoryError):
        return
    numbers = [name.removeprefix("partition_id=") for name in names[:FOLDERS_MAX] if name.startswith("partition_id=")]
    yield from sorted(int(number) for number in numbers if number.isdecimal() and len(number) < 10)


def _rows(root: SafeRoot, host: str, partition: int, wanted: int) -> list[SampleRow]:
    found: list[SampleRow] = []
    for batch in _batches(root, host, partition, ["uuid", "identifier", "license", "resized_size"]):
        rows: list[dict[str, Any]] = batch.to_pylist()
        for values in rows:
            size = values.get("resized_size") or [0, 0]
            found.append(
                SampleRow(
                    host=host,
                    partition=partition,
                    row=len(found),
                    uuid=str(values.get("uuid") or ""),
                    url=str(values.get("identifier") or ""),
                    license=str(values.get("license") or ""),
                    height=int(size[0] or 0),
                    width=int(size[1] or 0) if len(size) > 1 else 0,
                )
            )
            if len(found) >= wanted:
                return found
    return found


def _batches(root: SafeRoot, host: str, partition: int, columns: list[str]) -> Iterator[Any]:
    """The first rows of a batch, some at a time. Raises FileNotFoundError, StateDamaged."""
    arrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = f"{batch_path(host, partition)}/{SUCCESSES}"
    with os.fdopen(root.open_beneath(path, os.O_RDONLY), "rb") as file:
        try:
            parquet = pq.ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False)
            known = [column for column in columns if column in parquet.schema_arrow.names]
            if parquet.num_row_groups == 0 or not known:
                return
            yield from parquet.iter_batches(batch_size=8, columns=known)
        except (pa.ArrowException, OSError) as error:
            raise StateDamaged(
                f"{root.path}/{path}", cause=f"it is no Parquet file that can be read: {error}"
            ) from None
