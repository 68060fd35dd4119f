"""Shoal beside curl, aria2c, hf_transfer and `hf download`, in one run: `python -m benchmarks.run`. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import table
from .measure import RunFailed, Usage, measure, rotated, summarize
from .origin import Origin, Repo, make_repo, serve
from .tools import REFERENCE, TOOLS, Task, environment, find_nginx, missing, verify, versions

MIB = 1 << 20
PACED_BYTES_S = 20 * MIB
SMALL_BYTES = 256 << 10
TIMEOUT_BASE_S = 60.0  # a tool is given this, and four times what one paced connection needs
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A case that is measured. Args: shape (which repo), paced (20 MiB/s per connection)."""

    name: str
    shape: str
    paced: bool


CELLS = (
    Cell(name="big", shape="big", paced=False),
    Cell(name="small", shape="small", paced=False),
    Cell(name="small-paced", shape="small", paced=True),
    Cell(name="big-paced", shape="big", paced=True),
)


def main() -> int:
    arguments = _parser().parse_args()
    if lacking := missing():
        print(
            f"benchmarks.run: {', '.join(lacking)} missing; install them (see .ci/run and `make test`)", file=sys.stderr
        )
        return 2
    with stop_on_signals(), workspace() as base:
        document = _run(arguments, base)
    save(document, table.single_machine(document), arguments.out, "single_machine")
    return 1 if any(REFERENCE in cell["failures"] for cell in document["cells"]) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds that are measured, after one that is not")
    parser.add_argument(
        "--cells", nargs="+", choices=[cell.name for cell in CELLS], default=[cell.name for cell in CELLS]
    )
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--size-mib", type=int, default=1024, help="size of the big file")
    parser.add_argument("--files", type=int, default=500, help="number of small files, of 256 KiB each")
    add_output_options(parser)
    return parser


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument(
        "--date", default=datetime.date.today().isoformat(), help="date to write into the results (default: today)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")


def _run(arguments: argparse.Namespace, base: Path) -> dict[str, Any]:
    nginx, description = find_nginx(), machine()
    assert nginx is not None, "missing() looked for it"
    root = base / "origin"
    say(f"making {arguments.size_mib} MiB and {arguments.files} files of {SMALL_BYTES >> 10} KiB")
    repos = {
        "big": make_repo(root, "big", count=1, size=arguments.size_mib * MIB, lfs=True),
        "small": make_repo(root, "small", count=arguments.files, size=SMALL_BYTES, lfs=False),
    }
    with ExitStack() as stack:
        origins = {
            paced: stack.enter_context(
                serve(nginx, root, base / f"nginx-{rate}", list(repos.values()), rate_bytes_s=rate)
            )
            for paced, rate in ((False, 0), (True, PACED_BYTES_S))
        }
        chosen = [cell for cell in CELLS if cell.name in arguments.cells]
        for shape in dict.fromkeys(cell.shape for cell in chosen):
            say(f"warming up: {shape}")
            _round(arguments.tools, origins[False], repos[shape], base, {})
        cells = [
            _measure_cell(cell, arguments.tools, arguments.runs, origins[cell.paced], repos[cell.shape], base)
            for cell in chosen
        ]
    return {
        "date": arguments.date,
        "machine": description,
        "versions": versions(),
        "runs": arguments.runs,
        "paced_bytes_s": PACED_BYTES_S,
        "cells": cells,
    }


def _measure_cell(
    cell: Cell, tools: Sequence[str], runs: int, origin: Origin, repo: Repo, base: Path
) -> dict[str, Any]:
    failures: dict[str, str] = {}
    rounds: list[dict[str, Usage]] = []
    for turn in range(runs):
        working = [tool for tool in rotated(tools, turn) if tool not in failures]
        figures = _round(working, origin, repo, base, failures)
        rounds.append(figures)
        say(
            f"{cell.name} {turn + 1}/{runs}: "
            + ", ".join(f"{tool} {usage.wall_s:.2f} s" for tool, usage in figures.items())
        )
    # A tool that failed once has no figures: what it did until then is not the whole task.
    complete = [
        {tool: figures[tool] for tool in tools if tool in figures and tool not in failures} for figures in rounds
    ]
    return {
        "name": cell.name,
        "title": _title(cell, repo),
        "files": len(repo.files),
        "bytes": repo.size,
        "paced": cell.paced,
        "summary": {tool: asdict(summary) for tool, summary in summarize(complete, reference=REFERENCE).items()},
        "rounds": [{tool: asdict(usage) for tool, usage in figures.items()} for figures in rounds],
        "failures": failures,
    }


def _title(cell: Cell, repo: Repo) -> str:
    size = repo.files[0].size
    each = f"{size // MIB} MiB" if size >= MIB else f"{size >> 10} KiB"
    what = f"One file of {each}" if len(repo.files) == 1 else f"{len(repo.files)} files of {each}"
    return f"{what}, {f'{PACED_BYTES_S // MIB} MiB/s per connection' if cell.paced else 'unlimited'}"


def _round(tools: Sequence[str], origin: Origin, repo: Repo, base: Path, failures: dict[str, str]) -> dict[str, Usage]:
    """Each tool once. What fails goes into ``failures``."""
    figures: dict[str, Usage] = {}
    for tool in tools:
        try:
            figures[tool] = _fetch(tool, origin, repo, base)
        except RunFailed as failure:
            failures[tool] = str(failure).replace(str(base), "…")
            say(f"{tool} failed: {failures[tool]}")
    return figures


def _fetch(tool: str, origin: Origin, repo: Repo, base: Path) -> Usage:
    """One fetch into a fresh folder, verified after the clock has stopped. Raises RunFailed."""
    with tempfile.TemporaryDirectory(dir=base, prefix="run-") as folder:
        task = Task(origin=origin, repo=repo, target=Path(folder, "target"), scratch=Path(folder, "scratch"))
        task.target.mkdir()
        task.scratch.mkdir()
        usage = measure(
            TOOLS[tool](task),
            env=environment(task.scratch, task.origin),
            cwd=task.scratch,
            timeout_s=TIMEOUT_BASE_S + 4 * repo.size / PACED_BYTES_S,
            output=Path(folder, "output"),
        )
        verify(task)
        return usage


# ---- what every benchmark needs --------------------------------------------------------------------------------------------


@contextmanager
def workspace() -> Generator[Path]:
    """A folder in memory that everything lies in; gone afterwards."""
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(prefix="shoal-bench-", dir=memory if memory.is_dir() else None))
    base.chmod(0o755)  # started by root, nginx reads as another user
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def stop_on_signals() -> Generator[None]:
    """SIGTERM cleans up as Ctrl+C does, and both do where the shell that started this has them ignored."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def machine() -> dict[str, Any]:
    """The machine, without its name, and how busy it is now: call it before anything is measured."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "load_before": round(os.getloadavg()[0], 1),
    }


def save(document: dict[str, Any], report: str, folder: Path, name: str) -> None:
    """Write the figures and the table, and show the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / f"{name}.md").write_text(report)
    print(report)


def say(text: str) -> None:
    """Progress, for a person."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
