"""The library as the API shows it: `common/library/` behind the words of `library_api.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.errors import ShoalError, UsageError
from ...common.library.freshness import ref_of
from ...common.library.library import Library
from ...common.library.query import Query, groups
from ...common.library.records import Check, Freshness, Model, Place
from ...common.library.update import update_request
from ...common.uri import HubUri
from ...common.views import SubmitRequest
from ..inspecting import look_at
from ..sources.base import SourceRequest
from .jobs_api import HUB_CACHE, check_destination
from .library_api import (
    DeleteBody,
    Deletion,
    GroupsQuery,
    KeptPath,
    ModelDetail,
    ModelFileEntry,
    ModelFreshness,
    ModelGroup,
    ModelGroups,
    ModelRevision,
    ModelsPage,
    ModelsQuery,
    ModelUpdates,
    UpdatedModel,
)
from .library_api import Model as ShownModel
from .models import SubmittedJob, job_of

if TYPE_CHECKING:
    from ...common.settings import Settings
    from ..api import CoordinatorApi
    from ..planner import OpenSource

FILES_MAX = 5000


class SiteLibrary:
    """Satisfies `library_api.LibraryView`."""

    def __init__(
        self,
        library: Library,
        *,
        api: CoordinatorApi,
        open_source: OpenSource,
        settings: Settings,
        jobs_ended: Callable[[], int] = lambda: 0,
    ) -> None:
        """jobs_ended tells, from any thread, how many jobs have ended so far."""
        self._library = library
        self._api = api
        self._open_source = open_source
        self._settings = settings
        self._jobs_ended = jobs_ended
        self._ended_then = jobs_ended()

    def _look(self) -> None:
        """Look at the disk again if downloads have ended since: people go to look for what just came."""
        ended = self._jobs_ended()
        if ended != self._ended_then:
            self._library.refresh()
            self._ended_then = ended

    # ---- what blocks ------------------------------------------------------------------------------------------------

    def page(self, query: ModelsQuery) -> ModelsPage:
        """A page of models. Raises UsageError for a cursor that no page named."""
        offset = _offset(query.cursor)
        self._look()
        found = self._library.page(
            Query(
                search=query.search,
                owner=query.owner,
                family=query.family,
                quantization=query.quantization,
                kind=query.kind,
                freshness=query.freshness or "",
                sort=query.sort,
                offset=offset,
                limit=query.limit,
            )
        )
        checks = self._library.checks
        end = offset + len(found.models)
        return ModelsPage(
            models=tuple(_shown(model, checks) for model in found.models),
            total=found.total,
            bytes=found.bytes,
            next_cursor=str(end) if end < found.total and found.models else None,
        )

    def groups(self, query: GroupsQuery) -> ModelGroups:
        """Models counted."""
        self._look()
        wanted = self._library.page(Query(search=query.search, freshness=query.freshness or ""))
        found = groups(wanted.models, query.by)
        return ModelGroups(
            groups=tuple(ModelGroup(name=each.name, models=each.models, bytes=each.bytes) for each in found)
        )

    def detail(self, model_id: str) -> ModelDetail:
        """One model with its files. Raises NotFound, Conflict."""
        self._look()
        model = self._library.find(model_id)
        files = self._library.files(model)
        return ModelDetail(
            model=_shown(model, self._library.checks),
            files=tuple(
                ModelFileEntry(path=file.path, bytes=file.bytes, commits=file.commits, state=file.state)
                for file in files[:FILES_MAX]
            ),
            files_total=len(files),
        )

    def find(self, model_id: str) -> Model:
        """One model, as the library has it. Raises NotFound, Conflict."""
        return self._library.find(model_id)

    def delete(self, body: DeleteBody) -> Deletion:
        """Delete, or tell what would go. Raises NotFound, Conflict, Busy."""
        model = self._library.find(body.model_id)
        plan = self._library.plan_deletion(model, revision=body.revision)
        deleted = None if body.dry_run else self._library.delete(plan)
        return Deletion(
            model_id=model.model_id,
            revision=plan.revision,
            dry_run=body.dry_run,
            files=len(plan.files) if deleted is None else deleted.removed,
            frees_bytes=plan.frees,
            kept=tuple(KeptPath(path=path, reason=reason) for path, reason in plan.kept),
            kept_more=plan.kept_more,
            failed=tuple(KeptPath(path=path, reason=reason) for path, reason in (deleted.failed if deleted else ())),
        )

    # ---- what asks the Hub, or the fleet ----------------------------------------------------------------------------

    async def check(self, model_ids: tuple[str, ...]) -> tuple[ShownModel, ...]:
        """Ask for newer revisions. Raises NotFound, Conflict."""
        models = await asyncio.to_thread(self._find_all, model_ids)
        await self._library.check(models, self._newest)
        checks = await asyncio.to_thread(lambda: self._library.checks)
        return tuple(_shown(model, checks) for model in models)

    async def update(self, model_ids: tuple[str, ...], *, user: str = "") -> ModelUpdates:
        """Submit a job for each, for a user. Raises NotFound, Conflict for an id that is none; what cannot be updated says why."""
        models = await asyncio.to_thread(self._find_all, model_ids)
        return ModelUpdates(models=tuple([await self._update(model, user) for model in models]))

    async def _update(self, model: Model, user: str) -> UpdatedModel:
        try:
            request = await self._request_for(model)
            submitted = (await self._api.submit(request, user=user))[0]
        except ShoalError as error:
            return UpdatedModel(model_id=model.model_id, job=None, reason=str(error))
        job = SubmittedJob(created=submitted.created, job=job_of(submitted.job))
        return UpdatedModel(model_id=model.model_id, job=job, reason="")

    async def _request_for(self, model: Model) -> SubmitRequest:
        """What brings a model's newest revision to where it lies. Raises ShoalError where nothing can."""
        named = ref_of(model)
        commit = named[1].commit if named is not None else ""
        files = await asyncio.to_thread(self._library.files, model)
        have = [file.path for file in files if commit in file.commits or not file.commits]
        request = await update_request(model, have, self._list_files, root=self._settings.agent.root)
        is_cache = model.place is Place.HUB_CACHE and Path(model.path).parent == self._settings.hub.cache
        check_destination(self._settings, HUB_CACHE if is_cache else request.destination)
        return request

    async def _list_files(self, uri: HubUri) -> list[tuple[str, int | None]]:
        found = await look_at(SourceRequest(uri=uri), self._open_source)
        return [(file.path, file.size) for file in found.files]

    async def _newest(self, uri: HubUri) -> str:
        return (await self._open_source(SourceRequest(uri=uri)).resolve()).commit

    def _find_all(self, model_ids: Sequence[str]) -> list[Model]:
        self._look()
        return [self._library.find(model_id) for model_id in model_ids]


def _shown(model: Model, checks: Mapping[str, Check]) -> ShownModel:
    check = checks.get(model.model_id)
    return ShownModel(
        model_id=model.model_id,
        kind=model.kind,
        repo_id=model.repo_id,
        source=model.source,
        place=model.place.value,
        path=model.path,
        owner=model.owner,
        family=model.family,
        quantizations=model.quantizations,
        revisions=tuple(
            ModelRevision(
                commit=each.commit, refs=each.refs, files=each.files, bytes=each.bytes, fetched_at=each.fetched_at
            )
            for each in model.revisions
        ),
        bytes=model.bytes,
        files=model.files,
        fetched_at=model.fetched_at,
        freshness=ModelFreshness((check.freshness if check else Freshness.UNKNOWN).value),
        latest=check.latest if check else "",
        checked_at=check.checked_at if check else None,
        reason=check.reason if check else "nobody has asked yet",
    )


def _offset(cursor: str) -> int:
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit()) or len(cursor) > 12:
        raise UsageError("query.cursor", cause="it is not one that a page named", remedy="begin without one")
    return int(cursor)
