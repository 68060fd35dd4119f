"""What an agent is to do for its copy of a replicated job, as `book.py` decides it."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.swarm_records import FetchOrder, PublishOrder


@dataclass(frozen=True, slots=True)
class Bring:
    """Begin with the chunk, or go on with it from another source."""

    order: FetchOrder


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop bringing the chunk; what came of it stays."""

    chunk: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The chunk's bytes are not right."""

    chunk: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Nothing of the object is right. life: that it has from now on (`ObjectSpec.life`); None: it stays the same."""

    position: int
    life: int | None = None


@dataclass(frozen=True, slots=True)
class Follow:
    """The object's digest will be asked for: compute it while the bytes come."""

    position: int


@dataclass(frozen=True, slots=True)
class Compute:
    """The object is whole: compute its digest."""

    position: int


@dataclass(frozen=True, slots=True)
class Place:
    """Give the object its name."""

    position: int
    order: PublishOrder


@dataclass(frozen=True, slots=True)
class Finish:
    """The copy is complete."""


Step = Bring | Stop | Forget | Reset | Follow | Compute | Place | Finish
