"""What a server's certificate says, and what it means that it was refused."""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

EXPIRES_SOON_S: Final = 14 * 86400.0
"""Two weeks: what renews itself (ACME) does so a month before the end; what is left then, somebody has forgotten."""

# OpenSSL's verification results (x509_vfy.h). Others are told in OpenSSL's words.
NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
SELF_SIGNED: Final = 18
SELF_SIGNED_IN_CHAIN: Final = 19
UNKNOWN_ISSUER: Final = 20
UNVERIFIABLE_LEAF: Final = 21
WRONG_NAME: Final = 62
WRONG_ADDRESS: Final = 64
_UNKNOWN_AUTHORITY = frozenset({SELF_SIGNED_IN_CHAIN, UNKNOWN_ISSUER, UNVERIFIABLE_LEAF})


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What people need to know of a certificate. Times are seconds since 1970, None where they cannot be read."""

    issuer: str  # organisation and common name of who signed it
    names: tuple[str, ...] = ()  # that it is for
    not_before: float | None = None
    not_after: float | None = None


def read_certificate(der: bytes) -> Certificate | None:
    """The certificate in DER; None for what cannot be read.

    The ssl module parses a certificate for Python only once it has been verified, and this is for those that were not. Its
    test suite's way in is the parser itself; a package for it would be needed on every machine.
    """
    decode = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)
    if decode is None or not der:
        return None
    text = base64.encodebytes(der).decode("ascii")
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{ssl.PEM_HEADER}\n{text}{ssl.PEM_FOOTER}\n")
            file.flush()
            fields = cast("Mapping[str, Any]", decode(file.name))
    except (OSError, ValueError):
        return None
    return Certificate(
        issuer=_name(fields.get("issuer", ())),
        names=tuple(value for kind, value in fields.get("subjectAltName", ()) if kind in ("DNS", "IP Address")),
        not_before=_moment(fields.get("notBefore")),
        not_after=_moment(fields.get("notAfter")),
    )


def refusal(
    verify_code: int, verify_message: str, shown: Certificate | None, *, host: str, setting: str
) -> tuple[str, str]:
    """(what is wrong, what to do) for a certificate that was refused.

    Args: verify_code and verify_message are OpenSSL's; shown is the certificate, if it could be read; setting names the
    authorities that are trusted, such as ``hub.ca_bundle``.
    """
    issuer = f'"{shown.issuer}"' if shown is not None and shown.issuer else "an authority that it does not name"
    if verify_code == EXPIRED:
        when = f" on {_day(shown.not_after)}" if shown is not None and shown.not_after else ""
        return (
            f"its certificate (issued by {issuer}) expired{when}, or one above it did",
            "its owner must renew it; check this machine's clock, too",
        )
    if verify_code == NOT_YET_VALID:
        when = f" before {_day(shown.not_before)}" if shown is not None and shown.not_before else " yet"
        return f"its certificate is not valid{when}", "set this machine's clock; see the check clock"
    if verify_code in (WRONG_NAME, WRONG_ADDRESS):
        names = ", ".join(shown.names[:5]) if shown is not None else ""
        return (
            f"its certificate is for another name{f': {names}' if names else ''}",
            f"use a name that the certificate holds, or have {host} added to it; a proxy or portal may be answering in its place",
        )
    if verify_code == SELF_SIGNED:
        return (
            f"its certificate is self-signed by {issuer}",
            f"if that is meant, set {setting} to the file of this certificate; else ask the network team who answers here",
        )
    if verify_code in _UNKNOWN_AUTHORITY:
        return (
            f"its certificate was issued by {issuer}, which is not trusted here",
            f"if that is your organisation, your proxy intercepts TLS: set {setting} to the organisation's CA file (PEM)",
        )
    return f"its certificate is not trusted: {verify_message}", f"set {setting} to the CA file of who signed it"


def validity(shown: Certificate | None, now: float) -> tuple[str, bool]:
    """(who signed a certificate that is trusted and until when it holds, does it end soon)."""
    if shown is None:
        return "trusted", False
    if shown.not_after is None:
        return f'issued by "{shown.issuer}"', False
    return f'issued by "{shown.issuer}", valid until {_day(shown.not_after)}', shown.not_after - now < EXPIRES_SOON_S


def _name(parts: Any) -> str:
    """A distinguished name, as ``getpeercert`` gives it, in a few words."""
    fields = {key: value for group in parts for key, value in group}
    words = [fields.get("organizationName", ""), fields.get("commonName", "")]
    return ", ".join(dict.fromkeys(word for word in words if word)) or ", ".join(fields.values())


def _moment(text: object) -> float | None:
    try:
        return float(ssl.cert_time_to_seconds(str(text)))
    except ValueError:
        return None


def _day(epoch_s: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch_s, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
