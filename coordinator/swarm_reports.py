"""What agents tell of their copies, and what follows from it: digests held against each other, blame, vouching, fresh attempts.

The first copy of a chunk fixes its digest; what another agent reports for it must be the same. Who is to blame for a difference:

=====================================================  ====================================================================
met                                                    then
=====================================================  ====================================================================
the receiver differs, its source's copy was confirmed  the receiver forgets the chunk, the source has sent a bad one
the receiver differs, its source is receiving itself   the receiver forgets it; the source is judged when its own copy comes
the receiver differs, its source had a wrong copy too  nobody is judged: the source passed on what it was sent
the receiver has the chunk from several sources        the receiver forgets it, nobody is judged; then all of one
the receiver's disk cannot have the file's name        it is ordered there no more, nobody is judged
two receivers agree, with different sources            the witness of the digest is doubted: the object begins anew
two fetches from the origin differ                     the origin changed: the object begins anew
the whole object's digest is wrong                     the object begins anew
=====================================================  ====================================================================

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, repeat

from ..common.errors import (
    AccessDenied,
    Busy,
    Changed,
    Conflict,
    NotFound,
    Unauthenticated,
    UnsafeName,
    VerificationFailed,
)
from ..common.records import Failure, OriginKind
from ..common.swarm_records import (
    MIXED,
    ORIGIN,
    Arrival,
    FetchFailure,
    PublishOrder,
    SwarmInventory,
    SwarmReport,
    Vouch,
)
from .effects import Effects, ObjectBegunAnew, ObjectDone, ObjectFailed, ObjectRetried
from .model import AgentState, JobState
from .replica_model import LargeObject, ReplicaJob, ReplicaState
from .reports import retry_delay_s

BAD_CHUNKS_MAX = 3
"""So many bad chunks, and nobody is sent to the agent any more: one may be a bit that flipped on the way."""
UPLOADS_A_SLOT = 2
"""A relay holds an upload slot only while it has bytes to pass on, and mostly it waits for them.

Measured with 8 agents of 8 slots on links of 200 Mbit/s: 1.12 times the bound with one upload a slot, 1.06 with two.
"""
REST_FIRST_S = 5.0
"""An agent that did not answer another is left alone so long, doubled each time; heartbeats tell if it lives at all."""
REST_MAX_S = 60.0


class SwarmReports:
    """Applies inventories and reports to swarms."""

    def __init__(
        self,
        agents: Mapping[str, AgentState],
        effects: Effects,
        *,
        attempts: int,
        new_life: Callable[[], int],
        cut_off: Callable[[AgentState], None],
    ) -> None:
        """new_life: a number for `ObjectSpec.life`; cut_off: nobody is to be sent to the agent any more, whatever the job."""
        self._agents = agents
        self._effects = effects
        self._attempts = attempts
        self._new_life = new_life
        self._cut_off = cut_off

    def inventory(self, job: JobState, swarm: ReplicaJob, replica: ReplicaState, inventory: SwarmInventory) -> None:
        """An agent joined the swarm with what it holds: all of it is new to us, and what is of another life counts for nothing."""
        agent = self._agents[replica.agent_id]
        peer = agent.peer
        have = int.from_bytes(inventory.have, "little")
        replica.published = set(inventory.published)
        replica.told.clear()
        self.forget_voucher(swarm, replica)
        told = zip(swarm.large.values(), chain(inventory.lives, repeat(0)), strict=False)
        stale = [large for large, life in told if life != large.life]
        for large in stale:
            have &= ~large.mask
            replica.published.discard(large.object_id)
        for known in inventory.digests:
            if known.chunk >= len(swarm.table) or not have >> known.chunk & 1:
                continue
            fixed = swarm.digests[known.chunk]
            if not fixed:
                swarm.digests[known.chunk], swarm.witness[known.chunk] = known.digest, replica.agent_id
            elif fixed != known.digest:
                have &= ~(1 << known.chunk)
                swarm.draft(replica.agent_id).drop.append(known.chunk)
        member = swarm.swarm.join(
            replica.agent_id,
            zone=agent.zone,
            upload_slots=UPLOADS_A_SLOT * peer.upload_slots if peer is not None and peer.address else 0,
            download_slots=_download_slots(agent) if replica.is_active else 0,
            have=have,
        )
        swarm.numbers[member.number] = replica.agent_id
        if agent.cut_off:
            swarm.swarm.bar(replica.agent_id)
        draft = swarm.draft(replica.agent_id)
        draft.give_up.extend(sorted(swarm.given_up))
        for known in swarm.large.values():
            known.anew.pop(replica.agent_id, None)
            self._publish_if_right(swarm, known, replica)
        for large in (large for large in stale if large.object_id not in swarm.given_up):
            self._tell_life(job, swarm, large, replica.agent_id)

    def report(self, job: JobState, swarm: ReplicaJob, replica: ReplicaState, report: SwarmReport, now: float) -> None:
        """What happened to an agent's copy."""
        for progress in report.progress:
            swarm.swarm.progressed(replica.agent_id, progress.chunk, progress.arrived)
        member = swarm.swarm.member(replica.agent_id)
        if member is not None and not replica.is_active:
            member.download_slots = 0  # a seed brings nothing any more
        for chunk in report.lost:
            if chunk < len(swarm.table):
                self._lost(swarm, replica, chunk)
        for arrival in report.arrived:
            if arrival.chunk < len(swarm.table) and not _overtaken(swarm.large_of(arrival.chunk), replica, report):
                self._arrived(job, swarm, replica, arrival)
        for failed in report.failed:
            if failed.chunk < len(swarm.table) and not _overtaken(swarm.large_of(failed.chunk), replica, report):
                self._failed(job, swarm, replica, failed, now)
        for vouch in report.vouched:
            known = swarm.large.get(vouch.object_id)
            if known is None or known.vouched or vouch.object_id in swarm.given_up:
                continue
            if not _overtaken(known, replica, report):
                self._vouched(job, swarm, known, replica, vouch)
        for object_id in report.published:
            if object_id in swarm.large and not _overtaken(swarm.large[object_id], replica, report):
                replica.published.add(object_id)

    def forget_voucher(self, swarm: ReplicaJob, replica: ReplicaState) -> None:
        """The agent cannot vouch any more: somebody else must."""
        if replica.vouches:
            replica.vouches = 0
            for known in swarm.large.values():
                if known.voucher == replica.agent_id and not known.vouched:
                    known.voucher = ""
                    swarm.unvouched.add(known.object_id)

    def _lost(self, swarm: ReplicaJob, replica: ReplicaState, chunk: int) -> None:
        known = swarm.large_of(chunk)
        if known is not None:
            replica.published.discard(known.object_id)  # it is placed anew when all of it is there again
        self._excuse(swarm, replica.agent_id, chunk)
        swarm.swarm.lost(replica.agent_id, chunk)

    def _excuse(self, swarm: ReplicaJob, agent_id: str, chunk: int) -> None:
        """The agent's own copy was wrong: whoever received of it meanwhile has what the agent was sent, not what it made of it."""
        swarm.had_wrong.setdefault(chunk, set()).add(agent_id)
        if chunk in swarm.suspects:
            swarm.suspects[chunk] = [doubt for doubt in swarm.suspects[chunk] if doubt[1] != agent_id]

    # ---- chunks that came -------------------------------------------------------------------------------------------

    def _arrived(self, job: JobState, swarm: ReplicaJob, replica: ReplicaState, arrival: Arrival) -> None:
        replica.from_origin += arrival.from_origin
        replica.from_peers += arrival.from_peers
        job.row.bytes_fetched += arrival.from_origin
        job.row.bytes_from_peers += arrival.from_peers
        job.changed = True
        chunk = arrival.chunk
        known = swarm.large_of(chunk)
        if (known is not None and known.object_id in swarm.given_up) or not swarm.swarm.everything >> chunk & 1:
            return
        if known is not None and arrival.size is not None and known.object_id in swarm.unknown_sizes:
            if swarm.table.size(known.position) not in (None, arrival.size):
                self._begin_anew(job, swarm, known, _failure(Changed(str(known.object_id))))
                return
            swarm.table.learn_size(known.position, arrival.size)
            swarm.swarm.sizes[chunk] = arrival.size
        if known is not None and arrival.etag and job.spec.origin is not OriginKind.HUB:
            if known.etag and known.etag != arrival.etag:
                self._begin_anew(job, swarm, known, _failure(Changed(str(known.object_id))))
                return
            known.etag = arrival.etag
        fixed = swarm.digests[chunk]
        if fixed and fixed != arrival.digest:
            self._differs(job, swarm, replica, arrival)
            return
        if not fixed:
            swarm.digests[chunk] = arrival.digest
            swarm.witness[chunk] = replica.agent_id if arrival.peer != MIXED else ""
        swarm.swarm.arrived(replica.agent_id, chunk)
        if arrival.peer == ORIGIN and known is not None:
            known.failures = 0
        for receiver, source in swarm.suspects.pop(chunk, ()):
            if source == replica.agent_id:
                self._blame(source)  # its own copy is right, what it sent was not
            else:
                swarm.suspects.setdefault(chunk, []).append((receiver, source))
        if known is not None:
            self._publish_if_right(swarm, known, replica)

    def _differs(self, job: JobState, swarm: ReplicaJob, replica: ReplicaState, arrival: Arrival) -> None:
        chunk = arrival.chunk
        swarm.draft(replica.agent_id).drop.append(chunk)
        if arrival.peer == MIXED:
            self._excuse(swarm, replica.agent_id, chunk)
            swarm.swarm.again(replica.agent_id, chunk)
            return
        source = swarm.source(arrival.peer) if arrival.peer != ORIGIN else None
        known = swarm.large_of(chunk)
        if arrival.peer == ORIGIN and known is not None:
            self._begin_anew(job, swarm, known, _failure(Changed(str(known.object_id))))
            return
        self._bad_chunk(job, swarm, replica, chunk, source.agent_id if source is not None else "", arrival.digest)
        swarm.swarm.failed(replica.agent_id, chunk, source)

    def _bad_chunk(
        self, job: JobState, swarm: ReplicaJob, replica: ReplicaState, chunk: int, source: str, digest: bytes
    ) -> None:
        """A receiver's copy is not the witness's. digest is empty where the receiver compared it itself."""
        self._excuse(swarm, replica.agent_id, chunk)
        if source in swarm.had_wrong[chunk]:
            return  # so what this receiver got says nothing of the source, nor of the witness
        known = swarm.large_of(chunk)
        doubts = swarm.suspects.setdefault(chunk, [])
        others = {
            (receiver, sender) for receiver, sender in doubts if receiver != replica.agent_id and sender != source
        }
        if digest and others and known is not None and not known.vouched:
            self._blame(swarm.witness[chunk])
            self._begin_anew(job, swarm, known, _failure(VerificationFailed(str(known.object_id))))
        elif source and swarm.swarm.holds(source, chunk):
            self._blame(source)
        elif source:
            doubts.append((replica.agent_id, source))

    def _blame(self, agent_id: str) -> None:
        agent = self._agents.get(agent_id)
        if agent is None:
            return
        agent.bad_chunks += 1
        self._effects.bad_chunks.append(agent_id)
        if agent.bad_chunks >= BAD_CHUNKS_MAX and not agent.cut_off:
            agent.cut_off = True
            self._cut_off(agent)

    # ---- chunks that did not ----------------------------------------------------------------------------------------

    def _failed(
        self, job: JobState, swarm: ReplicaJob, replica: ReplicaState, failed: FetchFailure, now: float
    ) -> None:
        if failed.failure.code in (Conflict.code, UnsafeName.code):
            swarm.swarm.forgo(replica.agent_id, failed.chunk)  # of its own disk: no fault of whoever was asked
            return
        if failed.peer == ORIGIN:
            self._origin_failed(job, swarm, replica, failed, now)
            return
        source = swarm.source(failed.peer)
        if source is None:
            return
        agent = self._agents.get(source.agent_id)
        held = swarm.swarm.holds(source.agent_id, failed.chunk)
        code = failed.failure.code
        if code == VerificationFailed.code:
            self._bad_chunk(job, swarm, replica, failed.chunk, source.agent_id, b"")
        elif code in (AccessDenied.code, Unauthenticated.code):
            replica.told.discard(source.number)
        elif code == NotFound.code and held:
            swarm.swarm.lost(source.agent_id, failed.chunk)
        elif code not in (Busy.code, Changed.code) and held and agent is not None:
            agent.strikes = 0 if now > agent.rests_until + REST_MAX_S else agent.strikes
            agent.strikes += 1
            agent.rests_until = now + min(REST_MAX_S, REST_FIRST_S * 2 ** (agent.strikes - 1))
            swarm.swarm.rest(source.agent_id, agent.rests_until)
        swarm.swarm.failed(replica.agent_id, failed.chunk, source)

    def _origin_failed(
        self, job: JobState, swarm: ReplicaJob, replica: ReplicaState, failed: FetchFailure, now: float
    ) -> None:
        if not swarm.swarm.failed(replica.agent_id, failed.chunk, None):
            return
        known = swarm.large_of(failed.chunk)
        if failed.failure.code in (Changed.code, VerificationFailed.code) and known is not None:
            self._begin_anew(job, swarm, known, failed.failure)
            swarm.swarm.hold(failed.chunk, now + retry_delay_s(max(1, known.failures)))
            return
        object_id = known.object_id if known is not None else failed.object_id
        if not object_id:
            swarm.swarm.hold(failed.chunk, now + retry_delay_s(1))
            return
        failures = self._count(swarm, known, object_id)
        if not failed.failure.retryable or failures >= self._attempts:
            self._give_up(job, swarm, object_id, failures, failed.failure)
        else:
            self._effects.writes.append(ObjectRetried(object_id=object_id, failures=failures, failure=failed.failure))
            swarm.swarm.hold(failed.chunk, now + retry_delay_s(failures))

    def _count(self, swarm: ReplicaJob, known: LargeObject | None, object_id: int) -> int:
        if known is not None:
            known.failures += 1
            return known.failures
        swarm.small_failures[object_id] = swarm.small_failures.get(object_id, 0) + 1
        return swarm.small_failures[object_id]

    def _give_up(self, job: JobState, swarm: ReplicaJob, object_id: int, failures: int, failure: Failure) -> None:
        """The object failed for good. A bundle goes on without it."""
        if object_id in swarm.given_up:
            return
        swarm.forgo(object_id)
        self._effects.writes.append(ObjectFailed(object_id=object_id, failures=failures, failure=failure))
        job.row.objects_failed += 1
        job.changed = True
        for member in swarm.swarm:
            swarm.draft(member.agent_id).give_up.append(object_id)

    def _begin_anew(self, job: JobState, swarm: ReplicaJob, known: LargeObject, failure: Failure) -> None:
        """What is there of the object is not it: everybody forgets it."""
        known.failures += 1
        known.life = self._new_life()
        self._effects.writes.append(ObjectBegunAnew(known.object_id, known.life))
        if known.failures >= self._attempts:
            self._give_up(job, swarm, known.object_id, known.failures, failure)
            return
        self._effects.writes.append(ObjectRetried(object_id=known.object_id, failures=known.failures, failure=failure))
        voucher = job.replication.replicas.get(known.voucher) if job.replication is not None else None
        if voucher is not None and voucher.is_active and swarm.swarm.member(voucher.agent_id) is not None:
            swarm.draft(voucher.agent_id).vouch.append(known.object_id)
        else:  # who has vouched for it before is gone, or its copy is complete
            known.voucher = ""
            swarm.unvouched.add(known.object_id)
        known.vouched = known.etag = ""
        if known.object_id in swarm.unknown_sizes:
            swarm.table.forget_size(known.position)
        swarm.swarm.reset(known.chunks)
        for chunk in known.chunks:
            swarm.digests[chunk], swarm.witness[chunk] = b"", ""
            swarm.suspects.pop(chunk, None)
            swarm.had_wrong.pop(chunk, None)
        for member in swarm.swarm:
            self._tell_life(job, swarm, known, member.agent_id)

    def _tell_life(self, job: JobState, swarm: ReplicaJob, known: LargeObject, agent_id: str) -> None:
        """The agent is to forget what it has of the object: it begins another life, or has begun one that the agent does not know."""
        assert job.replication is not None
        draft = swarm.draft(agent_id)
        for chunk in known.chunks:
            draft.fetch.pop(chunk, None)
        draft.publish[:] = [order for order in draft.publish if order.object_id != known.object_id]
        draft.reset[known.object_id] = known.life
        known.anew[agent_id] = self._next_seq(job, agent_id)
        job.replication.replicas[agent_id].published.discard(known.object_id)

    def _next_seq(self, job: JobState, agent_id: str) -> int:
        assert job.replication is not None
        return job.replication.replicas[agent_id].orders_sent + 1

    # ---- whole objects ----------------------------------------------------------------------------------------------

    def _vouched(
        self, job: JobState, swarm: ReplicaJob, known: LargeObject, replica: ReplicaState, vouch: Vouch
    ) -> None:
        if known.voucher != replica.agent_id:
            return
        if vouch.failure is not None:
            self._begin_anew(job, swarm, known, vouch.failure)
            return
        if swarm.swarm.member(replica.agent_id) is None or not self._holds_all(swarm, known, replica.agent_id):
            return  # a chunk of it was dropped meanwhile: it vouches again
        known.vouched = vouch.digest
        size = swarm.table.size(known.position)
        self._effects.writes.append(
            ObjectDone(
                object_id=known.object_id,
                size=size or 0,
                digest=vouch.digest,
                etag=known.etag,
                skipped=False,
                agent_id=replica.agent_id,
            )
        )
        assert job.replication is not None
        for other in job.replication.replicas.values():
            self._publish_if_right(swarm, known, other)

    def _holds_all(self, swarm: ReplicaJob, known: LargeObject, agent_id: str) -> bool:
        member = swarm.swarm.member(agent_id)
        return member is not None and member.have & known.mask == known.mask

    def _publish_if_right(self, swarm: ReplicaJob, known: LargeObject, replica: ReplicaState) -> None:
        if (
            known.vouched
            and known.object_id not in replica.published
            and self._holds_all(swarm, known, replica.agent_id)
        ):
            order = PublishOrder(object_id=known.object_id, digest=known.vouched, etag=known.etag)
            swarm.draft(replica.agent_id).publish.append(order)


def _download_slots(agent: AgentState) -> int:
    return agent.peer.download_slots if agent.peer is not None and agent.peer.download_slots else 1


def _overtaken(known: LargeObject | None, replica: ReplicaState, report: SwarmReport) -> bool:
    """Whether the report was written before its agent heard that the object begins anew."""
    return known is not None and report.seen < known.anew.get(replica.agent_id, 0)


def _failure(error: Changed | VerificationFailed) -> Failure:
    return Failure(code=error.code, text=str(error), retryable=True)
