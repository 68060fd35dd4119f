"""The copy queue on the disk: what is to be copied and removed survives ``kill -9``, in order, and without being held in memory.

One text file, appended to, and locked (flock) by the process that works on it; its name tells the machine and the process, because
flock may do nothing on a network file system. A line is the CRC-32 of the rest, a blank and JSON::

    {"put": {...}}                          a file is to be copied
    {"done": SEQ, "job": ID, "size": N, "as": "copied" | "there" | "refused" | ""}
    {"removed": N, "job": ID}               local files that were removed after their copy
    {"sum": {JOB: {...}}}                   what was done for each job before the file was written anew

SEQ is the position of the file's put line, which is its name in the queue. A line that is torn is skipped: each one begins with a
line end, so whatever became of the one before, it stands alone. When nothing is left to do the file is written anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from ...common.errors import StateDamaged
from ...common.mounts import filesystem_type, is_network
from ...common.nas_records import NasCounts
from ..storage.filesystems import boot_id
from ..storage.workfolder import short_hash
from .book import CopyItem

SUFFIX = ".queue"
COMPACT_BYTES = 1 << 20
"""A file without anything left to do is written anew when it has grown beyond this."""
TOUCH_S = 60.0
"""How often a queue is touched while somebody works on it."""
SILENT_S = 3600.0
"""A queue of another machine that was not touched for so long is nobody's; it allows for clocks that differ."""
JOBS_KEPT = 100
INHERITED_MAX = 100_000
"""A file that is asked for again after a restart is not queued twice; beyond so many it is, which costs a look at its record."""
_READ_LINES = 200
_LINE_BYTES_MAX = 64 << 10
_ITEM_FIELDS = {field.name: field.type for field in fields(CopyItem)}


Outcome = Literal["copied", "there", "refused", ""]
_OUTCOMES: dict[object, dict[str, int]] = {
    "copied": {"files_copied": 1},
    "there": {"files_there": 1},
    "refused": {"files_refused": 1},
}


class QueueFile:
    """One queue. Owns its file and the lock on it. Thread-safe."""

    def __init__(self, path: Path, fd: int) -> None:
        """fd: open for reading and writing, locked. Reads all of it. Raises OSError; fd is then still the caller's."""
        self.path = path
        self._fd = fd
        self._lock = threading.Lock()
        self._size = os.fstat(fd).st_size
        self._cursor = 0  # where the next line to be read begins
        self._dirty = False
        self._done: set[int] = set()  # done, and not behind the cursor yet
        self._inherited: dict[
            int, int
        ] = {}  # seq -> fingerprint of what an earlier process left to do, the first of it
        self._fingerprints: set[int] = set()  # the same ones
        self.counts: dict[str, NasCounts] = {}
        self.pending = 0
        self._replay()

    def _replay(self) -> None:
        for seq, entry in self._lines(0):
            match entry:
                case {"put": dict()}:
                    if (item := self._item(seq, cast("dict[str, Any]", entry["put"]))) is not None:
                        self.pending += 1
                        self._add(item.job_id, files_waiting=1, bytes_waiting=item.size)
                        self._inherit(item)
                case {"done": int(done), "job": str(job_id), "size": int(size)}:
                    self._done.add(done)
                    self._inherited.pop(done, None)
                    self.pending -= 1
                    self._ended(job_id, size, entry.get("as"))
                case {"removed": int(count), "job": str(job_id)}:
                    self._add(job_id, files_removed=count)
                case {"sum": dict()}:
                    for job_id, values in cast("dict[str, dict[str, int]]", entry["sum"]).items():
                        self._add(job_id, **{name: value for name, value in values.items() if name in _COUNTED})
                case _:
                    continue
        self._fingerprints = set(self._inherited.values())

    def _ended(self, job_id: str, size: int, how: object) -> None:
        self._add(job_id, files_waiting=-1, bytes_waiting=-size, **_OUTCOMES.get(how, {}))
        if how == "copied":
            self._add(job_id, bytes_copied=size)

    def _add(self, job_id: str, **changes: int) -> None:
        counts = self.counts.get(job_id, NasCounts())
        self.counts[job_id] = replace(counts, **{name: getattr(counts, name) + more for name, more in changes.items()})

    def absorb(self, other: QueueFile) -> None:
        """Take over all that another queue holds, and remove it. Raises OSError."""
        try:
            while items := other.read(_READ_LINES):
                for item in items:
                    moved = self.put(item)
                    self._inherit(moved)
            done = {job_id: _counted(each) for job_id, each in other.counts.items()}
            with self._lock:
                self._append({"sum": done})
            for job_id, counts in done.items():
                self._add(job_id, **counts)
            self.sync()
            other.pending = 0
        finally:
            other.close()

    def _inherit(self, item: CopyItem) -> None:
        if len(self._inherited) < INHERITED_MAX:
            self._inherited[item.seq] = _fingerprint(item)
            self._fingerprints.add(self._inherited[item.seq])

    def inherited(self, item: CopyItem) -> bool:
        """Whether an earlier process had put the very file into the queue, and it is still there."""
        with self._lock:
            return _fingerprint(item) in self._fingerprints

    # ---- in ---------------------------------------------------------------------------------------------------------

    def put(self, item: CopyItem) -> CopyItem:
        """Append a file; returns it with its place in the queue. Raises OSError."""
        values = asdict(item)
        del values["queue"], values["seq"]
        with self._lock:
            seq = self._append({"put": values})
            self.pending += 1
            self._add(item.job_id, files_waiting=1, bytes_waiting=item.size)
        return replace(item, queue=str(self.path), seq=seq)

    def done(self, item: CopyItem, how: Outcome) -> None:
        """Nothing is left to do for the file. Raises OSError; it is then looked at again by a later process."""
        with self._lock:
            self.pending -= 1
            self._fingerprints.discard(self._inherited.pop(item.seq, 0))
            self._ended(item.job_id, item.size, how)
            self._append({"done": item.seq, "job": item.job_id, "size": item.size, "as": how})

    def removed(self, job_id: str, count: int) -> None:
        """Local files were removed after their copy. It is only for people: an error is nobody's."""
        with self._lock, suppress(OSError):
            self._add(job_id, files_removed=count)
            self._append({"removed": count, "job": job_id})

    def _append(self, entry: dict[str, Any]) -> int:
        body = json.dumps(entry, separators=(",", ":")).encode()
        line = b"\n%08x %s" % (zlib.crc32(body), body)
        at = self._size
        written = os.pwrite(self._fd, line, at)
        if written < len(line):
            raise OSError(28, os.strerror(28))  # the disk is full; the torn line is written over by the next one
        self._size += len(line)
        self._dirty = True
        return at

    # ---- out --------------------------------------------------------------------------------------------------------

    def read(self, limit: int) -> list[CopyItem]:
        """The next files, at most limit, that are not done. Each is given once. Raises OSError."""
        found: list[CopyItem] = []
        with self._lock:
            if self._cursor >= self._size:
                return found
            for seq, entry in self._lines(self._cursor):
                if len(found) == limit:
                    self._cursor = seq
                    break
                values = entry.get("put")
                if not isinstance(values, dict):
                    continue
                if seq in self._done:
                    self._done.discard(seq)
                elif (item := self._item(seq, cast("dict[str, Any]", values))) is not None:
                    found.append(item)
            else:
                self._cursor = self._size
        return found

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    @property
    def dirty(self) -> bool:
        """Whether something was appended since the last `sync`."""
        return self._dirty

    @property
    def unread(self) -> bool:
        """Whether there are lines that `read` has not come to."""
        return self._cursor < self._size

    def _lines(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The sound lines from a position on, each with its own position (that of the line end before it)."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(start)
            at = start
            while line := file.readline(_LINE_BYTES_MAX):
                body = line.rstrip(b"\n")[9:]
                if body and line[:9] == b"%08x " % zlib.crc32(body):
                    with suppress(ValueError):
                        entry = json.loads(body)
                        if isinstance(entry, dict):
                            yield at - 1, cast("dict[str, Any]", entry)
                at += len(line)

    def _item(self, seq: int, values: dict[str, Any]) -> CopyItem | None:
        known = {name: value for name, value in values.items() if name in _ITEM_FIELDS}
        wrong = [name for name, value in known.items() if type(value).__name__ != _ITEM_FIELDS[name]]
        if wrong or known.get("size", -1) < 0:
            return None
        try:
            return CopyItem(**cast("dict[str, Any]", {**known, "queue": str(self.path), "seq": seq}))
        except TypeError:  # of another version
            return None

    # ---- care -------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Make what was appended survive a power failure. Raises OSError."""
        if self._dirty:
            self._dirty = False
            os.fdatasync(self._fd)

    def touch(self) -> None:
        """Show other machines that somebody works on it."""
        with suppress(OSError):
            os.utime(self._fd)

    def compact(self) -> None:
        """With nothing left to do: begin anew, with no more than the counts of the newest jobs. Raises OSError."""
        with self._lock:
            if self.pending > 0 or self._size <= COMPACT_BYTES:
                return
            os.ftruncate(self._fd, 0)
            self._size = self._cursor = 0
            self._done.clear()
            self.counts = dict(list(self.counts.items())[-JOBS_KEPT:])
            self._append({"sum": {job_id: _counted(each) for job_id, each in self.counts.items()}})
            self._cursor = self._size

    def close(self, *, keep: bool = False) -> None:
        """Let go of the file. It is removed when nothing is left to do, unless it is kept to tell what was done."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            try:
                if self.pending <= 0 and not keep:
                    with suppress(OSError):
                        self.path.unlink()
            finally:
                os.close(fd)


_COUNTED = ("files_copied", "bytes_copied", "files_there", "files_refused", "files_removed")


def _counted(counts: NasCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _COUNTED}


def _fingerprint(item: CopyItem) -> int:
    return hash((item.nas, item.folder, item.base, item.path, item.digest, item.mtime_ns, item.remove))


def new_queue(folder: Path) -> QueueFile:
    """A new queue in a folder that is there. Raises OSError."""
    while True:
        try:
            return make_queue(folder / f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")
        except BlockingIOError:  # somebody took it over between its making and its locking
            continue


def take_over(folder: Path, *, alone: bool = False) -> QueueFile | None:
    """One queue with all that is left in a folder and that nobody works on; None where nothing is. alone: nobody else works in this
    folder. Raises OSError, StateDamaged."""
    if folder.is_symlink():
        raise StateDamaged(str(folder), cause="it is a symbolic link", remedy="remove it")
    mine: QueueFile | None = None
    try:
        alone = alone or not is_network(filesystem_type(folder))  # flock tells
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            other = take_queue(path) if alone or _is_left(path) else None
            if other is None:
                continue
            if mine is None and other.size <= COMPACT_BYTES:
                mine = other
                continue
            if mine is None:
                mine = new_queue(folder)
            mine.absorb(other)
    except BaseException:
        if mine is not None:
            mine.close(keep=True)
        raise
    return mine


def _machine() -> str:
    """This machine since its last boot, in two hashes."""
    return f"{short_hash(socket.gethostname(), hex_digits=8)}.{short_hash(boot_id().hex(), hex_digits=8)}"


def _is_left(path: Path) -> bool:
    """Whether nobody works on a queue, where flock does not tell: its process is gone, or its machine has long been silent."""
    machine, _, rest = path.name.partition("-")
    pid = rest.partition("-")[0]
    if machine == _machine() and pid.isdecimal():
        return not Path(f"/proc/{pid}").exists()
    if machine.partition(".")[0] == _machine().partition(".")[0]:
        return True  # the machine has booted since
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > SILENT_S
    return False


def make_queue(path: Path) -> QueueFile:
    """A queue of that name: the one that is there, or a new one. Raises OSError where somebody works on it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return _opened(path, fd)


def take_queue(path: Path) -> QueueFile | None:
    """The queue of that name, if it is there and nobody works on it. Raises OSError."""
    fd = _open_locked(path)
    return None if fd is None else _opened(path, fd)


def _opened(path: Path, fd: int) -> QueueFile:
    try:
        return QueueFile(path, fd)
    except BaseException:
        os.close(fd)
        raise


def _open_locked(path: Path) -> int | None:
    """The queue file at path, locked; None when somebody works on it or has just removed it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None
