"""gRPC channels: options of both ends, credentials of the client, and what a broken call means.

Which transport: TLS to everything beyond loopback, unless `security.insecure` says otherwise out loud; on loopback plain text, unless
TLS files are configured. So a token never travels in plain text over a network by accident.

Options, from gRPC's ``grpc_types.h`` and measured: the keepalive alone notices a frozen peer only after more than a minute, with the
ping timeout after 15 s. It is a second line: sessions have heartbeats of their own.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ShoalError, Unreachable, UsageError
from .wire_errors import DETAILS_KEY, decode_error

if TYPE_CHECKING:
    import grpc
    import grpc.aio

    from .settings_table import SecuritySettings

MESSAGE_BYTES_MAX = 16 << 20
"""A page of 2,000 objects with the longest paths, or the hello of an agent with 100,000 reports, fits; gRPC's default is 4 MiB."""

METADATA_BYTES_MAX = 64 << 10
"""Errors travel in trailers with their cause and remedy; gRPC's default of 8 KiB is close to what one can take."""

KEEPALIVE_TIME_S = 10
PING_TIMEOUT_S = 5

ADMITTED = ("shoal-session", "open")
"""Initial metadata of a session that is let in, before anything was said. A refusal comes with initial metadata too, but not this."""

CHALLENGE_KEY = "shoal-challenge"
"""Initial metadata of a session: a number that its Hello must repeat, so that a Hello of another session is worth nothing."""

Options = list[tuple[str, int]]

_COMMON: Options = [
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_S * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_S * 1000),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_S * 1000),
    ("grpc.http2.max_pings_without_data", 0),  # 0 is no limit
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
]

SERVER_OPTIONS: Options = [
    *_COMMON,
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_S * 500),  # else our own clients ping too often
    ("grpc.so_reuseport", 0),  # two coordinators on one port must not go unnoticed
]

CLIENT_OPTIONS: Options = [
    *_COMMON,
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the reconnect backoff of the one before
]


def split_host(address: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPV6]:PORT`` to host (without brackets) and port. Raises UsageError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"address {address!r}", cause="it is not HOST:PORT", remedy='for example "127.0.0.1:7070"')
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach HOST:PORT. Raises UsageError."""
    host, _port = split_host(address)
    if host.lower() == "localhost":  # RFC 6761: always loopback
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_pem(path: Path, setting: str) -> bytes:
    """A PEM file. Raises UsageError that names the setting."""
    try:
        return path.read_bytes()
    except OSError as error:
        cause = f"it cannot be read: {error.strerror}"
        raise UsageError(f"{setting} {path}", cause=cause, remedy="name a readable PEM file") from None


def uses_tls(address: str, security: SecuritySettings) -> bool:
    """Whether a client speaks TLS to this address. Raises UsageError."""
    return bool(security.tls_ca or security.tls_cert) or not (security.insecure or is_loopback(address))


def open_channel(address: str, security: SecuritySettings) -> grpc.aio.Channel:
    """A channel to a coordinator; it connects at the first call. Raises UsageError for an address or file that cannot be used."""
    import grpc
    import grpc.aio

    if not uses_tls(address, security):
        split_host(address)
        return grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
    if bool(security.tls_cert) != bool(security.tls_key):
        raise UsageError("security.tls_cert and security.tls_key", cause="one is set without the other")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read_pem(security.tls_ca, "security.tls_ca") if security.tls_ca else None,
        private_key=read_pem(security.tls_key, "security.tls_key") if security.tls_key else None,
        certificate_chain=read_pem(security.tls_cert, "security.tls_cert") if security.tls_cert else None,
    )
    return grpc.aio.secure_channel(address, credentials, options=CLIENT_OPTIONS)


def call_metadata(security: SecuritySettings) -> tuple[tuple[str, str], ...]:
    """The credential for every call, read anew so that it can be rotated. Raises UsageError for one that cannot be read."""
    token = security.token.resolve()
    return () if token is None else (("authorization", f"Bearer {token.reveal()}"),)


# What gRPC says of a connection that did not come about, and what it means. Its texts are not documented: what is not found here is
# shown as it is.
_CAUSES = (
    ("connection refused", "nothing listens there", "start it with shoal coordinator, or check the address"),
    ("certificate has expired", "its TLS certificate has expired", "renew it on the coordinator's machine"),
    ("certificate_verify_failed", "its TLS certificate is not trusted", "set security.tls_ca to the authority's file"),
    ("hostname verification", "its TLS certificate is for another name", "use a name that the certificate holds"),
    ("is not verified", "its TLS certificate is for another name", "use a name that the certificate holds"),
    ("wrong_version_number", "it does not speak TLS", "give it a certificate, or say --insecure here"),
    ("handshake", "the TLS handshake failed", "check security.tls_ca, tls_cert and tls_key on both sides"),
    ("dns resolution failed", "its name is not known", "check the address"),
    ("domain name not found", "its name is not known", "check the address"),
    ("no route to host", "there is no route to it", "check the address and the firewall"),
    ("network is unreachable", "there is no route to it", "check the address and the network"),
    ("goaway", "it is shutting down", "try again in a moment"),
    ("socket closed", "the connection broke", "see whether it runs; if it expects TLS, set security.tls_ca"),
    ("connection reset", "the connection broke", "see whether it runs; if it expects TLS, set security.tls_ca"),
    ("deadline exceeded", "it did not answer in time", "see whether it runs and is reachable"),
    ("timed out", "it did not answer in time", "see whether it runs and is reachable"),
)


def call_error(error: grpc.aio.AioRpcError, address: str) -> ShoalError:
    """The error behind a call that failed: the coordinator's own, or Unreachable with the reason."""
    text = error.details() or ""
    trailing: Any = error.trailing_metadata() or ()  # pairs; the stubs say otherwise
    trailer = next((value for key, value in trailing if key == DETAILS_KEY), None)
    made = decode_error(error.code().name, text, trailer, thing=f"coordinator {address}")
    if trailer is None and isinstance(made, Unreachable):
        for hint, cause, remedy in _CAUSES:
            if hint in text.lower():
                return Unreachable(made.thing, cause=cause, remedy=remedy)
    return made
