"""The threads that unpack what is still arriving, shared by all jobs of an agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ...common.records import JobSpec
from .crew import Crew, Job
from .options import EngineOptions

if TYPE_CHECKING:
    from ..storage.destination import Destination
    from .archive_streams import ArchiveStreams

STREAMS_MAX: Final = 2
"""At once: each may need a window of 128 MiB (``unpack/zstd.py``, ``unpack/streams.py``), and can use a core."""


class Turns:
    """Who may unpack what arrives. Lives in the event loop."""

    def __init__(self, options: EngineOptions) -> None:
        # One thread more than streams: a stream may wait for bytes for hours, and what another one staged must go meanwhile.
        self.crew = Crew("unpack", STREAMS_MAX + 1)
        self._options = options
        self._free = STREAMS_MAX

    def streams(self, job: JobSpec, destination: Destination) -> ArchiveStreams | None:
        """For a job that unpacks anything; None for others, which need not load what unpacking needs."""
        if not job.unpack:
            return None
        from .archive_streams import ArchiveStreams

        return ArchiveStreams(job, destination, self._options, self)

    @property
    def is_free(self) -> bool:
        """Whether there is a turn now."""
        return self._free > 0

    def run(self, call: Callable[[], None], then: Callable[[], None]) -> None:
        """Run call in a thread now; a turn must be free. then is called in the loop when it is done."""

        def done(job: Job[None]) -> None:
            self._free += 1
            then()

        self._free -= 1
        self.crew.run(call, done)

    async def aclose(self) -> None:
        """End the threads. The jobs must have been closed."""
        await self.crew.aclose()
