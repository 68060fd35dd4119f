"""Removing what dead work left in a destination: ``shoal clean``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from pathlib import Path

from ...common.errors import UnsafeName
from ...common.lease_file import may_live, server_now
from ...common.manifest import WORK_FOLDER
from ...common.manifest_lock import LOCK_NAME
from ...common.paths import SafeRoot
from ..unpack.staging import remove_stale
from .finishing import tidy
from .partial import MAP, PART
from .workfolder import LEASE, SOURCE_DIGITS, TEMPORARY

_REPO_FOLDER = re.compile(r"(?:models|datasets|spaces)--.+")


def clean_folder(folder: Path, *, older_than_s: float, now: float | None = None) -> list[str]:
    """Remove stale partial files, chunk maps, markers, journals, leases, claims and temporary files below a destination.

    folder is a destination, a repo's folder in the Hub's cache, or that cache. What was changed less than older_than_s before
    now (seconds since the epoch; the file server's clock unless given) stays, and so does what belongs to a run that lives, on
    whatever machine: one whose lease was touched since then, or within its expiry, and whose process is not known to have
    ended. Manifests and finished files are never touched.

    Returns the removed paths below folder. Raises UnsafeName when the work folder is a planted symlink, OSError.
    """
    removed: list[str] = []
    with SafeRoot(folder) as root:
        repos = [name for name in root.listdir_beneath() if _REPO_FOLDER.fullmatch(name)]
        for work in [WORK_FOLDER, *(f"{name}/{WORK_FOLDER}" for name in sorted(repos))]:
            if not _names(root, work):
                continue
            at = server_now(root, work) if now is None else now
            living = _living(root, work, at, older_than_s)
            before = at - older_than_s
            removed += _clean(root, work, before, living)
            removed += _clean_claims(root, work, before, living)
            removed += remove_stale(root, work, before=before)
            tidy(root, work)
    return removed


def _living(root: SafeRoot, work: str, now: float, older_than_s: float) -> set[str]:
    """The runs that live, or may live."""
    return {
        name.partition(".")[0]
        for name in _names(root, f"{work}/jobs")
        if name.endswith(LEASE) and may_live(root, f"{work}/jobs/{name}", now=now, silent_s=older_than_s)
    }


def _clean(root: SafeRoot, work: str, before: float, living: Set[str]) -> Iterator[str]:
    sources = {run.partition("-")[0] for run in living}

    def is_used(name: str) -> bool:
        """A partial file is named by its source, a temporary one and what lies in jobs by its run."""
        group = name.partition(".")[0]
        return group in living or (name.endswith((PART, MAP)) and group[:SOURCE_DIGITS] in sources)

    for part in (f"{work}/partial", f"{work}/jobs"):
        yield from _clean_groups(root, part, before, is_used)
    for name in _names(root, work):
        path = f"{work}/{name}"
        if (name == LOCK_NAME or name.endswith(TEMPORARY)) and _is_old(root, path, before):
            yield from _remove(root, path)


def _clean_groups(root: SafeRoot, folder: str, before: float, is_used: Callable[[str], bool]) -> Iterator[str]:
    """Clean a folder whose files belong together by what stands before the first dot: all of a group go, or none."""
    groups: dict[str, list[str]] = {}
    for name in _names(root, folder):
        groups.setdefault(name if name.endswith(TEMPORARY) else name.partition(".")[0], []).append(name)
    for found in groups.values():
        paths = [f"{folder}/{name}" for name in found]
        if not any(map(is_used, found)) and all(_is_old(root, path, before) for path in paths):
            # The maps first: a partial file without them is fetched anew, maps without it would claim what is gone.
            for path in sorted(paths, key=lambda path: path.endswith(PART)):
                yield from _remove(root, path)


def _clean_claims(root: SafeRoot, work: str, before: float, living: Set[str]) -> Iterator[str]:
    for key in _names(root, f"{work}/claims"):
        path = f"{work}/claims/{key}"
        members = _names(root, path)
        if any(name.partition(".")[0] in living for name in (key, *members)):
            continue
        if not all(_is_old(root, each, before) for each in (path, *(f"{path}/{name}" for name in members))):
            continue
        for name in members:
            yield from _remove(root, f"{path}/{name}")
        with suppress(OSError, UnsafeName):
            root.rmdir_beneath(path)
            yield path


def _names(root: SafeRoot, folder: str) -> list[str]:
    try:
        return root.listdir_beneath(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_old(root: SafeRoot, path: str, before: float) -> bool:
    try:
        return root.stat_beneath(path).st_mtime < before
    except FileNotFoundError:
        return False


def _remove(root: SafeRoot, path: str) -> Iterator[str]:
    try:
        root.unlink_beneath(path)
    except (FileNotFoundError, IsADirectoryError, UnsafeName):
        return
    yield path
