"""The signed URLs of a job's objects: asked of the coordinator in batches, kept until shortly before they end.

Whoever needs one first asks, and asks for what waits in line as well: thousands of small objects cost a few questions. The others
wait for that answer. A URL that the store refused is dropped, and the next one to need it asks again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ...common.errors import ProtocolViolation
from ...common.s3_signing import SignedUrl

BATCH_MAX: Final = 256
KEPT_MAX: Final = 2048  # of about 1 KB each
MARGIN_SHARE: Final = 0.1  # of a URL's time is left when it is given up: an answer may begin late
MARGIN_S_MAX: Final = 120.0

Sign = Callable[[str, Sequence[int]], Awaitable[Sequence[SignedUrl]]]
"""(job id, object ids) -> signed URLs."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Signature:
    """A signed URL as it is held here. One that was asked for anew is another Signature."""

    url: str
    until_s: float  # the worker's clock

    def __repr__(self) -> str:
        return f"Signature(until_s={self.until_s:.0f})"


class Signatures:
    """Those of one job. Lives in the event loop."""

    def __init__(
        self, job_id: str, sign: Sign, *, clock: Callable[[], float], waiting: Callable[[], Iterable[int]]
    ) -> None:
        """waiting: the ids of objects that will be asked for soon."""
        self._job_id = job_id
        self._sign = sign
        self._clock = clock
        self._waiting = waiting
        self._kept: OrderedDict[int, Signature] = OrderedDict()
        self._asking = asyncio.Lock()

    async def of(self, object_id: int) -> Signature:
        """The signature of an object that is good now. Raises what the coordinator answers."""
        while (found := self._good(object_id)) is None:
            async with self._asking:
                if self._good(object_id) is None:
                    await self._ask(object_id)
        return found

    def refused(self, object_id: int, signature: Signature) -> None:
        """The store does not take this one."""
        if self._kept.get(object_id) is signature:
            del self._kept[object_id]

    def _good(self, object_id: int) -> Signature | None:
        found = self._kept.get(object_id)
        return found if found is not None and self._clock() < found.until_s else None

    async def _ask(self, object_id: int) -> None:
        others = (other for other in self._waiting() if other != object_id and self._good(other) is None)
        asked = [object_id, *islice(others, BATCH_MAX - 1)]
        began_s = self._clock()
        for signed in await self._sign(self._job_id, asked):
            margin_s = min(MARGIN_S_MAX, MARGIN_SHARE * signed.valid_s)
            self._kept[signed.object_id] = Signature(signed.url, began_s + signed.valid_s - margin_s)
            self._kept.move_to_end(signed.object_id)
        if self._good(object_id) is None:
            raise ProtocolViolation(f"job {self._job_id}", cause="the coordinator did not sign what it was asked to")
        self._kept.move_to_end(object_id)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
