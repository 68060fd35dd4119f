"""The coordinator's shell over both stores: what it acknowledged is stored, and a restart goes on from there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest

from shoal.common.errors import Busy, Conflict, NotFound, UsageError
from shoal.common.records import (
    Acks,
    Capacity,
    CoordinatorMessage,
    Drain,
    Failure,
    Goodbye,
    Grants,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Lease,
    LeaseRef,
    ObjectSpec,
    OriginKind,
    Outcome,
    Result,
    Results,
    Revoke,
    UnitKind,
    Welcome,
)
from shoal.common.views import AgentStatus, Control, JobStatus, JobView, ObjectStatus, Role, SubmitRequest
from shoal.coordinator.core import CoreLimits
from shoal.coordinator.effects import PutJob, Write
from shoal.coordinator.service import Coordinator
from shoal.coordinator.sources.base import Resolved, SourceRequest
from shoal.coordinator.store.base import Store
from shoal.coordinator.store.memory import MemoryStore
from shoal.coordinator.store.runner import StoreRunner
from shoal.coordinator.store.sqlite import SqliteStore
from support.no_tables import no_tables

T = TypeVar("T", bound=CoordinatorMessage)

NOW = 1_700_000_000.0
DEADLINE_S = 60.0  # of every wait: what takes longer hangs
MIB = 1 << 20
NEVER = CoreLimits(lease_ttl_s=7200.0, heartbeat_s=3600.0)  # no lease runs out, whatever the machine does


class FakeSource:
    """Files of a given size; waits for `go` before its listing."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.go = asyncio.Event()
        self.go.set()
        self.asked = asyncio.Event()
        self.cancelled = False
        self.refused: list[tuple[str, str]] = []
        self.refused_count = 0
        self.warnings: list[str] = []

    async def resolve(self) -> Resolved:
        self.asked.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return Resolved(source="hf://acme/tiny", origin=OriginKind.HUB, commit="c" * 40)

    async def pages(self) -> AsyncGenerator[list[ObjectSpec], None]:
        for number, size in enumerate(self.sizes, 1):
            yield [ObjectSpec(object_id=number, path=f"f{number:05}", size=size, digest="sha256:" + "0" * 64)]


class FakeAgent:
    """One session with the coordinator: what it was told is in `heard`."""

    def __init__(self, coordinator: Coordinator, name: str, *, slots: int = 64) -> None:
        self._coordinator = coordinator
        self.name = name
        self.capacity = Capacity(slots=slots, units_max=slots, bytes_max=1 << 40)
        self.heard: list[CoordinatorMessage] = []
        self.news = asyncio.Event()
        self.closed = ""
        self._seq = count(1)

    async def join(self, *, held: Sequence[LeaseRef] = (), results: Sequence[Result] = ()) -> Welcome:
        hello = Hello(
            agent_id=f"id-{self.name}",
            name=self.name,
            version="1",
            capacity=self.capacity,
            held=tuple(held),
            results=tuple(results),
        )
        self.session = await self._coordinator.open_session(hello, self._hear, self._close)
        return await self.told(Welcome)

    def _hear(self, message: CoordinatorMessage) -> None:
        self.heard.append(message)
        self.news.set()

    def _close(self, reason: str) -> None:
        self.closed = reason

    async def told(self, kind: type[T]) -> T:
        """The first message of a kind that was not asked for yet."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for message in self.heard:
                    if isinstance(message, kind):
                        self.heard.remove(message)
                        return message
                self.news.clear()
                await self.news.wait()

    async def lease(self, kind: UnitKind) -> Lease:
        """The one lease of the next grant."""
        (lease,) = (await self.told(Grants)).leases
        assert lease.kind is kind
        return lease

    def result(self, lease: Lease, outcome: Outcome = Outcome.DONE, **changes: object) -> Result:
        return Result(seq=next(self._seq), unit=lease.unit, token=lease.token, outcome=outcome, **changes)  # pyright: ignore[reportArgumentType]

    async def report(self, lease: Lease, outcome: Outcome = Outcome.DONE, **changes: object) -> bool:
        """Report and return whether it was accepted."""
        self.session.receive(Results((self.result(lease, outcome, **changes),)))
        (ack,) = (await self.told(Acks)).acks
        return ack.accepted


class RecordingLog:
    """A logger that keeps its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **values: object) -> None:
        self.events.append((event, values))

    warning = info


MakeStore = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    memory = MemoryStore(clock=lambda: NOW)

    def make() -> Store:
        if request.param == "memory":
            return memory  # what survives a restart is the instance itself
        return SqliteStore(tmp_path / "state.db", synchronous="NORMAL", clock=lambda: NOW)

    yield make


class Bench:
    """Starts coordinators one after the other on one state."""

    def __init__(self, make_store: MakeStore) -> None:
        self._make_store = make_store
        self._ids = count(1)
        self.sources: dict[str, FakeSource] = {}
        self.requests: list[SourceRequest] = []
        self.policies: dict[str, tuple[float, float, int]] = {}

    def _open_source(self, request: SourceRequest) -> FakeSource:
        self.requests.append(request)
        return self.sources[request.uri.canonical()]

    @asynccontextmanager
    async def running(self, store: Store | None = None) -> AsyncGenerator[Coordinator]:
        """A coordinator that runs. At the end of the block it stops in order."""
        made = store or self._make_store()
        runner = StoreRunner(made, blocks=not isinstance(made, MemoryStore))
        coordinator = Coordinator(
            runner,
            collections=no_tables(runner),
            open_source=self._open_source,
            new_id=lambda: f"j{next(self._ids)}",
            wall_clock=lambda: NOW,
            endpoints=("https://hub.example",),
            version="1",
            limits=NEVER,
            host_policies=self.policies,
        )
        await coordinator.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(coordinator.run())
                try:
                    async with asyncio.timeout(DEADLINE_S):
                        yield coordinator
                finally:
                    coordinator.stop()
        finally:
            await coordinator.close()

    def request(self, repo: str = "tiny", /, *sizes: int, **changes: object) -> SubmitRequest:
        """A request for a repo whose files have these sizes, from the first time that it is named."""
        uri = f"hf://acme/{repo}"
        self.sources.setdefault(uri, FakeSource(sizes or (10,)))
        return SubmitRequest(uris=(uri,), destination="/data", **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture
async def bench(make_store: MakeStore) -> Bench:
    return Bench(make_store)


async def last(coordinator: Coordinator, job_id: str) -> JobView:
    """The last view of a job, when it has ended."""
    return [view async for view in coordinator.watch_job(job_id)][-1]


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds; threads get their turn, too."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # what it looks at has no event
            await asyncio.sleep(0.001)


# --- a job's life ---------------------------------------------------------------------------------------------------


async def test_a_job_from_submission_to_its_end(bench: Bench) -> None:
    async with bench.running() as coordinator:
        agent = FakeAgent(coordinator, "a1")
        await agent.join()
        (submitted,) = await coordinator.submit(bench.request("tiny", 10, 20))
        assert submitted.created
        job_id = submitted.job.job_id
        grant = await agent.told(Grants)
        assert [job.job_id for job in grant.jobs] == [job_id]
        assert grant.jobs[0].commit == "c" * 40
        assert [lease.kind for lease in grant.leases] == [UnitKind.PREPARE]
        assert await agent.report(grant.leases[0])
        whole = await agent.told(Grants)
        assert whole.jobs == ()  # told already
        assert [lease.object.path for lease in whole.leases if lease.object] == ["f00002", "f00001"]  # largest first
        for lease in whole.leases:
            assert await agent.report(
                lease, size=lease.object.size if lease.object else 0, digest="sha256:ab", fetched=5
            )
        assert await agent.report(await agent.lease(UnitKind.FINALIZE))
        view = await last(coordinator, job_id)
        assert (view.status, view.objects_done, view.bytes_done, view.bytes_fetched) == (JobStatus.DONE, 2, 30, 10)
        assert view.ended_at == NOW
        objects = await coordinator.list_objects(job_id, status="done", after_id=0, limit=10)
        assert {(obj.path, obj.digest, obj.agent) for obj in objects} == {
            ("f00001", "sha256:ab", "a1"),
            ("f00002", "sha256:ab", "a1"),
        }
        specs, more = await coordinator.manifest(job_id, 0, 10)
        assert more is None
        assert [spec.path for spec in specs] == ["f00001", "f00002"]


async def test_the_same_request_shares_a_job_until_it_has_ended(bench: Bench) -> None:
    async with bench.running() as coordinator:
        (first,) = await coordinator.submit(bench.request())
        (again,) = await coordinator.submit(bench.request(priority=9, name="x"))
        assert (again.created, again.job.job_id) == (False, first.job.job_id)
        await coordinator.control(first.job.job_id, Control.CANCEL)
        (anew,) = await coordinator.submit(bench.request())
        assert anew.created
        with pytest.raises(UsageError):
            await coordinator.submit(SubmitRequest(uris=()))


async def test_a_report_under_an_old_token_is_fenced(bench: Bench) -> None:
    async with bench.running() as coordinator:
        first, second = FakeAgent(coordinator, "a1"), FakeAgent(coordinator, "a2")
        await first.join()
        (submitted,) = await coordinator.submit(bench.request())
        lease = await first.lease(UnitKind.PREPARE)
        await coordinator.control(submitted.job.job_id, Control.PAUSE)
        assert (await first.told(Revoke)).leases == (LeaseRef(lease.unit, lease.token),)
        assert not await first.report(lease)
        await second.join()
        await coordinator.control(submitted.job.job_id, Control.RESUME)
        assert coordinator.get_job(submitted.job.job_id).status is JobStatus.PREPARING


# --- durable --------------------------------------------------------------------------------------------------------


class GatedStore(MemoryStore):
    """A store whose writes wait at a gate, in the store's thread."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: NOW)
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.stored: list[str] = []

    def apply(self, writes: Sequence[Write]) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            assert self.gate.wait(DEADLINE_S)
        super().apply(writes)
        self.stored += [write.row.job_id for write in writes if isinstance(write, PutJob)]


async def test_what_is_acknowledged_is_stored_even_if_it_came_while_something_else_was_written(bench: Bench) -> None:
    store = GatedStore()
    ids = count(1)
    runner = StoreRunner(store, blocks=True)
    coordinator = Coordinator(
        runner,
        collections=no_tables(runner),
        open_source=bench._open_source,  # pyright: ignore[reportPrivateUsage]
        new_id=lambda: f"j{next(ids)}",
        wall_clock=lambda: NOW,
        endpoints=(),
        version="1",
        limits=NEVER,
    )
    first, second = bench.request("one"), bench.request("two")
    for source in bench.sources.values():
        source.go.clear()
    await coordinator.start()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(DEADLINE_S):
        tasks.create_task(coordinator.run())
        store.gate.clear()
        one = tasks.create_task(coordinator.submit(first))
        await until(store.waiting.is_set)  # the first job is on its way to the disk
        two = tasks.create_task(coordinator.submit(second))
        same = tasks.create_task(coordinator.submit(second))
        await until(lambda: "j2" in coordinator.core.jobs)
        stored: dict[str, list[str]] = {}
        for name, task in (("one", one), ("two", two), ("same", same)):
            task.add_done_callback(lambda _, name=name: stored.setdefault(name, list(store.stored)))
        store.gate.set()
        await asyncio.wait([one, two, same])
        coordinator.stop()
    await coordinator.close()
    assert "j1" in stored["one"]
    assert "j2" in stored["two"]
    assert "j2" in stored["same"]  # whoever is told of the job, by whichever request, may rely on it


async def test_nothing_is_sent_before_it_is_stored(bench: Bench) -> None:
    store = GatedStore()
    runner = StoreRunner(store, blocks=True)
    coordinator = Coordinator(
        runner,
        collections=no_tables(runner),
        open_source=bench._open_source,  # pyright: ignore[reportPrivateUsage]
        new_id=lambda: "j1",
        wall_clock=lambda: NOW,
        endpoints=(),
        version="1",
        limits=NEVER,
    )
    await coordinator.start()
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(DEADLINE_S):
        tasks.create_task(coordinator.run())
        agent = FakeAgent(coordinator, "a1")
        await agent.join()
        await coordinator.submit(bench.request())
        lease = await agent.lease(UnitKind.PREPARE)
        store.gate.clear()
        agent.session.receive(Results((agent.result(lease),)))
        await until(store.waiting.is_set)
        assert agent.heard == []
        store.gate.set()
        assert (await agent.told(Acks)).acks[0].accepted
        coordinator.stop()
    await coordinator.close()


async def test_a_restart_goes_on_where_it_was(bench: Bench) -> None:
    async with bench.running() as coordinator:
        agent = FakeAgent(coordinator, "a1")
        welcome = await agent.join()
        (submitted,) = await coordinator.submit(bench.request("tiny", 10, 20, 30, priority=3, name="mine"))
        await agent.report(await agent.lease(UnitKind.PREPARE))
        first, second, third = (await agent.told(Grants)).leases
        assert await agent.report(first, size=30, fetched=30)
        assert await agent.report(second, Outcome.FAILED, failure=Failure(code="timeout", text="slow"), fetched=3)
    job_id = submitted.job.job_id

    async with bench.running() as coordinator:
        assert len(bench.requests) == 1  # it was not listed again
        view = coordinator.get_job(job_id)
        assert (view.status, view.objects_done, view.bytes_done) == (JobStatus.RUNNING, 1, 30)
        assert (view.priority, view.name) == (3, "mine")
        assert [(agent.name, agent.from_origin) for agent in view.agents] == [("a1", 33)]
        (seen,) = coordinator.agents()
        assert (seen.name, seen.status) == ("a1", AgentStatus.LOST)
        again = FakeAgent(coordinator, "a1")
        unsent = Result(seq=9, unit=third.unit, token=third.token, outcome=Outcome.DONE, size=10)
        stale = Result(seq=8, unit=first.unit, token=first.token, outcome=Outcome.DONE, size=30)
        assert (await again.join(results=(stale, unsent))).incarnation == welcome.incarnation + 1
        acks = await again.told(Acks)
        assert [(ack.seq, ack.accepted) for ack in acks.acks] == [(8, False), (9, True)]
        lease = await again.lease(UnitKind.WHOLE)
        assert lease.object is not None
        assert second.object is not None
        assert lease.object.path == second.object.path
        assert lease.token > third.token
        assert await again.report(lease, size=20, fetched=20)
        assert await again.report(await again.lease(UnitKind.FINALIZE))
        view = await last(coordinator, job_id)
        assert (view.status, view.objects_done, view.bytes_done) == (JobStatus.DONE, 3, 60)

    async with bench.running() as coordinator:
        view = coordinator.get_job(job_id)
        assert (view.status, view.ended_at, view.objects_done) == (JobStatus.DONE, NOW, 3)
        assert [(agent.name, agent.from_origin) for agent in view.agents] == [("a1", 53)]


async def test_an_object_that_was_begun_anew_keeps_its_life_over_restarts(bench: Bench) -> None:
    changed = Failure(code="changed", text="it has another ETag")
    lives: list[int] = []
    for restart in range(4):
        async with bench.running() as coordinator:
            agent = FakeAgent(coordinator, "a1", slots=1)
            await agent.join()
            if not restart:
                await coordinator.submit(bench.request("tiny", 64 << 20))
                await agent.report(await agent.lease(UnitKind.PREPARE))
            opening = await agent.lease(UnitKind.OPEN)
            assert opening.object is not None
            lives.append(opening.object.life)
            if restart == 1:
                assert await agent.report(opening, done=())
                assert {lease.object and lease.object.life for lease in (await agent.told(Grants)).leases} == {lives[1]}
            else:
                assert await agent.report(opening, Outcome.FAILED, failure=changed)
    first, second, third, fourth = lives
    assert 0 == first < second == third < fourth


async def test_a_lease_that_is_claimed_after_a_restart_is_kept_and_another_is_not(bench: Bench) -> None:
    async with bench.running() as coordinator:
        agent = FakeAgent(coordinator, "a1")
        await agent.join()
        await coordinator.submit(bench.request("tiny", 10, 20))
        await agent.report(await agent.lease(UnitKind.PREPARE))
        kept, dropped = (await agent.told(Grants)).leases
    async with bench.running() as coordinator:
        again = FakeAgent(coordinator, "a1")
        foreign = LeaseRef("o99", 5)
        welcome = await again.join(held=[LeaseRef(kept.unit, kept.token), foreign])
        assert welcome.fenced == (foreign,)
        assert not await again.report(dropped, size=10)
        assert await again.report(kept, size=20)
        (granted,) = (await again.told(Grants)).leases
        assert granted.unit == dropped.unit
        assert granted.token > dropped.token


async def test_a_listing_that_was_cut_off_begins_anew(bench: Bench) -> None:
    request = bench.request("tiny", 10)
    source = bench.sources["hf://acme/tiny"]
    source.go.clear()
    async with bench.running() as coordinator:
        (submitted,) = await coordinator.submit(request)
        await source.asked.wait()
    assert source.cancelled
    source.go.set()
    async with bench.running() as coordinator:
        await until(lambda: coordinator.get_job(submitted.job.job_id).status is JobStatus.PREPARING)
        assert len(bench.requests) == 2


async def test_host_limits_and_credentials_are_remembered(bench: Bench) -> None:
    bench.policies["hub.example"] = (9.0, 0.0, 0)
    bench.policies["cdn.example"] = (8.0, 0.0, 5)
    async with bench.running() as coordinator:
        view = await coordinator.set_host_policy("HUB.example", 5.0, 100.0, 7)
        assert (view.host, view.requests_per_s, view.bytes_per_s) == ("hub.example", 5.0, 100.0)
        with pytest.raises(UsageError):
            await coordinator.set_host_policy("hub.example", -1.0, 0.0)
        made = await coordinator.tokens.create(Role.AGENT, "node", None)
        gone = await coordinator.tokens.create(Role.ADMIN, "me", None)
        await coordinator.tokens.revoke(gone.view.token_id)
    async with bench.running() as coordinator:
        limits = {view.host: view.requests_per_s for view in coordinator.hosts()}
        assert limits == {"hub.example": 5.0, "cdn.example": 8.0}
        assert {view.host: view.connections for view in coordinator.hosts()} == {"hub.example": 7, "cdn.example": 5}
        assert [view.token_id for view in coordinator.tokens.list()] == [made.view.token_id]
        assert coordinator.tokens.check(made.token.reveal()).name == "node"


# --- control --------------------------------------------------------------------------------------------------------


async def test_control_of_a_job(bench: Bench) -> None:
    async with bench.running() as coordinator:
        (submitted,) = await coordinator.submit(bench.request())
        job_id = submitted.job.job_id
        await until(lambda: coordinator.get_job(job_id).status is JobStatus.PREPARING)
        assert (await coordinator.control(job_id, Control.PAUSE)).paused
        assert not (await coordinator.control("acme/tiny", Control.RESUME)).paused
        with pytest.raises(Conflict, match="nothing to retry"):
            await coordinator.control(job_id, Control.RETRY)
        assert (await coordinator.control(job_id, Control.CANCEL)).status is JobStatus.CANCELLED
        for action in (Control.CANCEL, Control.PAUSE, Control.RESUME):
            with pytest.raises(Conflict, match="has ended"):
                await coordinator.control(job_id, action)
        assert (await coordinator.control(job_id, Control.RETRY)).status is JobStatus.PREPARING
        with pytest.raises(NotFound):
            await coordinator.control("j99", Control.PAUSE)
        with pytest.raises(UsageError, match="queued, done, failed"):
            await coordinator.list_objects(job_id, status="lost", after_id=0, limit=1)


async def test_a_cancelled_listing_stops_and_a_retry_lists_once(bench: Bench) -> None:
    request = bench.request("tiny", 10, 20)
    source = bench.sources["hf://acme/tiny"]
    source.go.clear()
    async with bench.running() as coordinator:
        (submitted,) = await coordinator.submit(request)
        job_id = submitted.job.job_id
        await source.asked.wait()
        await coordinator.control(job_id, Control.CANCEL)
        await until(lambda: source.cancelled)
        again = bench.sources["hf://acme/tiny"] = FakeSource((10, 20))
        await coordinator.control(job_id, Control.RETRY)
        source.go.set()
        await until(lambda: coordinator.get_job(job_id).status is JobStatus.PREPARING)
        assert again.asked.is_set()
        assert coordinator.get_job(job_id).objects_total == 2


async def test_a_job_that_is_cancelled_while_its_objects_are_loaded_can_be_retried(bench: Bench) -> None:
    """The answer to a load must reach the core although the job has ended; else the retried job waits for it for ever."""
    store = bench._make_store()  # pyright: ignore[reportPrivateUsage]
    read = store.queued_objects
    coordinators: list[Coordinator] = []

    def cancelling(job_id: str, after: object, limit: int) -> object:
        found = read(job_id, after, limit)  # pyright: ignore[reportArgumentType]
        if coordinators:
            coordinators.pop().core.cancel(
                job_id
            )  # the loop waits for us: this is as if it came just before our answer
        return found

    store.queued_objects = cancelling  # type: ignore[method-assign]
    async with bench.running(store) as coordinator:
        agent = FakeAgent(coordinator, "a1")
        await agent.join()
        (submitted,) = await coordinator.submit(bench.request("tiny", 10))
        job_id = submitted.job.job_id
        coordinators.append(coordinator)
        await agent.report(await agent.lease(UnitKind.PREPARE))
        assert (await last(coordinator, job_id)).status is JobStatus.CANCELLED
        await coordinator.control(job_id, Control.RETRY)
        await agent.report(await agent.lease(UnitKind.PREPARE))
        await agent.report(await agent.lease(UnitKind.WHOLE), size=10)
        await agent.report(await agent.lease(UnitKind.FINALIZE))
        assert (await last(coordinator, job_id)).status is JobStatus.DONE


async def test_failed_objects_are_listed_and_come_back_by_retry(bench: Bench) -> None:
    async with bench.running() as coordinator:
        agent = FakeAgent(coordinator, "a1")
        await agent.join()
        (submitted,) = await coordinator.submit(bench.request("tiny", 10, 20))
        job_id = submitted.job.job_id
        await agent.report(await agent.lease(UnitKind.PREPARE))
        big, small = (await agent.told(Grants)).leases
        await agent.report(big, Outcome.FAILED, failure=Failure(code="not-found", text="gone", retryable=False))
        await agent.report(small, size=10)
        await agent.report(await agent.lease(UnitKind.FINALIZE))
        view = await last(coordinator, job_id)
        assert (view.status, view.objects_done, view.objects_failed) == (JobStatus.FAILED, 1, 1)
        (failed,) = await coordinator.list_objects(job_id, status="failed", after_id=0, limit=10)
        assert (failed.path, failed.status) == ("f00002", ObjectStatus.FAILED)
        assert failed.failure is not None
        assert failed.failure.text == "gone"

        await coordinator.control(job_id, Control.RETRY)
        await agent.report(await agent.lease(UnitKind.PREPARE))
        again = await agent.lease(UnitKind.WHOLE)
        assert again.object is not None
        assert again.object.path == "f00002"
        await agent.report(again, size=20)
        await agent.report(await agent.lease(UnitKind.FINALIZE))
        view = await last(coordinator, job_id)
        assert (view.status, view.objects_done, view.objects_failed, view.bytes_done) == (JobStatus.DONE, 2, 0, 30)


async def test_more_objects_than_memory_holds_at_a_time(bench: Bench) -> None:
    objects = 5000  # more than one load
    async with bench.running() as coordinator:
        agent = FakeAgent(coordinator, "a1", slots=1000)
        await agent.join()
        (submitted,) = await coordinator.submit(bench.request("many", *[1] * objects))
        await agent.report(await agent.lease(UnitKind.PREPARE))
        seen: set[str] = set()
        while True:
            leases = (await agent.told(Grants)).leases
            if leases[0].kind is UnitKind.FINALIZE:
                break
            names = {lease.object.path for lease in leases if lease.object}
            assert not names & seen  # nothing twice
            seen |= names
            agent.session.receive(Results(tuple(agent.result(lease, size=1) for lease in leases)))
            assert all(ack.accepted for ack in (await agent.told(Acks)).acks)
            in_memory = len(coordinator.core.jobs[submitted.job.job_id].objects)
            assert in_memory <= 4096 + 512
        assert len(seen) == objects
        await agent.report(leases[0])
        assert (await last(coordinator, submitted.job.job_id)).objects_done == objects


# --- sessions -------------------------------------------------------------------------------------------------------


async def test_a_newer_session_of_an_agent_replaces_the_older(bench: Bench) -> None:
    async with bench.running() as coordinator:
        older, newer = FakeAgent(coordinator, "a1"), FakeAgent(coordinator, "a1")
        await older.join()
        await coordinator.submit(bench.request())
        lease = await older.lease(UnitKind.PREPARE)
        await newer.join(held=[LeaseRef(lease.unit, lease.token)])
        assert "newer session" in older.closed
        older.session.receive(Heartbeat(seq=1))
        older.session.receive(Results((older.result(lease),)))
        older.session.lost()  # of no effect on the newer one
        assert await newer.report(lease)
        assert older.heard == []
        assert [agent.status for agent in coordinator.agents()] == [AgentStatus.ALIVE]


async def test_a_heartbeat_is_answered(bench: Bench) -> None:
    async with bench.running() as coordinator:
        agent = FakeAgent(coordinator, "a1")
        await agent.join()
        agent.session.receive(Heartbeat(seq=5, held=(LeaseRef("o1", 1),)))
        assert (await agent.told(Revoke)).leases == (LeaseRef("o1", 1),)
        assert (await agent.told(HeartbeatAck)).seq == 5


async def test_goodbye_frees_work_at_once(bench: Bench) -> None:
    async with bench.running() as coordinator:
        leaving, staying = FakeAgent(coordinator, "a1"), FakeAgent(coordinator, "a2")
        await leaving.join()
        await coordinator.submit(bench.request())
        lease = await leaving.lease(UnitKind.PREPARE)
        await staying.join()
        leaving.session.receive(Goodbye("draining"))
        assert (await staying.lease(UnitKind.PREPARE)).token > lease.token
        assert {agent.name: agent.status for agent in coordinator.agents()} == {
            "a1": AgentStatus.LEFT,
            "a2": AgentStatus.ALIVE,
        }


async def test_an_agent_can_be_asked_to_leave(bench: Bench) -> None:
    async with bench.running() as coordinator:
        agent = FakeAgent(coordinator, "a1")
        await agent.join()
        await coordinator.drain_agent("a1")
        assert not (await agent.told(Drain)).reconnect
        assert coordinator.agents()[0].status is AgentStatus.DRAINING
        await coordinator.submit(bench.request())
        await until(lambda: coordinator.get_job("acme/tiny").status is JobStatus.PREPARING)
        assert coordinator.fleet().units_leased == 0  # it gets nothing more
        agent.session.receive(Goodbye("draining"))
        with pytest.raises(Conflict, match="not connected"):
            await coordinator.drain_agent("a1")
        with pytest.raises(NotFound):
            await coordinator.drain_agent("a9")


async def test_an_agent_that_does_not_see_the_folder_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RecordingLog()
    monkeypatch.setattr("shoal.coordinator.notices.log", log)
    async with bench.running() as coordinator:
        blind, seeing = FakeAgent(coordinator, "blind"), FakeAgent(coordinator, "seeing")
        await blind.join()
        await coordinator.submit(bench.request())
        lease = await blind.lease(UnitKind.PREPARE)
        await seeing.join()
        not_shared = Failure(code="not-shared", text="/data: it is not the folder of the others")
        assert await blind.report(lease, Outcome.FAILED, failure=not_shared)
        assert await seeing.report(await seeing.lease(UnitKind.PREPARE))
    told = [values for event, values in log.events if event == "agent.left_out"]
    assert told == [{"agent": "blind", "job": "j1", "error": "/data: it is not the folder of the others"}]


async def test_two_coordinators_on_one_state_are_refused(tmp_path: Path) -> None:
    def make() -> Store:
        return SqliteStore(tmp_path / "state.db", synchronous="NORMAL", clock=lambda: NOW)

    bench = Bench(make)
    async with bench.running():
        with pytest.raises(Busy):
            async with bench.running():
                pass
    async with bench.running() as coordinator:
        assert coordinator.fleet().incarnation == 2
