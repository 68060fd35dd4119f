"""Removing what dead work left in a destination: ``shoal clean``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ...common.errors import UnsafeName
from ...common.flock import held_alone
from ...common.manifest import WORK_FOLDER
from ...common.manifest_lock import LOCK_NAME
from ...common.paths import SafeRoot
from ..unpack.staging import remove_stale
from .finishing import tidy
from .partial import PART
from .workfolder import TEMPORARY

_REPO_FOLDER = re.compile(r"(?:models|datasets|spaces)--.+")


def clean_folder(folder: Path, *, older_than_s: float, now: float) -> list[str]:
    """Remove stale partial files, chunk maps, markers, journals, locks and temporary files below a destination.

    folder is a destination, a repo's folder in the Hub's cache, or that cache. What was changed less than older_than_s before
    now (seconds since the epoch, by the clock that the file system's times are from) stays, and so does what a live process
    holds a lock on, and what belongs with either. Manifests and finished files are never touched.

    Returns the removed paths below folder. Raises UnsafeName when the work folder is a planted symlink, OSError.
    """
    removed: list[str] = []
    with SafeRoot(folder) as root:
        repos = [name for name in root.listdir_beneath() if _REPO_FOLDER.fullmatch(name)]
        for work in [WORK_FOLDER, *(f"{name}/{WORK_FOLDER}" for name in sorted(repos))]:
            removed += _clean(root, work, now - older_than_s)
            removed += remove_stale(root, work, before=now - older_than_s)
            tidy(root, work)
    return removed


def _clean(root: SafeRoot, work: str, before: float) -> Iterator[str]:
    for part in (f"{work}/partial", f"{work}/jobs"):
        yield from _clean_groups(root, part, before)
    for name in _names(root, work):
        path = f"{work}/{name}"
        if (name == LOCK_NAME or name.endswith(TEMPORARY)) and _is_old(root, path, before):
            yield from _remove(root, path)


def _clean_groups(root: SafeRoot, folder: str, before: float) -> Iterator[str]:
    """Clean a folder whose files belong together by what stands before the first dot: all of a group go, or none."""
    groups: dict[str, list[str]] = {}
    for name in _names(root, folder):
        groups.setdefault(name if name.endswith(TEMPORARY) else name.partition(".")[0], []).append(f"{folder}/{name}")
    for paths in groups.values():
        if not all(_is_old(root, path, before) for path in paths):
            continue
        with ExitStack() as held:
            if all(held.enter_context(held_alone(root, path)) for path in paths):
                # The maps first: a partial file without them is fetched anew, maps without it would claim what is gone.
                for path in sorted(paths, key=lambda path: path.endswith(PART)):
                    yield from _remove(root, path)


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
