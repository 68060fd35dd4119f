"""What people ask for and are shown, to and from ``shoal.v1`` messages.

Decoding raises `ProtocolViolation` for anything that the views do not allow. `encode_submit_request` raises `UsageError` for a value
that cannot be put on the wire, because a person chose it.
"""

from __future__ import annotations

from shoal.v1 import fleet_admin_service_pb2 as admin
from shoal.v1 import job_service_pb2 as jobs

from .records import Delivery
from .secrets import Secret
from .views import (
    ActiveObjectView,
    ActivePhase,
    AgentStatus,
    AgentView,
    FleetView,
    JobAgentView,
    JobStatus,
    JobView,
    NewToken,
    ObjectStatus,
    ObjectView,
    QueueView,
    Role,
    Submitted,
    TokenView,
)
from .wire_collect import (
    decode_tally,
    encode_tally,
)
from .wire_nas import decode_nas_counts, encode_nas_counts
from .wire_replicas import decode_replica, encode_replica
from .wire_values import EnumCodec, amount, count, each, name, prose, texts
from .wire_work import (
    DELIVERY,
    decode_capacity,
    decode_failure,
    decode_interval,
    decode_moment,
    encode_capacity,
    encode_failure,
    encode_interval,
    encode_moment,
)

JOB_STATUS = EnumCodec(JobStatus, jobs.JobStatus, "JOB_STATUS")
OBJECT_STATUS = EnumCodec(ObjectStatus, jobs.ObjectStatus, "OBJECT_STATUS")
ACTIVE_PHASE = EnumCodec(ActivePhase, jobs.ActivePhase, "ACTIVE_PHASE")
AGENT_STATUS = EnumCodec(AgentStatus, admin.AgentStatus, "AGENT_STATUS")
ROLE = EnumCodec(Role, admin.Role, "ROLE")

# ---- jobs -----------------------------------------------------------------------------------------------------------


def encode_job(view: JobView) -> jobs.Job:
    """A job."""
    return jobs.Job(
        job_id=view.job_id,
        uri=view.uri,
        name=view.name,
        status=JOB_STATUS.number(view.status),
        paused=view.paused,
        priority=view.priority,
        created_at=encode_moment(view.created_at),
        ended_at=encode_moment(view.ended_at),
        destination=view.destination,
        revision=view.revision,
        commit=view.commit,
        objects_total=view.objects_total,
        objects_done=view.objects_done,
        objects_skipped=view.objects_skipped,
        objects_failed=view.objects_failed,
        bytes_total=view.bytes_total,
        bytes_done=view.bytes_done,
        bytes_fetched=view.bytes_fetched,
        bytes_arrived=view.bytes_arrived,
        rate_bytes_per_s=view.rate_bytes_per_s,
        eta_s=view.eta_s,
        failure=encode_failure(view.failure),
        active=map(_encode_active_object, view.active),
        delivery=DELIVERY.number(view.delivery),
        bytes_from_peers=view.bytes_from_peers,
        replicas=map(encode_replica, view.replicas),
        rows_total=view.rows_total,
        rows_rejected=view.rows_rejected,
        rows_done=view.rows_done,
        rows_per_s=view.rows_per_s,
        tally=encode_tally(view.tally),
        nas=encode_nas_counts(view.nas),
        agents=map(_encode_job_agent, view.agents),
        agents_more=view.agents_more,
    )


def decode_job(job: jobs.Job) -> JobView:
    """A job."""
    return JobView(
        job_id=name(job.job_id, "Job.job_id"),
        uri=job.uri,
        name=job.name,
        status=JOB_STATUS.member(job.status, "Job.status"),
        paused=job.paused,
        priority=job.priority,
        created_at=decode_moment(job.created_at, "Job.created_at"),
        ended_at=decode_moment(job.ended_at, "Job.ended_at") if job.HasField("ended_at") else None,
        destination=job.destination,
        revision=job.revision,
        commit=job.commit,
        objects_total=count(job.objects_total, "Job.objects_total"),
        objects_done=count(job.objects_done, "Job.objects_done"),
        objects_skipped=count(job.objects_skipped, "Job.objects_skipped"),
        objects_failed=count(job.objects_failed, "Job.objects_failed"),
        bytes_total=count(job.bytes_total, "Job.bytes_total"),
        bytes_done=count(job.bytes_done, "Job.bytes_done"),
        bytes_fetched=count(job.bytes_fetched, "Job.bytes_fetched"),
        bytes_arrived=count(job.bytes_arrived, "Job.bytes_arrived"),
        rate_bytes_per_s=amount(job.rate_bytes_per_s, "Job.rate_bytes_per_s"),
        eta_s=amount(job.eta_s, "Job.eta_s") if job.HasField("eta_s") else None,
        failure=decode_failure(job.failure) if job.HasField("failure") else None,
        active=each(_decode_active_object, job.active, "Job.active"),
        delivery=DELIVERY.optional(job.delivery, "Job.delivery") or Delivery.SPREAD,
        bytes_from_peers=count(job.bytes_from_peers, "Job.bytes_from_peers"),
        replicas=each(decode_replica, job.replicas, "Job.replicas"),
        rows_total=count(job.rows_total, "Job.rows_total"),
        rows_rejected=count(job.rows_rejected, "Job.rows_rejected"),
        rows_done=count(job.rows_done, "Job.rows_done"),
        rows_per_s=amount(job.rows_per_s, "Job.rows_per_s"),
        tally=decode_tally(job.tally, "Job.tally"),
        nas=decode_nas_counts(job.nas) if job.HasField("nas") else None,
        agents=each(_decode_job_agent, job.agents, "Job.agents"),
        agents_more=count(job.agents_more, "Job.agents_more"),
    )


def _encode_job_agent(view: JobAgentView) -> jobs.JobAgent:
    return jobs.JobAgent(agent_id=view.agent_id, name=view.name, from_origin=view.from_origin)


def _decode_job_agent(agent: jobs.JobAgent) -> JobAgentView:
    return JobAgentView(
        agent_id=name(agent.agent_id, "JobAgent.agent_id"),
        name=name(agent.name, "JobAgent.name"),
        from_origin=count(agent.from_origin, "JobAgent.from_origin"),
    )


def _encode_active_object(view: ActiveObjectView) -> jobs.ActiveObject:
    return jobs.ActiveObject(
        object_id=view.object_id,
        path=prose(view.path),  # the names that a listing refused are here too
        size=view.size,
        done_bytes=view.done_bytes,
        agents=view.agents,
        phase=ACTIVE_PHASE.number(view.phase),
        done=map(encode_interval, view.done),
    )


def _decode_active_object(active: jobs.ActiveObject) -> ActiveObjectView:
    return ActiveObjectView(
        object_id=count(active.object_id, "ActiveObject.object_id"),
        path=active.path,
        size=count(active.size, "ActiveObject.size") if active.HasField("size") else None,
        done_bytes=count(active.done_bytes, "ActiveObject.done_bytes"),
        agents=texts(active.agents, "ActiveObject.agents"),
        phase=ACTIVE_PHASE.member(active.phase, "ActiveObject.phase"),
        done=each(decode_interval, active.done, "ActiveObject.done"),
    )


def encode_submitted(submitted: Submitted) -> jobs.SubmittedJob:
    """The job that a URI became."""
    return jobs.SubmittedJob(job=encode_job(submitted.job), created=submitted.created)


def decode_submitted(submitted: jobs.SubmittedJob) -> Submitted:
    """The job that a URI became."""
    return Submitted(job=decode_job(submitted.job), created=submitted.created)


def encode_object(view: ObjectView) -> jobs.JobObject:
    """An object of a job."""
    return jobs.JobObject(
        object_id=view.object_id,
        path=prose(view.path),  # the names that a listing refused are here too
        size=view.size,
        status=OBJECT_STATUS.number(view.status),
        digest=view.digest,
        failures=view.failures,
        failure=encode_failure(view.failure),
        skipped=view.skipped,
        agent=view.agent,
    )


def decode_object(obj: jobs.JobObject) -> ObjectView:
    """An object of a job."""
    return ObjectView(
        object_id=count(obj.object_id, "JobObject.object_id"),
        path=obj.path,
        size=count(obj.size, "JobObject.size") if obj.HasField("size") else None,
        status=OBJECT_STATUS.member(obj.status, "JobObject.status"),
        digest=obj.digest,
        failures=count(obj.failures, "JobObject.failures"),
        failure=decode_failure(obj.failure) if obj.HasField("failure") else None,
        skipped=obj.skipped,
        agent=obj.agent,
    )


# ---- fleet ----------------------------------------------------------------------------------------------------------


def encode_agent(view: AgentView) -> admin.Agent:
    """An agent."""
    return admin.Agent(
        agent_id=view.agent_id,
        name=view.name,
        status=AGENT_STATUS.number(view.status),
        version=view.version,
        zone=view.zone,
        capacity=None if view.capacity is None else encode_capacity(view.capacity),
        units=view.units,
        bytes_held=view.bytes_held,
        rate_bytes_per_s=view.rate_bytes_per_s,
        objects_done=view.objects_done,
        bytes_done=view.bytes_done,
        memory_bytes=view.memory_bytes,
        connected_s=view.connected_s,
        silent_s=view.silent_s,
        peer_address=view.peer_address,
        sent_bytes=view.sent_bytes,
        bad_chunks=view.bad_chunks,
        cut_off=view.cut_off,
        nas=encode_nas_counts(view.nas),
        disk_free_bytes=view.disk_free_bytes,
        disk_total_bytes=view.disk_total_bytes,
    )


def decode_agent(agent: admin.Agent) -> AgentView:
    """An agent."""
    return AgentView(
        agent_id=name(agent.agent_id, "Agent.agent_id"),
        name=name(agent.name, "Agent.name"),
        status=AGENT_STATUS.member(agent.status, "Agent.status"),
        version=agent.version,
        zone=agent.zone,
        capacity=decode_capacity(agent.capacity) if agent.HasField("capacity") else None,
        units=count(agent.units, "Agent.units"),
        bytes_held=count(agent.bytes_held, "Agent.bytes_held"),
        rate_bytes_per_s=amount(agent.rate_bytes_per_s, "Agent.rate_bytes_per_s"),
        objects_done=count(agent.objects_done, "Agent.objects_done"),
        bytes_done=count(agent.bytes_done, "Agent.bytes_done"),
        memory_bytes=count(agent.memory_bytes, "Agent.memory_bytes"),
        connected_s=amount(agent.connected_s, "Agent.connected_s"),
        silent_s=amount(agent.silent_s, "Agent.silent_s"),
        peer_address=agent.peer_address,
        sent_bytes=count(agent.sent_bytes, "Agent.sent_bytes"),
        bad_chunks=count(agent.bad_chunks, "Agent.bad_chunks"),
        cut_off=agent.cut_off,
        nas=decode_nas_counts(agent.nas) if agent.HasField("nas") else None,
        disk_free_bytes=count(agent.disk_free_bytes, "Agent.disk_free_bytes"),
        disk_total_bytes=count(agent.disk_total_bytes, "Agent.disk_total_bytes"),
    )


def encode_queued_job(view: QueueView) -> admin.QueuedJob:
    """The work of a job."""
    return admin.QueuedJob(
        job_id=view.job_id,
        uri=view.uri,
        status=JOB_STATUS.number(view.status),
        name=view.name,
        paused=view.paused,
        priority=view.priority,
        objects_waiting=view.objects_waiting,
        bytes_waiting=view.bytes_waiting,
        units_leased=view.units_leased,
    )


def decode_queued_job(job: admin.QueuedJob) -> QueueView:
    """The work of a job."""
    return QueueView(
        job_id=name(job.job_id, "QueuedJob.job_id"),
        uri=job.uri,
        status=JOB_STATUS.member(job.status, "QueuedJob.status"),
        name=job.name,
        paused=job.paused,
        priority=job.priority,
        objects_waiting=count(job.objects_waiting, "QueuedJob.objects_waiting"),
        bytes_waiting=count(job.bytes_waiting, "QueuedJob.bytes_waiting"),
        units_leased=count(job.units_leased, "QueuedJob.units_leased"),
    )


def encode_fleet(view: FleetView) -> admin.Fleet:
    """The whole fleet."""
    return admin.Fleet(
        version=view.version,
        incarnation=view.incarnation,
        uptime_s=view.uptime_s,
        agents_alive=view.agents_alive,
        agents_late=view.agents_late,
        agents_lost=view.agents_lost,
        jobs_active=view.jobs_active,
        jobs_ended=view.jobs_ended,
        objects_waiting=view.objects_waiting,
        bytes_waiting=view.bytes_waiting,
        units_leased=view.units_leased,
        rate_bytes_per_s=view.rate_bytes_per_s,
        warnings=view.warnings,
        nas=encode_nas_counts(view.nas),
        epoch_s=view.epoch_s,
    )


def decode_fleet(fleet: admin.Fleet) -> FleetView:
    """The whole fleet."""
    return FleetView(
        version=fleet.version,
        incarnation=count(fleet.incarnation, "Fleet.incarnation"),
        uptime_s=amount(fleet.uptime_s, "Fleet.uptime_s"),
        agents_alive=count(fleet.agents_alive, "Fleet.agents_alive"),
        agents_late=count(fleet.agents_late, "Fleet.agents_late"),
        agents_lost=count(fleet.agents_lost, "Fleet.agents_lost"),
        jobs_active=count(fleet.jobs_active, "Fleet.jobs_active"),
        jobs_ended=count(fleet.jobs_ended, "Fleet.jobs_ended"),
        objects_waiting=count(fleet.objects_waiting, "Fleet.objects_waiting"),
        bytes_waiting=count(fleet.bytes_waiting, "Fleet.bytes_waiting"),
        units_leased=count(fleet.units_leased, "Fleet.units_leased"),
        rate_bytes_per_s=amount(fleet.rate_bytes_per_s, "Fleet.rate_bytes_per_s"),
        warnings=tuple(fleet.warnings),
        nas=decode_nas_counts(fleet.nas) if fleet.HasField("nas") else None,
        epoch_s=amount(fleet.epoch_s, "Fleet.epoch_s"),
    )


# ---- credentials ----------------------------------------------------------------------------------------------------


def encode_token(view: TokenView) -> admin.Token:
    """A credential without its secret."""
    return admin.Token(
        token_id=view.token_id,
        role=ROLE.number(view.role),
        name=view.name,
        created_at=encode_moment(view.created_at),
        expires_at=encode_moment(view.expires_at),
    )


def decode_token(token: admin.Token) -> TokenView:
    """A credential without its secret."""
    return TokenView(
        token_id=name(token.token_id, "Token.token_id"),
        role=ROLE.member(token.role, "Token.role"),
        name=token.name,
        created_at=decode_moment(token.created_at, "Token.created_at"),
        expires_at=decode_moment(token.expires_at, "Token.expires_at") if token.HasField("expires_at") else None,
    )


def encode_new_token(made: NewToken) -> admin.CreateTokenResponse:
    """A credential with its secret: the one time that it travels."""
    return admin.CreateTokenResponse(secret=made.token.reveal(), token=encode_token(made.view))


def decode_new_token(made: admin.CreateTokenResponse) -> NewToken:
    """A credential with its secret."""
    return NewToken(token=Secret(made.secret), view=decode_token(made.token))
