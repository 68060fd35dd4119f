"""Leases of an earlier incarnation, as the store has them, come into force again."""

from __future__ import annotations

from .effects import PutLease
from .leases import HeldLease


def held_again(row: PutLease, *, now: float, ttl_s: float) -> HeldLease:
    """A stored lease with a fresh deadline: its agent may have worked through the coordinator's absence."""
    held = HeldLease(
        unit=row.unit,
        token=row.token,
        agent_id=row.agent_id,
        kind=row.kind,
        job_id=row.job_id,
        object_id=row.object_id,
        start=row.start,
        stop=row.stop,
        weight=0,
        granted_at=now,
        deadline=now + ttl_s,
    )
    if row.stop > row.start:
        held.left.add(row.start, row.stop)
    return held
