"""One big file with one agent and with three: `python -m benchmarks.fleet`. See benchmarks/README.md.

Real daemons on one machine and a folder that all agents write to. The origin gives each connection a fixed rate and each agent has one
connection, so what is measured is how well the coordinator spreads one file, not the machine.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from . import table
from .measure import RunFailed, end_session, measure, tail
from .origin import Origin, Repo, make_repo, serve
from .run import MIB, PACED_BYTES_S, add_output_options, machine, save, say, stop_on_signals, workspace
from .tools import SCRIPTS, Task, environment, find_nginx, verify

SHOAL = str(SCRIPTS / "shoal")
READY_S = 30.0
POLL_S = 0.1
STOP_S = 20.0
TIMEOUT_BASE_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="rounds; each measures every size of fleet once")
    parser.add_argument(
        "--agents", nargs="+", type=int, default=[1, 3], help="sizes of fleet; speed-ups are over the first"
    )
    parser.add_argument("--size-mib", type=int, default=512, help="size of the file")
    add_output_options(parser)
    arguments = parser.parse_args()
    nginx = find_nginx()
    if nginx is None:
        print("benchmarks.fleet: nginx missing; install it", file=sys.stderr)
        return 2
    description = machine()
    with stop_on_signals(), workspace() as base:
        repo = make_repo(base / "origin", "fleet", count=1, size=arguments.size_mib * MIB, lfs=True)
        rounds: list[dict[int, dict[str, float]]] = []
        for turn in range(arguments.runs):
            rounds.append({agents: _measure(nginx, base, repo, agents) for agents in arguments.agents})
            walls = ", ".join(f"{agents} agents {figures['wall_s']:.1f} s" for agents, figures in rounds[-1].items())
            say(f"{turn + 1}/{arguments.runs}: {walls}")
    document = {
        "date": arguments.date,
        "machine": description,
        "runs": arguments.runs,
        "size_bytes": repo.size,
        "rate_bytes_s": PACED_BYTES_S,
        "fleets": [summarize_fleet(rounds, agents, arguments.agents[0]) for agents in arguments.agents],
        "rounds": rounds,
    }
    save(document, table.fleet(document), arguments.out, "fleet")
    return 0


def summarize_fleet(rounds: Sequence[Mapping[int, Mapping[str, float]]], agents: int, reference: int) -> dict[str, Any]:
    """Medians of a size of fleet; the speed-up is formed round by round."""
    return {
        "agents": agents,
        "wall_s": statistics.median(figures[agents]["wall_s"] for figures in rounds),
        "speedup": statistics.median(figures[reference]["wall_s"] / figures[agents]["wall_s"] for figures in rounds),
        "served_ratio": max(figures[agents]["served_ratio"] for figures in rounds),
    }


def _measure(nginx: str, base: Path, repo: Repo, agents: int) -> dict[str, float]:
    """One file through a fresh fleet. Raises RunFailed."""
    with tempfile.TemporaryDirectory(dir=base, prefix="fleet-") as name, ExitStack() as stack:
        folder = Path(name)
        origin = stack.enter_context(
            serve(nginx, base / "origin", folder / "nginx", [repo], rate_bytes_s=PACED_BYTES_S, log=True)
        )
        env = environment(folder, origin)
        address = stack.enter_context(running_fleet(agents, folder, env))
        target = folder / "target"
        usage = measure(
            [SHOAL, "get", f"hf://{repo.repo_id}", "--to", str(target), "--coordinator", address],
            env=env,
            cwd=folder,
            timeout_s=TIMEOUT_BASE_S + 2 * repo.size / PACED_BYTES_S,
            output=folder / "get.log",
        )
        verify(Task(origin=origin, repo=repo, target=target, scratch=folder))
        return {"wall_s": usage.wall_s, "served_ratio": _served(origin, repo)}


def _served(origin: Origin, repo: Repo) -> float:
    """Bytes of the file that left the origin, over its size.

    nginx logs an answer when it has ended, which can be a moment after its reader has everything.
    """
    deadline = time.monotonic() + READY_S
    while (served := origin.file_bytes_served()) < repo.size and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return served / repo.size


@contextmanager
def running_fleet(
    agents: int, folder: Path, env: Mapping[str, str], *, web: str = "", connections: int = 1
) -> Generator[str]:
    """A coordinator with so many agents, all connected. Yields its address; stops them all. Raises RunFailed.

    Args: web, where it serves its page, if anywhere; connections of each agent to the origin.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with ExitStack() as stack:
        coordinator = [SHOAL, "coordinator", "--listen", address, "--state", str(folder / "state")]
        coordinator += ["--web", web] if web else []
        daemons = [stack.enter_context(_daemon(coordinator, folder / "coordinator.log", env))]
        for number in range(agents):
            name = f"agent-{number}"
            agent = [SHOAL, "agent", "--coordinator", address, "--name", name, "--data", str(folder / name)]
            agent += ["--set", f"fetch.connections_per_host={connections}"]
            daemons.append(stack.enter_context(_daemon(agent, folder / f"{name}.log", env)))
        _await_agents(agents, address, folder, env, daemons)
        yield address


@contextmanager
def _daemon(
    command: Sequence[str], log: Path, env: Mapping[str, str]
) -> Generator[tuple[subprocess.Popen[bytes], Path]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            yield process, log
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                say(f"{log.stem} did not stop in {STOP_S:.0f} s; {tail(log)}")
            finally:
                end_session(process)


def _await_agents(
    agents: int,
    address: str,
    folder: Path,
    env: Mapping[str, str],
    daemons: Sequence[tuple[subprocess.Popen[bytes], Path]],
) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        for process, log in daemons:
            if process.poll() is not None:
                raise RunFailed(f"{log.stem} ended with {process.returncode}; {tail(log)}")
        listing = subprocess.run(
            [SHOAL, "agents", "--json", "--coordinator", address],
            env=dict(env),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=READY_S,
            check=False,
        )
        if listing.returncode == 0 and len(json.loads(listing.stdout)["agents"]) == agents:
            return
        time.sleep(POLL_S)
    raise RunFailed(f"{agents} agents did not connect in {READY_S:.0f} s; {tail(folder / 'agent-0.log')}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except RunFailed as failure:
        print(f"benchmarks.fleet: {failure}", file=sys.stderr)
        sys.exit(1)
