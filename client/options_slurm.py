"""The command line's grammar for ``shoal launch slurm``."""

from __future__ import annotations

import argparse
from typing import Any

DESCRIPTION = """\
Submit a job to Slurm that runs commands on a fleet of its nodes. Inside a job (a batch script, salloc): start the fleet there, at once.
See docs/slurm.md; `--print-template NAME` writes a batch script to edit by hand.
"""


def add_slurm(
    ways: Any, common: argparse.ArgumentParser, formatter: type[argparse.HelpFormatter]
) -> argparse.ArgumentParser:
    """Add the way, without what all ways take. Returns its parser."""
    parser: argparse.ArgumentParser = ways.add_parser(
        "slurm",
        parents=[common],
        help="by Slurm: a batch job, or the job that this is",
        description=DESCRIPTION,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    _add_job(parser.add_argument_group("the job (default: what the template has)"))
    _add_submission(parser.add_argument_group("submitting it"))
    _add_fleet(parser.add_argument_group("the fleet, and the run"))
    return parser


def _add_job(group: Any) -> None:
    group.add_argument("-N", "--nodes", metavar="N", help="nodes, or MIN-MAX")
    group.add_argument("--cpus", metavar="N", type=int, help="processors for each agent")
    group.add_argument("--mem", metavar="SIZE", help="memory of each node, as Slurm writes it: 8G")
    group.add_argument("-t", "--time", metavar="TIME", help="time limit, as Slurm writes it: 24:00:00, 2-00")
    group.add_argument("-p", "--partition", metavar="NAME", help="partition")
    group.add_argument("-A", "--account", metavar="NAME", help="account to charge")
    group.add_argument("--qos", metavar="NAME", help="quality of service")
    group.add_argument("-J", "--job-name", metavar="NAME", help="name of the job")
    group.add_argument("--mail-user", metavar="ADDRESS", help="whom Slurm writes to")
    group.add_argument("--mail-type", metavar="TYPES", help="when it writes (with --mail-user: END,FAIL,REQUEUE)")
    group.add_argument(
        "--requeue",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start it again after a preemption or when its node fails (default: yes)",
    )
    group.add_argument(
        "--signal",
        metavar="B:SIG@S",
        default="",
        help="how Slurm warns before the end: TERM, USR1 or INT, S seconds before (default B:TERM@120)",
    )
    group.add_argument(
        "--array",
        metavar="TASKS",
        default="",
        help="share the lines of --jobs among the tasks of an array: 0-7, 0-31%%4",
    )
    group.add_argument(
        "--sbatch",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any other option of sbatch: constraint=ib, exclusive, no-kill=no leaves one out (repeatable)",
    )


def _add_submission(group: Any) -> None:
    group.add_argument("--dry-run", action="store_true", help="print the script that would be submitted, and check it")
    group.add_argument("--wait", action="store_true", help="wait for the job, and end with its exit code")
    group.add_argument(
        "--template",
        choices=("repos", "broadcast", "collect", "tools"),
        help="script to fill in (default: by the command)",
    )
    group.add_argument(
        "--print-template",
        choices=("repos", "broadcast", "collect", "tools"),
        help="print a script for plain sbatch, and end",
    )
    group.add_argument(
        "--setup",
        metavar="LINE",
        action="append",
        default=[],
        help="a line of shell to run first: module load … (repeatable)",
    )
    group.add_argument(
        "--submit", action="store_true", help="submit a job from within a job, instead of using the nodes of this one"
    )


def _add_fleet(group: Any) -> None:
    group.add_argument("--agents-per-node", metavar="K", type=int, default=1, help="agents on each node (default 1)")
    group.add_argument(
        "--workers", metavar="W", help="processes of each agent for images and tools (default: its processors)"
    )
    group.add_argument(
        "--chain",
        metavar="N",
        type=int,
        default=0,
        help="when the time is out, let the job start again and go on, at most N times (default 0)",
    )
    group.add_argument(
        "--then", metavar="COMMAND", default="", help="shell command to run when all commands have ended well"
    )
    group.add_argument(
        "--state",
        metavar="DIR",
        dest="runs",
        default="",
        help="folder of jobs' records and logs, which all nodes see (default: shoal-runs, where the job was submitted)",
    )
    group.add_argument("--no-checks", action="store_true", help="do not ask the nodes first what they see")
