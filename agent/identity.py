"""An agent's data folder: who it is, across restarts, and that only one process is it at a time."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..common.errors import Busy, NotWritable, StateDamaged

_ID = re.compile(r"[0-9a-f]{32}")


@contextmanager
def data_folder(path: Path) -> Generator[str]:
    """Hold an agent's data folder, made if it is not there. Yields the agent's id.

    Raises Busy if another process holds it, NotWritable, StateDamaged if the id in it cannot be read.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotWritable(f"agent data folder {path}", cause=str(error), remedy="name another with --data") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
            raise Busy(
                f"agent data folder {path}",
                cause=f"it is in use by {holder or 'another agent'}",
                remedy="give every agent on this machine a --data folder of its own",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield _agent_id(path / "id")
    finally:
        os.close(lock)


def _agent_id(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        text = uuid.uuid4().hex
        temporary = path.with_suffix(".new")
        temporary.write_text(text + "\n", encoding="ascii")
        temporary.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StateDamaged(str(path), cause=str(error)) from None
    if not _ID.fullmatch(text):
        raise StateDamaged(
            str(path), cause="it does not hold an agent's id", remedy="remove it; the agent then joins as a new one"
        )
    return text
