"""How the copies on a NAS are doing: what agents report of them, and what people are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

NAS_OFF = "off"
"""What a job's `nas` says where nothing of it is to be copied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NasCounts:
    """Files of a job, of an agent or of the fleet. Sizes are bytes."""

    files_copied: int = 0  # verified under their name on the NAS
    bytes_copied: int = 0
    files_there: int = 0  # were there already
    files_waiting: int = 0  # those that are being copied or that failed so far included
    bytes_waiting: int = 0
    files_failing: int = 0  # of those that wait: whose last try failed
    files_refused: int = 0  # cannot be copied, whatever is tried: gone or changed since, or without a safe name
    files_removed: int = 0  # local files that were removed after their copy
    files_to_remove: int = 0  # copied, and to be removed when their job has ended
    reason: str = ""  # why copies fail or do not go on; "" while all is well

    def __add__(self, other: NasCounts) -> NasCounts:
        """Both together; the first reason there is."""
        added = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)[:-1]}
        return NasCounts(**added, reason=self.reason or other.reason)

    @property
    def unfinished(self) -> bool:
        """Whether something is still to be done."""
        return bool(self.files_waiting or self.files_to_remove)


@dataclass(frozen=True, kw_only=True, slots=True)
class NasJob:
    """What one agent has to do with the copies of a job."""

    job_id: str
    counts: NasCounts


@dataclass(frozen=True, kw_only=True, slots=True)
class NasReport:
    """What an agent says of its copies: all it ever did since its queue was empty of old jobs, and the newest jobs."""

    total: NasCounts
    jobs: tuple[NasJob, ...] = ()


def together(counts: Iterable[NasCounts | None]) -> NasCounts | None:
    """The sum; None where nobody says anything."""
    found = [each for each in counts if each is not None]
    return sum(found, NasCounts()) if found else None
