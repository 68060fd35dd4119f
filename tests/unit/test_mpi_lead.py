"""What rank 0 makes of what the others tell it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from shoal.client.fleet_head import FleetHead
from shoal.common.secrets import Secret
from shoal.slurm.mpi_lead import Lead


@pytest.fixture
def lead() -> Iterator[Lead]:
    with socket.socket() as listening:
        yield Lead(
            head=FleetHead({}, hosts=["127.0.0.1"]),
            listening=listening,
            key=Secret("k"),
            commands=[["get", "x"]],
            planned={0: 1, 1: 0, 2: 2},
            nodes={0: "a", 1: "a", 2: "b"},
        )


def test_a_rank_that_died_takes_its_agents_with_it(lead: Lead, capsys: pytest.CaptureFixture[str]) -> None:
    assert lead.expected == 3
    lead.heard(2, {"agents": 2})
    lead.heard(2, {"gone": True})
    lead.heard(1, {"gone": True})
    assert lead.expected == 1
    assert capsys.readouterr().err == "shoal: rank 2 on b is gone, with its agents\nshoal: rank 1 on a is gone\n"


def test_an_agent_that_ended_is_named(lead: Lead, capsys: pytest.CaptureFixture[str]) -> None:
    lead.heard(2, {"agents": 1, "ended": {"b-0": -9}})
    assert lead.expected == 2
    assert capsys.readouterr().err == "shoal: agent b-0 has ended with exit code -9\n"


def test_an_agent_that_could_not_start_tells_why(lead: Lead, capsys: pytest.CaptureFixture[str]) -> None:
    lead.heard(2, {"problem": "agent.data: no space", "code": 5})
    lead.heard(2, {"agents": 0})
    assert (lead.expected, lead.problems) == (1, [("agent.data: no space", 5)])
    assert "rank 2 on b: agent.data: no space" in capsys.readouterr().err


def test_one_rank_that_is_told_to_stop_stops_all(lead: Lead, capsys: pytest.CaptureFixture[str]) -> None:
    lead.heard(2, {"stop": True})
    assert lead.stop.is_set()
    lead.heard(2, {"agents": 0, "ended": {"b-0": 0, "b-1": 0}})
    lead.heard(2, {"drained": True})
    lead.heard(2, {"gone": True})
    assert lead.drained == {2}
    assert capsys.readouterr().err == "", "an end in order is no news"
