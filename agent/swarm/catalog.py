"""The objects of a replicated job in memory: a million of them must fit, and only a few are at work at a time.

Descriptions are kept in compressed blocks; the blocks used last are kept open.
"""

from __future__ import annotations

import marshal
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...common.chunks import ChunkSizes, ChunkTable
from ...common.records import ObjectSpec

BLOCK_OBJECTS = 64
BLOCKS_OPEN_MAX = 32


class Catalog:
    """Descriptions by position, as `ChunkTable` counts them. Used from one thread."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._sizes: list[int | None] = []
        self._blocks: list[bytes] = []
        self._last: list[ObjectSpec] = []  # not a full block yet
        self._open: OrderedDict[int, list[ObjectSpec]] = OrderedDict()
        self._learned: dict[int, int] = {}
        self._lives: dict[int, int] = {}  # of objects that were begun anew

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, spec: ObjectSpec) -> None:
        """Add an object; ids ascend."""
        if spec.life:
            self._lives[len(self._ids)] = spec.life
        self._ids.append(spec.object_id)
        self._sizes.append(spec.size)
        self._last.append(spec)
        if len(self._last) == BLOCK_OBJECTS:
            rows = [(s.object_id, s.path, s.size, s.digest, s.etag, s.url) for s in self._last]
            self._blocks.append(zlib.compress(marshal.dumps(rows), 1))
            self._last = []

    def table(self, plan: ChunkSizes) -> ChunkTable:
        """The chunks of the objects; no object may be added after. Raises ValueError when the ids do not ascend."""
        table = ChunkTable(self._ids, self._sizes, plan)
        self._sizes = []
        return table

    def __getitem__(self, position: int) -> ObjectSpec:
        number, at = divmod(position, BLOCK_OBJECTS)
        if number == len(self._blocks):
            spec = self._last[at]
        else:
            block = self._open.get(number)
            if block is None:
                block = self._open[number] = self._read(number)
                if len(self._open) > BLOCKS_OPEN_MAX:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
            spec = block[at]
        return self._as_known(position, spec)

    def _as_known(self, position: int, spec: ObjectSpec) -> ObjectSpec:
        size, life = self._learned.get(position, spec.size), self._lives.get(position, 0)
        return spec if (size, life) == (spec.size, spec.life) else replace(spec, size=size, life=life)

    def learn_size(self, position: int, size: int) -> None:
        """The size of an object that came without one."""
        self._learned[position] = size

    def forget_size(self, position: int) -> None:
        """The size that was learned may not be right any more."""
        self._learned.pop(position, None)

    def begin_life(self, position: int, life: int) -> None:
        """The object is begun anew (`ObjectSpec.life`)."""
        self._lives[position] = life

    def lives(self, positions: Sequence[int]) -> tuple[int, ...]:
        """The lives of these objects; nothing where all are of life 0."""
        return tuple(self._lives.get(position, 0) for position in positions) if self._lives else ()

    def __iter__(self) -> Iterator[ObjectSpec]:
        """All objects, also for another thread: what is open is left alone."""
        position = 0
        for number in range(len(self._blocks) + 1):
            for spec in self._read(number) if number < len(self._blocks) else self._last:
                yield self._as_known(position, spec)
                position += 1

    def _read(self, number: int) -> list[ObjectSpec]:
        rows: list[tuple[int, str, int | None, str, str, str]] = marshal.loads(zlib.decompress(self._blocks[number]))
        return [
            ObjectSpec(object_id=object_id, path=path, size=size, digest=digest, etag=etag, url=url)
            for object_id, path, size, digest, etag, url in rows
        ]
