"""Reads the central directory of a zip, entry by entry, and holds it against itself (APPNOTE.TXT 6.3.10).

A zip says everything twice: before each file's content and in the directory at its end. Programs that believe one or the
other see different files, so here both must agree (``zip_reader`` compares), there must be one directory alone, right at the
end, and no two files may share bytes: that is how one kilobyte of content becomes petabytes.
"""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from .members import damaged, unsafe

LOCAL = struct.Struct("<4s5H3I2H")  # 4.3.7
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # 4.3.12
_END = struct.Struct("<4s4H2IH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR64 = struct.Struct("<4sIQI")  # 4.3.15

UTF8_FLAG = 0x0800
DESCRIPTOR_FLAG = 0x0008
_ENCRYPTED_FLAGS = 0x0001 | 0x0040 | 0x2000  # encrypted, strongly, with its directory too
_PATCH_FLAG = 0x0020

_COMMENT_BYTES_MAX = 0xFFFF
_READ_BYTES = 64 << 10
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_EXTRA = 0x0001


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipEntry:
    """An entry of the directory. mode is st_mode where a Unix made it, else 0; offset is that of its local header."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    offset: int
    mode: int


class ZipDirectory:
    """The directory of the zip open at fd. 8 bytes of memory an entry, for where it begins."""

    def __init__(self, fd: int, *, size: int, archive: str) -> None:
        """Finds the directory. Raises DamagedArchive, UnsafeArchive, OSError."""
        self._fd = fd
        self._archive = archive
        self._offsets = array("Q")
        end_at, fields = self._find_end(size)
        _, disk, start_disk, on_disk, count, length, start, _ = fields
        if _FULL16 in (disk, start_disk, on_disk, count) or _FULL32 in (length, start):
            end_at, fields64 = self._read_end64(end_at)
            for short, long in zip(fields[1:7], fields64, strict=True):
                if short != long and short not in (_FULL16, _FULL32):
                    raise damaged(archive, "its two ends say different things")
            disk, start_disk, on_disk, count, length, start = fields64
        if disk or start_disk or on_disk != count:
            raise damaged(archive, "it is one part of several")
        if start + length != end_at:
            raise damaged(archive, "its directory is not where its end says")
        self.count = count
        self.start = start
        self._stop = end_at

    def entries(self) -> Iterator[ZipEntry]:
        """Every entry, from the disk, in the order of the directory. Raises DamagedArchive, UnsafeArchive, OSError."""
        at, buffer = self.start, b""
        for _ in range(self.count):
            if len(buffer) < _CENTRAL.size:
                buffer += self._read(at + len(buffer), _READ_BYTES)
            if len(buffer) < _CENTRAL.size:
                raise damaged(self._archive, "its directory is cut")
            fields = _CENTRAL.unpack_from(buffer)
            whole = _CENTRAL.size + fields[10] + fields[11] + fields[12]
            if len(buffer) < whole:
                buffer += self._read(at + len(buffer), whole - len(buffer) + _READ_BYTES)
            if fields[0] != b"PK\x01\x02" or len(buffer) < whole:
                raise damaged(self._archive, "its directory is not readable")
            yield self._entry(fields, buffer[_CENTRAL.size : whole])
            at += whole
            buffer = buffer[whole:]
        if at != self._stop:
            raise damaged(self._archive, "its directory holds more or less than its end says")

    def check_overlaps(self, entries: Iterator[ZipEntry]) -> Iterator[ZipEntry]:
        """Pass entries on; after the last, no two of them may lie at one place. Then ``room_of`` knows them all."""
        for entry in entries:
            self._offsets.append(entry.offset)
            yield entry
        self._offsets = array("Q", sorted(self._offsets))
        last = -1
        for offset in self._offsets:
            if offset == last:
                raise damaged(self._archive, "two of its files lie at the same place")
            last = offset

    def stop_of(self, entry: ZipEntry) -> int:
        """Where the next entry, or the directory, begins: an entry must have ended there."""
        after = bisect_right(self._offsets, entry.offset)
        return min(self._offsets[after], self.start) if after < len(self._offsets) else self.start

    def _read(self, at: int, size: int) -> bytes:
        size = min(size, self._stop - at)
        return os.pread(self._fd, size, at) if size > 0 else b""

    def _find_end(self, size: int) -> tuple[int, tuple[bytes, int, int, int, int, int, int, int]]:
        """Where the end record begins, and its fields. Its comment reaches the file's end exactly, and no other fits so."""
        tail_at = max(0, size - _END.size - _COMMENT_BYTES_MAX)
        tail = os.pread(self._fd, size - tail_at, tail_at)
        fits: list[int] = []
        at = tail.find(b"PK\x05\x06")
        while at >= 0:
            if len(tail) - at >= _END.size and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
                fits.append(at)
            at = tail.find(b"PK\x05\x06", at + 1)
        if not fits:
            raise damaged(self._archive, "it is cut: its directory is not there")
        if len(fits) > 1:
            raise damaged(self._archive, "it has several ends")
        return tail_at + fits[0], _END.unpack_from(tail, fits[0])

    def _read_end64(self, end_at: int) -> tuple[int, tuple[int, int, int, int, int, int]]:
        """Where the zip64 end record begins, and what it says in place of the other's fields."""
        locator_at = end_at - _LOCATOR64.size
        data = os.pread(self._fd, _LOCATOR64.size, locator_at) if locator_at >= 0 else b""
        if len(data) < _LOCATOR64.size or data[:4] != b"PK\x06\x07":
            raise damaged(self._archive, "its end refers to a record that is not there")
        _, disk, at, disks = _LOCATOR64.unpack(data)
        data = os.pread(self._fd, _END64.size, at) if at < locator_at else b""
        if len(data) < _END64.size or data[:4] != b"PK\x06\x06" or disk or disks > 1:
            raise damaged(self._archive, "its end refers to a record that is not there")
        fields = _END64.unpack(data)
        if at + 12 + fields[1] != locator_at:
            raise damaged(self._archive, "its long end is not where it says")
        return at, fields[4:]

    def _entry(self, fields: tuple[int, ...], rest: bytes) -> ZipEntry:
        _, made_by, _, flags, method, _, _, crc, compressed, size, name_bytes, extra_bytes, _, disk, _, attr, at = (
            fields
        )
        raw_name = rest[:name_bytes]
        name = decode_name(raw_name, flags)
        if flags & _ENCRYPTED_FLAGS:
            raise unsafe(self._archive, name, "it is encrypted")
        if flags & _PATCH_FLAG:
            raise unsafe(self._archive, name, "it is a patch, not a file")
        extra = rest[name_bytes : name_bytes + extra_bytes]
        size, compressed, at, disk = self.widened(extra, (size, compressed, at, disk), name)
        if disk or at + LOCAL.size + name_bytes + compressed > self.start:
            raise unsafe(self._archive, name, "it does not lie in the archive")
        made_on_unix = made_by >> 8 in (3, 19)  # 4.4.2: UNIX, OS X (Darwin)
        return ZipEntry(
            name=name,
            raw_name=raw_name,
            flags=flags,
            method=method,
            crc=crc,
            compressed=compressed,
            size=size,
            offset=at,
            mode=attr >> 16 if made_on_unix else 0,
        )

    def widened(self, extra: bytes, short: tuple[int, ...], name: str) -> tuple[int, ...]:
        """short with the fields that are full taken from the zip64 extra field, in its order (4.5.3)."""
        wide: bytes | None = None
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            if kind == _ZIP64_EXTRA:
                if wide is not None or at + 4 + length > len(extra):
                    raise unsafe(self._archive, name, "it says its sizes twice")
                wide = extra[at + 4 : at + 4 + length]
            at += 4 + length
        found: list[int] = []
        used = 0
        for number, value in enumerate(short):
            width, full = (4, _FULL16) if number == 3 else (8, _FULL32)
            if value != full or (wide is None and number != 3):
                # Without the extra field a size of 2³² - 1 is what it says.
                found.append(value)
                continue
            part = (wide or b"")[used : used + width]
            if len(part) < width:
                raise unsafe(self._archive, name, "it says that its sizes are elsewhere, and they are not")
            found.append(int.from_bytes(part, "little"))
            used += width
        return tuple(found)


def decode_name(raw: bytes, flags: int) -> str:
    """The name as text. Without the flag for UTF-8 it is that all the same from many programs, and else code page 437."""
    if flags & UTF8_FLAG:
        return raw.decode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")
