"""The swarm's decisions: every member gets every chunk, each chunk leaves the origin once, whatever happens on the way."""

from __future__ import annotations

import random

import pytest

from shoal.coordinator.scheduler.swarm import Decision, Member, Swarm, SwarmLimits


def swarm_of(members: int, chunks: int, *, slots: int = 4, zones: int = 1, have: int = 0) -> Swarm:
    made = Swarm([100] * chunks)
    for number in range(members):
        made.join(f"a{number}", zone=f"z{number % zones}", upload_slots=slots, download_slots=slots, have=have)
    return made


class Fluid:
    """Runs a swarm in rounds: a chunk needs one round once its source holds all of it."""

    def __init__(self, swarm: Swarm, rng: random.Random) -> None:
        self.swarm = swarm
        self.rng = rng
        self.now = 0.0
        self.from_origin: dict[int, int] = {}
        self.flows: dict[tuple[str, int], Decision] = {}

    def step(self) -> None:
        self.now += 1.0
        self.decide()
        ready = [
            (agent_id, chunk)
            for (agent_id, chunk), decided in self.flows.items()
            if decided.source is None or self.swarm.holds(decided.source.agent_id, chunk)
        ]
        self.rng.shuffle(ready)
        for agent_id, chunk in ready:
            del self.flows[agent_id, chunk]
            self.swarm.arrived(agent_id, chunk)
        self.swarm.check_invariants()

    def decide(self) -> None:
        for decided in self.swarm.decide(self.now):
            if decided.source is None:
                self.from_origin[decided.chunk] = self.from_origin.get(decided.chunk, 0) + 1
            self.flows[decided.member.agent_id, decided.chunk] = decided
        self.swarm.check_invariants()

    def gone(self, agent_id: str) -> None:
        self.swarm.leave(agent_id)
        self.flows = {key: flow for key, flow in self.flows.items() if key[0] != agent_id}

    def run(self, *, rounds_max: int = 10_000) -> int:
        for rounds in range(rounds_max):
            if all(self.swarm.is_complete(member) for member in self.swarm):
                return rounds
            self.step()
        raise AssertionError("it does not end")


@pytest.mark.parametrize("members", [1, 2, 3, 4, 8, 33])
def test_everybody_gets_everything_and_the_origin_is_asked_once_a_chunk(members: int) -> None:
    fluid = Fluid(swarm_of(members, 64), random.Random(1))
    fluid.run()
    assert fluid.from_origin == dict.fromkeys(range(64), 1)


def test_a_late_member_gets_all_of_it_from_the_others() -> None:
    fluid = Fluid(swarm_of(3, 32), random.Random(2))
    fluid.run()
    fluid.swarm.join("late", zone="z0", upload_slots=4, download_slots=4, have=0)
    fluid.run()
    assert fluid.from_origin == dict.fromkeys(range(32), 1)


def test_what_a_member_brings_along_is_not_fetched() -> None:
    fluid = Fluid(swarm_of(2, 32), random.Random(2))
    fluid.swarm.join("rich", zone="z0", upload_slots=4, download_slots=4, have=(1 << 32) - 1)
    fluid.run()
    assert fluid.from_origin == {}


def test_when_the_last_holder_is_gone_the_origin_serves_again() -> None:
    fluid = Fluid(swarm_of(1, 8), random.Random(3))
    fluid.run()
    fluid.gone("a0")
    fluid.swarm.join("b", zone="", upload_slots=4, download_slots=4, have=0)
    fluid.run()
    assert fluid.from_origin == dict.fromkeys(range(8), 2)


def test_no_more_is_taken_from_the_origin_at_once_than_the_limit() -> None:
    swarm = Swarm([1] * 100, SwarmLimits(origin_flows_max=5, origin_flows_min=1))
    for number in range(20):
        swarm.join(f"a{number}", zone="", upload_slots=8, download_slots=8, have=0)
    decided = swarm.decide(0.0)
    assert sum(flow.source is None for flow in decided) == 5


def test_slots_hold_on_both_sides() -> None:
    swarm = swarm_of(6, 40, slots=2)
    swarm.decide(0.0)
    for member in swarm:
        assert len(member.flows) <= 2
        assert len(member.uploads) <= 2
    swarm.check_invariants()


def test_the_rarest_chunk_comes_first() -> None:
    swarm = Swarm([1] * 3)
    for name, have in (("a", 0b011), ("b", 0b011), ("c", 0b111)):
        swarm.join(name, zone="", upload_slots=9, download_slots=0, have=have)
    swarm.join("new", zone="", upload_slots=9, download_slots=1, have=0)
    first = next(flow for flow in swarm.decide(0.0) if flow.member.agent_id == "new")
    assert (first.chunk, first.source and first.source.agent_id) == (2, "c")


def test_a_holder_of_the_same_zone_is_asked_first() -> None:
    swarm = Swarm([1])
    for name, zone in (("far1", "x"), ("near", "y"), ("far2", "x")):
        swarm.join(name, zone=zone, upload_slots=9, download_slots=9, have=1)
    for _ in range(3):
        swarm.join("me", zone="y", upload_slots=9, download_slots=9, have=0)
        (decided,) = swarm.decide(0.0)
        assert decided.source and decided.source.agent_id == "near"


def test_load_is_spread_over_the_holders() -> None:
    swarm = Swarm([1])
    for number in range(4):
        swarm.join(f"h{number}", zone="", upload_slots=9, download_slots=9, have=1)
    for number in range(8):
        swarm.join(f"n{number}", zone="", upload_slots=0, download_slots=9, have=0)
    swarm.decide(0.0)
    assert [len(member.uploads) for member in swarm if member.agent_id.startswith("h")] == [2, 2, 2, 2]


def test_a_chunk_is_passed_on_while_it_arrives() -> None:
    swarm = swarm_of(2, 1)
    decided = swarm.decide(0.0)
    assert [flow.source and flow.source.agent_id for flow in decided] == [None, "a0"]


def test_a_failed_source_is_not_asked_again_while_another_holds_it() -> None:
    swarm = Swarm([1])
    for name in ("good", "bad"):
        swarm.join(name, zone="", upload_slots=9, download_slots=9, have=1)
    swarm.join("me", zone="", upload_slots=9, download_slots=9, have=0)
    (decided,) = swarm.decide(0.0)
    assert swarm.failed("me", 0, decided.source)
    (again,) = swarm.decide(0.1)
    assert again.source is not decided.source
    assert not swarm.failed("me", 0, decided.source), "an old report must not end the new flow"


def test_nobody_is_sent_to_a_member_that_rests_or_is_barred() -> None:
    swarm = Swarm([1])
    swarm.join("tired", zone="", upload_slots=9, download_slots=9, have=1)
    swarm.rest("tired", 10.0)
    swarm.join("me", zone="", upload_slots=9, download_slots=9, have=0)
    assert swarm.decide(0.0) == []
    swarm.check_invariants()
    (decided,) = swarm.decide(10.0)
    assert decided.source and decided.source.agent_id == "tired"
    swarm.bar("tired")
    (again,) = swarm.decide(11.0)
    assert again.source is None, "the only holder is barred: the origin serves again"


def test_a_slow_flow_moves_to_an_idle_holder() -> None:
    swarm = Swarm([1000])
    swarm.join("slow", zone="", upload_slots=9, download_slots=9, have=1)
    swarm.join("me", zone="", upload_slots=9, download_slots=9, have=0)
    (decided,) = swarm.decide(0.0)
    assert decided.source and decided.source.agent_id == "slow"
    swarm.join("idle", zone="", upload_slots=9, download_slots=9, have=1)
    swarm.progressed("me", 0, 10)
    assert swarm.decide(1.5) == []
    swarm.progressed("me", 0, 20)
    (moved,) = swarm.decide(20.0)
    assert moved.source and moved.source.agent_id == "idle"
    swarm.check_invariants()


@pytest.mark.parametrize("seed", range(60))
def test_members_come_and_go_and_sources_fail(seed: int) -> None:
    rng = random.Random(seed)
    chunks = rng.choice([1, 7, 40])
    fluid = Fluid(swarm_of(rng.randint(1, 12), chunks, slots=rng.randint(1, 5), zones=rng.randint(1, 3)), rng)
    for number in range(80):
        match rng.randrange(7):
            case 0:
                fluid.gone(f"a{rng.randrange(14)}")
            case 1:
                name = f"a{rng.randrange(14)}"
                fluid.gone(name)
                slots = rng.randint(0, 4)
                have = rng.getrandbits(chunks) if rng.random() < 0.3 else 0
                fluid.swarm.join(name, zone="z0", upload_slots=slots, download_slots=rng.randint(1, 4), have=have)
            case 2 if fluid.flows:
                (agent_id, chunk), flow = rng.choice(list(fluid.flows.items()))
                if fluid.swarm.failed(agent_id, chunk, flow.source):
                    del fluid.flows[agent_id, chunk]
            case 3:
                fluid.swarm.lost(f"a{rng.randrange(14)}", rng.randrange(chunks))
            case 4:
                fluid.swarm.rest(f"a{rng.randrange(14)}", fluid.now + rng.random() * 5)
            case 5 if rng.random() < 0.2:
                chunk = rng.randrange(chunks)
                fluid.swarm.reset([chunk])
                fluid.flows = {key: flow for key, flow in fluid.flows.items() if key[1] != chunk}
            case _:
                pass
        fluid.swarm.check_invariants()
        fluid.step()
        del number
    fluid.run()


def test_ending_flows_of_a_chunk_that_is_given_up() -> None:
    fluid = Fluid(swarm_of(3, 4), random.Random(5))
    fluid.decide()
    fluid.swarm.give_up([2])
    fluid.flows = {key: flow for key, flow in fluid.flows.items() if key[1] != 2}
    fluid.run()
    assert all(not fluid.swarm.holds(member.agent_id, 2) for member in fluid.swarm)
    assert isinstance(next(iter(fluid.swarm)), Member)
