"""A fleet of real daemons: one ``shoal coordinator`` and some ``shoal agent``, as subprocesses on loopback. ::

    with Fleet(tmp_path / "fleet", endpoint=hub.url) as fleet:
        fleet.start("a1", "a2", "a3")
        job = fleet.submit("hf://acme/big", "--to", to)
        fleet.agent("a1").kill()
        assert fleet.ended(job).status is JobStatus.DONE

Every daemon has a home, a data folder and a log of its own. What the block started is gone when it ends, by process id, and the
ends of all logs are printed, for pytest to show when the test failed. No log may hold a traceback.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from shoal.common.views import AgentStatus, AgentView, FleetView, HostView, JobStatus, JobView, ObjectView, QueueView
from shoal.common.wire_hosts import decode_host
from shoal.common.wire_views import (
    decode_agent,
    decode_fleet,
    decode_job,
    decode_object,
    decode_queued_job,
)
from shoal.v1 import fleet_admin_service_pb2 as admin_pb
from shoal.v1 import job_service_pb2 as jobs_pb
from shoal.v1.fleet_admin_service_pb2_grpc import FleetAdminServiceStub
from shoal.v1.job_service_pb2_grpc import JobServiceStub

from .cli import Finished, Running, Shoal, installed

T = TypeVar("T")

POLL_S = 0.05
WAIT_S = 60.0  # whatever takes longer hangs, on a busy machine too
CALL_S = 40.0
TAIL_BYTES = 6000
PORTS = range(20_000, 32_000)  # below the ephemeral ones: a client's own port can never be the coordinator's
FORBIDDEN = (
    "Traceback (most recent call last)",
    "was never awaited",
    "never retrieved",
    "ResourceWarning",
    "was destroyed",
)
_HIGH_WATER = re.compile(rb"VmHWM:\s+(\d+) kB")


def _own_ports() -> Iterator[int]:
    """All ports of this process, in turn, for ever: what one worker of pytest-xdist hands out, no other one does."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = PORTS[int(worker) :: workers]
    first = random.Random().randrange(len(mine))
    return itertools.cycle([*mine[first:], *mine[:first]])


_ports = _own_ports()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now, and that is not handed out again soon: what it is for may start much later."""
    for port in itertools.islice(_ports, 100):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Daemon:
    """One ``shoal`` that runs until it is told to stop. It can be started again after it has ended; its log goes on."""

    def __init__(self, name: str, arguments: list[str], *, cwd: Path, environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command = [installed("shoal"), *arguments]
        self._cwd = cwd
        self._environ = dict(environ)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._may_end = False
        self.listener: socket.socket | None = None  # handed over at the start, as systemd does

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has written so far, over all its runs."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def crashed(self) -> bool:
        """Whether it has ended though nobody told it to."""
        return self._process is not None and not self._may_end and self._process.poll() is not None

    def start(self) -> None:
        """Starts it. It must not run already."""
        assert not self.running, f"{self.name} runs already"
        self._may_end = False
        command, handed = self._command, ()
        if self.listener is not None:
            handed = (self.listener.fileno(),)
            command = [sys.executable, "-c", _HAND_OVER, str(handed[0]), *self._command]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                env=self._environ,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Sends a signal; Popen sees to it that the id still is this process's."""
        self._may_end = self._may_end or number not in (signal.SIGSTOP, signal.SIGCONT)
        self.process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``, and waits for the end."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP, and waits until it has stopped."""
        self.signal(signal.SIGSTOP)
        until(f"{self.name} to stop", lambda: _state(self.pid) == "T")

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def terminate(self, timeout_s: float = WAIT_S) -> int:
        """SIGTERM, and waits for the end. Returns: the exit code. Raises TimeoutError."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Waits for the end. Returns: the exit code, minus the number of the signal that ended it. Raises TimeoutError."""
        self._may_end = True
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout_s} s") from None

    def events(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one event; logs are JSON."""
        whole, _, _under_way = self.log.rpartition("\n")  # the daemon writes while we read
        lines = (line for line in whole.split("\n") if line.startswith("{"))
        return [found for found in map(json.loads, lines) if found.get("action", found.get("event")) == event]

    def peak_rss_bytes(self) -> int:
        """``VmHWM`` of proc(5): the most memory that it has had. It must run."""
        found = _HIGH_WATER.search(Path(f"/proc/{self.pid}/status").read_bytes())
        assert found, f"{self.name} does not run"
        return int(found[1]) * 1024

    def end(self) -> None:
        """Ends what still runs, stopped or not."""
        if self.running:
            self.kill()


class Fleet:
    """One coordinator and its agents, as a context manager.

    Args:
        folder: everything of the fleet lies below it; made if it is not there.
        endpoint: of the Hub.
        environ: more variables for all daemons and for `shoal`.
        listen: host that the coordinator listens on. address: host that the others reach it at.
        coordinator_environ: more variables for the coordinator alone.
        credential, authority: token and CA file with which this class asks the coordinator, where it demands them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        endpoint: str,
        environ: Mapping[str, str] | None = None,
        listen: str = "127.0.0.1",
        address: str = "127.0.0.1",
        coordinator_environ: Mapping[str, str] | None = None,
        credential: str = "",
        authority: Path | None = None,
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        port = free_port()
        self.address = f"{address}:{port}"
        self.credential = credential
        self._authority = authority
        shared = {"SHOAL_LOG_FORMAT": "json", **(environ or {})}
        self.shoal = Shoal(
            folder / "person", endpoint=endpoint, environ={**shared, "SHOAL_COORDINATOR_ADDRESS": self.address}
        )
        self._environ = {
            **{name: value for name, value in self.shoal.environ.items() if name != "SHOAL_COORDINATOR_ADDRESS"},
            "SHOAL_LOG_LEVEL": "debug",
        }
        arguments = ["coordinator", "--listen", f"{listen}:{port}", "--state", str(self.state)]
        self.coordinator = self.daemon("coordinator", arguments, coordinator_environ)
        self._agents: dict[str, Daemon] = {}
        self._others: list[Daemon] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        daemons = [self.coordinator, *self._agents.values(), *self._others]
        for daemon in daemons:
            daemon.end()
        self.show_logs()  # always: pytest shows it for a test that failed, and only there knows which did
        if error is not None:
            return
        for daemon in daemons:
            shown = [text for text in FORBIDDEN if text in daemon.log]
            assert not shown, f"{shown} in the log of {daemon.name}"

    def show_logs(self) -> None:
        """Prints the end of every daemon's log."""
        for daemon in (self.coordinator, *self._agents.values(), *self._others):
            print(f"---- {daemon.name} ----\n{daemon.log[-TAIL_BYTES:]}", file=sys.stderr)

    # ---- daemons ----------------------------------------------------------------------------------------------------

    def daemon(self, name: str, arguments: list[str], environ: Mapping[str, str] | None = None) -> Daemon:
        """A daemon with a home of its own, not started and not this fleet's to end."""
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        places = {
            "HOME": "",
            "HF_HOME": "hf",
            "XDG_CONFIG_HOME": "config",
            "XDG_STATE_HOME": "state",
            "XDG_CACHE_HOME": "cache",
        }
        own = {variable: str(home / place) for variable, place in places.items()}
        return Daemon(
            name, arguments, cwd=home, environ={**self._environ, **own, **(environ or {})}, log=home / "log"
        )  # fmt: skip

    def extra(self, name: str, arguments: list[str], environ: Mapping[str, str] | None = None) -> Daemon:
        """One more daemon, started, and ended with the fleet: a second one on the same folder, for instance."""
        daemon = self.daemon(name, arguments, environ)
        self._others.append(daemon)
        daemon.start()
        return daemon

    def agent(self, name: str) -> Daemon:
        """The agent of this name. Raises KeyError."""
        return self._agents[name]

    def agent_arguments(self, name: str, *more: str) -> list[str]:
        """The command line of an agent of this fleet."""
        data = self.folder / name / "data"
        return ["agent", "--coordinator", self.address, "--name", name, "--data", str(data), *more]

    def start(self, *names: str, environ: Mapping[str, str] | None = None) -> Self:
        """Starts the coordinator, if it does not run, and these agents; returns when all of them are alive."""
        if not self.coordinator.running:
            self.coordinator.start()
        for name in names:
            self.add_agent(name, environ=environ)
        self.until_alive(*names)
        return self

    def add_agent(self, name: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Daemon:
        """Starts an agent and returns at once. A name that was used before is the same agent, again."""
        if name not in self._agents:
            self._agents[name] = self.daemon(name, self.agent_arguments(name, *arguments), environ)
        self._agents[name].start()
        return self._agents[name]

    # ---- questions --------------------------------------------------------------------------------------------------

    def run(self, *arguments: str | Path, **options: Any) -> Finished:
        """``shoal`` with this coordinator; see `Shoal.run`."""
        return self.shoal.run(*arguments, **options)

    def ask(self, *arguments: str | Path, **options: Any) -> Any:
        """The JSON document that ``shoal … --json`` prints. The command must succeed."""
        return self.run(*arguments, "--json", **options).expect(0).document()

    def submit(self, *arguments: str | Path, **options: Any) -> str:
        """``shoal submit`` of one source. Returns: the job's id."""
        return self.run("submit", *arguments, **options).expect(0).stdout.strip()

    def get(self, *arguments: str | Path) -> Running:
        """``shoal get``, started."""
        return self.shoal.start("get", *arguments)

    def _ask(self, stub: Callable[[grpc.Channel], Any], method: str, request: Message) -> Any:
        """Call a method. A channel a question: none waits in the backoff of an earlier one when the coordinator is back."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        if self._authority is None:
            channel = grpc.insecure_channel(self.address, options)
        else:
            trust = grpc.ssl_channel_credentials(self._authority.read_bytes())
            channel = grpc.secure_channel(self.address, trust, options)
        metadata = (("authorization", f"Bearer {self.credential}"),) if self.credential else ()
        with channel:
            return getattr(stub(channel), method)(request, timeout=CALL_S, metadata=metadata)

    def view(self) -> FleetView:
        """The fleet. Raises grpc.RpcError while the coordinator is away, as all the following do."""
        return decode_fleet(self._ask(FleetAdminServiceStub, "GetFleet", admin_pb.GetFleetRequest()).fleet)

    def agents(self) -> dict[str, AgentView]:
        """All agents by name."""
        answer = self._ask(FleetAdminServiceStub, "ListAgents", admin_pb.ListAgentsRequest())
        return {view.name: view for view in map(decode_agent, answer.agents)}

    def hosts(self) -> dict[str, HostView]:
        """All hosts by name."""
        answer = self._ask(FleetAdminServiceStub, "ListHosts", admin_pb.ListHostsRequest())
        return {view.host: view for view in map(decode_host, answer.hosts)}

    def queue(self) -> list[QueueView]:
        """Jobs that have not ended, in the order of service."""
        answer = self._ask(FleetAdminServiceStub, "GetQueue", admin_pb.GetQueueRequest())
        return list(map(decode_queued_job, answer.jobs))

    def job(self, job_id: str) -> JobView:
        """One job with its active objects."""
        return decode_job(self._ask(JobServiceStub, "GetJob", jobs_pb.GetJobRequest(job_id=job_id)).job)

    def objects(self, job_id: str) -> list[ObjectView]:
        """The first thousand objects of a job."""
        request = jobs_pb.ListObjectsRequest(job_id=job_id, page_size=1000)
        return list(map(decode_object, self._ask(JobServiceStub, "ListObjects", request).objects))

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def until(self, what: str, condition: Callable[[], T | None], timeout_s: float = WAIT_S) -> T:
        """Waits until the condition is true; a coordinator that is away makes it false. Raises TimeoutError.

        A daemon that ended by itself fails the test at once.
        """

        def asked() -> T | None:
            crashed = [daemon.name for daemon in (self.coordinator, *self._agents.values()) if daemon.crashed]
            assert not crashed, f"{crashed} ended while we waited for {what}"
            try:
                return condition()
            except grpc.RpcError:
                return None

        return until(what, asked, timeout_s)

    def until_alive(self, *names: str, timeout_s: float = WAIT_S) -> None:
        """Waits until these agents are connected and heard."""

        def alive() -> bool:
            agents = self.agents()
            return all(name in agents and agents[name].status is AgentStatus.ALIVE for name in names)

        if names:
            self.until(f"{', '.join(names)} to be alive", alive, timeout_s)
        else:
            self.until("the coordinator to answer", self.view, timeout_s)

    def until_arrived(self, job_id: str, size: int, timeout_s: float = WAIT_S) -> JobView:
        """Waits until so many bytes of a job have arrived, as its progress bar would show."""

        def arrived() -> JobView | None:
            job = self.job(job_id)
            assert not job.ended, f"the job ended before: {job}"
            return job if job.bytes_arrived >= size else None

        return self.until(f"{size} bytes of job {job_id}", arrived, timeout_s)

    def ended(self, job_id: str, status: JobStatus = JobStatus.DONE, timeout_s: float = WAIT_S) -> JobView:
        """Waits for the end of a job, which must be this one."""

        def over() -> JobView | None:
            job = self.job(job_id)
            return job if job.ended else None

        job = self.until(f"the end of job {job_id}", over, timeout_s)
        assert job.status is status, f"{job.status}: {job.failure}"
        return job


def until(what: str, condition: Callable[[], T | None], timeout_s: float = WAIT_S) -> T:
    """Polls until the condition is true, and returns what it gave. Raises TimeoutError."""
    ends_at = time.monotonic() + timeout_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > ends_at:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(POLL_S)


def _state(pid: int) -> str:
    """The state letter of proc(5): R, S, T, Z and so on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2][:1]


def file_sha256_hex(path: Path) -> str:
    """The sha256 of a file on disk, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def command_lines() -> list[str]:
    """The command lines of all processes that can be read."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def marked(name: str, value: str) -> dict[int, str]:
    """The processes with this variable: id -> command line. Zombies have none."""
    mark = f"{name}={value}".encode()
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes()
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    return found
