"""Records and views survive the wire unchanged; whatever else comes over it is refused by name."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal.common
from shoal.common import wire_hosts, wire_requests, wire_views, wire_work
from shoal.common.chunks import ChunkSizes
from shoal.common.collect_records import (
    CollectSpec,
    Content,
    DatasetFormat,
    HostProfile,
    ImageEncoding,
    Resampler,
    Restart,
    ToolSpec,
)
from shoal.common.errors import (
    HttpStatus,
    NotFound,
    ProtocolViolation,
    RateLimited,
    ShoalError,
    Unreachable,
    UsageError,
    all_error_classes,
)
from shoal.common.nas_records import NasCounts, NasJob, NasReport
from shoal.common.records import (
    Ack,
    Acks,
    Answer,
    Budgets,
    Capacity,
    CoordinatorMessage,
    Delivery,
    Drain,
    Failure,
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
    ObjectSpec,
    OriginKind,
    Outcome,
    Progress,
    Result,
    Results,
    Revoke,
    UnitKind,
    Welcome,
    Yield,
)
from shoal.common.secrets import Secret
from shoal.common.swarm_records import (
    MIXED,
    Arrival,
    ChunkDigest,
    ChunkProgress,
    FetchFailure,
    FetchOrder,
    PeerAddress,
    PeerOffer,
    PublishOrder,
    SwarmInventory,
    SwarmOrders,
    SwarmReport,
    Vouch,
)
from shoal.common.views import (
    ActiveObjectView,
    ActivePhase,
    AgentStatus,
    AgentView,
    FleetView,
    HostCondition,
    HostShareView,
    HostView,
    JobAgentView,
    JobStatus,
    JobView,
    NewToken,
    ObjectStatus,
    ObjectView,
    QueueView,
    ReplicaStatus,
    ReplicaView,
    Role,
    SubmitRequest,
    Submitted,
    TokenView,
)
from shoal.common.wire import (
    decode_agent_message,
    decode_coordinator_message,
    encode_agent_message,
    encode_coordinator_message,
)
from shoal.common.wire_errors import PART_CHARS_MAX, decode_error, encode_error
from shoal.common.wire_values import ITEMS_MAX, NAME_CHARS_MAX, TEXT_CHARS_MAX
from shoal.v1 import fleet_service_pb2 as pb
from shoal.v1 import job_service_pb2 as jobs
from shoal.v1 import work_pb2 as work

counts = st.integers(0, 2**63 - 1)
amounts = st.floats(0, 1e300)
texts = st.text(max_size=40)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=NAME_CHARS_MAX)
moments = st.floats(1e9, 1e11)  # from 2001 on, a float is coarser than the wire's nanoseconds
sizes = st.none() | counts
int32s = st.integers(-(2**31), 2**31 - 1)
connections = st.integers(0, 2**31 - 1)
statuses = st.integers(-1, 999)


def tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=3).map(tuple)


intervals = tuples(st.tuples(counts, counts).map(lambda pair: (min(pair), max(pair))))
refs = st.builds(LeaseRef, names, counts)
failures = st.builds(Failure, code=names, text=texts, retryable=st.booleans())
capacities = st.builds(Capacity, slots=counts, units_max=counts, bytes_max=counts)
specs = st.builds(
    ObjectSpec, object_id=counts, path=texts, size=sizes, digest=texts, etag=texts, url=texts, life=counts
)
positive = st.integers(1, 2**31 - 1)
pairs = tuples(st.tuples(texts, texts))
tallies = tuples(st.tuples(int32s, counts))
collects = st.builds(
    CollectSpec,
    tables=tuples(texts),
    columns=pairs,
    carry=tuples(texts),
    batch_size=positive,
    content=st.sampled_from(Content),
    image_size=connections,
    image_encoding=st.sampled_from(ImageEncoding),
    image_quality=connections,
    resampler=st.sampled_from(Resampler),
    format=st.sampled_from(DatasetFormat),
    row_group_bytes=counts,
    request_timeout_s=amounts,
    idle_timeout_s=amounts,
    attempts=positive,
    redirects_max=connections,
    body_bytes_max=counts,
    pixels_max=counts,
    decode_timeout_s=amounts,
    decode_memory_bytes=counts,
    robots=st.booleans(),
    respect_ai_opt_out=st.booleans(),
    allow_private_addresses=st.booleans(),
    user_agent=texts,
    rate=amounts,
    rate_multiplier=amounts,
    connections=connections,
    backoff_initial_s=amounts,
    backoff_cap_s=amounts,
    host_patience_s=amounts,
    robots_of=tuples(st.tuples(texts, st.booleans())),
    ignored=tuples(texts),
    restart=st.sampled_from(Restart),
    restart_codes=tuples(int32s),
)
tools = st.builds(
    ToolSpec,
    name=names,
    load=texts,
    load_digest=texts,
    allow_unregistered=st.booleans(),
    reset=texts,
    options=pairs,
    workers=connections,
)
profiles = st.builds(
    HostProfile,
    host=names,
    reachable=st.booleans(),
    protocol=texts,
    status=connections,
    latency_s=st.floats(-1, 1e9),
    bytes_per_s=st.floats(-1, 1e12),
    content_type=texts,
    size=st.integers(-1, 2**62),
    ranges=st.booleans(),
    robots=texts,
    crawl_delay_s=amounts,
    server=texts,
    error=texts,
)
job_specs = st.builds(
    JobSpec,
    job_id=names,
    source=texts,
    origin=st.sampled_from(OriginKind),
    layout=st.sampled_from(Layout),
    destination=texts,
    endpoints=tuples(texts),
    repo_kind=texts,
    repo_id=texts,
    revision=texts,
    commit=texts,
    force=st.booleans(),
    total_bytes=counts,
    total_objects=counts,
    delivery=st.sampled_from(Delivery),
    profile=texts,
    unpack=texts,
    unpack_format=texts,
    chunks=st.none()
    | st.builds(
        ChunkSizes,
        chunk_bytes=st.integers(1, 2**62),
        small_bytes_max=counts,
        bundle_bytes_max=counts,
        bundle_objects_max=counts,
    ),
    verify_everywhere=st.booleans(),
    collect=st.none() | collects,
    tool=st.none() | tools,
    nas=texts,
    pinned=st.booleans(),
)
nas_counts = st.builds(
    NasCounts,
    **{field.name: counts for field in dataclasses.fields(NasCounts) if field.name != "reason"},
    reason=texts,
)
nas_reports = st.builds(NasReport, total=nas_counts, jobs=tuples(st.builds(NasJob, job_id=names, counts=nas_counts)))
digests = st.binary(min_size=32, max_size=32)
numbers = tuples(counts)


@st.composite
def inventories(draw: st.DrawFn) -> SwarmInventory:
    chunks = draw(st.integers(0, 300))
    have = draw(st.integers(0, 2**chunks - 1))
    return SwarmInventory(
        job_id=draw(names),
        token=draw(counts),
        chunks=chunks,
        have=have.to_bytes(draw(st.integers(38, 40)), "little"),
        published=draw(numbers),
        digests=draw(tuples(st.builds(ChunkDigest, chunk=counts, digest=digests))),
        lives=draw(numbers),
    )


@st.composite
def leases(draw: st.DrawFn) -> Lease:
    kind = draw(st.sampled_from(UnitKind))
    start, stop = sorted((draw(counts), draw(counts)))
    spec = draw(st.none() | specs) if kind in wire_work.JOB_UNITS else draw(specs)
    return Lease(
        unit=draw(names),
        token=draw(counts),
        kind=kind,
        job_id=draw(names),
        object=spec,
        start=start,
        stop=stop,
        remaining=draw(counts),
        ttl_s=draw(amounts),
        profile=draw(st.booleans()),
        give_up_code=draw(int32s),
    )


@st.composite
def results(draw: st.DrawFn) -> Result:
    outcome = draw(st.sampled_from(Outcome))
    return Result(
        seq=draw(counts),
        unit=draw(names),
        token=draw(counts),
        outcome=outcome,
        done=draw(intervals),
        released=draw(intervals),
        fetched=draw(counts),
        size=draw(sizes),
        digest=draw(texts),
        etag=draw(texts),
        skipped=draw(st.booleans()),
        failure=draw(failures) if outcome is Outcome.FAILED else draw(st.none() | failures),
        tally=draw(tallies),
        profile=draw(st.none() | profiles),
    )


agent_messages = st.one_of(
    st.builds(
        Hello,
        agent_id=names,
        name=names,
        version=texts,
        capacity=capacities,
        held=tuples(refs),
        results=tuples(results()),
        zone=texts,
        peer=st.none()
        | st.builds(PeerOffer, address=texts, upload_slots=counts, download_slots=counts, tls=st.booleans()),
        budgets_version=counts,
    ),
    inventories(),
    st.builds(
        SwarmReport,
        job_id=names,
        token=counts,
        arrived=tuples(
            st.builds(
                Arrival,
                chunk=counts,
                digest=digests,
                peer=counts | st.just(MIXED),
                from_origin=counts,
                from_peers=counts,
                etag=texts,
                size=sizes,
            )
        ),
        failed=tuples(st.builds(FetchFailure, chunk=counts, peer=counts, failure=failures, object_id=counts)),
        lost=numbers,
        vouched=tuples(st.builds(Vouch, object_id=counts, digest=texts, failure=st.none() | failures)),
        published=numbers,
        progress=tuples(st.builds(ChunkProgress, chunk=counts, arrived=counts)),
        seen=counts,
    ),
    st.builds(
        Heartbeat,
        seq=counts,
        held=tuples(refs),
        progress=tuples(st.builds(Progress, names, counts, counts)),
        hosts=tuples(
            st.builds(
                HostObservation,
                host=names,
                ok=counts,
                throttled=counts,
                errors=counts,
                retry_after_s=amounts,
                timeouts=counts,
                unreachable=counts,
                refused=counts,
                status=statuses,
                latency_s=amounts,
                crawl_delay_s=amounts,
                waiting=counts,
                probe=counts,
                probe_answer=st.none() | st.sampled_from(Answer),
            )
        ),
        capacity=st.none() | capacities,
        memory=counts,
        sent=counts,
        budgets_version=counts,
        lapsed_version=counts,
        nas=st.none() | nas_reports,
    ),
    st.builds(Results, tuples(results())),
    st.builds(Goodbye, texts),
)
coordinator_messages = st.one_of(
    st.builds(
        Welcome,
        incarnation=counts,
        heartbeat_s=amounts,
        lease_ttl_s=amounts,
        fenced=tuples(refs),
        peer_key=st.binary(max_size=40),
        epoch_s=amounts,
        share_s=amounts,
    ),
    st.builds(
        SwarmOrders,
        job_id=names,
        token=counts,
        peers=tuples(
            st.builds(
                PeerAddress,
                number=st.integers(1, 2**63 - 1),
                address=names,
                capability=texts,
                tls=st.booleans(),
            )
        ),
        fetch=tuples(st.builds(FetchOrder, chunk=counts, peer=counts, digest=st.just(b"") | digests, size=sizes)),
        drop=numbers,
        vouch=numbers,
        publish=tuples(st.builds(PublishOrder, object_id=counts, digest=texts, etag=texts)),
        reset=numbers,
        give_up=numbers,
        ended=st.booleans(),
        lives=numbers,
        seq=counts,
    ),
    st.builds(HeartbeatAck, counts),
    st.builds(Grants, leases=tuples(leases()), jobs=tuples(job_specs)),
    st.builds(Acks, tuples(st.builds(Ack, counts, st.booleans()))),
    st.builds(Revoke, tuples(refs)),
    st.builds(Yield, tuples(refs)),
    st.builds(
        Budgets,
        tuples(
            st.builds(
                HostBudget,
                host=names,
                requests_per_s=amounts,
                bytes_per_s=amounts,
                blocked_s=amounts,
                burst=amounts,
                connections=connections,
                leased=st.booleans(),
                nothing=st.booleans(),
                unless_held=st.booleans(),
                probe=st.booleans(),
                initial=amounts,
            )
        ),
        counts,
    ),
    st.builds(Drain, texts, st.booleans()),
)

active = st.builds(
    ActiveObjectView,
    object_id=counts,
    path=texts,
    size=sizes,
    done_bytes=counts,
    agents=tuples(texts),
    phase=st.sampled_from(ActivePhase),
    done=intervals,
)
job_views = st.builds(
    JobView,
    job_id=names,
    uri=texts,
    status=st.sampled_from(JobStatus),
    created_at=moments,
    name=texts,
    paused=st.booleans(),
    priority=int32s,
    ended_at=st.none() | moments,
    destination=texts,
    revision=texts,
    commit=texts,
    objects_total=counts,
    objects_done=counts,
    objects_skipped=counts,
    objects_failed=counts,
    bytes_total=counts,
    bytes_done=counts,
    bytes_fetched=counts,
    bytes_arrived=counts,
    rate_bytes_per_s=amounts,
    eta_s=st.none() | amounts,
    failure=st.none() | failures,
    active=tuples(active),
    delivery=st.sampled_from(Delivery),
    bytes_from_peers=counts,
    rows_total=counts,
    rows_rejected=counts,
    tally=tallies,
    nas=st.none() | nas_counts,
    agents=tuples(st.builds(JobAgentView, agent_id=names, name=names, from_origin=counts)),
    agents_more=counts,
    replicas=tuples(
        st.builds(
            ReplicaView,
            agent_id=names,
            name=names,
            status=st.sampled_from(ReplicaStatus),
            bytes_done=counts,
            chunks_done=counts,
            from_origin=counts,
            from_peers=counts,
            failure=st.none() | failures,
        )
    ),
)
token_views = st.builds(
    TokenView,
    token_id=names,
    role=st.sampled_from(Role),
    name=texts,
    created_at=moments,
    expires_at=st.none() | moments,
)
VIEWS: list[tuple[str, st.SearchStrategy[Any]]] = [
    (
        "submit_request",
        st.builds(
            SubmitRequest,
            uris=st.lists(texts, min_size=1, max_size=3).map(tuple),
            destination=texts,
            layout=st.none() | st.sampled_from(Layout),
            delivery=st.sampled_from(Delivery),
            include=tuples(texts),
            exclude=tuples(texts),
            revision=texts,
            force=st.booleans(),
            sha256=texts,
            priority=int32s,
            name=texts,
            profile=texts,
            unpack=texts,
            unpack_format=texts,
            nas=texts,
            commit=texts,
            collect=st.none() | collects,
            tool=st.none() | tools,
        ),
    ),
    ("job", job_views),
    ("submitted", st.builds(Submitted, job=job_views, created=st.booleans())),
    (
        "object",
        st.builds(
            ObjectView,
            object_id=counts,
            path=texts,
            size=sizes,
            status=st.sampled_from(ObjectStatus),
            digest=texts,
            failures=counts,
            failure=st.none() | failures,
            skipped=st.booleans(),
            agent=texts,
        ),
    ),
    (
        "agent",
        st.builds(
            AgentView,
            agent_id=names,
            name=names,
            status=st.sampled_from(AgentStatus),
            version=texts,
            zone=texts,
            capacity=st.none() | capacities,
            units=counts,
            bytes_held=counts,
            rate_bytes_per_s=amounts,
            objects_done=counts,
            bytes_done=counts,
            memory_bytes=counts,
            connected_s=amounts,
            silent_s=amounts,
            peer_address=texts,
            sent_bytes=counts,
            bad_chunks=counts,
            cut_off=st.booleans(),
            nas=st.none() | nas_counts,
        ),
    ),
    (
        "host",
        st.builds(
            HostView,
            host=names,
            requests_per_s=amounts,
            bytes_per_s=amounts,
            blocked_s=amounts,
            throttled=counts,
            errors=counts,
            connections=connections,
            condition=st.sampled_from(HostCondition),
            rate_now=amounts,
            rate_measured=amounts,
            last_status=statuses,
            ok=counts,
            timeouts=counts,
            unreachable=counts,
            refused=counts,
            crawl_delay_s=amounts,
            shares=tuples(
                st.builds(
                    HostShareView,
                    agent=names,
                    requests_per_s=amounts,
                    bytes_per_s=amounts,
                    connections=connections,
                    probe=st.booleans(),
                )
            ),
        ),
    ),
    (
        "queued_job",
        st.builds(
            QueueView,
            job_id=names,
            uri=texts,
            status=st.sampled_from(JobStatus),
            name=texts,
            paused=st.booleans(),
            priority=int32s,
            objects_waiting=counts,
            bytes_waiting=counts,
            units_leased=counts,
        ),
    ),
    (
        "fleet",
        st.builds(
            FleetView,
            version=texts,
            incarnation=counts,
            uptime_s=amounts,
            agents_alive=counts,
            agents_late=counts,
            agents_lost=counts,
            jobs_active=counts,
            jobs_ended=counts,
            objects_waiting=counts,
            bytes_waiting=counts,
            units_leased=counts,
            rate_bytes_per_s=amounts,
            nas=st.none() | nas_counts,
            epoch_s=amounts,
        ),
    ),
    ("token", token_views),
    ("new_token", st.builds(NewToken, token=st.builds(Secret, texts), view=token_views)),
]


def over_the_wire(message: Any) -> Any:
    """The message as the other end reads it."""
    return type(message).FromString(message.SerializeToString())


@given(agent_messages)
def test_agent_messages_survive(message: Any) -> None:
    assert decode_agent_message(over_the_wire(encode_agent_message(message))) == message


@given(coordinator_messages)
def test_coordinator_messages_survive(message: CoordinatorMessage) -> None:
    assert decode_coordinator_message(over_the_wire(encode_coordinator_message(message))) == message


@given(st.data())
@pytest.mark.parametrize(("name", "views"), VIEWS, ids=[name for name, _ in VIEWS])
def test_views_survive(name: str, views: st.SearchStrategy[Any], data: st.DataObject) -> None:
    view = data.draw(views)
    module = {"submit_request": wire_requests, "host": wire_hosts}.get(name, wire_views)
    encoded = getattr(module, f"encode_{name}")(view)
    assert getattr(module, f"decode_{name}")(over_the_wire(encoded)) == view


@given(specs)
def test_manifest_objects_survive(spec: ObjectSpec) -> None:
    assert wire_work.decode_object_spec(over_the_wire(wire_work.encode_object_spec(spec))) == spec


# ---- what is refused ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    for message, decode in (
        (pb.SessionRequest, decode_agent_message),
        (pb.SessionResponse, decode_coordinator_message),
    ):
        try:
            decode(message.FromString(data))
        except (ProtocolViolation, DecodeError):
            pass


def good_lease(**changes: Any) -> work.Lease:
    fields: dict[str, Any] = {"unit": "o1", "token": 1, "kind": 2, "job_id": "j", "object": {"path": "a"}, "ttl_s": 1.0}
    return work.Lease(**{**fields, **changes})


def good_result(**changes: Any) -> work.Result:
    return work.Result(**{"seq": 1, "unit": "o1", "token": 1, "outcome": 1, **changes})


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.SessionRequest(), "SessionRequest.message"),
        (pb.SessionRequest.FromString(b"\xfa\x01\x00"), "SessionRequest.message"),  # a field of a newer version
        (pb.SessionRequest(hello=pb.Hello(agent_id="a", name="n")), "Hello.capacity"),
        (pb.SessionRequest(hello=pb.Hello(name="n", capacity={})), "Hello.agent_id"),
        (pb.SessionRequest(hello=pb.Hello(agent_id="a" * 257, name="n", capacity={})), "Hello.agent_id"),
        (pb.SessionRequest(hello=pb.Hello(agent_id="a\n", name="n", capacity={})), "Hello.agent_id"),
        (pb.SessionRequest(hello=pb.Hello(agent_id="a", name="\u202e", capacity={})), "Hello.name"),
        (pb.SessionRequest(hello=pb.Hello(agent_id="a", name="n", capacity={"slots": -1})), "Capacity.slots"),
        (pb.SessionRequest(heartbeat=pb.Heartbeat(seq=-1)), "Heartbeat.seq"),
        (pb.SessionRequest(heartbeat=pb.Heartbeat(memory=-(2**63))), "Heartbeat.memory"),
        (pb.SessionRequest(heartbeat=pb.Heartbeat(held=[{"token": 1}])), "LeaseRef.unit"),
        (pb.SessionRequest(results=pb.Results(results=[good_result(outcome=0)])), "Result.outcome"),
        (pb.SessionRequest(results=pb.Results(results=[good_result(outcome=77)])), "Result.outcome"),
        (pb.SessionRequest(results=pb.Results(results=[good_result(outcome=4)])), "Result.failure"),
        (pb.SessionRequest(results=pb.Results(results=[good_result(size=-1)])), "Result.size"),
        (pb.SessionRequest(results=pb.Results(results=[good_result(done=[{"start": 5, "stop": 4}])])), "Interval"),
        (pb.SessionRequest(results=pb.Results(results=[good_result(done=[{"start": -5, "stop": 4}])])), "Interval"),
        (pb.SessionRequest(heartbeat=pb.Heartbeat(held=[{}] * (ITEMS_MAX + 1))), "Heartbeat.held"),
    ],
)
def test_bad_words_of_agents_are_refused_by_name(message: pb.SessionRequest, field: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_agent_message(over_the_wire(message))
    assert caught.value.thing == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.SessionResponse(), "SessionResponse.message"),
        (pb.SessionResponse(welcome=pb.Welcome(heartbeat_s=math.nan)), "Welcome.heartbeat_s"),
        (pb.SessionResponse(welcome=pb.Welcome(lease_ttl_s=math.inf)), "Welcome.lease_ttl_s"),
        (pb.SessionResponse(welcome=pb.Welcome(heartbeat_s=-0.1)), "Welcome.heartbeat_s"),
        (pb.SessionResponse(grants=pb.Grants(leases=[good_lease(kind=99)])), "Lease.kind"),
        (pb.SessionResponse(grants=pb.Grants(leases=[good_lease(object=None)])), "Lease.object"),
        (pb.SessionResponse(grants=pb.Grants(leases=[good_lease(start=2, stop=1)])), "Lease"),
        (pb.SessionResponse(grants=pb.Grants(leases=[good_lease(token=-1)])), "Lease.token"),
        (pb.SessionResponse(grants=pb.Grants(jobs=[{"job_id": "j", "origin": 1}])), "JobSpec.layout"),
        (pb.SessionResponse(budgets=pb.Budgets(budgets=[{"host": "h", "bytes_per_s": -1}])), "HostBudget.bytes_per_s"),
        (pb.SessionResponse(budgets=pb.Budgets(budgets=[{"host": "h", "connections": -1}])), "HostBudget.connections"),
        (pb.SessionResponse(budgets=pb.Budgets(version=-1)), "Budgets.version"),
        (pb.SessionResponse(acks=pb.Acks(acks=[{"seq": -1}])), "Ack.seq"),
    ],
)
def test_bad_words_of_coordinators_are_refused_by_name(message: pb.SessionResponse, field: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_coordinator_message(over_the_wire(message))
    assert caught.value.thing == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (jobs.SubmitJobRequest(), "SubmitJobRequest.uris"),
        (jobs.SubmitJobRequest(uris=["x"] * 10_001), "SubmitJobRequest.uris"),
        (jobs.SubmitJobRequest(uris=["x"], layout=9), "SubmitJobRequest.layout"),
        (jobs.SubmitJobRequest(uris=["x"], delivery=9), "SubmitJobRequest.delivery"),
    ],
)
def test_bad_requests_are_refused_by_name(request_: jobs.SubmitJobRequest, field: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        wire_requests.decode_submit_request(over_the_wire(request_))
    assert caught.value.thing == field


def test_unsaid_layout_and_delivery_are_the_defaults() -> None:
    request = wire_requests.decode_submit_request(jobs.SubmitJobRequest(uris=["hf://a/b"]))
    assert request == SubmitRequest(uris=("hf://a/b",), layout=None, delivery=Delivery.SPREAD)


@pytest.mark.parametrize("seconds", [-1, 253402300800])
def test_moments_that_are_none_are_refused(seconds: int) -> None:
    job = jobs.Job(job_id="j", status=jobs.JOB_STATUS_DONE, created_at={"seconds": seconds})
    with pytest.raises(ProtocolViolation, match=r"Job\.created_at"):
        wire_views.decode_job(job)


# ---- what cannot be sent --------------------------------------------------------------------------------------------


def test_numbers_and_strings_that_protobuf_does_not_take_are_violations() -> None:
    with pytest.raises(ProtocolViolation, match="Heartbeat: it cannot be sent"):
        encode_agent_message(Heartbeat(seq=2**63))
    with pytest.raises(ProtocolViolation, match="Grants: it cannot be sent"):
        spec = ObjectSpec(object_id=1, path="a\ud800", size=1)
        encode_coordinator_message(
            Grants(leases=(Lease(unit="o1", token=1, kind=UnitKind.WHOLE, job_id="j", object=spec),))
        )
    with pytest.raises(UsageError, match="cannot be sent"):
        wire_requests.encode_submit_request(SubmitRequest(uris=("hf://a/b",), priority=2**31))


def test_texts_for_people_are_made_fit_to_be_sent() -> None:
    failure = wire_work.encode_failure(Failure(code="x", text="cannot open a\udcff" + "y" * 10_000))
    assert failure is not None
    assert failure.text.startswith("cannot open a\\udcff")
    assert len(failure.text) == TEXT_CHARS_MAX


# ---- the protocol's own rules ---------------------------------------------------------------------------------------

BUF = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")


@pytest.mark.skipif(BUF is None, reason="buf is not installed")
def test_the_protocol_follows_the_style_guide() -> None:
    protos = Path(__file__).parents[2] / "protos"
    done = subprocess.run([BUF or "", "lint"], cwd=protos, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- errors ---------------------------------------------------------------------------------------------------------


def every_error() -> list[ShoalError]:
    for module in pkgutil.walk_packages(shoal.common.__path__, "shoal.common."):
        importlib.import_module(module.name)
    made: list[ShoalError] = []
    for cls in all_error_classes():
        if not cls.__module__.startswith("shoal.common"):
            continue
        if issubclass(cls, HttpStatus):
            made.append(cls("thing", status=418, cause="cause", remedy="remedy"))
        elif issubclass(cls, RateLimited):
            made.append(cls("thing", retry_after_s=2.5, cause="cause", remedy="remedy"))
        else:
            made.append(cls("thing", cause="cause", remedy="remedy"))
    return made


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_every_error_stays_what_it_is(error: ShoalError) -> None:
    text, trailer = encode_error(error, 13)
    back = decode_error("INTERNAL", text, trailer, thing="coordinator")
    assert type(back) is type(error)
    assert text == str(error) == str(back)
    assert vars(back) == vars(error)


def test_the_trailer_is_a_google_rpc_status() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    # google/rpc/status.proto, as every other language's client reads the trailer.
    file = descriptor_pb2.FileDescriptorProto(
        name="google/rpc/status.proto", package="google.rpc", dependency=["google/protobuf/any.proto"], syntax="proto3"
    )
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=5, label=1)
    status.field.add(name="message", number=2, type=9, label=1)
    status.field.add(name="details", number=3, type=11, label=3, type_name=".google.protobuf.Any")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    standard = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status"))
    _text, trailer = encode_error(NotFound("job 7", cause="there is none", remedy="look"), 5)
    read: Any = standard.FromString(trailer)
    assert (read.code, read.message) == (5, "job 7: there is none (look)")
    assert read.details[0].TypeName() == "shoal.v1.ErrorDetail"


def test_an_error_of_a_newer_version_is_still_told() -> None:
    from shoal.common import wire_errors

    class Novel(ShoalError):
        """Something new."""

        code = "novel"

    text, trailer = encode_error(Novel("thing", cause="cause"), 13)
    back = decode_error("INTERNAL", text, trailer.replace(b"novel", b"later"), thing="x")
    assert type(back) is ShoalError
    assert str(back) == "thing: cause"
    del Novel
    assert wire_errors.DETAILS_KEY.endswith("-bin")  # gRPC carries bytes only under such keys


def test_a_huge_error_fits_into_the_trailer() -> None:
    text, trailer = encode_error(NotFound("t" * 10**6, cause="ü\ud800" * 10**5, remedy="r" * 10**6), 5)
    assert len(text) <= 3 * PART_CHARS_MAX + 10
    assert len(trailer) < 12_000


@pytest.mark.parametrize("trailer", [None, b"", b"\xff\xff\xff", b"\x1a\x04\x0a\x02xx"])
@pytest.mark.parametrize(
    ("status", "cls"), [("UNAVAILABLE", Unreachable), ("NOT_FOUND", NotFound), ("DATA_LOSS", ShoalError)]
)
def test_a_bare_or_broken_status_becomes_the_nearest_error(
    status: str, cls: type[ShoalError], trailer: bytes | None
) -> None:
    error = decode_error(status, "from a proxy", trailer, thing="coordinator h:1")
    assert type(error) is cls
    assert str(error) == "coordinator h:1: from a proxy"
