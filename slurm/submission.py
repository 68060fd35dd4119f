"""Submitting a job: what the command line asks for becomes a batch script, is checked, and goes to Slurm."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..client.fleet_jobs import read_commands
from ..client.options import build_parser
from ..common.errors import ExitCode, Interrupted, UsageError
from ..common.settings_table import SECTIONS
from . import checks, commands
from .allocation import array_tasks, share
from .batch import TEMPLATES, render, template
from .job_run import DEFAULT_STATE, check_numbers
from .places import Places, places_of

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

MAIL_TYPES = "END,FAIL,REQUEUE"
_PLAIN = {
    "nodes": "nodes",
    "cpus": "cpus-per-task",
    "mem": "mem",
    "time": "time",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "job_name": "job-name",
    "mail_user": "mail-user",
    "mail_type": "mail-type",
    "signal": "signal",
    "array": "array",
}
"""Options of ours that are options of sbatch."""

_PASSED = ("agents_per_node", "workers", "chain", "then", "signal", "array", "host", "start_timeout")
"""Options of ours that count inside the job."""


def submit(options: argparse.Namespace, settings: Settings) -> int:
    """Submit a job; prints its id. Returns the exit code: with --wait the job's. Raises ShoalError."""
    all_places = _check(options, settings)
    cwd = Path.cwd()
    base = cwd / Path(options.runs or DEFAULT_STATE).expanduser()
    kind = options.template or _template_of(all_places)
    script = render(
        template(kind), _directives(options, base, cwd), _program(), _arguments(options, base), options.setup
    )
    if options.dry_run:
        print(script, end="")
        if shutil.which("sbatch") is None:
            print("shoal: not checked: sbatch is not in PATH", file=sys.stderr)
            return ExitCode.OK
    if shutil.which("sbatch") is None:
        remedy = "load your site's Slurm module, or run it on a login node; --dry-run works without"
        raise UsageError("sbatch", cause="it is not in PATH", remedy=remedy)
    told = commands.check_script(script, cwd)
    if options.dry_run:
        print(f"shoal: nothing was submitted; Slurm says: {told}", file=sys.stderr)
        return ExitCode.OK
    checks.check_state(base)
    job_id = commands.submit(script, cwd)
    _keep(base / job_id, script)
    print(job_id, flush=True)
    print(f"shoal: submitted job {job_id}; its log and state: {base}", file=sys.stderr, flush=True)
    why = commands.why_never(job_id)
    if why:
        print(f"shoal: warning: Slurm will not start job {job_id} as it is: {why}", file=sys.stderr, flush=True)
    return _wait(job_id) if options.wait else ExitCode.OK


def _check(options: argparse.Namespace, settings: Settings) -> list[Places]:
    """Everything that can be wrong and can be told here, before Slurm is asked. Returns what the commands touch."""
    check_numbers(options)
    checks.check_jobs_file(options.jobs)
    todo = read_commands(options.words, options.jobs)
    if options.array:
        tasks = array_tasks(options.array)
        if not options.jobs:
            cause = "all tasks would do the same"
            raise UsageError(
                f"--array {options.array}", cause=cause, remedy="share the lines of --jobs FILE among them"
            )
        if not all(share(todo, tasks, task) for task in tasks):
            cause = f"{len(tasks)} tasks, and {len(todo)} commands to share among them"
            raise UsageError(f"--array {options.array}", cause=cause, remedy=f"for example --array 0-{len(todo) - 1}")
    for words in todo:
        command = build_parser().parse_args(words)
        if getattr(command, "from_file", None) == "-":
            raise UsageError("--from-file -", cause="a batch job has no standard input", remedy="name a file")
        if getattr(command, "dry_run", False):
            cause = "a job that fetches nothing needs no nodes"
            raise UsageError("--dry-run", cause=cause, remedy="write it before -- to see what would be submitted")
    for text in getattr(options, "settings", ()):
        _check_setting(text.partition("=")[0].strip())
    all_places = [places_of(words, settings, Path.cwd()) for words in todo]
    for doubt in dict.fromkeys(map(checks.check_folder, all_places)):
        if doubt and options.nodes != "1":
            print(f"shoal: {doubt}", file=sys.stderr)
    return all_places


def _check_setting(name: str) -> None:
    """Raises UsageError for a credential: scripts and argument lists are no place for it."""
    section, _, key = name.partition(".")
    for table in SECTIONS:
        if table.name == section and any(each.kind.secret and key.endswith(each.name) for each in table.table()):
            cause = "a credential would stand in the batch script for all to read"
            remedy = f"export it (Slurm hands the environment on), or use {name}_file"
            raise UsageError(f"--set {name}", cause=cause, remedy=remedy)


def _template_of(all_places: Sequence[Places]) -> str:
    kinds = {places.kind for places in all_places}
    return kinds.pop() if len(kinds) == 1 else TEMPLATES[0]


def _directives(options: argparse.Namespace, base: Path, cwd: Path) -> dict[str, str | None]:
    log = "%x-%A_%a.log" if options.array else "%x-%j.log"
    found: dict[str, str | None] = {"chdir": str(cwd), "output": f"{str(base).replace('%', '%%')}/{log}"}
    for name, option in _PLAIN.items():
        value = getattr(options, name)
        if value not in (None, ""):
            found[option] = str(value)
    if options.mail_user and not options.mail_type:
        found["mail-type"] = MAIL_TYPES
    if options.agents_per_node != 1:
        found["ntasks-per-node"] = str(options.agents_per_node)
    if not options.requeue:
        found |= {"requeue": None, "no-requeue": ""}
    for text in options.sbatch:
        name, _, value = text.partition("=")
        found[name.strip().removeprefix("--")] = None if value == "no" else value
    return found


def _program() -> list[str]:
    """How the nodes call this very program: by its own path, on a file system that they see; `probe.py` tells if they do not."""
    script = Path(sys.executable).parent / "shoal"
    return [str(script)] if script.is_file() else [sys.executable, "-P", "-m", "shoal.client.main"]


def _arguments(options: argparse.Namespace, base: Path) -> list[str]:
    words = ["launch", "slurm"]
    if getattr(options, "config", None):
        words += ["--config", str(Path(options.config).absolute())]
    for text in getattr(options, "settings", ()):
        words += ["--set", text]
    for name in ("log_level", "log_format"):
        if getattr(options, name, None):
            words += [f"--{name.replace('_', '-')}", getattr(options, name)]
    words += ["--insecure"] if getattr(options, "insecure", False) else []
    defaults = build_parser().parse_args(["launch", "slurm"])
    for name in _PASSED:
        value = getattr(options, name)
        if value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--no-checks"] if options.no_checks else []
    words += ["--state", str(base)]
    if options.jobs:
        words += ["--jobs", str(Path(options.jobs).absolute())]
    return [*words, "--", *options.words]


def _keep(folder: Path, script: str) -> None:
    """What was submitted, beside the job's record: for people. An array's tasks have folders of their own."""
    try:
        folder.mkdir(exist_ok=True)
        (folder / "job.sh").write_text(script, encoding="utf-8")
    except OSError as error:
        print(f"shoal: {folder}: {error.strerror}; the job runs all the same", file=sys.stderr)


def _wait(job_id: str) -> int:
    try:
        end = commands.wait_for(job_id)
    except KeyboardInterrupt:
        raise Interrupted(
            f"job {job_id}", cause="interrupted", remedy=f"it goes on; scancel {job_id} ends it"
        ) from None
    print(f"shoal: job {job_id} ended: {end.state}, exit code {end.exit_code}", file=sys.stderr)
    return end.exit_code
