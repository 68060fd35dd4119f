"""MPI and Slurm, as far as they can be seen from this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...common.errors import ExitCode
from ...common.installed import is_installed
from .records import Finding, failed, ok, skipped, warning

if TYPE_CHECKING:
    from .visit import Visit

_LOAD_MPI = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(mpi4py.__version__)
print(MPI.Get_library_version().replace(chr(0), ""))
"""
"""In a process of its own: an MPI library that does not fit this machine may end the process that loads it."""

SLURM_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
_OUTPUT_BYTES = 64 * 1024


async def run(*command: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a program; it is killed when this is cancelled. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return (
        process.returncode or 0,
        out[:_OUTPUT_BYTES].decode(errors="replace"),
        err[-_OUTPUT_BYTES:].decode(errors="replace"),
    )


async def check_mpi(visit: Visit) -> list[Finding]:
    """Whether mpi4py is installed and finds an MPI library."""
    if not is_installed("mpi4py"):
        if "mpi" in visit.wishes.named:
            remedy = "pip install 'shoal[mpi]', with an MPI library on the machine (module load, or pip install mpich)"
            return [failed("mpi4py is not installed", remedy=remedy, exit_code=ExitCode.USAGE)]
        return [skipped("mpi4py is not installed; shoal launch mpi alone needs it")]
    return [judge_mpi(*await run(sys.executable, "-c", _LOAD_MPI), named="mpi" in visit.wishes.named)]


def judge_mpi(code: int, out: str, err: str, *, named: bool) -> Finding:
    """What loading MPI told."""
    lines = out.splitlines()
    if code == 0 and len(lines) >= 2:
        return ok(f"mpi4py {lines[0]}, {lines[1].strip()}")
    reason = (err.strip().splitlines() or [f"it ended with {code}"])[-1][:300]
    remedy = "put an MPI library where it is found: module load, LD_LIBRARY_PATH, MPI4PY_LIBMPI, or pip install mpich"
    if named:
        return failed(f"mpi4py cannot load MPI: {reason}", remedy=remedy, exit_code=ExitCode.USAGE)
    return warning(f"mpi4py cannot load MPI: {reason}", remedy=remedy)


async def check_slurm(visit: Visit) -> list[Finding]:
    """Slurm's commands, its controller, and the allocation that this process is in."""
    missing = [name for name in SLURM_COMMANDS if shutil.which(name, path=visit.wishes.environ.get("PATH")) is None]
    named = "slurm" in visit.wishes.named
    inside = judge_allocation(visit.wishes.environ)
    if len(missing) == len(SLURM_COMMANDS):
        if named:
            remedy = "module load slurm, or run it on a login node"
            return [failed("none of Slurm's commands is here", remedy=remedy, exit_code=ExitCode.USAGE)]
        return [skipped("none of Slurm's commands is here")]
    findings: list[Finding] = []
    if missing:
        remedy = "module load slurm, or install its client package"
        findings.append(warning(f"not found: {', '.join(missing)}", remedy=remedy))
    if "scontrol" not in missing:
        findings.append(judge_ping(*await run("scontrol", "ping"), named=named))
    return [*findings, inside]


def judge_ping(code: int, out: str, err: str, *, named: bool) -> Finding:
    """What ``scontrol ping`` says of the controllers."""
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    if any(line.endswith("UP") for line in lines):
        return ok("; ".join(lines))
    reason = "; ".join(lines) or (err.strip().splitlines() or [f"scontrol ended with {code}"])[-1][:300]
    remedy = "check slurm.conf, munge and the network to the controller; ask the site's administrators"
    if named:
        return failed(f"the controller does not answer: {reason}", remedy=remedy)
    return warning(f"the controller does not answer: {reason}", remedy=remedy)


def judge_allocation(environ: Mapping[str, str]) -> Finding:
    """Whether this is inside a job."""
    job = environ.get("SLURM_JOB_ID", "")
    if not job:
        return ok("not inside an allocation: shoal launch slurm submits one")
    nodes = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST") or os.uname().nodename
    return ok(f"inside job {job}, on {nodes}")
