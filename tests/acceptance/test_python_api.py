"""The Python API against real daemons: clients of a running fleet, and downloads that reach every node."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shoal.client import (
    AsyncClient,
    Client,
    DeliveryFailed,
    DownloadRequest,
    async_download_distributed,
    download_distributed,
)
from shoal.common.errors import Conflict, NotFound, TimedOut, Unreachable, VerificationFailed
from shoal.common.views import AgentStatus, JobStatus, JobView, ObjectStatus, ReplicaStatus
from support.cli import delivered
from support.contents import SyntheticFile, read_all
from support.faults import FlipByte
from support.fleet import Fleet, free_port
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

MIB = 1 << 20
FILES = {"config.json": b"{}", "sub/model.safetensors": read_all(SyntheticFile(5 * MIB, seed=1))}
OTHER = {"README.md": b"other"}
BIG = {"model.bin": read_all(SyntheticFile(24 * MIB, seed=2))}
SLOW = MIB // 32  # bytes/s of each connection: BIG would take most of a minute


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SHOAL_COORDINATOR_ADDRESS", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with hub_in_thread([HubRepo("acme/tiny", FILES), HubRepo("acme/other", OTHER), HubRepo("acme/big", BIG)]) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", endpoint=hub.url) as made:
        yield made


def request(repo: str, to: object, **more: str) -> DownloadRequest:
    return DownloadRequest(uri=f"hf://acme/{repo}", destination=str(to), **more)


# ---- clients --------------------------------------------------------------------------------------------------------


def test_submit_watch_and_wait(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start("a1", "a2")
    with Client(fleet.address) as shoal:
        job = shoal.submit("acme/tiny", to=tmp_path / "to", include=["*.json", "sub/*"], name="tiny", priority=3)
        views = list(job.watch())
        result = job.wait()
        assert [view.status for view in views][-1] is JobStatus.DONE
        assert result.job.job_id == job.id
        assert (result.destination, len(result.commit)) == (str(tmp_path / "to"), 40)
        assert delivered(tmp_path / "to") == FILES
        assert {found.path for found in job.objects()} == set(FILES)
        assert (job.errors(), job.objects("queued"), job.replicas()) == ([], [], ())
        assert (job.status().priority, job.status().name) == (3, "tiny")
        assert shoal.job("tiny").id == job.id
        assert [view.job_id for view in shoal.jobs()] == [job.id]
        assert {agent.name: agent.status for agent in shoal.agents()} == dict.fromkeys(("a1", "a2"), AgentStatus.ALIVE)
        assert shoal.status().agents_alive == 2
    assert "shoal" not in {thread.name for thread in threading.enumerate()}


def test_several_sources_become_several_jobs(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start("a1")
    with Client(fleet.address) as shoal:
        jobs = shoal.submit(["acme/tiny", "hf://acme/other"], to=tmp_path / "to")
        assert [job.wait().job.uri for job in jobs] == ["hf://acme/tiny", "hf://acme/other"]
    assert delivered(tmp_path / "to") == FILES | OTHER


def test_control_and_timeouts(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = SLOW
    fleet.start("a1")
    with Client(fleet.address) as shoal:
        job = shoal.submit("acme/big", to="to")
        with pytest.raises(TimedOut, match="cancel"):
            job.wait(timeout=0.2)
        assert job.pause().paused
        assert not job.resume().paused
        with pytest.raises(Conflict):
            job.retry()
        assert job.cancel().status is JobStatus.CANCELLED
        with pytest.raises(Conflict, match="cancelled"):
            job.wait(timeout=30)
        hub.faults.connection_rate = None
        job.retry()
        assert job.wait(timeout=60).job.objects_done == 1
    assert delivered(tmp_path / "to") == BIG


def test_a_job_that_fails_raises_what_went_wrong(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.add(FlipByte(), path="config.json")
    fleet.start("a1")
    with Client(fleet.address) as shoal:
        job = shoal.submit("acme/tiny", to=tmp_path / "to")
        with pytest.raises(VerificationFailed, match=r"config\.json"):
            job.wait(timeout=60)
        (failed,) = job.errors()
        assert (failed.path, failed.status) == ("config.json", ObjectStatus.FAILED)
        with pytest.raises(NotFound):
            shoal.submit("acme/absent", to=tmp_path / "to").wait(timeout=60)
        with pytest.raises(NotFound):
            shoal.job("absent")


def test_a_client_without_a_coordinator_there(hub: StandInHub) -> None:
    with Client(f"127.0.0.1:{free_port()}") as shoal, pytest.raises(Unreachable, match="nothing listens there"):
        shoal.jobs()


def test_the_coordinator_comes_from_the_environment(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fleet.start("a1")
    monkeypatch.setenv("SHOAL_COORDINATOR_ADDRESS", fleet.address)
    with Client() as shoal:
        assert shoal.status().agents_alive == 1


def test_waiting_goes_on_across_a_restart_of_the_coordinator(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = SLOW
    fleet.start("a1")
    seen: list[JobView] = []
    restarts = 0
    with Client(fleet.address) as shoal:
        job = shoal.submit("acme/big", to=tmp_path / "to")
        for view in job.watch():
            if not restarts and view.status is JobStatus.RUNNING:
                restarts += 1
                fleet.coordinator.kill()
                fleet.coordinator.start()
                hub.faults.connection_rate = None
            seen.append(view)
        assert job.wait(timeout=60).job.status is JobStatus.DONE
    assert (restarts, seen[-1].status) == (1, JobStatus.DONE)
    assert delivered(tmp_path / "to") == BIG


async def test_the_asynchronous_client(fleet: Fleet, tmp_path: Path) -> None:
    await asyncio.to_thread(fleet.start, "a1")
    async with AsyncClient(fleet.address) as shoal:
        jobs = await shoal.submit(["acme/tiny", "acme/other"], to=tmp_path / "to")
        results = await asyncio.gather(*(job.wait(timeout=60) for job in jobs))
        assert [result.job.status for result in results] == [JobStatus.DONE] * 2
        async for view in jobs[0].watch():
            assert view.ended
        assert len(await shoal.jobs()) == 2
    assert delivered(tmp_path / "to") == FILES | OTHER


# ---- this machine is every node -------------------------------------------------------------------------------------


def test_without_a_fleet_this_machine_is_every_node(hub: StandInHub, tmp_path: Path) -> None:
    seen: list[Sequence[JobView]] = []
    requests = [request("tiny", tmp_path / "a"), request("other", tmp_path / "b", name="second")]
    results = download_distributed(requests, on_progress=seen.append)
    assert [result.request for result in results] == requests
    assert (delivered(tmp_path / "a"), delivered(tmp_path / "b")) == (FILES, OTHER)
    assert all(view.ended for view in seen[-1])
    assert "shoal" not in {thread.name for thread in threading.enumerate()}


def test_what_is_there_is_accepted_unless_the_cache_is_refused(hub: StandInHub, tmp_path: Path) -> None:
    (first,) = download_distributed([request("tiny", tmp_path / "a")])
    (again,) = download_distributed([request("tiny", tmp_path / "a")])
    (forced,) = download_distributed([DownloadRequest(uri="acme/tiny", destination=tmp_path / "a", cache=False)])
    assert [found.job.objects_skipped for found in (first, again, forced)] == [0, 2, 0]


async def test_one_failure_loses_nothing(hub: StandInHub, tmp_path: Path) -> None:
    requests = [request("absent", tmp_path / "a"), request("tiny", tmp_path / "b"), request("nor-this", tmp_path / "c")]
    with pytest.raises(DeliveryFailed, match="acme/absent") as caught:
        await async_download_distributed(requests)
    assert [found.request for found in caught.value.results] == [requests[1]]
    assert [type(found.error) for found in caught.value.failed] == [NotFound, NotFound]
    assert delivered(tmp_path / "b") == FILES


def test_a_download_that_takes_too_long_is_ended_and_goes_on_later(hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = SLOW
    with pytest.raises(TimedOut, match="acme/big"):
        download_distributed([request("big", tmp_path / "a")], timeout=1.0)
    hub.faults.connection_rate = None
    (result,) = download_distributed([request("big", tmp_path / "a")], timeout=60)
    assert result.job.status is JobStatus.DONE
    assert delivered(tmp_path / "a") == BIG


# ---- a fleet that runs ----------------------------------------------------------------------------------------------


def start_apart(fleet: Fleet, tmp_path: Path, *names: str) -> None:
    """Agents that each hold their own copy, though on one machine."""
    fleet.coordinator.start()
    for name in names:
        fleet.add_agent(name, "--root", str(tmp_path / name))
    fleet.until_alive(*names)


def test_every_node_of_a_fleet_has_every_file(fleet: Fleet, tmp_path: Path) -> None:
    start_apart(fleet, tmp_path, "n1", "n2", "n3")
    results = download_distributed(
        [request("tiny", "/models/tiny"), request("other", "/models/other")], coordinator=fleet.address, timeout=60
    )
    for name in ("n1", "n2", "n3"):
        assert delivered(tmp_path / name / "models/tiny") == FILES
        assert delivered(tmp_path / name / "models/other") == OTHER
    for result in results:
        assert {copy.name: copy.status for copy in result.replicas} == dict.fromkeys(
            ("n1", "n2", "n3"), ReplicaStatus.DONE
        )
        assert result.lost == ()


def test_replicas_of_a_job(fleet: Fleet, tmp_path: Path) -> None:
    start_apart(fleet, tmp_path, "n1", "n2")
    with Client(fleet.address) as shoal:
        job = shoal.submit("acme/big", to="/models/big", deliver="replicate")
        result = job.wait(timeout=60)
        assert {copy.name for copy in job.replicas()} == {copy.name for copy in result.replicas} == {"n1", "n2"}
        assert sum(copy.from_origin for copy in result.replicas) <= 1.05 * len(BIG["model.bin"])
        shown = fleet.run("status", job.id).expect(0).stdout
        assert "FROM PEERS" in shown
        assert sum(agent.sent_bytes for agent in shoal.agents()) >= 0


async def test_a_node_without_room_is_named(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "n2").write_text("not a folder")
    start_apart(fleet, tmp_path, "n1", "n2")
    with pytest.raises(DeliveryFailed, match="n2"):
        await async_download_distributed([request("tiny", "/m")], coordinator=fleet.address, timeout=60)
    assert delivered(tmp_path / "n1/m") == FILES
