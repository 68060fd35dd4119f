"""A coordinator and three agents as real processes, with data on one shared folder: everybody brings a share of one big file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import delivered, until_tidy
from support.contents import SyntheticFile, sha256_hex
from support.fleet import Fleet, file_sha256_hex
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.request_log import Records

MIB = 1 << 20
RATE = 20 * MIB
HALF_RATE = RATE / 2
AGENTS = ("a1", "a2", "a3")
RSS_MAX = 512 * MIB


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread(tokens=[f"hf_{name}" for name in AGENTS]) as stand_in:
        stand_in.faults.connection_rate = RATE
        yield stand_in


def shares(hub: StandInHub) -> Counter[str]:
    """Bytes of files that each Hub token got."""
    got: Counter[str] = Counter()
    for record in hub.log.where(kind="file"):
        got[record.headers.get("authorization", "").removeprefix("Bearer hf_")] += record.body_bytes
    return got


def bring_one_file(fleet: Fleet, hub: StandInHub, to: Path, size: int) -> None:
    """Three agents, each known to the Hub by a token of its own, with one connection each."""
    content = SyntheticFile(size, seed=7)
    # Kept in git, not in LFS: then the Hub itself serves the bytes, and sees the token of who asks.
    hub.add(HubRepo("acme/big", {"model.bin": content}, lfs_bytes_min=1 << 40, lfs_patterns=()))
    fleet.coordinator.start()
    for name in AGENTS:
        fleet.add_agent(name, environ={"HF_TOKEN": f"hf_{name}"})
    fleet.until_alive(*AGENTS)
    job = fleet.ended(fleet.submit("hf://acme/big", "--to", to), timeout_s=100)

    assert (job.objects_done, job.objects_failed) == (1, 0)
    assert job.bytes_done == job.bytes_fetched == size
    assert file_sha256_hex(to / "model.bin") == sha256_hex(content)
    until_tidy(to)
    assert hub.log.bytes_served <= size * 1.05
    served = shares(hub)
    assert {name for name, share in served.items() if share >= size / 5} == set(AGENTS)
    brought = {agent.name: agent.from_origin for agent in job.agents}
    assert sum(brought.values()) == size
    assert all(0 <= served[name] - brought[name] <= size / 20 for name in AGENTS), (served, brought)
    for name in AGENTS:  # one connection each; one that was left counts until the server knows
        mine = (r for r in hub.log.where(kind="file") if r.headers.get("authorization") == f"Bearer hf_{name}")
        assert Records(mine).max_in_flight <= 2
    peaks = {daemon.name: daemon.peak_rss_bytes() for daemon in (fleet.coordinator, *map(fleet.agent, AGENTS))}
    assert {name for name, peak in peaks.items() if peak >= RSS_MAX} == set()


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub) -> Iterator[Fleet]:
    environ = {"SHOAL_FETCH_CONNECTIONS_PER_HOST": "1"}
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ=environ) as made:
        yield made


def test_three_agents_share_one_big_file(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.connection_rate = HALF_RATE  # an agent that a busy machine holds up still gets its share
    bring_one_file(fleet, hub, tmp_path / "to", 192 * MIB)


@pytest.mark.slow
def test_three_agents_share_half_a_gibibyte(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    bring_one_file(fleet, hub, tmp_path / "to", 512 * MIB)


def test_many_small_files_cost_one_request_each(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    files = {f"folder {number % 7}/f{number:03}": b"%d " % number * number for number in range(400)}
    hub.add(HubRepo("acme/many", files))
    fleet.start(*AGENTS)
    job = fleet.ended(fleet.submit("hf://acme/many", "--to", tmp_path / "to"))
    assert (job.objects_done, job.objects_failed) == (400, 0)
    assert delivered(tmp_path / "to") == files
    until_tidy(tmp_path / "to")
    for kind in ("resolve", "file"):  # the request, and the redirect that it was answered with
        assert set(Counter(record.path for record in hub.log.where(kind=kind)).values()) == {1}
    assert hub.log.count(kind="resolve") == 399  # the empty one costs none
    agents = fleet.agents()
    assert sum(agent.objects_done for agent in agents.values()) == 400
    assert min(agents[name].objects_done for name in AGENTS) > 0
    finished = fleet.run("verify", tmp_path / "to").expect(0)
    assert "400" in finished.stderr + finished.stdout


def test_the_same_again_moves_nothing(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/again", {"config.json": b"{}", "model.bin": SyntheticFile(24 * MIB, seed=8)}))
    hub.faults.connection_rate = None
    fleet.start(*AGENTS)
    fleet.ended(fleet.submit("hf://acme/again", "--to", tmp_path / "to"))
    served = hub.log.settled().bytes_served
    again = fleet.ended(fleet.submit("hf://acme/again", "--to", tmp_path / "to"))
    assert (again.objects_done, again.objects_skipped, again.bytes_fetched) == (2, 2, 0)
    assert hub.log.bytes_served == served


def test_agents_mount_the_shared_folder_in_different_places(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/big", {"model.bin": SyntheticFile(96 * MIB, seed=9)}))
    hub.faults.connection_rate = 2 * MIB  # until both were seen at work
    (tmp_path / "shared").mkdir()
    (tmp_path / "mount").symlink_to(tmp_path / "shared")
    fleet.coordinator.start()
    fleet.add_agent("a1", "--root", str(tmp_path / "shared"))
    fleet.add_agent("a2", "--root", str(tmp_path / "mount"))
    fleet.until_alive("a1", "a2")
    job = fleet.submit("hf://acme/big", "--to", "/models/big")

    def both() -> bool:
        return {"a1", "a2"} <= {name for active in fleet.job(job).active for name in active.agents}

    fleet.until("both to work on it", both)
    hub.faults.connection_rate = RATE
    fleet.ended(job)
    assert file_sha256_hex(tmp_path / "shared/models/big/model.bin") == sha256_hex(SyntheticFile(96 * MIB, seed=9))


def test_into_the_hub_cache(fleet: Fleet, hub: StandInHub, tmp_path: Path) -> None:
    repo = hub.add(HubRepo("acme/tiny", {"config.json": b"{}", "model.bin": SyntheticFile(24 * MIB, seed=8)}))
    hub.faults.connection_rate = None
    cache = tmp_path / "shared cache"
    fleet.start("a1", "a2", environ={"HF_HUB_CACHE": str(cache)})
    fleet.ended(fleet.submit("hf://acme/tiny", "--to", "hf-cache"))
    snapshot = cache / "models--acme--tiny" / "snapshots" / repo.sha
    assert (snapshot / "config.json").read_bytes() == b"{}"
    assert file_sha256_hex(snapshot / "model.bin") == sha256_hex(SyntheticFile(24 * MIB, seed=8))
    assert (cache / "models--acme--tiny/refs/main").read_text() == repo.sha
