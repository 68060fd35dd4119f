"""Is an address free to listen on, and who has it if not: Linux tells by /proc (proc(5)), for processes that may be looked at."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from ..common.errors import UsageError

_LISTENING = "0A"  # TCP_LISTEN of include/net/tcp_states.h
PROC = Path("/proc")


def require_free(name: str, address: str) -> None:
    """Raise UsageError, which names the holder, when nobody could listen on HOST:PORT. name is the setting's."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise UsageError(f"{name} {address}", cause=f"there is no such address here: {error.strerror}") from None
    family, kind, protocol, _name, where = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(where)
        except OSError as error:
            holder = who_listens(int(port))
            cause = f"it is taken by {holder}" if holder else (error.strerror or str(error)).lower()
            raise UsageError(
                f"{name} {address}", cause=cause, remedy="stop that one, or choose another address"
            ) from None


def who_listens(port: int, proc: Path = PROC) -> str:
    """ "process 123 (nginx)" for who listens on a TCP port; "" where that cannot be found out."""
    inodes = {inode for table in ("net/tcp", "net/tcp6") for inode in _inodes(proc / table, port)}
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            for entry in (folder / "fd").iterdir():
                with suppress(OSError):
                    if str(entry.readlink()) in wanted:
                        return f"process {folder.name} ({_command(folder)})"
    return "a process of another user"


def _inodes(table: Path, port: int) -> list[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []
    found: list[str] = []
    for line in lines:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            found.append(fields[9])
    return found


def _command(folder: Path) -> str:
    """What a process is: the names of its program and first arguments, where they are no options."""
    try:
        words = [word.decode(errors="replace") for word in (folder / "cmdline").read_bytes().split(b"\0") if word]
    except OSError:
        return "unknown"
    shown = [word.rpartition("/")[2] for word in words[:3] if not word.startswith("-")]
    return " ".join(shown) if all(word.isprintable() for word in shown) else "unknown"
