"""What changes under a fleet that runs: credentials, certificates, authorities; and who may take whose place."""

from __future__ import annotations

import datetime
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.common.views import AgentStatus
from support.cli import delivered
from support.closed_fleet import RECHECK_S, ClosedFleet
from support.fleet import until
from support.fleet_certificates import Authority
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

FILES = {"config.json": b"{}", "data/vocab.txt": b"[PAD]\n" * 100}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo(f"acme/{name}", FILES) for name in ("one", "two")]) as stand_in:
        yield stand_in


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls", now=datetime.datetime.now(datetime.UTC))


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub, authority: Authority) -> Iterator[ClosedFleet]:
    with ClosedFleet(tmp_path / "fleet", endpoint=hub.url, authority=authority) as made:
        yield made


# ---- whose an agent is ----------------------------------------------------------------------------------------------


def test_nobody_takes_the_place_of_a_living_agent(fleet: ClosedFleet, tmp_path: Path) -> None:
    mine, other = fleet.token("agent", "node-1"), fleet.token("agent", "node-2")
    fleet.start("a1", environ=fleet.as_agent(mine))
    thief = fleet.daemon("thief", fleet.agent_arguments("thief"), fleet.as_agent(other))
    fleet._others.append(thief)
    (fleet.folder / "thief" / "data").mkdir()
    (fleet.folder / "thief" / "data" / "id").write_bytes((fleet.folder / "a1" / "data" / "id").read_bytes())
    thief.start()
    assert thief.wait() == 3
    assert "its identity belongs to the credential 'node-1'; this one is 'node-2'" in thief.log
    (event,) = fleet.coordinator.events("hello.refused")
    assert (event["agent"], event["caller"], event["belongs_to"]) == ("thief", "node-2", "node-1")
    fleet.coordinator.kill()  # nor after a restart, before the agent is back
    fleet.agent("a1").freeze()
    fleet.coordinator.start()
    fleet.until("the coordinator to answer", fleet.view)
    thief.start()
    assert thief.wait() == 3
    fleet.agent("a1").thaw()
    fleet.until_alive("a1")
    fleet.ended(fleet.submit("hf://acme/one", "--to", tmp_path / "to"))
    assert delivered(tmp_path / "to") == FILES


# ---- credentials ----------------------------------------------------------------------------------------------------


def test_a_credential_is_rotated_under_a_running_agent(fleet: ClosedFleet) -> None:
    old = fleet.token("agent", "node-1")
    environ = fleet.as_agent(old)
    fleet.start("a1", environ=environ)
    pid = fleet.agent("a1").pid
    made = fleet.ask("token", "rotate", fleet.id_of(old), "--grace", "8s")
    assert (made["name"], made["role"]) == ("node-1", "agent")
    Path(environ["SHOAL_SECURITY_TOKEN_FILE"]).write_text(made["token"] + "\n")

    def connected_anew() -> bool:
        return len(fleet.coordinator.events("agent.joined")) >= 2 and fleet.agents()["a1"].status is AgentStatus.ALIVE

    fleet.until("the grace to end and the agent to be back", connected_anew)
    assert fleet.agent("a1").pid == pid
    (ended,) = fleet.coordinator.events("stream.ended")
    assert "'node-1' has expired" in ended["reason"]
    late = fleet.extra("late", fleet.agent_arguments("late"), {"SHOAL_SECURITY_TOKEN": old})
    assert late.wait() == 3
    assert "it has expired" in late.log


def test_an_administrator_rotates_its_own_credential_while_no_coordinator_runs(fleet: ClosedFleet) -> None:
    made = fleet.ask("token", "rotate", fleet.id_of(fleet.credential), "--grace", "0s", "--state", fleet.state)
    old, fleet.credential = fleet.credential, made["token"]
    fleet.start()
    finished = fleet.run("status", environ={"SHOAL_SECURITY_TOKEN": old}).expect(3)
    assert "it has expired" in finished.stderr
    fleet.run("status", environ={"SHOAL_SECURITY_TOKEN": made["token"]}).expect(0)
    finished = fleet.run("token", "rotate", "00ff00ff00ff", environ={"SHOAL_SECURITY_TOKEN": made["token"]}).expect(3)
    assert "token 00ff00ff00ff" in finished.stderr


def test_a_revoked_credential_is_named_so_and_ends_at_once(fleet: ClosedFleet) -> None:
    token = fleet.token("agent", "node-1")
    fleet.start("a1", environ=fleet.as_agent(token))
    fleet.run("token", "revoke", fleet.id_of(token)).expect(0)
    answered_at = datetime.datetime.now(datetime.UTC)
    (ended,) = until("the session to end", lambda: fleet.coordinator.events("stream.ended"))
    assert "was revoked" in ended["reason"]
    # By the coordinator's own log: with the answer, not at the next check of open sessions.
    assert (datetime.datetime.fromisoformat(ended["timestamp"]) - answered_at).total_seconds() < RECHECK_S / 2
    assert fleet.agent("a1").wait() == 3
    fleet.add_agent("a1")
    assert fleet.agent("a1").wait() == 3
    assert f"token {fleet.id_of(token)}: it was revoked" in fleet.agent("a1").log
    (refused,) = fleet.coordinator.events("call.refused")
    assert refused["method"].endswith("/Session") and "it was revoked" in refused["error"]


# ---- certificates ---------------------------------------------------------------------------------------------------


def test_authority_and_certificate_are_rotated_without_a_restart(
    fleet: ClosedFleet, authority: Authority, tmp_path: Path
) -> None:
    fleet.start("a1", environ=fleet.as_agent(fleet.token("agent", "node-1")))
    pids = fleet.coordinator.pid, fleet.agent("a1").pid
    old = authority.ca.read_bytes()
    successor = Authority(tmp_path / "next", now=datetime.datetime.now(datetime.UTC), name="the next authority")
    # 1. everybody trusts both. 2. the coordinator shows one of the new authority. 3. nobody trusts the old one.
    authority.ca.write_bytes(old + successor.ca.read_bytes())
    assert fleet.run("status").exit_code == 0
    for source, target in zip(successor.sign("coordinator", "server"), ("server.pem", "server.key"), strict=True):
        (authority.ca.parent / target).write_bytes(source.read_bytes())
    assert fleet.run("status").exit_code == 0
    only_old = tmp_path / "old.pem"
    only_old.write_bytes(old)
    assert "not trusted" in fleet.run("status", environ={"SHOAL_SECURITY_TLS_CA": str(only_old)}).expect(4).stderr
    authority.ca.write_bytes(successor.ca.read_bytes())
    assert fleet.run("status").exit_code == 0
    fleet.ended(fleet.submit("hf://acme/one", "--to", tmp_path / "to"))
    assert len(fleet.coordinator.events("agent.joined")) == 1  # its session went on through all of this
    assert (fleet.coordinator.pid, fleet.agent("a1").pid) == pids
    assert fleet.coordinator.events("certificate.renewed")


def test_a_client_whose_certificate_is_refused_is_told_why_and_so_is_the_coordinators_log(
    tmp_path: Path, hub: StandInHub, authority: Authority
) -> None:
    options = {"SHOAL_SECURITY_CLIENT_CA": str(authority.ca)}
    past = -datetime.timedelta(hours=1)
    other = Authority(tmp_path / "other", now=datetime.datetime.now(datetime.UTC), name="somebody else")
    with ClosedFleet(tmp_path / "fleet", endpoint=hub.url, authority=authority, **options) as fleet:
        fleet.coordinator.start()
        until("the coordinator to listen", lambda: fleet.coordinator.events("server.started"))
        cases = {
            "it demands a client certificate": ("", ""),
            "it refused the certificate of this side": other.sign("agent:x", "x"),
            "the certificate of this side has expired": authority.sign("agent:y", "y", ends=past),
        }
        for told, (cert, key) in cases.items():
            environ = {"SHOAL_SECURITY_TLS_CERT": str(cert), "SHOAL_SECURITY_TLS_KEY": str(key)}
            assert told in fleet.run("status", environ=environ).expect(4).stderr
        reasons = (
            "it showed no client certificate, which security.client_ca demands",
            "its client certificate has expired",
            "does not come from a trusted authority",
        )

        def told() -> bool:
            """A thread of the coordinator's reads what gRPC says, later than the client learns of it."""
            said = [event["reason"] for event in fleet.coordinator.events("tls.refused")]
            return all(any(reason in each for each in said) for reason in reasons)

        until("all refusals to be told", told)


def test_a_certificate_that_ends_soon_is_told_of(tmp_path: Path, hub: StandInHub, authority: Authority) -> None:
    with ClosedFleet(tmp_path / "fleet", endpoint=hub.url, authority=authority) as fleet:
        authority.sign("coordinator", "server", ends=datetime.timedelta(hours=7))
        fleet.start()
        shown = fleet.until("the warning", lambda: fleet.view().warnings)
        assert shown and "expires in 0 days" in shown[0]
        assert f"warning: {shown[0]}" in fleet.run("status").expect(0).stdout
        assert fleet.ask("status")["fleet"]["warnings"] == list(shown)
        (event,) = fleet.coordinator.events("certificate.expiring")
        assert event["setting"] == "security.tls_cert" and event["level"] == "warning"


# ---- backup ---------------------------------------------------------------------------------------------------------


def test_a_backup_of_a_running_coordinator_can_be_put_back(fleet: ClosedFleet, tmp_path: Path) -> None:
    agent = fleet.token("agent", "node-1")
    fleet.start("a1", environ=fleet.as_agent(agent))
    first = fleet.submit("hf://acme/one", "--to", tmp_path / "one")
    fleet.ended(first)
    fleet.run("hosts", "set", "slow.example", "--rate", "5").expect(0)
    file = tmp_path / "backup.db"
    assert str(file) in fleet.run("backup", file).expect(0).stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in fleet.state.glob("backup-*")] == []
    assert "--force" in fleet.run("backup", file).expect(2).stderr
    incarnation = fleet.view().incarnation
    second = fleet.submit("hf://acme/two", "--to", tmp_path / "two")
    fleet.ended(second)

    fleet.coordinator.kill()
    for path in fleet.state.glob("coordinator.db*"):
        path.unlink()
    (fleet.state / "coordinator.db").write_bytes(file.read_bytes())
    fleet.coordinator.start()
    fleet.until_alive("a1")
    view = fleet.view()
    assert view.incarnation > incarnation + 1000  # so that no lease of what was lost passes for one of now
    assert [job["job_id"] for job in fleet.ask("jobs")["jobs"]] == [first]
    assert fleet.hosts()["slow.example"].requests_per_s == 5
    fleet.ended(fleet.submit("hf://acme/two", "--to", tmp_path / "two"))
    assert delivered(tmp_path / "two") == FILES


def test_a_backup_without_a_coordinator_and_who_may_not_have_one(fleet: ClosedFleet, tmp_path: Path) -> None:
    agent = fleet.token("agent", "node-1")
    file = tmp_path / "offline.db"
    told = fleet.ask("backup", file, "--state", fleet.state)
    assert told == {"file": str(file), "bytes": file.stat().st_size}
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT count(*) FROM tokens").fetchone() == (2,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    secret = agent.rpartition("_")[2]
    assert secret.encode() not in file.read_bytes()
    fleet.start()
    assert (
        "the call needs admin"
        in fleet.run("backup", tmp_path / "x", environ={"SHOAL_SECURITY_TOKEN": agent}).expect(3).stderr
    )
    assert not (tmp_path / "x").exists() and list(tmp_path.glob(".x*")) == []
    assert fleet.run("backup", tmp_path / "no" / "folder").expect(5)
    assert fleet.run("backup", file, "--force", "--state", fleet.state).exit_code != 0  # it is in use
