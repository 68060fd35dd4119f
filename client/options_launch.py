"""The command line's grammar for fleets that live for one run: ``shoal launch``."""

from __future__ import annotations

import argparse
from typing import Any

from .options_slurm import add_slurm

START_TIMEOUT_S = 120.0


def add_launch(command: Any, common: argparse.ArgumentParser, formatter: type[argparse.HelpFormatter]) -> None:
    """Add the command. Args: command makes a parser of a name and a help text."""
    parser = command("launch", "Start a fleet on the nodes of an allocation, run a command on it, and end it.")
    ways = parser.add_subparsers(dest="way", metavar="WAY", required=True)
    mpi = ways.add_parser(
        "mpi",
        parents=[common],
        help="by MPI: mpirun, mpiexec or srun starts the ranks",
        description="Start a fleet by MPI: one agent a node, the coordinator beside rank 0. See docs/mpi.md.",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    mpi.add_argument("-n", "--ranks", metavar="N", type=int, help="ranks to start (default: what the launcher takes)")
    mpi.add_argument(
        "--launcher", metavar="PROGRAM", default="", help="mpirun, mpiexec, srun, or a path (default: found)"
    )
    mpi.add_argument(
        "--launcher-arg", metavar="ARG", action="append", default=[], help="one more argument for it (repeatable)"
    )
    add_mpi_options(mpi)
    add_run_options(mpi)
    ray = ways.add_parser(
        "ray",
        parents=[common],
        help="by Ray: an agent on each node of a running cluster",
        description="Start a fleet in a running Ray cluster: one agent a node, the coordinator here. See docs/ray.md.",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    ray.add_argument(
        "--address", metavar="HOST:PORT", default="auto", help="the cluster (default: the one of this node)"
    )
    _add_workers(ray)
    add_run_options(ray)
    add_run_options(add_slurm(ways, common, formatter), keeps_state=False)


def add_mpi_options(parser: argparse.ArgumentParser) -> None:
    """What the ranks themselves take."""
    parser.add_argument(
        "--agents-per",
        choices=("node", "numa", "rank"),
        default="node",
        help="an agent for each node, NUMA domain of a node, or rank (default: node)",
    )
    _add_workers(parser)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", metavar="W", help="processes of each agent for images and tools (default: its processors)"
    )


def add_run_options(parser: argparse.ArgumentParser, *, keeps_state: bool = True) -> None:
    """What every way to launch takes: the command, and the head's place. keeps_state: the coordinator's can be kept."""
    parser.add_argument(
        "--jobs", metavar="FILE|-", default="", help="more commands, one a line; # comments; run one after the other"
    )
    if keeps_state:
        parser.add_argument(
            "--state",
            metavar="DIR",
            help="keep the coordinator's state here, on a local disk, for a later run to go on with",
        )
    parser.add_argument(
        "--host", metavar="HOST", default="", help="how the nodes reach the first one (default: found by trying)"
    )
    parser.add_argument(
        "--start-timeout", metavar="TIME", default="2m", help="wait so long for all agents to join (default 2m)"
    )
    parser.add_argument(
        "words", nargs="*", metavar="-- COMMAND", help="get URI… --to DIR, collect TABLE… --to DIR, or tools run NAME …"
    )
