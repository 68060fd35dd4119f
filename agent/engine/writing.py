"""What a thread does to a partial file: it writes bytes, lets who follows them hear them, and records what it wrote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ...common.intervals import Interval

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..storage.partial import Partial


class Written(NamedTuple):
    """What a thread wrote to a partial file; mark_s: how long recording it took, None where that is still to be done."""

    spans: tuple[Interval, ...]
    mark_s: float | None = None


class Listener(Protocol):
    """Hears the bytes of [.., stop) in order, in the thread that writes them: what is hot need not be read again."""

    stop: int

    def update(self, data: memoryview) -> None: ...


def write_spans(
    file: Partial, buffer: memoryview, at: int, spans: tuple[Interval, ...], *, mark: bool, listener: Listener | None
) -> Written:
    """Write the spans, of a buffer whose first byte belongs at ``at``. Raises what `Partial.write` and `Partial.mark` do."""
    if listener is not None:
        listener.update(buffer[: spans[0][1] - at])
    for start, stop in spans:
        file.write(buffer[start - at : stop - at], start)
    if not mark:
        return Written(spans)
    began_s = time.perf_counter()
    mark_spans(file, spans)
    return Written(spans, time.perf_counter() - began_s)


def mark_spans(file: Partial, spans: Iterable[Interval]) -> None:
    """Record them in the chunk map. Raises what `Partial.mark` does."""
    for start, stop in spans:
        file.mark(start, stop)
