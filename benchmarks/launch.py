"""Starts one command and tells what it cost: `python -I -S launch.py FD TIMEOUT_S COMMAND...`.

Why a process of its own: the kernel counts what a process held before its `exec` as part of its peak (`ru_maxrss`), so a child
of a big harness would be charged with the harness. This launcher imports next to nothing; its own 10 MiB are the floor of what can be
told.
"""

from __future__ import annotations

import os
import select
import sys
import time

SAMPLE_S = 0.05


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                    found += [int(child) for child in file.read().split()]
        except OSError:
            continue
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 once it has ended."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def cpu_s(pid: int) -> float:
    """User and system time of a process and of those that it has waited for; 0 once it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return sum(map(int, file.read().rpartition(") ")[2].split()[11:15])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def launch(command: list[str], timeout_s: float) -> str:
    """Run a command. Returns `EXIT_CODE WALL_S CPU_S PEAK_BYTES PROCESSES_MAX`; the exit code is negative for a signal.

    PEAK_BYTES is the largest process's; where several ran at once, their sum, sampled, if that is more. CPU_S is what the kernel tells
    at the end; where several ran at once, their sum, sampled, if that is more: of a process that nobody waits for the kernel tells
    nothing. A command that exceeds its time is killed and told as -9.
    """
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    processes_max, sampled_max, cpu_max_s = 1, 0, 0.0
    while not ended.poll(SAMPLE_S * 1000):
        if time.perf_counter() - began > timeout_s:
            os.kill(pid, 9)
            break
        pids = tree(pid)
        if len(pids) > 1:
            processes_max = max(processes_max, len(pids))
            sampled_max = max(sampled_max, sum(map(resident_bytes, pids)))
            cpu_max_s = max(cpu_max_s, sum(map(cpu_s, pids)))
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - began
    peak = max(usage.ru_maxrss * 1024, sampled_max)
    told_s = max(usage.ru_utime + usage.ru_stime, cpu_max_s)
    return f"{os.waitstatus_to_exitcode(status)} {wall_s:.6f} {told_s:.6f} {peak} {processes_max}"


if __name__ == "__main__":
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    os.write(report, launch(sys.argv[3:], float(sys.argv[2])).encode())
