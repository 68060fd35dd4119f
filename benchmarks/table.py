"""Results as Markdown, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RIVALS = ("aria2c", "hf_transfer", "hf download")
STOCK = "hf download"
SPEEDUP_OVER_STOCK = 2.0

Document = Mapping[str, Any]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is aligned right."""
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def single_machine(document: Document) -> str:
    """The report of `benchmarks.run`: a table per cell."""
    machine, versions = document["machine"], document["versions"]
    parts = [
        f"# One machine, {document['date']}",
        machine_line(machine),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        f"Medians of {document['runs']} rounds, wall time with its range. A ratio compares two runs of one round: above 1,"
        " the tool took longer than Shoal. Shoal verifies digests while it fetches; the others verify none."
        " How it is measured: `benchmarks/README.md`.",
    ]
    for cell in document["cells"]:
        parts += [f"## {cell['title']}", _cell_table(cell)]
        parts += [f"{tool} failed: {reason}" for tool, reason in cell["failures"].items()]
        parts += [verdict(cell["summary"])]
    return "\n\n".join(parts) + "\n"


def machine_line(machine: Mapping[str, Any]) -> str:
    """One sentence about the machine."""
    hardware = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}"
    load = f"Load average before the run: {machine['load_before']} (of others: the larger, the less the figures mean)."
    return f"{hardware}; client and origin on it together, on loopback, all files in memory. {load}"


def _cell_table(cell: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for tool, summary in cell["summary"].items():
        ratio = summary["ratio"]
        rows.append(
            [
                tool,
                f"{seconds(summary['wall_s'])} ({seconds(summary['wall_min_s'])} – {seconds(summary['wall_max_s'])})",
                seconds(summary["cpu_s"]),
                f"{summary['peak_bytes'] / 2**20:.0f}",
                "–" if ratio is None else f"{ratio:.2f}",
            ]
        )
    return markdown_table(["tool", "wall, s", "CPU, s", "peak memory, MiB", "ratio to Shoal"], rows)


def verdict(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether Shoal is no slower than the fastest of its rivals, and twice as fast as the stock client."""
    rated = {tool: summary[tool] for tool in RIVALS if tool in summary and summary[tool]["ratio"] is not None}
    if not rated:
        return "Nothing to compare with."
    fastest = min(rated, key=lambda tool: rated[tool]["wall_s"])
    ratio = rated[fastest]["ratio"]
    sentences = [f"Fastest rival: {fastest}, ratio {ratio:.2f}: Shoal is {'no slower' if ratio >= 1 else 'slower'}."]
    if STOCK in rated:
        speedup = rated[STOCK]["ratio"]
        reached = "reached" if speedup >= SPEEDUP_OVER_STOCK else "missed"
        sentences.append(f"Against {STOCK}: {speedup:.1f} times as fast (wanted: {SPEEDUP_OVER_STOCK:.0f}, {reached}).")
    return " ".join(sentences)


def fleet(document: Document) -> str:
    """The report of `benchmarks.fleet`."""
    rows = [
        [str(each["agents"]), seconds(each["wall_s"]), f"{each['speedup']:.2f}", f"{each['served_ratio']:.3f}"]
        for each in document["fleets"]
    ]
    size, rate = document["size_bytes"] / 2**20, document["rate_bytes_s"] / 2**20
    parts = [
        f"# A fleet, {document['date']}",
        machine_line(document["machine"]),
        f"One file of {size:.0f} MiB from an origin that gives {rate:.0f} MiB/s per connection, one connection per agent, a folder"
        " that all agents share. The time is that of `shoal get --coordinator`, from its start to its exit; medians of"
        f" {document['runs']} rounds, the origin's bytes of the worst one.",
        markdown_table(["agents", "wall, s", "speed-up", "origin bytes over file size"], rows),
    ]
    return "\n\n".join(parts) + "\n"


def seconds(value: float) -> str:
    """Three digits, as far as they mean something: ``0.412``, ``3.47``, ``53.7``."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
