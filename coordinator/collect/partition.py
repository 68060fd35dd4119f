"""Tables become a plan, in three passes over ever smaller things:

1. read: rows are checked (`checking`), and spilled by server; their uuids are spilled by uuid;
2. each bucket of uuids says which rows came twice (`duplicates`);
3. each bucket of rows, without those, is sorted by server and cut into batches (`cutting`). A bucket that is too large is
   split by more bits of the hash; one that holds a single server streams, as its rows are in order already.

No pass holds more than a block or a bucket. Hashes of servers are the same everywhere, so is the order of the result. What a killed
run left is removed by the next one, which begins anew: nothing counts until ``plan.json`` is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...common.collect_records import CollectSpec, Restart
from ...common.dataset_rows import arrow_part, stream_head
from ...common.dataset_schema import REJECTS, arrow
from ...common.errors import Conflict, Interrupted, NoSpace, NotFound, NotWritable, ShoalError, StateDamaged, UsageError
from ...common.policy import Policy
from .checking import RowChecker
from .columns import Columns, carried_schema, columns_of
from .cutting import Cutter
from .duplicates import Duplicates
from .finished import FINISHED, Finished, look_for_finished, write_finished
from .index import write_index, write_run
from .inputs import TableFile, find_tables, look_at
from .plan import (
    INDEX,
    PLAN,
    Plan,
    PlanRecord,
    fingerprint_of,
    older_plans,
    open_plan,
    set_aside,
    tables_of,
    write_plan,
)
from .reading import TableReader
from .reasons import Reason
from .rejects import FileStarts, Reject, Rejects
from .spill import BUCKETS_MAX, LEVELS_MAX, Bucket, Spill, buckets_for

if TYPE_CHECKING:
    import pyarrow as pa

_SPILL: Final = "spill"
_BUCKET_BYTES_MAX: Final = 192 << 20  # sorting it takes twice as much
_CHUNK_ROWS: Final = 1 << 15
_HASHES_KEPT_MAX: Final = 100_000


def make_plan(
    spec: CollectSpec,
    *,
    work: Path,
    policy: Policy,
    should_stop: Callable[[], bool],
    progress: Callable[[int], None],
    dataset: Path | None = None,
) -> Plan:
    """Partition the tables of a job, or open what an earlier call made of the same tables. Takes long: call it in a thread.

    Args: work (a folder of this job alone, on a disk with room for about three times the rows), should_stop (asked between blocks),
    progress (told how many rows were read so far), dataset (the folder of the result: when tables are partitioned anew, rows that lie
    there already are left out).

    Raises NotFound, UsageError (the tables), Refused (``security`` forbids one), Conflict (tables or settings are not those of the
    plan that is there), StateDamaged, Interrupted, NoSpace, NotWritable.
    """
    files = find_tables(spec.tables, policy)
    fingerprint = fingerprint_of(spec, policy)
    if spec.restart is not Restart.PARTITIONING and (work / PLAN).exists():
        return _reuse(open_plan(work), files, fingerprint)
    with _told(work):
        work.mkdir(parents=True, exist_ok=True)
        set_aside(work)
        finished = _finished(work, dataset)
        _clear(work)
        partition = _Partition(spec, work, policy, should_stop, progress, finished)
        try:
            record = partition.run(files, fingerprint)
            if finished is not None:
                write_finished(work, finished)
            write_plan(work, record)
        except BaseException:
            partition.abandon()
            _clear(work)
            raise
        shutil.rmtree(work / _SPILL, ignore_errors=True)
    return open_plan(work)


class _Partition:
    """One run."""

    def __init__(
        self,
        spec: CollectSpec,
        work: Path,
        policy: Policy,
        should_stop: Callable[[], bool],
        progress: Callable[[int], None],
        finished: Finished | None,
    ) -> None:
        self._finished = finished
        self._spec = spec
        self._work = work
        self._policy = policy
        self._should_stop = should_stop
        self._progress = progress
        self._columns = columns_of(spec)
        self._starts = FileStarts()
        self._rows = 0
        self._rejects: Rejects | None = None
        self._cutter: Cutter | None = None
        self._folders = count()
        self._known: pa.BooleanArray | None = None  # rows that are finished

    def run(self, files: list[TableFile], fingerprint: str) -> PlanRecord:
        """All but plan.json itself."""
        readers = [TableReader(file, self._columns) for file in self._watched(files)]
        schema = carried_schema(_carried_types(readers, self._columns), self._columns)
        finished = self._finished
        self._rejects = rejects = Rejects(self._work / REJECTS)
        self._cutter = cutter = Cutter(
            self._work, schema, batch_size=self._spec.batch_size, free=finished.free if finished else None
        )
        checker = RowChecker(schema, self._policy, self._starts)
        buckets = buckets_for(sum(file.row_bytes_expected for file in files))
        spill = Spill(self._new_folder(), checker.schema, buckets=buckets)
        duplicates = Duplicates(self._new_folder(), buckets=buckets)
        for uuids in finished.uuids() if finished is not None else ():
            self._check()
            duplicates.known(uuids)
        self._read(readers, checker, rejects, spill, duplicates)
        _check_unchanged(files)
        if not self._rows:
            raise UsageError("the input", cause="no table has a row", remedy="name tables that have rows")
        later, self._known = duplicates.find(self._rows, self._check)
        batches = self._cut(spill, later, checker, rejects, cutter)
        rejects.close()
        cutter.close()
        for name in (REJECTS, INDEX):
            _sync(self._work / name)
        return PlanRecord(
            fingerprint=fingerprint,
            tables=tables_of(files),
            head=stream_head(schema),
            rows_total=self._rows,
            rejects=dict(sorted(rejects.counts.items())),
            hosts=cutter.hosts,
            batches=batches,
            container_sizes=cutter.sizes,
            index_size=(self._work / INDEX).stat().st_size,
            rejects_size=(self._work / REJECTS).stat().st_size,
        )

    def abandon(self) -> None:
        """Close what is open after a failure."""
        for writer in (self._rejects, self._cutter):
            if writer is not None:
                try:
                    writer.abandon()
                except (OSError, arrow().ArrowException):
                    pass  # a full disk fails here once more; the first failure is the one to tell

    def _read(
        self, readers: list[TableReader], checker: RowChecker, rejects: Rejects, spill: Spill, duplicates: Duplicates
    ) -> None:
        def use(blocks: Iterator[tuple[Any, list[Reject]]]) -> None:
            for rows, refused in blocks:
                rejects.add(refused)
                first = duplicates.first_of_block(rows.column("uuid"), rows.column("ordinal"))
                if first is not None:
                    rejects.add(_doubles(checker, rows.filter(arrow_part("compute").invert(first))))
                    rows = rows.filter(first)
                duplicates.add(rows.column("uuid"), rows.column("ordinal"))
                spill.add(rows, _server_hashes(rows.column("host")))

        for reader in readers:
            path, start = reader.file.path, self._rows
            self._starts.begin(path, start)

            def broken(number: int, text: str, path: str = path) -> None:
                rejects.add([Reject(path, number, None, text, None, Reason.COLUMNS)])

            for raw in reader.blocks(broken):
                self._check()
                use(checker.take(raw, start))
                self._progress(start + reader.rows)
            self._rows += reader.rows
        use(checker.rest())
        self._progress(self._rows)

    def _cut(
        self, spill: Spill, later: pa.BooleanArray | None, checker: RowChecker, rejects: Rejects, cutter: Cutter
    ) -> int:
        """Make the batches and their index; gives their number."""
        runs: list[Path] = []
        total = 0
        folder = self._new_folder()
        folder.mkdir()
        for bucket in spill.buckets:
            pending = [bucket]
            while pending:
                self._check()
                bucket = pending.pop()
                if bucket.bytes <= _BUCKET_BYTES_MAX or bucket.level + 1 == LEVELS_MAX:
                    chunks = self._sorted_chunks(bucket, later, checker, rejects)
                elif _has_one_server(bucket):
                    chunks = (self._without(rows, later, checker, rejects) for rows in bucket.blocks())
                else:
                    pending += self._split(bucket, checker.schema)[::-1]
                    bucket.remove()
                    continue
                for chunk in chunks:
                    self._check()
                    if chunk.num_rows:
                        cutter.add(chunk)
                bucket.remove()
            entries = cutter.take_entries()
            total += len(entries)
            runs.append(folder / f"{len(runs):03d}")
            write_run(runs[-1], entries)
            arrow().default_memory_pool().release_unused()
        write_index(self._work / INDEX, runs, self._check)
        return total

    def _sorted_chunks(
        self, bucket: Bucket, later: pa.BooleanArray | None, checker: RowChecker, rejects: Rejects
    ) -> Iterator[pa.RecordBatch]:
        pa, pc = arrow(), arrow_part("compute")
        kept = [self._without(rows, later, checker, rejects) for rows in bucket.blocks()]
        if not kept:
            return
        rows = pa.Table.from_batches(kept).combine_chunks()
        del kept
        if not rows.num_rows:
            return
        (rows,) = rows.to_batches()
        hosts = rows.column("host").dictionary_encode()
        ranks = pc.rank(hosts.dictionary, sort_keys="ascending").take(hosts.indices)
        order = pc.sort_indices(ranks)  # stable: rows of a server stay in the order of the table
        for at in range(0, rows.num_rows, _CHUNK_ROWS):
            yield rows.take(order.slice(at, _CHUNK_ROWS))

    def _without(self, rows: Any, later: Any, checker: RowChecker, rejects: Rejects) -> pa.RecordBatch:
        """The rows without those that are finished, and without those whose uuid came before, which become rejects."""
        if self._known is not None:
            rows = rows.filter(arrow_part("compute").invert(self._known.take(rows.column("ordinal"))))
        if later is None:
            return rows
        mask = later.take(rows.column("ordinal"))
        if not mask.true_count:
            return rows
        rejects.add(_doubles(checker, rows.filter(mask)))
        return rows.filter(arrow_part("compute").invert(mask))

    def _split(self, bucket: Bucket, schema: pa.Schema) -> list[Bucket]:
        spill = Spill(self._new_folder(), schema, buckets=BUCKETS_MAX, level=bucket.level + 1)
        for rows in bucket.blocks():
            self._check()
            spill.add(rows, _server_hashes(rows.column("host")))
        return spill.buckets

    def _watched(self, files: list[TableFile]) -> Iterator[TableFile]:
        for file in files:
            self._check()
            yield file

    def _new_folder(self) -> Path:
        return self._work / _SPILL / str(next(self._folders))

    def _check(self) -> None:
        if self._should_stop():
            raise Interrupted("partitioning", cause="it was stopped", remedy="the next run begins it anew")


def _finished(work: Path, dataset: Path | None) -> Finished | None:
    """What must not be collected again, and which partition numbers are taken; None where nothing was collected."""
    if dataset is None or not dataset.is_dir():
        return None
    found = look_for_finished(dataset)
    for older in older_plans(work):
        try:
            for batch in open_plan(older).batches():
                found.reserve(batch.host, batch.partition)
        except (StateDamaged, NotFound):
            pass  # its finished batches were found, and begun ones name the rows that they belong to
    return found if found.free else None


def _reuse(plan: Plan, files: list[TableFile], fingerprint: str) -> Plan:
    remedy = "make the partition anew with --restart partitioning; finished batches stay"
    if plan.record.tables != tables_of(files):
        before, now = set(plan.record.tables), set(tables_of(files))
        changed = sorted({path for path, _, _ in before ^ now})
        shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        raise Conflict(
            "the input", cause=f"it changed since it was partitioned: {shown or 'another order'}", remedy=remedy
        )
    if plan.record.fingerprint != fingerprint:
        what = "columns, carry, batch_size or the rules of security"
        raise Conflict("the input", cause=f"it was partitioned with other settings ({what})", remedy=remedy)
    return plan


def _check_unchanged(files: list[TableFile]) -> None:
    for file in files:
        if look_at(file.path) != file:
            raise Conflict(
                f"table {file.path}",
                cause="it changed while it was read",
                remedy="submit the job again once nobody writes the table",
            )


def _carried_types(readers: list[TableReader], columns: Columns) -> dict[str, Any]:
    """One type for each carried column. Raises UsageError where two files differ."""
    found: dict[str, tuple[Any, str]] = {}
    for reader in readers:
        for name in columns.carry:
            kind, path = found.setdefault(name, (reader.carried[name], reader.file.path))
            if kind != reader.carried[name]:
                raise UsageError(
                    f"carried column {name!r}",
                    cause=f"it is {kind} in {path} and {reader.carried[name]} in {reader.file.path}",
                    remedy="write the tables with one type, or leave the column out of collect.carry",
                )
    return {name: kind for name, (kind, _) in found.items()}


def _doubles(checker: RowChecker, rows: Any) -> list[Reject]:
    return checker.rejects_of(rows, [Reason.DUPLICATE.value] * rows.num_rows)


def _has_one_server(bucket: Bucket) -> bool:
    """Read through until a second one turns up, mostly in the first block."""
    hosts: set[str] = set()
    rows: Any
    for rows in bucket.blocks():
        hosts.update(rows.column("host").unique().to_pylist())
        if len(hosts) > 1:
            return False
    return True


def _server_hashes(hosts: Any) -> Any:
    encoded = hosts.dictionary_encode()
    pa = arrow()
    return pa.array(map(_server_hash, encoded.dictionary.to_pylist()), pa.int64()).take(encoded.indices)


@lru_cache(_HASHES_KEPT_MAX)
def _server_hash(host: str) -> int:
    """63 bits, the same on every machine: the order of the batches in their containers depends on it."""
    return int.from_bytes(hashlib.blake2b(host.encode(), digest_size=8).digest(), "little") >> 1


def _clear(work: Path) -> None:
    """Remove what a run leaves, plan.json first; other files of the folder stay."""
    (work / PLAN).unlink(missing_ok=True)
    shutil.rmtree(work / _SPILL, ignore_errors=True)
    for name in (f"{PLAN}.new", INDEX, REJECTS, FINISHED):
        (work / name).unlink(missing_ok=True)
    for path in work.glob("batches-*.arrows"):
        path.unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _told(work: Path) -> Generator[None]:
    """Errors of the work folder as ours; those of the tables are told where they are read."""
    try:
        yield
    except ShoalError:
        raise
    except OSError as error:
        thing = f"work folder {work}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room: partitioning needs about three times the size of the rows"
            raise NoSpace(thing, cause=error.strerror or str(error), remedy=remedy) from None
        raise NotWritable(thing, cause=str(error), remedy="check its permissions and its disk") from None
