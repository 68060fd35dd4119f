"""A plain web server with faults: single files, as `https://` sources have them."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from .contents import ContentLike, as_content
from .faults import Fault
from .http_answer import Answer, Entity, RequestHead, text_answer
from .listener import Route
from .stand_in import StandIn

FIRST_PUT_AT = 1_704_067_200  # 2024-01-01; each file that is put without a date is a second younger


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginFile:
    """One file and the validators that its server gives."""

    content: ContentLike
    etag: str | None = None  # with its quotes, W/"..." too; None: no ETag
    last_modified: float | None = None  # seconds since 1970; None: no Last-Modified
    content_type: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class FaultOrigin(StandIn):
    """A web server on one port; the log and the faults are those of the stand-in Hub (kind "file").

    Args:
        files: path below the root -> `OriginFile`, or just a content: that one gets an ETag and a date.
        host, port: where to listen; port 0 takes a free one.
        tls, seed, wall_clock: see `StandIn`.
    """

    def __init__(
        self,
        files: Mapping[str, OriginFile | ContentLike],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = False,
        seed: int = 0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(tls=tls, seed=seed, wall_clock=wall_clock)
        self.url = ""
        self._address = host, port
        self._files: dict[str, Entity] = {}
        self._put = 0
        for path, file in files.items():
            self.put(path, file)

    def put(self, path: str, file: OriginFile | ContentLike) -> None:
        """Adds or replaces a file."""
        if not isinstance(file, OriginFile):
            self._put += 1
            etag = hashlib.sha256(f"{path} {self._put}".encode("utf-8", "replace")).hexdigest()[:32]
            file = OriginFile(content=file, etag=f'"{etag}"', last_modified=FIRST_PUT_AT + self._put)
        self._files[path] = Entity(
            content=as_content(file.content),
            etag=file.etag,
            last_modified=file.last_modified,
            content_type=file.content_type,
            headers=file.headers,
        )

    def url_of(self, path: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{quote(path)}"

    def route(self, head: RequestHead) -> Route:
        """The file of a path; the query does not matter."""
        path = unquote(head.path[1:])

        def respond(head: RequestHead, faults: list[Fault]) -> Answer | Entity:
            return self._files.get(path) or text_answer("Not Found", status=404)

        return Route(kind="file", path=path, respond=respond)

    async def _start(self, stack: AsyncExitStack, tls: ssl.SSLContext | None) -> None:
        self.url = await self._listen(stack, "origin", self, *self._address, tls)
