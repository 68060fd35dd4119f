"""A lease as a file that its holder keeps alive, right on NFS and Lustre, where flock(2) may silently do nothing.

It is made with O_EXCL (open(2)), and touched by a thread of its holder. A watcher that takes the holder for dead (`lease_rules.py`)
*breaks* the lease: rename(2), so that of several one does. Whoever comes back to life finds its file gone and knows that
what it held is no longer its own: `LeaseFile.is_ours` is to be asked before anything is published. Paths are below a `SafeRoot`.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from .errors import UnsafeName
from .lease_rules import BEATS_PER_EXPIRY, TEXT_BYTES_MAX, Holder, Life, Seen, Watch, holder_of
from .processes import is_gone, this_process
from .safe_root import SafeRoot

_TEND_S = 1.0
_JOIN_S = 5.0  # a thread that a file server keeps waiting for longer is left to itself


def alive_clock() -> float:
    """Seconds that pass while the machine sleeps, too, where the system has such a clock (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class LeaseFile:
    """One lease that this process may hold. Thread-safe."""

    def __init__(
        self,
        root: SafeRoot,
        *,
        expiry_s: float,
        about: str = "",
        clock: Callable[[], float] = alive_clock,
        tend: Callable[[], None] = lambda: None,
    ) -> None:
        """expiry_s: after so many seconds of silence others may take it. tend is called by its thread every second or so."""
        self._root = root
        self._path = ""
        self._expiry_s = expiry_s
        self._about = about
        self._clock = clock
        self._tend = tend
        self._text = b""
        self._lock = threading.Lock()
        self._sure_until = 0.0
        self._server_now_ns = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_taken(self) -> bool:
        """Whether it was taken and not given back since, as far as is known here without a look."""
        return bool(self._text)

    def take(self, path: str) -> bool:
        """Take it at this path and keep it alive from now on. False when somebody has it. Raises UnsafeName, OSError."""
        holder = Holder(
            process=this_process(),
            host=socket.gethostname(),
            expiry_s=self._expiry_s,
            token=secrets.token_hex(8),
            about=self._about,
        )
        text = holder.to_text()
        try:
            fd = self._root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        try:
            self._server_now_ns = _touch(fd, text)
        except OSError:
            with suppress(OSError, UnsafeName):
                self._root.unlink_beneath(path)
            raise
        finally:
            os.close(fd)
        with self._lock:
            self._path, self._text = path, text
            self._sure_until = self._clock() + self._expiry_s / 2
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat_on, name="shoal-lease", daemon=True)
            self._thread.start()
        return True

    def server_now_ns(self) -> int:
        """The file server's clock, from a touch that is made now. Raises FileNotFoundError when it was lost, OSError, UnsafeName."""
        if not self.beat():
            raise FileNotFoundError(self._path)
        return self._server_now_ns

    def beat(self) -> bool:
        """Touch it. False when it is no longer ours. Raises OSError, UnsafeName: then nobody knows."""
        with self._lock:
            path, text = self._path, self._text
        if not text:
            return False
        began = self._clock()
        try:
            fd = self._root.open_beneath(path, os.O_RDWR)
        except FileNotFoundError:
            return self._lost(text)
        try:
            if os.pread(fd, TEXT_BYTES_MAX, 0) != text:
                return self._lost(text)
            server_now_ns = _touch(fd, text)
            # It may have been renamed away between the look and the touch: then the touch was for nobody.
            if not _is_at(self._root, path, os.fstat(fd)):
                return self._lost(text)
        finally:
            os.close(fd)
        with self._lock:
            if self._text != text:
                return False
            self._server_now_ns = server_now_ns
            self._sure_until = began + self._expiry_s / 2
        return True

    def is_ours(self, *, cheaply: bool = False) -> bool:
        """Whether nobody has taken it. cheaply: without a look where it was touched a moment ago. Raises OSError, UnsafeName."""
        with self._lock:
            text, sure_until = self._text, self._sure_until
        if not text:
            return False
        if cheaply and self._clock() < sure_until:
            return True
        return self.beat()

    def release(self) -> None:
        """Give it back, if it is still ours, and end its thread. Safe to call twice."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)
        self._stop.clear()
        with self._lock:
            path, text, self._text = self._path, self._text, b""
        if text:
            with suppress(OSError, UnsafeName):
                found = look(self._root, path)
                if found is not None and found.text == text:
                    self._root.unlink_beneath(path)

    def _lost(self, text: bytes) -> bool:
        with self._lock:
            if self._text == text:
                self._text = b""
        return False

    def _beat_on(self) -> None:
        every_s = self._expiry_s / BEATS_PER_EXPIRY
        due = self._clock() + every_s
        while not self._stop.wait(min(every_s, _TEND_S)):
            if self._clock() >= due:
                with suppress(OSError, UnsafeName):  # a file server that is away for a while: the next touch will do
                    self.beat()
                due = self._clock() + every_s
            self._tend()


def look(root: SafeRoot, path: str) -> Seen | None:
    """A lease's file as it is now, None when there is none. It is opened, so that NFS asks the server (nfs(5), close-to-open).

    Raises UnsafeName, OSError.
    """
    try:
        fd = root.open_beneath(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return Seen(os.pread(fd, TEXT_BYTES_MAX, 0), _changed_ns(fd))
    finally:
        os.close(fd)


def judge(root: SafeRoot, path: str, watch: Watch, *, now: float, server_now_ns: int) -> tuple[Life, Seen | None]:
    """Look at a lease and judge it; what was seen is for `break_lease`. Raises UnsafeName, OSError."""
    seen = look(root, path)
    holder = holder_of(seen.text) if seen is not None else None
    gone = is_gone(holder.process) if holder is not None else None
    return watch.judge(seen, now=now, server_now_ns=server_now_ns, is_gone=gone), seen


def break_lease(root: SafeRoot, path: str, seen: Seen) -> bool:
    """Take a dead holder's lease away: it will find it gone. False when it was touched or given back meanwhile.

    Raises UnsafeName, OSError.
    """
    aside = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        root.replace_beneath(path, aside)
    except FileNotFoundError:
        return False
    try:
        if look(root, aside) == seen:
            return True
        root.link_beneath(aside, path)  # it lives after all, or is a newer one: back to its place, unless one is there
    except OSError:
        pass  # there is one, or the file system has no links: then a living holder finds its lease gone, and takes it anew
    finally:
        with suppress(FileNotFoundError):
            root.unlink_beneath(aside)
    return False


def may_live(root: SafeRoot, path: str, *, now: float, silent_s: float = 0.0) -> bool:
    """Whether a lease's holder may be alive, at a single look: no, when it was silent for its expiry and for silent_s (seconds; now
    is the file server's clock, as `server_now` tells it), or when its process is known to have ended. Raises UnsafeName, OSError.
    """
    seen = look(root, path)
    if seen is None:
        return False
    holder = holder_of(seen.text)
    is_silent = now - seen.changed_ns / 1e9 >= max(holder.expiry_s if holder is not None else 0.0, silent_s)
    return not is_silent and not (holder is not None and is_gone(holder.process))


def server_now(root: SafeRoot, folder: str) -> float:
    """Seconds since the epoch by the clock that times in a folder are from. Makes a file for it. Raises UnsafeName, OSError."""
    path = f"{folder}/{secrets.token_hex(8)}.tmp".lstrip("/")
    fd = root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.write(fd, b"\n")
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            root.unlink_beneath(path)


def _touch(fd: int, text: bytes) -> int:
    """Write a lease's text once more. Returns the time that the file server stamped it with, in ns."""
    os.pwrite(fd, text, 0)
    return _changed_ns(fd)


def _changed_ns(fd: int) -> int:
    return os.fstat(fd).st_mtime_ns


def _is_at(root: SafeRoot, path: str, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(root.stat_beneath(path), found)
    except FileNotFoundError:
        return False
