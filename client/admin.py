"""Commands that ask a coordinator: lists, status, control, credentials."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..common.errors import ExitCode, UsageError
from ..common.units import format_duration, format_rate, format_size, parse_rate
from ..common.views import (
    AgentView,
    Control,
    FleetView,
    HostView,
    JobView,
    ObjectView,
    QueueView,
)
from .copies import nas_line
from .describing import describe
from .output import (
    agent_state,
    error_lines,
    percent,
    printable,
    progress_line,
    speed_of,
    state,
    summary_line,
    table,
    to_document,
)
from .remote import RemoteCoordinator, connect
from .running import run
from .watching import watch_patiently

if TYPE_CHECKING:
    from ..common.settings import Settings

T = TypeVar("T")
PAGE = 1000
WATCH_FLEET_S = 1.0
DEFAULT_ADDRESS = "127.0.0.1:7070"

JOB_COLUMNS: Mapping[str, Callable[[JobView], str]] = {
    "job": lambda job: job.job_id,
    "state": state,
    "done>": percent,
    "files>": lambda job: f"{job.objects_done}/{job.objects_total}",
    "failed>": lambda job: str(job.objects_failed),
    "size>": lambda job: f"{job.rows_total:,} rows" if job.rows_total else format_size(job.bytes_total),
    "speed>": lambda job: speed_of(job) or "-",
    "left>": lambda job: "-" if job.eta_s is None else format_duration(job.eta_s),
    "source": lambda job: job.name or job.uri,
}
AGENT_COLUMNS: Mapping[str, Callable[[AgentView], str]] = {
    "agent": lambda agent: agent.name,
    "state": agent_state,
    "speed>": lambda agent: format_rate(agent.rate_bytes_per_s),
    "leases>": lambda agent: str(agent.units),
    "files>": lambda agent: str(agent.objects_done),
    "bytes>": lambda agent: format_size(agent.bytes_done),
    "sent>": lambda agent: format_size(agent.sent_bytes),
    "NAS waiting>": lambda agent: "-" if agent.nas is None else str(agent.nas.files_waiting),
    "memory>": lambda agent: format_size(agent.memory_bytes),
    "silent>": lambda agent: format_duration(agent.silent_s),
    "version": lambda agent: agent.version,
    "peers at": lambda agent: agent.peer_address or "-",
    "id": lambda agent: agent.agent_id,
}
QUEUE_COLUMNS: Mapping[str, Callable[[QueueView], str]] = {
    "job": lambda job: job.job_id,
    "state": lambda job: f"{job.status.value} (paused)" if job.paused else job.status.value,
    "priority>": lambda job: str(job.priority),
    "files waiting>": lambda job: str(job.objects_waiting),
    "bytes waiting>": lambda job: format_size(job.bytes_waiting),
    "leases>": lambda job: str(job.units_leased),
    "source": lambda job: job.name or job.uri,
}
CONNECTIONS_MAX = 10_000


def _unset(host: HostView) -> str:
    """What stands for a limit that nobody set for this host: a job's values, or those of every host, may hold all the same."""
    return "default" if host.rate_now else "no limit"


HOST_COLUMNS: Mapping[str, Callable[[HostView], str]] = {
    "host": lambda host: host.host,
    "state": lambda host: host.condition.value,
    "requests/s>": lambda host: f"{host.requests_per_s:g}" if host.requests_per_s else _unset(host),
    "now>": lambda host: f"{host.rate_now:.3g}" if host.rate_now else "-",
    "measured>": lambda host: f"{host.rate_measured:.3g}",
    "bandwidth>": lambda host: format_rate(host.bytes_per_s) if host.bytes_per_s else "no limit",
    "connections>": lambda host: str(host.connections or _unset(host)),
    "agents>": lambda host: str(len(host.shares)),
    "blocked for>": lambda host: format_duration(host.blocked_s) if host.blocked_s else "-",
    "last>": lambda host: {0: "-", -1: "no answer"}.get(host.last_status, str(host.last_status)),
    "ok>": lambda host: str(host.ok),
    "throttled>": lambda host: str(host.throttled),
    "refused>": lambda host: str(host.refused),
    "silent>": lambda host: str(host.timeouts + host.unreachable),
    "errors>": lambda host: str(host.errors),
}
ERROR_COLUMNS: Mapping[str, Callable[[ObjectView], str]] = {
    "file": lambda obj: obj.path,
    "attempts>": lambda obj: str(obj.failures),
    "code": lambda obj: obj.failure.code if obj.failure else "",
    "reason": lambda obj: obj.failure.text if obj.failure else "",
}


def _command(body: Callable[[RemoteCoordinator, argparse.Namespace], Any]) -> Callable[..., int]:
    """A command that speaks to a coordinator: the configured one, else the one on this machine."""

    def command(options: argparse.Namespace, settings: Settings) -> int:
        async def main() -> int:
            async with connect(settings, default_address=DEFAULT_ADDRESS) as remote:
                return int(await body(remote, options) or ExitCode.OK)

        return run(main())

    return command


def _print(
    options: argparse.Namespace, views: Sequence[T], columns: Mapping[str, Callable[[T], str]], name: str
) -> None:
    if options.json:
        print(json.dumps({name: [to_document(view) for view in views]}, indent=2))
    else:
        print(table(views, columns))


async def _all_jobs(remote: RemoteCoordinator) -> list[JobView]:
    jobs: list[JobView] = []
    while page := await remote.list_jobs(limit=PAGE, after=jobs[-1].job_id if jobs else ""):
        jobs += page
        if len(page) < PAGE:
            break
    return jobs


# ---- status -------------------------------------------------------------------------------------------------------------


async def _status(remote: RemoteCoordinator, options: argparse.Namespace) -> int:
    if options.job:
        return await _job_status(remote, options)
    if not options.watch:
        _show_fleet(options, await remote.fleet(), await _all_jobs(remote))
        return ExitCode.OK
    while True:
        fleet, jobs = await remote.fleet(), await _all_jobs(remote)
        if options.json:
            print(json.dumps({"fleet": to_document(fleet), "jobs": to_document(jobs)}), flush=True)
        else:
            print("\x1b[H\x1b[2J" if sys.stdout.isatty() else "", end="")
            _show_fleet(options, fleet, jobs)
            sys.stdout.flush()
        await asyncio.sleep(WATCH_FLEET_S)


def _show_fleet(options: argparse.Namespace, fleet: FleetView, jobs: Sequence[JobView]) -> None:
    if options.json:
        print(json.dumps({"fleet": to_document(fleet), "jobs": to_document(list(jobs))}, indent=2))
        return
    print(
        f"coordinator {fleet.version}, up {format_duration(fleet.uptime_s)}; "
        f"agents: {fleet.agents_alive} alive, {fleet.agents_late} late, {fleet.agents_lost} lost; "
        f"{fleet.units_leased} leases; {format_rate(fleet.rate_bytes_per_s)}"
    )
    for warning in fleet.warnings:
        print(f"warning: {printable(warning)}")
    if fleet.nas is not None:
        print(f"NAS: {nas_line(fleet.nas)}")
    print()
    print(table([job for job in jobs if not job.ended] or jobs[:10], JOB_COLUMNS))


async def _job_status(remote: RemoteCoordinator, options: argparse.Namespace) -> int:
    if not options.watch:
        job = await remote.get_job(options.job)
        print(json.dumps(to_document(job), indent=2) if options.json else describe(job))
        return ExitCode.OK
    job = await remote.get_job(options.job)
    async for view in watch_patiently(remote, job.job_id):
        job = view
        if options.json:
            print(json.dumps(to_document(job)), flush=True)
        else:
            print(progress_line(job), flush=True)
    if not options.json:
        print(summary_line(job))
    return ExitCode.OK


# ---- lists --------------------------------------------------------------------------------------------------------------


async def _jobs(remote: RemoteCoordinator, options: argparse.Namespace) -> None:
    _print(options, await _all_jobs(remote), JOB_COLUMNS, "jobs")


async def _repos(remote: RemoteCoordinator, options: argparse.Namespace) -> None:
    newest: dict[str, JobView] = {}
    for job in await _all_jobs(remote):
        newest.setdefault(job.uri, job)
    columns: dict[str, Callable[[JobView], str]] = {**JOB_COLUMNS, "source": lambda job: job.uri}
    _print(options, sorted(newest.values(), key=lambda job: job.uri), columns, "repos")


async def _agents(remote: RemoteCoordinator, options: argparse.Namespace) -> None:
    if options.action == "drain":
        if not options.agent:
            raise UsageError("shoal agents drain", cause="no agent was named", remedy="shoal agents lists them")
        await remote.drain_agent(options.agent)
        return
    _print(options, await remote.agents(), AGENT_COLUMNS, "agents")


async def _queue(remote: RemoteCoordinator, options: argparse.Namespace) -> None:
    _print(options, await remote.queue(), QUEUE_COLUMNS, "queue")


async def _hosts(remote: RemoteCoordinator, options: argparse.Namespace) -> None:
    if options.action != "set":
        _print(options, await remote.hosts(), HOST_COLUMNS, "hosts")
        return
    limits = (options.rate, options.bandwidth, options.connections)
    if not options.host or all(limit is None for limit in limits):
        raise UsageError("shoal hosts set", cause="it needs a host and a limit", remedy="shoal hosts set HOST --rate 5")
    before = next(
        (host for host in await remote.hosts() if host.host == options.host.lower()), HostView(host=options.host)
    )
    rate = before.requests_per_s if options.rate is None else _request_rate(options.rate)
    bandwidth = before.bytes_per_s if options.bandwidth is None else float(parse_rate(options.bandwidth))
    connections = before.connections if options.connections is None else _connections(options.connections)
    host = await remote.set_host_policy(options.host, rate, bandwidth, connections)
    _print(options, [host], HOST_COLUMNS, "hosts")


def _connections(text: str) -> int:
    if not text.isdecimal() or int(text) > CONNECTIONS_MAX:
        raise UsageError(
            f"--connections {text}",
            cause=f"it is not a number from 0 to {CONNECTIONS_MAX}",
            remedy="for example --connections 8",
        )
    return int(text)


def _request_rate(text: str) -> float:
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1e6:
        raise UsageError(
            f"--rate {text}", cause="it is not a number of requests per second", remedy="for example --rate 5"
        )
    return rate


async def _errors(remote: RemoteCoordinator, options: argparse.Namespace) -> None:
    job = await remote.get_job(options.job)
    failed: list[ObjectView] = []
    while True:
        after = failed[-1].object_id if failed else 0
        page = await remote.list_objects(job.job_id, status="failed", after_id=after, limit=PAGE)
        failed += page
        if len(page) < PAGE:
            break
    if job.failure and not options.json and not failed:
        print(printable(job.failure.text))
        return
    if (rows := error_lines(job)) and not options.json:
        print("\n".join([f"rows of the errors tables below {printable(job.destination)}:", *rows]))
        if not failed:
            return
    _print(options, failed, ERROR_COLUMNS, "errors")


def _control(action: Control) -> Callable[..., int]:
    async def body(remote: RemoteCoordinator, options: argparse.Namespace) -> None:
        job = await remote.get_job(options.job)
        after = await remote.control(job.job_id, action)
        if options.json:
            print(json.dumps(to_document(after), indent=2))
        else:
            print(f"{after.job_id}  {state(after)}")

    return _command(body)


COMMANDS: dict[str, Callable[[argparse.Namespace, Any], int]] = {
    "status": _command(_status),
    "jobs": _command(_jobs),
    "repos": _command(_repos),
    "agents": _command(_agents),
    "queue": _command(_queue),
    "hosts": _command(_hosts),
    "errors": _command(_errors),
    "pause": _control(Control.PAUSE),
    "resume": _control(Control.RESUME),
    "cancel": _control(Control.CANCEL),
    "retry": _control(Control.RETRY),
}
