"""What an update fetches: of the new revision the same selection as of the old one. Pure.

No download says what was selected, and those of the Hub's client never did. So the selection is told from what is there and what the
old revision offered: who took everything gets everything; who took some gets the same paths, the same quantizations under
whatever names they have now, and new files of a kind (folder and suffix) of which every one was taken.
"""

from __future__ import annotations

import glob
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..records import Layout
from ..uri import HubUri, parse_uri
from ..views import SubmitRequest
from .freshness import ref_of
from .quantization import Grouping, group_files, normal_label
from .records import Model, Place

Listing = Iterable[tuple[str, int | None]]
"""Paths below the repo, with bytes."""
ListFiles = Callable[[HubUri], Awaitable[list[tuple[str, int | None]]]]
"""A repo at a revision -> its files. Raises ShoalError."""


def same_selection(have: Collection[str], old: Listing | None, new: Listing, *, repo_id: str = "") -> list[str] | None:
    """The paths of a new revision to fetch; None for all of them.

    Args: have are the paths on disk; old and new what the two revisions offer, old None where nobody knows any more.
    """
    offered = None if old is None else dict(old)
    if offered is not None and offered.keys() <= set(have):
        return None
    now = dict(new)
    taken = set(have)
    before = set(have) if offered is None else set(offered)
    old_sizes = offered or dict.fromkeys(have, 0)
    old_rows, new_rows = (group_files(files.items(), repo_id=repo_id) for files in (old_sizes, now))
    labels = _labels_taken(old_rows, taken)
    wanted = taken & now.keys()
    weights: set[str] = set()
    for row in (*new_rows.variants, *new_rows.sidecars):
        weights.update(row.files)
        if (row.kind, normal_label(row.label)) in labels:
            wanted.update(path for path in row.files if path not in before)
    kinds = _kinds_taken(before, taken) if offered is not None else set[tuple[str, str]]()
    wanted.update(path for path in now if path not in before and path not in weights and _kind(path) in kinds)
    return sorted(wanted)


async def update_request(
    model: Model, have: Collection[str], list_files: ListFiles, *, root: Path, old: Listing | None = None
) -> SubmitRequest:
    """What to submit to bring a model up to date, in the place where it is.

    Args: have are its paths on disk at the revision that is updated; old what that offered, where it is known already; root is
    the folder that an agent takes destinations below. Raises UsageError for what has no ref that could move, ShoalError.
    """
    named = ref_of(model)
    uri = parse_uri(model.source) if model.source else None
    if named is None or not isinstance(uri, HubUri):
        cause = "it was fetched by commit" if model.source.startswith("hf://") else "nothing says which repo it is of"
        raise UsageError(f"model {model.repo_id}", cause=cause, remedy="fetch the revision that you want: shoal get")
    ref, revision = named
    new = await list_files(replace(uri, revision=ref))
    if old is None:
        from ..errors import NotFound

        try:
            old = await list_files(replace(uri, revision=revision.commit))
        except NotFound:  # the history was rewritten
            old = None
    paths = same_selection(have, old, new, repo_id=model.repo_id)
    folder = Path(model.path)
    is_cache = model.place is Place.HUB_CACHE
    return SubmitRequest(
        uris=(uri.canonical(),),
        destination=_below(folder.parent if is_cache else folder, root),
        layout=Layout.HUB_CACHE if is_cache else Layout.FOLDER,
        revision=ref,
        include=() if paths is None else tuple(glob.escape(path) for path in paths),
    )


def _below(folder: Path, root: Path) -> str:
    """A folder as an agent is told it. Raises UsageError when it is not below the agent's root."""
    try:
        return f"/{folder.relative_to(root).as_posix()}"
    except ValueError:
        cause = f"it is not below the agent's root {root}"
        raise UsageError(str(folder), cause=cause, remedy="set agent.root to /, its default") from None


def _labels_taken(rows: Grouping, taken: Collection[str]) -> set[tuple[str, str]]:
    return {
        (row.kind, normal_label(row.label))
        for row in (*rows.variants, *rows.sidecars)
        if any(path in taken for path in row.files)
    }


def _kinds_taken(offered: Iterable[str], taken: Collection[str]) -> set[tuple[str, str]]:
    """The kinds of file of which each one that was offered was taken."""
    all_of: dict[tuple[str, str], bool] = {}
    for path in offered:
        all_of[_kind(path)] = all_of.get(_kind(path), True) and path in taken
    return {kind for kind, is_whole in all_of.items() if is_whole}


def _kind(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name[name.rfind(".") :].lower() if "." in name else ""
