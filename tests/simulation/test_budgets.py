"""Hundreds of seeded fleets keep to their hosts' budgets, whatever happens to them; and in peace they use them."""

from __future__ import annotations

import pytest

from simulation.budgets import BudgetWorld, Scenario, Server

SEEDS = 400
CHUNK = 40


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_interval_sees_more_than_the_budget(first: int) -> None:
    for seed in range(first, first + CHUNK):
        BudgetWorld(seed).run()


@pytest.mark.parametrize("policy", [True, False])
@pytest.mark.parametrize("agents", [1, 4, 50])
@pytest.mark.parametrize("rate", [3.0, 20.0])
def test_in_peace_the_budget_is_used(agents: int, rate: float, *, policy: bool) -> None:
    server = Server(host="h", rate=rate * 1.006, burst=rate)
    world = BudgetWorld(1, Scenario(agents=agents, workers=8, servers=[server], policy=policy, run_s=120.0))
    world.run()
    assert len(server.log) >= 0.8 * rate * 120.0
