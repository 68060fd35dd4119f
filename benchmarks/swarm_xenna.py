"""The rival: one run of cosmos-xenna's `download_distributed`: `python3.12 swarm_xenna.py REQUEST_JSON REPORT_FILE`.

It simulates nodes in one process tree as its own tests do (`SingleNodeTestingInfo`): an actor for each, every one with its own
folder and its own port for chunks. Two spans are measured: the call alone, Ray running, and all from this process's first line to
Ray's end, imports and Ray's start included. CPU is that of the whole tree, sampled, because Ray's processes are ended by signals
that leave nobody to be told what they cost.

Nothing but this interpreter's packages may be imported here: the benchmark's own modules need another Python.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

SAMPLE_S = 0.05
TICKS_S = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{thread}/children").read_text().split())
        except OSError:
            continue
    return found


class Meter(threading.Thread):
    """Samples the CPU time and the resident memory of this process and all below it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stop_asked = threading.Event()
        self._ticks: dict[int, int] = {}
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._stop_asked.wait(SAMPLE_S):
            self.sample()

    def sample(self) -> None:
        resident = 0
        for pid in tree(os.getpid()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            # Of its own only: what it has waited for is counted under the id that it had.
            self._ticks[pid] = int(fields[11]) + int(fields[12])
            resident += int(fields[21]) * os.sysconf("SC_PAGESIZE")
        self.peak_bytes = max(self.peak_bytes, resident)

    def cpu_s(self) -> float:
        self.sample()
        return sum(list(self._ticks.values())) / TICKS_S

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def download(request: dict[str, Any]) -> dict[str, float]:
    """One download, measured."""
    meter = Meter()
    began_all = time.perf_counter()
    meter.start()
    import pathlib

    import ray
    from cosmos_xenna import file_distribution as xenna

    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=request["ray_folder"],
    )
    config = xenna.ObjectStoreConfig.make_for_s3(
        bucket=request["bucket"],
        endpoint=request["endpoint"],
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=request["region"],
    )
    config.config_args["allow_http"] = "true"
    wanted = xenna.PrefixDownloadRequest(
        profile_name=None, uri=request["prefix"], destination=pathlib.Path(request["destination"])
    )
    tuning = {}
    if request["tuned"]:
        parallelism = request["parallelism"]
        tuning["chunk_size_bytes"] = request["chunk_size_bytes"]
        tuning |= {"node_parallelism": parallelism, "object_store_parallelism": parallelism}
    before = meter.cpu_s()
    began = time.perf_counter()
    xenna.download_distributed(
        [xenna.DownloadRequest(value=wanted)],
        config,
        testing_info=xenna.SingleNodeTestingInfo(num_fake_nodes=request["nodes"]),
        **tuning,
    )
    wall_s = time.perf_counter() - began
    cpu_s = meter.cpu_s() - before
    ray.shutdown()
    meter.stop()
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_bytes": meter.peak_bytes,
        "whole_s": time.perf_counter() - began_all,
        "whole_cpu_s": meter.cpu_s(),
    }


if __name__ == "__main__":
    report = download(json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(report))
