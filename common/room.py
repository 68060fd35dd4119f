"""Can a folder be written, is there room for a job, and how a file of known size takes its place."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import NoSpace, NotFound, NotWritable

if TYPE_CHECKING:
    from .safe_root import SafeRoot


PROBE_BYTES = 4096  # a whole block: some file systems keep less than that in the inode, and a full disk would not show


def prove_writable(root: SafeRoot, path: str, renamed: str) -> None:
    """Do to a small file all that a download does to one: make it, write, sync, rename, remove. Nothing of it stays.

    path and renamed are free names below root, in one folder. Raises OSError, UnsafeName.
    """
    fd = root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    at = path
    try:
        os.write(fd, bytes(PROBE_BYTES))
        os.fsync(fd)
        root.replace_beneath(path, renamed)
        at = renamed
        root.unlink_beneath(renamed)
    except BaseException:
        with suppress(OSError):
            root.unlink_beneath(at)
        raise
    finally:
        os.close(fd)


def nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists. Raises NotWritable where a file is in the way."""
    for path in (folder, *folder.parents):
        if path.is_dir():
            return path
        if os.path.lexists(path):
            raise NotWritable(
                str(path), cause="a file lies where a folder should be", remedy="choose another destination"
            )
    return Path("/")


def check_room(folder: Path, *, total_bytes: int, total_objects: int, files_each: int, on: Path | None = None) -> None:
    """Raise NoSpace when a job certainly does not fit into folder.

    files_each is how many files (inodes) one object makes. on is a folder of the same file system, where folder is yet to
    be made. What of the job is there already is not known here, so when room looks short, all that lies in the folder counts
    as the job's own: a folder that is complete is never refused, and a disk that is too full for the rest is noticed again
    when each file takes its place.
    """
    room = os.statvfs(on or folder)
    short_bytes = total_bytes - room.f_bavail * room.f_frsize
    # File systems that make inodes as they need them report none at all.
    short_files = total_objects * files_each - room.f_favail if room.f_files else 0
    if short_bytes <= 0 and short_files <= 0:
        return
    there_bytes, there_files = _allocated(folder)
    if short_bytes > there_bytes:
        raise NoSpace(
            str(folder),
            cause=f"{total_bytes} bytes are to come and {room.f_bavail * room.f_frsize} are free",
            remedy="free some space or choose another destination",
        )
    if short_files > there_files:
        raise NoSpace(
            str(folder),
            cause=f"{total_objects * files_each} files are to come and {room.f_favail} inodes are free",
            remedy="remove some files or choose another destination",
        )


def _allocated(folder: Path) -> tuple[int, int]:
    """(bytes on the disk, files) of all that lies below folder."""
    total = files = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512  # noqa: PTH118 - a Path each is slow
            except OSError:
                continue
            files += 1
    return total, files


def preallocate(fd: int, size: int, *, reserve: bool) -> None:
    """Give the file open at fd its size, and where reserve is asked the disk space too. Raises OSError.

    reserve is for local disks. Elsewhere glibc would write a byte to each block where the file system has no fallocate(2), which is
    slow over a network and can undo what others write meanwhile (posix_fallocate(3)); and in memory it would zero all pages
    first (0.25 s a GiB, measured). There the free space is looked at instead.
    """
    if reserve:
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV):
                raise
        else:
            return
    room = os.fstatvfs(fd)
    if size - os.fstat(fd).st_blocks * 512 > room.f_bavail * room.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """The file system that a folder is on, or would be made on. Bytes."""

    path: str  # the nearest folder that is there
    free_bytes: int
    total_bytes: int
    writable: bool


def room_at(folder: Path) -> Room:
    """How much room there is. Makes nothing; may block on a network file system. Raises NotFound."""
    for place in (folder, *folder.parents):
        try:
            found = os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise NotFound(f"folder {place}", cause=f"it cannot be looked at: {error.strerror}") from None
        return Room(
            path=str(place),
            free_bytes=found.f_bavail * found.f_frsize,
            total_bytes=found.f_blocks * found.f_frsize,
            writable=os.access(place, os.W_OK | os.X_OK),
        )
    raise NotFound(f"folder {folder}", cause="no part of it is there")
