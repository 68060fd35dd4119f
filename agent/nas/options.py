"""What the copies on a NAS may do and spend, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...common.nas_records import NAS_OFF
from ...common.records import JobSpec
from ...common.roots import resolve_destination

BUFFER_BYTES_MIN = 64 << 10
BUFFER_BYTES_MAX = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class NasOptions:
    """Limits and settings of the copies. Sizes in bytes, rates in bytes/s, times in seconds.

    state is this machine's own folder for what is remembered of mounts, and for the queue where there is no other place.
    """

    path: Path | None
    state: Path
    enabled: bool = True
    preserve_structure: bool = True
    delete_after_copy: bool = False
    require_mount: bool = False
    recheck: bool = False
    copies: int = 2
    rate_limit: float = 0.0
    memory_limit: int = 16 << 20
    backoff_initial_s: float = 2.0
    backoff_max_s: float = 300.0
    drain_s: float = 5.0
    stall_s: float = 30.0
    root: Path = Path("/")
    allow_paths: Sequence[Path] = ()

    @property
    def buffer_bytes(self) -> int:
        """The buffer of one copy."""
        return max(BUFFER_BYTES_MIN, min(BUFFER_BYTES_MAX, self.memory_limit // self.threads))

    @property
    def threads(self) -> int:
        """Copies at once: no more than the memory has buffers for."""
        return max(1, min(self.copies, self.memory_limit // BUFFER_BYTES_MIN))

    def folder_for(self, job: JobSpec) -> Path | None:
        """The NAS folder that a job's files go to; None where they go to none. What a job names must be a folder that this agent
        may write to: raises Refused."""
        if not self.enabled or job.nas == NAS_OFF:
            return None
        if job.nas and job.nas != str(self.path):
            return resolve_destination(job.nas, root=self.root, allow=self.allow_paths)
        return self.path
