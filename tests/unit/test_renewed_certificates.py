"""Certificates and authorities of the peer exchange are taken up when their files change, and only when they fit."""

from __future__ import annotations

import datetime
import io
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.agent.peer.certificate import PeerCertificate
from shoal.common import logs
from shoal.common.errors import UsageError
from shoal.common.http.tls import TlsContexts, TlsOptions
from support.fleet_certificates import Authority


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    logs.configure("info", "json", text)
    yield text
    logs.configure()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, now=datetime.datetime.now(datetime.UTC))


def shown(context: ssl.SSLContext, ca: Path) -> str:
    """The common name that a client is shown who connects now, in memory."""
    client = ssl.create_default_context(cafile=str(ca))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    certificate = ends[1].getpeercert()
    assert certificate
    return dict(field[0] for field in certificate["subject"])["commonName"]


def test_a_renewed_certificate_is_shown_and_one_that_does_not_fit_is_not(
    authority: Authority, log: io.StringIO
) -> None:
    cert, key = authority.sign("first", "peer")
    certificate = PeerCertificate(cert, key)
    certificate.renew()
    assert (shown(certificate.context, authority.ca), log.getvalue()) == ("first", "")
    second, second_key = authority.sign("second", "next")
    cert.write_bytes(second.read_bytes())  # half of it: the key is still the old one
    certificate.renew()
    certificate.renew()
    assert shown(certificate.context, authority.ca) == "first"
    key.write_bytes(second_key.read_bytes())
    certificate.renew()
    assert shown(certificate.context, authority.ca) == "second"
    assert [json.loads(line)["action"] for line in log.getvalue().splitlines()] == [
        "certificate.refused",
        "certificate.renewed",
    ]


def test_files_that_cannot_be_used_are_named_at_the_start(authority: Authority, tmp_path: Path) -> None:
    cert, _key = authority.sign("first", "peer")
    with pytest.raises(UsageError, match=f"security.tls_cert {cert}"):
        PeerCertificate(cert, tmp_path / "missing.key")


def test_authorities_are_read_again_when_they_change(authority: Authority, tmp_path: Path) -> None:
    contexts = TlsContexts(TlsOptions(ca_bundle=str(authority.ca)))
    first = contexts.get()
    assert contexts.get() is first
    other = Authority(tmp_path / "other", now=datetime.datetime.now(datetime.UTC), name="the next authority")
    authority.ca.write_bytes(authority.ca.read_bytes() + other.ca.read_bytes())
    second = contexts.get()
    assert second is not first and len(second.get_ca_certs()) == 2
    authority.ca.write_text("half writ")
    assert contexts.get() is second
    authority.ca.write_bytes(other.ca.read_bytes())
    assert len(contexts.get().get_ca_certs()) == 1
