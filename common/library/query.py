"""Finding, sorting, paging models of the library. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UsageError
from .records import Check, Freshness, Model, Place

NONE: Final = "(none)"
"""In a query: what has no owner, no family, no quantization. Nothing on the Hub can be called this."""

SORTS: Final[Mapping[str, Callable[[Model], Any]]] = {
    "name": lambda model: (model.repo_id.lower(), model.path),
    "owner": lambda model: (model.owner.lower(), model.repo_id.lower(), model.path),
    "family": lambda model: (model.family.lower(), model.repo_id.lower(), model.path),
    "quantization": lambda model: (model.quantizations[:1] or ("~",), model.repo_id.lower(), model.path),
    "size": lambda model: (-model.bytes, model.repo_id.lower(), model.path),
    "age": lambda model: (-model.fetched_at, model.repo_id.lower(), model.path),
}
"""Largest first by size, newest first by age, else by the alphabet. "-" before a name turns it round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What is asked for. search: every word of it is in name, family, quantization, kind or path, whatever its case; the other texts
    are exact, whatever their case; "" does not count, NONE is what has none. limit 0: all."""

    search: str = ""
    owner: str = ""
    family: str = ""
    quantization: str = ""
    kind: str = ""
    place: str = ""
    freshness: str = ""
    sort: str = "name"
    offset: int = 0
    limit: int = 0

    def __post_init__(self) -> None:
        if self.sort.removeprefix("-") not in SORTS:
            raise UsageError(f"sort {self.sort!r}", cause="there is no such order", remedy=f"use {', '.join(SORTS)}")
        for name, value, known in (("place", self.place, Place), ("freshness", self.freshness, Freshness)):
            if value and value not in [each.value for each in known]:
                remedy = f"use {', '.join(each.value for each in known)}"
                raise UsageError(f"{name} {value!r}", cause="there is no such one", remedy=remedy)
        if self.offset < 0 or self.limit < 0:
            raise UsageError("page", cause="offset and limit count from 0", remedy="leave them out for all")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Models in the order that was asked for. total and bytes are of all that match; bytes count shared blobs once."""

    models: tuple[Model, ...]
    total: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """All models with one owner, family, quantization or kind."""

    name: str
    models: int
    bytes: int


def select(models: Iterable[Model], query: Query, checks: Mapping[str, Check] | None = None) -> Page:
    """The page of models that a query asks for. checks (by model_id) serve its freshness."""
    found = [model for model in models if _matches(model, query, checks or {})]
    found.sort(key=SORTS[query.sort.removeprefix("-")], reverse=query.sort.startswith("-"))
    stop = query.offset + query.limit if query.limit else len(found)
    return Page(models=tuple(found[query.offset : stop]), total=len(found), bytes=bytes_of(found))


def groups(models: Iterable[Model], by: str) -> list[Group]:
    """Models counted by "owner", "family", "quantization" or "kind", the largest first. One with two quantizations counts in both."""
    if by not in ("owner", "family", "quantization", "kind"):
        raise UsageError(
            f"group {by!r}", cause="there is no such grouping", remedy="use owner, family, quantization, kind"
        )
    found: dict[str, list[Model]] = {}
    for model in models:
        names = model.quantizations if by == "quantization" else (getattr(model, by),)
        for name in names or ("",):
            found.setdefault(name, []).append(model)
    made = [Group(name=name, models=len(these), bytes=bytes_of(these)) for name, these in found.items()]
    return sorted(made, key=lambda group: (-group.bytes, group.name))


def bytes_of(models: Iterable[Model]) -> int:
    """Bytes on disk of models together: blobs in a cache's shared store count once."""
    total = 0
    seen: set[tuple[str, str]] = set()
    for model in models:
        total += model.bytes
        cache = model.path.rpartition("/")[0]
        for name, size in model.shared:
            if (cache, name) in seen:
                total -= size
            seen.add((cache, name))
    return total


def _is(wanted: str, names: Iterable[str]) -> bool:
    """Whether something has this name, whatever its case; NONE: whether it has no name."""
    there = [name.lower() for name in names if name]
    return not there if wanted == NONE else wanted.lower() in there


def _matches(model: Model, query: Query, checks: Mapping[str, Check]) -> bool:
    if query.owner and not _is(query.owner, (model.owner,)):
        return False
    if query.family and not _is(query.family, (model.family,)):
        return False
    if query.quantization and not _is(query.quantization, model.quantizations):
        return False
    if query.kind and model.kind != query.kind:
        return False
    if query.place and model.place != query.place:
        return False
    if query.freshness:
        check = checks.get(model.model_id)
        if (check.freshness if check else Freshness.UNKNOWN) != query.freshness:
            return False
    if not query.search:
        return True
    text = " ".join((model.repo_id, model.family, model.kind, model.path, *model.quantizations)).lower()
    return all(word in text for word in query.search.lower().split())
