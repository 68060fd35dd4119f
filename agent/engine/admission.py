"""WHOLE leases at the door: what is on the disk already is looked for many objects at a time, the rest is fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from ...common.records import ObjectSpec, WorkReport
from .crew import Crew
from .elsewhere import claimed
from .holding import Holding
from .jobs import JobContext
from .units import Units

if TYPE_CHECKING:
    from ..storage.claims import HeldElsewhere
    from ..storage.destination import Destination, Published

_LOOK_BATCH: Final = (
    32  # objects that one thread looks for in one go: a hop between threads costs as much as some looks
)


class Admission:
    """Collects the WHOLE leases of one turn of the loop."""

    def __init__(
        self,
        *,
        disk: Crew,
        tasks: asyncio.TaskGroup,
        units: Units,
        begin: Callable[[Holding], None],
        finished: Callable[[Holding, WorkReport | BaseException], None],
        clock: Callable[[], float],
    ) -> None:
        """begin: works on a large object in a task of its own; finished: hears of those that end here."""
        self._disk = disk
        self._tasks = tasks
        self._units = units
        self._begin = begin
        self._finished = finished
        self._clock = clock
        self._arrivals: list[Holding] = []

    def add(self, holding: Holding) -> None:
        """Look for the lease's object soon, together with the others that arrive now. Never blocks."""
        if not self._arrivals:
            asyncio.get_running_loop().call_soon(self._admit)
        self._arrivals.append(holding)

    def _admit(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        by_job: dict[JobContext, list[Holding]] = {}
        for holding in arrivals:
            if not holding.ended:
                by_job.setdefault(holding.job, []).append(holding)
        for job, holdings in by_job.items():
            for at in range(0, len(holdings), _LOOK_BATCH):
                self._tasks.create_task(self._look(job, holdings[at : at + _LOOK_BATCH]), name="shoal-look")

    async def _look(self, job: JobContext, batch: list[Holding]) -> None:
        try:
            await job.check_shared()
            await claimed(batch, partial(self._claim, job), self._settle, self._clock)
        except Exception as error:
            for holding in batch:
                self._finished(holding, error)

    async def _claim(
        self, job: JobContext, batch: Sequence[Holding]
    ) -> Sequence[Published | HeldElsewhere | Exception | None]:
        return await self._disk.run(partial(_claim, job.destination, [holding.spec for holding in batch])).wait()

    def _settle(self, holding: Holding, found: Published | Exception | None) -> None:
        if isinstance(found, Exception):
            self._finished(holding, found)
        elif found is not None:
            self._finished(holding, self._units.done(holding, found, ""))
        elif self._units.is_small(holding.spec):
            self._units.fetch_small(holding)
        else:
            self._begin(holding)


def _claim(destination: Destination, specs: Iterable[ObjectSpec]) -> list[Published | HeldElsewhere | Exception | None]:
    found: list[Published | HeldElsewhere | Exception | None] = []
    for spec in specs:
        try:
            found.append(destination.claim(spec))
        except Exception as error:
            found.append(error)
    return found
