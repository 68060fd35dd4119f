"""An archive from loopback, unpacked while it arrives and unpacked when it is whole: the same program, with and without.

    python -m benchmarks.unpack [--rounds N] [--format tar.zst] [--rate MIB_S]

Every round runs both in a new folder in memory, in turn; the figures are medians over the rounds, the ratio that of each round.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .measure import Usage, measure, rotated, summarize
from .origin import Origin, make_repo, serve
from .run import stop_on_signals, workspace

MIB = 1 << 20
FILES = 512
CONNECTIONS = 16
STREAMED, FINISHED = "streamed", "finished file"
COMPRESSORS = {"tar": None, "tar.zst": ["zstd", "-q", "-3"], "tar.gz": ["gzip", "-1"]}
PROGRAM = "import sys; from shoal.client.main import main; sys.exit(main())"
WITHOUT = "from shoal.agent.engine.archive_streams import ArchiveStreams as S; S.feeder = lambda *_: None; "


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--format", choices=sorted(COMPRESSORS), default="tar.zst")
    parser.add_argument("--rate", type=int, default=0, help="MiB/s of all connections together; 0: as fast as it goes")
    options = parser.parse_args()
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if nginx is None:
        raise SystemExit("nginx is not installed")
    with stop_on_signals(), workspace() as base:
        name = f"env.{options.format}"
        repo = make_repo(base / "origin", "ready", count=1, size=1024, lfs=True)
        size = _make_archive(base / "origin/files" / name, COMPRESSORS[options.format])
        print(f"{name}: {size / MIB:.0f} MiB of {FILES} MiB in {FILES} files", flush=True)
        rate = options.rate * MIB // CONNECTIONS
        with serve(nginx, base / "origin", base / "nginx", [repo], rate_bytes_s=rate) as origin:
            rounds = [
                {tool: _run(tool, origin, name, base) for tool in rotated([STREAMED, FINISHED], turn)}
                for turn in range(options.rounds)
            ]
    for tool, found in summarize(rounds, reference=FINISHED).items():
        print(
            f"{tool:14} {found.wall_s:6.2f} s ({found.wall_min_s:.2f} to {found.wall_max_s:.2f})  CPU {found.cpu_s:5.2f} s  "
            f"peak {found.peak_bytes / MIB:4.0f} MiB  ratio {found.ratio or 0:.2f}"
        )
    return 0


def _make_archive(path: Path, compressor: list[str] | None) -> int:
    """Half noise, half what compresses well; its size in bytes."""
    chance = random.Random(1)
    plain = path.with_name("plain.tar")
    content = path.with_name("content")
    with tarfile.open(plain, "w") as archive:
        for number in range(FILES):
            content.write_bytes(chance.randbytes(MIB // 2) + b"%015d\n" % number * (MIB // 32))
            archive.add(content, f"env/lib/d{number % 32}/m{number}")
    content.unlink()
    if compressor is None:
        plain.rename(path)
    else:
        with plain.open("rb") as source, path.open("wb") as out:
            subprocess.run(compressor, stdin=source, stdout=out, check=True)
        plain.unlink()
    return path.stat().st_size


def _run(tool: str, origin: Origin, name: str, base: Path) -> Usage:
    with tempfile.TemporaryDirectory(dir=base, prefix="run-") as folder:
        to, out = Path(folder, "to"), Path(folder, "out")
        program = PROGRAM if tool == STREAMED else WITHOUT + PROGRAM
        usage = measure(
            [
                *(sys.executable, "-c", program, "get", f"{origin.cdn_url}/bench/{name}", "--to", str(to)),
                *("--unpack", str(out), "--set", f"fetch.connections_per_host={CONNECTIONS}"),
            ],
            env={"PATH": os.defpath, "HOME": folder},
            cwd=Path(folder),
            timeout_s=300.0,
            output=Path(folder, "output"),
        )
        found = sum(1 for path in (out / "env").rglob("m*") if path.stat().st_size == MIB)
        if found != FILES:
            raise SystemExit(f"{tool}: {found} of {FILES} files")
        first = hashlib.sha256((out / "env/lib/d0/m0").read_bytes()).hexdigest()
        chance = random.Random(1).randbytes(MIB // 2)
        if first != hashlib.sha256(chance + b"%015d\n" % 0 * (MIB // 32)).hexdigest():
            raise SystemExit(f"{tool}: wrong bytes")
        return usage


if __name__ == "__main__":
    sys.exit(main())
