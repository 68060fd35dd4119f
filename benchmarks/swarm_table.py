"""The report of the swarm benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .table import machine_line, markdown_table, seconds

Run = Mapping[str, Any]


def swarm(document: Mapping[str, Any]) -> str:
    """All cells, medians of their rounds."""
    where = "in memory" if document["where"] == "memory" else "on a disk"
    parts = [
        f"# The swarm, {document['date']}",
        machine_line(document["machine"]).replace("all files in memory", f"targets {where}"),
        f"TCP's congestion control: {document['congestion']}. Medians. The time is from the start of `shoal submit` to the last file of"
        " the last agent; every digest is verified afterwards. How it is measured: `benchmarks/README.md`.",
    ]
    for cell in document["cells"]:
        parts += _shaped(cell) if cell["name"] == "shaped" else _unshaped(cell)
        parts += [f"Failed: {reason}" for reason in cell["failures"]]
    return "\n\n".join(parts) + "\n"


def simulated(document: Mapping[str, Any]) -> str:
    """The simulator's figures, a row for each run."""
    header = list(document["rounds"][0])
    rows = [[_any(run[name]) for name in header] for run in document["rounds"]]
    title = f"# The swarm in the simulator, {document['date']}"
    return "\n\n".join([title, markdown_table(header, rows)]) + "\n"


def groups(rounds: Sequence[Run]) -> dict[tuple[int, str], list[Run]]:
    """Runs by number of agents and tool, in the order in which they first came."""
    found: dict[tuple[int, str], list[Run]] = {}
    for run in rounds:
        found.setdefault((run["agents"], run["tool"]), []).append(run)
    return found


def median(runs: Sequence[Run], *path: str) -> float | None:
    """Of one figure, named by the keys that lead to it; None where no run has it."""
    values: list[float] = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            values.append(value)
    return statistics.median(values) if values else None


def _shaped(cell: Mapping[str, Any]) -> list[str]:
    rate = cell["rate_bits_s"] / 1e6
    events = [text for key, text in (("killed", "one agent killed"), ("joined", "one joining")) if cell[key]]
    rows = [
        [
            f"{agents} × {tool}",
            _text(median(runs, "wall_s")),
            _text(median(runs, "bounds_s", "framed")),
            *(_ratio(median(runs, "ratios", name)) for name in ("nominal", "framed", "measured")),
            *(
                _ratio(median(runs, name) if cell["joined"] else None)
                for name in ("late_ratio", "early_ratio", "joiner_ratio")
            ),
            _ratio(_worst(runs, "sent_ratio"), digits=4),
            _text(median(runs, "origin_cpu_s")),
            _text(median(runs, "processes", "coordinator", "cpu_s")),
            _text(_agents_cpu(runs)),
        ]
        for (agents, tool), runs in groups(cell["rounds"]).items()
    ]
    header = ["nodes", "wall, s", "bound, s", "over nominal", "over framed", "over measured", "over late bound"]
    header += ["those from the start, over framed", "who joined, over its own bound"]
    header += ["origin bytes over F (worst)", "origin CPU, s", "coordinator CPU, s", "CPU of an agent (most), s"]
    return [
        f"## Links of {rate:.0f} Mbit/s both ways, {cell['size_bytes'] / 2**20:.0f} MiB{', ' if events else ''}{', '.join(events)}",
        f"Origin: {cell['origin']}. A link's rate is {cell['rate_bits_s'] / 8e6:.2f} MB/s nominal,"
        f" {cell['rate_bits_s'] * cell['framing'] / 8e6:.2f} of TCP payload in full frames; one plain stream was measured at"
        f" {cell['goodput_bytes_s'] / 1e6:.2f}. The bound is `max(F/u_origin, F/d_min, N·F/(u_origin + Σ u_i))` in framed rates.",
        markdown_table(header, rows),
    ]


def _unshaped(cell: Mapping[str, Any]) -> list[str]:
    titles = {"loopback": "Loopback, unlimited", "files": "Many small files", "capped": "Origin limited"}
    rows = [
        [
            f"{agents} × {tool}",
            _text(median(runs, "wall_s")),
            _text(median(runs, "cpu_s")),
            _text(median(runs, "origin_cpu_s")),
            f"{(median(runs, 'bytes_s') or 0) / 1e9:.2f}",
            _text(median(runs, "cpu_s_per_gib")),
            f"{median(runs, 'files_s_per_node') or 0:.0f}",
            f"{(median(runs, 'peak_bytes') or 0) / 2**20:.0f}",
            _ratio(_worst(runs, "sent_ratio") or _worst(runs, "link_ratio"), digits=3),
            *([_ratio(median(runs, "ratios", "framed"))] if "bound_s" in cell else []),
        ]
        for (agents, tool), runs in groups(cell["rounds"]).items()
    ]
    header = ["nodes", "wall, s", "CPU, s", "origin CPU, s", "GB/s delivered", "CPU s per GiB", "files/s per node"]
    header += ["peak MiB", "origin bytes over F (worst)", *(["over the bound"] if "bound_s" in cell else [])]
    what = f"{cell['files']} files, {cell['size_bytes'] / 1e6:.0f} MB. Origin: {cell['origin']}."
    if "bound_s" in cell:
        what += f" Bound: {cell['bound_s']:.2f} s; one stream from the origin was measured at {cell['goodput_bytes_s'] / 1e6:.1f} MB/s."
    if cell["xenna"]:
        what += (
            f" xenna: cosmos-xenna {cell['xenna']}, time of the call alone, Ray running; it verifies no digest."
            " Peak: Shoal's largest agent; xenna's whole tree, Ray included."
        )
    return [f"## {titles[cell['name']]}", what, markdown_table(header, rows), *_comparison(cell)]


def _comparison(cell: Mapping[str, Any]) -> list[str]:
    """Shoal's time and CPU over each rival's."""
    found = groups(cell["rounds"])
    lines: list[str] = []
    for (agents, tool), runs in found.items():
        ours = found.get((agents, "shoal"))
        if tool == "shoal" or not ours:
            continue
        wall = (median(ours, "wall_s") or 0) / (median(runs, "wall_s") or 1)
        cpu = (median(ours, "cpu_s") or 0) / (median(runs, "cpu_s") or 1)
        lines.append(f"{agents} nodes: Shoal takes {wall:.2f} of {tool}'s time and {cpu:.2f} of its CPU.")
        whole = [
            f"{_text(median(each, 'whole_s'))} s and {_text(median(each, 'whole_cpu_s'))} CPU s"
            for each in (ours, runs)
        ]
        lines[-1] += f" From the first process on (Ray's end included): {whole[0]} against {whole[1]}."
    return lines


def _agents_cpu(runs: Sequence[Run]) -> float | None:
    most = [
        max(cost["cpu_s"] for name, cost in run["processes"].items() if name != "coordinator")
        for run in runs
        if "processes" in run
    ]
    return statistics.median(most) if most else None


def _worst(runs: Sequence[Run], name: str) -> float | None:
    return max((run[name] for run in runs if run.get(name) is not None), default=None)


def _text(value: float | None) -> str:
    return "–" if value is None else seconds(value)


def _ratio(value: float | None, *, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _any(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
