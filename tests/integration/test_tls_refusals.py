"""A TLS connection that does not come about says why, on the side of who connects, whoever refuses whom."""

from __future__ import annotations

import datetime
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shoal.agent.link import connect
from shoal.client.remote import RemoteCoordinator
from shoal.common.channel import open_channel
from shoal.common.errors import Unreachable
from shoal.common.settings_table import SecuritySettings
from shoal.common.tls_probe import find_reason
from support.fake_coordinator import FakeCoordinator, serving
from support.fleet_certificates import Authority

PAST = -datetime.timedelta(hours=1)
Files = tuple[Path, Path]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls", now=datetime.datetime.now(datetime.UTC))


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "other", now=datetime.datetime.now(datetime.UTC), name="somebody else")


@asynccontextmanager
async def coordinator(files: Files, client_ca: Path | None = None) -> AsyncIterator[str]:
    security = SecuritySettings(tls_cert=files[0], tls_key=files[1], client_ca=client_ca)
    async with serving(FakeCoordinator(), listen="0.0.0.0:0", security=security) as server:
        yield f"127.0.0.1:{server.port}"


async def refusal(address: str, security: SecuritySettings) -> str:
    """What an administrator is told; an agent is told the same."""
    with pytest.raises(Unreachable) as caught:
        async with open_channel(address, security) as channel:
            await RemoteCoordinator(channel, address, security).fleet()
    with pytest.raises(Unreachable) as as_agent:
        async with connect(address, security):
            pass
    assert (as_agent.value.cause, as_agent.value.remedy) == (caught.value.cause, caught.value.remedy)
    return f"{caught.value.cause} ({caught.value.remedy})"


async def test_a_wrong_authority(authority: Authority, other: Authority) -> None:
    async with coordinator(authority.sign("coordinator", "server")) as address:
        told = await refusal(address, SecuritySettings(tls_ca=other.ca))
    assert f"it does not come from security.tls_ca {other.ca}" in told and "set security.tls_ca" in told


async def test_an_expired_certificate_of_the_coordinator(authority: Authority) -> None:
    async with coordinator(authority.sign("coordinator", "server", ends=PAST)) as address:
        told = await refusal(address, SecuritySettings(tls_ca=authority.ca))
    ended = (datetime.datetime.now(datetime.UTC) + PAST).strftime("%Y-%m-%d")
    assert "has expired" in told and ended in told and "renew it on the coordinator's machine" in told


async def test_a_certificate_for_another_name(authority: Authority) -> None:
    async with coordinator(authority.sign("coordinator", "server", name="shoal.example")) as address:
        told = await refusal(address, SecuritySettings(tls_ca=authority.ca))
    assert "its TLS certificate is for another name" in told


Change = Callable[[Authority, Authority], Files | None]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(lambda a, o: None, "it demands a client certificate and there is none here", id="none"),
        pytest.param(lambda a, o: o.sign("agent:x", "x"), "it refused the certificate of this side", id="other"),
        pytest.param(
            lambda a, o: a.sign("agent:x", "x", ends=PAST), "the certificate of this side has expired", id="expired"
        ),
    ],
)
async def test_a_client_certificate_that_is_refused(
    files: Change, expected: str, authority: Authority, other: Authority
) -> None:
    own = files(authority, other)
    cert, key = own or (None, None)
    async with coordinator(authority.sign("coordinator", "server"), authority.ca) as address:
        told = await refusal(address, SecuritySettings(tls_ca=authority.ca, tls_cert=cert, tls_key=key))
    assert expected in told
    assert cert is None or str(cert) in told


async def test_plain_text(authority: Authority) -> None:
    async with serving(FakeCoordinator()) as server:
        told = await refusal(server.address, SecuritySettings(tls_ca=authority.ca))
    assert "it does not speak TLS" in told


async def test_where_nothing_is_wrong_with_tls_the_error_stays(authority: Authority) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        told = await refusal(f"127.0.0.1:{nobody.getsockname()[1]}", SecuritySettings(tls_ca=authority.ca))
    assert "nothing listens there" in told
    async with coordinator(authority.sign("coordinator", "server")) as address:
        assert find_reason(address, SecuritySettings(tls_ca=authority.ca)) is None
        assert find_reason(address, SecuritySettings(tls_ca=authority.ca.with_name("missing"))) is None


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28"])
def test_a_server_that_answers_anything(answer: bytes, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        reason = find_reason(f"127.0.0.1:{server.getsockname()[1]}", SecuritySettings(tls_ca=authority.ca))
        thread.join()
    assert (reason is None) is (answer == b"")
