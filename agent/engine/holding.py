"""A lease in this agent's hands, and what is said of it.

======== ============================ ===========================================
state    on                           becomes
======== ============================ ===========================================
held     the last byte is on disk     complete (its task verifies and reports it)
held     an error that stays          complete, with the error
held     stop, lapse, drain           ended: nothing more is reported of it
complete its report                   ended
======== ============================ ===========================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...common.intervals import IntervalSet
from ...common.records import Lease, LeaseRef, ObjectSpec, WorkReport

if TYPE_CHECKING:
    from .jobs import JobContext
    from .lanes import Lane
    from .transfer import Transfer


class Holding:
    """One lease. Lives in the event loop."""

    __slots__ = (
        "_complete", "_deadline", "arrived", "claimed", "committing", "ended", "error", "fetched", "gave_up", "heard", "job", "lane",
        "lease", "ref", "task", "transfer", "unreported", "want",
    )  # fmt: skip

    def __init__(self, lease: Lease, job: JobContext, deadline: Callable[[], float]) -> None:
        self.lease = lease
        self.ref = LeaseRef(lease.unit, lease.token)
        self.job = job
        self._deadline = deadline
        self.lane: Lane | None = None  # where its bytes are fetched, once they are
        self.transfer: Transfer | None = None
        self.task: asyncio.Task[None] | None = None
        self.want = IntervalSet()  # bytes that are not on disk yet
        self.unreported = IntervalSet()  # bytes on disk that no report has named
        self.arrived = 0  # bytes of it that have come, for people
        self.fetched = 0  # bytes taken from the origin since the last report
        self.claimed = False  # no other run fetches the object meanwhile
        self.committing = False  # a thread gives the file its name: too late to turn back
        self.ended = False
        self.error: BaseException | None = None
        self.gave_up: Callable[[BaseException | None], None] | None = (
            None  # hears of the end where no task waits for it
        )
        self.heard: Callable[[WorkReport | BaseException], None] | None = (
            None  # hears what became of a lease that this agent granted to itself
        )
        self._complete: asyncio.Event | None = None

    @property
    def spec(self) -> ObjectSpec:
        """The object. Only for leases that have one."""
        assert self.lease.object is not None
        return self.lease.object

    @property
    def name(self) -> str:
        """For errors and logs."""
        return self.lease.object.path if self.lease.object is not None else f"job {self.lease.job_id}"

    def lapsed(self, now: float) -> bool:
        """Whether the lease is no longer ours: nothing may be written for it."""
        return self.ended or now >= self._deadline()

    def wrote(self, start: int, stop: int) -> None:
        """[start, stop) is on disk, whoever fetched it."""
        for a, b in list(self.want.present(start, stop)):
            self.want.remove(a, b)
            self.unreported.add(a, b)
            self.arrived += b - a

    def take_fetched(self) -> int:
        """Bytes to name in the next report."""
        fetched, self.fetched = self.fetched, 0
        return fetched

    def complete(self, error: BaseException | None = None) -> None:
        """All bytes are there, or never will be: let the lease's task go on. The first word counts."""
        if self.error is None:
            self.error = error
        if self._complete is not None:
            self._complete.set()
        elif self.gave_up is not None:
            self.gave_up(self.error)

    async def completed(self) -> None:
        """Wait for `complete`; raises its error."""
        if self._complete is None:
            self._complete = asyncio.Event()
        if self.error is None:
            await self._complete.wait()
        if self.error is not None:
            raise self.error

    def begin_anew(self) -> None:
        """What was fetched is worthless: forget it, error included."""
        self.want.clear()
        self.unreported.clear()
        self.arrived = 0
        self.error = None
        self._complete = None
