"""What lies in a destination already, as far as copies on a NAS are concerned: its queue, and what its manifest names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...common.errors import NotFound, StateDamaged
from ...common.manifest import WORK_FOLDER, ManifestEntry, read_manifest
from ...common.nas_records import NasCounts
from ...common.paths import SafeRoot
from .book import CopyItem
from .copier import Copier, queue_folder_of
from .items import item_of
from .queue_file import SUFFIX, QueueFile
from .removals import SUFFIX as REMOVALS

JOB_ID = "nas-copy"
_SNAPSHOT = re.compile(r"snapshots/[^/]+/(?P<path>.+)")


def queue_finished(copier: Copier, folder: Path, base: str) -> None:
    """Queue what earlier runs left to copy, and all that the manifest of a destination names. Raises StateDamaged, OSError."""
    nas = copier.options.path
    assert nas is not None
    queue_folder = queue_folder_of(folder / base)
    copier.adopt(queue_folder)
    with SafeRoot(folder) as root:
        try:
            manifest = read_manifest(root, f"{base}/{WORK_FOLDER}" if base else WORK_FOLDER)
        except NotFound:
            return
        with manifest:
            for entry in manifest:
                if not entry.moved_to and not entry.original:
                    copier.put(_item(copier, entry, nas, folder, base), queue_folder)


def _item(copier: Copier, entry: ManifestEntry, nas: Path, folder: Path, base: str) -> CopyItem:
    snapshot = _SNAPSHOT.fullmatch(entry.path) if base else None
    name = snapshot["path"] if snapshot else entry.path
    return item_of(
        entry, copier.options, nas=nas, folder=folder, base=base, name=name, job_id=JOB_ID, removable=not base
    )


def waiting_in(destination: Path) -> NasCounts:
    """What the queues of a destination hold, whoever works on them. A queue that cannot be read counts as empty."""
    total = NasCounts()
    folder = queue_folder_of(destination)
    for path in sorted((*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{REMOVALS}"))):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                queue = QueueFile(path, fd)
            finally:
                os.close(fd)
        except (OSError, StateDamaged):
            continue
        counts = sum(queue.counts.values(), NasCounts())
        if path.suffix == REMOVALS:
            counts = NasCounts(files_to_remove=counts.files_waiting)
        total += counts
    return total
