"""Files that the coordinator keeps for a job and that agents read: a batch's rows, what was rejected, the overview."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

BLOCK_BYTES = 1 << 20
"""As much as one message may hold beside its framing."""


async def blocks_of(path: Path) -> AsyncIterator[bytes]:
    """A file's bytes, block by block, read in a thread. Raises OSError."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block
    finally:
        await asyncio.to_thread(file.close)
