"""What a collected dataset holds, for tests: every row of all its Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_csv(path: Path, urls: Iterable[str], **columns: str) -> list[str]:
    """A URL table with a row a URL; ``columns`` are further ones, the same in every row. Returns: the uuids."""
    uuids: list[str] = []
    lines = [",".join(["uuid", "identifier", "source_id", *columns])]
    for number, url in enumerate(urls):
        uuids.append(f"{path.stem}-{number:05}")
        lines.append(",".join([uuids[-1], url, f"s{number}", *columns.values()]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return uuids


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """All rows of one kind (``successes``, ``errors``), with server_name and partition_id."""
    found: list[dict[str, Any]] = []
    for path in sorted((folder / "images").glob(f"server_name=*/partition_id=*/{name}.parquet")):
        server, partition = (part.partition("=")[2] for part in path.parts[-3:-1])
        table: pa.Table = pq.ParquetFile(path).read()
        found += [{**row, "server_name": server, "partition_id": int(partition)} for row in table.to_pylist()]
    return found


def successes(folder: Path) -> list[dict[str, Any]]:
    """All rows that were collected."""
    return rows(folder, "successes")


def errors(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows that were not, by URL."""
    return {row["identifier"]: row for row in rows(folder, "errors")}


def rejects(folder: Path) -> list[dict[str, Any]]:
    """All rows of the table that could not be used."""
    return pq.ParquetFile(folder / "rejects.parquet").read().to_pylist()


def outcomes(folder: Path) -> Mapping[str, str]:
    """uuid -> where it ended. A uuid that ended twice fails."""
    found: dict[str, str] = {}
    for kind, listed in (
        ("success", successes(folder)),
        ("error", rows(folder, "errors")),
        ("reject", rejects(folder)),
    ):
        for row in listed:
            assert row["uuid"] not in found or kind == "reject", f"{row['uuid']} is {found[row['uuid']]} and {kind}"
            found.setdefault(row["uuid"], kind)
    return found
