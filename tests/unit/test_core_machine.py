"""Any history of events: the core stays true to itself and counts nothing twice."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.common.records import (
    Failure,
    Goodbye,
    Grants,
    Heartbeat,
    Interval,
    Lease,
    LeaseRef,
    Outcome,
    Result,
    Results,
    UnitKind,
)
from shoal.coordinator.effects import (
    ObjectDone,
)
from simulation.invariants import check_invariants
from support.core_fleet import (
    MIB,
    NOT_FOUND,
    NOT_SHARED,
    TIMEOUT,
    WRONG,
    fleet,
    written,
)


class CoreMachine(RuleBasedStateMachine):
    """Agents that say anything at any time, true or not; the core stays true to itself and counts nothing twice."""

    SIZES = (40 * MIB, 5, 17 * MIB, None, 6, 0)

    def __init__(self) -> None:
        super().__init__()
        self.made = fleet(*self.SIZES, agents=2)
        self.granted: list[tuple[str, Lease]] = []
        self.done: set[int] = set()

    agents = st.sampled_from(["a0", "a1", "a2"])
    outcomes = st.sampled_from(list(Outcome))
    reasons = st.sampled_from([None, TIMEOUT, NOT_FOUND, NOT_SHARED, WRONG])
    places = st.tuples(st.floats(0, 1), st.floats(0, 1))

    def take(self) -> None:
        effects = self.made.take()
        for send in effects.sends:
            if isinstance(send.message, Grants):
                self.granted.extend((send.agent_id, lease) for lease in send.message.leases)
        for write in written(effects, ObjectDone):
            assert write.object_id not in self.done
            self.done.add(write.object_id)

    @rule(agent_id=agents, claim=st.booleans())
    def joins(self, agent_id: str, claim: bool) -> None:
        held = [LeaseRef(lease.unit, lease.token) for owner, lease in self.granted if claim and owner == agent_id]
        self.made.hello(agent_id, held=held)

    @rule(agent_id=agents)
    def breaks(self, agent_id: str) -> None:
        self.made.core.disconnected(agent_id, self.made.now)

    @rule(agent_id=agents, data=st.data())
    def beats(self, agent_id: str, data: st.DataObject) -> None:
        if agent_id in self.made.core.agents and self.made.core.agents[agent_id].connected:
            mine = [LeaseRef(lease.unit, lease.token) for owner, lease in self.granted if owner == agent_id]
            held = data.draw(st.lists(st.sampled_from(mine), max_size=6)) if mine else []
            self.made.say(agent_id, Heartbeat(held=tuple(held)))

    @rule(agent_id=agents)
    def leaves(self, agent_id: str) -> None:
        if agent_id in self.made.core.agents and self.made.core.agents[agent_id].connected:
            self.made.say(agent_id, Goodbye())

    @rule(data=st.data(), outcome=outcomes, reason=reasons, done=places, released=places, skipped=st.booleans())
    def reports(
        self,
        data: st.DataObject,
        outcome: Outcome,
        reason: Failure | None,
        done: tuple[float, float],
        released: tuple[float, float],
        skipped: bool,
    ) -> None:
        if not self.granted:
            return
        owner, lease = data.draw(st.sampled_from(self.granted[-12:]))
        if owner not in self.made.core.agents or not self.made.core.agents[owner].connected:
            return
        size = lease.object.size if lease.object and lease.object.size is not None else 7

        def place(ends: tuple[float, float]) -> tuple[Interval, ...]:
            start, stop = sorted(int(end * size) for end in ends)
            return ((start, stop),)

        failure = reason if outcome is Outcome.FAILED else None
        self.made.seq += 1
        result = Result(
            seq=self.made.seq,
            unit=lease.unit,
            token=lease.token,
            outcome=outcome,
            done=place(done),
            released=place(released),
            size=size,
            skipped=skipped and lease.kind is UnitKind.OPEN,
            failure=failure,
        )
        self.made.say(owner, Results((result,)))

    @rule(passed_s=st.sampled_from([0.1, 3.0, 31.0]))
    def time_passes(self, passed_s: float) -> None:
        self.made.now += passed_s
        self.made.core.tick(self.made.now)

    @rule()
    def assigns(self) -> None:
        self.made.core.assign(self.made.now)

    @rule(what=st.sampled_from(["pause", "resume"]))
    def controls(self, what: str) -> None:
        if not self.made.row.status.ended:
            getattr(self.made.core, what)("j")

    @rule()
    def restarts(self) -> None:
        self.take()
        loaded = {object_id: obj.spec for object_id, obj in self.made.core.jobs["j"].objects.items()}
        failures = {object_id: obj.failures for object_id, obj in self.made.core.jobs["j"].objects.items()}
        self.made = self.made.restart()
        self.made.core.assign(self.made.now)
        if self.made.take().loads:
            self.made.failures = failures
            self.made.load(*loaded.values())

    @invariant()
    def holds(self) -> None:
        self.take()
        check_invariants(self.made.core)
        assert self.made.row.objects_done == len(self.done)


CoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCoreMachine = CoreMachine.TestCase
