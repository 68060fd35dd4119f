"""The coordinator's shell in virtual time: the order of `coordinator.service`, with a store that takes its time, and kills.

While the store is busy, events go on changing the core, as they do in the real shell.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from shoal.common.records import (
    AgentMessage,
    CoordinatorMessage,
    Goodbye,
    Hello,
    JobSpec,
    Layout,
    ObjectSpec,
    OriginKind,
    Results,
)
from shoal.coordinator.core import Core, CoreLimits
from shoal.coordinator.effects import Effects
from shoal.coordinator.model import JobRow, JobStatus
from shoal.coordinator.restoring import held_again
from shoal.coordinator.store.base import Cursor, ObjectStatus
from shoal.coordinator.store.order import cursor_after

from .clock import Clock
from .invariants import check_invariants
from .ledger import Ledger
from .network import Link

TURN_S = 1.0
PAGE = 64

MakeCore = Callable[..., Core]


class SimCoordinator:
    """One coordinator over its lives."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        *,
        limits: CoreLimits,
        listings: dict[str, list[ObjectSpec]],
        make_core: MakeCore = Core,
        load_max: int = 4096,
        check_every: int = 1,
        store_delay_s: float = 0.0,
    ) -> None:
        """listings are what the jobs' sources list; store_delay_s is the longest time that a call of the store takes."""
        self.clock = clock
        self.ledger = Ledger()
        self.up = False
        self.life = 0
        self.store_delay_s = store_delay_s
        self.sessions: dict[str, Link] = {}
        self.told: dict[str, set[str]] = {}  # agent -> jobs that it was told of in its session
        self.rightful: dict[tuple[str, int, int], bool] = {}  # (agent, seq, token) of a report -> was the lease its own
        self.on_send: Callable[[str, CoordinatorMessage], None] = lambda agent_id, message: None
        self._rng = rng
        self._limits = limits
        self._listings = listings
        self._make_core = make_core
        self._load_max = load_max
        self._check_every = check_every
        self._unchecked = 0
        self._busy = False
        self._timer = 0
        self._links: list[Link] = []
        self._cursors: dict[str, Cursor] = {}

    # ---- life and death ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process opens what the last one left."""
        self.up, self._busy = True, False
        self.life += 1
        self.core = core = self._make_core(incarnation=self.ledger.open(), limits=self._limits)
        now = self.clock.now
        fetched_by = self.ledger.fetched_by()
        for row in self.ledger.jobs():
            core.add_job(row, fetched_by.get(row.job_id))
            if row.status is JobStatus.PLANNING:
                self._plan_soon(row.job_id)
        for lease in self.ledger.leases():
            found = self.ledger.get_object(lease.object_id) if lease.object_id else None
            held = held_again(lease, now=now, ttl_s=self._limits.lease_ttl_s)
            core.restore_lease(held, found.spec if found and found.status is ObjectStatus.QUEUED else None)
        check_invariants(core)
        self.wake()

    def kill(self) -> None:
        """The process dies: what is not in the store is gone."""
        self.up = False
        self.life += 1
        self._cursors.clear()
        self.sessions.clear()
        links, self._links = self._links, []
        for link in links:
            link.cut()

    def accept(self, link: Link) -> None:
        """A connection stands."""
        self._links = [other for other in self._links if other.alive]
        self._links.append(link)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something after a delay, unless this process is dead by then."""
        life = self.life
        self.clock.after(delay_s, lambda: action() if self.life == life else None)

    def _store_s(self) -> float:
        return self._rng.random() * self.store_delay_s

    def _check(self) -> None:
        self._unchecked += 1
        if self._unchecked >= self._check_every:
            self._unchecked = 0
            check_invariants(self.core)

    # ---- turns ------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something changed: take a turn soon."""
        if self.up and not self._busy:
            self._busy = True
            self._later(0.0, self._turn)

    def _turn(self) -> None:
        now = self.clock.now
        self.core.tick(now)
        self.core.assign(now)
        effects = self.core.take_effects()
        self._check()
        if effects:
            # Messages belong to the sessions that were open when they were made: a later one has said Hello since.
            recipients = {send.agent_id: self.recipient(send.agent_id) for send in effects.sends}
            self.carry_out(effects, recipients)
            return
        self._busy = False
        self._timer += 1
        timer = self._timer
        delay_s = max(0.001, min(TURN_S, self.core.next_wakeup(now) - now))
        self._later(delay_s, lambda: self.wake() if timer == self._timer else None)

    def recipient(self, agent_id: str) -> Link | None:
        """The session of an agent."""
        return self.sessions.get(agent_id)

    def carry_out(self, effects: Effects, recipients: dict[str, Link | None]) -> None:
        """Write, load, send, in this order."""

        def write() -> None:
            for job_id in effects.ended_jobs:
                self.core.jobs[job_id].row.ended_at = self.clock.now
            self.ledger.apply(effects.writes)
            self._later(0.0, load)

        def load() -> None:
            if not effects.loads:
                self.send(effects, recipients)
                self._later(0.0, self._turn)
                return
            wanted = effects.loads.pop(0)
            after = None if wanted.restart else self._cursors.get(wanted.job_id)
            loaded = self.ledger.queued_objects(wanted.job_id, after, self._load_max)

            def answer() -> None:
                if loaded:
                    self._cursors[wanted.job_id] = cursor_after(loaded[-1][0])
                self.core.objects_loaded(wanted.job_id, loaded, more=len(loaded) == self._load_max)
                load()

            self._later(self._store_s(), answer)

        self._later(self._store_s(), write)

    def send(self, effects: Effects, recipients: dict[str, Link | None]) -> None:
        """Send the messages of a turn to the sessions that they were made for."""
        for send in effects.sends:
            link = recipients[send.agent_id]
            if link is not None and self.sessions.get(send.agent_id) is link:
                self.on_send(send.agent_id, send.message)
                link.send_down(send.message)

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def submit(self, row: JobRow) -> None:
        """Somebody submits a job."""
        self.core.add_job(replace(row))
        self.core.jobs[row.job_id].changed = True
        self._plan_soon(row.job_id)
        self.wake()

    def retry(self, job_id: str) -> None:
        """Somebody brings a failed job back."""
        self.core.retry(job_id)
        if self.core.jobs[job_id].row.status is JobStatus.PLANNING:
            self._plan_soon(job_id)
        self.wake()

    def _plan_soon(self, job_id: str) -> None:
        self._later(0.05 + self._rng.random() * 0.5, lambda: self._plan(job_id))

    def _plan(self, job_id: str) -> None:
        if not any(row.job_id == job_id for row in self.ledger.rows()):
            self._plan_soon(job_id)  # the row is not written yet
            return
        row = self.core.jobs[job_id].row
        if row.status is not JobStatus.PLANNING:
            return
        specs = self._listings[job_id]
        self.ledger.forget_objects(job_id)
        for first in range(0, len(specs), PAGE):
            self.ledger.add_objects(job_id, specs[first : first + PAGE])
        objects, total_bytes = self.ledger.counts(job_id)
        spec = JobSpec(
            job_id=job_id,
            source=row.uri,
            origin=OriginKind.HTTP,
            layout=Layout.FOLDER,
            destination="/shared",
            total_bytes=total_bytes,
            total_objects=objects,
        )
        self.core.job_listed(job_id, spec, objects, total_bytes)
        self.wake()

    # ---- sessions ---------------------------------------------------------------------------------------------------

    def received(self, link: Link, message: AgentMessage) -> None:
        """A message arrived; those of sessions that were replaced are dropped."""
        if not self.up:
            return
        if isinstance(message, Hello):
            before = self.sessions.pop(link.agent_id, None)
            if before is not None and before is not link:
                before.cut()
            self.sessions[link.agent_id] = link
            self.told[link.agent_id] = set()
        elif self.sessions.get(link.agent_id) is not link:
            return
        if isinstance(message, Hello | Results):
            for result in message.results:
                held = self.core.leases.holds(result.unit)
                rightful = held is not None and (held.agent_id, held.token) == (link.agent_id, result.token)
                report = (link.agent_id, result.seq, result.token)
                self.rightful[report] = self.rightful.get(report, False) or rightful  # a report may come twice
        self.core.receive(link.agent_id, message, self.clock.now)
        self._check()
        if isinstance(message, Goodbye):
            del self.sessions[link.agent_id]
        self.wake()

    def lost(self, link: Link) -> None:
        """A session ended without goodbye."""
        if self.up and self.sessions.get(link.agent_id) is link:
            del self.sessions[link.agent_id]
            self.core.disconnected(link.agent_id, self.clock.now)
            self.wake()
