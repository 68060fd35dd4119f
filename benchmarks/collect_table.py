"""Datasets of URL tables: the results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .table import machine_line, markdown_table, seconds

Document = Mapping[str, Any]


def report(document: Document) -> str:
    """The report of `benchmarks.collect`: a table per cell, and one of the pictures' quality where they were made anew."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    parts = [
        f"# Datasets of URL tables, {document['date']}",
        machine_line(document["machine"]),
        f"Versions: {versions}.",
        f"{document['rows']:,} URLs on {document['hosts']} hosts, {document['pictures']} different JPEGs of"
        f" {document['picture_bytes'] / 1000:.1f} kB, {document['processes']} processes that decode. Medians of the"
        " rounds, wall time with its range. A ratio compares two runs of one round: above 1, the tool took more than Shoal. Every row"
        " is checked afterwards; nginx's CPU is not in the tools'. How it is measured: `benchmarks/README.md`.",
    ]
    for cell in document["cells"]:
        parts += [f"## {cell['title']}", f"Rounds: {cell['runs']}.", _cost_table(cell["summary"])]
        if cell["quality"]:
            parts += [
                "Against the exact mean over each new pixel's area, encoding included (the larger the PSNR, the nearer):",
                _quality_table(cell["quality"]),
            ]
        parts += [f"{tool} failed: {reason}" for tool, reason in cell["failures"].items()]
    return "\n\n".join(parts) + "\n"


def _cost_table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            tool,
            f"{seconds(each['wall_s'])} ({seconds(each['wall_min_s'])} – {seconds(each['wall_max_s'])})",
            f"{each['images_s']:.0f}",
            seconds(each["cpu_s"]),
            f"{each['cpu_ms_image']:.2f}",
            f"{each['peak_bytes'] / 2**20:.0f}",
            f"{each['rows_right']:,}",
            _ratio(each["ratio"]),
            _ratio(each["cpu_ratio"]),
            seconds(each["origin_cpu_s"]),
        ]
        for tool, each in summary.items()
    ]
    header = ["tool", "wall, s", "images/s", "CPU, s", "CPU, ms/image", "peak memory, MiB", "rows right"]
    return markdown_table([*header, "wall to Shoal's", "CPU to Shoal's", "nginx CPU, s"], rows)


def _quality_table(quality: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        [
            tool,
            f"{each['pictures']}",
            f"{each['mean_difference']:.3f}",
            f"{each['psnr_db']:.2f}",
            f"{each['psnr_worst_db']:.2f}",
            f"{each['mean_bytes'] / 1000:.1f}",
        ]
        for tool, each in quality.items()
    ]
    header = ["tool", "pictures", "mean difference, of 255", "PSNR, dB", "worst PSNR, dB", "kB a picture"]
    return markdown_table(header, rows)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
