"""What a command costs: wall time, CPU time, peak memory; and what a series of such figures says."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")
GRACE_S = 10.0  # the launcher ends its command by itself; this is for a launcher that does not
TAIL_BYTES = 500
TOUCH_BYTES = 1 << 20


class RunFailed(Exception):
    """A command did not do its work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The cost of one run. Args: wall_s and cpu_s (user and system, of the whole process tree) in seconds, peak_bytes (resident)."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    processes: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Medians of a tool's runs; wall_min_s and wall_max_s are their range.

    Args: ratio (its wall time over the reference's in the same round, then the median of these).
    """

    wall_s: float
    wall_min_s: float
    wall_max_s: float
    cpu_s: float
    peak_bytes: int
    ratio: float | None


def measure(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout_s: float, output: Path) -> Usage:
    """Run a command to its end, in a session of its own, its output in a file. Raises RunFailed when it fails or takes too long.

    Whatever ends this function, nothing of the command goes on running.
    """
    read, write = os.pipe()
    with os.fdopen(read) as report, output.open("wb") as out:
        try:
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), str(write), str(timeout_s), *command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=(write,),
                start_new_session=True,
            )
        finally:
            os.close(write)
        try:
            launcher.wait(timeout_s + GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_session(launcher)
        line = report.read()
    if not line:
        raise RunFailed(f"{command[0]}: nothing was told about it; {tail(output)}")
    code, wall_s, cpu_s, peak_bytes, processes = line.split()
    if int(code):
        raise RunFailed(f"{Path(command[0]).name} ended with {code} after {float(wall_s):.1f} s; {tail(output)}")
    return Usage(wall_s=float(wall_s), cpu_s=float(cpu_s), peak_bytes=int(peak_bytes), processes=int(processes))


def touch_memory(folder: Path, size: int) -> None:
    """Write so many bytes to a file in memory and remove it, so that free memory is memory that the machine really has.

    Where the host of a virtual machine takes back what is free, a page's first use costs it a fault that the guest pays for as if it
    copied slowly: seen were 1.2 CPU s for a GiB instead of 0.35. It would fall on whoever comes first after a pause.
    """
    block = b"x" * TOUCH_BYTES
    path = folder / "touched"
    try:
        with path.open("wb") as file:
            for _ in range(-(-size // TOUCH_BYTES)):
                file.write(block)
    finally:
        path.unlink(missing_ok=True)


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a session that was started here, and reap its leader."""
    try:
        os.killpg(leader.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    leader.wait()


def tail(output: Path) -> str:
    """The end of what a command printed."""
    text = output.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
    return f"it said: {text}" if text else "it said nothing"


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names beginning with another one every turn, so that no tool always runs after the same state of the machine."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def summarize(rounds: Sequence[Mapping[str, Usage]], *, reference: str) -> dict[str, Summary]:
    """Medians of every tool, in the order of the first round that has it.

    Args: rounds (a tool that failed in a round is missing there), reference (ratios are formed only in rounds that have it).
    """
    tools = list(dict.fromkeys(tool for figures in rounds for tool in figures))
    summaries: dict[str, Summary] = {}
    for tool in tools:
        runs = [figures[tool] for figures in rounds if tool in figures]
        ratios = [
            figures[tool].wall_s / figures[reference].wall_s
            for figures in rounds
            if {tool, reference} <= figures.keys()
        ]
        walls = [run.wall_s for run in runs]
        summaries[tool] = Summary(
            wall_s=statistics.median(walls),
            wall_min_s=min(walls),
            wall_max_s=max(walls),
            cpu_s=statistics.median(run.cpu_s for run in runs),
            peak_bytes=int(statistics.median(run.peak_bytes for run in runs)),
            ratio=statistics.median(ratios) if ratios else None,
        )
    return summaries
