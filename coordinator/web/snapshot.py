"""The fleet at one tick, speed over time, and what changed since the tick before. Pure: takes `now`, does no I/O.

Requests and event streams are answered from here, so that a hundred open pages cost the coordinator no more than one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ...common.views import AgentView, FleetView, HostView
from .models import History, Job, Sample, Status, Totals

STATUS_JOBS_MAX = 100
CHANGED_JOBS_MAX = 200
"""Jobs told in one tick; the others follow in the next ones."""
SAMPLES_MAX = 512
SAMPLE_EVERY_S = 2.0
HISTORIES_MAX = 1000
"""Jobs whose speed is remembered: those that were sampled last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What is known at one tick. jobs are those that have not ended, in the order of service."""

    taken_at: float  # seconds since the epoch
    fleet: FleetView
    totals: Totals
    jobs: Mapping[str, Job]
    agents: tuple[AgentView, ...]
    hosts: tuple[HostView, ...]

    def status(self) -> Status:
        """As GET /api/status tells it."""
        shown = tuple(self.jobs.values())[:STATUS_JOBS_MAX]
        return Status(
            taken_at=self.taken_at,
            fleet=self.fleet,
            totals=self.totals,
            jobs=shown,
            jobs_more=len(self.jobs) - len(shown),
        )


class Ring:
    """Samples of one thing. When it is full, every second one goes and the interval doubles: the whole run stays in view."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._every_s = SAMPLE_EVERY_S
        self._last_at = float("-inf")

    def add(self, sample: Sample, now: float) -> None:
        """Take a sample, if the one before is old enough. now: seconds of a clock that does not jump."""
        if now - self._last_at < self._every_s * 0.95:
            return
        self._last_at = now
        self._samples.append(sample)
        if len(self._samples) >= SAMPLES_MAX:
            self._samples = self._samples[::2]
            self._every_s *= 2

    def history(self) -> History:
        """All samples, oldest first."""
        return History(samples=tuple(self._samples))


class Histories:
    """Speed over time, of the fleet and of each job."""

    def __init__(self) -> None:
        self.fleet = Ring()
        self._jobs: OrderedDict[str, Ring] = OrderedDict()

    def add(self, snapshot: Snapshot, now: float) -> None:
        """Take samples of a tick."""
        totals = snapshot.totals
        self.fleet.add(
            Sample(
                at=snapshot.taken_at,
                rate=snapshot.fleet.rate_bytes_per_s,
                bytes_from_origin=totals.bytes_from_origin,
                bytes_from_peers=totals.bytes_from_peers,
            ),
            now,
        )
        for job in snapshot.jobs.values():
            ring = self._jobs.get(job.job_id)
            if ring is None:
                ring = self._jobs[job.job_id] = Ring()
            self._jobs.move_to_end(job.job_id)
            ring.add(
                Sample(
                    at=snapshot.taken_at,
                    rate=job.rows_per_s or job.rate_bytes_per_s,
                    bytes_from_origin=job.bytes_from_origin,
                    bytes_from_peers=job.bytes_from_peers,
                ),
                now,
            )
        while len(self._jobs) > HISTORIES_MAX:
            self._jobs.popitem(last=False)

    def job(self, job_id: str) -> History:
        """Of one job; empty if nothing was sampled since the coordinator started."""
        ring = self._jobs.get(job_id)
        return ring.history() if ring is not None else History(samples=())


class Changes:
    """Finds what is new in each tick. Jobs that are not told for want of room are told in a later one."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._told: dict[str, int] = {}  # job -> the round of `jobs` that told it last
        self._round = 0
        self._agents: dict[str, AgentView] = {}
        self._hosts: dict[str, HostView] = {}

    @property
    def unended(self) -> frozenset[str]:
        """Jobs that had not ended when they were last told."""
        return frozenset(self._jobs)

    def jobs(self, jobs: Iterable[Job]) -> tuple[Job, ...]:
        """Those that differ from what was told of them; first those that were told the longest ago."""
        differing = [job for job in jobs if self._jobs.get(job.job_id) != job]
        differing.sort(key=lambda job: self._told.get(job.job_id, 0))
        self._round += 1
        found = tuple(differing[:CHANGED_JOBS_MAX])
        for job in found:
            if job.status.ended:
                self._jobs.pop(job.job_id, None)
                self._told.pop(job.job_id, None)
            else:
                self._jobs[job.job_id] = job
                self._told[job.job_id] = self._round
        return found

    def agents(self, agents: Iterable[AgentView]) -> tuple[AgentView, ...]:
        """Those that differ in more than in how long they are silent."""
        found: list[AgentView] = []
        for agent in agents:
            still = replace(agent, silent_s=0.0, connected_s=0.0)
            if self._agents.get(agent.agent_id) != still:
                self._agents[agent.agent_id] = still
                found.append(agent)
        return tuple(found)

    def hosts(self, hosts: Iterable[HostView]) -> tuple[HostView, ...]:
        """Those that differ."""
        found = tuple(host for host in hosts if self._hosts.get(host.host) != host)
        self._hosts.update((host.host, host) for host in found)
        return found
