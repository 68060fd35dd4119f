"""What an agent does next: largest first, big objects by ranges, guided sizes, nobody idle."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.common.intervals import IntervalSet
from shoal.common.records import Capacity, JobSpec, Layout, ObjectSpec, OriginKind, UnitKind
from shoal.coordinator.leases import HeldLease
from shoal.coordinator.model import UNKNOWN_SIZE_WEIGHT, AgentState, JobRow, JobState, JobStatus, ObjectState
from shoal.coordinator.scheduler.spread import (
    ANY_ROOM,
    MIB,
    PUBLISH_PATIENCE_S,
    UNIT_WEIGHT,
    YIELD_AFTER_S,
    YIELD_AGAIN_S,
    Fleet,
    SpreadLimits,
    has_credit,
    has_work,
    in_order,
    may_hold,
    next_work,
    range_length,
    room,
    slowest_ranges,
)

LIMITS = SpreadLimits()


def agent(agent_id: str = "a", *, units: int = 0, held: int = 0, slots: int = 4) -> AgentState:
    return AgentState(
        agent_id=agent_id,
        name=agent_id,
        version="1",
        zone="",
        capacity=Capacity(slots=slots, units_max=8 * slots, bytes_max=512 * MIB),
        connected=True,
        joined_at=0.0,
        heard_at=0.0,
        units=units,
        bytes_held=held,
    )


def job(*sizes: int | None, status: JobStatus = JobStatus.RUNNING, priority: int = 0, job_id: str = "j") -> JobState:
    row = JobRow(
        job_id=job_id, uri="", name="", fingerprint="", request="", priority=priority, created_at=0.0, status=status
    )
    row.spec = JobSpec(job_id=job_id, source="", origin=OriginKind.HTTP, layout=Layout.FOLDER, destination="")
    state = JobState(row)
    for number, size in enumerate(sizes, 1):
        state.enqueue(ObjectState(spec=ObjectSpec(object_id=number, path=str(number), size=size)))
    return state


def opened(*sizes: int) -> JobState:
    state = job(*sizes)
    for obj in list(state.objects.values()):
        state.lease_whole(obj)
        state.open_ranges(obj, IntervalSet())
    return state


def fleet(*agents: AgentState) -> Fleet:
    return Fleet(agents or (agent(),))


def what(state: JobState, who: AgentState, crowd: Fleet | None = None, now: float = 0.0) -> tuple[object, ...] | None:
    work = next_work(state, who, crowd or fleet(who), LIMITS, now)
    return None if work is None else (work.kind, work.obj.spec.object_id if work.obj else 0, work.start, work.stop)


# ---- what next --------------------------------------------------------------------------------------------------------


def test_small_objects_are_leased_whole_in_order() -> None:
    assert what(job(5 * MIB, 3 * MIB), agent()) == (UnitKind.WHOLE, 1, 0, 0)


def test_an_object_of_unknown_size_is_leased_whole_with_a_middling_weight() -> None:
    work = next_work(job(None), agent(), fleet(), LIMITS, 0.0)
    assert work is not None
    assert (work.kind, work.weight) == (UnitKind.WHOLE, UNKNOWN_SIZE_WEIGHT + UNIT_WEIGHT)


@pytest.mark.parametrize(("size", "kind"), [(16 * MIB - 1, UnitKind.WHOLE), (16 * MIB, UnitKind.OPEN)])
def test_an_object_is_opened_from_the_smallest_size_that_is_worth_it(size: int, kind: UnitKind) -> None:
    work = next_work(job(size), agent(), fleet(), LIMITS, 0.0)
    assert work is not None
    assert work.kind is kind


def test_an_open_object_is_leased_by_ranges_from_its_start() -> None:
    state = opened(100 * MIB)
    kind, number, start, stop = what(state, agent()) or ()
    assert (kind, number, start) == (UnitKind.RANGE, 1, 0)
    assert LIMITS.range_min <= int(str(stop)) <= LIMITS.range_max


def test_a_short_rest_is_not_left_over() -> None:
    state = opened(17 * MIB)
    state.take_range(state.objects[1], 0, 10 * MIB)
    assert what(state, agent()) == (UnitKind.RANGE, 1, 10 * MIB, 17 * MIB)


def test_the_next_big_object_is_opened_before_the_open_ones_run_out() -> None:
    state = job(1000 * MIB, 900 * MIB)
    first = state.objects[1]
    state.lease_whole(first)
    state.open_ranges(first, IntervalSet())
    assert (what(state, agent()) or ())[0] is UnitKind.RANGE
    state.take_range(first, 0, 1000 * MIB - LIMITS.open_ahead + 1)
    assert what(state, agent()) == (UnitKind.OPEN, 2, 0, 0)


def test_a_full_agent_does_not_open_objects_for_want_of_room() -> None:
    state = job(1000 * MIB, 900 * MIB)
    state.lease_whole(state.objects[1])
    state.open_ranges(state.objects[1], IntervalSet())
    assert what(state, agent(units=4, held=500 * MIB)) is None


def test_small_objects_behind_a_big_one_wait_for_it() -> None:
    state = job(40 * MIB, MIB)
    state.lease_whole(state.objects[1])
    state.open_ranges(state.objects[1], IntervalSet())
    assert (what(state, agent()) or ())[:2] == (UnitKind.RANGE, 1)
    state.take_range(state.objects[1], 0, 40 * MIB)
    assert what(state, agent()) == (UnitKind.WHOLE, 2, 0, 0)


@pytest.mark.parametrize(
    ("status", "kind"), [(JobStatus.PREPARING, UnitKind.PREPARE), (JobStatus.FINALIZING, UnitKind.FINALIZE)]
)
def test_a_job_is_prepared_and_finalized_by_one_agent(status: JobStatus, kind: UnitKind) -> None:
    state = job(status=status)
    assert what(state, agent()) == (kind, 0, 0, 0)
    state.unit_not_before = 5.0
    assert what(state, agent(), now=4.9) is None
    assert what(state, agent(), now=5.0) == (kind, 0, 0, 0)


@pytest.mark.parametrize("status", [JobStatus.PLANNING, JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED])
def test_nothing_is_done_for_other_jobs(status: JobStatus) -> None:
    state = job(MIB, status=status)
    assert what(state, agent()) is None
    assert not has_work(state)


def test_nothing_is_done_for_a_paused_job() -> None:
    state = job(MIB)
    state.row.paused = True
    assert what(state, agent()) is None
    assert not has_work(state)


def test_an_agent_that_does_not_see_the_destination_is_left_out_for_a_while() -> None:
    state = job(MIB)
    state.excluded["a"] = 30.0
    assert what(state, agent("a"), now=29.0) is None
    assert what(state, agent("b"), now=29.0) is not None
    assert what(state, agent("a"), now=30.0) is not None


def test_a_delayed_object_lets_others_pass() -> None:
    state = job(5 * MIB, 3 * MIB)
    state.delay(state.objects[1], 10.0)
    assert what(state, agent()) == (UnitKind.WHOLE, 2, 0, 0)
    state.end_delays(9.9)
    state.lease_whole(state.objects[2])
    assert what(state, agent()) is None
    assert state.remaining == 5 * MIB
    state.end_delays(10.0)
    assert what(state, agent(), now=10.0) == (UnitKind.WHOLE, 1, 0, 0)


def test_a_complete_object_waits_a_little_for_the_agent_that_hashed_it() -> None:
    state = opened(20 * MIB)
    state.objects[1].bytes_by_agent.update({"a": 5, "b": 15})
    state.take_range(state.objects[1], 0, 20 * MIB)
    state.make_ready(state.objects[1], 100.0)
    assert what(state, agent("b"), now=100.0) == (UnitKind.PUBLISH, 1, 0, 0)
    assert what(state, agent("a"), now=100.0) is None
    assert what(state, agent("a"), now=100.0 + PUBLISH_PATIENCE_S) == (UnitKind.PUBLISH, 1, 0, 0)


def test_an_object_complete_from_the_start_is_published_by_anybody() -> None:
    state = opened(20 * MIB)
    state.take_range(state.objects[1], 0, 20 * MIB)
    state.make_ready(state.objects[1], 100.0)
    assert what(state, agent("x"), now=100.0) == (UnitKind.PUBLISH, 1, 0, 0)


def test_jobs_are_served_by_priority_then_age() -> None:
    jobs = [job(job_id="b"), job(job_id="a"), job(job_id="urgent", priority=9), job(job_id="old")]
    jobs[3].row.created_at = -1.0
    assert [state.row.job_id for state in in_order(jobs)] == ["urgent", "old", "a", "b"]


# ---- how much ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"connected": False}, {"draining": True}, {"silent": True}, {"units": 32}])
def test_who_gets_nothing_at_all(change: dict[str, object]) -> None:
    assert has_credit(agent(units=31))
    assert not has_credit(replace(agent(), **change))  # pyright: ignore[reportArgumentType]


def test_slots_are_always_filled() -> None:
    crowd = fleet(*[agent()] * 100)
    assert may_hold(agent(units=3, held=100 * MIB), 32 * MIB, 0, crowd)
    assert not may_hold(agent(units=4, held=100 * MIB), 32 * MIB, 0, crowd)


def test_an_idle_agent_gets_a_unit_of_any_weight_but_a_busy_one_stays_within_its_bytes() -> None:
    assert may_hold(agent(), 1 << 50, 0, fleet())
    assert not may_hold(agent(units=1), 1 << 50, 1 << 60, fleet())


def test_in_advance_an_agent_holds_at_most_half_its_share_of_the_rest() -> None:
    crowd = fleet(*[agent()] * 10)
    busy = agent(units=4, held=50 * MIB)
    assert may_hold(busy, 10 * MIB, 2 * 10 * 60 * MIB, crowd)
    assert not may_hold(busy, 10 * MIB + 1, 2 * 10 * 60 * MIB, crowd)
    assert not may_hold(agent(units=4, held=505 * MIB), 8 * MIB, 1 << 60, crowd)


def test_ranges_shrink_towards_the_end() -> None:
    crowd = fleet(agent(), agent())
    lengths = [range_length(rest * MIB, crowd, LIMITS) for rest in (4096, 320, 160, 100, 1)]
    assert lengths == [32 * MIB, 20 * MIB, 10 * MIB, 7 * MIB, 4 * MIB]
    assert range_length(1, crowd, SpreadLimits(fixed_range=12345)) == 12345


@given(remaining=st.integers(0, 1 << 50), slots=st.integers(1, 10_000))
def test_ranges_are_aligned_and_bounded(remaining: int, slots: int) -> None:
    length = range_length(remaining, fleet(agent(slots=slots)), LIMITS)
    assert length % LIMITS.range_align == 0
    assert LIMITS.range_min <= length <= LIMITS.range_max


@given(
    whole=st.lists(st.integers(0, 15 * MIB), max_size=3),
    big=st.lists(st.integers(16 * MIB, 600 * MIB), max_size=2),
    opens=st.integers(0, 2),
    taken=st.integers(0, 700 * MIB),
    units=st.integers(4, 31),
    held=st.integers(0, 600 * MIB),
    agents=st.integers(1, 4),
)
@settings(max_examples=300)
def test_room_says_no_only_where_next_work_would(
    whole: list[int], big: list[int], opens: int, taken: int, units: int, held: int, agents: int
) -> None:
    state = job(*sorted(big, reverse=True), *sorted(whole, reverse=True))
    for number in range(1, 1 + min(opens, len(big))):
        obj = state.objects[number]
        state.lease_whole(obj)
        state.open_ranges(obj, IntervalSet())
        state.take_range(obj, 0, min(taken, obj.weight))
    who = agent(units=units, held=held)
    crowd = fleet(*[agent()] * agents)
    most = room(state, crowd, LIMITS, 0.0)
    if held > most:
        assert next_work(state, who, crowd, LIMITS, 0.0) is None


def test_there_is_any_room_where_weight_does_not_matter() -> None:
    assert room(job(status=JobStatus.PREPARING), fleet(), LIMITS, 0.0) == ANY_ROOM
    assert room(job(20 * MIB), fleet(), LIMITS, 0.0) == ANY_ROOM
    assert room(job(), fleet(), LIMITS, 0.0) == -1


# ---- halves -----------------------------------------------------------------------------------------------------------


def held(token: int, *, left: int, size: int = 32 * MIB, granted_at: float = 0.0) -> HeldLease:
    return HeldLease(
        unit=f"r{token}",
        token=token,
        agent_id="a",
        kind=UnitKind.RANGE,
        job_id="j",
        object_id=1,
        start=0,
        stop=size,
        weight=size,
        granted_at=granted_at,
        deadline=1e9,
        left=IntervalSet([(size - left, size)]),
    )


def test_those_who_end_last_are_asked_first() -> None:
    fast, slow, stuck = held(1, left=8 * MIB), held(2, left=30 * MIB), held(3, left=32 * MIB)
    found = slowest_ranges([fast, slow, stuck], LIMITS, 10.0, count=5)
    assert found == [slow, stuck, fast]  # one that has brought nothing is guessed to need its age again
    assert slowest_ranges([fast, slow, stuck], LIMITS, 10.0, count=1) == [slow]


@pytest.mark.parametrize(
    "lease",
    [
        held(1, left=LIMITS.range_min // 2 - 1),  # too little to be worth a connection
        held(1, left=32 * MIB, granted_at=10.0 - YIELD_AFTER_S + 0.1),  # too young to tell
        held(1, left=3 * MIB, granted_at=0.0),  # done in a moment
        replace(held(1, left=30 * MIB), kind=UnitKind.WHOLE),
        replace(held(1, left=30 * MIB), yield_asked_at=10.0 - YIELD_AGAIN_S + 0.1),
    ],
)
def test_who_is_not_asked(lease: HeldLease) -> None:
    assert slowest_ranges([lease], LIMITS, 10.0, count=1) == []


def test_a_small_rest_is_split_only_where_it_would_take_long() -> None:
    lease = held(1, left=MIB)
    assert slowest_ranges([lease], LIMITS, 600.0, count=1) == []  # at 53 KiB/s: 19 s
    assert slowest_ranges([lease], LIMITS, 700.0, count=1) == [lease]


def test_a_lease_is_asked_again_after_a_while() -> None:
    lease = replace(held(1, left=30 * MIB), yield_asked_at=10.0 - YIELD_AGAIN_S)
    assert slowest_ranges([lease], LIMITS, 10.0, count=1) == [lease]
