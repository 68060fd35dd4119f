"""The benchmarks' pure parts: medians, ratios, rotation, tables; and the launcher's bookkeeping on commands that end by themselves."""

from __future__ import annotations

import hashlib
import io
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shoal.common.settings import load_settings

# The folder of the benchmarks is no part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import collect_table, table
from benchmarks.collect import CollectRun, summarize_collect
from benchmarks.collect_origin import Picture, make_picture, make_table
from benchmarks.collect_quality import area_resized, area_weights, compare, psnr
from benchmarks.collect_tools import COLLECT_TOOLS, Collection, check, shoal_config
from benchmarks.fleet import summarize_fleet
from benchmarks.measure import RunFailed, Usage, measure, rotated, summarize, touch_memory
from benchmarks.origin import Origin, Repo, RepoFile, make_repo
from benchmarks.swarm_cells import over_bounds
from benchmarks.tools import TOOLS, Task, environment, verify
from benchmarks.web import markdown, percentile, summarize_web

ORIGIN = Origin(hub_url="http://127.0.0.1:1", cdn_url="http://127.0.0.1:2", bodies_log=None)


def usage(wall_s: float, *, cpu_s: float = 1.0, peak_bytes: int = 1 << 20) -> Usage:
    return Usage(wall_s=wall_s, cpu_s=cpu_s, peak_bytes=peak_bytes)


# ---- medians ---------------------------------------------------------------------------------------------------------------


def test_medians_are_of_each_figure_by_itself() -> None:
    rounds = [{"a": usage(1.0, cpu_s=9.0)}, {"a": usage(5.0, cpu_s=7.0)}, {"a": usage(2.0, cpu_s=8.0)}]
    summary = summarize(rounds, reference="a")["a"]
    assert (summary.wall_s, summary.wall_min_s, summary.wall_max_s, summary.cpu_s) == (2.0, 1.0, 5.0, 8.0)


def test_ratios_are_formed_within_a_round() -> None:
    # The machine was half as fast in the second and third round: the ratio of the medians would be 1.5.
    rounds = [
        {"a": usage(1.0), "b": usage(3.0)},
        {"a": usage(2.0), "b": usage(3.0)},
        {"a": usage(2.0), "b": usage(6.0)},
    ]
    assert summarize(rounds, reference="a")["b"].ratio == 3.0


def test_without_the_reference_there_is_no_ratio() -> None:
    assert summarize([{"b": usage(3.0)}], reference="a")["b"].ratio is None


def test_rounds_that_lack_a_tool_do_not_count_for_it() -> None:
    rounds = [{"a": usage(1.0), "b": usage(4.0)}, {"a": usage(3.0)}, {"a": usage(3.0)}]
    summary = summarize(rounds, reference="a")
    assert summary["b"].wall_s == 4.0
    assert summary["b"].ratio == 4.0


def test_no_rounds_no_summary() -> None:
    assert summarize([], reference="a") == {}


def test_every_tool_begins_a_round_in_its_turn() -> None:
    assert [rotated(["a", "b", "c"], turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_fleet_speed_up_is_over_the_first_size_and_the_waste_is_the_worst() -> None:
    rounds = [
        {1: {"wall_s": 30.0, "served_ratio": 1.0}, 3: {"wall_s": 10.0, "served_ratio": 1.04}},
        {1: {"wall_s": 26.0, "served_ratio": 1.0}, 3: {"wall_s": 13.0, "served_ratio": 1.0}},
        {1: {"wall_s": 28.0, "served_ratio": 1.0}, 3: {"wall_s": 10.0, "served_ratio": 1.0}},
    ]
    assert summarize_fleet(rounds, 3, 1) == {"agents": 3, "wall_s": 10.0, "speedup": 2.8, "served_ratio": 1.04}


# ---- tables ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"), [(0.0412, "0.041"), (0.9994, "0.999"), (1.0, "1.00"), (9.876, "9.88"), (53.68, "53.7")]
)
def test_seconds(value: float, text: str) -> None:
    assert table.seconds(value) == text


def test_markdown_table() -> None:
    assert table.markdown_table(["x", "y"], [["1", "2"]]) == "| x | y |\n| --- | ---: |\n| 1 | 2 |"


def summary_of(**ratios: float | None) -> dict[str, dict[str, Any]]:
    names = {"hf_download": "hf download"}
    return {names.get(tool, tool): {"ratio": ratio, "wall_s": ratio or 1.0} for tool, ratio in ratios.items()}


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (
            summary_of(shoal=1.0, aria2c=1.1, hf_transfer=1.5, hf_download=2.5),
            ["aria2c, ratio 1.10", "no slower", "reached"],
        ),
        (summary_of(shoal=1.0, aria2c=0.9, hf_download=1.5), ["Shoal is slower", "missed"]),
        (summary_of(shoal=1.0, curl=0.5, hf_transfer=1.5), ["hf_transfer, ratio 1.50", "no slower"]),
        (summary_of(aria2c=None), ["Nothing to compare with"]),
    ],
)
def test_verdict(summary: dict[str, dict[str, Any]], said: list[str]) -> None:
    verdict = table.verdict(summary)
    assert all(words in verdict for words in said), verdict


def test_report_names_what_failed() -> None:
    figures = {"wall_s": 2.0, "wall_min_s": 1.0, "wall_max_s": 3.0, "cpu_s": 0.5, "peak_bytes": 30 << 20, "ratio": None}
    document = {
        "date": "2025-01-31",
        "machine": {"cpu": "CPU", "cores": 2, "memory_gib": 8, "kernel": "6.1", "load_before": 0.2},
        "versions": {"curl": "8.0"},
        "runs": 5,
        "cells": [
            {"title": "One file", "summary": {"curl": figures}, "failures": {"shoal": "big.bin: its bytes are wrong"}}
        ],
    }
    report = table.single_machine(document)
    assert "| curl | 2.00 (1.00 – 3.00) | 0.500 | 30 | – |" in report
    assert "shoal failed: big.bin: its bytes are wrong" in report


# ---- tools and their results -------------------------------------------------------------------------------------------------


def make_task(folder: Path) -> Task:
    repo = make_repo(folder / "origin", "r", count=2, size=1000, lfs=False)
    for name in ("target", "scratch"):
        (folder / name).mkdir()
    return Task(origin=ORIGIN, repo=repo, target=folder / "target", scratch=folder / "scratch")


def deliver(task: Task) -> None:
    for file in task.repo.files:
        (task.target / file.path).write_bytes((task.target.parent / "origin" / "files" / "r" / file.path).read_bytes())


def test_verify_accepts_the_whole_repo(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    deliver(task)
    verify(task)


def test_verify_finds_a_flipped_byte(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    deliver(task)
    victim = task.target / task.repo.files[1].path
    data = bytearray(victim.read_bytes())
    data[500] ^= 1
    victim.write_bytes(data)
    with pytest.raises(RunFailed, match=r"r-1\.bin: its bytes are wrong"):
        verify(task)


def test_verify_finds_a_missing_file(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    deliver(task)
    (task.target / task.repo.files[0].path).unlink()
    with pytest.raises(RunFailed, match=r"r-0\.bin: No such file"):
        verify(task)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_is_told_of_every_file_or_of_the_repo(tool: str, tmp_path: Path) -> None:
    task = make_task(tmp_path)
    told = " ".join(TOOLS[tool](task)) + "".join(file.read_text() for file in task.scratch.iterdir())
    assert str(task.target) in told
    assert "bench/r" in told or all(url in told for url, _ in task.urls)


def test_environment_hides_the_callers_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    assert {"HF_TOKEN", "HTTPS_PROXY"}.isdisjoint(environment(tmp_path, ORIGIN))


def test_large_files_live_on_the_cdn_and_small_ones_on_the_hub() -> None:
    file = RepoFile(path="f", size=1, sha256="0" * 64, git_oid="1" * 40)
    large, small = (Repo(name="r", files=(file,), lfs=lfs) for lfs in (True, False))
    assert ORIGIN.file_url(large, file) == "http://127.0.0.1:2/bench/r/f"
    assert ORIGIN.file_url(small, file) == f"http://127.0.0.1:1/api/resolve-cache/models/bench/r/{small.commit}/f"


# ---- datasets of URL tables ----------------------------------------------------------------------------------------------------


PICTURES = [
    Picture(name=f"{number:05}.jpg", size=3, sha256=hashlib.sha256(b"%03d" % number).hexdigest()) for number in range(5)
]


def collection(folder: Path, *, resized: bool, rows: int = 10) -> Collection:
    for name in ("target", "scratch"):
        (folder / name).mkdir()
    return Collection(
        table=make_table(folder / "urls.parquet", ["http://127.0.0.1:1", "http://127.0.0.2:1"], PICTURES, rows),
        resized=resized,
        processes=2,
        target=folder / "target",
        scratch=folder / "scratch",
        rival_python="/opt/rival/bin/python",
    )


def small_jpeg(width: int = 256, height: int = 192) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "JPEG")
    return out.getvalue()


def test_pictures_are_the_same_every_time_and_as_large_as_real_ones() -> None:
    first, second = make_picture(1), make_picture(2)
    assert make_picture(1) == first != second
    assert all(30_000 < len(data) < 45_000 for data in (first, second))
    with Image.open(io.BytesIO(first)) as opened:
        assert opened.size == (640, 480)


def test_no_url_is_in_the_table_twice_and_hosts_have_equal_shares(tmp_path: Path) -> None:
    table = collection(tmp_path, resized=True, rows=20).table
    columns = pq.read_table(table.path).to_pydict()
    assert columns["identifier"] == list(table.picture_of)
    assert len(set(columns["identifier"])) == len(set(columns["uuid"])) == 20
    assert sum(url.startswith("http://127.0.0.1:1/") for url in columns["identifier"]) == 10
    assert all(f"/{picture.name}?row=" in url for url, picture in table.picture_of.items())
    assert {picture.name for picture in table.picture_of.values()} == {picture.name for picture in PICTURES}


@pytest.mark.parametrize("tool", COLLECT_TOOLS)
@pytest.mark.parametrize("resized", [True, False])
def test_every_tool_is_told_of_the_table_and_what_is_wanted(tool: str, resized: bool, tmp_path: Path) -> None:
    run = collection(tmp_path, resized=resized)
    told = " ".join(COLLECT_TOOLS[tool].command(run)) + "".join(file.read_text() for file in run.scratch.iterdir())
    assert str(run.table.path) in told and str(run.target) in told
    assert ("256" in told) if resized else ("original" in told or "disable_all_reencoding=True" in told)


def test_what_shoal_is_told_are_settings_that_it_has(tmp_path: Path) -> None:
    run = collection(tmp_path, resized=True)
    (run.scratch / "shoal.toml").write_text(shoal_config(run, "image"))
    settings = load_settings(environ={}, cwd=tmp_path, config_file=run.scratch / "shoal.toml")
    assert settings.collect.default_rate_limit == 0
    assert (settings.collect.image_size, settings.collect.image_encoding, settings.collect.image_workers) == (
        256,
        "jpeg",
        2,
    )


def write_shoal(run: Collection, rows: dict[str, bytes], size: list[int] | None) -> None:
    folder = run.target / "images/server_name=127.0.0.1/partition_id=0"
    folder.mkdir(parents=True)
    columns = {"identifier": list(rows), "image": list(rows.values()), "resized_size": [size] * len(rows)}
    types = {"identifier": pa.string(), "image": pa.binary(), "resized_size": pa.list_(pa.int64())}
    pq.write_table(pa.table(columns, schema=pa.schema(types)), folder / "successes.parquet")


def write_rival(run: Collection, rows: dict[str, bytes], status: str = "success") -> None:
    count = len(rows)
    columns = {"url": list(rows), "jpg": list(rows.values()), "status": [status] * count}
    columns |= {"height": [192] * count, "width": [256] * count}
    pq.write_table(pa.table(columns), run.target / "00000.parquet")


def test_check_counts_what_arrived_right_and_keeps_samples(tmp_path: Path) -> None:
    run = collection(tmp_path, resized=True)
    image = small_jpeg()
    write_shoal(run, dict.fromkeys(run.table.picture_of, image), [192, 256])
    kept = tmp_path / "kept.jpg"
    assert check(run, COLLECT_TOOLS["shoal"], {"00003.jpg": kept}) == 10
    assert kept.read_bytes() == image


def test_check_of_the_rival(tmp_path: Path) -> None:
    run = collection(tmp_path, resized=True)
    write_rival(run, dict.fromkeys(run.table.picture_of, small_jpeg()))
    assert check(run, COLLECT_TOOLS["img2dataset"]) == 10


def test_check_of_what_is_stored_as_served(tmp_path: Path) -> None:
    run = collection(tmp_path, resized=False)
    served = {url: b"%03d" % int(picture.name[:5]) for url, picture in run.table.picture_of.items()}
    write_shoal(run, served, None)
    assert check(run, COLLECT_TOOLS["shoal"]) == 10
    (url, *_), batch = served, run.target / "images/server_name=127.0.0.1/partition_id=0"
    (batch / "successes.parquet").unlink()
    batch.rmdir()
    write_shoal(run, served | {url: b"xyz"}, None)
    with pytest.raises(RunFailed, match=r"0 of 10 rows are lacking and 1 are wrong.*not what was served"):
        check(run, COLLECT_TOOLS["shoal"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows.popitem(), "1 of 10 rows are lacking and 0 are wrong"),
        (lambda rows: rows.update({next(iter(rows)): small_jpeg(256, 193)}), "1 are wrong.*193, 256"),
        (lambda rows: rows.update({next(iter(rows)): small_jpeg()[:500]}), "1 are wrong.*0, 0"),
        (lambda rows: rows.update({"http://elsewhere/": small_jpeg()}), "1 are wrong.*not in the table"),
    ],
)
def test_check_finds_what_is_wrong(spoil: Callable[[dict[str, bytes]], object], said: str, tmp_path: Path) -> None:
    run = collection(tmp_path, resized=True)
    rows = dict.fromkeys(run.table.picture_of, small_jpeg())
    spoil(rows)
    write_shoal(run, rows, [192, 256])
    with pytest.raises(RunFailed, match=said):
        check(run, COLLECT_TOOLS["shoal"])


def test_rows_that_failed_are_lacking(tmp_path: Path) -> None:
    run = collection(tmp_path, resized=True)
    write_rival(run, dict.fromkeys(run.table.picture_of, small_jpeg()), "failed_to_download")
    with pytest.raises(RunFailed, match="10 of 10 rows are lacking"):
        check(run, COLLECT_TOOLS["img2dataset"])


def collect_run(wall_s: float, cpu_s: float) -> CollectRun:
    return CollectRun(usage=usage(wall_s, cpu_s=cpu_s), origin_cpu_s=0.5, rows_right=1000)


def test_figures_of_collecting_are_medians_with_both_ratios_within_a_round() -> None:
    rounds = [
        {"shoal": collect_run(1.0, 2.0), "img2dataset": collect_run(4.0, 8.0)},
        {"img2dataset": collect_run(6.0, 12.0), "shoal": collect_run(2.0, 4.0)},
        {"shoal": collect_run(2.0, 4.0), "img2dataset": collect_run(6.0, 8.0)},
    ]
    summary = summarize_collect(rounds, 1000)
    assert summary["img2dataset"]["ratio"] == 3.0
    assert summary["img2dataset"]["cpu_ratio"] == 3.0
    assert summary["shoal"]["images_s"] == 500
    assert summary["shoal"]["cpu_ms_image"] == 4.0


def test_the_report_has_costs_quality_and_failures() -> None:
    document = {
        "date": "2025-01-31",
        "machine": {"cpu": "CPU", "cores": 2, "memory_gib": 8, "kernel": "6.1", "load_before": 0.2},
        "versions": {"img2dataset": "1.47.0"},
        "rows": 1000,
        "pictures": 500,
        "picture_bytes": 37_100.0,
        "hosts": 4,
        "processes": 2,
        "cells": [
            {
                "title": "Fetch",
                "runs": 1,
                "summary": summarize_collect([{"shoal": collect_run(2.0, 4.0)}], 1000),
                "quality": {
                    "shoal": {
                        "pictures": 200,
                        "mean_difference": 2.0944,
                        "psnr_db": 36.11,
                        "psnr_worst_db": 34.0,
                        "mean_bytes": 21_000,
                    }
                },
                "failures": {"img2dataset": "3 of 1000 rows are lacking"},
            }
        ],
    }
    report = collect_table.report(document)
    assert "| shoal | 2.00 (2.00 – 2.00) | 500 | 4.00 | 4.00 | 1 | 1,000 | 1.00 | 1.00 | 0.500 |" in report
    assert "| shoal | 200 | 2.094 | 36.11 | 34.00 | 21.0 |" in report
    assert "img2dataset failed: 3 of 1000 rows are lacking" in report


def test_the_reference_of_quality_is_the_mean_over_each_new_pixels_area() -> None:
    numpy = pytest.importorskip("numpy")
    weights = area_weights(5, 2)  # the pixel in the middle counts half in either
    assert numpy.allclose(weights, [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]])
    picture = numpy.arange(5 * 5 * 3).reshape(5, 5, 3)
    assert numpy.allclose(area_resized(picture, 1, 1)[0, 0], picture.mean(axis=(0, 1)))
    assert compare(picture, picture + 2.0) == (2.0, 4.0)


def test_psnr() -> None:
    assert psnr(0) == math.inf
    assert round(psnr(255**2 / 100), 6) == 20.0


# ---- the launcher ------------------------------------------------------------------------------------------------------------


def run(folder: Path, code: str, *, timeout_s: float = 60.0) -> Usage:
    command = [sys.executable, "-I", "-S", "-c", code]
    return measure(command, env=os.environ, cwd=folder, timeout_s=timeout_s, output=folder / "output")


def test_peak_is_the_commands_and_not_the_harnesses(tmp_path: Path) -> None:
    ballast = bytearray(os.urandom(1 << 20) * 128)
    assert run(tmp_path, "pass").peak_bytes < 64 << 20
    assert run(tmp_path, "x = b'x' * (100 << 20)").peak_bytes > 100 << 20
    assert ballast


def test_a_childs_cpu_and_memory_count(tmp_path: Path) -> None:
    child = "import os\nif os.fork() == 0:\n x = b'x' * (50 << 20)\n os._exit(0)\nos.wait()"
    assert run(tmp_path, child).peak_bytes > 50 << 20


def test_failure_tells_what_the_command_said(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"(?s)ended with 3 .*no luck"):
        run(tmp_path, "print('no luck'); raise SystemExit(3)")


def test_a_command_that_hangs_is_killed(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="ended with -9"):
        run(tmp_path, "import signal; signal.pause()", timeout_s=0.2)


def test_a_command_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="nothing was told"):
        measure(["/no/such/command"], env=os.environ, cwd=tmp_path, timeout_s=60.0, output=tmp_path / "output")


# ---- the swarm -------------------------------------------------------------------------------------------------------------


def test_who_joins_late_is_judged_by_its_own_bound() -> None:
    run = {"wall_s": 36.0, "joined_s": 12.0, "each_s": {"agent0": 21.0, "agent1": 22.0, "agent2": 36.0}}
    figures = over_bounds(size=2_000_000_000, agents=2, rate=800_000_000, goodput=100e6, run=run)
    bound = figures["bounds_s"]["framed"]
    assert figures["ratios"]["framed"] == pytest.approx(36.0 / bound)
    assert figures["early_ratio"] == pytest.approx(22.0 / bound)
    assert figures["joiner_ratio"] == pytest.approx(24.0 / bound)
    assert figures["late_ratio"] == pytest.approx(36.0 / (12.0 + bound))


def test_where_nobody_joins_there_is_no_such_bound() -> None:
    run = {"wall_s": 22.0, "joined_s": None, "each_s": {"agent0": 21.0, "agent1": 22.0}}
    figures = over_bounds(size=2_000_000_000, agents=2, rate=800_000_000, goodput=100e6, run=run)
    assert figures["joiner_ratio"] is None
    assert figures["early_ratio"] == figures["late_ratio"] == figures["ratios"]["framed"]
    curl = over_bounds(size=1, agents=2, rate=8, goodput=1.0, run={"wall_s": 1.0})
    assert curl["early_ratio"] is None


def test_touched_memory_is_given_back(tmp_path: Path) -> None:
    touch_memory(tmp_path, (1 << 20) + 1)
    assert not any(tmp_path.iterdir())


def test_cpu_of_children_that_nobody_waits_for_counts(tmp_path: Path) -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then drops what children have cost
read, write = os.pipe()
if os.fork() == 0:
    while time.process_time() < 0.5:
        pass
    time.sleep(4)
    os._exit(0)
os.close(write)
os.read(read, 1)  # until the child has ended
"""
    assert run(tmp_path, code).cpu_s > 0.3


def test_what_a_page_costs_is_told_by_ratios_within_a_round() -> None:
    rounds = [
        {
            mode: {"wall_s": wall * pace, "answers_s": [0.001 * wall] * 50 if mode == "status" else []}
            for mode, wall in walls
        }
        for pace in (1.0, 3.0)
        for walls in [(("alone", 2.0), ("page", 2.1), ("status", 2.2))]
    ]
    found = summarize_web(rounds)
    assert found["page_ratio"] == pytest.approx(1.05) and found["status_ratio"] == pytest.approx(1.1)
    assert (found["answers"], found["status_p99_s"]) == (100, pytest.approx(0.0022))
    assert percentile([], 0.99) is None and percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    about = {"cpu": "CPU", "cores": 2, "memory_gib": 8, "kernel": "6.1", "load_before": 0.2}
    text = markdown({"page": found, "size_bytes": 1 << 30, "agents": 2, "runs": 2, "date": "d", "machine": about})
    assert "| page | 4.20 | 1.050 |" in text and "p99 2.2 ms" in text
