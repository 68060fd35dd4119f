"""A fleet by MPI: ``srun --mpi=…``, ``mpirun`` or ``mpiexec`` start ``python -m shoal.slurm.mpi [options] -- COMMAND`` as each rank.

    all       MPI starts; who shares a node; how many agents it gets                   mpi_world.py, placement.py
    rank 0    starts the coordinator as its child, and listens for the others          client/fleet_head.py, lifelines.py
    all       hear by broadcast: addresses, certificate, credential; MPI ends
    all       call rank 0; those that have agents start them as children               lifelines.py, rank_agents.py
    rank 0    waits for the agents, runs the commands, tells all how it ended
    all       drain, and leave with one exit code

Nothing secret is in a file or an argument. A rank that dies takes its agents with it, and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..client.fleet_head import FleetHead
from ..client.fleet_jobs import read_commands
from ..client.main import configure_logs, overrides
from ..client.running import run
from ..common.errors import Interrupted, ShoalError, UsageError
from ..common.secrets import Secret
from ..common.settings import load_settings
from ..common.units import parse_duration
from .addresses import ANY, LOOPBACK, listen_host, reachable_hosts
from .lifelines import listening_socket
from .mpi_lead import Lead, lead
from .mpi_rank import Welcome, follow
from .mpi_world import World, launcher_hint, mpi_world
from .placement import Place, node_names, numa_domains, places
from .rank_agents import own_cpus, use_cpus

if TYPE_CHECKING:
    import argparse

KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class RankView:
    """What a rank tells rank 0 of itself: the first rank of its node, the node's name, how many agents it will start."""

    node: int
    node_name: str
    agents: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run one rank. Returns the exit code, which is the same for all ranks."""
    hint = launcher_hint(os.environ)
    with ExitStack() as stack:
        if hint.rank:  # what is wrong with the command line is told by rank 0 alone
            silent = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stderr(silent))
            stack.enter_context(contextlib.redirect_stdout(silent))
        from ..client.options import build_mpi_parser

        options = build_mpi_parser().parse_args(argv)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return _fail(Interrupted("", cause="interrupted"), quiet=bool(hint.rank))
    except ShoalError as error:
        return _fail(error, quiet=bool(hint.rank))


def _fail(error: ShoalError, *, quiet: bool) -> int:
    if not quiet:
        print(f"shoal: {error}", file=sys.stderr)
    return int(error.exit_code)


def _run(options: argparse.Namespace) -> int:
    if hasattr(options, "coordinator"):
        cause = "the ranks start a coordinator of their own"
        raise UsageError("--coordinator", cause=cause, remedy="leave it out, or use shoal get with it")
    given = fleet_overrides(options)
    config = getattr(options, "config", "")
    config_file = Path(config) if config else None
    settings = load_settings(environ=os.environ, cwd=Path.cwd(), overrides=given, config_file=config_file)
    configure_logs("launch", settings)
    timeout_s = parse_duration(options.start_timeout)
    with ExitStack() as stack:
        with mpi_world(timeout_s) as world:
            mine, view = _look_around(world, options)
            views = world.gather(view)
            prepared = _prepare(options, given, views, stack) if world.rank == 0 else None
            welcome = world.broadcast(prepared[0] if prepared else None)
        if isinstance(welcome, int):
            return welcome
        plans = welcome.agent_plans(world.rank, view.node, mine, options.workers)
        if prepared is None or prepared[1] is None:
            try:
                return run(follow(welcome, world.rank, plans, given, config))
            except ShoalError as error:
                return _fail(error, quiet=False)
        return run(lead(prepared[1], welcome, plans, timeout_s))


def fleet_overrides(options: argparse.Namespace) -> dict[str, object]:
    """The settings that the command line gave, for the coordinator and all agents. Raises UsageError."""
    options.command = "launch"
    given = overrides(options)
    if options.workers is not None:
        given |= {"collect.image_workers": options.workers, "tools.workers": options.workers}
    return given


def _look_around(world: World, options: argparse.Namespace) -> tuple[list[Place], RankView]:
    """The agents that this rank starts, and what it tells of itself. Widens what it may use to all that its node's ranks may."""
    rank_cpus = world.on_node(own_cpus())
    first, name = world.on_node((world.rank, os.environ.get("SLURMD_NODENAME") or socket.gethostname()))[0]
    found = places(options.agents_per, rank_cpus, numa_domains())
    mine = [place for place in found if place.node_rank == world.node_rank]
    if options.agents_per == "node":
        use_cpus(frozenset[int]().union(*rank_cpus))
    return mine, RankView(node=first, node_name=name, agents=len(mine))


def _prepare(
    options: argparse.Namespace, given: Mapping[str, object], views: Sequence[RankView], stack: ExitStack
) -> tuple[Welcome | int, Lead | None]:
    """Rank 0: start the coordinator and listen. What goes wrong becomes the exit code of all: they wait for the broadcast."""
    try:
        commands = read_commands(options.words, options.jobs)
        nodes = sorted({view.node for view in views})
        hosts = reachable_hosts(options.host) if len(nodes) > 1 or options.host else [LOOPBACK]
        # Not on loopback by itself: on a node with other users even one node wants TLS and credentials.
        listen = listen_host(hosts) if options.host else ANY
        head = FleetHead(given, hosts=hosts, listen_host=listen, config=getattr(options, "config", ""))
        stack.callback(head.close)
        head.start()
        listening = stack.enter_context(listening_socket(listen))
    except ShoalError as error:
        return _fail(error, quiet=False), None
    except OSError as error:
        return _fail(ShoalError("rank 0", cause=str(error)), quiet=False), None
    names = node_names([next(view.node_name for view in views if view.node == node) for node in nodes])
    key = secrets.token_hex(KEY_BYTES)
    welcome = Welcome(
        hosts=tuple(hosts),
        port=listening.getsockname()[1],
        coordinator_port=head.port,
        authority=head.authority,
        agent_settings=head.agent_settings(),
        key=key,
        node_names=dict(zip(nodes, names, strict=True)),
        planned=tuple(view.agents for view in views),
        environ={
            "SHOAL_LAUNCH": "mpi",
            "SHOAL_NODES": str(len(nodes)),
            "SHOAL_RANKS": str(len(views)),
            "SHOAL_AGENTS": str(sum(view.agents for view in views)),
        },
    )
    planned = {rank: view.agents for rank, view in enumerate(views)}
    rank_nodes = {rank: welcome.node_names[view.node] for rank, view in enumerate(views)}
    return welcome, Lead(
        head=head, listening=listening, key=Secret(key), commands=commands, planned=planned, nodes=rank_nodes
    )


if __name__ == "__main__":
    sys.exit(main())
