"""What rank 0 does once MPI has ended: has the agents join, runs the commands, and tells all ranks how it ended."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..client.fleet_head import FleetHead
from ..client.fleet_jobs import all_joined, merged_code, run_commands, show_fleet
from ..common.errors import ExitCode, ShoalError
from ..common.secrets import Secret
from ..common.stopping import on_stop
from .addresses import LOOPBACK
from .lifelines import Lifelines, Message, server_tls
from .mpi_rank import WATCH_S, Welcome
from .rank_agents import AgentPlan, RankAgents

DRAIN_S = 30.0
"""What ranks get to drain their agents; a `ChildDaemon` takes less."""


@dataclass(kw_only=True, slots=True)
class Lead:
    """The run, as rank 0 knows it. planned: agents of each rank; nodes: the name of each rank's node."""

    head: FleetHead
    listening: socket.socket
    key: Secret
    commands: Sequence[Sequence[str]]
    planned: Mapping[int, int]
    nodes: Mapping[int, str]
    running: dict[int, int] = field(default_factory=dict[int, int])
    drained: set[int] = field(default_factory=set[int])
    problems: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.running = dict(self.planned)

    @property
    def expected(self) -> int:
        """Agents that run, or may still begin to."""
        return sum(self.running.values())

    def heard(self, rank: int, message: Message) -> None:
        """Take what a rank says."""
        if "agents" in message:
            self._count(rank, int(message["agents"]), message.get("ended") or {})
        if "problem" in message:
            self.failed(rank, str(message["problem"]), int(message.get("code") or ExitCode.FAILED))
        if message.get("stop"):
            self.stop.set()
        if message.get("drained"):
            self.drained.add(rank)
        if message.get("gone") and rank not in self.drained:
            agents = self.running.pop(rank, 0)
            with_it = f", with its agent{'s' if agents > 1 else ''}" if agents else ""
            self.say(f"rank {rank} on {self.nodes[rank]} is gone{with_it}")
        self.changed.set()

    def failed(self, rank: int, problem: str, code: int) -> None:
        """An agent of a rank could not start."""
        self.problems.append((problem, code))
        self.say(f"rank {rank} on {self.nodes[rank]}: {problem}")

    def _count(self, rank: int, agents: int, ended: Mapping[str, int]) -> None:
        if rank in self.running and agents < self.running[rank] and not self.stop.is_set():
            for name, code in ended.items():
                self.say(f"agent {name} has ended with exit code {code}")
        self.running[rank] = agents
        self.changed.set()

    def own(self, agents: RankAgents) -> None:
        """Take how many of rank 0's own agents run."""
        if agents.running != self.running[0]:
            self._count(0, agents.running, agents.ended())

    def say(self, text: str) -> None:
        """Tell a person."""
        print(f"shoal: {text}", file=sys.stderr, flush=True)


async def lead(run: Lead, welcome: Welcome, plans: Sequence[AgentPlan], timeout_s: float) -> int:
    """Do what rank 0 does, until the run is over everywhere. Returns the exit code of all."""
    lifelines = Lifelines([rank for rank in run.planned if rank], run.key, run.heard)
    agents = RankAgents(plans)
    tls = server_tls(*run.head.tls_files) if run.head.tls_files else None
    code: int = ExitCode.FAILED
    with on_stop(run.stop.set):
        async with lifelines.serving(run.listening, tls):
            try:
                code = await _work(run, welcome, lifelines, agents, timeout_s)
            except ShoalError as error:
                run.say(str(error))
                code = int(error.exit_code)
            finally:
                lifelines.end(code)
                await agents.stop()
                await lifelines.until(lambda: not lifelines.waiting and run.drained >= set(lifelines.open), DRAIN_S)
                # Before the others may leave: some launchers end all ranks when one has left with an error.
                await asyncio.to_thread(run.head.close)
    return code


async def _work(run: Lead, welcome: Welcome, lifelines: Lifelines, agents: RankAgents, timeout_s: float) -> int:
    """Start, run the commands, tell a person what happens. Returns their exit code. Raises what the coordinator answers."""
    given = welcome.settings_at(LOOPBACK if LOOPBACK in welcome.hosts else welcome.hosts[0], {})
    settings = {**run.head.overrides, **given}
    try:
        await agents.start(settings, authority=welcome.authority, config=run.head.config)
    except ShoalError as error:
        run.failed(0, str(error), int(error.exit_code))
    run.own(agents)
    async with run.head.client() as coordinator:
        alive = await all_joined(coordinator, lambda: run.expected, run.stop, timeout_s=timeout_s)
        if run.stop.is_set():
            return ExitCode.INTERRUPTED
        if alive < run.expected:
            run.say(f"{run.expected - alive} of {run.expected} agents did not join within {timeout_s:g} s")
            for rank in lifelines.waiting:
                run.running.pop(rank, None)
        if not alive:
            run.say("no agent could start, so nothing was done")
            return merged_code([code for _problem, code in run.problems]) or ExitCode.UNREACHABLE
        showing = asyncio.create_task(show_fleet(coordinator, sys.stderr))
        watching = asyncio.create_task(_until_no_agent(run, agents))
        commands = asyncio.create_task(run_commands(run.head, run.commands, run.stop, environ=welcome.environ))
        try:
            await asyncio.wait((commands, watching), return_when=asyncio.FIRST_COMPLETED)
            if not commands.done():
                run.say("the agents of all nodes have ended")
                run.stop.set()
                await commands
                return ExitCode.FAILED
            return commands.result()
        finally:
            for task in (showing, watching, commands):
                task.cancel()
            await asyncio.gather(showing, watching, commands, return_exceptions=True)


async def _until_no_agent(run: Lead, agents: RankAgents) -> None:
    while run.expected:
        run.changed.clear()
        try:
            async with asyncio.timeout(WATCH_S):
                await run.changed.wait()
        except TimeoutError:
            run.own(agents)
