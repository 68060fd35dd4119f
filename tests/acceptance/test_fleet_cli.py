"""What a person says to a running fleet, and what the fleet makes of it: ``shoal`` as a subprocess against real daemons."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.common.views import AgentStatus, JobStatus
from support.cli import delivered
from support.contents import SyntheticFile, sha256_hex
from support.faults import Latency, Status
from support.fleet import Fleet, file_sha256_hex, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

MIB = 1 << 20
BIG = SyntheticFile(64 * MIB, seed=5)
SMALL = {"config.json": b"{}", "data/vocab.txt": b"[PAD]\n" * 100}
SLOW = 2 * MIB  # bytes/s of each connection: BIG takes half a minute


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    repos = [HubRepo(f"acme/{name}", SMALL) for name in ("one", "two", "three")]
    with hub_in_thread([HubRepo("acme/big", {"model.bin": BIG}), *repos]) as stand_in:
        yield stand_in


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub) -> Iterator[Fleet]:
    environ = {"SHOAL_COORDINATOR_HEARTBEAT": "500ms", "SHOAL_FETCH_CONNECTIONS_PER_HOST": "1"}
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ=environ) as made:
        yield made


# --- submitting -----------------------------------------------------------------------------------------------------


def test_sources_from_a_file_and_the_same_one_twice_is_one_job(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start("a1")
    listed = tmp_path / "sources.txt"
    listed.write_text("# models\n\nhf://acme/one\n  hf://acme/two   # the second\nacme/one\n")
    first = fleet.run("submit", "hf://acme/one", "--from-file", listed, "--to", tmp_path / "to").expect(0)
    ids = first.stdout.split()
    assert len(ids) == len(set(ids)) == 2
    fleet.run("submit", "--from-file", "-", "--to", "to", stdin="hf://acme/three\n").expect(0)
    for job in (*ids, fleet.ask("jobs")["jobs"][0]["job_id"]):
        fleet.ended(job)
    assert delivered(tmp_path / "to") == SMALL
    assert delivered(fleet.shoal.cwd / "to") == SMALL
    assert [repo["uri"] for repo in fleet.ask("repos")["repos"]] == [
        "hf://acme/one",
        "hf://acme/three",
        "hf://acme/two",
    ]
    assert len(fleet.ask("jobs")["jobs"]) == 3


def test_a_job_that_runs_is_not_made_twice(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start()
    first = fleet.ask("submit", "hf://acme/one", "--to", tmp_path / "to")["jobs"][0]
    again = fleet.ask("submit", "acme/one", "--to", tmp_path / "to")["jobs"][0]
    other = fleet.ask("submit", "hf://acme/one", "--to", tmp_path / "elsewhere")["jobs"][0]
    assert (first["created"], again["created"], other["created"]) == (True, False, True)
    assert again["job_id"] == first["job_id"] != other["job_id"]


def test_get_follows_and_ctrl_c_leaves_the_job_running(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = SLOW
    fleet.start("a1", "a2")
    with fleet.get("hf://acme/big", "--to", tmp_path / "to") as getting:
        job = fleet.until("the job", lambda: [view.job_id for view in fleet.queue()])[0]
        fleet.until_arrived(job, 2 * MIB)
        getting.signal(signal.SIGINT)
        interrupted = getting.wait().expect(130)
    assert f"shoal cancel {job}" in interrupted.stderr
    hub.faults.connection_rate = None
    fleet.ended(job)
    assert file_sha256_hex(tmp_path / "to/model.bin") == sha256_hex(BIG)

    followed = fleet.run("get", "hf://acme/one", "--to", tmp_path / "one").expect(0)
    assert followed.stdout == f"{tmp_path}/one\n"
    assert delivered(tmp_path / "one") == SMALL


def test_what_cannot_be_found_ends_the_job_with_its_reason(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start("a1")
    finished = fleet.run("get", "hf://acme/missing", "--to", tmp_path / "to").expect(3)
    assert "acme/missing" in finished.stderr
    job = fleet.ask("jobs")["jobs"][0]
    assert (job["status"], job["failure"]["code"]) == ("failed", "not-found")
    assert "acme/missing" in fleet.run("errors", job["job_id"]).expect(0).stdout


def test_without_a_coordinator_everything_says_so(fleet: Fleet) -> None:
    for arguments in (("status",), ("submit", "hf://acme/one"), ("get", "hf://acme/one"), ("pause", "x"), ("queue",)):
        finished = fleet.run(*arguments).expect(4)
        assert fleet.address in finished.stderr
        assert "nothing listens there" in finished.stderr


# --- control --------------------------------------------------------------------------------------------------------


def test_pause_resume_and_cancel(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = SLOW
    fleet.start("a1", "a2")
    job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
    fleet.until_arrived(job, 2 * MIB)

    assert "paused" in fleet.run("pause", job).expect(0).stdout
    paused = fleet.until("all leases to be given back", lambda: (v := fleet.view()).units_leased == 0 and v)
    assert paused
    served = hub.log.settled().bytes_served
    assert fleet.ask("status", job)["paused"] is True
    fleet.ended(fleet.submit("hf://acme/one", "--to", tmp_path / "one"))  # others are served meanwhile
    assert hub.log.bytes_served == served + sum(map(len, SMALL.values()))

    fleet.run("resume", job).expect(0)
    hub.log.wait_for(lambda log: log.bytes_served > served + 2 * MIB, timeout_s=60)
    assert fleet.ask("cancel", job)["status"] == "cancelled"
    fleet.until("all leases to be given back", lambda: fleet.view().units_leased == 0)
    assert not (tmp_path / "to/model.bin").exists()
    assert fleet.run("cancel", job).expect(1).stderr.count("it has ended (cancelled)") == 1

    hub.faults.connection_rate = None
    fleet.run("retry", job).expect(0)
    fleet.ended(job)
    assert file_sha256_hex(tmp_path / "to/model.bin") == sha256_hex(BIG)
    # What had arrived before the cancel was not fetched again, but for what was on its way.
    assert hub.log.bytes_served <= BIG.size * 1.3


def test_failed_objects_are_listed_and_retried(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    rule = hub.faults.add(Status(404), path="config.json", repo="models/acme/one", kinds={"file"})
    fleet.start("a1")
    finished = fleet.run("get", "hf://acme/one", "--to", tmp_path / "to", "--json")
    assert finished.exit_code in (1, 3)
    (job,) = finished.document()["jobs"]
    assert (job["status"], job["objects_done"], job["objects_failed"]) == ("failed", 1, 1)
    (error,) = fleet.ask("errors", job["job_id"])["errors"]
    assert (error["path"], error["failure"]["code"]) == ("config.json", "not-found")
    assert "config.json" in fleet.run("errors", job["job_id"]).expect(0).stdout
    assert delivered(tmp_path / "to") == {"data/vocab.txt": SMALL["data/vocab.txt"]}

    hub.faults.remove(rule)
    fleet.run("retry", job["job_id"]).expect(0)
    again = fleet.ended(job["job_id"])
    assert (again.objects_done, again.objects_failed) == (2, 0)
    assert delivered(tmp_path / "to") == SMALL
    assert fleet.run("retry", job["job_id"]).expect(1).stderr.count("nothing to retry") == 1


def test_a_higher_priority_is_served_first(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    for name in ("low", "high"):
        hub.add(HubRepo(f"acme/{name}", {f"f{number:02}": b"x" * number for number in range(1, 81)}))
    hub.faults.add(Latency(0.01), kinds={"resolve"})
    fleet.start()
    low = fleet.submit("hf://acme/low", "--to", tmp_path / "low", "--name", "slow one")
    high = fleet.submit("hf://acme/high", "--to", tmp_path / "high", "--priority", "5")
    middle = fleet.submit("hf://acme/one", "--to", tmp_path / "one", "--priority", "1")
    assert [view["job_id"] for view in fleet.ask("queue")["queue"]] == [high, middle, low]
    for job in (low, high, middle):
        fleet.until("the listing", lambda job=job: fleet.job(job).objects_total)
    assert [line.split()[0] for line in fleet.run("queue").stdout.splitlines()[1:]] == [high, middle, low]
    fleet.start("a1")
    for job in (low, middle, high):
        fleet.ended(job)
    asked = [record.repo for record in hub.log.where(kind="resolve")]
    assert (asked.count("models/acme/low"), asked.count("models/acme/high")) == (80, 80)
    until_last = asked[: len(asked) - asked[::-1].index("models/acme/high")]
    assert until_last.count("models/acme/low") <= 40  # what was granted before the other job was ready, at most
    assert fleet.run("status", "slow one").expect(0).stdout.splitlines()[0].split()[1] == low
    assert fleet.ask("queue") == {"queue": []}


# --- watching -------------------------------------------------------------------------------------------------------


def test_status_of_the_fleet_of_a_job_and_of_a_repo(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = SLOW
    hub.faults.slow_after = (4 * MIB, MIB // 4)  # it must not end before all questions were asked
    fleet.start("a1", "a2")
    job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
    fleet.until_arrived(job, 2 * MIB)
    whole = fleet.ask("status")
    assert (whole["fleet"]["agents_alive"], whole["fleet"]["jobs_active"]) == (2, 1)
    assert [view["job_id"] for view in whole["jobs"]] == [job]
    for wanted in (job, "hf://acme/big", "acme/big"):
        one = fleet.ask("status", wanted)
        assert (one["job_id"], one["status"]) == (job, "running")
        assert [active["path"] for active in one["active"]] == ["model.bin"]
        assert set(one["active"][0]["agents"]) <= {"a1", "a2"}
        assert {agent["name"] for agent in one["agents"]} <= {"a1", "a2"}
        assert sum(agent["from_origin"] for agent in one["agents"]) == one["bytes_fetched"] > 0
    shown = fleet.run("status", job).stdout
    assert "model.bin" in shown and "FROM ORIGIN" in shown
    assert fleet.ask("jobs")["jobs"][0]["agents"] == [], "lists do not tell it"
    agents = {view["name"]: view for view in fleet.ask("agents")["agents"]}
    assert {view["status"] for view in agents.values()} == {"alive"}

    def units_agree() -> bool:
        """Two questions: the answers are of one moment where nothing changed between."""
        before = fleet.view().units_leased
        told = sum(view["units"] for view in fleet.ask("agents")["agents"])
        return told == before == fleet.view().units_leased

    fleet.until("agents and fleet to tell the same", units_agree)

    with fleet.shoal.start("status", job, "--watch", "--json") as watching:
        hub.faults.clear()
        fleet.ended(job)
        seen = [json.loads(line) for line in watching.wait().expect(0).stdout.splitlines()]
    assert seen[-1]["status"] == "done"
    assert seen[-1]["bytes_done"] == BIG.size
    arrived = [view["bytes_arrived"] for view in seen]
    assert arrived == sorted(arrived)
    assert fleet.run("status", "acme/unknown").expect(3).stderr.count("acme/unknown") == 1


def test_getting_goes_on_across_a_restart_of_the_coordinator(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.total_rate = MIB
    fleet.start("a1")
    with fleet.shoal.start("get", "hf://acme/big", "--to", str(tmp_path / "to")) as getting:
        hub.log.wait_for(lambda log: log.bytes_served > MIB, timeout_s=60)
        fleet.coordinator.kill()
        until("the outage to be told", lambda: "coordinator.waited_for" in getting.stderr)
        fleet.coordinator.start()
        hub.faults.total_rate = None
        done = getting.wait().expect(0)
    assert "acme/big: done" in done.stderr
    assert file_sha256_hex(tmp_path / "to/model.bin") == sha256_hex(BIG)
    assert done.stdout.strip() == str(tmp_path / "to")


def test_watching_the_fleet_goes_on_until_it_is_stopped(fleet: Fleet) -> None:
    fleet.start("a1")
    with fleet.shoal.start("status", "--watch", "--json") as watching:
        output = fleet.shoal.home.parent / "runs" / "0" / "stdout"
        until("two looks", lambda: output.read_text().count("\n") >= 2)
        watching.signal(signal.SIGINT)
        finished = watching.wait().expect(130)
    looks = [json.loads(line) for line in finished.stdout.splitlines()]
    assert looks.pop()["error"]["code"] == "interrupted"
    assert {look["fleet"]["agents_alive"] for look in looks} == {1}


# --- governing ------------------------------------------------------------------------------------------------------


LATE_S = 1.0
"""A request is written down when the server reads it: a busy machine reads some late, and so several at once."""


def check_rate(starts: list[float], rate: float) -> None:
    """That requests came as token buckets let them out: in every window never more than the rate and a burst of a second's worth."""
    asked = sorted(starts)
    assert len(asked) > 4 * rate, "so few could have come at once"
    for first in range(len(asked)):
        for last in range(first + 1, len(asked)):
            assert last - first + 1 <= rate * (asked[last] - asked[first] + LATE_S) + rate


def ask_for_many(fleet: Fleet, hub: StandInHub, to: Path, rate: float) -> str:
    """Three agents fetch 100 files from a host that the fleet may ask so often. Returns: the host."""
    host = hub.url.removeprefix("http://")
    hub.add(HubRepo("acme/many", {f"f{number:02}": b"%d" % number for number in range(100)}))
    fleet.start("a1", "a2", "a3")
    (told,) = fleet.ask("hosts", "set", host, "--rate", str(rate))["hosts"]
    assert (told["host"], told["requests_per_s"]) == (host, rate)
    fleet.ended(fleet.submit("hf://acme/many", "--to", to))
    return host


def test_a_host_policy_limits_the_whole_fleet(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    host = ask_for_many(fleet, hub, tmp_path / "to", 20.0)
    starts = [record.started_at for record in hub.log.where(kind="resolve")]
    assert len(starts) == 100
    check_rate(starts, 20.0)
    assert max(agent.objects_done for agent in fleet.agents().values()) < 100

    fleet.coordinator.kill()
    fleet.coordinator.start()
    fleet.until_alive("a1")
    assert fleet.hosts()[host].requests_per_s == 20.0  # it is remembered
    fleet.run("hosts", "set", host, "--rate", "0").expect(0)
    assert fleet.hosts()[host].requests_per_s == 0
    assert fleet.run("hosts", "set", host, "--rate", "-1").exit_code == 2
    assert fleet.run("hosts", "set", host).exit_code == 2


def test_a_host_policy_counts_redirects_to_the_host_too(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    ask_for_many(fleet, hub, tmp_path / "to", 20.0)
    starts = [record.started_at for record in hub.log.records if record.kind in ("resolve", "file")]
    assert len(starts) == 200
    check_rate(starts, 20.0)


def test_a_drained_agent_leaves_and_the_others_go_on(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = SLOW
    fleet.start("a1", "a2")
    job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
    fleet.until_arrived(job, 2 * MIB)
    fleet.run("agents", "drain", "a1").expect(0)
    assert fleet.agent("a1").wait() == 0
    fleet.until("its leaving to be known", lambda: fleet.agents()["a1"].status is AgentStatus.LEFT)
    hub.faults.connection_rate = None
    fleet.ended(job)
    assert file_sha256_hex(tmp_path / "to/model.bin") == sha256_hex(BIG)
    assert "left" in fleet.run("agents").stdout
    assert fleet.run("agents", "drain", "nobody").exit_code == 3
    assert fleet.run("agents", "drain").exit_code == 2


def test_an_agent_without_a_coordinator_waits_and_stops_when_it_is_told_to(fleet: Fleet) -> None:
    agent = fleet.add_agent("a1")
    until("it to have tried", lambda: agent.events("agent.disconnected"))
    assert agent.terminate() == 0
    fleet.add_agent("a1")
    fleet.start()
    fleet.until_alive("a1")
    assert fleet.view().jobs_active == 0


def test_cancelling_while_the_source_is_listed(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    slow = hub.faults.add(Latency(100.0), kinds={"tree"})
    fleet.start("a1")
    job = fleet.submit("hf://acme/one", "--to", tmp_path / "to")
    hub.log.wait_for(lambda log: log.count(kind="info") > 0, timeout_s=60)
    assert fleet.ask("cancel", job)["status"] == "cancelled"
    hub.faults.remove(slow)
    fleet.run("retry", job).expect(0)
    done = fleet.ended(job, JobStatus.DONE)
    assert (done.objects_total, done.objects_done) == (2, 2)
    assert delivered(tmp_path / "to") == SMALL


def test_a_budget_holds_at_the_hosts_own_door_while_agents_die_and_join(
    fleet: Fleet, hub: StandInHub, tmp_path: Path
) -> None:
    """The server's own log, in every window: at most the rate and one burst, though one agent is killed and another one joins."""
    rate = 20.0
    host = hub.url.removeprefix("http://")
    hub.add(HubRepo("acme/many", {f"f{number:03}": b"%d" % number for number in range(160)}))
    fleet.start("a1", "a2", "a3", "a4")
    fleet.ask("hosts", "set", host, "--rate", str(rate), "--connections", "8")
    job = fleet.submit("hf://acme/many", "--to", tmp_path / "to")
    hub.log.wait_for(lambda log: log.count(kind="resolve") >= 30, timeout_s=60)
    fleet.agent("a2").kill()
    fleet.add_agent("a5")
    fleet.ended(job, timeout_s=150)
    (view,) = (view for view in fleet.ask("hosts")["hosts"] if view["host"] == host)
    assert (view["condition"], view["requests_per_s"], view["connections"]) == ("open", rate, 8)
    assert view["shares"]
    check_rate([record.started_at for record in hub.log.records if record.kind in ("resolve", "file")], rate)
