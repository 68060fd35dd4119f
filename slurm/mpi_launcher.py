"""``shoal launch mpi``: finds the program that starts MPI ranks, and becomes it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from ..client.fleet_jobs import read_commands
from ..common.errors import UsageError

if TYPE_CHECKING:
    import argparse

MODULE = "shoal.slurm.mpi"
LAUNCHERS = ("mpiexec", "mpirun")
SURVIVES = ("--kill-on-bad-exit=0", "--wait=0")
"""srun(1): the other tasks go on when one has died. mpirun and mpiexec cannot do that and tell the exit code, too."""


def launch_mpi(options: argparse.Namespace) -> int:
    """Replace this process by the launcher, which starts the ranks; so its signals and its exit code are the launcher's.

    Raises UsageError for a command that cannot run, before anything starts, and for a launcher that is not there.
    """
    if options.jobs != "-":  # standard input is rank 0's
        read_commands(options.words, options.jobs)
    command = launcher_command(options, os.environ, shutil.which)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise UsageError(f"--launcher {command[0]}", cause=error.strerror or str(error)) from None


def launcher_command(
    options: argparse.Namespace, environ: Mapping[str, str], which: Callable[[str], str | None]
) -> list[str]:
    """The launcher's command line. Raises UsageError if there is no launcher."""
    launcher = options.launcher or _found(environ, which)
    ranks = ["-n", str(options.ranks)] if options.ranks is not None else []
    ranks += SURVIVES if PurePath(launcher).name == "srun" else ()
    return [launcher, *ranks, *options.launcher_arg, sys.executable, "-P", "-m", MODULE, *rank_arguments(options)]


def rank_arguments(options: argparse.Namespace) -> list[str]:
    """What each rank is started with."""
    names = ("agents_per", "start_timeout", "jobs", "state", "host", "workers", "config", "log_level", "log_format")
    given = {name.replace("_", "-"): getattr(options, name, None) for name in names}
    words = [f"--{name}={value}" for name, value in given.items() if value]
    words += [f"--set={text}" for text in getattr(options, "settings", ())]
    words += ["--insecure"] if getattr(options, "insecure", False) else []
    return [*words, "--", *options.words]


def _found(environ: Mapping[str, str], which: Callable[[str], str | None]) -> str:
    if environ.get("SLURM_JOB_ID") and which("srun"):
        return "srun"
    found = next((name for name in LAUNCHERS if which(name)), None)
    if found is None:
        raise UsageError(
            "shoal launch mpi",
            cause="neither mpiexec nor mpirun is on PATH, and this is no Slurm allocation with srun",
            remedy="load the site's MPI module, install an MPI library, or name the program with --launcher",
        )
    return found
