"""Removing local files whose copies are verified, when their job has ended.

First the local manifest says where they went, durably; then they are removed. Killed between the two, the file is there and the
manifest says that it was moved as well: nothing is lost, and the next pass removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ...common.errors import ShoalError, UnsafeName
from ...common.manifest import WORK_FOLDER, ManifestEntry
from ...common.paths import SafeRoot
from ..storage.merge import merge_manifest
from ..storage.workfolder import MARKER
from .book import CopyItem
from .trouble import FileTrouble

Check = Callable[[CopyItem], bool]
"""Whether the copy on the NAS is still as it was verified. Raises CopyTrouble."""


@dataclass(slots=True)
class Pass:
    """What became of some files: removed here; kept, because they are gone, changed or in use; to be copied once more."""

    removed: list[CopyItem] = field(default_factory=list[CopyItem])
    kept: list[CopyItem] = field(default_factory=list[CopyItem])
    again: list[CopyItem] = field(default_factory=list[CopyItem])


def job_is_alive(item: CopyItem) -> bool:
    """Whether the file's job has not ended yet: its marker is in the destination's work folder. Raises FileTrouble."""
    try:
        (Path(item.folder) / WORK_FOLDER / "jobs" / f"{item.job_key}{MARKER}").lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise FileTrouble(f"{item.folder}: {error.strerror}") from None
    return True


def remove_local(items: Sequence[CopyItem], check: Check, *, sleep: Callable[[float], None]) -> Pass:
    """Remove the local files of one destination whose job has ended. Raises CopyTrouble where nothing can be done now."""
    folder = items[0].folder
    try:
        with SafeRoot(folder) as root:
            return _pass(root, items, check, sleep)
    except FileNotFoundError as error:
        if not Path(folder).exists():
            return Pass(kept=list(items))
        raise FileTrouble(f"{folder}: {error.strerror}") from None
    except ShoalError as error:
        raise FileTrouble(str(error)) from None
    except OSError as error:
        raise FileTrouble(f"{folder}: copied files cannot be removed: {error.strerror}") from None


def _pass(root: SafeRoot, items: Sequence[CopyItem], check: Check, sleep: Callable[[float], None]) -> Pass:
    outcome = Pass()
    going: list[CopyItem] = []
    for item in items:
        if not _is_as_copied(root, item):
            outcome.kept.append(item)
        elif not check(item):
            outcome.again.append(item)
        else:
            going.append(item)
    if going:
        sources = {item.source: {"revision": item.revision, "commit": item.commit} for item in going}
        root.makedirs_beneath(WORK_FOLDER)
        merge_manifest(root, WORK_FOLDER, lambda: map(_moved, going), sources=sources, sleep=sleep)
    for item in going:
        _remove(root, item)
        outcome.removed.append(item)
    return outcome


def _is_as_copied(root: SafeRoot, item: CopyItem) -> bool:
    try:
        found = root.stat_beneath(item.path)
    except (FileNotFoundError, NotADirectoryError, UnsafeName):
        return False
    return (found.st_size, found.st_mtime_ns) == (item.size, item.mtime_ns)


def _moved(item: CopyItem) -> ManifestEntry:
    return ManifestEntry(
        path=item.path,
        size=item.size,
        digest=item.digest,
        etag=item.etag,
        mtime_ns=item.mtime_ns,
        source=item.source,
        revision=item.revision,
        commit=item.commit,
        moved_to=os.path.join(item.nas, item.target),  # noqa: PTH118 - a text for people
    )


def _remove(root: SafeRoot, item: CopyItem) -> None:
    with suppress(FileNotFoundError):
        root.unlink_beneath(item.path)
    with suppress(OSError, UnsafeName):
        root.unlink_beneath(f".cache/huggingface/download/{item.path}.metadata")
    folder = item.path.rpartition("/")[0]
    while folder:
        try:
            root.rmdir_beneath(folder)
        except (OSError, UnsafeName):
            return
        folder = folder.rpartition("/")[0]
