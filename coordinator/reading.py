"""Views of the core's state for people: jobs, objects, agents, hosts, the fleet. Reads only."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from itertools import islice

from ..common.errors import Conflict, NotFound, ShoalError
from ..common.nas_records import together
from ..common.records import Delivery, UnitKind
from ..common.uri import parse_uri
from ..common.views import (
    ActiveObjectView,
    ActivePhase,
    AgentStatus,
    AgentView,
    FleetView,
    HostShareView,
    HostView,
    JobAgentView,
    JobView,
    ObjectView,
    QueueView,
    TotalsView,
)
from .api import JobFilter
from .core import Core
from .effects import PutAgent
from .leases import HeldLease
from .model import AgentState, JobState, ObjectState, Phase
from .replica_model import replica_views
from .scheduler.host_state import HostState
from .scheduler.portions import finite
from .scheduler.spread import in_order
from .store.base import ObjectRow

ACTIVE_MAX = 64
"""Objects shown as active in one view of a job."""
AGENTS_MAX = 100
"""Agents shown in one view of a job, with what they brought."""
METER_WINDOW_S = 5.0


class Meter:
    """Speeds of jobs: bytes, or rows of a table, that arrived over the last seconds."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[tuple[float, int]]] = {}
        self._of_rows: set[str] = set()  # jobs that count rows

    def sample(self, core: Core, now: float) -> None:
        """Take a reading of every job that runs; readings closer than a tenth of the window are skipped."""
        for job_id, job in core.jobs.items():
            if job.row.status.ended:
                self._samples.pop(job_id, None)
                self._of_rows.discard(job_id)
                continue
            samples = self._samples.setdefault(job_id, deque())
            if samples and now - samples[-1][0] < METER_WINDOW_S / 10:
                continue
            if job.row.spec is not None and job.row.spec.collect is not None:
                self._of_rows.add(job_id)
            samples.append((now, arrived_bytes(core, job)))
            while now - samples[0][0] > METER_WINDOW_S and len(samples) > 2:
                samples.popleft()

    def rate(self, job_id: str) -> float:
        """bytes/s; 0 while unknown."""
        samples = self._samples.get(job_id)
        if not samples or samples[-1][0] <= samples[0][0]:
            return 0.0
        return max(0.0, (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0]))

    def total_rate(self) -> float:
        """bytes/s of all jobs together that count bytes."""
        return sum(self.rate(job_id) for job_id in self._samples if job_id not in self._of_rows)


def arrived_bytes(core: Core, job: JobState) -> int:
    """Bytes of finished objects and of unfinished ones so far; of a job that collects a table, its rows."""
    if job.row.spec is not None and job.row.spec.collect is not None:
        ended = sum(rows for _, rows in job.row.tally)
        return ended + sum(lease.arrived for lease in core.leases.of_job(job.row.job_id))
    if job.replication is not None and not job.row.status.ended:
        return job.replication.bytes_done()
    arrived = job.row.bytes_done
    for obj in job.begun.values():
        arrived += obj.done_bytes or sum(lease.arrived for lease in core.leases.of_object(obj.spec.object_id))
    return arrived


class Reader:
    """Answers questions about a core. known: agents that the store remembers, by id."""

    def __init__(self, core: Core, known: Iterable[PutAgent], *, version: str, started_at: float) -> None:
        self._core = core
        self.known = {agent.agent_id: agent for agent in known}
        self._version = version
        self._started_at = started_at

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def find_job(self, wanted: str) -> str:
        """The id of a job by id, or of the newest by name or URI. Raises NotFound."""
        if wanted in self._core.jobs:
            return wanted
        try:
            canonical = parse_uri(wanted, bare_hub=True).canonical()
        except ShoalError:
            canonical = wanted
        found = [
            job.row
            for job in self._core.jobs.values()
            if wanted in (job.row.name, job.row.uri) or canonical == job.row.uri
        ]
        if not found:
            raise NotFound(
                f"job {wanted}", cause="there is no job with this id, name or source", remedy="shoal jobs lists them"
            )
        return max(found, key=lambda row: row.created_at).job_id

    def job_ids(self, *, limit: int, after: str, wanted: JobFilter | None = None) -> list[str]:
        """Ids of jobs that are wanted, newest first, after a job."""
        rows = sorted((job.row for job in self._core.jobs.values()), key=lambda row: (-row.created_at, row.job_id))
        start = [row.job_id for row in rows].index(self.find_job(after)) + 1 if after else 0
        rest = (row.job_id for row in rows[start:] if wanted is None or wanted(row.status, row.paused))
        return list(islice(rest, limit))

    def totals(self) -> TotalsView:
        """Sums over all jobs."""
        rows = [job.row for job in self._core.jobs.values()]
        return TotalsView(
            bytes_from_origin=sum(row.bytes_fetched for row in rows),
            bytes_from_peers=sum(row.bytes_from_peers for row in rows),
            objects_done=sum(row.objects_done for row in rows),
            objects_failed=sum(row.objects_failed for row in rows),
        )

    def job(self, job_id: str, rate: float, *, active: bool) -> JobView:
        """One job."""
        job = self._core.jobs[job_id]
        row = job.row
        arrived = arrived_bytes(self._core, job)
        rows = row.spec is not None and row.spec.collect is not None
        left = max(0, (row.rows_total if rows else row.bytes_total) - arrived)
        rate = 0.0 if row.status.ended else rate
        asked = json.loads(row.request)
        return JobView(
            job_id=row.job_id,
            uri=row.uri,
            status=row.status,
            created_at=row.created_at,
            name=row.name,
            paused=row.paused,
            priority=row.priority,
            ended_at=row.ended_at,
            destination=row.spec.destination if row.spec else asked["destination"],
            revision=row.spec.revision if row.spec else asked["revision"],
            commit=row.spec.commit if row.spec else "",
            objects_total=row.objects_total,
            objects_done=row.objects_done,
            objects_skipped=row.objects_skipped,
            objects_failed=row.objects_failed,
            bytes_total=row.bytes_total,
            bytes_done=row.bytes_done,
            bytes_fetched=row.bytes_fetched,
            bytes_arrived=row.bytes_fetched if rows else arrived,
            rate_bytes_per_s=0.0 if rows else rate,
            eta_s=left / rate if rate > 0 else None,
            failure=row.failure,
            active=self._active(job) if active else (),
            delivery=Delivery(asked.get("delivery", Delivery.SPREAD)),
            bytes_from_peers=row.bytes_from_peers,
            replicas=replica_views(job) if active else (),
            rows_total=row.rows_total,
            rows_rejected=row.rows_rejected,
            rows_done=arrived if rows else 0,
            rows_per_s=rate if rows else 0.0,
            tally=row.tally,
            nas=together(job.nas.values()),
            agents=self._fetchers(job) if active else (),
            agents_more=max(0, len(job.fetched_by) - AGENTS_MAX) if active else 0,
        )

    def _fetchers(self, job: JobState) -> tuple[JobAgentView, ...]:
        views = (
            JobAgentView(agent_id=agent_id, name=self._agent_name(agent_id), from_origin=fetched)
            for agent_id, fetched in job.fetched_by.items()
        )
        return tuple(nsmallest(AGENTS_MAX, views, key=lambda view: (-view.from_origin, view.name, view.agent_id)))

    def _active(self, job: JobState) -> tuple[ActiveObjectView, ...]:
        shown = islice(job.begun.values(), ACTIVE_MAX)
        return tuple(self._active_object(obj, self._core.leases.of_object(obj.spec.object_id)) for obj in shown)

    def _active_object(self, obj: ObjectState, leases: Sequence[HeldLease]) -> ActiveObjectView:
        kinds = {lease.kind for lease in leases}
        if obj.phase is Phase.READY or UnitKind.PUBLISH in kinds:
            phase = ActivePhase.VERIFYING
        elif UnitKind.OPEN in kinds:
            phase = ActivePhase.OPENING
        elif obj.phase is Phase.RANGES:
            phase = ActivePhase.RANGES
        else:
            phase = ActivePhase.FETCHING
        return ActiveObjectView(
            object_id=obj.spec.object_id,
            path=obj.spec.path,
            size=obj.spec.size,
            done_bytes=obj.done_bytes or sum(lease.arrived for lease in leases),
            agents=tuple(sorted({self._agent_name(lease.agent_id) for lease in leases})),
            phase=phase,
            done=tuple(obj.done),
        )

    def object(self, row: ObjectRow) -> ObjectView:
        """One object."""
        return ObjectView(
            object_id=row.spec.object_id,
            path=row.spec.path,
            size=row.spec.size,
            status=row.status,
            digest=row.spec.digest,
            failures=row.failures,
            failure=row.failure,
            skipped=row.skipped,
            agent=self._agent_name(row.agent_id) if row.agent_id else "",
        )

    def queue(self) -> list[QueueView]:
        """Jobs that have not ended, in the order of service."""
        leased: dict[str, int] = {}
        for lease in self._core.leases:
            leased[lease.job_id] = leased.get(lease.job_id, 0) + 1
        return [
            QueueView(
                job_id=job.row.job_id,
                uri=job.row.uri,
                status=job.row.status,
                name=job.row.name,
                paused=job.row.paused,
                priority=job.row.priority,
                objects_waiting=max(
                    0,
                    job.row.objects_total - job.row.objects_done - job.row.objects_failed - len(job.begun),
                ),
                bytes_waiting=max(0, job.row.bytes_total - arrived_bytes(self._core, job)),
                units_leased=leased.get(job.row.job_id, 0),
            )
            for job in in_order(self._core.jobs.values())
            if not job.row.status.ended
        ]

    # ---- agents and hosts -------------------------------------------------------------------------------------------

    def find_agent(self, wanted: str) -> str:
        """The id of a connected agent by id or name. Raises NotFound, Conflict."""
        found = [
            agent for agent in self._core.agents.values() if agent.connected and wanted in (agent.agent_id, agent.name)
        ]
        if not found and any(wanted in (agent.agent_id, agent.name) for agent in self.known.values()):
            raise Conflict(f"agent {wanted}", cause="it is not connected", remedy="shoal agents shows who is")
        if not found:
            raise NotFound(
                f"agent {wanted}", cause="there is no agent with this id or name", remedy="shoal agents lists them"
            )
        if len(found) > 1:
            ids = ", ".join(agent.agent_id for agent in found)
            raise Conflict(
                f"agent {wanted}", cause=f"{len(found)} agents have this name", remedy=f"name one by its id: {ids}"
            )
        return found[0].agent_id

    def agents(self, now: float) -> list[AgentView]:
        """All agents, by name; those that only the store remembers are lost."""
        views = [self._agent(agent, now) for agent in self._core.agents.values()]
        views += [
            AgentView(
                agent_id=seen.agent_id, name=seen.name, status=AgentStatus.LOST, version=seen.version, zone=seen.zone
            )
            for seen in self.known.values()
            if seen.agent_id not in self._core.agents
        ]
        return sorted(views, key=lambda view: (view.name, view.agent_id))

    def _agent(self, agent: AgentState, now: float) -> AgentView:
        return AgentView(
            agent_id=agent.agent_id,
            name=agent.name,
            status=self._agent_status(agent, now),
            version=agent.version,
            zone=agent.zone,
            capacity=agent.capacity,
            units=agent.units,
            bytes_held=agent.bytes_held,
            rate_bytes_per_s=agent.rate if agent.connected else 0.0,
            objects_done=agent.objects_done,
            bytes_done=agent.bytes_done,
            memory_bytes=agent.memory,
            connected_s=now - agent.joined_at if agent.connected else 0.0,
            silent_s=now - agent.heard_at,
            peer_address=agent.peer.address if agent.peer is not None else "",
            sent_bytes=agent.sent,
            bad_chunks=agent.bad_chunks,
            cut_off=agent.cut_off,
            nas=agent.nas.total if agent.nas is not None else None,
            disk_free_bytes=agent.disk[0],
            disk_total_bytes=agent.disk[1],
        )

    def _agent_status(self, agent: AgentState, now: float) -> AgentStatus:
        limits = self._core.limits
        if not agent.connected:
            return AgentStatus.LEFT if agent.left else AgentStatus.LOST
        if now - agent.heard_at > limits.lease_ttl_s:
            return AgentStatus.LOST
        if now - agent.heard_at > 2 * limits.heartbeat_s:
            return AgentStatus.LATE
        return AgentStatus.DRAINING if agent.draining else AgentStatus.ALIVE

    def _agent_name(self, agent_id: str) -> str:
        agent = self._core.agents.get(agent_id) or self.known.get(agent_id)
        return agent.name if agent else agent_id

    def hosts(self, now: float) -> list[HostView]:
        """All hosts that the fleet has met or that have a policy, by name."""
        return [self._host(host, now) for host in self._core.hosts.states()]

    def _host(self, host: HostState, now: float) -> HostView:
        return HostView(
            host=host.host,
            requests_per_s=host.requests_per_s,
            bytes_per_s=host.bytes_per_s,
            connections=host.connections,
            blocked_s=max(0.0, host.conduct.blocked_until - now),
            condition=host.conduct.condition,
            rate_now=host.rate(),
            rate_measured=host.pace.measured,
            last_status=host.conduct.last_status,
            ok=host.ok,
            throttled=host.throttled,
            timeouts=host.timeouts,
            unreachable=host.unreachable,
            refused=host.refused,
            errors=host.errors,
            crawl_delay_s=host.crawl_delay_s,
            shares=tuple(
                HostShareView(
                    agent=self._agent_name(agent_id),
                    requests_per_s=finite(portion.rate),
                    bytes_per_s=finite(portion.bytes_per_s),
                    connections=int(finite(portion.connections)),
                    probe=portion.probe,
                )
                for agent_id, portion in self._core.hosts.holders(host.host)
            ),
        )

    def fleet(self, now: float, rate: float, epoch_s: float) -> FleetView:
        """Everything in one look. epoch_s: seconds since 1970, by this machine."""
        statuses = [view.status for view in self.agents(now)]
        queue = self.queue()
        return FleetView(
            version=self._version,
            incarnation=self._core.incarnation,
            uptime_s=now - self._started_at,
            agents_alive=sum(status in (AgentStatus.ALIVE, AgentStatus.DRAINING) for status in statuses),
            agents_late=statuses.count(AgentStatus.LATE),
            agents_lost=statuses.count(AgentStatus.LOST),
            jobs_active=len(queue),
            jobs_ended=len(self._core.jobs) - len(queue),
            objects_waiting=sum(view.objects_waiting for view in queue),
            bytes_waiting=sum(view.bytes_waiting for view in queue),
            units_leased=len(self._core.leases),
            rate_bytes_per_s=rate,
            nas=together(agent.nas.total for agent in self._core.agents.values() if agent.nas is not None),
            epoch_s=epoch_s,
        )
