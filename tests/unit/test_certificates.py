"""When certificates end, read as the library that made them says, and told in time."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from shoal.common import logs
from shoal.common.certificates import DAY_S, CertificateWatch, Validity, Watched, validities, validity_of, watched_files
from shoal.common.settings_table import SecuritySettings
from support.fleet_certificates import Authority

NOW = datetime.datetime(2026, 5, 4, 3, 2, 1, tzinfo=datetime.UTC)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    logs.configure("info", "json", text)
    yield text
    logs.configure()


def made(begins: datetime.datetime, ends: datetime.datetime) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .sign(key, SHA256())
    )


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        (NOW, NOW + datetime.timedelta(days=90)),
        (NOW.replace(year=1999), NOW.replace(year=2049)),  # both sides of RFC 5280's change of form
        (NOW.replace(year=2049), NOW.replace(year=2051)),
        (NOW, NOW.replace(year=9999)),
    ],
)
def test_the_validity_is_what_another_library_reads(begins: datetime.datetime, ends: datetime.datetime) -> None:
    certificate = made(begins, ends)
    theirs = Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())
    assert validity_of(certificate.public_bytes(Encoding.DER)) == theirs
    pem = certificate.public_bytes(Encoding.PEM)
    assert validities(b"# some words\n" + pem + b"-----BEGIN EC PARAMETERS-----\n" + pem) == [theirs, theirs]


def test_what_is_no_certificate_is_an_error_and_nothing_else() -> None:
    der = made(NOW, NOW + datetime.timedelta(days=1)).public_bytes(Encoding.DER)
    end_of_validity = der.index(b"260504030201Z") + 40
    for cut in range(end_of_validity):
        with pytest.raises(ValueError):
            validity_of(der[:cut])
    for broken in (b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", bytes(200), b"\x30\x80" + bytes(100)):
        with pytest.raises(ValueError):
            validity_of(broken)
    assert validities(b"nothing") == []
    with pytest.raises(ValueError):
        validities(b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----")


@pytest.mark.parametrize(
    ("life_days", "left_days", "state"),
    [
        (365, 15, "good"),
        (365, 13.9, "expiring"),
        (30, 7, "good"),  # a short life: a fifth of it
        (30, 5.9, "expiring"),
        (1, 0.3, "good"),
        (365, 0, "expired"),
        (365, 366, "not yet valid"),
    ],
)
def test_how_long_before_the_end_people_are_warned(life_days: float, left_days: float, state: str) -> None:
    validity = Validity(0.0, life_days * DAY_S)
    assert validity.state(validity.ends_at - left_days * DAY_S) == state


def test_it_is_said_once_when_it_begins_and_then_once_a_day(tmp_path: Path, log: io.StringIO) -> None:
    cert, _key = Authority(tmp_path, now=NOW).sign("coordinator", "c", ends=datetime.timedelta(days=40))
    watch = CertificateWatch([Watched("security.tls_cert", cert)])
    now = NOW.timestamp()
    assert watch.check(now) == ()
    now += 38 * DAY_S
    (warning,) = watch.check(now)
    assert warning == f"security.tls_cert {cert} expires in 2 days (2026-06-13 03:02 UTC)"
    for minutes in range(1, 24 * 60, 30):
        assert watch.check(now + minutes * 60)
    watch.check(now + DAY_S)
    (warning,) = watch.check(now + 2 * DAY_S)
    assert "has expired" in warning
    told = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [event["action"] for event in told] == ["certificate.expiring"] * 2 + ["certificate.expired"]
    assert told[0]["level"] == "warning" and told[0]["file"] == str(cert)


def test_a_renewed_file_is_good_again_and_a_missing_one_is_not_its_business(tmp_path: Path, log: io.StringIO) -> None:
    authority = Authority(tmp_path, now=NOW)
    cert, _key = authority.sign("coordinator", "c", ends=-datetime.timedelta(days=1))
    watch = CertificateWatch([Watched("security.tls_cert", cert)])
    now = NOW.timestamp()
    assert watch.check(now)
    authority.sign("coordinator", "c")
    assert watch.check(now + 1)  # files are read once a minute
    assert watch.check(now + 60) == ()
    cert.unlink()
    assert watch.check(now + 120) == ()


def test_of_authorities_one_must_be_valid_of_a_chain_all(tmp_path: Path, log: io.StringIO) -> None:
    pems = [
        made(NOW - datetime.timedelta(days=99), NOW + datetime.timedelta(days=days)).public_bytes(Encoding.PEM)
        for days in (-1, 90)
    ]
    bundle = tmp_path / "both.pem"
    bundle.write_bytes(b"".join(pems))
    now = NOW.timestamp()
    assert CertificateWatch([Watched("security.tls_ca", bundle, is_authority=True)]).check(now) == ()
    assert CertificateWatch([Watched("security.tls_cert", bundle)]).check(now)


def test_which_files_are_watched() -> None:
    files = watched_files(SecuritySettings(tls_cert=Path("c"), tls_key=Path("k"), client_ca=Path("a")))
    assert [(file.setting, file.is_authority) for file in files] == [
        ("security.tls_cert", False),
        ("security.client_ca", True),
    ]
