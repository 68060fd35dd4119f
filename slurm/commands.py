"""Slurm's own commands, asked by a process: sbatch, scontrol, squeue. What they refuse becomes an error that quotes them."""

from __future__ import annotations

import datetime
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ..common.errors import NotFound, ShoalError, UsageError

CALL_TIMEOUT_S = 120.0
"""A controller with a long queue takes its time: Slurm's own MessageTimeout is often 60 s and more."""

POLL_S = 2.0
REASON_S = 3.0
REASON_POLL_S = 0.2
ENDED = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED")
)
_PARSABLE = re.compile(r"[0-9]+")
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)")


class JobEnd:
    """How a job ended: its state, and the exit code that a shell would have of it."""

    def __init__(self, state: str, exit_code: int) -> None:
        self.state = state
        self.exit_code = exit_code


def call(*command: str, text: str = "", cwd: Path | None = None, what: str) -> str:
    """Run one of Slurm's commands. Args: text is its standard input; what names, for errors, what was asked.

    Returns its standard output. Raises UsageError for a command that is not there, ShoalError for what it refuses.
    """
    try:
        done = subprocess.run(
            command, input=text, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=CALL_TIMEOUT_S
        )
    except FileNotFoundError:
        remedy = "load your site's Slurm module, or run it on a login node"
        raise UsageError(command[0], cause="it is not in PATH", remedy=remedy) from None
    except subprocess.TimeoutExpired:
        cause = f"{command[0]} did not answer within {CALL_TIMEOUT_S:g} s"
        raise ShoalError(what, cause=cause, remedy="is Slurm's controller up? scontrol ping tells") from None
    if done.returncode:
        raise _refusal(command[0], what, done.stderr or done.stdout)
    return (
        done.stdout if command[0] != "sbatch" else done.stdout + done.stderr
    )  # sbatch --test-only tells on standard error


def _refusal(program: str, what: str, said: str) -> ShoalError:
    lines = [line.removeprefix(f"{program}: ").removeprefix("error: ") for line in said.strip().splitlines()]
    cause = "; ".join(dict.fromkeys(line.strip() for line in lines if line.strip())) or f"{program} failed"
    remedies = {
        "partition": "sinfo lists the partitions",
        "account": "sacctmgr show associations user=$USER lists accounts and partitions",
        "qos": "sacctmgr show qos lists them",
        "fetch config": "is Slurm set up on this machine? try a login node",
        "controller": "is Slurm's controller up? scontrol ping tells",
        "node": "ask for fewer or other nodes; sinfo tells what there is",
        "time": "ask for less time; sinfo tells each partition's limit",
    }
    remedy = next((remedy for word, remedy in remedies.items() if word in cause.lower()), "")
    return UsageError(what, cause=cause, remedy=remedy)


def check_script(script: str, cwd: Path) -> str:
    """Ask whether this script would be taken, without submitting it. Returns what Slurm says of it. Raises UsageError."""
    return call("sbatch", "--test-only", text=script, cwd=cwd, what="this job").strip().removeprefix("sbatch: ")


def submit(script: str, cwd: Path) -> str:
    """Submit a script. Returns the job's id. Raises UsageError."""
    told = call("sbatch", "--parsable", text=script, cwd=cwd, what="this job")
    match = _PARSABLE.match(told)
    if match is None:
        raise ShoalError("sbatch", cause=f"it answered {told.strip()!r} instead of a job's id")
    return match[0]


_NEVER = {
    "PartitionTimeLimit": "ask for less time with --time; sinfo tells each partition's limit",
    "PartitionNodeLimit": "ask for fewer nodes; sinfo tells each partition's limit",
    "PartitionInactive": "name another partition; sinfo lists them",
    "PartitionDown": "name another partition, or wait until it is up",
    "AccountNotAllowed": "name another account, or another partition",
    "QOSNotAllowed": "name another qos",
    "BadConstraints": "leave the constraint out, or name another",
}
"""Reasons for which a job waits in vain (squeue(1), JOB REASON CODES): many sites take such jobs (EnforcePartLimits=NO)."""

_UNDECIDED = {"PartitionConfig": "the partition does not allow what it asks for; sinfo tells each partition's limits"}
"""What Slurm says until its scheduler has looked closer, or for good."""


def why_never(job_id: str) -> str:
    """Why Slurm would not start a job that it has taken, with the remedy; empty as far as it would. Never raises.

    Slurm gives a reason once its scheduler has looked at the job, so this waits for that, at most REASON_S.
    """
    ends_at = time.monotonic() + REASON_S
    while True:
        try:
            row = _fields(_job_line(job_id))
        except ShoalError:
            return ""
        reason = row.get("Reason", "")
        if reason in _NEVER:
            return f"{reason}: {_NEVER[reason]}"
        if row.get("JobState") != "PENDING" or reason not in ("None", *_UNDECIDED):
            return ""
        if time.monotonic() > ends_at:
            return f"{reason}: {_UNDECIDED[reason]}" if reason in _UNDECIDED else ""
        time.sleep(REASON_POLL_S)


def requeue(job_id: str) -> None:
    """Let Slurm end this job and start it again, with the same id. Raises UsageError where the job may not be requeued."""
    call("scontrol", "requeue", job_id, what=f"job {job_id}")


def hostnames(node_list: str) -> list[str]:
    """The nodes that a list such as ``n[0-3]`` names, in its order. Raises UsageError."""
    return call("scontrol", "show", "hostnames", node_list, what=f"node list {node_list}").split()


def node_addresses(nodes: Sequence[str]) -> list[str]:
    """Where Slurm itself reaches these nodes (NodeAddr), in their order."""
    told = call("scontrol", "show", "nodes", "--oneliner", ",".join(nodes), what="nodes")
    addresses = {
        row["NodeName"]: row.get("NodeAddr", "") for row in map(_fields, told.splitlines()) if "NodeName" in row
    }
    return [addresses.get(node) or node for node in nodes]


def seconds_left(job_id: str) -> float | None:
    """How long this job may still run; None where it is not limited or cannot be told."""
    try:
        end = _fields(_job_line(job_id)).get("EndTime", "")
        return datetime.datetime.fromisoformat(end).timestamp() - time.time()
    except (ShoalError, ValueError):
        return None


def wait_for(job_id: str) -> JobEnd:
    """Wait until a job, or every task of an array, has ended. Of an array: the worst end. Raises NotFound."""
    while True:
        rows = [_fields(line) for line in _job_lines(job_id)]
        if not rows:
            raise NotFound(f"job {job_id}", cause="Slurm no longer knows it", remedy="sacct tells how it ended")
        if all(row.get("JobState") in ENDED for row in rows):
            return max((_end_of(row) for row in rows), key=lambda end: end.exit_code)
        time.sleep(POLL_S)


def _end_of(row: dict[str, str]) -> JobEnd:
    code, _, signal = row.get("ExitCode", "0:0").partition(":")
    state = row["JobState"]
    exit_code = int(code) or (128 + int(signal) if int(signal or 0) else 0)
    return JobEnd(state, exit_code or (0 if state == "COMPLETED" else 1))


def _job_line(job_id: str) -> str:
    return next(iter(_job_lines(job_id)), "")


def _job_lines(job_id: str) -> list[str]:
    told = call("scontrol", "show", "job", "--oneliner", job_id, what=f"job {job_id}")
    return [line for line in told.splitlines() if line.startswith("JobId=")]


def _fields(line: str) -> dict[str, str]:
    return dict(_FIELD.findall(line))
