"""A dataset job as an agent sees it: its place, its connections, what its hosts forbid."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ...common.collect_records import CollectSpec
from ...common.dataset_schema import IGNORED
from ...common.errors import ShoalError
from ...common.http import HttpClient, HttpLimits, TlsOptions, proxies_for
from ...common.http.addresses import inward_reason
from ...common.ignored_hosts import REREAD_S, IgnoredHosts
from ...common.records import JobSpec
from ...common.version import VERSION
from ..engine.crew import Crew
from .fetch import Fetcher
from .gate import HostGate
from .options import NAMES_S, CollectOptions
from .place import FolderPlace, Place
from .robots import Robots

if TYPE_CHECKING:
    from ..engine.options import EngineOptions


class JobSide:
    """What all leases of one job share. Lives in the event loop."""

    def __init__(
        self,
        job: JobSpec,
        options: CollectOptions,
        *,
        gate: HostGate,
        crew: Crew,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """Touches nothing yet. Raises Refused for a place or a User-Agent that cannot be, UsageError, MissingExtra."""
        assert job.collect is not None
        self.job = job
        self.spec: CollectSpec = job.collect
        self.leases = 0
        self.keeping: tuple[asyncio.Task[None], ...] = ()  # reread ignored.csv, refresh the overview
        self.idle_since_s = clock()
        self.overview_s = float("-inf")  # when this agent last wrote the overview
        self.overview_lock = asyncio.Lock()
        self.place = place_for(job, options)
        self._crew = crew
        self._ignored = IgnoredHosts(self.spec.ignored)
        self._ignored_lock = asyncio.Lock()
        agent = self.spec.user_agent or f"Shoal/{VERSION}"
        self.client = _client(self.spec, options.engine, agent)
        product = agent.partition("/")[0].strip().split(" ")[-1] or "Shoal"
        self.robots = Robots(self.spec, self.client, gate, product=product, clock=clock)
        obeys = self.spec.robots or any(on for _, on in self.spec.robots_of)
        self.fetcher = Fetcher(
            self.spec,
            self.client,
            gate,
            clock=clock,
            wall_clock=wall_clock,
            refusal=self._ignored.refusal,
            robots=self.robots.against if obeys else None,
            https_only=options.engine.rules.is_https_only,
        )

    async def reread_ignored(self) -> None:
        """Look at ``ignored.csv``. Raises ShoalError."""
        async with self._ignored_lock:
            self._ignored.take_file(await self._crew.run(partial(self.place.read_small, IGNORED)).wait())

    async def keep_ignored(self) -> None:
        """Look at it again and again, until this is cancelled. A file that cannot be read stays as it was."""
        while True:
            try:
                await self.reread_ignored()
            except ShoalError:
                pass
            await asyncio.sleep(REREAD_S)

    async def close(self) -> None:
        """Close connections and descriptors. No lease may be under way."""
        self.fetcher.close()
        await self.client.aclose()
        await self._crew.run(self.place.close).wait()


def place_for(job: JobSpec, options: CollectOptions) -> Place:
    """Where a job's dataset lies. Raises Refused, UsageError, MissingExtra."""
    engine = options.engine
    if job.destination.startswith("s3://"):
        from .store_place import store_place

        return store_place(job, options)
    return FolderPlace(
        job.destination, root=engine.root, allow=engine.allow_paths, agent_id=engine.agent_id, sync=engine.sync
    )


def _client(spec: CollectSpec, options: EngineOptions, agent: str) -> HttpClient:
    return HttpClient(
        limits=HttpLimits(
            connections_per_host=max(1, spec.connections),
            connect_timeout_s=min(options.connect_timeout_s, spec.request_timeout_s),
            read_timeout_s=spec.idle_timeout_s,
            names_s=NAMES_S,
        ),
        user_agent=agent,
        tls=TlsOptions(verify=options.verify_tls, ca_bundle=str(options.ca_bundle or "")),
        proxies=proxies_for(options.proxy, os.environ),
        https_only=options.rules.is_https_only,
        check_host=options.rules.check_denied_host,
        refuse_address=None if spec.allow_private_addresses else inward_reason,
    )
