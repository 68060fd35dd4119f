"""Independent runs into one folder: each file is fetched once, whoever is killed, frozen or late, and without flock(2)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.agent.storage.claims import claim_key
from shoal.common.records import ObjectSpec
from support.cli import Finished, Running, Shoal, delivered, leftovers
from support.contents import SyntheticFile, as_content, read_all
from support.fleet import Fleet, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.request_log import FILE_KINDS

MIB = 1 << 20
BIG = {f"part-{number}.bin": SyntheticFile((17 + number) * MIB, seed=number) for number in range(3)}
SMALL = {f"small/{number:03}.json": b'{"n": %d}' % number * 50 for number in range(300)}
REPO = {**BIG, **SMALL, "middle.bin": SyntheticFile(3 * MIB, seed=9)}
TOTAL = sum(as_content(each).size for each in REPO.values())
OPTIONS = ["--set", "fetch.connections_per_host=4"]
SOON = ["--set", "fetch.lock_expiry=3s"]
AGAIN_MAX = 5
"""Small files that a busy machine may ask for twice: a run drops connections that stall, and asks again."""


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/big", REPO)]) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=hub.url)


def start(shoal: Shoal, to: Path | str, *more: str, environ: dict[str, str] | None = None) -> Running:
    return shoal.start("get", "hf://acme/big", "--to", str(to), *OPTIONS, *more, environ=environ)


def bytes_by_path(hub: StandInHub) -> Counter[str]:
    served: Counter[str] = Counter()
    for record in hub.log.records:
        if record.kind not in FILE_KINDS or not record.body_bytes:
            continue
        served[record.path or ""] += record.body_bytes
    return served


def assert_fetched_once(hub: StandInHub) -> None:
    served = bytes_by_path(hub)
    assert set(served) == set(REPO)
    twice = {path: count for path, count in served.items() if count > 1.5 * as_content(REPO[path]).size}
    assert set(twice) <= set(SMALL), "a big file was fetched by both"
    assert len(twice) <= AGAIN_MAX, "small files were fetched by both"


def assert_whole(to: Path) -> None:
    found = delivered(to)
    assert set(found) == set(REPO)
    for path, content in REPO.items():
        assert found[path] == read_all(as_content(content)), path
    manifest = json.loads((to / ".shoal/manifest.json").read_text())
    assert {entry["path"] for entry in manifest["objects"]} == set(REPO)


def ends_well(*runs: Running) -> list[Finished]:
    return [run.wait().expect(0) for run in runs]


def freeze(run: Running) -> None:
    """SIGSTOP, and wait until it has stopped."""
    run.signal(signal.SIGSTOP)
    stat = Path(f"/proc/{run.pid}/stat")
    until("the run to stop", lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


def slow_from_half_way(hub: StandInHub) -> None:
    """What is to happen half-way finds everybody still at work; then `slow_after` is taken away."""
    hub.faults.total_rate = 20 * MIB
    hub.faults.slow_after = (TOTAL // 3, MIB)


def half_way(hub: StandInHub) -> None:
    hub.log.wait_for(lambda log: log.bytes_served >= TOTAL // 3, timeout_s=60.0)


@pytest.fixture
def no_flock(tmp_path: Path) -> dict[str, str]:
    """An environment in which flock(2) says yes and does nothing, as on some network file systems."""
    folder = tmp_path / "no-flock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import fcntl\nfcntl.flock = lambda fd, how: None\n")
    return {"PYTHONPATH": str(folder)}


def test_two_runs_at_once(shoal: Shoal, hub: StandInHub, tmp_path: Path, no_flock: dict[str, str]) -> None:
    hub.faults.total_rate = 20 * MIB
    to = tmp_path / "to"
    with start(shoal, to, environ=no_flock) as first, start(shoal, to, environ=no_flock) as second:
        ends_well(first, second)
    assert_fetched_once(hub)
    assert_whole(to)
    assert leftovers(to) == []
    shoal.run("verify", to).expect(0)


def test_two_runs_into_the_hub_cache(shoal: Shoal, hub: StandInHub) -> None:
    hub.faults.total_rate = 30 * MIB
    with start(shoal, "hf-cache") as first, start(shoal, "hf-cache") as second:
        ends_well(first, second)
    assert_fetched_once(hub)
    (snapshot,) = (shoal.cache / "models--acme--big" / "snapshots").iterdir()
    assert {path: (snapshot / path).stat().st_size for path in REPO} == {
        path: as_content(content).size for path, content in REPO.items()
    }


def test_two_runs_that_want_different_files(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.total_rate = 20 * MIB
    to = tmp_path / "to"
    with (
        start(shoal, to, "--include", "part-0.bin", "--include", "small/*") as first,
        start(shoal, to, "--exclude", "small/2*") as second,
    ):
        ends_well(first, second)
    assert_fetched_once(hub)
    assert_whole(to)


def test_a_killed_run_is_taken_over(shoal: Shoal, hub: StandInHub, tmp_path: Path, no_flock: dict[str, str]) -> None:
    slow_from_half_way(hub)
    to = tmp_path / "to"
    with start(shoal, to, environ=no_flock) as first, start(shoal, to, environ=no_flock) as second:
        half_way(hub)
        first.signal(signal.SIGKILL)
        first.wait()
        hub.faults.slow_after = None
        ends_well(second)
    assert_whole(to)
    assert leftovers(to) == []
    twice = sum(bytes_by_path(hub).values()) - TOTAL
    assert twice < TOTAL // 4, f"{twice} bytes were fetched twice"


def test_a_frozen_run_is_taken_over_and_comes_back(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    slow_from_half_way(hub)
    to = tmp_path / "to"
    with start(shoal, to, *SOON) as first:
        half_way(hub)
        freeze(first)
        hub.faults.slow_after = None
        with start(shoal, to, *SOON) as second:
            ends_well(second)
        assert_whole(to)
        first.signal(signal.SIGCONT)
        ends_well(first)
    assert_whole(to)
    assert leftovers(to) == []
    shoal.run("verify", to).expect(0)


def test_clean_beside_a_living_run(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.total_rate = 2 * MIB
    to = tmp_path / "to"
    with start(shoal, to, "--include", "part-0.bin") as dead:
        hub.log.wait_for(lambda log: log.bytes_served >= 4 * MIB, timeout_s=60.0)
        dead.signal(signal.SIGKILL)
        dead.wait()
    slow_from_half_way(hub)
    with start(shoal, to) as living:
        half_way(hub)
        before = leftovers(to)
        cleaned = shoal.run("clean", to, "--older-than", "0s", "--json").expect(0).document()["removed"]
        assert cleaned, "what the killed run left in jobs is nobody's"
        assert {Path(name).suffix for name in before if name.endswith(".part")} == {".part"}
        assert not [name for name in cleaned if name.endswith((".part", ".map"))]
        hub.faults.slow_after = None
        ends_well(living)
    assert_whole(to)
    assert leftovers(to) == []


def test_clean_after_a_killed_run(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    slow_from_half_way(hub)
    to = tmp_path / "to"
    with start(shoal, to) as dead:
        half_way(hub)
        dead.signal(signal.SIGKILL)
        dead.wait()
    assert shoal.run("clean", to, "--json").expect(0).document() == {"removed": []}, "it is too young"
    shoal.run("clean", to, "--older-than", "0s").expect(0)
    assert not (to / ".shoal").exists()


def test_two_coordinators_with_two_agents_each(hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.total_rate = 20 * MIB
    to = tmp_path / "to"
    with Fleet(tmp_path / "f1", endpoint=hub.url) as one, Fleet(tmp_path / "f2", endpoint=hub.url) as two:
        for fleet in (one, two):
            fleet.start("a1", "a2")
        jobs = [fleet.submit("hf://acme/big", "--to", str(to)) for fleet in (one, two)]
        ended = [fleet.ended(job) for fleet, job in zip((one, two), jobs, strict=True)]
        assert [job.status.value for job in ended] == ["done", "done"]
    assert_fetched_once(hub)
    assert_whole(to)


def test_damaged_locks_and_claims_do_no_harm(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    """A crash of a file server leaves anything: files that are cut, empty, garbage, or folders where files should be."""
    to = tmp_path / "to"
    work = to / ".shoal"
    for folder in ("jobs", "claims", "partial"):
        (work / folder).mkdir(parents=True)
    specs = (ObjectSpec(object_id=1, path=path, size=as_content(content).size) for path, content in REPO.items())
    for key in map(claim_key, specs):
        (work / "claims" / key).mkdir(exist_ok=True)
        (work / "claims" / key / "torn.a-1").write_bytes(b"")
    (work / "jobs/torn.a-1.lease").write_bytes(b'{"host": "elsew')
    (work / "manifest.json").write_bytes(b'{"version": 1, "sour')
    age = time.time() - 3600
    for path in work.rglob("*"):
        os.utime(path, (age, age))
    with start(shoal, to, *SOON) as run:
        ends_well(run)
    assert_whole(to)
