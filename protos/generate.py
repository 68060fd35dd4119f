"""Generates the Python code of ``shoal.v1``, or with ``--check`` says whether what is committed is fresh.

Generated code refuses to run on a protobuf or grpcio older than its generator, so the generator is the oldest release that
Shoal supports, whatever is installed for running. If another release is installed, the right one is fetched by pip into a
temporary folder; it needs nothing but itself.

    python protos/generate.py            # write
    python protos/generate.py --check    # exit code 1 if anything differs
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS_VERSION = "1.71.2"
"""Of grpcio-tools. Equal to the minimum of grpcio in pyproject.toml; its protoc (29.0) makes code for protobuf >= 5.29."""

PROTOS = Path(__file__).resolve().parent
PACKAGE = PROTOS / "shoal" / "v1"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


def installed_tools() -> str:
    """The installed release of grpcio-tools, or nothing."""
    try:
        return importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        return ""


def fetch_tools(folder: Path) -> None:
    """Put the generator into a folder. Raises CalledProcessError when pip cannot."""
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(folder), f"grpcio-tools=={TOOLS_VERSION}"], check=True)


def generate(out: Path, tools: Path | None) -> None:
    """Write the generated files below a folder, with the generator that is installed or the one in tools."""
    environment = os.environ if tools is None else {**os.environ, "PYTHONPATH": str(tools)}
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    sources = sorted(str(path.relative_to(PROTOS)) for path in PACKAGE.glob("*.proto"))
    command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", f"-I{PROTOS}", *outputs, *sources]
    subprocess.run(command, check=True, env=environment, cwd=PROTOS)
    for stub in (out / "shoal" / "v1").glob("*_pb2_grpc.py"):
        if "class " not in stub.read_text(encoding="utf-8"):
            stub.unlink()  # a file without a service


def contents(package: Path) -> dict[str, bytes]:
    """The generated files in a package folder, by name."""
    return {path.name: path.read_bytes() for pattern in GENERATED for path in package.glob(pattern)}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the committed code is stale")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        out, tools = Path(scratch, "out"), None
        out.mkdir()
        if installed_tools() != TOOLS_VERSION:
            tools = Path(scratch, "tools")
            fetch_tools(tools)
        generate(out, tools)
        fresh, committed = contents(out / "shoal" / "v1"), contents(PACKAGE)
    differing = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    if check:
        for name in differing:
            sys.stderr.write(f"{PACKAGE.relative_to(PROTOS.parent) / name} is stale: run python protos/generate.py\n")
        return 1 if differing else 0
    for name in differing:
        if name in fresh:
            (PACKAGE / name).write_bytes(fresh[name])
        else:
            (PACKAGE / name).unlink()
    sys.stderr.write(f"{len(differing)} files changed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
