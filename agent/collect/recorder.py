"""Results on their way to a segment: gathered into frames, written by a thread, one frame at a time.

A body's share of the budget is given back when its row is on disk, so what waits here is bounded with all the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from ...common.errors import ShoalError
from ..engine.crew import Crew, Job
from .budget import Share
from .place import Place, disk_errors
from .segments import SUFFIX, Entry, Recorded, Segment, SegmentWriter

FRAME_BYTES: Final = 1 << 20
FRAME_ROWS: Final = 512
FRAME_S: Final = 0.5  # a row waits no longer than this


class Recorder:
    """Records the rows of one run. Lives in the event loop."""

    def __init__(
        self, crew: Crew, place: Place, folder: str, agent: str, *, failed: Callable[[ShoalError], None]
    ) -> None:
        """folder: the batch's staging; failed: hears of a disk that refuses, once."""
        self.recorded = Recorded()
        self._crew = crew
        self._place = place
        self._folder = folder
        self._path = f"{folder}/{agent}-{secrets.token_hex(6)}{SUFFIX}"
        self._failed = failed
        self._writer: SegmentWriter | None = None
        self._entries: list[Entry] = []
        self._shares: list[Share] = []
        self._bytes = 0
        self._writing: Job[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._broken = False

    @property
    def segments(self) -> list[Segment]:
        """What the result is made of, once this is closed: what was there before, and what this run has written."""
        own = [] if self._writer is None else [Segment(self._path, sys.maxsize)]
        return [*self.recorded.segments, *own]

    async def open(self) -> None:
        """Read what earlier runs have recorded. Raises ShoalError."""
        await self._crew.run(self._read).wait()

    def add(self, entry: Entry, share: Share | None) -> None:
        """Record a settled row soon; the share is closed when it is on disk."""
        self.recorded.settled.add(entry.row)
        self.recorded.counts[entry.code] += 1
        self._add(entry, share)

    def note_tries(self, tries: Mapping[int, int]) -> None:
        """How often rows were tried that this run leaves to the next."""
        for row, count in tries.items():
            self._add(Entry(row, 0, count), None)

    async def close(self) -> None:
        """Write what waits, and close the segment. When cancelled, that goes on in its thread."""
        if self._timer is not None:
            self._timer.cancel()
        while self._writing is not None or (self._entries and not self._broken):
            if self._writing is None:
                self._flush()
            if self._writing is not None:
                try:
                    await self._writing.wait()
                except ShoalError:
                    pass  # `failed` has heard of it
        self._release(self._shares)
        if self._writer is not None:
            await self._crew.run(self._writer.close).wait()

    def _add(self, entry: Entry, share: Share | None) -> None:
        self._entries.append(entry)
        self._bytes += entry.bytes
        if share is not None:
            share.shrink(entry.bytes)
            self._shares.append(share)
        if self._bytes >= FRAME_BYTES or len(self._entries) >= FRAME_ROWS:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FRAME_S, self._due)

    def _due(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        if self._writing is not None or self._broken or not self._entries:
            return
        entries, self._entries = self._entries, []
        shares, self._shares = self._shares, []
        self._bytes = 0
        self._writing = self._crew.run(partial(self._write, entries), partial(self._written, shares))

    def _written(self, shares: Sequence[Share], job: Job[None]) -> None:
        self._writing = None
        self._release(shares)
        if job.error is not None:
            self._broken = True
            self._release(self._shares)
            error = job.error
            self._failed(error if isinstance(error, ShoalError) else ShoalError(self._folder, cause=repr(error)))
        elif self._bytes >= FRAME_BYTES:
            self._flush()
        elif self._entries and self._timer is None:
            self._timer = self._loop.call_later(FRAME_S, self._due)

    @staticmethod
    def _release(shares: Sequence[Share]) -> None:
        for share in shares:
            share.close()

    # -- in a thread

    def _read(self) -> None:
        with disk_errors(self._place.label):
            self._place.staging.makedirs_beneath(self._folder)
            self.recorded.read(self._place.staging, self._folder)

    def _write(self, entries: Sequence[Entry]) -> None:
        with disk_errors(self._place.label):
            if self._writer is None:
                self._writer = SegmentWriter(self._place.staging, self._path)
            for entry in entries:
                if entry.image is not None and not entry.original_md5:
                    entry.original_md5 = entry.stored_md5 = hashlib.md5(entry.image, usedforsecurity=False).digest()
            self._writer.append(entries)
