"""Watching a job across restarts of its coordinator."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, Protocol

from ..common.errors import Unreachable
from ..common.logs import get_logger
from ..common.retry import Backoff
from ..common.views import JobView

RECONNECT_S: Final = 120.0
"""A coordinator that was there and is gone is waited for so long: it may be restarting."""
RECONNECT: Final = Backoff(initial_s=0.5, max_s=5.0)

log = get_logger("client")


class WatchesJobs(Protocol):
    """An embedded coordinator, or one far away."""

    def watch_job(self, job_id: str) -> AsyncIterator[JobView]: ...


async def watch_patiently(
    coordinator: WatchesJobs, job_id: str, *, patience_s: float = RECONNECT_S
) -> AsyncGenerator[JobView]:
    """The job now and at every change until it has ended, across restarts of the coordinator.

    Raises: Unreachable at once if it was never there, or after patience_s; NotFound.
    """
    loop, rng = asyncio.get_running_loop(), random.Random()
    failures, heard_at = 0, float("-inf")
    while True:
        try:
            async for view in coordinator.watch_job(job_id):
                failures, heard_at = 0, loop.time()
                yield view
            return
        except Unreachable as error:
            if loop.time() - heard_at >= patience_s:
                raise
            if not failures:
                log.warning("coordinator.waited_for", job=job_id, seconds=patience_s, error=str(error))
        failures += 1
        await asyncio.sleep(RECONNECT.delay_s(failures, rng, at_least_s=RECONNECT.initial_s))
