"""One delivery to a fresh fleet, measured from the start of `shoal submit` to the last file of the last agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .measure import RunFailed
from .swarm_fleet import DESTINATION, Fleet, Machine, cpu_s, verify, watch
from .swarm_origin import Origin, Payload

DONE_S = 60.0
HALF_POLL_S = 0.2
SENT_S = 3.0


class Events:
    """What happens half-way: one agent is killed, one joins. The half is that of the first agent's incoming bytes."""

    def __init__(
        self,
        fleet: Fleet,
        folders: dict[str, Path],
        half: Callable[[], bool],
        *,
        kill: str | None,
        join: tuple[str, Machine] | None,
    ) -> None:
        self._fleet = fleet
        self._folders = folders
        self._half = half
        self._kill = kill
        self._join = join
        self._asked_at = 0.0
        self.joined_at: float | None = None
        self.happened = not (kill or join)

    def __call__(self) -> None:
        now = time.perf_counter()
        if now - self._asked_at < HALF_POLL_S:
            return
        self._asked_at = now
        self._fleet.check()
        if self.happened or not self._half():
            return
        self.happened = True
        if self._kill:
            self._fleet.kill(self._kill)
            del self._folders[self._kill]
        if self._join:
            name, machine = self._join
            self._fleet.start_agent(name, machine)
            self._folders[name] = self._fleet.root(name) / DESTINATION
            self.joined_at = now


def deliver(
    timeout_s: float,
    fleet: Fleet,
    machines: Mapping[str, Machine],
    origin: Origin,
    payload: Payload,
    *,
    half: Callable[[], bool],
    kill: str | None,
    join: tuple[str, Machine] | None,
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """One job to a fresh fleet, measured from the start of `shoal submit` to the last file of the last agent; then verified.

    prepare: is called when the fleet stands, just before the clock starts.
    """
    started = time.perf_counter()
    fleet.start_coordinator()
    for name, machine in machines.items():
        fleet.start_agent(name, machine)
    fleet.await_agents(len(machines))
    ready_s = time.perf_counter() - started
    assert origin.pid is not None
    folders = {name: fleet.root(name) / DESTINATION for name in machines}
    events = Events(fleet, folders, half, kill=kill, join=join)
    prepare()
    fleet.begin()
    sent_before, spent = origin.sent(), cpu_s(origin.pid)
    began = time.perf_counter()
    job = fleet.submit(origin.source)
    submitted_s = time.perf_counter() - began
    moments = watch(payload, folders, began=began, timeout_s=timeout_s, tick=events)
    wall_s = max(moments.values())
    costs = fleet.costs()
    origin_cpu_s = cpu_s(origin.pid) - spent
    fleet.await_done(job, DONE_S)
    done_s = time.perf_counter() - began
    sent = settled(origin, sent_before, payload.size)
    if not events.happened:
        raise RunFailed("it was over before the half: nothing was killed, nobody joined")
    for folder in set(folders.values()):
        verify(payload, folder)
    cpu = sum(cost.cpu_s for cost in costs.values())
    figures = {
        "tool": "shoal",
        "agents": len(machines),
        "wall_s": wall_s,
        "submitted_s": submitted_s,
        "done_s": done_s,
        "each_s": moments,
        "joined_s": None if events.joined_at is None else events.joined_at - began,
        "sent_ratio": None if sent is None else sent / payload.size,
        "origin_cpu_s": origin_cpu_s,
        "cpu_s": cpu,
        "whole_s": ready_s + wall_s,
        "whole_cpu_s": fleet.start_cpu_s + cpu,
        "peak_bytes": max(cost.peak_bytes for name, cost in costs.items() if name != "coordinator"),
        "processes": {name: asdict(cost) for name, cost in costs.items()},
    }
    return figures | rates(payload, len(folders), wall_s, cpu)


def rates(payload: Payload, agents: int, wall_s: float, cpu: float) -> dict[str, float]:
    delivered = agents * payload.size
    return {
        "bytes_s": delivered / wall_s,
        "cpu_s_per_gib": cpu / (delivered / 2**30),
        "files_s_per_node": len(payload.files) / wall_s,
    }


def settled(origin: Origin, before: int | None, expected: int) -> int | None:
    """Bytes that the origin has sent. nginx logs an answer when it has ended, which can be after its reader has everything."""
    if before is None:
        return None
    deadline = time.monotonic() + SENT_S
    while (sent := (origin.sent() or 0) - before) < expected and time.monotonic() < deadline:
        time.sleep(HALF_POLL_S)
    return sent
