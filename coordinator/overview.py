"""How a dataset job is doing, host by host: the document that lies beside the data as ``overview.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..common.collect_records import SUCCESS, batch_of_path
from ..common.records import Tally
from ..common.views import HostCondition

if TYPE_CHECKING:
    from .core import Core
    from .dataset_model import DatasetHost
    from .model import JobState
    from .scheduler.host_state import HostState


def overview_document(core: Core, job: JobState, *, now: float, wall_clock_s: float) -> dict[str, Any]:
    """The job and its hosts as plain JSON values: rows by outcome, batches, the host's standing and rate, until when it is left alone.

    Rates are requests/s of the whole fleet, moments seconds since the epoch.
    """
    row = job.row
    under_way = _under_way(core, job)
    hosts = sorted(job.dataset.hosts.values(), key=lambda host: host.host) if job.dataset is not None else []
    return {
        "job": row.job_id,
        "table": row.uri,
        "status": row.status.value,
        "written_at": wall_clock_s,
        "rows": row.rows_total,
        "rejected": row.rows_rejected,
        **_outcome(row.tally),
        "under_way": sum(under_way.values()),
        "left": max(0, row.rows_total - sum(rows for _, rows in row.tally) - sum(under_way.values())),
        **_together(core, [host.host for host in hosts], now, wall_clock_s),
        "batches": row.objects_total,
        "batches_done": row.objects_done,
        "batches_failed": row.objects_failed,
        "bytes_fetched": row.bytes_fetched,
        "hosts": {host.host: _host(core, host, under_way.get(host.host, 0), now, wall_clock_s) for host in hosts},
    }


def _outcome(tally: Tally) -> dict[str, Any]:
    errors = {str(code): rows for code, rows in sorted(tally) if code != SUCCESS}
    successes = sum(rows for code, rows in tally if code == SUCCESS)
    return {"successes": successes, "errors": sum(errors.values()), "errors_by_code": errors}


def _under_way(core: Core, job: JobState) -> dict[str, int]:
    """Rows by host that have ended in batches that have not: how they ended is told with their batch."""
    found: dict[str, int] = {}
    for lease in core.leases.of_job(job.row.job_id):
        obj = job.objects.get(lease.object_id)
        if obj is not None and lease.arrived:
            host = batch_of_path(obj.spec.path)[0]
            found[host] = found.get(host, 0) + lease.arrived
    return found


def _together(core: Core, hosts: list[str], now: float, wall_clock_s: float) -> dict[str, Any]:
    """The rate of all hosts; how many of them must be left alone, and until when at least."""
    states = [state for state in map(core.hosts.known, hosts) if state is not None]
    waits = [state.conduct.blocked_until - now for state in states if state.conduct.blocked_until > now]
    return {
        "rate_now": round(sum(state.pace.measured for state in states), 3),
        "hosts_in_trouble": sum(state.conduct.condition is not HostCondition.OPEN for state in states),
        "blocked_until": wall_clock_s + min(waits) if waits else None,
    }


def _host(core: Core, host: DatasetHost, under_way: int, now: float, wall_clock_s: float) -> dict[str, Any]:
    tally = tuple(sorted(host.tally.items()))
    return {
        "rows": host.rows,
        **_outcome(tally),
        "under_way": under_way,
        "left": max(0, host.rows - sum(rows for _, rows in tally) - under_way),
        "batches": host.batches,
        "batches_done": host.batches_done,
        "agents": len(host.agents),
        **_standing(core.hosts.known(host.host), now, wall_clock_s),
    }


def _standing(state: HostState | None, now: float, wall_clock_s: float) -> dict[str, Any]:
    if state is None:
        return {}
    blocked_s = state.conduct.blocked_until - now
    return {
        "condition": state.conduct.condition.value,
        "rate_allowed": state.rate(),
        "rate_now": round(state.pace.measured, 3),
        "blocked_until": wall_clock_s + blocked_s if blocked_s > 0 else None,
        "last_status": state.conduct.last_status,
        "requests": {
            "ok": state.ok,
            "throttled": state.throttled,
            "refused": state.refused,
            "timeouts": state.timeouts,
            "unreachable": state.unreachable,
            "other_errors": state.errors,
        },
    }
