"""A coordinator that other machines can reach: TLS and a credential on every call, each for its role and no longer than it holds."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.common.views import AgentStatus
from support.cli import Finished, delivered
from support.closed_fleet import RECHECK_S, ClosedFleet
from support.fleet import Fleet, command_lines, free_port, until
from support.fleet_certificates import Authority
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

SMALL = {"config.json": b"{}", "data/vocab.txt": b"[PAD]\n" * 100}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo(f"acme/{name}", SMALL) for name in ("one", "two")]) as stand_in:
        yield stand_in


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls", now=datetime.datetime.now(datetime.UTC))


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub, authority: Authority) -> Iterator[ClosedFleet]:
    with ClosedFleet(tmp_path / "fleet", endpoint=hub.url, authority=authority) as made:
        yield made


def refused(finished: Finished) -> str:
    """What a command said that ended for want of access."""
    return finished.expect(3).stderr


# --- opening up -----------------------------------------------------------------------------------------------------


def test_no_other_address_without_tls(tmp_path: Path, hub: StandInHub) -> None:
    with Fleet(tmp_path / "fleet", endpoint=hub.url) as fleet:
        finished = fleet.run("coordinator", "--listen", f"0.0.0.0:{free_port()}", "--state", fleet.state).expect(2)
        assert "needs TLS and credentials" in finished.stderr
        for remedy in ("security.tls_cert", "shoal token create", "127.0.0.1", "--insecure"):
            assert remedy in finished.stderr


def test_insecure_said_out_loud_opens_it(tmp_path: Path, hub: StandInHub) -> None:
    environ = {"SHOAL_SECURITY_INSECURE": "true"}
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ=environ, listen="0.0.0.0") as fleet:
        fleet.start("a1")
        fleet.ended(fleet.submit("hf://acme/one", "--to", tmp_path / "to"))
        assert delivered(tmp_path / "to") == SMALL


def test_a_fleet_over_tls_with_credentials(fleet: ClosedFleet, tmp_path: Path) -> None:
    agent = fleet.token("agent", "node-1")
    fleet.start("a1", environ=fleet.as_agent(agent))
    fleet.ended(fleet.submit("hf://acme/one", "--to", tmp_path / "to"))
    assert delivered(tmp_path / "to") == SMALL
    listed = fleet.ask("token", "list")["tokens"]
    assert [(token["role"], token["name"]) for token in listed] == [("admin", "me"), ("agent", "node-1")]


def test_credentials_are_found_nowhere(fleet: ClosedFleet, tmp_path: Path) -> None:
    first = fleet.token("agent", "node-1")
    fleet.start("a1", environ=fleet.as_agent(first))
    second = fleet.token("agent", "node-2")
    wrong = second[:-4] + ("0000" if second[-4:] != "0000" else "1111")
    stranger = fleet.extra("stranger", fleet.agent_arguments("stranger"), {"SHOAL_SECURITY_TOKEN": wrong})
    assert stranger.wait() == 3
    fleet.run("token", "revoke", fleet.id_of(second)).expect(0)
    lines = command_lines()
    assert any(fleet.address in line for line in lines)
    fleet.agent("a1").terminate()
    fleet.coordinator.terminate()

    secrets = [token.rpartition("_")[2] for token in (*fleet.tokens, wrong)]
    places = {f"process {line}": line.encode() for line in lines}
    places |= {daemon.name: daemon.log.encode() for daemon in (fleet.coordinator, fleet.agent("a1"), stranger)}
    stored = [path for path in (fleet.state, fleet.folder / "a1") for path in path.rglob("*") if path.is_file()]
    assert any(path.name == "coordinator.db" for path in stored)
    places |= {str(path): path.read_bytes() for path in stored}
    assert [place for place, data in places.items() for secret in secrets if secret.encode() in data] == []


# --- roles ----------------------------------------------------------------------------------------------------------


def test_without_a_credential_nobody_is_let_in(fleet: ClosedFleet) -> None:
    fleet.start()
    anonymous = {"SHOAL_SECURITY_TOKEN": ""}
    assert "carries no credential" in refused(fleet.run("status", environ=anonymous))
    agent = fleet.extra("anonymous", fleet.agent_arguments("anonymous"))
    assert agent.wait() == 3
    assert "SHOAL_SECURITY_TOKEN" in agent.log
    assert fleet.agents() == {}


def test_an_agent_is_no_administrator_and_an_administrator_no_agent(fleet: ClosedFleet, tmp_path: Path) -> None:
    fleet.start()
    agent = {"SHOAL_SECURITY_TOKEN": fleet.token("agent", "node-1")}
    commands = (
        ("status",),
        ("jobs",),
        ("agents",),
        ("queue",),
        ("hosts", "set", "example.org", "--rate", "1"),
        ("submit", "hf://acme/one", "--to", str(tmp_path / "to")),
        ("token", "create", "--role", "admin"),
        ("token", "list"),
    )
    for command in commands:
        assert "the call needs admin" in refused(fleet.run(*command, environ=agent))
    administrator = fleet.extra("admin", fleet.agent_arguments("admin"), {"SHOAL_SECURITY_TOKEN": fleet.credential})
    assert administrator.wait() == 3
    assert "the call needs agent" in administrator.log
    assert fleet.agents() == {}
    assert fleet.ask("jobs") == {"jobs": []}


def test_a_coordinator_that_another_authority_vouches_for_is_not_trusted(fleet: ClosedFleet, tmp_path: Path) -> None:
    fleet.start()
    other = Authority(tmp_path / "other", now=datetime.datetime.now(datetime.UTC), name="somebody else")
    finished = fleet.run("status", environ={"SHOAL_SECURITY_TLS_CA": str(other.ca)}).expect(4)
    assert "not trusted" in finished.stderr
    plain = fleet.run("status", environ={"SHOAL_SECURITY_TLS_CA": ""}).expect(4)
    assert fleet.credential not in plain.stderr


# --- for how long ---------------------------------------------------------------------------------------------------


def test_an_expired_credential_is_refused(fleet: ClosedFleet) -> None:
    fleet.start()
    short = fleet.token("admin", "guest", "--expires", "10s")
    environ = {"SHOAL_SECURITY_TOKEN": short}
    fleet.credential = short
    assert fleet.view().agents_alive == 0  # asked from here: a command may take long to start
    finished = until("it to expire", lambda: (f := fleet.run("status", environ=environ)).exit_code and f)
    assert isinstance(finished, Finished)
    assert "it has expired" in refused(finished)


def test_a_quota_is_the_credentials(tmp_path: Path, hub: StandInHub, authority: Authority) -> None:
    options = {"SHOAL_QUOTA_JOBS": "1"}
    with ClosedFleet(tmp_path / "fleet", endpoint=hub.url, authority=authority, **options) as fleet:
        other = fleet.token("admin", "other")
        fleet.coordinator.start()
        until("the coordinator to listen", lambda: fleet.run("jobs").exit_code == 0)
        fleet.submit("hf://acme/one", "--to", str(tmp_path / "one"))
        refused = fleet.run("submit", "hf://acme/two", "--to", str(tmp_path / "two")).expect(7)
        assert "quota of me" in refused.stderr
        fleet.submit("hf://acme/one", "--to", str(tmp_path / "one"))  # the same job: asked for already
        fleet.submit("hf://acme/two", "--to", str(tmp_path / "two"), environ={"SHOAL_SECURITY_TOKEN": other})


def test_a_revoked_credential_ends_its_agents_session(fleet: ClosedFleet) -> None:
    revoked, kept = fleet.token("agent", "node-1"), fleet.token("agent", "node-2")
    fleet.start("a1", environ=fleet.as_agent(revoked))
    fleet.start("a2", environ=fleet.as_agent(kept))
    fleet.run("token", "revoke", fleet.id_of(revoked)).expect(0)
    assert fleet.agent("a1").wait() == 3
    assert "was revoked" in fleet.agent("a1").log
    fleet.until("a1 to be lost", lambda: fleet.agents()["a1"].status is AgentStatus.LOST)
    assert fleet.agents()["a2"].status is AgentStatus.ALIVE
    fleet.coordinator.kill()
    fleet.coordinator.start()
    fleet.until_alive("a2")
    fleet.add_agent("a1")
    assert fleet.agent("a1").wait() == 3  # the revocation is remembered


def test_credentials_are_rotated_without_downtime(fleet: ClosedFleet, tmp_path: Path) -> None:
    old = fleet.token("agent", "node-1")
    environ = fleet.as_agent(old)
    fleet.start("a1", environ=environ)
    new = fleet.token("agent", "node-1")
    Path(environ["SHOAL_SECURITY_TOKEN_FILE"]).write_text(new + "\n")
    pid = fleet.agent("a1").pid

    # The session goes on with the old one until it is opened anew, as at a restart of the coordinator; then the file counts.
    fleet.coordinator.terminate()
    fleet.coordinator.start()
    fleet.until_alive("a1")
    fleet.run("token", "revoke", fleet.id_of(old)).expect(0)
    joined = len(fleet.coordinator.events("agent.joined"))
    listed = fleet.ask("token", "list")["tokens"]
    assert fleet.id_of(old) not in json.dumps(listed)
    fleet.until("the next check of open sessions", lambda: fleet.agents()["a1"].connected_s > RECHECK_S + 1)
    assert fleet.agent("a1").pid == pid
    assert len(fleet.coordinator.events("agent.joined")) == joined
    fleet.ended(fleet.submit("hf://acme/one", "--to", tmp_path / "to"))
    assert delivered(tmp_path / "to") == SMALL


# --- certificates of clients ----------------------------------------------------------------------------------------


def test_a_client_certificate_stands_for_a_credential(tmp_path: Path, hub: StandInHub, authority: Authority) -> None:
    options = {"SHOAL_SECURITY_CLIENT_CA": str(authority.ca)}
    with ClosedFleet(tmp_path / "fleet", endpoint=hub.url, authority=authority, **options) as fleet:
        roles: dict[str, dict[str, str]] = {}
        for name in ("agent:node-1", "admin:me", "me"):
            cert, key = authority.sign(name, name.replace(":", "-"))
            roles[name] = {
                "SHOAL_SECURITY_TLS_CERT": str(cert),
                "SHOAL_SECURITY_TLS_KEY": str(key),
                "SHOAL_SECURITY_TOKEN": "",
            }
        fleet.coordinator.start()
        fleet.add_agent("a1", environ=roles["agent:node-1"])

        def alive() -> bool:
            finished = fleet.run("agents", "--json", environ=roles["admin:me"])
            return finished.exit_code == 0 and [a["status"] for a in finished.document()["agents"]] == ["alive"]

        until("a1 to be alive", alive)
        assert "the call needs admin" in refused(fleet.run("status", environ=roles["agent:node-1"]))
        assert "neither agent:NAME nor admin:NAME" in refused(fleet.run("status", environ=roles["me"]))
        fleet.run("status", environ={"SHOAL_SECURITY_TOKEN": ""}).expect(4)  # without any the handshake fails
