"""An agent's side of its session with the coordinator: what it holds, what it must still report, what it may still do.

Lease validity on this side: a lease runs out ``ttl_s`` after the grant arrived or after the agent *sent* the last heartbeat that the
coordinator acknowledged, so an agent that is cut off or was frozen stops by itself. The coordinator counts from its own side and may
grant the work again earlier (when a session breaks). Then two agents may do the same work for a while: both write the same
validated bytes to the same place, and only the holder of the newer token is credited.

A report is written to the journal before it is sent and removed when it is acknowledged; after a reconnect or a restart all
that is left in the journal is sent again. The coordinator refuses what is no longer the agent's (fencing), which ends it too.

    (none) --Grants--> held --own report ends it--> reported --Acks--> (none)
                       held --Revoke, Welcome.fenced, deadline--> (none): work stopped, nothing reported

Pure and synchronous: no I/O, no clock. The simulator in tests/simulation runs this very class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..common.nas_records import NasReport
from ..common.records import (
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
    Lease,
    LeaseRef,
    Outcome,
    Progress,
    Result,
    Results,
    Revoke,
    Welcome,
    WorkReport,
    Yield,
)
from ..common.swarm_records import PeerOffer, SwarmOrders


@dataclass(frozen=True, slots=True)
class StartWork:
    """Begin to work on a lease."""

    lease: Lease
    job: JobSpec


@dataclass(frozen=True, slots=True)
class StopWork:
    """Stop at once; report nothing."""

    ref: LeaseRef


@dataclass(frozen=True, slots=True)
class GiveBackHalf:
    """Report as released what is not started of the lease, and half of what is."""

    ref: LeaseRef


@dataclass(frozen=True, slots=True)
class SetBudgets:
    """Use these shares from now on."""

    budgets: tuple[HostBudget, ...]
    version: int = 0


@dataclass(frozen=True, slots=True)
class RenewShares:
    """Leased shares hold until then. anew: those of this session, which begins; what an earlier one gave just runs out."""

    until: float
    anew: bool


@dataclass(frozen=True, slots=True)
class Journal:
    """Write these reports to the journal, before anything is sent."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    """These reports are answered: the journal may forget them."""

    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Send to the coordinator."""

    message: AgentMessage


@dataclass(frozen=True, slots=True)
class Leave:
    """The coordinator asks the agent to drain."""

    reason: str
    reconnect: bool


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session stands: tell anew what is held of every swarm. Capabilities for this agent are signed with the key."""

    peer_key: bytes = field(repr=False)  # a secret
    epoch_s: float  # the coordinator's clock at this moment


@dataclass(frozen=True, slots=True)
class Obey:
    """The swarm wants something of this agent's copy of a job."""

    orders: SwarmOrders


SessionEffect = (
    StartWork | StopWork | GiveBackHalf | SetBudgets | RenewShares | Journal | Settle | Tell | Leave | Admitted | Obey
)


@dataclass(slots=True)
class HeldWork:
    """A lease that this agent works on."""

    lease: Lease
    deadline: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who the agent is."""

    agent_id: str
    name: str
    version: str
    zone: str = ""


@dataclass(slots=True)
class Outlook:
    """What the shell saw since the last heartbeat."""

    progress: Sequence[Progress] = ()
    hosts: Sequence[HostObservation] = ()
    memory: int = 0
    sent: int = 0  # bytes, to peers
    budgets_version: int = 0  # of the last Budgets that are obeyed in full
    lapsed_version: int = 0  # shares of Budgets up to this one ran out
    disk: tuple[int, int] = (0, 0)  # free and all bytes where it writes
    capacity: Capacity | None = None
    nas: NasReport | None = None


@dataclass(slots=True)
class SessionCore:
    """The agent's decisions. Methods return what is to be done, in order."""

    identity: Identity
    capacity: Capacity
    peer: PeerOffer | None = None
    unreported: dict[int, Result] = field(default_factory=dict[int, Result])  # by seq; what the journal held at start
    held: dict[str, HeldWork] = field(default_factory=dict[str, HeldWork])
    jobs: dict[str, JobSpec] = field(default_factory=dict[str, JobSpec])
    connected: bool = False
    welcomed: bool = False
    heartbeat_s: float = 5.0
    lease_ttl_s: float = 30.0
    share_s: float = 0.0
    _opened_at: float = 0.0
    _next_seq: int = 1
    _next_beat: int = 1
    _beats: dict[int, tuple[float, tuple[LeaseRef, ...]]] = field(
        default_factory=dict[int, tuple[float, tuple[LeaseRef, ...]]]
    )
    _beat_due: float = 0.0

    def __post_init__(self) -> None:
        self._next_seq = max(self.unreported, default=0) + 1

    # ---- connection -------------------------------------------------------------------------------------------------

    def open(self, now: float, budgets_version: int = 0) -> list[SessionEffect]:
        """A connection stands: introduce yourself. budgets_version: of the Budgets that this process obeys."""
        self.connected, self.welcomed = True, False
        self._opened_at = now
        self._beats.clear()
        stopped = self._stop_overdue(now)
        hello = Hello(
            agent_id=self.identity.agent_id,
            name=self.identity.name,
            version=self.identity.version,
            zone=self.identity.zone,
            capacity=self.capacity,
            held=self._refs(),
            results=tuple(self.unreported.values()),
            peer=self.peer,
            budgets_version=budgets_version,
        )
        return [*stopped, Tell(hello)]

    def closed(self) -> list[SessionEffect]:
        """The connection broke. Work goes on until the leases run out."""
        self.connected = self.welcomed = False
        self._beats.clear()
        return []

    def goodbye(self, reason: str) -> list[SessionEffect]:
        """Leave on purpose; the shell has stopped all work and reported what it gives back."""
        self.held.clear()
        return [Tell(Goodbye(reason))]

    # ---- from the coordinator ---------------------------------------------------------------------------------------

    def receive(self, message: CoordinatorMessage, now: float) -> list[SessionEffect]:
        """Take in what the coordinator said."""
        match message:
            case Welcome():
                return self._welcome(message, now)
            case HeartbeatAck():
                return self._renewed(message.seq)
            case Grants():
                return self._granted(message, now)
            case Acks():
                return self._acknowledged(message)
            case Revoke():
                return self._stop(message.leases)
            case Yield():
                return [GiveBackHalf(ref) for ref in message.leases if self._holds(ref)]
            case Budgets():
                return [SetBudgets(message.budgets, message.version)]
            case Drain():
                return [Leave(message.reason, message.reconnect)]
            case SwarmOrders():
                return [Obey(message)]

    def _welcome(self, welcome: Welcome, now: float) -> list[SessionEffect]:
        self.heartbeat_s, self.lease_ttl_s = welcome.heartbeat_s, welcome.lease_ttl_s
        self.welcomed = True
        self.share_s = welcome.share_s
        self._beat_due = now  # renew at once: the leases that were kept may be near their end
        shares = RenewShares(self._opened_at + self.share_s, anew=True)
        return [*self._stop(welcome.fenced), shares, Admitted(welcome.peer_key, welcome.epoch_s)]

    def _renewed(self, seq: int) -> list[SessionEffect]:
        sent = self._beats.pop(seq, None)
        if sent is None:
            return []
        sent_at, refs = sent
        for ref in refs:
            if self._holds(ref):
                work = self.held[ref.unit]
                work.deadline = max(work.deadline, sent_at + self.lease_ttl_s)
        return [RenewShares(sent_at + self.share_s, anew=False)]

    def _granted(self, grants: Grants, now: float) -> list[SessionEffect]:
        for job in grants.jobs:
            self.jobs[job.job_id] = job
        effects: list[SessionEffect] = []
        for lease in grants.leases:
            before = self.held.get(lease.unit)
            if before is not None:
                if before.lease.token >= lease.token:
                    continue  # a repeated or overtaken message
                effects.append(StopWork(LeaseRef(lease.unit, before.lease.token)))
            self.held[lease.unit] = HeldWork(lease, now + lease.ttl_s)
            effects.append(StartWork(lease, self.jobs[lease.job_id]))
        return effects

    def _acknowledged(self, acks: Acks) -> list[SessionEffect]:
        effects: list[SessionEffect] = []
        settled: list[int] = []
        for ack in acks.acks:
            result = self.unreported.pop(ack.seq, None)
            if result is None:
                continue
            settled.append(ack.seq)
            if not ack.accepted:
                effects.extend(self._stop([LeaseRef(result.unit, result.token)]))
        if settled:
            effects.append(Settle(tuple(settled)))
        return effects

    # ---- from the worker and the clock ------------------------------------------------------------------------------

    def report(self, reports: Iterable[WorkReport]) -> list[SessionEffect]:
        """The worker has something to report. Reports on leases that are no longer held are dropped: they would be fenced."""
        results: list[Result] = []
        for report in reports:
            work = self.held.get(report.unit)
            if work is None or work.lease.token != report.token:
                continue
            if report.outcome is not Outcome.PARTIAL:
                del self.held[report.unit]
            results.append(
                Result(
                    seq=self._next_seq,
                    unit=report.unit,
                    token=report.token,
                    outcome=report.outcome,
                    done=report.done,
                    released=report.released,
                    fetched=report.fetched,
                    size=report.size,
                    digest=report.digest,
                    etag=report.etag,
                    skipped=report.skipped,
                    failure=report.failure,
                    tally=report.tally,
                    profile=report.profile,
                )
            )
            self.unreported[self._next_seq] = results[-1]
            self._next_seq += 1
        if not results:
            return []
        effects: list[SessionEffect] = [Journal(tuple(results))]
        if self.welcomed:
            effects.append(Tell(Results(tuple(results))))
        return effects

    def tick(self, now: float, outlook: Outlook) -> list[SessionEffect]:
        """Time passed: stop what has run out, send a heartbeat if one is due."""
        effects = self._stop_overdue(now)
        if self.welcomed and now >= self._beat_due:
            refs = self._refs()
            self._beats[self._next_beat] = (now, refs)
            effects.append(
                Tell(
                    Heartbeat(
                        seq=self._next_beat,
                        held=refs,
                        progress=tuple(outlook.progress),
                        hosts=tuple(outlook.hosts),
                        capacity=outlook.capacity,
                        memory=outlook.memory,
                        sent=outlook.sent,
                        budgets_version=outlook.budgets_version,
                        lapsed_version=outlook.lapsed_version,
                        nas=outlook.nas,
                        disk=outlook.disk,
                    )
                )
            )
            self._next_beat += 1
            self._beat_due = now + self.heartbeat_s
        return effects

    def beat_is_due(self, now: float) -> bool:
        """Whether `tick` will send a heartbeat."""
        return self.welcomed and now >= self._beat_due

    def hasten(self, now: float) -> None:
        """Something cannot wait for the next heartbeat (a host asked to wait): let it be due now."""
        self._beat_due = now

    def deadline(self, ref: LeaseRef) -> float:
        """Until when the lease is valid; minus infinity if it is not held."""
        return self.held[ref.unit].deadline if self._holds(ref) else float("-inf")

    def next_wakeup(self, now: float) -> float:
        """When `tick` is due again."""
        due = self._beat_due if self.welcomed else now + self.heartbeat_s
        return min([due, *(work.deadline for work in self.held.values())])

    def _holds(self, ref: LeaseRef) -> bool:
        work = self.held.get(ref.unit)
        return work is not None and work.lease.token == ref.token

    def _refs(self) -> tuple[LeaseRef, ...]:
        return tuple(LeaseRef(unit, work.lease.token) for unit, work in self.held.items())

    def _stop(self, refs: Iterable[LeaseRef]) -> list[SessionEffect]:
        effects: list[SessionEffect] = []
        for ref in refs:
            if self._holds(ref):
                del self.held[ref.unit]
                effects.append(StopWork(ref))
        return effects

    def _stop_overdue(self, now: float) -> list[SessionEffect]:
        overdue = [LeaseRef(unit, work.lease.token) for unit, work in self.held.items() if work.deadline <= now]
        return self._stop(overdue)
