"""How an error crosses the wire and stays the same error.

The server sends its status, its text, and its parts in the trailer of gRPC's richer error model
(``grpc-status-details-bin``, a google.rpc.Status; gRPC's error-handling guide), which other languages' clients and grpcurl show
too. The client makes the same `ShoalError` class of it. A status without our parts comes from gRPC itself or from something between.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from shoal.v1 import errors_pb2 as pb

from .errors import (
    AccessDenied,
    Busy,
    Conflict,
    HttpStatus,
    NotFound,
    RateLimited,
    ShoalError,
    Unauthenticated,
    Unreachable,
    UsageError,
    error_class,
)
from .wire_values import prose

DETAILS_KEY = "grpc-status-details-bin"

PART_CHARS_MAX = 600
"""Of each part of an error: all three, in the trailer and in the text, stay well below METADATA_BYTES_MAX in channel.py."""

_CLASSES: dict[str, type[ShoalError]] = {
    "UNAVAILABLE": Unreachable,
    "DEADLINE_EXCEEDED": Unreachable,
    "CANCELLED": Unreachable,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": AccessDenied,
    "NOT_FOUND": NotFound,
    "INVALID_ARGUMENT": UsageError,
    "OUT_OF_RANGE": UsageError,
    "UNIMPLEMENTED": Conflict,
    "FAILED_PRECONDITION": Conflict,
    "ABORTED": Busy,
    "RESOURCE_EXHAUSTED": Busy,
}
"""What a bare status becomes. Everything else is a plain ShoalError."""


def encode_error(error: ShoalError, status: int) -> tuple[str, bytes]:
    """The status text and the trailer for an error that is refused with this gRPC status code."""
    thing, cause, remedy = (prose(part, PART_CHARS_MAX) for part in (error.thing, error.cause, error.remedy))
    detail = pb.ErrorDetail(code=error.code, thing=thing, cause=cause, remedy=remedy)
    if isinstance(error, HttpStatus):
        detail.http_status = error.status
    if isinstance(error, RateLimited):
        detail.retry_after_s = error.retry_after_s
    shown = str(ShoalError(thing, cause=cause, remedy=remedy))
    packed = Any()
    packed.Pack(detail)
    return shown, pb.Status(code=status, message=shown, details=[packed]).SerializeToString()


def decode_error(status: str, text: str, trailer: bytes | None, *, thing: str) -> ShoalError:
    """The error behind a status.

    Args: status (name of a gRPC status code), text (of the status), trailer (value of DETAILS_KEY, if there was one), thing
    (what the call was about, for a status that does not say).
    """
    detail = _detail(trailer)
    if detail is None:
        return _CLASSES.get(status, ShoalError)(thing, cause=prose(text) or status)
    cls = error_class(detail.code)
    if issubclass(cls, HttpStatus):
        return cls(detail.thing, status=detail.http_status, cause=detail.cause, remedy=detail.remedy)
    if issubclass(cls, RateLimited):
        return cls(detail.thing, retry_after_s=detail.retry_after_s, cause=detail.cause, remedy=detail.remedy)
    return cls(detail.thing, cause=detail.cause, remedy=detail.remedy)


def _detail(trailer: bytes | None) -> pb.ErrorDetail | None:
    if trailer is None:
        return None
    detail = pb.ErrorDetail()
    try:
        found = pb.Status.FromString(trailer).details
        return detail if any(packed.Unpack(detail) for packed in found) else None
    except DecodeError:
        return None
