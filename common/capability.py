"""Capabilities: the coordinator's signed word that some objects of a job may be fetched from one agent, the holder.

A capability is a bearer token. Each holder shares a key of 32 bytes with the coordinator and with nobody else, so a plain MAC
(HMAC-SHA256, RFC 2104) is enough: the only other party who could forge a token for a holder is that holder itself, who has the bytes
anyway. A token reads ``VERSION.CLAIMS.MAC``, both parts in URL-safe base64 without padding (RFC 4648, section 5). The MAC covers the
text as it stands, and nothing of the claims is parsed before it was found right.

Keys and tokens are secrets: no error here shows one, and where they are kept
they belong into a `secrets.Secret` or a field without repr.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import re
from dataclasses import dataclass
from typing import Final, cast

from .errors import AccessDenied, Unauthenticated

KEY_BYTES: Final = 32  # as long as the digest of the MAC: more adds nothing (RFC 2104, section 3)
TOKEN_CHARS_MAX: Final = (
    2048  # names of the longest kind, escaped and encoded, stay below; a request head holds it easily
)
NAME_CHARS_MAX: Final = 256  # of a job's and a holder's name, as on the wire
OBJECT_ID_MAX: Final = 2**63 - 1  # what the store can number
_VERSION = "v1"
# The purpose is part of what is signed: a MAC made with this key for something else is never a capability.
_PURPOSE_TOKEN = b"shoal capability 1\0"
_PURPOSE_KEY = b"shoal holder key 1\0"
_MAC_CHARS = 43  # of 32 bytes in base64 without padding
_TOKEN = re.compile(rf"{_VERSION}\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{{{_MAC_CHARS}}})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """What is allowed. The claims are no secret; the token that `issue` makes of them is."""

    job_id: str
    first_object: int  # the objects with ids from here
    last_object: int  # to here, itself included
    holder: str  # the agent that is to serve them
    expires_at: float  # seconds since the epoch, on the coordinator's clock


def holder_key(master: bytes, agent_id: str, session: str) -> bytes:
    """The key that the coordinator shares with one agent, for one session: 32 bytes.

    The lengths go in with the names, so that no two pairs of names give the same input.
    """
    _check_key(master)
    names = [name.encode("utf-8", "surrogatepass") for name in (agent_id, session)]
    text = b"".join(len(name).to_bytes(4, "big") + name for name in names)
    return hmac.digest(master, _PURPOSE_KEY + text, "sha256")


def issue(key: bytes, capability: Capability) -> str:
    """The token of a capability: a secret, fit for an ``Authorization: Bearer`` header. Raises ValueError for impossible claims."""
    _check_key(key)
    claims = capability
    if not 0 <= claims.first_object <= claims.last_object <= OBJECT_ID_MAX:
        raise ValueError(f"not a range of objects: {claims.first_object} to {claims.last_object}")
    if not all(0 < len(name) <= NAME_CHARS_MAX for name in (claims.job_id, claims.holder)):
        raise ValueError("a job or a holder has no name, or one that is too long")
    if not math.isfinite(claims.expires_at):
        raise ValueError("a capability must expire")
    values = [claims.job_id, claims.first_object, claims.last_object, claims.holder, float(claims.expires_at)]
    text = _base64(json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))
    token = f"{_VERSION}.{text}.{_mac(key, text)}"
    if len(token) > TOKEN_CHARS_MAX:
        raise ValueError("the names of the job and the holder are too long together")
    return token


def check(key: bytes, token: str, *, now: float, holder: str, job_id: str, object_id: int) -> None:
    """Return if the token lets its bearer have this object of this job from this holder.

    ``now``: seconds since the epoch on the coordinator's clock. Raises Unauthenticated (missing, malformed or not signed with this
    key), AccessDenied (signed, but expired or for something else).
    """
    claims = _verified(key, token)
    what = f"object {object_id} of job {job_id}"
    if claims.holder != holder:
        raise AccessDenied(what, cause="the capability is for another holder")
    if claims.job_id != job_id:
        raise AccessDenied(what, cause="the capability is for another job")
    if not claims.first_object <= object_id <= claims.last_object:
        raise AccessDenied(what, cause="the capability is for other objects")
    if not now < claims.expires_at:
        raise AccessDenied(what, cause="the capability has expired", remedy="ask the coordinator for a new one")


def _verified(key: bytes, token: str) -> Capability:
    _check_key(key)
    if not token:
        raise Unauthenticated("capability", cause="it is missing")
    parts = _TOKEN.fullmatch(token) if len(token) <= TOKEN_CHARS_MAX else None
    if parts is None:
        raise Unauthenticated("capability", cause="it is malformed")
    # The texts are compared, not the bytes: base64 has more than one text for the same bytes.
    if not hmac.compare_digest(_mac(key, parts[1]), parts[2]):
        raise Unauthenticated("capability", cause="it was not signed for this holder")
    try:
        return _parsed(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise Unauthenticated("capability", cause="its claims are malformed") from None


def _parsed(text: bytes) -> Capability:
    """The claims of a signed text: who signs may be a later version. Raises ValueError."""
    values: object = json.loads(text.decode("utf-8", "surrogatepass"))
    if not isinstance(values, list):
        raise ValueError("not a list")
    match cast("list[object]", values):
        case [str() as job_id, int() as first, int() as last, str() as holder, float() as expires_at]:
            if isinstance(first, bool) or isinstance(last, bool):
                raise ValueError("not object ids")
            return Capability(job_id=job_id, first_object=first, last_object=last, holder=holder, expires_at=expires_at)
        case _:
            raise ValueError("not the claims of a capability")


def _mac(key: bytes, text: str) -> str:
    return _base64(hmac.new(key, _PURPOSE_TOKEN + text.encode("ascii"), hashlib.sha256).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
