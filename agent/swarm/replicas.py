"""The copies that a worker holds: one a job, working or serving others as a seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from ...common.errors import NotFound, ShoalError
from ...common.records import JobSpec, Lease, LeaseRef, Progress
from ...common.swarm_records import SwarmOrders
from ..engine.jobs import JobContext
from ..engine.reporting import not_taken
from .replica import Replica, Shop
from .shelf import AgentShelf

LEASE_GRACE_S: Final = 5.0
"""A peer may ask for a job that this agent hears of a moment later."""


class Replicas:
    """Lives in the event loop."""

    def __init__(self, shop: Shop, new_context: Callable[[JobSpec], JobContext]) -> None:
        """new_context opens a job; it raises ShoalError where that cannot be."""
        self._shop = shop
        self._new_context = new_context
        self._replicas: dict[str, Replica] = {}  # by job
        self._starting: dict[LeaseRef, asyncio.Task[None]] = {}
        self.shelf = AgentShelf(self.find, self.change)
        self._waiting: list[asyncio.Future[None]] = []  # bounded by the requests that the peer server takes at once

    def __bool__(self) -> bool:
        return bool(self._replicas or self._starting)

    def __iter__(self) -> Iterator[Replica]:
        return iter(list(self._replicas.values()))

    # -- leases

    def start(self, lease: Lease, job: JobSpec, deadline: Callable[[], float]) -> None:
        """Begin with a copy. One of an earlier lease on the same job ends before."""
        ref = LeaseRef(lease.unit, lease.token)
        before = self._replicas.get(lease.job_id)
        if ref in self._starting or (before is not None and before.ref == ref):
            return
        self._starting[ref] = self._shop.tasks.create_task(
            self._start(ref, lease, job, deadline), name=f"shoal-replica-start-{lease.job_id}"
        )

    async def _start(self, ref: LeaseRef, lease: Lease, job: JobSpec, deadline: Callable[[], float]) -> None:
        try:
            while (before := self._replicas.get(lease.job_id)) is not None:
                before.stop()
                await before.closed()
            context = self._new_context(job)
        except ShoalError as error:
            self._shop.report(not_taken(ref, error))
            return
        finally:
            self._starting.pop(ref, None)
        replica = Replica(lease, context, deadline, self._shop, news=self._news, ended=self._ended)
        self._replicas[lease.job_id] = replica
        replica.start()

    def stop(self, ref: LeaseRef) -> bool:
        """The lease is no longer ours. Returns whether it was one on a copy."""
        starting = self._starting.pop(ref, None)
        if starting is not None:
            starting.cancel()
            return True
        for replica in self:
            if replica.ref == ref:
                replica.stop()
                return True
        return False

    def give_back(self) -> None:
        """Return all leases and end all copies."""
        for ref, task in list(self._starting.items()):
            task.cancel()
            del self._starting[ref]
            self._shop.report(not_taken(ref))
        for replica in self:
            replica.give_back()

    async def aclose(self) -> None:
        """End everything, and wait for it."""
        for task in self._starting.values():
            task.cancel()
        self._starting.clear()
        for replica in self:
            replica.stop()
        for replica in self:
            await replica.closed()
        await self._shop.peers.aclose()

    def progress(self) -> tuple[Progress, ...]:
        """How far each copy is, for people."""
        working = [replica for replica in self if not replica.is_seed and replica.arrived]
        return tuple(Progress(replica.ref.unit, replica.ref.token, replica.arrived) for replica in working)

    @property
    def held(self) -> tuple[LeaseRef, ...]:
        """The leases that are being worked on."""
        return (*self._starting, *(replica.ref for replica in self if not replica.is_seed))

    # -- the swarm

    def admitted(self) -> None:
        """A new session stands: tell all that is held."""
        for replica in self:
            replica.admitted()

    def obey(self, orders: SwarmOrders) -> None:
        """The swarm wants something."""
        replica = self._replicas.get(orders.job_id)
        if replica is not None:
            replica.obey(orders)

    # -- for peers

    async def find(self, job_id: str) -> Replica:
        """The copy of a job, once it is known what is there of it. Raises NotFound."""
        try:
            async with asyncio.timeout(LEASE_GRACE_S):
                while (replica := self._replicas.get(job_id)) is None or not replica.is_ready or replica.is_over:
                    await self.change()
        except TimeoutError:
            raise NotFound(f"job {job_id}", cause="this agent has no copy of it") from None
        return replica

    async def change(self) -> None:
        """Wait until something has changed: a copy, or what is ordered for it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _news(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _ended(self, replica: Replica) -> None:
        if self._replicas.get(replica.job_id) is replica:
            del self._replicas[replica.job_id]
