"""A copy of the coordinator's database while it is in use.

The database is open to one connection alone (`store/sqlite.py`), and what was written last is in its write-ahead log: copying the files
would give something that is torn. So the coordinator itself makes the copy, beside the database, sends it, and removes it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from ..common.errors import UsageError
from .store.runner import StoreRunner
from .store.sqlite import SqliteStore

BLOCK_BYTES = 1 << 20
PREFIX = "backup-"


async def backup_blocks(store: StoreRunner) -> AsyncIterator[bytes]:
    """A consistent copy, in blocks of at most 1 MiB. Raises UsageError for a store without a file, NoSpace, NotWritable."""
    path = copy_path(store)
    try:
        await store.run(store.store.snapshot, path)
        with path.open("rb") as file:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                yield block
    finally:
        path.unlink(missing_ok=True)


def copy_path(store: StoreRunner) -> Path:
    """A name for a copy that is not there yet, beside the database. Raises UsageError for a store without a file."""
    if not isinstance(store.store, SqliteStore):
        raise UsageError("backup", cause="this coordinator keeps its state in memory alone")
    return store.store.path.with_name(f"{PREFIX}{secrets.token_hex(8)}")


def remove_stale_copies(state: Path) -> None:
    """Remove what a coordinator that was killed during a backup left behind."""
    for path in state.glob(f"{PREFIX}{'[0-9a-f]' * 16}"):
        path.unlink(missing_ok=True)
