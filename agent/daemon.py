"""``shoal agent``: one agent as a long-running process."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.certificates import CertificateWatch, watched_files
from ..common.errors import ExitCode, UsageError
from ..common.grpc_log import translated
from ..common.logs import capture_library_logs, get_logger
from ..common.policy import RulesInForce, policy_of
from ..common.records import Progress
from ..common.reloading import LIVE_AGENT, Reloader, on_reload
from ..common.stopping import on_stop
from ..common.systemd import Notifier
from ..common.units import format_rate
from ..common.wiring import warn_of_open_tls
from .exchange import PeerExchange
from .identity import data_folder
from .journal import FileJournal
from .link import connect
from .nas.copier import QUEUE_FOLDER
from .nas.wiring import make_copier
from .service import Agent, Link
from .session import Identity
from .wiring import capacity, make_worker

if TYPE_CHECKING:
    from ..common.settings import Settings
    from .worker import Worker

STATUS_S = 5.0

log = get_logger("agent")


async def serve(settings: Settings, *, version: str, load: Callable[[], Settings]) -> int:
    """Run until a signal or until the coordinator asks it to leave. load: the settings anew, for a reload. Returns the exit code.

    Raises UsageError without a coordinator's address or for a bad peer address, Conflict for a peer port that is taken, Busy,
    NotWritable, and what ends the session for good (Unauthenticated).
    """
    if not settings.coordinator.address:
        raise UsageError("shoal agent", cause="no coordinator is named", remedy="add --coordinator HOST:PORT")
    capture_library_logs()
    warn_of_open_tls(settings)
    with (
        translated(is_server=False),
        data_folder(settings.agent.data) as agent_id,
        closing(FileJournal(settings.agent.data / "journal")) as journal,
        closing(Notifier.from_environ(os.environ)) as notifier,
    ):
        rules = RulesInForce(policy_of(settings))

        async def take_up(new: Settings) -> None:
            worker.throttle.set_rate_limit(new.fetch.rate_limit)
            exchange.set_upload_rate(new.agent.upload_rate)
            rules.policy = policy_of(new)

        reloader = Reloader(settings, load, take_up, notifier, live=LIVE_AGENT)
        name = settings.agent.name or socket.gethostname()
        identity = Identity(agent_id=agent_id, name=name, version=version, zone=settings.agent.zone)
        exchange = PeerExchange(settings, agent_id=agent_id)
        copier = make_copier(settings, owner=agent_id, queue_folder=settings.agent.data / QUEUE_FOLDER)

        def open_link() -> AbstractAsyncContextManager[Link]:
            return connect(
                settings.coordinator.address, replace(settings.security, token=reloader.settings.security.token)
            )

        agent = Agent(
            identity=identity,
            capacity=capacity(settings),
            journal=journal,
            connect=open_link,
            rng=random.Random(),
            hub_cache=settings.hub.cache,
            home=settings.agent.root if settings.agent.root != Path("/") else None,
            exchange=exchange,
            copies=copier.report,
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
            live=lambda: reloader.settings,
            copier=copier,
            rules=rules,
        )
        with on_stop(agent.stop):
            log.info("agent.started", agent=identity.name, coordinator=settings.coordinator.address)
            async with copier, worker, exchange.serving(worker.shelf), asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(_tell(agent, worker, exchange, notifier, settings))
                with on_reload(reloader, tasks):
                    await agent.run(worker)
                notifier.stopping("stopped")
                telling.cancel()
    log.info("agent.stopped", agent=identity.name)
    return ExitCode.OK


class RateMeter:
    """How fast bytes arrive, from how far the leases are: for people, and about."""

    def __init__(self) -> None:
        self._arrived: dict[tuple[str, int], int] = {}
        self._at: float | None = None

    def rate(self, progress: Iterable[Progress], now: float) -> float:
        """Bytes/s since the last call. Of leases that ended since then, what came last is not counted."""
        arrived = {(lease.unit, lease.token): lease.arrived for lease in progress}
        grown = sum(max(0, count - self._arrived.get(lease, 0)) for lease, count in arrived.items())
        passed = 0.0 if self._at is None else now - self._at
        self._arrived, self._at = arrived, now
        return grown / passed if passed > 0 else 0.0


async def _tell(agent: Agent, worker: Worker, exchange: PeerExchange, notifier: Notifier, settings: Settings) -> None:
    """Keep the service manager informed, from the loop that does the work: a loop that is stuck feeds no watchdog."""
    watch, meter = CertificateWatch(watched_files(settings.security)), RateMeter()
    notifier.ready("connecting")
    interval_s = min(STATUS_S, notifier.watchdog_interval_s or STATUS_S)
    while True:
        notifier.watchdog()
        exchange.renew_certificate()
        state = "connected to" if agent.connected.is_set() else "not connected to"
        rate = format_rate(meter.rate(worker.progress(), time.monotonic()))
        words = f"{state} {settings.coordinator.address}, {agent.held} leases, {rate}"
        notifier.status("; ".join((words, *watch.check(time.time()))))
        await asyncio.sleep(interval_s)
