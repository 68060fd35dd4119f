"""A chunk that is being brought, and what those who bring it share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ...common.errors import ShoalError, TransferError, Truncated
from ...common.records import Failure, Lease, ObjectSpec, UnitKind
from ...common.swarm_records import ORIGIN, FetchOrder, PeerAddress
from ..engine.holding import Holding
from .looking import ChunkHash

if TYPE_CHECKING:
    from .replica import Replica

RESUMED: Final = -1
"""Among a chunk's sources: what an earlier run left on the disk."""
UNKNOWN_STOP: Final = 1 << 62


@dataclass(slots=True, eq=False)
class Errand:
    """A chunk that is being brought, or was."""

    chunk: int
    tasks: list[asyncio.Task[None]] = field(
        default_factory=list[asyncio.Task[None]]
    )  # attempts; all but the last are cancelled
    hash: ChunkHash | None = None
    sources: set[int] = field(default_factory=set[int])
    from_origin: int = 0
    from_peers: int = 0
    etag: str = ""
    arrived: int = 0  # of a bundle

    def fetched(self, count: int) -> None:
        """So many bytes came from the origin."""
        self.from_origin += count
        if count:
            self.sources.add(ORIGIN)


def peer_of(replica: Replica, number: int) -> PeerAddress:
    """The address that the coordinator told. Raises TransferError."""
    peer = replica.peers.get(number)
    if peer is None:
        raise TransferError(f"peer {number}", cause="its address was never told")
    return peer


def expected_digest(replica: Replica, order: FetchOrder) -> bytes:
    """What the chunk must be, by the newest order; empty where nobody knows."""
    newest = replica.book.order(order.chunk)
    return newest.digest if newest is not None and newest.digest else order.digest


def own_lease(replica: Replica, unit: str, kind: UnitKind, spec: ObjectSpec, start: int = 0, stop: int = 0) -> Holding:
    """A lease that this agent grants to itself, for the range engine."""
    token = replica.ref.token
    lease = Lease(unit=unit, token=token, kind=kind, job_id=replica.job_id, object=spec, start=start, stop=stop)
    return Holding(lease, replica.context, replica.deadline)


class Unable(Exception):
    """An object cannot have its name here, as was found before."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class ObjectFailed(Exception):
    """An object of a bundle could not be brought."""

    def __init__(self, object_id: int, error: BaseException) -> None:
        super().__init__(str(error))
        self.object_id = object_id
        self.error = error

    @property
    def is_retryable(self) -> bool:
        return not isinstance(self.error, ShoalError) or self.error.retryable


def cut_short(peer: PeerAddress, left: int) -> Truncated:
    """The peer's answer ended too soon."""
    return Truncated(f"peer {peer.address}", cause=f"its answer ended {left} bytes early")
