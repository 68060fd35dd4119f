"""Hundreds of seeded fleets, and proof that the simulator can fail: broken coordinators are caught."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from shoal.common.records import ObjectSpec, Outcome
from shoal.coordinator.core import Core
from shoal.coordinator.effects import Effects
from shoal.coordinator.leases import HeldLease
from simulation.agent import Known, SimAgent, Task
from simulation.clock import Violation
from simulation.coordinator import SimCoordinator
from simulation.network import Link
from simulation.world import FAULTS, MIB, Scenario, World, run_seed

SEEDS = 300
CHUNK = 20


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_fleet_ends_well(first: int) -> None:
    """A failure's text ends with the seed; ``python -m simulation.soak --seed N`` (in tests/) replays it."""
    for seed in range(first, first + CHUNK):
        run_seed(seed)


def test_a_seed_replays_event_by_event() -> None:
    def story(seed: int) -> tuple[int, float, int]:
        world = run_seed(seed)
        return world.clock.events, world.clock.now, world.origin.served

    assert [story(seed) for seed in range(5)] == [story(seed) for seed in range(5)]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(fault: str) -> None:
    for seed in range(3):
        objects = [(40 * MIB, True), *[(MIB // 2, True)] * 20, (3 * MIB, False)]
        scenario = Scenario(agents=4, faults=frozenset({fault}), fault_every_s=2.0, jobs=[objects, objects[1:]])
        World(seed, scenario).run()


def test_objects_that_change_while_agents_sleep_and_coordinators_die() -> None:
    faults = frozenset({"change", "delay", "partition", "freeze", "kill_agent", "kill_coordinator"})
    lives = 0
    for seed in range(8):
        jobs = [[(40 * MIB, True)] * 4]
        world = World(seed, Scenario(agents=5, faults=faults, fault_every_s=0.7, jobs=jobs, rate=2.0 * MIB))
        world.run()
        lives += sum(final.life > 0 for final in world.disk.finals.values())
    assert lives, "some have begun anew"


def test_hundreds_of_agents() -> None:
    small = [(random.Random(7).randrange(4 * MIB), True) for _ in range(600)]
    faults = frozenset({"delay", "cut", "kill_agent", "kill_coordinator", "freeze", "leave"})
    jobs = [[*small, (1 << 30, True), (1 << 30, True)]]
    scenario = Scenario(agents=200, slots=2, faults=faults, fault_every_s=0.5, war_s=15.0, jobs=jobs, check_every=50)
    world = World(1, scenario)
    world.run()
    assert world.granted["range"] > 200


def test_without_faults_a_big_object_is_shared_by_all() -> None:
    scenario = Scenario(agents=8, slots=2, jobs=[[(400 * MIB, True)]], rate=8.0 * MIB)
    world = World(1, scenario)
    world.run()
    (row,) = world.coordinator.ledger.list_objects("job0")
    assert world.origin.served - world.origin.too_late == row.spec.size
    alone_s = 400 / 8
    assert world.clock.now < alone_s / 3  # eight lines of 4 to 16 MiB/s, minus the seconds until all have joined


# ---- broken on purpose ----------------------------------------------------------------------------------------------


def caught(make_world: Callable[[int], World], seeds: int = 200) -> str:
    """The text of the first violation that a broken fleet leads to."""
    for seed in range(seeds):
        try:
            make_world(seed).run()
        except Violation as violation:
            return str(violation)
    return "nothing"


class NoFencing(Core):
    """Takes any report on a unit that is leased, whoever makes it."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # pyright: ignore[reportArgumentType]
        self.leases.find = self._find  # type: ignore[method-assign]

    def _find(self, agent_id: str, unit: str, token: int) -> HeldLease | None:
        return self.leases.holds(unit)


class ForgetfulOfExpiry(Core):
    """Forgets the work of a lease that ran out."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # pyright: ignore[reportArgumentType]
        self._reports.expired = lambda lease, now: None  # type: ignore[method-assign]


class Generous(Core):
    """Does not look whether a range was given back before it counts its bytes."""

    def receive(self, agent_id: str, message: object, now: float) -> None:
        for lease in self.leases.of_agent(agent_id):
            if lease.kind.value == "range":
                lease.left.add(lease.start, lease.stop)
        super().receive(agent_id, message, now)  # pyright: ignore[reportArgumentType]


class TokensBeginAnew(Core):
    """Counts fencing tokens from the start of the process."""

    def __init__(self, *, incarnation: int, **options: object) -> None:
        super().__init__(incarnation=1, **options)  # pyright: ignore[reportArgumentType]


class AcksBeforeCommit(SimCoordinator):
    """Sends before the store has written."""

    def carry_out(self, effects: Effects, recipients: dict[str, Link | None]) -> None:
        self.send(effects, recipients)
        effects.sends = []
        super().carry_out(effects, recipients)


class LateAddressing(SimCoordinator):
    """Sends to whatever session an agent has by the time that the store has written."""

    def send(self, effects: Effects, recipients: dict[str, Link | None]) -> None:
        super().send(effects, {agent_id: self.sessions.get(agent_id) for agent_id in recipients})


@pytest.mark.parametrize(
    ("core", "text"),
    [
        (NoFencing, "though its lease was over|is credited to agent., but agent. holds it"),
        (ForgetfulOfExpiry, r"with leases \[\]|done, pending and leased bytes"),
        (Generous, "done, pending and leased bytes"),
        (TokensBeginAnew, "token"),
    ],
)
def test_a_broken_core_is_caught(core: type[Core], text: str) -> None:
    jobs = [[(8 * MIB, True)] * 20, [(100 * MIB, True)]]
    faults = frozenset({"freeze", "kill_coordinator"})
    scenario = Scenario(agents=4, faults=faults, fault_every_s=2.0, lease_ttl_s=10.0, jobs=jobs, rate=2.0 * MIB)
    assert re.search(text, caught(lambda seed: World(seed, scenario, make_core=core)))


@pytest.mark.parametrize(
    ("broken", "text"),
    [(AcksBeforeCommit, "before it is written"), (LateAddressing, "of which it was not told|more than its credit")],
)
def test_a_broken_shell_is_caught(broken: type[SimCoordinator], text: str) -> None:
    objects = [(MIB // 2, True)] * 60
    scenario = Scenario(agents=4, slots=1, faults=frozenset({"cut", "slow_store"}), fault_every_s=0.3, jobs=[objects])
    assert re.search(text, caught(lambda seed: World(seed, scenario, make_coordinator=broken), 40))


def test_an_agent_that_remembers_an_earlier_life_is_caught() -> None:
    def remembering(seed: int) -> World:
        faults = frozenset({"change", "kill_coordinator"})
        jobs = [[(60 * MIB, True)] * 4]
        world = World(seed, Scenario(agents=4, faults=faults, fault_every_s=1.0, jobs=jobs, rate=4.0 * MIB))
        for agent in world.agents:

            def know(spec: ObjectSpec, agent: SimAgent = agent) -> Known:
                before = agent._known.get(spec.object_id, Known(spec.life))
                if before.life != spec.life:
                    agent._known[spec.object_id] = before = Known(spec.life, have=before.have)
                return agent._known.setdefault(spec.object_id, before)

            agent._know = know  # type: ignore[method-assign]
            agent._open = lambda task, spec, agent=agent: open_unread(agent, task, spec)  # type: ignore[method-assign]
        return world

    def open_unread(agent: SimAgent, task: Task, spec: ObjectSpec) -> None:
        """As an agent whose file stays open: it adds what others have recorded to what it knows."""
        known = agent._know(spec)
        have = known.have.copy()
        SimAgent._open(agent, task, spec)
        for start, stop in have:
            known.have.add(start, stop)

    assert "right=False" in caught(remembering)


def test_an_agent_that_reports_what_it_did_not_do_is_caught() -> None:
    def lying(seed: int) -> World:
        world = World(seed, Scenario(agents=2, jobs=[[(MIB, True)] * 5]))
        for agent in world.agents:
            agent._whole = lambda task, spec, agent=agent: agent._report(task, Outcome.DONE, size=MIB)  # type: ignore[method-assign]
        return world

    assert "there is no file" in caught(lying)
