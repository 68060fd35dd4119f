"""One at a time copies a file: a lock file beside the partial copy on the NAS (`common/lock_file.py`)."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ...common.lock_file import break_lock, look_at_lock, release_lock, take_lock, touch_lock
from ...common.paths import SafeRoot
from ..storage.filesystems import boot_id
from .trouble import Held

EXPIRY_S = 60.0
"""A claim that nobody has touched for so long is broken. NFS clients cache attributes for 3 to 60 s (nfs(5), acregmax)."""
TOUCH_S = EXPIRY_S / 4


class Claims:
    """The claims of one process on one NAS folder. A claim is used by one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds, monotonic."""
        self._clock = clock
        self._machine = f"{socket.gethostname().replace(' ', '-')}/{boot_id().hex()}"
        self._seen: dict[str, tuple[tuple[bytes, int], float]] = {}  # of others: its state, and since when

    @contextmanager
    def claim(self, root: SafeRoot, path: str) -> Generator[Callable[[], None]]:
        """Hold the lock file at path. Yields a function that a long holder calls now and then. Raises Held, UnsafeName, OSError."""
        owner = f"{self._machine} {os.getpid()} {secrets.token_hex(8)}\n".encode()
        if not take_lock(root, path, owner):
            state = look_at_lock(root, path)
            if state is not None and (self._is_dead(state[0]) or self._is_expired(path, state)):
                break_lock(root, path, state[0])
            elif state is not None:
                raise Held(f"{path} is held")
            if not take_lock(root, path, owner):
                raise Held(f"{path} is held")
        self._seen.pop(path, None)
        touched = self._clock()

        def touch() -> None:
            nonlocal touched
            if self._clock() - touched >= TOUCH_S:
                touched = self._clock()
                if not touch_lock(root, path, owner):
                    raise Held(f"{path} was taken over while this process stood still")

        try:
            yield touch
        finally:
            release_lock(root, path, owner)

    def _is_dead(self, owner: bytes) -> bool:
        """Whether a process of this machine held it, since the last boot, that is not there any more."""
        machine, _, rest = owner.decode(errors="replace").partition(" ")
        pid = rest.partition(" ")[0]
        if machine != self._machine or not pid.isdecimal():
            return False
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        return False

    def _is_expired(self, path: str, state: tuple[bytes, int]) -> bool:
        now = self._clock()
        seen = self._seen.get(path)
        if seen is None or seen[0] != state:
            if len(self._seen) > 10_000:
                self._seen.clear()
            self._seen[path] = (state, now)
            return False
        return now - seen[1] >= EXPIRY_S
