"""The installed ``shoal`` as a subprocess, as a person would run it, with a home and an environment of its own.

Every run is looked at for what no run may show: a traceback, a task or a coroutine that was lost, a file or socket that
was left open. Its cost comes from the kernel: CPU from wait4(2), peak memory from ``VmHWM`` of proc(5), read every few
milliseconds. (``ru_maxrss`` would not do: at exec(2) the child inherits the peak of the process that forked it, and that
is a test runner with a whole stand-in Hub in it.)
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

POLL_S = 0.005
RUN_S = 60.0  # a run that takes longer hangs
_FORBIDDEN = (
    "Traceback (most recent call last)",
    "was never awaited",
    "never retrieved",
    "ResourceWarning",
    "was destroyed",
)
_HIGH_WATER = re.compile(rb"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A run that ended. exit_code is negative (minus the signal's number) for one that a signal ended."""

    exit_code: int
    stdout: str
    stderr: str
    peak_rss_bytes: int
    cpu_s: float  # user and system

    def document(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.stdout)

    def expect(self, exit_code: int) -> Self:
        """This run, if it ended so; else fails with all that it said."""
        assert self.exit_code == exit_code, f"exit code {self.exit_code}\nstdout: {self.stdout}\nstderr: {self.stderr}"
        return self


class Running:
    """A run under way; `Shoal.start` makes it. As a context manager it is killed if it outlives the block."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._peak_bytes = 0
        self._finished: Finished | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._finished is None:
            self.signal(signal.SIGKILL)
            self.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return (self._folder / "stderr").read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """Sends a signal. Only to a process that was not waited for: its id cannot have gone to another."""
        os.kill(self._process.pid, number)

    def wait(self, timeout_s: float = RUN_S) -> Finished:
        """Waits for the end. Raises TimeoutError with what the run said."""
        ends_at = time.monotonic() + timeout_s
        while self._finished is None:
            self._watch_memory()
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait for it again
                self._finished = Finished(
                    exit_code=self._process.returncode,
                    stdout=(self._folder / "stdout").read_text(encoding="utf-8", errors="replace"),
                    stderr=self.stderr,
                    peak_rss_bytes=self._peak_bytes,
                    cpu_s=usage.ru_utime + usage.ru_stime,
                )
            elif time.monotonic() > ends_at:
                raise TimeoutError(f"still running after {timeout_s} s; it said: {self.stderr[-4000:]}")
            else:
                time.sleep(POLL_S)
        shown = [text for text in _FORBIDDEN if text in self._finished.stderr]
        assert not shown, f"{shown} in standard error:\n{self._finished.stderr}"
        return self._finished

    def _watch_memory(self) -> None:
        try:
            found = _HIGH_WATER.search(Path(f"/proc/{self._process.pid}/status").read_bytes())
        except OSError:
            return
        if found:  # a zombie has no memory any more
            self._peak_bytes = max(self._peak_bytes, int(found[1]) * 1024)


class Shoal:
    """A person's ``shoal``: a home, a working directory, an environment without anything of the machine's.

    Args: folder (becomes the home; runs leave their output in it), endpoint (of the Hub), environ (more variables).
    """

    def __init__(self, folder: Path, *, endpoint: str = "", environ: Mapping[str, str] | None = None) -> None:
        self.home = folder / "home"
        self.cwd = folder / "cwd"
        self.home.mkdir(parents=True)
        self.cwd.mkdir()
        self._runs = folder / "runs"
        self.environ = {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "LANG": "C.UTF-8",
            "COLUMNS": "200",
            "PYTHONWARNINGS": "default::ResourceWarning",
            **({"HF_ENDPOINT": endpoint} if endpoint else {}),
            **(environ or {}),
        }
        self.cache = self.home / "hf" / "hub"
        """The Hub cache that this person's `hf-cache` is."""

    def start(self, *arguments: str | Path, stdin: str = "", environ: Mapping[str, str] | None = None) -> Running:
        """Starts a run. environ: more variables for this one."""
        self._runs.mkdir(exist_ok=True)
        folder = self._runs / str(len(list(self._runs.iterdir())))
        folder.mkdir()
        (folder / "stdin").write_text(stdin, encoding="utf-8")
        with (
            (folder / "stdin").open("rb") as source,
            (folder / "stdout").open("wb") as out,
            (folder / "stderr").open("wb") as err,
        ):
            process = subprocess.Popen(
                [installed("shoal"), *map(str, arguments)],
                stdin=source,
                stdout=out,
                stderr=err,
                cwd=self.cwd,
                env={**self.environ, **(environ or {})},
                start_new_session=True,  # a signal for the test runner is none for it
            )
        return Running(process, folder)

    def run(
        self,
        *arguments: str | Path,
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
        timeout_s: float = RUN_S,
    ) -> Finished:
        """Runs it to its end. Raises TimeoutError."""
        with self.start(*arguments, stdin=stdin, environ=environ) as running:
            return running.wait(timeout_s)

    def get(self, *arguments: str | Path, **options: Any) -> Finished:
        """``shoal get`` that must succeed."""
        return self.run("get", *arguments, **options).expect(0)


def installed(program: str) -> str:
    """The path of a program of the environment that the tests run in."""
    path = Path(sysconfig.get_path("scripts")) / program
    assert path.is_file(), f"{path} is missing: pip install -e '.[dev]'"
    return str(path)


def files_below(folder: Path) -> list[Path]:
    """The files that lie below a folder now. Unlike ``rglob`` it minds no folder that goes away while it looks."""
    found = (Path(at, name) for at, _, names in os.walk(folder) for name in names)
    return [path for path in found if path.is_file()]


def delivered(folder: Path) -> dict[str, bytes]:
    """Path below a destination -> content of every file, but for the folders of Shoal and of the Hub's client."""
    named = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith((".shoal/", ".cache/"))}


def leftovers(folder: Path) -> list[str]:
    """What lies in the work folders below a destination besides manifests: unfinished work, or nothing."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in files_below(folder)
        if ".shoal" in path.relative_to(folder).parts[:-1] and path.name != "manifest.json"
    )


def until_tidy(folder: Path, timeout_s: float = RUN_S) -> None:
    """Waits until nothing unfinished lies below a destination. Raises AssertionError that names what stays."""
    ends_at = time.monotonic() + timeout_s
    while left := leftovers(folder):
        assert time.monotonic() < ends_at, f"still in the work folder of {folder} after {timeout_s} s: {left}"
        time.sleep(POLL_S)
