"""The cells of the swarm benchmark: each makes its payload, its network and its origin, and runs every tool in rounds."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .measure import RunFailed, end_session, rotated, touch_memory
from .netns import Network
from .run import MIB, say
from .swarm_bound import FRAME_BYTES, SEGMENT_BYTES, framed, late_bound_s, lower_bound_s, nominal
from .swarm_delivery import deliver, rates, settled
from .swarm_fleet import Fleet, Machine, Program, cpu_s, verify
from .swarm_origin import Origin, Payload, Wrap, make_payload, serve
from .swarm_rival import run_rival, version

SMALL_BYTES = 125_000
TINY_BYTES = 16 << 10
LOOPBACK = Machine(address="127.0.0.1", wrap=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What all cells share. Args: base (a folder for everything), options (the command line)."""

    base: Path
    nginx: str
    program: Program
    options: argparse.Namespace


# ---- shaped ----------------------------------------------------------------------------------------------------------------


def shaped(bench: Bench) -> dict[str, Any]:
    """Every agent, and the origin, behind a link of the same rate."""
    options = bench.options
    rate = options.mbit * 1_000_000
    kind = "s3" if options.origin == "hub" else options.origin
    payload = make_payload(bench.base / "shaped", "shaped", [(1, options.size_mib * MIB)])
    extra = 1 if options.join_one else 0
    rounds: list[dict[str, Any]] = []
    failures: list[str] = []
    goodput = 0.0
    for agents in options.agents:
        links: dict[str, int | None] = {"origin": rate, "coordinator": rate if options.shape_coordinator else None}
        links |= {f"agent{number}": rate for number in range(agents + extra)}
        with Network(links, congestion=options.congestion) as network:
            goodput = network.goodput("origin", "agent0")
            say(f"shaped: {agents} agents; one stream carries {goodput / 1e6:.2f} MB/s of nominal {rate / 8e6:.2f}")
            for turn in range(options.runs):
                for tool in rotated(options.tools, turn):
                    with _attempt(failures, f"shaped, {agents} agents, {tool}"), _folder(bench) as folder:
                        run = _SHAPED[tool](bench, network, kind, payload, folder, agents)
                        run |= over_bounds(payload.size, agents, rate, goodput, run)
                        rounds.append(run)
                        say(f"shaped {turn + 1}/{options.runs}: {tool}, {agents} agents: {run['wall_s']:.2f} s, "
                            f"{run['ratios']['framed']:.3f} of the bound, origin sent {run['sent_ratio'] or 0:.4f} F")  # fmt: skip
    return {
        "name": "shaped",
        "size_bytes": payload.size,
        "rate_bits_s": rate,
        "goodput_bytes_s": goodput,
        "framing": SEGMENT_BYTES / FRAME_BYTES,
        "origin": kind,
        "killed": options.kill_one,
        "joined": options.join_one,
        "rounds": rounds,
        "failures": failures,
    }


def _machine(network: Network, name: str) -> Machine:
    return Machine(address=network.address(name), wrap=_on(network, name))


def _on(network: Network, name: str) -> Wrap:
    return lambda command: network.command(name, command)


def over_bounds(size: int, agents: int, rate: int, goodput: float, run: Mapping[str, Any]) -> dict[str, Any]:
    """The bound for each notion of a link's rate, and the time over it.

    If an agent joined, also the time over the later bound; that of all who were there from the start over theirs; and that of who
    joined, from the start of its process, over what its link needs for all bytes.
    """
    speeds = {"nominal": nominal(rate), "framed": framed(rate), "measured": goodput}
    bounds = {
        name: lower_bound_s(size, origin=speed, uploads=[speed] * agents, downloads=[speed] * agents)
        for name, speed in speeds.items()
    }
    joined_s, each_s = run.get("joined_s"), run.get("each_s", {})
    late = late_bound_s(size, bounds["framed"], joined_s=joined_s, download=speeds["framed"])
    joiner = f"agent{agents}"
    early = [moment for name, moment in each_s.items() if name != joiner]
    return {
        "bounds_s": bounds,
        "ratios": {name: run["wall_s"] / bound for name, bound in bounds.items()},
        "late_ratio": run["wall_s"] / late,
        "early_ratio": max(early) / bounds["framed"] if early else None,
        "joiner_ratio": None if joined_s is None else (each_s[joiner] - joined_s) * speeds["framed"] / size,
    }


def _shaped_shoal(
    bench: Bench, network: Network, kind: str, payload: Payload, folder: Path, agents: int
) -> dict[str, Any]:
    half = payload.size / 2
    with (
        serve(
            kind,
            payload,
            folder / "origin",
            nginx=bench.nginx,
            host=network.address("origin"),
            wrap=_on(network, "origin"),
        ) as origin,
        Fleet(folder, bench.program, _machine(network, "coordinator"), origin, exposed=True) as fleet,
    ):
        machines = {f"agent{number}": _machine(network, f"agent{number}") for number in range(agents)}
        before = network.traffic("agent0").received
        return deliver(
            bench.options.timeout,
            fleet,
            machines,
            origin,
            payload,
            half=lambda: network.traffic("agent0").received - before >= half,
            kill=f"agent{agents - 1}" if bench.options.kill_one else None,
            join=(f"agent{agents}", _machine(network, f"agent{agents}")) if bench.options.join_one else None,
        )


def _shaped_curl(
    bench: Bench, network: Network, kind: str, payload: Payload, folder: Path, agents: int
) -> dict[str, Any]:
    """Every node by itself, which is what a swarm is to beat; it also shows what the harness costs."""
    (file,) = payload.files
    with serve(
        "http",
        payload,
        folder / "origin",
        nginx=bench.nginx,
        host=network.address("origin"),
        wrap=_on(network, "origin"),
    ) as origin:
        assert origin.pid is not None
        spent, running = cpu_s(origin.pid), list[subprocess.Popen[bytes]]()
        began = time.perf_counter()
        try:
            for number in range(agents):
                (folder / f"{number}").mkdir()
                command = [
                    "curl",
                    "-q",
                    "-s",
                    "-S",
                    "-f",
                    "-o",
                    str(folder / f"{number}" / file.path),
                    origin.source[0],
                ]
                wrapped = network.command(f"agent{number}", command)
                running.append(subprocess.Popen(wrapped, stdin=subprocess.DEVNULL, start_new_session=True))
            codes = [process.wait(bench.options.timeout) for process in running]
        except subprocess.TimeoutExpired:
            raise RunFailed(f"curl took longer than {bench.options.timeout:.0f} s") from None
        finally:
            for process in running:
                end_session(process)
        wall_s = time.perf_counter() - began
        if any(codes):
            raise RunFailed(f"curl ended with {codes}")
        sent = settled(origin, 0, agents * payload.size)
        origin_cpu_s = cpu_s(origin.pid) - spent
    for number in range(agents):
        verify(payload, folder / f"{number}")
    return {
        "tool": "curl",
        "agents": agents,
        "wall_s": wall_s,
        "sent_ratio": None if sent is None else sent / payload.size,
        "origin_cpu_s": origin_cpu_s,
    }


_SHAPED: Mapping[str, Callable[[Bench, Network, str, Payload, Path, int], dict[str, Any]]] = {
    "shoal": _shaped_shoal,
    "curl": _shaped_curl,
}


# ---- unshaped ------------------------------------------------------------------------------------------------------------


def loopback(bench: Bench) -> dict[str, Any]:
    """One big file and some small ones, no limits but the machine's."""
    options = bench.options
    payload = make_payload(bench.base / "mixed", "mixed", [(1, options.big_mib * MIB), (options.small, SMALL_BYTES)])
    return _unshaped(bench, "loopback", payload, options.fleets)


def many_files(bench: Bench) -> dict[str, Any]:
    """Many small files to four agents."""
    payload = make_payload(bench.base / "tiny", "tiny", [(bench.options.files, TINY_BYTES)])
    return _unshaped(bench, "files", payload, [max(bench.options.fleets)])


def capped(bench: Bench) -> dict[str, Any]:
    """All agents on one machine, unshaped between themselves, and only the origin's link limited."""
    options = bench.options
    payload = make_payload(bench.base / "capped", "capped", [(1, options.big_mib * MIB)])
    speed = options.origin_mb_s * 1e6
    rate = int(speed * 8 * FRAME_BYTES / SEGMENT_BYTES)
    with Network({"origin": rate, "nodes": None}, congestion=options.congestion) as network:
        goodput = network.goodput("origin", "nodes", size=4 * 64 * MIB)
        say(f"capped: one stream carries {goodput / 1e6:.2f} MB/s")
        cell = _unshaped(bench, "capped", payload, [max(options.fleets)], network=network)
    for run in cell["rounds"]:
        run["ratios"] = {
            "framed": run["wall_s"] * speed / payload.size,
            "measured": run["wall_s"] * goodput / payload.size,
        }
    return cell | {"bound_s": payload.size / speed, "goodput_bytes_s": goodput}


def _unshaped(
    bench: Bench, name: str, payload: Payload, fleets: Sequence[int], *, network: Network | None = None
) -> dict[str, Any]:
    options = bench.options
    kind = "s3" if network and options.origin == "hub" else options.origin
    kind = "hub" if kind == "http" and len(payload.files) > 1 else kind
    host, origin_wrap, wrap = "127.0.0.1", LOOPBACK.wrap, LOOPBACK.wrap
    if network is not None:
        host, origin_wrap, wrap = network.address("origin"), _on(network, "origin"), _on(network, "nodes")
    tools = ["shoal"] if "shoal" in options.tools else []
    if options.xenna_python and kind in ("s3", "seaweed"):
        tools += [f"xenna {flavour}" for flavour in options.xenna]
    rounds: list[dict[str, Any]] = []
    failures: list[str] = []
    for agents in fleets:
        for turn in range(options.runs):
            for tool in rotated(tools, turn):
                # An origin for each run: what it has cached is its own. Its digests are made before the clock starts.
                with (
                    _attempt(failures, f"{name}, {agents} agents, {tool}"),
                    _folder(bench) as folder,
                    serve(kind, payload, folder / "origin", nginx=bench.nginx, host=host, wrap=origin_wrap) as origin,
                ):
                    warm_up(origin, payload, wrap)
                    before = network.traffic("origin").sent if network else 0
                    if tool == "shoal":
                        run = _unshaped_shoal(bench, origin, payload, folder, agents, wrap)
                    else:
                        run = _unshaped_xenna(bench, origin, payload, folder, agents, wrap, tool)
                    if network:
                        run["link_ratio"] = (network.traffic("origin").sent - before) / payload.size
                    rounds.append(run)
                    say(
                        f"{name} {turn + 1}/{options.runs}: {tool}, {agents} agents: {run['wall_s']:.2f} s, {run['cpu_s']:.1f} CPU s"
                    )
    return {
        "name": name,
        "files": len(payload.files),
        "size_bytes": payload.size,
        "origin": kind,
        "xenna": version(options.xenna_python) if options.xenna_python else None,
        "rounds": rounds,
        "failures": failures,
    }


def _unshaped_shoal(
    bench: Bench, origin: Origin, payload: Payload, folder: Path, agents: int, wrap: Wrap
) -> dict[str, Any]:
    machine = Machine(address="127.0.0.1", wrap=wrap)
    with Fleet(folder, bench.program, machine, origin, exposed=False) as fleet:
        machines = {f"agent{number}": machine for number in range(agents)}
        return deliver(
            bench.options.timeout,
            fleet,
            machines,
            origin,
            payload,
            half=lambda: False,
            kill=None,
            join=None,
            prepare=lambda: _touch(bench, payload, agents),
        )


def _touch(bench: Bench, payload: Payload, agents: int) -> None:
    """For every tool alike: room for all targets, half as much again, in memory that the machine has."""
    if not bench.options.disk:
        touch_memory(bench.base, agents * payload.size * 3 // 2)


def _unshaped_xenna(
    bench: Bench, origin: Origin, payload: Payload, folder: Path, agents: int, wrap: Wrap, tool: str
) -> dict[str, Any]:
    (folder / "run").mkdir()
    _touch(bench, payload, agents)
    run = run_rival(
        bench.options.xenna_python,
        folder / "run",
        origin,
        payload,
        nodes=agents,
        tuned=tool.endswith("tuned"),
        wrap=wrap,
        timeout_s=bench.options.timeout,
    )
    return {"tool": tool, "agents": agents, **asdict(run)} | rates(payload, agents, run.wall_s, run.cpu_s)


def warm_up(origin: Origin, payload: Payload, wrap: Wrap) -> None:
    """Have an S3 server compute the digests that it gives as ETags, once per object and life: not a tool's time. Raises RunFailed."""
    if not origin.endpoint:
        return
    url = f"{origin.endpoint}/bench/{payload.repo.name}/"
    keys = f"{origin.environ['AWS_ACCESS_KEY_ID']}:{origin.environ['AWS_SECRET_ACCESS_KEY']}"
    lines = "".join(f'url = "{url}{file.path}"\noutput = "/dev/null"\n' for file in payload.files)
    command = ["curl", "-q", "-s", "-S", "-f", "-I", "--aws-sigv4", "aws:amz:us-east-1:s3", "-K", "-"]
    config = f'user = "{keys}"\n{lines}'
    done = subprocess.run(
        wrap(command), input=config, text=True, capture_output=True, timeout=120, check=False, start_new_session=True
    )
    if done.returncode:
        raise RunFailed(f"the S3 server did not answer: {done.stderr.strip()[-300:]}")


@contextmanager
def _folder(bench: Bench) -> Generator[Path]:
    with tempfile.TemporaryDirectory(dir=bench.base, prefix="run-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def _attempt(failures: list[str], what: str) -> Generator[None]:
    """A run that fails has no figures; the others go on."""
    try:
        yield
    except RunFailed as failure:
        failures.append(f"{what}: {failure}")
        say(failures[-1])
