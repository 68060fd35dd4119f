"""``shoal submit --deliver replicate``: every agent gets its own copy, and the origin serves each byte once."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.common.views import JobStatus, JobView, ReplicaStatus
from support.cli import until_tidy
from support.contents import SyntheticFile, sha256_hex
from support.fleet import Fleet, file_sha256_hex, free_port, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.origin import FaultOrigin
from support.stand_in import in_thread

MIB = 1 << 20
AGENTS = ("n1", "n2", "n3", "n4")
BIG = SyntheticFile(48 * MIB, seed=11)
SMALL = {f"data/part-{number:03}.txt": f"small file {number}\n".encode() * (number % 40) for number in range(150)}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread() as stand_in:
        stand_in.add(HubRepo("acme/model", {"model.safetensors": BIG, "config.json": b"{}", **SMALL}))
        yield stand_in


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", endpoint=hub.url) as made:
        made.coordinator.start()
        yield made


def start(fleet: Fleet, tmp_path: Path, *names: str, **environ: str) -> None:
    for name in names:
        fleet.add_agent(name, "--root", str(tmp_path / name), environ=environ)
    fleet.until_alive(*names)


def slow_after(hub: StandInHub, size: int) -> None:
    """What is to happen under way happens before that, and then there still is a way."""
    hub.faults.connection_rate = 4 * MIB
    hub.faults.slow_after = (size, MIB)


def check_copies(tmp_path: Path, *names: str, folder: str = "x") -> None:
    for name in names:
        root = tmp_path / name / folder
        assert file_sha256_hex(root / "model.safetensors") == sha256_hex(BIG), name
        for path, content in SMALL.items():
            assert (root / path).read_bytes() == content, (name, path)
        until_tidy(root)


def by_name(job: JobView) -> dict[str, ReplicaStatus]:
    return {replica.name: replica.status for replica in job.replicas}


def test_every_agent_gets_every_file_and_the_hub_serves_each_byte_once(
    fleet: Fleet, hub: StandInHub, tmp_path: Path
) -> None:
    start(fleet, tmp_path, *AGENTS)
    job = fleet.ended(fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate"), timeout_s=100)
    check_copies(tmp_path, *AGENTS)
    total = BIG.size + sum(map(len, SMALL.values())) + 2
    assert hub.log.bytes_served <= total * 1.02 + 100_000  # listings
    assert job.bytes_fetched == total
    assert job.bytes_from_peers == 3 * total
    assert by_name(job) == dict.fromkeys(AGENTS, ReplicaStatus.DONE)

    served = hub.log.bytes_served
    again = fleet.ended(fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate"), timeout_s=60)
    assert again.bytes_from_peers == 0
    assert hub.log.bytes_served - served < 200_000, "what is there is not fetched again"


def test_a_file_of_a_web_server(fleet: Fleet, tmp_path: Path) -> None:
    with in_thread(FaultOrigin({"big.bin": BIG})) as origin:
        start(fleet, tmp_path, *AGENTS[:3])
        job = fleet.ended(fleet.submit(origin.url_of("big.bin"), "--to", "/x", "--deliver", "replicate"))
        for name in AGENTS[:3]:
            assert file_sha256_hex(tmp_path / name / "x" / "big.bin") == sha256_hex(BIG)
        assert job.bytes_fetched == BIG.size


def test_one_agent_is_killed_and_one_joins_late(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    slow_after(hub, BIG.size // 2)
    start(fleet, tmp_path, *AGENTS[:3])
    job_id = fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate")
    until("half of it to arrive", lambda: fleet.job(job_id).bytes_arrived > BIG.size // 3)
    fleet.agent("n1").kill()
    hub.faults.slow_after = None
    start(fleet, tmp_path, "n4")
    job = fleet.ended(job_id, timeout_s=100)
    check_copies(tmp_path, "n2", "n3", "n4")
    assert by_name(job)["n1"] is ReplicaStatus.LOST


def test_a_killed_coordinator_goes_on_from_what_the_agents_hold(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    slow_after(hub, BIG.size // 2)
    start(fleet, tmp_path, *AGENTS[:3])
    job_id = fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate")
    until("some of it to arrive", lambda: fleet.job(job_id).bytes_arrived > BIG.size // 3)
    fleet.coordinator.kill()
    hub.faults.slow_after = None
    fleet.coordinator.start()
    fleet.ended(job_id, timeout_s=100)
    check_copies(tmp_path, *AGENTS[:3])
    assert hub.log.bytes_served < BIG.size * 1.5


def test_a_killed_agent_goes_on_with_what_lies_on_its_disk(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    slow_after(hub, BIG.size * 3 // 5)
    start(fleet, tmp_path, "n1")
    job_id = fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate")
    until("half of it to arrive", lambda: fleet.job(job_id).bytes_arrived > BIG.size // 2)
    fleet.agent("n1").kill()
    hub.faults.slow_after = None
    fleet.agent("n1").start()
    fleet.ended(job_id, timeout_s=100)
    check_copies(tmp_path, "n1")
    assert hub.log.bytes_served < BIG.size * 1.3


def test_a_frozen_agent_costs_only_what_it_had_in_flight(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    slow_after(hub, BIG.size // 2)
    start(fleet, tmp_path, *AGENTS[:3])
    job_id = fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate")
    until("some of it to arrive", lambda: fleet.job(job_id).bytes_arrived > BIG.size // 4)
    fleet.agent("n1").freeze()
    hub.faults.slow_after = None
    until(
        "the others to be complete",
        lambda: {"n2", "n3"} <= {name for name, status in by_name(fleet.job(job_id)).items() if status == "done"},
        timeout_s=100,
    )
    fleet.agent("n1").thaw()
    fleet.ended(job_id, timeout_s=100)
    check_copies(tmp_path, *AGENTS[:3])


def test_a_copy_that_cannot_be_written_does_not_spoil_the_others(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "x").write_bytes(b"a file where a folder should be")
    start(fleet, tmp_path, *AGENTS[:3])
    job_id = fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate")
    job = fleet.ended(job_id, JobStatus.FAILED, timeout_s=100)
    assert job.failure and "n1" in job.failure.text
    check_copies(tmp_path, "n2", "n3")


def test_one_name_that_cannot_be_written_costs_that_copy_nothing_else(fleet: Fleet, tmp_path: Path) -> None:
    blocked = tmp_path / "n1" / "x" / "data" / "part-003.txt"
    (blocked / "in the way").mkdir(parents=True)
    start(fleet, tmp_path, *AGENTS[:3])
    job_id = fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate")
    job = fleet.ended(job_id, JobStatus.FAILED, timeout_s=100)
    assert job.failure and "n1" in job.failure.text and "part-003.txt" in job.failure.text
    assert by_name(job) == {"n1": ReplicaStatus.FAILED, "n2": ReplicaStatus.DONE, "n3": ReplicaStatus.DONE}
    (blocked / "in the way").rmdir()
    blocked.rmdir()
    fleet.ended(fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate"), timeout_s=100)
    check_copies(tmp_path, *AGENTS[:3])


def test_a_damaged_final_file_is_fetched_again_from_the_others(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    start(fleet, tmp_path, *AGENTS[:2])
    submit = ("hf://acme/model", "--to", "/x", "--deliver", "replicate")
    fleet.ended(fleet.submit(*submit), timeout_s=100)
    served = hub.log.bytes_served
    victim = tmp_path / "n1" / "x" / "model.safetensors"
    with victim.open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    fleet.ended(fleet.submit(*submit), timeout_s=100)
    check_copies(tmp_path, *AGENTS[:2])
    assert hub.log.bytes_served - served < 200_000
    assert hashlib.sha256(victim.read_bytes()).hexdigest() == sha256_hex(BIG)


class FlippingProxy:
    """Passes connections on to a port and flips a byte in what comes back, now and then."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the agent is gone
                near.close()
                continue
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, flips: bool) -> None:
        with contextlib.suppress(OSError), source, sink:
            while data := bytearray(source.recv(1 << 16)):
                if flips and len(data) > 20_000:
                    data[len(data) // 2] ^= 0xFF
                sink.sendall(data)


def test_an_agent_whose_bytes_are_flipped_on_the_way_is_named_and_the_others_end_with_right_ones(
    fleet: Fleet, hub: StandInHub, tmp_path: Path
) -> None:
    port = free_port()
    proxy = FlippingProxy(port)
    try:
        fleet.add_agent(
            "bad", "--root", str(tmp_path / "bad"), "--peer-listen", f"127.0.0.1:{port}",
            "--set", f"agent.peer_address=127.0.0.1:{proxy.port}",
        )  # fmt: skip
        start(fleet, tmp_path, "n2", "n3")
        fleet.until_alive("bad")
        job = fleet.ended(fleet.submit("hf://acme/model", "--to", "/x", "--deliver", "replicate"), timeout_s=100)
    finally:
        proxy.close()
    check_copies(tmp_path, "bad", "n2", "n3")
    agents = fleet.agents()
    assert agents["bad"].bad_chunks > 0
    assert agents["n2"].bad_chunks == agents["n3"].bad_chunks == 0
    assert any(event["agent"] == "bad" for event in fleet.coordinator.events("agent.bad_chunk"))
    assert job.objects_failed == 0
