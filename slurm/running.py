"""A run inside a job of Slurm: checks, a coordinator on this node, agents on all, the commands, and what follows.

The coordinator's database lies in a temporary folder of this node and ends with the run: nothing of a node survives a requeue, and
SQLite must not lie where all nodes see it. What the next run needs lies where all nodes see it anyway: chunk maps and
manifests beside the data, and the record of this job (`run_record.py`) in its state folder.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..client.fleet_head import FleetHead
from ..client.fleet_jobs import all_joined, merged_code, read_commands, run_command, show_fleet
from ..client.main import overrides
from ..client.running import run as run_coroutine
from ..common.channel import is_loopback
from ..common.errors import ExitCode, Interrupted, ShoalError, UsageError
from ..common.logs import get_logger
from ..common.settings_sources import Rank
from ..common.stopping import STOPS, on_stop
from ..common.units import parse_duration
from . import checks, commands, run_record
from .agents import Layout, NodeAgents, cpus_of, srun_command
from .allocation import Allocation, array_tasks, share
from .ending import CHAIN_MAX, Next, Run, next_of, warning_s
from .places import Places, places_of, servers_of

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

WATCH_S = 1.0
PROBE_TIMEOUT_S = 120.0
DEFAULT_SIGNAL = "B:TERM@120"
DEFAULT_STATE = "shoal-runs"

log = get_logger("launch")


def run_here(options: argparse.Namespace, settings: Settings, here: Allocation) -> int:
    """Run the commands on a fleet of this job's nodes. Returns the exit code. Raises ShoalError."""
    check_numbers(options)
    patience_s = parse_duration(options.start_timeout)
    if options.jobs == "-" and here.restarts:
        raise UsageError("--jobs -", cause="a requeued job has no standard input", remedy="write the jobs into a file")
    todo = read_commands(options.words, options.jobs)
    if here.array_job_id:
        if not options.jobs:
            raise UsageError(
                "this array", cause="all its tasks would do the same", remedy="share the lines of --jobs FILE"
            )
        tasks = array_tasks(options.array) if options.array else here.array_tasks
        todo = share(todo, tasks, here.array_task)
    if not todo:
        print(f"shoal: task {here.array_task} has no line of {options.jobs}", file=sys.stderr)
        return ExitCode.OK
    cwd = Path.cwd()
    base = Path(options.runs).expanduser() if options.runs else Path(here.submit_dir or cwd) / DEFAULT_STATE
    job = JobRun(options, settings, here, todo, cwd / base / here.key, patience_s)
    if options.dry_run:
        job.describe()
        return ExitCode.OK
    return run_coroutine(job.run())


def check_numbers(options: argparse.Namespace) -> None:
    """Raises UsageError for numbers that no launch can have."""
    for flag, value, least, most in (
        ("--agents-per-node", options.agents_per_node, 1, 1024),
        ("--chain", options.chain, 0, CHAIN_MAX),
        ("--workers", options.workers, 1, 1024),
        ("--cpus", options.cpus, 1, 1 << 16),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"{flag} {value}", cause=f"it is not between {least} and {most}")
    warning_s(options.signal or DEFAULT_SIGNAL)


class JobRun:
    """One run of a job. Use `run` once."""

    def __init__(
        self,
        options: argparse.Namespace,
        settings: Settings,
        here: Allocation,
        todo: Sequence[Sequence[str]],
        folder: Path,
        patience_s: float,
    ) -> None:
        """Args: todo are the commands of this job, or of this task of an array; folder is its state folder; patience_s is how long
        agents have to join.
        """
        self._patience_s = patience_s
        self._options = options
        self._settings = settings
        self._here = here
        self._todo = [tuple(words) for words in todo]
        self._places = {words: places_of(words, settings, Path.cwd()) for words in self._todo}
        self._folder = folder
        self._layout = Layout(
            nodes=here.nodes,
            per_node=options.agents_per_node,
            cpus=options.cpus or cpus_of(os.environ, options.agents_per_node),
        )
        self._stop = asyncio.Event()
        self._record = run_record.RunRecord()
        self._given = {name: value for name, value in overrides(options).items() if name != "coordinator.state"}
        if options.workers:
            self._given |= {"tools.workers": options.workers, "collect.image_workers": options.workers}

    def describe(self) -> None:
        """Print what a run would do."""
        print(f"# job {self._here.key}, {self._here.nodes} nodes: {self._here.node_list}; state: {self._folder}")
        command = srun_command(
            self._layout, "shoal.slurm.step", name="shoal-agents", errors=f"{self._folder}/agent-%t.log"
        )
        print(shlex.join(command))
        for words in self._todo:
            print(shlex.join(["shoal", *words]))
        if self._options.then:
            print(self._options.then)

    async def run(self) -> int:
        """Returns the exit code. Raises ShoalError."""
        checks.check_state(self._folder)
        self._record = run_record.load(self._folder)
        left = [words for words in self._todo if words not in self._record.finished]
        print(self._headline(len(left)), file=sys.stderr, flush=True)
        run = {"restarts": self._here.restarts, "node": _node(), "nodes": self._here.node_list}
        self._save(self._record.begun({**run, "started_at": round(time.time(), 3)}))
        code = int(ExitCode.FAILED)
        try:
            with on_stop(self._stop.set, signals=(*STOPS, signal.SIGUSR1)):
                code, unfinished = await self._do(left) if left else (int(ExitCode.OK), 0)
                if not code and self._options.then and not self._stop.is_set():
                    code = await self._run_then()
                    unfinished = int(bool(code) and self._stop.is_set())
                return await self._follow(code, stopped=self._stop.is_set() and unfinished > 0)
        except ShoalError as error:
            if self._stop.is_set():  # whatever failed, failed because all of it was told to stop
                log.info("launch.stopped_while", reason=str(error))
                return await self._follow(ExitCode.INTERRUPTED, stopped=True)
            self._save(self._record.ended(ended_at=round(time.time(), 3), code=int(error.exit_code), next="end"))
            raise

    # ---- parts of a run ---------------------------------------------------------------------------------------------

    async def _do(self, left: Sequence[tuple[str, ...]]) -> tuple[int, int]:
        """Start the fleet and run what is left. Returns the exit code, and how many commands did not get to their end."""
        nodes = await asyncio.to_thread(commands.hostnames, self._here.node_list)
        if not self._options.no_checks:
            await self._check_nodes(nodes, [self._places[words] for words in left])
        async with AsyncExitStack() as stack:
            head = await self._start_head(nodes)
            stack.push_async_callback(asyncio.to_thread, head.close)
            agents = NodeAgents(self._layout)
            stack.push_async_callback(agents.stop)
            environ = self._exports(head)
            await agents.start(head, self._agent_settings(), self._folder, environ)
            async with head.client() as coordinator:
                showing = asyncio.ensure_future(show_fleet(coordinator, sys.stderr))
                watching = asyncio.ensure_future(self._watch(head, agents))
                try:
                    alive = await all_joined(
                        coordinator, lambda: agents.expected, self._stop, timeout_s=self._patience_s
                    )
                    self._judge_joined(alive, agents, left)
                    return await self._run_commands(head, left, environ, watching)
                finally:
                    for task in (showing, watching):
                        task.cancel()
                    await asyncio.gather(showing, watching, return_exceptions=True)

    async def _check_nodes(self, nodes: Sequence[str], places: Sequence[Places]) -> None:
        asked = checks.question(places, servers_of(places, self._settings, os.environ))
        try:
            checks.place_markers(asked)
            layout = Layout(nodes=self._here.nodes, cpus=self._layout.cpus)
            process = await asyncio.create_subprocess_exec(
                *srun_command(layout, "shoal.slurm.probe", name="shoal-checks", label=False),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    out, _ = await process.communicate(asked.line())
            except TimeoutError:
                process.kill()
                out, _ = await process.communicate()
            lines = out.decode(errors="replace").splitlines()
            for line in checks.verdict(asked, nodes, checks.answers_in(lines)):
                print(f"checked: {line}", file=sys.stderr, flush=True)
        except FileNotFoundError:
            raise UsageError("srun", cause="it is not in PATH", remedy="load your site's Slurm module") from None
        finally:
            checks.remove_markers(asked)

    async def _start_head(self, nodes: Sequence[str]) -> FleetHead:
        """Where Slurm itself reaches this node, the agents do. Beyond loopback it listens everywhere: that address may be a name
        that means loopback on the node itself."""
        host = self._options.host
        listen = "0.0.0.0"
        if not host:
            node = _node()
            host = (
                (await asyncio.to_thread(commands.node_addresses, [node]))[0] if node in nodes else socket.gethostname()
            )
            listen = host if _is_local(host) else "::" if ":" in host else listen
        config = str(Path(self._options.config).absolute()) if getattr(self._options, "config", None) else ""
        head = FleetHead(self._given, hosts=[host], listen_host=listen, config=config)
        try:
            await asyncio.to_thread(head.start)
        except BaseException:
            await asyncio.to_thread(head.close)
            raise
        return head

    def _agent_settings(self) -> dict[str, object]:
        """Logs of agents are files of their own, so they tell what they do unless a level was asked for."""
        asked = self._settings.origin_of("log.level").rank is not Rank.DEFAULT
        return {**self._given, **({} if asked else {"log.level": "info"})}

    def _judge_joined(self, alive: int, agents: NodeAgents, left: Sequence[tuple[str, ...]]) -> None:
        """Raises ShoalError where too few agents have joined: one will do for a copy that all share, a copy on each needs all."""
        if self._stop.is_set() or alive >= self._layout.agents:
            return
        thing = f"{self._layout.agents - alive} of {self._layout.agents} agents"
        cause = next(iter(agents.failed.values()), f"they did not join within {self._options.start_timeout}")
        remedy = f"see {self._folder}/agent-*.log"
        if not alive or not all(self._places[words].shared for words in left):
            raise ShoalError(thing, cause=cause, remedy=remedy)
        print(f"warning: {thing}: {cause} ({remedy}); the others go on", file=sys.stderr, flush=True)

    async def _run_commands(
        self,
        head: FleetHead,
        left: Sequence[tuple[str, ...]],
        environ: dict[str, str],
        watching: asyncio.Future[str],
    ) -> tuple[int, int]:
        broken = asyncio.Event()  # told to stop, by Slurm or because the fleet has ended
        waiting = [asyncio.ensure_future(self._stop.wait()), watching]
        for each in waiting:
            each.add_done_callback(lambda _: broken.set())
        codes: list[int] = []
        try:
            for number, words in enumerate(left, 1):
                if broken.is_set():
                    break
                print(f"[{number}/{len(left)}] shoal {shlex.join(words)}", file=sys.stderr, flush=True)
                where = self._places[words].folder
                code = await run_command(
                    head, words, broken, environ={**environ, "SHOAL_DESTINATION": str(where or "")}
                )
                if code == ExitCode.OK and self._places[words].shared:
                    self._save(self._record.with_finished(words))
                if broken.is_set() and code != ExitCode.OK:
                    break
                codes.append(code)
        finally:
            waiting[0].cancel()
        if not self._stop.is_set() and watching.done() and len(codes) < len(left):
            raise ShoalError(watching.result(), cause="it has ended", remedy=f"see {self._folder}/agent-*.log")
        return merged_code(codes), len(left) - len(codes)

    async def _watch(self, head: FleetHead, agents: NodeAgents) -> str:
        """Returns what of the fleet has ended though nobody told it to."""
        ending = asyncio.ensure_future(agents.ended())
        try:
            while True:
                await asyncio.wait((ending,), timeout=WATCH_S)
                if ending.done():
                    return "the agents of all nodes"
                if await asyncio.to_thread(head.poll) is not None:
                    return "the coordinator"
        finally:
            ending.cancel()

    async def _run_then(self) -> int:
        """Run the command that follows, in the foreground of this job: its signals are passed on, its code is ours."""
        print(f"then: {self._options.then}", file=sys.stderr, flush=True)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", self._options.then), env={**os.environ, **self._exports(None)}
        )
        stopping = asyncio.ensure_future(self._stop.wait())
        ending = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                process.terminate()
            code = await ending
        finally:
            stopping.cancel()
        return code if code >= 0 else 128 - code

    # ---- what follows -----------------------------------------------------------------------------------------------

    async def _follow(self, code: int, *, stopped: bool) -> int:
        left_s = await asyncio.to_thread(commands.seconds_left, self._here.job_id) if stopped else None
        follows = next_of(
            Run(
                stopped=stopped,
                left_s=left_s,
                warning_s=warning_s(self._options.signal or DEFAULT_SIGNAL),
                continuations=self._record.continuations,
                chain=self._options.chain,
            )
        )
        if stopped:
            code = ExitCode.INTERRUPTED
        self._save(self._record.ended(ended_at=round(time.time(), 3), code=int(code), next=follows.value))
        if follows is Next.END:
            return code
        if follows is Next.CONTINUE:
            await self._continue()
            return code
        done = f"{len(self._record.finished)} of {len(self._todo)} commands have ended well"
        cause = "interrupted" if follows is Next.STOP else f"the time is out, for the {self._options.chain + 1}th time"
        remedy = f"{done}; what arrived stays: submit it again, or let Slurm requeue it, and it goes on"
        raise Interrupted(f"job {self._here.key}", cause=cause, remedy=remedy)

    async def _continue(self) -> None:
        """Let Slurm start this job again. It is noted before: Slurm ends us at once."""
        before = self._record
        self._save(before.continued())
        print(
            f"the time is out: continuation {self._record.continuations} of {self._options.chain}",
            file=sys.stderr,
            flush=True,
        )
        try:
            await asyncio.to_thread(commands.requeue, self._here.job_id)
        except ShoalError as error:
            self._save(before)
            raise ShoalError(
                f"job {self._here.key}",
                cause=f"the time is out, and it could not be requeued: {error.cause}",
                remedy="submit it again: what arrived stays, and it goes on",
            ) from None

    def _save(self, record: run_record.RunRecord) -> None:
        self._record = record
        run_record.save(self._folder, record)

    def _exports(self, head: FleetHead | None) -> dict[str, str]:
        """What scripts need of this run. Agents get more, by `step.py`."""
        first = next((places.folder for places in self._places.values() if places.folder is not None), None)
        found = {
            "SHOAL_JOB_ID": self._here.key,
            "SHOAL_RESTARTS": str(self._here.restarts),
            "SHOAL_NODES": str(self._layout.nodes),
            "SHOAL_AGENTS": str(self._layout.agents),
            "SHOAL_AGENTS_PER_NODE": str(self._layout.per_node),
            "SHOAL_WORKERS": str(self._options.workers or self._layout.cpus or 1),
            "SHOAL_NODE_INDEX": os.environ.get("SLURM_NODEID", "0"),
            "SHOAL_DESTINATION": str(first or ""),
            "SHOAL_STATE": str(self._folder),
        }
        return found if head is None else {**found, "SHOAL_COORDINATOR": head.address}

    def _headline(self, left: int) -> str:
        restarted = f", started again {self._here.restarts} times" if self._here.restarts else ""
        before = f", {len(self._todo) - left} ended well before" if left < len(self._todo) else ""
        return (
            f"job {self._here.key}{restarted}: {_count(self._layout.agents, 'agent')} on "
            f"{_count(self._here.nodes, 'node')} ({self._here.node_list}); {_count(len(self._todo), 'command')}{before}; state: {self._folder}"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _node() -> str:
    """Slurm's name for the node that this process is on."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


@functools.cache
def _is_local(host: str) -> bool:
    return is_loopback(f"[{host}]:0" if ":" in host else f"{host}:0")
