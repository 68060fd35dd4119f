"""Leases: who may do what until when, and whose report counts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.common.records import LeaseRef, UnitKind
from shoal.coordinator.leases import TOKENS_PER_INCARNATION, HeldLease, LeaseTable
from simulation.invariants import check_leases

TTL_S = 30.0


def table(incarnation: int = 1) -> LeaseTable:
    return LeaseTable(incarnation=incarnation, ttl_s=TTL_S)


def grant(
    leases: LeaseTable,
    unit: str,
    agent_id: str = "a",
    *,
    kind: UnitKind = UnitKind.WHOLE,
    object_id: int = 1,
    now: float = 0.0,
    start: int = 0,
    stop: int = 0,
) -> HeldLease:
    return leases.grant(
        unit, agent_id, kind, job_id="j", object_id=object_id, start=start, stop=stop, weight=1, now=now
    )


def test_a_unit_is_granted_once() -> None:
    leases = table()
    grant(leases, "o1")
    with pytest.raises(ValueError, match="o1 is held already"):
        grant(leases, "o1", "b")
    assert len(leases) == 1


def test_tokens_grow_over_grants_and_incarnations() -> None:
    first, second = table(1), table(2)
    tokens = [grant(first, f"o{i}").token for i in range(5)]
    assert tokens == sorted(set(tokens))
    announced = second.next_token
    lease = grant(second, "o1")
    assert lease.token == announced
    assert lease.token > max(tokens)
    assert second.next_token - lease.token == 1
    assert lease.token < 3 * TOKENS_PER_INCARNATION


@pytest.mark.parametrize(
    ("agent_id", "unit", "token_change"), [("b", "o1", 0), ("a", "o2", 0), ("a", "o1", -1), ("a", "o1", 1)]
)
def test_only_the_holder_with_its_token_is_found(agent_id: str, unit: str, token_change: int) -> None:
    leases = table()
    lease = grant(leases, "o1")
    assert leases.find("a", "o1", lease.token) is lease
    assert leases.find(agent_id, unit, lease.token + token_change) is None


def test_a_token_of_an_ended_lease_is_fenced_even_for_its_holder() -> None:
    leases = table()
    old = grant(leases, "o1")
    leases.drop("o1")
    new = grant(leases, "o1")
    assert leases.find("a", "o1", old.token) is None
    assert leases.find("a", "o1", new.token) is new


def test_a_lease_ends_at_its_deadline_and_not_before() -> None:
    leases = table()
    lease = grant(leases, "o1", now=5.0)
    assert leases.next_deadline() == 5.0 + TTL_S
    assert leases.expire(5.0 + TTL_S - 0.001) == []
    assert leases.expire(5.0 + TTL_S) == [lease]
    assert len(leases) == 0
    assert leases.expire(1e9) == []


def test_renewal_moves_the_deadline_and_tells_what_is_fenced() -> None:
    leases = table()
    mine, others = grant(leases, "o1"), grant(leases, "o2", "b")
    stale = LeaseRef("o1", mine.token - 1)
    fenced = leases.renew("a", [mine.ref, others.ref, stale, LeaseRef("gone", 1)], 20.0)
    assert fenced == [others.ref, stale, LeaseRef("gone", 1)]
    assert leases.expire(TTL_S) == [others]
    assert leases.expire(20.0 + TTL_S) == [mine]


def test_a_shortened_lease_ends_earlier_unless_its_holder_comes_back() -> None:
    leases = table()
    lost, back = grant(leases, "o1", "lost"), grant(leases, "o2", "back")
    leases.shorten("lost", 5.0)
    leases.shorten("back", 5.0)
    leases.shorten("back", 100.0)  # never longer
    leases.shorten("nobody", 5.0)
    leases.renew("back", [back.ref], 4.0)
    assert leases.expire(5.0) == [lost]
    assert leases.expire(4.0 + TTL_S) == [back]


def test_a_unit_granted_again_does_not_expire_by_its_old_deadline() -> None:
    leases = table()
    grant(leases, "o1", now=0.0)
    leases.drop("o1")
    again = grant(leases, "o1", now=10.0)
    assert leases.expire(TTL_S) == []
    assert leases.expire(10.0 + TTL_S) == [again]


def test_leases_are_found_by_agent_object_and_job() -> None:
    leases = table()
    first = grant(leases, "r1", "a", kind=UnitKind.RANGE, object_id=7, stop=10)
    second = grant(leases, "r2", "b", kind=UnitKind.RANGE, object_id=7, start=10, stop=15)
    third = grant(leases, "o8", "a", object_id=8)
    assert leases.of_agent("a") == [first, third]
    assert leases.of_object(7) == [first, second]
    assert leases.of_job("j") == [first, second, third]
    assert list(leases) == [first, second, third]
    assert leases.drop("r1") is first
    assert leases.drop("r1") is None
    assert (leases.of_agent("a"), leases.of_object(7), leases.of_job("x")) == ([third], [second], [])


def test_a_range_lease_has_all_its_bytes_left() -> None:
    assert list(grant(table(), "r1", kind=UnitKind.RANGE, start=5, stop=9).left) == [(5, 9)]
    assert not grant(table(), "o1", start=5, stop=9).left


def test_a_restored_lease_keeps_its_token_and_expires() -> None:
    old = grant(table(1), "o1")
    leases = table(2)
    leases.restore(old)
    assert leases.find("a", "o1", old.token) is old
    assert leases.holds("o1") is old
    assert leases.expire(TTL_S) == [old]


@dataclass(slots=True)
class Expected:
    """What the model knows of a lease."""

    agent_id: str
    token: int
    deadline: float


class LeaseMachine(RuleBasedStateMachine):
    """The table against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = table()
        self.model: dict[str, Expected] = {}
        self.now = 0.0
        self.last_token = 0

    units = st.sampled_from([f"o{i}" for i in range(6)])
    agents = st.sampled_from(["a", "b", "c"])

    @rule(unit=units, agent_id=agents)
    def grants(self, unit: str, agent_id: str) -> None:
        if unit in self.model:
            return
        lease = grant(self.leases, unit, agent_id, object_id=int(unit[1:]) % 3, now=self.now)
        assert lease.token > self.last_token
        self.last_token = lease.token
        self.model[unit] = Expected(agent_id, lease.token, self.now + TTL_S)

    @rule(unit=units)
    def drops(self, unit: str) -> None:
        assert (self.leases.drop(unit) is not None) == (self.model.pop(unit, None) is not None)

    @rule(agent_id=agents, units=st.lists(units, max_size=4), stale=st.booleans())
    def renews(self, agent_id: str, units: list[str], stale: bool) -> None:
        refs = [LeaseRef(unit, self.model[unit].token - stale) for unit in units if unit in self.model]
        fenced = self.leases.renew(agent_id, refs, self.now)
        for ref in refs:
            known = self.model[ref.unit]
            mine = known.agent_id == agent_id and known.token == ref.token
            assert (ref in fenced) == (not mine)
            if mine:
                known.deadline = self.now + TTL_S

    @rule(agent_id=agents, grace_s=st.floats(0, 60))
    def shortens(self, agent_id: str, grace_s: float) -> None:
        self.leases.shorten(agent_id, self.now + grace_s)
        for known in self.model.values():
            if known.agent_id == agent_id:
                known.deadline = min(known.deadline, self.now + grace_s)

    @precondition(lambda self: self.model)
    @rule(passed_s=st.sampled_from([0.0, 1.0, 15.0, 31.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s
        expired = {lease.unit for lease in self.leases.expire(self.now)}
        assert expired == {unit for unit, known in self.model.items() if known.deadline <= self.now}
        for unit in expired:
            del self.model[unit]

    @invariant()
    def agrees(self) -> None:
        check_leases(self.leases)
        held = {lease.unit: Expected(lease.agent_id, lease.token, lease.deadline) for lease in self.leases}
        assert held == self.model


LeaseMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestLeaseMachine = LeaseMachine.TestCase
