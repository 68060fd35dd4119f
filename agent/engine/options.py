"""What the engine may do and spend, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from ...common.policy import RulesInForce
from .pieces import MIB, PiecePolicy

Backend = Literal["native", "hf_transfer", "hub"]

WHOLE_BYTES_MAX: Final = MIB  # one buffer: a file that fits needs no partial file
REPORT_S: Final = 0.5
TICK_S: Final = 0.25
CHANGES_MAX: Final = 3  # a file that changes more often while it is fetched will not hold still for us
RESOLVES_MAX: Final = 3  # fresh signed URLs that were refused in a row, without one byte between them
ENDPOINT_REST_S: Final = 30.0  # an endpoint that could not be reached is asked last for so long
JOB_IDLE_S: Final = 60.0  # a job without a lease for so long is closed here: it may never be heard of again
OBJECTS_IDLE_MAX: Final = 16  # partial files kept open between two leases of their objects


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """Limits and settings of a worker. Sizes in bytes, rates in bytes/s, times in seconds."""

    agent_id: str
    is_alone: bool = False  # no other agent works on this one's jobs
    root: Path = Path("/")
    allow_paths: tuple[Path, ...] = ()
    lock_expiry_s: float = 90.0  # after so long a silence other runs take over what this one has claimed
    sync: bool = True  # fsync files before they get their final name
    places: Path | None = None  # the library's state folder, where folders that jobs went to are noted
    connections_per_host: int = 16
    rate_limit: float = 0.0  # of the whole agent; 0: none
    memory_limit: int = 64 * MIB  # of all buffers together
    buffer_bytes: int = MIB
    piece_bytes: int | None = None  # a fixed size instead of the adaptive one (fetch.chunk_size)
    transient_retries: int = 8  # failures in a row, without one byte between them, before a lease fails
    backoff_initial_s: float = 0.5
    backoff_max_s: float = 30.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    verify_tls: bool = True
    ca_bundle: Path | None = None
    proxy: str = ""
    rules: RulesInForce = field(default_factory=RulesInForce)  # this agent's own; its coordinator has asked by its
    hub_verify_tls: bool = True
    hub_ca_bundle: Path | None = None
    s3_tls: Mapping[str, tuple[bool, Path | None]] = field(default_factory=dict[str, tuple[bool, Path | None]])
    """Profile in lower case -> whether to check certificates, and by which authorities; others: verify_tls, ca_bundle."""
    user_agent: str = "shoal"
    backend: Backend = "native"
    io_threads: int = 4
    hash_threads: int = 2
    download_slots: int = 16  # chunks that one copy of a replicated job takes at once
    peer_ca_bundle: Path | None = None  # who vouches for peers that speak TLS
    unpack_bytes_max: int = 1 << 40  # of all files of one archive
    unpack_ratio_max: int = 200  # of them over the archive's own size
    unpack_files_max: int = 2_000_000
    pieces: PiecePolicy = field(default_factory=PiecePolicy)

    @property
    def policy(self) -> PiecePolicy:
        """Piece planning with the connections and the piece size that are set here."""
        policy = replace(self.pieces, connections=self.connections_per_host)
        if self.piece_bytes is None:
            return policy
        size = max(1, self.piece_bytes)
        return replace(
            policy, piece_bytes_min=min(policy.piece_bytes_min, size), piece_bytes_max=size, piece_bytes_first=size
        )
