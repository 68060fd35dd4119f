"""What agents need to trust each other: a key for each holder, and capabilities signed with it.

The core names a holder where a capability belongs; here, at the edge, it becomes a signed one. Each agent's key is made of a secret
that this process drew when it began, so capabilities of an earlier incarnation are worth nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from ..common.capability import Capability, holder_key, issue
from ..common.records import CoordinatorMessage, Welcome
from ..common.swarm_records import PeerAddress, SwarmOrders
from .model import JobState

CAPABILITY_LIFE_S = 3600.0
"""Long against the difference of two machines' clocks, short against the life of a fleet."""
CAPABILITY_FRESH_S = 600.0
"""Of one capability's life, how long it is handed out before a new one is made."""


class Peering:
    """Keys and capabilities."""

    def __init__(self, jobs: Mapping[str, JobState], wall_clock: Callable[[], float]) -> None:
        self._jobs = jobs
        self._wall_clock = wall_clock
        self._master = secrets.token_bytes(32)
        self._issued: dict[tuple[str, str], tuple[float, str]] = {}  # (job, holder) -> (when, capability)

    def complete(self, agent_id: str, message: CoordinatorMessage) -> CoordinatorMessage:
        """The message with the secrets that its addressee is to have."""
        if isinstance(message, Welcome):
            return replace(message, peer_key=self._key(agent_id), epoch_s=self._wall_clock())
        if isinstance(message, SwarmOrders) and message.peers:
            return replace(message, peers=tuple(self._signed(message.job_id, peer) for peer in message.peers))
        return message

    def forget(self, job_id: str) -> None:
        """The job ended."""
        for key in [key for key in self._issued if key[0] == job_id]:
            del self._issued[key]

    def _key(self, agent_id: str) -> bytes:
        return holder_key(self._master, agent_id, "")

    def _signed(self, job_id: str, peer: PeerAddress) -> PeerAddress:
        holder, now = peer.capability, self._wall_clock()
        issued_at, capability = self._issued.get((job_id, holder), (float("-inf"), ""))
        if now - issued_at > CAPABILITY_FRESH_S:
            first, last = self._objects(job_id)
            claims = Capability(
                job_id=job_id, first_object=first, last_object=last, holder=holder, expires_at=now + CAPABILITY_LIFE_S
            )
            capability = issue(self._key(holder), claims)
            self._issued[job_id, holder] = now, capability
        return replace(peer, capability=capability)

    def _objects(self, job_id: str) -> tuple[int, int]:
        replication = self._jobs[job_id].replication
        assert replication is not None and replication.swarm is not None
        ids = replication.swarm.table.object_ids
        return ids[0], ids[-1]
