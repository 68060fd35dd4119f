"""What coordinator and agents say of a swarm: the agents of one replicated job and the chunks that each of them holds.

Chunks are numbered from 0 by the table that both sides make (`chunks.py`). Sizes are bytes; digests of chunks are BLAKE3, 32 bytes.
Nothing of this is stored: after a session broke, or either side was restarted, an agent's inventory says it all again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .records import Failure

ORIGIN = 0
"""The number of a source that is no peer."""
MIXED = -1
"""In place of a source: the bytes are of several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerOffer:
    """How an agent can be asked for chunks, in its Hello. An empty address: it only takes."""

    address: str = ""  # HOST:PORT
    upload_slots: int = 0  # chunks that it sends at once
    download_slots: int = 0  # chunks that it takes at once
    tls: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerAddress:
    """Where a peer is and the right to ask it, under the number that orders and reports name it by."""

    number: int  # from 1 on; 0 stands for the origin
    address: str
    capability: str = field(repr=False)  # a secret
    tls: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchOrder:
    """Bring a chunk. digest is empty where nobody has all of it yet; size None where the table knows it."""

    chunk: int
    peer: int = ORIGIN
    digest: bytes = b""
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishOrder:
    """Every chunk of the object is right: give it its name. digest is that of the whole, as one agent computed it."""

    object_id: int
    digest: str
    etag: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmOrders:
    """What the swarm wants of one agent. Earlier orders stay in force."""

    job_id: str
    token: int  # of the agent's lease on its copy
    peers: tuple[PeerAddress, ...] = ()
    fetch: tuple[FetchOrder, ...] = ()  # a chunk that is under way already goes on from the new source
    drop: tuple[int, ...] = ()  # chunks that are not right: forget what is there of them
    vouch: tuple[int, ...] = ()  # object ids: compute the digest when the object is whole
    publish: tuple[PublishOrder, ...] = ()
    reset: tuple[int, ...] = ()  # object ids: changed at the origin or failed verification, forget all of them
    give_up: tuple[int, ...] = ()  # object ids: failed for good, the copy is complete without them
    ended: bool = False  # everywhere: nothing more will be asked for
    seq: int = 0  # numbers the orders of a lease to its holder, from 1 on
    lives: tuple[int, ...] = ()  # `ObjectSpec.life` of those of reset from now on, in their order


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkDigest:
    """A chunk's BLAKE3 digest."""

    chunk: int
    digest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmInventory:
    """What an agent holds of a job, all of it. have is a set of chunk numbers as bits, the lowest first."""

    job_id: str
    token: int
    chunks: int  # length of the agent's table: it must be the coordinator's
    have: bytes = b""
    published: tuple[int, ...] = ()  # object ids of large objects that have their name
    digests: tuple[ChunkDigest, ...] = ()  # of chunks of objects that do not
    lives: tuple[int, ...] = ()  # that it is of, by large object in the table's order; empty: all are of life 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A chunk is on the agent's disk."""

    chunk: int
    digest: bytes
    peer: int = ORIGIN  # whose bytes they are; MIXED where they are not of one alone
    from_origin: int = 0  # bytes taken from the origin for it
    from_peers: int = 0  # bytes taken from peers for it
    etag: str = ""  # the origin's validator
    size: int | None = None  # of an object whose size was not known


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchFailure:
    """A chunk could not be brought from where it was ordered from. What came of it stays."""

    chunk: int
    peer: int
    failure: Failure
    object_id: int = 0  # of a bundle: the object that failed; 0 where it is not one alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Vouch:
    """What became of an object's digest. No failure: it is the publisher's, or the publisher names none."""

    object_id: int
    digest: str
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkProgress:
    """How far a chunk is that is under way."""

    chunk: int
    arrived: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmReport:
    """What happened to an agent's copy since it last said so."""

    job_id: str
    token: int
    arrived: tuple[Arrival, ...] = ()
    failed: tuple[FetchFailure, ...] = ()
    lost: tuple[int, ...] = ()  # chunks that were there and are not any more
    vouched: tuple[Vouch, ...] = ()
    published: tuple[int, ...] = ()  # object ids of large objects that have their name now
    progress: tuple[ChunkProgress, ...] = ()
    seen: int = (
        0  # seq of the orders that it was written after: what it says of an object that was reset later is of no use
    )
