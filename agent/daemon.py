"""``shoal agent``: one agent as a long-running process."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import ExitCode, UsageError
from ..common.logs import capture_library_logs, get_logger
from ..common.stopping import on_stop
from ..common.systemd import Notifier
from ..common.wiring import warn_of_open_tls
from .exchange import PeerExchange
from .identity import data_folder
from .journal import FileJournal
from .link import connect
from .service import Agent, Link
from .session import Identity
from .wiring import capacity, make_worker

if TYPE_CHECKING:
    from ..common.settings import Settings

STATUS_S = 5.0

log = get_logger("agent")


async def serve(settings: Settings, *, version: str) -> int:
    """Run until a signal or until the coordinator asks it to leave. Returns the exit code.

    Raises UsageError without a coordinator's address or for a bad peer address, Conflict for a peer port that is taken, Busy,
    NotWritable, and what ends the session for good (Unauthenticated).
    """
    if not settings.coordinator.address:
        raise UsageError("shoal agent", cause="no coordinator is named", remedy="add --coordinator HOST:PORT")
    capture_library_logs()
    warn_of_open_tls(settings)
    with data_folder(settings.agent.data) as agent_id, closing(FileJournal(settings.agent.data / "journal")) as journal:
        name = settings.agent.name or socket.gethostname()
        identity = Identity(agent_id=agent_id, name=name, version=version, zone=settings.agent.zone)
        exchange = PeerExchange(settings, agent_id=agent_id)

        def open_link() -> AbstractAsyncContextManager[Link]:
            return connect(settings.coordinator.address, settings.security)

        agent = Agent(
            identity=identity,
            capacity=capacity(settings),
            journal=journal,
            connect=open_link,
            rng=random.Random(),
            hub_cache=settings.hub.cache,
            home=settings.agent.root if settings.agent.root != Path("/") else None,
            exchange=exchange,
        )
        worker = make_worker(
            settings,
            agent_id=agent_id,
            version=version,
            report=agent.report,
            tell=agent.tell,
            list_objects=agent.manifest_pages,
            sign=agent.sign_objects,
            read_document=agent.read_document,
        )
        with closing(Notifier.from_environ(os.environ)) as notifier, on_stop(agent.stop):
            log.info("agent.started", agent=identity.name, coordinator=settings.coordinator.address)
            async with worker, exchange.serving(worker.shelf), asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(_tell(agent, notifier))
                await agent.run(worker)
                notifier.stopping("stopped")
                telling.cancel()
    log.info("agent.stopped", agent=identity.name)
    return ExitCode.OK


async def _tell(agent: Agent, notifier: Notifier) -> None:
    """Keep the service manager informed, from the loop that does the work: a loop that is stuck feeds no watchdog."""
    notifier.ready("connecting")
    interval_s = min(STATUS_S, notifier.watchdog_interval_s or STATUS_S)
    while True:
        notifier.watchdog()
        state = "connected" if agent.connected.is_set() else "not connected"
        notifier.status(f"{state}, {agent.held} leases")
        await asyncio.sleep(interval_s)
