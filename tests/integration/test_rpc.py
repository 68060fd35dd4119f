"""The real gRPC server and clients on loopback, on top of a coordinator that answers from memory."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

from shoal.agent import link as agent_link
from shoal.agent.link import GrpcLink, connect
from shoal.client.remote import RemoteCoordinator
from shoal.common import logs
from shoal.common.channel import CLIENT_OPTIONS, MESSAGE_BYTES_MAX, open_channel
from shoal.common.errors import (
    Busy,
    Conflict,
    NotFound,
    ProtocolViolation,
    RateLimited,
    ShoalError,
    Unreachable,
    UsageError,
)
from shoal.common.records import (
    Ack,
    Acks,
    Capacity,
    Drain,
    Goodbye,
    Grants,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Layout,
    Lease,
    LeaseRef,
    ObjectSpec,
    Outcome,
    Result,
    Results,
    Revoke,
    UnitKind,
    Welcome,
)
from shoal.common.settings_table import SecuritySettings
from shoal.common.views import Control, JobStatus, JobView, ObjectStatus, ObjectView, Role, SubmitRequest
from shoal.common.wire import encode_agent_message
from shoal.coordinator import fleet_service
from shoal.coordinator.fleet_service import FleetService
from shoal.coordinator.requests import PAGE_MAX
from shoal.coordinator.server import CoordinatorServer
from shoal.v1 import fleet_service_pb2 as pb
from shoal.v1 import job_service_pb2 as jobs
from shoal.v1.fleet_service_pb2_grpc import FleetServiceStub
from shoal.v1.job_service_pb2_grpc import JobServiceStub
from support.fake_coordinator import FakeCoordinator, FakeSession, serving

HERE = SecuritySettings()
WAIT_S = 60.0  # whatever takes longer hangs
HELLO = Hello(agent_id="a1", name="n1", version="1", capacity=Capacity(slots=1, units_max=2, bytes_max=3))


@pytest.fixture
async def api() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def server(api: FakeCoordinator) -> AsyncIterator[CoordinatorServer]:
    async with serving(api) as server:
        yield server


@pytest.fixture
async def remote(server: CoordinatorServer) -> AsyncIterator[RemoteCoordinator]:
    async with open_channel(server.address, HERE) as channel:
        yield RemoteCoordinator(channel, server.address, HERE)


@pytest.fixture
async def link(server: CoordinatorServer) -> AsyncIterator[GrpcLink]:
    async with connect(server.address, HERE) as link:
        yield link


async def open_session(api: FakeCoordinator, link: GrpcLink, hello: Hello = HELLO) -> FakeSession:
    """Say Hello; on return the session is open and the Welcome read."""
    before = len(api.sessions)
    await link.send(hello)
    assert isinstance(await anext(aiter(link)), Welcome)
    assert len(api.sessions) == before + 1
    return api.sessions[-1]


def result(seq: int) -> Result:
    return Result(seq=seq, unit=f"o{seq}", token=seq, outcome=Outcome.DONE)


# ---- jobs and fleet -------------------------------------------------------------------------------------------------


async def test_submit_and_look(api: FakeCoordinator, remote: RemoteCoordinator) -> None:
    request = SubmitRequest(
        uris=("hf://a/b", "hf://c/d"), destination="/x", layout=Layout.FOLDER, priority=-3, name="n"
    )
    submitted = await remote.submit(request)
    assert api.requests == [request]
    assert [(each.job, each.created) for each in submitted] == [(api.jobs["j1"], True), (api.jobs["j2"], True)]
    assert await remote.get_job("j1") == api.get_job("j1")
    assert [job.job_id for job in await remote.list_jobs(limit=10)] == ["j2", "j1"]
    assert [job.job_id for job in await remote.list_jobs(limit=1)] == ["j2"]
    assert [job.job_id for job in await remote.list_jobs(limit=10, after="j2")] == ["j1"]
    assert await remote.list_jobs(limit=10, after="j1") == []
    assert await remote.queue() == api.queue()
    assert await remote.fleet() == api.fleet()
    assert await remote.hosts() == api.hosts()
    assert (await remote.set_host_policy("hub.example.org", 2.5, 0)).requests_per_s == 2.5
    await remote.drain_agent("n1")
    assert api.drained == ["n1"]


async def test_control(api: FakeCoordinator, remote: RemoteCoordinator) -> None:
    api.add_job("j1")
    assert (await remote.control("j1", Control.PAUSE)).paused
    assert not (await remote.control("j1", Control.RESUME)).paused
    assert (await remote.control("j1", Control.CANCEL)).status is JobStatus.CANCELLED
    with pytest.raises(Conflict, match="job j1: it is cancelled"):
        await remote.control("j1", Control.PAUSE)
    assert (await remote.control("j1", Control.RETRY)).status is JobStatus.RUNNING


async def test_watching_ends_with_the_job(api: FakeCoordinator, remote: RemoteCoordinator) -> None:
    api.add_job("j1")
    seen: list[JobView] = []
    async for view in remote.watch_job("j1"):
        seen.append(view)
        api.jobs["j1"] = replace(api.jobs["j1"], status=JobStatus.DONE)
        api.changed.set()
    assert [view.status for view in seen] == [JobStatus.RUNNING, JobStatus.DONE]
    assert api.unwatched.is_set()


async def test_a_watcher_that_goes_away_is_let_go(api: FakeCoordinator, remote: RemoteCoordinator) -> None:
    api.add_job("j1")
    watching = remote.watch_job("j1")
    await anext(watching)
    assert not api.unwatched.is_set()
    await watching.aclose()
    await asyncio.wait_for(api.unwatched.wait(), WAIT_S)


async def test_objects_come_in_pages(api: FakeCoordinator, remote: RemoteCoordinator, link: GrpcLink) -> None:
    api.add_job("j1")
    total = PAGE_MAX * 2 + 1
    status = (ObjectStatus.DONE, ObjectStatus.FAILED)
    api.objects = [
        ObjectView(object_id=i, path=f"p{i}", size=i, status=status[i % 10 == 0]) for i in range(1, total + 1)
    ]
    assert await remote.list_objects("j1", limit=total + 5) == api.objects
    assert [each.object_id for each in await remote.list_objects("j1", status="failed", limit=2)] == [10, 20]
    assert [each.object_id for each in await remote.list_objects("j1", after_id=total - 1)] == [total]
    pages = [page async for page in link.manifest_pages("j1")]
    assert [len(page) for page in pages] == [PAGE_MAX, len(api.objects) - total // 10 - PAGE_MAX]
    assert [spec.object_id for page in pages for spec in page] == [i for i in range(1, total + 1) if i % 10]
    with pytest.raises(NotFound):
        _ = [page async for page in link.manifest_pages("j2")]


async def test_errors_stay_what_they_are(api: FakeCoordinator, remote: RemoteCoordinator) -> None:
    with pytest.raises(NotFound) as caught:
        await remote.get_job("j9")
    assert vars(caught.value) == {"thing": "job j9", "cause": "there is none", "remedy": "shoal jobs lists them"}
    with pytest.raises(NotFound):
        _ = [view async for view in remote.watch_job("j9")]
    api.fail_with(RateLimited("host h", retry_after_s=3.5))
    with pytest.raises(RateLimited) as limited:
        await remote.get_job("j9")
    assert limited.value.retry_after_s == 3.5


async def test_a_defect_is_logged_and_not_shown(
    api: FakeCoordinator, remote: RemoteCoordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("warning", "console", sys.stderr)  # other tests may have left another stream
    api.fail_with(KeyError("s3cret"))
    with pytest.raises(ShoalError) as caught:
        await remote.get_job("j1")
    assert type(caught.value) is ShoalError
    assert "s3cret" not in str(caught.value)
    assert "defect" in str(caught.value)
    assert "call.failed" in capsys.readouterr().err


async def test_bad_requests_are_usage_errors(
    api: FakeCoordinator, server: CoordinatorServer, remote: RemoteCoordinator
) -> None:
    with pytest.raises(UsageError, match=r"SubmitJobRequest\.uris"):
        await remote.submit(SubmitRequest(uris=()))
    with pytest.raises(UsageError, match="cannot be sent"):
        await remote.submit(SubmitRequest(uris=("hf://a/\ud800",)))
    with pytest.raises(UsageError, match="job_id: it is empty"):
        await remote.get_job("")
    with pytest.raises(UsageError, match=r"SetHostPolicyRequest\.bytes_per_s"):
        await remote.set_host_policy("h", 1, float("nan"))
    with pytest.raises(UsageError, match=r"SetHostPolicyRequest\.host"):
        await remote.set_host_policy("", 1, 1)
    with pytest.raises(UsageError, match="token expiry"):
        await remote.create_token(Role.AGENT, "n", -1)
    api.add_job("j1")
    async with open_channel(server.address, HERE) as channel:
        stub: Any = JobServiceStub(channel)
        for request in (
            jobs.ListObjectsRequest(job_id="j1", page_size=-1),
            jobs.ListObjectsRequest(job_id="j1", page_token="x"),
            jobs.ListObjectsRequest(job_id="j1", page_token="9" * 19),
            jobs.ListObjectsRequest(job_id="j1", status=55),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListObjects(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_method_that_does_not_exist(server: CoordinatorServer) -> None:
    async with open_channel(server.address, HERE) as channel:
        call = channel.unary_unary("/shoal.v1.JobService/Explode")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_nobody_answers() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: as long as it is held, nobody else does
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with open_channel(address, HERE) as channel:
            with pytest.raises(
                Unreachable, match=rf"coordinator {address}: nothing listens there \(start it with"
            ) as caught:
                await RemoteCoordinator(channel, address, HERE).fleet()
        assert caught.value.exit_code == 4
        with pytest.raises(Unreachable, match="nothing listens there"):
            async with connect(address, HERE):
                pass
    with pytest.raises(Unreachable, match="its name is not known"):
        async with connect("no-such-host.invalid:7070", SecuritySettings(insecure=True)):
            pass


# ---- sessions -------------------------------------------------------------------------------------------------------


async def test_a_session_from_hello_to_goodbye(api: FakeCoordinator, server: CoordinatorServer) -> None:
    hello = replace(HELLO, held=(LeaseRef("o1", 2),), results=(result(1),))
    async with connect(server.address, HERE) as link:
        words = aiter(link)
        await link.send(hello)
        assert await anext(words) == Welcome(
            incarnation=7, heartbeat_s=5.0, lease_ttl_s=30.0, fenced=(LeaseRef("o1", 2),)
        )
        (session,) = api.sessions
        assert session.hello == hello
        beat, reports = Heartbeat(seq=1, held=(LeaseRef("o1", 2),)), Results((result(2),))
        await link.send(beat)
        await link.send(reports)
        await session.until_received(2)
        assert session.received == [beat, reports]
        spec = ObjectSpec(object_id=1, path="a", size=None)
        grants = Grants(leases=(Lease(unit="o1", token=5, kind=UnitKind.WHOLE, job_id="j", object=spec),))
        session.send(HeartbeatAck(1))
        session.send(grants)
        assert await anext(words) == HeartbeatAck(1)
        assert await anext(words) == grants
        session.send(Drain("tired"))
        assert await anext(words) == Drain("tired")
        await link.send(Goodbye("drained"))
        assert [word async for word in words] == []
    assert session.received[2:] == [Goodbye("drained")]
    assert api.log == ["hello n1", "heartbeat n1", "results n1", "goodbye n1"]


async def test_a_goodbye_arrives_even_if_the_link_is_closed_at_once(
    api: FakeCoordinator, server: CoordinatorServer
) -> None:
    async with connect(server.address, HERE) as link:
        session = await open_session(api, link)
        for seq in range(200):
            await link.send(Results((result(seq),)))
            session.send(Acks((Ack(seq, True),)))
        await link.send(Goodbye("bye"))
    assert api.log[-1] == "goodbye n1"
    assert len(session.received) == 201
    with pytest.raises(Unreachable):
        await link.send(Heartbeat())


async def test_a_goodbye_that_nobody_answers_is_told(
    api: FakeCoordinator, server: CoordinatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Log:
        def warning(self, event: str, **_fields: object) -> None:
            told.append(event)

    monkeypatch.setattr(agent_link, "GOODBYE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(agent_link, "log", Log())
    async with connect(server.address, HERE) as link:
        await open_session(api, link)
        await link.send(Goodbye("bye"))
    assert told == ["agent.goodbye_unanswered"]


@pytest.mark.parametrize("how", ["half-close", "cancel"])
async def test_an_end_without_goodbye_is_a_loss(how: str, api: FakeCoordinator, server: CoordinatorServer) -> None:
    async with open_channel(server.address, HERE) as channel:
        stub: Any = FleetServiceStub(channel)
        call = stub.Session()
        await call.write(pb.SessionRequest(hello=pb.Hello(agent_id="a1", name="n1", capacity={})))
        await api.opened.wait()
        if how == "half-close":
            await call.done_writing()
        else:
            call.cancel()
        await asyncio.wait_for(api.sessions[0].over.wait(), WAIT_S)
        assert api.log == ["hello n1", "lost n1"]


async def test_a_link_that_is_closed_without_goodbye_is_a_loss(api: FakeCoordinator, server: CoordinatorServer) -> None:
    async with connect(server.address, HERE) as link:
        session = await open_session(api, link)
    await asyncio.wait_for(session.over.wait(), WAIT_S)
    assert api.log == ["hello n1", "lost n1"]


KILLED = """
import asyncio, sys
from shoal.agent.link import connect
from shoal.common.records import Capacity, Hello
from shoal.common.settings_table import SecuritySettings
async def main():
    async with connect(sys.argv[1], SecuritySettings()) as link:
        await link.send(Hello(agent_id="a1", name="n1", version="1", capacity=Capacity(slots=1, units_max=1, bytes_max=1)))
        async for message in link:
            print(message, flush=True)
asyncio.run(main())
"""


async def test_a_killed_process_is_a_loss(api: FakeCoordinator, server: CoordinatorServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, server.address, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"Welcome(")
    (session,) = api.sessions
    process.kill()
    await process.communicate()
    await asyncio.wait_for(session.over.wait(), WAIT_S)
    assert api.log == ["hello n1", "lost n1"]
    session.send(HeartbeatAck(1))  # too late, and no harm


async def test_a_frozen_process_does_not_fill_the_coordinators_memory(
    api: FakeCoordinator, server: CoordinatorServer
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, server.address, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        (session,) = api.sessions
        os.kill(process.pid, signal.SIGSTOP)
        word = Drain("x" * 4000)
        for _ in range(20):
            for _ in range(fleet_service.OUTGOING_MAX):
                session.send(word)
            await asyncio.sleep(0)
        await asyncio.wait_for(session.over.wait(), WAIT_S)
        assert api.log == ["hello n1", "lost n1"]
    finally:
        process.kill()
        await process.communicate()


async def test_an_agent_that_does_not_keep_up_is_told_so(
    api: FakeCoordinator, server: CoordinatorServer, link: GrpcLink
) -> None:
    session = await open_session(api, link)
    for i in range(fleet_service.OUTGOING_MAX + 1):
        session.send(HeartbeatAck(i))
    with pytest.raises(RateLimited, match="1000 messages wait"):
        _ = [word async for word in link]
    assert api.log == ["hello n1", "lost n1"]


async def test_words_of_one_kind_travel_together_in_order(api: FakeCoordinator, link: GrpcLink) -> None:
    session = await open_session(api, link)
    spec = ObjectSpec(object_id=1, path="a", size=None)
    lease = Lease(unit="o1", token=5, kind=UnitKind.WHOLE, job_id="j", object=spec)
    for seq in range(2500):
        session.send(Acks((Ack(seq, True),)))
    session.send(Revoke((LeaseRef("o1", 1),)))
    session.send(Revoke((LeaseRef("o2", 1),)))
    session.send(Grants(leases=(lease,)))
    session.send(Grants(leases=(lease,)))
    session.send(Acks((Ack(9999, False),)))
    words = aiter(link)
    assert [len((await anext(words)).acks) for _ in range(3)] == [1000, 1000, 500]
    assert await anext(words) == Revoke((LeaseRef("o1", 1), LeaseRef("o2", 1)))
    assert await anext(words) == Grants(leases=(lease, lease))
    assert await anext(words) == Acks((Ack(9999, False),))


async def test_the_coordinator_ends_a_session(api: FakeCoordinator, link: GrpcLink) -> None:
    session = await open_session(api, link)
    session.close("the state folder is full")
    with pytest.raises(Busy, match="session of agent n1: the state folder is full") as caught:
        _ = [word async for word in link]
    assert caught.value.retryable
    with pytest.raises(Busy):
        _ = [word async for word in link]
    with pytest.raises(Busy):
        await link.send(Heartbeat())
    assert api.log == ["hello n1", "lost n1"]


async def test_a_newer_session_of_the_same_agent_ends_the_older(
    api: FakeCoordinator, server: CoordinatorServer, link: GrpcLink
) -> None:
    await open_session(api, link)
    async with connect(server.address, HERE) as newer:
        session = await open_session(api, newer, replace(HELLO, name="n1 again"))
        assert api.log == ["hello n1", "lost n1", "hello n1 again"]  # in this order: the older is lost before
        with pytest.raises(Conflict, match="a newer session of the same agent") as caught:
            _ = [word async for word in link]
        assert not caught.value.retryable  # two agents with one identity must not push each other out for ever
        await newer.send(Heartbeat())
        await session.until_received(1)
        await newer.send(Goodbye())
    assert api.log[-1] == "goodbye n1 again"


@pytest.mark.parametrize(
    ("first", "cause"),
    [
        (pb.SessionRequest(heartbeat=pb.Heartbeat()), "not Hello"),
        (pb.SessionRequest(), "it is empty"),
        (pb.SessionRequest(hello=pb.Hello(agent_id="a1", name="n1")), "Hello.capacity"),
        (None, "ended before its Hello"),
    ],
)
async def test_a_session_begins_with_hello(
    first: pb.SessionRequest | None, cause: str, api: FakeCoordinator, server: CoordinatorServer
) -> None:
    async with open_channel(server.address, HERE) as channel:
        stub: Any = FleetServiceStub(channel)
        call = stub.Session()
        if first is not None:
            await call.write(first)
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match=cause) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert api.log == []


async def test_silence_instead_of_hello_is_not_waited_for(
    api: FakeCoordinator, server: CoordinatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_service, "HELLO_TIMEOUT_S", 0.0)
    async with connect(server.address, HERE) as link:
        with pytest.raises(ProtocolViolation, match="no Hello within"):
            _ = [word async for word in link]


async def test_a_second_hello_breaks_the_session(api: FakeCoordinator, link: GrpcLink) -> None:
    await open_session(api, link)
    await link.send(HELLO)
    with pytest.raises(ProtocolViolation, match="a second Hello"):
        _ = [word async for word in link]
    assert api.log == ["hello n1", "lost n1"]


async def test_nonsense_in_a_session_breaks_that_session_only(
    api: FakeCoordinator, server: CoordinatorServer, link: GrpcLink
) -> None:
    session = await open_session(api, link)
    async with open_channel(server.address, HERE) as channel:
        stub: Any = FleetServiceStub(channel)
        call = stub.Session()
        await call.write(pb.SessionRequest(hello=pb.Hello(agent_id="a2", name="n2", capacity={})))
        await call.write(pb.SessionRequest(results=pb.Results(results=[{"seq": 1, "unit": "o1", "outcome": 99}])))
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError, match=r"Result\.outcome: 99 is not known"):
            await call.read()
    await link.send(Heartbeat())
    await session.until_received(1)
    assert api.log == ["hello n1", "hello n2", "lost n2", "heartbeat n1"]


async def test_messages_as_large_as_the_limit_pass_and_larger_ones_do_not(
    api: FakeCoordinator, server: CoordinatorServer
) -> None:
    big = tuple(replace(result(seq), etag="e" * 1000) for seq in range(15_000))
    async with connect(server.address, HERE) as link:
        session = await open_session(api, link)
        await link.send(Results(big))
        await session.until_received(1)
        assert session.received == [Results(big)]
    # A client without a limit of its own.
    options = [(key, -1 if "message_length" in key else value) for key, value in CLIENT_OPTIONS]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        stub: Any = FleetServiceStub(channel)
        call = stub.Session()
        await call.write(pb.SessionRequest(hello=pb.Hello(agent_id="a2", name="n2", capacity={})))
        await call.read()
        await call.write(pb.SessionRequest(goodbye=pb.Goodbye(reason="x" * (MESSAGE_BYTES_MAX + 1))))
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    await asyncio.wait_for(api.sessions[1].over.wait(), WAIT_S)
    assert "goodbye n2" not in api.log
    assert "lost n2" in api.log


# ---- stopping -------------------------------------------------------------------------------------------------------


async def test_stopping_tells_agents_to_come_back(api: FakeCoordinator) -> None:
    async with serving(api) as server, connect(server.address, HERE) as link:
        session = await open_session(api, link)
        session.send(Acks((Ack(1, True),)))
        stopping = asyncio.ensure_future(server.stop(60))
        words = aiter(link)
        assert await anext(words) == Acks((Ack(1, True),))  # what waited is sent first
        assert await anext(words) == Drain("the coordinator stops", reconnect=True)
        with pytest.raises(Busy, match="the coordinator stops") as caught:
            await anext(words)
        assert caught.value.retryable
        await asyncio.wait_for(stopping, WAIT_S)
    assert api.log == ["hello n1", "lost n1"]  # no Goodbye: it keeps what it holds


async def test_no_session_begins_while_stopping(api: FakeCoordinator) -> None:
    service = FleetService(api)
    await service.drain("the coordinator stops")

    async def requests() -> AsyncIterator[pb.SessionRequest]:
        yield encode_agent_message(HELLO)

    class Context:
        async def send_initial_metadata(self, metadata: object) -> None: ...

    with pytest.raises(Busy, match="it is stopping"):
        await service.Session(requests(), Context())
    assert api.log == []


async def test_stopping_cuts_off_who_does_not_leave(api: FakeCoordinator) -> None:
    api.add_job("j1")
    async with serving(api) as server, open_channel(server.address, HERE) as channel:
        watching = RemoteCoordinator(channel, server.address, HERE).watch_job("j1")
        await anext(watching)
        await asyncio.wait_for(server.stop(0.05), WAIT_S)
        with pytest.raises(Unreachable):
            _ = [view async for view in watching]
        await asyncio.wait_for(api.unwatched.wait(), WAIT_S)


async def test_two_coordinators_do_not_share_a_port(api: FakeCoordinator, server: CoordinatorServer) -> None:
    with pytest.raises(UsageError, match=rf"coordinator.listen {server.address}: .*already in use"):
        async with serving(FakeCoordinator(), listen=server.address):
            pass
    with pytest.raises(UsageError, match=r"192\.0\.2\.1:0: it cannot be listened on: Cannot assign"):
        async with serving(FakeCoordinator(), listen="192.0.2.1:0", security=SecuritySettings(insecure=True)):
            pass
