"""All leases of dataset jobs that this agent holds: collecting a table, and running tools over what was collected."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from ..common.records import JobSpec, Lease, LeaseRef, Progress, WorkReport
from .collect.documents import ReadDocument
from .collect.gate import HostGate
from .collect.options import CollectOptions
from .collect.runs import Collector
from .tool_units import ToolUnits


class DatasetLeases:
    """A `Collector` and `ToolUnits` behind one front; see there."""

    def __init__(
        self,
        options: CollectOptions,
        *,
        tasks: asyncio.TaskGroup,
        throttle: HostGate,
        read_document: ReadDocument | None,
        report: Callable[[WorkReport], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._collector = Collector(
            options,
            tasks=tasks,
            throttle=throttle,
            read_document=read_document,
            report=report,
            clock=clock,
            wall_clock=wall_clock,
            rng=rng,
        )
        self._tools = ToolUnits(
            tasks=tasks,
            report=report,
            root=options.engine.root,
            allow_paths=options.engine.allow_paths,
            load_paths=options.tool_paths,
        )

    @property
    def held(self) -> tuple[LeaseRef, ...]:
        """The leases that are being worked on."""
        return (*self._collector.held, *self._tools.held)

    def start(self, lease: Lease, job: JobSpec, deadline: Callable[[], float]) -> None:
        """Begin to work on a lease; never blocks."""
        if job.tool is not None:
            self._tools.start(lease, job)
        else:
            self._collector.start(lease, job, deadline)

    def stop(self, ref: LeaseRef) -> None:
        """The lease is no longer ours: stop now, report nothing."""
        if not self._tools.stop(ref):
            self._collector.stop(ref)

    def give_back(self, ref: LeaseRef) -> None:
        """Others are idle: give the lease back if it was not begun."""
        self._collector.give_back(ref)

    def progress(self) -> tuple[Progress, ...]:
        """How far each batch is, in rows."""
        return self._collector.progress()

    async def drain(self, grace_s: float) -> None:
        """Give everything back, with what is under way recorded, if that takes no longer than ``grace_s`` seconds."""
        self._tools.give_back()
        await self._collector.drain(grace_s)

    async def aclose(self) -> None:
        """Stop everything, and close what is open."""
        for ref in self._tools.held:
            self._tools.stop(ref)
        await self._collector.aclose()
