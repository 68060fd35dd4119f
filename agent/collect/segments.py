"""What a batch has brought so far, on disk: append-only segments below the staging folder, one for each run.

A segment is a row of frames: magic, length, CRC-32, and an Arrow record batch. A frame that was torn by a crash ends the segment: it
and what lies behind it do not count. Every run reads the segments of all earlier ones, whoever wrote them, and appends to one of its
own, so two agents never write one file, and nothing of a run that was killed is lost but its last frame.

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
from .columns import Frame, Schema, values

SUFFIX: Final = ".seg"
_HEAD: Final = struct.Struct("<4sII")
_MAGIC: Final = b"SHC1"
_FRAME_BYTES_MAX: Final = (1 << 31) - 1  # what an Arrow binary column of 32-bit offsets holds


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
    """Columns of a frame."""
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


def frame_of(entries: Sequence[Entry]) -> Frame:
    """The entries as columns."""
    pa = arrow()
    columns: list[Sequence[Any]] = [
        [entry.row for entry in entries],
        [entry.code for entry in entries],
        [entry.retries for entry in entries],
        [entry.message or None for entry in entries],
        [entry.image for entry in entries],
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
    schema = frame_schema()
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
        payload = memoryview(frame_of(entries).serialize())
        if len(payload) > _FRAME_BYTES_MAX:
            raise OSError(f"a frame of {len(payload)} bytes")
        head = _HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload))
        left = [memoryview(head), payload]
        while left:
            written = os.writev(self._fd, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]

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
    schema = frame_schema()
    with os.fdopen(root.open_beneath(segment.path, os.O_RDONLY), "rb", buffering=0) as file:
        size = min(os.fstat(file.fileno()).st_size, segment.bytes)
        at = 0
        while at + _HEAD.size <= size:
            magic, length, crc = _HEAD.unpack(os.pread(file.fileno(), _HEAD.size, at))
            if magic != _MAGIC or at + _HEAD.size + length > size:
                return
            payload = os.pread(file.fileno(), length, at + _HEAD.size)
            if len(payload) < length or zlib.crc32(payload) != crc:
                return
            at += _HEAD.size + length
            yield pa.ipc.read_record_batch(pa.py_buffer(payload), schema), at


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
