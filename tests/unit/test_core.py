"""The coordinator's core: events in, effects out. Every event is followed by a check of all invariants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

import pytest

from shoal.common.records import (
    Acks,
    Budgets,
    Capacity,
    Drain,
    Failure,
    Goodbye,
    Grants,
    Heartbeat,
    HeartbeatAck,
    Hello,
    HostObservation,
    JobSpec,
    Layout,
    Lease,
    LeaseRef,
    OriginKind,
    Outcome,
    Progress,
    Results,
    Revoke,
    UnitKind,
    Welcome,
    Yield,
)
from shoal.coordinator.assigner import GRANTS_MAX
from shoal.coordinator.core import RECONNECT_GRACE_S
from shoal.coordinator.effects import (
    DropLease,
    ObjectBegunAnew,
    ObjectDone,
    ObjectFailed,
    ObjectRetried,
    PutAgent,
    PutFetched,
    PutHostPolicy,
    PutJob,
    PutLease,
    RequeueFailed,
)
from shoal.coordinator.model import RATE_WINDOW_S, JobRow, JobStatus, Phase
from shoal.coordinator.reports import EXCLUDED_S, EXPIRIES_MAX
from simulation.invariants import check_invariants
from support.core_fleet import (
    MIB,
    NO_SPACE,
    NOT_FOUND,
    NOT_SHARED,
    TIMEOUT,
    WRONG,
    Fleet,
    fleet,
    open_object,
    sent,
    written,
)

# ---- a job's life -----------------------------------------------------------------------------------------------------


def test_a_job_from_listing_to_done() -> None:
    made = Fleet()
    made.add(objects=1)
    made.hello("a0")
    (prepare,) = made.assign()["a0"]
    assert prepare.kind is UnitKind.PREPARE
    assert sent(made.last, "a0", Grants)[0].jobs[0].destination == "/d"
    assert made.assign() == {}
    made.report("a0", prepare)
    made.core.assign(made.now)
    (load,) = made.take().loads
    assert (load.job_id, load.restart) == ("j", True)
    made.load(*made.specs(5))
    (whole,) = made.assign()["a0"]
    assert sent(made.last, "a0", Grants)[0].jobs == ()  # it knows the job by now
    assert made.report("a0", whole, digest="sha256:1", etag="e", fetched=5)
    assert written(made.last, ObjectDone) == [
        ObjectDone(object_id=1, size=5, digest="sha256:1", etag="e", skipped=False, agent_id="a0")
    ]
    (finalize,) = made.assign()["a0"]
    assert finalize.kind is UnitKind.FINALIZE
    made.report("a0", finalize)
    assert made.last.ended_jobs == ["j"]
    assert (made.row.status, made.row.objects_done, made.row.bytes_done, made.row.bytes_fetched) == (
        JobStatus.DONE,
        1,
        5,
        5,
    )
    assert made.assign() == {}


def test_grants_are_written_in_the_turn_in_which_they_are_sent() -> None:
    made = fleet(5, 6)
    made.core.assign(0.0)
    effects = made.take()
    (grants,) = sent(effects, "a0", Grants)
    assert {(put.unit, put.token) for put in written(effects, PutLease)} == {
        (lease.unit, lease.token) for lease in grants.leases
    }


def test_a_job_with_nothing_in_it_is_done() -> None:
    made = fleet()
    (finalize,) = made.assign()["a0"]
    made.report("a0", finalize)
    assert made.row.status is JobStatus.DONE


def test_a_job_with_failed_objects_fails_with_their_number_and_a_retry_brings_them_back() -> None:
    made = fleet(5, 6)
    for lease in made.assign()["a0"]:
        if lease.unit == "o1":
            made.report("a0", lease, Outcome.FAILED, failure=NOT_FOUND)
        else:
            made.report("a0", lease)
    assert made.row.objects_failed == 1
    (finalize,) = made.assign()["a0"]
    made.report("a0", finalize)
    assert made.row.status is JobStatus.FAILED
    assert made.row.failure is not None
    assert made.row.failure.text.startswith("1 of 2 objects failed")
    made.core.retry("j")
    effects = made.take()
    assert written(effects, RequeueFailed) == [RequeueFailed("j")]
    assert (made.row.status, made.row.objects_failed, made.row.failure) == (JobStatus.PREPARING, 0, None)


def test_refused_names_stay_failed_over_a_retry() -> None:
    made = Fleet()
    row = JobRow(job_id="j", uri="", name="", fingerprint="", request="", priority=0, created_at=0.0)
    made.core.add_job(row)
    row.objects_failed = 2  # as the planner counts them
    spec = JobSpec(job_id="j", source="", origin=OriginKind.HTTP, layout=Layout.FOLDER, destination="/d")
    made.core.job_listed("j", spec, 3, 0)
    row.objects_failed = 3
    made.core.job_failed("j", NOT_FOUND, 0.0)
    made.core.retry("j")
    assert row.objects_failed == 2


def test_a_job_that_could_not_be_listed_is_planned_again_by_a_retry() -> None:
    made = Fleet()
    made.core.add_job(JobRow(job_id="j", uri="", name="", fingerprint="", request="", priority=0, created_at=0.0))
    made.core.job_failed("j", NOT_FOUND, 0.0)
    assert made.take().ended_jobs == ["j"]
    made.core.retry("j")
    assert made.row.status is JobStatus.PLANNING


@pytest.mark.parametrize("status", [JobStatus.DONE, JobStatus.RUNNING])
def test_there_is_nothing_to_retry_in_other_jobs(status: JobStatus) -> None:
    made = fleet(5)
    made.row.status = status
    made.core.retry("j")
    assert written(made.take(), RequeueFailed) == []


def test_preparing_is_tried_again_and_then_given_up() -> None:
    made = Fleet()
    made.add()
    made.hello("a0")
    for _ in range(3):
        (prepare,) = made.assign()["a0"]
        made.report("a0", prepare, Outcome.FAILED, failure=TIMEOUT)
        assert made.assign() == {}
        made.pass_time(5.0)
        made.say("a0", Heartbeat())
        made.take()
    assert (made.row.status, made.row.failure) == (JobStatus.FAILED, TIMEOUT)


def test_pausing_takes_everything_back_and_resuming_goes_on() -> None:
    made = fleet(5, 6)
    leases = made.assign()["a0"]
    made.core.pause("j")
    check_invariants(made.core)
    effects = made.take()
    assert [ref for revoke in sent(effects, "a0", Revoke) for ref in revoke.leases] == [
        LeaseRef(lease.unit, lease.token) for lease in leases
    ]
    assert made.assign() == {}
    assert not made.report("a0", leases[0])
    made.core.resume("j")
    again = made.assign()["a0"]
    assert {lease.unit for lease in again} == {"o1", "o2"}
    assert min(lease.token for lease in again) > max(lease.token for lease in leases)


def test_cancelling_ends_a_job_and_its_late_reports_are_fenced() -> None:
    made = fleet(5, 6)
    leases = made.assign()["a0"]
    made.core.cancel("j")
    check_invariants(made.core)
    assert made.take().ended_jobs == ["j"]
    assert not made.report("a0", leases[0])
    assert made.row.objects_done == 0
    made.core.cancel("j")
    assert made.take().ended_jobs == []


# ---- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_counts_once() -> None:
    made = fleet(5)
    (lease,) = made.assign()["a0"]
    result = made.result(lease)
    made.say("a0", Results((result, result)))
    (acks,) = sent(made.take(), "a0", Acks)
    assert [ack.accepted for ack in acks.acks] == [True, False]
    assert made.row.objects_done == 1


def test_nobody_reports_for_another() -> None:
    made = fleet(5, agents=2)
    ((holder, (lease,)),) = made.assign().items()
    other = {"a0": "a1", "a1": "a0"}[holder]
    assert not made.report(other, lease)
    assert made.report(holder, lease)


def test_a_big_object_is_brought_by_all_and_published_by_one() -> None:
    made = fleet(64 * MIB, agents=3)
    granted = open_object(made)
    assert set(granted) == {"a0", "a1", "a2"}
    for _ in range(20):
        for agent_id, leases in granted.items():
            for lease in leases:
                made.report(agent_id, lease)
        if made.phase() is Phase.READY:
            break
        granted = made.assign()
    ((agent_id, (publish,)),) = made.assign().items()
    assert publish.kind is UnitKind.PUBLISH
    assert agent_id == made.core.jobs["j"].objects[1].publisher
    made.report(agent_id, publish)
    assert (made.row.objects_done, made.row.bytes_done) == (1, 64 * MIB)


def test_an_object_that_is_there_is_skipped() -> None:
    made = fleet(64 * MIB)
    ((opening,),) = made.assign().values()
    made.report("a0", opening, skipped=True, size=64 * MIB)
    assert (made.row.objects_done, made.row.objects_skipped) == (1, 1)


def test_bytes_that_are_on_disk_already_are_not_granted() -> None:
    made = fleet(64 * MIB)
    granted = open_object(made, done=((0, 60 * MIB), (200 * MIB, 300 * MIB)))
    assert [(lease.start, lease.stop) for lease in granted["a0"]] == [(60 * MIB, 64 * MIB)]
    assert made.core.jobs["j"].objects[1].done_bytes == 60 * MIB


def test_an_object_that_is_all_there_is_published_at_once() -> None:
    made = fleet(64 * MIB)
    granted = open_object(made, done=((0, 64 * MIB),))
    assert [lease.kind for lease in granted["a0"]] == [UnitKind.PUBLISH]


def test_what_is_given_back_belongs_to_others_even_if_it_arrives_after_all() -> None:
    made = fleet(64 * MIB, agents=2)
    granted = open_object(made)
    ((holder, lease),) = [(agent_id, leases[0]) for agent_id, leases in granted.items()][:1]
    middle = (lease.start + lease.stop) // 2
    assert made.report(holder, lease, Outcome.PARTIAL, released=((middle, lease.stop),))
    made.assign()
    assert made.report(holder, lease, done=((lease.start, lease.stop),))  # more than it still had
    assert made.core.jobs["j"].objects[1].done_bytes == middle - lease.start


def test_bytes_outside_a_lease_do_not_count() -> None:
    made = fleet(64 * MIB)
    first, second, *_ = open_object(made)["a0"]
    made.report("a0", first, Outcome.PARTIAL, done=((second.start, second.stop), (1 << 40, 1 << 41)))
    assert made.core.jobs["j"].objects[1].done_bytes == 0
    made.report("a0", first, Outcome.PARTIAL, released=((second.start, 1 << 41),))
    made.report("a0", second)


def test_a_range_that_ends_early_leaves_its_rest_to_others() -> None:
    made = fleet(64 * MIB)
    first, *_ = open_object(made)["a0"]
    made.report("a0", first, Outcome.RETURNED, done=((first.start, first.start + MIB),))
    assert made.core.jobs["j"].objects[1].done_bytes == MIB
    starts = [lease.start for lease in made.assign()["a0"]]
    assert first.start + MIB in starts


def test_a_failure_without_a_reason_is_a_failure() -> None:
    made = fleet(5)
    (lease,) = made.assign()["a0"]
    made.report("a0", lease, Outcome.FAILED)
    assert made.row.objects_done == 0
    (retried,) = written(made.last, ObjectRetried)
    assert "no reason" in retried.failure.text


def test_an_object_is_tried_again_after_a_while_and_then_given_up() -> None:
    made = fleet(5)
    for attempt in (1, 2):
        (lease,) = made.assign()["a0"]
        made.report("a0", lease, Outcome.FAILED, failure=TIMEOUT)
        assert written(made.last, ObjectRetried)[0].failures == attempt
        assert made.assign() == {}
        made.pass_time(2.0**attempt)
    (lease,) = made.assign()["a0"]
    made.report("a0", lease, Outcome.FAILED, failure=TIMEOUT)
    assert written(made.last, ObjectFailed) == [ObjectFailed(object_id=1, failures=3, failure=TIMEOUT)]
    assert made.row.objects_failed == 1


@pytest.mark.parametrize("failure", [NOT_FOUND, Failure(code="unsafe-name", text="..")])
def test_what_no_retry_can_help_is_given_up_at_once(failure: Failure) -> None:
    made = fleet(5)
    (lease,) = made.assign()["a0"]
    made.report("a0", lease, Outcome.FAILED, failure=failure)
    assert made.row.objects_failed == 1


def test_a_failed_object_takes_its_other_leases_with_it() -> None:
    made = fleet(64 * MIB, agents=2)
    granted = open_object(made)
    first = granted["a0"][0]
    made.report("a0", first, Outcome.FAILED, failure=NOT_FOUND)
    assert len(made.core.leases) == 0
    assert sent(made.last, "a1", Revoke)
    assert not made.report("a1", granted["a1"][0])


def test_ranges_that_fail_together_are_one_failure() -> None:
    made = fleet(256 * MIB, agents=4)
    made.pass_time(1.0)
    granted = open_object(made)
    made.pass_time(1.0)
    for agent_id, leases in granted.items():
        for lease in leases:
            assert made.report(agent_id, lease, Outcome.FAILED, failure=TIMEOUT)
    assert made.row.objects_failed == 0
    assert made.core.jobs["j"].objects[1].failures == 1


def test_new_bytes_make_up_for_failed_transfers_but_not_for_wrong_ones() -> None:
    made = fleet(256 * MIB)
    granted = open_object(made)["a0"]
    made.core.jobs["j"].objects[1].failures = 1  # a failed verification, earlier
    for _ in range(6):
        made.pass_time(3.0)
        made.say("a0", Heartbeat())
        granted = made.assign().get("a0") or granted
        made.pass_time(0.1)
        made.report("a0", granted[0], Outcome.PARTIAL, done=((granted[0].start, granted[0].start + 1),))
        made.report("a0", granted[0], Outcome.FAILED, failure=TIMEOUT)
        granted = granted[1:]
    assert made.row.objects_failed == 0
    assert made.core.jobs["j"].objects[1].failures == 2


def test_wrong_bytes_begin_the_object_anew_and_end_all_its_leases() -> None:
    made = fleet(64 * MIB, agents=2)
    granted = open_object(made)
    first = granted["a0"][0]
    others = granted["a0"][1:]
    reports = [made.result(first, Outcome.FAILED, failure=WRONG), *[made.result(lease) for lease in others]]
    made.say("a0", Results(tuple(reports)))
    (acks,) = sent(made.take(), "a0", Acks)
    assert [ack.accepted for ack in acks.acks] == [True] + [False] * len(others)
    assert made.phase() is Phase.QUEUED
    assert made.core.jobs["j"].objects[1].done_bytes == 0
    assert len(made.core.leases) == 0


def test_a_full_disk_ends_the_job_with_the_reason() -> None:
    made = fleet(5, 6, 64 * MIB, agents=2)
    granted = made.assign()
    agent_id, leases = next(iter(granted.items()))
    made.report(agent_id, leases[0], Outcome.FAILED, failure=NO_SPACE)
    assert (made.row.status, made.row.failure) == (JobStatus.FAILED, NO_SPACE)
    assert len(made.core.leases) == 0


def test_an_agent_that_does_not_see_the_folder_is_left_out_and_costs_no_attempt() -> None:
    made = fleet(5, agents=2)
    ((first, (lease,)),) = made.assign().items()
    made.report(first, lease, Outcome.FAILED, failure=NOT_SHARED)
    ((second, (lease,)),) = made.assign().items()
    assert second != first
    made.report(second, lease, Outcome.FAILED, failure=NOT_SHARED)
    assert made.assign() == {}
    made.pass_time(EXCLUDED_S)
    for agent_id in ("a0", "a1"):
        made.say(agent_id, Heartbeat())
    made.take()
    ((agent_id, (lease,)),) = made.assign().items()
    assert made.report(agent_id, lease)
    assert made.row.objects_failed == 0


def test_a_partial_file_that_nobody_finds_is_made_anew() -> None:
    made = fleet(64 * MIB)
    granted = open_object(made, done=((0, 64 * MIB),))["a0"]
    for _ in range(3):
        made.report("a0", granted[0], Outcome.FAILED, failure=NOT_SHARED)
        made.pass_time(EXCLUDED_S)
        made.say("a0", Heartbeat())
        granted = made.assign()["a0"]
    assert granted[0].kind is UnitKind.OPEN
    assert lives_of(granted) == {0}, "it may be there all the time"


def lives_of(leases: Iterable[Lease]) -> set[int]:
    return {lease.object.life for lease in leases if lease.object}


def test_an_object_that_begins_anew_has_another_life() -> None:
    made = fleet(64 * MIB, agents=2)
    granted = open_object(made)
    assert lives_of(chain(*granted.values())) == {0}
    lives: list[int] = []
    for failure in (Failure(code="changed", text="another ETag"), WRONG):
        ((agent_id, (lease, *_)), *_) = granted.items()
        assert made.report(agent_id, lease, Outcome.FAILED, failure=failure)
        (begun,) = written(made.last, ObjectBegunAnew)
        made.pass_time(5.0)
        for each in ("a0", "a1"):
            made.say(each, Heartbeat())
        made.take()
        ((opener, (opening,)),) = made.assign().items()
        assert opening.kind is UnitKind.OPEN
        assert made.report(opener, opening, done=())
        granted = made.assign()
        assert lives_of([opening, *chain(*granted.values())]) == {begun.life}
        lives.append(begun.life)
    assert 0 < lives[0] < lives[1] < made.core.leases.next_token


@pytest.mark.parametrize("failure", [Failure(code="changed", text="another ETag"), WRONG], ids=["changed", "wrong"])
def test_wrong_bytes_count_also_where_another_range_has_failed_since_theirs_was_granted(failure: Failure) -> None:
    """Who goes on may be an agent that has seen nothing of the earlier version: it would add the new one's bytes to it."""
    made = fleet(256 * MIB, agents=2)
    made.pass_time(1.0)
    granted = open_object(made)
    made.pass_time(1.0)
    mine = granted["a0"][0]
    assert made.report("a0", mine, Outcome.PARTIAL, done=((mine.start, mine.start + 1),))
    assert made.report("a1", granted["a1"][0], Outcome.FAILED, failure=TIMEOUT)
    made.pass_time(1.0)
    assert made.report("a0", mine, Outcome.FAILED, failure=failure)
    assert len(written(made.last, ObjectBegunAnew)) == 1
    assert (made.phase(), made.core.jobs["j"].objects[1].done_bytes) == (Phase.QUEUED, 0)


def test_a_restarted_coordinator_goes_on_from_the_life_that_is_stored() -> None:
    made = fleet(64 * MIB)
    granted = open_object(made)["a0"]
    made.report("a0", granted[0], Outcome.FAILED, failure=WRONG)
    (begun,) = written(made.last, ObjectBegunAnew)
    again = Fleet(incarnation=2)
    again.add()
    again.core.jobs["j"].row.status = JobStatus.RUNNING
    again.pass_time(0.1)
    again.load(replace(granted[0].object or made.specs(1)[0], life=begun.life))
    again.hello("a0")
    assert lives_of(open_object(again)["a0"]) == {begun.life}


def test_ranges_of_an_earlier_incarnation_end_with_the_life_that_they_are_of() -> None:
    """Their object waits to be opened again: what they still bring must not count in the life that begins meanwhile."""
    made = fleet(64 * MIB, agents=2)
    held = open_object(made)
    again = made.restart()
    for agent_id, leases in held.items():
        again.hello(agent_id, held=tuple(LeaseRef(lease.unit, lease.token) for lease in leases))
    assert again.phase() is Phase.QUEUED
    assert again.report("a0", held["a0"][0], Outcome.FAILED, failure=Failure(code="changed", text="another ETag"))
    late = held["a1"][0]
    assert not again.report("a1", late, done=((late.start, late.stop),))
    assert (len(again.core.leases), again.core.jobs["j"].objects[1].done_bytes) == (0, 0)


@pytest.mark.parametrize("attempts", [1, 3])
def test_an_object_that_changed_has_another_life_when_its_job_is_tried_again(attempts: int) -> None:
    made = fleet(64 * MIB, attempts=attempts)
    granted = open_object(made)["a0"]
    made.report("a0", granted[0], Outcome.FAILED, failure=Failure(code="changed", text="another ETag"))
    (begun,) = written(made.last, ObjectBegunAnew)
    assert begun.life > 0
    assert (made.phase() is None) == (attempts == 1)


def test_what_an_agent_remembers_of_a_file_that_is_gone_is_of_an_earlier_life() -> None:
    made = fleet(64 * MIB)
    granted = open_object(made)["a0"]
    made.report("a0", granted[0], Outcome.FAILED, failure=Failure(code="busy", text="it was published by another run"))
    assert len(written(made.last, ObjectBegunAnew)) == 1


# ---- leases and sessions ----------------------------------------------------------------------------------------------


def test_a_lease_that_runs_out_is_granted_to_another_and_its_holder_is_fenced() -> None:
    made = fleet(5, agents=2)
    ((first, (lease,)),) = made.assign().items()
    other = {"a0": "a1", "a1": "a0"}[first]
    effects = made.pass_time(30.0)
    assert sent(effects, first, Revoke) == [Revoke((LeaseRef(lease.unit, lease.token),))]
    made.say(other, Heartbeat())
    made.take()
    ((second, (again,)),) = made.assign().items()
    assert second == other  # the silent one is left out until it is heard
    assert not made.report(first, lease)
    assert made.report(second, again)
    assert made.row.objects_done == 1


def test_a_heartbeat_renews_what_it_names_and_nothing_else() -> None:
    made = fleet(5, 6)
    kept, forgotten = made.assign()["a0"]
    made.pass_time(20.0)
    made.say("a0", Heartbeat(seq=7, held=(LeaseRef(kept.unit, kept.token), LeaseRef("o9", 1))))
    effects = made.take()
    assert sent(effects, "a0", HeartbeatAck) == [HeartbeatAck(7)]
    assert sent(effects, "a0", Revoke) == [Revoke((LeaseRef("o9", 1),))]
    effects = made.pass_time(10.0)
    assert sent(effects, "a0", Revoke) == [Revoke((LeaseRef(forgotten.unit, forgotten.token),))]


def test_an_object_that_kills_its_agents_is_given_up() -> None:
    made = fleet(5)
    for _ in range(EXPIRIES_MAX):
        made.say("a0", Heartbeat())
        made.take()
        assert made.assign()
        made.pass_time(30.0)
    assert made.row.objects_failed == 1


def test_agents_that_die_with_many_ranges_of_an_object_are_one_loss_of_it() -> None:
    made = fleet(4096 * MIB, agents=4)
    granted = open_object(made)
    assert sum(map(len, granted.values())) > EXPIRIES_MAX
    made.pass_time(30.0)
    assert made.row.objects_failed == 0
    for agent_id in granted:
        made.say(agent_id, Heartbeat())
    made.take()
    assert made.assign()


def test_a_broken_session_has_a_moment_to_come_back() -> None:
    made = fleet(5, 6)
    kept, other = made.assign()["a0"]
    made.core.disconnected("a0", made.now)
    made.pass_time(RECONNECT_GRACE_S - 1.0)
    effects = made.hello("a0", held=[LeaseRef(kept.unit, kept.token)])
    assert sent(effects, "a0", Welcome)[0].fenced == ()
    assert {lease.unit for lease in made.core.leases} == {kept.unit}  # what it does not claim is free at once
    made.pass_time(RECONNECT_GRACE_S)
    assert made.report("a0", kept)
    assert not made.report("a0", other)


def test_a_session_that_does_not_come_back_frees_its_work() -> None:
    made = fleet(5, agents=2)
    ((first, _),) = made.assign().items()
    made.core.disconnected(first, made.now)
    assert made.assign() == {}
    made.pass_time(RECONNECT_GRACE_S)
    ((second, _),) = made.assign().items()
    assert second != first


def test_reports_in_a_hello_count_before_what_is_held() -> None:
    made = fleet(5, 6)
    first, second = made.assign()["a0"]
    made.core.disconnected("a0", made.now)
    effects = made.hello("a0", results=[made.result(first)], held=[LeaseRef(second.unit, second.token)])
    assert sent(effects, "a0", Acks)[0].acks[0].accepted
    assert made.row.objects_done == 1


def test_a_hello_with_stale_claims_is_told_so() -> None:
    made = fleet(5)
    stale = LeaseRef("o1", 1)
    effects = made.hello("a0", held=[stale])
    assert sent(effects, "a0", Welcome)[0].fenced == (stale,)
    assert written(effects, PutAgent)[0].agent_id == "a0"


def test_goodbye_frees_everything_at_once() -> None:
    made = fleet(5, 64 * MIB, agents=1)
    made.assign()
    made.say("a0", Goodbye())
    made.take()
    assert len(made.core.leases) == 0
    assert made.assign() == {}
    made.hello("a1")
    assert {lease.unit for lease in made.assign()["a1"]} == {"o1", "o2"}


def test_an_agent_that_drains_gets_nothing_new() -> None:
    made = fleet(5)
    made.core.drain_agent("a0")
    assert sent(made.take(), "a0", Drain)
    assert made.assign() == {}


def test_no_agent_gets_more_units_than_its_credit() -> None:
    made = fleet(*[1] * 100)
    assert len(made.assign()["a0"]) <= 8
    assert made.assign() == {}


def test_a_huge_fleet_is_served_in_several_turns_the_idlest_first() -> None:
    made = fleet(*[1] * (GRANTS_MAX * 2))
    for number in range(1, GRANTS_MAX + 101):
        made.core.receive(
            f"b{number}",
            Hello(agent_id=f"b{number}", name="", version="", capacity=Capacity(slots=1, units_max=1, bytes_max=MIB)),
            0.0,
        )
    made.core.take_effects()
    made.core.assign(0.0)
    first = written(made.core.take_effects(), PutLease)
    assert len(first) == GRANTS_MAX
    made.core.assign(0.0)
    second = written(made.core.take_effects(), PutLease)
    assert not {put.agent_id for put in first} & {put.agent_id for put in second if put.agent_id != "a0"}


# ---- asking for halves ------------------------------------------------------------------------------------------------


def test_an_idle_agent_makes_the_slowest_give_half() -> None:
    made = fleet(20 * MIB)
    leases = open_object(made, done=((0, 12 * MIB),))["a0"]
    made.hello("a1")
    assert made.assign() == {}
    made.pass_time(10.0)
    made.assign()
    asked = sent(made.last, "a0", Yield)
    assert len(asked) == 1
    assert asked[0].leases[0].unit in {lease.unit for lease in leases}
    made.pass_time(0.5)
    made.assign()
    assert sent(made.last, "a0", Yield) == []


def test_nobody_is_asked_who_is_not_there() -> None:
    made = fleet(20 * MIB)
    open_object(made)
    again = made.restart()
    again.hello("a1")
    again.pass_time(10.0)
    again.assign()
    assert not [send for send in again.last.sends if isinstance(send.message, Yield)]


# ---- hosts ------------------------------------------------------------------------------------------------------------


def test_a_policy_is_stored_and_shared_out_and_shares_follow_the_fleet() -> None:
    made = fleet(agents=2)
    made.core.set_host_policy("h", 10.0, 0.0, 0.0)
    effects = made.take()
    assert written(effects, PutHostPolicy) == [PutHostPolicy(host="h", requests_per_s=10.0, bytes_per_s=0.0)]
    version = sent(effects, "a0", Budgets)[0].version
    assert sent(effects, "a0", Budgets)[0].budgets[0].requests_per_s == 5.0
    made.core.disconnected("a1", 0.0)
    made.core.assign(0.0)
    assert sent(made.take(), "a0", Budgets) == []  # it may go on with its share until that has run out
    made.hello("a1")
    effects = made.hello("a1")  # a new process, and nothing changes for the others
    assert sent(effects, "a0", Budgets) == []
    assert sent(effects, "a1", Budgets)[0].budgets[0].requests_per_s == 5.0
    made.say("a0", Heartbeat(budgets_version=version))
    made.say("a1", Goodbye())
    made.core.assign(0.0)
    assert sent(made.take(), "a0", Budgets)[0].budgets[0].requests_per_s == 10.0


def test_a_wait_that_one_agent_was_asked_for_holds_for_all() -> None:
    made = fleet(agents=2)
    made.say("a0", Heartbeat(hosts=(HostObservation(host="h", throttled=1, retry_after_s=9.0),)))
    made.core.assign(0.0)
    effects = made.take()
    assert sent(effects, "a1", Budgets)[0].budgets[0].blocked_s == 9.0
    effects = made.hello("late")
    assert sent(effects, "late", Budgets)[0].budgets[0].blocked_s == 9.0


# ---- loading ----------------------------------------------------------------------------------------------------------


def test_more_objects_are_read_while_few_wait() -> None:
    made = Fleet()
    made.job(1, 2, more=True)
    made.hello("a0")
    made.assign()
    (load,) = made.last.loads
    assert not load.restart
    made.assign()
    assert made.last.loads == []  # one at a time
    made.row.objects_total = 3
    made.load(*made.specs(1, 2, 3))
    assert len(made.core.jobs["j"].objects) == 3
    made.assign()
    assert made.last.loads == []  # there is no more


def test_an_object_that_ended_while_the_store_was_read_is_not_taken_in_again() -> None:
    made = Fleet()
    made.job(1, 2, more=True)
    made.hello("a0")
    leases = made.assign()["a0"]
    assert made.last.loads
    made.report("a0", next(lease for lease in leases if lease.unit == "o1"))
    made.load(*made.specs(1, 2))
    assert list(made.core.jobs["j"].objects) == [2]
    assert made.row.objects_done == 1


def test_an_answer_for_a_window_that_was_cleared_is_dropped() -> None:
    made = Fleet()
    made.job(1, more=True)
    made.hello("a0")
    made.assign()
    assert made.last.loads
    made.core.cancel("j")
    made.core.retry("j")
    made.row.status = JobStatus.RUNNING
    made.load(*made.specs(1))  # the answer to the load before: it says that there is no more
    assert not made.core.jobs["j"].objects
    made.assign()
    (load,) = made.last.loads
    assert load.restart


def test_a_loaded_object_brings_its_failures_also_to_one_restored_with_its_lease() -> None:
    made = fleet(5, 6)
    made.assign()
    again = made.restart()
    again.failures = {1: 2, 2: 1}
    again.core.assign(again.now)
    assert again.take().loads
    again.load(*again.specs(5, 6))
    assert [obj.failures for obj in again.core.jobs["j"].objects.values()] == [2, 1]


# ---- restarts ---------------------------------------------------------------------------------------------------------


def test_after_a_restart_the_holder_goes_on_and_nobody_else_gets_its_work() -> None:
    made = fleet(5, agents=2)
    ((holder, (lease,)),) = made.assign().items()
    again = made.restart()
    again.hello({"a0": "a1", "a1": "a0"}[holder])
    again.core.assign(again.now)
    again.take()
    again.load(*again.specs(5))
    assert again.assign() == {}
    effects = again.hello(holder, held=[LeaseRef(lease.unit, lease.token)])
    assert sent(effects, holder, Welcome)[0].fenced == ()
    assert again.core.agents[holder].bytes_held == made.core.agents[holder].bytes_held
    assert again.report(holder, lease)
    assert again.row.objects_done == 1


def test_after_a_restart_an_object_with_ranges_out_is_opened_again_around_them() -> None:
    made = fleet(64 * MIB)
    first, second, *_ = open_object(made)["a0"]
    again = made.restart()
    again.hello("a0", held=[LeaseRef(first.unit, first.token), LeaseRef(second.unit, second.token)])
    assert again.report("a0", first, Outcome.PARTIAL, done=((first.start, first.start + MIB),))
    (opening,) = again.assign()["a0"]
    assert opening.kind is UnitKind.OPEN
    again.report("a0", opening, done=((first.start, first.start + 2 * MIB),))
    obj = again.core.jobs["j"].objects[1]
    assert obj.done_bytes == first.start + 2 * MIB
    assert not list(obj.pending.present(first.start, second.stop))
    assert again.report("a0", first)


def test_after_two_restarts_an_object_may_be_opening_with_ranges_out() -> None:
    made = fleet(64 * MIB)
    first, *_ = open_object(made)["a0"]
    again = made.restart()
    again.hello("a0", held=[LeaseRef(first.unit, first.token)])
    assert again.assign()["a0"][0].kind is UnitKind.OPEN
    third = again.restart()
    third.hello("a1")
    third.assign()
    assert third.phase() is Phase.LEASED


def test_of_two_restored_leases_on_a_byte_the_younger_is_in_force() -> None:
    made = fleet(64 * MIB, agents=2)
    granted = open_object(made)
    first = granted["a0"][0]
    middle = first.start + MIB
    made.report("a0", first, Outcome.PARTIAL, released=((middle, first.stop),))
    made.hello("a2")
    regranted = [lease for leases in made.assign().values() for lease in leases if lease.start == middle]
    assert regranted
    again = made.restart()
    lease = again.core.leases.holds(first.unit)
    assert lease is not None
    assert list(lease.left) == [(first.start, middle)]


def test_a_lease_on_what_has_ended_is_not_restored() -> None:
    made = fleet(5)
    made.assign()
    again = Fleet(incarnation=2)
    again.core.add_job(made.row)
    lease = made.core.leases.holds("o1")
    assert lease is not None
    again.core.restore_lease(lease, None)
    assert written(again.core.take_effects(), DropLease) == [DropLease("o1")]
    assert len(again.core.leases) == 0


def test_tokens_grow_over_restarts() -> None:
    made = fleet(5)
    (old,) = made.assign()["a0"]
    again = made.restart()
    again.hello("a0")
    (new,) = again.assign()["a0"]
    assert new.unit == old.unit
    assert new.token > old.token
    assert not again.report("a0", old)


def test_what_comes_between_heartbeats_counts_for_an_agents_speed() -> None:
    made = fleet(64 * MIB)
    agent = made.core.agents["a0"]
    one, two, *_ = open_object(made)["a0"]
    seconds = 2 * RATE_WINDOW_S

    def beat(*progress: Progress) -> float:
        """The speed of a window, in bytes/s, without that of before."""
        agent.rate = 0.0
        made.now += seconds
        held = tuple(lease.ref for lease in made.core.leases.of_agent("a0"))
        made.say("a0", Heartbeat(held=held, progress=progress))
        made.take()
        return agent.rate

    made.report("a0", one, Outcome.PARTIAL, done=((one.start, one.start + MIB),), fetched=MIB)
    assert beat(Progress(one.unit, one.token, MIB)) == MIB / seconds, "told twice, counted once"
    made.report("a0", one, fetched=one.stop - one.start - MIB)  # it ends: no heartbeat tells of it again
    assert beat() == (one.stop - one.start - MIB) / seconds
    assert beat(Progress(two.unit, two.token, 3 * MIB)) == 3 * MIB / seconds
    made.report("a0", two, Outcome.PARTIAL, done=((two.start, two.start + MIB),), fetched=MIB)
    assert beat() == 0.0


def test_what_is_told_after_a_lost_connection_is_no_speed_of_now() -> None:
    made = fleet(5)
    (lease,) = made.assign()["a0"]
    made.hello("a0", results=[made.result(lease, size=5, fetched=5)])
    assert made.core.jobs["j"].fetched_by == {"a0": 5}
    assert made.core.agents["a0"].rate_bytes == 0


def fetched(made: Fleet) -> dict[str, int]:
    """What was written of each agent's part in the last turn."""
    return {put.agent_id: put.bytes_fetched for put in written(made.last, PutFetched)}


def test_what_each_agent_brings_is_counted_and_written_with_the_row() -> None:
    made = fleet(64 * MIB, agents=2)
    granted = open_object(made)
    one, two = granted["a0"][0], granted["a1"][0]
    made.report("a0", one, Outcome.PARTIAL, done=((one.start, one.start + MIB),), fetched=MIB)
    assert fetched(made) == {"a0": MIB}
    made.report("a0", one, Outcome.PARTIAL, done=((one.start + MIB, one.start + 2 * MIB),), fetched=MIB + 5)
    made.report("a1", two, Outcome.PARTIAL)
    assert fetched(made) == {}, "it brought nothing"
    made.report("a1", two, Outcome.PARTIAL, done=((two.start, two.start + 7),), fetched=7)
    assert fetched(made) == {"a1": 7}, "what did not change is not written again"
    assert written(made.last, PutJob)[0].row.bytes_fetched == 2 * MIB + 12
    assert made.core.jobs["j"].fetched_by == {"a0": 2 * MIB + 5, "a1": 7}


def test_what_was_fetched_in_vain_stays_counted() -> None:
    made = fleet(5)
    (lease,) = made.assign()["a0"]
    made.report("a0", lease, Outcome.FAILED, failure=WRONG, fetched=5)
    made.pass_time(1.0)
    (lease,) = made.assign()["a0"]
    made.report("a0", lease, fetched=5)
    assert (made.row.bytes_done, made.core.jobs["j"].fetched_by) == (5, {"a0": 10})


def test_a_report_that_is_refused_counts_for_nobody() -> None:
    made = fleet(5, agents=2)
    ((holder, (lease,)),) = made.assign().items()
    other = "a1" if holder == "a0" else "a0"
    assert not made.report(other, lease, fetched=5)
    assert made.core.jobs["j"].fetched_by == {}


def test_what_each_agent_brought_goes_on_after_a_restart() -> None:
    made = fleet(5, 6)
    first, second = made.assign()["a0"]
    made.report("a0", first, fetched=6)
    again = made.restart()
    again.hello("a0", held=[LeaseRef(second.unit, second.token)])
    again.report("a0", second, fetched=5)
    assert fetched(again) == {"a0": 11}


def test_the_row_is_written_whenever_it_changes() -> None:
    made = fleet(5)
    (lease,) = made.assign()["a0"]
    made.report("a0", lease)
    (put,) = written(made.last, PutJob)
    assert put.row.objects_done == 1
    assert put.row is not made.row
