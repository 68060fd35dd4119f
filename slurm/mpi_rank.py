"""What every rank but the first does once MPI has ended: starts its agents, and waits for rank 0's word."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..client.fleet_head import address_of
from ..common.errors import ExitCode, ShoalError
from ..common.secrets import Secret
from ..common.stopping import on_stop
from .lifelines import Line, lifeline
from .placement import Place
from .rank_agents import AgentPlan, RankAgents

WATCH_S = 1.0
LEAVE_S = 60.0
"""What rank 0 gets to end the run once this rank was told to stop, or to let go of a rank that has drained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome:
    """What rank 0 broadcasts, the one time that MPI carries something: it is secret."""

    hosts: tuple[str, ...]  # rank 0's addresses, the likeliest first
    port: int  # of the lifelines
    coordinator_port: int
    authority: str  # PEM
    agent_settings: Mapping[str, object]
    key: str  # to call rank 0 with
    node_names: Mapping[int, str]  # by the first rank of each node
    planned: tuple[int, ...]  # agents, by rank
    environ: Mapping[str, str]  # for agents and commands

    def __repr__(self) -> str:
        return f"Welcome({self.hosts}, …)"

    def agent_plans(self, rank: int, node: int, mine: Sequence[Place], workers: str | None) -> list[AgentPlan]:
        """The agents that a rank starts, by their places; node is the first rank of its node."""
        first = sum(self.planned[:rank])
        return [
            AgentPlan(
                name=f"{self.node_names[node]}{place.suffix}",
                cpus=place.cpus,
                environ={
                    **self.environ,
                    "SHOAL_NODE_INDEX": str(sorted(self.node_names).index(node)),
                    "SHOAL_RANK": str(first + number),
                    "SHOAL_AGENT_NAME": f"{self.node_names[node]}{place.suffix}",
                    "SHOAL_WORKERS": workers or str(len(place.cpus) or 1),
                },
            )
            for number, place in enumerate(mine)
        ]

    def settings_at(self, host: str, given: Mapping[str, object]) -> dict[str, object]:
        """The settings of an agent that reaches rank 0 at this of its addresses."""
        return {**given, **self.agent_settings, "coordinator.address": address_of(host, self.coordinator_port)}


async def follow(
    welcome: Welcome, rank: int, plans: Sequence[AgentPlan], given: Mapping[str, object], config: str
) -> int:
    """Do what a rank does until the run is over. Returns the exit code of all. Raises Unreachable if rank 0 is."""
    stop = asyncio.Event()
    agents = RankAgents(plans)
    calling = lifeline(welcome.hosts, welcome.port, rank=rank, key=Secret(welcome.key), authority=welcome.authority)
    with on_stop(stop.set):
        async with calling as (host, line):
            try:
                try:
                    settings = welcome.settings_at(host, given)
                    await agents.start(settings, authority=welcome.authority, config=config)
                except ShoalError as error:
                    line.send(problem=str(error), code=int(error.exit_code))
                code = await _until_end(line, agents, stop)
            finally:
                await agents.stop()
            if code is None:
                if plans:
                    print(f"shoal: rank {rank}: rank 0 is gone", file=sys.stderr, flush=True)
                return ExitCode.FAILED
            line.send(drained=True)
            await _read_until_closed(line)
    return code


async def _until_end(line: Line, agents: RankAgents, stop: asyncio.Event) -> int | None:
    """Rank 0's word: the exit code; None if rank 0 is gone without one. Tells it of agents that end, and of a signal."""
    watching = asyncio.create_task(_watch(line, agents))
    reading = asyncio.create_task(_read_end(line))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            line.send(stop=True)
            watching.cancel()
            await agents.stop()  # their work goes back while there still is a coordinator to take it
            await asyncio.wait((reading,), timeout=LEAVE_S)
        return reading.result() if reading.done() else None
    finally:
        for task in (watching, reading, stopping):
            task.cancel()
        await asyncio.gather(watching, reading, stopping, return_exceptions=True)


async def _watch(line: Line, agents: RankAgents) -> None:
    told = -1
    while True:
        running = agents.running
        if running != told:
            line.send(agents=running, ended=agents.ended())
            told = running
        await asyncio.sleep(WATCH_S)


async def _read_end(line: Line) -> int | None:
    while (message := await line.read()) is not None:
        if "end" in message:
            return int(message["end"])
    return None


async def _read_until_closed(line: Line) -> None:
    try:
        async with asyncio.timeout(LEAVE_S):
            while await line.read() is not None:
                pass
    except TimeoutError:
        pass
