"""Models on disk: list, look for newer revisions, update, delete."""

# ruff: noqa: RUF009  # described() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aiohttp import web

from ...common.library.records import Model as FoundModel
from .guard import caller_of
from .models import SubmittedJob, cursor_field, limit_field
from .routing import Routes
from .schema import described
from .site import Site

IDS_MAX = 1000

routes = Routes("models")


class ModelSort(StrEnum):
    """How models are sorted; with "-" the other way round."""

    NAME = "name"
    OWNER = "owner"
    FAMILY = "family"
    QUANTIZATION = "quantization"
    SIZE = "size"  # largest first
    AGE = "age"  # newest first
    NAME_DOWN = "-name"
    OWNER_DOWN = "-owner"
    FAMILY_DOWN = "-family"
    QUANTIZATION_DOWN = "-quantization"
    SIZE_UP = "-size"
    AGE_UP = "-age"


class ModelFreshness(StrEnum):
    """Whether there is a newer revision."""

    CURRENT = "current"
    OUTDATED = "outdated"
    PINNED = "pinned"
    UNKNOWN = "unknown"


class ModelGroupBy(StrEnum):
    """What models are counted by."""

    OWNER = "owner"
    FAMILY = "family"
    QUANTIZATION = "quantization"
    KIND = "kind"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelsQuery:
    """Which models."""

    search: str = described("Words that name, family, kind, folder or quantization hold.", "", maxLength=256)
    owner: str = described("Only of this owner; (none): without one.", "", maxLength=256)
    family: str = described("Only of this family; (none): without one.", "", maxLength=256)
    quantization: str = described("Only with this quantization; (none): without any.", "", maxLength=64)
    kind: str = described("model, dataset, space, s3, https.", "", maxLength=32)
    freshness: ModelFreshness | None = described("Only such ones.", None)
    sort: ModelSort = described("Order.", ModelSort.NAME)
    cursor: str = cursor_field()
    limit: int = limit_field()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRevision:
    """One revision on disk. bytes counts what it shares with others, too."""

    commit: str
    refs: tuple[str, ...]
    files: int
    bytes: int
    fetched_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A repo, or the files of another source, in one place."""

    model_id: str
    kind: str
    repo_id: str
    source: str
    place: str = described("hf-cache or folder.")
    path: str
    owner: str
    family: str
    quantizations: tuple[str, ...]
    revisions: tuple[ModelRevision, ...]
    bytes: int = described("On disk; what revisions share counts once.")
    files: int
    fetched_at: float
    freshness: ModelFreshness
    latest: str = described("The newest commit, where the Hub was asked.")
    checked_at: float | None = described("When it was asked; null: never.")
    reason: str = described("Why nothing is known.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelsPage:
    """A page of models. total and bytes are of all that match."""

    models: tuple[Model, ...]
    total: int
    bytes: int
    next_cursor: str | None = described("null: this is the last page.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFileEntry:
    """A file of a model."""

    path: str
    bytes: int
    commits: tuple[str, ...]
    state: str = described("Empty: well; else missing or changed.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDetail:
    """A model with its files; at most 5,000 are named."""

    model: Model
    files: tuple[ModelFileEntry, ...]
    files_total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelGroup:
    """All models that have something in common."""

    name: str
    models: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelGroups:
    """Groups, the largest first."""

    groups: tuple[ModelGroup, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupsQuery:
    """Which grouping, and of which models."""

    by: ModelGroupBy = described("What to count by.", ModelGroupBy.OWNER)
    search: str = described("Words that name, family, kind, folder or quantization hold.", "", maxLength=256)
    freshness: ModelFreshness | None = described("Only such ones.", None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIds:
    """Some models."""

    model_ids: tuple[str, ...] = described("Ids of GET /api/models.", minItems=1, maxItems=IDS_MAX)


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatedModel:
    """What came of one model: a job, or the reason why not."""

    model_id: str
    job: SubmittedJob | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelUpdates:
    """What came of each model, in the order of the request."""

    models: tuple[UpdatedModel, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteBody:
    """What to delete. Nothing is deleted that neither a manifest nor the cache's layout names."""

    model_id: str = described("Id of GET /api/models.", minLength=1, maxLength=512)
    revision: str = described("Only this commit or ref; empty: all of it.", "", maxLength=250)
    dry_run: bool = described("Tell what would go, and delete nothing.", False)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptPath:
    """A path that stays."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Deletion:
    """What went, or would go."""

    model_id: str
    revision: str
    dry_run: bool
    files: int
    frees_bytes: int
    kept: tuple[KeptPath, ...]
    kept_more: int
    failed: tuple[KeptPath, ...]


class LibraryView(Protocol):
    """What the handlers need of a library. Every method may block and is called in a thread, but check."""

    def page(self, query: ModelsQuery) -> ModelsPage: ...
    def groups(self, query: GroupsQuery) -> ModelGroups: ...
    def detail(self, model_id: str) -> ModelDetail: ...
    def delete(self, body: DeleteBody) -> Deletion: ...
    def find(self, model_id: str) -> FoundModel: ...
    async def check(self, model_ids: tuple[str, ...]) -> tuple[Model, ...]: ...
    async def update(self, model_ids: tuple[str, ...], *, user: str = "") -> ModelUpdates: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """Some models."""

    models: tuple[Model, ...]


@routes.get("/api/models", summary="Models on disk")
async def list_models(site: Site, *, query: ModelsQuery) -> ModelsPage:
    """Of the machine that the coordinator runs on."""
    return await site.in_library(lambda library: library.page(query))


@routes.get("/api/models/groups", summary="Models counted by owner, family, quantization or kind")
async def group_models(site: Site, *, query: GroupsQuery) -> ModelGroups:
    return await site.in_library(lambda library: library.groups(query))


@routes.post("/api/models/check", summary="Ask the Hub for newer revisions", errors=(404, 409))
async def check_models(site: Site, *, body: ModelIds) -> Models:
    return Models(models=await site.library.check(body.model_ids))


@routes.post("/api/models/update", summary="Fetch newer revisions", status=202, errors=(404, 409))
async def update_models(site: Site, *, request: web.Request, body: ModelIds) -> ModelUpdates:
    """Each model becomes a job that brings its ref's newest commit to where the model lies."""
    return await site.library.update(body.model_ids, user=caller_of(request).user)


@routes.post("/api/models/delete", summary="Delete a model, or one revision of it", errors=(404, 409))
async def delete_model(site: Site, *, body: DeleteBody) -> Deletion:
    """Ask with dry_run first, and show what that tells."""
    return await site.in_library(lambda library: library.delete(body))


@routes.get("/api/models/{model_id}", summary="One model with its files")
async def get_model(site: Site, *, model_id: str) -> ModelDetail:
    return await site.in_library(lambda library: library.detail(model_id))
