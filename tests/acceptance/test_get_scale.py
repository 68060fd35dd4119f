"""Many files and big ones: what they cost in requests and in memory. No clock is asserted on: machines differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import Shoal, delivered, leftovers
from support.contents import SyntheticFile, sha256_hex
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

MIB = 1 << 20
MEMORY_BYTES = 512 * MIB
FILES_COUNT = 2501


@pytest.fixture(scope="module")
def hub() -> Iterator[StandInHub]:
    small = {f"data/{number % 50:02}/{number:05}.json": b'{"n": %d}' % number for number in range(FILES_COUNT - 1)}
    huge = {f"shard-{number // 1000:03}/{number:06}.txt": b"%d" % number for number in range(100_000)}
    with hub_in_thread(
        [
            HubRepo("acme/small", {**small, "model.safetensors": SyntheticFile(MIB, seed=2)}),
            HubRepo("acme/big", {"model.safetensors": SyntheticFile(512 * MIB, seed=1)}),
            HubRepo("acme/huge", huge),
        ]
    ) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    hub.log.clear()
    return Shoal(tmp_path / "person", endpoint=hub.url)


@pytest.mark.parametrize("to", ["to", "hf-cache"])
def test_many_small_files_cost_one_resolve_each(shoal: Shoal, hub: StandInHub, to: str) -> None:
    run = shoal.get("hf://acme/small", "--to", to)
    folder = Path(run.stdout.strip())
    assert len(delivered(folder)) == FILES_COUNT
    assert (folder / "data/49/02499.json").read_bytes() == b'{"n": 2499}'
    records = hub.log.records
    assert {record.method for record in records} == {"GET"}
    assert hub.log.count(kind="resolve") == FILES_COUNT
    assert hub.log.count(kind="file") + hub.log.count(kind="cdn") == FILES_COUNT, "the redirects that they answer with"
    assert len(records) - 2 * FILES_COUNT <= 1 + 3, "the commit, and three pages of a thousand entries"
    assert records.connections <= 2 * 16 + 2
    assert run.peak_rss_bytes < MEMORY_BYTES
    assert leftovers(folder) == []

    hub.log.clear()
    again = shoal.get("hf://acme/small", "--to", to)
    assert hub.log.count(kind="resolve") == 0
    assert again.peak_rss_bytes < MEMORY_BYTES


def test_a_big_file_needs_little_memory(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    import hashlib

    # No more than a busy machine takes: what it is behind with is lost where a piece is split.
    hub.faults.connection_rate = 8 * MIB
    run = shoal.get("hf://acme/big", "--to", tmp_path / "to")
    assert run.peak_rss_bytes < MEMORY_BYTES
    with (tmp_path / "to/model.safetensors").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == sha256_hex(SyntheticFile(512 * MIB, seed=1))
    # What was on its way when a slow piece was split at the end is lost with its connection.
    assert hub.log.bytes_served <= 1.05 * 512 * MIB


def test_the_memory_limit_is_kept(shoal: Shoal, tmp_path: Path) -> None:
    run = shoal.get("hf://acme/big", "--to", tmp_path / "to", "--set", "agent.memory_limit=64MiB")
    assert run.peak_rss_bytes < 128 * MIB


def test_a_repo_of_100_000_files_is_planned_in_bounded_memory(shoal: Shoal, hub: StandInHub) -> None:
    run = shoal.get("hf://acme/huge", "--dry-run")
    assert len(run.stdout.splitlines()) == 100_000
    assert run.peak_rss_bytes < 300 * MIB
    assert len(hub.log.records) <= 1 + 101 + 1
