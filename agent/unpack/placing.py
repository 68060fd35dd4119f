"""Putting what was unpacked in place: all of it or none, also when the process is killed between two renames.

A folder that is not there yet is one rename(2). Into one that is there, every name on top of the archive is a rename of its own; so
first a journal is written that says what is to happen, and whoever comes next finds it and goes on. What has happened
already is told by the disk: a name that has left the staged tree is in place, one in ``old`` was moved aside.

::

    journal written ──► each name: old one aside, new one in ──► list, record ──► journal removed ──► old ones removed
         │                      │ a foreign entry, a full disk               a failure from here on leaves the journal to the
         │                      ▼                                            next run: the files are in place
         │              everything back ──► journal removed
         └─ killed: the next run goes on at the same place
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

from ...common.errors import Busy, Conflict, Interrupted, ShoalError, StateDamaged, UnsafeName
from ...common.flock import lock_now
from ...common.paths import SafeRoot, safe_relative_path
from .members import joined
from .record import UNPACKED, Record, read_entries, read_record, read_sealed, write_sealed
from .staging import STAGED, remove_staged

JOURNAL = ".journal"
LOCK_WAIT_S = 300.0  # others hold the lock for some renames each
_LOCK_POLL_S = 0.05
_NAME = re.compile(rf"{STAGED}[0-9a-f]{{16}}-[0-9a-f]{{16}}")


@contextmanager
def place_lock(
    root: SafeRoot,
    work: str,
    *,
    cancelled: Callable[[], bool],
    wait_s: float = LOCK_WAIT_S,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[None]:
    """Hold the lock of everything that is put in place below root. Raises Busy, Interrupted, OSError.

    It is one on the work folder itself, so that it leaves nothing behind. Some network file systems have no locks for
    folders; there two that unpack into one folder at once are told apart by their names alone.
    """
    fd = root.open_beneath(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        began = monotonic()
        while not lock_now(fd, fcntl.LOCK_EX):
            if cancelled():
                raise Interrupted("unpacking", cause="it was cancelled")
            if monotonic() - began >= wait_s:
                raise Busy(str(root.path), cause="somebody else unpacks into it", remedy="try again")
            sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


@contextmanager
def try_place_lock(root: SafeRoot, work: str) -> Generator[None]:
    """Hold that lock if nobody else does. Raises Busy at once, OSError."""
    with place_lock(root, work, cancelled=lambda: False, wait_s=0.0):
        yield


class Placement:
    """One staged tree on its way to its folder. The lock is held while it is used."""

    def __init__(
        self, root: SafeRoot, work: str, *, key: str, staged: str, into: str, is_whole: bool, sync: bool
    ) -> None:
        """staged is a path below root; is_whole says that into is not there and becomes the tree itself."""
        self._root = root
        self._work = work
        self._key = key
        self._staged = staged
        self._tree = f"{staged}/tree"
        self._old = f"{staged}/old"
        self._into = into
        self._is_whole = is_whole
        self._sync = sync
        self._made: list[str] = []  # folders above into, the uppermost first
        self._is_in_place = False

    @property
    def _journal(self) -> str:
        return f"{self._work}/{UNPACKED}/{self._key}{JOURNAL}"

    def begin(self) -> None:
        """Refuse what cannot go, then write the journal. Raises Conflict, OSError."""
        if not self._is_whole:
            own = self._owned()
            for name in self._tops():
                if _hash(name) not in own and _exists(self._root, joined(self._into, name)):
                    raise self._in_the_way(joined(self._into, name))
        fields = {"staged": self._staged.rpartition("/")[2], "into": self._into, "whole": self._is_whole}
        try:
            write_sealed(self._root, self._journal, fields, temporary=f"{self._staged}/journal")
        except OSError:
            with suppress(OSError):
                self._root.unlink_beneath(self._journal)
            raise

    def run(self) -> None:
        """Put everything in place, going on where it was left. Raises Conflict, OSError, and then nothing of it is in place.

        If even that fails, the journal stays and the next run tries again.
        """
        try:
            self._forward()
        except (OSError, ShoalError):
            if not self._is_in_place:
                self._back()
                raise
            # All files are where they belong; the journal stays, and the next run writes the record.

    def _forward(self) -> None:
        if _exists(self._root, f"{self._staged}/list"):
            if self._is_whole:
                self._place_whole()
            else:
                self._place_each()
            self._is_in_place = True
            self._root.replace_beneath(f"{self._staged}/list", f"{self._work}/{UNPACKED}/{self._key}.list")
        self._is_in_place = True
        with suppress(FileNotFoundError):
            self._root.replace_beneath(f"{self._staged}/record", f"{self._work}/{UNPACKED}/{self._key}.json")
        self._root.sync_folder_beneath(f"{self._work}/{UNPACKED}")
        with suppress(FileNotFoundError):
            self._root.unlink_beneath(self._journal)

    def _place_whole(self) -> None:
        if not _exists(self._root, self._tree):
            return  # it is in place already
        if _exists(self._root, self._into):
            raise self._in_the_way(self._into)
        above = self._into.rpartition("/")[0]
        self._make_above(above)
        self._root.replace_beneath(self._tree, self._into)
        if self._sync:
            self._root.sync_folder_beneath(above)
            for folder in self._made:
                self._root.sync_folder_beneath(folder.rpartition("/")[0])

    def _make_above(self, folder: str) -> None:
        missing: list[str] = []
        while folder and not _exists(self._root, folder):
            missing.append(folder)
            folder = folder.rpartition("/")[0]
        for each in reversed(missing):
            self._root.makedirs_beneath(each)
            self._made.append(each)

    def _place_each(self) -> None:
        own = self._owned()
        self._root.makedirs_beneath(self._old)
        new: set[int] = set()
        for name in self._tops():
            new.add(_hash(name))
            if not _exists(self._root, f"{self._tree}/{name}"):
                continue  # it is in place already
            target = joined(self._into, name)
            if _exists(self._root, target):
                if _hash(name) not in own or _exists(self._root, f"{self._old}/{name}"):
                    raise self._in_the_way(target)
                self._root.replace_beneath(target, f"{self._old}/{name}")
            self._root.replace_beneath(f"{self._tree}/{name}", target)
        # What the former archive had and this one has not.
        for name in self._owned_names():
            if _hash(name) not in new and _exists(self._root, joined(self._into, name)):
                self._root.replace_beneath(joined(self._into, name), f"{self._old}/{name}")
        if self._sync:
            self._root.sync_folder_beneath(self._into)

    def _back(self) -> None:
        """Undo what _forward did, then forget it. Raises OSError: then the journal stays."""
        if self._is_whole:
            if not _exists(self._root, self._tree) and _exists(self._root, self._into):
                self._root.replace_beneath(self._into, self._tree)
            for folder in reversed(self._made):
                with suppress(OSError):
                    self._root.rmdir_beneath(folder)
        else:
            for name in self._tops():
                target = joined(self._into, name)
                if not _exists(self._root, f"{self._tree}/{name}") and _exists(self._root, target):
                    self._root.replace_beneath(target, f"{self._tree}/{name}")
            with suppress(FileNotFoundError):
                for name in self._root.listdir_beneath(self._old):
                    self._root.replace_beneath(f"{self._old}/{name}", joined(self._into, name))
        with suppress(FileNotFoundError):
            self._root.unlink_beneath(self._journal)

    def _tops(self) -> Iterator[str]:
        for entry in read_entries(self._root, f"{self._staged}/list"):
            if "/" not in entry.path:
                yield entry.path

    def _owned(self) -> set[int]:
        """Hashes of the names on top that a former unpack of this archive made here: 8 bytes of each, not the name."""
        return {_hash(name) for name in self._owned_names()}

    def _owned_names(self) -> Iterator[str]:
        """From the list, or where that is damaged, from the record: what is lost of one, the other may know."""
        path = f"{self._work}/{UNPACKED}/{self._key}.list"
        try:
            for _ in read_entries(self._root, path):
                pass
            for entry in read_entries(self._root, path):
                if "/" not in entry.path:
                    yield entry.path
        except (FileNotFoundError, StateDamaged, UnsafeName):
            record: Record | None = read_record(self._root, self._work, self._key)
            yield from (record.tops if record is not None and record.tops is not None else ())

    def _in_the_way(self, path: str) -> Conflict:
        return Conflict(
            str(self._root.path / path),
            cause="it is there already, and not from unpacking this archive",
            remedy="move it away, or name another folder to unpack into",
        )


def recover(root: SafeRoot, work: str, *, key: str = "", sync: bool = True) -> None:
    """Finish what killed processes left half in place: of one key, or of all. The lock is held.

    What cannot be finished, because something else took a name meanwhile, is taken back. Raises OSError.
    """
    try:
        found = root.listdir_beneath(f"{work}/{UNPACKED}")
    except FileNotFoundError:
        return
    for name in sorted(found):
        if not name.endswith(JOURNAL) or (key and name != f"{key}{JOURNAL}"):
            continue
        path = f"{work}/{UNPACKED}/{name}"
        fields = read_sealed(root, path)
        staged = str(fields.get("staged")) if fields else ""
        if fields is None or not _NAME.fullmatch(staged) or not _is_plain(fields.get("into")):
            root.unlink_beneath(path)  # written whole or not at all: this one is not ours
            continue
        staged = f"{work}/partial/{staged}"
        placement = Placement(
            root,
            work,
            key=name.removesuffix(JOURNAL),
            staged=staged,
            into=fields["into"],
            is_whole=fields.get("whole") is True,
            sync=sync,
        )
        with suppress(Conflict, StateDamaged):
            placement.run()
        if not _exists(root, path):
            remove_staged(root, staged)


def _is_plain(into: object) -> bool:
    try:
        return isinstance(into, str) and (into == "" or safe_relative_path(into) == into)
    except UnsafeName:
        return False


def _exists(root: SafeRoot, path: str) -> bool:
    if not path:
        return True
    try:
        root.stat_beneath(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
