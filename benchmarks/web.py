"""The page beside a fleet at full speed: `python -m benchmarks.web`. See benchmarks/README.md.

Every round fetches one file three times with a fresh fleet: alone; with a page open, which reads the events of the fleet and of the
job; and with that page and a program that asks GET /api/status twenty times a second. What the page costs is the wall time over that
of the same round alone; how quick the status is, is the 99th percentile of all answers while bytes came in.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .fleet import SHOAL, TIMEOUT_BASE_S, running_fleet
from .measure import measure, rotated
from .origin import Repo, make_repo, serve
from .run import MIB, add_output_options, machine, save, say, stop_on_signals, workspace
from .table import machine_line, markdown_table, seconds
from .tools import Task, environment, find_nginx, verify

ASK_EVERY_S = 0.05
ANSWER_S = 10.0
MODES = ("alone", "page", "status")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds; each measures every mode once")
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--size-mib", type=int, default=1024, help="size of the file")
    add_output_options(parser)
    arguments = parser.parse_args()
    nginx = find_nginx()
    if nginx is None:
        print("benchmarks.web: nginx missing; install it", file=sys.stderr)
        return 2
    description = machine()
    with stop_on_signals(), workspace() as base:
        repo = make_repo(base / "origin", "web", count=1, size=arguments.size_mib * MIB, lfs=True)
        rounds: list[dict[str, dict[str, Any]]] = []
        for turn in range(arguments.runs):
            rounds.append({mode: _measure(nginx, base, repo, arguments.agents, mode) for mode in rotated(MODES, turn)})
            walls = ", ".join(f"{mode} {rounds[-1][mode]['wall_s']:.2f} s" for mode in MODES)
            say(f"{turn + 1}/{arguments.runs}: {walls}")
    document = {
        "date": arguments.date,
        "machine": description,
        "runs": arguments.runs,
        "agents": arguments.agents,
        "size_bytes": repo.size,
        "page": summarize_web(rounds),
        "rounds": rounds,
    }
    save(document, markdown(document), arguments.out, "web")
    return 0


def summarize_web(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians of wall times and of ratios formed round by round; percentiles of all answers together, in seconds."""
    answers = sorted(latency for figures in rounds for latency in figures["status"]["answers_s"])
    return {
        **{f"{mode}_wall_s": statistics.median(figures[mode]["wall_s"] for figures in rounds) for mode in MODES},
        **{
            f"{mode}_ratio": statistics.median(
                figures[mode]["wall_s"] / figures["alone"]["wall_s"] for figures in rounds
            )
            for mode in MODES[1:]
        },
        "answers": len(answers),
        "status_p50_s": percentile(answers, 0.5),
        "status_p99_s": percentile(answers, 0.99),
        "status_max_s": answers[-1] if answers else None,
    }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The least value that so large a share of all are not above; None of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def markdown(document: Mapping[str, Any]) -> str:
    """The medians as a table."""
    page = document["page"]
    rows = [
        [mode, seconds(page[f"{mode}_wall_s"]), f"{page[f'{mode}_ratio']:.3f}" if mode != "alone" else "1"]
        for mode in MODES
    ]
    size, agents, runs = document["size_bytes"] // MIB, document["agents"], document["runs"]
    status = "no answers"
    if page["answers"]:
        p50, p99, most = (1000 * page[f"status_{name}_s"] for name in ("p50", "p99", "max"))
        status = (
            f"GET /api/status, {page['answers']} answers: median {p50:.1f} ms, p99 {p99:.1f} ms, longest {most:.1f} ms."
        )
    head = f"# The page beside a fleet at full speed\n\n{machine_line(document['machine'])}\n\n"
    return f"{head}{size} MiB, {agents} agents, {runs} rounds, {document['date']}.\n\n" + (
        markdown_table(["mode", "wall", "over alone"], rows) + f"\n\n{status}\n"
    )


def _measure(nginx: str, base: Path, repo: Repo, agents: int, mode: str) -> dict[str, Any]:
    """One file through a fresh fleet. Raises RunFailed."""
    with tempfile.TemporaryDirectory(dir=base, prefix="web-") as name, ExitStack() as stack:
        folder = Path(name)
        origin = stack.enter_context(serve(nginx, base / "origin", folder / "nginx", [repo], rate_bytes_s=0, log=False))
        env = environment(folder, origin)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        web = f"127.0.0.1:{port}"  # in every mode: what is compared is whether anybody looks
        address = stack.enter_context(running_fleet(agents, folder, env, web=web, connections=16))
        target = folder / "target"
        answers: list[float] = []
        if mode != "alone":
            stack.enter_context(_in_thread(lambda stop: _watch(port, stop)))
        if mode == "status":
            stack.enter_context(_in_thread(lambda stop: _ask(port, stop, answers)))
        usage = measure(
            [SHOAL, "get", f"hf://{repo.repo_id}", "--to", str(target), "--coordinator", address],
            env=env,
            cwd=folder,
            timeout_s=TIMEOUT_BASE_S,
            output=folder / "get.log",
        )
        verify(Task(origin=origin, repo=repo, target=target, scratch=folder))
        return {"wall_s": usage.wall_s, "answers_s": answers}


@contextmanager
def _in_thread(work: Callable[[threading.Event], None]) -> Generator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _get(port: int, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    connection.request("GET", path)
    return connection.getresponse()


def _watch(port: int, stop: threading.Event) -> None:
    """A page: the events of the fleet, and of a job as soon as there is one."""
    job = ""
    while not stop.is_set():
        with _get(port, f"/api/events{f'?job={job}' if job else ''}") as stream:
            while not stop.is_set() and (line := stream.readline()):
                if not job and line.startswith(b"data: ") and (jobs := json.loads(line[6:]).get("jobs")):
                    job = jobs[0]["job_id"]
                    break


def _ask(port: int, stop: threading.Event, answers: list[float]) -> None:
    """A program that asks for the status, and what it waited while a job was there, in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    while not stop.wait(ASK_EVERY_S):
        began = time.perf_counter()
        connection.request("GET", "/api/status")
        body = connection.getresponse().read()
        waited = time.perf_counter() - began
        if json.loads(body)["jobs"]:
            answers.append(waited)
    connection.close()


if __name__ == "__main__":
    sys.exit(main())
