"""The agents of a launch: one srun over all nodes of the job.

Their settings, with the credential to join with, go into srun's standard input, which srun gives to every task: never into an
argument or a file. What a task prints comes back line by line, with its number (``--label``). A node that is lost takes its task with
it and no other (``--no-kill``, ``--kill-on-bad-exit=0``, ``--wait=0``). When standard input ends, all agents drain and end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..client.children import child_environ, python_command
from ..common.errors import UsageError
from ..common.logs import get_logger

if TYPE_CHECKING:
    from ..client.fleet_head import FleetHead

STOP_S = 20.0
"""What the agents get to drain: less than Slurm's own KillWait (30 s unless a site says otherwise), after which it kills."""

KILL_S = 5.0
LINE_BYTES_MAX = 256 << 10

log = get_logger("launch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How agents lie on nodes. cpus of each agent; 0: they share what the job has on their node."""

    nodes: int
    per_node: int = 1
    cpus: int = 0

    @property
    def agents(self) -> int:
        """All of them."""
        return self.nodes * self.per_node


def srun_command(layout: Layout, module: str, *, name: str, errors: str = "", label: bool = True) -> list[str]:
    """The command line that runs a module of ours once for each agent.

    Args: errors is a file for standard error, with srun's patterns; label puts its task's number before each line of output.
    """
    options = [
        f"--job-name={name}",
        f"--nodes={layout.nodes}",
        f"--ntasks={layout.agents}",
        f"--ntasks-per-node={layout.per_node}",
        f"--cpus-per-task={layout.cpus}" if layout.cpus else "--overcommit",
        *("--no-kill", "--kill-on-bad-exit=0", "--wait=0", "--mpi=none", "--export=ALL"),
        *(["--label"] if label else []),
        *([f"--error={errors}", "--open-mode=append"] if errors else []),
    ]
    return ["srun", *options, *python_command(module)]


def cpus_of(environ: Mapping[str, str], per_node: int) -> int:
    """Processors for each agent: what the job asked for, else an equal part of what it has on its smallest node; 0 where there are
    fewer than agents.

    srun no longer takes them from the job by itself (since Slurm 22.05: srun(1), --cpus-per-task).
    """
    counts = [part.partition("(")[0] for part in environ.get("SLURM_JOB_CPUS_PER_NODE", "").split(",")]
    least = min((int(count) for count in counts if count.isdecimal()), default=0)
    asked = environ.get("SLURM_CPUS_PER_TASK", "")
    if asked.isdecimal() and (not least or int(asked) * per_node <= least):
        return int(asked)
    return least // per_node


class SrunAgents:
    """The agents, from their start to their end. Use: `start`, and `stop` in any case."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.failed: dict[int, str] = {}
        """What was wrong, by task, with those that ended at their start."""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(
        self, head: FleetHead, settings: Mapping[str, object], folder: Path, environ: Mapping[str, str]
    ) -> None:
        """Start them; returns at once.

        Args: settings by name, for all agents; folder is where their logs go; environ are more variables for them. Raises UsageError
        without srun.
        """
        command = srun_command(
            self.layout,
            "shoal.slurm.step",
            name="shoal-agents",
            errors=str(folder / "agent-%t.log").replace("%n", "%%n"),
        )
        asked: dict[str, Any] = {"daemon": "agent", "settings": {**settings, **head.agent_settings()}, "folder": ""}
        asked |= {"authority": head.authority, "config": head.config, "tokens": ""}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**child_environ(), **environ},
                limit=LINE_BYTES_MAX,
                start_new_session=True,  # Ctrl+C is for us; we end them in order
            )
        except FileNotFoundError:
            raise UsageError("srun", cause="it is not in PATH", remedy="load your site's Slurm module") from None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked, default=os.fspath).encode() + b"\n")
        self._reading = asyncio.ensure_future(self._read())

    @property
    def expected(self) -> int:
        """How many may still join."""
        ended = self._process is None or self._process.returncode is not None
        return 0 if ended else self.layout.agents - len(self.failed)

    @property
    def exit_code(self) -> int | None:
        """srun's, once it has ended."""
        return None if self._process is None else self._process.returncode

    async def ended(self) -> int:
        """Wait until all have ended. Returns srun's exit code."""
        assert self._process is not None, "started"
        return await self._process.wait()

    async def stop(self) -> None:
        """Let them drain, and end them. Safe to call at any time and again."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        for end, patience_s in ((None, STOP_S), (process.terminate, KILL_S), (process.kill, None)):
            if process.returncode is not None:
                break
            if end is not None:
                log.warning("launch.agents_slow", now="they are told to end at once")
                with contextlib.suppress(ProcessLookupError):
                    end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await process.wait()
        if self._reading is not None:
            await self._reading
        self._process = None

    async def _read(self) -> None:
        """Takes in what the agents say at their start; whatever else comes is shown."""
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            try:
                line = (await self._process.stdout.readline()).decode(errors="replace").rstrip()
            except ValueError:  # longer than the limit: nothing of ours
                continue
            if not line and self._process.stdout.at_eof():
                return
            task, told = _labelled(line)
            error = told.get("error")
            if error:
                self.failed[task] = str(error.get("cause"))
                print(f"agent {task}: {error.get('thing')}: {error.get('cause')}", file=sys.stderr, flush=True)
            elif not told and line:
                print(line, file=sys.stderr, flush=True)


def _labelled(line: str) -> tuple[int, dict[str, Any]]:
    """The task and the JSON object of a line with srun's label; an empty object for another line."""
    label, _, text = line.partition(": ")
    try:
        found = json.loads(text)
        return int(label), found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]
    except ValueError:
        return -1, {}
