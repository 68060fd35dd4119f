"""A coordinator and three agents as real processes, with data on one shared folder: everybody brings a share of one big file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import delivered, leftovers
from support.contents import SyntheticFile, sha256_hex
from support.fleet import Fleet
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

MIB = 1 << 20
RATE = 20 * MIB
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

    assert job.objects_done == 1
    assert job.bytes_fetched == job.bytes_done == size
    assert (to / "model.bin").stat().st_size == size
    assert leftovers(to) == []
    assert hub.log.bytes_served <= size * 1.05
    print(shares(hub), hub.log.bytes_served)
    peaks = {daemon.name: daemon.peak_rss_bytes() for daemon in (fleet.coordinator, *map(fleet.agent, AGENTS))}
    print(peaks)


def test_x(hub, tmp_path):
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ={"SHOAL_FETCH_CONNECTIONS_PER_HOST": "1"}) as fleet:
        import time

        t = time.monotonic()
        bring_one_file(fleet, hub, tmp_path / "to", 192 * MIB)
        print(time.monotonic() - t)
