"""What deleting from the Hub's cache removes: snapshots, the blobs that no other snapshot needs, refs, and what goes with them."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import UnsafeName
from ..manifest import ManifestEntry
from ..paths import SafeRoot
from ..uri_records import COMMIT
from .deletion import (
    DeletionPlan,
    exists,
    freed,
    gone,
    kept_of,
    names_in,
    one_revision,
    parents_of,
    strangers,
    work_files,
)
from .hub_cache import CachedRepo, read_repo
from .records import Model

_HASH = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})(?:\.[0-9a-f]+)?(?:\.incomplete)?")
_FOLDERS = ("snapshots", "refs", "blobs", ".no_exist", "trees")


def plan_cached(model: Model, revision: str = "") -> DeletionPlan:
    """The plan for a repo of a cache, or for one revision of it.

    Raises NotFound (it is gone, or has no such revision), Conflict, OSError.
    """
    path = Path(model.path)
    with SafeRoot(path.parent) as root:
        repo = read_repo(root, path.name)
        if repo is None or not (repo.entries or names_in(root, f"{path.name}/blobs")):
            raise gone(model)
        commit = one_revision(repo.entries, repo.refs, revision, model.repo_id) if revision else ""
        if commit and commit not in repo.entries:
            raise gone(model)
        if len(repo.entries) <= 1:
            commit = ""  # the last one takes the repo with it
        return _plan(root, model, repo, commit)


def _plan(root: SafeRoot, model: Model, repo: CachedRepo, commit: str) -> DeletionPlan:
    name = repo.name
    work, work_folders = work_files(root, f"{name}/.shoal")
    locks = [f".locks/{name}/{each}" for each in names_in(root, f".locks/{name}") if each.endswith(".lock")]
    going = [commit] if commit else list(repo.entries)
    files = [f"{name}/refs/{ref}" for ref, to in sorted(repo.refs.items()) if to in going]
    files += [f"{name}/snapshots/{each}/{path}" for each in going for path in sorted(_ours(repo, each))]
    for each in going:
        files += _beneath(root, f"{name}/.no_exist/{each}")
        files += [f"{name}/trees/{tree}" for tree in names_in(root, f"{name}/trees") if tree == f"{each}.json"]
    blobs = _blobs(root, repo, going, is_all=not commit)
    files += [f"{name}/blobs/{blob}" for blob in blobs]
    if not commit:
        files += [f"{name}/.no_exist/{path}" for path in _stale_no_exist(root, repo)]
        files += [*work, *locks, f"{name}/.shoal/manifest.json"]
    files = [path for path in dict.fromkeys(files) if exists(root, path)]
    folders = _folders(root, name, going, files, is_all=not commit)
    visited = (
        [name, *(folder for folder in folders if folder.startswith(f"{name}/"))]
        if not commit
        else [folder for folder in folders if folder.startswith(f"{name}/snapshots/")]
    )
    stays = [path for path in strangers(root, dict.fromkeys(visited), set(files)) if path not in work_folders]
    kept = kept_of((path, "neither the layout nor a manifest names it") for path in stays)
    if not commit and stays:  # the Hub's client calls a repo's folder without this one damaged
        folders = [folder for folder in folders if folder != f"{name}/snapshots"]
    prefix = f"snapshots/{commit}/" if commit else ""

    def drops(entry: ManifestEntry) -> bool:
        return entry.path.startswith(prefix)

    return DeletionPlan(
        model=model,
        base=str(root.path),
        revision=commit,
        files=tuple(files),
        folders=tuple(folders),
        frees=freed(root, files),
        shared=sum(repo.shared[blob][1] for blob in blobs if blob in repo.shared),
        kept=kept[0],
        kept_more=kept[1],
        work=f"{name}/.shoal",
        drops=drops,
        locks=(*work, *locks),
    )


def _ours(repo: CachedRepo, commit: str) -> Iterator[str]:
    """The entries that the layout names. Where it links, a plain file among the links is somebody else's."""
    paths = repo.entries[commit]
    has_links = any(paths.values())
    return (path for path, blob in paths.items() if blob or not has_links)


def _blobs(root: SafeRoot, repo: CachedRepo, going: list[str], *, is_all: bool) -> list[str]:
    needed = {blob for commit, paths in repo.entries.items() if commit not in going for blob in paths.values() if blob}
    used = {blob for commit in going for blob in repo.entries[commit].values() if blob}
    if not is_all:
        return sorted(used - needed)
    named = {blob for blob in names_in(root, f"{repo.name}/blobs") if _HASH.fullmatch(blob)}
    return sorted(used | named)


def _folders(root: SafeRoot, name: str, going: list[str], files: list[str], *, is_all: bool) -> list[str]:
    """The folders that go where they are empty, the deepest first."""
    above = parents_of(files, stop=name)
    tops = [f"{name}/{each}" for each in _FOLDERS]
    snapshots = [f"{name}/snapshots/{each}" for each in going] + [f"{name}/.no_exist/{each}" for each in going]
    for snapshot in snapshots:
        above += [folder for folder in _folders_beneath(root, snapshot) if folder not in above]
    above += [folder for folder in snapshots if folder not in above]
    ordered = sorted(dict.fromkeys(above), key=lambda folder: (-folder.count("/"), folder))
    if not is_all:
        return [folder for folder in ordered if folder not in tops and not folder.startswith(".locks")]
    rest = [folder for folder in ordered if folder not in tops and folder not in (name, ".locks")]
    work = [f"{name}/.shoal/partial", f"{name}/.shoal/jobs", f"{name}/.shoal"]
    return list(dict.fromkeys([*rest, *tops, *work, f".locks/{name}", name]))


def _beneath(root: SafeRoot, top: str) -> list[str]:
    """The regular files below a folder of marks for files that do not exist."""
    found: list[str] = []
    for folder in [top, *_folders_beneath(root, top)]:
        for name in names_in(root, folder):
            try:
                status = root.stat_beneath(f"{folder}/{name}")
            except (OSError, UnsafeName):
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size == 0:  # a mark has no content
                found.append(f"{folder}/{name}")
    return found


def _folders_beneath(root: SafeRoot, top: str) -> list[str]:
    found: list[str] = []
    pending = [top]
    while pending:
        folder = pending.pop()
        for name in names_in(root, folder):
            path = f"{folder}/{name}"
            try:
                is_folder = stat.S_ISDIR(root.stat_beneath(path).st_mode)
            except (OSError, UnsafeName):
                continue
            if is_folder:
                found.append(path)
                pending.append(path)
    return found


def _stale_no_exist(root: SafeRoot, repo: CachedRepo) -> Iterator[str]:
    """Marks of commits that have no snapshot."""
    top = f"{repo.name}/.no_exist"
    for commit in names_in(root, top):
        if COMMIT.fullmatch(commit) and commit not in repo.entries:
            yield from (path[len(top) + 1 :] for path in _beneath(root, f"{top}/{commit}"))
