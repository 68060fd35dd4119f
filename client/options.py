"""The command line's grammar: one place for every command, option and help text."""

from __future__ import annotations

import argparse
import functools
import os
from typing import Any

from .options_datasets import add_dataset_commands
from .options_fleet import add_backup, add_install_systemd, add_rotate
from .options_launch import add_launch, add_mpi_options, add_run_options
from .options_models import add_model_commands

EXAMPLES = """\
examples:
  shoal get hf://ORG/NAME --to models/NAME         a Hub repo into a folder
  shoal get hf://datasets/ORG/NAME@v1 --include '*.parquet'
  shoal get hf://ORG/NAME-GGUF --quant Q4_K_M      one quantization of it
  shoal models list                                what is on disk; show, outdated, update, delete
  shoal coordinator                                start a coordinator on this machine
  shoal agent --coordinator HOST:7070              join its fleet
  shoal submit hf://ORG/NAME --to /data/NAME --coordinator HOST:7070
  shoal status --watch
  shoal tools run resize --data DIR --new-size 128
  shoal doctor hf://ORG/NAME --to DIR              what would be in the way, and what to do

exit codes: 0 done, 1 failed, 2 usage, 3 not found or no access, 4 coordinator not reachable, 5 no space or not
writable, 6 verification failed, 7 refused by policy, 130 interrupted
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        # argparse makes a formatter for every option that is added. Left to find the width by itself it imports shutil, which
        # imports every compression library.
        super().__init__(prog, max_help_position=32, width=_width())


@functools.cache
def _width() -> int:
    """Columns of the terminal, less the margin that argparse leaves."""
    try:
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size().columns
    except (ValueError, OSError):
        columns = 80
    return max(40, columns - 2)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``shoal``. Its result has `command` and, per command, the attributes named here."""
    common = _global_options()
    parser = argparse.ArgumentParser(
        prog="shoal",
        description="Fetch models, datasets and files, on one machine or with a fleet; every byte verified.",
        epilog=EXAMPLES,
        formatter_class=_Formatter,
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    # With prog named, argparse need not format a usage line (and import what measures the terminal) for every command.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", prog="shoal")

    def command(name: str, help: str, **kwargs: Any) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help,
            description=help,
            parents=[common],
            formatter_class=_Formatter,
            allow_abbrev=False,
            **kwargs,
        )

    _add_transfer(command)
    add_dataset_commands(command)
    _add_lists(command)
    _add_control(command)
    _add_local(command)
    _add_nas(command, common)
    add_model_commands(command, common)
    _add_tools(command, common)
    _add_daemons(command)
    add_launch(command, common, _Formatter)
    _add_doctor(command)
    _add_setup(command, common)
    return parser


def build_mpi_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m shoal.slurm.mpi``, which each rank of an MPI program is."""
    parser = argparse.ArgumentParser(
        prog="python -m shoal.slurm.mpi",
        description="A rank of a fleet that MPI started: srun --mpi=…, mpirun or mpiexec run this. See docs/mpi.md.",
        formatter_class=_Formatter,
        parents=[_global_options()],
        allow_abbrev=False,
    )
    add_mpi_options(parser)
    add_run_options(parser)
    return parser


class _Collect(argparse.Action):
    """As ``append``, wherever the option stands: argparse gives every command a namespace of its own, which would take the
    place of what was collected before the command."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._found: list[str] = []

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option_string: object = None
    ) -> None:
        self._found.append(values)
        setattr(namespace, self.dest, list(self._found))


def _global_options() -> argparse.ArgumentParser:
    """Options that stand before or after the command. SUPPRESS keeps the later place from undoing the earlier one."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, formatter_class=_Formatter)
    group = common.add_argument_group("global options")
    group.add_argument("--config", metavar="FILE", help="configuration file (default: see `shoal config path`)")
    group.add_argument(
        "--set", metavar="KEY=VALUE", action=_Collect, dest="settings", help="any setting: fetch.attempts=5"
    )
    group.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning, error")
    group.add_argument("--log-format", choices=("console", "json"), help="log lines for people, or JSON")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="the coordinator to speak to")
    group.add_argument(
        "--insecure", action="store_true", help="allow a non-loopback address without TLS and credentials"
    )
    return common


def _add_transfer(command: Any) -> None:
    for name, help in (
        ("get", "Fetch and wait. Without a coordinator: on this machine alone."),
        ("submit", "Submit to a coordinator, print the job ids, return at once."),
    ):
        parser = command(name, help)
        parser.add_argument(
            "uris", nargs="*", metavar="URI", help="hf://[datasets/|spaces/]ORG/NAME[@REV][/PATH], https://…, file://…"
        )
        parser.add_argument(
            "--to", metavar="DIR|hf-cache", help="destination (default: hf-cache for hf://, else this folder)"
        )
        parser.add_argument("--from-file", metavar="FILE|-", help="more URIs, one a line; # comments")
        parser.add_argument(
            "--include", metavar="GLOB", action="append", default=[], help="only files that match (repeatable)"
        )
        parser.add_argument(
            "--exclude", metavar="GLOB", action="append", default=[], help="no files that match (repeatable)"
        )
        parser.add_argument(
            "--quant",
            metavar="Q",
            action="append",
            default=[],
            help="only this quantization: Q4_K_M, AWQ, fp16 (repeatable)",
        )
        parser.add_argument("--revision", metavar="REV", default="", help="branch, tag or commit")
        parser.add_argument("--sha256", metavar="HEX", default="", help="what the one file must be")
        parser.add_argument("--force", action="store_true", help="fetch again what is there already")
        parser.add_argument(
            "--deliver",
            choices=("spread", "replicate"),
            default="spread",
            help="spread: one copy in one place; replicate: a copy on every agent, one from the origin",
        )
        parser.add_argument(
            "--profile", metavar="NAME", default="", help="credentials of [s3.NAME] or of an AWS profile"
        )
        parser.add_argument(
            "--unpack",
            metavar="DIR",
            nargs="?",
            const="auto",
            default="",
            help="unpack archives, where they lie or into DIR",
        )
        parser.add_argument("--unpack-format", metavar="F", default="", help="tar.gz, zip, … (default: by name)")
        nas = parser.add_mutually_exclusive_group()
        nas.add_argument(
            "--nas", metavar="DIR", default="", help="copy every finished file to this folder on a NAS, too"
        )
        nas.add_argument("--no-nas", action="store_true", help="copy nothing to a NAS, whatever nas.path says")
        parser.add_argument("--priority", metavar="N", type=int, default=0, help="larger is sooner")
        parser.add_argument("--name", default="", help="a name to find the job by")
        parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
        if name == "get":
            parser.add_argument("--dry-run", action="store_true", help="list what would be fetched, and fetch nothing")


def _add_lists(command: Any) -> None:
    parser = command("status", "The fleet, one job by id, or one repo by name.")
    parser.add_argument("job", nargs="?", metavar="JOB|URI")
    parser.add_argument("--watch", action="store_true", help="go on showing it until it ends")
    parser.add_argument("--json", action="store_true", help="print JSON (with --watch: one object a line)")
    for name, help in (
        ("jobs", "List jobs, newest first."),
        ("repos", "List sources and how far their newest jobs are."),
        ("queue", "List jobs that have not ended, in the order of service."),
    ):
        command(name, help).add_argument("--json", action="store_true", help="print JSON")
    parser = command("agents", "List agents; `agents drain NAME` lets one leave.")
    parser.add_argument("action", nargs="?", choices=("drain",))
    parser.add_argument("agent", nargs="?", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = command("hosts", "List origin hosts; `hosts set HOST --rate R` limits one for the whole fleet.")
    parser.add_argument("action", nargs="?", choices=("set",))
    parser.add_argument("host", nargs="?", metavar="HOST")
    parser.add_argument("--rate", metavar="R", help="requests per second, of all agents together; 0: no limit")
    parser.add_argument(
        "--bandwidth", metavar="B", help="bytes per second, of all agents together (20MiB); 0: no limit"
    )
    parser.add_argument("--connections", metavar="N", help="requests under way at once; 0: no limit")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = command("errors", "List a job's failed objects with their reasons.")
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_control(command: Any) -> None:
    for name, help in (
        ("pause", "Stop working on a job; what was fetched stays."),
        ("resume", "Go on with a paused job."),
        ("cancel", "End a job; finished files stay."),
        ("retry", "Bring back what failed in a job that ended."),
    ):
        parser = command(name, help)
        parser.add_argument("job", metavar="JOB")
        parser.add_argument("--json", action="store_true", help="print the job as JSON")


def _add_local(command: Any) -> None:
    parser = command("verify", "Check a folder against the manifest beside its files.")
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("--repair", action="store_true", help="fetch again what is missing or wrong")
    parser.add_argument("--profile", metavar="NAME", default="", help="credentials that s3:// sources are asked with")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = command("clean", "Remove stale locks and partial data.")
    parser.add_argument("dir", nargs="?", metavar="DIR", default=".")
    parser.add_argument("--older-than", metavar="AGE", default="1h", help="leave what was touched since (default 1h)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_nas(command: Any, common: argparse.ArgumentParser) -> None:
    parser = command("nas", "Copies of finished files on a NAS: run down what waits, or show it.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, help in (
        ("copy", "copy what waits below DIR, and all that its manifest names and that is not on the NAS"),
        ("status", "show what waits below DIR, without asking the NAS"),
    ):
        action = actions.add_parser(name, parents=[common], help=help, description=help, formatter_class=_Formatter)
        action.add_argument("dir", metavar="DIR", help="a destination, or the Hub cache")
        action.add_argument("--json", action="store_true", help="print JSON")
        if name == "copy":
            action.add_argument("--nas", metavar="DIR", default="", help="the folder on the NAS (default nas.path)")
            action.add_argument(
                "--wait", metavar="TIME", help="how long to wait for a NAS that fails (default nas.wait)"
            )
            action.add_argument(
                "--recheck", action="store_true", help="hash what is there already, instead of believing its record"
            )


def _add_tools(command: Any, common: argparse.ArgumentParser) -> None:
    parser = command(
        "tools", "Post-processing of collected data: resize, verify, remove duplicates, tools of your own."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, parents=[common], help=help, description=help, formatter_class=_Formatter)
        if name != "list":
            made.add_argument("tool", metavar="NAME", help="shoal tools list names them")
            made.add_argument(
                "--data", dest="dataset", metavar="DIR", help="folder of the dataset (default tools.data)"
            )
        if name != "restore":
            made.add_argument(
                "--load", dest="tools_load", metavar="FILE.py", help="a Python file with tools of your own"
            )
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    action("list", "List tools, their options, and where they come from.")
    action("restore", "Bring back the rows that a tool moved to DIR/filtered/NAME.")
    run = action("run", "Run a tool over a dataset, or go on where it was stopped.")
    run.add_argument(
        "--allow-unregistered", action="store_true", help="take the default for each stage that is not registered"
    )
    resets = run.add_mutually_exclusive_group()
    for stage, help in (
        ("filtering", "choose the rows again, and do all that follows"),
        ("scheduling", "make the units again, and run them"),
        ("runners", "run the units again"),
    ):
        resets.add_argument(f"--reset-{stage}", dest="reset", action="store_const", const=stage, default="", help=help)
    run.add_argument("--workers", dest="tools_workers", metavar="N", help="processes (default: one for each core)")
    run.add_argument(
        "--option", dest="tool_options", metavar="KEY=VALUE", action="append", default=[], help="an option of the tool"
    )
    run.add_argument("--threshold-size", metavar="PIXELS", help="size_based: the least shorter side")
    run.add_argument("--new-size", metavar="PIXELS", help="resize: the new longest side")
    run.add_argument(
        "--perceptual", action="store_true", default=None, help="duplication_based: list what looks alike, too"
    )
    run.add_argument("--remove", action="store_true", default=None, help="image_verification: corrupted rows leave")


def _add_daemons(command: Any) -> None:
    parser = command("coordinator", "Run a coordinator.")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where to listen for agents and clients (default 127.0.0.1:7070)"
    )
    parser.add_argument("--web", metavar="HOST:PORT", help="serve the web page and REST API (usual port: 7071)")
    parser.add_argument("--state", metavar="DIR", help="folder of its database, on a local disk")
    add_backup(command)
    parser = command("agent", "Run an agent.")
    parser.add_argument("--name", help="its name in the fleet (default: the machine's)")
    parser.add_argument("--data", metavar="DIR", help="folder of its journal, one per agent")
    parser.add_argument("--root", metavar="DIR", help="destinations are taken below this folder (default /)")
    parser.add_argument(
        "--zone", metavar="Z", help="where it is, such as its rack: peers of the same zone are asked first"
    )
    parser.add_argument(
        "--peer-listen", metavar="HOST:PORT", help="where other agents fetch chunks (default port 7072)"
    )

    parser = command(
        "up",
        "Coordinator, agents and web page on this machine, in processes of their own; one that dies is started again.",
    )
    parser.add_argument("--agents", metavar="N", type=int, default=1, help="how many agents (default 1)")
    parser.add_argument("--web", metavar="HOST:PORT", help="where the page is served (default 127.0.0.1:7071)")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where the coordinator listens (default 127.0.0.1:7070)")
    parser.add_argument("--to", metavar="DIR", help="the folder that downloads from the page go to")
    parser.add_argument("--state", metavar="DIR", help="folder of the database and of the agents' journals")
    parser = command("health", "Ask a daemon of this machine whether it works: exit code 0, or 4. For health checks.")
    parser.add_argument("daemon", nargs="?", choices=("up", "coordinator", "agent"), default="up", metavar="DAEMON")
    parser.add_argument("--web", metavar="HOST:PORT", help="where its page is (default web.listen)")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where it listens, if it has no page")
    parser.add_argument("--peer-listen", metavar="HOST:PORT", help="where an agent serves its peers")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_doctor(command: Any) -> None:
    parser = command(
        "doctor", "Check network, access, disk, machine and fleet, and say what to do where something is wrong."
    )
    parser.add_argument("uris", nargs="*", metavar="URI", help="sources that shall be fetched: their access and size")
    parser.add_argument("--to", metavar="DIR|hf-cache", help="where they shall go (default: as shoal get)")
    parser.add_argument("--from-file", metavar="FILE|-", help="more URIs, one a line; # comments")
    parser.add_argument("--profile", metavar="NAME", default="", help="credentials that s3:// sources are asked with")
    parser.add_argument(
        "--only", metavar="CHECK", action="append", default=[], help="only these checks (repeatable, or with commas)"
    )
    parser.add_argument("--skip", metavar="CHECK", action="append", default=[], help="not these checks")
    parser.add_argument("--timeout", metavar="TIME", default="20s", help="how long each check may take (default 20s)")
    parser.add_argument("--list", action="store_true", help="name the checks and what they look at")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_setup(command: Any, common: argparse.ArgumentParser) -> None:
    parser = command("config", "Show, check or begin a configuration file.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", parents=[common], help="write a commented sample", formatter_class=_Formatter)
    init.add_argument("file", nargs="?", metavar="FILE", default="shoal.toml")
    init.add_argument("--force", action="store_true", help="overwrite")
    show = actions.add_parser(
        "show", parents=[common], help="each effective value and where it came from", formatter_class=_Formatter
    )
    show.add_argument("--json", action="store_true")
    check = actions.add_parser(
        "check", parents=[common], help="find unknown keys and bad values", formatter_class=_Formatter
    )
    check.add_argument("file", nargs="?", metavar="FILE")
    actions.add_parser("path", parents=[common], help="where configuration is looked for", formatter_class=_Formatter)
    add_install_systemd(actions, common, _Formatter)
    parser = command("web", "Passwords of the web page that `shoal coordinator --web` serves.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser(
        "password",
        parents=[common],
        help="print the hash of a password, for web.password_hash",
        description="Print the hash of a password, for web.password_hash. Reads it from the terminal, or a line of input.",
        formatter_class=_Formatter,
    )
    parser = command("token", "Create, list, rotate or revoke credentials of agents and administrators.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser(
        "create", parents=[common], help="print a new credential, once", formatter_class=_Formatter
    )
    create.add_argument("--role", choices=("agent", "admin"), default="agent")
    create.add_argument("--name", default="")
    create.add_argument("--expires", metavar="AGE", help="valid for so long (30d is 720h)")
    create.add_argument("--state", metavar="DIR", help="state folder of a coordinator that is not running")
    create.add_argument("--json", action="store_true")
    listing = actions.add_parser(
        "list", parents=[common], help="all credentials, without their secrets", formatter_class=_Formatter
    )
    listing.add_argument("--state", metavar="DIR")
    listing.add_argument("--json", action="store_true")
    add_rotate(actions, common, _Formatter)
    revoke = actions.add_parser(
        "revoke", parents=[common], help="make a credential worthless", formatter_class=_Formatter
    )
    revoke.add_argument("token", metavar="ID")
    revoke.add_argument("--state", metavar="DIR")
