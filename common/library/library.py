"""The way into the library: what is on disk, kept up to date as cheaply as may be; safe to use from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import Conflict, NotFound
from ..paths import SafeRoot
from .deletion import Deleted, DeletionPlan, delete, plan_deletion
from .folders import read_folder
from .freshness import AskCommit, check_freshness
from .hub_cache import files_of, model_id, read_repo
from .index import Index
from .query import Group, Page, Query, groups, select
from .records import Check, Freshness, Model, ModelFile, Place
from .state import CHECKS, INDEX, known_places, read_state, write_state

if TYPE_CHECKING:
    from ..settings import Settings


class Library:
    """What is on disk below some roots, and in some places."""

    def __init__(
        self,
        roots: Sequence[Path],
        state: Path,
        *,
        use_places: bool = True,
        max_age_s: float = 0.0,
        checks_at_once: int = 4,
        offline: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """state is the folder of the index; use_places: look also where downloads went, as that folder notes. max_age_s: how old
        what `page` answers from may be. Clocks are in seconds; clock counts from 1970."""
        self._roots = tuple(roots)
        self._state = state
        self._use_places = use_places
        self._max_age_s = max_age_s
        self._checks_at_once = checks_at_once
        self._offline = offline
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._models: tuple[Model, ...] = ()
        self._checks: dict[str, Check] = {}
        self._refreshed_at = float("-inf")
        self._has_looked = False

    # ---- what is there --------------------------------------------------------------------------------------------------

    def refresh(self, *, rescan: bool = False) -> None:
        """Look what changed on disk. rescan: read everything anew. May take a while: call it from a thread."""
        with self._lock:
            self._refresh(rescan=rescan)

    def models(self) -> tuple[Model, ...]:
        """Everything, as of at most max_age_s ago; while another thread looks again, what was known before."""
        if self._monotonic() - self._refreshed_at <= self._max_age_s:
            return self._models
        if not self._lock.acquire(blocking=not self._has_looked):
            return self._models
        try:
            if self._monotonic() - self._refreshed_at > self._max_age_s:
                self._refresh(rescan=False)
            return self._models
        finally:
            self._lock.release()

    def page(self, query: Query) -> Page:
        """The models that a query asks for. Raises UsageError through `Query` alone."""
        return select(self.models(), query, self.checks)

    def groups(self, by: str) -> list[Group]:
        """How many models, and how many bytes, each owner, family, quantization or kind has. Raises UsageError."""
        return groups(self.models(), by)

    def find(self, name: str) -> Model:
        """The one model with this id, repo id, ``hf://`` URI or folder. Raises NotFound, Conflict when several have it."""
        models = self.models()
        path = str(Path(name).expanduser().absolute())
        tests: tuple[Callable[[Model], bool], ...] = (
            lambda model: model.model_id == name,
            lambda model: model.repo_id == name or (bool(model.source) and model.source == name),
            lambda model: model.repo_id.lower() == name.lower(),
            lambda model: model.path == path,
        )
        for test in tests:
            found = [model for model in models if test(model)]
            if len(found) == 1:
                return found[0]
            if found:
                there = "; ".join(f"{model.model_id} {model.kind} in {model.path}" for model in found)
                raise Conflict(f"model {name}", cause="several have this name", remedy=f"name one by its id: {there}")
        raise NotFound(f"model {name}", cause="it is not in the library", remedy="shoal models list shows what is")

    def files(self, model: Model) -> list[ModelFile]:
        """The files of a model, read from the disk now. Raises NotFound when it is gone, OSError."""
        if model.place is Place.HUB_CACHE:
            folder = Path(model.path)
            with SafeRoot(folder.parent) as root:
                repo = read_repo(root, folder.name)
            if repo is not None:
                return list(files_of(repo))
        elif Path(model.path).is_dir():
            with SafeRoot(model.path) as root:
                for uri, source in read_folder(root).sources.items():
                    if model_id(str(root.path), uri) == model.model_id:
                        return sorted(source.files, key=lambda file: file.path)
        raise NotFound(model.repo_id or model.path, cause=f"nothing of it is at {model.path} any more")

    # ---- what is newer --------------------------------------------------------------------------------------------------

    @property
    def checks(self) -> Mapping[str, Check]:
        """What the Hub last said, by model_id; only of what is on disk as it was then."""
        if self._index is None:
            with self._lock:
                self._open()
        return self._checks

    async def check(self, models: Sequence[Model], ask: AskCommit) -> list[Check]:
        """Ask the Hub about models, and remember its answers. Returns them in the order of models. An answer of "unknown" does not
        take the place of an earlier one."""
        found = await check_freshness(
            models, ask, clock=self._clock, at_once=self._checks_at_once, offline=self._offline
        )
        with self._lock:
            self._open()
            known = dict(self._checks)  # readers hold no lock: what they have stays as it is
            for model, check in zip(models, found, strict=True):
                earlier = known.get(model.model_id)
                if check.freshness is Freshness.UNKNOWN and earlier is not None and earlier.commit == check.commit:
                    continue
                known[model.model_id] = check
            self._checks = known
            self._save_checks()
        return found

    # ---- deletion -------------------------------------------------------------------------------------------------------

    def plan_deletion(self, model: Model, *, revision: str = "") -> DeletionPlan:
        """What deleting would do; see `deletion.plan_deletion`."""
        return plan_deletion(model, revision=revision)

    def delete(self, plan: DeletionPlan) -> Deleted:
        """Carry a plan out; see `deletion.delete`."""
        try:
            return delete(plan)
        finally:
            self.forget(plan.model)

    def forget(self, model: Model) -> None:
        """Read a model anew when it is next asked for: something was done to it."""
        with self._lock:
            self._open().forget(model.path)
            self._has_looked = False  # what is known is known to be wrong: whoever asks next waits
            self._refreshed_at = float("-inf")

    # ---- inside ---------------------------------------------------------------------------------------------------------

    def _open(self) -> Index:
        if self._index is None:
            index = Index(lambda: int(self._clock() * 1e9))
            index.load(read_state(self._state / INDEX))
            self._checks = dict(_checks(read_state(self._state / CHECKS)))
            self._index = index
        return self._index

    def _refresh(self, *, rescan: bool) -> None:
        index = self._open()
        if rescan:
            index = self._index = Index(lambda: int(self._clock() * 1e9))
        is_changed = index.refresh(self._roots, known_places(self._state) if self._use_places else ())
        if is_changed or not self._models:
            self._models = tuple(index.models())
        if is_changed:
            write_state(self._state / INDEX, index.to_json())
            self._revise_checks()
        self._refreshed_at = self._monotonic()
        self._has_looked = True

    def _revise_checks(self) -> None:
        """What the Hub said holds for the revision that was there then. One that was newer, and is there by now, is current."""
        models = {model.model_id: model for model in self._models}
        kept: dict[str, Check] = {}
        for key, check in self._checks.items():
            revisions = models[key].revisions if key in models else ()
            arrived = any(check.latest == each.commit and check.ref in each.refs for each in revisions)
            if check.freshness is Freshness.OUTDATED and arrived:
                check = replace(check, freshness=Freshness.CURRENT, commit=check.latest)
            if key in models and (not check.commit or any(check.commit == each.commit for each in revisions)):
                kept[key] = check
        if kept != self._checks:
            self._checks = kept
            self._save_checks()

    def _save_checks(self) -> None:
        write_state(self._state / CHECKS, {key: asdict(check) for key, check in self._checks.items()})


def open_library(settings: Settings, *, also: Iterable[Path] = (), max_age_s: float | None = None) -> Library:
    """The library that the settings describe. also: more roots; max_age_s: instead of ``library.refresh``."""
    roots = [*settings.library.roots, *also]
    if settings.library.places:
        roots.append(settings.hub.cache)
    return Library(
        roots,
        settings.library.state,
        use_places=settings.library.places,
        max_age_s=settings.library.refresh if max_age_s is None else max_age_s,
        checks_at_once=settings.library.checks,
        offline=settings.hub.offline,
    )


def _checks(value: object) -> Iterable[tuple[str, Check]]:
    if not isinstance(value, dict):
        return
    for key, each in cast("dict[str, Any]", value).items():
        try:
            fields: dict[str, Any] = dict(each)
            fields["freshness"] = Freshness(fields["freshness"])
            yield key, Check(**fields)
        except (TypeError, KeyError, ValueError):
            continue
