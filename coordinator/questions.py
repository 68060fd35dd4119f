"""What the library and quantizations need to know of the Hub: a ref's commit, a revision's files, a model's configuration."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from ..common.errors import NotFound, ProtocolViolation
from ..common.uri import HubUri
from .sources import Source, SourceRequest
from .sources.hub import HubSource


class HubQuestions:
    """Questions to the Hub, through the mirrors, credentials and rules of the settings. Every method raises what a source does:
    NotFound, AccessDenied, Unauthenticated, Refused, TransferError."""

    def __init__(self, open_source: Callable[[SourceRequest], Source]) -> None:
        """open_source: as `wiring.sources` makes it."""
        self._open_source = open_source

    async def commit(self, uri: HubUri) -> str:
        """The commit (40 hex digits) that a repo's ref stands at."""
        return (await self._open_source(SourceRequest(uri=uri)).resolve()).commit

    async def files(self, uri: HubUri) -> list[tuple[str, int | None]]:
        """The files of a repo at a revision, or below the path that the URI names, with bytes."""
        source = self._open_source(SourceRequest(uri=uri))
        found: list[tuple[str, int | None]] = []
        async with aclosing(source.pages()) as pages:
            async for page in pages:
                found += [(spec.path, spec.size) for spec in page]
        return found

    async def config(self, uri: HubUri) -> dict[str, Any] | None:
        """The parsed ``config.json`` of a model; None where it has none, or none that is a JSON object."""
        source = self._open_source(SourceRequest(uri=uri))
        assert isinstance(source, HubSource), "the URI is of the Hub"
        try:
            return await source.read_json("config.json")
        except (NotFound, ProtocolViolation):
            return None
