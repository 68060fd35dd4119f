"""``shoal coordinator``: one coordinator as a long-running process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING

from ..common.certificates import CertificateWatch, watched_files
from ..common.errors import ExitCode, NotWritable
from ..common.grpc_log import translated
from ..common.logs import capture_library_logs, get_logger
from ..common.reloading import LIVE_COORDINATOR, Reloader, on_reload
from ..common.stopping import on_stop
from ..common.systemd import Notifier, listen_sockets
from ..common.units import format_rate
from ..common.wiring import s3_profiles, warn_of_open_tls
from .backup import remove_stale_copies
from .server import CoordinatorServer
from .store.runner import StoreRunner
from .store.sqlite import SqliteStore
from .wiring import host_policies_of, make_coordinator, site_rules_of, sources

if TYPE_CHECKING:
    from ..common.s3_profiles import S3Profiles
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


async def serve(settings: Settings, *, version: str, load: Callable[[], Settings]) -> int:
    """Run until a signal. load: the settings anew, for a reload. Returns the exit code.

    Raises UsageError for an address that may not be opened like this, Busy if another coordinator has the state, StateDamaged.
    """
    capture_library_logs()
    warn_of_open_tls(settings)
    with (
        translated(is_server=True),
        closing(Notifier.from_environ(os.environ)) as notifier,
        listen_sockets(os.environ) as listeners,
    ):

        async def take_up(new: Settings) -> None:
            await coordinator.configure(host_policies_of(new), site_rules_of(new))

        reloader = Reloader(settings, load, take_up, notifier, live=LIVE_COORDINATOR)
        stores = s3_profiles(settings, version=version)
        async with sources(settings, version=version, live=lambda: reloader.settings, stores=stores) as open_source:
            coordinator = make_coordinator(settings, open_store(settings), open_source, version=version, stores=stores)
            await coordinator.start()
            try:
                remove_stale_copies(settings.coordinator.state)
                server = CoordinatorServer(
                    coordinator,
                    listen=settings.coordinator.listen,
                    security=settings.security,
                    tokens=coordinator.tokens,
                    identities=coordinator.identities,
                    listeners=listeners,
                )

                async def show(tasks: asyncio.TaskGroup, stack: AsyncExitStack) -> str:
                    return await _show(tasks, stack, coordinator, settings, open_source, version)

                await _run(coordinator, server, reloader, notifier, show, stores)
            finally:
                await coordinator.close()
    return ExitCode.OK


async def _run(
    coordinator: Coordinator,
    server: CoordinatorServer,
    reloader: Reloader,
    notifier: Notifier,
    show: Callable[[asyncio.TaskGroup, AsyncExitStack], Awaitable[str]],
    stores: S3Profiles,
) -> None:
    """Serve from the first to the last call. show: serves the web page, and returns where."""
    settings = reloader.settings
    stop = asyncio.Event()
    with on_stop(stop.set):
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as web:
            deciding = tasks.create_task(coordinator.run())
            try:
                await server.start()
                address = f"{server.address}{await show(tasks, web)}"
                telling = tasks.create_task(_tell(coordinator, notifier, address, settings))
                tasks.create_task(asyncio.to_thread(stores.prepare))
                with on_reload(reloader, tasks):
                    await stop.wait()
                notifier.stopping("agents are asked to come back later")
                telling.cancel()
            finally:
                await web.aclose()
                await server.stop(settings.coordinator.drain_timeout)
                coordinator.stop()
                await deciding


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


async def _tell(coordinator: Coordinator, notifier: Notifier, address: str, settings: Settings) -> None:
    """Keep the service manager informed, from the loop that decides: a loop that is stuck feeds no watchdog."""
    watch = CertificateWatch(watched_files(settings.security))
    notifier.ready(f"listening on {address}")
    interval_s = min(STATUS_S, notifier.watchdog_interval_s or STATUS_S)
    while True:
        notifier.watchdog()
        coordinator.warnings = watch.check(time.time())
        fleet = coordinator.fleet()
        words = (
            f"{fleet.agents_alive} agents, {fleet.jobs_active} jobs, {fleet.units_leased} leases, "
            f"{format_rate(fleet.rate_bytes_per_s)}"
        )
        notifier.status("; ".join((words, *fleet.warnings)))
        await asyncio.sleep(interval_s)
