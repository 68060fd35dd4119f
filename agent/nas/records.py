"""What is known of the files on a NAS, so that they need not be hashed again: a manifest, and beside it a log of each agent.

The manifest is the one that `shoal verify` reads (`common/manifest.py`). Copies are noted in ``.shoal/nas/AGENT.log`` one by one, and
merged into the manifest when there is time. An entry counts while the file has its size and modification time. It tells as well
which file of which source has a name, where names are flattened.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from ...common.errors import NotFound, ShoalError, StateDamaged, UnsafeName
from ...common.manifest import MANIFEST_NAME, WORK_FOLDER, ManifestEntry, read_manifest
from ...common.paths import SafeRoot
from ..storage.journal import Journal, read_journal
from ..storage.known import KnownFiles
from ..storage.merge import merge_manifest
from .names import identity

LOGS = f"{WORK_FOLDER}/nas"
LOG = ".log"
MERGE_AT = 5_000
"""Entries of the own log that are merged though copies go on."""
MERGE_EVERY_S = 30.0
"""How often what is noted is merged while copies go on; and when a merge that failed is tried again."""
STALE_NS = 3600 * 1_000_000_000
"""A log that is older than the youngest by so much is merged by whoever comes by: its agent is gone, or idle."""
REFRESH_S = 10.0

_Stamp = tuple[tuple[str, int, int], ...]


class Records:
    """The records of one NAS folder. Thread-safe; every method that takes root may hang as long as the NAS does."""

    def __init__(self, owner: str, clock: Callable[[], float]) -> None:
        """owner: a plain name for the own log. clock: seconds, monotonic."""
        self._log = f"{LOGS}/{owner}{LOG}"
        self._clock = clock
        self._lock = threading.Lock()
        self._known: KnownFiles | None = None
        self._stamp: _Stamp = ()
        self._read_s = float("-inf")
        self._failed = False  # the last merge
        self.unmerged = 0
        self._merge_s = clock() + MERGE_EVERY_S

    def merge_due(self, now: float, *, idle: bool) -> bool:
        """Whether `merge` has something to do that is worth it now. idle: nothing is left to copy."""
        if not self.unmerged:
            return False
        return now >= self._merge_s if self._failed else idle or self.unmerged >= MERGE_AT or now >= self._merge_s

    def merging(self) -> None:
        """A merge is tried: until it has succeeded, the next one is due after a while."""
        self._merge_s = self._clock() + MERGE_EVERY_S
        self._failed = True

    def is_copy(self, root: SafeRoot, path: str, found: os.stat_result, digest: str) -> bool:
        """Whether the file with that status was verified to have the digest."""
        key = path, found.st_size, found.st_mtime_ns
        return self._asks(root, lambda known: known.has_digest(*key, digest))

    def is_of(self, root: SafeRoot, path: str, found: os.stat_result, source: str, name: str) -> bool:
        """Whether the file with that status is a copy, in any version, of that file of that source."""
        key = path, found.st_size, found.st_mtime_ns
        return self._asks(root, lambda known: known.has_validator(*key, identity(source, name), ""))

    def is_known(self, root: SafeRoot, path: str, found: os.stat_result) -> bool:
        """Whether the file with that status is a copy of anything."""
        key = path, found.st_size, found.st_mtime_ns
        return self._asks(root, lambda known: known.has_validator(*key, _ANY, ""))

    def add(self, root: SafeRoot, entry: ManifestEntry) -> None:
        """Note a verified copy. Raises OSError, UnsafeName."""
        with self._lock:
            fd = root.open_beneath(self._log, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                journal = Journal(fd, boot_id=_ANY_BOOT, durable=True)
            except BaseException:
                os.close(fd)
                raise
            try:
                journal.append(entry)
            finally:
                journal.close()
            self.unmerged += 1
            if self._known is not None:
                _add(self._known, entry)

    def merge(self, root: SafeRoot, *, sleep: Callable[[float], None]) -> None:
        """Bring the own log, and those of agents that are gone, into the manifest. Raises Busy, UnsafeName, OSError."""
        aside = f"{self._log.removesuffix(LOG)}-{secrets.token_hex(4)}{LOG}"
        with self._lock:  # not for longer: copies go on, into a new log
            with suppress(FileNotFoundError):
                root.replace_beneath(self._log, aside)
            merged = self.unmerged
        logs = [path for path in _logs(root) if _is_mine(path, self._log) or _is_stale(root, path)]
        entries = [entry for path in logs for entry in _read_log(root, path)]
        if entries:
            sources = {entry.source: {"revision": entry.revision, "commit": entry.commit} for entry in entries}
            entries.reverse()  # of several entries of a path the first counts, and the last is the newest
            merge_manifest(root, WORK_FOLDER, lambda: entries, sources=sources, sleep=sleep)
        for path in logs:
            with suppress(FileNotFoundError):
                root.unlink_beneath(path)
        self._failed = False
        with self._lock:
            self.unmerged -= merged

    def _asks(self, root: SafeRoot, question: Callable[[KnownFiles], bool]) -> bool:
        with self._lock:
            if self._known is not None and question(self._known):
                return True
            if self._clock() - self._read_s < REFRESH_S and self._known is not None:
                return False
            self._read_s = self._clock()
            stamp = _stamp(root)
            if self._known is None or stamp != self._stamp:
                self._known = KnownFiles(_told_apart(root), by_path=True)
                self._stamp = stamp
            return question(self._known)


_ANY = "*"
_ANY_BOOT = bytes(16)  # copies are synced before they are noted, so the log holds whatever boot it is from


def _add(known: KnownFiles, entry: ManifestEntry) -> None:
    for each in _variants(entry):
        known.add(each)


def _variants(entry: ManifestEntry) -> Iterator[ManifestEntry]:
    yield replace(entry, source=_ANY)
    with suppress(ShoalError):
        yield replace(entry, source=identity(entry.source, entry.original or entry.path))


def _told_apart(root: SafeRoot) -> Iterator[ManifestEntry]:
    try:
        with read_manifest(root) as manifest:
            for entry in manifest:
                yield from _variants(entry)
    except (NotFound, StateDamaged):
        pass
    for path in _logs(root):
        for entry in _read_log(root, path):
            yield from _variants(entry)


def _logs(root: SafeRoot) -> list[str]:
    try:
        return [f"{LOGS}/{name}" for name in sorted(root.listdir_beneath(LOGS)) if name.endswith(LOG)]
    except FileNotFoundError:
        return []


def _read_log(root: SafeRoot, path: str) -> Iterator[ManifestEntry]:
    try:
        fd = root.open_beneath(path, os.O_RDONLY)
    except (FileNotFoundError, UnsafeName):
        return
    try:
        yield from read_journal(fd, boot_id=_ANY_BOOT)
    finally:
        os.close(fd)


def _is_mine(path: str, log: str) -> bool:
    """Whether it was set aside by this process, or by an earlier one of the same name."""
    return path.startswith(log.removesuffix(LOG) + "-")


def _is_stale(root: SafeRoot, path: str) -> bool:
    times: dict[str, int] = {}
    for each in _logs(root):
        with suppress(FileNotFoundError):
            times[each] = root.stat_beneath(each).st_mtime_ns
    return max(times.values(), default=0) - times.get(path, 0) > STALE_NS


def _stamp(root: SafeRoot) -> _Stamp:
    found: list[tuple[str, int, int]] = []
    for path in (f"{WORK_FOLDER}/{MANIFEST_NAME}", *_logs(root)):
        with suppress(FileNotFoundError):
            status = root.stat_beneath(path)
            found.append((path, status.st_size, status.st_mtime_ns))
    return tuple(found)
