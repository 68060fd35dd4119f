"""A collector without a coordinator: batches go in, reports and files come out."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from shoal.agent.collect.gate import Answer
from shoal.agent.collect.options import CollectOptions
from shoal.agent.collect.runs import Collector
from shoal.agent.engine.options import EngineOptions
from shoal.common.collect_records import CollectSpec, batch_path
from shoal.common.dataset_schema import batch_schema
from shoal.common.errors import NotFound
from shoal.common.records import (
    Delivery,
    JobSpec,
    Layout,
    Lease,
    LeaseRef,
    ObjectSpec,
    OriginKind,
    Outcome,
    UnitKind,
    WorkReport,
)

SPEC = CollectSpec(
    tables=("t.csv",),
    allow_private_addresses=True,
    request_timeout_s=60.0,
    idle_timeout_s=30.0,
    connections=8,
    attempts=2,
    image_size=64,
)


class MemoryGate:
    """A gate without rates: a bound on requests, blocks on throttling, and a memory of what was seen."""

    def __init__(self, *, at_once: int = 64, block_s: float = 60.0) -> None:
        self.answers: list[tuple[str, Answer, int, float]] = []
        self.delays: dict[str, float] = {}
        self.entered: list[str] = []
        self._slots = asyncio.Semaphore(at_once)
        self._blocked: dict[str, float] = {}
        self._block_s = block_s

    @asynccontextmanager
    async def request(self, host: str) -> AsyncIterator[None]:
        async with self._slots:
            while (wait_s := self.blocked_s(host, time.monotonic())) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(wait_s, 0.05))
            self.entered.append(host)
            yield

    def seen(
        self,
        host: str,
        kind: Answer,
        *,
        status: int = 0,
        retry_after_s: float = 0.0,
        latency_s: float = 0.0,
        crawl_delay_s: float = 0.0,
    ) -> None:
        self.answers.append((host, kind, status, retry_after_s))
        if crawl_delay_s:
            self.delays[host] = crawl_delay_s
        if kind is Answer.THROTTLED:
            self._blocked[host] = time.monotonic() + (retry_after_s or self._block_s)

    def blocked_s(self, host: str, now: float) -> float:
        return max(0.0, self._blocked.get(host, 0.0) - now)


def picture(width: int = 96, height: int = 48, *, kind: str = "JPEG", seed: int = 1, mode: str = "RGB") -> bytes:
    """An image of smooth colours."""
    rng = random.Random(seed)
    small = Image.new("RGB", (4, 4))
    small.putdata([(rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(16)])
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(out, kind)
    return out.getvalue()


def table_of(urls: Sequence[str], **columns: Sequence[Any]) -> pa.Table:
    """Rows of a batch: uuids u0, u1, ..."""
    count = len(urls)
    found: dict[str, Sequence[Any]] = {
        "uuid": [f"u{number}" for number in range(count)],
        "identifier": urls,
        "source_id": [f"s{number}" for number in range(count)],
        "license": ["CC0"] * count,
        "source": ["web"] * count,
        "title": [f"title {number}" for number in range(count)],
        **columns,
    }
    carry = pa.schema(
        [(name, pa.array(values).type) for name, values in found.items() if name not in batch_schema().names]
    )
    return pa.table(found, schema=batch_schema(carry))


def as_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@dataclass
class CollectBench:
    """A running collector and what it has reported."""

    collector: Collector
    gate: MemoryGate
    to: Path
    spec: CollectSpec
    reports: list[WorkReport] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    tokens: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    deadline_s: float = float("inf")
    job_id: str = "job1"
    destination: str = ""
    profile: str = ""

    def took(self, report: WorkReport) -> None:
        self.reports.append(report)
        self.changed.set()

    async def read_document(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        if name not in self.documents:
            raise NotFound(name)
        data = self.documents[name]
        for at in range(0, len(data), 1 << 16):
            yield data[at : at + (1 << 16)]

    @property
    def job(self) -> JobSpec:
        return JobSpec(
            job_id=self.job_id,
            source="table",
            origin=OriginKind.HTTP,
            layout=Layout.FOLDER,
            destination=self.destination or str(self.to),
            profile=self.profile,
            delivery=Delivery.DATASET,
            collect=self.spec,
        )

    def start(
        self,
        kind: UnitKind,
        *,
        host: str = "",
        rows: pa.Table | None = None,
        partition: int = 0,
        rows_known: int | None = None,
        **what: Any,
    ) -> LeaseRef:
        """Grant a lease. rows_known: how many rows the coordinator says that the batch has."""
        token = next(self.tokens)
        spec = None
        if rows is not None:
            spec = ObjectSpec(object_id=partition, path=batch_path(host, partition), size=rows_known)
            self.documents[f"batch/{partition}"] = as_stream(rows)
        unit = f"o{partition}" if rows is not None else f"j{self.job_id}"
        lease = Lease(unit=unit, token=token, kind=kind, job_id=self.job_id, object=spec, **what)
        self.collector.start(lease, self.job, lambda: self.deadline_s)
        return LeaseRef(unit, token)

    async def last(self, ref: LeaseRef, timeout_s: float = 60.0) -> WorkReport:
        """The report of a lease."""
        async with asyncio.timeout(timeout_s):
            while not (found := [r for r in self.reports if (r.unit, r.token) == (ref.unit, ref.token)]):
                self.changed.clear()
                await self.changed.wait()
        return found[-1]

    async def batch(
        self, host: str, rows: pa.Table, partition: int = 0, timeout_s: float = 60.0, **what: Any
    ) -> WorkReport:
        """Collect a batch; its report."""
        ref = self.start(UnitKind.BATCH, host=host, rows=rows, partition=partition, **what)
        return await self.last(ref, timeout_s)

    def table(self, host: str, name: str, partition: int = 0) -> pa.Table:
        """A finished file."""
        return pq.ParquetFile(self.to / batch_path(host, partition) / f"{name}.parquet").read()

    def rows(self, host: str, name: str, partition: int = 0) -> dict[str, dict[str, Any]]:
        """A finished file's rows by uuid; no uuid may be there twice."""
        rows = self.table(host, name, partition).to_pylist()
        found = {row["uuid"]: row for row in rows}
        assert len(found) == len(rows)
        return found


@asynccontextmanager
async def collecting(
    to: Path,
    spec: CollectSpec = SPEC,
    *,
    gate: MemoryGate | None = None,
    agent: str = "agent-1",
    prepare: bool = True,
    workers: int = 1,
    memory_limit: int = 64 << 20,
    options: CollectOptions | None = None,
    **changes: Any,
) -> AsyncIterator[CollectBench]:
    """A collector at work on one job. changes: of the spec."""
    loop = asyncio.get_running_loop()
    engine = EngineOptions(agent_id=agent, sync=False)
    options = options or CollectOptions(engine=engine, image_workers=workers, memory_limit=memory_limit)
    found_gate = gate or MemoryGate()
    async with asyncio.TaskGroup() as tasks:
        collector = Collector(
            options,
            tasks=tasks,
            throttle=found_gate,
            read_document=lambda job_id, name: bench.read_document(job_id, name),
            report=lambda report: bench.took(report),
            clock=loop.time,
            wall_clock=time.time,
            rng=random.Random(1),
        )
        bench = CollectBench(collector, found_gate, to, replace(spec, **changes))
        try:
            if prepare:
                assert (await bench.last(bench.start(UnitKind.PREPARE))).outcome is Outcome.DONE, bench.reports
            yield bench
        finally:
            await collector.aclose()


async def collect_for_ever(to: Path, urls: list[str]) -> None:
    """Collect one batch, for a process that will be killed."""
    host = urls[0].split("/")[2]
    async with collecting(to, agent="doomed", connections=2) as bench:
        await bench.batch(host, table_of(urls))
        await asyncio.sleep(3600)
