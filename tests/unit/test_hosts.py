"""Host budgets: one for the whole fleet, shared out; a wait that one agent was asked for holds for all."""

from __future__ import annotations

import pytest

from shoal.common.records import HostBudget, HostObservation
from shoal.coordinator.scheduler.hosts import (
    FORGIVEN_AFTER_S,
    RETRY_AFTER_MAX_S,
    THROTTLED_FIRST_S,
    THROTTLED_MAX_S,
    HostTable,
)

HOST = "hub.example"


def throttled(retry_after_s: float = 0.0) -> HostObservation:
    return HostObservation(host=HOST, throttled=1, retry_after_s=retry_after_s)


def blocked_s(hosts: HostTable, now: float) -> float:
    (budget,) = hosts.budgets(1, now, [HOST])
    return budget.blocked_s


def test_shares_of_all_agents_make_up_the_budget() -> None:
    hosts = HostTable()
    hosts.set_policy(HOST, 30.0, 3000.0)
    for agents in (1, 7, 30):
        (budget,) = hosts.budgets(agents, 0.0)
        assert budget.requests_per_s * agents == pytest.approx(30.0)
        assert budget.bytes_per_s * agents == pytest.approx(3000.0)
    assert hosts.budgets(0, 0.0)[0].requests_per_s == 30.0
    assert hosts.limited


def test_a_host_without_policy_and_trouble_needs_no_budget() -> None:
    hosts = HostTable()
    assert not hosts.observe(HostObservation(host=HOST, ok=5, errors=2), 0.0)
    assert hosts.budgets(3, 0.0) == ()
    assert not hosts.limited
    (state,) = hosts.states()
    assert (state.ok, state.errors, state.throttled) == (5, 2, 0)
    assert hosts.budgets(3, 0.0, [HOST]) == (HostBudget(host=HOST),)


def test_a_policy_can_be_lifted() -> None:
    hosts = HostTable()
    hosts.set_policy(HOST, 1.0, 0.0)
    hosts.set_policy(HOST, 0.0, 0.0)
    assert not hosts.limited
    assert hosts.budgets(1, 0.0) == ()


@pytest.mark.parametrize("rates", [(-1.0, 0.0), (0.0, -0.1)])
def test_a_negative_rate_is_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        HostTable().set_policy(HOST, *rates)


def test_a_named_wait_holds_for_all_until_it_is_over() -> None:
    hosts = HostTable()
    assert hosts.observe(throttled(20.0), 100.0)
    assert blocked_s(hosts, 105.0) == 15.0
    assert len(hosts.budgets(5, 119.9)) == 1
    assert hosts.budgets(5, 120.0) == ()


def test_a_shorter_wait_does_not_shorten_a_longer_one() -> None:
    hosts = HostTable()
    hosts.observe(throttled(20.0), 0.0)
    assert not hosts.observe(throttled(5.0), 1.0)
    assert blocked_s(hosts, 0.0) == 20.0
    assert hosts.observe(throttled(30.0), 2.0)
    assert blocked_s(hosts, 2.0) == 30.0


def test_an_absurd_wait_is_cut() -> None:
    hosts = HostTable()
    hosts.observe(throttled(1e12), 0.0)
    assert blocked_s(hosts, 0.0) == RETRY_AFTER_MAX_S


def test_a_retry_after_without_a_count_counts_too() -> None:
    hosts = HostTable()
    assert hosts.observe(HostObservation(host=HOST, retry_after_s=3.0), 0.0)
    assert blocked_s(hosts, 0.0) == 3.0


def test_unnamed_waits_double_once_an_incident() -> None:
    hosts = HostTable()
    now, waits = 0.0, []
    for _ in range(12):
        assert hosts.observe(throttled(), now)
        assert not hosts.observe(throttled(), now + 0.01)  # another agent met the same
        waits.append(blocked_s(hosts, now))
        now += waits[-1]
    assert waits[:4] == [THROTTLED_FIRST_S * factor for factor in (1, 2, 4, 8)]
    assert waits[-1] == THROTTLED_MAX_S


def test_a_long_peace_forgives() -> None:
    hosts = HostTable()
    for now in (0.0, 10.0, 20.0):
        hosts.observe(throttled(), now)
    hosts.observe(HostObservation(host=HOST, ok=1), 20.0 + FORGIVEN_AFTER_S)  # not long enough yet
    hosts.observe(HostObservation(host=HOST, ok=1), 20.1 + FORGIVEN_AFTER_S)
    hosts.observe(throttled(), 100.0)
    assert blocked_s(hosts, 100.0) == THROTTLED_FIRST_S


def test_success_amid_trouble_does_not_forgive() -> None:
    hosts = HostTable()
    hosts.observe(throttled(), 0.0)
    hosts.observe(HostObservation(host=HOST, ok=9), 2.0)
    hosts.observe(throttled(), 3.0)
    assert blocked_s(hosts, 3.0) == 2 * THROTTLED_FIRST_S


def test_hosts_are_told_apart_and_listed_by_name() -> None:
    hosts = HostTable()
    hosts.set_policy("b.example", 1.0, 0.0)
    hosts.observe(HostObservation(host="a.example", throttled=1, retry_after_s=9.0), 0.0)
    assert [state.host for state in hosts.states()] == ["a.example", "b.example"]
    assert {budget.host: budget.blocked_s for budget in hosts.budgets(1, 0.0)} == {"a.example": 9.0, "b.example": 0.0}


def test_the_general_policy_holds_for_hosts_without_their_own():
    hosts = HostTable()
    hosts.set_policy("*", 4.0, 0.0)
    hosts.set_policy("own.example", 10.0, 0.0)
    by_host = {budget.host: budget.requests_per_s for budget in hosts.budgets(2, 0.0)}
    assert by_host == {"*": 2.0, "own.example": 5.0}
    (named,) = hosts.budgets(2, 0.0, ["other.example"])
    assert named.requests_per_s == 2.0
