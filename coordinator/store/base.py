"""The contract of a job store, kept by `MemoryStore` (embedded runs, tests) and `SqliteStore` (the coordinator daemon).

Both are synchronous and are called from one thread at a time. One suite, tests/unit/test_store.py, runs against both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...common.collect_records import HostProfile
from ...common.records import Failure, ObjectSpec, Tally
from ...common.views import ObjectStatus
from ..effects import PutAgent, PutHostPolicy, PutLease, Write
from ..model import JobRow


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectRow:
    """An object as it is stored. After it is done, size, digest and etag are those of the published file."""

    job_id: str
    spec: ObjectSpec
    status: ObjectStatus
    failures: int = 0
    failure: Failure | None = None
    skipped: bool = False
    agent_id: str = ""
    tally: Tally = ()  # of a batch that is done: rows by code


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the order of work (largest first, unknown sizes before all): after this object."""

    weight: int
    object_id: int


class Store(Protocol):
    """Durable facts: jobs, objects, leases, agents, host policies."""

    def open(self, *, begins: bool = True) -> int:
        """Open or create the state, migrate it, and return this run's incarnation: larger than every earlier one, on disk.

        begins=False is for who only reads or writes facts, and speaks to no agent: the incarnation stays the last coordinator's,
        and the next one need not wait for what this one could have granted.

        Raises Busy if another coordinator has it open, StateDamaged if it cannot be read, UsageError if it was written by a newer
        version or lies on a network file system.
        """
        ...

    def close(self) -> None:
        """Close. Everything applied before is on disk."""
        ...

    def apply(self, writes: Sequence[Write]) -> None:
        """Apply all of the writes or, if the process dies on the way, none. On return they survive a kill and a power failure."""
        ...

    def add_objects(self, job_id: str, specs: Sequence[ObjectSpec]) -> None:
        """Add a page of a job's manifest. The object ids in specs count from 1 within the job's listing and are replaced by the
        store's own, which are unique over all jobs. Adding the same (job, path) again replaces it."""
        ...

    def forget_objects(self, job_id: str) -> None:
        """Remove a job's objects: its listing begins anew."""
        ...

    def counts(self, job_id: str) -> tuple[int, int]:
        """Number of objects and sum of their known sizes, in bytes."""
        ...

    def queued_objects(self, job_id: str, after: Cursor | None, limit: int) -> list[tuple[ObjectSpec, int]]:
        """Queued objects with their failures so far, in the order of work, after the cursor."""
        ...

    def list_objects(
        self, job_id: str, *, status: ObjectStatus | None = None, after_id: int = 0, limit: int = 1000
    ) -> list[ObjectRow]:
        """Objects by ascending id, after an id."""
        ...

    def get_object(self, object_id: int) -> ObjectRow | None:
        """One object."""
        ...

    def add_failed_objects(self, job_id: str, refused: Sequence[tuple[str, Failure]]) -> None:
        """Record names that the listing refused (unsafe names), as failed objects."""
        ...

    def jobs(self) -> list[JobRow]:
        """All jobs, oldest first."""
        ...

    def fetched_by(self) -> dict[str, dict[str, int]]:
        """Bytes that came from the origin, by job and agent id; jobs without any are left out."""
        ...

    def leases(self) -> list[PutLease]:
        """Leases in force when the last incarnation ended."""
        ...

    def agents(self) -> list[PutAgent]:
        """All agents ever seen."""
        ...

    def host_policies(self) -> list[PutHostPolicy]:
        """Host limits that an administrator set."""
        ...

    def profiles(self, job_id: str) -> list[HostProfile]:
        """What the hosts of a dataset job were like, by host."""
        ...

    # Credentials: only hashes are stored.

    def put_token(self, token_id: str, *, role: str, name: str, secret_hash: bytes, expires_at: float | None) -> None:
        """Store a credential's hash."""
        ...

    def tokens(self) -> list[TokenRow]:
        """All credentials."""
        ...

    def expire_token(self, token_id: str, expires_at: float) -> None:
        """Let a credential end at this time."""
        ...

    def delete_token(self, token_id: str) -> bool:
        """Revoke a credential. Returns whether it existed."""
        ...

    def revoked_tokens(self) -> list[RevokedRow]:
        """All credentials that were revoked."""
        ...

    def put_identity(self, agent_id: str, credential: str) -> None:
        """Bind an agent's identity to a credential."""
        ...

    def identities(self) -> dict[str, str]:
        """The credential of each agent that was ever bound to one, by agent id."""
        ...

    def snapshot(self, path: Path) -> None:
        """Write a consistent copy of everything into a new file, from which a coordinator can start.

        Raises UsageError for a store that has no file.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRow:
    """A credential, without its secret. Times are seconds since the epoch."""

    token_id: str
    role: str  # "agent" or "admin"
    name: str
    secret_hash: bytes
    created_at: float
    expires_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RevokedRow:
    """What is left of a credential that was revoked. revoked_at: seconds since the epoch."""

    token_id: str
    secret_hash: bytes
    revoked_at: float
