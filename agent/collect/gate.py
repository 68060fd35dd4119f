"""What the pipeline asks of the host budgets: may this host be asked now, and what did it answer.

`agent/throttle.py` is the real one; tests bring their own.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ...common.records import Answer

__all__ = ["Answer", "HostGate"]


class HostGate(Protocol):
    """The budgets of all hosts. A host is a URL's host in lower case, with its port where the URL names one."""

    def request(self, host: str) -> AbstractAsyncContextManager[object]:
        """Entered when one request may be sent to the host, left when its answer has been read."""
        ...

    def seen(
        self,
        host: str,
        kind: Answer,
        *,
        status: int = 0,
        retry_after_s: float | None = None,
        latency_s: float = 0.0,
        crawl_delay_s: float = 0.0,
    ) -> None:
        """What the host answered. retry_after_s: as it asked, None where it did not; latency_s: until the head of the answer came."""
        ...

    def blocked_s(self, host: str, now: float) -> float:
        """For how long the host must still not be asked, seconds."""
        ...
