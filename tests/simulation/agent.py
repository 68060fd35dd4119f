"""An agent in virtual time: the real session, a worker that takes time for every byte, and a journal that survives kills."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shoal.agent.session import (
    GiveBackHalf,
    Identity,
    Journal,
    Leave,
    Outlook,
    SessionCore,
    SessionEffect,
    SetBudgets,
    Settle,
    StartWork,
    StopWork,
    Tell,
)
from shoal.common.errors import Busy, Changed, NoSpace, NotShared, TimedOut, VerificationFailed
from shoal.common.intervals import IntervalSet
from shoal.common.records import (
    Capacity,
    CoordinatorMessage,
    Failure,
    Lease,
    LeaseRef,
    ObjectSpec,
    Outcome,
    Progress,
    Result,
    UnitKind,
    WorkReport,
)

from .clock import Clock, require
from .disk import Disk, Partial
from .network import Link

STEP_BYTES = 8 << 20
STEP_BYTES_MIN = 256 << 10
SLICE_S = 4.0
"""A range is written and recorded in steps of so many bytes, fewer on a slow line."""

NOT_SHARED = Failure(code=NotShared.code, text="the partial file is not there")
NO_SPACE = Failure(code=NoSpace.code, text="the disk is full", retryable=False)
ORIGIN_DOWN = Failure(code=TimedOut.code, text="the origin was silent")
NOT_THERE = Failure(code="not-found", text="the origin has no such object", retryable=False)
CHANGED = Failure(code=Changed.code, text="the origin has another version")
TAKEN_OVER = Failure(code=Busy.code, text="the partial file's name stands for another one")
WRONG_BYTES = Failure(code=VerificationFailed.code, text="the digest is another")


@dataclass(slots=True)
class Origin:
    """The server that all bytes come from. sizes holds what is true; rates are probabilities of a unit to go wrong."""

    sizes: dict[str, int] = field(default_factory=dict[str, int])  # by url
    gone: set[str] = field(default_factory=set[str])
    versions: dict[str, int] = field(default_factory=dict[str, int])  # of those that change, and have no digest
    error_rate: float = 0.0
    corrupt_rate: float = 0.0
    served: int = 0
    too_late: int = 0  # bytes that arrived although they had been given back


@dataclass(slots=True)
class Known:
    """What an agent remembers of an object in one of its lives, while its process lives: as `Transfer` does."""

    life: int
    partial: Partial | None = None  # open
    have: IntervalSet = field(default_factory=IntervalSet)
    version: int | None = None  # of its first answer
    changed: bool = False


@dataclass(slots=True)
class Task:
    """A lease that the worker holds. left is what it still means to bring of a range."""

    lease: Lease
    started: bool = False
    stopped: bool = False
    left: IntervalSet = field(default_factory=IntervalSet)
    arrived: int = 0

    @property
    def ref(self) -> LeaseRef:
        return LeaseRef(self.lease.unit, self.lease.token)


class SimAgent:
    """One agent over its lives."""

    def __init__(
        self, clock: Clock, rng: random.Random, agent_id: str, *, disk: Disk, origin: Origin, rate: float, slots: int
    ) -> None:
        """rate is in bytes/s for each of the slots."""
        self.clock = clock
        self.agent_id = agent_id
        self.capacity = Capacity(slots=slots, units_max=4 * slots, bytes_max=256 << 20)
        self.rate = self.full_rate = rate
        self.sees_folder = True
        self.running = False
        self.life = 0
        self.frozen_until = 0.0
        self.session: SessionCore | None = None
        self.connect: Callable[[SimAgent], Link | None] = lambda agent: None
        self._rng = rng
        self._disk = disk
        self._origin = origin
        self._journal: dict[int, Result] = {}
        self._tasks: dict[LeaseRef, Task] = {}
        self._known: dict[int, Known] = {}
        self.on_lapse: Callable[[Lease], None] = lambda lease: None  # hears of leases that ran out at this agent
        self._link: Link | None = None
        self._inbox: deque[tuple[Link, CoordinatorMessage]] = deque()
        self._timer = 0

    # ---- life and death ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process reads the journal and connects."""
        if self.running:
            return
        self.running, self.frozen_until = True, 0.0
        self.life += 1
        identity = Identity(agent_id=self.agent_id, name=self.agent_id, version="1")
        self.session = SessionCore(identity=identity, capacity=self.capacity, unreported=dict(self._journal))
        self._tasks.clear()
        self._known.clear()
        self._inbox.clear()
        self._connect()

    def kill(self) -> None:
        """The process dies. The journal and what was written stay."""
        self.running = False
        self.life += 1
        self.session = None
        if self._link is not None:
            self._link.cut()
            self._link = None

    def cut(self) -> None:
        """The connection breaks."""
        if self._link is not None:
            self._link.cut()

    def leave(self) -> None:
        """The process ends on purpose: work is stopped and given back first."""
        if not self.running or self._frozen():
            return
        session = self._session()
        returned: list[WorkReport] = []
        for task in list(self._tasks.values()):
            task.stopped = True
            ref = task.ref
            returned.append(WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.RETURNED))
        self._tasks.clear()
        if session.connected:
            self._carry_out(session.report(returned))
            self._carry_out(session.goodbye("the machine goes down"))
        self.running = False
        self.life += 1
        self.session, self._link = None, None

    def freeze(self, until: float) -> None:
        """Nothing of the process runs until then; what was under way then goes on as if nothing had been."""
        self.frozen_until = until

    def _frozen(self) -> bool:
        return self.frozen_until > self.clock.now

    def _session(self) -> SessionCore:
        assert self.session is not None
        return self.session

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something after a delay, unless this process is dead by then; a frozen one does it when it thaws."""
        life = self.life

        def act() -> None:
            if self.life == life:
                if self._frozen():
                    self.clock.at(self.frozen_until, act)
                else:
                    action()

        self.clock.after(delay_s, act)

    # ---- session ----------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._link = self.connect(self)
        if self._link is None:
            self._later(0.2 + self._rng.random() * 2.0, self._connect)
        else:
            self._carry_out(self._session().open(self.clock.now))
            self._wake()

    def received(self, link: Link, message: CoordinatorMessage) -> None:
        """A message arrived."""

        if self.running:
            self._inbox.append((link, message))
            self._later(0.0, self._take)

    def _take(self) -> None:
        """Take in all that has arrived, in order: after a thaw that is more than one message."""
        while self._inbox:
            link, message = self._inbox.popleft()
            if self._link is link:
                session = self._session()
                self._carry_out(session.receive(message, self.clock.now))
                held = len(session.held)
                require(held <= self.capacity.units_max, f"{self.agent_id} holds {held} units: more than its credit")
                self._wake()

    def closed(self, link: Link) -> None:
        """A connection broke."""

        def take() -> None:
            if self._link is link:
                self._link = None
                self._carry_out(self._session().closed())
                self._later(0.1 + self._rng.random() * 2.0, self._connect)

        if self.running:
            self._later(0.0, take)

    def _wake(self) -> None:
        self._timer += 1
        timer = self._timer
        now = self.clock.now

        def tick() -> None:
            if timer == self._timer:
                for task in self._tasks.values():
                    if self._session().deadline(task.ref) <= self.clock.now:
                        self.on_lapse(task.lease)
                progress = [Progress(task.lease.unit, task.lease.token, task.arrived) for task in self._tasks.values()]
                self._carry_out(self._session().tick(self.clock.now, Outlook(progress=progress)))
                self._wake()

        self._later(max(0.001, self._session().next_wakeup(now) - now), tick)

    def _carry_out(self, effects: Iterable[SessionEffect]) -> None:
        for effect in effects:
            match effect:
                case StartWork():
                    self._start_work(effect.lease)
                case StopWork():
                    self._stop(effect.ref)
                case GiveBackHalf():
                    self._give_back_half(effect.ref)
                case Journal():
                    self._journal.update((result.seq, result) for result in effect.results)
                case Settle():
                    for seq in effect.seqs:
                        del self._journal[seq]
                case Tell():
                    if self._link is not None:
                        self._link.send_up(effect.message)
                case Leave():
                    self._later(0.0, self.leave)
                case SetBudgets():
                    pass

    # ---- worker -----------------------------------------------------------------------------------------------------

    @property
    def under_way(self) -> list[Lease]:
        """What it works on, or means to."""
        return [task.lease for task in self._tasks.values()]

    def _true_size(self, spec: ObjectSpec) -> int:
        return self._origin.sizes[spec.url]

    def _start_work(self, lease: Lease) -> None:
        task = Task(lease)
        require(task.ref not in self._tasks, f"{self.agent_id} was told twice to work on {task.ref}")
        task.left.add(lease.start, lease.stop)
        self._tasks[task.ref] = task
        self._fill_slots()

    def _fill_slots(self) -> None:
        busy = sum(task.started for task in self._tasks.values())
        for task in list(self._tasks.values()):
            if busy >= self.capacity.slots:
                break
            if not task.started:
                task.started = True
                busy += 1
                self._run(task)

    def _stop(self, ref: LeaseRef) -> None:
        task = self._tasks.pop(ref, None)
        if task is not None:
            task.stopped = True
            self._fill_slots()

    def _give_back_half(self, ref: LeaseRef) -> None:
        task = self._tasks.get(ref)
        if task is None or task.lease.kind is not UnitKind.RANGE:
            return
        half = task.left.total // 2 if task.started else 0
        released = []
        for start, stop in reversed(list(task.left)):
            if task.left.total <= half:
                break
            cut = max(start, stop - (task.left.total - half))
            task.left.remove(cut, stop)
            released.append((cut, stop))
        if released:
            self._report(task, Outcome.PARTIAL if task.left else Outcome.RETURNED, released=tuple(released))

    def _report(self, task: Task, outcome: Outcome, **changes: object) -> None:
        if outcome is not Outcome.PARTIAL:
            task.stopped = True
            self._tasks.pop(task.ref, None)
        ref = task.ref
        report = WorkReport(unit=ref.unit, token=ref.token, outcome=outcome, **changes)  # pyright: ignore[reportArgumentType]
        self._carry_out(self._session().report([report]))
        self._fill_slots()

    def _fail(self, task: Task, failure: Failure, fetched: int = 0) -> None:
        self._report(task, Outcome.FAILED, failure=failure, fetched=fetched)

    def _run(self, task: Task) -> None:
        lease = task.lease
        if lease.kind in (UnitKind.PREPARE, UnitKind.FINALIZE):
            self._later(0.02 + self._rng.random() * 0.1, lambda: self._job_unit(task))
            return
        assert lease.object is not None
        spec = lease.object
        if lease.kind is UnitKind.WHOLE:
            there = spec.object_id in self._disk.finals
            self._fetch(0 if there else self._true_size(spec), lambda: self._whole(task, spec))
        elif lease.kind is UnitKind.OPEN:
            self._later(0.02, lambda: self._open(task, spec))
        elif lease.kind is UnitKind.RANGE:
            self._range(task, spec)
        else:
            self._later(0.02 + self._true_size(spec) / 1e9, lambda: self._publish(task, spec))

    def _fetch(self, size: int, then: Callable[[], None]) -> None:
        """Take the time of so many bytes, by slices, because the rate may change on the way."""
        rate = self.rate * (0.8 + 0.4 * self._rng.random())
        part = min(size, int(rate * SLICE_S))
        self._later(0.02 + part / rate, then if part == size else lambda: self._fetch(size - part, then))

    def _obstacle(self, spec: ObjectSpec) -> Failure | None:
        if not self.sees_folder:
            return NOT_SHARED
        if self._disk.full:
            return NO_SPACE
        if spec.url in self._origin.gone:
            return NOT_THERE
        return ORIGIN_DOWN if self._rng.random() < self._origin.error_rate else None

    def _wrong(self, spec: ObjectSpec) -> bool:
        return spec.url not in self._origin.versions and self._rng.random() < self._origin.corrupt_rate

    def _know(self, spec: ObjectSpec) -> Known:
        """What is remembered of the object, without what is of another life."""
        known = self._known.get(spec.object_id)
        if known is None or known.life != spec.life:
            known = self._known[spec.object_id] = Known(spec.life)
        return known

    def _meets_a_change(self, known: Known, spec: ObjectSpec) -> bool:
        """The origin answers: whether that is of another version than the first answer in this life. Then nothing more is written."""
        version = self._origin.versions.get(spec.url, 0)
        if known.version is None:
            known.version = version
        known.changed = known.changed or known.version != version
        return known.changed

    def _job_unit(self, task: Task) -> None:
        if task.stopped:
            return
        if not self.sees_folder:
            self._fail(task, NOT_SHARED)
        elif self._disk.full:
            self._fail(task, NO_SPACE)
        else:
            self._disk.prepared.add(task.lease.job_id)
            self._report(task, Outcome.DONE)

    def _whole(self, task: Task, spec: ObjectSpec) -> None:
        if task.stopped:
            return
        size = self._true_size(spec)
        if self.sees_folder and spec.object_id in self._disk.finals:
            self._report(task, Outcome.DONE, size=size, digest="sha256:00", skipped=True)
        elif (failure := self._obstacle(spec)) is not None:
            self._fail(task, failure)
        else:
            self._origin.served += size
            if self._wrong(spec):
                self._fail(task, WRONG_BYTES, fetched=size)
            else:
                self._disk.put(spec.object_id, spec.life, size, self._signature(task))
                self._report(task, Outcome.DONE, size=size, digest="sha256:00", fetched=size)

    def _signature(self, task: Task) -> str:
        return f"v1/{self.agent_id}/{task.lease.token}"

    def _open(self, task: Task, spec: ObjectSpec) -> None:
        if task.stopped:
            return
        if not self.sees_folder:
            self._fail(task, NOT_SHARED)
        elif spec.object_id in self._disk.finals:
            self._report(task, Outcome.DONE, size=spec.size, digest="sha256:00", skipped=True)
        elif self._disk.full:
            self._fail(task, NO_SPACE)
        elif (known := self._know(spec)).changed:
            self._fail(task, CHANGED)
        else:
            known.partial = self._disk.open(spec.object_id, spec.life, self._true_size(spec))
            known.have = known.partial.recorded.copy()
            self._report(task, Outcome.DONE, done=tuple(known.have))

    def _range(self, task: Task, spec: ObjectSpec) -> None:
        """Bring the next step of a range. A step that was under way when the lease ended still lands on the disk."""
        if task.stopped:
            return
        require(bool(task.left), f"{self.agent_id} works on {task.ref} with nothing left")
        known = self._know(spec)
        if not task.arrived and self._ends_at_once(task, spec, known):
            return
        start, stop = next(iter(task.left))
        stop = min(stop, start + max(STEP_BYTES_MIN, min(STEP_BYTES, int(self.rate * SLICE_S))))

        def landed() -> None:
            if task.stopped and self._rng.random() < 0.5:
                return
            failure = self._obstacle(spec)
            partial = known.partial
            if failure is None and self._meets_a_change(known, spec):
                failure = CHANGED
            elif failure is None and partial is not None and not self._disk.names(spec.object_id, partial):
                failure = TAKEN_OVER
            # What was given back meanwhile is cut off, or has arrived already.
            still = sum(b - a for a, b in task.left.present(start, stop))
            end = stop if task.stopped or self._rng.random() < 0.3 else start + still
            if failure is None and self._wrong(spec) and self._rng.random() < 0.3:
                failure = WRONG_BYTES  # an error page in place of the bytes: seen at once, and not written
            if failure is None and partial is not None:
                self._origin.served += end - start
                self._origin.too_late += end - start - still
                partial.write(start, end, self._signature(task), right=not self._wrong(spec))
                known.have.add(start, end)
            if task.stopped:
                return
            if failure is CHANGED:
                self._all_fail(spec)
                return
            if failure is not None or partial is None:
                self._fail(task, failure or NOT_SHARED)
                return
            task.arrived += end - start
            task.left.remove(start, stop)
            outcome = Outcome.PARTIAL if task.left else Outcome.DONE
            self._report(task, outcome, done=((start, end),), fetched=end - start)
            self._range(task, spec)

        self._fetch(stop - start, landed)

    def _ends_at_once(self, task: Task, spec: ObjectSpec, known: Known) -> bool:
        """A range begins: it cannot, or with what is remembered of it all of it is there."""
        if known.changed:
            self._all_fail(spec)
            return True
        if known.partial is None and self.sees_folder:
            known.partial = self._disk.find(spec.object_id, spec.life)
            known.have = known.partial.recorded.copy() if known.partial is not None else known.have
        remembered = tuple(span for start, stop in task.left for span in known.have.present(start, stop))
        if not remembered:
            return False
        if known.partial is None or not self._disk.names(spec.object_id, known.partial):
            self._fail(task, TAKEN_OVER)
            return True
        for start, stop in remembered:
            task.left.remove(start, stop)
        self._report(task, Outcome.PARTIAL if task.left else Outcome.DONE, done=remembered)
        return not task.left

    def _all_fail(self, spec: ObjectSpec) -> None:
        """Every range of the object here hears of the change."""
        for task in [*self._tasks.values()]:
            same = task.lease.object is not None and task.lease.object.object_id == spec.object_id
            if same and task.started and task.lease.kind is UnitKind.RANGE and not task.stopped:
                self._fail(task, CHANGED)

    def _publish(self, task: Task, spec: ObjectSpec) -> None:
        if task.stopped:
            return
        if not self.sees_folder:
            self._fail(task, NOT_SHARED)
            return
        known = self._know(spec)
        partial = known.partial or self._disk.find(spec.object_id, spec.life)
        if known.changed:
            self._fail(task, CHANGED)
            return
        if partial is None and spec.object_id not in self._disk.finals:
            self._fail(task, NOT_SHARED)
            return
        verifies = spec.url not in self._origin.versions
        partial = partial or Partial(self._true_size(spec), spec.life)
        wrong = self._disk.publish(spec.object_id, partial, self._signature(task), verifies=verifies)
        if wrong == "":
            self._report(task, Outcome.DONE, size=self._true_size(spec), digest="sha256:00")
        else:
            self._fail(task, WRONG_BYTES if wrong == "bytes" else TAKEN_OVER)
