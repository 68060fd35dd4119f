"""The lock under which a manifest is changed: by jobs that end in one folder, and by who deletes from it.

A lock file made with O_EXCL, which holds on NFS where flock may not (open(2)). One that its holder has not touched for LOCK_EXPIRY_S
is broken: the waiter goes by its own clock and the lock's change of state, because the clocks of two machines need not agree.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from .errors import Busy
from .lock_file import break_lock, look_at_lock, release_lock, take_lock, touch_lock
from .paths import SafeRoot

LOCK_NAME = "manifest.lock"

LOCK_EXPIRY_S = 30.0
"""A live holder touches its lock every quarter of this. NFS clients cache attributes for 3 to 60 s (nfs(5), acregmax)."""

LOCK_WAIT_S = 300.0
"""How long to wait for others to finish before giving up."""

_LOCK_POLL_S = 0.05


@contextmanager
def manifest_lock(
    root: SafeRoot,
    work: str,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[Callable[[], None]]:
    """Hold the lock of a work folder below root. Yields a function that a long holder calls now and then.

    Raises Busy, UnsafeName, OSError.
    """
    path = f"{work}/{LOCK_NAME}"
    owner = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}\n".encode()
    seen: tuple[bytes, int] | None = None
    since = began = monotonic()
    while not take_lock(root, path, owner):
        now = monotonic()
        state = look_at_lock(root, path)
        if state != seen:
            seen, since = state, now
        elif state is not None and now - since >= LOCK_EXPIRY_S:
            break_lock(root, path, state[0])
        if now - began >= LOCK_WAIT_S:
            holder = state[0].decode(errors="replace").split()[:2] if state else []
            raise Busy(str(root.path / path), cause=f"held by {' pid '.join(holder) or 'somebody'}", remedy="try again")
        sleep(_LOCK_POLL_S)
    touched = monotonic()

    def touch() -> None:
        nonlocal touched
        now = monotonic()
        if now - touched >= LOCK_EXPIRY_S / 4:
            touched = now
            with suppress(OSError):
                touch_lock(root, path, owner)

    try:
        yield touch
    finally:
        release_lock(root, path, owner)
