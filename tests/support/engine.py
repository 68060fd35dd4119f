"""A worker without a coordinator: leases go in, reports are collected."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shoal.agent.worker import EngineOptions, Worker, WorkReport
from shoal.common.records import JobSpec, Layout, Lease, LeaseRef, ObjectSpec, OriginKind, Outcome, UnitKind
from shoal.common.secrets import Secret

from .contents import ContentLike, as_content, read_all, sha256_hex
from .hub_repo import HubRepo
from .request_log import RequestLog

FAST = {"backoff_initial_s": 0.01, "backoff_max_s": 0.05, "read_timeout_s": 30.0}
"""Options that make retries quick enough for tests. A server that is only slow, as the machine is, is waited for."""


@dataclass
class Bench:
    """A running worker and what it has reported."""

    worker: Worker
    job: JobSpec
    reports: list[WorkReport] = field(default_factory=list)
    objects: list[ObjectSpec] = field(default_factory=list)
    tokens: Iterable[int] = field(default_factory=lambda: itertools.count(1))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    deadline_s: float = float("inf")

    def took(self, report: WorkReport) -> None:
        self.reports.append(report)
        self.changed.set()

    def start(
        self, kind: UnitKind, spec: ObjectSpec | None = None, start: int = 0, stop: int = 0, remaining: int = 0
    ) -> LeaseRef:
        """Grant a lease to the worker."""
        token = next(iter(self.tokens))
        unit = f"r{token}" if kind is UnitKind.RANGE else f"o{spec.object_id}" if spec else f"j{self.job.job_id}"
        lease = Lease(
            unit=unit,
            token=token,
            kind=kind,
            job_id=self.job.job_id,
            object=spec,
            start=start,
            stop=stop,
            remaining=remaining,
        )
        self.worker.start(lease, self.job, lambda: self.deadline_s)
        return LeaseRef(unit, token)

    def of(self, ref: LeaseRef) -> list[WorkReport]:
        """The reports of a lease so far."""
        return [report for report in self.reports if (report.unit, report.token) == (ref.unit, ref.token)]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until a report makes the condition true."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def until_asked(self, log: RequestLog, **what: Any) -> None:
        """Wait until a server has been asked."""
        await asyncio.to_thread(log.wait_for, lambda log: log.count(**what) > 0, timeout_s=30)

    async def last(self, ref: LeaseRef, timeout_s: float = 60.0) -> WorkReport:
        """The lease's last report."""
        await self.until(lambda: any(r.outcome is not Outcome.PARTIAL for r in self.of(ref)), timeout_s)
        return self.of(ref)[-1]

    async def run(
        self, kind: UnitKind, spec: ObjectSpec | None = None, start: int = 0, stop: int = 0, timeout_s: float = 60.0
    ) -> WorkReport:
        """Grant a lease and wait for its last report."""
        return await self.last(self.start(kind, spec, start, stop), timeout_s)

    async def whole(self, specs: Sequence[ObjectSpec], timeout_s: float = 60.0) -> list[WorkReport]:
        """Fetch objects by WHOLE leases, all at once; their last reports in order."""
        refs = [self.start(UnitKind.WHOLE, spec) for spec in specs]
        return [await self.last(ref, timeout_s) for ref in refs]

    async def by_ranges(self, spec: ObjectSpec, range_bytes: int, timeout_s: float = 60.0) -> WorkReport:
        """Fetch an object as a coordinator does with big ones: OPEN, RANGE leases all at once, PUBLISH."""
        assert spec.size is not None
        opened = await self.run(UnitKind.OPEN, spec, timeout_s=timeout_s)
        if opened.outcome is not Outcome.DONE or opened.skipped:
            return opened
        refs = [
            self.start(
                UnitKind.RANGE,
                spec,
                at,
                min(spec.size, at + range_bytes),
                remaining=max(0, spec.size - at - range_bytes),
            )
            for at in range(0, spec.size, range_bytes)
        ]
        for ref in refs:
            report = await self.last(ref, timeout_s)
            if report.outcome is not Outcome.DONE:
                return report
        return await self.run(UnitKind.PUBLISH, spec, timeout_s=timeout_s)


@asynccontextmanager
async def engine(
    job: JobSpec, *, root: Path = Path("/"), token: str = "", prepare: bool = True, **options: object
) -> AsyncIterator[Bench]:
    """A worker for one job, its destination prepared."""
    loop = asyncio.get_running_loop()

    async def list_objects(job_id: str) -> AsyncIterator[Sequence[ObjectSpec]]:
        for at in range(0, len(bench.objects), 2):
            yield bench.objects[at : at + 2]

    settings: dict[str, object] = {"agent_id": "agent-1", "root": root, "sync": False, **FAST, **options}
    worker = Worker(
        EngineOptions(**settings),  # type: ignore[arg-type]
        report=lambda report: bench.took(report),
        list_objects=list_objects,
        hub_token=lambda: Secret(token) if token else None,
        clock=loop.time,
        rng=random.Random(1),
    )
    bench = Bench(worker, job)
    async with worker:
        if prepare:
            assert (await bench.run(UnitKind.PREPARE)).outcome is Outcome.DONE
        yield bench


def hub_job(endpoints: Sequence[str], repo: HubRepo, to: Path, *, layout: Layout = Layout.FOLDER) -> JobSpec:
    """The job of a whole repo of the stand-in Hub."""
    return JobSpec(
        job_id="job1",
        source=f"hf://{repo.id}",
        origin=OriginKind.HUB,
        layout=layout,
        destination=str(to),
        endpoints=tuple(endpoints),
        repo_kind=repo.kind,
        repo_id=repo.id,
        revision="main",
        commit=repo.sha,
    )


def hub_specs(repo: HubRepo) -> list[ObjectSpec]:
    """Every file of a repo as a Hub source lists it."""
    commit = repo.find(repo.sha)
    assert commit is not None
    prefix = "" if repo.kind == "model" else f"/{repo.kind}s"
    specs: list[ObjectSpec] = []
    for number, path in enumerate(commit.files):
        file = repo.file(path)
        specs.append(
            ObjectSpec(
                object_id=number,
                path=path,
                size=file.content.size,
                digest=f"sha256:{file.sha256}" if file.sha256 else f"git-sha1:{file.oid}",
                etag=file.etag,
                url=f"{prefix}/{repo.id}/resolve/{repo.sha}/{quote(path)}",
            )
        )
    return specs


def web_job(to: Path) -> JobSpec:
    """A job whose objects have URLs of their own."""
    return JobSpec(
        job_id="job1", source="https://web", origin=OriginKind.HTTP, layout=Layout.FOLDER, destination=str(to)
    )  # fmt: skip


def web_spec(
    url: str, content: ContentLike, *, path: str = "file.bin", sized: bool = True, digested: bool = True
) -> ObjectSpec:
    """An object of a plain web server."""
    held = as_content(content)
    return ObjectSpec(
        object_id=1,
        path=path,
        size=held.size if sized else None,
        digest=f"sha256:{sha256_hex(held)}" if digested else "",
        url=url,
    )


def same(path: Path, content: ContentLike) -> bool:
    """Whether a file holds exactly this."""
    return path.read_bytes() == read_all(as_content(content))


def leftovers(to: Path) -> list[str]:
    """Files of unfinished work below a destination."""
    return sorted(str(path.relative_to(to)) for path in to.rglob("*") if path.suffix in (".part", ".map", ".tmp"))


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


async def poll(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for what no event tells."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def fetch_for_ever(endpoint: str, commit: str, size: str, digest: str, to: str) -> None:
    """Fetch one file of the stand-in Hub, for a process that will be killed."""
    url = f"/acme/big/resolve/{commit}/model.safetensors"
    spec = ObjectSpec(object_id=0, path="model.safetensors", size=int(size), digest=digest, etag=digest[7:], url=url)
    job = JobSpec(
        job_id="job1",
        source="hf://acme/big",
        origin=OriginKind.HUB,
        layout=Layout.FOLDER,
        destination=to,
        endpoints=(endpoint,),
        repo_kind="model",
        repo_id="acme/big",
        revision="main",
        commit=commit,
    )
    async with engine(job) as bench:
        await bench.whole([spec])
