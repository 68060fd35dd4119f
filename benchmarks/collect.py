"""`shoal collect` beside img2dataset, in one run: `python -m benchmarks.collect`. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import collect_table
from .collect_origin import PictureOrigin, UrlTable, make_pictures, make_table, serve_pictures
from .collect_quality import ORIGINAL
from .collect_tools import (
    ANY,
    BY_PILLOW,
    COLLECT_TOOLS,
    REFERENCE,
    RIVAL,
    RIVAL_TUNED,
    Collection,
    check,
    img2dataset_version,
    picture_quality,
)
from .launch import cpu_s, tree
from .measure import RunFailed, Usage, measure, rotated, summarize
from .run import add_output_options, machine, save, say, stop_on_signals, workspace
from .tools import SCRIPTS, find_nginx, nginx_version

WARM_UP_ROWS = 400
SAMPLE_PICTURES = 200  # whose quality is measured
TIMEOUT_BASE_S = 60.0
TIMEOUT_ROW_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectCell:
    """A case that is measured. Args: resized (else stored as served)."""

    name: str
    title: str
    resized: bool
    tools: tuple[str, ...]


CELLS = (
    CollectCell(
        name="resize",
        title="Fetch, make the long side 256, encode as JPEG, Parquet",
        resized=True,
        tools=(REFERENCE, BY_PILLOW, RIVAL, RIVAL_TUNED),
    ),
    CollectCell(
        name="as-served",
        title="Fetch, store as served, Parquet",
        resized=False,
        tools=(REFERENCE, ANY, RIVAL, RIVAL_TUNED),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectRun:
    """One run. Args: origin_cpu_s (nginx's, not in the usage), rows_right."""

    usage: Usage
    origin_cpu_s: float
    rows_right: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every run needs. Args: pictures (folder of the originals), base (where runs have their folders)."""

    origin: PictureOrigin
    base: Path
    pictures: Path
    processes: int
    rival_python: str


def main() -> int:
    arguments = _parser().parse_args()
    nginx = find_nginx()
    if nginx is None:
        print("benchmarks.collect: nginx missing; install it", file=sys.stderr)
        return 2
    try:
        versions = {"nginx": nginx_version(), "python": sys.version.split()[0]}
        if needs_rival(arguments.tools):
            versions["img2dataset"] = img2dataset_version(arguments.rival_python)
    except (RunFailed, OSError) as failure:
        print(f"benchmarks.collect: {failure}; see benchmarks/README.md", file=sys.stderr)
        return 2
    description = machine()
    with stop_on_signals(), workspace() as base:
        say(f"making {arguments.pictures} pictures")
        pictures = make_pictures(base / "pictures", arguments.pictures)
        with serve_pictures(nginx, base / "pictures", base / "nginx") as origin:
            bench = Bench(
                origin=origin,
                base=base,
                pictures=base / "pictures",
                processes=arguments.processes,
                rival_python=arguments.rival_python,
            )
            warm_up = make_table(base / "warm-up.parquet", origin.bases, pictures, WARM_UP_ROWS)
            table = make_table(base / "urls.parquet", origin.bases, pictures, arguments.rows)
            cells = [
                _measure_cell(
                    bench, cell, [tool for tool in cell.tools if tool in arguments.tools], arguments, table, warm_up
                )
                for cell in CELLS
                if cell.name in arguments.cells
            ]
    document = {
        "date": arguments.date,
        "machine": description,
        "versions": versions,
        "rows": arguments.rows,
        "pictures": len(pictures),
        "picture_bytes": statistics.mean(picture.size for picture in pictures),
        "hosts": len(bench.origin.bases),
        "processes": arguments.processes,
        "cells": cells,
    }
    save(document, collect_table.report(document), arguments.out, arguments.result)
    return 1 if any(REFERENCE in cell["failures"] for cell in cells) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collect", description=__doc__)
    names = [cell.name for cell in CELLS]
    parser.add_argument("--runs", type=int, default=3, help="rounds; each runs every tool once")
    parser.add_argument("--minutes", type=float, default=60.0, help="after so long no further round of a cell begins")
    parser.add_argument("--cells", nargs="+", choices=names, default=names)
    usual = [tool for tool in COLLECT_TOOLS if tool != BY_PILLOW]
    parser.add_argument("--tools", nargs="+", choices=list(COLLECT_TOOLS), default=usual)
    parser.add_argument("--rows", type=int, default=20_000, help="URLs of the table")
    parser.add_argument("--pictures", type=int, default=500, help="different pictures that the URLs lead to")
    parser.add_argument(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes that decode, of either tool (default: one for each core)",
    )
    parser.add_argument("--rival-python", default="", help="an interpreter that has img2dataset")
    parser.add_argument("--result", default="collect", help="name of the results' files")
    add_output_options(parser)
    return parser


def needs_rival(tools: Sequence[str]) -> bool:
    """Whether one of the tools runs in the rival's Python."""
    return RIVAL in tools or RIVAL_TUNED in tools


def _measure_cell(
    bench: Bench,
    cell: CollectCell,
    tools: Sequence[str],
    arguments: argparse.Namespace,
    table: UrlTable,
    warm_up: UrlTable,
) -> dict[str, Any]:
    failures: dict[str, str] = {}
    rounds: list[dict[str, CollectRun]] = []
    with tempfile.TemporaryDirectory(dir=bench.base, prefix="sample-") as folder:
        samples = Path(folder, "pictures")
        _round(bench, cell, tools, warm_up, failures, None)
        began = time.monotonic()
        for turn in range(arguments.runs):
            if turn and time.monotonic() - began > arguments.minutes * 60:
                break
            working = [tool for tool in rotated(tools, turn) if tool not in failures]
            rounds.append(_round(bench, cell, working, table, failures, samples if cell.resized else None))
            say(f"{cell.name} {turn + 1}/{arguments.runs}: {told(rounds[-1])}")
        quality = _quality(bench, samples) if cell.resized and bench.rival_python and samples.exists() else {}
    complete = [{tool: run for tool, run in figures.items() if tool not in failures} for figures in rounds]
    return {
        "name": cell.name,
        "title": cell.title,
        "summary": summarize_collect(complete, len(table.picture_of)),
        "quality": quality,
        "runs": len(rounds),
        "rounds": [{tool: asdict(run) for tool, run in figures.items()} for figures in rounds],
        "failures": failures,
    }


def told(figures: Mapping[str, CollectRun]) -> str:
    """A round in one line, for a person."""
    return "; ".join(
        f"{tool} {run.usage.wall_s:.1f} s, CPU {run.usage.cpu_s:.1f} s, {run.usage.peak_bytes >> 20} MiB"
        for tool, run in figures.items()
    )


def _round(
    bench: Bench,
    cell: CollectCell,
    tools: Sequence[str],
    table: UrlTable,
    failures: dict[str, str],
    samples: Path | None,
) -> dict[str, CollectRun]:
    """Each tool once. What fails goes into ``failures``."""
    figures: dict[str, CollectRun] = {}
    for tool in tools:
        try:
            figures[tool] = _collect(bench, cell, tool, table, samples)
        except RunFailed as failure:
            failures[tool] = str(failure).replace(str(bench.base), "…")
            say(f"{tool} failed: {failures[tool]}")
    return figures


def _collect(bench: Bench, cell: CollectCell, tool: str, table: UrlTable, samples: Path | None) -> CollectRun:
    """One run into a fresh folder, checked after the clock has stopped. Raises RunFailed. Args: samples (where to keep pictures)."""
    chosen, server = COLLECT_TOOLS[tool], bench.origin.server.pid
    with tempfile.TemporaryDirectory(dir=bench.base, prefix="run-") as folder:
        run = Collection(
            table=table,
            resized=cell.resized,
            processes=bench.processes,
            target=Path(folder, "target"),
            scratch=Path(folder, "scratch"),
            rival_python=bench.rival_python,
        )
        run.target.mkdir()
        run.scratch.mkdir()
        before = _origin_cpu_s(server)
        usage = measure(
            chosen.command(run),
            env=_environment(run.scratch) | dict(chosen.environ),
            cwd=run.scratch,
            timeout_s=TIMEOUT_BASE_S + TIMEOUT_ROW_S * len(table.picture_of),
            output=Path(folder, "output"),
        )
        origin_cpu_s = _origin_cpu_s(server) - before
        rows = check(run, chosen, _places(bench.pictures, samples, tool) if samples else None)
        return CollectRun(usage=usage, origin_cpu_s=origin_cpu_s, rows_right=rows)


def _environment(home: Path) -> dict[str, str]:
    """What every tool gets: nothing of the caller's configuration, credentials or proxies."""
    path = f"{SCRIPTS}:{os.environ.get('PATH', os.defpath)}"
    return {"PATH": path, "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}


def _origin_cpu_s(server: int) -> float:
    return sum(map(cpu_s, tree(server)))


def _places(pictures: Path, samples: Path, tool: str) -> dict[str, Path]:
    """Where a tool's pictures of the sample go, by their names; the originals are put beside them."""
    originals = samples / ORIGINAL
    if not originals.exists():
        originals.mkdir(parents=True)
        for path in sorted(pictures.iterdir())[:SAMPLE_PICTURES]:
            shutil.copyfile(path, originals / path.name)
    (samples / tool).mkdir(exist_ok=True)
    return {path.name: samples / tool / path.name for path in originals.iterdir()}


def _quality(bench: Bench, samples: Path) -> dict[str, dict[str, float]]:
    try:
        return picture_quality(bench.rival_python, samples)
    except (RunFailed, subprocess.TimeoutExpired) as failure:
        say(str(failure))
        return {}


def summarize_collect(rounds: Sequence[Mapping[str, CollectRun]], rows: int) -> dict[str, dict[str, Any]]:
    """Medians of every tool. A ratio is formed within a round: the tool's wall or CPU time over the reference's."""
    usages = [{tool: run.usage for tool, run in figures.items()} for figures in rounds]
    summaries: dict[str, dict[str, Any]] = {}
    for tool, summary in summarize(usages, reference=REFERENCE).items():
        runs = [figures[tool] for figures in rounds if tool in figures]
        cpu_ratios = [
            figures[tool].usage.cpu_s / figures[REFERENCE].usage.cpu_s
            for figures in rounds
            if {tool, REFERENCE} <= figures.keys()
        ]
        summaries[tool] = {
            **asdict(summary),
            "cpu_ratio": statistics.median(cpu_ratios) if cpu_ratios else None,
            "images_s": statistics.median(rows / run.usage.wall_s for run in runs),
            "cpu_ms_image": statistics.median(run.usage.cpu_s * 1000 / rows for run in runs),
            "origin_cpu_s": statistics.median(run.origin_cpu_s for run in runs),
            "rows_right": min(run.rows_right for run in runs),
        }
    return summaries


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
