"""Why a TLS connection to a coordinator does not come about, found out by trying once more with Python's own TLS.

gRPC says "failed to connect" for most of it, and a server that does not like the client's certificate closes the connection without a
word: so one handshake is made with the same files, and what is seen is put into words.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .certificates import moment, validities, validity_of
from .channel import split_host, uses_tls
from .errors import ShoalError, Unreachable

if TYPE_CHECKING:
    from .settings_table import SecuritySettings

PROBE_TIMEOUT_S = 5.0
_CLEAR = ("nothing listens there", "its name is not known", "there is no route to it", "it is shutting down")
"""What gRPC says plainly enough."""

Reason = tuple[str, str]
"""Cause and remedy."""


class _Verify(enum.IntEnum):
    """OpenSSL's X509_V_ERR_ numbers (x509_vfy.h)."""

    NOT_YET_VALID = 9
    EXPIRED = 10
    HOSTNAME = 62
    IP_ADDRESS = 64


async def explained(error: ShoalError, address: str, security: SecuritySettings) -> ShoalError:
    """The error, or a plainer one where TLS is what is wrong. Takes some seconds at most."""
    if not isinstance(error, Unreachable) or error.cause in _CLEAR or not uses_tls(address, security):
        return error
    try:
        async with asyncio.timeout(2 * PROBE_TIMEOUT_S):
            reason = await asyncio.to_thread(find_reason, address, security)
    except TimeoutError:
        return error
    return error if reason is None else Unreachable(error.thing, cause=reason[0], remedy=reason[1])


def find_reason(address: str, security: SecuritySettings, now: float | None = None) -> Reason | None:
    """What is wrong with TLS between here and HOST:PORT, None if nothing is or it cannot be told. Blocks for some seconds at most."""
    own = _own_certificate(security.tls_cert, time.time() if now is None else now)
    if own is not None:
        return own
    host, _port = split_host(address)
    try:
        context = ssl.create_default_context(cafile=str(security.tls_ca) if security.tls_ca else None)
        if security.tls_cert and security.tls_key:
            context.load_cert_chain(security.tls_cert, security.tls_key, password="")
    except (OSError, ValueError):  # the error of who uses the file says it better
        return None
    context.set_alpn_protocols(["h2"])
    try:
        with _dial(address) as plain, context.wrap_socket(plain, server_hostname=host) as secured:
            return None if secured.recv(1) else _client_refused(security)
    except ssl.SSLCertVerificationError as error:
        return _not_verified(error, address, security)
    except ssl.SSLEOFError:
        return None
    except ssl.SSLError as error:
        reason = (error.reason or "").lower()
        if "alert" in reason and any(word in reason for word in ("certificate", "unknown_ca")):
            return _client_refused(security)
        if "wrong_version_number" in reason or "record_layer_failure" in reason or "http_request" in reason:
            return "it does not speak TLS", "give it a certificate, or say --insecure here"
        return f"the TLS handshake failed: {reason.replace('_', ' ')}", "check security.tls_ca, tls_cert and tls_key"
    except ConnectionError:
        return _client_refused(security) if security.tls_cert else None
    except OSError:
        return None


def _dial(address: str) -> socket.socket:
    host, port = split_host(address)
    plain = socket.create_connection((host, port), PROBE_TIMEOUT_S)
    plain.settimeout(PROBE_TIMEOUT_S)
    return plain


def _own_certificate(path: Path | None, now: float) -> Reason | None:
    if path is None:
        return None
    try:
        own = validities(path.read_bytes())
    except (OSError, ValueError):
        return None
    ends_at = min((validity.ends_at for validity in own), default=now + 1)
    if now < ends_at:
        return None
    return f"the certificate of this side has expired ({path}, {moment(ends_at)})", "renew security.tls_cert"


def _client_refused(security: SecuritySettings) -> Reason:
    if security.tls_cert is None:
        return (
            "it demands a client certificate and there is none here",
            "set security.tls_cert and security.tls_key to one that its security.client_ca signed",
        )
    return (
        f"it refused the certificate of this side ({security.tls_cert}): no authority of its security.client_ca signed it, "
        "or it is not valid there",
        "see the coordinator's log for the reason, and its clock",
    )


def _not_verified(error: ssl.SSLCertVerificationError, address: str, security: SecuritySettings) -> Reason:
    trusted = f"security.tls_ca {security.tls_ca}" if security.tls_ca else "the system's authorities"
    match error.verify_code:
        case _Verify.EXPIRED:
            when = _their_validity(address)
            return (
                f"its TLS certificate, or that of its authority, has expired{f' ({when[1]})' if when else ''}",
                "renew it on the coordinator's machine; it is read again by itself",
            )
        case _Verify.NOT_YET_VALID:
            when = _their_validity(address)
            return (
                f"its TLS certificate is not valid yet{f' (before {when[0]})' if when else ''}",
                "check the clocks of both machines",
            )
        case _Verify.HOSTNAME | _Verify.IP_ADDRESS:
            return (
                f"its TLS certificate is for another name: {error.verify_message}",
                "use a name that the certificate holds",
            )
        case _:
            return (
                f"its TLS certificate is not trusted: it does not come from {trusted} ({error.verify_message})",
                "set security.tls_ca to the authority's file",
            )


def _their_validity(address: str) -> tuple[str, str] | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _dial(address) as plain, context.wrap_socket(plain) as secured:
            found = validity_of(secured.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return None
    return moment(found.begins_at), moment(found.ends_at)
