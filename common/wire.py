"""What coordinator and agents say, to and from ``shoal.v1`` messages. Lossless, apart from texts for people, which are cut.

Decoding raises `ProtocolViolation` for anything that the records do not allow; encoding raises it for a value that cannot be put on
the wire (a number of 2^63 or more, a lone surrogate in a string), which means a defect on our side.
"""

from __future__ import annotations

from shoal.v1 import fleet_service_pb2 as pb
from shoal.v1 import work_pb2 as work

from .errors import ProtocolViolation
from .records import (
    Acks,
    AgentMessage,
    Budgets,
    CoordinatorMessage,
    Drain,
    Goodbye,
    Grants,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Results,
    Revoke,
    Welcome,
    Yield,
)
from .swarm_records import SwarmInventory, SwarmOrders, SwarmReport
from .wire_hosts import decode_host_budget, decode_host_observation, encode_host_budget, encode_host_observation
from .wire_nas import decode_nas_report, encode_nas_report
from .wire_swarm import (
    decode_peer_offer,
    decode_swarm_inventory,
    decode_swarm_orders,
    decode_swarm_report,
    encode_peer_offer,
    encode_swarm_inventory,
    encode_swarm_orders,
    encode_swarm_report,
)
from .wire_values import amount, count, each, name, prose, violation
from .wire_work import (
    decode_ack,
    decode_capacity,
    decode_job_spec,
    decode_lease,
    decode_lease_ref,
    decode_progress,
    decode_result,
    encode_capacity,
    encode_job_spec,
    encode_lease,
    encode_lease_ref,
    encode_result,
)


def encode_agent_message(message: AgentMessage) -> pb.SessionRequest:
    """An agent's word as a message of the stream."""
    try:
        match message:
            case Hello():
                return pb.SessionRequest(hello=_encode_hello(message))
            case Heartbeat():
                return pb.SessionRequest(heartbeat=_encode_heartbeat(message))
            case Results():
                return pb.SessionRequest(results=pb.Results(results=map(encode_result, message.results)))
            case Goodbye():
                return pb.SessionRequest(goodbye=pb.Goodbye(reason=prose(message.reason)))
            case SwarmInventory():
                return pb.SessionRequest(swarm_inventory=encode_swarm_inventory(message))
            case SwarmReport():
                return pb.SessionRequest(swarm_report=encode_swarm_report(message))
    except ValueError as error:
        raise unsendable(message, error) from error


def decode_agent_message(message: pb.SessionRequest) -> AgentMessage:
    """An agent's word."""
    match message.WhichOneof("message"):
        case "hello":
            return _decode_hello(message.hello)
        case "heartbeat":
            return _decode_heartbeat(message.heartbeat)
        case "results":
            return Results(each(decode_result, message.results.results, "Results.results"))
        case "goodbye":
            return Goodbye(message.goodbye.reason)
        case "swarm_inventory":
            return decode_swarm_inventory(message.swarm_inventory)
        case "swarm_report":
            return decode_swarm_report(message.swarm_report)
        case _:
            raise violation("SessionRequest.message", "it is empty or of a kind that is not known")


def encode_coordinator_message(message: CoordinatorMessage) -> pb.SessionResponse:
    """The coordinator's word as a message of the stream."""
    try:
        return _encode_coordinator_message(message)
    except ValueError as error:
        raise unsendable(message, error) from error


def decode_coordinator_message(message: pb.SessionResponse) -> CoordinatorMessage:
    """The coordinator's word."""
    match message.WhichOneof("message"):
        case "welcome":
            return _decode_welcome(message.welcome)
        case "heartbeat_ack":
            return HeartbeatAck(count(message.heartbeat_ack.seq, "HeartbeatAck.seq"))
        case "grants":
            grants = message.grants
            return Grants(
                leases=each(decode_lease, grants.leases, "Grants.leases"),
                jobs=each(decode_job_spec, grants.jobs, "Grants.jobs"),
            )
        case "acks":
            return Acks(each(decode_ack, message.acks.acks, "Acks.acks"))
        case "revoke":
            return Revoke(each(decode_lease_ref, message.revoke.leases, "Revoke.leases"))
        case "yield":
            return Yield(each(decode_lease_ref, getattr(message, "yield").leases, "Yield.leases"))
        case "budgets":
            budgets = each(decode_host_budget, message.budgets.budgets, "Budgets.budgets")
            return Budgets(budgets, count(message.budgets.version, "Budgets.version"))
        case "drain":
            return Drain(message.drain.reason, message.drain.reconnect)
        case "swarm_orders":
            return decode_swarm_orders(message.swarm_orders)
        case _:
            raise violation("SessionResponse.message", "it is empty or of a kind that is not known")


def unsendable(message: object, error: ValueError) -> ProtocolViolation:
    """The error for a record that protobuf does not take."""
    return violation(type(message).__name__, f"it cannot be sent: {error}")


# ---- whole messages -------------------------------------------------------------------------------------------------


def _encode_coordinator_message(message: CoordinatorMessage) -> pb.SessionResponse:
    match message:
        case Welcome():
            return pb.SessionResponse(welcome=_encode_welcome(message))
        case HeartbeatAck():
            return pb.SessionResponse(heartbeat_ack=pb.HeartbeatAck(seq=message.seq))
        case Grants():
            leases, jobs = map(encode_lease, message.leases), map(encode_job_spec, message.jobs)
            return pb.SessionResponse(grants=pb.Grants(leases=leases, jobs=jobs))
        case Acks():
            acks = (work.Ack(seq=ack.seq, accepted=ack.accepted) for ack in message.acks)
            return pb.SessionResponse(acks=pb.Acks(acks=acks))
        case Revoke():
            return pb.SessionResponse(revoke=pb.Revoke(leases=map(encode_lease_ref, message.leases)))
        case Yield():
            said = pb.SessionResponse()
            # "yield" is a keyword of Python, so the field can only be reached by getattr.
            getattr(said, "yield").CopyFrom(pb.Yield(leases=map(encode_lease_ref, message.leases)))
            return said
        case Budgets():
            budgets = map(encode_host_budget, message.budgets)
            return pb.SessionResponse(budgets=pb.Budgets(budgets=budgets, version=message.version))
        case Drain():
            return pb.SessionResponse(drain=pb.Drain(reason=prose(message.reason), reconnect=message.reconnect))
        case SwarmOrders():
            return pb.SessionResponse(swarm_orders=encode_swarm_orders(message))


def _encode_hello(hello: Hello) -> pb.Hello:
    return pb.Hello(
        agent_id=hello.agent_id,
        name=hello.name,
        version=hello.version,
        capacity=encode_capacity(hello.capacity),
        held=map(encode_lease_ref, hello.held),
        results=map(encode_result, hello.results),
        zone=hello.zone,
        peer=encode_peer_offer(hello.peer),
        budgets_version=hello.budgets_version,
        challenge=hello.challenge,
    )


def _decode_hello(hello: pb.Hello) -> Hello:
    if not hello.HasField("capacity"):
        raise violation("Hello.capacity", "it is not said")
    return Hello(
        agent_id=name(hello.agent_id, "Hello.agent_id"),
        name=name(hello.name, "Hello.name"),
        version=hello.version,
        capacity=decode_capacity(hello.capacity),
        held=each(decode_lease_ref, hello.held, "Hello.held"),
        results=each(decode_result, hello.results, "Hello.results"),
        zone=hello.zone,
        peer=decode_peer_offer(hello.peer) if hello.HasField("peer") else None,
        budgets_version=count(hello.budgets_version, "Hello.budgets_version"),
        challenge=hello.challenge,
    )


def _encode_heartbeat(beat: Heartbeat) -> pb.Heartbeat:
    return pb.Heartbeat(
        seq=beat.seq,
        held=map(encode_lease_ref, beat.held),
        progress=(work.Progress(unit=it.unit, token=it.token, arrived=it.arrived) for it in beat.progress),
        hosts=map(encode_host_observation, beat.hosts),
        capacity=None if beat.capacity is None else encode_capacity(beat.capacity),
        memory=beat.memory,
        sent=beat.sent,
        budgets_version=beat.budgets_version,
        lapsed_version=beat.lapsed_version,
        nas=encode_nas_report(beat.nas),
        disk_free=beat.disk[0],
        disk_total=beat.disk[1],
    )


def _decode_heartbeat(beat: pb.Heartbeat) -> Heartbeat:
    return Heartbeat(
        seq=count(beat.seq, "Heartbeat.seq"),
        held=each(decode_lease_ref, beat.held, "Heartbeat.held"),
        progress=each(decode_progress, beat.progress, "Heartbeat.progress"),
        hosts=each(decode_host_observation, beat.hosts, "Heartbeat.hosts"),
        capacity=decode_capacity(beat.capacity) if beat.HasField("capacity") else None,
        memory=count(beat.memory, "Heartbeat.memory"),
        sent=count(beat.sent, "Heartbeat.sent"),
        budgets_version=count(beat.budgets_version, "Heartbeat.budgets_version"),
        lapsed_version=count(beat.lapsed_version, "Heartbeat.lapsed_version"),
        nas=decode_nas_report(beat.nas) if beat.HasField("nas") else None,
        disk=(count(beat.disk_free, "Heartbeat.disk_free"), count(beat.disk_total, "Heartbeat.disk_total")),
    )


def _encode_welcome(welcome: Welcome) -> pb.Welcome:
    return pb.Welcome(
        incarnation=welcome.incarnation,
        heartbeat_s=welcome.heartbeat_s,
        lease_ttl_s=welcome.lease_ttl_s,
        fenced=map(encode_lease_ref, welcome.fenced),
        peer_key=welcome.peer_key,
        epoch_s=welcome.epoch_s,
        share_s=welcome.share_s,
    )


def _decode_welcome(welcome: pb.Welcome) -> Welcome:
    return Welcome(
        incarnation=count(welcome.incarnation, "Welcome.incarnation"),
        heartbeat_s=amount(welcome.heartbeat_s, "Welcome.heartbeat_s"),
        lease_ttl_s=amount(welcome.lease_ttl_s, "Welcome.lease_ttl_s"),
        fenced=each(decode_lease_ref, welcome.fenced, "Welcome.fenced"),
        peer_key=welcome.peer_key,
        epoch_s=amount(welcome.epoch_s, "Welcome.epoch_s"),
        share_s=amount(welcome.share_s, "Welcome.share_s"),
    )
