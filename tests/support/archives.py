"""Archives made by hand, good and hostile, and a folder to unpack them into."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from shoal.agent.unpack.formats import ArchiveFormat
from shoal.agent.unpack.members import Limits
from shoal.agent.unpack.unpacking import Unpacked, unpack_file
from shoal.common.paths import SafeRoot

END = bytes(1024)


def member(
    name: str, content: bytes = b"", *, type: bytes = tarfile.REGTYPE, link: str = "", **fields: object
) -> bytes:
    """A tar member as it stands in the file: headers and padded content. fields are those of tarfile.TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type, link, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + padded(content)


def header(name: bytes, size: int | bytes, type: bytes, *, prefix: bytes = b"", magic: bytes = b"ustar\x0000") -> bytes:
    """A header block, field by field, with a right checksum."""
    size_field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(512)
    block[:100] = name.ljust(100, b"\0")
    block[100:108] = b"0000644\0"
    block[124:136] = size_field
    block[156:157] = type
    block[257:265] = magic
    block[345:500] = prefix.ljust(155, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(records: Iterable[tuple[str, str]], *, type: bytes = b"x") -> bytes:
    """An extended header with these records."""
    body = b""
    for keyword, value in records:
        rest = f" {keyword}={value}\n".encode()
        length = len(rest)
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        body += str(length).encode() + rest
    return header(b"pax", len(body), type) + padded(body)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + END


def folder(name: str) -> bytes:
    return member(name, type=tarfile.DIRTYPE, mode=0o755)


def symlink(name: str, target: str) -> bytes:
    return member(name, type=tarfile.SYMTYPE, link=target)


def hard_link(name: str, target: str) -> bytes:
    return member(name, type=tarfile.LNKTYPE, link=target)


def zipped(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return made.getvalue()


def zip_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def zip_local(name: bytes, content: bytes, *, size: int | None = None, method: int = 0, flags: int = 0) -> bytes:
    """A local header with its content as it is."""
    size = len(content) if size is None else size
    crc = zlib.crc32(content)
    fields = (b"PK\3\4", 20, flags, method, 0, 0, crc, len(content), size, len(name), 0)
    return struct.pack("<4s5H3I2H", *fields) + name + content


def zip_central(name: bytes, content: bytes, offset: int, *, size: int | None = None, **more: int) -> bytes:
    """An entry of the directory."""
    size = len(content) if size is None else size
    crc, method, flags = zlib.crc32(content), more.get("method", 0), more.get("flags", 0)
    fields = (b"PK\1\2", 0x0314, 20, flags, method, 0, 0, crc, len(content), size, len(name), 0, 0, 0, 0)
    return struct.pack("<4s6H3I5H2I", *fields, more.get("mode", 0o100644) << 16, offset) + name


def zip_end(entries: bytes, start: int, count: int, *, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entries), start, len(comment)) + comment


class Place:
    """A destination with an archive beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "dest"
        self.folder.mkdir()
        self.archive = folder / "archive"

    def unpack(
        self,
        data: bytes,
        *,
        name: str = "a.tar",
        into: str = "out",
        format: ArchiveFormat = ArchiveFormat.TAR,
        limits: Limits | None = None,
        stamp: str = "sha256:1",
        cancelled: Callable[[], bool] = lambda: False,
        sync: bool = False,
        root_class: Callable[[Path], SafeRoot] = SafeRoot,
    ) -> Unpacked:
        self.archive.write_bytes(data)
        with root_class(self.folder) as root, self.archive.open("rb") as file:
            return unpack_file(
                root,
                file.fileno(),
                name=name,
                into=into,
                format=format,
                limits=limits or Limits(),
                stamp=stamp,
                cancelled=cancelled,
                sync=sync,
            )

    def names(self) -> list[str]:
        """Everything below the destination but the record of finished unpacks."""
        return sorted(name for name in walk(self.folder) if not name.startswith(".shoal/unpacked") and name != ".shoal")

    def content(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()


def walk(folder: Path) -> list[str]:
    """The paths of everything below a folder; links are not followed."""
    found: list[str] = []
    for at, folders, files in os.walk(folder):
        found.extend(os.path.relpath(os.path.join(at, name), folder) for name in [*folders, *files])
    return sorted(found)
