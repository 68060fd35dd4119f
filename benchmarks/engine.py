"""The range engine alone against nginx, beside curl and aria2c in the same run: wall and CPU seconds of the client process.

    python benchmarks/engine.py [--runs 5] [--big-mib 1024] [--rate MIB_PER_S] [--profile FILE]

Data and targets lie on /dev/shm. Process start is included for every tool; Shoal's digests are verified, the others verify nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

SMALL_COUNT, SMALL_BYTES = 500, 256 << 10
NGINX = "/usr/sbin/nginx"


@contextlib.contextmanager
def nginx(folder: Path, rate_mib: float) -> Iterator[str]:
    """An nginx over a folder; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    limit = f"limit_rate {int(rate_mib * 1024)}k;" if rate_mib else ""
    work = Path(tempfile.mkdtemp())
    config = work / "nginx.conf"
    config.write_text(
        f"""daemon off; worker_processes 2; pid {work}/pid; error_log {work}/error.log;
        events {{ worker_connections 1024; }}
        http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; {limit}
          client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
          uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
          server {{ listen 127.0.0.1:{port} reuseport; root {folder}; }} }}"""
    )
    server = subprocess.Popen([NGINX, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(work)


def timed(command: Sequence[str], cwd: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of one command."""
    began = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL if command[0] == "curl" else None
    )
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} failed with {child.returncode}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


async def client(url: str, listing: Path, target: Path) -> None:
    """What is measured: one worker fetches everything in the listing (lines of SIZE SHA256 NAME)."""
    from shoal.agent.worker import EngineOptions, Worker, WorkReport
    from shoal.common.records import JobSpec, Layout, Lease, ObjectSpec, OriginKind, Outcome, UnitKind

    loop = asyncio.get_running_loop()
    left, finished = 0, asyncio.Event()
    failures: list[str] = []

    def report(result: WorkReport) -> None:
        nonlocal left
        if result.outcome is Outcome.FAILED:
            failures.append(str(result.failure))
        if result.outcome is not Outcome.PARTIAL:
            left -= 1
            if not left:
                finished.set()

    async def nothing(job_id: str) -> AsyncIterator[Sequence[ObjectSpec]]:
        for page in ():
            yield page

    job = JobSpec(
        job_id="bench",
        source=url,
        origin=OriginKind.HTTP,
        layout=Layout.FOLDER,
        destination=str(target),
        endpoints=(url,),
    )
    tokens = itertools.count(1)
    options = EngineOptions(agent_id="bench", sync=False, **_experiment())
    async with Worker(options, report=report, list_objects=nothing, hub_token=lambda: None, clock=loop.time) as worker:

        async def run(leases: Sequence[Lease]) -> None:
            nonlocal left
            left = len(leases)
            finished.clear()
            for lease in leases:
                worker.start(lease, job, lambda: float("inf"))
            await finished.wait()

        await run([Lease(unit="j", token=next(tokens), kind=UnitKind.PREPARE, job_id=job.job_id)])
        leases: list[Lease] = []
        for number, line in enumerate(listing.read_text().splitlines()):
            size, digest, name = line.split(" ", 2)
            spec = ObjectSpec(object_id=number, path=name, size=int(size), digest=f"sha256:{digest}", url=f"/{name}")
            leases.append(
                Lease(unit=f"o{number}", token=next(tokens), kind=UnitKind.WHOLE, job_id=job.job_id, object=spec)
            )
        await run(leases)
    if failures:
        raise SystemExit(f"{len(failures)} failed, first: {failures[0]}")


def _experiment() -> dict[str, object]:
    """Engine options of an experiment, from the environment: SHOAL_ENGINE='buffer_bytes=262144 io_threads=2'."""
    pairs = (pair.split("=") for pair in os.environ.get("SHOAL_ENGINE", "").split())
    return {name: int(value) for name, value in pairs}


def make_data(folder: Path, big_bytes: int) -> dict[str, Path]:
    """Random files, and a listing for each case."""
    listings: dict[str, Path] = {}
    cases = {"big": [("big.bin", big_bytes)], "small": [(f"f{i:03}.bin", SMALL_BYTES) for i in range(SMALL_COUNT)]}
    for case, files in cases.items():
        lines: list[str] = []
        for name, size in files:
            digest = hashlib.sha256()
            with (folder / name).open("wb") as file:
                for at in range(0, size, 1 << 20):
                    block = os.urandom(min(1 << 20, size - at))
                    digest.update(block)
                    file.write(block)
            lines.append(f"{size} {digest.hexdigest()} {name}")
        listings[case] = folder / f"{case}.list"
        listings[case].write_text("\n".join(lines))
    return listings


def commands(url: str, case: str, listing: Path, target: Path) -> dict[str, list[str]]:
    """The command of each tool for a case."""
    urls = [f"{url}/{line.split(' ', 2)[2]}" for line in listing.read_text().splitlines()]
    quiet = ["-q", "--allow-overwrite=true", "--file-allocation=none", "-d", str(target)]
    shoal = [sys.executable, __file__, "--client", url, str(listing), str(target)]
    if case == "big":
        return {
            "shoal": shoal,
            "curl": ["curl", "-s", "-o", str(target / "big.bin"), urls[0]],
            "aria2c": ["aria2c", "-x16", "-s16", "-k1M", *quiet, urls[0]],
        }
    inputs = target.parent / "urls"
    inputs.write_text("\n".join(urls))
    return {
        "shoal": shoal,
        "curl": [
            "curl",
            "-s",
            "-Z",
            "--no-progress-meter",
            "--parallel-max",
            "16",
            "--remote-name-all",
            "--output-dir",
            str(target),
            *urls,
        ],
        "aria2c": ["aria2c", "-j16", *quiet, "-i", str(inputs)],
    }


def measure(runs: int, big_mib: int, rate_mib: float, only: str) -> None:
    """Run everything and print medians."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm"))
    base.chmod(0o755)  # nginx's workers run as another user
    try:
        (base / "data").mkdir()
        listings = make_data(base / "data", big_mib << 20)
        with nginx(base / "data", rate_mib) as url:
            for case, listing in listings.items():
                results: dict[str, list[tuple[float, float, float]]] = {}
                for _ in range(runs):
                    for tool, command in commands(url, case, listing, base / "target").items():
                        if only and tool != only:
                            continue
                        shutil.rmtree(base / "target", ignore_errors=True)
                        (base / "target").mkdir()
                        results.setdefault(tool, []).append(timed(command, base))
                for tool, figures in results.items():
                    wall, cpu, peak = (statistics.median(column) for column in zip(*figures, strict=True))
                    best = min(figure[0] for figure in figures)
                    print(
                        f"{case:6} {tool:7} wall {wall:6.3f} s (best {best:.3f})  CPU {cpu:6.3f} s  peak {peak:4.0f} MiB"
                    )
    finally:
        shutil.rmtree(base)


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        url, listing, target = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])

        def run() -> None:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(client(url, listing, target))

        if profile := os.environ.get("SHOAL_PROFILE"):
            import cProfile

            cProfile.runctx("run()", {"run": run}, {}, profile)
        else:
            run()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--big-mib", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=0.0, help="MiB/s a connection; 0: no limit")
    parser.add_argument("--only", default="", help="only this tool")
    parser.add_argument("--profile", default="", help="write cProfile data of Shoal's last run there")
    arguments = parser.parse_args()
    if arguments.profile:
        os.environ["SHOAL_PROFILE"] = arguments.profile
    measure(arguments.runs, arguments.big_mib, arguments.rate, arguments.only)


if __name__ == "__main__":
    main()
