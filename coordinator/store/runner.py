"""Runs store calls one at a time: in a thread of their own where they wait for a disk, directly where they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from .base import Store

P = ParamSpec("P")
T = TypeVar("T")


class StoreRunner:
    """Owns an open store and, if it blocks, its one thread."""

    def __init__(self, store: Store, *, blocks: bool) -> None:
        self.store = store
        self._executor = ThreadPoolExecutor(1, "store") if blocks else None

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the store; calls are carried out in the order in which they were made."""
        if self._executor is None:
            return call(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **kwargs))

    async def close(self) -> None:
        """Finish what was asked for, then close the store."""
        await self.run(self.store.close)
        if self._executor is not None:
            self._executor.shutdown()
