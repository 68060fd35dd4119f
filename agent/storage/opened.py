"""What is open of a destination while a job works there."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from ...common.errors import ShoalError
from ...common.manifest import ManifestEntry
from ...common.mounts import filesystem_type, is_memory, is_network
from ...common.paths import SafeRoot
from ...common.records import JobSpec
from ...common.roots import ignores_case
from . import workfolder as names
from .claims import Claims
from .filesystems import boot_id
from .finishing import known_files, other_runs
from .journal import Journal
from .known import KnownFiles
from .layouts import FileLayout, layout_for
from .partials import PartialFolder

T = TypeVar("T")

_LEARN_S = 1.0
_WRITEV_PIECES_MAX = 1024  # IOV_MAX of Linux and macOS


class OpenDestination:
    """A destination's root, layout, partial files, marker, journal, and what is known of finished files. Thread-safe.

    Methods raise OSError and UnsafeName.
    """

    def __init__(
        self, job: JobSpec, root: SafeRoot, work: str, *, agent: str, sync: bool, expiry_s: float, is_alone: bool
    ) -> None:
        """Takes over root once it returns. work is the work folder's path below root; agent a plain name.

        expiry_s: after so many seconds of silence other runs take over. is_alone: the job ends with this process."""
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
        self._known_at = 0.0
        self._is_alone = is_alone
        self._ignores_case: bool | None = None
        self.layout: FileLayout = layout_for(job, root, self.temporary)
        self.partials = PartialFolder(
            root,
            f"{work}/partial",
            agent=agent,
            boot_id=boot_id(),
            is_network=is_network(kind),
            is_memory=is_memory(kind),
            in_company=self.in_company,
        )
        self.claims = Claims(root, work, run=names.job_key(job), agent=agent, expiry_s=expiry_s)

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

    def join(self, *, create: bool) -> None:
        """See the job's marker, or make it, and show that this agent lives. Raises FileNotFoundError."""
        path = f"{self._work}/jobs/{names.job_key(self._job)}{names.MARKER}"
        fd = self.root.open_beneath(path, os.O_RDWR | (os.O_CREAT if create else 0))
        try:
            if create and self._is_alone:
                os.pwrite(fd, names.ALONE, 0)
        finally:
            os.close(fd)
        self.claims.begin()

    def in_company(self) -> bool:
        """Whether another job of this source is, or may be, alive in this folder."""
        return any(not is_dead for _, is_dead in other_runs(self._job, self.root, self._work, self.claims))

    def knows(self, question: Callable[[KnownFiles], T]) -> T:
        """Ask what the manifest and the journals know. They are read when it is first asked."""
        with self._lock:
            if self._known is None:
                self._known_at = time.monotonic()
                self._known = known_files(self._job, self.root, self._work)
            return question(self._known)

    def learn(self) -> None:
        """Forget what is known of files, so that what other runs have finished since is read when it is next asked.

        Not more than once a second: until then this waits.
        """
        time.sleep(min(_LEARN_S, max(0.0, self._known_at + _LEARN_S - time.monotonic())))
        with self._lock:
            self._known = None

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
        """Close everything and give up what is claimed. Safe to call twice."""
        self.release()
        self.claims.release()
        self.root.close()

    def release(self) -> None:
        """Close the journal. Safe to call twice."""
        with self._lock:
            journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()


def _write_all(fd: int, data: Sequence[memoryview | bytes]) -> None:
    pieces = [memoryview(piece) for piece in data]
    while pieces:
        written = os.writev(fd, pieces[:_WRITEV_PIECES_MAX])
        while pieces and written >= len(pieces[0]):
            written -= len(pieces.pop(0))
        if written:
            pieces[0] = pieces[0][written:]
