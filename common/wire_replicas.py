"""Agents' copies of replicated jobs as people see them, to and from ``shoal.v1`` messages. Decoding raises `ProtocolViolation`."""

from __future__ import annotations

from shoal.v1 import job_service_pb2 as jobs

from .views import ReplicaStatus, ReplicaView
from .wire_values import EnumCodec, count, name
from .wire_work import decode_failure, encode_failure

REPLICA_STATUS = EnumCodec(ReplicaStatus, jobs.ReplicaStatus, "REPLICA_STATUS")


def encode_replica(view: ReplicaView) -> jobs.Replica:
    """One agent's copy."""
    return jobs.Replica(
        agent_id=view.agent_id,
        name=view.name,
        status=REPLICA_STATUS.number(view.status),
        bytes_done=view.bytes_done,
        chunks_done=view.chunks_done,
        from_origin=view.from_origin,
        from_peers=view.from_peers,
        failure=encode_failure(view.failure),
    )


def decode_replica(replica: jobs.Replica) -> ReplicaView:
    """One agent's copy."""
    return ReplicaView(
        agent_id=name(replica.agent_id, "Replica.agent_id"),
        name=name(replica.name, "Replica.name"),
        status=REPLICA_STATUS.member(replica.status, "Replica.status"),
        bytes_done=count(replica.bytes_done, "Replica.bytes_done"),
        chunks_done=count(replica.chunks_done, "Replica.chunks_done"),
        from_origin=count(replica.from_origin, "Replica.from_origin"),
        from_peers=count(replica.from_peers, "Replica.from_peers"),
        failure=decode_failure(replica.failure) if replica.HasField("failure") else None,
    )
