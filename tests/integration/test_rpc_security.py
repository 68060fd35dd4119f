"""TLS, tokens and client certificates on the real server, on an address that other machines could reach."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest

from shoal.agent.link import connect
from shoal.client.remote import RemoteCoordinator
from shoal.common.channel import call_error, call_metadata, open_channel
from shoal.common.errors import AccessDenied, Unauthenticated, Unreachable, UsageError
from shoal.common.records import Capacity, Hello, Welcome
from shoal.common.secrets import Secret, SecretRef
from shoal.common.settings_table import SecuritySettings
from shoal.common.views import Role
from shoal.common.wire import encode_agent_message
from shoal.coordinator.server import CoordinatorServer
from shoal.v1.fleet_service_pb2 import SessionResponse
from shoal.v1.fleet_service_pb2_grpc import FleetServiceStub
from support.fake_coordinator import FakeCoordinator, serving
from support.fleet_certificates import Authority

ANYWHERE = "0.0.0.0:0"
HELLO = Hello(agent_id="a1", name="n1", version="1", capacity=Capacity(slots=1, units_max=2, bytes_max=3))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls", now=datetime.datetime.now(datetime.UTC))


@pytest.fixture
def served(authority: Authority) -> SecuritySettings:
    cert, key = authority.sign("coordinator", "server")
    return SecuritySettings(tls_cert=cert, tls_key=key)


@pytest.fixture
async def api() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def server(api: FakeCoordinator, served: SecuritySettings) -> AsyncIterator[CoordinatorServer]:
    async with serving(api, listen=ANYWHERE, security=served) as server:
        yield server


def at(server: CoordinatorServer) -> str:
    return f"127.0.0.1:{server.port}"


def client(authority: Authority, token: str = "", **more: object) -> SecuritySettings:
    ref = SecretRef(name="security.token", value=Secret(token) if token else None)
    return SecuritySettings(tls_ca=authority.ca, token=ref, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def remote(server: CoordinatorServer, security: SecuritySettings) -> AsyncIterator[RemoteCoordinator]:
    async with open_channel(at(server), security) as channel:
        yield RemoteCoordinator(channel, at(server), security)


async def test_an_admin_token_opens_what_an_admin_may(
    api: FakeCoordinator, server: CoordinatorServer, authority: Authority
) -> None:
    token = (await api.create_token(Role.ADMIN, "alice", None)).token.reveal()
    async with remote(server, client(authority, token)) as shoal:
        assert (await shoal.fleet()).incarnation == 7
        made = await shoal.create_token(Role.AGENT, "node7", 60)
        assert sorted(view.name for view in await shoal.list_tokens()) == ["alice", "node7"]
        assert api.tokens.check(made.token.reveal()) == made.view
        await shoal.revoke_token(made.view.token_id)
        assert [view.name for view in await shoal.list_tokens()] == ["alice"]
    with pytest.raises(AccessDenied, match="'alice' has the role admin; the call needs agent"):
        async with connect(at(server), client(authority, token)):
            pass


async def test_an_agent_token_opens_a_session_and_nothing_else(
    api: FakeCoordinator, server: CoordinatorServer, authority: Authority
) -> None:
    security = client(authority, (await api.create_token(Role.AGENT, "node7", None)).token.reveal())
    async with connect(at(server), security) as link:
        await link.send(HELLO)
        assert isinstance(await anext(aiter(link)), Welcome)
        api.add_job("j1")
        assert [page async for page in link.manifest_pages("j1")] == []
    async with remote(server, security) as shoal:
        with pytest.raises(AccessDenied, match="'node7' has the role agent; the call needs admin"):
            await shoal.fleet()


@pytest.mark.parametrize("token", ["", "nonsense", f"shoal_admin_{'0' * 12}_{'0' * 64}"])
async def test_no_token_or_a_wrong_one_opens_nothing(
    token: str, server: CoordinatorServer, authority: Authority
) -> None:
    async with remote(server, client(authority, token)) as shoal:
        with pytest.raises(Unauthenticated, match="shoal token create") as caught:
            await shoal.fleet()
        assert caught.value.exit_code == 3
        with pytest.raises(Unauthenticated):
            _ = [view async for view in shoal.watch_job("j1")]
    with pytest.raises(Unauthenticated):
        async with connect(at(server), client(authority, token)):
            pass


async def test_an_expired_or_revoked_token_opens_nothing(
    api: FakeCoordinator, server: CoordinatorServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await api.create_token(Role.ADMIN, "alice", 60)
    async with remote(server, client(authority, made.token.reveal())) as shoal:
        assert await shoal.fleet()
        now = api.now
        api.now += 60
        with pytest.raises(Unauthenticated, match=f"token {made.view.token_id}: it has expired"):
            await shoal.fleet()
        api.now = now
        assert await shoal.fleet()
        await api.revoke_token(made.view.token_id)
        with pytest.raises(Unauthenticated, match="revoked"):
            await shoal.fleet()


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_open_streams_end_when_their_token_does(
    how: str, api: FakeCoordinator, server: CoordinatorServer, authority: Authority
) -> None:
    agent = await api.create_token(Role.AGENT, "node7", 60)
    admin = await api.create_token(Role.ADMIN, "alice", 60)
    other = await api.create_token(Role.AGENT, "node8", None)
    api.add_job("j1")
    async with (
        connect(at(server), client(authority, agent.token.reveal())) as link,
        connect(at(server), client(authority, other.token.reveal())) as unharmed,
        remote(server, client(authority, admin.token.reveal())) as shoal,
    ):
        await link.send(HELLO)
        words = aiter(link)
        await anext(words)
        watching = shoal.watch_job("j1")
        await anext(watching)
        server.recheck_credentials()
        if how == "revoked":
            await api.revoke_token(agent.view.token_id)
            await api.revoke_token(admin.view.token_id)  # which ends them at once
            why = "was revoked"
        else:
            api.now += 60
            server.recheck_credentials()
            server.recheck_credentials()
            why = "has expired"
        with pytest.raises(Unauthenticated, match=f"'node7' {why}"):
            await anext(words)
        with pytest.raises(Unauthenticated, match=f"'alice' {why}"):
            await anext(watching)
        assert api.log == ["hello n1", "lost n1"]
        await unharmed.send(HELLO)
        assert isinstance(await anext(aiter(unharmed)), Welcome)


async def test_credentials_are_checked_again_by_themselves(
    api: FakeCoordinator, served: SecuritySettings, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.coordinator.calls.RECHECK_S", 0.0)
    made = await api.create_token(Role.AGENT, "node7", None)
    async with (
        serving(api, listen=ANYWHERE, security=served) as server,
        connect(at(server), client(authority, made.token.reveal())) as link,
    ):
        await link.send(HELLO)
        await api.opened.wait()
        await api.revoke_token(made.view.token_id)
        with pytest.raises(Unauthenticated):
            _ = [word async for word in link]


# ---- TLS ------------------------------------------------------------------------------------------------------------


async def test_a_client_does_not_speak_to_a_stranger(server: CoordinatorServer, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "other", now=datetime.datetime.now(datetime.UTC), name="stranger")
    with pytest.raises(Unreachable, match=r"its TLS certificate is not trusted: .*set security\.tls_ca"):
        async with connect(at(server), client(stranger, "token")):
            pass


async def test_plain_text_and_tls_do_not_understand_each_other(
    api: FakeCoordinator, server: CoordinatorServer, authority: Authority
) -> None:
    async with remote(server, SecuritySettings()) as shoal:
        with pytest.raises(Unreachable, match="the connection broke"):
            await shoal.fleet()
    async with serving(api) as plain, remote(plain, client(authority)) as shoal:
        with pytest.raises(Unreachable, match="it does not speak TLS"):
            await shoal.fleet()


async def test_client_certificates_open_by_common_name(
    api: FakeCoordinator, served: SecuritySettings, authority: Authority, tmp_path: Path
) -> None:
    mutual = SecuritySettings(tls_cert=served.tls_cert, tls_key=served.tls_key, client_ca=authority.ca)

    def using(signer: Authority, common_name: str) -> SecuritySettings:
        cert, key = signer.sign(common_name, "client")
        return client(authority, tls_cert=cert, tls_key=key)

    async with serving(api, listen=ANYWHERE, security=mutual) as server:
        async with remote(server, using(authority, "admin:alice")) as shoal:
            assert await shoal.fleet()
        async with connect(at(server), using(authority, "agent:node7")) as link:
            await link.send(HELLO)
            assert isinstance(await anext(aiter(link)), Welcome)
        async with remote(server, using(authority, "agent:node7")) as shoal:
            with pytest.raises(AccessDenied, match="'agent:node7' has the role agent"):
                await shoal.fleet()
        async with remote(server, using(authority, "alice")) as shoal:
            with pytest.raises(Unauthenticated, match="common name 'alice'"):
                await shoal.fleet()
        stranger = Authority(tmp_path / "other", now=datetime.datetime.now(datetime.UTC), name="stranger")
        for security in (client(authority), using(stranger, "admin:alice")):
            async with remote(server, security) as shoal:
                with pytest.raises(Unreachable):
                    await shoal.fleet()


async def test_a_renewed_certificate_is_taken_without_a_restart(
    server: CoordinatorServer, served: SecuritySettings, authority: Authority
) -> None:
    def served_serial() -> str:
        context = ssl.create_default_context(cafile=authority.ca)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname="localhost") as tls,
        ):
            return str((tls.getpeercert() or {})["serialNumber"])

    async def serial() -> str:
        return await asyncio.to_thread(served_serial)

    first = await serial()
    assert await serial() == first
    assert served.tls_cert is not None
    assert served.tls_key is not None
    whole = served.tls_cert.read_bytes()
    served.tls_cert.write_bytes(whole[:100])  # half written: the old one stays
    assert await serial() == first
    cert, _key = authority.sign("coordinator", "renewed")
    os.replace(cert, served.tls_cert)  # the certificate is there, its key not yet
    assert await serial() == first
    os.replace(cert.with_suffix(".key"), served.tls_key)
    assert await serial() != first


async def test_certificates_that_cannot_be_used_are_named(
    authority: Authority, served: SecuritySettings, tmp_path: Path
) -> None:
    _cert, other_key = authority.sign("other", "other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for security, message in [
        (
            SecuritySettings(tls_cert=tmp_path / "none", tls_key=served.tls_key),
            "security.tls_cert .*none: .*No such file",
        ),
        (SecuritySettings(tls_cert=served.tls_cert, tls_key=other_key), "security.tls_cert .*KEY_VALUES_MISMATCH"),
        (SecuritySettings(tls_cert=nonsense, tls_key=served.tls_key), "security.tls_cert .*nonsense"),
        (
            SecuritySettings(tls_cert=served.tls_cert, tls_key=served.tls_key, client_ca=tmp_path / "none"),
            "security.client_ca",
        ),
    ]:
        with pytest.raises(UsageError, match=message):
            async with serving(FakeCoordinator(), listen=ANYWHERE, security=security):
                pass
    with pytest.raises(UsageError, match=r"security\.tls_ca .*nowhere"):
        open_channel("127.0.0.1:1", SecuritySettings(tls_ca=tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="one is set without the other"):
        open_channel("127.0.0.1:1", SecuritySettings(tls_cert=served.tls_cert))


async def test_beyond_loopback_only_with_credentials_or_a_loud_word() -> None:
    with pytest.raises(UsageError, match="needs TLS and credentials"):
        CoordinatorServer(
            FakeCoordinator(), listen=ANYWHERE, security=SecuritySettings(), tokens=FakeCoordinator().tokens
        )
    insecure = SecuritySettings(insecure=True)
    async with (
        serving(FakeCoordinator(), listen=ANYWHERE, security=insecure) as server,
        remote(server, insecure) as shoal,
    ):
        assert await shoal.fleet()


# ---- whose a session is ----------------------------------------------------------------------------------------------


async def said(server: CoordinatorServer, security: SecuritySettings, hello: Hello) -> SessionResponse | None:
    """What a stranger gets who sends exactly these bytes, whatever challenge the session has."""
    async with open_channel(at(server), security) as channel:
        call = FleetServiceStub(channel).Session(metadata=call_metadata(security))
        try:
            await call.write(encode_agent_message(hello))
            answer = await call.read()
            return None if answer is grpc.aio.EOF else answer
        except grpc.aio.AioRpcError as error:
            raise call_error(error, at(server)) from None
        finally:
            call.cancel()


async def test_a_replayed_hello_is_refused(
    api: FakeCoordinator, server: CoordinatorServer, authority: Authority
) -> None:
    security = client(authority, (await api.create_token(Role.AGENT, "node7", None)).token.reveal())
    async with connect(at(server), security) as link:
        await link.send(HELLO)
        assert isinstance(await anext(aiter(link)), Welcome)
        overheard = replace(HELLO, challenge=link._challenge)  # the very bytes that were sent
        with pytest.raises(AccessDenied, match=r"hello of agent n1: .* it was replayed"):
            await said(server, security, overheard)
        with pytest.raises(AccessDenied, match="it answers no challenge"):
            await said(server, security, HELLO)
        assert api.log == ["hello n1"]  # and the session that it was taken from goes on
        assert api.sessions[0].hello == HELLO


async def test_a_hello_with_the_identity_of_another_credentials_agent_is_refused(
    api: FakeCoordinator, server: CoordinatorServer, authority: Authority
) -> None:
    mine = await api.create_token(Role.AGENT, "node7", None)
    other = await api.create_token(Role.AGENT, "node8", None)
    renewed = await api.tokens.rotate(mine.view.token_id, grace_s=60)
    async with connect(at(server), client(authority, mine.token.reveal())) as link:
        await link.send(HELLO)
        assert isinstance(await anext(aiter(link)), Welcome)
        async with connect(at(server), client(authority, other.token.reveal())) as thief:
            await thief.send(HELLO)
            with pytest.raises(
                AccessDenied, match="its identity belongs to the credential 'node7'; this one is 'node8'"
            ):
                await anext(aiter(thief))
        assert api.log == ["hello n1"]
        async with connect(at(server), client(authority, renewed.token.reveal())) as successor:
            await successor.send(HELLO)
            assert isinstance(await anext(aiter(successor)), Welcome)
        assert api.log[:2] == ["hello n1", "lost n1"]


async def test_on_loopback_a_hello_made_by_hand_needs_no_challenge_but_a_replayed_one_is_refused(
    api: FakeCoordinator,
) -> None:
    open_door = SecuritySettings()
    async with serving(api) as server:
        assert (await said(server, open_door, HELLO)) is not None
        with pytest.raises(AccessDenied, match="it was replayed"):
            await said(server, open_door, replace(HELLO, challenge="0" * 32))
