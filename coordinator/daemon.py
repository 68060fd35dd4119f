"""``shoal coordinator``: one coordinator as a long-running process."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING

from ..common.errors import ExitCode, NotWritable
from ..common.logs import capture_library_logs, get_logger
from ..common.stopping import on_stop
from ..common.systemd import Notifier
from ..common.wiring import warn_of_open_tls
from .server import CoordinatorServer
from .store.runner import StoreRunner
from .store.sqlite import SqliteStore
from .wiring import make_coordinator, sources

if TYPE_CHECKING:
    from ..common.settings import Settings
    from .planner import OpenSource
    from .service import Coordinator

STATUS_S = 5.0
DATABASE = "coordinator.db"

log = get_logger("coordinator")


def open_store(settings: Settings) -> StoreRunner:
    """The store in the configured state folder, which is made if it is not there. Not opened yet. Raises NotWritable."""
    state = settings.coordinator.state
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NotWritable(f"state folder {state}", cause=str(error), remedy="name another with --state") from None
    return StoreRunner(SqliteStore(state / DATABASE), blocks=True)


async def serve(settings: Settings, *, version: str) -> int:
    """Run until a signal. Returns the exit code.

    Raises UsageError for an address that may not be opened like this, Busy if another coordinator has the state, StateDamaged.
    """
    capture_library_logs()
    warn_of_open_tls(settings)
    stop = asyncio.Event()
    async with sources(settings, version=version) as open_source:
        coordinator = make_coordinator(settings, open_store(settings), open_source, version=version)
        await coordinator.start()
        try:
            server = CoordinatorServer(
                coordinator,
                listen=settings.coordinator.listen,
                security=settings.security,
                tokens=coordinator.tokens,
            )
            with closing(Notifier.from_environ(os.environ)) as notifier, on_stop(stop.set):
                async with asyncio.TaskGroup() as tasks, AsyncExitStack() as web:
                    deciding = tasks.create_task(coordinator.run())
                    try:
                        await server.start()
                        shown = await _show(tasks, web, coordinator, settings, open_source, version)
                        telling = tasks.create_task(_tell(coordinator, notifier, f"{server.address}{shown}"))
                        await stop.wait()
                        notifier.stopping("agents are asked to come back later")
                        telling.cancel()
                    finally:
                        await web.aclose()
                        await server.stop(settings.coordinator.drain_timeout)
                        coordinator.stop()
                        await deciding
        finally:
            await coordinator.close()
    return ExitCode.OK


async def _show(
    tasks: asyncio.TaskGroup,
    stack: AsyncExitStack,
    coordinator: Coordinator,
    settings: Settings,
    open_source: OpenSource,
    version: str,
) -> str:
    """Serve the web page, if it is wanted. Returns where, for people."""
    if not settings.web.listen:
        return ""
    from .web.server import WebServer

    web = WebServer(coordinator, settings=settings, open_source=open_source, version=version)
    stack.push_async_callback(web.stop)
    await web.start()
    tasks.create_task(web.run())
    return f", page {web.url}"


async def _tell(coordinator: Coordinator, notifier: Notifier, address: str) -> None:
    """Keep the service manager informed, from the loop that decides: a loop that is stuck feeds no watchdog."""
    notifier.ready(f"listening on {address}")
    interval_s = min(STATUS_S, notifier.watchdog_interval_s or STATUS_S)
    while True:
        notifier.watchdog()
        fleet = coordinator.fleet()
        notifier.status(f"{fleet.agents_alive} agents, {fleet.jobs_active} jobs, {fleet.units_leased} leases")
        await asyncio.sleep(interval_s)
