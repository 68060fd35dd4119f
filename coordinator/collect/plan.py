"""A finished partition: which batches there are, and their rows.

Its folder holds ``plan.json`` (written last, so what has one is whole), ``index.arrow``, ``batches-NNNNN.arrows`` and
``rejects.parquet``. plan.json carries its own digest, the sizes of the other files and the stat of each table; each batch's bytes
have a checksum in the index, which is held against them whenever they are read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from ...common.collect_records import CollectSpec
from ...common.dataset_rows import BLOCK_BYTES_MAX, END_OF_STREAM, read_rows, write_rows
from ...common.dataset_schema import REJECTS, arrow
from ...common.errors import NotFound, StateDamaged
from ...common.policy import Policy
from .columns import columns_of
from .cutting import container_name
from .finished import read_finished
from .index import Entry, Index
from .inputs import TableFile

if TYPE_CHECKING:
    import pyarrow as pa

PLAN: Final = "plan.json"
INDEX: Final = "index.arrow"
_OLDER: Final = "older"
_VERSION: Final = 1
_REMEDY: Final = "make the partition anew with --restart partitioning"


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchInfo:
    """One batch. bytes is about what its rows take in memory."""

    host: str
    partition: int
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """What plan.json says. fingerprint tells settings, tables holds (path, size in bytes, mtime in ns)."""

    fingerprint: str
    tables: tuple[tuple[str, int, int], ...]
    head: bytes  # the schema of every batch as the message that begins its stream
    rows_total: int
    rejects: Mapping[str, int]
    hosts: int
    batches: int
    container_sizes: Sequence[int]
    index_size: int
    rejects_size: int


def tables_of(files: Sequence[TableFile]) -> tuple[tuple[str, int, int], ...]:
    """What a plan remembers of its input."""
    return tuple((file.path, file.size, file.mtime_ns) for file in files)


def fingerprint_of(spec: CollectSpec, policy: Policy) -> str:
    """A digest of the settings that decide which row goes where. Raises UsageError for columns that make no sense."""
    columns = columns_of(spec)
    settings = [_VERSION, columns.names, columns.carry, spec.batch_size, asdict(policy)]
    return hashlib.sha256(_canonical(settings)).hexdigest()


def write_plan(work: Path, record: PlanRecord) -> None:
    """Write plan.json as a whole. Raises OSError."""
    body = {**asdict(record), "version": _VERSION, "head": base64.b64encode(record.head).decode()}
    text = json.dumps({"sha256": hashlib.sha256(_canonical(body)).hexdigest(), "plan": body}, indent=1)
    temporary = work / f"{PLAN}.new"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    # What plan.json promises must have its name before plan.json has its own.
    _sync_folder(work)
    temporary.replace(work / PLAN)
    _sync_folder(work)


def older_plans(work: Path) -> list[Path]:
    """The folders of plans that `set_aside` kept, the newest first: rows of their finished batches are in none of the later ones."""
    found = [path for path in (work / _OLDER).glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: -int(path.name))


def set_aside(work: Path) -> None:
    """Keep a finished plan while another one takes its place. Raises OSError."""
    if not (work / PLAN).exists():
        return
    older = older_plans(work)
    folder = work / _OLDER / str(int(older[0].name) + 1 if older else 1)
    folder.mkdir(parents=True)
    files = [path for path in work.iterdir() if path.is_file() and path.name != PLAN]
    for path in [*files, work / PLAN]:  # plan.json last: where it is, all of it is
        path.rename(folder / path.name)


def open_plan(work: Path) -> Plan:
    """The plan of a work folder. Raises NotFound (it was never finished), StateDamaged (truncated or damaged)."""
    path = work / PLAN
    try:
        record = _parse(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(
            f"plan {path}", cause="the partition was never finished", remedy="partition the tables first"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StateDamaged(f"plan {path}", cause=f"it cannot be read: {error}", remedy=_REMEDY) from None
    return Plan(work, record)


class Plan:
    """Batches and rejects of a partition. Threads may share it."""

    def __init__(self, work: Path, record: PlanRecord) -> None:
        """Raises StateDamaged when a file is missing or not of its size."""
        self._work = work
        self.record = record
        self.rejects_path = work / REJECTS
        sizes = {INDEX: record.index_size, REJECTS: record.rejects_size}
        sizes |= {container_name(i): size for i, size in enumerate(record.container_sizes)}
        for name, size in sizes.items():
            path = work / name
            try:
                found = path.stat().st_size
            except OSError as error:
                raise StateDamaged(f"plan file {path}", cause=error.strerror or str(error), remedy=_REMEDY) from None
            if found != size:
                raise StateDamaged(f"plan file {path}", cause=f"it has {found} bytes instead of {size}", remedy=_REMEDY)
        try:
            self._index = Index(work / INDEX, record.batches)
        except (OSError, ValueError, arrow().ArrowException) as error:
            raise StateDamaged(f"plan file {work / INDEX}", cause=str(error), remedy=_REMEDY) from None

    @property
    def rows_total(self) -> int:
        """Rows of the tables, with those that were rejected."""
        return self.record.rows_total

    @property
    def rows_rejected(self) -> int:
        """Rows in ``rejects.parquet``."""
        return sum(self.record.rejects.values())

    @property
    def rejects(self) -> Mapping[str, int]:
        """Rejected rows by reason (the words of `reasons.Reason`)."""
        return self.record.rejects

    @property
    def hosts(self) -> int:
        """Servers that have a row."""
        return self.record.hosts

    @property
    def batches_total(self) -> int:
        """Batches of all servers."""
        return self.record.batches

    @property
    def schema(self) -> pa.Schema:
        """Columns of every batch."""
        return read_rows(self.record.head + END_OF_STREAM).schema

    def batches(self) -> Iterator[BatchInfo]:
        """All batches by server, then partition; few of them in memory at a time."""
        for entry in self._index:
            yield BatchInfo(host=entry.host, partition=entry.partition, rows=entry.rows, bytes=entry.row_bytes)

    def finished(self) -> list[tuple[str, int, int]]:
        """Batches of earlier partitions that are complete and whose rows are therefore in none of this one: server, partition, rows."""
        return read_finished(self._work)

    def read_batch(self, host: str, partition: int) -> pa.Table:
        """The rows of a batch in the order of the tables. Raises NotFound, StateDamaged."""
        return read_rows(b"".join(self.batch_bytes(host, partition)))

    def batch_bytes(self, host: str, partition: int) -> Iterator[bytes]:
        """The same rows as one Arrow IPC stream, in blocks of at most 1 MiB; joined, `dataset_rows.read_rows` reads them.

        Raises NotFound, and StateDamaged, then without the end of the stream.
        """
        entry = self._index.find(host, partition)
        older = self._older_with(host, partition) if entry is None else None
        if older is not None:
            yield from older.batch_bytes(host, partition)
            return
        if entry is None:
            raise NotFound(
                f"batch {partition} of {host}", cause="the plan has no such batch", remedy="list the batches"
            )
        if entry.rows == entry.held:
            yield self.record.head
            yield from self._stored(entry)
            yield END_OF_STREAM
            return
        # Small batches share a message: it holds cutting.SHARED_ROWS_MAX rows at most.
        shared = read_rows(b"".join((self.record.head, *self._stored(entry), END_OF_STREAM)))
        data = memoryview(write_rows(shared.slice(entry.skip, entry.rows)))
        for at in range(0, len(data), BLOCK_BYTES_MAX):
            yield bytes(data[at : at + BLOCK_BYTES_MAX])

    def _older_with(self, host: str, partition: int) -> Plan | None:
        for folder in older_plans(self._work):
            plan = open_plan(folder)
            if plan._index.find(host, partition) is not None:
                return plan
        return None

    def _stored(self, entry: Entry) -> Iterator[bytes]:
        path = self._work / container_name(entry.container)
        crc, left = 0, entry.length
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(entry.offset)
                while left:
                    block = file.read(min(left, BLOCK_BYTES_MAX))
                    if not block:
                        raise StateDamaged(f"plan file {path}", cause="it is cut", remedy=_REMEDY)
                    crc = zlib.crc32(block, crc)
                    left -= len(block)
                    yield block
        except OSError as error:
            raise StateDamaged(f"plan file {path}", cause=error.strerror or str(error), remedy=_REMEDY) from None
        if crc != entry.crc:
            thing = f"batch {entry.partition} of {entry.host} in {path}"
            raise StateDamaged(thing, cause="its checksum is wrong", remedy=_REMEDY)


def _parse(data: bytes) -> PlanRecord:
    document: Any = json.loads(data)
    body = cast("dict[str, Any]", document["plan"])
    if hashlib.sha256(_canonical(body)).hexdigest() != document["sha256"]:
        raise ValueError("its checksum is wrong")
    if (version := body.pop("version")) != _VERSION:
        raise ValueError(f"it is of version {version}, and this program reads version {_VERSION}")
    tables = tuple((path, size, mtime_ns) for path, size, mtime_ns in body.pop("tables"))
    head = base64.b64decode(body.pop("head"))
    return PlanRecord(tables=tables, head=head, **body)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
