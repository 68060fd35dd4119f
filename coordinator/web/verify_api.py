"""Models on disk, verified and repaired."""

# described() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import web

from ...common.errors import Conflict
from ...common.library.records import Model, Place
from ...common.manifest import ManifestEntry, ProblemKind
from ...common.records import Layout
from ...common.uri import HubUri, parse_uri
from ...common.views import SubmitRequest
from ..sources.base import SourceRequest
from .guard import caller_of
from .jobs_api import HUB_CACHE, check_destination
from .models import Downloads, SubmittedJob, job_of
from .routing import Routes
from .schema import described
from .site import Site
from .verifying import Verification, VerifyState

SHOWN_MAX = 100
"""Wrong files that one answer names."""
_SNAPSHOT = re.compile(r"snapshots/[^/]+/(?P<path>.+)")

routes = Routes("models")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelId:
    """One model."""

    model_id: str = described("Id of GET /api/models.", minLength=1, maxLength=512)


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongFile:
    """A file that is not what it should be."""

    kind: ProblemKind
    text: str = described("Names the file and what is wrong with it.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVerification:
    """How far a model's verification is, and what it found so far."""

    model_id: str
    state: VerifyState
    reason: str = described("Why it could not be done.")
    checked: int = described("Files.")
    bytes: int = described("That were read.")
    bytes_total: int
    problems: tuple[WrongFile, ...] = described("At most 100.")
    problems_total: int


def _shown(turn: Verification) -> ModelVerification:
    return ModelVerification(
        model_id=turn.model.model_id,
        state=turn.state,
        reason=turn.reason,
        checked=turn.checked,
        bytes=turn.bytes,
        bytes_total=max(turn.bytes, turn.model.bytes),
        problems=tuple(WrongFile(kind=each.kind, text=each.text) for each in turn.problems[:SHOWN_MAX]),
        problems_total=turn.problems_total,
    )


@routes.post("/api/models/verify", summary="Hash a model's files", status=202, errors=(404, 409, 429))
async def verify_model(site: Site, *, body: ModelId) -> ModelVerification:
    """The coordinator reads the files where they lie, one model at a time. Follow it with GET /api/models/{model_id}/verification."""
    model = await site.in_library(lambda library: library.find(body.model_id))
    return _shown(site.verifications.begin(model))


@routes.get("/api/models/{model_id}/verification", summary="How far a model's verification is", errors=(404,))
async def get_verification(site: Site, *, model_id: str) -> ModelVerification:
    return _shown(site.verifications.find(model_id))


@routes.post(
    "/api/models/repair",
    summary="Fetch again what a verification found wrong",
    status=202,
    asks_origin=True,
    errors=(403, 404, 409, 429, 502, 503),
)
async def repair_model(site: Site, *, request: web.Request, body: ModelId) -> Downloads:
    """One job for each revision that wrong files are of. What is right is left alone."""
    turn = site.verifications.wrong(body.model_id)
    entries = [each.entry for each in turn.problems]
    moved = frozenset(
        [pair for pair in {(each.source, each.commit) for each in entries} if await _has_moved(site, *pair)]
    )
    requests = repair_requests(turn.model, entries, root=site.settings.agent.root, moved=moved)
    for wanted in requests:
        is_cache = wanted.layout is Layout.HUB_CACHE and Path(turn.model.path).parent == site.settings.hub.cache
        check_destination(site.settings, HUB_CACHE if is_cache else wanted.destination)
    user = caller_of(request).user
    submitted = [each for wanted in requests for each in await site.api.submit(wanted, user=user)]
    return Downloads(jobs=tuple(SubmittedJob(created=each.created, job=job_of(each.job)) for each in submitted))


async def _has_moved(site: Site, source: str, commit: str) -> bool:
    """Whether a source is at another commit by now. Raises ShoalError."""
    if not source or not commit:
        return False
    resolved = await site.open_source(SourceRequest(uri=parse_uri(source))).resolve()
    return resolved.commit != commit


def repair_requests(
    model: Model, entries: Iterable[ManifestEntry], *, root: Path, moved: Collection[tuple[str, str]] = ()
) -> list[SubmitRequest]:
    """What brings wrong files back, each from the revision that it is of.

    Args: root is what agents take destinations below; moved are the sources, with the commit that was fetched, that are at another
    one now. The others are asked for by the name that they were fetched by, so that the manifest goes on to call them that.
    Raises Conflict for files of which nothing tells where they came from.
    """
    folder = Path(model.path)
    is_cache = model.place is Place.HUB_CACHE
    if not folder.is_relative_to(root):
        raise Conflict(model.path, cause=f"agents write below agent.root {root} only")
    wanted: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        snapshot = _SNAPSHOT.fullmatch(entry.path) if is_cache else None
        if not entry.source or (is_cache and snapshot is None):
            cause = f"nothing says which file of which revision {entry.path} is"
            raise Conflict(model.path, cause=cause, remedy="fetch the repo again, with force")
        path = snapshot["path"] if snapshot is not None else entry.path
        wanted.setdefault((entry.source, entry.commit), []).append(path)
    return [
        SubmitRequest(
            uris=(_unpinned(source) if (source, commit) in moved else source,),
            destination=f"/{(folder.parent if is_cache else folder).relative_to(root)}",
            layout=Layout.HUB_CACHE if is_cache else Layout.FOLDER,
            revision=commit if (source, commit) in moved else "",
            include=tuple(glob.escape(path) for path in paths),
            force=True,
        )
        for (source, commit), paths in wanted.items()
    ]


def _unpinned(source: str) -> str:
    """A source without its revision: a repair asks for the commit that was fetched, wherever the branch is now."""
    uri = parse_uri(source)
    return replace(uri, revision=None).canonical() if isinstance(uri, HubUri) else source
