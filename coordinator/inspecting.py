"""Looking at a source before anything is fetched: its files with their sizes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..common.errors import TimedOut

if TYPE_CHECKING:
    from .planner import OpenSource
    from .sources.base import SourceRequest

FILES_MAX = 20_000
"""Files of one look; a listing that has more is cut there, and says so."""
LOOK_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """A file of a source. size is in bytes, None where the source does not tell."""

    path: str
    size: int | None
    digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A source as it is now. cut: there are more files than were looked at."""

    uri: str
    repo_id: str
    revision: str
    commit: str
    files: tuple[FoundFile, ...]
    cut: bool
    refused: tuple[tuple[str, str], ...]  # names that cannot be delivered, with the reason
    warnings: tuple[str, ...]

    @property
    def bytes_total(self) -> int:
        """Of the files whose size is known."""
        return sum(file.size or 0 for file in self.files)


async def look_at(request: SourceRequest, open_source: OpenSource) -> Found:
    """List a source. Raises what `Source.resolve` raises; TimedOut for one that takes too long."""
    source = open_source(request)
    files: list[FoundFile] = []
    cut = False
    try:
        async with asyncio.timeout(LOOK_S):
            resolved = await source.resolve()
            async with aclosing(source.pages()) as pages:
                async for page in pages:
                    files += [FoundFile(path=spec.path, size=spec.size, digest=spec.digest) for spec in page]
                    if len(files) > FILES_MAX:
                        files, cut = files[:FILES_MAX], True
                        break
    except TimeoutError:
        raise TimedOut(request.uri.canonical(), cause=f"its listing took longer than {LOOK_S:.0f} s") from None
    return Found(
        uri=resolved.source,
        repo_id=resolved.repo_id,
        revision=resolved.revision,
        commit=resolved.commit,
        files=tuple(files),
        cut=cut,
        refused=tuple(source.refused),
        warnings=tuple(source.warnings),
    )
