"""One copy from the origin, every node gets it: `python -m benchmarks.swarm`. See benchmarks/README.md.

Cells: `shaped` (a machine for each agent, links of a fixed rate), `loopback` (unshaped, beside cosmos-xenna), `files` (many small
files), `capped` (only the origin's link is shaped). `--simulate` asks the simulator for fleets that no machine can hold.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import swarm_table
from .measure import RunFailed
from .netns import NetworkFailed
from .run import add_output_options, machine, save, say, stop_on_signals, workspace
from .swarm_cells import Bench, capped, loopback, many_files, shaped
from .swarm_fleet import Program
from .tools import SCRIPTS, find_nginx

CELLS = {"shaped": shaped, "loopback": loopback, "files": many_files, "capped": capped}


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.simulate:
        return _simulate(arguments)
    nginx = find_nginx()
    if nginx is None:
        print("benchmarks.swarm: nginx missing; install it", file=sys.stderr)
        return 2
    needs_root = {"shaped", "capped"} & set(arguments.cells) or arguments.xenna_python
    if needs_root and os.geteuid() != 0:
        print("benchmarks.swarm: network and mount namespaces need root; try --cells loopback files", file=sys.stderr)
        return 2
    program = Program(
        path=arguments.shoal,
        coordinator_options=tuple(arguments.coordinator_option),
        agent_options=tuple(arguments.agent_option),
        deliver=arguments.deliver,
    )
    if "shoal" in arguments.tools and not program.knows("submit", program.deliver):
        print(f"benchmarks.swarm: {program.path} can not --deliver {program.deliver}", file=sys.stderr)
        return 2
    description = machine()
    with stop_on_signals(), _on_disk(arguments.disk) if arguments.disk else workspace() as base:
        bench = Bench(base=base, nginx=nginx, program=program, options=arguments)
        cells = [CELLS[name](bench) for name in arguments.cells]
    document = {
        "date": arguments.date,
        "machine": description,
        "where": "disk" if arguments.disk else "memory",
        "congestion": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "cells": cells,
    }
    save(document, swarm_table.swarm(document), arguments.out, arguments.result)
    return 1 if any(cell["failures"] for cell in cells) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swarm", description=__doc__)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--runs", type=int, default=3, help="rounds of every cell")
    parser.add_argument("--tools", nargs="+", choices=["shoal", "curl"], default=["shoal"], help="of the shaped cell")
    parser.add_argument(
        "--origin",
        choices=["http", "hub", "s3", "seaweed"],
        default="s3",
        help="s3: rclone; beside xenna: seaweed",
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds that one run may take")
    parser.add_argument("--disk", type=Path, metavar="FOLDER", help="targets below this folder instead of in memory")
    shape = parser.add_argument_group("shaped")
    shape.add_argument("--agents", nargs="+", type=int, default=[2, 4, 8])
    shape.add_argument("--size-mib", type=int, default=512)
    shape.add_argument("--mbit", type=int, default=200, help="each link's rate, both ways")
    shape.add_argument("--congestion", help="TCP's congestion control (default: the kernel's)")
    shape.add_argument("--shape-coordinator", action="store_true", help="the coordinator's link has that rate too")
    shape.add_argument("--kill-one", action="store_true", help="kill -9 an agent half-way")
    shape.add_argument("--join-one", action="store_true", help="start one more agent half-way")
    other = parser.add_argument_group("loopback, files, capped")
    other.add_argument("--fleets", nargs="+", type=int, default=[1, 4], help="sizes of the loopback cell's fleet")
    other.add_argument("--big-mib", type=int, default=1024, help="size of the big file")
    other.add_argument("--small", type=int, default=200, help="number of files of 125 KB beside it")
    other.add_argument("--files", type=int, default=2000, help="number of files of 16 KiB in the cell of that name")
    other.add_argument("--origin-mb-s", type=float, default=100.0, help="the capped origin's payload, MB/s")
    other.add_argument("--xenna-python", help="a Python 3.12 with cosmos-xenna (needs --origin s3)")
    other.add_argument("--xenna", nargs="+", choices=["default", "tuned"], default=["default", "tuned"])
    what = parser.add_argument_group("what is measured")
    what.add_argument("--shoal", default=str(SCRIPTS / "shoal"), help="the command")
    what.add_argument(
        "--deliver", choices=["replicate", "spread"], default="replicate", help="spread: one copy for all"
    )
    what.add_argument("--coordinator-option", action="append", default=[], metavar="OPTION", help="--set=KEY=VALUE")
    what.add_argument("--agent-option", action="append", default=[], metavar="OPTION", help="--set=KEY=VALUE")
    parser.add_argument("--simulate", action="store_true", help="the simulator's figures instead")
    parser.add_argument("--simulated-agents", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--result", default="swarm", help="name of the results")
    add_output_options(parser)
    return parser


def _simulate(arguments: argparse.Namespace) -> int:
    """Each size of fleet in a process of its own, so that its peak memory is its own."""
    from .swarm_simulated import simulate  # needs the coordinator's scheduler, which the other cells only start

    description, rounds = machine(), list[dict[str, Any]]()
    with stop_on_signals():
        for agents in arguments.simulated_agents:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                rounds.append(asdict(pool.submit(simulate, agents).result()))
            say(f"simulated: {rounds[-1]}")
    document = {"date": arguments.date, "machine": description, "rounds": rounds}
    save(document, swarm_table.simulated(document), arguments.out, f"{arguments.result}_simulated")
    return 0


@contextmanager
def _on_disk(folder: Path) -> Generator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="shoal-bench-", dir=folder))
    base.chmod(0o755)  # started by root, nginx reads as another user
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (RunFailed, NetworkFailed) as failure:
        print(f"benchmarks.swarm: {failure}", file=sys.stderr)
        sys.exit(1)
