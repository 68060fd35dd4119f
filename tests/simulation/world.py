"""A seeded world: a fleet, its jobs, and everything that goes wrong on the way; then peace, in which all must end well."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shoal.common.records import (
    Acks,
    CoordinatorMessage,
    Delivery,
    Grants,
    Lease,
    LeaseRef,
    ObjectSpec,
    Revoke,
    UnitKind,
)
from shoal.coordinator.core import Core, CoreLimits
from shoal.coordinator.model import JobRow, JobStatus
from shoal.coordinator.store.base import ObjectRow, ObjectStatus

from .agent import Origin, SimAgent
from .clock import Clock, Violation, require
from .coordinator import MakeCore, SimCoordinator
from .disk import Disk
from .invariants import check_invariants
from .network import Link, Network, NetworkLimits

MIB = 1 << 20
PEACE_S = 600.0
"""Longest virtual time from the last fault until every job has ended, beside what its bytes take."""

FAULTS = (
    "delay",
    "cut",
    "partition",
    "kill_agent",
    "kill_coordinator",
    "freeze",
    "slow",
    "leave",
    "full_disk",
    "not_shared",
    "corrupt",
    "origin_errors",
    "gone",
    "control",
    "slow_store",
    "change",
)


@dataclass(slots=True, kw_only=True)
class Scenario:
    """What a world is made of."""

    agents: int = 3
    slots: int = 4
    faults: frozenset[str] = frozenset()
    fault_every_s: float = 3.0  # mean time between faults
    war_s: float = 60.0
    jobs: list[list[tuple[int, bool]]] = field(default_factory=list[list[tuple[int, bool]]])  # (size, size is known)
    lease_ttl_s: float = 30.0
    load_max: int = 4096
    rate: float = 8.0 * MIB
    check_every: int = 1  # a check of all invariants after so many events

    @classmethod
    def random(cls, rng: random.Random) -> Scenario:
        """Swarm testing (A. Groce et al., ISSTA 2012): each world has a random subset of the faults, so that none hides another."""
        chosen = frozenset(fault for fault in FAULTS if rng.random() < 0.35)
        calm = rng.random() < 0.1
        return cls(
            agents=rng.choice((1, 2, 3, 3, 5, 8, 12)),
            slots=rng.choice((1, 2, 4)),
            faults=frozenset() if calm else chosen,
            fault_every_s=rng.choice((1.0, 3.0, 8.0)),
            war_s=rng.choice((20.0, 40.0, 80.0)),
            jobs=[_random_objects(rng) for _ in range(rng.choice((1, 1, 2, 3)))],
            lease_ttl_s=rng.choice((10.0, 30.0)),
            load_max=rng.choice((3, 20, 4096)),
            rate=rng.choice((0.5, 2.0, 8.0, 40.0)) * MIB,
        )


def _random_objects(rng: random.Random) -> list[tuple[int, bool]]:
    kind = rng.choice(("small", "huge", "mixed", "unknown", "none"))
    small = [(rng.randrange(0, 2 * MIB), True) for _ in range(rng.randrange(1, 60))]
    huge = [(rng.randrange(16 * MIB, 200 * MIB), True) for _ in range(rng.randrange(1, 3))]
    unknown = [(rng.randrange(0, 8 * MIB), False) for _ in range(rng.randrange(1, 8))]
    chosen = {"small": small, "huge": huge, "mixed": small + huge, "unknown": unknown + small[:5], "none": []}[kind]
    rng.shuffle(chosen)
    return chosen


class World:
    """One seed's world."""

    def __init__(
        self,
        seed: int,
        scenario: Scenario | None = None,
        *,
        make_core: MakeCore = Core,
        make_coordinator: Callable[..., SimCoordinator] = SimCoordinator,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.scenario = scenario or Scenario.random(self.rng)
        self.clock = Clock()
        self.disk = Disk()
        self.origin = Origin()
        self.war = True
        self.explained = 0  # bytes that faults may have caused to be fetched again
        self.granted: Counter[str] = Counter()
        limits = NetworkLimits()
        if self.scenario.faults & {"delay", "slow_store"}:  # answers wait for the store
            limits = NetworkLimits(delay_s=0.05, jitter_s=self.rng.choice((0.5, 3.0)), lost_after_s=10.0)
        self.network = Network(self.clock, self.rng, limits)
        self.rows: dict[str, JobRow] = {}
        listings = {row.job_id: self._listing(row.job_id, i) for i, row in enumerate(self._make_rows())}
        self.coordinator = make_coordinator(
            self.clock,
            self.rng,
            limits=CoreLimits(lease_ttl_s=self.scenario.lease_ttl_s),
            listings=listings,
            make_core=make_core,
            load_max=self.scenario.load_max,
            check_every=self.scenario.check_every,
            store_delay_s=2.0 if "slow_store" in self.scenario.faults else 0.005,
        )
        self.coordinator.on_send = self._sent
        self.agents = [self._make_agent(i) for i in range(self.scenario.agents)]

    def _make_rows(self) -> list[JobRow]:
        for i in range(len(self.scenario.jobs)):
            job_id = f"job{i}"
            self.rows[job_id] = JobRow(
                job_id=job_id,
                uri=f"https://origin/{job_id}/",
                name=job_id,
                fingerprint=job_id,
                request=f'{{"delivery": "{Delivery.SPREAD}"}}',
                priority=self.rng.choice((0, 0, 5)),
                created_at=float(i),
            )
        return list(self.rows.values())

    def _listing(self, job_id: str, index: int) -> list[ObjectSpec]:
        specs: list[ObjectSpec] = []
        for number, (size, known) in enumerate(self.scenario.jobs[index]):
            url = f"https://origin/{job_id}/{number}"
            self.origin.sizes[url] = size
            if "gone" in self.scenario.faults and self.rng.random() < 0.1:
                self.origin.gone.add(url)
            if "change" in self.scenario.faults and self.rng.random() < 0.5:
                self.origin.versions[url] = 0
            specs.append(ObjectSpec(object_id=number + 1, path=str(number), size=size if known else None, url=url))
        return specs

    def _make_agent(self, index: int) -> SimAgent:
        agent = SimAgent(
            self.clock,
            self.rng,
            f"agent{index}",
            disk=self.disk,
            origin=self.origin,
            rate=self.scenario.rate / self.scenario.slots * self.rng.choice((0.5, 1.0, 1.0, 2.0)),
            slots=self.scenario.slots,
        )
        agent.connect = self._connect
        agent.on_lapse = self._lapsed
        self.clock.after(self.rng.random() * 5.0, agent.start)
        return agent

    def _connect(self, agent: SimAgent) -> Link | None:
        unreachable = self.network.partitioned_until(agent.agent_id) > self.clock.now
        if not self.coordinator.up or unreachable:
            return None
        life = self.coordinator.life
        link = Link(
            self.network,
            agent.agent_id,
            lambda link, message: self.coordinator.received(link, message) if self.coordinator.life == life else None,
            agent.received,
            lambda link: self.coordinator.lost(link) if self.coordinator.life == life else None,
            agent.closed,
        )
        if "delay" in self.scenario.faults and self.rng.random() < 0.1:
            self.clock.after(self.rng.random() * 3.0, lambda: self._cut_young(agent, link))
        self.coordinator.accept(link)
        return link

    def _cut_young(self, agent: SimAgent, link: Link) -> None:
        if link.alive:
            self.explain(agent)
            link.cut()

    # ---- what is watched --------------------------------------------------------------------------------------------

    def _sent(self, agent_id: str, message: CoordinatorMessage) -> None:
        if isinstance(message, Grants):
            for lease in message.leases:
                written = lease.token <= self.coordinator.ledger.highest_token
                require(written, f"{lease.unit} is granted before it is written")
                self.granted[lease.kind.value] += 1
                told = self.coordinator.told[agent_id] | {job.job_id for job in message.jobs}
                require(lease.job_id in told, f"{agent_id} is granted work of {lease.job_id}, of which it was not told")
            self.coordinator.told[agent_id] |= {job.job_id for job in message.jobs}
            self._explain_grants(agent_id, message.leases)
        elif isinstance(message, Acks):
            self._check_acks(agent_id, message)
        elif isinstance(message, Revoke) and "not_shared" in self.scenario.faults:
            self._explain_revoked(agent_id, message)

    def _check_acks(self, agent_id: str, acks: Acks) -> None:
        session = next(agent for agent in self.agents if agent.agent_id == agent_id).session
        for ack in acks.acks:
            result = session.unreported.get(ack.seq) if session and ack.accepted else None
            if result is None:
                continue
            rightful = self.coordinator.rightful.get((agent_id, ack.seq, result.token), True)
            require(rightful, f"{agent_id}'s report on {result.unit} counts, though its lease was over")
            if result.size is None or not result.unit.startswith("o"):
                continue
            row = self.coordinator.ledger.get_object(int(result.unit[1:]))
            done = row is not None and row.status is ObjectStatus.DONE
            require(done, f"{result.unit} is acknowledged to {agent_id} as done, but the store does not know")

    # ---- running ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """War, then peace. Raises Violation, with the seed in its text."""
        try:
            self.coordinator.start()
            for row in self.rows.values():
                self.clock.after(self.rng.random() * 5.0, lambda row=row: self._submit(row))
            self._plan_fault()
            while self.clock.now < self.scenario.war_s and not self._all_done():
                self.clock.step()
            self._make_peace()
            # One slow agent alone, and once more for what is found to be wrong at the end.
            patience_s = PEACE_S + 4 * sum(self.origin.sizes.values()) / self.scenario.rate
            end = self.clock.now + patience_s
            while not self._all_ended():
                self.clock.step()
                require(self.clock.now < end, f"after {patience_s:.0f} s of peace: {self._describe()}")
            self._check_end()
        except Exception as error:
            error.add_note(f"seed {self.seed}, at {self.clock.now:.3f} s, event {self.clock.events}, {self.scenario}")
            raise

    def _submit(self, row: JobRow) -> None:
        """Submit until the store has it."""
        if any(stored.job_id == row.job_id for stored in self.coordinator.ledger.rows()):
            return
        if self.coordinator.up and row.job_id not in self.coordinator.core.jobs:
            self.coordinator.submit(row)
        self.clock.after(3.0, lambda: self._submit(row))

    def _stored(self) -> list[JobRow]:
        return self.coordinator.ledger.rows()

    def _objects(self) -> list[ObjectRow]:
        return [
            obj for row in self._stored() for obj in self.coordinator.ledger.list_objects(row.job_id, limit=1 << 30)
        ]

    def _all_done(self) -> bool:
        rows = self._stored() if self.coordinator.up else []
        return len(rows) == len(self.rows) and all(row.status is JobStatus.DONE for row in rows)

    def _all_ended(self) -> bool:
        """Ended, as it is stored, and after the last retry where there was a reason for one."""
        rows = self._stored()
        return len(rows) == len(self.rows) and all(row.status.ended and not self._worth_a_retry(row) for row in rows)

    def _worth_a_retry(self, row: JobRow) -> bool:
        """Faults of the war may have ended it; in peace only what the origin does not have can fail."""
        gone = self._gone(row.job_id)
        as_it_should = row.failure is not None and row.failure.code == "objects-failed" and row.objects_failed == gone
        return row.status is not JobStatus.DONE and not as_it_should

    def _gone(self, job_id: str) -> int:
        prefix = f"https://origin/{job_id}/"
        return sum(url.startswith(prefix) for url in self.origin.gone)

    def _describe(self) -> str:
        rows = [(row.job_id, row.status.value, row.objects_done, row.objects_failed) for row in self._stored()]
        return f"{rows} are not done"

    # ---- faults -----------------------------------------------------------------------------------------------------

    def _plan_fault(self) -> None:
        if self.war and self.scenario.faults:
            self.clock.after(self.rng.expovariate(1 / self.scenario.fault_every_s), self._fault)

    def _fault(self) -> None:
        if not self.war:
            return
        fault = self.rng.choice(sorted(self.scenario.faults))
        agent = self.rng.choice(self.agents)
        now = self.clock.now
        some_s = self.rng.choice((0.5, 4.0, 12.0, 45.0)) * (0.5 + self.rng.random())
        match fault:
            case "cut":
                self.explain(agent)
                agent.cut()
            case "partition":
                self.explain(agent)
                self.network.partition(agent.agent_id, now + some_s)
            case "kill_agent":
                self.explain(agent)
                agent.kill()
                self.clock.after(some_s, agent.start)
            case "leave":
                self.explain(agent)
                agent.leave()
                self.clock.after(some_s, agent.start)
            case "freeze":
                self.explain(agent)
                agent.freeze(now + some_s)
            case "kill_coordinator" if self.coordinator.up:
                self.explain(*self.agents)
                self.coordinator.kill()
                self.clock.after(some_s / 4, self._start_coordinator)
            case "slow":
                agent.rate = agent.full_rate * self.rng.choice((0.02, 0.2, 1.0))
            case "not_shared":
                self.explain(agent)
                agent.sees_folder = not agent.sees_folder
            case "full_disk":
                self.explain(*self.agents)
                self.disk.full = not self.disk.full
            case "corrupt":
                self._corrupt()
            case "origin_errors":
                self.origin.error_rate = self.rng.choice((0.0, 0.1, 0.6))
                self.explain(*self.agents)
            case "change":
                self._change()
            case "control":
                self._control()
            case _:
                pass
        self._plan_fault()

    def _start_coordinator(self) -> None:
        if not self.coordinator.up:
            self.coordinator.start()

    def _corrupt(self) -> None:
        if self.rng.random() < 0.5:
            self.origin.corrupt_rate = self.rng.choice((0.0, 0.02, 0.3))
        else:
            digested = [row.spec.object_id for row in self._objects() if row.spec.url not in self.origin.versions]
            self.disk.corrupt(sorted(self.disk.partials.keys() & set(digested)), self.rng.random())

    def _change(self) -> None:
        """An object that somebody is at gets another version at its origin."""
        rows = [self.coordinator.ledger.get_object(object_id) for object_id in sorted(self.disk.partials)]
        open_urls = [row.spec.url for row in rows if row is not None and row.spec.url in self.origin.versions]
        if open_urls:
            self.origin.versions[self.rng.choice(open_urls)] += 1

    def _control(self) -> None:
        if not self.coordinator.up or not self.coordinator.core.jobs:
            return
        core = self.coordinator.core
        job_id = self.rng.choice(sorted(core.jobs))
        ended = core.jobs[job_id].row.status.ended
        self.explain(*self.agents)
        match self.rng.choice(("pause", "resume", "resume", "cancel", "retry", "retry")):
            case "pause" if not ended:
                core.pause(job_id)
            case "resume" if not ended:
                core.resume(job_id)
            case "cancel" if not ended:
                core.cancel(job_id)
            case "retry":
                self.coordinator.retry(job_id)
            case _:
                pass
        check_invariants(core)
        self.coordinator.wake()

    def explain(self, *agents: SimAgent) -> None:
        """A fault hits these agents: what they hold, or are about to, may be fetched again."""
        costs: dict[tuple[str, int], int] = {}
        for agent in agents:
            for lease in agent.under_way:
                costs[lease.unit, lease.token] = self._cost_of(lease)
        for lease in self.coordinator.core.leases if self.coordinator.life else ():
            if any(agent.agent_id == lease.agent_id for agent in agents):
                costs[lease.unit, lease.token] = self._cost(lease.kind, lease.object_id, lease.start, lease.stop)
        self.explained += sum(costs.values())

    def _lapsed(self, lease: Lease) -> None:
        """It ran out at its agent. Where answers may take longer than it lives after a renewal, nothing else need be wrong."""
        if self.scenario.faults & {"delay", "slow_store"}:  # answers wait for the store
            self.explained += self._cost_of(lease)

    def _explain_revoked(self, agent_id: str, revoke: Revoke) -> None:
        """Where some do not see a partial file, its object is opened again, and what all others have under way of it is lost."""
        agent = next(agent for agent in self.agents if agent.agent_id == agent_id)
        refs = set(revoke.leases)
        held = [lease for lease in agent.under_way if LeaseRef(lease.unit, lease.token) in refs]
        self.explained += sum(map(self._cost_of, held))

    def _explain_grants(self, agent_id: str, leases: Iterable[Lease]) -> None:
        """Nobody knows yet that the agent does not hear: it may bring them just when others were told to."""
        agent = next(agent for agent in self.agents if agent.agent_id == agent_id)
        if max(agent.frozen_until, self.network.partitioned_until(agent_id)) > self.clock.now:
            self.explained += sum(map(self._cost_of, leases))

    def _cost_of(self, lease: Lease) -> int:
        return self._cost(lease.kind, lease.object.object_id if lease.object else 0, lease.start, lease.stop)

    def _cost(self, kind: UnitKind, object_id: int, start: int, stop: int) -> int:
        row = self.coordinator.ledger.get_object(object_id) if kind is UnitKind.WHOLE else None
        return stop - start if row is None else self.origin.sizes[row.spec.url]

    # ---- peace ------------------------------------------------------------------------------------------------------

    def _make_peace(self) -> None:
        self.war = False
        self.explain(*self.agents)
        self.network.heal()
        self.network.limits = NetworkLimits()
        self.disk.full = False
        self.origin.error_rate = self.origin.corrupt_rate = 0.0
        self.coordinator.store_delay_s = 0.005
        self._start_coordinator()
        for agent in self.agents:
            agent.rate, agent.sees_folder = agent.full_rate, True
            agent.freeze(min(agent.frozen_until, self.clock.now + 5.0))
            self.clock.after(self.rng.random() * 5.0, agent.start)
        self._revive()

    def _revive(self) -> None:
        core = self.coordinator.core
        for job_id, job in list(core.jobs.items()):
            if job.row.paused and not job.row.status.ended:
                core.resume(job_id)
                self.coordinator.wake()
            if job.row.status.ended and self._worth_a_retry(job.row):
                job.row.paused = False
                self.coordinator.retry(job_id)
        self.clock.after(10.0, self._revive)

    def _check_end(self) -> None:
        check_invariants(self.coordinator.core)
        total = 0
        for row in self._stored():
            gone = self._gone(row.job_id)
            expected = JobStatus.FAILED if gone else JobStatus.DONE
            require(row.status is expected, f"{row.job_id} ended {row.status} with {row.failure}")
            require(row.objects_done == row.objects_total - gone, f"{row.job_id}: {row.objects_done} done, {gone} gone")
            for found in self.coordinator.ledger.list_objects(row.job_id, limit=1 << 30):
                size = self.origin.sizes[found.spec.url]
                final = self.disk.finals.get(found.spec.object_id)
                if found.status is ObjectStatus.DONE:
                    total += size
                    require(final is not None, f"{found.spec} is done, but there is no file")
                    assert final is not None
                    require(final.right and final.size == size, f"{found.spec} is done, but the file is {final}")
                    require(
                        final.life == found.spec.life, f"{found.spec} is done, but the file is of life {final.life}"
                    )
        served = self.origin.served - self.origin.too_late
        if not self.scenario.faults:
            require(served == total, f"{served} bytes were fetched for {total}, and nothing went wrong")
        elif not self.scenario.faults & {"corrupt", "gone", "change"}:
            most = total + self.explained
            require(served <= most, f"{served} bytes were fetched for {total}; faults explain {self.explained}")


def run_seed(seed: int) -> World:
    """Run one seed's world to its end."""
    world = World(seed)
    world.run()
    return world


__all__ = ["FAULTS", "Scenario", "Violation", "World", "run_seed"]
