"""Parts of the tools: the lock, duplicates, images, what a stopped write leaves, units, the agents' three calls."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shoal.client.tools_api import tool_spec
from shoal.client.tools_cmd import Line, describe
from shoal.common.collect_records import ToolSpec
from shoal.common.errors import Busy, Conflict, NotFound, StateDamaged, ToolFailed, UsageError
from shoal.common.settings import load_settings
from shoal.tools import (
    ALL_ROWS,
    Chosen,
    DefaultScheduler,
    FilterRegister,
    FilterToolBase,
    Partition,
    Progress,
    SchedulerRegister,
    UnitReport,
    duplicates,
    durable,
    finish,
    images,
    loading,
    lock,
    perceptual,
    plan,
    registry,
    run_tool,
    run_unit,
)
from shoal.tools.bases import balanced
from shoal.tools.dataset import fingerprint, partitions
from shoal.tools.lock import dataset_lock
from shoal.tools.state import ToolFolder
from support.datasets import HOSTS, Dataset, picture

# ---- reading a dataset --------------------------------------------------------------------------------------------------


def test_partitions_are_in_order_and_others_are_passed_by(tmp_path: Path) -> None:
    dataset = Dataset(folder=tmp_path, rows=1, partitions=1).write()
    for number in (10, 9, 2):
        dataset.put("a.example", number, [])
    for odd in (
        "images/other",
        "images/server_name=",
        "images/server_name=x/partition_id=y",
        "images/server_name=x/_tmp",
    ):
        (tmp_path / odd).mkdir(parents=True)
        (tmp_path / odd / "successes.parquet").touch()
    (tmp_path / "images/server_name=file").touch()
    (tmp_path / "images/server_name=z/partition_id=1").mkdir(parents=True)
    found = [str(partition) for partition in partitions(tmp_path)]
    assert found == ["a.example/0", "a.example/2", "a.example/9", "a.example/10", f"{HOSTS[1]}/0", f"{HOSTS[2]}/0"]
    with pytest.raises(NotFound, match="no folder images"):
        list(partitions(tmp_path / "images"))


def test_a_fingerprint_tells_versions_apart(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3]})
    pq.write_table(table, tmp_path / "one")
    pq.write_table(table, tmp_path / "same")
    pq.write_table(table.replace_schema_metadata({"x": "y"}), tmp_path / "other")
    one, same, other = (fingerprint(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other
    whole = (tmp_path / "one").read_bytes()
    for damaged in (b"", b"PAR1", whole[:-1], whole[:-9], b"\xff" * 4 + b"PAR1"):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(StateDamaged, match="not a whole Parquet file"):
            fingerprint(tmp_path / "damaged")


def test_a_document_that_was_cut_is_none(tmp_path: Path) -> None:
    path = tmp_path / "folder/document.json"
    durable.write_json(path, {"a": 1})
    assert durable.read_json(path) == {"a": 1}
    text = path.read_text()
    for damaged in (text[:-2], text.replace("1", "2", 1), "[]", "", "null"):
        path.write_text(damaged)
        assert durable.read_json(path) is None
    assert durable.read_json(tmp_path / "absent") is None
    assert os.listdir(path.parent) == ["document.json"]


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 3000))
def test_units_are_balanced(sizes: list[int], most: int) -> None:
    chosen = [
        Chosen(partition=Partition("a", i), rows=ALL_ROWS, size=size, fingerprint="", part="")
        for i, size in enumerate(sizes)
    ]
    units = balanced(chosen, most)
    assert sorted((each for unit in units for each in unit), key=lambda each: each.partition) == chosen
    totals = [sum(each.size for each in unit) for unit in units]
    assert totals == sorted(totals, reverse=True)
    assert all(total <= most or len(unit) == 1 for total, unit in zip(totals, units, strict=True))


# ---- duplicates ---------------------------------------------------------------------------------------------------------


def test_duplicates_among_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "WAITING_ROWS", 1000)
    chance = random.Random(1)
    rows = [(f"{chance.randrange(3000):032x}"[::-1], p, r) for p in range(5) for r in range(2000)]
    rows += [("not hexadecimal", 7, 0), ("not hexadecimal", 7, 1), ("", 8, 0)]
    first: dict[str, tuple[int, int]] = {}
    expected = [(p, r, *first[key]) for key, p, r in rows if first.setdefault(key, (p, r)) != (p, r)]
    found: list[Any] = []
    with duplicates.Buckets(tmp_path / "keys", duplicates.key_schema()) as keys:
        for start in range(0, len(rows), 700):
            columns = list(zip(*rows[start : start + 700], strict=True))
            table = pa.table([list(column) for column in columns], schema=duplicates.key_schema())
            keys.add(table, duplicates.bucket_of_hex(table.column("key").combine_chunks()))
        for table in duplicates.duplicates(keys):
            found += [tuple(each.values())[:4] for each in table.to_pylist()]
    assert sorted(found) == sorted(expected)
    assert os.listdir(tmp_path / "keys") == []


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=12), st.integers(0, 6), st.randoms())
def test_hashes_that_are_near_share_a_band(hashes: list[int], distance: int, chance: random.Random) -> None:
    one = hashes[0]
    other = one
    for bit in chance.sample(range(64), distance):
        other ^= 1 << bit
    shared = [
        (one >> (64 - start - width)) & ((1 << width) - 1) == (other >> (64 - start - width)) & ((1 << width) - 1)
        for start, width in perceptual.bands(distance)
    ]
    assert any(shared)
    assert sum(width for _, width in perceptual.bands(distance)) == 64


def test_groups_have_their_smallest_hash_as_root() -> None:
    for order in itertools.permutations([(5, 9), (9, 7), (3, 7), (20, 21)]):
        groups = perceptual.Groups()
        for pair in order:
            groups.join(*pair)
        assert [groups.root(each) for each in (3, 5, 7, 9, 20, 21, 1)] == [3, 3, 3, 3, 20, 20, 1]


# ---- images -------------------------------------------------------------------------------------------------------------


def stored(image: Image.Image, encoding: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


def smaller(data: bytes, side: int = 32, size: Any = None, encoding: str = "", pixels_max: int = 10**8) -> Any:
    return images.smaller(data, size, encoding, side_max=side, quality=95, pixels_max=pixels_max)


MODES = ["RGB", "RGBA", "L", "P", "1"]


@pytest.mark.parametrize(
    ("encoding", "mode"),
    [
        *itertools.product(["PNG", "WEBP", "GIF", "TIFF", "BMP"], MODES),
        *itertools.product(["JPEG"], ["RGB", "L", "1"]),
    ],
)
def test_every_encoding_stays_what_it_is(encoding: str, mode: str) -> None:
    image = picture(1, 100, 50).convert(mode)
    data = stored(image, encoding)
    made, size = smaller(data)
    with Image.open(io.BytesIO(made)) as result:
        assert (result.format, result.size, size) == (encoding, (32, 16), [16, 32])
    assert smaller(made) is None and smaller(data, side=100) is None


def test_orientation_is_applied_and_thin_images_stay_images() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert smaller(stored(picture(1, 100, 50), "JPEG", exif=exif))[1] == [32, 16]
    assert smaller(stored(picture(1, 1000, 2), "PNG"))[1] == [1, 32]


def test_raw_values() -> None:
    image = picture(2, 40, 20)
    raw = image.tobytes("raw", "BGR")
    made, size = smaller(raw, 10, [20, 40])
    assert (size, len(made)) == ([5, 10], 150)
    with images.decode(raw, [20, 40], "", 10**6) as decoded:
        assert decoded.tobytes() == image.tobytes()
    for data, shape in ((raw[:-1], [20, 40]), (raw, None), (raw, [0, 40]), (raw, [20])):
        with pytest.raises(images.BadImage):
            images.decode(data, shape, "raw-bgr", 10**6)
    with pytest.raises(images.BadImage, match="at most 799"):
        images.decode(raw, [20, 40], "raw-bgr", 799)
    assert not images.is_raw(raw, [20, 40], "jpeg"), "what the file says counts"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        stored(picture(1), "JPEG")[:-50],
        stored(picture(1), "PNG")[:100],
        stored(Image.new("1", (20_000, 20_000)), "PNG"),
        b"GIF89a" + b"\xff" * 40,
        b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    ],
)
def test_hostile_bytes_are_bad_images(data: bytes) -> None:
    with pytest.raises(images.BadImage):
        images.decode(data, [10, 10], "", 10**8)
    with pytest.raises(images.BadImage):
        smaller(data)


# ---- the lock -----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self, on_sleep: Callable[[float], None] = lambda now: None) -> None:
        self.now = 0.0
        self._on_sleep = on_sleep

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._on_sleep(self.now)


def holder(folder: Path, **values: Any) -> Path:
    path = folder / lock.LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"tool": "other", "together": False, "host": "elsewhere", "pid": 1, **values}))
    return path


def test_one_tool_at_a_time(tmp_path: Path) -> None:
    with dataset_lock(tmp_path, "one") as held:
        held.check()
        for name in ("one", "two"):
            busy = pytest.raises(Busy, match=f"one is at work on it: a run by process {os.getpid()}")
            with busy, dataset_lock(tmp_path, name):
                pass
    with dataset_lock(tmp_path, "two"):
        pass
    assert not (tmp_path / lock.LOCK).exists()


def test_a_lock_of_a_process_that_is_gone_is_broken_at_once(tmp_path: Path) -> None:
    here = socket.gethostname()
    for gone in ({"pid": 2**22 + 1, "started": "1 x"}, {"pid": os.getpid(), "started": "1 another boot"}):
        holder(tmp_path, host=here, **gone)
        with dataset_lock(tmp_path, "two", sleep=lambda seconds: pytest.fail("it waits")):
            pass


def test_a_lock_of_another_machine(tmp_path: Path) -> None:
    path = holder(tmp_path)
    clock = Clock(lambda now: os.utime(path, ns=(0, int(now * 1e9))))
    with pytest.raises(Busy, match="on elsewhere"), dataset_lock(tmp_path, "two", monotonic=clock, sleep=clock.sleep):
        pass
    assert clock.now < 5, "a sign of life is enough"
    clock = Clock()
    with dataset_lock(tmp_path, "two", monotonic=clock, sleep=clock.sleep):
        assert clock.now >= lock.EXPIRY_S


def test_agents_hold_it_together(tmp_path: Path) -> None:
    with dataset_lock(tmp_path, "one", together=True), dataset_lock(tmp_path, "one", together=True):
        pass
    assert (tmp_path / lock.LOCK).exists(), "until somebody finishes"
    lock.release_together(tmp_path, "two")
    assert (tmp_path / lock.LOCK).exists()
    clock = Clock(lambda now: os.utime(tmp_path / lock.LOCK, ns=(0, int(now * 1e9))))
    with (
        pytest.raises(Busy, match="agents of a fleet"),
        dataset_lock(tmp_path, "one", monotonic=clock, sleep=clock.sleep),
    ):
        pass
    lock.release_together(tmp_path, "one")
    assert not (tmp_path / lock.LOCK).exists()


def test_a_lock_that_was_lost_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "TOUCH_S", 0.01)
    with dataset_lock(tmp_path, "one") as held:
        path = holder(tmp_path)
        ended = threading.Event()
        while not held.is_lost:
            assert not ended.wait(0.01)
        with pytest.raises(Busy, match="took the dataset over"):
            held.check()
    assert path.exists(), "it is the other one's"


# ---- registries and loading ---------------------------------------------------------------------------------------------


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    for register in registry.REGISTERS:
        monkeypatch.setattr(register, "classes", {})

    class Mine(FilterToolBase):
        pass

    assert FilterRegister("mine")(Mine) is Mine
    FilterRegister("mine")(Mine)
    with pytest.raises(Conflict, match="has this name already"):
        FilterRegister("mine")(FilterToolBase)
    with pytest.raises(UsageError, match="does not derive from SchedulerToolBase"):
        SchedulerRegister("mine")(Mine)
    with pytest.raises(UsageError, match="not a name"):
        FilterRegister("../mine")
    with pytest.raises(NotFound, match="no scheduler and no runner"):
        registry.find_tool("mine", allow_unregistered=False)
    tool = registry.find_tool("mine", allow_unregistered=True)
    assert (tool.filter, tool.scheduler) == (Mine, DefaultScheduler)


def test_a_file_that_fails_registers_nothing(tmp_path: Path) -> None:
    loading.load_builtin()
    path = tmp_path / "tool.py"
    path.write_text(
        "from shoal.tools import *\nFilterRegister('half')(PythonFilterToolBase)\nRunnerRegister('resize')(FilterRunnerTool)\n"
    )
    before = registry.names()
    with pytest.raises(Conflict, match="runner resize"):
        loading.load_file(path)
    assert registry.names() == before
    path.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ToolFailed, match=r"SystemExit: 0 at .*tool.py:2"):
        loading.load_file(path)
    with pytest.raises(Conflict, match="not the file that the run was begun with"):
        loading.load_file(path, digest="0" * 64)


def test_options_come_from_the_command_line_then_the_settings(tmp_path: Path) -> None:
    settings = load_settings(
        environ={}, cwd=tmp_path, overrides={"tools.new_size": 99, "tools.options": {"other": "x", "quality": "50"}}
    )
    options = dict(tool_spec(settings, "resize", []).options)
    assert options == {"new_size": "99", "quality": "50", "unit_size": str(256 << 20), "max_pixels": "179000000"}
    assert dict(tool_spec(settings, "resize", [("new_size", "7")]).options)["new_size"] == "7"
    with pytest.raises(UsageError, match="did you mean new_size"):
        tool_spec(settings, "resize", [("newsize", "7")])
    with pytest.raises(UsageError, match="has no such option"):
        tool_spec(settings, "resize", [], flags=["perceptual"])
    own = dict(tool_spec(settings, "anything", [("a", "b")], allow_unregistered=True).options)
    assert own["other"] == "x" and own["a"] == "b" and "new_size" not in own


# ---- the agents' calls --------------------------------------------------------------------------------------------------


def small(number: int, row: dict[str, Any]) -> None:
    if number % 4 == 0:
        row["original_size"] = [10, 10]


def test_plan_run_unit_finish(tmp_path: Path) -> None:
    dataset = Dataset(folder=tmp_path, edit=small).write()
    everything = dataset.uuids()
    spec = ToolSpec(name="size_based", options=(("unit_size", "1"),))
    with pytest.raises(StateDamaged, match="plan it first"):
        run_unit(spec, tmp_path, 0)
    units = plan(spec, tmp_path)
    assert units == plan(spec, tmp_path) == 6
    with pytest.raises(Conflict, match="6 of 6 units were not run"):
        finish(spec, tmp_path)
    with pytest.raises(UsageError, match="it has 6 units"):
        run_unit(spec, tmp_path, 6)
    with pytest.raises(Conflict, match="was run with threshold_size="):
        plan(ToolSpec(name="size_based", options=(("threshold_size", "9"),)), tmp_path)
    twice = [number for number in range(units) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:
        reports = list(threads.map(lambda number: run_unit(spec, tmp_path, number), twice))
    assert reports[::2] == reports[1::2], "two that run the same unit at once say the same"
    assert run_unit(spec, tmp_path, 3) == reports[6]
    assert isinstance(reports[0], UnitReport) and sum(report.removed for report in reports) == 2 * 15
    report = finish(spec, tmp_path)
    assert (report.removed, report.rows, report.done_before) == (15, 60, False)
    assert finish(spec, tmp_path).done_before
    assert sorted(dataset.uuids() + dataset.uuids(below="filtered/size_based")) == everything
    assert dataset.leftovers() == []
    assert run_tool(spec, tmp_path).done_before, "a person's run finds what the agents did"


def test_a_unit_whose_record_is_lost_is_recognised(tmp_path: Path) -> None:
    dataset = Dataset(folder=tmp_path, edit=small).write()
    spec = ToolSpec(name="size_based")
    first = run_tool(spec, tmp_path)
    digests = dataset.digests()
    folder = ToolFolder(tmp_path, "size_based")
    folder.unit_done(0).write_text("{}")
    folder.report.unlink()
    assert run_tool(spec, tmp_path) == first
    assert dataset.digests() == digests


def test_schemas_and_metadata_survive(tmp_path: Path) -> None:
    dataset = Dataset(folder=tmp_path, edit=small, metadata={"image_encoding": "jpeg", "mine": "yes"}).write()
    with pq.ParquetFile(dataset.path(HOSTS[0], 0)) as file:
        before = file.schema_arrow
    run_tool(ToolSpec(name="size_based"), tmp_path)
    for below in ("", "filtered/size_based"):
        with pq.ParquetFile(dataset.path(HOSTS[0], 0, below=below)) as file:
            assert file.schema_arrow.remove_metadata().equals(before.remove_metadata())
            metadata: Any = file.metadata.metadata
            assert b"shoal.tools" in metadata
            assert below or metadata[b"mine"] == b"yes"


def test_what_a_stopped_run_left_is_removed(tmp_path: Path) -> None:
    dataset = Dataset(folder=tmp_path, edit=small).write()
    left = [tmp_path / ".shoal/tools/size_based/.filter.0123.tmp/part-00000.parquet"]
    for below in ("", "filtered/size_based"):
        path = dataset.path(HOSTS[1], 1, below=below)
        left.append(path.with_name(".successes.parquet.0123.tmp"))
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("cut")
    run_tool(ToolSpec(name="size_based"), tmp_path)
    assert not any(path.exists() for path in left)


def test_rows_moved_in_two_runs_lie_together(tmp_path: Path) -> None:
    dataset = Dataset(folder=tmp_path, edit=small).write()
    everything = dataset.uuids()
    run_tool(ToolSpec(name="size_based"), tmp_path)
    spec = ToolSpec(name="size_based", options=(("threshold_size", "400"),), reset="filtering")
    assert run_tool(spec, tmp_path).removed == 45
    assert (dataset.uuids(), dataset.uuids(below="filtered/size_based")) == ([], everything)


# ---- what a person sees -------------------------------------------------------------------------------------------------


class Out(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def test_progress() -> None:
    clock = Clock()
    progress = Progress(stage="run", done=1 << 20, total=4 << 20, rows=10, removed=2)
    assert describe(progress) == "run 25%, 1MiB of 4MiB, 10 rows, 2 moved"
    plain = Out(False)
    with Line(plain, clock) as line:
        for _ in range(101):
            line.show(progress)
            clock.sleep(0.25)
    assert plain.getvalue() == (describe(progress) + "\n") * 2, "a line at most every 10 s"
    shown = Out(True)
    with Line(shown, clock) as line:
        line.show(progress)
        line.show(progress)
    assert shown.getvalue() == f"\r\x1b[2K{describe(progress)}\r\x1b[2K"


def test_no_digest_is_no_duplicate(tmp_path: Path) -> None:
    def edit(number: int, row: dict[str, Any]) -> None:
        row["hashsum_original"] = {0: None, 1: None, 2: "", 3: ""}.get(
            number % 5, "A" * 32 if number % 5 == 4 else None
        )

    dataset = Dataset(folder=tmp_path, edit=edit, rows=5, partitions=1).write()
    report = run_tool(ToolSpec(name="duplication_based"), tmp_path)
    assert report.removed == 2
    assert hashlib.md5(b"").hexdigest() and len(dataset.uuids()) == 13
