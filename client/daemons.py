"""``shoal coordinator`` and ``shoal agent``: starts the daemons. The only module besides `embedded` that imports them."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..common.version import VERSION
from .running import run

if TYPE_CHECKING:
    import argparse

    from ..common.secrets import Secret
    from ..common.settings import Settings
    from ..common.views import NewToken, Role, TokenView
    from ..coordinator.store.runner import StoreRunner
    from ..coordinator.tokens import TokenBook


def coordinator(options: argparse.Namespace, settings: Settings) -> int:
    """Run a coordinator until a signal. Returns the exit code."""
    from ..coordinator.daemon import serve

    _use_uvloop()
    return run(serve(settings, version=VERSION, load=lambda: _load(options)))


def agent(options: argparse.Namespace, settings: Settings) -> int:
    """Run an agent until a signal. Returns the exit code."""
    # Its children (image workers, hf_transfer) never use gRPC; its handlers for a fork would only write about it into the log.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from ..agent.daemon import serve

    _use_uvloop()
    return run(serve(settings, version=VERSION, load=lambda: _load(options)))


def _load(options: argparse.Namespace) -> Settings:
    """The settings as they are now, from the same places. Raises UsageError."""
    from .main import load

    return load(options)


class OfflineState:
    """The state folder of a coordinator that is not running; answers as a running one would."""

    def __init__(self, store: StoreRunner, book: TokenBook) -> None:
        self._store = store
        self._book = book

    async def create_token(self, role: Role, name: str, expires_s: float | None) -> NewToken:
        """Make a credential. Raises UsageError."""
        return await self._book.create(role, name, expires_s)

    async def list_tokens(self) -> list[TokenView]:
        """All credentials."""
        return self._book.list()

    async def rotate_token(self, token_id: str, grace_s: float, expires_s: float | None) -> NewToken:
        """A credential in the place of one, which stays valid for a while. Raises NotFound, UsageError."""
        return await self._book.rotate(token_id, grace_s=grace_s, expires_s=expires_s)

    async def revoke_token(self, token_id: str) -> None:
        """Make a credential worthless. Raises NotFound."""
        await self._book.revoke(token_id)

    async def backup(self) -> AsyncIterator[bytes]:
        """A consistent copy of the database, block by block. Raises NoSpace, NotWritable."""
        from ..coordinator.backup import backup_blocks

        async for block in backup_blocks(self._store):
            yield block


@asynccontextmanager
async def offline_tokens(settings: Settings) -> AsyncGenerator[OfflineState]:
    """A state folder. Raises Busy if a coordinator runs on it."""
    from ..coordinator.daemon import open_store
    from ..coordinator.tokens import TokenBook

    store = open_store(settings)
    await store.run(lambda: store.store.open(begins=False))
    try:
        book = TokenBook(store, time.time)
        await book.load()
        yield OfflineState(store, book)
    finally:
        await store.close()


async def fresh_tokens(settings: Settings, name: str, life_s: float) -> dict[Role, Secret]:
    """A new credential for each role, of a coordinator that is not running yet; earlier ones of this name become worthless.

    Raises Busy if a coordinator runs on the state folder.
    """
    from ..common.views import Role

    async with offline_tokens(settings) as book:
        for view in await book.list_tokens():
            if view.name == name:
                await book.revoke_token(view.token_id)
        return {role: (await book.create_token(role, name, life_s)).token for role in Role}


def needs_credential(settings: Settings) -> bool:
    """Whether agents need a credential to join a coordinator that listens as the settings say. Raises UsageError."""
    from ..coordinator.auth import must_authenticate

    return must_authenticate(settings.coordinator.listen, settings.security)


def _use_uvloop() -> None:
    """uvloop carries about twice as many unary calls a second; where it is not built, asyncio's own loop does."""
    try:
        import uvloop
    except ImportError:
        return
    uvloop.install()
