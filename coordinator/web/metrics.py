"""``GET /metrics``: the fleet for Prometheus, made from the snapshot of the last tick.

Names and units follow https://prometheus.io/docs/practices/naming/: base units, ``_total`` for what only grows. No label holds the
name of a job, a repo or a file: there is no bound on those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ...common.views import AgentStatus, HostCondition

if TYPE_CHECKING:
    from prometheus_client import Metric

    from .observer import Observer
    from .snapshot import Snapshot

HOSTS_MAX = 200
"""Hosts that have metrics of their own: those that were asked most. A URL table may have thousands."""


class FleetCollector:
    """Gives prometheus_client the numbers of the last tick."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        snapshot = self._observer.current
        yield from _fleet(snapshot)
        yield from _agents(snapshot)
        yield from _hosts(snapshot)
        yield gauge("shoal_web_event_clients", "Open streams of events.", [((), self._observer.feed.clients)])


Samples = Iterable[tuple[tuple[str, ...], float]]


def gauge(name: str, help: str, samples: Samples, labels: tuple[str, ...] = ()) -> Metric:
    """A value that goes up and down."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counter(name: str, help: str, samples: Samples, labels: tuple[str, ...] = ()) -> Metric:
    """A value that only grows; its name ends in _total."""
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _fleet(snapshot: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import InfoMetricFamily

    fleet, totals = snapshot.fleet, snapshot.totals
    info = InfoMetricFamily("shoal_coordinator", "The coordinator.", labels=())
    info.add_metric((), {"version": fleet.version})
    yield info
    yield gauge("shoal_coordinator_uptime_seconds", "Since the coordinator started.", [((), fleet.uptime_s)])
    yield gauge("shoal_coordinator_incarnation", "Starts of the coordinator on this state.", [((), fleet.incarnation)])
    active = [job for job in snapshot.jobs.values() if not job.paused]
    yield gauge(
        "shoal_jobs",
        "Jobs by state.",
        [
            (("active",), len(active)),
            (("paused",), len(snapshot.jobs) - len(active)),
            (("ended",), fleet.jobs_ended),
        ],
        ("state",),
    )
    yield gauge("shoal_objects_waiting", "Objects that nobody works on yet.", [((), fleet.objects_waiting)])
    yield gauge("shoal_waiting_bytes", "Bytes that have not arrived yet.", [((), fleet.bytes_waiting)])
    yield gauge("shoal_leases", "Units of work that agents hold.", [((), fleet.units_leased)])
    yield gauge("shoal_download_bytes_per_second", "Speed of the fleet.", [((), fleet.rate_bytes_per_s)])
    yield gauge(
        "shoal_rows_per_second",
        "Rows of URL tables that end.",
        [((), sum(job.rows_per_s for job in snapshot.jobs.values()))],
    )
    yield counter(
        "shoal_received_bytes_total",
        "Bytes of all jobs, by where they came from.",
        [(("origin",), totals.bytes_from_origin), (("peer",), totals.bytes_from_peers)],
        ("source",),
    )
    yield counter(
        "shoal_objects_ended_total",
        "Objects that ended, by outcome. Those that are retried count once.",
        [(("done",), totals.objects_done), (("failed",), totals.objects_failed)],
        ("outcome",),
    )


def _agents(snapshot: Snapshot) -> Iterator[Metric]:
    statuses = [agent.status for agent in snapshot.agents]
    yield gauge(
        "shoal_agents",
        "Agents by status.",
        [((status.value,), statuses.count(status)) for status in AgentStatus],
        ("status",),
    )
    present = [
        agent
        for agent in snapshot.agents
        if agent.status in (AgentStatus.ALIVE, AgentStatus.LATE, AgentStatus.DRAINING)
    ]
    label = ("agent", "agent_id")

    def each(of: str) -> Samples:
        return [((agent.name, agent.agent_id), float(getattr(agent, of))) for agent in present]

    yield gauge("shoal_agent_download_bytes_per_second", "Speed of an agent.", each("rate_bytes_per_s"), label)
    yield gauge("shoal_agent_leases", "Units of work that an agent holds.", each("units"), label)
    yield gauge("shoal_agent_memory_bytes", "Resident memory of an agent.", each("memory_bytes"), label)
    yield gauge("shoal_agent_silent_seconds", "Since an agent was last heard.", each("silent_s"), label)
    yield counter("shoal_agent_done_bytes_total", "Bytes of objects that an agent finished.", each("bytes_done"), label)
    yield counter("shoal_agent_sent_bytes_total", "Bytes that an agent sent to peers.", each("sent_bytes"), label)
    yield counter(
        "shoal_agent_bad_chunks_total", "Chunks that an agent sent and that were wrong.", each("bad_chunks"), label
    )


def _hosts(snapshot: Snapshot) -> Iterator[Metric]:
    hosts = sorted(snapshot.hosts, key=lambda host: -(host.ok + host.throttled + host.errors))[:HOSTS_MAX]
    kinds = ("ok", "throttled", "errors", "timeouts", "unreachable", "refused")
    yield counter(
        "shoal_host_requests_total",
        "Requests to an origin host, by outcome.",
        [((host.host, kind), float(getattr(host, kind))) for host in hosts for kind in kinds],
        ("host", "outcome"),
    )
    yield gauge(
        "shoal_host_blocked_seconds",
        "How long the fleet still waits for a host.",
        [((host.host,), host.blocked_s) for host in hosts],
        ("host",),
    )
    yield gauge(
        "shoal_host_open",
        "1 while a host may be asked, 0 while it asked to wait or cannot be reached.",
        [((host.host,), float(host.condition is HostCondition.OPEN)) for host in hosts],
        ("host",),
    )
    yield gauge(
        "shoal_host_requests_per_second",
        "Requests that the fleet puts to a host.",
        [((host.host,), host.rate_measured) for host in hosts],
        ("host",),
    )


def exposition(observer: Observer) -> tuple[bytes, str]:
    """The metrics as text, and its content type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    registry = CollectorRegistry()
    registry.register(FleetCollector(observer))  # pyright: ignore[reportArgumentType]
    return generate_latest(registry), CONTENT_TYPE_LATEST
