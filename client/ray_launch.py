"""``shoal launch ray``: runs commands on a fleet with one agent on each node of a running Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..common.channel import split_host
from ..common.errors import MissingExtra, Unreachable, UsageError
from ..common.stopping import on_stop
from ..common.units import parse_duration
from .fleet_jobs import read_commands, run_commands, show_fleet
from .main import overrides
from .ray import AsyncRayFleet
from .running import run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Sequence

CONNECT_S = 5.0


def launch_ray(options: argparse.Namespace) -> int:
    """Run the commands. Returns the exit code. Raises UsageError, MissingExtra, TimedOut; Unreachable where there is no cluster."""
    commands = read_commands(options.words, options.jobs)
    given = overrides(options)
    if options.state:
        given["coordinator.state"] = options.state
    if options.workers:
        given |= {"collect.image_workers": options.workers, "tools.workers": options.workers}
    fleet_options: dict[str, Any] = {
        "settings": given,
        "host": options.host,
        "start_timeout_s": parse_duration(options.start_timeout),
        "config": getattr(options, "config", "") or "",
    }
    with _cluster(options.address):
        return run(_on_fleet(commands, fleet_options))


@contextlib.contextmanager
def _cluster(address: str) -> Generator[None]:
    """Take part in the cluster, as a driver."""
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise MissingExtra(
            "shoal launch ray", cause="ray is not installed", remedy="pip install 'shoal[ray]'"
        ) from None
    thing = f"Ray cluster {address}"
    if "://" in address:
        remedy = "start it on a node of the cluster, or as a job: ray job submit -- shoal launch ray …"
        raise UsageError(thing, cause="a client from outside cannot lead a fleet", remedy=remedy)
    try:
        if address != "auto":
            socket.create_connection(split_host(address), CONNECT_S).close()  # Ray itself tries for minutes
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        remedy = "start one (ray start --head), or name it: --address HOST:6379"
        raise Unreachable(thing, cause=cause, remedy=remedy) from None
    try:
        yield
    finally:
        ray.shutdown()


async def _on_fleet(commands: Sequence[Sequence[str]], options: dict[str, Any]) -> int:
    stop = asyncio.Event()
    with on_stop(stop.set):
        async with AsyncRayFleet(**options) as fleet:
            count = str(len(fleet.agents))
            told = {
                "SHOAL_LAUNCH": "ray",
                "SHOAL_NODES": count,
                "SHOAL_AGENTS": count,
                "SHOAL_COORDINATOR": fleet.head.address,
            }
            showing = asyncio.ensure_future(show_fleet(fleet.client.coordinator, sys.stderr))
            try:
                return await run_commands(fleet.head, commands, stop, environ=told)
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
