"""The connections to one origin, and the tasks that keep them busy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from ...common.intervals import Interval
from .pieces import Piece, PiecePlanner, PiecePolicy

if TYPE_CHECKING:
    from .holding import Holding
    from .transfer import Transfer


class Lane:
    """At most ``planner.concurrency.limit`` streams; each takes piece after piece and ends when there is nothing for it to do."""

    def __init__(
        self,
        policy: PiecePolicy,
        *,
        tasks: asyncio.TaskGroup,
        clock: Callable[[], float],
        fetch: Callable[[Piece], Awaitable[None]],
    ) -> None:
        """fetch: brings a piece, or says to its lease why not; raises nothing but CancelledError."""
        self.planner = PiecePlanner(policy)
        self._tasks = tasks
        self._clock = clock
        self._fetch = fetch
        self._streams = 0
        self._fetching: dict[Piece, asyncio.Task[None]] = {}
        self._closed = False

    def add(
        self, holding: Holding, group: Transfer | Holding, intervals: Iterable[Interval], *, undivided: bool = False
    ) -> None:
        """Fetch these bytes for the lease."""
        holding.lane = self
        self.planner.set_outlook(holding.lease.job_id, holding.lease.remaining)
        self.planner.add(holding, group, intervals, undivided=undivided)
        self.kick()

    def remove(self, holding: Holding, *, spare: Piece | None = None) -> None:
        """Fetch nothing more for the lease; connections that are at it are dropped, but for that of the piece that asks.

        A stream that brings a whole rangeless body goes on for the next lease that wants some of it.
        """
        transfer = holding.transfer
        sweeper = transfer.sweeper if transfer is not None else None
        if transfer is not None and sweeper is not None and sweeper.work.key is holding and spare is None:
            heir = next((other for other in transfer.holdings if other is not holding and other.want), None)
            if heir is not None and heir.lane is self:
                self.planner.hand_over(sweeper, heir)
        for piece in self.planner.remove(holding):
            if piece is not spare:
                self._drop(piece)

    def kick(self) -> None:
        """Start streams for what can be fetched now."""
        while (
            not self._closed and self._streams < self.planner.concurrency.limit and self.planner.has_work(self._clock())
        ):
            self._streams += 1
            piece = self.planner.take(self._clock())
            self._tasks.create_task(self._stream(piece), name="shoal-stream")

    def drop_stalled(self) -> None:
        """Take pieces from connections that are far slower than the others; fresh ones go on with them."""
        for piece in self.planner.stalled(self._clock()):
            self._drop(piece)

    def close(self) -> None:
        """Drop every connection and start none any more."""
        self._closed = True
        for piece in list(self._fetching):
            self._drop(piece)

    def _drop(self, piece: Piece) -> None:
        task = self._fetching.get(piece)
        if task is not None:
            task.cancel()

    async def _stream(self, piece: Piece | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while piece is not None:
                self._fetching[piece] = task
                try:
                    await self._fetch(piece)
                finally:
                    del self._fetching[piece]
                    self.planner.finish(piece, self._clock())
                if piece.left:
                    await asyncio.sleep(0)  # whatever came of it, the others get their turn before it is tried again
                leave = self._closed or self._streams > self.planner.concurrency.limit
                piece = None if leave else self.planner.take(self._clock())
        finally:
            self._streams -= 1
            self.kick()
