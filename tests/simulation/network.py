"""Connections between agents and the coordinator: ordered each way, slow, breaking, and losing what was in flight."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.common.records import AgentMessage, CoordinatorMessage

from .clock import Clock

UpMessage = Callable[["Link", AgentMessage], None]
DownMessage = Callable[["Link", CoordinatorMessage], None]
Event = Callable[["Link"], None]


@dataclass(slots=True)
class NetworkLimits:
    """How long things take, in seconds."""

    delay_s: float = 0.002
    jitter_s: float = 0.0  # longest addition to a delay
    lost_after_s: float = 0.2  # until an end notices that the other is gone, at most


@dataclass(slots=True)
class _Way:
    """One direction of a connection."""

    last: float = 0.0  # when the last message arrives
    under_way: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque[tuple[float, Callable[[], None]]])


class Link:
    """One session's connection. A stream is ordered; between streams nothing is."""

    def __init__(self, network: Network, agent_id: str, up: UpMessage, down: DownMessage, lost: Event, closed: Event):
        self.agent_id = agent_id
        self.alive = True
        self._network = network
        self._up, self._down, self._lost, self._closed = up, down, lost, closed
        self._ways = (_Way(), _Way())

    def send_up(self, message: AgentMessage) -> None:
        """From the agent to the coordinator."""
        self._send(self._ways[0], lambda: self._up(self, message))

    def send_down(self, message: CoordinatorMessage) -> None:
        """From the coordinator to the agent."""
        self._send(self._ways[1], lambda: self._down(self, message))

    def _send(self, way: _Way, action: Callable[[], None]) -> None:
        if not self.alive:
            return
        network = self._network

        def arrive() -> None:
            if not self.alive:
                return
            until = network.partitioned_until(self.agent_id)
            if until > network.clock.now:  # the sender's kernel sends again until it gets through
                network.clock.at(until, arrive)
                return
            while self.alive and way.under_way and way.under_way[0][0] <= network.clock.now:
                way.under_way.popleft()[1]()

        way.last = max(way.last, network.arrival())
        way.under_way.append((way.last, action))
        network.clock.at(way.last, arrive)

    def cut(self) -> None:
        """The connection breaks: what was in flight is lost, and both ends notice sooner or later."""
        if not self.alive:
            return
        self.alive = False
        network = self._network
        network.clock.after(network.notice_s(), lambda: self._lost(self))
        network.clock.after(network.notice_s(), lambda: self._closed(self))


class Network:
    """Makes connections and keeps them late."""

    def __init__(self, clock: Clock, rng: random.Random, limits: NetworkLimits) -> None:
        self.clock = clock
        self.limits = limits
        self._rng = rng
        self._partitions: dict[str, float] = {}

    def arrival(self) -> float:
        """When a message that is sent now arrives."""
        return self.clock.now + self.limits.delay_s + self._rng.random() * self.limits.jitter_s

    def notice_s(self) -> float:
        """How long an end takes to notice that the connection broke."""
        return self._rng.random() * self.limits.lost_after_s

    def partition(self, agent_id: str, until: float) -> None:
        """Nothing passes between an agent and the coordinator until then."""
        self._partitions[agent_id] = until

    def partitioned_until(self, agent_id: str) -> float:
        """When the agent can be reached again; 0 if it can."""
        return self._partitions.get(agent_id, 0.0)

    def heal(self) -> None:
        """End all partitions."""
        self._partitions.clear()
