"""The agent's shell with a link and a worker that are played: it reconnects, sends again what was not acknowledged, and drains."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from shoal.agent.service import Agent
from shoal.agent.session import Identity
from shoal.common.errors import (
    AccessDenied,
    Busy,
    Conflict,
    ProtocolViolation,
    ShoalError,
    Unauthenticated,
    Unreachable,
    UsageError,
)
from shoal.common.records import (
    Ack,
    Acks,
    AgentMessage,
    Budgets,
    Capacity,
    CoordinatorMessage,
    Drain,
    Goodbye,
    Grants,
    Heartbeat,
    HeartbeatAck,
    Hello,
    HostBudget,
    HostObservation,
    JobSpec,
    Layout,
    Lease,
    LeaseRef,
    ObjectSpec,
    OriginKind,
    Outcome,
    Progress,
    Result,
    Results,
    Revoke,
    UnitKind,
    Welcome,
    WorkReport,
    Yield,
)
from shoal.common.swarm_records import SwarmOrders

T = TypeVar("T", bound=AgentMessage)

CAPACITY = Capacity(slots=2, units_max=4, bytes_max=1 << 30)
WELCOME = Welcome(incarnation=1, heartbeat_s=3600.0, lease_ttl_s=7200.0)  # beats come when they are asked for
JOB = JobSpec(job_id="j1", source="hf://a/b", origin=OriginKind.HUB, layout=Layout.FOLDER, destination="/data")
DEADLINE_S = 60.0  # of every wait: what takes longer hangs


class Fixed(random.Random):
    """No jitter: every wait of a backoff is its shortest, none, and written down as its longest."""

    def __init__(self) -> None:
        super().__init__(0)
        self.ceilings: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.ceilings.append(b)
        return a


class FakeLink:
    """One session. The test is the coordinator: it looks at `sent` and says things with `say`."""

    def __init__(self) -> None:
        self.sent: list[AgentMessage] = []
        self.news = asyncio.Event()
        self.closed = asyncio.Event()
        self._incoming: asyncio.Queue[CoordinatorMessage | ShoalError] = asyncio.Queue()

    async def send(self, message: AgentMessage) -> None:
        self.sent.append(message)
        self.news.set()

    async def __aiter__(self) -> AsyncGenerator[CoordinatorMessage]:
        while True:
            said = await self._incoming.get()
            if isinstance(said, ShoalError):
                raise said
            yield said

    async def manifest_pages(self, job_id: str, *, unfinished_too: bool = False) -> AsyncIterator[Sequence[ObjectSpec]]:
        yield [ObjectSpec(object_id=1, path=f"{job_id}/f", size=1)]

    def say(self, *messages: CoordinatorMessage) -> None:
        for message in messages:
            self._incoming.put_nowait(message)

    def fail(self, error: ShoalError | None = None) -> None:
        """The connection breaks."""
        self._incoming.put_nowait(error or Unreachable("coordinator", cause="the connection broke"))

    async def next(self, kind: type[T], count: int = 1) -> T:
        """The count-th message of a kind, when it has been sent."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = [message for message in self.sent if isinstance(message, kind)]
                if len(found) >= count:
                    return found[count - 1]
                self.news.clear()
                await self.news.wait()


class FakeBudgets:
    """Writes down its shares, and tells what it was given to tell."""

    def __init__(self) -> None:
        self.budgets: list[HostBudget] = []
        self.observations: list[HostObservation] = []
        self.renewals: list[bool] = []
        self.obeyed = 0
        self.urgent: Callable[[], None] = lambda: None

    @property
    def is_pressing(self) -> bool:
        return any(seen.throttled for seen in self.observations)

    def set_budgets(self, budgets: Sequence[HostBudget], now: float, version: int) -> None:
        self.budgets.extend(budgets)
        self.obeyed = version

    def renewed(self, until: float, now: float, *, anew: bool) -> None:
        self.renewals.append(anew)

    def versions(self, now: float) -> tuple[int, int]:
        return self.obeyed, 0

    def take_observations(self) -> tuple[HostObservation, ...]:
        taken = tuple(self.observations)
        self.observations.clear()
        return taken


class FakeWorker:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.log: list[tuple[str, object]] = []
        self.destinations: list[str] = []
        self.deadlines: dict[str, Callable[[], float]] = {}
        self.throttle = FakeBudgets()
        self.orders: list[SwarmOrders] = []
        self.admissions = 0
        self.at_drain: Callable[[], None] = lambda: None

    def start(self, lease: Lease, job: JobSpec, deadline: Callable[[], float]) -> None:
        self.log.append(("start", LeaseRef(lease.unit, lease.token)))
        self.destinations.append(job.destination)
        self.deadlines[lease.unit] = deadline

    def stop(self, ref: LeaseRef) -> None:
        self.log.append(("stop", ref))

    def give_back(self, ref: LeaseRef) -> None:
        self.log.append(("give back", ref))

    def admitted(self) -> None:
        self.admissions += 1

    def obey(self, orders: SwarmOrders) -> None:
        self.orders.append(orders)

    def progress(self) -> tuple[Progress, ...]:
        return ()

    async def drain(self, grace_s: float) -> None:
        self.log.append(("drain", grace_s > 0))
        self.at_drain()


class FakeJournal:
    """Keeps reports in memory, in the order of events; broken: every write fails."""

    def __init__(self, *results: Result) -> None:
        self.pending = {result.seq: result for result in results}
        self.broken = False

    def put(self, results: Iterable[Result]) -> None:
        if self.broken:
            raise OSError("no space left")
        self.pending.update({result.seq: result for result in results})

    def drop(self, seqs: Iterable[int]) -> None:
        if self.broken:
            raise OSError("no space left")
        for seq in seqs:
            self.pending.pop(seq, None)


class Bench:
    """An agent that runs. `links` are its sessions so far; failures are what its next attempts to connect meet."""

    def __init__(self, *unreported: Result) -> None:
        self.links: list[FakeLink] = []
        self.failures: list[ShoalError] = []
        self.worker = FakeWorker()
        self.journal = FakeJournal(*unreported)
        self.rng = Fixed()
        self._opened = asyncio.Event()
        self.agent = Agent(
            identity=Identity(agent_id="id", name="a1", version="1"),
            capacity=CAPACITY,
            journal=self.journal,
            connect=self._connect,
            rng=self.rng,
            hub_cache=Path("/home/hub"),
        )

    @asynccontextmanager
    async def _connect(self) -> AsyncGenerator[FakeLink]:
        if self.failures:
            raise self.failures.pop(0)
        link = FakeLink()
        self.links.append(link)
        self._opened.set()
        try:
            yield link
        finally:
            link.closed.set()

    async def session(self, number: int) -> FakeLink:
        """The number-th session, when the agent has said hello in it."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.links) < number:
                self._opened.clear()
                await self._opened.wait()
        link = self.links[number - 1]
        await link.next(Hello)
        return link

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.Task[None]]:
        """Run the agent; at the end of the block it is asked to stop, unless it has ended by itself."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.agent.run(self.worker))
            yield task
            self.agent.stop()
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wait([task])

    async def granted(self, link: FakeLink, *leases: Lease) -> None:
        """Welcome the agent and grant it leases; returns when it works on them."""
        link.say(WELCOME, Grants(leases=leases, jobs=(JOB,)))
        await link.next(Heartbeat)
        await until(lambda: len(self.worker.deadlines) >= len(leases))


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # what it looks at has no event
            await asyncio.sleep(0)


def lease(unit: str, token: int = 1, **changes: object) -> Lease:
    spec = ObjectSpec(object_id=1, path="f", size=10)
    return Lease(unit=unit, token=token, kind=UnitKind.WHOLE, job_id="j1", object=spec, **changes)  # pyright: ignore[reportArgumentType]


def done(unit: str, token: int = 1) -> WorkReport:
    return WorkReport(unit=unit, token=token, outcome=Outcome.DONE, size=10)


def result(seq: int) -> Result:
    return Result(seq=seq, unit=f"o{seq}", token=seq, outcome=Outcome.DONE)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


# --- a session ------------------------------------------------------------------------------------------------------


async def test_it_introduces_itself_and_works(bench: Bench) -> None:
    async with bench.running():
        link = await bench.session(1)
        hello = await link.next(Hello)
        assert (hello.agent_id, hello.name, hello.capacity, hello.held, hello.results) == ("id", "a1", CAPACITY, (), ())
        assert not bench.agent.connected.is_set()
        await bench.granted(link, lease("o1"), lease("o2"))
        assert bench.agent.connected.is_set()
        assert bench.agent.held == 2
        assert bench.worker.destinations == ["/data", "/data"]
        bench.agent.report(done("o1"))
        sent = await link.next(Results)
        assert [(report.seq, report.unit, report.outcome) for report in sent.results] == [(1, "o1", Outcome.DONE)]
        assert bench.journal.pending == {1: sent.results[0]}
        link.say(Acks((Ack(1, True),)))
        await until(lambda: not bench.journal.pending)


async def test_reports_of_one_turn_travel_together(bench: Bench) -> None:
    async with bench.running():
        link = await bench.session(1)
        await bench.granted(link, lease("o1"), lease("o2"))
        bench.agent.report(done("o1"))
        bench.agent.report(done("o2"))
        assert [report.unit for report in (await link.next(Results)).results] == ["o1", "o2"]


async def test_a_job_without_a_destination_goes_to_this_agents_hub_cache(bench: Bench) -> None:
    async with bench.running():
        link = await bench.session(1)
        job = JobSpec(job_id="j1", source="s", origin=OriginKind.HUB, layout=Layout.HUB_CACHE, destination="")
        link.say(WELCOME, Grants(leases=(lease("o1"),), jobs=(job,)))
        await until(lambda: bench.worker.destinations)
        assert bench.worker.destinations == ["/home/hub"]


async def test_what_the_coordinator_says_reaches_the_worker(bench: Bench) -> None:
    async with bench.running():
        link = await bench.session(1)
        await bench.granted(link, lease("o1"), lease("o2"))
        budget = HostBudget(host="h", requests_per_s=1.0, blocked_s=2.0)
        link.say(Yield((LeaseRef("o1", 1), LeaseRef("o9", 9))), Budgets((budget,), 5), Revoke((LeaseRef("o2", 1),)))
        await until(lambda: bench.agent.held == 1)
        assert bench.worker.throttle.budgets == [budget]
        assert bench.worker.throttle.obeyed == 5
        assert bench.worker.log[2:] == [("give back", LeaseRef("o1", 1)), ("stop", LeaseRef("o2", 1))]
        assert bench.worker.deadlines["o2"]() == float("-inf")


async def test_a_heartbeat_renews_what_is_held(bench: Bench) -> None:
    async with bench.running():
        link = await bench.session(1)
        link.say(WELCOME)
        await link.next(Heartbeat)
        link.say(Grants(leases=(lease("o1", ttl_s=60.0),), jobs=(JOB,)))
        await until(lambda: bench.worker.deadlines)
        before = bench.worker.deadlines["o1"]()
        bench.worker.throttle.observations.append(HostObservation(host="h", throttled=1, retry_after_s=3.0))
        beat = await link.next(Heartbeat, 2)  # what a host asks for cannot wait for the next one
        assert beat.held == (LeaseRef("o1", 1),)
        assert [seen.retry_after_s for seen in beat.hosts] == [3.0]
        assert beat.memory > 0
        link.say(HeartbeatAck(beat.seq))
        await until(lambda: bench.worker.deadlines["o1"]() > before + 1000)
        assert bench.worker.throttle.renewals[0]
        assert not any(bench.worker.throttle.renewals[1:])


async def test_what_a_host_asked_for_is_told_once_there_is_somebody_to_tell(bench: Bench) -> None:
    bench.failures = [Unreachable("coordinator")] * 3
    bench.worker.throttle.observations.append(HostObservation(host="h", throttled=1, retry_after_s=3.0))
    async with bench.running():
        link = await bench.session(1)
        link.say(WELCOME)
        beat = await link.next(Heartbeat)
        assert [seen.host for seen in beat.hosts] == ["h"]


async def test_manifest_pages_come_from_the_coordinator(bench: Bench) -> None:
    with pytest.raises(ShoalError, match="not connected"):
        async for _ in bench.agent.manifest_pages("j1"):
            pass
    async with bench.running():
        await bench.session(1)
        assert [spec.path for page in [p async for p in bench.agent.manifest_pages("j1")] for spec in page] == ["j1/f"]


# --- reconnecting ---------------------------------------------------------------------------------------------------


async def test_after_a_break_it_comes_back_and_claims_what_it_holds(bench: Bench) -> None:
    async with bench.running():
        first = await bench.session(1)
        await bench.granted(first, lease("o1"), lease("o2"), lease("o3"))
        bench.agent.report(done("o1"))
        reported = (await first.next(Results)).results
        first.fail()
        await first.closed.wait()
        bench.agent.report(done("o2"))  # while nobody listens
        second = await bench.session(2)
        hello = await second.next(Hello)
        assert set(hello.held) <= {LeaseRef("o2", 1), LeaseRef("o3", 1)}
        assert LeaseRef("o3", 1) in hello.held
        assert hello.results[0] == reported[0]
        assert ("stop", LeaseRef("o3", 1)) not in bench.worker.log  # the work goes on


async def test_reports_made_in_between_are_in_the_next_hello_and_not_sent_twice(bench: Bench) -> None:
    async with bench.running():
        first = await bench.session(1)
        await bench.granted(first, lease("o1"), lease("o2"))
        bench.failures = [Unreachable("coordinator")]
        first.fail()
        await first.closed.wait()
        bench.agent.report(done("o1"))
        await until(lambda: bench.journal.pending)
        second = await bench.session(2)
        assert [report.unit for report in (await second.next(Hello)).results] == ["o1"]
        second.say(WELCOME)
        await second.next(Heartbeat)
        bench.agent.report(done("o2"))
        sent = await second.next(Results)
        assert [(report.seq, report.unit) for report in sent.results] == [(2, "o2")]
        assert [type(message) for message in second.sent] == [Hello, Heartbeat, Results]


async def test_what_the_journal_held_is_reported_first_and_seqs_go_on() -> None:
    bench = Bench(result(4), result(7))
    async with bench.running():
        link = await bench.session(1)
        assert (await link.next(Hello)).results == (result(4), result(7))
        link.say(WELCOME, Acks((Ack(4, True), Ack(7, False))))
        await until(lambda: not bench.journal.pending)
        await bench.granted(link, lease("o1"))
        bench.agent.report(done("o1"))
        assert (await link.next(Results)).results[0].seq == 8


async def test_leases_that_are_no_longer_its_own_are_stopped(bench: Bench) -> None:
    async with bench.running():
        first = await bench.session(1)
        await bench.granted(first, lease("o1"), lease("o2"))
        first.fail()
        second = await bench.session(2)
        second.say(Welcome(incarnation=2, heartbeat_s=3600.0, lease_ttl_s=7200.0, fenced=(LeaseRef("o1", 1),)))
        await until(lambda: bench.agent.held == 1)
        assert bench.worker.log[-1] == ("stop", LeaseRef("o1", 1))


async def test_waits_grow_while_nobody_answers_and_begin_anew_after_a_session(bench: Bench) -> None:
    bench.failures = [Unreachable("coordinator")] * 4
    async with bench.running():
        first = await bench.session(1)
        assert bench.rng.ceilings == [0.5, 1.0, 2.0, 4.0]
        first.say(WELCOME)
        await first.next(Heartbeat)
        first.fail()
        second = await bench.session(2)
        assert bench.rng.ceilings[4:] == [0.5]
        second.fail()  # before a welcome: that was no session
        await bench.session(3)
        assert bench.rng.ceilings[5:] == [1.0]


@pytest.mark.parametrize("kind", [Unauthenticated, AccessDenied, UsageError, Conflict])
async def test_what_trying_again_cannot_help_ends_it(bench: Bench, kind: type[ShoalError]) -> None:
    bench.failures = [kind("session", cause="of a reason")]
    with pytest.raises(ExceptionGroup) as ended:
        async with bench.running():
            await asyncio.sleep(DEADLINE_S)  # cancelled by what ends the agent
    assert ended.group_contains(kind)
    assert bench.links == []


async def test_a_refusal_in_the_middle_of_a_session_ends_it_too(bench: Bench) -> None:
    with pytest.raises(ExceptionGroup) as ended:
        async with bench.running():
            (await bench.session(1)).fail(Unauthenticated("stream", cause="the credential was revoked"))
            await asyncio.sleep(DEADLINE_S)
    assert ended.group_contains(Unauthenticated)
    assert len(bench.links) == 1


@pytest.mark.parametrize("kind", [ShoalError, Busy, Unreachable, ProtocolViolation])
async def test_no_other_error_ends_it(bench: Bench, kind: type[ShoalError]) -> None:
    """A plain ShoalError is what gRPC says of a connection that broke in a way it did not expect: "Internal error from Core"."""
    async with bench.running():
        (await bench.session(1)).fail(kind("coordinator", cause="Internal error from Core"))
        await bench.session(2)


async def test_a_coordinator_that_restarts_is_left_without_goodbye_and_work_goes_on(bench: Bench) -> None:
    async with bench.running() as task:
        first = await bench.session(1)
        await bench.granted(first, lease("o1"))
        first.say(Drain("the coordinator stops", reconnect=True))
        await first.closed.wait()
        second = await bench.session(2)
        assert (await second.next(Hello)).held == (LeaseRef("o1", 1),)
        assert not task.done()
        assert not any(isinstance(message, Goodbye) for message in first.sent)
        assert ("drain", True) not in bench.worker.log


async def test_a_journal_that_cannot_be_written_does_not_keep_reports_back(bench: Bench) -> None:
    async with bench.running():
        link = await bench.session(1)
        await bench.granted(link, lease("o1"))
        bench.journal.broken = True
        bench.agent.report(done("o1"))
        assert [report.unit for report in (await link.next(Results)).results] == ["o1"]
        link.say(Acks((Ack(1, True),)), Grants(leases=(lease("o2"),)))
        await until(lambda: bench.agent.held == 1)  # it goes on


# --- leaving --------------------------------------------------------------------------------------------------------


async def test_a_drain_gives_work_back_and_says_goodbye_last(bench: Bench) -> None:
    async with bench.running() as task:
        link = await bench.session(1)
        await bench.granted(link, lease("o1"))
        returned = WorkReport(unit="o1", token=1, outcome=Outcome.RETURNED)
        bench.worker.at_drain = lambda: bench.agent.report(returned)
        bench.agent.stop()
        async with asyncio.timeout(DEADLINE_S):
            await task
        assert [type(message) for message in link.sent[-2:]] == [Results, Goodbye]
        assert link.closed.is_set()


async def test_the_coordinator_can_ask_it_to_leave(bench: Bench) -> None:
    async with bench.running() as task:
        link = await bench.session(1)
        await bench.granted(link, lease("o1"))
        link.say(Drain("an administrator asked for it"))
        async with asyncio.timeout(DEADLINE_S):
            await task
        assert isinstance(link.sent[-1], Goodbye)


async def test_it_leaves_at_once_where_nobody_listens(bench: Bench) -> None:
    bench.failures = [Unreachable("coordinator")] * 1_000_000
    async with bench.running() as task:
        await until(lambda: len(bench.rng.ceilings) > 3)
        bench.agent.stop()
        async with asyncio.timeout(DEADLINE_S):
            await task
    assert ("drain", True) in bench.worker.log


async def test_a_goodbye_is_not_held_up_by_what_an_earlier_session_left_unsent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A wait for the lost message would only end after this.
    monkeypatch.setattr("shoal.agent.service.LINK_CLOSE_S", 10 * DEADLINE_S)
    async with bench.running() as task:
        first = await bench.session(1)
        await bench.granted(first, lease("o1"), lease("o2"))

        async def stuck(message: AgentMessage) -> None:
            await asyncio.Event().wait()

        first.send = stuck  # type: ignore[method-assign]
        bench.agent.report(done("o1"))
        await until(lambda: len(bench.journal.pending) == 1)
        bench.agent.report(done("o2"))
        await until(lambda: len(bench.journal.pending) == 2)
        first.fail()
        second = await bench.session(2)
        second.say(WELCOME)
        await second.next(Heartbeat)
        bench.agent.stop()
        async with asyncio.timeout(DEADLINE_S):
            await task
        assert isinstance(second.sent[-1], Goodbye)
