"""Planning: what a request becomes, and how a listing ends up in the store, or ends its job."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from shoal.common.collect_records import CollectSpec, Restart, ToolSpec
from shoal.common.errors import AccessDenied, Conflict, NotFound, ShoalError, TransferError, UsageError
from shoal.common.policy import Policy
from shoal.common.records import Delivery, Layout, ObjectSpec, OriginKind
from shoal.common.views import JobStatus, ObjectStatus, SubmitRequest
from shoal.coordinator.collecting import Collections, refuse_second, work_folder_of
from shoal.coordinator.core import Core
from shoal.coordinator.effects import PutJob
from shoal.coordinator.model import JobRow
from shoal.coordinator.planner import Planner, dataset_row, job_rows
from shoal.coordinator.sources.base import Resolved, SourceRequest
from shoal.coordinator.store.memory import MemoryStore
from shoal.coordinator.store.runner import StoreRunner

NOW = 1_700_000_000.0
RESOLVED = Resolved(
    source="hf://acme/tiny",
    origin=OriginKind.HUB,
    endpoints=("https://hub.example",),
    repo_kind="model",
    repo_id="acme/tiny",
    revision="main",
    commit="c" * 40,
)


def rows(*uris: str, **changes: object) -> list[JobRow]:
    ids = count(1)
    request = SubmitRequest(uris=uris, **{"destination": "/data", "layout": Layout.FOLDER, **changes})  # pyright: ignore[reportArgumentType]
    return job_rows(request, created_at=NOW, new_id=lambda: f"j{next(ids)}", endpoints=("https://hub.example",))


def dataset_job(job_id: str, to: str, *, status: JobStatus = JobStatus.RUNNING, tool: bool = False) -> JobRow:
    what = {"tool": ToolSpec(name="resize")} if tool else {"collect": CollectSpec(tables=("t.csv",))}
    request = SubmitRequest(uris=(), delivery=Delivery.DATASET, destination=to, **what)  # pyright: ignore[reportArgumentType]
    row = dataset_row(request, created_at=NOW, job_id=job_id)
    row.status = status
    return row


def test_one_job_at_a_time_works_on_a_dataset() -> None:
    there = [*rows("hf://acme/one"), dataset_job("a", "/d/birds"), dataset_job("b", "/d/done", status=JobStatus.DONE)]
    with pytest.raises(Conflict, match="job a works on it"):
        refuse_second(dataset_job("c", "/d/birds/"), there)
    with pytest.raises(Conflict, match="shoal cancel a"):
        refuse_second(dataset_job("c", "/d/birds", tool=True), there)
    refuse_second(dataset_job("a", "/d/birds"), there)
    refuse_second(dataset_job("c", "/d/done"), there)
    refuse_second(dataset_job("c", "/d/other"), there)
    refuse_second(rows("hf://acme/two", destination="/d/birds")[0], there)
    refuse_second(dataset_job("c", "/d/x", tool=True), [dataset_job("d", "/d/x", tool=True)])


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_job_for_each_source() -> None:
    one, two = rows("hf://acme/one", "hf://acme/two", name="mine", priority=3)
    assert (one.uri, two.uri) == ("hf://acme/one", "hf://acme/two")
    assert (one.status, one.name, one.priority, one.created_at) == (JobStatus.PLANNING, "mine", 3, NOW)
    assert one.job_id != two.job_id


def test_the_same_source_twice_is_one_job() -> None:
    (only,) = rows("hf://acme/one", "hf://acme/one", "https://hub.example/acme/one")
    assert only.uri == "hf://acme/one"


@pytest.mark.parametrize(
    "change",
    [
        {"destination": "/elsewhere"},
        {"include": ("*.bin",)},
        {"exclude": ("*.bin",)},
        {"revision": "v1"},
        {"commit": "c" * 40},
        {"sha256": "0" * 64},
        {"force": True},
        {"layout": Layout.HUB_CACHE},
    ],
)
def test_what_makes_another_job(change: dict[str, object]) -> None:
    assert rows("hf://acme/one", **change)[0].fingerprint != rows("hf://acme/one")[0].fingerprint


@pytest.mark.parametrize("change", [{"name": "x"}, {"priority": 9}])
def test_what_does_not_make_another_job(change: dict[str, object]) -> None:
    assert rows("hf://acme/one", **change)[0].fingerprint == rows("hf://acme/one")[0].fingerprint


def test_the_order_of_globs_and_the_case_of_a_digest_do_not_matter() -> None:
    one = rows("hf://acme/one", include=("a", "b"), sha256="AB" * 32)[0]
    assert one.fingerprint == rows("hf://acme/one", include=("b", "a"), sha256="ab" * 32)[0].fingerprint


def test_the_layout_follows_the_source_unless_it_is_named() -> None:
    def layout(uri: str, **changes: object) -> str:
        return json.loads(rows(uri, layout=None, **changes)[0].request)["layout"]

    assert layout("hf://acme/one", destination="") == "hub-cache"
    assert layout("hf://acme/one") == "folder"
    assert layout("https://example.org/a.bin") == "folder"


@pytest.mark.parametrize(
    ("uris", "changes", "match"),
    [
        ((), {}, "no URI"),
        (("hf://acme/one",), {"commit": "c0ffee"}, "40 hex digits"),
        (("https://example.org/a.bin",), {"commit": "c" * 40}, "no commits"),
        (("nonsense://x",), {}, "nonsense"),
        (("hf://acme/one",), {"delivery": Delivery.DATASET}, "dataset"),
        (("hf://acme/one", "hf://acme/two"), {"sha256": "0" * 64}, "sha256"),
        (("https://example.org/a.bin",), {"layout": Layout.HUB_CACHE}, "Hub cache"),
        (("https://example.org/a.bin",), {"destination": ""}, "no destination"),
        (("hf://acme/one",), {"destination": "", "layout": Layout.FOLDER}, "no destination"),
    ],
)
def test_what_no_agent_could_do_is_refused(uris: tuple[str, ...], changes: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        rows(*uris, **changes)


# --- listings -------------------------------------------------------------------------------------------------------


@dataclass
class FakeSource:
    """A source of given pages; error is raised when it is resolved, or before the page of that number."""

    listing: Sequence[list[ObjectSpec]] = ()
    error: Exception | None = None
    fails_at: int = -1  # number of a page; -1: resolve
    refused: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    refused_count: int = 0
    warnings: list[str] = field(default_factory=list[str])
    closed: bool = False

    async def resolve(self) -> Resolved:
        if self.error is not None and self.fails_at < 0:
            raise self.error
        return RESOLVED

    async def pages(self) -> AsyncGenerator[list[ObjectSpec], None]:
        try:
            for number, page in enumerate([*self.listing, []]):
                if self.error is not None and number == self.fails_at:
                    raise self.error
                if page:
                    yield page
        finally:
            self.closed = True


def spec(number: int, size: int | None = 10) -> ObjectSpec:
    return ObjectSpec(object_id=number, path=f"f{number}", size=size, url=f"/f{number}")


def collections_of(store: StoreRunner, state: Path, dataset: Path | None = None) -> Collections:
    return Collections(
        store,
        work_folder=lambda to, profile: work_folder_of(state, to, profile),
        dataset_of=lambda _to: dataset,
        policy=Policy(),
        wall_clock=lambda: NOW,
    )


class Bench:
    """A core and a store with one job that waits for its listing."""

    def __init__(self) -> None:
        self.core = Core(incarnation=1)
        self.store = MemoryStore(clock=lambda: NOW)
        self.store.open()
        (self.row,) = rows("hf://acme/tiny@v1", include=("f*",), force=True)
        self.core.add_job(self.row)
        self.store.apply([PutJob(self.row)])  # as the shell does before it plans
        self.requests: list[SourceRequest] = []

    async def plan(self, source: FakeSource) -> JobRow:
        def open_source(request: SourceRequest) -> FakeSource:
            self.requests.append(request)
            return source

        store = StoreRunner(self.store, blocks=False)
        planner = Planner(
            self.core, store, open_source, lambda: 5.0, collections=collections_of(store, Path("/nowhere"))
        )
        await planner.plan(self.row.job_id)
        return self.row


async def test_a_listing_is_stored_page_by_page() -> None:
    bench = Bench()
    row = await bench.plan(FakeSource([[spec(1), spec(2, None)], [spec(3, 7)]]))
    assert (row.status, row.objects_total, row.bytes_total, row.objects_failed) == (JobStatus.PREPARING, 3, 17, 0)
    assert {stored.spec.path for stored in bench.store.list_objects(row.job_id)} == {"f1", "f2", "f3"}
    assert row.spec is not None
    assert (row.spec.commit, row.spec.endpoints, row.spec.repo_id) == ("c" * 40, ("https://hub.example",), "acme/tiny")
    assert (row.spec.destination, row.spec.layout, row.spec.force) == ("/data", Layout.FOLDER, True)
    assert (row.spec.total_objects, row.spec.total_bytes) == (3, 17)
    (request,) = bench.requests
    assert request.selection.include == ("f*",)
    assert request.uri.canonical() == "hf://acme/tiny@v1"


async def test_a_listing_that_begins_anew_forgets_the_first() -> None:
    bench = Bench()
    await bench.plan(FakeSource([[spec(1), spec(2)]], error=TransferError("list", cause="broke"), fails_at=1))
    assert bench.row.status is JobStatus.FAILED
    bench.core.retry(bench.row.job_id)
    assert bench.row.status is JobStatus.PLANNING
    row = await bench.plan(FakeSource([[spec(2)], [spec(3)]]))
    assert (row.status, row.objects_total) == (JobStatus.PREPARING, 2)
    assert [stored.spec.path for stored in bench.store.list_objects(row.job_id)] == ["f2", "f3"]


async def test_refused_names_count_as_failed_objects() -> None:
    bench = Bench()
    source = FakeSource([[spec(1)]], refused=[("../x", "it leaves the destination")], refused_count=1, warnings=["hm"])
    row = await bench.plan(source)
    assert (row.status, row.objects_failed, row.objects_refused) == (JobStatus.PREPARING, 1, 1)
    (failed,) = bench.store.list_objects(row.job_id, status=ObjectStatus.FAILED)
    assert failed.failure is not None
    assert failed.failure.code == "unsafe-name"
    assert "it leaves the destination" in failed.failure.text


@pytest.mark.parametrize("fails_at", [-1, 0, 1])
@pytest.mark.parametrize(
    "error",
    [
        NotFound("repo acme/tiny", cause="the Hub answered 404"),
        AccessDenied("repo acme/tiny"),
        TransferError("list", cause="the connection broke"),
    ],
)
async def test_a_source_that_cannot_be_listed_ends_the_job(error: ShoalError, fails_at: int) -> None:
    bench = Bench()
    source = FakeSource([[spec(1)], [spec(2)]], error=error, fails_at=fails_at)
    row = await bench.plan(source)
    assert row.status is JobStatus.FAILED
    assert row.failure is not None
    assert (row.failure.code, row.failure.retryable) == (error.code, error.retryable)
    assert row.failure.text == str(error)
    assert bench.core.take_effects().ended_jobs == [row.job_id]
    assert source.closed is (fails_at >= 0)


async def test_a_defect_in_a_listing_costs_its_job_and_nothing_else() -> None:
    bench = Bench()
    row = await bench.plan(FakeSource([[spec(1)]], error=ZeroDivisionError("division by zero"), fails_at=1))
    assert row.status is JobStatus.FAILED
    assert row.failure is not None
    assert (row.failure.code, row.failure.retryable) == ("internal", False)
    assert "ZeroDivisionError" in row.failure.text


async def test_a_job_that_was_cancelled_meanwhile_stays_cancelled() -> None:
    bench = Bench()

    class Cancelling(FakeSource):
        async def resolve(self) -> Resolved:
            bench.core.cancel(bench.row.job_id)
            return await super().resolve()

    row = await bench.plan(Cancelling([[spec(1)]]))
    assert row.status is JobStatus.CANCELLED
    assert row.spec is None


# --- tables ---------------------------------------------------------------------------------------------------------


async def test_a_table_is_not_partitioned_anew_for_a_dataset_that_nobody_here_sees(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("uuid,identifier,source_id\nu1,http://a.example/1,s1\n")
    store = StoreRunner(MemoryStore(clock=lambda: NOW), blocks=False)
    store.store.open()

    async def plan(restart: Restart, dataset: Path | None) -> int:
        request = SubmitRequest(
            uris=(),
            delivery=Delivery.DATASET,
            destination="s3://bucket/birds",
            collect=CollectSpec(tables=(str(table),), restart=restart),
        )
        row = dataset_row(request, created_at=NOW, job_id="j")
        store.store.apply([PutJob(row)])
        return (
            await collections_of(store, tmp_path / "state", dataset).plan(row, json.loads(row.request))
        ).total_objects

    assert await plan(Restart.PARTITIONING, None) == 1, "nothing can have been collected yet"
    assert await plan(Restart.NOTHING, None) == 1
    with pytest.raises(Conflict, match="does not see"):
        await plan(Restart.PARTITIONING, None)
    with pytest.raises(Conflict, match="mount"):
        await plan(Restart.PARTITIONING, tmp_path / "absent")
    assert await plan(Restart.PARTITIONING, tmp_path) == 1
