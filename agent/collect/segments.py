"""What a batch has brought so far, on disk: append-only segments below the staging folder, one for each run.

A segment is a row of frames: magic, two lengths, CRC-32, an Arrow record batch, and the images, one behind the other: they go to the
disk from where they were received, without being copied. A frame that was torn by a crash ends the segment: it and what lies behind it
do not count. Every run reads the segments of all earlier ones, whoever wrote them, and appends to one of its own, so two agents never
write one file, and nothing of a run that was killed is lost but its last frame.

====== =====================================================================
code   a row of a frame says
====== =====================================================================
200    collected: the bytes and all that is told of them
other  an error, for good: code and message
0      not settled: how often it was tried by a run that gave it back
====== =====================================================================
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...common.dataset_schema import arrow
from ...common.safe_root import SafeRoot
from .columns import Frame, Schema, compute, values

SUFFIX: Final = ".seg"
_HEAD: Final = struct.Struct("<4sIII")  # magic, bytes of the record batch, bytes of the images, CRC-32 over both
_MAGIC: Final = b"SHC1"
_VECTORS_MAX: Final = 1024  # IOV_MAX of Linux
_IMAGE: Final = "image"
IMAGES_BYTES_MAX: Final = (1 << 31) - (1 << 24)  # what a binary column of 32-bit offsets holds, less a frame's worth


@dataclass(slots=True)
class Entry:
    """One row's result. code: see above; sizes are (height, width); digests MD5; image None where it is kept elsewhere."""

    row: int
    code: int
    retries: int
    message: str = ""
    image: bytes | bytearray | None = None
    original_md5: bytes = b""
    stored_md5: bytes = b""
    original_size: tuple[int, int] | None = None
    stored_size: tuple[int, int] | None = None
    content_type: str = ""
    status: int = 0
    etag: str = ""
    robots_tag: str = ""
    fetched_us: int = 0

    @property
    def bytes(self) -> int:
        """About how much it takes in memory and on disk."""
        return 256 + (len(self.image) if self.image is not None else 0)


def frame_schema() -> Schema:
    """Columns of a frame as it is read."""
    pa = arrow()
    size = pa.list_(pa.int64())
    return pa.schema(
        [
            ("row", pa.int32()),
            ("code", pa.int32()),
            ("retries", pa.int32()),
            ("message", pa.string()),
            ("image", pa.binary()),
            ("hashsum_original", pa.string()),
            ("hashsum_resized", pa.string()),
            ("original_size", size),
            ("resized_size", size),
            ("content_type", pa.string()),
            ("http_status", pa.int32()),
            ("etag", pa.string()),
            ("robots_tag", pa.string()),
            ("fetched_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def _stored_schema() -> Schema:
    """Columns of a frame's record batch: of the image its length alone, empty where there is none."""
    pa = arrow()
    schema = frame_schema()
    return schema.set(schema.get_field_index(_IMAGE), pa.field(_IMAGE, pa.int32()))


def frame_of(entries: Sequence[Entry]) -> Frame:
    """The entries as columns, the images by their lengths."""
    pa = arrow()
    columns: list[Sequence[Any]] = [
        [entry.row for entry in entries],
        [entry.code for entry in entries],
        [entry.retries for entry in entries],
        [entry.message or None for entry in entries],
        [len(entry.image) if entry.image is not None else None for entry in entries],
        [entry.original_md5.hex() or None for entry in entries],
        [entry.stored_md5.hex() or None for entry in entries],
        [entry.original_size for entry in entries],
        [entry.stored_size for entry in entries],
        [entry.content_type or None for entry in entries],
        [entry.status or None for entry in entries],
        [entry.etag or None for entry in entries],
        [entry.robots_tag or None for entry in entries],
        [entry.fetched_us or None for entry in entries],
    ]
    schema = _stored_schema()
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class SegmentWriter:
    """Appends frames to a segment of its own. Blocks: call it from a thread, one call at a time. Raises OSError."""

    def __init__(self, root: SafeRoot, path: str) -> None:
        self._root = root
        self.path = path
        self._fd = root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write the entries as one frame. After an error nothing more may be appended."""
        told = memoryview(frame_of(entries).serialize())
        images = [memoryview(entry.image) for entry in entries if entry.image]
        total = sum(map(len, images))
        if total > IMAGES_BYTES_MAX:
            raise OSError(f"a frame of {total} bytes")
        crc = zlib.crc32(told)
        for image in images:
            crc = zlib.crc32(image, crc)
        self._write([memoryview(_HEAD.pack(_MAGIC, len(told), total, crc)), told, *images])

    def _write(self, parts: list[memoryview]) -> None:
        at = 0
        while at < len(parts):
            written = os.writev(self._fd, parts[at : at + _VECTORS_MAX])
            while at < len(parts) and written >= len(parts[at]):
                written -= len(parts[at])
                at += 1
            if written:
                parts[at] = parts[at][written:]

    def close(self) -> None:
        """Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as far as a run counts it: whoever wrote it may be writing on."""

    path: str
    bytes: int


def read_segment(root: SafeRoot, segment: Segment) -> Iterator[tuple[Frame, int]]:
    """The sound frames of a segment, each with where it ends, until the first that is torn. Raises OSError."""
    pa = arrow()
    schema = _stored_schema()
    with os.fdopen(root.open_beneath(segment.path, os.O_RDONLY), "rb", buffering=0) as file:
        fd = file.fileno()
        size = min(os.fstat(fd).st_size, segment.bytes)
        at = 0
        while at + _HEAD.size <= size:
            magic, told_bytes, image_bytes, crc = _HEAD.unpack(os.pread(fd, _HEAD.size, at))
            length = told_bytes + image_bytes
            at += _HEAD.size + length
            if magic != _MAGIC or at > size:
                return
            payload = os.pread(fd, length, at - length)
            if len(payload) < length or zlib.crc32(payload) != crc:
                return
            buffer = pa.py_buffer(payload)
            frame = pa.ipc.read_record_batch(buffer.slice(0, told_bytes), schema)
            yield _with_images(frame, buffer.slice(told_bytes)), at


def _with_images(frame: Frame, images: Any) -> Frame:
    """The frame with its images, which stay where they are."""
    pa, pc = arrow(), compute()
    at = frame.schema.get_field_index(_IMAGE)
    lengths = frame.column(at)
    ends = pc.cumulative_sum(pc.fill_null(lengths, 0))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends.cast(pa.int32())])
    there = lengths.buffers()[0]
    column = pa.Array.from_buffers(pa.binary(), len(frame), [there, offsets.buffers()[1], images], lengths.null_count)
    columns = [column if number == at else frame.column(number) for number in range(frame.num_columns)]
    return pa.RecordBatch.from_arrays(columns, schema=frame_schema())


class Recorded:
    """What all segments of a batch say, without the bytes: which rows are settled, how often the others were tried."""

    def __init__(self) -> None:
        self.settled: set[int] = set()
        self.counts: Counter[int] = Counter()  # settled rows by code
        self.tries: dict[int, int] = {}
        self.segments: list[Segment] = []

    def read(self, root: SafeRoot, folder: str) -> None:
        """Read every segment of a folder. Raises OSError."""
        for name in sorted(root.listdir_beneath(folder)):
            if not name.endswith(SUFFIX):
                continue
            path, ends = f"{folder}/{name}", 0
            for frame, ends in read_segment(root, Segment(path, sys.maxsize)):  # noqa: B007 (the last one counts)
                self._take(frame)
            self.segments.append(Segment(path, ends))

    def _take(self, frame: Frame) -> None:
        codes, retries = values(frame.column("code")), values(frame.column("retries"))
        for row, code, retried in zip(values(frame.column("row")), codes, retries, strict=True):
            if row in self.settled:
                continue
            if code:
                self.settled.add(row)
                self.counts[code] += 1
                self.tries.pop(row, None)
            else:
                self.tries[row] = max(retried, self.tries.get(row, 0))


def settled_frames(root: SafeRoot, segments: Sequence[Segment]) -> Iterator[Frame]:
    """The settled rows of all segments, each row once: the first time that it was recorded. Raises OSError."""
    pa = arrow()
    seen: set[int] = set()
    for segment in segments:
        for frame, _ in read_segment(root, segment):
            codes = values(frame.column("code"))
            keep: list[int] = []
            for at, row in enumerate(values(frame.column("row"))):
                if codes[at] and row not in seen:
                    seen.add(row)
                    keep.append(at)
            if len(keep) == len(codes):
                yield frame
            elif keep:
                yield frame.take(pa.array(keep, type=pa.int32()))
