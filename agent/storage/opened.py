"""What is open of a destination while a job works there."""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from ...common.errors import ShoalError
from ...common.flock import lock_now
from ...common.manifest import ManifestEntry
from ...common.mounts import filesystem_type, is_memory, is_network
from ...common.paths import SafeRoot
from ...common.records import JobSpec
from ...common.roots import ignores_case
from . import workfolder as names
from .filesystems import boot_id
from .finishing import known_files
from .journal import Journal
from .known import KnownFiles
from .layouts import FileLayout, layout_for
from .partials import PartialFolder

T = TypeVar("T")

_WRITEV_PIECES_MAX = 1024  # IOV_MAX of Linux and macOS


class OpenDestination:
    """A destination's root, layout, partial files, marker, journal, and what is known of finished files. Thread-safe.

    Methods raise OSError and UnsafeName.
    """

    def __init__(self, job: JobSpec, root: SafeRoot, work: str, *, agent: str, sync: bool) -> None:
        """Takes over root once it returns. work is the work folder's path below root; agent a plain name."""
        kind = filesystem_type(root.path)
        self.root = root
        self._job = job
        self._work = work
        self._agent = agent
        self._sync = sync
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._known: KnownFiles | None = None
        self._journal: Journal | None = None
        self._marker_fd = -1
        self._ignores_case: bool | None = None
        self.layout: FileLayout = layout_for(job, root, self.temporary)
        self.partials = PartialFolder(
            root,
            f"{work}/partial",
            agent=agent,
            boot_id=boot_id(),
            is_network=is_network(kind),
            is_memory=is_memory(kind),
        )

    @property
    def ignores_case(self) -> bool:
        """Whether the file system takes names that differ in case for one."""
        if self._ignores_case is None:
            self._ignores_case = ignores_case(self.root, self.temporary())
        return self._ignores_case

    def temporary(self) -> str:
        """A path in the work folder that nobody else uses."""
        name = f"{names.job_key(self._job)}.{self._agent}.{os.getpid()}.{next(self._numbers)}{names.TEMPORARY}"
        return f"{self._work}/partial/{name}"

    def write_new(self, path: str, data: Sequence[memoryview | bytes], *, sync: bool) -> os.stat_result:
        """Make a file of data at path and give its status. Raises OSError, and then there is no such file."""
        fd = self.root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _write_all(fd, data)
            if sync:
                os.fsync(fd)
            return os.fstat(fd)
        except BaseException:
            with suppress(OSError):
                self.root.unlink_beneath(path)
            raise
        finally:
            os.close(fd)

    def make_folders(self) -> None:
        """Make the work folder and those in it. A job that ended may have taken them away since they were made."""
        for name in ("", "/partial", "/jobs"):
            self.root.makedirs_beneath(self._work + name)

    def hold_marker(self, *, create: bool) -> None:
        """Open the job's marker and hold it, so that ``clean_folder`` sees that the job is alive. Raises FileNotFoundError."""
        with self._lock:
            if self._marker_fd < 0:
                path = f"{self._work}/jobs/{names.job_key(self._job)}{names.MARKER}"
                self._marker_fd = self.root.open_beneath(path, os.O_RDWR | (os.O_CREAT if create else 0))
                lock_now(self._marker_fd, fcntl.LOCK_SH)

    def knows(self, question: Callable[[KnownFiles], T]) -> T:
        """Ask what the manifest and the journals know. They are read when it is first asked."""
        with self._lock:
            if self._known is None:
                self._known = known_files(self._job, self.root, self._work)
            return question(self._known)

    def note(self, entry: ManifestEntry) -> None:
        """Add a line to the journal. It only saves work later, so a full disk does not fail the file that is in place."""
        with suppress(OSError, ShoalError), self._lock:
            if self._journal is None:
                path = f"{self._work}/jobs/{names.job_key(self._job)}.{self._agent}{names.LOG}"
                fd = self.root.open_beneath(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
                try:
                    self._journal = Journal(fd, boot_id=boot_id(), durable=self._sync)
                except BaseException:
                    os.close(fd)
                    raise
            self._journal.append(entry)
            if self._known is not None:
                self._known.add(entry)

    def close(self) -> None:
        """Close everything. Safe to call twice."""
        self.release()
        self.root.close()

    def release(self) -> None:
        """Close the journal and let go of the marker. Safe to call twice."""
        with self._lock:
            journal, self._journal = self._journal, None
            marker_fd, self._marker_fd = self._marker_fd, -1
        if journal is not None:
            journal.close()
        if marker_fd >= 0:
            os.close(marker_fd)


def _write_all(fd: int, data: Sequence[memoryview | bytes]) -> None:
    pieces = [memoryview(piece) for piece in data]
    while pieces:
        written = os.writev(fd, pieces[:_WRITEV_PIECES_MAX])
        while pieces and written >= len(pieces[0]):
            written -= len(pieces.pop(0))
        if written:
            pieces[0] = pieces[0][written:]
