"""Models on disk, verified and repaired."""

# described() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from ...common.library.records import Place
from ...common.library.repair import repair_requests
from ...common.manifest import ProblemKind
from ...common.records import Layout
from .guard import caller_of
from .jobs_api import HUB_CACHE, check_destination
from .models import Downloads, SubmittedJob, job_of
from .routing import Routes
from .schema import described
from .site import Site
from .verifying import Verification, VerifyState

SHOWN_MAX = 100
"""Wrong files that one answer names."""

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
    errors=(403, 404, 409, 429),
)
async def repair_model(site: Site, *, request: web.Request, body: ModelId) -> Downloads:
    """One job for each commit that wrong files are of. What is right is left alone."""
    turn = site.verifications.wrong(body.model_id)
    is_cache = turn.model.place is Place.HUB_CACHE
    folder = Path(turn.model.path)
    requests = repair_requests(
        folder.parent if is_cache else folder,
        [each.entry for each in turn.problems],
        layout=Layout.HUB_CACHE if is_cache else Layout.FOLDER,
        root=site.settings.agent.root,
    )
    destination = HUB_CACHE if is_cache and folder.parent == site.settings.hub.cache else ""
    for wanted in requests:
        check_destination(site.settings, destination or wanted.destination)
    user = caller_of(request).user
    submitted = [each for wanted in requests for each in await site.api.submit(wanted, user=user)]
    return Downloads(jobs=tuple(SubmittedJob(created=each.created, job=job_of(each.job)) for each in submitted))
