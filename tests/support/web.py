"""The coordinator's web side in this process: a real coordinator over a store in memory, a real server on loopback. ::

async with web_site(tmp_path, web={"base_url": "/shoal"}) as site:
    async with site.client() as http: ...
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from shoal.common.settings import Settings, load_settings
from shoal.common.wiring import s3_profiles
from shoal.coordinator.service import Coordinator
from shoal.coordinator.store.memory import MemoryStore
from shoal.coordinator.store.runner import StoreRunner
from shoal.coordinator.web.server import WebServer
from shoal.coordinator.wiring import make_coordinator, sources

from .fleet import WAIT_S, until

PASSWORD = "correct horse battery"
# shoal web password, with the least that scrypt can cost: a test makes hundreds of tries.
PASSWORD_HASH = "scrypt$4$1$1$AAECAwQFBgcICQoLDA0ODw==$5eJULtyPHS3oUK1sDrQr4s8IRm1zdWEU6VUaj46E7oM="


@dataclass(frozen=True, kw_only=True)
class WebSite:
    """A running web side."""

    coordinator: Coordinator
    server: WebServer
    settings: Settings

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"{self.origin}{self.settings.web.base_url}"

    def client(self, **options: Any) -> aiohttp.ClientSession:
        """A client that keeps cookies of addresses, too."""
        return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), **options)

    async def csrf(self, http: aiohttp.ClientSession) -> dict[str, str]:
        """The header that changes need."""
        async with http.get(f"{self.url}/api/session") as answer:
            return {"X-CSRF-Token": (await answer.json())["csrf_token"]}


def until_served(url: str) -> None:
    """Waits until a site answers: a coordinator serves its page some moments after its agents. url: of the site, without a slash at the
    end. Raises TimeoutError."""

    def served() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=WAIT_S) as answer:
                return answer.status == 200
        except OSError:
            return False

    until(f"{url} to be served", served)


def web_settings(folder: Path, **given: object) -> Settings:
    """Settings of a site whose every folder lies below this one."""
    overrides: dict[str, object] = {
        "coordinator.state": str(folder / "state"),
        "library.state": str(folder / "library"),
        "hub.cache": str(folder / "cache"),
        "web.listen": "127.0.0.1:0",
        **{name.replace("__", "."): value for name, value in given.items()},
    }
    return load_settings(environ={"HOME": str(folder)}, cwd=folder, overrides=overrides)


@asynccontextmanager
async def web_site(folder: Path, overrides: Mapping[str, object] | None = None) -> AsyncGenerator[WebSite]:
    """A site. overrides: settings by name. It is stopped, and must have stopped in order, when the block ends."""
    settings = web_settings(folder, **(overrides or {}))
    stores = s3_profiles(settings, version="test")
    async with sources(settings, version="test", stores=stores) as open_source:
        store = StoreRunner(MemoryStore(), blocks=False)
        coordinator = make_coordinator(settings, store, open_source, version="test", stores=stores)
        await coordinator.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                deciding = tasks.create_task(coordinator.run())
                server = WebServer(coordinator, settings=settings, open_source=open_source, version="test")
                try:
                    await server.start()
                    tasks.create_task(server.run())
                    yield WebSite(coordinator=coordinator, server=server, settings=settings)
                finally:
                    await server.stop()
                    coordinator.stop()
                    await deciding
        finally:
            await coordinator.close()
