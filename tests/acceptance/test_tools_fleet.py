"""``shoal tools run`` with a coordinator: the agents that see the folder run the units; those that die cost nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.datasets import Dataset
from support.fleet import Fleet, until

ENVIRON = {
    "SHOAL_COORDINATOR_LEASE_TTL": "4s",
    "SHOAL_COORDINATOR_HEARTBEAT": "500ms",
    "SHOAL_TOOLS_UNIT_SIZE": "1KiB",  # a unit for each partition
}
OWN = """
import time
from shoal.tools import DefaultScheduler, FilterRegister, FilterRunnerTool, FilterToolBase, RunnerRegister, SchedulerRegister

@FilterRegister("unlicensed")
class Unlicensed(FilterToolBase):
    columns = ("license",)

    def select(self, partition, rows):
        time.sleep(0.2)
        return [not value for value in rows.column("license").to_pylist()]

SchedulerRegister("unlicensed")(DefaultScheduler)
RunnerRegister("unlicensed")(FilterRunnerTool)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", endpoint="http://127.0.0.1:9", environ=ENVIRON) as made:
        made.coordinator.start()
        yield made


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    def twins(number: int, values: dict[str, Any]) -> None:
        if number in (3, 44):
            values["hashsum_original"] = hashlib.md5(b"twin").hexdigest()

    return Dataset(folder=tmp_path / "data", edit=twins, partitions=3).write()


def run_tool(fleet: Fleet, name: str, dataset: Dataset, *options: str | Path, **more: Any) -> Any:
    return fleet.run("tools", "run", name, "--data", dataset.folder, "--json", *options, **more).expect(0).document()


def test_agents_run_the_units(fleet: Fleet, dataset: Dataset) -> None:
    fleet.start("n1", "n2")
    before = dataset.uuids()
    report = run_tool(fleet, "resize", dataset, "--new-size", "32")
    assert report["units"] == 9
    assert report["changed"] == 90
    assert not report["done_before"]
    assert {max(row["resized_size"]) for row in dataset.read()} == {32}
    assert dataset.uuids() == before
    digests = dataset.digests()
    assert run_tool(fleet, "resize", dataset, "--new-size", "32")["done_before"]
    assert dataset.digests() == digests
    done = {view["name"]: view["objects_done"] for view in fleet.ask("agents")["agents"]}
    assert sum(done.values()) >= 9
    assert dataset.leftovers() == []


def test_an_agent_that_is_killed_costs_only_its_unit(fleet: Fleet, dataset: Dataset) -> None:
    fleet.start("n1", "n2")
    before = dataset.uuids()
    running = fleet.shoal.start("tools", "run", "duplication_based", "--data", dataset.folder, "--json")
    with running:
        until("the plan", lambda: (dataset.folder / ".shoal/tools/duplication_based/schedule.parquet").exists())
        fleet.agent("n1").kill()
        report = running.wait(100).expect(0).document()
    assert report["removed"] == 1
    assert sorted([*dataset.uuids(), *dataset.uuids(below="filtered/duplication_based")]) == before


def test_a_tool_of_ones_own_runs_where_the_agents_allow_its_folder(
    fleet: Fleet, dataset: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "own" / "unlicensed.py"
    file.parent.mkdir()
    file.write_text(OWN)
    fleet.start("n1")
    refused = fleet.run("tools", "run", "unlicensed", "--data", dataset.folder, "--load", file)
    assert refused.exit_code == 7
    assert "tools.load_paths" in refused.stderr
    assert fleet.agent("n1").terminate() == 0
    fleet.add_agent("n2", "--set", f"tools.load_paths={file.parent}")
    fleet.until_alive("n2")
    report = run_tool(fleet, "unlicensed", dataset, "--load", file, timeout_s=100)
    assert report["removed"] == sum(number % 3 != 0 for number in range(90))


def test_a_tool_that_is_not_there_is_named(fleet: Fleet, dataset: Dataset) -> None:
    fleet.start("n1")
    finished = fleet.run("tools", "run", "nothing", "--data", dataset.folder)
    assert finished.exit_code in (2, 3)
    assert "nothing" in finished.stderr
