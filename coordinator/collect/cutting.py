"""Rows, sorted by server, become batches; batches go into containers.

A container is a file of Arrow IPC messages behind one schema, so it is itself a stream that anybody can read; the messages of one batch
lie together. A batch of one row takes about 1 kB there and no file of its own.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...common.dataset_rows import arrow_part, stream_head
from ...common.dataset_schema import arrow
from .index import Entry

if TYPE_CHECKING:
    import pyarrow as pa

_CONTAINER_BYTES_AIMED: Final = 1 << 30


class _Piece(NamedTuple):
    """Rows of one chunk that go into one batch, as bytes start to end of what is written; is_last ends the batch before them."""

    host: str
    start: int
    end: int
    rows: int
    row_bytes: int


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
        return Entry(**{name: getattr(self, name) for name in Entry._fields})


def container_name(number: int) -> str:
    """The file name of a container."""
    return f"batches-{number:05d}.arrows"


class Cutter:
    """Writes the containers. sizes are the bytes of those that are there, by number."""

    def __init__(self, folder: Path, schema: pa.Schema, *, batch_size: int) -> None:
        """schema is that of a batch; batch_size is in rows."""
        self._folder = folder
        self._schema = schema
        self._head = stream_head(schema)
        self._batch_size = batch_size
        self._options = arrow_part("ipc").IpcWriteOptions(compression="zstd", use_threads=False)
        self._file: Any = None
        self._open: _Open | None = None
        self._entries: list[Entry] = []
        self.sizes: list[int] = []
        self.hosts = 0

    def add(self, sorted_rows: Any) -> None:
        """Rows with their server as host. The rows of one server come one after another, in any number of calls."""
        columns = [sorted_rows.column(name) for name in self._schema.names]
        rows = arrow().RecordBatch.from_arrays(columns, schema=self._schema)
        sink = arrow().BufferOutputStream()
        with arrow_part("ipc").new_stream(sink, self._schema, options=self._options) as writer:
            pieces = self._cut(rows, sorted_rows.column("host"), writer, sink)
        data = memoryview(sink.getvalue())
        if not self.sizes:
            self._next_container()
        for piece in pieces:
            batch = self._batch_for(piece.host)
            batch.rows += piece.rows
            batch.row_bytes += piece.row_bytes
            batch.length += piece.end - piece.start
            batch.crc = zlib.crc32(data[piece.start : piece.end], batch.crc)
            self._file.write(data[piece.start : piece.end])
            self.sizes[-1] += piece.end - piece.start

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

    def _cut(self, rows: pa.RecordBatch, hosts: pa.StringArray, writer: Any, sink: Any) -> list[_Piece]:
        """Write the pieces in order: a piece ends with its server's rows, or when its batch is full."""
        pieces: list[_Piece] = []
        filled = self._open.rows if self._open else 0
        host = self._open.host if self._open else ""
        start, at = 0, len(self._head)
        runs = arrow_part("compute").run_end_encode(hosts)
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if name != host:
                host, filled = name, 0
            while start < end:
                filled %= self._batch_size
                count = min(self._batch_size - filled, end - start)
                piece = rows.slice(start, count)
                writer.write_batch(piece)
                before, at = at, sink.tell()
                pieces.append(_Piece(name, before, at, count, piece.nbytes))
                start, filled = start + count, filled + count
        return pieces

    def _batch_for(self, host: str) -> _Open:
        """The batch that the next piece of a server belongs to."""
        batch = self._open
        if batch and batch.host == host and batch.rows < self._batch_size:
            return batch
        partition = batch.partition + 1 if batch and batch.host == host else 0
        self._finish()
        if self.sizes[-1] >= _CONTAINER_BYTES_AIMED:
            self._next_container()
        self.hosts += partition == 0
        self._open = _Open(host, partition, container=len(self.sizes) - 1, offset=self.sizes[-1])
        return self._open

    def _finish(self) -> None:
        if self._open:
            self._entries.append(self._open.entry())
        self._open = None

    def _next_container(self) -> None:
        self.close()
        path = self._folder / container_name(len(self.sizes))
        self._file = path.open("xb")
        self._file.write(self._head)
        self.sizes.append(len(self._head))
