"""What people ask for, to and from ``shoal.v1`` messages.

Decoding raises `ProtocolViolation` for anything that the records do not allow. `encode_submit_request` raises `UsageError` for a value
that cannot be put on the wire, because a person chose it.
"""

from __future__ import annotations

from shoal.v1 import job_service_pb2 as jobs

from .errors import UsageError
from .records import Delivery
from .views import SubmitRequest
from .wire_collect import decode_collect_spec, decode_tool_spec, encode_collect_spec, encode_tool_spec
from .wire_values import texts, violation
from .wire_work import DELIVERY, LAYOUT

URIS_MAX = 10_000
"""URIs of one request: each becomes a job with a listing of its own."""


def encode_submit_request(request: SubmitRequest) -> jobs.SubmitJobRequest:
    """What to fetch, and where to."""
    try:
        return jobs.SubmitJobRequest(
            uris=request.uris,
            destination=request.destination,
            layout=None if request.layout is None else LAYOUT.number(request.layout),
            delivery=DELIVERY.number(request.delivery),
            include=request.include,
            exclude=request.exclude,
            revision=request.revision,
            force=request.force,
            sha256=request.sha256,
            priority=request.priority,
            name=request.name,
            profile=request.profile,
            unpack=request.unpack,
            unpack_format=request.unpack_format,
            collect=encode_collect_spec(request.collect),
            tool=encode_tool_spec(request.tool),
            nas=request.nas,
            commit=request.commit,
        )
    except ValueError as error:
        raise UsageError("request", cause=f"it cannot be sent: {error}") from error


def decode_submit_request(request: jobs.SubmitJobRequest) -> SubmitRequest:
    """What to fetch, and where to. URIs and folders are judged by who uses them."""
    dataset = request.HasField("collect") or request.HasField("tool")
    if not dataset and not 1 <= len(request.uris) <= URIS_MAX:
        raise violation("SubmitJobRequest.uris", f"{len(request.uris)} URIs, not 1 to {URIS_MAX}")
    return SubmitRequest(
        uris=texts(request.uris, "SubmitJobRequest.uris"),
        destination=request.destination,
        layout=LAYOUT.optional(request.layout, "SubmitJobRequest.layout"),
        delivery=DELIVERY.optional(request.delivery, "SubmitJobRequest.delivery") or Delivery.SPREAD,
        include=texts(request.include, "SubmitJobRequest.include"),
        exclude=texts(request.exclude, "SubmitJobRequest.exclude"),
        revision=request.revision,
        force=request.force,
        sha256=request.sha256,
        priority=request.priority,
        name=request.name,
        profile=request.profile,
        unpack=request.unpack,
        unpack_format=request.unpack_format,
        collect=decode_collect_spec(request.collect) if request.HasField("collect") else None,
        tool=decode_tool_spec(request.tool) if request.HasField("tool") else None,
        nas=request.nas,
        commit=request.commit,
    )
