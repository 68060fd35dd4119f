"""Host budgets at the coordinator: what is allowed, who gets which share, how hosts that are in trouble are treated."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from shoal.common.records import Answer, Budgets, HostBudget, HostObservation
from shoal.common.views import HostCondition
from shoal.coordinator.scheduler.conduct import (
    FORGIVEN_AFTER_S,
    PARKED_FIRST_S,
    RETRY_AFTER_MAX_S,
    STREAK_MAX,
    THROTTLED_FIRST_S,
    THROTTLED_MAX_S,
    Conduct,
    Manners,
)
from shoal.coordinator.scheduler.hosts import HostTable
from shoal.coordinator.scheduler.pace import BETA, INCIDENT_S, Pace
from shoal.coordinator.scheduler.shares import CLOCK_DRIFT, LINGER_S, MARGIN_S

HOST = "images.example"
SHARE_S = 20.0
HOLD_S = SHARE_S * (1 + CLOCK_DRIFT) + MARGIN_S
DATASET = {"rate_multiplier": 0.5, "connections": 8, "backoff_initial_s": 60.0, "backoff_cap_s": 86_400.0}


class Bench:
    """A table with hands."""

    def __init__(self, *, incarnation: int = 1) -> None:
        self.hosts = HostTable(incarnation=incarnation, share_s=SHARE_S, rng=random.Random(1))
        self.now = 0.0
        self.versions: dict[str, int] = {}
        self.told: dict[tuple[str, str], HostBudget] = {}

    def join(self, *agents: str) -> None:
        for agent_id in agents:
            self.hosts.joined(agent_id, self.versions.get(agent_id, 0), self.now)

    def take(self) -> dict[str, list[HostBudget]]:
        """What agents are told now."""
        found: dict[str, list[HostBudget]] = {}
        for agent_id, budgets in self.hosts.take_budgets(self.now):
            assert isinstance(budgets, Budgets)
            self.versions[agent_id] = budgets.version
            found[agent_id] = list(budgets.budgets)
            for budget in budgets.budgets:
                self.told[agent_id, budget.host] = budget
        return found

    def beat(self, *agents: str, seen: Iterable[HostObservation] = ()) -> None:
        for agent_id in agents:
            self.hosts.heard(agent_id, self.versions.get(agent_id, 0), 0, self.now)
            for observation in seen:
                self.hosts.observe(agent_id, observation, self.now)

    def settle(self, *agents: str) -> None:
        """Let everybody confirm what it was told, until nothing moves."""
        for _ in range(4):
            self.take()
            self.beat(*agents)
        self.take()

    def rate(self, agent_id: str, host: str = HOST) -> float:
        budget = self.told.get((agent_id, host))
        return -1.0 if budget is None or budget.nothing else budget.requests_per_s


def seen(**changes: object) -> HostObservation:
    return HostObservation(host=HOST, **changes)  # pyright: ignore[reportArgumentType]


# ---- shares -----------------------------------------------------------------------------------------------------------


def test_the_budget_is_shared_equally_and_the_first_share_begins_with_the_burst() -> None:
    bench = Bench()
    bench.hosts.set_policy(HOST, 10.0, 1000.0, 6)
    bench.join("a")
    (budget,) = bench.take()["a"]
    assert budget == HostBudget(
        host=HOST, requests_per_s=10.0, bytes_per_s=1000.0, burst=10.0, connections=6, leased=True, initial=10.0
    )
    bench.join("b")
    told = bench.take()
    assert (told["a"][0].requests_per_s, told["a"][0].connections) == (5.0, 3)
    assert told["b"][0].nothing  # until it is certain that the other one obeys
    bench.beat("a")
    (budget,) = bench.take()["b"]
    assert (budget.requests_per_s, budget.bytes_per_s, budget.connections, budget.initial) == (5.0, 500.0, 3, 0.0)


def test_a_silent_agents_share_is_given_to_others_when_it_has_run_out() -> None:
    bench = Bench()
    bench.hosts.set_policy(HOST, 10.0, 0.0)
    bench.join("a", "b")
    bench.settle("a", "b")
    assert bench.rate("a") == bench.rate("b") == 5.0
    bench.hosts.parted("b", bench.now)
    bench.take()
    bench.now = HOLD_S - 0.1
    bench.beat("a")
    bench.take()
    assert bench.rate("a") == 5.0
    bench.now = HOLD_S
    bench.take()
    assert bench.rate("a") == 10.0


def test_requests_may_outlive_the_share_that_allowed_them() -> None:
    bench = Bench()
    bench.hosts.set_policy(HOST, 10.0, 0.0, 1)
    bench.join("a", "b")
    bench.settle("a", "b")
    holder = next(agent_id for agent_id in "ab" if bench.rate(agent_id) > 0)
    other = "b" if holder == "a" else "a"
    bench.hosts.parted(holder, 0.0)
    for bench.now in (5.0, 15.0, HOLD_S, HOLD_S + LINGER_S - 1):
        bench.beat(other, seen=[seen(waiting=1)])
        bench.take()
        assert bench.rate(other) < 0
    bench.now = HOLD_S + LINGER_S
    bench.beat(other)
    bench.take()
    assert bench.rate(other) == 10.0


def test_a_new_process_and_a_goodbye_free_a_share_at_once() -> None:
    bench = Bench()
    bench.hosts.set_policy(HOST, 10.0, 0.0, 4)
    bench.join("a", "b")
    bench.settle("a", "b")
    bench.versions.pop("b")
    bench.join("b")
    bench.take()
    assert bench.told["b", HOST].connections == 2
    bench.beat("a")
    bench.hosts.left("b", bench.now)
    bench.take()
    assert bench.rate("a") == 10.0


def test_what_was_told_in_a_session_that_broke_and_not_confirmed_never_arrives() -> None:
    bench = Bench()
    bench.hosts.set_policy(HOST, 10.0, 0.0)
    bench.join("a")
    bench.take()
    bench.beat("a")
    obeyed = bench.versions["a"]
    bench.hosts.set_policy(HOST, 4.0, 0.0)
    bench.take()
    bench.versions["a"] = obeyed
    bench.join("b", "a")
    told = bench.take()
    assert told["a"][0].requests_per_s == 2.0
    assert told["b"][0].nothing  # the 10 of before may be in force
    bench.beat("a")
    assert bench.take()["b"][0].requests_per_s == 2.0


def test_an_agent_that_let_its_shares_run_out_is_given_others() -> None:
    bench = Bench()
    bench.hosts.set_policy(HOST, 10.0, 0.0)
    bench.join("a")
    bench.take()
    version = bench.versions["a"]
    bench.now = 5.0
    bench.hosts.heard("a", version, version, bench.now)
    (budget,) = bench.take()["a"]
    assert (budget.requests_per_s, budget.initial) == (10.0, 0.0)
    bench.hosts.heard("a", bench.versions["a"], version, bench.now)
    assert bench.take() == {}


def test_after_a_restart_unknown_shares_are_waited_for() -> None:
    bench = Bench(incarnation=2)
    bench.hosts.set_policy(HOST, 10.0, 0.0)
    bench.now = 100.0
    bench.join("a")
    (budget,) = bench.take()["a"]
    assert budget.nothing
    assert budget.unless_held
    bench.now = 110.0
    bench.beat("a")
    assert bench.take() == {}
    bench.now = 100.0 + HOLD_S
    bench.beat("a")
    (budget,) = bench.take()["a"]
    assert (budget.requests_per_s, budget.initial) == (10.0, 0.0)
    assert budget.burst == 10.0


def test_few_can_have_a_share_of_a_slow_host_and_they_take_turns() -> None:
    bench = Bench()
    bench.hosts.set_policy(HOST, 2.0, 0.0)
    agents = [f"a{number}" for number in range(5)]
    bench.join(*agents)
    assert bench.hosts.agents_max(HOST) == 2
    had: set[str] = set()
    for _ in range(40):
        bench.now += 2.0
        bench.beat(*agents, seen=[seen(waiting=1)])
        bench.take()
        bench.beat(*agents)
        bench.take()
        having = {agent_id for agent_id, _ in bench.hosts.holders(HOST)}
        assert len(having) <= 2
        had |= having
    assert had == set(agents)


def test_only_who_wants_a_datasets_host_is_told_of_it() -> None:
    bench = Bench()
    bench.hosts.adopt(HOST, rate=6.0, **DATASET)  # pyright: ignore[reportArgumentType]
    bench.join("a", "b", "c")
    assert bench.take() == {}
    assert bench.hosts.agents_max(HOST) == 6
    bench.hosts.want("a", HOST)
    bench.hosts.want("a", HOST)
    bench.hosts.want("b", HOST)
    assert set(bench.take()) == {"a", "b"}
    assert bench.rate("a") == bench.rate("b") == 3.0
    bench.hosts.unwant("a", HOST)
    assert bench.take() == {}  # it has another piece of work there
    bench.hosts.unwant("a", HOST)
    bench.settle("a", "b")
    assert (bench.rate("a"), bench.rate("b")) == (-1.0, 6.0)


def test_a_policy_wins_over_what_a_dataset_job_asks_for() -> None:
    bench = Bench()
    bench.hosts.adopt(HOST, rate=6.0, **DATASET)  # pyright: ignore[reportArgumentType]
    bench.join("a")
    bench.hosts.want("a", HOST)
    bench.take()
    assert bench.rate("a") == 6.0
    bench.hosts.set_policy(HOST, 2.0, 0.0)
    bench.take()
    assert bench.rate("a") == 2.0
    bench.hosts.set_policy(HOST, 0.0, 0.0)
    bench.settle("a")
    assert bench.rate("a") == 6.0


def test_the_general_policy_holds_for_hosts_without_their_own() -> None:
    bench = Bench()
    bench.hosts.set_policy("*", 4.0, 0.0)
    bench.hosts.set_policy("own.example", 10.0, 0.0)
    bench.join("a")
    told = {budget.host: budget.requests_per_s for budget in bench.take()["a"]}
    assert told == {"*": 4.0, "own.example": 10.0}
    bench.beat("a", seen=[seen(throttled=1, retry_after_s=5.0)])
    (budget,) = bench.take()["a"]
    assert (budget.host, budget.nothing, budget.blocked_s) == (HOST, True, 5.0)


def test_a_policy_can_be_lifted() -> None:
    bench = Bench()
    bench.hosts.set_policy(HOST, 1.0, 0.0)
    bench.join("a")
    bench.take()
    bench.hosts.set_policy(HOST, 0.0, 0.0)
    (budget,) = bench.take()["a"]
    assert budget == HostBudget(host=HOST)


@pytest.mark.parametrize("limits", [(-1.0, 0.0, 0), (0.0, -0.1, 0), (0.0, 0.0, -1)])
def test_a_negative_limit_is_refused(limits: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        HostTable().set_policy(HOST, *limits)


def test_a_crawl_delay_is_the_lowest_delay_for_the_whole_fleet() -> None:
    bench = Bench()
    bench.hosts.adopt(HOST, rate=6.0, **DATASET)  # pyright: ignore[reportArgumentType]
    bench.join("a")
    bench.hosts.want("a", HOST)
    bench.take()
    bench.beat("a", seen=[seen(ok=1, crawl_delay_s=5.0)])
    (budget,) = bench.take()["a"]
    assert (budget.requests_per_s, budget.burst, budget.connections) == (0.2, 1.0, 1)
    assert bench.hosts.agents_max(HOST) == 1


# ---- hosts in trouble -------------------------------------------------------------------------------------------------


def test_a_host_without_a_budget_is_blocked_for_all_and_then_open() -> None:
    bench = Bench()
    bench.join("a", "b")
    bench.take()
    bench.beat("a", seen=[seen(throttled=1, retry_after_s=9.0)])
    told = bench.take()
    assert told["b"] == [HostBudget(host=HOST, blocked_s=9.0)]
    bench.join("late")
    assert bench.take()["late"] == [HostBudget(host=HOST, blocked_s=9.0)]
    bench.now = 9.0
    bench.take()
    assert bench.hosts.state_of(HOST).condition is HostCondition.OPEN
    bench.join("later")
    assert bench.take() == {}


def in_trouble() -> Bench:
    """A dataset's host that three agents want, and that one of them was throttled by."""
    bench = Bench()
    bench.hosts.adopt(HOST, rate=6.0, **DATASET)  # pyright: ignore[reportArgumentType]
    bench.join("a", "b", "c")
    for agent_id in "abc":
        bench.hosts.want(agent_id, HOST)
    bench.settle("a", "b", "c")
    bench.beat("a", seen=[seen(ok=3, throttled=1, retry_after_s=30.0, status=429)])
    return bench


def test_a_block_takes_all_shares_back_and_one_probe_opens_the_host() -> None:
    bench = in_trouble()
    told = bench.take()
    assert {agent_id: budgets[0].nothing for agent_id, budgets in told.items()} == dict.fromkeys("abc", True)
    assert {budgets[0].blocked_s for budgets in told.values()} == {30.0}
    assert bench.hosts.state_of(HOST).condition is HostCondition.BLOCKED
    assert not bench.hosts.usable(HOST, 29.0)
    for bench.now in (5.0, 10.0, 15.0, 20.0, 25.0):
        bench.beat("a", "b", "c", seen=[seen(waiting=2)])
        assert bench.take() == {}
    bench.now = 30.0
    told = bench.take()
    (prober,) = told
    assert told[prober][0].probe
    assert bench.hosts.state_of(HOST).condition is HostCondition.HALF_OPEN
    bench.beat("a", "b", "c", seen=[seen(waiting=2)])
    assert bench.take() == {}
    permit = bench.versions[prober]
    bench.beat(prober, seen=[seen(ok=1, status=200, probe=permit - 1, probe_answer=Answer.OK)])
    assert bench.take() == {}  # the answer to another one
    bench.beat(prober, seen=[seen(ok=1, status=200, probe=permit, probe_answer=Answer.OK)])
    bench.settle("a", "b", "c")
    assert bench.hosts.state_of(HOST).condition is HostCondition.OPEN
    assert bench.rate("a") + bench.rate("b") + bench.rate("c") == pytest.approx(6.0 * BETA)


def test_a_probe_is_not_sent_while_somebody_may_still_ask() -> None:
    bench = in_trouble()
    bench.take()
    bench.hosts.parted("c", 0.0)  # it never confirmed
    for bench.now in (10.0, HOLD_S - 1):
        bench.beat("a", "b", seen=[seen(waiting=1)])
        assert bench.take() == {}
    bench.now = 30.0
    bench.beat("a", "b", seen=[seen(waiting=1)])
    assert bench.take() == {}  # its requests may still be under way
    for bench.now in (40.0, HOLD_S + LINGER_S - 1):
        bench.beat("a", "b", seen=[seen(waiting=1)])
        assert bench.take() == {}
    bench.now = HOLD_S + LINGER_S
    assert len(bench.take()) == 1


def test_another_one_probes_when_the_prober_is_gone() -> None:
    bench = in_trouble()
    bench.take()
    for bench.now in (10.0, 20.0, 30.0):
        bench.beat("a", "b", "c", seen=[seen(waiting=1)])
        told = bench.take()
    (first,) = told
    others = [agent_id for agent_id in "abc" if agent_id != first]
    bench.hosts.left(first, bench.now)
    (second,) = bench.take()
    assert second in others
    bench.beat(second, seen=[seen(waiting=1, probe=bench.versions[second], probe_answer=None)])
    (told,) = bench.take().values()  # nobody knows what became of it
    assert told[0].nothing
    bench.beat(*others, seen=[seen(waiting=1)])
    (third,) = bench.take()
    assert third != first
    assert bench.told[third, HOST].probe


def test_a_host_that_never_relents_sees_a_handful_of_requests_in_half_an_hour() -> None:
    bench = in_trouble()
    bench.hosts = Bench().hosts
    bench.hosts.adopt(HOST, rate=6.0, **DATASET)  # pyright: ignore[reportArgumentType]
    bench.versions.clear()
    bench.join("a")
    bench.hosts.want("a", HOST)
    requests = 0
    while bench.now < 1800.0:
        bench.take()
        budget = bench.told["a", HOST]
        if not budget.nothing:
            requests += 1
            answer = Answer.THROTTLED if budget.probe else None
            probe = bench.versions["a"] if budget.probe else 0
            refusal = seen(throttled=1, retry_after_s=2.0, status=429, probe=probe, probe_answer=answer)
            bench.beat("a", seen=[refusal])
        bench.now += 1.0
        bench.beat("a", seen=[seen(waiting=1)])
    assert 8 <= requests <= 12


@pytest.mark.parametrize("kind", ["timeouts", "unreachable"])
def test_a_host_that_never_answers_is_parked(kind: str) -> None:
    bench = Bench()
    bench.hosts.adopt(HOST, rate=6.0, **DATASET)  # pyright: ignore[reportArgumentType]
    bench.join("a")
    bench.hosts.want("a", HOST)
    bench.settle("a")
    for _ in range(STREAK_MAX):
        assert bench.hosts.state_of(HOST).condition is HostCondition.OPEN
        bench.beat("a", seen=[seen(**{kind: 1}, status=-1)])
    standing = bench.hosts.state_of(HOST)
    assert (standing.condition, standing.last_status) == (HostCondition.PARKED, -1)


def test_timeouts_of_a_host_that_answers_between_them_park_nothing() -> None:
    conduct = Conduct()
    for _ in range(4 * STREAK_MAX):
        assert not conduct.observe(seen(timeouts=STREAK_MAX - 1), 0.0, random.Random(1))
        assert not conduct.observe(seen(errors=1, status=404), 0.0, random.Random(1))


def test_a_streak_of_refusals_parks_a_host_that_has_a_budget() -> None:
    bench = Bench()
    bench.hosts.adopt(HOST, rate=6.0, **DATASET)  # pyright: ignore[reportArgumentType]
    bench.join("a", "b")
    for agent_id in "ab":
        bench.hosts.want(agent_id, HOST)
    bench.settle("a", "b")
    bench.beat("a", seen=[seen(refused=STREAK_MAX - 1, status=403)])
    bench.beat("b", seen=[seen(ok=1, status=200)])
    bench.beat("a", seen=[seen(refused=STREAK_MAX - 1, status=403)])
    assert bench.hosts.state_of(HOST).condition is HostCondition.OPEN
    bench.now = 2.0
    bench.beat("b", seen=[seen(refused=1, status=403)])
    standing = bench.hosts.state_of(HOST)
    assert standing.condition is HostCondition.PARKED
    assert (standing.last_status, standing.in_trouble_since) == (403, 0.0)
    bench.take()
    waits: list[float] = []
    for _ in range(3):
        waits.append(bench.hosts.state_of(HOST).blocked_until - bench.now)
        while bench.now + 10 < bench.hosts.state_of(HOST).blocked_until:
            bench.now += 10.0
            bench.beat("a", "b", seen=[seen(waiting=1)])
            assert bench.take() == {}
        bench.now = bench.hosts.state_of(HOST).blocked_until
        (prober,) = bench.take()
        refusal = seen(refused=1, status=403, probe=bench.versions[prober], probe_answer=Answer.REFUSED)
        bench.beat(prober, seen=[refusal])
        bench.take()
    assert waits == [PARKED_FIRST_S, 2 * PARKED_FIRST_S, 4 * PARKED_FIRST_S]


def test_work_on_a_host_in_trouble_is_granted_once_its_wait_is_over_and_nobody_could_probe_it() -> None:
    bench = in_trouble()
    assert bench.hosts.usable("unknown.example", 0.0)
    for bench.now in (10.0, 20.0, 31.0):
        bench.beat("a", "b", "c")
        assert not bench.hosts.usable(HOST, bench.now)
    for agent_id in "abc":
        bench.hosts.unwant(agent_id, HOST)
    assert not bench.hosts.usable(HOST, 29.0)
    assert bench.hosts.usable(HOST, 31.0)


# ---- conduct ----------------------------------------------------------------------------------------------------------


def wait_s(conduct: Conduct, observation: HostObservation, now: float, rng: random.Random) -> float:
    conduct.pass_time(now, is_shared=False)
    conduct.observe(observation, now, rng, is_shared=False)
    return conduct.blocked_until - now


def test_unnamed_waits_double_once_an_incident_with_jitter() -> None:
    conduct, rng = Conduct(), random.Random(3)
    now, waits = 0.0, list[float]()
    for _ in range(12):
        waits.append(wait_s(conduct, seen(throttled=1), now, rng))
        assert not conduct.observe(seen(throttled=1), now + 0.01, rng, is_shared=False)  # another agent met the same
        now += waits[-1]
    for wait, factor in zip(waits[:6], (1, 2, 4, 8, 16, 32), strict=True):
        assert THROTTLED_FIRST_S * factor <= wait <= 1.1 * THROTTLED_FIRST_S * factor
    assert waits[-1] == THROTTLED_MAX_S


def test_a_named_wait_is_kept_to_and_extended_by_a_longer_one_only() -> None:
    conduct, rng = Conduct(), random.Random(3)
    assert wait_s(conduct, seen(throttled=1, retry_after_s=20.0), 100.0, rng) == 20.0
    assert not conduct.observe(seen(throttled=1, retry_after_s=5.0), 101.0, rng)
    assert conduct.observe(seen(throttled=1, retry_after_s=30.0), 102.0, rng)
    assert conduct.blocked_until == 132.0
    assert wait_s(Conduct(), seen(retry_after_s=1e12), 0.0, rng) == RETRY_AFTER_MAX_S
    assert wait_s(Conduct(manners=Manners(retry_after_max_s=60.0)), seen(retry_after_s=99.0), 0.0, rng) == 60.0


def test_a_long_peace_forgives_and_success_amid_trouble_does_not() -> None:
    conduct, rng = Conduct(), random.Random(3)
    for now in (0.0, 10.0, 20.0):
        wait_s(conduct, seen(throttled=1), now, rng)
    conduct.pass_time(40.0, is_shared=False)
    conduct.observe(seen(ok=1), 20.0 + FORGIVEN_AFTER_S, rng)
    assert conduct.incidents == 3
    conduct.observe(seen(ok=1), 20.1 + FORGIVEN_AFTER_S, rng)
    assert conduct.incidents == 0


# ---- pace -------------------------------------------------------------------------------------------------------------


def pace(rate: float = 10.0) -> Pace:
    made = Pace()
    made.set_base(rate, 0.5, may_exceed=True)
    return made


def test_a_sign_of_overload_cuts_the_rate_once_an_incident_and_never_below_the_floor() -> None:
    made = pace()
    made.cut(100.0)
    made.cut(100.0 + INCIDENT_S - 1)
    assert made.rate == pytest.approx(7.0)
    made.cut(100.0 + INCIDENT_S)
    assert made.rate == 5.0  # not 4.9
    made.cut(200.0)
    assert made.rate == 5.0


def test_the_rate_comes_back_along_the_cubic_curve_to_what_is_really_asked() -> None:
    made = pace()
    made.measured = 6.0
    made.cut(0.0)
    curve: list[float] = []
    for now in range(1, 60):
        made.succeeded(float(now))
        curve.append(made.rate)
    assert curve == sorted(curve)
    assert curve[int(INCIDENT_S) - 2] == pytest.approx(7.0)  # not before the incident is over
    assert curve[17] == pytest.approx(10.0, rel=0.1)  # about where it was cut: the curve is flat there
    assert curve[-1] == 12.0  # twice what is asked
    made.measured = 100.0
    made.succeeded(90.0)
    assert made.rate == made.ceiling == 15.0


def test_nothing_but_success_speeds_up_and_a_limit_is_never_passed() -> None:
    made = Pace()
    made.set_base(10.0, 0.5, may_exceed=False)
    made.measured = 100.0
    made.cut(0.0)
    made.count(1000, 50.0)
    assert made.rate == 7.0
    made.succeeded(1000.0)
    assert made.rate == 10.0
    fixed = Pace()
    fixed.set_base(10.0, 0.0, may_exceed=True)
    fixed.cut(0.0)
    assert fixed.rate == 10.0


def test_what_is_really_asked_is_measured_over_some_seconds() -> None:
    made = pace()
    for now in range(41):
        made.count(4, float(now))
    assert made.measured == pytest.approx(4.0, rel=0.15)
