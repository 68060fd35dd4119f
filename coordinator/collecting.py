"""The shell around dataset jobs: partitions their tables, reads their batches from the store, and keeps the files that agents ask for.

A table's partition lies in a work folder of its own, named by the destination: a run that is submitted again finds it there.
"""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import hashlib
import io
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.collect_records import CollectSpec, HostProfile, Restart, batch_of_path, batch_path, collect_spec_from
from ..common.dataset_schema import IGNORED, OVERVIEW, PROFILES, REJECTS
from ..common.errors import Conflict, NotFound
from ..common.ignored_hosts import REREAD_S
from ..common.logs import get_logger
from ..common.policy import Policy
from ..common.records import Delivery, JobSpec, Layout, ObjectSpec, OriginKind
from ..common.views import ObjectStatus
from .dataset_model import BatchRow
from .documents import blocks_of
from .effects import ForgetHostProfiles
from .model import JobRow, JobState
from .overview import overview_document
from .store.runner import StoreRunner
from .tables import PAGE_OBJECTS

if TYPE_CHECKING:
    from .collect.plan import Plan
    from .core import Core

WorkFolder = Callable[[str, str], Path]
"""Where the partition of a table for a destination, of a store with the credentials of this profile, is kept."""

IGNORED_BYTES_MAX = 16 << 20

log = get_logger("planner")


def work_folder_of(base: Path, destination: str, profile: str) -> Path:
    """A folder below base that is the same for every run into this destination: a dataset has one partition at a time."""
    return base / hashlib.sha256(f"{profile}\n{destination.rstrip('/')}".encode()).hexdigest()[:16]


def refuse_second(row: JobRow, jobs: Iterable[JobRow]) -> None:
    """Raise Conflict when a job that has not ended collects into the dataset of the row, or runs a tool over it."""
    asked = _dataset_of(row)
    if asked is None:
        return
    for other in jobs:
        its = _dataset_of(other) if other.job_id != row.job_id and not other.status.ended else None
        if its is not None and its[0] == asked[0] and (its[1] or asked[1]):
            raise Conflict(
                f"dataset {asked[0]}",
                cause=f"job {other.job_id} works on it already: {other.uri}",
                remedy=f"wait for it, or end it: shoal cancel {other.job_id}",
            )


def _dataset_of(row: JobRow) -> tuple[str, bool] | None:
    """The dataset of a job, and whether it collects; None for a job of another kind."""
    asked: dict[str, Any] = json.loads(row.request)
    if asked.get("delivery") != Delivery.DATASET:
        return None
    return str(asked["destination"]).rstrip("/"), "collect" in asked


class Collections:
    """All dataset jobs of one coordinator that collect a table."""

    def __init__(
        self,
        store: StoreRunner,
        *,
        work_folder: WorkFolder,
        dataset_of: Callable[[str], Path | None],
        policy: Policy,
        wall_clock: Callable[[], float],
    ) -> None:
        """dataset_of: the folder of a destination where this process sees it, else None."""
        self._dataset_of = dataset_of
        self._store = store
        self._work_folder = work_folder
        self.policy = policy
        self._wall_clock = wall_clock
        self._plans: dict[str, Plan] = {}

    # ---- planning ---------------------------------------------------------------------------------------------------

    async def plan(self, row: JobRow, asked: dict[str, Any]) -> JobSpec:
        """Partition the job's table, unless that was done before, and put its batches into the store.

        Raises UsageError, NotFound, Conflict, NoSpace, StateDamaged.
        """
        spec = collect_spec_from(asked["collect"])
        work = self._work_folder(asked["destination"], asked.get("profile", ""))
        dataset = self._dataset_of(asked["destination"])
        if spec.restart is Restart.PARTITIONING:
            _check_visible(work, dataset, asked["destination"])
        plan = await self._partition(row, spec, work, dataset)
        self._plans[row.job_id] = plan
        await self._store.run(self._store.store.forget_objects, row.job_id)
        batches = _objects(plan)
        count = rows = 0
        while page := await asyncio.to_thread(lambda: list(islice(batches, PAGE_OBJECTS))):
            await self._store.run(self._store.store.add_objects, row.job_id, page)
            count += len(page)
            rows += sum(batch.size or 0 for batch in page)
        if spec.restart is Restart.PROFILING:
            await self._store.run(self._store.store.apply, [ForgetHostProfiles(row.job_id)])
        row.rows_total, row.rows_rejected = rows, plan.rows_rejected
        log.info("job.partitioned", job=row.job_id, rows=plan.rows_total, rejected=plan.rows_rejected, batches=count)
        return JobSpec(
            job_id=row.job_id,
            source=row.uri,
            origin=OriginKind.HTTP,
            layout=Layout.FOLDER,
            destination=asked["destination"],
            force=asked["force"],
            profile=asked.get("profile", ""),
            total_objects=count,
            delivery=Delivery.DATASET,
            collect=spec,
        )

    async def _partition(self, row: JobRow, spec: CollectSpec, work: Path, dataset: Path | None) -> Plan:
        from .collect.partition import make_plan

        stop = threading.Event()

        def progress(rows: int) -> None:
            row.rows_total = rows

        making = asyncio.ensure_future(
            asyncio.to_thread(
                make_plan,
                spec,
                work=work,
                policy=self.policy,
                should_stop=stop.is_set,
                progress=progress,
                dataset=dataset,
            )
        )
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.gather(making, return_exceptions=True)
            raise

    # ---- what the core asks for -------------------------------------------------------------------------------------

    async def load(self, job_id: str) -> tuple[list[BatchRow], list[str]]:
        """All batches of the job, and the hosts that were measured."""
        rows: list[BatchRow] = []
        after_id, count = 0, PAGE_OBJECTS
        while count == PAGE_OBJECTS:
            found = await self._store.run(
                self._store.store.list_objects, job_id, status=None, after_id=after_id, limit=PAGE_OBJECTS
            )
            rows += [
                BatchRow(row.spec.object_id, row.spec.path, row.spec.size or 0, row.status, row.failures, row.tally)
                for row in found
            ]
            count, after_id = len(found), found[-1].spec.object_id if found else 0
        profiles = await self._store.run(self._store.store.profiles, job_id)
        return rows, [profile.host for profile in profiles]

    async def watch_ignored(self, core: Core) -> None:
        """Read ``ignored.csv`` of every dataset that this process sees, again and again, until this is cancelled.

        Agents read it, too; here it frees a run of hosts that are waited for.
        """
        while True:
            for job in [job for job in core.jobs.values() if job.dataset is not None and not job.row.status.ended]:
                folder = self._dataset_of(job.spec.destination)
                found = await asyncio.to_thread(_read_small, folder / IGNORED) if folder is not None else None
                if job.dataset is not None:
                    job.dataset.ignored.take_file(found)
            await asyncio.sleep(REREAD_S)

    # ---- documents --------------------------------------------------------------------------------------------------

    async def read(self, core: Core, job: JobState, name: str, now: float) -> AsyncIterator[bytes]:
        """A file of the job, block by block; see `api.CoordinatorApi.read_document`. Raises NotFound, StateDamaged."""
        kind, _, number = name.partition("/")
        if kind == "batch" and number.isdecimal():
            async for block in self._batch(job, int(number)):
                yield block
        elif name == REJECTS:
            plan = await self._plan_of(job)
            async for block in blocks_of(plan.rejects_path):
                yield block
        elif name == PROFILES:
            yield profiles_csv(await self._store.run(self._store.store.profiles, job.row.job_id))
        elif name == OVERVIEW:
            document = overview_document(core, job, now=now, wall_clock_s=self._wall_clock())
            yield json.dumps(document, indent=2).encode()
        else:
            raise NotFound(f"document {name} of job {job.row.job_id}", cause="the coordinator keeps no such file")

    async def _batch(self, job: JobState, object_id: int) -> AsyncIterator[bytes]:
        row = await self._store.run(self._store.store.get_object, object_id)
        if row is None or row.job_id != job.row.job_id or row.status is ObjectStatus.FAILED:
            raise NotFound(f"batch {object_id} of job {job.row.job_id}", cause="the job has no such batch")
        host, partition = batch_of_path(row.spec.path)
        plan = await self._plan_of(job)
        blocks = plan.batch_bytes(host, partition)
        while block := await asyncio.to_thread(next, blocks, None):
            yield block

    async def _plan_of(self, job: JobState) -> Plan:
        plan = self._plans.get(job.row.job_id)
        if plan is None:
            from .collect.plan import open_plan

            work = self._work_folder(job.spec.destination, job.spec.profile)
            plan = self._plans[job.row.job_id] = await asyncio.to_thread(open_plan, work)
        return plan

    def forget(self, job_id: str) -> None:
        """The job ended: its partition is opened again should somebody ask."""
        self._plans.pop(job_id, None)


def _read_small(path: Path) -> tuple[object, bytes] | None:
    """A file with what changes when it does; None where it cannot be read, or is no such file."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            return (found.st_ino, found.st_size, found.st_mtime_ns), file.read(IGNORED_BYTES_MAX)
    except OSError:
        return None


def _check_visible(work: Path, dataset: Path | None, destination: str) -> None:
    """Rows that were collected can be left out of another partition only where they can be looked at. Raises Conflict."""
    from .collect.plan import PLAN

    if (work / PLAN).exists() and (dataset is None or not dataset.is_dir()):
        raise Conflict(
            "--restart partitioning",
            cause=f"the coordinator does not see what was collected into {destination}",
            remedy="collect the changed table into another place"
            if dataset is None
            else "mount the folder where the coordinator runs; make an empty one if nothing was collected",
        )


def _objects(plan: Plan) -> Iterator[ObjectSpec]:
    """The batches of a plan as objects: their size is their rows."""
    listed = chain(plan.finished(), ((batch.host, batch.partition, batch.rows) for batch in plan.batches()))
    for number, (host, partition, rows) in enumerate(listed, start=1):
        yield ObjectSpec(object_id=number, path=batch_path(host, partition), size=rows)


def profiles_csv(profiles: list[HostProfile]) -> bytes:
    """What the hosts were like, a line a host. Texts that hosts sent are quoted so that no spreadsheet takes them for formulas."""
    out = io.StringIO()
    columns = [column.name for column in dataclasses.fields(HostProfile)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["server_name", *columns[1:]])
    for profile in profiles:
        values = [getattr(profile, column) for column in columns]
        writer.writerow(
            [f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t" and value else value for value in values]
        )
    return out.getvalue().encode()
