"""The core's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from .scheduler.spread import SpreadLimits
from .scheduler.swarm import SwarmLimits

RECONNECT_GRACE_S = 5.0
"""An agent whose session broke keeps its leases so long, to come back; then others take over."""


SHARE_BEATS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreLimits:
    """The core's settings."""

    lease_ttl_s: float = 30.0
    heartbeat_s: float = 5.0
    attempts: int = 3
    spread: SpreadLimits = field(default_factory=SpreadLimits)
    swarm: SwarmLimits = field(default_factory=SwarmLimits)

    @property
    def share_s(self) -> float:
        """How long a share of a host's budget holds after its agent's word: some heartbeats may be late, but none outlives a lease."""
        return min(self.lease_ttl_s, SHARE_BEATS * self.heartbeat_s)
