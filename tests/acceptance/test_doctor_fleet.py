"""``shoal doctor`` and the fleet: coordinators that are away, other, or unwilling, and agents that cannot be reached."""

from __future__ import annotations

import asyncio
import datetime
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.common.settings_table import SecuritySettings
from shoal.common.version import VERSION
from shoal.common.views import AgentStatus, AgentView, FleetView, Role
from support.cli import Shoal
from support.diagnosis import Diagnosis, diagnose
from support.endpoints import Issuer, Page, closed_port, web_server
from support.fake_coordinator import FakeCoordinator, serving
from support.fleet import Fleet
from support.fleet_certificates import Authority


class Staged(FakeCoordinator):
    """A coordinator whose view of the fleet is told by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.view = FleetView(version=VERSION, incarnation=1, uptime_s=1.0, agents_alive=1)
        self.ahead_s = 0.0
        self.listed: list[AgentView] = []

    def fleet(self) -> FleetView:
        return replace(self.view, epoch_s=time.time() + self.ahead_s)

    def agents(self) -> list[AgentView]:
        return self.listed


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    return Shoal(tmp_path / "person", environ={"HF_HUB_OFFLINE": "1"})


async def asked(shoal: Shoal, address: str, only: str, **environ: str) -> Diagnosis:
    """Doctor in a process of its own, while the coordinator runs in this one's loop."""
    return await asyncio.to_thread(diagnose, shoal, "--coordinator", address, only=only, environ=environ)


def test_a_coordinator_that_is_away(shoal: Shoal) -> None:
    with closed_port() as port:
        found = diagnose(shoal, "--coordinator", f"127.0.0.1:{port}", only="coordinator,peers")
    row = found.failed("coordinator", exit_code=4)
    assert "nothing listens there" in row.seen and "shoal coordinator" in row.remedy
    assert found.only("peers").result == "skipped"
    diagnose(shoal, only="coordinator").failed("coordinator", exit_code=2)


async def test_another_version_another_clock_and_closed_ports(shoal: Shoal) -> None:
    api = Staged()
    api.view = replace(api.view, version="9.9.9")
    api.ahead_s = 400.0
    nothing_here = Page(status=404, headers={"Content-Type": "text/plain"})
    with web_server(nothing_here) as open_port, web_server() as portal, closed_port() as closed:
        addresses = {
            "reached": f"127.0.0.1:{open_port}",
            "closed": f"127.0.0.1:{closed}",
            "portal": f"127.0.0.1:{portal}",
            "takes": "",
        }
        api.listed = [
            AgentView(agent_id=name, name=name, status=AgentStatus.ALIVE, peer_address=address)
            for name, address in addresses.items()
        ]
        api.listed.append(AgentView(agent_id="gone", name="gone", status=AgentStatus.LOST, peer_address="127.0.0.1:1"))
        async with serving(api) as server:
            found = await asked(shoal, server.address, "coordinator,peers,clock")
    row = found.only("coordinator")
    assert row.result == "warning" and "version 9.9.9" in row.seen and f"here it is version {VERSION}" in row.seen
    assert "behind that of coordinator" in found.failed("clock", exit_code=1).seen
    peers = {row.subject.partition(" ")[0]: row for row in found.of("peers")}
    assert {name: row.result for name, row in peers.items()} == {
        "reached": "ok",
        "closed": "failed",
        "portal": "failed",
        "takes": "warning",
    }
    assert "connection refused" in peers["closed"].seen and "agent.peer_listen" in peers["closed"].remedy


async def test_credentials_and_certificates_of_the_fleet(shoal: Shoal, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls", now=datetime.datetime.now(datetime.UTC))
    cert, key = authority.sign("coordinator", "server")
    api = Staged()
    admin = (await api.create_token(Role.ADMIN, "me", None)).token.reveal()
    agent = (await api.create_token(Role.AGENT, "node", None)).token.reveal()
    api.now += 1
    async with serving(api, listen="0.0.0.0:0", security=SecuritySettings(tls_cert=cert, tls_key=key)) as server:
        address = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        trust = {"SHOAL_SECURITY_TLS_CA": str(authority.ca)}
        right = await asked(shoal, address, "coordinator,tls", SHOAL_SECURITY_TOKEN=admin, **trust)
        assert right.finished.exit_code == 0, right.rows
        assert 'issued by "test authority"' in right.only("tls").seen
        working = await asked(shoal, address, "coordinator", SHOAL_SECURITY_TOKEN=agent, **trust)
        assert working.only("coordinator").result == "warning" and "is an agent's" in working.only("coordinator").seen
        wrong = await asked(shoal, address, "coordinator", SHOAL_SECURITY_TOKEN=agent[:-4] + "0000", **trust)
        assert "token" in wrong.failed("coordinator", exit_code=3).seen
        none = await asked(shoal, address, "coordinator", **trust)
        assert none.failed("coordinator", exit_code=3).remedy
        other = Issuer(tmp_path / "other", now=datetime.datetime.now(datetime.UTC)).ca
        untrusted = await asked(shoal, address, "coordinator,tls", SHOAL_SECURITY_TLS_CA=str(other))
        row = untrusted.failed("tls", exit_code=4)
        assert "not trusted here" in row.seen and "security.tls_ca" in row.remedy
        for run in (right, working, wrong, none):
            assert admin not in run.finished.stdout + run.finished.stderr
            assert agent[-16:] not in run.finished.stdout + run.finished.stderr


def test_a_real_fleet(tmp_path: Path) -> None:
    with closed_port() as closed, Fleet(tmp_path / "fleet", endpoint="http://127.0.0.1:1") as real:
        real.start("near")
        real.add_agent("hidden", environ={"SHOAL_AGENT_PEER_ADDRESS": f"127.0.0.1:{closed}"})
        real.until_alive("near", "hidden")
        found = diagnose(real.shoal, only="coordinator,peers,clock", environ={"HF_HUB_OFFLINE": "1"})
    assert found.only("coordinator").result == "ok" and "2 agents alive" in found.only("coordinator").seen
    assert found.only("clock").result == "ok"
    assert re.match(r"within \d+s of coordinator", found.only("clock").seen)
    assert found.failed("peers", exit_code=1).subject.startswith("hidden at ")
    assert [row.result for row in found.of("peers")].count("ok") == 1
