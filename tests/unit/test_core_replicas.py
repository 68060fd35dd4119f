"""Replicated jobs in the core: copies, blame, vouching, agents that come and go, restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.common.records import Failure, Outcome
from shoal.common.swarm_records import MIXED, ORIGIN, Arrival, FetchFailure, SwarmReport
from shoal.common.views import JobStatus, ReplicaStatus
from shoal.coordinator.replica_model import replica_views
from support.swarm_fleet import JOB, MIB, SwarmFleet, digest_of

NOT_FOUND = Failure(code="not-found", text="404", retryable=False)
TIMEOUT = Failure(code="timeout", text="silent")
SIZES = (20 * MIB, 1000, 0, 200_000, 5 * MIB + 7, 3)


def fleet_of(members: int, *sizes: int, seed: int = 0) -> SwarmFleet:
    fleet = SwarmFleet(*(sizes or SIZES), seed=seed)
    for number in range(members):
        fleet.join(f"a{number}")
    return fleet


def statuses(fleet: SwarmFleet) -> dict[str, ReplicaStatus]:
    return {view.name: view.status for view in replica_views(fleet.core.jobs[JOB])}


@pytest.mark.parametrize("members", [1, 2, 4, 9])
def test_every_agent_gets_every_object_and_the_origin_serves_each_chunk_once(members: int) -> None:
    fleet = fleet_of(members)
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()
    assert fleet.from_origin == dict.fromkeys(range(len(fleet.table)), 1)
    assert all(copy.ended for copy in fleet.copies.values()), "seeds are told that the job has ended"
    assert (fleet.row.objects_done, fleet.row.bytes_done) == (6, sum(SIZES))
    assert fleet.row.bytes_fetched == sum(SIZES)
    assert fleet.row.bytes_from_peers == (members - 1) * sum(SIZES)


def test_a_job_waits_for_its_first_agent() -> None:
    fleet = fleet_of(0)
    for _ in range(5):
        fleet.step()
    assert not fleet.row.status.ended
    fleet.join("late")
    assert fleet.run() is JobStatus.DONE


def test_an_agent_that_joins_late_completes_from_the_others() -> None:
    fleet = fleet_of(3)
    for _ in range(4):
        fleet.step()
    fleet.join("late")
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()
    assert fleet.from_origin == dict.fromkeys(range(len(fleet.table)), 1)


def test_an_agent_that_dies_is_not_waited_for() -> None:
    fleet = fleet_of(4)
    for _ in range(3):
        fleet.step()
    fleet.kill("a1")
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()
    assert statuses(fleet)["a1"] is ReplicaStatus.LOST


def test_an_agent_that_was_killed_goes_on_with_what_lay_on_its_disk() -> None:
    fleet = fleet_of(2)
    for _ in range(3):
        fleet.step()
    fleet.kill("a0")
    fleet.step()
    fleet.revive("a0")
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()
    assert sum(fleet.from_origin.values()) < 1.3 * len(fleet.table), "only what it alone held or was fetching"


def test_when_the_last_holder_is_gone_the_origin_serves_again() -> None:
    fleet = fleet_of(1)
    for _ in range(3):
        fleet.step()
    fleet.kill("a0")
    fleet.join("b")
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()


@pytest.mark.parametrize("waits", [False, True], ids=["who-comes-after", "who-was-asking-it"])
def test_a_bundle_whose_last_holder_is_gone_may_be_another_at_the_origin_by_now(waits: bool) -> None:
    fleet = SwarmFleet(*SIZES)
    gone = fleet.join("gone")
    heir = fleet.join("heir") if waits else None
    while 0 not in gone.have or (heir is not None and 0 not in heir.orders):
        fleet.step()
    if heir is not None:
        assert heir.orders[0].peer != ORIGIN and heir.orders[0].digest == gone.have[0]
    fleet.kill("gone")
    fleet.version = "2"
    if heir is None:
        fleet.join("heir")
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()
    assert not fleet.core.agents["heir"].bad_chunks


def test_a_coordinator_that_restarts_continues_from_the_inventories() -> None:
    fleet = fleet_of(3)
    for _ in range(4):
        fleet.step()
    fleet.restart()
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()
    assert max(fleet.from_origin.values()) == 1


def test_an_agent_that_sends_flipped_bytes_is_named_and_cut_off_and_the_others_end_with_right_ones() -> None:
    fleet = SwarmFleet(*SIZES)
    fleet.join("bad", corrupts=True)
    for number in range(3):
        fleet.join(f"a{number}")
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()
    assert fleet.core.agents["bad"].cut_off
    assert not any(fleet.core.agents[f"a{number}"].bad_chunks for number in range(3))


def tell(fleet: SwarmFleet, name: str, **what: object) -> None:
    lease = fleet.copies[name].lease
    assert lease is not None
    report = SwarmReport(job_id=JOB, token=lease.token, **what)  # type: ignore[arg-type]
    fleet.core.receive(name, report, fleet.now)


@pytest.mark.parametrize("told", ["failure", "loss", "nothing"])
@pytest.mark.parametrize("at", range(3))
def test_who_passed_on_what_it_was_sent_is_not_to_blame(told: str, at: int) -> None:
    """The bytes go from a by b to c, and are flipped on the way to b. c tells of it before b does, after, or when b is right again."""
    fleet = SwarmFleet(*SIZES)
    for name in "abc":
        fleet.join(name)
    replication = fleet.core.jobs[JOB].replication
    assert replication is not None and replication.swarm is not None
    numbers = {agent_id: number for number, agent_id in replication.swarm.numbers.items()}
    chunk = fleet.table.bundles
    right = Arrival(chunk=chunk, digest=digest_of(chunk), peer=ORIGIN)
    fleet.copies["a"].have[chunk] = fleet.copies["b"].have[chunk] = digest_of(chunk)  # in the end
    tell(fleet, "a", arrived=(right,))

    def wrong(source: str) -> FetchFailure:
        return FetchFailure(chunk=chunk, peer=numbers[source], failure=Failure(code="verification", text="it differs"))

    of_b: list[dict[str, object]] = [{"arrived": (right,)}]
    if told == "failure":
        of_b.insert(0, {"failed": (wrong("a"),)})
    elif told == "loss":
        of_b.insert(0, {"lost": (chunk,)})  # half of it came from elsewhere: it cannot say whose bytes were wrong
    for number, what in enumerate(of_b):
        if number == at:
            tell(fleet, "c", failed=(wrong("b"),))
        tell(fleet, "b", **what)
    if at >= len(of_b):
        tell(fleet, "c", failed=(wrong("b"),))
    bad = {name: fleet.core.agents[name].bad_chunks for name in "abc"}
    assert bad == {"a": told == "failure", "b": told == "nothing", "c": 0}
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()


def test_nobody_is_to_blame_for_a_chunk_of_several_sources_and_it_comes_again() -> None:
    fleet = SwarmFleet(*SIZES)
    for name in "abc":
        fleet.join(name)
    for copy in fleet.copies.values():
        copy.orders.clear()
    replication = fleet.core.jobs[JOB].replication
    assert replication is not None and replication.swarm is not None
    chunk = next(
        chunk for chunk in range(fleet.table.bundles, len(fleet.table)) if replication.swarm.swarm.holders(chunk) == 0
    )
    right, wrong = (Arrival(chunk=chunk, digest=digest_of(chunk, version), peer=MIXED) for version in ("", "wrong"))
    fleet.copies["a"].have[chunk] = digest_of(chunk)
    fleet.copies["b"].have[chunk] = digest_of(chunk, "wrong")
    tell(fleet, "a", arrived=(right,))
    tell(fleet, "b", arrived=(wrong,))
    fleet.settle()
    assert chunk not in fleet.copies["b"].have, "it is told to forget it"
    assert not any(agent.bad_chunks for agent in fleet.core.agents.values())


def test_a_published_file_that_is_lost_is_brought_and_published_again() -> None:
    fleet = fleet_of(2)
    copy = fleet.copies["a0"]
    while 1 not in copy.published:
        fleet.step()
    assert not copy.is_complete()
    chunk = fleet.table.chunks_of(0).start
    del copy.have[chunk], copy.publish[1]
    copy.published.discard(1)
    tell(fleet, "a0", lost=(chunk,))
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()


def test_an_agent_that_answers_nobody_costs_only_time() -> None:
    fleet = SwarmFleet(*SIZES)
    fleet.join("mute", mute=True)
    for number in range(3):
        fleet.join(f"a{number}")
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()


def test_a_wrong_digest_of_the_whole_begins_the_object_anew() -> None:
    fleet = fleet_of(3)
    fleet.wrong = {3}
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()


@pytest.mark.parametrize("restarts", [False, True])
def test_what_an_agent_holds_of_an_earlier_life_counts_for_nothing(restarts: bool) -> None:
    """It was away when the object was begun anew, and is the first to tell what it holds; no digest would show a mixture."""
    fleet = fleet_of(2, 20 * MIB)
    fleet.has_digests, fleet.version = False, "old"
    while not fleet.copies["a1"].have:
        fleet.step()
    fleet.kill("a1")
    fleet.version = "new"
    while not fleet.rows[0].life:
        fleet.step()
    if restarts:
        fleet.kill("a0")
        fleet.restart()
    fleet.revive("a1")
    if restarts:
        fleet.revive("a0")
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()
    assert {copy.lives[1] for copy in fleet.copies.values()} == {fleet.rows[0].life}


def test_what_was_published_before_an_object_begins_anew_is_published_again() -> None:
    fleet = fleet_of(1, 20 * MIB, 200 * MIB)
    fleet.has_digests, fleet.version = False, "old"
    copy = fleet.copies["a0"]
    while 1 not in copy.published:
        fleet.step()
    fleet.version = "new"
    copy.published.discard(1)
    del copy.have[0], copy.publish[1]
    tell(fleet, "a0", lost=(0,))
    assert fleet.run() is JobStatus.DONE
    assert fleet.rows[0].life
    fleet.check_copies()


@pytest.mark.parametrize("restarts", [False, True])
def test_somebody_vouches_for_what_begins_anew_when_who_vouched_for_it_is_gone(restarts: bool) -> None:
    """It died, maybe before the coordinator did, which has read in its store that the object was vouched for."""
    fleet = SwarmFleet(20 * MIB, 200 * MIB)
    fleet.has_digests, fleet.version = False, "old"
    gone = fleet.join("gone")
    while 1 not in gone.published:
        fleet.step()
    fleet.version = "new"
    fleet.kill("gone")
    if restarts:
        fleet.rows[0] = replace(fleet.rows[0], vouched="sha256:00", etag="old")
        fleet.restart()
    fleet.join("heir")
    assert fleet.run(steps_max=300) is JobStatus.DONE
    assert fleet.rows[0].life
    fleet.check_copies()


def test_a_failing_origin_is_asked_again_and_then_the_object_is_given_up() -> None:
    fleet = fleet_of(2)
    fleet.origin_fails = {2: [TIMEOUT] * 2, 23: [TIMEOUT] * 3}
    assert fleet.run() is JobStatus.FAILED
    assert fleet.failed_objects == [5]
    fleet.check_copies()
    assert fleet.row.failure and fleet.row.failure.code == "objects-failed"


def test_an_object_that_is_not_there_fails_at_once_and_a_bundle_goes_on_without_it() -> None:
    fleet = fleet_of(2)
    fleet.origin_fails = {0: [NOT_FOUND]}
    assert fleet.run() is JobStatus.FAILED
    assert fleet.failed_objects == [2]
    fleet.check_copies()


def test_a_copy_that_fails_for_good_does_not_spoil_the_others() -> None:
    fleet = fleet_of(3)
    fleet.step()
    full = Failure(code="no-space", text="full", retryable=False)
    fleet.report(fleet.copies["a1"], Outcome.FAILED, full)
    fleet.copies["a1"].lease = None
    assert fleet.run() is JobStatus.FAILED
    fleet.check_copies(but=["a1"])
    assert statuses(fleet) == {"a0": ReplicaStatus.DONE, "a1": ReplicaStatus.FAILED, "a2": ReplicaStatus.DONE}
    assert fleet.row.failure and "a1" in fleet.row.failure.text


def test_a_paused_job_stops_and_goes_on() -> None:
    fleet = fleet_of(2)
    for _ in range(2):
        fleet.step()
    fleet.core.pause(JOB)
    fleet.settle()
    before = dict(fleet.from_origin)
    for _ in range(5):
        fleet.step()
    assert fleet.from_origin == before
    fleet.core.resume(JOB)
    assert fleet.run() is JobStatus.DONE
    fleet.check_copies()


def test_a_cancelled_job_takes_everything_back() -> None:
    fleet = fleet_of(2)
    fleet.step()
    fleet.core.cancel(JOB)
    fleet.settle()
    assert fleet.row.status is JobStatus.CANCELLED
    assert all(copy.lease is None for copy in fleet.copies.values())


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_who_stays_ends_with_all_of_it(seed: int) -> None:
    fleet = fleet_of(4, seed=seed)
    rng = fleet.rng
    for _ in range(30):
        fleet.step()
        if fleet.row.status.ended:
            break
        name = f"a{rng.randrange(6)}"
        copy = fleet.copies.get(name)
        match rng.randrange(8):
            case 0 if copy is None:
                fleet.join(name)
            case 0 if copy is not None and not copy.up:
                fleet.revive(name)
            case 1 if copy is not None and copy.up:
                fleet.kill(name)
            case 2 if copy is not None and copy.up:
                fleet.leave(name)
            case 3:
                fleet.restart()
            case 4 if copy is not None:
                copy.mute = not copy.mute
            case 5:
                fleet.origin_fails.setdefault(rng.randrange(len(fleet.table)), []).append(TIMEOUT)
            case _:
                pass
    if not any(copy.up for copy in fleet.copies.values()):
        fleet.join("last")
    fleet.run()
    fleet.check_copies()


@pytest.mark.parametrize("chunk", [0, 4], ids=["bundle", "part"])
def test_what_one_agent_cannot_write_is_ordered_there_no_more_and_nobody_else_goes_without(chunk: int) -> None:
    fleet = fleet_of(3)
    blocked = Failure(code="conflict", text="a folder is in the way", retryable=False)
    copy = fleet.copies["a1"]
    asked = 0
    for _ in range(60):
        if chunk in copy.orders:
            asked += 1
            order = copy.orders.pop(chunk)
            tell(fleet, "a1", failed=(FetchFailure(chunk=chunk, peer=order.peer, failure=blocked, object_id=2),))
        fleet.step()
    assert asked == 1 and len(copy.have) == len(fleet.table) - 1
    fleet.report(copy, Outcome.FAILED, blocked)
    assert fleet.run() is JobStatus.FAILED
    fleet.check_copies(but=["a1"])
    assert statuses(fleet) == {"a0": ReplicaStatus.DONE, "a1": ReplicaStatus.FAILED, "a2": ReplicaStatus.DONE}
    assert not fleet.failed_objects and not any(agent.bad_chunks for agent in fleet.core.agents.values())
