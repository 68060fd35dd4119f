"""Copies come after downloads: the threads that make them ask for little of the processors and disks."""

from __future__ import annotations

import os
import platform
import threading

NICE = 10
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # numbers of the system call (linux/unistd.h of either)
_IOPRIO_WHO_PROCESS = 1
_BEST_EFFORT_LOWEST = (2 << 13) | 7  # ioprio_set(2): class best-effort, level 7. Idle could starve a copy for ever


def lower_priority() -> None:
    """Lower the priority of this thread alone (on Linux a thread has its own); elsewhere nothing happens."""
    try:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))
    except (OSError, AttributeError):
        pass
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return
    import ctypes

    try:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _BEST_EFFORT_LOWEST)
    except (OSError, AttributeError):
        pass
