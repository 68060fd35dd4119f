"""Runs cosmos-xenna's file distribution (`swarm_xenna.py`) beside Shoal: same bytes, same S3 server, same machine.

In its single-node mode it writes below /tmp/p2p_download_test and nowhere else. The run therefore gets a mount namespace of its
own, in which that folder is one of the benchmark's: nothing is left in /tmp but an empty folder, and targets lie where Shoal's lie.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .launch import tree
from .measure import RunFailed, end_session, tail
from .swarm_fleet import DESTINATION, cpu_s, verify
from .swarm_origin import BUCKET, REGION, Origin, Payload, Wrap

DRIVER = Path(__file__).with_name("swarm_xenna.py")
FIXED_FOLDER = Path("/tmp/p2p_download_test")
CHUNK_BYTES = 16 << 20
PARALLELISM = 32
VERSION_S = 60.0
STOP_S = 10.0
ENVIRON = {"LANG": "C.UTF-8", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RivalRun:
    """What one download cost.

    Args: wall_s (of the call alone, Ray running), cpu_s (of the whole tree during the call), whole_s and whole_cpu_s (imports, Ray's
        start and its end included), peak_bytes (sum of the tree's resident memory, shared pages counted for each), origin_cpu_s,
        sent_ratio (origin's bytes over the size).
    """

    wall_s: float
    cpu_s: float
    whole_s: float
    whole_cpu_s: float
    peak_bytes: int
    origin_cpu_s: float
    sent_ratio: float | None


def version(python: str) -> str:
    """Its version. Raises RunFailed when that interpreter does not have it."""
    packages = "import ray, cosmos_xenna.file_distribution, importlib.metadata as m"
    code = f"{packages}; print(m.version('cosmos-xenna'), 'with ray', ray.__version__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=VERSION_S, check=False)
    if done.returncode:
        raise RunFailed(f"{python} has no cosmos-xenna: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def run_rival(
    python: str,
    folder: Path,
    origin: Origin,
    payload: Payload,
    *,
    nodes: int,
    tuned: bool,
    wrap: Wrap,
    timeout_s: float,
) -> RivalRun:
    """One download to so many simulated nodes, verified. Raises RunFailed. Args: folder (a fresh one, for everything)."""
    targets, ray_folder = folder / "targets", Path(f"/tmp/shoalbench-{os.getpid()}")
    targets.mkdir()
    report, output = folder / "report.json", folder / "output"
    request = {
        "endpoint": origin.endpoint,
        "bucket": BUCKET,
        "region": REGION,
        "prefix": f"{payload.repo.name}/",
        "destination": f"/{DESTINATION}",
        "nodes": nodes,
        "tuned": tuned,
        "chunk_size_bytes": CHUNK_BYTES,
        "parallelism": PARALLELISM,
        "ray_folder": str(ray_folder),  # short: Ray's sockets lie below it, and their paths must not exceed 107 bytes
    }
    made = not FIXED_FOLDER.exists()
    FIXED_FOLDER.mkdir(exist_ok=True)
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    inner = ["sh", "-c", script, "sh", str(targets), str(FIXED_FOLDER), python, str(DRIVER)]
    command = wrap(["unshare", "--mount", "--propagation", "private", *inner, json.dumps(request), str(report)])
    environ = {
        **ENVIRON,
        **origin.environ,
        "HOME": str(folder),
        "PATH": f"{Path(python).parent}:/usr/bin:/bin:/usr/sbin",
    }
    assert origin.pid is not None
    sent_before, cpu_before = origin.sent(), cpu_s(origin.pid)
    try:
        with output.open("wb") as out:
            process = subprocess.Popen(
                command,
                env=environ,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"cosmos-xenna took longer than {timeout_s:.0f} s; {tail(output)}") from None
        finally:
            _end(process, folder)
        if process.returncode or not report.exists():
            raise RunFailed(f"cosmos-xenna ended with {process.returncode}; {tail(output)}")
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                FIXED_FOLDER.rmdir()
    figures = json.loads(report.read_text())
    for node in range(nodes):
        verify(payload, targets / str(node) / DESTINATION)
    return RivalRun(
        **figures,
        origin_cpu_s=cpu_s(origin.pid) - cpu_before,
        sent_ratio=None if sent_before is None else ((origin.sent() or 0) - sent_before) / payload.size,
    )


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End what is left of the run. Ray's processes have sessions of their own, so they are looked for one by one, by the run's HOME."""
    left = tree(process.pid) if process.poll() is None else []
    if left:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    end_session(process)
    mark = f"\0HOME={folder}\0".encode()
    for pid in left[1:]:
        with contextlib.suppress(OSError):
            if mark in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, signal.SIGKILL)
