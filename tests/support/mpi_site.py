"""Somebody at a cluster with MPI: runs `mpirun` of Open MPI or `mpiexec` of MPICH, with Shoal's ranks as real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

import pytest

from .cli import Finished, installed
from .fleet import marked, until

RUN_S = 120.0  # on a machine that does much else, too
MARK = "SHOAL_TEST_MPI"
RANKS = [sys.executable, "-P", "-m", "shoal.slurm.mpi"]
_FORBIDDEN = (
    "Traceback (most recent call last)",
    "was never awaited",
    "never retrieved",
    "was destroyed",
    "did not join",
)


class MpiRun:
    """One launcher under way; whoever leaves the block has ended it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait(self, timeout_s: float = RUN_S) -> Finished:
        """Waits for the end. Raises TimeoutError with what it said."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running; it said: {self.said('stderr')}") from None
        found = Finished(
            exit_code=code, stdout=self.said("stdout"), stderr=self.said("stderr"), peak_rss_bytes=0, cpu_s=0.0
        )
        shown = [text for text in _FORBIDDEN if text in found.stderr]
        assert not shown, found.stderr
        return found

    def said(self, stream: str) -> str:
        """What it has written so far."""
        return (self._folder / stream).read_text(encoding="utf-8", errors="replace")


class MpiSite:
    """A folder, an environment, and the processes that were started with it.

    Args: folder; environ (more variables); launcher (how ranks are started, with its arguments: the number of ranks follows).
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], launcher: Sequence[str]) -> None:
        self.folder = folder
        self._runs = 0
        self.launcher = list(launcher)
        self.environ = {
            "PATH": os.defpath,
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "LANG": "C.UTF-8",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "SHOAL_COORDINATOR_HEARTBEAT": "1s",
            "SHOAL_COORDINATOR_LEASE_TTL": "5s",
            "PYTHONWARNINGS": "default::ResourceWarning",
            MARK: str(folder),
            **environ,
        }
        for name in ("home", "tmp"):
            (folder / name).mkdir()

    def start(self, *arguments: str | Path, ranks: int = 3, environ: Mapping[str, str] | None = None) -> MpiRun:
        """Starts Shoal's ranks."""
        return self.start_command(self.launcher, "-n", str(ranks), *RANKS, *arguments, environ=environ)

    def start_command(
        self, command: Sequence[str], *arguments: str | Path, environ: Mapping[str, str] | None = None
    ) -> MpiRun:
        """Starts any command."""
        self._runs += 1
        folder = self.folder / "tmp" / f"run{self._runs}"
        folder.mkdir()
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.folder,
                env={**self.environ, **(environ or {})},
                start_new_session=True,
            )
        return MpiRun(process, folder)

    def run(self, *arguments: str | Path, ranks: int = 3, environ: Mapping[str, str] | None = None) -> Finished:
        """Runs Shoal's ranks to their end."""
        with self.start(*arguments, ranks=ranks, environ=environ) as running:
            return running.wait()

    def processes(self) -> dict[int, str]:
        """All processes of this site: id -> command line."""
        return marked(MARK, str(self.folder))

    def rank(self, number: int) -> int:
        """The process id of a rank that runs."""
        return rank_process(self.processes, number)

    def nothing_left(self) -> None:
        """Waits until no process and no temporary folder is left. Raises TimeoutError that names what stays."""
        nothing_left(self.processes)
        assert [path.name for path in (self.folder / "tmp").glob("shoal-*")] == []


def nothing_left(processes: Callable[[], dict[int, str]]) -> None:
    """Waits until there are no such processes. Raises TimeoutError that names them."""
    try:
        until("nothing to be left", lambda: not processes(), timeout_s=60)
    except TimeoutError:
        raise TimeoutError(f"still there: {processes()}") from None


def rank_process(processes: Callable[[], dict[int, str]], number: int) -> int:
    """The process id of a rank among these processes, once it runs."""
    wanted = {f"OMPI_COMM_WORLD_RANK={number}".encode(), f"PMI_RANK={number}".encode()}

    def found() -> int | None:
        for pid, command in processes().items():
            if "-m shoal.slurm.mpi " in command and command.startswith(sys.executable):
                try:
                    if wanted & set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                        return pid
                except OSError:
                    continue
        return None

    return until(f"rank {number} to run", found)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal to a process of a site."""
    os.kill(pid, number)


def open_mpi() -> list[str]:
    """The launcher of the system's Open MPI; skips the test without one, or fails it where CI=true says that it must be there."""
    found = shutil.which("mpirun.openmpi") or shutil.which("mpirun")
    said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
    if found is None or not ("Open MPI" in said or "OpenRTE" in said):
        _give_up("Open MPI's mpirun missing (apt install openmpi-bin)")
    return [found, "--oversubscribe"]


def mpich() -> list[str]:
    """The launcher of PyPI's MPICH, which the tests' environment has."""
    return [installed("mpiexec")]


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)
