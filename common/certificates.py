"""When certificates end: read from their files, told in time.

Only the validity is read, by walking the DER encoding (X.690, 8.1) along the fields of RFC 5280, section 4.1: Python's ``ssl`` gives it
for certificates of authorities and of peers alone, and a whole library for it is more than a fleet without TLS should need.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from .logs import get_logger

if TYPE_CHECKING:
    from .settings_table import SecuritySettings

DAY_S = 86400.0
WARN_S = 14 * DAY_S
"""How long before the end people are warned; of a certificate with a short life a fifth of it, else it would be said all the time."""
SHARE_LEFT = 0.2
REPEAT_S = DAY_S
RECHECK_S = 60.0

State = Literal["good", "expiring", "expired", "not yet valid"]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _INTEGER, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x02, 0xA0, 0x17, 0x18

log = get_logger("certificates")


class Validity(NamedTuple):
    """From when to when a certificate is valid, in seconds since the epoch."""

    begins_at: float
    ends_at: float

    def state(self, now: float) -> State:
        """What to say of it at this time."""
        if now < self.begins_at:
            return "not yet valid"
        if now >= self.ends_at:
            return "expired"
        warn_s = min(WARN_S, SHARE_LEFT * (self.ends_at - self.begins_at))
        return "expiring" if self.ends_at - now < warn_s else "good"


def validity_of(der: bytes) -> Validity:
    """Of one certificate in DER. Raises ValueError for what is none."""
    try:
        certificate = _field(der, 0, _SEQUENCE)
        at = _field(der, certificate[0], _SEQUENCE)[0]
        if der[at] == _VERSION:
            at = _field(der, at, _VERSION)[1]
        for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, algorithm, issuer
            at = _field(der, at, tag)[1]
        at = _field(der, at, _SEQUENCE)[0]
        begins_at, at = _time(der, at)
        ends_at, _at = _time(der, at)
    except IndexError:
        raise ValueError("it is cut off") from None
    return Validity(begins_at, ends_at)


def validities(pem: bytes) -> list[Validity]:
    """Of all certificates in a PEM file, in their order. Raises ValueError for one that cannot be read."""
    import binascii

    try:
        return [validity_of(binascii.a2b_base64(match[1])) for match in _PEM.finditer(pem)]
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def moment(seconds: float) -> str:
    """A time for people, in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


class Watched(NamedTuple):
    """A file to watch: a certificate with its chain, of which each must be valid, or authorities, of which one must be."""

    setting: str
    path: Path
    is_authority: bool = False


def watched_files(security: SecuritySettings) -> list[Watched]:
    """The certificate files of this process."""
    named = (
        ("security.tls_cert", security.tls_cert, False),
        ("security.tls_ca", security.tls_ca, True),
        ("security.client_ca", security.client_ca, True),
    )
    return [Watched(setting, path, is_authority) for setting, path, is_authority in named if path is not None]


class CertificateWatch:
    """Tells of certificates that end soon: once when they begin to, then once a day, in the log; always in `check`'s answer."""

    def __init__(self, files: Iterable[Watched]) -> None:
        self._files = tuple(files)
        self._said: dict[Path, tuple[State, float]] = {}
        self._checked_at = float("-inf")
        self._warnings: tuple[str, ...] = ()

    def check(self, now: float) -> tuple[str, ...]:
        """What is wrong or soon will be, for people; now in seconds since the epoch. Files are read once a minute.

        A file that cannot be read is left to who uses it, whose error says more.
        """
        if now - self._checked_at >= RECHECK_S:
            self._checked_at = now
            self._warnings = tuple(filter(None, (self._check_one(file, now) for file in self._files)))
        return self._warnings

    def _check_one(self, file: Watched, now: float) -> str:
        try:
            found = validities(file.path.read_bytes())
        except (OSError, ValueError):
            return ""
        if not found:
            return ""
        validity = max(found, key=lambda v: v.ends_at) if file.is_authority else min(found, key=lambda v: v.ends_at)
        state = validity.state(now)
        said, said_at = self._said.get(file.path, ("good", float("-inf")))
        if state != said or (state != "good" and now - said_at >= REPEAT_S):
            self._said[file.path] = (state, now)
            if state != "good":
                log.warning(
                    f"certificate.{state.replace(' ', '_')}",
                    setting=file.setting,
                    file=str(file.path),
                    begins=moment(validity.begins_at),
                    ends=moment(validity.ends_at),
                    remedy="put a new one in its place: it is read again by itself",
                )
        if state == "good":
            return ""
        if state == "not yet valid":
            return f"{file.setting} {file.path} is not valid before {moment(validity.begins_at)}: check the clock"
        left = f"expires in {(validity.ends_at - now) / DAY_S:.0f} days" if state == "expiring" else "has expired"
        return f"{file.setting} {file.path} {left} ({moment(validity.ends_at)})"


def _field(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of the field at this place begins, and where it ends. Raises ValueError for another tag, IndexError."""
    if der[at] != tag:
        raise ValueError(f"it is no certificate: tag {der[at]:#x} where {tag:#x} belongs")
    length, begin = der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + count]), begin + count
    if begin + length > len(der):
        raise IndexError
    return begin, begin + length


def _time(der: bytes, at: int) -> tuple[float, int]:
    """A time of RFC 5280, 4.1.2.5, and where the next field begins."""
    tag = _UTC_TIME if der[at] == _UTC_TIME else _GENERALIZED_TIME
    begin, end = _field(der, at, tag)
    text = der[begin:end].decode("ascii", "replace")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp(), end
