"""``shoal tools`` as a person runs it: each built-in tool, twice, stopped at every step, reset, restored; tools of one's own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from support.cli import Shoal
from support.datasets import HOSTS, Dataset, picture, row

STOP_AFTER = "SHOAL_TOOLS_TEST_STOP_AFTER"
DOUBLES = {3: 900, 33: 900, 53: 900, 8: 901, 9: 901}
"""Number -> seed of rows that are duplicates: 3 is on a.example, 33 on the host with a port, 53 on c.example; 8 and 9 lie together."""


def spoil(number: int, values: dict[str, Any]) -> None:
    """Rows of every kind that a tool has to do with."""
    if number % 7 == 0:
        values["original_size"] = [100, 1000]
    if number in DOUBLES:
        values["hashsum_original"] = hashlib.md5(str(DOUBLES[number]).encode()).hexdigest()
    if number == 12:
        values["image"] = values["image"][:-40]  # cut
    if number == 25:
        values["image"] = b"no image at all"
        values["hashsum_resized"] = hashlib.md5(values["image"]).hexdigest()


CORRUPT = ["uuid-000012", "uuid-000025"]
SMALL = [f"uuid-{number:06d}" for number in range(0, 60, 7)]
DUPLICATE = ["uuid-000009", "uuid-000033", "uuid-000053"]
ALL = [f"uuid-{number:06d}" for number in range(60)]


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    return Shoal(tmp_path / "person")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(folder=tmp_path / "data", edit=spoil).write()


def run_tool(shoal: Shoal, name: str, dataset: Dataset, *options: str | Path, **more: Any) -> Any:
    """Run it to a good end. Returns its report."""
    return shoal.run("tools", "run", name, "--data", dataset.folder, "--json", *options, **more).expect(0).document()


def without(removed: list[str]) -> list[str]:
    return [uuid for uuid in ALL if uuid not in removed]


# ---- the built-in tools -------------------------------------------------------------------------------------------------


def test_size_based(shoal: Shoal, dataset: Dataset) -> None:
    report = run_tool(shoal, "size_based", dataset, "--threshold-size", "200")
    assert (report["rows"], report["chosen"], report["removed"], report["units"]) == (60, 9, 9, 1)
    assert dataset.uuids() == without(SMALL)
    assert dataset.uuids(below="filtered/size_based") == SMALL
    moved = {each["uuid"]: each for each in dataset.read(below="filtered/size_based")}
    assert moved["uuid-000028"]["server_name"] == "b.example%3A8080", "they lie where they came from"
    assert dataset.leftovers() == []
    table = pq.read_table(dataset.folder / ".shoal/tools/size_based/filter")
    assert table.column_names == ["server_name", "partition_id", "row", "uuid", "original_size"]
    assert table.column("uuid").to_pylist() == SMALL


def test_duplication_based(shoal: Shoal, dataset: Dataset) -> None:
    report = run_tool(shoal, "duplication_based", dataset)
    assert report["removed"] == 3
    assert dataset.uuids() == without(DUPLICATE), "the first by server, partition and row stays"
    assert dataset.uuids(below="filtered/duplication_based") == DUPLICATE
    (kept,) = [
        each
        for each in pq.read_table(dataset.folder / ".shoal/tools/duplication_based/filter").to_pylist()
        if each["uuid"] == "uuid-000033"
    ]
    assert (kept["kept_server_name"], kept["kept_partition_id"], kept["kept_row"]) == (HOSTS[0], 0, 3)


def test_what_looks_alike_is_only_listed(shoal: Shoal, tmp_path: Path) -> None:
    def alike(number: int, values: dict[str, Any]) -> None:
        if number in (4, 44):
            buffer = io.BytesIO()
            picture(77).save(buffer, "JPEG", quality=95 if number == 4 else 80)  # other bytes, the same picture
            values["image"] = buffer.getvalue()
        if number == 5:
            values["image"] = b"nothing"

    dataset = Dataset(folder=tmp_path / "data", edit=alike).write()
    report = run_tool(shoal, "duplication_based", dataset, "--perceptual")
    assert (report["removed"], report["reported"]) == (0, 1)
    assert pq.read_table(report["report"]).column("uuid").to_pylist() == ["uuid-000005"]
    (path,) = report["also"]
    assert pq.read_table(path).column("uuid").to_pylist() == ["uuid-000004", "uuid-000044"]
    assert dataset.uuids() == ALL


def test_resize(shoal: Shoal, dataset: Dataset) -> None:
    before = {each["uuid"]: each for each in dataset.read()}
    report = run_tool(shoal, "resize", dataset, "--new-size", "32")
    assert (report["changed"], report["removed"], report["reported"]) == (58, 0, 2)
    assert sorted(pq.read_table(report["report"]).column("uuid").to_pylist()) == CORRUPT
    for each in dataset.read():
        if each["uuid"] in CORRUPT:
            assert each == before[each["uuid"]]
            continue
        assert each["resized_size"] == [24, 32]
        assert hashlib.md5(each["image"]).hexdigest() == each["hashsum_resized"]
        with Image.open(io.BytesIO(each["image"])) as image:
            assert (image.format, image.size) == ("JPEG", (32, 24))
        assert each["hashsum_original"] == before[each["uuid"]]["hashsum_original"]
    assert dataset.uuids() == ALL


@pytest.mark.parametrize("metadata", [{}, {"image_encoding": "raw-bgr"}], ids=["by length", "by metadata"])
def test_raw_images(shoal: Shoal, tmp_path: Path, metadata: dict[str, str]) -> None:
    def edit(number: int, values: dict[str, Any]) -> None:
        if number == 7 and metadata:
            values["image"] = values["image"][:-1]
            values["hashsum_resized"] = hashlib.md5(values["image"]).hexdigest()

    dataset = Dataset(folder=tmp_path / "data", encoding="raw-bgr", metadata=metadata, edit=edit).write()
    wrong = int(bool(metadata))
    run = shoal.run("tools", "run", "image_verification", "--data", dataset.folder, "--json").expect(6 if wrong else 0)
    assert (run.document()["rows"], run.document()["reported"]) == (60, wrong)
    assert run_tool(shoal, "resize", dataset, "--new-size", "16")["changed"] == 60 - wrong
    made = {each["uuid"]: each for each in dataset.read()}["uuid-000001"]
    assert (made["resized_size"], len(made["image"])) == ([12, 16], 12 * 16 * 3)
    blue, green, red = made["image"][:3]
    expected = picture(1).resize((16, 12), Image.Resampling.BOX).getpixel((0, 0))
    assert (red, green, blue) == expected


def test_image_verification(shoal: Shoal, dataset: Dataset) -> None:
    before = dataset.digests()
    run = shoal.run("tools", "run", "image_verification", "--data", dataset.folder, "--json").expect(6)
    report = pq.read_table(run.document()["report"]).to_pylist()
    assert [(each["uuid"], each["kind"]) for each in report] == [(CORRUPT[0], "digest"), (CORRUPT[1], "undecodable")]
    assert (report[0]["server_name"], report[0]["partition_id"], report[0]["row"]) == (HOSTS[0], 1, 2)
    assert dataset.digests() == before, "looking changes nothing"
    report = run_tool(shoal, "image_verification", dataset, "--remove", "--reset-filtering")
    assert (report["removed"], report["reported"]) == (2, 2)
    assert dataset.uuids() == without(CORRUPT)
    assert dataset.uuids(below="filtered/image_verification") == CORRUPT


RUNS: Mapping[str, list[str]] = {
    "size_based": [],
    "duplication_based": [],
    "resize": ["--new-size", "32"],
    "image_verification": ["--remove"],
}


@pytest.mark.parametrize("name", RUNS)
def test_the_second_run_does_nothing(shoal: Shoal, dataset: Dataset, name: str) -> None:
    first = run_tool(shoal, name, dataset, *RUNS[name])
    assert not first["done_before"]
    files = {path: path.stat().st_mtime_ns for path in dataset.folder.rglob("*") if path.is_file()}
    second = run_tool(shoal, name, dataset, *RUNS[name])
    assert second == {**first, "done_before": True}
    assert {path: path.stat().st_mtime_ns for path in dataset.folder.rglob("*") if path.is_file()} == files
    # Looked at anew, there is nothing left to do, but for what was never done because it could not be.
    third = run_tool(shoal, name, dataset, *RUNS[name], "--reset-filtering")
    assert (third["removed"], third["changed"]) == (0, 0)


def test_one_tool_after_another_and_all_restored(shoal: Shoal, dataset: Dataset) -> None:
    before = sorted(dataset.read(), key=lambda each: each["uuid"])
    for name in ("size_based", "image_verification", "duplication_based"):
        run_tool(shoal, name, dataset, *RUNS[name])
    assert len(dataset.uuids()) == 60 - len({*SMALL, *CORRUPT, *DUPLICATE})
    for name in ("size_based", "duplication_based", "image_verification"):
        shoal.run("tools", "restore", name, "--data", dataset.folder).expect(0)
    after = sorted(dataset.read(), key=lambda each: each["uuid"])
    assert after == before
    assert not (dataset.folder / "filtered/size_based").exists()
    run = shoal.run("tools", "restore", "size_based", "--data", dataset.folder).expect(3)
    assert "no folder" in run.stderr
    assert run_tool(shoal, "size_based", dataset)["removed"] == len(SMALL), "it begins anew"


# ---- stopped ------------------------------------------------------------------------------------------------------------


def killed_at(shoal: Shoal, step: int, *arguments: str | Path) -> int:
    """A run whose processes are killed after so many renames. Returns its exit code."""
    return shoal.run(*arguments, environ={STOP_AFTER: str(step)}).exit_code


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("name", ["size_based", "resize", "image_verification"])
def test_killed_at_every_rename(shoal: Shoal, tmp_path: Path, name: str, step: int) -> None:
    """Two partitions in one unit: the worker renames at most 3 or 4 times for each and once for the unit, the parent 5 times."""
    dataset = Dataset(folder=tmp_path / "data", hosts=HOSTS[:1], rows=30, edit=spoil).write()
    arguments = ["tools", "run", name, "--data", dataset.folder, *RUNS[name]]
    codes = [killed_at(shoal, step, *arguments)]
    if step % 2:
        codes.append(killed_at(shoal, step // 2, *arguments))
    assert set(codes) <= {0, 1, -9}
    assert step > 4 or codes[0] != 0, "nothing was killed: the test proves nothing"
    shoal.run(*arguments).expect(0)
    left = {"size_based": SMALL, "image_verification": CORRUPT, "resize": []}[name]
    assert sorted(dataset.uuids() + dataset.uuids(below=f"filtered/{name}")) == ALL
    assert dataset.uuids(below=f"filtered/{name}") == left
    assert dataset.leftovers() == []


def test_a_stopped_move_is_finished_by_another_tool(shoal: Shoal, tmp_path: Path) -> None:
    seen: set[int] = set()
    for step in range(6):
        dataset = Dataset(folder=tmp_path / str(step), hosts=HOSTS[:1], rows=30, edit=spoil).write()
        killed_at(shoal, step, "tools", "run", "size_based", "--data", dataset.folder)
        seen.add(len(dataset.uuids()) + len(dataset.uuids(below="filtered/size_based")))
        run_tool(shoal, "resize", dataset, "--new-size", "32")
        assert sorted(dataset.uuids() + dataset.uuids(below="filtered/size_based")) == ALL
    assert seen > {60}, "in no try was a row in both places: the test proves nothing"


def test_restore_killed_at_every_rename(shoal: Shoal, tmp_path: Path) -> None:
    for step in range(6):
        dataset = Dataset(folder=tmp_path / str(step), hosts=HOSTS[:1], rows=30, edit=spoil).write()
        run_tool(shoal, "size_based", dataset)
        killed_at(shoal, step, "tools", "restore", "size_based", "--data", dataset.folder)
        if (dataset.folder / "filtered/size_based").exists():
            shoal.run("tools", "restore", "size_based", "--data", dataset.folder).expect(0)
        assert dataset.uuids() == ALL
        assert [each for each in dataset.leftovers() if each.endswith(".next")] == []


SLOW = """
import time
from shoal.tools import FilterRunnerTool, PythonFilterToolBase, DefaultScheduler
from shoal.tools import FilterRegister, RunnerRegister, RowRunnerTool, SchedulerRegister

FilterRegister("slow")(PythonFilterToolBase)
SchedulerRegister("slow")(DefaultScheduler)

@RunnerRegister("slow")
class Slow(RowRunnerTool):
    def row(self, row):
        time.sleep(float(self.options.get("pause", "0.2")))
        return {"title": (row["title"] or "") + "seen"}
"""


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_between_units_and_resumed(shoal: Shoal, dataset: Dataset, tmp_path: Path, number: int) -> None:
    tool = tmp_path / "slow.py"
    tool.write_text(SLOW)
    arguments = ["tools", "run", "slow", "--data", dataset.folder, "--load", tool, "--workers", "2"]
    arguments += ["--option", "unit_size=1"]
    runs = dataset.folder / ".shoal/tools/slow/runs"
    with shoal.start(*arguments) as running:
        wait_for(lambda: len(list(runs.glob("*.done"))) >= 2 if runs.is_dir() else False)
        workers = children_of(running.pid)
        running.signal(number)
        ended = running.wait()
    assert ended.exit_code == (-9 if number == signal.SIGKILL else 130)
    if number != signal.SIGKILL:
        assert "run it again" in ended.stderr
    assert workers
    wait_for(lambda: not any(alive(pid) for pid in workers))
    kept = {path.name: path.stat().st_mtime_ns for path in runs.glob("*.done")}
    assert 2 <= len(kept) < 6
    shoal.run(*arguments).expect(0)
    assert {name: (runs / name).stat().st_mtime_ns for name in kept} == kept, "what was complete was not done again"
    assert [each["title"] for each in dataset.read()] == ["seen"] * 60, "each row once, none twice"
    assert dataset.leftovers() == []


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_another_tool_meanwhile_is_refused(shoal: Shoal, dataset: Dataset, tmp_path: Path) -> None:
    tool, lock = tmp_path / "slow.py", dataset.folder / ".shoal/tools/lock"
    tool.write_text(SLOW)
    slowly = ("--load", tool, "--option", "pause=20")
    with shoal.start("tools", "run", "slow", "--data", dataset.folder, *slowly) as running:
        wait_for(lambda: b"slow" in lock.read_bytes() if lock.exists() else False)
        run = shoal.run("tools", "run", "resize", "--data", dataset.folder, "--json").expect(1)
        assert run.document()["error"]["code"] == "busy"
        assert str(running.pid) in run.stderr and "slow is at work" in run.stderr and "run resize when" in run.stderr
        run = shoal.run("tools", "restore", "resize", "--data", dataset.folder, "--json").expect(1)
        assert run.document()["error"]["code"] == "busy"


# ---- resets -------------------------------------------------------------------------------------------------------------

COUNTING = """
from pathlib import Path
from shoal.tools import *

def count(tool, stage):
    with open(Path(tool.options["log"]), "a") as file:
        print(stage, file=file)

@FilterRegister("counting")
class Filter(FilterToolBase):
    columns = ("license",)
    def run(self, reader, table):
        count(self, "filter")
        super().run(reader, table)
    def select(self, partition, rows):
        return [value == "CC0" for value in rows.column("license").to_pylist()]

@SchedulerRegister("counting")
class Scheduler(SchedulerToolBase):
    def run(self, chosen):
        count(self, "schedule")
        return [[each] for each in chosen]

@RunnerRegister("counting")
class Runner(RowRunnerTool):
    def row(self, row):
        if row["uuid"].endswith("0"):
            raise ValueError("ends in 0")
        if row["uuid"].endswith("3"):
            return False
        return {"title": "free"}
    def apply(self, batch):
        count(self, "run")
        return super().apply(batch)
"""


def test_a_tool_of_ones_own_and_each_reset(shoal: Shoal, dataset: Dataset, tmp_path: Path) -> None:
    tool, log = tmp_path / "counting.py", tmp_path / "log"
    tool.write_text(COUNTING)
    options = ["--load", tool, "--option", f"log={log}", "--workers", "1"]

    def stages(*more: str) -> list[str]:
        log.write_text("")
        shoal.run("tools", "run", "counting", "--data", dataset.folder, *options, *more).expect(0)
        return sorted(set(log.read_text().split()))

    assert stages() == ["filter", "run", "schedule"]
    free = [uuid for uuid in ALL if int(uuid[-6:]) % 3 == 0]
    assert dataset.uuids(below="filtered/counting") == [uuid for uuid in free if uuid.endswith("3")]
    titles = {each["uuid"]: each["title"] for each in dataset.read()}
    assert titles["uuid-000006"] == "free" and titles["uuid-000030"] is None and titles["uuid-000007"] is None
    report = shoal.run("tools", "run", "counting", "--data", dataset.folder, *options, "--json").expect(0).document()
    assert report["done_before"] and report["units"] == 6
    reasons = pq.read_table(report["report"]).to_pylist()
    assert [(each["uuid"], each["reason"]) for each in reasons] == [
        ("uuid-000000", "ValueError: ends in 0"),
        ("uuid-000030", "ValueError: ends in 0"),
    ]
    digests = dataset.digests()
    assert stages() == []
    assert stages("--reset-runners") == [], "every partition says that it was done"
    assert stages("--reset-scheduling") == ["schedule"]
    assert dataset.digests() == digests
    assert stages("--reset-filtering") == ["filter", "run", "schedule"]
    assert sorted(dataset.uuids() + dataset.uuids(below="filtered/counting")) == ALL


def test_resets_of_a_tool_that_only_looks(shoal: Shoal, dataset: Dataset) -> None:
    folder = dataset.folder / ".shoal/tools/image_verification"
    paths = [folder / "filter/_done.json", folder / "schedule.parquet", folder / "runs/unit-000000.done"]

    def new(*options: str) -> list[bool]:
        before = [path.stat().st_ino for path in paths]
        shoal.run("tools", "run", "image_verification", "--data", dataset.folder, *options).expect(6)
        return [path.stat().st_ino != old for path, old in zip(paths, before, strict=True)]

    shoal.run("tools", "run", "image_verification", "--data", dataset.folder).expect(6)
    keep = [path.open("rb") for path in paths]  # a file that is open keeps its inode number from being used again
    try:
        assert new() == [False, False, False]
        assert new("--reset-runners") == [False, False, True]
        assert new("--reset-scheduling")[:2] == [False, True]
        assert new("--reset-filtering")[0]
    finally:
        for file in keep:
            file.close()


def test_other_options_need_a_reset(shoal: Shoal, dataset: Dataset) -> None:
    run_tool(shoal, "size_based", dataset, "--threshold-size", "50")
    run = shoal.run("tools", "run", "size_based", "--data", dataset.folder, "--threshold-size", "200").expect(1)
    assert "threshold_size=50" in run.stderr and "--reset-filtering" in run.stderr
    report = run_tool(shoal, "size_based", dataset, "--threshold-size", "200", "--reset-filtering")
    assert report["removed"] == len(SMALL)
    run_tool(shoal, "size_based", dataset, "--threshold-size", "200", "--option", "unit_size=1")


# ---- tools of one's own -------------------------------------------------------------------------------------------------


def test_a_tool_of_an_installed_package(shoal: Shoal, dataset: Dataset, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "counting_tools-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "counting_tools.py").write_text(COUNTING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-tools\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[shoal.tools]\ncounting = counting_tools\nbroken = absent_module\n")
    shoal.environ["PYTHONPATH"] = str(site)
    run_tool(shoal, "counting", dataset, "--option", f"log={tmp_path / 'log'}")
    assert dataset.uuids(below="filtered/counting")
    run = shoal.run("tools", "list", "--json").expect(1)
    listed = {each["name"]: each for each in run.document()["tools"]}
    assert listed["counting"]["origin"] == str(site / "counting_tools.py")
    assert listed["resize"]["origin"] == "built in" and "new_size" in listed["resize"]["options"]
    assert "absent_module" in run.document()["broken"][0]["cause"]
    assert "entry point broken" in run.stderr


def test_the_example_of_the_documentation(shoal: Shoal, dataset: Dataset, tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/tools.md").read_text(encoding="utf-8")
    tool = tmp_path / "greyscale.py"
    tool.write_text(text.partition("```python\n# greyscale.py")[2].partition("```")[0].partition("\n")[2])
    report = run_tool(shoal, "greyscale", dataset, "--load", tool, "--option", "free=CC0,PDM")
    free = [uuid for uuid in ALL if int(uuid[-6:]) % 3 == 0]
    assert (report["removed"], report["changed"], report["reported"]) == (40, len(free) - 1, 1)
    (reported,) = pq.read_table(report["report"]).to_pylist()
    assert reported["uuid"] == "uuid-000012", "the image that was cut"
    assert dataset.uuids() == free
    for each in dataset.read():
        with Image.open(io.BytesIO(each["image"])) as image:
            assert image.mode == ("RGB" if each["uuid"] == "uuid-000012" else "L")
    listed = shoal.run("tools", "list", "--load", tool, "--json").expect(0).document()["tools"]
    (mine,) = [each for each in listed if each["name"] == "greyscale"]
    assert mine["about"].startswith("Images with a free licence") and list(mine["options"]) == ["free"]


PARTLY = """
from shoal.tools import FilterRegister, FilterToolBase, RunnerToolBase, Outcome

@FilterRegister("partly")
class Filter(FilterToolBase):
    columns = ("uuid",)
    def select(self, partition, rows):
        return [uuid.endswith("5") for uuid in rows.column("uuid").to_pylist()]

class Undecorated(RunnerToolBase):
    filter_name = "named"
    def apply(self, batch):
        return Outcome(leave=[index for index in batch.chosen if index == 0])
"""


def test_what_is_not_registered_needs_an_override(shoal: Shoal, dataset: Dataset, tmp_path: Path) -> None:
    tool = tmp_path / "partly.py"
    tool.write_text(PARTLY)
    data = ["--data", dataset.folder, "--load", tool]
    run = shoal.run("tools", "run", "partly", *data).expect(3)
    assert "no scheduler and no runner" in run.stderr and "--allow-unregistered" in run.stderr
    before = dataset.digests()
    report = shoal.run("tools", "run", "partly", *data, "--allow-unregistered", "--json").expect(0).document()
    assert (report["reported"], report["removed"]) == (6, 0)
    assert dataset.digests() == before, "without a runner rows are listed"
    run = shoal.run("tools", "run", "resise", *data).expect(3)
    assert "did you mean resize?" in run.stderr
    report = shoal.run("tools", "run", "named", *data, "--allow-unregistered", "--json").expect(0).document()
    assert report["removed"] >= 6, "a class that says whose it is"


FAILURES = {
    "load": ("x = 1 / 0\n", 1, "ZeroDivisionError"),
    "syntax": ("def broken(:\n", 1, "SyntaxError"),
    "filter": ("def select(self, partition, rows):\n        raise KeyError('no such thing')", 2, "KeyError"),
    "schedule": ("def run(self, chosen):\n        return [chosen[:1]]", 0, "left out 5"),
    "run": ("def apply(self, batch):\n        batch.rows.column('absent')", 2, "KeyError"),
}


@pytest.mark.parametrize("stage", FAILURES)
def test_errors_of_ones_own_code_are_named(shoal: Shoal, dataset: Dataset, tmp_path: Path, stage: str) -> None:
    body, line, cause = FAILURES[stage]
    tool = tmp_path / "bad.py"
    if stage in ("load", "syntax"):
        tool.write_text(body)
        at = line
    else:
        base = {"filter": "FilterToolBase", "schedule": "SchedulerToolBase", "run": "RunnerToolBase"}[stage]
        head = f"from shoal.tools import *\nclass Bad({base}):\n    filter_name = 'bad'\n    "
        tool.write_text(head + body + "\n")
        at = head.count("\n") + line
    before = dataset.digests()
    run = shoal.run("tools", "run", "bad", "--data", dataset.folder, "--load", tool, "--allow-unregistered").expect(1)
    assert cause in run.stderr
    assert f"stage {stage.replace('syntax', 'load')}" in run.stderr
    if line:
        assert f"{tool}:{at}" in run.stderr
    assert dataset.digests() == before
    assert dataset.leftovers() == []


def test_a_changed_tool_file_does_not_go_on(shoal: Shoal, dataset: Dataset, tmp_path: Path) -> None:
    tool = tmp_path / "slow.py"
    tool.write_text(SLOW)
    run_tool(shoal, "slow", dataset, "--load", tool, "--option", "pause=0")
    tool.write_text(SLOW + "# another version\n")
    run = shoal.run("tools", "run", "slow", "--data", dataset.folder, "--load", tool, "--option", "pause=0").expect(1)
    assert "another version of the loaded file" in run.stderr


CRASHING = """
import os
from shoal.tools import *

class Crash(RowRunnerTool):
    filter_name = "crash"
    def row(self, row):
        if row["uuid"] in ("uuid-000017", "uuid-000042"):
            print("about to die")
            os._exit(3)
        return {"title": "alive"}
"""


def test_a_row_that_kills_its_process_is_reported(shoal: Shoal, dataset: Dataset, tmp_path: Path) -> None:
    tool = tmp_path / "crash.py"
    tool.write_text(CRASHING)
    report = run_tool(shoal, "crash", dataset, "--load", tool, "--allow-unregistered")
    listed = pq.read_table(report["report"]).to_pylist()
    assert sorted((each["uuid"], each["kind"]) for each in listed) == [("uuid-000017", "died"), ("uuid-000042", "died")]
    assert sum(each["title"] == "alive" for each in dataset.read()) == 58


# ---- broken data, and usage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_a_damaged_partition_is_named_and_the_others_are_done(shoal: Shoal, dataset: Dataset, name: str) -> None:
    path = dataset.path(HOSTS[1], 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    run = shoal.run("tools", "run", name, "--data", dataset.folder, *RUNS[name], "--json").expect(1)
    assert "server_name=b.example%3A8080/partition_id=0: it is not a whole Parquet file" in run.stderr
    assert run.document()["problems_total"] == 1
    assert path.read_bytes() == whole[: len(whole) // 2]
    path.write_bytes(whole)
    shoal.run("tools", "run", name, "--data", dataset.folder, *RUNS[name], "--reset-filtering").expect(0)
    assert sorted(dataset.uuids() + dataset.uuids(below=f"filtered/{name}")) == ALL


def test_damage_in_the_middle_of_the_images(shoal: Shoal, dataset: Dataset) -> None:
    path = dataset.path(HOSTS[0], 0)
    damaged = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(1).column(file.schema_arrow.names.index("image") + 0)
        offset = next(
            file.metadata.row_group(1).column(i).data_page_offset
            for i in range(file.metadata.num_columns)
            if file.metadata.row_group(1).column(i).path_in_schema == "image"
        )
    assert column is not None
    damaged[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(damaged)
    run = shoal.run("tools", "run", "image_verification", "--data", dataset.folder, "--json").expect(1)
    assert "server_name=a.example/partition_id=0" in run.stderr
    assert run.document()["rows"] == 50
    assert path.read_bytes() == damaged


def test_a_partition_that_changed_since_the_filter_is_left_alone(shoal: Shoal, dataset: Dataset) -> None:
    killed_at(shoal, 2, "tools", "run", "size_based", "--data", dataset.folder)
    dataset.put(HOSTS[2], 1, [row(1000 + number, HOSTS[2]) for number in range(3)])
    run = shoal.run("tools", "run", "size_based", "--data", dataset.folder).expect(1)
    assert "it changed since the filter read it" in run.stderr
    assert "uuid-001000" in dataset.uuids()
    shoal.run("tools", "run", "size_based", "--data", dataset.folder, "--reset-filtering").expect(0)


def test_images_that_are_bombs_or_of_other_kinds(shoal: Shoal, tmp_path: Path) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")

    def edit(number: int, values: dict[str, Any]) -> None:
        hostile = {1: bomb.getvalue(), 2: b"%!PS-Adobe-3.0 EPSF-3.0\n", 3: b"", 4: b"\xff\xd8\xff\xe0" * 9}
        if number in hostile:
            values["image"] = hostile[number]
            values["hashsum_resized"] = hashlib.md5(hostile[number]).hexdigest()
            values["resized_size"] = [20_000, 20_000]

    dataset = Dataset(folder=tmp_path / "data", edit=edit).write()
    report = run_tool(shoal, "resize", dataset, "--new-size", "32")
    assert (report["reported"], report["changed"]) == (4, 56)
    reasons = [each["reason"] for each in pq.read_table(report["report"]).to_pylist()]
    assert "20000 x 20000 pixels" in reasons[0]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tools"], 2),
        (["tools", "run"], 2),
        (["tools", "run", "resize"], 2),
        (["tools", "run", "resize", "--data", "absent"], 3),
        (["tools", "run", "resize", "--data", "."], 3),
        (["tools", "run", "no-such-tool", "--data", "."], 3),
        (["tools", "run", "../evil", "--data", ".", "--allow-unregistered"], 2),
        (["tools", "run", "resize", "--data", ".", "--new-size", "0"], 2),
        (["tools", "run", "resize", "--data", ".", "--threshold-size", "5"], 2),
        (["tools", "run", "resize", "--data", ".", "--option", "new_sise=5"], 2),
        (["tools", "run", "resize", "--data", ".", "--option", "new_size"], 2),
        (["tools", "run", "resize", "--data", ".", "--load", "absent.py"], 3),
        (["tools", "run", "resize", "--data", ".", "--reset-filtering", "--reset-runners"], 2),
        (["tools", "restore", "resize", "--data", "absent"], 3),
    ],
)
def test_usage_errors(shoal: Shoal, arguments: list[str], code: int) -> None:
    run = shoal.run(*arguments).expect(code)
    assert run.stdout == "" and run.stderr != ""


def test_settings_and_python(shoal: Shoal, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.client import apply_tool

    config = shoal.cwd / "shoal.toml"
    config.write_text(f'[tools]\ndata = "{dataset.folder}"\nnew_size = 32\nthreshold_size = 200\n')
    monkeypatch.chdir(shoal.cwd)
    report = apply_tool("shoal.toml", "resize")
    assert (report.changed, report.done_before) == (58, False)
    assert shoal.run("tools", "run", "resize", "--json").expect(0).document()["done_before"]
    assert apply_tool(config, "size_based", options={"threshold_size": 150}).removed == len(SMALL)
    assert os.listdir(dataset.folder / "filtered") == ["size_based"]


def test_listing_loads_no_image_library(shoal: Shoal) -> None:
    run = shoal.run("tools", "list", environ={"PYTHONPROFILEIMPORTTIME": "1"}).expect(0)
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert imported & {"pyarrow", "PIL", "numpy", "imagehash", "grpc", "asyncio"} == set()
