"""The HTTP client alone against nginx on loopback, beside curl in the same run: wall and CPU seconds of the client.

    python -m benchmarks.http_client [--runs 5] [--big-mib 1024] [--loop asyncio|uvloop]

Data and targets lie on /dev/shm. Ours is measured in this process, without its start; curl with its start (about 10 ms).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from shoal.common.http import HttpClient, HttpLimits

from .engine import nginx

PIECE_BYTES, BUFFER_BYTES = 8 << 20, 1 << 20
SMALL_COUNT, SMALL_BYTES, SMALL_CONNECTIONS = 500, 256 << 10, 16


def limits(connections: int) -> HttpLimits:
    return HttpLimits(connections_per_host=connections)


async def ranges(url: str, size: int, target: Path, connections: int) -> None:
    """One file in ranges of PIECE_BYTES into a preallocated file."""
    starts = iter(range(0, size, PIECE_BYTES))

    async def work(client: HttpClient) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for start in starts:
            offset, length = start, min(PIECE_BYTES, size - start)
            async with await client.request(url, byte_range=(start, length)) as response:
                while count := await response.read_into(buffer):
                    os.pwrite(file, buffer[:count], offset)
                    offset += count
            assert offset == start + length

    file = os.open(target, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        async with (
            HttpClient(limits=limits(connections), user_agent="benchmark") as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(connections):
                group.create_task(work(client))
    finally:
        os.close(file)


async def small_files(url: str) -> None:
    """SMALL_COUNT whole files, which are not written."""
    numbers = iter(range(SMALL_COUNT))

    async def work(client: HttpClient) -> None:
        buffer = memoryview(bytearray(SMALL_BYTES))
        for number in numbers:
            async with await client.request(f"{url}/small/{number}") as response:
                assert await response.read_into(buffer) == SMALL_BYTES

    async with (
        HttpClient(limits=limits(SMALL_CONNECTIONS), user_agent="benchmark") as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(SMALL_CONNECTIONS):
            group.create_task(work(client))


def measured(run: Callable[[], object], who: int) -> tuple[float, float]:
    """Wall and CPU seconds of ``run``. Args: who is RUSAGE_SELF or RUSAGE_CHILDREN."""
    before, start = resource.getrusage(who), time.perf_counter()
    run()
    wall, after = time.perf_counter() - start, resource.getrusage(who)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cases(
    url: str, base: Path, big_bytes: int, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> dict[str, Callable[[], tuple[float, float]]]:
    """Each case by name; the target of the big file exists already, so that no tool pays for fresh pages."""

    def ours(connections: int) -> tuple[float, float]:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            work = ranges(f"{url}/big", big_bytes, base / "target", connections) if connections else small_files(url)
            return measured(lambda: runner.run(work), resource.RUSAGE_SELF)

    def curl(*arguments: str) -> tuple[float, float]:
        return measured(lambda: subprocess.run(["curl", "-s", *arguments], check=True), resource.RUSAGE_CHILDREN)

    urls = [f"{url}/small/{number}" for number in range(SMALL_COUNT)]
    parallel = ["-Z", "--no-progress-meter", "--parallel-max", str(SMALL_CONNECTIONS)]
    return {
        "big, 1 connection": lambda: ours(1),
        "big, 4 connections": lambda: ours(4),
        "big, 16 connections": lambda: ours(16),
        "big, curl": lambda: curl("-o", str(base / "target"), f"{url}/big"),
        f"{SMALL_COUNT} small, {SMALL_CONNECTIONS} connections": lambda: ours(0),
        f"{SMALL_COUNT} small, curl -Z": lambda: curl(
            *parallel, *(part for text in urls for part in ("-o", os.devnull, text))
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--big-mib", type=int, default=1024)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    arguments = parser.parse_args()
    new_loop = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.new_event_loop
    base = Path(tempfile.mkdtemp(dir="/dev/shm"))
    base.chmod(0o755)  # nginx's workers run as another user
    try:
        data = base / "data"
        (data / "small").mkdir(parents=True)
        with (data / "big").open("wb") as file:
            for _ in range(arguments.big_mib):
                file.write(os.urandom(1 << 20))
        shutil.copyfile(data / "big", base / "target")
        for number in range(SMALL_COUNT):
            (data / "small" / str(number)).write_bytes(os.urandom(SMALL_BYTES))
        figures: dict[str, list[tuple[float, float]]] = {}
        with nginx(data, 0) as url:
            todo = cases(url, base, arguments.big_mib << 20, new_loop)
            for _ in range(arguments.runs):
                for name, run in todo.items():
                    figures.setdefault(name, []).append(run())
        for name, runs in figures.items():
            wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
            each = f"  {cpu / SMALL_COUNT * 1e3:.3f} ms CPU a request" if "small" in name else ""
            print(f"{name:28} wall {wall:6.3f} s  CPU {cpu:6.3f} s{each}")
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
