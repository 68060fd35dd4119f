"""What the handlers stand on: one object per running web side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from .sessions import LoginLimit, Sessions, WebSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...common.passwords import PasswordHash
    from ...common.settings import Settings
    from ..api import CoordinatorApi
    from ..auth import Tokens
    from ..planner import OpenSource
    from .access import AccessRules, Origin
    from .library_api import LibraryView
    from .observer import Observer
    from .verifying import Verifications


T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class Site:
    """Everything that handlers use of the world."""

    api: CoordinatorApi
    observer: Observer
    settings: Settings
    access: AccessRules
    sessions: Sessions
    limit: LoginLimit
    tokens: Tokens
    password: PasswordHash | None
    open_source: OpenSource
    version: str
    now: Callable[[], float]  # seconds of a clock that does not jump
    local_csrf: str  # of callers who need no login
    checking: asyncio.Semaphore  # one password at a time: each takes 32 MiB
    inspecting: asyncio.Semaphore
    sampling: asyncio.Semaphore
    library: LibraryView
    verifications: Verifications
    document: Mapping[str, object] = field(default_factory=dict[str, object])  # OpenAPI

    @property
    def base_url(self) -> str:
        return self.settings.web.base_url

    async def in_library(self, ask: Callable[[LibraryView], T]) -> T:
        """Ask the library in a thread: it reads disks."""
        return await asyncio.to_thread(ask, self.library)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks. session_id is set for a browser that logged in; token_id for a program with a token."""

    user: str
    origin: Origin
    admitted: bool
    csrf: str = ""
    session_id: str = ""
    session: WebSession | None = None
    token_id: str = ""

    @property
    def bearer(self) -> bool:
        return bool(self.token_id)
