"""The Python API: ``from shoal.client import download``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.records import Layout
from ..common.settings import load_settings
from ..common.uri import HubUri, parse_uri
from ..common.views import ObjectView, SubmitRequest
from .running import run
from .sdk import job_error
from .transfer import place

PAGE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedFile:
    """A file that is there. size in bytes, digest ``ALGORITHM:HEX``; skipped says that it was there before."""

    path: Path
    size: int
    digest: str
    skipped: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What `download` brought: the folder, the commit that a Hub source was pinned to, and every file."""

    folder: Path
    commit: str
    files: tuple[FetchedFile, ...]


def download(
    uri: str,
    *,
    to: str | Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    revision: str = "",
    sha256: str = "",
    force: bool = False,
    settings: Mapping[str, object] | None = None,
) -> Result:
    """Fetch one source on this machine and wait for it. Blocks; from a coroutine call it in a thread.

    Args: uri as on the command line; to a folder, or None or "hf-cache" for the Hub cache (Hub sources only); include and exclude
    are globs; sha256 is the digest in hex that a single file must have; settings overrides by name (``{"fetch.attempts": 5}``).
    Configuration files and the environment count as for the command line.
    Raises: the `ShoalError` of what failed first; what did arrive stays and is not fetched again.
    """
    loaded = load_settings(environ=os.environ, cwd=Path.cwd(), overrides=settings)
    parsed = parse_uri(uri, bare_hub=True, hub_endpoints=loaded.hub.endpoint)
    into_cache = to == "hf-cache" or (to is None and isinstance(parsed, HubUri))
    request = SubmitRequest(
        uris=(parsed.canonical(),),
        destination="" if into_cache else str(Path.cwd() / Path(to or ".").expanduser()),
        layout=Layout.HUB_CACHE if into_cache else Layout.FOLDER,
        include=tuple(include),
        exclude=tuple(exclude),
        revision=revision,
        sha256=sha256,
        force=force,
    )

    async def main() -> Result:
        from .embedded import embedded

        async with embedded(loaded) as coordinator:
            submitted = (await coordinator.submit(request))[0]
            job = submitted.job
            async for view in coordinator.watch_job(submitted.job.job_id):
                job = view
            if job.failure is not None:
                raise await job_error(coordinator, job)
            objects: list[ObjectView] = []
            while True:
                after = objects[-1].object_id if objects else 0
                page = await coordinator.list_objects(job.job_id, status="done", after_id=after, limit=PAGE)
                objects += page
                if len(page) < PAGE:
                    break
        folder = Path(place(job, loaded))
        return Result(
            folder=folder,
            commit=job.commit,
            files=tuple(
                FetchedFile(path=folder / obj.path, size=obj.size or 0, digest=obj.digest, skipped=obj.skipped)
                for obj in objects
            ),
        )

    return run(main())
