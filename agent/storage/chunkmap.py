"""Chunk maps: which bytes of a partial file are on the disk.

A map is a small append-only file that one agent writes beside the partial file; on a shared folder several agents write one
each, and what is done is the union. Little-endian::

    header   8 s  magic "SHOALMAP"
             H    version (1)
             H    flags: bit 0 = durable, every record was written after an fdatasync of the bytes that it names
             16 s boot id of the kernel that ran when the map was begun
             16 s identity of the object (source, path, version)
             I    CRC-32 of the above
    record   Q    start
             Q    stop
             I    CRC-32 of the above, seeded with the header's

A record is appended after its bytes were written, so after ``kill -9`` a map never claims more than the page cache holds. A
torn or damaged record ends the map: what follows it is ignored. A damaged header makes it empty.

A power failure takes the page cache with it. For an object with a digest that is harmless: the digest is checked before the
file gets its name. For one without, a map counts only when it is durable or was begun since the kernel booted.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from dataclasses import dataclass, field

from ...common.intervals import Interval

_MAGIC = b"SHOALMAP"
_VERSION = 1
_DURABLE = 1

_HEADER = struct.Struct("<8sHH16s16s")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<QQ")

HEADER_BYTES = _HEADER.size + _CRC.size
RECORD_BYTES = _RECORD.size + _CRC.size

MAP_BYTES_MAX = 64 << 20
"""More of a map is not read: three million records, a 12 TiB object in 4 MiB pieces. What lies beyond is fetched again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkMap:
    """What a map file says. intervals are as recorded: unsorted, possibly overlapping. valid_bytes is where damage begins."""

    boot_id: bytes = b""
    durable: bool = False
    intervals: list[Interval] = field(default_factory=list[Interval])
    valid_bytes: int = 0

    def trusted(self, *, has_digest: bool, boot_id: bytes) -> bool:
        """Whether the map counts for an object that has (or lacks) a digest, under the kernel with this boot id."""
        return has_digest or self.durable or self.boot_id == boot_id


def encode_header(*, identity: bytes, boot_id: bytes, durable: bool) -> bytes:
    """The first HEADER_BYTES of a map. identity and boot_id are 16 bytes each."""
    head = _HEADER.pack(_MAGIC, _VERSION, _DURABLE if durable else 0, boot_id, identity)
    return head + _CRC.pack(zlib.crc32(head))


def decode(data: bytes, *, identity: bytes) -> ChunkMap:
    """What a map file holds for the object with this identity. Never raises: damage only makes the map shorter."""
    if len(data) < HEADER_BYTES:
        return ChunkMap()
    (seed,) = _CRC.unpack_from(data, _HEADER.size)
    magic, version, flags, boot_id, owner = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or owner != identity or zlib.crc32(data[: _HEADER.size]) != seed:
        return ChunkMap()
    intervals: list[Interval] = []
    at = HEADER_BYTES
    while at + RECORD_BYTES <= len(data):
        (crc,) = _CRC.unpack_from(data, at + _RECORD.size)
        if zlib.crc32(data[at : at + _RECORD.size], seed) != crc:
            break
        start, stop = _RECORD.unpack_from(data, at)
        if stop < start:
            break
        intervals.append((start, stop))
        at += RECORD_BYTES
    return ChunkMap(boot_id=boot_id, durable=bool(flags & _DURABLE), intervals=intervals, valid_bytes=at)


def read_map(fd: int, *, identity: bytes) -> ChunkMap:
    """Read the map open at fd, from its beginning."""
    data = b""
    while len(data) < MAP_BYTES_MAX and (more := os.pread(fd, MAP_BYTES_MAX - len(data), len(data))):
        data += more
    return decode(data, identity=identity)


class ChunkMapWriter:
    """Appends to this agent's own map, the file of this name. Owns fd. Thread-safe."""

    def __init__(self, fd: int, *, name: str, identity: bytes, boot_id: bytes, durable: bool, has_digest: bool) -> None:
        """Take over the map open for reading and writing at fd: keep what is sound and trusted of it, cut off the rest.

        Raises OSError; fd is then still the caller's.
        """
        self.name = name
        self._fd = fd
        self._lock = threading.Lock()
        found = read_map(fd, identity=identity)
        # A map that promises durability must go on keeping it, and one that does not must not begin to promise it.
        keep = found.valid_bytes and found.durable == durable and found.trusted(has_digest=has_digest, boot_id=boot_id)
        self._header = encode_header(identity=identity, boot_id=boot_id, durable=durable)
        self.intervals: list[Interval] = found.intervals if keep else []
        if keep:
            (self._seed,) = _CRC.unpack(os.pread(fd, _CRC.size, _HEADER.size))
            self._end = found.valid_bytes
            os.ftruncate(fd, self._end)
        else:
            self._restart()

    def append(self, start: int, stop: int) -> None:
        """Record [start, stop). Raises OSError, and then the map is as it was before."""
        body = _RECORD.pack(start, stop)
        with self._lock:
            self._write(body + _CRC.pack(zlib.crc32(body, self._seed)))

    def clear(self) -> None:
        """Forget every record. Raises OSError."""
        with self._lock:
            self._restart()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _restart(self) -> None:
        os.ftruncate(self._fd, 0)
        self._end = 0
        (self._seed,) = _CRC.unpack_from(self._header, _HEADER.size)
        self._write(self._header)

    def _write(self, data: bytes) -> None:
        # After an error the end stays where it was, so that the next record overwrites what was torn.
        written = os.pwrite(self._fd, data, self._end)
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], self._end + written)
        self._end += len(data)
