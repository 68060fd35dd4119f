"""Rows of a batch on their way from the coordinator to an agent: an Arrow IPC stream.

pyarrow is imported where it is used: no other part of Shoal needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dataset_schema import arrow
from .errors import ProtocolViolation

if TYPE_CHECKING:
    import pyarrow as pa


def read_rows(data: bytes) -> pa.Table:
    """The rows of a batch. Raises ProtocolViolation for what is no Arrow stream."""
    pa = arrow()
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            return reader.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ProtocolViolation("rows of a batch", cause=f"they are damaged: {error}") from None
