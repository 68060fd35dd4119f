"""A coordinator's core with hands, for its unit tests: events by name, effects by kind, invariants after every event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from shoal.common.records import (
    Acks,
    Capacity,
    CoordinatorMessage,
    Failure,
    Goodbye,
    Grants,
    Heartbeat,
    Hello,
    Interval,
    JobSpec,
    Layout,
    Lease,
    LeaseRef,
    ObjectSpec,
    OriginKind,
    Outcome,
    Result,
    Results,
    UnitKind,
)
from shoal.coordinator.core import Core, CoreLimits
from shoal.coordinator.effects import (
    DropLease,
    Effects,
    ObjectRetried,
    PutLease,
)
from shoal.coordinator.leases import HeldLease
from shoal.coordinator.model import JobRow, JobStatus, Phase
from simulation.invariants import check_invariants

MIB = 1 << 20
TIMEOUT = Failure(code="timeout", text="silent")
NOT_FOUND = Failure(code="not-found", text="404", retryable=False)
NOT_SHARED = Failure(code="not-shared", text="no such folder")
WRONG = Failure(code="verification", text="another digest")
NO_SPACE = Failure(code="no-space", text="full", retryable=False)

T = TypeVar("T")


class Fleet:
    """A core with hands: events by name, effects sorted by kind."""

    def __init__(self, *, incarnation: int = 1, limits: CoreLimits | None = None) -> None:
        self.core = Core(incarnation=incarnation, limits=limits)
        self.now = 0.0
        self.seq = 0
        self.last = Effects()
        self.stored: dict[str, PutLease] = {}
        self.failures: dict[int, int] = {}

    # ---- events -------------------------------------------------------------------------------------------------------

    def job(self, *sizes: int | None, job_id: str = "j", more: bool = False) -> None:
        """A job that runs, with its objects in memory. Ids count from 1 in the first job."""
        self.add(job_id, len(sizes))
        self.core.jobs[job_id].row.status = JobStatus.RUNNING
        self.core.assign(self.now)
        self.take()
        self.load(*self.specs(*sizes), job_id=job_id, more=more)

    def add(self, job_id: str = "j", objects: int = 1) -> None:
        row = JobRow(job_id=job_id, uri="", name="", fingerprint="", request="", priority=0, created_at=0.0)
        self.core.add_job(row)
        spec = JobSpec(job_id=job_id, source="", origin=OriginKind.HTTP, layout=Layout.FOLDER, destination="/d")
        self.core.job_listed(job_id, spec, objects, 0)

    @staticmethod
    def specs(*sizes: int | None) -> list[ObjectSpec]:
        return [ObjectSpec(object_id=number, path=str(number), size=size) for number, size in enumerate(sizes, 1)]

    def load(self, *specs: ObjectSpec, job_id: str = "j", more: bool = False) -> None:
        loaded = [(spec, self.failures.get(spec.object_id, 0)) for spec in specs]
        self.core.objects_loaded(job_id, loaded, more=more)
        check_invariants(self.core)

    def hello(
        self, agent_id: str, *, slots: int = 2, held: Iterable[LeaseRef] = (), results: Iterable[Result] = ()
    ) -> Effects:
        self.say(
            agent_id,
            Hello(
                agent_id=agent_id,
                name=agent_id,
                version="1",
                capacity=Capacity(slots=slots, units_max=4 * slots, bytes_max=256 * MIB),
                held=tuple(held),
                results=tuple(results),
            ),
        )
        return self.take()

    def say(self, agent_id: str, message: Hello | Heartbeat | Results | Goodbye) -> None:
        self.core.receive(agent_id, message, self.now)
        check_invariants(self.core)

    def result(self, lease: Lease, outcome: Outcome = Outcome.DONE, **changes: object) -> Result:
        self.seq += 1
        if outcome is Outcome.DONE and not changes and lease.kind is UnitKind.RANGE:
            changes["done"] = ((lease.start, lease.stop),)
        if outcome is Outcome.DONE and lease.kind in (UnitKind.WHOLE, UnitKind.PUBLISH) and lease.object:
            changes.setdefault("size", lease.object.size)
        return Result(seq=self.seq, unit=lease.unit, token=lease.token, outcome=outcome, **changes)  # pyright: ignore[reportArgumentType]

    def report(self, agent_id: str, lease: Lease, outcome: Outcome = Outcome.DONE, **changes: object) -> bool:
        """One report. Returns whether it was accepted."""
        result = self.result(lease, outcome, **changes)
        self.say(agent_id, Results((result,)))
        self.last = self.take()
        (acks,) = sent(self.last, agent_id, Acks)
        assert acks.acks[0].seq == result.seq
        return acks.acks[0].accepted

    def pass_time(self, seconds: float) -> Effects:
        self.now += seconds
        self.core.tick(self.now)
        check_invariants(self.core)
        return self.take()

    # ---- effects ------------------------------------------------------------------------------------------------------

    def take(self) -> Effects:
        effects = self.core.take_effects()
        for write in effects.writes:
            match write:
                case PutLease():
                    self.stored[write.unit] = write
                case DropLease():
                    self.stored.pop(write.unit, None)
                case ObjectRetried():
                    self.failures[write.object_id] = write.failures
                case _:
                    pass
        assert {lease.unit for lease in self.core.leases} == set(self.stored)
        return effects

    def assign(self) -> dict[str, list[Lease]]:
        """One turn. Returns what was granted, by agent."""
        self.core.assign(self.now)
        check_invariants(self.core)
        self.last = self.take()
        granted: dict[str, list[Lease]] = {}
        for send in self.last.sends:
            if isinstance(send.message, Grants):
                granted.setdefault(send.agent_id, []).extend(send.message.leases)
        return granted

    def restart(self) -> Fleet:
        """A new incarnation with the stored leases restored, and the same objects to load."""
        again = Fleet(incarnation=self.core.incarnation + 1, limits=self.core.limits)
        again.now = self.now
        again.stored = dict(self.stored)
        again.seq = self.seq
        for job in self.core.jobs.values():
            again.core.add_job(job.row, job.fetched_by)
        for put in sorted(self.stored.values(), key=lambda put: put.token):
            objects = self.core.jobs[put.job_id].objects
            held = HeldLease(
                unit=put.unit,
                token=put.token,
                agent_id=put.agent_id,
                kind=put.kind,
                job_id=put.job_id,
                object_id=put.object_id,
                start=put.start,
                stop=put.stop,
                weight=0,
                granted_at=self.now,
                deadline=self.now + 30.0,
            )
            held.left.add(put.start, put.stop)
            again.core.restore_lease(held, objects[put.object_id].spec if put.object_id else None)
            check_invariants(again.core)
        again.take()
        return again

    def phase(self, object_id: int = 1) -> Phase | None:
        obj = self.core.jobs["j"].objects.get(object_id)
        return obj.phase if obj else None

    @property
    def row(self) -> JobRow:
        return self.core.jobs["j"].row


def sent(effects: Effects, agent_id: str, kind: type[T]) -> list[T]:
    messages: list[CoordinatorMessage] = [send.message for send in effects.sends if send.agent_id == agent_id]
    return [message for message in messages if isinstance(message, kind)]


def written(effects: Effects, kind: type[T]) -> list[T]:
    return [write for write in effects.writes if isinstance(write, kind)]


def fleet(*sizes: int | None, agents: int = 1, attempts: int = 3) -> Fleet:
    made = Fleet(limits=CoreLimits(attempts=attempts))
    made.job(*sizes)
    for number in range(agents):
        made.hello(f"a{number}")
    return made


def open_object(made: Fleet, *, done: tuple[Interval, ...] = ()) -> dict[str, list[Lease]]:
    """Let somebody open the first object. Returns the ranges that are granted then."""
    ((agent_id, leases),) = made.assign().items()
    opening = next(lease for lease in leases if lease.kind is UnitKind.OPEN)
    assert made.report(agent_id, opening, done=done)
    return made.assign()
