"""Which process this is, so that another one on the same machine can tell whether it is still there.

A process is named by the boot of its kernel, its namespace of process ids (two containers may both have a process 7), its id and
its time of start (an id is given again). Whoever shares boot and namespace can look it up; nobody else can.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple


class ProcessName(NamedTuple):
    """boot and namespace are "" where the system does not tell; started is "" for a process that is not there."""

    boot: str
    namespace: str
    pid: int
    started: str


def this_process() -> ProcessName:
    """The name of the process that calls."""
    pid = os.getpid()
    return ProcessName(_boot(), _namespace(), pid, started_at(pid))


def is_gone(process: ProcessName) -> bool | None:
    """Whether the process has ended; None where it cannot be looked up from here."""
    if not process.boot or not process.namespace or (process.boot, process.namespace) != (_boot(), _namespace()):
        return None
    return started_at(process.pid) != process.started


def started_at(pid: int) -> str:
    """When a process was started, in ticks since the boot; "" when there is no such process, or a dead one. See proc(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown" if _is_alive(pid) else ""
    after_name = stat.rpartition(")")[2].split()
    state, ticks = after_name[0], after_name[19]
    return "" if state in "ZX" else ticks


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@cache
def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
