"""Looks at the coordinator once a second, for everybody who asks: makes the snapshot, the samples and the events of a tick."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...common.logs import get_logger
from .feed import Feed
from .models import Job, Status, Totals, detail_of, job_of
from .schema import encode
from .snapshot import Changes, Histories, Snapshot

if TYPE_CHECKING:
    from ..api import CoordinatorApi

TICK_S = 1.0
SLICE_JOBS = 20
"""Jobs that are looked at in one go; between, the loop does its other work."""

log = get_logger("coordinator.web")


class Observer:
    """What the web side knows of the coordinator. Use: ``await tick()`` once, then ``run()`` in a task."""

    def __init__(self, api: CoordinatorApi, *, wall_clock: Callable[[], float]) -> None:
        """wall_clock: seconds since the epoch."""
        self._api = api
        self._wall_clock = wall_clock
        self.histories = Histories()
        self.feed = Feed(api.fleet().incarnation)
        self._changes = Changes()
        self._seen: set[str] = set(api.job_ids())
        self._details: dict[str, tuple[Snapshot, bytes]] = {}
        self._status: tuple[Snapshot, bytes] | None = None
        self._ticked = False
        self.current: Snapshot

    async def run(self) -> None:
        """Tick until this is cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Look once."""
        api = self._api
        queue = [view.job_id for view in api.queue()]
        jobs: dict[str, Job] = {}
        for number, job_id in enumerate(queue, start=1):
            jobs[job_id] = job_of(api.get_job(job_id, active=False))
            if number % SLICE_JOBS == 0:
                await asyncio.sleep(0)
        totals = api.totals()
        self.current = snapshot = Snapshot(
            taken_at=self._wall_clock(),
            fleet=api.fleet(),
            totals=Totals(
                bytes_from_origin=totals.bytes_from_origin,
                bytes_from_peers=totals.bytes_from_peers,
                objects_done=totals.objects_done,
                objects_failed=totals.objects_failed,
            ),
            jobs=jobs,
            agents=tuple(api.agents()),
            hosts=tuple(api.hosts()),
        )
        self._ticked = True
        self._details.clear()
        self.histories.add(snapshot, asyncio.get_running_loop().time())
        self._publish(snapshot)

    def _publish(self, snapshot: Snapshot) -> None:
        ids = self._api.job_ids()
        new = [job_id for job_id in ids if job_id not in self._seen and job_id not in snapshot.jobs]
        ended = [job_id for job_id in self._changes.unended if job_id not in snapshot.jobs]
        gone = [job_of(self._api.get_job(job_id, active=False)) for job_id in (*ended, *new)]
        feed = self.feed
        changed = self._changes.jobs((*gone, *snapshot.jobs.values()))
        self._seen.update(snapshot.jobs, (job.job_id for job in changed))
        if changed:
            feed.publish("jobs", {"jobs": encode(changed)})
        if agents := self._changes.agents(snapshot.agents):
            feed.publish("agents", {"agents": encode(agents)})
        if hosts := self._changes.hosts(snapshot.hosts):
            feed.publish("hosts", {"hosts": encode(hosts)})
        fleet = {"taken_at": snapshot.taken_at, "fleet": encode(snapshot.fleet), "totals": encode(snapshot.totals)}
        feed.publish("fleet", fleet)

    @property
    def jobs_ended(self) -> int:
        """How many jobs had ended at the last tick. May be asked from any thread."""
        return self.current.fleet.jobs_ended if self._ticked else 0

    # ---- answers ----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """The fleet as it was at the last tick."""
        return self.current.status()

    def status_json(self) -> bytes:
        """The same as JSON, made once a tick."""
        if self._status is None or self._status[0] is not self.current:
            self._status = (self.current, to_json(self.status()))
        return self._status[1]

    def snapshot_value(self) -> dict[str, Any]:
        """What an event stream begins with."""
        snapshot = self.current
        return {**encode(self.status()), "agents": encode(snapshot.agents), "hosts": encode(snapshot.hosts)}

    def detail_json(self, job_id: str) -> bytes:
        """A job with what is under way, made once a tick whoever asks. Raises NotFound."""
        known = self._details.get(job_id)
        if known is None or known[0] is not self.current:
            known = self._details[job_id] = (self.current, to_json(detail_of(self._api.get_job(job_id))))
        return known[1]


def to_json(value: Any) -> bytes:
    """A value of the API as JSON."""
    return json.dumps(encode(value), separators=(",", ":"), ensure_ascii=False).encode()
