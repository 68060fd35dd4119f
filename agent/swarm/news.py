"""What the coordinator is told of a copy: all of it at first, then what happens. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...common.chunks import Bundle, ChunkTable
from ...common.records import Failure
from ...common.swarm_records import (
    Arrival,
    ChunkDigest,
    ChunkProgress,
    FetchFailure,
    SwarmInventory,
    SwarmReport,
    Vouch,
)


@dataclass(slots=True)
class News:
    """Lists that grow until `take`."""

    arrived: list[Arrival] = field(default_factory=list[Arrival])
    failed: list[FetchFailure] = field(default_factory=list[FetchFailure])
    lost: list[int] = field(default_factory=list[int])
    vouched: list[Vouch] = field(default_factory=list[Vouch])
    published: list[int] = field(default_factory=list[int])

    def __bool__(self) -> bool:
        return bool(self.arrived or self.failed or self.lost or self.vouched or self.published)

    def clear(self) -> None:
        """Nothing of it is to be told."""
        for told in (self.arrived, self.failed, self.lost, self.vouched, self.published):
            told.clear()

    def vouch(self, object_id: int, digest: str, failure: Failure | None) -> None:
        """An object's digest was computed."""
        self.vouched.append(Vouch(object_id=object_id, digest=digest, failure=failure))

    def take_back(self, chunks: Container[int], object_id: int = 0) -> None:
        """What became of these is not so any more: told later, it would be taken for news of what comes next."""
        self.arrived = [arrival for arrival in self.arrived if arrival.chunk not in chunks]
        self.failed = [failure for failure in self.failed if failure.chunk not in chunks]
        self.vouched = [vouch for vouch in self.vouched if vouch.object_id != object_id]
        self.published = [published for published in self.published if published != object_id]

    def take(self, job_id: str, token: int, progress: Iterable[ChunkProgress], *, seen: int) -> SwarmReport:
        """All of it as a report. seen: the number of the orders that were obeyed last."""
        report = SwarmReport(
            job_id=job_id,
            token=token,
            arrived=tuple(self.arrived),
            failed=tuple(self.failed),
            lost=tuple(self.lost),
            vouched=tuple(self.vouched),
            published=tuple(self.published),
            progress=tuple(progress),
            seen=seen,
        )
        self.clear()
        return report


def inventory(
    job_id: str,
    token: int,
    table: ChunkTable,
    have: bytes,
    placed: Sequence[int],
    digests: Mapping[int, bytes],
    lives: tuple[int, ...],
) -> SwarmInventory:
    """All that is there. have: a bit a chunk; placed: by position; digests: of chunks, those of placed objects are not told; lives: of
    large objects, as in `SwarmInventory`."""

    def counts(chunk: int) -> bool:
        part = table.chunk(chunk)
        return bool(have[chunk >> 3] >> (chunk & 7) & 1) and (isinstance(part, Bundle) or not placed[part.position])

    known = (ChunkDigest(chunk=chunk, digest=digest) for chunk, digest in sorted(digests.items()) if counts(chunk))
    return SwarmInventory(
        job_id=job_id,
        token=token,
        chunks=len(table),
        have=have,
        published=tuple(table.object_ids[at] for at in table.large if placed[at]),
        digests=tuple(known),
        lives=lives,
    )
