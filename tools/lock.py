"""The lock of a dataset: one tool works on it at a time, on however many machines.

A run on one machine holds it *alone*. The agents of a fleet hold it *together*: whoever plans makes it, each unit that runs keeps it
alive, and `finish` takes it away. It is a file made with O_EXCL that its holders touch (`common.lock_file`). A lock
that is held alone by a process of this machine is broken at once when that process is gone; any other one when nobody
touched it for EXPIRY_S, by the clock of whoever waits.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ..common.errors import Busy, NotFound
from ..common.lock_file import break_lock, look_at_lock, release_lock, take_lock, touch_lock
from ..common.safe_root import SafeRoot
from .dataset import WORK

LOCK: Final = f"{WORK}/lock"

TOUCH_S: Final = 5.0
EXPIRY_S: Final = 90.0
"""NFS clients cache attributes for up to 60 s (nfs(5), acregmax): a holder that touches every 5 s is never older than 65 s."""

POLL_S: Final = 0.5
LOST: Final = "another run took the dataset over, because this one was silent for too long"


class Held:
    """A lock that is held. `check` raises Busy once it was lost."""

    def __init__(self, thing: str) -> None:
        self._thing = thing
        self.is_lost = False

    def check(self) -> None:
        """Raises Busy when somebody else has the lock by now."""
        if self.is_lost:
            raise Busy(self._thing, cause=LOST, remedy="run it again when the other one is done")


@contextmanager
def dataset_lock(
    data: Path,
    tool: str,
    *,
    together: bool = False,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    expiry_s: float = EXPIRY_S,
) -> Generator[Held]:
    """Hold the dataset's lock for a tool. A lock held together stays after the block: `release_together` removes it.

    Raises Busy, naming the holder, when another tool or another run has it and lives; NotFound, NotWritable, OSError.
    """
    if not data.is_dir():
        raise NotFound(
            str(data), cause="there is no such folder", remedy="--data names the folder of a collected dataset"
        )
    (data / WORK).mkdir(parents=True, exist_ok=True)
    with SafeRoot(data) as root:
        owner = _acquire(root, tool, together, monotonic, sleep, expiry_s)
        held = Held(str(data))
        stop = threading.Event()
        heart = threading.Thread(target=_beat, args=(root, owner, held, stop), daemon=True)
        heart.start()
        try:
            yield held
        finally:
            stop.set()
            heart.join()
            if not together:
                release_lock(root, LOCK, owner)


def release_together(data: Path, tool: str) -> None:
    """Remove the lock that agents held together for a tool."""
    with SafeRoot(data) as root:
        state = look_at_lock(root, LOCK)
        if state is not None and _is_joint(_read(state[0]), tool):
            release_lock(root, LOCK, state[0])


def _acquire(
    root: SafeRoot,
    tool: str,
    together: bool,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
    expiry_s: float,
) -> bytes:
    owner = json.dumps(
        {
            "tool": tool[:80],
            "together": together,
            "host": socket.gethostname()[:80],
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "id": secrets.token_hex(8),
        }
    ).encode()
    first: tuple[bytes, int] | None = None
    since = monotonic()
    while not take_lock(root, LOCK, owner):
        state = look_at_lock(root, LOCK)
        if state is None:
            continue
        holder = _read(state[0])
        if together and _is_joint(holder, tool):
            return state[0]
        if _is_gone(holder):
            break_lock(root, LOCK, state[0])
            continue
        if first is None:
            first, since = state, monotonic()
        # A holder on this machine was looked up; one elsewhere shows that it lives by touching the lock.
        if _is_here(holder) or state != first:
            raise _busy(root, tool, holder)
        if monotonic() - since >= expiry_s:
            break_lock(root, LOCK, state[0])
            first = None
            continue
        sleep(POLL_S)
    return owner


def _beat(root: SafeRoot, owner: bytes, held: Held, stop: threading.Event) -> None:
    while not stop.wait(TOUCH_S):
        try:
            if not touch_lock(root, LOCK, owner):
                held.is_lost = True
        except FileNotFoundError:
            held.is_lost = True
        except OSError:
            continue  # a file server that is away for a while; the next touch will do


def _busy(root: SafeRoot, tool: str, holder: dict[str, Any]) -> Busy:
    other, host, pid = holder.get("tool", "another tool"), holder.get("host", "another machine"), holder.get("pid", "?")
    who = "agents of a fleet, begun" if holder.get("together") else "a run"
    return Busy(
        str(root.path),
        cause=f"{other} is at work on it: {who} by process {pid} on {host}",
        remedy=f"run {tool} when it is done" if other != tool else "wait for it, or stop it",
    )


def _read(owner: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        values: Any = json.loads(owner)
        if isinstance(values, dict):
            return values  # pyright: ignore[reportUnknownVariableType]
    return {}


def _is_joint(holder: dict[str, Any], tool: str) -> bool:
    return bool(holder.get("together")) and holder.get("tool") == tool[:80]


def _is_here(holder: dict[str, Any]) -> bool:
    return holder.get("host") == socket.gethostname()[:80] and not holder.get("together")


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more. A number that came to another process is told by its
    time of start."""
    if not _is_here(holder) or not isinstance(holder.get("pid"), int):
        return False
    return _started(holder["pid"]) != holder.get("started")


def _started(pid: int) -> str:
    """When a process was started, in ticks since the boot, and the boot; "" when there is no such process. See proc(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return "" if not _is_alive(pid) else "unknown"
    after_name = stat.rpartition(")")[2].split()
    state, ticks = after_name[0], after_name[19]
    return "" if state in "ZX" else f"{ticks} {boot}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
