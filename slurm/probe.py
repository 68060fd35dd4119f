"""What one node sees: ``python -m shoal.slurm.probe``, started on every node by srun before a fleet starts there.

It reads one JSON line from standard input, the same on all nodes, and answers with one on standard output. It only looks, and leaves
nothing behind; what an answer is worth is judged in `checks.py`, on the node that asked.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ..common.room import prove_writable
from ..common.safe_root import SafeRoot
from ..common.version import VERSION

SIGHT_S = 15.0
"""How long a name that another node made may take to be seen: an NFS client may keep a folder's old attributes for 60 s (nfs(5),
acdirmax), but asks the server for a name that it has never looked for."""

POLL_S = 0.25
CONNECT_S = 5.0


def main() -> int:
    """Look, and answer. Returns 0: what is wrong stands in the answer."""
    asked: dict[str, Any] = json.loads(sys.stdin.readline())
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    answer: dict[str, Any] = {"node": node, "version": VERSION, "unreachable": _unreachable(asked["servers"])}
    answer["folders"] = [_look(folder, node) for folder in asked["folders"]]
    print(json.dumps(answer), flush=True)
    return 0


def _look(asked: dict[str, Any], node: str) -> dict[str, Any]:
    """Sees the folder? The marker in it, that the asking node made? May write? How much is free (bytes, files)?"""
    folder = Path(asked["path"])
    try:
        if not asked["shared"]:
            folder.mkdir(parents=True, exist_ok=True)
        seen = _sees(folder / asked["marker"], asked["text"]) if asked["shared"] else folder.is_dir()
        free = os.statvfs(folder)
    except OSError as error:
        return {"seen": False, "error": error.strerror or str(error)}
    return {
        "seen": seen,
        "error": "" if not seen else _cannot_write(folder, f"{asked['marker']}.{node}"),
        "free_bytes": free.f_bavail * free.f_frsize,
        "free_files": free.f_favail if free.f_files else None,
    }


def _sees(marker: Path, text: str) -> bool:
    ends_at = time.monotonic() + SIGHT_S
    while True:
        try:
            return marker.read_text(encoding="ascii") == text
        except FileNotFoundError:
            if time.monotonic() > ends_at or not marker.parent.is_dir():
                return False
        time.sleep(POLL_S)


def _cannot_write(folder: Path, name: str) -> str:
    """Why a file cannot be written, synced and renamed here; empty if it can. name and what begins with it is free."""
    try:
        with SafeRoot(folder) as root:
            prove_writable(root, name, f"{name}.renamed")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _unreachable(servers: list[str]) -> list[str]:
    """Those of the servers, HOST:PORT, that cannot be connected to, each with the reason."""
    found: list[str] = []
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        except OSError as error:
            found.append(f"{server}: {error.strerror or error}")
    return found


if __name__ == "__main__":
    sys.exit(main())
