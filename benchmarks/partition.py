"""How fast URL tables are partitioned, and in how much memory: ``python -m benchmarks.partition``.

Each cell makes a table of so many rows over so many servers (six columns, URLs of about 100 bytes, servers of very different
sizes), then partitions it in a process of its own: its peak is that of partitioning, of the interpreter and of Arrow.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from benchmarks.measure import measure
from benchmarks.run import machine, save
from benchmarks.table import markdown_table
from shoal.common.collect_records import CollectSpec
from shoal.common.policy import Policy
from shoal.coordinator.collect import make_plan

RESULTS = Path(__file__).parent / "results"
MILLION = 1_000_000
EXTRAPOLATED_ROWS = 200 * MILLION
_MADE_ROWS = 200_000
_TIMEOUT_S = 7200.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    rows: int
    hosts: int
    format: str  # "csv", "parquet"

    @property
    def title(self) -> str:
        return f"{self.rows / MILLION:g} million rows, {self.hosts:,} servers, {self.format}"


CELLS = (
    Cell(rows=20 * MILLION, hosts=545, format="parquet"),
    Cell(rows=20 * MILLION, hosts=545, format="csv"),
    Cell(rows=MILLION, hosts=MILLION, format="parquet"),
)


def make_table(cell: Cell, path: Path) -> None:
    """A table of a fixed seed. With fewer servers than rows, server n has about 1/n of the rows of the first (Zipf)."""
    chance = random.Random(1)
    names = [f"images{n:07d}.herbarium.example.org" for n in range(cell.hosts)]
    weights = list(itertools.accumulate(1 / (n + 1) for n in range(cell.hosts)))
    schema = pa.schema(
        [(name, pa.string()) for name in ("uuid", "identifier", "source_id", "license", "source", "title")]
    )
    writer: Any = pcsv.CSVWriter(path, schema) if cell.format == "csv" else pq.ParquetWriter(path, schema)
    all_names = pa.array(names)
    with writer:
        for start in range(0, cell.rows, _MADE_ROWS):
            count = min(_MADE_ROWS, cell.rows - start)
            spread = cell.hosts < cell.rows
            chosen = (
                chance.choices(range(cell.hosts), cum_weights=weights, k=count)
                if spread
                else range(start, start + count)
            )
            hosts = all_names.take(pa.array(chosen, pa.int32()))
            hexes = pa.py_buffer(chance.randbytes(16 * count).hex().encode())
            key = pa.Array.from_buffers(pa.binary(32), count, [None, hexes]).cast(pa.binary()).cast(pa.string())
            cuts = [pc.utf8_slice_codeunits(key, a, b) for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))]
            number = pa.array(range(start, start + count)).cast(pa.string())
            columns = [
                pc.binary_join_element_wise(*cuts, "-"),
                pc.binary_join_element_wise("https:/", hosts, "media/2024/original", key, "specimen-full.jpg", "/"),
                number,
                pa.array(["https://creativecommons.org/licenses/by/4.0/"] * count),
                pa.array(["gbif"] * count),
                pc.binary_join_element_wise("Quercus robur L., sheet", number, " "),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def child(table: Path, work: Path) -> None:
    """Partition, and say what came out."""
    began, cpu = time.perf_counter(), time.process_time()
    plan = make_plan(
        CollectSpec(tables=(str(table),)),
        work=work,
        policy=Policy(),
        should_stop=lambda: False,
        progress=lambda rows: None,
    )
    seconds = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    counts = {
        "rows": plan.rows_total,
        "rejected": plan.rows_rejected,
        "hosts": plan.hosts,
        "batches": plan.batches_total,
    }
    size = sum(path.stat().st_size for path in work.iterdir())
    print(json.dumps(seconds | counts | {"plan_bytes": size}))


def run_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """One measurement."""
    table, work, output = folder / f"table.{cell.format}", folder / "work", folder / "output"
    make_table(cell, table)
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "benchmarks.partition", "--child", str(table), str(work)]
    usage = measure(command, env=dict(os.environ), cwd=Path(__file__).parents[1], timeout_s=_TIMEOUT_S, output=output)
    told = json.loads(output.read_text(encoding="utf-8").splitlines()[-1])
    assert told["rows"] == cell.rows
    result = {
        **asdict(cell),
        **told,
        "title": cell.title,
        "table_bytes": table.stat().st_size,
        "peak_bytes": usage.peak_bytes,
        "rows_per_s": cell.rows / told["wall_s"],
        "rows_per_cpu_s": cell.rows / told["cpu_s"],
        "load_before": round(load, 1),
    }
    table.unlink()
    shutil.rmtree(work)
    return result


def report(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    info = document["machine"]
    rows = [
        [
            cell["title"],
            f"{cell['wall_s']:.0f}",
            f"{cell['cpu_s']:.0f}",
            f"{cell['rows_per_s'] / 1000:.0f} k",
            f"{cell['rows_per_cpu_s'] / 1000:.0f} k",
            f"{cell['peak_bytes'] / 2**20:.0f}",
            f"{cell['batches']:,}",
            f"{cell['plan_bytes'] / cell['rows']:.0f}",
            f"{cell['load_before']}",
        ]
        for cell in document["cells"]
    ]
    header = [
        "table",
        "wall, s",
        "CPU, s",
        "rows/s",
        "rows per CPU second",
        "peak memory, MiB",
        "batches",
        "plan, bytes/row",
        "load before",
    ]
    parts = [
        f"# Partitioning URL tables, {document['date']}",
        f"{info['cpu']}, {info['cores']} cores, {info['memory_gib']} GiB, Linux {info['kernel']}; pyarrow {pa.__version__}; on a disk."
        " *Load before* is that of others on the same cores: where it is high, only CPU figures mean something.",
        markdown_table(header, rows),
    ]
    largest = [cell for cell in document["cells"] if cell["rows"] >= 10 * MILLION]
    for cell in largest:
        factor = EXTRAPOLATED_ROWS / cell["rows"]
        parts.append(
            f"Extrapolated, not measured, from {cell['title']}: {EXTRAPOLATED_ROWS // MILLION} million rows would take"
            f" {cell['cpu_s'] * factor / 60:.0f} CPU minutes if the time is proportional to the rows."
        )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="one cell of so many rows instead of the usual ones")
    parser.add_argument("--hosts", type=int, default=545)
    parser.add_argument("--format", choices=("csv", "parquet"), default="parquet")
    parser.add_argument("--folder", type=Path, help="where tables and work folders lie while it runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    cells = [Cell(rows=args.rows, hosts=args.hosts, format=args.format)] if args.rows else list(CELLS)
    document: dict[str, Any] = {"date": f"{datetime.date.today():%Y-%m-%d}", "machine": machine(), "cells": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for cell in cells:
            document["cells"].append(run_cell(cell, Path(folder)))
            save(document, report(document), args.results, "partition")


if __name__ == "__main__":
    main()
