"""What deleting a model would remove, and removing it. Nothing goes that the manifest or the layout does not name.

A plan is made first: every path that goes, in the order in which they go, how many bytes that frees, what stays and why. Then it is
carried out through `SafeRoot`, so that a symlink in the way leads nowhere. A deletion that is stopped in the middle is
finished by running it again: manifests and the folders of repos go last, and refs go before the snapshots that they name.

What lives is left alone: a run holds locks on files of its work folder, the Hub's client on files below ``.locks``.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import Busy, Conflict, NotFound, StateDamaged, UnsafeName
from ..flock import held_alone
from ..lease_file import may_live, server_now
from ..manifest import WORK_FOLDER, ManifestEntry, read_manifest, write_manifest
from ..manifest_lock import LOCK_NAME, manifest_lock
from ..paths import SafeRoot
from .records import Model, Place

KEPT_MAX = 50  # files that are told of by name


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionPlan:
    """What goes and what stays. Paths are below base, an absolute path; revision is "" for all of a model.

    files go in this order; folders after them, where they are empty by then. frees counts bytes that no other name holds;
    shared those that stay in the store that repos of a cache share. kept are paths with the reason, kept_more how many more.
    drops tells which entries leave the manifest in the folder work.
    """

    model: Model
    base: str
    revision: str = ""
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    frees: int = 0
    shared: int = 0
    kept: tuple[tuple[str, str], ...] = ()
    kept_more: int = 0
    work: str = WORK_FOLDER
    drops: Callable[[ManifestEntry], bool] | None = None
    source: str = ""  # leaves the manifest's list of sources
    locks: tuple[str, ...] = ()  # files that a live run or the Hub's client would hold


@dataclass(frozen=True, kw_only=True, slots=True)
class Deleted:
    """What a deletion did. failed are paths that could not be removed, with the reason."""

    plan: DeletionPlan
    removed: int
    failed: tuple[tuple[str, str], ...]


def plan_deletion(model: Model, *, revision: str = "") -> DeletionPlan:
    """What deleting a model, or one revision of it, would do. Nothing is changed.

    revision: a commit, the first seven or more digits of one, or a ref. Raises NotFound (it is gone, or has no such revision),
    Conflict (a folder holds one revision only), OSError.
    """
    if model.place is Place.HUB_CACHE:
        from .deletion_cache import plan_cached

        return plan_cached(model, revision)
    from .deletion_folder import plan_folder

    commits = {each.commit for each in model.revisions}
    if revision and not any(revision in (each.commit, *each.refs) for each in model.revisions):
        raise NotFound(
            f"revision {revision} of {model.repo_id}", cause=f"the folder holds {', '.join(commits) or 'none'}"
        )
    return plan_folder(model)


def delete(plan: DeletionPlan) -> Deleted:
    """Carry a plan out. Raises Busy when somebody is at work there, OSError when the folder cannot be opened.

    What cannot be removed is told of, and does not stop the rest.
    """
    removed = 0
    failed: list[tuple[str, str]] = []
    with SafeRoot(plan.base) as root, ExitStack() as held:
        check_nobody_works(root, plan, held)
        if plan.drops is not None and exists(root, plan.work):
            held.enter_context(manifest_lock(root, plan.work))
        for path in plan.files:
            try:
                root.unlink_beneath(path)
                removed += 1
            except FileNotFoundError:
                pass
            except (OSError, UnsafeName) as error:
                failed.append((path, _reason(error)))
        if plan.drops is not None:
            _rewrite_manifest(root, plan)
        held.close()
        for folder in plan.folders:
            with suppress(OSError, UnsafeName):
                root.rmdir_beneath(folder)
    if plan.model.place is Place.FOLDER:
        with suppress(OSError):
            Path(plan.base).rmdir()  # only if nothing is left in it
    return Deleted(plan=plan, removed=removed, failed=tuple(failed))


def check_nobody_works(root: SafeRoot, plan: DeletionPlan, held: ExitStack) -> None:
    """Raises Busy when a file of the plan's locks is held by a live process; holds them itself until ``held`` ends."""
    for path in plan.locks:
        if path.endswith(".lease") and may_live(root, path, now=server_now(root, path.rpartition("/")[0])):
            raise Busy(
                plan.model.repo_id or plan.model.path,
                cause=f"a download is at work there ({plan.base}/{path} says so)",
                remedy="wait for it, or stop it",
            )
        try:
            is_ours = held.enter_context(held_alone(root, path))
        except (OSError, UnsafeName):
            continue
        if not is_ours:
            raise Busy(
                plan.model.repo_id or plan.model.path,
                cause=f"a download is at work there ({plan.base}/{path} is held)",
                remedy="wait for it, or stop it",
            )


def _rewrite_manifest(root: SafeRoot, plan: DeletionPlan) -> None:
    """Leave out what went; the manifest goes when nothing else is in it."""
    assert plan.drops is not None
    path = f"{plan.work}/manifest.json"
    try:
        manifest = read_manifest(root, plan.work)
    except (NotFound, StateDamaged, UnsafeName):
        return
    with manifest:
        drops = plan.drops
        sources = {source: about for source, about in manifest.sources.items() if source != plan.source}
        if any(not drops(entry) for entry in manifest):
            left = (entry for entry in manifest if not drops(entry))
            write_manifest(root, plan.work, sources=sources, entries=left)
            return
    with suppress(OSError):
        root.unlink_beneath(path)


# ---- what both layouts have ---------------------------------------------------------------------------------------------


def work_files(root: SafeRoot, work: str) -> tuple[list[str], list[str]]:
    """The files of unfinished work in a work folder, which alone may be held, and its folders, the deepest first."""
    files: list[str] = []
    for folder in (f"{work}/partial", f"{work}/jobs"):
        files += [f"{folder}/{name}" for name in names_in(root, folder)]
    claims = [f"{work}/claims/{name}" for name in names_in(root, f"{work}/claims")]
    files += [f"{claim}/{name}" for claim in claims for name in names_in(root, claim)]
    files += [f"{work}/{name}" for name in names_in(root, work) if name == LOCK_NAME or name.endswith(".tmp")]
    return files, [f"{work}/partial", f"{work}/jobs", *claims, f"{work}/claims", work]


def names_in(root: SafeRoot, folder: str) -> list[str]:
    """The names in a folder, none where there is no such folder."""
    try:
        return sorted(root.listdir_beneath(folder))
    except (OSError, UnsafeName):
        return []


def parents_of(paths: Iterable[str], stop: str = "") -> list[str]:
    """The folders above paths, the deepest first; ``stop`` and those above it are not among them."""
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path != stop and path not in found:
            found.add(path)
    return sorted(found, key=lambda folder: (-folder.count("/"), folder))


def strangers(root: SafeRoot, folders: Iterable[str], going: set[str]) -> Iterator[str]:
    """What lies in folders and does not go, by its topmost name."""
    folders = list(folders)
    known = set(folders)
    for folder in folders:
        for name in names_in(root, folder):
            path = f"{folder}/{name}" if folder else name
            if path not in going and path not in known:
                yield path


def kept_of(found: Iterable[tuple[str, str]]) -> tuple[tuple[tuple[str, str], ...], int]:
    """The first KEPT_MAX of what stays, and how many more there are."""
    everything = list(found)
    return tuple(everything[:KEPT_MAX]), max(0, len(everything) - KEPT_MAX)


def freed(root: SafeRoot, paths: Iterable[str]) -> int:
    """Bytes that removing names frees: none of a symlink's target, none while another hard link has them."""
    total = 0
    for path in paths:
        try:
            found = root.stat_beneath(path)
        except (OSError, UnsafeName):
            continue
        total += found.st_size if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else 0
    return total


def gone(model: Model) -> NotFound:
    """The error for a model that is not there any more."""
    return NotFound(model.repo_id or model.path, cause=f"nothing of it is at {model.path} any more")


def one_revision(commits: Iterable[str], refs: dict[str, str], revision: str, name: str) -> str:
    """The commit that a commit, the beginning of one, or a ref names. Raises NotFound, Conflict."""
    if revision in refs:
        return refs[revision]
    found = [commit for commit in commits if commit == revision or (len(revision) >= 7 and commit.startswith(revision))]
    if not found:
        there = ", ".join(sorted({*refs, *(commit[:12] for commit in commits)}))
        raise NotFound(f"revision {revision} of {name}", cause="it is not on disk", remedy=f"there is {there}")
    if len(found) > 1:
        raise Conflict(f"revision {revision} of {name}", cause="several begin so", remedy="write more digits")
    return found[0]


def exists(root: SafeRoot, path: str) -> bool:
    """Whether there is something at a path below root, a symlink included."""
    try:
        root.stat_beneath(path)
    except (OSError, UnsafeName):
        return False
    return True


def _reason(error: OSError | UnsafeName) -> str:
    return error.cause if isinstance(error, UnsafeName) else (error.strerror or str(error))
