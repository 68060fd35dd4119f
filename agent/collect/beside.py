"""Images beside the Parquet files, where a dataset's format asks for it: WebDataset shards, or files.

A shard is a tar file; a row's members are ``KEY.EXT`` and ``KEY.json``, KEY being its uuid. What a key or file name may be is decided
by `common/paths.py`; a uuid that cannot be one is replaced by its digest.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from ...common.collect_records import CollectSpec, Content, DatasetFormat, ImageEncoding
from ...common.errors import UnsafeName
from ...common.paths import safe_relative_path
from ...common.safe_root import SafeRoot
from .answers import sniffed
from .columns import Frame, Table
from .place import TEMPORARY, write_new

if TYPE_CHECKING:
    from .results import Written

SHARD_BYTES: Final = 256 << 20
_KEY_CHARACTERS_MAX: Final = 200
_ENDINGS: Final = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}


class Beside(Protocol):
    """What is written beside the Parquet files."""

    def add(self, rows: Table, frame: Frame) -> None:
        """Successes with the rows of the table that they come from. Raises OSError."""
        ...

    def finish(self) -> None:
        """Complete what is open. Raises OSError."""
        ...

    def close(self) -> None:
        """Close every file, after an error too."""
        ...


def beside_for(spec: CollectSpec, root: SafeRoot, prefix: str, written: Written, *, sync: bool) -> Beside:
    """What a format asks for. prefix: of temporary names below root."""
    if spec.format is DatasetFormat.WEBDATASET:
        return _Shards(spec, root, prefix, written, sync=sync)
    if spec.format is DatasetFormat.FILES:
        return _Files(spec, root, prefix, written, sync=sync)
    return _Nothing()


class _Nothing:
    def add(self, rows: Table, frame: Frame) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Shards:
    def __init__(self, spec: CollectSpec, root: SafeRoot, prefix: str, written: Written, *, sync: bool) -> None:
        self._spec = spec
        self._root = root
        self._prefix = prefix
        self._written = written
        self._sync = sync
        self._file: BinaryIO | None = None
        self._tar: tarfile.TarFile | None = None
        self._number = written.first_shard

    def add(self, rows: Table, frame: Frame) -> None:
        for key, image, told in _members(rows, frame):
            tar = self._open()
            for ending, data in ((_ending(self._spec, image), image), ("json", json.dumps(told, default=str).encode())):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            if tar.offset >= SHARD_BYTES:
                self.finish()

    def _open(self) -> tarfile.TarFile:
        if self._tar is None:
            name = f"{self._number:05}.tar"
            staged = f"{self._prefix}.{name}{TEMPORARY}"
            self._written.add_beside(staged, name)
            fd = self._root.open_beneath(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            self._file = os.fdopen(fd, "wb")
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 (closed by close)
            self._number += 1
        return self._tar

    def finish(self) -> None:
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.flush()
            if self._sync:
                os.fsync(self._file.fileno())
        self.close()

    def close(self) -> None:
        self._tar = None
        file, self._file = self._file, None
        if file is not None:
            file.close()


class _Files:
    def __init__(self, spec: CollectSpec, root: SafeRoot, prefix: str, written: Written, *, sync: bool) -> None:
        self._spec = spec
        self._root = root
        self._prefix = prefix
        self._written = written
        self._sync = sync

    def add(self, rows: Table, frame: Frame) -> None:
        for key, image, _ in _members(rows, frame):
            name = f"files/{key}.{_ending(self._spec, image)}"
            staged = f"{self._prefix}.{len(self._written.beside)}{TEMPORARY}"
            self._written.add_beside(staged, name)
            write_new(self._root, staged, image, sync=self._sync)

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


def safe_key(uuid: str) -> str:
    """A uuid as the stem of a file name: itself where it is a plain one, else its digest."""
    try:
        plain = safe_relative_path(uuid)
    except UnsafeName:
        plain = "/"
    # WebDataset takes everything from the first dot on as the ending.
    if "/" in plain or "." in plain or len(plain) > _KEY_CHARACTERS_MAX or plain.startswith("sha256-"):
        return f"sha256-{hashlib.sha256(uuid.encode(errors='surrogatepass')).hexdigest()}"
    return plain


def _members(rows: Table, frame: Frame) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """(key, image, what is told of it) of each row."""
    names = [name for name in frame.schema.names if name not in ("row", "code", "retries", "message", "image")]
    for told, rest in zip(rows.to_pylist(), frame.to_pylist(), strict=True):
        told.update({name: rest[name] for name in names})
        yield safe_key(told["uuid"]), rest["image"] or b"", told


def _ending(spec: CollectSpec, image: bytes) -> str:
    if spec.content is Content.ANY or spec.image_encoding is ImageEncoding.ORIGINAL:
        return _ENDINGS.get(sniffed(image[:16]), "bin")
    return {"jpeg": "jpg", "raw-bgr": "bgr"}.get(spec.image_encoding.value, spec.image_encoding.value)
