"""The commands that a fleet was started for: read and checked before anything starts, run one after the other against its head.

A command is an ordinary command line of ``shoal`` that can use a coordinator: ``get``, ``collect`` or ``tools run``. Each runs in a
child process of its own (`child_command.py`), with the progress that a person knows from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..common.errors import ExitCode, ShoalError, UsageError
from ..common.logs import get_logger
from ..common.views import AgentStatus
from .children import child_environ, python_command
from .transfer import LAUNCH_VARIABLE

if TYPE_CHECKING:
    from .fleet_head import FleetHead
    from .remote import RemoteCoordinator

JOIN_POLL_S = 0.1
WATCH_S = 2.0
GRACE_S = 15.0
"""What a command gets to end in order once it was told to."""

_OF_THE_FLEET = ("coordinator", "insecure")

log = get_logger("launch")


# ---- reading ------------------------------------------------------------------------------------------------------------


def read_commands(words: Sequence[str], jobs_file: str = "") -> list[list[str]]:
    """The commands to run, each as its arguments: the one of the command line, then one a line of a file.

    Args: words of the command, perhaps none; jobs_file is a path, ``-`` for standard input, or empty. In it, ``#`` begins a comment
    and quotes are those of a shell. Raises UsageError that names the command, or the file and line.
    """
    found: list[tuple[str, list[str]]] = [("", list(words))] if words else []
    if jobs_file:
        try:
            text = sys.stdin.read() if jobs_file == "-" else Path(jobs_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--jobs {jobs_file}", cause=str(error)) from None
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{jobs_file}:{number}: "
            try:
                words = shlex.split(line, comments=True)
            except ValueError as error:
                raise UsageError(f"{where}{line.strip()}", cause=str(error), remedy="check its quotes") from None
            if words:
                found.append((where, words))
    if not found:
        raise UsageError(
            "shoal launch",
            cause="no command was named",
            remedy="write it after --, as in: -- get hf://ORG/NAME --to DIR",
        )
    return [_checked(where, words) for where, words in found]


def _checked(where: str, words: list[str]) -> list[str]:
    from .options import build_parser

    if words[0] == "shoal":
        words = words[1:]
    thing = f"{where}{shlex.join(words)}"
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            options = build_parser().parse_args(words)
    except SystemExit:
        last = (said.getvalue().strip().splitlines() or [""])[-1]
        raise UsageError(thing, cause=last.partition("error: ")[2] or "it is not a command", remedy=_REMEDY) from None
    command = getattr(options, "command", None)
    if command not in ("get", "collect") and not (command == "tools" and options.action == "run"):
        raise UsageError(thing, cause=f"{command or 'it'} cannot be run on a fleet", remedy=_REMEDY)
    for name in _OF_THE_FLEET:
        if hasattr(options, name):
            raise UsageError(thing, cause=f"--{name} is for a fleet that runs already", remedy="leave it out")
    return words


_REMEDY = "a command is get, collect or tools run, with its own options"


# ---- running ------------------------------------------------------------------------------------------------------------


async def run_commands(
    head: FleetHead, commands: Sequence[Sequence[str]], stop: asyncio.Event, *, environ: Mapping[str, str]
) -> int:
    """Run commands one after the other, whatever becomes of each, until all have ended or `stop` is set.

    Args: environ has more variables for them. Returns one exit code: 0, what went wrong if it was the same for all that
    failed, else 1; 130 if they were stopped.
    """
    codes: list[int] = []
    for words in commands:
        if len(commands) > 1:
            print(f"shoal {shlex.join(words)}", file=sys.stderr, flush=True)
        codes.append(await run_command(head, words, stop, environ=environ))
        if stop.is_set():
            break
    return ExitCode.INTERRUPTED if stop.is_set() and len(codes) < len(commands) else merged_code(codes)


def merged_code(codes: Sequence[int]) -> int:
    """One exit code for several: 0 if all are, the one that all others are, else 1."""
    wrong = {code for code in codes if code != ExitCode.OK}
    return ExitCode.OK if not wrong else wrong.pop() if len(wrong) == 1 else ExitCode.FAILED


async def run_command(head: FleetHead, words: Sequence[str], stop: asyncio.Event, *, environ: Mapping[str, str]) -> int:
    """Run one command line of ``shoal`` in a child process. Returns its exit code; when `stop` is set, it is interrupted first."""
    told = json.dumps({"settings": head.client_settings(), "config": head.config}, default=os.fspath)
    reading, writing = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *python_command("shoal.client.child_command"),
            str(reading),
            *words,
            pass_fds=(reading,),
            env={**child_environ(), LAUNCH_VARIABLE: "1", **environ},
            start_new_session=True,  # Ctrl+C is for us; we end it in order
        )
        os.close(reading)
        reading = -1
        os.write(writing, told.encode() + b"\n")
        try:
            await _ended_or(process, stop)
        finally:
            await _end(process)
    finally:
        for fd in (reading, writing):
            if fd >= 0:
                os.close(fd)
    code = process.returncode
    assert code is not None
    if code < 0 and not stop.is_set():
        log.warning("launch.command_killed", command=shlex.join(words), signal=signal.Signals(-code).name)
    return code if code >= 0 else ExitCode.INTERRUPTED if stop.is_set() else ExitCode.FAILED


async def _ended_or(process: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    ending, stopping = asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((ending, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.cancel()
        stopping.cancel()
        await asyncio.gather(ending, stopping, return_exceptions=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    for end, patience_s in ((process.terminate, GRACE_S), (process.kill, None)):
        if process.returncode is not None:
            return
        end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await process.wait()


# ---- the fleet as a whole -----------------------------------------------------------------------------------------------


async def all_joined(
    coordinator: RemoteCoordinator, expected: Callable[[], int], stop: asyncio.Event, *, timeout_s: float
) -> int:
    """Wait until as many agents are alive as are expected (which may change meanwhile), at most timeout_s, or until `stop` is set.

    Returns how many are alive. A copy for every agent (``--deliver replicate``) is for those that are there when it begins.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + timeout_s
    while True:
        alive = await _alive(coordinator)
        if alive >= expected() or stop.is_set() or loop.time() > ends_at:
            return alive
        await asyncio.sleep(JOIN_POLL_S)


async def show_fleet(coordinator: RemoteCoordinator, out: TextIO) -> None:
    """Tell a person how many agents are at work, whenever that changes, until cancelled."""
    seen: set[str] = set()  # of this run: a state that was kept knows agents of earlier ones
    shown = ""
    while True:
        try:
            agents = await coordinator.agents()
        except ShoalError as error:
            log.debug("launch.fleet_unknown", error=str(error))
        else:
            alive = {agent.name for agent in agents if agent.status is AgentStatus.ALIVE}
            seen |= alive
            lost = [agent.name for agent in agents if agent.status is AgentStatus.LOST and agent.name in seen]
            line = f"fleet: {_count(len(alive))} at work" + (f"; lost: {', '.join(sorted(lost))}" if lost else "")
            if line != shown:
                print(line, file=out, flush=True)
                shown = line
        await asyncio.sleep(WATCH_S)


async def _alive(coordinator: RemoteCoordinator) -> int:
    return sum(agent.status is AgentStatus.ALIVE for agent in await coordinator.agents())


def _count(agents: int) -> str:
    return f"{agents} agent{'' if agents == 1 else 's'}"
