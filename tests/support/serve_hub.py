"""A stand-in Hub for people and subprocesses: ``python -m support.serve_hub --repo-dir DIR --id acme/tiny``.

Prints one line of JSON with its URLs on standard output when it is ready, then serves until it is interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from .hub import StandInHub
from .hub_repo import HubRepo

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text: str) -> float:
    """Bytes from "20MiB", "1.5GB", "4096". Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B|)", text)
    if match is None or not float(match.group(1)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 20MiB")
    return float(match.group(1)) * _UNITS[match.group(2)]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m support.serve_hub", description="Serve a folder as a Hub repo.")
    parser.add_argument("--repo-dir", type=Path, required=True, help="folder that becomes the repo")
    parser.add_argument("--id", default="acme/tiny", help="the repo's id (default: acme/tiny)")
    parser.add_argument("--kind", choices=["model", "dataset", "space"], default="model")
    parser.add_argument("--token", action="append", default=[], help="make the repo private to this token (repeatable)")
    parser.add_argument("--throttle", type=parse_size, help="bytes/s of each connection, such as 20MiB")
    parser.add_argument("--total-throttle", type=parse_size, help="bytes/s of all connections together")
    parser.add_argument("--prefix", default="", help="path that the Hub is below")
    parser.add_argument("--tls", action="store_true", help="https, with a certificate of its own")
    parser.add_argument("--port", type=int, default=0, help="port of the Hub (default: any free one)")
    parser.add_argument("--cdn-port", type=int, default=0, help="port of the CDN (default: any free one)")
    return parser


async def serve(options: argparse.Namespace) -> None:
    """Serves until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    repo = HubRepo.from_dir(options.repo_dir, options.id, kind=options.kind)
    repo.private, repo.readers = bool(options.token), frozenset(options.token)
    hub = StandInHub([repo], prefix=options.prefix, port=options.port, cdn_port=options.cdn_port, tls=options.tls)
    hub.faults.connection_rate = options.throttle
    hub.faults.total_rate = options.total_throttle
    async with hub:
        ca_file = str(hub.ca_file) if hub.ca_file else None
        ready = {"url": hub.url, "cdn_url": hub.cdn_url, "id": repo.id, "sha": repo.sha, "ca_file": ca_file}
        print(json.dumps(ready), flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not options.repo_dir.is_dir():
        parser.error(f"{options.repo_dir} is not a folder")
    asyncio.run(serve(options))


if __name__ == "__main__":
    main()
