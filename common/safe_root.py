"""Opening, making and renaming what is below one folder, without ever following a symlink below it.

Every path is walked component by component from a directory descriptor with ``O_NOFOLLOW``, so that a symlink that was
planted in the destination, before or between two calls, cannot lead a write elsewhere. Descriptors of folders are kept, so
a file in a folder that was used before costs no walk.

Linux could do the walk in one call (openat2 with RESOLVE_BENEATH), but Python has no binding for it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from .errors import UnsafeName

T = TypeVar("T")

FOLDERS_OPEN_MAX = 64  # kept descriptors; small beside the usual limit of 1024 open files
# O_PATH is enough for everything that is done with a folder here, and needs no read permission. macOS has none.
_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: a planted FIFO must not hang the open
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


class _Folder:
    """A kept descriptor; it is closed when it is both dropped and not in use by another thread."""

    __slots__ = ("fd", "is_dropped", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0
        self.is_dropped = False


class SafeRoot:
    """A folder below which names are opened safely. The folder itself may be reached through a symlink: the user chose it.

    Paths are relative, with "/" between components; a name from outside goes through ``safe_relative_path`` first. All
    methods may be called from several threads. Errors are OSErrors with the path below the root as ``filename``, but
    UnsafeName where a symlink, device or shared file stands in the way. Close it, or use it as a context manager.
    """

    def __init__(self, path: str | Path, *, create: bool = False, folders_open_max: int = FOLDERS_OPEN_MAX) -> None:
        """Raises: OSError when the folder cannot be opened (or made, with ``create``)."""
        self.path = Path(path)
        if create:
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._folders_open_max = max(1, folders_open_max)
        self._kept: OrderedDict[str, _Folder] = OrderedDict()  # by path below the root, least recently used first
        self._root: _Folder | None = _Folder(os.open(self.path, _FOLDER_FLAGS))

    def __enter__(self) -> SafeRoot:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor; those in use by another thread are closed when that thread is done."""
        with self._lock:
            folders = [*self._kept.values(), *([self._root] if self._root else [])]
            self._kept.clear()
            self._root = None
            for folder in folders:
                _drop(folder)

    def open_beneath(self, path: str, flags: int, mode: int = 0o666) -> int:
        """Open a regular file, or with O_DIRECTORY a folder, like ``os.open``; the caller owns the descriptor.

        Raises: UnsafeName when a component is a symlink, when it is not a regular file, or when it is to be written and has
        other hard links: writing would change a file that lies elsewhere.
        """

        def open_file(folder: int, name: str) -> int:
            # O_TRUNC waits until it is known what was opened.
            fd = os.open(name, (flags & ~os.O_TRUNC) | _FILE_FLAGS, mode, dir_fd=folder)
            try:
                if flags & os.O_DIRECTORY:
                    return fd
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise self._unsafe(path, "it is not a regular file")
                if status.st_nlink > 1 and flags & _WRITES:
                    raise self._unsafe(path, "it is a hard link to a file that may lie elsewhere")
                if flags & os.O_TRUNC and status.st_size:
                    os.ftruncate(fd, 0)
            except BaseException:
                os.close(fd)
                raise
            return fd

        return self._in_folder(path, open_file)

    def makedirs_beneath(self, path: str, mode: int = 0o777) -> None:
        """Make a folder and those above it; what is there already is fine if it is a folder."""
        with self._lock:
            kept = self._kept.get(path)
            if kept is not None:
                if not _is_removed(kept.fd):
                    self._kept.move_to_end(path)
                    return
                self._forget(path)
        _components(path)
        self._release(self._walk(path, make_mode=mode))

    def replace_beneath(self, source: str, destination: str) -> None:
        """Rename atomically; what has the new name is replaced, a symlink there itself and not what it points to."""

        def in_source(source_fd: int, source_name: str) -> None:
            def in_destination(destination_fd: int, name: str) -> None:
                os.replace(source_name, name, src_dir_fd=source_fd, dst_dir_fd=destination_fd)

            self._in_folder(destination, in_destination)

        self._in_folder(source, in_source)
        with self._lock:  # if it was a folder, its descriptors now stand under the wrong name
            self._forget(source)
            self._forget(destination)

    def link_beneath(self, source: str, destination: str) -> None:
        """Give a file another name (link(2)). Raises FileExistsError when something has it."""

        def in_source(source_fd: int, source_name: str) -> None:
            def in_destination(destination_fd: int, name: str) -> None:
                os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=destination_fd, follow_symlinks=False)

            self._in_folder(destination, in_destination)

        self._in_folder(source, in_source)

    def stat_beneath(self, path: str) -> os.stat_result:
        """The status of the name itself: of a symlink, not of its target."""
        return self._in_folder(path, lambda fd, name: os.stat(name, dir_fd=fd, follow_symlinks=False))

    def unlink_beneath(self, path: str) -> None:
        """Remove a file, or a symlink itself."""
        self._in_folder(path, lambda fd, name: os.unlink(name, dir_fd=fd))

    def rmdir_beneath(self, path: str) -> None:
        """Remove an empty folder."""
        with self._lock:
            self._forget(path)
        self._in_folder(path, lambda fd, name: os.rmdir(name, dir_fd=fd))

    def symlink_beneath(self, target: str, path: str) -> None:
        """Make a symlink. ``target`` is the caller's own: it is not checked."""
        self._in_folder(path, lambda fd, name: os.symlink(target, name, dir_fd=fd))

    def readlink_beneath(self, path: str) -> str:
        """The target of a symlink."""
        return self._in_folder(path, lambda fd, name: os.readlink(name, dir_fd=fd))

    def listdir_beneath(self, path: str = "") -> list[str]:
        """The names in a folder; ``""`` is the root."""
        return self._with_readable_folder(path, os.listdir)

    def sync_folder_beneath(self, path: str = "") -> None:
        """fsync a folder: names that were made, replaced or removed in it survive power loss."""
        self._with_readable_folder(path, os.fsync)

    def _with_readable_folder(self, path: str, use: Callable[[int], T]) -> T:
        if path:
            _components(path)
        folder = self._walk(path)
        try:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder.fd)
            try:
                return use(fd)
            finally:
                os.close(fd)
        finally:
            self._release(folder)

    def _in_folder(self, path: str, act: Callable[[int, str], T]) -> T:
        """Act on the last component in the folder of the others. A kept folder that was removed meanwhile is looked up anew."""
        _components(path)
        parent, _, name = path.rpartition("/")
        for is_last_try in (False, True):
            folder = self._walk(parent)
            try:
                return act(folder.fd, name)
            except OSError as error:
                is_stale = error.errno == errno.ESTALE or (error.errno == errno.ENOENT and _is_removed(folder.fd))
                if is_stale and parent and not is_last_try:
                    with self._lock:
                        self._forget(parent)
                    continue
                if _is_refused_link(error, name, folder.fd):
                    raise self._unsafe(path, "it is a symlink") from None
                error.filename = path
                raise
            finally:
                self._release(folder)
        raise AssertionError("the second try returns or raises")

    def _walk(self, path: str, make_mode: int | None = None) -> _Folder:
        """The folder of that path, in use until ``_release``. Folders on the way are kept too."""
        with self._lock:
            at, folder = path, self._kept.get(path) if path else self._root
            while folder is None and at:
                at = at.rpartition("/")[0]
                folder = self._kept.get(at) if at else self._root
            if folder is None:
                raise ValueError("the SafeRoot is closed")
            if at:
                self._kept.move_to_end(at)
            folder.users += 1
        while at != path:
            name = path[len(at) + 1 if at else 0 :].partition("/")[0]
            below = f"{at}/{name}" if at else name
            try:
                found = self._open_folder(folder.fd, name, below, make_mode)
            finally:
                self._release(folder)
            at, folder = below, self._keep(below, found)
        return folder

    def _open_folder(self, parent_fd: int, name: str, path: str, make_mode: int | None) -> int:
        while True:
            try:
                return os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=parent_fd)
            except FileNotFoundError as error:
                if make_mode is None:
                    error.filename = path
                    raise
                try:
                    os.mkdir(name, make_mode, dir_fd=parent_fd)
                except FileExistsError:
                    pass  # another process made it between the two calls
                except OSError as failure:
                    failure.filename = path
                    raise
            except OSError as error:
                if _is_refused_link(error, name, parent_fd):
                    raise self._unsafe(path, "it is a symlink") from None
                error.filename = path
                raise

    def _keep(self, path: str, fd: int) -> _Folder:
        """Keep a new descriptor, in use once, and drop the least recently used ones beyond the limit."""
        with self._lock:
            folder = _Folder(fd)
            folder.users = 1
            other = self._kept.get(path)
            if other is not None:  # another thread was faster: its descriptor stays the kept one
                folder.is_dropped = True
                return folder
            if self._root is None:
                folder.is_dropped = True  # closed meanwhile
                return folder
            self._kept[path] = folder
            while len(self._kept) > self._folders_open_max:
                _drop(self._kept.popitem(last=False)[1])
            return folder

    def _release(self, folder: _Folder) -> None:
        with self._lock:
            folder.users -= 1
            if folder.is_dropped and folder.users == 0:
                os.close(folder.fd)

    def _forget(self, path: str) -> None:
        """Drop a folder and those below it; the lock is held."""
        below = f"{path}/"
        for kept in [kept for kept in self._kept if kept == path or kept.startswith(below)]:
            _drop(self._kept.pop(kept))

    def _unsafe(self, path: str, cause: str) -> UnsafeName:
        return UnsafeName(f"{self.path}/{path}", cause=cause, remedy="remove it, or choose another destination")


def _drop(folder: _Folder) -> None:
    folder.is_dropped = True
    if folder.users == 0:
        os.close(folder.fd)


def _components(path: str) -> None:
    """The floor that holds whatever the caller did: no path of any component leads upwards."""
    if "\0" in path or any(component in ("", ".", "..") for component in path.split("/")):
        raise UnsafeName(
            f"path {path!r}", cause="it is not a plain relative path", remedy="check the name before it is used"
        )


def _is_removed(fd: int) -> bool:
    try:
        return os.fstat(fd).st_nlink == 0
    except OSError:  # ESTALE of NFS
        return True


def _is_refused_link(error: OSError, name: str, folder_fd: int) -> bool:
    """Did O_NOFOLLOW refuse? Linux says ELOOP, but ENOTDIR where a folder is asked for; BSDs say EMLINK."""
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return True
    if error.errno != errno.ENOTDIR:
        return False
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode)
    except OSError:
        return False
