"""Hundreds of seeded fleets keep to their hosts' budgets, whatever happens to them; and in peace they use them."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from shoal.agent.gates import HostGates
from shoal.common.records import Answer, HostBudget, HostObservation
from shoal.coordinator.scheduler.hosts import HostTable
from shoal.coordinator.scheduler.shares import Shared
from simulation.budgets import BudgetWorld, Scenario, Server
from simulation.clock import Violation

SEEDS = 300
CHUNK = 20


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_interval_sees_more_than_the_budget(first: int) -> None:
    """A failure's note has the seed: ``BudgetWorld(seed).run()`` replays it."""
    for seed in range(first, first + CHUNK):
        BudgetWorld(seed).run()


@pytest.mark.parametrize("policy", [True, False])
@pytest.mark.parametrize("agents", [1, 4, 50])
def test_in_peace_the_budget_is_used(agents: int, *, policy: bool) -> None:
    for rate in (3.0, 20.0):
        server = Server(host="h", rate=rate * 1.006, burst=rate)
        world = BudgetWorld(1, Scenario(agents=agents, workers=8, servers=[server], policy=policy, run_s=90.0))
        world.run()
        assert len(server.log) >= 0.8 * rate * 90.0


@pytest.mark.parametrize("policy", [True, False])
def test_a_host_that_never_relents_is_left_alone_more_and_more(*, policy: bool) -> None:
    server = Server(
        host="h", rate=6.1, burst=6.0, reply=lambda now, number: (Answer.THROTTLED, 2.0) if now > 60 else (Answer.OK, 0)
    )
    scenario = Scenario(agents=5, servers=[server], policy=policy, backoff_cap_s=86_400.0, run_s=1860.0)
    BudgetWorld(3, scenario).run()
    since = [at for at, _ in server.log if at > 61.0]  # those that were under way, or soon, when it began
    assert 4 <= len(since) <= 12


def test_a_host_that_relents_is_used_again() -> None:
    server = Server(
        host="h", rate=6.1, burst=6.0, reply=lambda now, number: (Answer.REFUSED if 20 < now < 50 else Answer.OK, 0.0)
    )
    world = BudgetWorld(3, Scenario(agents=4, servers=[server], policy=True, run_s=300.0)).run()
    assert world.probes["h"] >= 1
    assert sum(at > 200 for at, _ in server.log) >= 0.8 * 6 * 100


# ---- broken on purpose ------------------------------------------------------------------------------------------------

FAULTS = frozenset({"kill_agent", "partition", "freeze", "cut", "leave"})


def caught(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, broken: object, faults: frozenset[str] = FAULTS):
    """The text of the first violation that a broken part leads to."""
    monkeypatch.setattr(owner, name, broken)
    for seed in range(60):
        server = Server(host="h", rate=10.05, burst=10.0, connections=6)
        try:
            BudgetWorld(seed, Scenario(agents=5, servers=[server], faults=faults, fault_every_s=2.0)).run()
        except Violation as violation:
            return str(violation)
    return "nothing"


def test_an_agent_whose_shares_never_run_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = HostGates.renewed

    def for_ever(self: HostGates, until: float, now: float, *, anew: bool) -> None:
        original(self, until + 1e6, now, anew=anew)

    assert "h" in caught(monkeypatch, HostGates, "renewed", for_ever, frozenset({"partition"}))


def test_shares_that_begin_full_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = HostGates._apply

    def full(self: HostGates, gate: object, budget: HostBudget, version: int, now: float, *, goes_on: bool) -> None:
        original(self, gate, budget, version, now, goes_on=goes_on)  # pyright: ignore[reportArgumentType]
        gate.requests.set_level(budget.burst, now)  # pyright: ignore[reportAttributeAccessIssue]

    assert "too often" in caught(monkeypatch, HostGates, "_apply", full)


def test_a_coordinator_that_forgets_unconfirmed_shares_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.coordinator.scheduler import shares

    monkeypatch.setattr(shares._Holding, "counted", lambda self: self.current.values)
    server = Server(host="h", rate=10.05, burst=10.0, connections=6)
    with pytest.raises(Violation):
        for seed in range(60):
            scenario = Scenario(agents=5, servers=[server], faults=FAULTS, fault_every_s=2.0)
            server.log.clear()
            server.under_way.clear()
            server._level = None
            BudgetWorld(seed, scenario).run()
    assert Shared().is_short is False


# ---- what it costs ----------------------------------------------------------------------------------------------------


def test_ten_thousand_agents_on_a_thousand_hosts() -> None:
    """Only what changed is looked at: an event costs its host's few holders, not the fleet."""
    tracemalloc.start()
    hosts = HostTable()
    agents = [f"agent{number}" for number in range(10_000)]
    for number in range(1000):
        hosts.adopt(
            f"h{number}", rate=10.0, rate_multiplier=0.5, connections=16, backoff_initial_s=60.0, backoff_cap_s=86_400.0
        )
    versions: dict[str, int] = {}
    for agent_id in agents:
        hosts.joined(agent_id, 0, 0.0)
    for number in range(10_000):
        hosts.want(agents[number], f"h{number % 1000}")
    for agent_id, budgets in hosts.take_budgets(0.0):
        versions[agent_id] = budgets.version
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(versions) == 10_000
    assert used < 100 << 20
    events, began = 20_000, time.process_time()
    for number in range(events):
        agent_id = agents[number % 10_000]
        now = 1.0 + number / 10_000
        hosts.heard(agent_id, versions[agent_id], 0, now)
        hosts.observe(agent_id, HostObservation(host=f"h{number % 1000}", ok=5, status=200), now)
        if number % 100 == 0:
            for told, budgets in hosts.take_budgets(now):
                versions[told] = budgets.version
    per_s = events / (time.process_time() - began)
    print(f"{per_s:.0f} heartbeats/s, {used / (1 << 20):.0f} MiB")
    assert per_s > 2000  # a floor for slow machines; 10,000 agents send 2,000 a second
