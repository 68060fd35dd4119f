"""Capabilities: the coordinator's word that whoever shows it may read these objects of a job from one holder, until then.

A token is ``v1.CLAIMS.MAC`` in URL-safe base64: JSON claims and their HMAC-SHA256 (RFC 2104). Each holder has a key of its own, known
only to it and to the coordinator, so nobody else can make a token that it accepts; what a holder could forge opens only its own door.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from .errors import AccessDenied, Unauthenticated

KEY_BYTES = 32
TOKEN_CHARS_MAX = 1000
"""A token holds a job's and an agent's id: more is not one of ours."""
_VERSION = "v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """What a token allows. expires_at: seconds since the epoch on the coordinator's clock; object ids are inclusive."""

    job_id: str
    first_object: int
    last_object: int
    holder: str  # agent id
    expires_at: float


def holder_key(master: bytes, agent_id: str, session: str) -> bytes:
    """The key of one holder, made of the coordinator's secret. KEY_BYTES bytes."""
    return hmac.digest(master, f"shoal peer key\0{agent_id}\0{session}".encode(), hashlib.sha256)


def issue(key: bytes, capability: Capability) -> str:
    """A token that the holder of the key accepts."""
    claims = [
        capability.job_id,
        capability.first_object,
        capability.last_object,
        capability.holder,
        capability.expires_at,
    ]
    body = f"{_VERSION}.{_encode(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{body}.{_encode(_mac(key, body))}"


def check(key: bytes, token: str, *, now: float, holder: str, job_id: str, object_id: int) -> None:
    """Raises Unauthenticated for what is no token of this key, AccessDenied for one that does not allow this now."""
    capability = _read(key, token)
    if capability.holder != holder:
        raise AccessDenied("capability", cause="it is for another holder")
    if capability.job_id != job_id:
        raise AccessDenied("capability", cause="it is for another job")
    if not capability.first_object <= object_id <= capability.last_object:
        raise AccessDenied("capability", cause=f"object {object_id} is not among its objects")
    if now >= capability.expires_at:
        raise AccessDenied("capability", cause="it has expired")


def _read(key: bytes, token: str) -> Capability:
    body, dot, mac = token.rpartition(".")
    if len(token) > TOKEN_CHARS_MAX or not token.isascii() or not dot or not body.startswith(f"{_VERSION}."):
        raise Unauthenticated("capability", cause="it is missing or malformed")
    if not hmac.compare_digest(_encode(_mac(key, body)), mac):
        raise Unauthenticated("capability", cause="it was not signed for this agent")
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(_padded(body.partition(".")[2])))
        job_id, first, last, holder, expires_at = claims
        return Capability(
            job_id=str(job_id),
            first_object=int(first),
            last_object=int(last),
            holder=str(holder),
            expires_at=float(expires_at),
        )
    except (ValueError, TypeError, binascii.Error):
        raise Unauthenticated("capability", cause="its claims cannot be read") from None


def _mac(key: bytes, body: str) -> bytes:
    return hmac.digest(key, body.encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
