"""Views of the core's state: who is found by which name, what counts as arrived, how an agent is doing, how fast a job is."""

from __future__ import annotations

import json

import pytest

from shoal.common.errors import Conflict, NotFound
from shoal.common.records import (
    Capacity,
    Failure,
    Goodbye,
    Grants,
    Heartbeat,
    Hello,
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
    UnitKind,
)
from shoal.common.views import ActivePhase, AgentStatus, JobStatus, ObjectStatus
from shoal.coordinator.core import Core, CoreLimits
from shoal.coordinator.effects import PutAgent
from shoal.coordinator.model import JobRow
from shoal.coordinator.reading import AGENTS_MAX, METER_WINDOW_S, Meter, Reader, arrived_bytes
from shoal.coordinator.store.base import ObjectRow

MIB = 1 << 20
LIMITS = CoreLimits(lease_ttl_s=30.0, heartbeat_s=5.0)
REQUEST = json.dumps({"destination": "/asked", "revision": "asked"})


class Bench:
    """A core that is driven by events, as the shell drives it."""

    def __init__(self) -> None:
        self.core = Core(incarnation=3, limits=LIMITS)
        self.known = [PutAgent(agent_id="old", name="gone", version="0", zone="z")]
        self.reader = Reader(self.core, self.known, version="1.2", started_at=100.0)
        self.held: dict[str, list[Lease]] = {}
        self.seq = 0
        self.objects = 0  # ids are unique over all jobs

    def job(self, job_id: str, **changes: object) -> JobRow:
        row = JobRow(
            **{
                "job_id": job_id,
                "uri": f"hf://acme/{job_id}",
                "name": "",
                "fingerprint": job_id,
                "request": REQUEST,
                "priority": 0,
                "created_at": 1.0,
                **changes,
            }  # pyright: ignore[reportArgumentType]
        )
        self.core.add_job(row)
        return row

    def running(self, job_id: str, *sizes: int | None, now: float = 0.0, **changes: object) -> JobRow:
        """A job whose objects are in memory, granted as far as the agents' credit goes."""
        row = self.job(job_id, **changes)
        known = [size or 0 for size in sizes]
        spec = JobSpec(
            job_id=job_id,
            source=row.uri,
            origin=OriginKind.HUB,
            layout=Layout.FOLDER,
            destination="/data",
            commit="c0",
            revision="main",
        )
        self.core.job_listed(job_id, spec, len(sizes), sum(known))
        row.status = JobStatus.RUNNING
        self.core.jobs[job_id].loading = True
        objects = [
            (ObjectSpec(object_id=self.objects + number, path=f"{job_id}/f{number}", size=size), 0)
            for number, size in enumerate(sizes, 1)
        ]
        self.objects += len(sizes)
        self.core.objects_loaded(job_id, objects, more=False)
        self.turn(now)
        return row

    def hello(self, name: str, now: float = 0.0, *, slots: int = 4) -> None:
        capacity = Capacity(slots=slots, units_max=slots, bytes_max=1 << 40)
        hello = Hello(agent_id=f"id-{name}", name=name, version="1", capacity=capacity, zone="z1")
        self.core.receive(hello.agent_id, hello, now)
        self.turn(now)

    def turn(self, now: float) -> None:
        self.core.tick(now)
        self.core.assign(now)
        for send in self.core.take_effects().sends:
            if isinstance(send.message, Grants):
                self.held.setdefault(send.agent_id, []).extend(send.message.leases)

    def beat(self, name: str, now: float, *, arrived: int = 0, memory: int = 0) -> None:
        leases = self.held.get(f"id-{name}", [])
        progress = tuple(Progress(lease.unit, lease.token, arrived) for lease in leases if arrived)
        refs = tuple(LeaseRef(lease.unit, lease.token) for lease in leases)
        self.core.receive(f"id-{name}", Heartbeat(held=refs, progress=progress, memory=memory), now)

    def report(self, name: str, lease: Lease, now: float, outcome: Outcome = Outcome.DONE, **changes: object) -> None:
        self.seq += 1
        result = Result(seq=self.seq, unit=lease.unit, token=lease.token, outcome=outcome, **changes)  # pyright: ignore[reportArgumentType]
        if outcome is not Outcome.PARTIAL:
            self.held[f"id-{name}"].remove(lease)
        self.core.receive(f"id-{name}", Results((result,)), now)
        self.turn(now)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- finding --------------------------------------------------------------------------------------------------------


def test_a_job_is_found_by_id_name_and_source(bench: Bench) -> None:
    bench.job("j1", uri="hf://acme/tiny", name="mine")
    for wanted in ("j1", "mine", "hf://acme/tiny", "acme/tiny"):
        assert bench.reader.find_job(wanted) == "j1"
    for wanted in ("j2", "", "hf://acme/other", "not a uri ://", "acme"):
        with pytest.raises(NotFound, match="shoal jobs"):
            bench.reader.find_job(wanted)


def test_of_several_jobs_the_newest_is_meant(bench: Bench) -> None:
    bench.job("j1", uri="hf://acme/tiny", created_at=5.0)
    bench.job("j2", uri="hf://acme/tiny", created_at=7.0)
    bench.job("j3", uri="hf://acme/tiny", created_at=6.0)
    assert bench.reader.find_job("acme/tiny") == "j2"


def test_an_id_wins_over_a_name(bench: Bench) -> None:
    bench.job("j1", created_at=1.0)
    bench.job("j2", name="j1", created_at=2.0)
    assert bench.reader.find_job("j1") == "j1"


def test_jobs_are_listed_newest_first_in_pages(bench: Bench) -> None:
    for number in range(5):
        bench.job(f"j{number}", created_at=float(number // 2))
    assert bench.reader.job_ids(limit=9, after="") == ["j4", "j2", "j3", "j0", "j1"]
    assert bench.reader.job_ids(limit=2, after="j2") == ["j3", "j0"]
    assert bench.reader.job_ids(limit=2, after="j1") == []
    with pytest.raises(NotFound):
        bench.reader.job_ids(limit=2, after="j9")


def test_an_agent_is_found_by_id_and_name(bench: Bench) -> None:
    bench.hello("a1")
    assert bench.reader.find_agent("a1") == bench.reader.find_agent("id-a1") == "id-a1"
    with pytest.raises(NotFound, match="shoal agents"):
        bench.reader.find_agent("a2")


def test_a_name_that_two_connected_agents_have_is_not_guessed(bench: Bench) -> None:
    for agent_id in ("x", "y"):
        capacity = Capacity(slots=1, units_max=1, bytes_max=1)
        bench.core.receive(agent_id, Hello(agent_id=agent_id, name="twin", version="1", capacity=capacity), 0.0)
    with pytest.raises(Conflict, match="x, y"):
        bench.reader.find_agent("twin")
    bench.core.disconnected("x", 1.0)
    assert bench.reader.find_agent("twin") == "y"


def test_an_agent_that_is_not_connected_cannot_be_asked_for_anything(bench: Bench) -> None:
    with pytest.raises(Conflict, match="not connected"):
        bench.reader.find_agent("gone")


# --- jobs -----------------------------------------------------------------------------------------------------------


def test_a_job_that_is_not_resolved_shows_what_was_asked_for(bench: Bench) -> None:
    bench.job("j1", priority=4, name="mine")
    view = bench.reader.job("j1", 0.0, active=True)
    assert (view.destination, view.revision, view.commit) == ("/asked", "asked", "")
    assert (view.status, view.priority, view.name, view.eta_s, view.active) == (JobStatus.PLANNING, 4, "mine", None, ())


def test_a_running_job_shows_its_rate_and_the_time_left(bench: Bench) -> None:
    bench.hello("a1")
    bench.running("j1", 8 * MIB, 4 * MIB)
    bench.beat("a1", 1.0, arrived=MIB)
    view = bench.reader.job("j1", 2.0 * MIB, active=True)
    assert (view.destination, view.commit, view.revision) == ("/data", "c0", "main")
    assert view.bytes_arrived == 2 * MIB
    assert (view.rate_bytes_per_s, view.eta_s) == (2.0 * MIB, 5.0)
    assert [(obj.path, obj.phase, obj.agents, obj.done_bytes) for obj in view.active] == [
        ("j1/f1", ActivePhase.FETCHING, ("a1",), MIB),
        ("j1/f2", ActivePhase.FETCHING, ("a1",), MIB),
    ]
    assert bench.reader.job("j1", 2.0 * MIB, active=False).active == ()


def test_a_job_tells_who_brought_how_much(bench: Bench) -> None:
    for name in ("a1", "a2", "a3"):
        bench.hello(name, slots=1)
    bench.running("j1", 3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB)
    for name, fetched in (("a1", MIB), ("a2", 3 * MIB), ("a3", 0)):
        bench.report(name, bench.held[f"id-{name}"][0], 1.0, Outcome.RETURNED, fetched=fetched)
    bench.core.jobs["j1"].fetched("old", MIB)  # of an agent that only the store remembers
    view = bench.reader.job("j1", 0.0, active=True)
    assert [(agent.agent_id, agent.name, agent.from_origin) for agent in view.agents] == [
        ("id-a2", "a2", 3 * MIB),
        ("id-a1", "a1", MIB),
        ("old", "gone", MIB),
    ]
    assert view.agents_more == 0
    assert sum(agent.from_origin for agent in view.agents) == view.bytes_fetched
    assert bench.reader.job("j1", 0.0, active=False).agents == ()


def test_no_more_agents_are_told_than_a_view_can_hold(bench: Bench) -> None:
    bench.running("j1", MIB)
    for number in range(AGENTS_MAX + 7):
        bench.core.jobs["j1"].fetched(f"n{number}", number + 1)
    view = bench.reader.job("j1", 0.0, active=True)
    assert (len(view.agents), view.agents_more) == (AGENTS_MAX, 7)
    assert (view.agents[0].from_origin, view.agents[-1].from_origin) == (AGENTS_MAX + 7, 8)
    assert bench.reader.job("j1", 0.0, active=False).agents_more == 0


def test_a_job_that_ended_has_no_rate(bench: Bench) -> None:
    bench.running("j1", MIB)
    bench.core.job_failed("j1", Failure(code="no-space", text="full"), 1.0)
    view = bench.reader.job("j1", 5.0, active=True)
    assert (view.rate_bytes_per_s, view.eta_s, view.active) == (0.0, None, ())
    assert view.failure == Failure(code="no-space", text="full")


def test_more_than_was_announced_leaves_no_negative_time(bench: Bench) -> None:
    row = bench.running("j1", None)
    row.bytes_done = 10 * MIB
    assert bench.reader.job("j1", 1.0, active=False).eta_s == 0.0


def test_a_big_object_goes_through_its_phases(bench: Bench) -> None:
    size = 64 * MIB
    bench.hello("a1")
    bench.hello("a2")
    bench.running("j1", size)

    def seen() -> tuple[ActivePhase, int, tuple[str, ...]]:
        (obj,) = bench.reader.job("j1", 0.0, active=True).active
        assert obj.size == size
        return obj.phase, obj.done_bytes, obj.agents

    phase, done, (opener,) = seen()
    assert (phase, done) == (ActivePhase.OPENING, 0)
    (lease,) = bench.held[f"id-{opener}"]
    assert lease.kind is UnitKind.OPEN
    bench.report(opener, lease, 1.0, done=((0, 8 * MIB),))
    assert seen() == (ActivePhase.RANGES, 8 * MIB, ("a1", "a2"))

    first = bench.held["id-a1"][0]
    bench.report("a1", first, 2.0, Outcome.PARTIAL, done=((first.start, first.start + MIB),))
    assert seen()[:2] == (ActivePhase.RANGES, 9 * MIB)
    assert arrived_bytes(bench.core, bench.core.jobs["j1"]) == 9 * MIB
    (obj,) = bench.reader.job("j1", 0.0, active=True).active
    assert sum(stop - start for start, stop in obj.done) == 9 * MIB

    now = 3.0
    while bench.reader.job("j1", 0.0, active=True).active[0].phase is ActivePhase.RANGES:
        for name in ("a1", "a2"):
            for lease in [lease for lease in bench.held[f"id-{name}"] if lease.kind is UnitKind.RANGE]:
                bench.report(name, lease, now, done=((lease.start, lease.stop),))
        now += 1.0
        assert now < 100
    assert seen()[:2] == (ActivePhase.VERIFYING, size)


def test_the_queue_is_in_the_order_of_service(bench: Bench) -> None:
    bench.hello("a1", slots=1)
    bench.running("old", 8 * MIB, 8 * MIB, created_at=1.0)
    bench.running("new", MIB, created_at=2.0)
    bench.running("urgent", MIB, MIB, created_at=3.0, priority=5)
    bench.running("ended", MIB)
    bench.core.cancel("ended")
    bench.core.pause("new")
    bench.beat("a1", 1.0, arrived=3 * MIB)
    queue = bench.reader.queue()
    assert [view.job_id for view in queue] == ["urgent", "old", "new"]
    assert [view.paused for view in queue] == [False, False, True]
    assert [view.units_leased for view in queue] == [0, 1, 0]
    assert [view.objects_waiting for view in queue] == [2, 1, 1]
    assert [view.bytes_waiting for view in queue] == [2 * MIB, 13 * MIB, MIB]


def test_an_object_names_its_agent_as_long_as_it_is_known(bench: Bench) -> None:
    def name(agent_id: str) -> str:
        spec = ObjectSpec(object_id=1, path="f", size=1)
        row = ObjectRow(job_id="j", spec=spec, status=ObjectStatus.DONE, agent_id=agent_id, skipped=True)
        view = bench.reader.object(row)
        assert (view.path, view.status, view.skipped) == ("f", ObjectStatus.DONE, True)
        return view.agent

    bench.hello("a1")
    assert [name(agent_id) for agent_id in ("id-a1", "old", "unheard-of", "")] == ["a1", "gone", "unheard-of", ""]


# --- agents, hosts, fleet -------------------------------------------------------------------------------------------


def status(bench: Bench, now: float) -> AgentStatus:
    return next(view.status for view in bench.reader.agents(now) if view.name == "a1")


def test_how_an_agent_is_doing_follows_from_when_it_was_heard(bench: Bench) -> None:
    bench.hello("a1", 10.0)
    assert status(bench, 10.0) is AgentStatus.ALIVE
    assert status(bench, 20.0) is AgentStatus.ALIVE
    assert status(bench, 20.1) is AgentStatus.LATE
    assert status(bench, 40.0) is AgentStatus.LATE
    assert status(bench, 40.1) is AgentStatus.LOST
    bench.beat("a1", 41.0)
    assert status(bench, 41.0) is AgentStatus.ALIVE
    bench.core.drain_agent("id-a1")
    assert status(bench, 42.0) is AgentStatus.DRAINING
    bench.core.disconnected("id-a1", 43.0)
    assert status(bench, 43.0) is AgentStatus.LOST


def test_an_agent_that_said_goodbye_has_left(bench: Bench) -> None:
    bench.hello("a1")
    bench.core.receive("id-a1", Goodbye("draining"), 1.0)
    assert status(bench, 1.0) is AgentStatus.LEFT
    bench.hello("a1", 2.0)
    assert status(bench, 2.0) is AgentStatus.ALIVE


def test_agents_are_listed_by_name_with_those_that_only_the_store_knows(bench: Bench) -> None:
    bench.hello("z", 5.0)
    bench.hello("a1", 5.0)
    bench.running("j1", 2 * MIB, now=5.0)
    bench.beat("a1", 6.0, memory=123)
    bench.reader.known["id-a1"] = PutAgent(agent_id="id-a1", name="a1", version="1", zone="z1")
    views = bench.reader.agents(8.0)
    assert [(view.name, view.status) for view in views] == [
        ("a1", AgentStatus.ALIVE),
        ("gone", AgentStatus.LOST),
        ("z", AgentStatus.ALIVE),
    ]
    a1 = views[0]
    assert (a1.memory_bytes, a1.silent_s, a1.connected_s, a1.zone, a1.version) == (123, 2.0, 3.0, "z1", "1")
    assert views[1].capacity is None
    assert sum(view.units for view in views) == 1


def test_hosts_show_limits_blocks_and_trouble(bench: Bench) -> None:
    bench.hello("a1")
    bench.core.set_host_policy("hub.example", 5.0, 10.0, 0.0)
    seen = HostObservation(host="cdn.example", throttled=1, errors=2, retry_after_s=4.0)
    bench.core.receive("id-a1", Heartbeat(hosts=(seen,)), 10.0)
    cdn, hub = bench.reader.hosts(11.0)
    assert (cdn.host, cdn.blocked_s, cdn.throttled, cdn.errors) == ("cdn.example", 3.0, 1, 2)
    assert (hub.host, hub.requests_per_s, hub.bytes_per_s, hub.blocked_s) == ("hub.example", 5.0, 10.0, 0.0)
    assert bench.reader.hosts(99.0)[0].blocked_s == 0.0


def test_the_fleet_in_one_look(bench: Bench) -> None:
    bench.hello("a1", 100.0, slots=1)
    bench.hello("late", 85.0)
    bench.running("j1", 2 * MIB, 2 * MIB, now=100.0)
    bench.running("j2", MIB, now=100.0)
    bench.core.cancel("j2")
    view = bench.reader.fleet(100.0, 7.0, 1.7e9)
    assert (view.version, view.incarnation, view.uptime_s, view.rate_bytes_per_s) == ("1.2", 3, 0.0, 7.0)
    assert view.epoch_s == 1.7e9
    assert (view.agents_alive, view.agents_late, view.agents_lost) == (1, 1, 1)
    assert (view.jobs_active, view.jobs_ended, view.units_leased) == (1, 1, 2)
    assert (view.objects_waiting, view.bytes_waiting) == (0, 4 * MIB)


# --- speed ----------------------------------------------------------------------------------------------------------


def test_the_meter_shows_what_came_in_the_last_seconds(bench: Bench) -> None:
    meter = Meter()
    row = bench.running("j1", 100)
    assert meter.rate("j1") == 0.0
    meter.sample(bench.core, 0.0)
    assert meter.rate("j1") == 0.0  # one reading says nothing
    for second in range(1, 21):
        row.bytes_done += 10
        meter.sample(bench.core, float(second))
    assert meter.rate("j1") == 10.0
    for second in range(21, 40):
        meter.sample(bench.core, float(second))
    assert meter.rate("j1") == 0.0  # the burst is out of the window


def test_readings_that_are_too_close_are_skipped(bench: Bench) -> None:
    meter = Meter()
    row = bench.running("j1", 100)
    meter.sample(bench.core, 0.0)
    row.bytes_done = 1000
    meter.sample(bench.core, METER_WINDOW_S / 100)
    assert meter.rate("j1") == 0.0


def test_what_is_lost_again_is_no_negative_speed(bench: Bench) -> None:
    meter = Meter()
    row = bench.running("j1", 100)
    row.bytes_done = 1000
    meter.sample(bench.core, 0.0)
    row.bytes_done = 10
    meter.sample(bench.core, 1.0)
    assert meter.rate("j1") == 0.0


def test_the_meter_forgets_jobs_that_ended(bench: Bench) -> None:
    meter = Meter()
    for job_id in ("j1", "j2"):
        row = bench.running(job_id, 100)
        meter.sample(bench.core, 0.0)
        row.bytes_done = 10
    meter.sample(bench.core, 1.0)
    assert meter.total_rate() == 20.0
    bench.core.cancel("j1")
    meter.sample(bench.core, 2.0)
    assert meter.rate("j1") == 0.0
    assert meter.total_rate() == meter.rate("j2") > 0
