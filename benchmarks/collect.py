"""CPU time of collecting images from a server on this machine, beside img2dataset where it is installed.

::

    python -m benchmarks.collect [--rows 5000] [--encoding jpeg|original|...] [--rival PYTHON]

nginx serves 500 distinct JPEGs of 37 kB (`benchmarks.images.pictures`). Counted is the CPU time of this process and its image workers,
from the start of the batch to its finished files; the server's is not. ``--rival``: a Python that has img2dataset, which then does the
same work (one process, as many threads as there are connections).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import os
import pstats
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from shoal.agent.collect.gate import Answer
from shoal.agent.collect.options import CollectOptions
from shoal.agent.collect.runs import Collector
from shoal.agent.engine.options import EngineOptions
from shoal.common.collect_records import CollectSpec, ImageEncoding, batch_path
from shoal.common.dataset_schema import batch_schema
from shoal.common.records import (
    Delivery,
    JobSpec,
    Layout,
    Lease,
    ObjectSpec,
    OriginKind,
    Outcome,
    UnitKind,
    WorkReport,
)

from .images import pictures

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{ access_log off; keepalive_requests 100000000; sendfile on; types {{ image/jpeg jpg; }}
        client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d;
        scgi_temp_path {folder}/e;
        server {{ listen 127.0.0.1:{port}; root {folder}/www; }} }}
"""
RIVAL = """
import sys
from img2dataset import download
if __name__ == "__main__":
    urls, out, size, mode, threads = sys.argv[1:]
    download(url_list=urls, input_format="parquet", url_col="url", output_folder=out, output_format="parquet", processes_count=1,
             thread_count=int(threads), image_size=int(size), resize_mode="keep_ratio_largest" if mode == "jpeg" else "no",
             disable_all_reencoding=mode != "jpeg", resize_only_if_bigger=True, compute_hash="md5", number_sample_per_shard=5000,
             enable_wandb=False, encode_quality=95, disallowed_header_directives=[])
"""


class FreeGate:
    """No budgets: what is measured is the work."""

    @asynccontextmanager
    async def request(self, host: str) -> AsyncGenerator[None]:
        yield

    def seen(
        self,
        host: str,
        kind: Answer,
        *,
        status: int = 0,
        retry_after_s: float = 0.0,
        latency_s: float = 0.0,
        crawl_delay_s: float = 0.0,
    ) -> None:
        if kind is not Answer.OK:
            print("seen", host, kind, status)

    def blocked_s(self, host: str, now: float) -> float:
        return 0.0


@contextlib.contextmanager
def nginx(folder: Path, count: int) -> Iterator[int]:
    """nginx with so many pictures at ``/N.jpg``; yields its port."""
    www = folder / "www"
    www.mkdir()
    for number, data in enumerate(pictures(count)):
        (www / f"{number}.jpg").write_bytes(data)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    os.chmod(folder, 0o755)
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    with subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-p", str(folder)]) as server:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                    break
                time.sleep(0.05)
            yield port
        finally:
            server.terminate()


def workers_cpu_s() -> float:
    """Seconds of CPU of the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def cpu_s() -> float:
    """Seconds of CPU of this process and its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


async def collect(port: int, to: Path, urls: list[str], spec: CollectSpec) -> WorkReport:
    """One batch."""
    loop = asyncio.get_running_loop()
    host = f"127.0.0.1:{port}"
    names = ["uuid", "identifier", "source_id", "license", "source", "title"]
    ids = [f"{number:032x}" for number in range(len(urls))]
    rows = pa.table(dict(zip(names, [ids, urls, ids, ids, ids, ids], strict=True)), schema=batch_schema())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    reports: asyncio.Queue[WorkReport] = asyncio.Queue(10)

    async def read_document(job_id: str, name: str) -> AsyncIterator[bytes]:
        yield sink.getvalue().to_pybytes()

    job = JobSpec(
        job_id="bench",
        source="table",
        origin=OriginKind.HTTP,
        layout=Layout.FOLDER,
        destination=str(to),
        delivery=Delivery.DATASET,
        collect=spec,
    )
    async with asyncio.TaskGroup() as tasks:
        collector = Collector(
            CollectOptions(engine=EngineOptions(agent_id="bench", sync=True)),
            tasks=tasks,
            throttle=FreeGate(),
            read_document=read_document,
            report=reports.put_nowait,
            clock=loop.time,
            wall_clock=time.time,
            rng=random.Random(1),
        )
        prepare = Lease(unit="j", token=1, kind=UnitKind.PREPARE, job_id="bench")
        collector.start(prepare, job, lambda: float("inf"))
        assert (await reports.get()).outcome is Outcome.DONE
        batch = ObjectSpec(object_id=1, path=batch_path(host, 0), size=None)
        collector.start(
            Lease(unit="o1", token=2, kind=UnitKind.BATCH, job_id="bench", object=batch), job, lambda: float("inf")
        )
        report = await reports.get()
        await collector.aclose()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--encoding", default="jpeg")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rival", default="")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    spec = CollectSpec(
        tables=(),
        allow_private_addresses=True,
        image_size=options.size,
        image_encoding=ImageEncoding(options.encoding),
        connections=options.connections,
    )
    import uvloop

    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, nginx(Path(scratch), options.pictures) as port:
        urls = [f"http://127.0.0.1:{port}/{n % options.pictures}.jpg?{n}" for n in range(options.rows)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            began_s = cpu_s()
            runner.run(collect(port, Path(scratch) / "warm", urls[:16], replace(spec, tables=("w",))))
            start_s = cpu_s() - began_s  # imports, and the workers' start
            profiler = cProfile.Profile() if options.profile else None
            began_s, wall_s, workers_s = cpu_s(), time.perf_counter(), workers_cpu_s()
            if profiler is not None:
                profiler.enable()
            report = runner.run(collect(port, Path(scratch) / "out", urls, spec))
            if profiler is not None:
                profiler.disable()
            used_s, wall_s = cpu_s() - began_s, time.perf_counter() - wall_s
        assert report.tally == ((200, options.rows),), report
        own = resource.getrusage(resource.RUSAGE_SELF)
        each, in_workers = used_s / options.rows * 1e3, (workers_cpu_s() - workers_s) / options.rows * 1e3
        print(
            f"shoal: {each:.2f} ms CPU an image ({in_workers:.2f} in image workers), {options.rows / wall_s:.0f} images/s"
        )
        print(f"start {start_s:.2f} s CPU, largest resident set {own.ru_maxrss >> 10} MiB")
        if profiler is not None:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
        if options.rival:
            rival(options, Path(scratch), urls)


def rival(options: argparse.Namespace, scratch: Path, urls: list[str]) -> None:
    """img2dataset on the same URLs."""
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"url": urls}), scratch / "urls.parquet")
    (scratch / "rival.py").write_text(RIVAL)
    began_s, wall_s = cpu_s(), time.perf_counter()
    command = [options.rival, "rival.py", "urls.parquet", str(scratch / "rival"), str(options.size), options.encoding]
    done = subprocess.run(
        [*command, str(options.connections)], cwd=scratch, check=False, capture_output=True, text=True
    )
    used_s, wall_s = cpu_s() - began_s, time.perf_counter() - wall_s
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
    count = sum(pq.read_metadata(path).num_rows for path in (scratch / "rival").glob("*.parquet"))
    print(
        f"img2dataset: {used_s / options.rows * 1e3:.2f} ms CPU an image, {options.rows / wall_s:.0f} images/s, {count} rows"
    )


if __name__ == "__main__":
    main()
