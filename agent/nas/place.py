"""One NAS folder: how a file comes there, step by step.

::

    NAS/.shoal/manifest.json          what lies there (records.py)
    NAS/.shoal/nas/AGENT.log          copies that are not in the manifest yet
    NAS/.shoal/partial/KEY.lock       somebody copies this file now (claims.py)
    NAS/.shoal/partial/KEY-V.part     as far as it came: a copy that was broken off goes on from there

A copy is: claim the name, see what has it, copy into the partial file, sync, **read it back and compare its digest**, rename, sync
the folder, note it. The old file of the name stays until the new one is complete. Broken off anywhere, the final name is that of
the old file or of the new one, whole; what is not noted is hashed when it is next asked for.

Nothing of a NAS folder is kept open between two copies: it can be unmounted while nothing is copied.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ...common.digests import digest_of_file, matches
from ...common.errors import ShoalError, UnsafeName
from ...common.manifest import WORK_FOLDER, ManifestEntry, open_finished
from ...common.paths import SafeRoot
from ...common.roots import find_twin, ignores_case
from ...common.units import format_size
from ..storage.partial import PART
from ..storage.workfolder import TEMPORARY, short_hash
from . import names
from .book import CopyItem
from .claims import Claims
from .copying import ByteMover
from .mounts import Mounts
from .records import LOGS, Records
from .trouble import NO_SPACE, FileTrouble, NasDown, NeverCopied, trouble_of

PARTIAL = f"{WORK_FOLDER}/partial"
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """A file that is on the NAS, verified. moved: its bytes were copied now; otherwise it was there. itself: the local file is the
    one on the NAS, so that it must not be removed."""

    target: str  # below the NAS folder
    mtime_ns: int
    moved: bool
    itself: bool = False


class NasPlace:
    """One NAS folder. Every method may hang as long as the NAS does; all raise CopyTrouble. Several threads may use it."""

    def __init__(self, path: Path, *, owner: str, mounts: Mounts, recheck: bool, clock: Callable[[], float]) -> None:
        """owner: a plain name for its log. recheck: what is there already is hashed, whatever the records say."""
        self.path = path
        self.records = Records(owner, clock)
        self._claims = Claims(clock)
        self._mounts = mounts
        self._recheck = recheck
        self._ignores_case: bool | None = None

    def bring(self, item: CopyItem, mover: ByteMover) -> Brought:
        """See to it that the file is on the NAS."""
        try:
            return self._claimed(item, mover)
        except OSError as error:  # met while what was open on the NAS was closed
            raise trouble_of(error, str(self.path)) from error

    def check(self, target: str, size: int, mtime_ns: int) -> bool:
        """Whether a copy is still there as it was made."""
        try:
            with self._opened() as root:
                found = root.stat_beneath(target)
        except (FileNotFoundError, NotADirectoryError, UnsafeName):
            return False
        except OSError as error:
            raise trouble_of(error, str(self.path / target)) from None
        return (found.st_size, found.st_mtime_ns) == (size, mtime_ns)

    def merge(self, sleep: Callable[[float], None]) -> None:
        """Bring what was copied into the manifest."""
        self.records.merging()
        try:
            with self._opened() as root:
                self.records.merge(root, sleep=sleep)
        except ShoalError as error:
            raise FileTrouble(str(error)) from None
        except OSError as error:
            raise trouble_of(error, str(self.path)) from None

    # ---- how --------------------------------------------------------------------------------------------------------

    def _claimed(self, item: CopyItem, mover: ByteMover) -> Brought:
        base = self._name(item)
        with _local_file(item) as source_fd, self._opened() as root, ExitStack() as held:
            key = short_hash(base.casefold(), hex_digits=24)
            try:
                mover.beat = held.enter_context(self._claims.claim(root, f"{PARTIAL}/{key}.lock"))
            except UnsafeName as error:
                raise FileTrouble(str(error)) from None
            except OSError as error:
                raise self._down(error) from None
            try:
                if (itself := _is_itself(root, base, source_fd)) is not None:
                    return Brought(target=base, mtime_ns=itself, moved=False, itself=True)
                return self._bring(root, item, base, f"{PARTIAL}/{key}", source_fd, mover)
            except UnsafeName as error:
                raise FileTrouble(str(error)) from None
            except OSError as error:
                raise trouble_of(error, f"{self.path / base}") from error
            finally:
                mover.beat = _no_beat

    def _name(self, item: CopyItem) -> str:
        try:
            return names.target_path(item.source, item.name, preserve=item.preserve)
        except ShoalError as error:
            raise NeverCopied(str(error)) from None

    @contextmanager
    def _opened(self) -> Generator[SafeRoot]:
        self._mounts.check(self.path)
        try:
            root = SafeRoot(self.path)
        except OSError as error:
            raise self._down(error) from None
        with root:
            try:
                for folder in (PARTIAL, LOGS):
                    root.makedirs_beneath(folder)
            except UnsafeName as error:
                raise NasDown(str(error)) from None
            except OSError as error:
                raise self._down(error) from None
            yield root

    def _down(self, error: OSError) -> NasDown:
        """What goes wrong with the NAS's own work folder goes wrong for all."""
        return NasDown(str(trouble_of(error, str(self.path))))

    def _bring(self, root: SafeRoot, item: CopyItem, base: str, key: str, source_fd: int, mover: ByteMover) -> Brought:
        target, there = self._find(root, item, base, mover)
        if there is not None:
            return Brought(target=target, mtime_ns=there, moved=False)
        partial = f"{key}-{short_hash(item.digest, hex_digits=12)}{PART}"
        self._write(root, item, partial, source_fd, mover)
        self._verify(root, item, partial, source_fd, mover)
        self._place(root, partial, target)
        found = root.stat_beneath(target)
        if found.st_size != item.size:
            raise FileTrouble(
                f"{self.path / target}: it has {found.st_size} bytes, not {item.size}, though it was just copied"
            )
        self._note(root, item, target, found)
        return Brought(target=target, mtime_ns=found.st_mtime_ns, moved=True)

    def _find(self, root: SafeRoot, item: CopyItem, base: str, mover: ByteMover) -> tuple[str, int | None]:
        """The file's name, and the modification time of what is there if that is the very file."""
        for target in (base, self._second(item, base)):
            try:
                fd = root.open_beneath(target, os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                self._refuse_twin(root, target)
                return target, None
            except UnsafeName:
                if not _is_link(root, target):
                    raise
                return target, None  # the rename replaces the link itself
            try:
                found = os.fstat(fd)
                if found.st_size == item.size and self._is_right(root, item, target, fd, found, mover):
                    return target, found.st_mtime_ns
            finally:
                os.close(fd)
            if target != base or not self._is_anothers(root, item, target, found):
                return target, None
        raise AssertionError("the second name is final")

    def _second(self, item: CopyItem, base: str) -> str:
        folder, _, name = base.rpartition("/")
        second = names.second_name(name, item.source, item.name)
        return f"{folder}/{second}" if folder else second

    def _is_right(
        self, root: SafeRoot, item: CopyItem, target: str, fd: int, found: os.stat_result, mover: ByteMover
    ) -> bool:
        """Whether a file is the very one. By its record, unless its local counterpart is to be removed: that is never believed."""
        if self.records.is_copy(root, target, found, item.digest) and not self._recheck and not item.remove:
            return True
        if not matches(item.digest, mover.digest(fd, item.digest, item.size)):
            return False
        if not self.records.is_copy(root, target, found, item.digest):
            self._note(root, item, target, found)
        return True

    def _is_anothers(self, root: SafeRoot, item: CopyItem, target: str, found: os.stat_result) -> bool:
        """Whether the name is taken: by a file of another source or path; in the flat layout, by anything that is not known to be
        an older version of this one."""
        if self.records.is_of(root, target, found, item.source, item.name):
            return False
        return not item.preserve or self.records.is_known(root, target, found)

    def _refuse_twin(self, root: SafeRoot, target: str) -> None:
        if self._ignores_case is None:
            self._ignores_case = ignores_case(root, f"{PARTIAL}/probe-{secrets.token_hex(8)}{TEMPORARY}")
        if self._ignores_case and (twin := find_twin(root, target)) is not None:
            raise FileTrouble(f"{self.path / target}: {twin} is there, and this NAS does not tell them apart")

    def _write(self, root: SafeRoot, item: CopyItem, partial: str, source_fd: int, mover: ByteMover) -> None:
        fd = root.open_beneath(partial, os.O_RDWR | os.O_CREAT)
        try:
            have = os.fstat(fd).st_size
            if have > item.size:
                os.ftruncate(fd, 0)
                have = 0
            self._check_room(fd, item.size - have)
            try:
                mover.copy(source_fd, fd, have, item.size)
                os.fsync(fd)
            except OSError as error:
                if error.errno in NO_SPACE:
                    with suppress(OSError, UnsafeName):
                        root.unlink_beneath(partial)  # a smaller file may still have room
                raise
        finally:
            os.close(fd)

    def _check_room(self, fd: int, needed: int) -> None:
        room = os.fstatvfs(fd)
        free = room.f_bavail * room.f_frsize
        if room.f_blocks and free < needed:
            raise FileTrouble(f"{self.path}: the NAS is full: {format_size(free)} free, {format_size(needed)} needed")

    def _verify(self, root: SafeRoot, item: CopyItem, partial: str, source_fd: int, mover: ByteMover) -> None:
        fd = root.open_beneath(partial, os.O_RDONLY)
        try:
            actual = mover.digest(fd, item.digest, item.size)
        finally:
            os.close(fd)
        if matches(item.digest, actual):
            return
        with suppress(OSError, UnsafeName):
            root.unlink_beneath(partial)
        if not matches(item.digest, digest_of_file(source_fd, item.digest, item.size)):
            raise NeverCopied(f"{item.path}: the local file is damaged (shoal verify {item.folder} --repair)")
        raise FileTrouble(f"{self.path}: what was read back of {item.path} is not what was written")

    def _place(self, root: SafeRoot, partial: str, target: str) -> None:
        folder = target.rpartition("/")[0]
        if folder:
            root.makedirs_beneath(folder)
        try:
            root.replace_beneath(partial, target)
        except IsADirectoryError:
            raise FileTrouble(f"{self.path / target}: a folder lies where the file should be") from None
        try:
            root.sync_folder_beneath(folder)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise

    def _note(self, root: SafeRoot, item: CopyItem, target: str, found: os.stat_result) -> None:
        entry = ManifestEntry(
            path=target,
            size=item.size,
            digest=item.digest,
            etag=item.etag,
            mtime_ns=found.st_mtime_ns,
            source=item.source,
            revision=item.revision,
            commit=item.commit,
            original=item.name,
        )
        self.records.add(root, entry)


def _no_beat() -> None:
    pass


@contextmanager
def _local_file(item: CopyItem) -> Generator[int]:
    """The local file, open, as it was published. Raises NeverCopied, FileTrouble."""
    try:
        with SafeRoot(item.folder) as root:
            path = f"{item.base}/{item.path}" if item.base else item.path
            fd = open_finished(root, path, base=item.base)
    except (FileNotFoundError, NotADirectoryError):
        raise NeverCopied(f"{item.path}: it is not in {item.folder} any more") from None
    except UnsafeName as error:
        raise NeverCopied(str(error)) from None
    except OSError as error:
        raise _unreadable(item, error) from None
    try:
        try:
            found = os.fstat(fd)
        except OSError as error:
            raise _unreadable(item, error) from None
        if (found.st_size, found.st_mtime_ns) != (item.size, item.mtime_ns):
            raise NeverCopied(f"{item.path}: it has changed since it was downloaded")
        yield fd
    finally:
        with suppress(OSError):  # it was only read
            os.close(fd)


def _unreadable(item: CopyItem, error: OSError) -> FileTrouble:
    return FileTrouble(f"{item.path}: the local file cannot be read: {error.strerror}")


def _is_itself(root: SafeRoot, target: str, source_fd: int) -> int | None:
    """The modification time of the file on the NAS if it is the local file, perhaps by another mount; else None."""
    try:
        there = root.stat_beneath(target)
    except (FileNotFoundError, NotADirectoryError):
        return None
    here = os.fstat(source_fd)
    facts = [(each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in (here, there)]
    return there.st_mtime_ns if facts[0] == facts[1] else None


def _is_link(root: SafeRoot, path: str) -> bool:
    """Whether the name itself is a symlink, in folders that are none."""
    try:
        root.readlink_beneath(path)
    except (OSError, UnsafeName):
        return False
    return True
