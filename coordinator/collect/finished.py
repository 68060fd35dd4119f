"""What earlier runs have collected into a folder: when its tables are partitioned anew, those rows are not collected again.

New batches get partition numbers above all that were ever given, so that no batch of an earlier partition, finished or begun, is taken
for one of the new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...common.collect_records import batch_of_path, batch_path
from ...common.dataset_rows import arrow_part
from ...common.dataset_schema import ERRORS, SUCCESSES, arrow
from ...common.errors import StateDamaged

if TYPE_CHECKING:
    import pyarrow as pa

FINISHED: Final = "finished.json"
_UUIDS: Final = 1 << 16  # at a time


@dataclass(slots=True)
class Finished:
    """Batches that are complete, as (server, partition, rows), and the first partition number that is free, by server.

    moved: files with rows that tools moved out of batches; they were collected, too.
    """

    folder: Path
    batches: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    free: dict[str, int] = field(default_factory=dict[str, int])
    moved: list[Path] = field(default_factory=list[Path])

    def reserve(self, host: str, partition: int) -> None:
        """The number is taken."""
        self.free[host] = max(self.free.get(host, 0), partition + 1)

    def uuids(self) -> Iterator[pa.StringArray]:
        """The uuids of all rows of the finished batches, block by block. Raises StateDamaged."""
        for host, partition, _ in self.batches:
            for name in (SUCCESSES, ERRORS):
                yield from _uuids_of(self.folder / batch_path(host, partition) / name)
        for path in self.moved:
            yield from _uuids_of(path)


def look_for_finished(folder: Path) -> Finished:
    """What lies below a dataset's folder. A batch is complete when its successes have their name. Raises StateDamaged, OSError."""
    found = Finished(folder)
    for path in sorted(folder.glob("images/server_name=*/partition_id=*")):
        try:
            host, partition = batch_of_path(path.relative_to(folder).as_posix())
        except ValueError:
            continue  # not ours
        found.reserve(host, partition)
        if (path / SUCCESSES).is_file():
            found.batches.append((host, partition, _rows_of(path)))
    found.moved = sorted(folder.glob(f"filtered/*/images/server_name=*/partition_id=*/{SUCCESSES}"))
    return found


def write_finished(work: Path, finished: Finished) -> None:
    """Remember the finished batches beside the plan, which is written after them. Raises OSError."""
    with (work / FINISHED).open("w", encoding="utf-8") as file:
        json.dump(finished.batches, file)
        file.flush()
        os.fsync(file.fileno())


def read_finished(work: Path) -> list[tuple[str, int, int]]:
    """What `write_finished` wrote; nothing where it wrote nothing. Raises StateDamaged."""
    try:
        listed: Any = json.loads((work / FINISHED).read_text(encoding="utf-8"))
        return [(str(host), int(partition), int(rows)) for host, partition, rows in listed]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        remedy = "make the partition anew with --restart partitioning"
        raise StateDamaged(f"plan file {work / FINISHED}", cause=str(error), remedy=remedy) from None


def _rows_of(batch: Path) -> int:
    """Rows that a batch had when it was collected, whatever tools moved since: its footer tells (`agent/collect/footer.py`)."""
    metadata = _metadata_of(batch / SUCCESSES)
    try:
        return sum(int(rows) for _, rows in json.loads(metadata.metadata[b"shoal"])["tally"])
    except (KeyError, TypeError, ValueError):  # not of our making
        errors = _metadata_of(batch / ERRORS).num_rows if (batch / ERRORS).exists() else 0
        return int(metadata.num_rows + errors)


def _metadata_of(path: Path) -> Any:
    try:
        return arrow_part("parquet").read_metadata(path)
    except (OSError, arrow().ArrowException) as error:
        raise _damaged(path, error) from None


def _uuids_of(path: Path) -> Iterator[pa.StringArray]:
    if not path.exists():
        return
    try:
        with arrow_part("parquet").ParquetFile(path) as file:
            for block in file.iter_batches(batch_size=_UUIDS, columns=["uuid"]):
                yield block.column(0)
    except (OSError, arrow().ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> StateDamaged:
    remedy = "remove its folder: the batch is collected again"
    return StateDamaged(f"collected file {path}", cause=str(error), remedy=remedy)
