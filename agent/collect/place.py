"""Where a dataset lies: a folder below the agent's root, or a prefix in a store (`store_place.py`). Blocks: for threads.

Staging is a folder in both cases: ``.shoal/collect`` of the dataset's folder, so that another agent can take over what one has begun,
or one in the agent's own data folder, from which finished files are uploaded.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from ...common.dataset_schema import ERRORS, SUCCESSES
from ...common.errors import NoSpace, NotShared, NotWritable
from ...common.paths import SafeRoot
from ...common.roots import resolve_destination
from ..storage.filesystems import disk_error
from ..storage.workfolder import plain_name
from .footer import Footer, footer_of_pair

STAGING: Final = ".shoal/collect"
TEMPORARY: Final = ".tmp"
ROOM_BYTES_MIN: Final = 64 << 20  # less than two row groups: no batch could be finished
SMALL_BYTES_MAX: Final = 16 << 20
_SHARD = re.compile(r"[0-9]{5,9}\.tar")


class Place(Protocol):
    """The dataset's place. Methods raise ShoalError."""

    @property
    def label(self) -> str:
        """For errors."""
        ...

    @property
    def staging(self) -> SafeRoot:
        """Where work in progress lies, once it was first needed until `close`."""
        ...

    def staged(self, name: str) -> str:
        """The path below `staging` of work in progress of that name."""
        ...

    def prepare(self) -> None:
        """Make the place, and prove that it can be written and has room."""
        ...

    def find(self, batch: str) -> Footer | None:
        """The footer of a batch that is complete."""
        ...

    def open_result(self, path: str) -> BinaryIO:
        """A finished file for reading; the caller closes it."""
        ...

    def publish(self, staged: str, path: str, footer: Footer | None = None) -> None:
        """Give a finished file of `staging` its final name."""
        ...

    def shards(self, batch: str) -> int:
        """How many shards a batch's folder holds: the number of the next."""
        ...

    def read_small(self, path: str) -> tuple[object, bytes] | None:
        """A small file that people write: what changes when it does, and its bytes; None where there is none."""
        ...

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keep other agents from publishing the batch of that staging name."""
        ...

    def close(self) -> None:
        """Close every descriptor. Safe to call twice."""
        ...


@contextmanager
def disk_errors(thing: str) -> Generator[None]:
    """OSErrors become those of the destination, NoSpace among them."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, thing) from error


class FolderPlace:
    """A folder that may be shared between agents. Nothing below it is reached through a symlink."""

    def __init__(self, destination: str, *, root: Path, allow: Sequence[Path], agent_id: str, sync: bool) -> None:
        """Touches nothing yet. Raises Refused when the destination leaves root or is below none of the allowed folders."""
        self._path = resolve_destination(destination, root=root, allow=allow)
        self._agent = plain_name(agent_id)
        self._sync = sync
        self._root: SafeRoot | None = None

    @property
    def label(self) -> str:
        return str(self._path)

    @property
    def staging(self) -> SafeRoot:
        if self._root is None:
            try:
                self._root = SafeRoot(self._path)
            except FileNotFoundError:
                raise NotShared(
                    self.label,
                    cause="this agent does not see what another agent has made there",
                    remedy="mount the shared folder at the same path on every agent",
                ) from None
            except OSError as error:
                raise disk_error(error, self.label) from error
        return self._root

    def staged(self, name: str) -> str:
        return f"{STAGING}/{name}"

    def prepare(self) -> None:
        with disk_errors(self.label):
            try:
                self._path.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise NotWritable(
                    self.label, cause="a file lies where a folder should be", remedy="choose another destination"
                ) from None
            room = os.statvfs(self._path)
            if room.f_bavail * room.f_frsize < ROOM_BYTES_MIN:
                free = room.f_bavail * room.f_frsize
                raise NoSpace(self.label, cause=f"only {free} bytes are free", remedy="free some space")
            self.staging.makedirs_beneath(STAGING)
            probe = self.staged(f"{self._agent}.probe{TEMPORARY}")
            write_new(self.staging, probe, b"x", sync=False)
            self.staging.unlink_beneath(probe)

    def find(self, batch: str) -> Footer | None:
        with disk_errors(batch):
            try:
                with self.open_result(f"{batch}/{SUCCESSES}") as first, self.open_result(f"{batch}/{ERRORS}") as second:
                    return footer_of_pair(first, second)
            except FileNotFoundError:
                return None

    def open_result(self, path: str) -> BinaryIO:
        return os.fdopen(self.staging.open_beneath(path, os.O_RDONLY), "rb")

    def publish(self, staged: str, path: str, footer: Footer | None = None) -> None:
        folder = path.rpartition("/")[0]
        with disk_errors(path):
            if folder:
                self.staging.makedirs_beneath(folder)
            self.staging.replace_beneath(staged, path)
            if self._sync:
                self.staging.sync_folder_beneath(folder)

    def shards(self, batch: str) -> int:
        with disk_errors(batch):
            return next_shard(self.staging.listdir_beneath(batch))

    def read_small(self, path: str) -> tuple[object, bytes] | None:
        with disk_errors(path):
            try:
                fd = self.staging.open_beneath(path, os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with os.fdopen(fd, "rb") as file:
                found = os.fstat(fd)
                return (found.st_ino, found.st_size, found.st_mtime_ns), file.read(SMALL_BYTES_MAX)

    @contextmanager
    def locked(self, name: str) -> Generator[None]:
        with disk_errors(self.label):
            fd = self.staging.open_beneath(self.staged(f"{name}.lock"), os.O_RDWR | os.O_CREAT)
        try:
            with suppress(OSError):  # between machines some file systems have no locks: then the footers' pairs tell
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def close(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            root.close()


def next_shard(names: Iterable[str]) -> int:
    """The number after the highest of the shards among these names."""
    numbers = [int(name.removesuffix(".tar")) for name in names if _SHARD.fullmatch(name)]
    return max(numbers, default=-1) + 1


def write_new(root: SafeRoot, path: str, data: bytes, *, sync: bool) -> None:
    """Write a file that is replaced where it is there. Raises OSError; nothing is left of it then."""
    fd = root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            root.unlink_beneath(path)
        raise


def remove_folder(root: SafeRoot, path: str) -> None:
    """Remove a folder of staging and the files in it, as far as that goes: what is left harms nobody."""
    with suppress(OSError):
        for name in root.listdir_beneath(path):
            with suppress(OSError):
                root.unlink_beneath(f"{path}/{name}")
        root.rmdir_beneath(path)
