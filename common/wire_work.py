"""Objects, jobs, leases, reports, budgets and moments, to and from ``shoal.v1`` messages. Decoding raises `ProtocolViolation`."""

from __future__ import annotations

import math
from dataclasses import asdict

from google.protobuf.timestamp_pb2 import Timestamp

from shoal.v1 import work_pb2 as work

from .chunks import ChunkSizes
from .intervals import Interval
from .records import (
    Ack,
    Capacity,
    Delivery,
    Failure,
    JobSpec,
    Layout,
    Lease,
    LeaseRef,
    ObjectSpec,
    OriginKind,
    Outcome,
    Progress,
    Result,
    UnitKind,
)
from .wire_collect import (
    decode_collect_spec,
    decode_profile,
    decode_tally,
    decode_tool_spec,
    encode_collect_spec,
    encode_profile,
    encode_tally,
    encode_tool_spec,
)
from .wire_values import EnumCodec, amount, count, each, name, prose, texts, violation

DELIVERY = EnumCodec(Delivery, work.Delivery, "DELIVERY")
LAYOUT = EnumCodec(Layout, work.Layout, "LAYOUT")
ORIGIN_KIND = EnumCodec(OriginKind, work.OriginKind, "ORIGIN_KIND")
UNIT_KIND = EnumCodec(UnitKind, work.UnitKind, "UNIT_KIND")
OUTCOME = EnumCodec(Outcome, work.Outcome, "OUTCOME")

JOB_UNITS = (UnitKind.PREPARE, UnitKind.FINALIZE, UnitKind.REPLICA, UnitKind.TOOL_PLAN)
"""Leases on a job as a whole; all others are on an object."""

_LAST_MOMENT_S = 253402300799
"""The end of the year 9999, where protobuf's timestamps end."""


def encode_interval(interval: Interval) -> work.Interval:
    """A byte range."""
    return work.Interval(start=interval[0], stop=interval[1])


def decode_interval(interval: work.Interval) -> Interval:
    """A byte range: 0 <= start <= stop."""
    if not 0 <= interval.start <= interval.stop:
        raise violation("Interval", f"[{interval.start}, {interval.stop}) is not a byte range")
    return interval.start, interval.stop


def encode_object_spec(spec: ObjectSpec) -> work.ObjectSpec:
    """A file to deliver."""
    return work.ObjectSpec(
        object_id=spec.object_id,
        path=spec.path,
        size=spec.size,
        digest=spec.digest,
        etag=spec.etag,
        url=spec.url,
        life=spec.life,
    )


def decode_object_spec(spec: work.ObjectSpec) -> ObjectSpec:
    """A file to deliver. Whether its path is safe is decided where it is used (`paths.py`)."""
    return ObjectSpec(
        object_id=count(spec.object_id, "ObjectSpec.object_id"),
        path=spec.path,
        size=count(spec.size, "ObjectSpec.size") if spec.HasField("size") else None,
        digest=spec.digest,
        etag=spec.etag,
        url=spec.url,
        life=count(spec.life, "ObjectSpec.life"),
    )


def encode_job_spec(spec: JobSpec) -> work.JobSpec:
    """What an agent must know of a job."""
    return work.JobSpec(
        job_id=spec.job_id,
        source=spec.source,
        origin=ORIGIN_KIND.number(spec.origin),
        layout=LAYOUT.number(spec.layout),
        destination=spec.destination,
        endpoints=spec.endpoints,
        repo_kind=spec.repo_kind,
        repo_id=spec.repo_id,
        revision=spec.revision,
        commit=spec.commit,
        force=spec.force,
        total_bytes=spec.total_bytes,
        total_objects=spec.total_objects,
        delivery=DELIVERY.number(spec.delivery),
        profile=spec.profile,
        unpack=spec.unpack,
        unpack_format=spec.unpack_format,
        chunks=None if spec.chunks is None else work.ChunkSizes(**asdict(spec.chunks)),
        verify_everywhere=spec.verify_everywhere,
        collect=encode_collect_spec(spec.collect),
        tool=encode_tool_spec(spec.tool),
        nas=spec.nas,
        licenses=spec.licenses,
        pinned=spec.pinned,
    )


def decode_job_spec(spec: work.JobSpec) -> JobSpec:
    """What an agent must know of a job."""
    return JobSpec(
        job_id=name(spec.job_id, "JobSpec.job_id"),
        source=spec.source,
        origin=ORIGIN_KIND.member(spec.origin, "JobSpec.origin"),
        layout=LAYOUT.member(spec.layout, "JobSpec.layout"),
        destination=spec.destination,
        endpoints=texts(spec.endpoints, "JobSpec.endpoints"),
        repo_kind=spec.repo_kind,
        repo_id=spec.repo_id,
        revision=spec.revision,
        commit=spec.commit,
        force=spec.force,
        total_bytes=count(spec.total_bytes, "JobSpec.total_bytes"),
        total_objects=count(spec.total_objects, "JobSpec.total_objects"),
        delivery=DELIVERY.optional(spec.delivery, "JobSpec.delivery") or Delivery.SPREAD,
        profile=spec.profile,
        unpack=spec.unpack,
        unpack_format=spec.unpack_format,
        chunks=_decode_chunk_sizes(spec.chunks) if spec.HasField("chunks") else None,
        verify_everywhere=spec.verify_everywhere,
        collect=decode_collect_spec(spec.collect) if spec.HasField("collect") else None,
        tool=decode_tool_spec(spec.tool) if spec.HasField("tool") else None,
        nas=spec.nas,
        licenses=texts(spec.licenses, "JobSpec.licenses"),
        pinned=spec.pinned,
    )


def _decode_chunk_sizes(sizes: work.ChunkSizes) -> ChunkSizes:
    if sizes.chunk_bytes < 1:
        raise violation("ChunkSizes.chunk_bytes", f"{sizes.chunk_bytes} is no size")
    return ChunkSizes(
        chunk_bytes=sizes.chunk_bytes,
        small_bytes_max=count(sizes.small_bytes_max, "ChunkSizes.small_bytes_max"),
        bundle_bytes_max=count(sizes.bundle_bytes_max, "ChunkSizes.bundle_bytes_max"),
        bundle_objects_max=count(sizes.bundle_objects_max, "ChunkSizes.bundle_objects_max"),
    )


def encode_lease(lease: Lease) -> work.Lease:
    """A lease."""
    return work.Lease(
        unit=lease.unit,
        token=lease.token,
        kind=UNIT_KIND.number(lease.kind),
        job_id=lease.job_id,
        object=None if lease.object is None else encode_object_spec(lease.object),
        start=lease.start,
        stop=lease.stop,
        remaining=lease.remaining,
        ttl_s=lease.ttl_s,
        profile=lease.profile,
        give_up_code=lease.give_up_code,
    )


def decode_lease(lease: work.Lease) -> Lease:
    """A lease: on an object, unless it is on the job as a whole."""
    kind = UNIT_KIND.member(lease.kind, "Lease.kind")
    spec = decode_object_spec(lease.object) if lease.HasField("object") else None
    if spec is None and kind not in JOB_UNITS:
        raise violation("Lease.object", f"it is missing from a lease to {kind}")
    if not 0 <= lease.start <= lease.stop:
        raise violation("Lease", f"[{lease.start}, {lease.stop}) is not a byte range")
    return Lease(
        unit=name(lease.unit, "Lease.unit"),
        token=count(lease.token, "Lease.token"),
        kind=kind,
        job_id=name(lease.job_id, "Lease.job_id"),
        object=spec,
        start=lease.start,
        stop=lease.stop,
        remaining=count(lease.remaining, "Lease.remaining"),
        ttl_s=amount(lease.ttl_s, "Lease.ttl_s"),
        profile=lease.profile,
        give_up_code=lease.give_up_code,
    )


def encode_failure(failure: Failure | None) -> work.Failure | None:
    """A failure, its text cut."""
    if failure is None:
        return None
    return work.Failure(code=failure.code, text=prose(failure.text), retryable=failure.retryable)


def decode_failure(failure: work.Failure) -> Failure:
    """A failure."""
    return Failure(code=name(failure.code, "Failure.code"), text=failure.text, retryable=failure.retryable)


def encode_result(result: Result) -> work.Result:
    """A report on a lease."""
    return work.Result(
        seq=result.seq,
        unit=result.unit,
        token=result.token,
        outcome=OUTCOME.number(result.outcome),
        done=map(encode_interval, result.done),
        released=map(encode_interval, result.released),
        fetched=result.fetched,
        size=result.size,
        digest=result.digest,
        etag=result.etag,
        skipped=result.skipped,
        failure=encode_failure(result.failure),
        tally=encode_tally(result.tally),
        profile=encode_profile(result.profile),
    )


def decode_result(result: work.Result) -> Result:
    """A report on a lease. One that says it failed says why."""
    outcome = OUTCOME.member(result.outcome, "Result.outcome")
    failure = decode_failure(result.failure) if result.HasField("failure") else None
    if outcome is Outcome.FAILED and failure is None:
        raise violation("Result.failure", "it is missing from a report of a failure")
    return Result(
        seq=count(result.seq, "Result.seq"),
        unit=name(result.unit, "Result.unit"),
        token=count(result.token, "Result.token"),
        outcome=outcome,
        done=each(decode_interval, result.done, "Result.done"),
        released=each(decode_interval, result.released, "Result.released"),
        fetched=count(result.fetched, "Result.fetched"),
        size=count(result.size, "Result.size") if result.HasField("size") else None,
        digest=result.digest,
        etag=result.etag,
        skipped=result.skipped,
        failure=failure,
        tally=decode_tally(result.tally, "Result.tally"),
        profile=decode_profile(result.profile) if result.HasField("profile") else None,
    )


def encode_capacity(capacity: Capacity) -> work.Capacity:
    """How much an agent can hold."""
    return work.Capacity(slots=capacity.slots, units_max=capacity.units_max, bytes_max=capacity.bytes_max)


def decode_capacity(capacity: work.Capacity) -> Capacity:
    """How much an agent can hold."""
    return Capacity(
        slots=count(capacity.slots, "Capacity.slots"),
        units_max=count(capacity.units_max, "Capacity.units_max"),
        bytes_max=count(capacity.bytes_max, "Capacity.bytes_max"),
    )


def encode_lease_ref(ref: LeaseRef) -> work.LeaseRef:
    """A lease by name."""
    return work.LeaseRef(unit=ref.unit, token=ref.token)


def decode_lease_ref(ref: work.LeaseRef) -> LeaseRef:
    """A lease by name."""
    return LeaseRef(name(ref.unit, "LeaseRef.unit"), count(ref.token, "LeaseRef.token"))


def decode_ack(ack: work.Ack) -> Ack:
    """An answer to a report."""
    return Ack(count(ack.seq, "Ack.seq"), ack.accepted)


def decode_progress(progress: work.Progress) -> Progress:
    """Bytes of a lease that have arrived."""
    return Progress(
        name(progress.unit, "Progress.unit"),
        count(progress.token, "Progress.token"),
        count(progress.arrived, "Progress.arrived"),
    )


def encode_moment(seconds: float | None) -> Timestamp | None:
    """Seconds since the epoch, to a nanosecond, as a timestamp."""
    if seconds is None:
        return None
    whole = math.floor(seconds)  # first: a float does not hold so many nanoseconds
    return Timestamp(seconds=whole, nanos=min(round((seconds - whole) * 1e9), 999_999_999))


def decode_moment(moment: Timestamp, field: str) -> float:
    """Seconds since the epoch."""
    if not (0 <= moment.seconds <= _LAST_MOMENT_S and 0 <= moment.nanos < 1_000_000_000):
        raise violation(field, "it is not a moment from 1970 to 9999")
    return moment.seconds + moment.nanos / 1e9
