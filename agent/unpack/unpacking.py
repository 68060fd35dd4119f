"""Unpacking one archive: from a file that is there, or from one that is still arriving.

::

    run()      members go into a staged folder, each checked before it is made     (staging.py, *_reader.py)
    commit()   the archive's digest was verified: what is staged is put in place    (placing.py)
    discard()  it was not: nothing is left

An archive is unpacked whole or refused whole. What it holds becomes visible with ``commit`` and not before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ...common.errors import Busy, Conflict, Interrupted, UnsafeName
from ...common.manifest import WORK_FOLDER
from ...common.paths import SafeRoot, safe_relative_path
from ..storage.filesystems import disk_error
from .formats import HEAD_BYTES, ArchiveFormat, check_magic
from .links import check_links
from .members import ArchiveReader, Budget, Limits
from .placing import Placement, place_lock, recover, try_place_lock
from .record import UNPACKED, Record, is_still_there, key_of, read_record, write_record
from .sources import Arrival, ArrivingSource, Source
from .staging import Stage, remove_stale
from .streams import decompressed
from .tar_reader import TarReader
from .zip_reader import ZipReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """What came of an archive: files (links too), their bytes, the folder below the root, and whether it was there already."""

    files: int
    bytes: int
    folder: str
    skipped: bool


def unpack_file(
    root: SafeRoot,
    source_fd: int,
    *,
    name: str,
    into: str,
    format: ArchiveFormat,
    limits: Limits,
    stamp: str,
    cancelled: Callable[[], bool],
    work: str = WORK_FOLDER,
    sync: bool = True,
) -> Unpacked:
    """Unpack the file open at source_fd into a folder below root. Blocks: call from a thread.

    name is the archive's path, for messages and the record; into the folder ("" for the root itself); stamp tells the
    archive's bytes from others: its verified digest. work is the work folder below root. Skips what was unpacked from the
    same bytes and is still there.

    Raises UnsafeArchive, DamagedArchive, Conflict (something else has a name of it), NoSpace, NotWritable, Interrupted,
    MissingExtra, UnsafeName; and then the folder is as it was, and nothing is left in the work folder.
    """
    found = find_unpacked(root, name=name, into=into, format=format, stamp=stamp, work=work)
    if found is not None:
        with suppress(OSError, UnsafeName):
            remove_stale(root, work, key=key_of(name, into))  # one that was killed at the very end
            _tidy(root, work)
        return found
    arrival = Arrival()
    arrival.finish(os.fstat(source_fd).st_size)
    unpacker = StreamingUnpacker(
        root,
        source_fd,
        arrival,
        name=name,
        into=into,
        format=format,
        limits=limits,
        cancelled=cancelled,
        size=os.fstat(source_fd).st_size,
        work=work,
        sync=sync,
    )
    try:
        unpacker.run()
        return unpacker.commit(stamp)
    finally:
        unpacker.discard()


def find_unpacked(
    root: SafeRoot, *, name: str, into: str, format: ArchiveFormat, stamp: str, work: str = WORK_FOLDER
) -> Unpacked | None:
    """What was unpacked from the same bytes before, if all of it is still there. Raises NotWritable and the like."""
    key = key_of(name, into)
    with _disk_errors(name):
        record = read_record(root, work, key)
        if record is None or not stamp:
            return None
        if (record.archive, record.folder, record.stamp, record.format) != (name, into, stamp, str(format)):
            return None
        with suppress(FileNotFoundError):
            root.stat_beneath(f"{work}/{UNPACKED}/{key}.journal")
            return None  # not yet in place
        if not is_still_there(root, work, key, record):
            return None
        return Unpacked(files=record.files, bytes=record.bytes, folder=into, skipped=True)


def recover_all(root: SafeRoot, *, work: str = WORK_FOLDER, sync: bool = True) -> None:
    """Finish, or take back, what killed processes left half in place below root. Cheap where there is nothing.

    Raises NotWritable and the like, Busy.
    """
    with _disk_errors(str(root.path)), suppress(FileNotFoundError):
        if root.listdir_beneath(f"{work}/{UNPACKED}"):
            with place_lock(root, work, cancelled=lambda: False):
                recover(root, work, sync=sync)
            _tidy(root, work)


class StreamingUnpacker:
    """Unpacks an archive while it arrives. ``run`` in a thread of its own; then ``commit`` or ``discard``, in any thread.

    A zip is read when all of it is there. Methods raise as ``unpack_file`` does.
    """

    def __init__(
        self,
        root: SafeRoot,
        source_fd: int,
        arrival: Arrival,
        *,
        name: str,
        into: str,
        format: ArchiveFormat,
        limits: Limits,
        cancelled: Callable[[], bool],
        size: int | None = None,
        work: str = WORK_FOLDER,
        sync: bool = True,
    ) -> None:
        """Touches nothing yet. size is the archive's in bytes where it is known; the ratio is then held against it, else
        against what has arrived. source_fd stays the caller's. Raises UnsafeName.
        """
        self._root = root
        self._fd = source_fd
        self._arrival = arrival
        self._name = name
        self._into = safe_relative_path(into) if into else ""
        self._format = format
        self._limits = limits
        self._cancelled = cancelled
        self._size = size
        self._work = work
        self._sync = sync
        self._key = key_of(name, into)
        self._stage: Stage | None = None

    def run(self) -> None:
        """Unpack everything into the staged folder, waiting for the bytes. Returns when the archive was found sound."""
        with _disk_errors(self._name):
            try:
                with suppress(FileNotFoundError), self._locked():
                    recover(self._root, self._work, key=self._key, sync=self._sync)
                self._unpack()
            except BaseException:
                self.discard()
                raise

    def commit(self, stamp: str) -> Unpacked:
        """The archive's bytes are right: put what is staged in place. stamp is their digest."""
        stage = self._stage
        assert stage is not None, "run() has not ended"
        with _disk_errors(self._name):
            try:
                self._place(stage, stamp)
            except BaseException:
                self._end(stage)
                raise
            self._end(stage)
        listed = stage.list
        return Unpacked(files=listed.files, bytes=listed.bytes, folder=self._into, skipped=False)

    def discard(self) -> None:
        """Remove what is staged, if anything. Safe to call at any time, also after commit; not while run() is at work."""
        stage, self._stage = self._stage, None
        if stage is not None:
            stage.discard()
        _tidy(self._root, self._work)

    def _unpack(self) -> None:
        budget = Budget(self._limits, archive=self._name, compressed=self._size or 0)
        reader = self._reader(budget)
        self._stage = stage = Stage(
            self._root, self._work, key=self._key, archive=self._name, budget=budget, sync=self._sync
        )
        for member, content in reader.members():
            if self._cancelled():
                raise Interrupted(self._name, cause="unpacking was cancelled")
            stage.add(member, content)
        stage.finish()

    def _reader(self, budget: Budget) -> ArchiveReader:
        """The reader of the format, once the archive's beginning has said that it is of that format."""
        there, is_whole = 0, False
        while not is_whole and (there < HEAD_BYTES or self._format is ArchiveFormat.ZIP):
            there, is_whole = self._arrival.wait_beyond(there, self._cancelled)
        check_magic(os.pread(self._fd, HEAD_BYTES, 0), self._format, self._name)
        if self._format is ArchiveFormat.ZIP:
            budget.compressed = there
            return ZipReader(
                self._fd,
                size=there,
                archive=self._name,
                budget=budget,
                files_max=self._limits.files_max,
                cancelled=self._cancelled,
            )
        source: Source = ArrivingSource(self._fd, self._arrival, cancelled=self._cancelled)
        if self._size is None:
            source = _Counted(source, budget)
        return TarReader(decompressed(source, self._format, self._name), archive=self._name, budget=budget)

    def _place(self, stage: Stage, stamp: str) -> None:
        listed = stage.list
        record = Record(
            archive=self._name,
            stamp=stamp,
            format=str(self._format),
            folder=self._into,
            files=listed.files,
            bytes=listed.bytes,
            list_digest=listed.digest,
            tops=None if listed.tops is None else tuple(listed.tops),
        )
        write_record(self._root, f"{stage.path}/record", record)
        with self._locked():
            self._root.makedirs_beneath(f"{self._work}/{UNPACKED}")
            recover(self._root, self._work, key=self._key, sync=self._sync)
            is_there = self._is_folder()
            if is_there and listed.links:
                check_links(self._root, listed.path, stage.tree, archive=self._name, beside=self._into)
            placement = Placement(
                self._root,
                self._work,
                key=self._key,
                staged=stage.path,
                into=self._into,
                is_whole=not is_there,
                sync=self._sync,
            )
            placement.begin()
            placement.run()

    def _is_folder(self) -> bool:
        """Whether the folder is there. Raises Conflict or UnsafeName when something else is, OSError."""
        if not self._into:
            return True
        try:
            os.close(self._root.open_beneath(self._into, os.O_RDONLY | os.O_DIRECTORY))
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise Conflict(
                self._into, cause="it is a file, not a folder", remedy="name another folder to unpack into"
            ) from None
        return True

    def _end(self, stage: Stage) -> None:
        """After the placing: what is staged goes, unless the journal still needs it."""
        self._stage = None
        try:
            if not self._is_journalled():
                stage.discard()
                _tidy(self._root, self._work)
        finally:
            stage.release()

    def _is_journalled(self) -> bool:
        try:
            self._root.stat_beneath(f"{self._work}/{UNPACKED}/{self._key}.journal")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, UnsafeName):
            return True  # not known: then the next run finds out
        return True

    @contextmanager
    def _locked(self) -> Generator[None]:
        with place_lock(self._root, self._work, cancelled=self._cancelled):
            yield


class _Counted:
    """A source that tells the budget how much of the archive there is to hold its files against."""

    def __init__(self, source: Source, budget: Budget) -> None:
        self._source = source
        self._budget = budget

    def read(self, size: int) -> bytes:
        """As Source."""
        data = self._source.read(size)
        self._budget.compressed += len(data)
        return data


def _tidy(root: SafeRoot, work: str) -> None:
    """Remove the work folder's folders that are empty. Where a job has its marker, its own stay: it needs them."""
    with suppress(OSError, UnsafeName, Busy), try_place_lock(root, work):
        with suppress(OSError):
            root.rmdir_beneath(f"{work}/{UNPACKED}")
        for name in ("/jobs", "/partial", ""):
            with suppress(FileNotFoundError):
                root.rmdir_beneath(work + name)


@contextmanager
def _disk_errors(thing: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, thing) from error
