"""Rows of a batch on their way to an agent: an Arrow IPC stream.

The format is told in https://arrow.apache.org/docs/format/Columnar.html, "IPC Streaming Format".

The stream's end marker must be there: a stream that was cut between two of its messages would otherwise pass as a shorter one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from .dataset_schema import arrow
from .errors import ProtocolViolation

if TYPE_CHECKING:
    import pyarrow as pa

END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Continuation mark and a length of zero: the last 8 bytes of every stream."""
BLOCK_BYTES_MAX: Final = 1 << 20
"""What `coordinator.collect.plan` hands out at a time: below gRPC's limit of 4 MiB for a message, with room for what is around it."""


def arrow_part(name: str) -> Any:
    """A submodule of pyarrow, such as ``compute``. Raises MissingExtra where pyarrow is not installed."""
    return importlib.import_module(f"{arrow().__name__}.{name}")


def stream_head(schema: pa.Schema) -> bytes:
    """What every stream of this schema begins with: all before its first row."""
    return write_rows(schema.empty_table()).removesuffix(END_OF_STREAM)


def write_rows(rows: pa.Table) -> bytes:
    """The stream that `read_rows` reads."""
    sink = arrow().BufferOutputStream()
    with arrow_part("ipc").new_stream(sink, rows.schema) as writer:
        for batch in rows.to_batches():
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read_rows(blocks: bytes) -> pa.Table:
    """The rows whose stream these bytes are, all blocks joined. Raises ProtocolViolation for bytes that are cut or no such stream."""
    pa = arrow()
    if not blocks.endswith(END_OF_STREAM):
        raise ProtocolViolation(
            "rows of a batch", cause="they end before their end marker", remedy="ask for them again"
        )
    try:
        with arrow_part("ipc").open_stream(pa.py_buffer(blocks)) as stream:
            table = stream.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ProtocolViolation(
            "rows of a batch", cause=f"they cannot be read: {error}", remedy="ask for them again"
        ) from None
    return table
