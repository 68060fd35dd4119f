"""The folder in which an archive is unpacked before anybody sees it.

::

    .shoal/partial/unpack-KEY-TOKEN.lock   held by who unpacks, so that what a killed process left can be told from it
    .shoal/partial/unpack-KEY-TOKEN/tree   the members
    .shoal/partial/unpack-KEY-TOKEN/list   a line for each (record.py)
    .shoal/partial/unpack-KEY-TOKEN/record, old/   for the moment of placing (placing.py)

Nothing here follows a link: a member below a symlink of the archive is refused by ``SafeRoot``, and a file that exists is
never opened, so that no member can write through or over another, whatever the file system takes for one name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress

from ...common.errors import NoSpace, UnsafeName
from ...common.flock import held_alone, lock_now
from ...common.paths import SafeRoot
from .links import check_links
from .members import Budget, Member, MemberKind, joined, unsafe
from .record import Entry, ListWriter

STAGED = "unpack-"
LOCK = ".lock"
_FOLDERS_KNOWN_MAX = 4096
_ROOM_ASKED_FROM = 16 << 20  # bytes of a file from which on it is asked whether there is room for it


class Stage:
    """One archive's members on their way. Not thread-safe. Methods raise OSError, UnsafeArchive."""

    def __init__(self, root: SafeRoot, work: str, *, key: str, archive: str, budget: Budget, sync: bool) -> None:
        """Makes the folder; what killed runs under this key left is removed."""
        self._root = root
        self._work = work
        self._archive = archive
        self._budget = budget
        self._sync = sync
        self._folders: dict[str, None] = {}  # made or seen, the latest last
        remove_stale(root, work, key=key)
        self.path = f"{work}/partial/{STAGED}{key}-{secrets.token_hex(8)}"
        self.tree = f"{self.path}/tree"
        self._list: ListWriter | None = None
        self._lock_fd = self._make_lock()
        try:
            lock_now(self._lock_fd, fcntl.LOCK_EX)
            root.makedirs_beneath(self.tree, 0o755)
            self._list = ListWriter(root, f"{self.path}/list")
        except BaseException:
            self.discard()
            raise

    @property
    def list(self) -> ListWriter:
        """The list of what was made."""
        assert self._list is not None
        return self._list

    def add(self, member: Member, content: Iterable[bytes]) -> None:
        """Make a member. content is that of a file, read to its end."""
        path = joined(self.tree, member.path)
        try:
            if member.kind is MemberKind.FOLDER:
                self._make_folder(member.path)
                return
            self._make_folder(member.path.rpartition("/")[0])
            self._budget.take_entry()
            if member.kind is MemberKind.FILE:
                self._budget.take_content(member.size)
                self.list.add(self._make_file(member, path, content))
            elif member.kind is MemberKind.SYMLINK:
                self._root.symlink_beneath(member.target, path)
                self.list.add(Entry(MemberKind.SYMLINK, member.path, target=member.target))
            else:
                self.list.add(self._make_hard_link(member, path))
        except FileExistsError:
            raise unsafe(self._archive, member.path, "another member has the same name") from None
        except UnsafeName as error:
            raise unsafe(self._archive, member.path, error.cause) from None

    def finish(self) -> None:
        """All members are there: check where links lead, make everything durable where that is wanted."""
        self.list.close(sync=self._sync)
        if self.list.links:
            check_links(self._root, self.list.path, self.tree, archive=self._archive)
        if self._sync:
            for entry in self.list.entries():
                if entry.kind is MemberKind.FOLDER:
                    self._root.sync_folder_beneath(joined(self.tree, entry.path))
            for path in (self.tree, self.path, f"{self._work}/partial"):
                self._root.sync_folder_beneath(path)

    def release(self) -> None:
        """Let go of it without removing it: a journal knows of it. Safe to call twice."""
        lock_fd, self._lock_fd = self._lock_fd, -1
        if self._list is not None:
            self._list.close(sync=False)
        if lock_fd >= 0:
            os.close(lock_fd)

    def discard(self) -> None:
        """Remove all of it; what cannot be removed is left to the next run. Safe to call twice."""
        try:
            with suppress(OSError, UnsafeName):
                remove_staged(self._root, self.path)
        finally:
            self.release()

    def _make_lock(self) -> int:
        for is_last_try in (False, True):
            self._root.makedirs_beneath(f"{self._work}/partial")
            try:
                return self._root.open_beneath(self.path + LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except FileNotFoundError:
                if is_last_try:
                    raise
                # whoever ended just now took the empty folder away
        raise AssertionError("the second try returns or raises")

    def _make_folder(self, path: str) -> None:
        """Make a folder of the tree and those above it. One that is there already is fine."""
        if not path or path in self._folders:
            return
        above, _, name = path.rpartition("/")
        self._make_folder(above)
        full = joined(self.tree, path)
        fd = self._root.open_beneath(joined(self.tree, above) if above else self.tree, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
        except FileExistsError:
            if not stat.S_ISDIR(self._root.stat_beneath(full).st_mode):
                raise
        else:
            self.list.add(Entry(MemberKind.FOLDER, path))
            self._budget.take_entry()
        finally:
            os.close(fd)
        self._folders[path] = None
        if len(self._folders) > _FOLDERS_KNOWN_MAX:
            del self._folders[next(iter(self._folders))]

    def _make_file(self, member: Member, path: str, content: Iterable[bytes]) -> Entry:
        # What else the mode says (other writers, setuid, setgid, sticky) is dropped; the umask takes what it takes.
        mode = 0o755 if member.is_executable else 0o644
        fd = self._root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            if member.size >= _ROOM_ASKED_FROM:
                self._check_room(fd, member.size)
            for data in content:
                self._budget.take_made(len(data))
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            if member.mtime_ns is not None:
                os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
            if self._sync:
                os.fsync(fd)
            found = os.fstat(fd)
        finally:
            os.close(fd)
        return Entry(MemberKind.FILE, member.path, size=found.st_size, mtime_ns=found.st_mtime_ns)

    def _make_hard_link(self, member: Member, path: str) -> Entry:
        target = joined(self.tree, member.target)
        try:
            found = self._root.stat_beneath(target)
        except (FileNotFoundError, NotADirectoryError):
            raise unsafe(self._archive, member.path, "it is a hard link to what did not come before it") from None
        if stat.S_ISDIR(found.st_mode):
            raise unsafe(self._archive, member.path, "it is a hard link to a folder")
        source, _, source_name = target.rpartition("/")
        folder, _, name = path.rpartition("/")
        source_fd = self._root.open_beneath(source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            folder_fd = self._root.open_beneath(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=folder_fd, follow_symlinks=False)
            finally:
                os.close(folder_fd)
        finally:
            os.close(source_fd)
        if stat.S_ISLNK(found.st_mode):  # in another folder it leads elsewhere: checked as a link of its own
            return Entry(MemberKind.SYMLINK, member.path, target=self._root.readlink_beneath(target))
        return Entry(MemberKind.FILE, member.path, size=found.st_size, mtime_ns=found.st_mtime_ns)

    def _check_room(self, fd: int, size: int) -> None:
        room = os.fstatvfs(fd)
        if size > room.f_bavail * room.f_frsize:
            raise NoSpace(
                self._archive,
                cause=f"a file of {size} bytes is in it and {room.f_bavail * room.f_frsize} are free",
                remedy="free some space or choose another destination",
            )


def remove_staged(root: SafeRoot, path: str) -> None:
    """Remove a staged folder and then its lock, whose absence says that nobody is at work there. Raises OSError, UnsafeName."""
    remove_tree(root, path)
    with suppress(FileNotFoundError):
        root.unlink_beneath(path + LOCK)


def remove_stale(root: SafeRoot, work: str, *, key: str = "", before: float | None = None) -> list[str]:
    """Remove the staged folders of a key (all, without) that no live process holds and no journal needs: their paths.

    before leaves those that were changed after it (seconds since the epoch). Raises OSError, UnsafeName.
    """
    removed: list[str] = []
    try:
        found = root.listdir_beneath(f"{work}/partial")
    except FileNotFoundError:
        return removed
    wanted = f"{STAGED}{key}-" if key else STAGED
    for name in sorted({name.removesuffix(LOCK) for name in found if name.startswith(wanted)}):
        path = f"{work}/partial/{name}"
        with held_alone(root, path + LOCK) as is_ours:
            if (
                is_ours
                and (before is None or _changed_at(root, path) < before)
                and not _is_journalled(root, work, name)
            ):
                remove_staged(root, path)
                removed.append(path)
    return removed


def _is_journalled(root: SafeRoot, work: str, name: str) -> bool:
    key = name.removeprefix(STAGED).partition("-")[0]
    try:
        root.stat_beneath(f"{work}/unpacked/{key}.journal")
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _changed_at(root: SafeRoot, path: str) -> float:
    times: list[float] = []
    for each in (path, path + LOCK):
        with suppress(FileNotFoundError):
            times.append(root.stat_beneath(each).st_mtime)
    return max(times, default=0.0)


def remove_tree(root: SafeRoot, path: str) -> None:
    """Remove what is at path, with all below it; links themselves, never what they point to. Nothing there is fine.

    Raises OSError, UnsafeName.
    """
    todo = [path]
    while todo:
        at = todo[-1]
        try:
            if not stat.S_ISDIR(root.stat_beneath(at).st_mode):
                root.unlink_beneath(at)
                todo.pop()
                continue
            root.rmdir_beneath(at)
            todo.pop()
        except FileNotFoundError:
            todo.pop()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            for name in root.listdir_beneath(at):
                below = f"{at}/{name}"
                if stat.S_ISDIR(root.stat_beneath(below).st_mode):
                    todo.append(below)
                else:
                    root.unlink_beneath(below)
