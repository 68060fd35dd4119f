"""How a replicated job's objects are cut into chunks: the table that the coordinator and every agent make for themselves.

Objects are taken by ascending id. A small one travels whole, together with others, in a *bundle*; a larger one is cut into *parts* of
equal size. Bundles come first in the numbering, so that the many renames of small files overlap with the long transfer of large ones.

The chunk size follows from the bound for M equal parts, (F/u)·(1 + ⌊log₂ N⌋/M) (Mundinger, Weber, Weiss, 2008, arXiv cs/0606110): with
`PARTS_PER_HOP` parts for each of the ⌊log₂ N⌋ hops the tail is under two per cent. More parts only cost: each is a request, a report, a
decision.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

KIB = 1 << 10
MIB = 1 << 20

PARTS_PER_HOP = 64
"""Parts of the largest object for each ⌊log₂ N⌋ of N agents: a tail of 1.6 %; cut-through makes it less."""
PARTS_MAX = 256
"""With 10,000 agents the tail is then 5 %, without cut-through."""
CHUNK_BYTES_MIN = MIB
CHUNK_BYTES_MAX = 64 * MIB
DECISIONS_MAX = 2_000_000
"""Chunks times agents that one coordinator should have to decide on: larger fleets get larger chunks."""
CHUNK_BYTES_HUGE = 512 * MIB
"""The most that `DECISIONS_MAX` may ask for."""
BUNDLE_BYTES_MAX = MIB
"""A bundle goes through one buffer in memory."""
SMALL_BYTES_MAX = 256 * KIB
BUNDLE_OBJECTS_MAX = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkSizes:
    """How objects are cut; sizes in bytes."""

    chunk_bytes: int
    small_bytes_max: int = SMALL_BYTES_MAX
    bundle_bytes_max: int = BUNDLE_BYTES_MAX
    bundle_objects_max: int = BUNDLE_OBJECTS_MAX


def choose_sizes(*, largest: int, total: int, agents: int, fixed: int | None = None) -> ChunkSizes:
    """The sizes for a job: bytes of its largest object and of all of them, agents that will hold it, a configured chunk size."""
    if fixed is not None:
        return ChunkSizes(chunk_bytes=max(CHUNK_BYTES_MIN, fixed))
    parts = min(PARTS_MAX, PARTS_PER_HOP * max(1, agents.bit_length() - 1))
    wanted = min(CHUNK_BYTES_MAX, max(CHUNK_BYTES_MIN, largest // parts))
    affordable = total * max(1, agents) // DECISIONS_MAX
    chunk_bytes = max(wanted, min(CHUNK_BYTES_HUGE, affordable))
    return ChunkSizes(chunk_bytes=-(-chunk_bytes // MIB) * MIB)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [start, stop) of the object at a position of the table. stop is None while the object's size is not known."""

    position: int
    start: int
    stop: int | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """Whole small objects, by their positions in the table."""

    positions: tuple[int, ...]


class ChunkTable:
    """The chunks of a job. Positions count its objects, by ascending id, from 0."""

    def __init__(self, object_ids: Sequence[int], sizes: Sequence[int | None], plan: ChunkSizes) -> None:
        """object_ids ascend; sizes in bytes, None where the origin does not say. Raises ValueError for lists that do not fit."""
        if len(object_ids) != len(sizes) or any(a >= b for a, b in pairwise(object_ids)):
            raise ValueError("object ids must ascend, with a size each")
        self.plan = plan
        self.object_ids = array("q", object_ids)
        self._sizes = array("q", (-1 if size is None else size for size in sizes))
        self._bundled = array("q")  # positions of small objects
        self._bundle_first = array("q")  # index in _bundled at which each bundle begins
        self._large = array("q")  # positions of the others
        self._large_first = array("q")  # number of the first chunk of each
        self._bundle_of = array("q")  # chunk of each small object, in the order of _bundled
        self._make()

    def _make(self) -> None:
        plan = self.plan
        in_bundle = held_bytes = 0
        for position, size in enumerate(self._sizes):
            if not 0 <= size <= min(plan.small_bytes_max, plan.bundle_bytes_max):
                self._large.append(position)
                continue
            full = in_bundle == plan.bundle_objects_max or held_bytes + size > plan.bundle_bytes_max
            if full or not self._bundled:
                self._bundle_first.append(len(self._bundled))
                in_bundle = held_bytes = 0
            self._bundle_of.append(len(self._bundle_first) - 1)
            self._bundled.append(position)
            in_bundle, held_bytes = in_bundle + 1, held_bytes + size
        count = len(self._bundle_first)
        for position in self._large:
            self._large_first.append(count)
            count += max(1, -(-self._sizes[position] // plan.chunk_bytes))
        self.chunks = count

    def __len__(self) -> int:
        return self.chunks

    @property
    def bundles(self) -> int:
        """How many chunks, the first ones, are bundles."""
        return len(self._bundle_first)

    @property
    def large(self) -> Sequence[int]:
        """Positions of the objects that are not bundled."""
        return self._large

    def chunk(self, number: int) -> Part | Bundle:
        """What a chunk is. Raises IndexError."""
        if not 0 <= number < self.chunks:
            raise IndexError(number)
        if number < self.bundles:
            last = self._bundle_first[number + 1] if number + 1 < self.bundles else len(self._bundled)
            return Bundle(tuple(self._bundled[self._bundle_first[number] : last]))
        at = bisect_right(self._large_first, number) - 1
        position = self._large[at]
        size = self._sizes[position]
        if len(self.chunks_of(position)) == 1:  # also where the size became known later, whatever it is
            return Part(position, 0, None if size < 0 else size)
        start = (number - self._large_first[at]) * self.plan.chunk_bytes
        return Part(position, start, min(size, start + self.plan.chunk_bytes))

    def chunks_of(self, position: int) -> range:
        """The chunks that hold the object, or it and others."""
        at = bisect_right(self._large, position) - 1
        if at >= 0 and self._large[at] == position:
            stop = self._large_first[at + 1] if at + 1 < len(self._large) else self.chunks
            return range(self._large_first[at], stop)
        bundle = self._bundle_of[bisect_right(self._bundled, position) - 1]
        return range(bundle, bundle + 1)

    def position(self, object_id: int) -> int | None:
        """Where the object is in the table; None when it is not of this job."""
        at = bisect_right(self.object_ids, object_id) - 1
        return at if at >= 0 and self.object_ids[at] == object_id else None

    def size(self, position: int) -> int | None:
        """Bytes of an object; None when not known."""
        size = self._sizes[position]
        return None if size < 0 else size

    def chunk_bytes(self, number: int) -> int:
        """Bytes of a chunk; of an object of unknown size a guess, that of a full chunk."""
        chunk = self.chunk(number)
        if isinstance(chunk, Bundle):
            return sum(self._sizes[position] for position in chunk.positions)
        return self.plan.chunk_bytes if chunk.stop is None else chunk.stop - chunk.start

    def learn_size(self, position: int, size: int) -> None:
        """The size of an object that the origin had not told; it stays one chunk. Raises ValueError if it was known to be another."""
        if self._sizes[position] not in (-1, size) or size < 0:
            raise ValueError(f"object {self.object_ids[position]} has {self._sizes[position]} bytes, not {size}")
        self._sizes[position] = size

    def forget_size(self, position: int) -> None:
        """What was learnt of the object's size is of a version that is gone."""
        self._sizes[position] = -1
