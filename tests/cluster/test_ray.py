"""A fleet inside a real Ray cluster of three nodes on this machine.

Each node has a root folder of its own, through its environment, so that each agent can hold its own copy. No process of a fleet may
outlive it, however it ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.client import DeliveryFailed, DownloadRequest, async_download_distributed, download_distributed
from shoal.common.errors import NotFound, TimedOut, UsageError
from shoal.common.records import Delivery
from shoal.common.views import JobStatus, ReplicaStatus
from support.cli import delivered
from support.contents import SyntheticFile, read_all
from support.fleet import command_lines, marked, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

ray: Any = pytest.importorskip("ray", reason="ray is not installed: pip install 'shoal[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402  # pyright: ignore

from shoal.client.ray import AsyncRayFleet, RayFleet  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("ray"),  # one cluster at a time
    pytest.mark.filterwarnings("default"),  # Ray leaves sockets and files to the garbage collector
]
MIB = 1 << 20
FILES = {"config.json": b"{}", "sub/model.safetensors": read_all(SyntheticFile(5 * MIB, seed=1))}
BIG = {"model.bin": read_all(SyntheticFile(48 * MIB, seed=2))}
NODES = ("n1", "n2", "n3")
MARK = "SHOAL_TEST_RAY"
"""Set for all processes of these tests: fleets of others may run on this machine."""
REACHABLE = {"host": "127.0.0.1", "listen_host": "0.0.0.0"}  # an address beyond loopback: TLS and credentials


@pytest.fixture(scope="module")
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/tiny", FILES), HubRepo("acme/big", BIG)]) as found:
        yield found


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp(name) for name in NODES}


@pytest.fixture(scope="module")
def cluster(hub: StandInHub, roots: dict[str, Path]) -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ[MARK] = str(os.getpid())
    made = Cluster()
    for name in NODES:
        made.add_node(**node(hub, roots[name]))
    ray.init(address=made.address, logging_level="warning")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy in a folder that all agents see: for what does not depend on the delivery."""
    monkeypatch.setattr(AsyncRayFleet, "delivery", Delivery.SPREAD)


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: Any, hub: StandInHub) -> Iterator[None]:
    yield
    hub.faults.connection_rate = None
    until("the fleet's processes to end", lambda: children() == [], timeout_s=30)


def node(hub: StandInHub, root: Path) -> dict[str, Any]:
    environ = {"HF_ENDPOINT": hub.url, "SHOAL_AGENT_ROOT": str(root), "no_proxy": "127.0.0.1"}
    return {"num_cpus": 1, "object_store_memory": 80 * MIB, "env_vars": environ}


def children() -> list[str]:
    return [line for line in marked(MARK, str(os.getpid())).values() if "shoal.client.child" in line]


def settings(hub: StandInHub) -> dict[str, object]:
    return {"hub.endpoint": [hub.url]}


def request(repo: str, to: object) -> DownloadRequest:
    return DownloadRequest(uri=f"hf://acme/{repo}", destination=str(to))


def shared(hub: StandInHub) -> dict[str, object]:
    """Settings that let all agents write to one folder."""
    return {**settings(hub), "agent.root": "/"}


# ---- what does not depend on the delivery ---------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [{}, REACHABLE], ids=["by default", "beyond loopback"])
def test_an_agent_on_each_node(spread: None, hub: StandInHub, tmp_path: Path, reach: dict[str, str]) -> None:
    with RayFleet(settings=shared(hub), **reach) as fleet:
        assert len(set(fleet.agents)) == len(children()) - 1 == 3
        (result,) = fleet.download([request("tiny", tmp_path / "a")], timeout=60)
        assert (result.job.status, delivered(tmp_path / "a")) == (JobStatus.DONE, FILES)
        with pytest.raises(DeliveryFailed, match="absent") as caught:
            fleet.download([request("absent", tmp_path / "b"), request("tiny", tmp_path / "b")], timeout=60)
        assert isinstance(caught.value.failed[0].error, NotFound)
        assert delivered(tmp_path / "b") == FILES
    with pytest.raises(UsageError):
        fleet.download([request("tiny", tmp_path / "a")])


def test_no_credential_can_be_seen_from_outside(spread: None, hub: StandInHub) -> None:
    with RayFleet(settings=shared(hub), **REACHABLE):
        assert not [line for line in command_lines() if "shoal_agent_" in line or "shoal_admin_" in line]
        for process in Path("/proc").glob("[0-9]*/environ"):
            try:
                environ = process.read_bytes()
            except OSError:
                continue
            assert b"shoal_agent_" not in environ, process
            assert b"shoal_admin_" not in environ, process


def test_an_error_in_the_block_ends_the_fleet(spread: None, hub: StandInHub) -> None:
    with pytest.raises(ZeroDivisionError), RayFleet(settings=shared(hub)):
        raise ZeroDivisionError
    assert children() == []


def test_a_timeout_ends_the_fleet(spread: None, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = MIB // 4
    with pytest.raises(TimedOut, match="acme/big"):
        download_distributed([request("big", tmp_path / "a")], timeout=2.0, settings=shared(hub))
    assert children() == []


async def test_without_a_coordinator_ray_is_the_fleet(spread: None, hub: StandInHub, tmp_path: Path) -> None:
    (result,) = await async_download_distributed([request("tiny", tmp_path / "a")], settings=shared(hub), timeout=60)
    assert result.job.objects_done == 2
    assert delivered(tmp_path / "a") == FILES


def test_from_within_a_task(hub: StandInHub, tmp_path: Path) -> None:
    def work(to: str, given: dict[str, object]) -> int:
        AsyncRayFleet.delivery = Delivery.SPREAD  # of the process that runs the task
        (result,) = download_distributed(
            [DownloadRequest(uri="hf://acme/tiny", destination=to)], settings=given, timeout=60
        )
        return result.job.objects_done

    assert ray.get(ray.remote(num_cpus=1, max_retries=0)(work).remote(str(tmp_path / "a"), shared(hub))) == 2
    assert delivered(tmp_path / "a") == FILES


def test_settings_that_are_wrong_on_a_node_are_told(hub: StandInHub) -> None:
    with pytest.raises(Exception, match=r"agent\.memory_limit"), RayFleet(settings={"agent.memory_limit": "1MiB"}):
        pass
    with pytest.raises(UsageError, match=r"swarm\.tls"), RayFleet(settings={"swarm.tls": True}):
        pass


def test_a_node_that_dies_holds_nobody_up(spread: None, cluster: Any, hub: StandInHub, tmp_path: Path) -> None:
    extra = cluster.add_node(**node(hub, tmp_path))
    cluster.wait_for_nodes()
    hub.faults.connection_rate = MIB
    killed: list[bool] = []

    def kill(views: Any) -> None:
        if not killed and views[0].bytes_arrived > MIB:
            killed.append(True)
            cluster.remove_node(extra, allow_graceful=False)
            hub.faults.connection_rate = 8 * MIB

    with RayFleet(settings={**shared(hub), "coordinator.lease_ttl": "4s", "coordinator.heartbeat": "1s"}) as fleet:
        assert len(fleet.agents) == 4
        (result,) = fleet.download([request("big", tmp_path / "a")], on_progress=kill, timeout=90)
    assert (killed, result.job.status) == ([True], JobStatus.DONE)
    assert delivered(tmp_path / "a") == BIG


DRIVER = """
import sys, time
import ray
ray.init(address=sys.argv[1], logging_level="warning", log_to_driver=False)
from shoal.client.ray import RayFleet
with RayFleet(settings={"hub.endpoint": [sys.argv[2]]}):
    print("up", flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_driver_that_is_ended_leaves_nothing_behind(cluster: Any, hub: StandInHub, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, cluster.address, hub.url], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        try:
            assert "up\n" in iter(driver.stdout.readline, "")  # Ray has things to say too
            assert len(children()) == 4
            driver.send_signal(number)
            driver.wait(30)
        finally:
            driver.kill()
    assert driver.returncode != 0


# ---- copies ---------------------------------------------------------------------------------------------------------


def test_every_node_has_every_file(hub: StandInHub, roots: dict[str, Path]) -> None:
    requests = [request("tiny", "/models/tiny"), request("big", "/models/big")]
    results = download_distributed(requests, settings=settings(hub), timeout=90)
    for root in roots.values():
        assert delivered(root / "models/tiny") == FILES
        assert delivered(root / "models/big") == BIG
    for result in results:
        assert [copy.status for copy in result.replicas] == [ReplicaStatus.DONE] * 3
    again = download_distributed(requests, settings=settings(hub), timeout=90)
    assert [result.job.bytes_fetched for result in again] == [0, 0]


def test_a_copy_on_a_node_that_died_is_lost_and_the_others_are_there(
    cluster: Any, hub: StandInHub, roots: dict[str, Path], tmp_path: Path
) -> None:
    extra = cluster.add_node(**node(hub, tmp_path))
    cluster.wait_for_nodes()
    hub.faults.connection_rate = MIB // 16
    killed: list[bool] = []

    def kill(views: Any) -> None:
        if not killed and views[0].status is JobStatus.RUNNING and views[0].bytes_arrived > MIB:
            killed.append(True)
            cluster.remove_node(extra, allow_graceful=False)
            until("its agent to end", lambda: len(children()) == 4, timeout_s=30)
            hub.faults.connection_rate = None

    with RayFleet(settings={**settings(hub), "coordinator.lease_ttl": "4s", "coordinator.heartbeat": "1s"}) as fleet:
        (result,) = fleet.download([request("big", "/models/late")], on_progress=kill, timeout=90)
    assert killed == [True]
    for root in roots.values():
        assert delivered(root / "models/late") == BIG
    assert sum(copy.status is ReplicaStatus.DONE for copy in result.replicas) == 3
    assert delivered(tmp_path / "models/late") == {}


# ---- from a shell ---------------------------------------------------------------------------------------------------


def launch(hub: StandInHub, cluster: Any, *words: str) -> subprocess.CompletedProcess[str]:
    given = [f"--set=hub.endpoint={hub.url}", "--set=agent.root=/"]
    command = [sys.executable, "-m", "shoal.client.main", "launch", "ray", "--address", cluster.address, *given, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_command_runs_on_a_fleet_with_an_agent_on_each_node(cluster: Any, hub: StandInHub, tmp_path: Path) -> None:
    done = launch(hub, cluster, "--", "get", "hf://acme/tiny", "--to", str(tmp_path / "a"))
    assert (done.returncode, delivered(tmp_path / "a")) == (0, FILES), done.stderr
    assert "3 agents" in done.stderr


def test_its_exit_code_is_the_commands(cluster: Any, hub: StandInHub, tmp_path: Path) -> None:
    done = launch(hub, cluster, "--", "get", "hf://acme/absent", "--to", str(tmp_path / "a"))
    assert done.returncode == 3, done.stderr


def test_a_cluster_that_is_not_there_is_named_with_the_remedy(cluster: Any) -> None:
    command = [sys.executable, "-m", "shoal.client.main", "launch", "ray", "--address", "127.0.0.1:1"]
    done = subprocess.run([*command, "--", "get", "hf://a/b"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "127.0.0.1:1" in done.stderr and "ray start" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_from_outside_is_refused(cluster: Any) -> None:
    command = [sys.executable, "-m", "shoal.client.main", "launch", "ray", "--address", "ray://127.0.0.1:10001"]
    done = subprocess.run([*command, "--", "get", "hf://a/b"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "ray job submit" in done.stderr
