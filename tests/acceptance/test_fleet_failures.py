"""What a fleet of real processes survives: kills, restarts, freezes, signals, folders that are not shared, full disks, busy hosts."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal.common.views import AgentStatus, JobStatus
from support.cli import until_tidy
from support.contents import SyntheticFile, sha256_hex
from support.faults import Latency, Status
from support.fleet import Fleet, file_sha256_hex, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

MIB = 1 << 20
SIZE = 160 * MIB
BIG = SyntheticFile(SIZE, seed=3)
QUICK = {
    "SHOAL_COORDINATOR_LEASE_TTL": "3s",
    "SHOAL_COORDINATOR_HEARTBEAT": "500ms",
    "SHOAL_FETCH_CONNECTIONS_PER_HOST": "1",
}
RATE = 12 * MIB
SLOW_AFTER = SIZE // 2
"""What is to happen under way happens before that, and then there still is a way: half of it at this rate would take 20 s."""
AGENTS = ("a1", "a2", "a3")


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/big", {"model.bin": BIG})]) as stand_in:
        stand_in.faults.connection_rate = RATE
        stand_in.faults.slow_after = (SLOW_AFTER, 4 * MIB)
        yield stand_in


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ=QUICK) as made:
        yield made


def check_delivery(fleet: Fleet, hub: StandInHub, job_id: str, to: Path, *, twice_max: float = 0.05) -> None:
    """The one file is there and right, was counted once, and cost the origin hardly more than its size."""
    hub.faults.slow_after = None
    job = fleet.ended(job_id)
    assert (job.objects_done, job.objects_failed, job.bytes_done) == (1, 0, SIZE)
    assert [(obj.status, obj.size) for obj in fleet.objects(job_id)] == [("done", SIZE)]
    assert file_sha256_hex(to / "model.bin") == sha256_hex(BIG)
    until_tidy(to)
    assert hub.log.bytes_served <= SIZE * (1 + twice_max)


# --- kill -9 --------------------------------------------------------------------------------------------------------


def test_killed_agent_and_killed_coordinator(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    fleet.start(*AGENTS)
    job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
    fleet.until_arrived(job, 40 * MIB)
    fleet.agent("a2").kill()
    fleet.until_arrived(job, 70 * MIB)
    fleet.coordinator.kill()
    served = hub.log.bytes_served
    hub.log.wait_for(lambda log: log.bytes_served > served + 4 * MIB, timeout_s=60)  # the agents work on meanwhile
    fleet.coordinator.start()
    check_delivery(fleet, hub, job, tmp_path / "to")
    assert fleet.view().incarnation > 1
    fleet.until("a2 to be lost", lambda: fleet.agents()["a2"].status is AgentStatus.LOST)


# --- frozen ---------------------------------------------------------------------------------------------------------


def test_a_frozen_agent_gets_no_credit_for_what_it_lost(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    small = SyntheticFile(8 * MIB, seed=4)
    hub.add(HubRepo("acme/small", {"model.bin": small}))
    hub.add(HubRepo("acme/next", {"model.bin": small}))
    hub.faults.connection_rate = 2 * MIB
    fleet.start("a1")
    job = fleet.submit("hf://acme/small", "--to", tmp_path / "to")
    hub.log.wait_for(lambda log: log.bytes_served > 2 * MIB, timeout_s=60)
    fleet.agent("a1").freeze()
    fleet.start("a2")
    fleet.until("a1 to be lost", lambda: fleet.agents()["a1"].status is AgentStatus.LOST)
    served = hub.log.bytes_served
    hub.log.wait_for(lambda log: log.bytes_served > served + 2 * MIB, timeout_s=60)  # a2 has its work
    fleet.agent("a1").thaw()
    fleet.until_alive("a1")
    fleet.ended(job)
    assert [obj.agent for obj in fleet.objects(job)] == ["a2"]
    assert {name: agent.objects_done for name, agent in fleet.agents().items()} == {"a1": 0, "a2": 1}
    assert file_sha256_hex(tmp_path / "to/model.bin") == sha256_hex(small)

    fleet.agent("a2").terminate()
    hub.faults.connection_rate = None
    fleet.ended(fleet.submit("hf://acme/next", "--to", tmp_path / "next"))
    assert fleet.agents()["a1"].objects_done == 1


def test_the_others_finish_without_a_frozen_agent(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    fleet.start(*AGENTS)
    job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
    fleet.until_arrived(job, 30 * MIB)
    fleet.agent("a1").freeze()
    hub.faults.slow_after = None
    fleet.ended(job)
    fleet.agent("a1").thaw()
    fleet.until_alive("a1")
    fleet.until("a1 to let go of everything", lambda: fleet.agents()["a1"].units == 0)
    # What the kernel had buffered for the frozen one counts as sent, too.
    check_delivery(fleet, hub, job, tmp_path / "to", twice_max=0.15)


# --- signals --------------------------------------------------------------------------------------------------------


def test_a_terminated_agent_gives_its_work_back(hub: StandInHub, tmp_path: Path) -> None:
    # With leases so long that waiting for one to run out would fail the test.
    environ = {**QUICK, "SHOAL_COORDINATOR_LEASE_TTL": "10m"}
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ=environ) as fleet:
        fleet.start(*AGENTS)
        job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
        fleet.until_arrived(job, 30 * MIB)
        assert fleet.agent("a1").terminate() == 0
        left = fleet.until(
            "its leaving to be known", lambda: (a := fleet.agents()["a1"]).status is AgentStatus.LEFT and a
        )
        assert left and left.units == 0
        assert not (tmp_path / "to/model.bin").exists()
        check_delivery(fleet, hub, job, tmp_path / "to")


def test_a_terminated_coordinator_lets_its_agents_come_back(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    fleet.start(*AGENTS)
    job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
    fleet.until_arrived(job, 30 * MIB)
    assert fleet.coordinator.terminate() == 0
    assert all(fleet.agent(name).running for name in AGENTS)
    fleet.coordinator.start()
    check_delivery(fleet, hub, job, tmp_path / "to")
    fleet.until_alive(*AGENTS)
    # An agent that came back once can still leave in order.
    assert [fleet.agent(name).terminate() for name in AGENTS] == [0, 0, 0]
    fleet.until("all to have left", lambda: {agent.status for agent in fleet.agents().values()} == {AgentStatus.LEFT})
    for event in ("agent.goodbye_unsent", "agent.goodbye_unanswered"):
        assert [fleet.agent(name).events(event) for name in AGENTS] == [[], [], []]


def test_a_second_signal_ends_a_daemon_at_once(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    fleet.start("a1")
    fleet.agent("a1").freeze()  # now the coordinator's drain has something to wait for
    fleet.coordinator.signal(signal.SIGTERM)
    until("the first signal to be taken", lambda: fleet.coordinator.events("daemon.stopping"))
    assert fleet.coordinator.running
    assert fleet.coordinator.terminate() == 130, "the drain ended it"
    fleet.agent("a1").thaw()


# --- who is who -----------------------------------------------------------------------------------------------------


def test_an_agent_is_the_same_after_a_restart_and_reports_what_its_journal_holds(
    hub: StandInHub, tmp_path: Path
) -> None:
    # With leases that do not run out while the coordinator is frozen.
    environ = {**QUICK, "SHOAL_COORDINATOR_LEASE_TTL": "10m"}
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ=environ) as fleet:
        small = SyntheticFile(8 * MIB, seed=4)
        hub.add(HubRepo("acme/small", {"model.bin": small}))
        hub.faults.connection_rate = MIB // 2  # until the coordinator is frozen
        fleet.start("a1")
        before = fleet.agents()["a1"].agent_id
        job = fleet.submit("hf://acme/small", "--to", tmp_path / "to")
        hub.log.wait_for(lambda log: log.bytes_served > MIB // 2, timeout_s=60)
        fleet.coordinator.freeze()
        hub.faults.connection_rate = None
        until("the file", (tmp_path / "to/model.bin").exists)
        journal = tmp_path / "fleet/a1/data/journal"
        until("the report", lambda: b'"outcome":"done","done":[]' in journal.read_bytes().rpartition(b"drop")[2])
        fleet.agent("a1").kill()
        fleet.coordinator.kill()
        served = hub.log.bytes_served

        fleet.coordinator.start()
        fleet.add_agent("a1")
        fleet.ended(job)
        assert fleet.coordinator.events("agent.joined")[-1]["unreported"] >= 1
        agents = fleet.agents()
        assert list(agents) == ["a1"]
        assert (agents["a1"].agent_id, agents["a1"].objects_done) == (before, 1)
        assert fleet.job(job).objects_skipped == 0  # credited from the journal, not found again
        assert hub.log.bytes_served == served
        assert file_sha256_hex(tmp_path / "to/model.bin") == sha256_hex(small)


def test_one_data_folder_serves_one_agent(fleet: Fleet) -> None:
    fleet.start("a1")
    second = fleet.extra("second", fleet.agent_arguments("a1"))
    assert second.wait() == 1
    assert "is in use by process" in second.log
    assert "--data" in second.log
    fleet.until_alive("a1")


def test_one_state_folder_serves_one_coordinator(fleet: Fleet) -> None:
    fleet.start("a1")
    arguments = ["coordinator", "--listen", "127.0.0.1:0", "--state", str(fleet.state)]
    second = fleet.extra("second", arguments)
    assert second.wait() == 1
    assert str(fleet.state) in second.log
    fleet.until_alive("a1")


def test_one_address_serves_one_coordinator(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start("a1")
    arguments = ["coordinator", "--listen", fleet.address, "--state", str(tmp_path / "other")]
    second = fleet.extra("second", arguments)
    assert second.wait() == 2
    assert "Address already in use" in second.log


# --- folders and disks ----------------------------------------------------------------------------------------------


def test_an_agent_that_sees_another_folder_is_left_out(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    fleet.start("a1", "a2")
    job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
    fleet.until_arrived(job, 10 * MIB)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fleet.add_agent("a3", "--root", str(elsewhere))
    fleet.until_alive("a3")
    told = until("the log to name a3", lambda: fleet.coordinator.events("agent.left_out"))
    assert {(event["agent"], event["job"]) for event in told} == {("a3", job)}
    check_delivery(fleet, hub, job, tmp_path / "to")
    assert list(elsewhere.rglob("*")) == []
    fleet.until_alive("a3")
    assert fleet.objects(job)[0].failures == 0  # that was not the object's fault


@contextmanager
def small_disk(path: Path, size: int) -> Generator[Path]:
    """A file system of so many bytes. Skips the test where none can be mounted."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no mount: {mounted.stderr.decode()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.system
@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_disk_that_fills_up_ends_the_job_and_retry_goes_on(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = 8 * MIB
    with small_disk(tmp_path / "disk", SIZE + 20 * MIB) as disk:
        fleet.start(*AGENTS)
        with fleet.get("hf://acme/big", "--to", disk / "to") as getting:
            job = fleet.until("the job", lambda: [view.job_id for view in fleet.queue()])[0]
            fleet.until_arrived(job, 30 * MIB)
            with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(bytes(MIB))
            hub.faults.slow_after = None
            finished = getting.wait()
        assert finished.exit_code == 5, finished.stderr
        failed = fleet.ended(job, JobStatus.FAILED)
        assert failed.failure is not None
        assert failed.failure.code == "no-space"
        assert not (disk / "to/model.bin").exists()
        fleet.until_alive(*AGENTS)
        fleet.until("all leases to end", lambda: fleet.view().units_leased == 0)

        (disk / "filler").unlink()
        hub.faults.connection_rate = None
        fleet.run("retry", job).expect(0)
        check_delivery(fleet, hub, job, disk / "to", twice_max=0.25)


@pytest.mark.system
@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(
    fleet: Fleet, hub: StandInHub, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 20 * MIB) as disk:
        fleet.start("a1")
        finished = fleet.run("get", "hf://acme/big", "--to", disk / "to").expect(5)
        assert str(disk) in finished.stderr
        assert hub.log.bytes_served == 0
        fleet.until_alive("a1")
        subprocess.run(["mount", "-o", f"remount,size={SIZE + 20 * MIB}", str(disk)], check=True)
        hub.faults.connection_rate = None
        job = fleet.ask("jobs")["jobs"][0]["job_id"]
        fleet.run("retry", job).expect(0)
        check_delivery(fleet, hub, job, disk / "to")


# --- a host that asks to wait ---------------------------------------------------------------------------------------


def test_one_agents_429_holds_back_the_whole_fleet(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    wait_s, message_delay_s = 6.0, 4.0
    hub.add(HubRepo("acme/many", {f"f{number:03}": b"%d" % number * 1000 for number in range(300)}))
    hub.faults.add(Latency(0.02), kinds={"file"})
    hub.faults.add(Status(429, retry_after_s=wait_s), path="f150", times=1)
    fleet.start(*AGENTS)
    job = fleet.ended(fleet.submit("hf://acme/many", "--to", tmp_path / "to"))
    assert (job.objects_done, job.objects_failed) == (300, 0)

    asked = [record for record in hub.log.records if record.path is not None]
    (refused,) = (record for record in asked if record.status == 429)
    assert refused.ended_at is not None
    block = refused.ended_at + message_delay_s, refused.ended_at + wait_s
    assert [record for record in asked if block[0] < record.started_at < block[1]] == []
    assert any(record.started_at >= block[1] for record in asked)
    host = hub.url.removeprefix("http://")
    assert fleet.hosts()[host].throttled == 1
