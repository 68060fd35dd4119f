"""Rows, sorted by server, become batches; batches go into containers.

A container is a file of Arrow IPC messages behind one schema, so it is itself a stream that anybody can read. The messages of a
batch lie together and are its alone; but small batches share one: a million servers with a row each make a thousand messages, and
no file of their own. An entry says which rows of its messages are the batch's.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...common.dataset_rows import arrow_part, stream_head
from ...common.dataset_schema import arrow
from .index import Entry

if TYPE_CHECKING:
    import pyarrow as pa

_CONTAINER_BYTES_AIMED: Final = 1 << 30
SHARED_ROWS_MAX: Final = 1024
"""Rows of a message that several batches share: to read one batch all of it is decoded, which takes about a millisecond."""


class _Piece(NamedTuple):
    """Rows of one chunk that go into one batch. is_whole: they are all of the batch, from its first row to its last."""

    host: str
    start: int
    rows: int
    is_whole: bool


@dataclass(slots=True)
class _Open:
    """The batch that rows are added to."""

    host: str
    partition: int
    container: int
    offset: int
    rows: int = 0
    row_bytes: int = 0
    length: int = 0
    crc: int = 0

    def entry(self) -> Entry:
        return Entry(
            *(self.host, self.partition, self.rows, self.row_bytes, self.container, self.offset, self.length, self.crc),
            skip=0,
            held=self.rows,
        )


def container_name(number: int) -> str:
    """The file name of a container."""
    return f"batches-{number:05d}.arrows"


class Cutter:
    """Writes the containers. sizes are the bytes of those that are there, by number."""

    def __init__(
        self, folder: Path, schema: pa.Schema, *, batch_size: int, free: Mapping[str, int] | None = None
    ) -> None:
        """schema is that of a batch; batch_size is in rows; free is the first partition number of servers where it is not 0."""
        self._free = free or {}
        self._folder = folder
        self._schema = schema
        self._head = stream_head(schema)
        self._batch_size = batch_size
        self._options = arrow_part("ipc").IpcWriteOptions(compression="zstd", use_threads=False)
        self._file: Any = None
        self._open: _Open | None = None
        self._host = ""
        self._partition = 0
        self._entries: list[Entry] = []
        self.sizes: list[int] = []
        self.hosts = 0

    def add(self, sorted_rows: Any) -> None:
        """Rows with their server as host. The rows of one server come one after another, in any number of calls."""
        columns = [sorted_rows.column(name) for name in self._schema.names]
        rows = arrow().RecordBatch.from_arrays(columns, schema=self._schema)
        groups = _grouped(self._pieces(sorted_rows.column("host")))
        sink = arrow().BufferOutputStream()
        ends = [len(self._head)]
        sizes: list[int] = []
        with arrow_part("ipc").new_stream(sink, self._schema, options=self._options) as writer:
            for group in groups:
                part = rows.slice(group[0].start, sum(piece.rows for piece in group))
                sizes.append(part.nbytes)
                writer.write_batch(part)
                ends.append(sink.tell())
        data = memoryview(sink.getvalue())
        for group, row_bytes, start, end in zip(groups, sizes, ends, ends[1:], strict=False):
            self._write(group, row_bytes, data[start:end])

    def take_entries(self) -> list[Entry]:
        """Entries of the batches since the last call, sorted; the last batch ends here."""
        self._finish()
        entries, self._entries = self._entries, []
        entries.sort()
        return entries

    def close(self) -> None:
        """Make what was written durable. Raises OSError."""
        self._finish()
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def abandon(self) -> None:
        """Close without a promise."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _pieces(self, hosts: Any) -> list[_Piece]:
        """A piece ends with its server's rows, or when its batch is full."""
        pieces: list[_Piece] = []
        filled = self._open.rows if self._open else 0
        host = self._open.host if self._open else ""
        start, total = 0, len(hosts)
        runs = arrow_part("compute").run_end_encode(hosts)
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if name != host:
                host, filled = name, 0
            while start < end:
                filled %= self._batch_size
                count = min(self._batch_size - filled, end - start)
                # The server's rows may go on in the next chunk.
                is_ended = filled + count == self._batch_size or start + count < total
                pieces.append(_Piece(name, start, count, filled == 0 and is_ended))
                start, filled = start + count, filled + count
        return pieces

    def _write(self, group: list[_Piece], row_bytes: int, message: memoryview) -> None:
        """One message: of whole batches, or of a part of one."""
        first = group[0]
        if first.is_whole:
            self._finish()
            self._add_whole(group, row_bytes, message)
        else:
            batch = self._open
            if batch is None or batch.host != first.host or batch.rows == self._batch_size:
                self._finish()
                self._make_room()
                batch = self._open = _Open(
                    first.host, self._next_partition(first.host), container=len(self.sizes) - 1, offset=self.sizes[-1]
                )
            batch.rows += first.rows
            batch.row_bytes += row_bytes
            batch.length += len(message)
            batch.crc = zlib.crc32(message, batch.crc)
        self._file.write(message)
        self.sizes[-1] += len(message)

    def _add_whole(self, group: list[_Piece], row_bytes: int, message: memoryview) -> None:
        self._make_room()
        place = (len(self.sizes) - 1, self.sizes[-1], len(message), zlib.crc32(message))
        held = sum(piece.rows for piece in group)
        skip = 0
        for host, _, rows, _ in group:
            share = row_bytes * rows // held
            self._entries.append(Entry(host, self._next_partition(host), rows, share, *place, skip, held))
            skip += rows

    def _next_partition(self, host: str) -> int:
        if host == self._host:
            self._partition += 1
        else:
            self._host, self._partition = host, self._free.get(host, 0)
            self.hosts += 1
        return self._partition

    def _finish(self) -> None:
        if self._open:
            self._entries.append(self._open.entry())
        self._open = None

    def _make_room(self) -> None:
        """See that there is a container. A batch lies in one, whatever its size."""
        if self.sizes and self.sizes[-1] < _CONTAINER_BYTES_AIMED:
            return
        self.close()
        path = self._folder / container_name(len(self.sizes))
        self._file = path.open("xb")
        self._file.write(self._head)
        self.sizes.append(len(self._head))


def _grouped(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Neighbours that are small and whole, up to `SHARED_ROWS_MAX` rows together; each other piece alone."""
    groups: list[list[_Piece]] = []
    room = 0
    for piece in pieces:
        if piece.is_whole and piece.rows <= room:
            groups[-1].append(piece)
            room -= piece.rows
        else:
            groups.append([piece])
            room = SHARED_ROWS_MAX - piece.rows if piece.is_whole else 0
    return groups
