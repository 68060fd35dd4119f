"""How much a user has asked for, and whether that is within the quota. No I/O: `now` is given.

What counts is what jobs ask for, by the time that they were submitted: the jobs in the store are the account, so it survives
every restart. Bytes of a job count as soon as its source is listed; of an object without a known size when it has come. A job
that was refused, or whose source could not be listed, counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..common.errors import OverQuota
from ..common.policy import Policy
from ..common.units import format_duration, format_size
from .model import JobRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotas:
    """Limits of each user in a moving period of so many seconds; 0 is no limit."""

    bytes: int = 0
    jobs: int = 0
    period_s: float = 86_400.0

    def check_jobs(self, user: str, jobs: Iterable[JobRow], now: float, *, more: int) -> None:
        """Raise OverQuota when a user may not submit so many more jobs. jobs: all there are; now: seconds since the epoch."""
        if not self.jobs or not more:
            return
        used = sum(1 for _ in self._counted(user, jobs, now))
        if used + more > self.jobs:
            raise self._over(user, f"{used} jobs were submitted, {more} more are asked for, {self.jobs} are allowed")

    def check_bytes(self, user: str, jobs: Iterable[JobRow], now: float, *, more: int) -> None:
        """Raise OverQuota when a job of so many bytes is more than the user may fetch. jobs: all others."""
        if not self.bytes:
            return
        used = sum(job.bytes_total for job in self._counted(user, jobs, now))
        if used + more > self.bytes:
            raise self._over(
                user,
                f"{format_size(used)} were asked for, this are {format_size(more)} more, {format_size(self.bytes)} are allowed",
            )

    def _counted(self, user: str, jobs: Iterable[JobRow], now: float) -> Iterable[JobRow]:
        return (
            job
            for job in jobs
            if job.user == user
            and job.created_at > now - self.period_s
            and (job.spec is not None or not job.status.ended)
        )

    def _over(self, user: str, cause: str) -> OverQuota:
        period = format_duration(self.period_s)
        return OverQuota(
            f"quota of {user}",
            cause=f"in the last {period} {cause}",
            remedy="try again later, or ask whoever set the quota",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteRules:
    """What may be fetched, and how much of it."""

    policy: Policy = field(default_factory=Policy)
    quotas: Quotas = field(default_factory=Quotas)
    user: str = ""  # who submits what comes without a name
