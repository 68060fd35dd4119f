"""Objects that another run is fetching into the same folder: they are waited for, for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from ...common.logs import get_logger
from ..storage.claims import HeldElsewhere

if TYPE_CHECKING:
    from ..storage.destination import Published
    from .holding import Holding

POLL_S: Final = 0.5
WAIT_S: Final = 5.0
"""Then the object goes back to the coordinator, which gives out others before it comes again."""

log = get_logger("agent.engine")


async def claimed(
    holdings: Sequence[Holding],
    ask: Callable[[Sequence[Holding]], Awaitable[Sequence[Published | HeldElsewhere | Exception | None]]],
    settle: Callable[[Holding, Published | Exception | None], None],
    clock: Callable[[], float],
) -> None:
    """Claim the objects of some holdings, and say of each as soon as it is known what came of it.

    ask: `Destination.claim` for each, in a thread. settle hears of each holding that has not ended: what was there, the error (Busy for
    what another run has all the time), or None for what is to be fetched now; once an object is claimed ``Holding.claimed`` is set.
    """
    ends_at = clock() + WAIT_S
    waiting = list(holdings)
    while True:
        answers = await ask(waiting)
        held: list[tuple[Holding, HeldElsewhere]] = []
        for holding, answer in zip(waiting, answers, strict=True):
            if answer is None and holding.ended:
                holding.job.destination.let_go(holding.spec)
            elif holding.ended:
                continue
            elif isinstance(answer, HeldElsewhere):
                held.append((holding, answer))
            else:
                holding.claimed = answer is None
                settle(holding, answer)
        if not held:
            return
        if clock() >= ends_at:
            _tell(held)
            for holding, answer in held:
                settle(holding, answer.error(holding.spec.path))
            return
        await asyncio.sleep(POLL_S)
        waiting = [holding for holding, _ in held if not holding.ended]
        if not waiting:
            return


def _tell(held: Sequence[tuple[Holding, HeldElsewhere]]) -> None:
    for holding, answer in held:
        if answer.by not in holding.job.waited_for:
            holding.job.waited_for.add(answer.by)
            log.warning("job.waits_for_another_run", job=holding.job.spec.job_id, run=answer.by, file=holding.spec.path)
