"""A real Slurm on this machine: munged, slurmctld and a slurmd for every node, with all they own in one folder. ::

    with SlurmCluster(folder, nodes=4) as slurm:
        slurm.run("srun", "-N3", "hostname").expect(0)
        job = slurm.submit(script, "--nodes=4")
        assert slurm.ended(job) == "COMPLETED"

The nodes share the machine's files, as nodes of a site share theirs, except for one folder, `local`, which on each node is another one
(a mount namespace of its own around its slurmd): the node-local disk. Every step finds its name in SLURMD_NODENAME and that folder in
SHOAL_TEST_LOCAL. Mail is written to `mail`. Whatever was started is gone when the block ends, by process id.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest

from .cli import Finished
from .fleet import free_port, until

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
PATH = f"{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin"
CPUS = 4  # of each node, whatever the machine has
MEMORY_MIB = 2048
START_S = 60.0
COMMAND_S = 60.0
STOP_S = 5.0
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
)
TAIL_BYTES = 4000

CONFIGURATION = """\
ClusterName=shoal
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/%n
MailProg={folder}/mail.sh
TaskProlog={folder}/prolog.sh
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,max_array_tasks=100
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
KillWait=20
JobRequeue=1
"""


class SlurmCluster:
    """One cluster of Slurm, as a context manager.

    Args:
        folder: everything lies below it; made if it is not there. Its path must be short (a socket's has at most 107 bytes).
        nodes: how many; they are called n0, n1, and so on. The one partition is called ``main``.
    """

    def __init__(self, folder: Path, *, nodes: int = 4) -> None:
        self.folder = folder
        self.nodes = tuple(f"n{index}" for index in range(nodes))
        self.local = folder / "local"
        """The node-local disk, as steps see it: the same path on all nodes, and not the same folder."""
        self.mail = folder / "mail"
        """A line for each mail that Slurm sent: subject and recipient."""
        self.environ = {
            "PATH": PATH,
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        """What a person's shell on the login node has."""
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    # ---- what a person does -----------------------------------------------------------------------------------------

    def run(
        self,
        *command: str | Path,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout_s: float = COMMAND_S,
    ) -> Finished:
        """Runs a command on the login node. environ: more variables. Raises subprocess.TimeoutExpired."""
        done = subprocess.run(
            list(map(str, command)),
            env={**self.environ, **(environ or {})},
            cwd=cwd or self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
        return Finished(exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr, peak_rss_bytes=0, cpu_s=0.0)

    def submit(
        self, script: Path, *options: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> str:
        """``sbatch``. Returns: the job's id."""
        return self.run("sbatch", "--parsable", *options, script, environ=environ, cwd=cwd).expect(0).stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """What ``scontrol show job`` tells: JobState, Restarts, NodeList and so on. Of an array: its first element."""
        told = self.run("scontrol", "show", "job", "--oneliner", job_id).expect(0).stdout.splitlines()[0]
        return dict(re.findall(r"(?:^|\s)([\w:/]+)=(\S*)", told))

    def state(self, job_id: str) -> str:
        """PENDING, RUNNING, COMPLETED and so on."""
        return self.job(job_id)["JobState"]

    def until_state(self, job_id: str, *states: str, timeout_s: float = START_S) -> str:
        """Waits until the job is in one of these states. Returns: which. Raises TimeoutError."""

        def reached() -> str | None:
            state = self.state(job_id)
            assert state in states or state not in ENDED, f"job {job_id} is {state}\n{self.logs()}"
            return state if state in states else None

        return until(f"job {job_id} to be {' or '.join(states)}", reached, timeout_s)

    def ended(self, job_id: str, timeout_s: float = 60.0) -> str:
        """Waits for the end. Returns: the state. Raises TimeoutError."""
        return self.until_state(job_id, *ENDED, timeout_s=timeout_s)

    def exit_code(self, job_id: str) -> int:
        """Of a job that has ended."""
        return int(self.job(job_id)["ExitCode"].partition(":")[0])

    def start_now(self, job_id: str) -> None:
        """Slurm lets a requeued job wait for two minutes: its old processes must end, and a node refuses the job's new credential in
        the second in which it revoked the old one. Here two seconds do. Returns when it runs."""
        until("the old run to end", lambda: not self.processes(), START_S)
        self.run("scontrol", "update", f"jobid={job_id}", "StartTime=now+2").expect(0)
        self.until_state(job_id, "RUNNING")

    def set_down(self, node: str) -> None:
        """The administrator sets a node down: its part of every job is killed."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test").expect(0)

    def set_up(self, node: str) -> None:
        """The node is good again; returns when it is idle. One that has returned by itself stays as it is."""
        self.run("scontrol", "update", f"nodename={node}", "state=resume")
        until(f"{node} to be idle", lambda: self._states().get(node) == "idle", START_S)

    def local_of(self, node: str) -> Path:
        """The folder that `local` is on a node, as this process sees it."""
        return self.folder / "disks" / node

    def until_idle(self) -> None:
        """Cancels all jobs and waits until the nodes are free again: between tests that share the cluster."""
        self.run("scancel", "--full", "--user", pwd.getpwuid(os.getuid()).pw_name)
        for node, state in self._states().items():
            if state.startswith(("down", "drain")):
                self.run("scontrol", "update", f"nodename={node}", "state=resume")
        until("all jobs to be gone", lambda: not self.run("squeue", "--noheader").stdout.strip(), START_S)
        until("all nodes to be idle", lambda: set(self._states().values()) == {"idle"}, START_S)

    def clear_disks(self) -> None:
        """Empties the nodes' own disks: between tests, as a site's epilog does."""
        for node in self.nodes:
            for path in self.local_of(node).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def logs(self) -> str:
        """The ends of the logs of Slurm's daemons."""
        found = sorted((self.folder / "log").iterdir())
        return "\n".join(f"---- {path.name} ----\n{path.read_text(errors='replace')[-TAIL_BYTES:]}" for path in found)

    def processes(self) -> dict[int, str]:
        """All processes that belong to this cluster, the steps of its jobs with all they started: id -> command line."""
        marks = (f"SLURM_CONF={self.folder}/".encode(), f"{self.folder}/".encode())
        daemons = {process.pid for process in self._processes}
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in (os.getpid(), *daemons):
                continue
            try:
                environ, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"slurmctld:"):  # a child of the controller
                continue
            if any(part.startswith(marks[0]) for part in environ.split(b"\0")) or marks[1] in command:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    # ---- daemons ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for name in ("munge", "state", "spool", "log", "home", "local", *(f"disks/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            (self.folder / "spool" / node).mkdir()
        self._script("mail.sh", f'echo "$@" >> {shlex.quote(str(self.mail))}')
        self._script("prolog.sh", f"echo export SHOAL_TEST_LOCAL={shlex.quote(str(self.local))}")
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self._start_munged(key)
        self._write_configuration()
        configuration = str(self.folder / "slurm.conf")
        self._daemon("slurmctld", "-D", "-f", configuration)
        for node in self.nodes:
            daemon = shlex.join([_program("slurmd"), "-D", "-N", node, "-f", configuration])
            disk = shlex.join(["mount", "--bind", str(self.local_of(node)), str(self.local)])
            self._daemon("unshare", "--mount", "sh", "-c", f"{disk} && exec {daemon}", log=node)
        until("all nodes to be idle", self._all_idle, START_S)

    def _start_munged(self, key: Path) -> None:
        place = self.folder / "munge"
        self._daemon(
            *("munged", "--foreground", "--force", "--num-threads=4", f"--key-file={key}", f"--socket={place}/socket"),
            *(f"--pid-file={place}/pid", f"--log-file={place}/log", f"--seed-file={place}/seed"),
        )
        until("munged to listen", (place / "socket").exists, START_S)

    def _write_configuration(self) -> None:
        host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
        # MPICH names shared memory after the job: two clusters on one machine must not have jobs of the same id.
        first_job = random.Random().randrange(1000, 60_000_000)
        text = CONFIGURATION.format(first_job=first_job, host=host, port=free_port(), user=user, folder=self.folder)
        for node in self.nodes:
            text += (
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} "
                f"CPUs={CPUS} RealMemory={MEMORY_MIB}\n"
            )
        text += "PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP\n"
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")

    def _all_idle(self) -> bool:
        ended = [process.args for process in self._processes if process.poll() is not None]
        assert not ended, f"{ended} ended\n{self.logs()}"
        states = self._states()
        return set(states) == set(self.nodes) and set(states.values()) == {"idle"}

    def _states(self) -> dict[str, str]:
        told = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").stdout.split()
        return dict(zip(told[::2], told[1::2], strict=True))

    def _script(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def _daemon(self, program: str, *arguments: str, log: str = "") -> None:
        with (self.folder / "log" / f"{log or program}.out").open("ab") as out:
            self._processes.append(
                subprocess.Popen(
                    [_program(program), *arguments],
                    env=self.environ,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _stop(self) -> None:
        try:
            if len(self._processes) > 1:
                self.run("scancel", "--full", "--signal=KILL", "--user", pwd.getpwuid(os.getuid()).pw_name)
                self.run("scancel", "--full", "--user", pwd.getpwuid(os.getuid()).pw_name)
                until("all jobs to be gone", lambda: not self.run("squeue", "--noheader").stdout.strip(), STOP_S)
        except (TimeoutError, subprocess.TimeoutExpired, OSError) as error:
            print(f"jobs were left: {error}", file=sys.stderr)
        finally:
            self._end(self._processes)
            for pid in self.processes():  # steps whose slurmd is gone, and what they started
                _signal(pid, signal.SIGKILL)

    def _end(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        for process in reversed(processes):
            process.terminate()
        ends_at = time.monotonic() + STOP_S
        for process in reversed(processes):
            try:
                process.wait(max(0.1, ends_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def need_slurm() -> None:
    """Skips the test where Slurm or what the fixture needs is missing, or fails it where CI=true says that nothing may be."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        _give_up(f"{', '.join(missing)} missing (apt install slurm-wlm munge)")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        _give_up("no right to make a mount namespace, which each node's own disk needs")


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found is not None, f"{name} is not installed"
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
