"""A run inside a job of Slurm: what is left to do, a fleet that does it, and what follows.

The coordinator's database lies in a temporary folder of the batch node and ends with the run: nothing of a node survives a requeue, and
SQLite must not lie where all nodes see it. What the next run needs lies where all nodes see it anyway: chunk maps and manifests
beside the data, and the record of this job (`run_record.py`) in its state folder.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..client.fleet_jobs import read_commands
from ..client.running import run as run_coroutine
from ..common.errors import ExitCode, Interrupted, ShoalError, UsageError
from ..common.logs import get_logger
from ..common.stopping import STOPS, on_stop
from ..common.units import parse_duration
from . import checks, commands, run_record
from .allocation import Allocation, array_tasks, share
from .ending import CHAIN_MAX, Next, Run, next_of, warning_s
from .fleet_run import FleetRun
from .job_plan import JobPlan, count_of, this_node
from .places import places_of
from .srun_agents import Layout, cpus_of, srun_command

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

DEFAULT_SIGNAL = "B:TERM@120"
DEFAULT_STATE = "shoal-runs"

log = get_logger("launch")


def run_here(options: argparse.Namespace, settings: Settings, here: Allocation) -> int:
    """Run the commands on a fleet of this job's nodes. Returns the exit code. Raises ShoalError."""
    plan = plan_of(options, settings, here)
    if not plan.places:
        print(f"shoal: task {here.array_task} has no line of {options.jobs}", file=sys.stderr)
        return ExitCode.OK
    job = JobRun(plan)
    if options.dry_run:
        job.describe()
        return ExitCode.OK
    return run_coroutine(job.run())


def plan_of(options: argparse.Namespace, settings: Settings, here: Allocation) -> JobPlan:
    """What this job, or this task of an array, is to do. Raises UsageError."""
    check_numbers(options)
    if options.jobs == "-" and here.restarts:
        raise UsageError("--jobs -", cause="a requeued job has no standard input", remedy="write the jobs into a file")
    todo = read_commands(options.words, options.jobs)
    if here.array_job_id:
        if not options.jobs:
            cause = "all its tasks would do the same"
            raise UsageError("this array", cause=cause, remedy="share the lines of --jobs FILE")
        tasks = array_tasks(options.array) if options.array else here.array_tasks
        todo = share(todo, tasks, here.array_task)
    base = Path(options.runs).expanduser() if options.runs else Path(here.submit_dir) / DEFAULT_STATE
    return JobPlan(
        options=options,
        settings=settings,
        here=here,
        folder=Path.cwd() / base / here.key,
        places={tuple(words): places_of(words, settings, Path.cwd()) for words in todo},
        layout=Layout(
            nodes=here.nodes,
            per_node=options.agents_per_node,
            cpus=options.cpus or cpus_of(os.environ, options.agents_per_node),
        ),
        patience_s=parse_duration(options.start_timeout),
    )


def check_numbers(options: argparse.Namespace) -> None:
    """Raises UsageError for numbers that no launch can have."""
    for flag, value, least, most in (
        ("--agents-per-node", options.agents_per_node, 1, 1024),
        ("--chain", options.chain, 0, CHAIN_MAX),
        ("--cpus", options.cpus, 1, 1 << 16),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"{flag} {value}", cause=f"it is not between {least} and {most}")
    warning_s(options.signal or DEFAULT_SIGNAL)


class JobRun:
    """One run of a job. Use `run` once."""

    def __init__(self, plan: JobPlan) -> None:
        self._plan = plan
        self._stop = asyncio.Event()
        self._record = run_record.RunRecord()

    def describe(self) -> None:
        """Print what a run would do."""
        plan = self._plan
        print(
            f"# job {plan.here.key} on {count_of(plan.here.nodes, 'node')}: {plan.here.node_list}; state: {plan.folder}"
        )
        errors = f"{plan.folder}/agent-%t.log"
        print(shlex.join(srun_command(plan.layout, "shoal.slurm.step", name="shoal-agents", errors=errors)))
        for words in plan.commands:
            print(shlex.join(["shoal", *words]))
        if plan.options.then:
            print(plan.options.then)

    async def run(self) -> int:
        """Returns the exit code. Raises ShoalError."""
        plan = self._plan
        checks.check_state(plan.folder)
        self._record = run_record.load(plan.folder)
        left = [words for words in plan.commands if words not in self._record.finished]
        print(self._headline(len(left)), file=sys.stderr, flush=True)
        run = {"restarts": plan.here.restarts, "node": this_node(), "nodes": plan.here.node_list}
        self._save(self._record.begun({**run, "started_at": round(time.time(), 3)}))
        try:
            with on_stop(self._stop.set, signals=(*STOPS, signal.SIGUSR1)):
                code, undone = await FleetRun(plan, self._stop, self._note_finished).run(left) if left else (0, 0)
                if not code and plan.options.then and not self._stop.is_set():
                    code = await self._run_then()
                    undone = int(bool(code) and self._stop.is_set())
                return await self._follow(code, stopped=self._stop.is_set() and undone > 0)
        except Interrupted:
            raise
        except ShoalError as error:
            if self._stop.is_set():  # whatever failed, failed because all of it was told to stop
                log.info("launch.stopped_while", reason=str(error))
                return await self._follow(ExitCode.INTERRUPTED, stopped=True)
            self._save(self._record.ended(ended_at=round(time.time(), 3), code=int(error.exit_code), next="end"))
            raise

    async def _run_then(self) -> int:
        """Run the command that follows, in the foreground of this job: its signals are passed on, its code is ours."""
        print(f"then: {self._plan.options.then}", file=sys.stderr, flush=True)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", self._plan.options.then),
            env={**os.environ, **self._plan.exports()},
            start_new_session=True,  # a group of its own, so that all of it can be told to stop
        )
        stopping = asyncio.ensure_future(self._stop.wait())
        ending = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            code = await ending
        finally:
            stopping.cancel()
        return code if code >= 0 else 128 - code

    # ---- what follows -----------------------------------------------------------------------------------------------

    async def _follow(self, code: int, *, stopped: bool) -> int:
        plan = self._plan
        left_s = await asyncio.to_thread(commands.seconds_left, plan.here.job_id) if stopped else None
        follows = next_of(
            Run(
                stopped=stopped,
                left_s=left_s,
                warning_s=warning_s(plan.options.signal or DEFAULT_SIGNAL),
                continuations=self._record.continuations,
                chain=plan.options.chain,
            )
        )
        if stopped:
            code = ExitCode.INTERRUPTED
        self._save(self._record.ended(ended_at=round(time.time(), 3), code=int(code), next=follows.value))
        if follows is Next.END:
            outcome = "all commands have ended well" if not code else f"ended with exit code {code}"
            print(f"job {plan.here.key}: {outcome}", file=sys.stderr, flush=True)
            return code
        if follows is Next.CONTINUE:
            await self._continue()
            return code
        done = f"{len(self._record.finished)} of {count_of(len(plan.places), 'command')} ended well"
        chain = count_of(plan.options.chain, "continuation")
        cause = "interrupted" if follows is Next.STOP else f"the time is out, after {chain}"
        remedy = f"{done}; what arrived stays: submit it again, or let Slurm requeue it, and it goes on"
        raise Interrupted(f"job {plan.here.key}", cause=cause, remedy=remedy)

    async def _continue(self) -> None:
        """Let Slurm start this job again. It is noted before: Slurm ends us at once."""
        job_id, chain, before = self._plan.here.job_id, self._plan.options.chain, self._record
        self._save(before.continued())
        told = f"the time is out: continuation {self._record.continuations} of {chain}"
        print(told, file=sys.stderr, flush=True)
        try:
            await asyncio.to_thread(commands.requeue, job_id)
        except ShoalError as error:
            self._save(before)
            raise Interrupted(
                f"job {self._plan.here.key}",
                cause=f"the time is out, and it could not be requeued: {error.cause}",
                remedy="submit it again: what arrived stays, and it goes on",
            ) from None

    def _note_finished(self, words: tuple[str, ...]) -> None:
        self._save(self._record.with_finished(words))

    def _save(self, record: run_record.RunRecord) -> None:
        self._record = record
        run_record.save(self._plan.folder, record)

    def _headline(self, left: int) -> str:
        plan, here = self._plan, self._plan.here
        restarted = f", started again {count_of(here.restarts, 'time')}" if here.restarts else ""
        before = f", {len(plan.places) - left} ended well before" if left < len(plan.places) else ""
        what = f"{count_of(plan.layout.agents, 'agent')} on {count_of(here.nodes, 'node')} ({here.node_list})"
        todo = f"{count_of(len(plan.places), 'command')}{before}"
        return f"job {here.key}{restarted}: {what}; {todo}; state: {plan.folder}"
