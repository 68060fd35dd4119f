"""An agent's side of its session: leases that run out by themselves, and reports that are never lost."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.agent.session import (
    Admitted,
    GiveBackHalf,
    Identity,
    Journal,
    Leave,
    Outlook,
    RenewShares,
    SessionCore,
    SessionEffect,
    SetBudgets,
    Settle,
    StartWork,
    StopWork,
    Tell,
)
from shoal.common.records import (
    Ack,
    Acks,
    Budgets,
    Capacity,
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

TTL_S = 30.0
HEARTBEAT_S = 5.0
JOB = JobSpec(job_id="j", source="", origin=OriginKind.HTTP, layout=Layout.FOLDER, destination="/d")
CAPACITY = Capacity(slots=2, units_max=8, bytes_max=1 << 30)

T = TypeVar("T")


def session(*unreported: Result) -> SessionCore:
    return SessionCore(
        identity=Identity(agent_id="a", name="node", version="1"),
        capacity=CAPACITY,
        unreported={result.seq: result for result in unreported},
    )


def welcomed(now: float = 0.0) -> SessionCore:
    made = session()
    made.open(now)
    made.receive(welcome(), now)
    return made


def welcome(*fenced: LeaseRef) -> Welcome:
    return Welcome(incarnation=1, heartbeat_s=HEARTBEAT_S, lease_ttl_s=TTL_S, fenced=fenced)


def lease(unit: str = "o1", token: int = 1) -> Lease:
    return Lease(unit=unit, token=token, kind=UnitKind.WHOLE, job_id="j", ttl_s=TTL_S)


def ref(of: Lease) -> LeaseRef:
    return LeaseRef(of.unit, of.token)


def grants(*leases: Lease) -> Grants:
    return Grants(leases=leases, jobs=(JOB,))


def report(of: Lease, outcome: Outcome = Outcome.DONE) -> WorkReport:
    return WorkReport(unit=of.unit, token=of.token, outcome=outcome, size=5, digest="d", fetched=5, etag="e")


def result(seq: int, unit: str = "o1", token: int = 1) -> Result:
    return Result(seq=seq, unit=unit, token=token, outcome=Outcome.DONE)


def told(effects: list[SessionEffect], kind: type[T]) -> list[T]:
    messages = [effect.message for effect in effects if isinstance(effect, Tell)]
    return [message for message in messages if isinstance(message, kind)]


# ---- connection -------------------------------------------------------------------------------------------------------


def test_a_session_begins_with_who_what_is_held_and_what_is_unreported() -> None:
    made = session(result(3, "o9", 9))
    (hello,) = told(made.open(0.0), Hello)
    assert (hello.agent_id, hello.name, hello.version, hello.capacity) == ("a", "node", "1", CAPACITY)
    assert [kept.seq for kept in hello.results] == [3]
    assert hello.held == ()


def test_work_goes_on_over_a_broken_connection() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    assert made.closed() == []
    assert not made.connected
    (hello,) = told(made.open(10.0), Hello)
    assert hello.held == (ref(lease()),)


def test_what_ran_out_meanwhile_is_not_claimed() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    made.closed()
    effects = made.open(TTL_S)
    assert effects[0] == StopWork(ref(lease()))
    assert told(effects, Hello)[0].held == ()


def test_a_welcome_stops_what_is_fenced_and_calls_for_a_heartbeat_at_once() -> None:
    made = welcomed()
    made.receive(grants(lease("o1", 1), lease("o2", 2)), 0.0)
    made.closed()
    made.open(10.0)
    assert made.tick(10.0, Outlook()) == []  # not before the coordinator has answered
    assert made.receive(welcome(LeaseRef("o1", 1)), 10.0) == [
        StopWork(LeaseRef("o1", 1)),
        RenewShares(10.0, anew=True),
        Admitted(b"", 0.0),
    ]
    assert made.next_wakeup(10.0) == 10.0
    (beat,) = told(made.tick(10.0, Outlook()), Heartbeat)
    assert beat.held == (LeaseRef("o2", 2),)


def test_shares_hold_from_when_the_word_was_sent_that_the_coordinator_answered() -> None:
    made = session()
    made.open(5.0, budgets_version=7)
    answer = replace(welcome(), share_s=20.0)
    assert RenewShares(25.0, anew=True) in made.receive(answer, 9.0)
    (beat,) = told(made.tick(9.0, Outlook(budgets_version=8, lapsed_version=3)), Heartbeat)
    assert (beat.budgets_version, beat.lapsed_version) == (8, 3)
    assert made.receive(HeartbeatAck(beat.seq), 17.0) == [RenewShares(29.0, anew=False)]
    assert made.receive(HeartbeatAck(beat.seq), 18.0) == []
    assert made.receive(Budgets((HostBudget(host="h"),), 9), 18.0) == [SetBudgets((HostBudget(host="h"),), 9)]


def test_leaving_says_goodbye_and_holds_nothing() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    assert told(made.goodbye("stop"), Goodbye) == [Goodbye("stop")]
    assert not made.held


# ---- leases -----------------------------------------------------------------------------------------------------------


def test_a_grant_starts_work() -> None:
    made = welcomed()
    assert made.receive(grants(lease()), 5.0) == [StartWork(lease(), JOB)]
    assert made.deadline(ref(lease())) == 5.0 + TTL_S
    assert made.deadline(LeaseRef("o1", 99)) == float("-inf")


def test_the_job_is_remembered_for_later_grants() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    assert made.receive(Grants(leases=(lease("o2", 2),)), 0.0) == [StartWork(lease("o2", 2), JOB)]


def test_a_repeated_grant_changes_nothing_and_a_newer_one_replaces_the_older() -> None:
    made = welcomed()
    made.receive(grants(lease("o1", 5)), 0.0)
    assert made.receive(grants(lease("o1", 5)), 1.0) == []
    assert made.receive(grants(lease("o1", 4)), 1.0) == []
    newer = made.receive(grants(lease("o1", 6)), 1.0)
    assert newer == [StopWork(LeaseRef("o1", 5)), StartWork(lease("o1", 6), JOB)]


def test_a_lease_runs_out_by_itself() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    assert StopWork(ref(lease())) not in made.tick(TTL_S - 0.01, Outlook())
    assert made.next_wakeup(TTL_S - 0.01) == TTL_S
    assert StopWork(ref(lease())) in made.tick(TTL_S, Outlook())
    assert made.report([report(lease())]) == []


def test_a_lease_is_renewed_from_when_the_heartbeat_was_sent() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    (beat,) = told(made.tick(10.0, Outlook()), Heartbeat)
    made.receive(HeartbeatAck(beat.seq), 19.0)
    assert made.deadline(ref(lease())) == 10.0 + TTL_S


def test_a_heartbeat_renews_only_what_it_named() -> None:
    made = welcomed()
    made.receive(grants(lease("o1", 1)), 0.0)
    (beat,) = told(made.tick(10.0, Outlook()), Heartbeat)
    made.receive(grants(lease("o2", 2)), 10.0)
    made.receive(HeartbeatAck(beat.seq), 11.0)
    assert made.deadline(LeaseRef("o2", 2)) == 10.0 + TTL_S
    made.receive(HeartbeatAck(beat.seq), 25.0)  # again
    made.receive(HeartbeatAck(999), 25.0)  # never sent
    assert made.deadline(LeaseRef("o1", 1)) == 10.0 + TTL_S


def test_an_acknowledgement_of_an_earlier_connection_renews_nothing() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    (beat,) = told(made.tick(20.0, Outlook()), Heartbeat)
    made.closed()
    made.open(21.0)
    made.receive(HeartbeatAck(beat.seq), 22.0)
    assert made.deadline(ref(lease())) == TTL_S


def test_a_revoked_lease_stops_and_others_go_on() -> None:
    made = welcomed()
    made.receive(grants(lease("o1", 1), lease("o2", 2)), 0.0)
    assert made.receive(Revoke((LeaseRef("o1", 1), LeaseRef("o2", 1), LeaseRef("x", 1))), 0.0) == [
        StopWork(LeaseRef("o1", 1))
    ]
    assert list(made.held) == ["o2"]


def test_halves_are_given_back_only_of_what_is_held() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    assert made.receive(Yield((ref(lease()), LeaseRef("o1", 9))), 0.0) == [GiveBackHalf(ref(lease()))]


def test_budgets_and_drains_are_passed_on() -> None:
    made = welcomed()
    budget = HostBudget(host="h", requests_per_s=1.0)
    assert made.receive(Budgets((budget,)), 0.0) == [SetBudgets((budget,))]
    assert made.receive(Drain("bye", reconnect=True), 0.0) == [Leave("bye", True)]


# ---- heartbeats -------------------------------------------------------------------------------------------------------


def test_heartbeats_come_regularly_and_carry_the_outlook() -> None:
    made = welcomed()
    outlook = Outlook(
        progress=[Progress("o1", 1, 7)], hosts=[HostObservation(host="h", ok=1)], memory=9, capacity=CAPACITY
    )
    (beat,) = told(made.tick(0.0, outlook), Heartbeat)
    assert (beat.progress, beat.hosts, beat.memory, beat.capacity) == (
        (Progress("o1", 1, 7),),
        (HostObservation(host="h", ok=1),),
        9,
        CAPACITY,
    )
    assert made.next_wakeup(0.0) == HEARTBEAT_S
    assert made.tick(HEARTBEAT_S - 0.01, Outlook()) == []
    (second,) = told(made.tick(HEARTBEAT_S, Outlook()), Heartbeat)
    assert second.seq > beat.seq


def test_a_heartbeat_can_be_hastened() -> None:
    made = welcomed()
    made.tick(0.0, Outlook())
    made.hasten(1.0)
    assert told(made.tick(1.0, Outlook()), Heartbeat)


# ---- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_is_journaled_before_it_is_sent() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    journal, tell = made.report([report(lease())])
    assert isinstance(journal, Journal)
    assert isinstance(tell, Tell)
    assert tell.message == Results(journal.results)
    (sent,) = journal.results
    assert (sent.unit, sent.token, sent.size, sent.digest, sent.etag, sent.fetched) == ("o1", 1, 5, "d", "e", 5)
    assert not made.held


def test_a_partial_report_leaves_the_lease_in_force() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    assert made.report([report(lease(), Outcome.PARTIAL)])
    assert "o1" in made.held


def test_reports_on_what_is_not_held_are_dropped() -> None:
    made = welcomed()
    made.receive(grants(lease("o1", 2)), 0.0)
    assert made.report([report(lease("o1", 1)), report(lease("o3", 1))]) == []
    assert not made.unreported


def test_a_report_made_offline_waits_in_the_journal_for_the_next_hello() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    made.closed()
    (journal,) = made.report([report(lease())])
    assert isinstance(journal, Journal)
    (hello,) = told(made.open(5.0), Hello)
    assert hello.results == journal.results
    assert hello.held == ()


def test_an_acknowledged_report_is_forgotten() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    made.report([report(lease())])
    assert made.receive(Acks((Ack(1, True), Ack(77, True))), 0.0) == [Settle((1,))]
    assert made.receive(Acks((Ack(1, True),)), 0.0) == []
    assert told(made.open(1.0), Hello)[0].results == ()


def test_a_refused_partial_report_ends_the_work() -> None:
    made = welcomed()
    made.receive(grants(lease()), 0.0)
    made.report([report(lease(), Outcome.PARTIAL)])
    assert made.receive(Acks((Ack(1, False),)), 0.0) == [StopWork(ref(lease())), Settle((1,))]


def test_a_refused_report_of_an_older_lease_leaves_the_newer_alone() -> None:
    made = welcomed()
    made.receive(grants(lease("o1", 1)), 0.0)
    made.report([report(lease("o1", 1))])
    made.receive(grants(lease("o1", 2)), 0.0)
    assert made.receive(Acks((Ack(1, False),)), 0.0) == [Settle((1,))]
    assert "o1" in made.held


@pytest.mark.parametrize("kept", [(), (4,), (4, 9)])
def test_numbers_of_reports_go_on_after_a_restart(kept: tuple[int, ...]) -> None:
    made = session(*[result(seq, f"x{seq}") for seq in kept])
    made.open(0.0)
    made.receive(welcome(), 0.0)
    made.receive(grants(lease()), 0.0)
    journal = made.report([report(lease())])[0]
    assert isinstance(journal, Journal)
    assert journal.results[0].seq == max(kept, default=0) + 1


class SessionMachine(RuleBasedStateMachine):
    """Any order of messages, breaks, reports and silence; work, journal and claims stay in step."""

    def __init__(self) -> None:
        super().__init__()
        self.core = session()
        self.now = 0.0
        self.token = 0
        self.working: dict[str, int] = {}  # what the worker works on: unit -> token
        self.journal: dict[int, Result] = {}

    def carry_out(self, effects: list[SessionEffect]) -> None:
        for effect in effects:
            match effect:
                case StartWork():
                    assert effect.lease.unit not in self.working
                    self.working[effect.lease.unit] = effect.lease.token
                case StopWork():
                    assert self.working.pop(effect.ref.unit) == effect.ref.token
                case Journal():
                    for kept in effect.results:
                        assert kept.seq not in self.journal
                        self.journal[kept.seq] = kept
                case Settle():
                    for seq in effect.seqs:
                        del self.journal[seq]
                case Tell(Results(results)):
                    assert all(self.journal.get(sent.seq) == sent for sent in results)
                case Tell(Hello() as hello):
                    assert {kept.seq for kept in hello.results} == set(self.journal)
                    assert {held.unit: held.token for held in hello.held} == self.working
                case _:
                    pass

    units = st.sampled_from(["o1", "o2", "o3"])

    @precondition(lambda self: not self.core.connected)
    @rule()
    def opens(self) -> None:
        self.carry_out(self.core.open(self.now))

    @precondition(lambda self: self.core.connected)
    @rule(fence=st.booleans())
    def is_welcomed(self, fence: bool) -> None:
        fenced = [LeaseRef(unit, token) for unit, token in self.working.items()] if fence else []
        self.carry_out(self.core.receive(welcome(*fenced), self.now))

    @precondition(lambda self: self.core.connected)
    @rule()
    def breaks(self) -> None:
        self.carry_out(self.core.closed())

    @precondition(lambda self: self.core.welcomed)
    @rule(unit=units, older=st.booleans())
    def is_granted(self, unit: str, older: bool) -> None:
        self.token += 1
        self.carry_out(self.core.receive(grants(lease(unit, 1 if older else self.token)), self.now))

    @precondition(lambda self: self.core.welcomed)
    @rule(unit=units, stale=st.booleans())
    def is_revoked(self, unit: str, stale: bool) -> None:
        token = self.working.get(unit, 0) - stale
        self.carry_out(self.core.receive(Revoke((LeaseRef(unit, token),)), self.now))

    @rule(unit=units, outcome=st.sampled_from(list(Outcome)), stale=st.booleans())
    def works(self, unit: str, outcome: Outcome, stale: bool) -> None:
        token = self.working.get(unit, 0) - stale
        before = len(self.journal)
        self.carry_out(self.core.report([report(lease(unit, token), outcome)]))
        taken = len(self.journal) > before
        assert taken == (unit in self.working and not stale)
        if taken and outcome is not Outcome.PARTIAL:
            del self.working[unit]

    @precondition(lambda self: self.core.welcomed)
    @rule(seq=st.integers(1, 12), accepted=st.booleans())
    def is_acknowledged(self, seq: int, accepted: bool) -> None:
        self.carry_out(self.core.receive(Acks((Ack(seq, accepted),)), self.now))
        assert seq not in self.journal

    @precondition(lambda self: self.core.welcomed)
    @rule(answered=st.booleans())
    def beats(self, answered: bool) -> None:
        self.core.hasten(self.now)
        effects = self.core.tick(self.now, Outlook())
        self.carry_out(effects)
        (beat,) = told(effects, Heartbeat)
        assert {held.unit: held.token for held in beat.held} == self.working
        if answered:
            self.core.receive(HeartbeatAck(beat.seq), self.now)
            assert all(self.core.deadline(held) >= self.now + TTL_S for held in beat.held)

    @rule(passed_s=st.sampled_from([0.1, 4.0, 31.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s
        self.carry_out(self.core.tick(self.now, Outlook()))
        assert all(work.deadline > self.now for work in self.core.held.values())

    @rule()
    def restarts(self) -> None:
        self.working.clear()
        self.core = session(*self.journal.values())

    @invariant()
    def agrees(self) -> None:
        assert {unit: work.lease.token for unit, work in self.core.held.items()} == self.working
        assert self.core.unreported == self.journal


SessionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSessionMachine = SessionMachine.TestCase
