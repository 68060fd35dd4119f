"""A coordinator and its agents for the swarm's cells: real daemons, on machines of their own or on loopback; what they cost.

When a node has everything is seen on its disk, not asked: a file counts when it lies at its final path with its final size. That
costs next to nothing, whereas a `shoal status` takes a third of a second of a core that the daemons need. Digests are checked when
the clock has stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .launch import tree
from .measure import RunFailed, end_session, tail
from .run import say
from .swarm_origin import Origin, Payload, Wrap

READY_S = 40.0
CALL_S = 30.0
STOP_S = 20.0
POLL_S = 0.01
ASK_S = 0.2
COORDINATOR_PORT = 7070
PEER_PORT = 7072
DESTINATION = "x"
_TICKS_S = os.sysconf("SC_CLK_TCK")
_HIGH_WATER = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where a daemon runs. Args: address (that the others reach it at), wrap (makes a command run there)."""

    address: str
    wrap: Wrap


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one process with its children. Args: cpu_s (user and system), peak_bytes (resident)."""

    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """Which Shoal is measured. Args: path of its command, options of every coordinator and of every agent."""

    path: str
    coordinator_options: tuple[str, ...] = ()
    agent_options: tuple[str, ...] = ()
    deliver: str = "replicate"

    def knows(self, command: str, word: str) -> bool:
        """Whether the help of one of its commands has a word."""
        done = subprocess.run(
            [self.path, command, "--help"], capture_output=True, text=True, timeout=CALL_S, check=False
        )
        return word in done.stdout


class Fleet:
    """As a context manager; what it started is gone at its end.

    Args: folder (of everything), program, coordinator (its machine), origin (its variables and options go to every process), exposed
        (addresses other than loopback).
    """

    def __init__(self, folder: Path, program: Program, coordinator: Machine, origin: Origin, *, exposed: bool) -> None:
        self._folder = folder
        self._program = program
        self._machine = coordinator
        self._environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **origin.environ,
        }
        self._shared = [*origin.options, *(["--insecure"] if exposed else [])]
        port = COORDINATOR_PORT if exposed else _free_port()
        self.address = f"{coordinator.address}:{port}"
        self._peers = program.knows("agent", "--peer-listen")
        self._exposed = exposed
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._before: dict[str, Cost] = {}
        self._final: dict[str, Cost] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.terminate()
        for name, process in self._processes.items():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                say(f"{name} did not stop in {STOP_S:.0f} s; {tail(self._log(name))}")
            finally:
                end_session(process)

    # ---- daemons ----------------------------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        options = [*self._shared, *self._program.coordinator_options]
        command = ["coordinator", "--listen", self.address, "--state", str(self._folder / "state"), *options]
        self._start("coordinator", self._machine, command)

    def start_agent(self, name: str, machine: Machine) -> None:
        """One that delivers below a root of its own (one that all share when the job is spread)."""
        self.root(name).mkdir(exist_ok=True)
        command = ["agent", "--coordinator", self.address, "--name", name, "--root", str(self.root(name))]
        command += ["--data", str(self._folder / f"{name}-data"), *self._shared, *self._program.agent_options]
        if self._peers:
            port = PEER_PORT if self._exposed else _free_port()
            command += ["--peer-listen", f"{machine.address}:{port}"]
        self._start(name, machine, command)

    def root(self, name: str) -> Path:
        """Where an agent's destinations lie."""
        return self._folder / ("root" if self._program.deliver == "spread" else f"{name}-root")

    def kill(self, name: str) -> None:
        """`kill -9`. Its cost up to now is kept."""
        self._final[name] = _cost(self._processes[name].pid)
        os.killpg(self._processes[name].pid, signal.SIGKILL)
        self._processes[name].wait()

    def await_agents(self, count: int) -> None:
        """Until so many have connected. Raises RunFailed."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self.check()
            listing = self.call("agents", "--json", check=False)
            if listing.returncode == 0 and len(json.loads(listing.stdout)["agents"]) >= count:
                return
            time.sleep(ASK_S)
        raise RunFailed(f"{count} agents did not connect in {READY_S:.0f} s; {tail(self._log('coordinator'))}")

    def check(self) -> None:
        """Raises RunFailed when a daemon has ended that was not killed."""
        for name, process in self._processes.items():
            if name not in self._final and process.poll() is not None:
                raise RunFailed(f"{name} ended with {process.returncode}; {tail(self._log(name))}")

    # ---- the job ----------------------------------------------------------------------------------------------------

    def submit(self, source: Sequence[str]) -> str:
        """`shoal submit` to a folder below every root. Returns: the job's id. Raises RunFailed."""
        done = self.call("submit", *source, "--deliver", self._program.deliver, "--to", f"/{DESTINATION}")
        return done.stdout.split()[-1]

    def await_done(self, job: str, timeout_s: float) -> dict[str, Any]:
        """Until the coordinator says that the job has ended. Returns: what `shoal status --json` says. Raises RunFailed."""
        deadline = time.monotonic() + timeout_s
        said: dict[str, Any] = {}
        while time.monotonic() < deadline:
            said = json.loads(self.call("status", job, "--json").stdout)
            status = str(said.get("job", said).get("status", "")).lower()
            if status == "done":
                return said
            if status in ("failed", "cancelled"):
                raise RunFailed(f"the job {status}: {json.dumps(said)[:500]}")
            time.sleep(ASK_S)
        raise RunFailed(f"the job was not done {timeout_s:.0f} s after every file was there: {json.dumps(said)[:500]}")

    def call(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`shoal` on the coordinator's machine. Raises RunFailed."""
        command = [self._program.path, *arguments, "--coordinator", self.address, *self._shared]
        try:
            done = subprocess.run(
                self._machine.wrap(command),
                env={**self._environ, "HOME": str(self._folder)},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CALL_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise RunFailed(f"shoal {arguments[0]} took longer than {CALL_S:.0f} s") from None
        if check and done.returncode:
            raise RunFailed(f"shoal {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return done

    # ---- costs ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """What was spent up to here does not count."""
        self._before = {name: _cost(process.pid) for name, process in self._processes.items()}

    @property
    def start_cpu_s(self) -> float:
        """What the daemons had spent when `begin` was called."""
        return sum(cost.cpu_s for cost in self._before.values())

    def costs(self) -> dict[str, Cost]:
        """Of every daemon since `begin`, or since its start if that was later. Peaks are over its whole life."""
        now = {name: self._final.get(name) or _cost(process.pid) for name, process in self._processes.items()}
        nothing = Cost(cpu_s=0.0, peak_bytes=0)
        return {
            name: Cost(cpu_s=cost.cpu_s - self._before.get(name, nothing).cpu_s, peak_bytes=cost.peak_bytes)
            for name, cost in now.items()
        }

    def _start(self, name: str, machine: Machine, command: Sequence[str]) -> None:
        home = self._folder / f"{name}-home"
        home.mkdir(exist_ok=True)
        with self._log(name).open("ab") as out:
            self._processes[name] = subprocess.Popen(
                machine.wrap([self._program.path, *command]),
                env={**self._environ, "HOME": str(home)},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def watch(
    payload: Payload,
    folders: dict[str, Path],
    *,
    began: float,
    timeout_s: float,
    tick: Callable[[], None],
) -> dict[str, float]:
    """Wait until every folder has all files. Returns: seconds after ``began`` (perf_counter) for each. Raises RunFailed.

    Args: folders (name -> destination; ``tick``, which is called every few milliseconds, may add and remove some).
    """
    wanted = [(file.path, file.size) for file in payload.files]
    missing: dict[str, list[tuple[str, int]]] = {}
    moments: dict[str, float] = {}
    while folders.keys() - moments.keys():
        for name in folders.keys() - moments.keys():
            left = missing.setdefault(name, list(wanted))
            while left and _has(folders[name], *left[-1]):
                left.pop()
            if not left:
                moments[name] = time.perf_counter() - began
        if time.perf_counter() - began > timeout_s:
            shown = ", ".join(f"{name} lacks {len(missing[name])}" for name in sorted(folders.keys() - moments.keys()))
            raise RunFailed(f"not all there after {timeout_s:.0f} s: {shown} of {len(wanted)} files")
        tick()
        time.sleep(POLL_S)
    return moments


def verify(payload: Payload, folder: Path) -> None:
    """Check every file's digest. Raises RunFailed for a missing or a wrong one."""
    for file in payload.files:
        try:
            with (folder / file.path).open("rb") as there:
                digest = hashlib.file_digest(there, "sha256").hexdigest()
        except OSError as error:
            raise RunFailed(f"{folder.parent.name}: {file.path}: {error.strerror}") from None
        if digest != file.sha256:
            raise RunFailed(f"{folder.parent.name}: {file.path}: its bytes are wrong")


def cpu_s(pid: int) -> float:
    """User and system time of a process, of its descendants, and of those that it has waited for."""
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / _TICKS_S


def _cost(pid: int) -> Cost:
    try:
        found = _HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        found = None
    return Cost(cpu_s=cpu_s(pid), peak_bytes=int(found[1]) * 1024 if found else 0)


def _has(folder: Path, path: str, size: int) -> bool:
    try:
        return os.stat(folder / path).st_size == size
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
