"""One job for a person, as ``shoal status JOB`` shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..common.units import format_duration, format_size
from ..common.views import JobAgentView, JobView, ReplicaView
from .copies import nas_line
from .output import error_lines, moment, percent, printable, speed_of, state, table

REPLICA_COLUMNS: Mapping[str, Callable[[ReplicaView], str]] = {
    "agent": lambda replica: replica.name,
    "copy": lambda replica: replica.status.value,
    "bytes>": lambda replica: format_size(replica.bytes_done),
    "from origin>": lambda replica: format_size(replica.from_origin),
    "from peers>": lambda replica: format_size(replica.from_peers),
    "failure": lambda replica: replica.failure.text if replica.failure else "",
}

AGENTS_SHOWN = 10
"""Agents of a job that are named with what they brought; ``--json`` has more."""


def describe(job: JobView) -> str:
    """One job for a person: its facts, its failure, the files in work with their chunk maps, what each agent has or brought."""
    from_peers = f", {format_size(job.bytes_from_peers)} from peers" if job.bytes_from_peers else ""
    lines = [
        f"job          {job.job_id}" + (f" ({printable(job.name)})" if job.name else ""),
        f"source       {printable(job.uri)}" + (f" at {job.commit}" if job.commit else ""),
        f"destination  {printable(job.destination) or 'the Hub cache'}",
        f"state        {state(job)}, priority {job.priority}",
        f"{'batches' if job.rows_total else 'files  '}      {job.objects_done} of {job.objects_total} done "
        f"({job.objects_skipped} were there), {job.objects_failed} failed",
        f"rows         {job.rows_done:,} of {job.rows_total:,} ({percent(job)}), {job.rows_rejected:,} rejected"
        if job.rows_total
        else f"bytes        {format_size(job.bytes_arrived)} of {format_size(job.bytes_total)} ({percent(job)})"
        f", {format_size(job.bytes_fetched)} from the origin{from_peers}",
        f"submitted    {moment(job.created_at)}" + (f", ended {moment(job.ended_at)}" if job.ended_at else ""),
    ]
    if speed := speed_of(job):
        left = "" if job.eta_s is None else f", {format_duration(job.eta_s)} left"
        lines.append(f"speed        {speed}{left}")
    lines += error_lines(job)
    if job.nas is not None:
        lines.append(f"NAS          {nas_line(job.nas)}")
    if job.failure:
        lines.append(f"failure      {printable(job.failure.text)}")
    for obj in job.active:
        share = f"{100 * obj.done_bytes // obj.size:3d}%" if obj.size else "  ?%"
        agents = ", ".join(obj.agents) or "nobody"
        lines.append(
            f"  {share} {chunk_map(obj.done, obj.size)} {obj.phase.value:9} {printable(obj.path)} ({printable(agents)})"
        )
    if job.replicas:
        lines += ["", table(job.replicas, REPLICA_COLUMNS)]
    if job.agents:
        lines += ["", *_agent_lines(job)]
    return "\n".join(lines)


def _agent_lines(job: JobView) -> list[str]:
    """Who brought how much of the job."""
    columns: Mapping[str, Callable[[JobAgentView], str]] = {
        "agent": lambda agent: agent.name,
        "from origin>": lambda agent: format_size(agent.from_origin),
        "share>": lambda agent: f"{100 * agent.from_origin // max(1, job.bytes_fetched)}%",
    }
    more = max(0, len(job.agents) - AGENTS_SHOWN) + job.agents_more
    return [table(job.agents[:AGENTS_SHOWN], columns)] + ([f"and {more} more"] if more else [])


def chunk_map(done: Sequence[tuple[int, int]], size: int | None, width: int = 24) -> str:
    """Which parts of a file are on disk: ``#`` all of the cell, ``+`` some of it, ``.`` none."""
    if not size:
        return "." * width
    cells = [0] * width
    for start, stop in done:
        for i in range(start * width // size, min(width, -(-stop * width // size))):
            low, high = i * size // width, (i + 1) * size // width
            cells[i] += max(0, min(stop, high) - max(start, low))
    full = [(i + 1) * size // width - i * size // width for i in range(width)]
    return "".join("#" if have >= want > 0 else "+" if have else "." for have, want in zip(cells, full, strict=True))
