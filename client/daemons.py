"""``shoal coordinator`` and ``shoal agent``: starts the daemons. The only module besides `embedded` that imports them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from .main import version
from .running import run

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings


def coordinator(options: argparse.Namespace, settings: Settings) -> int:
    """Run a coordinator until a signal. Returns the exit code."""
    from ..coordinator.daemon import serve

    _use_uvloop()
    return run(serve(settings, version=version()))


def agent(options: argparse.Namespace, settings: Settings) -> int:
    """Run an agent until a signal. Returns the exit code."""
    from ..agent.daemon import serve

    _use_uvloop()
    return run(serve(settings, version=version()))


@asynccontextmanager
async def offline_tokens(settings: Settings) -> AsyncGenerator[Any]:
    """The credentials in the state folder of a coordinator that is not running. Raises Busy if it is."""
    from ..coordinator.daemon import open_store
    from ..coordinator.tokens import TokenBook

    store = open_store(settings)
    await store.run(store.store.open)
    try:
        book = TokenBook(store, time.time)
        await book.load()
        yield book
    finally:
        await store.close()


def _use_uvloop() -> None:
    """uvloop carries about twice as many unary calls a second; where it is not built, asyncio's own loop does."""
    try:
        import uvloop
    except ImportError:
        return
    uvloop.install()
