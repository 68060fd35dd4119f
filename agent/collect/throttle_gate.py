"""The agent's throttle as the pipeline's gate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from ..throttle import Throttle
from .gate import Answer

DEFAULT_BLOCK_S: Final = 60.0  # after 429 or 503 without Retry-After


class ThrottleGate:
    """A `HostGate` of the budgets that `Throttle` holds."""

    def __init__(self, throttle: Throttle, clock: Callable[[], float]) -> None:
        self._throttle = throttle
        self._clock = clock

    @asynccontextmanager
    async def request(self, host: str) -> AsyncGenerator[None]:
        """Entered when one request may be sent to the host."""
        await self._throttle.request_turn(host)
        yield

    def seen(
        self,
        host: str,
        kind: Answer,
        *,
        status: int = 0,
        retry_after_s: float = 0.0,
        latency_s: float = 0.0,
        crawl_delay_s: float = 0.0,
    ) -> None:
        """What the host answered."""
        if kind is Answer.OK:
            self._throttle.answered(host)
        elif kind is Answer.THROTTLED:
            self._throttle.throttled(host, retry_after_s or DEFAULT_BLOCK_S, self._clock())
        else:
            self._throttle.failed(host)

    def blocked_s(self, host: str, now: float) -> float:
        """For how long the host must still not be asked."""
        return self._throttle.blocked_s(host, now)
