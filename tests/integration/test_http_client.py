"""The HTTP client against small raw servers (on both event loops) and against nginx."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import ipaddress
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from shoal.common.errors import (
    ConnectFailed,
    ProtocolViolation,
    RedirectRefused,
    Refused,
    ShoalError,
    TimedOut,
    TlsFailed,
    Truncated,
    UsageError,
)
from shoal.common.http import HttpClient, HttpLimits, TlsOptions
from shoal.common.secrets import Secret
from support.nginx import nginx as running_nginx

BODY = random.Random(7).randbytes(3_000_000)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SILENCE_S = (
    1.0  # a timeout that a test lets run out in one step only: no other step may take so long, on a busy machine either
)


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on asyncio's loop and on uvloop's: their transports differ in what our protocol sees."""

    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **arguments: object) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**arguments))  # type: ignore[arg-type]

    parameters = inspect.signature(test).parameters.values()
    extra = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*parameters, extra])  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    connection: int
    reader: asyncio.StreamReader

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


Answer = Callable[
    [Request, asyncio.StreamWriter], Awaitable[bool | None]
]  # True: keep the connection for another request


@dataclass
class Server:
    """A raw server: keeps what it was asked; ``answer`` writes whatever bytes a test wants."""

    answer: Answer
    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list[Request])
    connections: int = 0
    open: int = 0

    def url(self, path: str = "/") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while True:
                raw = await reader.readuntil(b"\r\n\r\n")
                line, *lines = raw.decode("latin-1").split("\r\n")[:-2]
                headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in lines)}
                self.requests.append(Request(line, headers, number, reader))
                if not await self.answer(self.requests[-1], writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


@asynccontextmanager
async def serving(
    answer: Answer | bytes, *, tls: ssl.SSLContext | None = None, keep: bool = True
) -> AsyncIterator[Server]:
    async def fixed(request: Request, writer: asyncio.StreamWriter) -> bool:
        assert isinstance(answer, bytes)
        writer.write(answer)
        return keep

    server = Server(fixed if isinstance(answer, bytes) else answer, scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(server.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def client(**options: object) -> HttpClient:
    limits = {name: options.pop(name) for name in list(options) if name in HttpLimits.__dataclass_fields__}
    return HttpClient(
        limits=HttpLimits(**{"connections_per_host": 4, "read_timeout_s": 20.0, **limits}),  # type: ignore[arg-type]
        user_agent="test/1",
        **options,  # type: ignore[arg-type]
    )


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def silence(request: Request, writer: asyncio.StreamWriter) -> None:
    """No answer, until the client goes away."""
    await request.reader.read()


def answering(text: bytes, *, then_close: bool = True) -> Answer:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(text)
        return not then_close

    return answer


async def ranged(request: Request, writer: asyncio.StreamWriter) -> bool:
    """A well-behaved origin of BODY."""
    if "range" not in request.headers:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        return True
    first, last = (int(part) for part in request.headers["range"].removeprefix("bytes=").split("-"))
    part = BODY[first : last + 1]
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Length: {len(part)}\r\n"
    head += f"Content-Range: bytes {first}-{first + len(part) - 1}/{len(BODY)}\r\n\r\n"
    writer.write(head.encode() + part)
    return True


async def read_all(response, step: int = 100_003) -> bytes:
    buffer, found = memoryview(bytearray(step)), bytearray()
    while count := await response.read_into(buffer):
        found += buffer[:count]
    return bytes(found)


# -- requests, ranges, framing


@both_loops
async def test_a_request_and_its_answer():
    async with serving(OK) as server, client() as http:
        async with await http.request(
            server.url("/a%2Fb?sig=x%3D#frag"), authorization=Secret("Bearer t"), headers=[("X-Y", "z")]
        ) as answer:
            assert (answer.status, answer.reason, answer.body_length, answer.url) == (
                200,
                "OK",
                2,
                server.url("/a%2Fb?sig=x%3D"),
            )
            assert await answer.read(100) == b"ok"
        request = server.requests[0]
        assert request.line == "GET /a%2Fb?sig=x%3D HTTP/1.1"
        assert request.headers == {
            "host": f"127.0.0.1:{server.port}",
            "user-agent": "test/1",
            "accept": "*/*",
            "accept-encoding": "identity",
            "x-y": "z",
            "authorization": "Bearer t",
        }


@pytest.mark.parametrize("step", [1 << 20, 65_536, 99_991])
@both_loops
async def test_ranges_over_one_kept_connection(step: int):
    async with serving(ranged) as server, client(connections_per_host=1) as http:
        found = bytearray()
        for start in range(0, len(BODY), 1_000_000):
            async with await http.request(server.url(), byte_range=(start, 1_000_000), if_range='"v1"') as answer:
                assert answer.status == 206 and answer.content_range is not None
                assert (answer.content_range.start, answer.content_range.total) == (start, len(BODY))
                found += await read_all(answer, step)
                assert await answer.read_into(memoryview(bytearray(1))) == 0
                assert answer.received_bytes == 1_000_000
        assert found == BODY
        assert server.connections == 1
        assert server.requests[1].headers["range"] == "bytes=1000000-1999999"
        assert server.requests[1].headers["if-range"] == '"v1"'


@both_loops
async def test_the_last_range_may_be_shorter_and_a_server_may_ignore_ranges():
    async with serving(ranged) as server, client() as http:
        answer = await http.request(server.url(), byte_range=(len(BODY) - 10, 1000))
        assert await answer.read(1000) == BODY[-10:]
    async with serving(OK) as server, client() as http, await http.request(server.url(), byte_range=(1, 1)) as answer:
        assert answer.status == 200 and answer.content_range is None


@pytest.mark.parametrize(
    ("content_range", "length"),
    [
        ("bytes 0-9/100", 10),
        ("bytes 5-99/100", 95),
        ("bytes 5-14/100", 9),
        ("bytes 5-14/100", 11),
        ("", 10),
        ("bytes */100", 10),
        ("bytes 14-5/100", 10),
    ],
)
@both_loops
async def test_lying_ranges(content_range: str, length: int):
    text = (
        f"HTTP/1.1 206 Partial\r\nContent-Range: {content_range}\r\nContent-Length: {length}\r\n\r\n".encode()
        + b"x" * length
    )
    async with serving(text) as server, client() as http:
        with pytest.raises(ProtocolViolation):
            await http.request(server.url(), byte_range=(5, 10))
        await until(lambda: server.open == 0)


@pytest.mark.parametrize(("size", "error"), [(9, Truncated), (11, ProtocolViolation), (10, None)])
@both_loops
async def test_a_range_in_chunks_is_held_to_its_content_range(size: int, error: type[ShoalError] | None):
    text = (
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-14/100\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (size, b"x" * size)
    )
    async with serving(text) as server, client() as http:
        answer = await http.request(server.url(), byte_range=(5, 10))
        if error is None:
            assert await read_all(answer) == b"x" * 10
        else:
            with pytest.raises(error):
                await read_all(answer)


@both_loops
async def test_a_part_that_nobody_asked_for():
    async with (
        serving(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 2\r\n\r\nok") as server,
        client() as http,
    ):
        with pytest.raises(ProtocolViolation):
            await http.request(server.url())


def chunked(data: bytes, size: int) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX-Trailer: 1\r\n\r\n"


@pytest.mark.parametrize("size", [7, 5000, 16_384, 70_000, 3_000_000])
@pytest.mark.parametrize("step", [1000, 1 << 20])
@both_loops
async def test_chunked_bodies(size: int, step: int):
    data = BODY if size >= 5000 else BODY[:20_000]
    async with (
        serving(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(data, size)) as server,
        client() as http,
    ):
        for _ in range(2):
            async with await http.request(server.url()) as answer:
                assert answer.body_length is None
                assert await read_all(answer, step) == data
        assert server.connections == 1


@both_loops
async def test_an_answer_that_arrives_byte_by_byte():
    async def drip(request: Request, writer: asyncio.StreamWriter) -> bool:
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(
            b"hello world", 4
        ):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        return True

    async with serving(drip) as server, client() as http:
        for _ in range(2):
            assert await (await http.request(server.url())).read(100) == b"hello world"
        assert server.connections == 1


@both_loops
async def test_a_body_that_ends_with_the_connection():
    async with serving(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, keep=False) as server, client() as http:
        for _ in range(2):
            answer = await http.request(server.url())
            assert answer.body_length is None
            assert await answer.read(len(BODY)) == BODY
        assert server.connections == 2


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "200 OK\r\nContent-Length: 0"])
@both_loops
async def test_answers_without_a_body_free_the_connection_at_once(status: str):
    async with serving(f"HTTP/1.1 {status}\r\n\r\n".encode()) as server, client(connections_per_host=1) as http:
        for _ in range(3):
            answer = await http.request(server.url())
            assert await answer.read(0) == b""
        assert server.connections == 1


@both_loops
async def test_head_has_no_body_whatever_its_length_says():
    text = b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-9/100\r\nContent-Length: 10\r\n\r\n"
    async with serving(text) as server, client(connections_per_host=1) as http:
        for _ in range(2):
            answer = await http.request(server.url(), method="HEAD", byte_range=(0, 10))
            assert (answer.body_length, answer.headers.get("content-length")) == (0, "10")
        assert server.connections == 1 and server.requests[0].line.startswith("HEAD ")


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n",
    ],
)
@both_loops
async def test_bodies_cut_short(text: bytes):
    async with serving(text, keep=False) as server, client() as http:
        answer = await http.request(server.url())
        with pytest.raises(Truncated):
            await read_all(answer)
        assert answer.received_bytes == 5
        with pytest.raises(Truncated):
            await answer.read_into(memoryview(bytearray(1)))
        await until(lambda: http.open_connections == 0)


@both_loops
async def test_a_connection_that_is_reset_mid_body():
    async def reset(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + BODY[:1_000_000])
        await writer.drain()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with serving(reset) as server, client() as http:
        answer = await http.request(server.url())
        with pytest.raises(Truncated):
            await read_all(answer)


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
    ],
)
@both_loops
async def test_hostile_heads(text: bytes):
    async with serving(text) as server, client() as http:
        with pytest.raises(ProtocolViolation, match=str(server.port)):
            await http.request(server.url("/x?secret"))
        await until(lambda: server.open == 0 and http.open_connections == 0)


@both_loops
async def test_a_head_just_below_the_limit():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: "
    head += b"x" * (65536 - len(head) - 4) + b"\r\n\r\n"
    async with serving(head + b"ok") as server, client() as http:
        assert await (await http.request(server.url())).read(2) == b"ok"
        assert len(server.requests) == 1


@both_loops
async def test_a_coded_body_is_refused_unless_it_was_asked_for():
    text = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nzz"
    async with serving(text) as server, client() as http:
        answer = await http.request(server.url())
        with pytest.raises(ProtocolViolation, match="gzip"):
            await answer.read(10)
        answer = await http.request(server.url(), headers=[("Accept-Encoding", "gzip")])
        assert await answer.read(10) == b"zz"
        assert server.requests[1].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    "text",
    [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nok"],
)
@both_loops
async def test_the_limit_of_read(text: bytes):
    async with serving(text, keep=False) as server, client() as http:
        with pytest.raises(ProtocolViolation, match="larger than 1 bytes"):
            await (await http.request(server.url())).read(1)
        assert await (await http.request(server.url())).read(2) == b"ok"


@both_loops
async def test_requests_that_must_not_be_sent():
    async with serving(OK) as server, client() as http, client(https_only=lambda: True) as strict:
        with pytest.raises(Refused):
            await http.request(server.url("/\r\nX: y"))
        with pytest.raises(Refused):
            await http.request(server.url(), headers=[("X", "a\r\nY: b")])
        with pytest.raises(Refused) as caught:
            await http.request(server.url(), authorization="Bearer hunter2\r\nX: y")
        assert "hunter2" not in str(caught.value)
        for name in ("Host", "content-length", "Transfer-Encoding", "Range", "Authorization", "Connection"):
            with pytest.raises(Refused):
                await http.request(server.url(), headers=[(name, "x")])
        with pytest.raises(ValueError):
            await http.request(server.url(), method="POST")
        for start, length in ((-1, 5), (0, 0), (5, -1)):
            with pytest.raises(ValueError):
                await http.request(server.url(), byte_range=(start, length))
        with pytest.raises(Refused, match="https_only"):
            await strict.request(server.url())
        assert server.connections == 0


# -- the pool


@both_loops
async def test_a_body_left_unread_costs_the_connection_and_one_read_keeps_it():
    async with serving(ranged) as server, client(connections_per_host=1) as http:
        async with await http.request(server.url()) as answer:
            await answer.read_into(memoryview(bytearray(10)))
        async with await http.request(server.url(), byte_range=(0, 10)) as answer:
            assert await answer.read(10) == BODY[:10]
        assert server.connections == 2
        await (await http.request(server.url(), byte_range=(0, 10))).read(10)
        assert server.connections == 2


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK\r\nConnection: close", b"HTTP/1.0 200 OK"])
@both_loops
async def test_connections_that_the_server_will_close_are_not_kept(line: bytes):
    async with serving(line + b"\r\nContent-Length: 2\r\n\r\nok") as server, client() as http:
        for _ in range(2):
            await (await http.request(server.url())).read(2)
        assert server.connections == 2
        await until(lambda: http.open_connections == 0)


@both_loops
async def test_the_last_used_connection_is_taken_first():
    async with serving(OK) as server, client() as http:
        first, second = [await http.request(server.url()) for _ in range(2)]
        await first.read(2)
        await second.read(2)
        await (await http.request(server.url())).read(2)
        assert [request.connection for request in server.requests] == [1, 2, 2]


@both_loops
async def test_a_kept_connection_that_died_is_replaced_once():
    async def dies_at_the_second(request: Request, writer: asyncio.StreamWriter) -> bool:
        if sum(r.connection == request.connection for r in server.requests) == 2:
            return False
        writer.write(OK)
        return True

    async with serving(dies_at_the_second) as server, client(connections_per_host=1) as http:
        for _ in range(3):
            assert await (await http.request(server.url())).read(2) == b"ok"
        assert [request.connection for request in server.requests] == [1, 1, 2, 2, 3]


@both_loops
async def test_a_fresh_connection_without_an_answer_is_an_error():
    async with serving(b"", keep=False) as server, client() as http:
        with pytest.raises(ConnectFailed, match="without an answer"):
            await http.request(server.url())
        assert server.connections == 1


@both_loops
async def test_half_a_head_is_not_asked_for_again():
    async def half(request: Request, writer: asyncio.StreamWriter) -> bool:
        if len(server.requests) == 2:
            writer.write(OK[:10])
            return False
        writer.write(OK)
        return True

    async with serving(half) as server, client() as http:
        await (await http.request(server.url())).read(2)
        with pytest.raises(Truncated):
            await http.request(server.url())
        assert len(server.requests) == 2


@both_loops
async def test_bytes_that_nobody_asked_for_close_the_connection():
    async with (
        serving(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil") as server,
        client(connections_per_host=1) as http,
    ):
        for _ in range(3):
            assert await (await http.request(server.url())).read(10) == b"ok"
        assert server.connections == 3


@both_loops
async def test_an_answer_before_its_request_is_not_taken_for_the_answer():
    async def early(request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK)
        await gate.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        return True

    gate = asyncio.Event()
    async with serving(early) as server, client(connections_per_host=1) as http:
        assert await (await http.request(server.url())).read(10) == b"ok"
        assert http.open_connections == 1
        gate.set()
        await until(lambda: http.open_connections == 0)
        assert await (await http.request(server.url())).read(10) == b"ok"


@both_loops
async def test_idle_connections_grow_old():
    async with serving(OK) as server, client(idle_s=SILENCE_S / 2) as http:
        await (await http.request(server.url())).read(2)
        assert http.open_connections == 1
        await until(lambda: http.open_connections == 0 and server.open == 0)
        assert await (await http.request(server.url())).read(2) == b"ok"


@both_loops
async def test_connections_are_bounded_and_the_queue_is_fair():
    gate = asyncio.Event()

    async def wait(request: Request, writer: asyncio.StreamWriter) -> bool:
        await gate.wait()
        writer.write(OK)
        return True

    finished: list[int] = []

    async def one(http: HttpClient, number: int) -> None:
        await (await http.request(server.url(f"/{number}"))).read(2)
        finished.append(number)

    async with serving(wait) as server, client(connections_per_host=1) as http, asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(one(http, number))
            await asyncio.sleep(0)
        await until(lambda: len(server.requests) == 1)
        gate.set()
    assert finished == [0, 1, 2, 3, 4, 5]
    assert server.connections == 1 and [request.path for request in server.requests] == [f"/{n}" for n in range(6)]


@both_loops
async def test_many_tasks_share_few_connections():
    async def one(http: HttpClient, start: int) -> bytes:
        async with await http.request(server.url(), byte_range=(start, 1000)) as answer:
            return await answer.read(1000)

    async with serving(ranged) as server, client(connections_per_host=3) as http:
        parts = await asyncio.gather(*(one(http, start) for start in range(0, 100_000, 1000)))
        assert b"".join(parts) == BODY[:100_000]
        assert server.connections <= 3


@both_loops
async def test_closing_the_client_ends_what_is_under_way():
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx") as server:
        async with client(connections_per_host=1) as http:
            answer = await http.request(server.url())
            reading = asyncio.ensure_future(read_all(answer))
            queued = asyncio.ensure_future(http.request(server.url()))
            await until(lambda: answer.received_bytes == 0 and len(server.requests) == 1)
        with pytest.raises(Truncated):
            await reading
        with pytest.raises(ConnectFailed, match="closed"):
            await queued
        with pytest.raises(ConnectFailed, match="closed"):
            await http.request(server.url())
        assert http.open_connections == 0
        await until(lambda: server.open == 0)


# -- backpressure, timeouts, cancellation


@both_loops
async def test_a_slow_reader_holds_the_server_back():
    sent = 0

    async def flood(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 300000000\r\n\r\n")
        for _ in range(300):
            writer.write(bytes(1_000_000))
            await writer.drain()
            sent += 1

    async with serving(flood) as server, client() as http:
        answer = await http.request(server.url())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 100
        assert await answer.read_into(memoryview(bytearray(50_000_000))) == 50_000_000
        answer.abort()
        answer.abort()


@pytest.mark.parametrize("text", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
@both_loops
async def test_a_silent_server_before_the_body(text: bytes):
    async def stall(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await silence(request, writer)

    async with serving(stall) as server, client(read_timeout_s=0.02) as http:
        with pytest.raises(TimedOut, match="answer"):
            await http.request(server.url())
        await until(lambda: server.open == 0)


@both_loops
async def test_a_dripping_head_is_cut_off():
    async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"A: b\r\n")
            await asyncio.sleep(0.005)

    async with serving(drip) as server, client(read_timeout_s=0.1, headers_max=10**9, head_bytes_max=10**9) as http:
        with pytest.raises(TimedOut):
            await http.request(server.url())


@both_loops
async def test_a_silent_server_in_the_body():
    async with (
        serving(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour") as server,
        client(read_timeout_s=SILENCE_S) as http,
    ):
        answer = await http.request(server.url())
        buffer = memoryview(bytearray(10))
        with pytest.raises(TimedOut, match="body"):
            await answer.read_into(buffer)
        assert answer.received_bytes == 4 and buffer[:4] == b"four"


@both_loops
async def test_a_slow_body_with_short_silences_is_read_to_its_end():
    async def slow(request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        for _ in range(40):
            writer.write(b"x")
            await asyncio.sleep(2 * SILENCE_S / 35)
        return True

    async with serving(slow) as server, client(read_timeout_s=2 * SILENCE_S) as http:
        assert await (await http.request(server.url())).read(40) == b"x" * 40


@both_loops
async def test_a_reader_that_pauses_is_not_taken_for_a_silent_server():
    async with serving(ranged) as server, client(read_timeout_s=SILENCE_S) as http:
        answer = await http.request(server.url())
        await answer.read_into(memoryview(bytearray(1000)))
        await asyncio.sleep(1.2 * SILENCE_S)
        assert len(await read_all(answer)) == len(BODY) - 1000


@both_loops
async def test_a_server_that_does_not_accept():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(8)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            async with client(connect_timeout_s=0.05) as http:
                with pytest.raises(TimedOut, match="no connection"):
                    await http.request(f"http://127.0.0.1:{full.getsockname()[1]}/")
        finally:
            for filler in fillers:
                filler.close()


@both_loops
async def test_nobody_listens_and_names_that_do_not_exist():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: as long as it is held, nobody else does
        async with client() as http:
            with pytest.raises(ConnectFailed, match="refused"):
                await http.request(f"http://127.0.0.1:{nobody.getsockname()[1]}/")
    async with client() as http:
        with pytest.raises(ConnectFailed, match="resolved"):
            await http.request("http://no-such-host.invalid/")


@both_loops
async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch):
    async with serving(OK) as server, client() as http:
        dead = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", server.port)) for n in (2, 3)]
        live = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))

        async def resolve(*args: object, **options: object):
            return [*dead, live]

        monkeypatch.setattr("shoal.common.http.dial.resolve", resolve)
        assert await (await http.request(f"http://name.example:{server.port}/")).read(2) == b"ok"
        assert server.requests[0].headers["host"] == f"name.example:{server.port}"
        live = dead[0]
        with pytest.raises(ConnectFailed, match="refused"):
            await http.request(f"http://other.example:{server.port}/")


@pytest.mark.parametrize("phase", ["head", "body"])
@both_loops
async def test_cancellation_closes_the_connection_and_frees_its_slot(phase: str):
    async def stall(request: Request, writer: asyncio.StreamWriter) -> bool:
        if request.path == "/ok":
            writer.write(OK)
            return True
        if phase == "body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
        await silence(request, writer)
        return False

    async def fetch() -> None:
        await (await http.request(server.url("/stall"))).read(10)

    async with serving(stall) as server, client(connections_per_host=1) as http:
        for number in range(3):
            task = asyncio.ensure_future(fetch())
            await until(lambda: len(server.requests) == number + 1)  # noqa: B023
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.open == 0 and http.open_connections == 0)
        assert await (await http.request(server.url("/ok"))).read(2) == b"ok"


@both_loops
async def test_a_cancelled_place_in_the_queue_is_given_to_the_next():
    async with serving(ranged) as server, client(connections_per_host=1) as http:
        holder = await http.request(server.url())
        queued = [asyncio.ensure_future(http.request(server.url(), byte_range=(0, 1))) for _ in range(3)]
        await asyncio.sleep(0)
        queued[0].cancel()
        holder.abort()  # hands the slot to the second
        queued[1].cancel()  # which is cancelled with the slot in its hands
        assert await (await queued[2]).read(1) == BODY[:1]
        for task in queued[:2]:
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await (await http.request(server.url(), byte_range=(1, 1))).read(1) == BODY[1:2]


@both_loops
async def test_the_buffer_is_not_touched_after_a_cancelled_read():
    release = asyncio.Event()

    async def late(request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        await release.wait()
        writer.write(b"0123456789")
        return True

    async with serving(late) as server, client() as http:
        answer = await http.request(server.url())
        buffer = bytearray(10)
        task = asyncio.ensure_future(answer.read_into(memoryview(buffer)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        await asyncio.sleep(0.01)
        assert buffer == bytes(10)


@both_loops
async def test_abort_under_a_reader():
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx") as server, client() as http:
        answer = await http.request(server.url())
        task = asyncio.ensure_future(read_all(answer))
        await asyncio.sleep(0.01)
        answer.abort()
        with pytest.raises(Truncated):
            await task
        await until(lambda: server.open == 0)


# -- redirects


def redirects(table: dict[str, tuple[int, str]], body: bytes = b"moved") -> Answer:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> bool:
        if request.path not in table:
            writer.write(OK)
            return True
        status, location = table[request.path]
        writer.write(
            f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1")
            + body
        )
        return True

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@both_loops
async def test_redirects_on_one_origin_keep_connection_credential_and_range(status: int):
    async with serving(redirects({"/a/b": (status, "../c?x=1"), "/c?x=1": (302, "/d")})) as server, client() as http:
        answer = await http.request(
            server.url("/a/b"), authorization="Bearer t", byte_range=(3, 4), if_range='"v"', headers=[("X-Own", "1")]
        )
        assert await answer.read(10) == b"ok"
        assert answer.url == server.url("/d")
        assert answer.redirects == ((status, server.url("/a/b")), (302, server.url("/c?x=1")))
        assert [request.path for request in server.requests] == ["/a/b", "/c?x=1", "/d"]
        for request in server.requests:
            assert request.headers["authorization"] == "Bearer t" and request.headers["x-own"] == "1"
            assert request.headers["range"] == "bytes=3-6" and request.headers["if-range"] == '"v"'
        assert server.connections == 1


@both_loops
async def test_credentials_do_not_reach_another_origin_nor_come_back():
    async with serving(OK) as cdn, serving(OK) as hub, client() as http:
        cdn.answer = redirects({"/there": (302, hub.url("/back"))})
        hub.answer = redirects({"/here": (302, cdn.url("/there"))})
        headers = [("Cookie", "c"), ("X-Amz-Security-Token", "s"), ("Accept", "x/y")]
        answer = await http.request(
            hub.url("/here"), authorization=Secret("Bearer t"), byte_range=(3, 4), if_range='"v"', headers=headers
        )
        assert await answer.read(10) == b"ok"
        assert "authorization" in hub.requests[0].headers and "cookie" in hub.requests[0].headers
        for request in (cdn.requests[0], hub.requests[1]):
            assert set(request.headers) == {"host", "user-agent", "accept", "accept-encoding", "range", "if-range"}
            assert request.headers["accept"] == "x/y"


@both_loops
async def test_a_refused_host_is_asked_nothing_wherever_a_redirect_comes_from():
    def check(host: str) -> None:
        if host == "localhost":
            raise Refused(f"host {host}", cause="the site's rules")

    async with serving(OK) as evil, serving(OK) as hub, client(check_host=check) as http:
        there = evil.url("/there").replace("127.0.0.1", "localhost")
        hub.answer = redirects({"/here": (302, there)})
        for url in (there, hub.url("/here")):
            with pytest.raises(Refused, match="the site's rules"):
                await http.request(url)
        assert [request.path for request in hub.requests] == ["/here"]
        assert (evil.requests, evil.connections) == ([], 0)
        assert await (await http.request(hub.url("/else"))).read(2) == b"ok"


@both_loops
async def test_redirects_that_are_not_followed():
    table = {
        "/loop": (302, "/loop2"),
        "/loop2": (302, "/loop"),
        "/self": (302, "#again"),
        "/file": (302, "file:///etc/passwd"),
        "/user": (302, "http://user:pass@127.0.0.1/"),
        "/inject": (302, "/x\ty"),
        **{f"/long{n}": (302, f"/long{n + 1}") for n in range(20)},
    }
    async with serving(redirects(table)) as server, client() as http:
        for path in ("/loop", "/self", "/file", "/user", "/inject", "/long0"):
            with pytest.raises(RedirectRefused):
                await http.request(server.url(path))
        answer = await http.request(server.url("/long9"), follow_redirects=False)
        assert answer.status == 302 and answer.headers.get("location") == "/long10"
        assert await answer.read(10) == b"moved"
        assert await (await http.request(server.url("/long10"))).read(2) == b"ok"
    async with serving(b"HTTP/1.1 302 Moved\r\nContent-Length: 0\r\n\r\n") as server, client() as http:
        assert (await http.request(server.url())).status == 302  # no location: the caller's business


@pytest.mark.parametrize("text", [b"Content-Length: 5\r\n\r\nmo", b"Content-Length: 999999\r\n\r\n", b"\r\n"])
@both_loops
async def test_a_redirect_whose_body_never_ends_is_followed_all_the_same(text: bytes):
    async with serving(b"") as server, client(read_timeout_s=SILENCE_S, connections_per_host=1) as http:

        async def answer(request: Request, writer: asyncio.StreamWriter) -> bool:
            writer.write(OK if request.path == "/b" else b"HTTP/1.1 302 Moved\r\nLocation: /b\r\n" + text)
            return True

        server.answer = answer
        assert await (await http.request(server.url("/a"))).read(2) == b"ok"
        assert server.connections == 2


# -- TLS


@dataclass(frozen=True)
class Certificates:
    ca: Path
    server: ssl.SSLContext
    expired: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int, *, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    def context(stem: str, days: int) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, stem)])
        path = folder / f"{stem}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate(name, key, days, ca=False).public_bytes(serialization.Encoding.PEM)
        )
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made.load_cert_chain(path)
        return made

    ca = folder / "ca.pem"
    ca.write_bytes(certificate(ca_name, ca_key, 9, ca=True).public_bytes(serialization.Encoding.PEM))
    return Certificates(ca=ca, server=context("server", 9), expired=context("expired", -1))


@pytest.mark.parametrize("step", [1 << 20, 65_536, 99_991, 700])
@both_loops
async def test_ranges_over_tls(certificates: Certificates, step: int):
    async with (
        serving(ranged, tls=certificates.server) as server,
        client(tls=TlsOptions(ca_bundle=str(certificates.ca))) as http,
    ):
        size = 300_000 if step == 700 else len(BODY)
        for _ in range(2):
            async with await http.request(server.url(), byte_range=(0, size)) as answer:
                assert await read_all(answer, step) == BODY[:size]
        assert server.connections == 1


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n" % len(BODY), b""])
@pytest.mark.parametrize("step", [1 << 20, 50_000])
@both_loops
async def test_nothing_is_lost_when_a_tls_server_closes_right_behind_the_body(
    certificates: Certificates, framing: bytes, step: int
):
    text = b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + framing + b"\r\n" + BODY
    async with (
        serving(text, tls=certificates.server, keep=False) as server,
        client(tls=TlsOptions(ca_bundle=str(certificates.ca))) as http,
    ):
        for pause_s in (0.0, 0.05):
            async with await http.request(server.url()) as answer:
                await asyncio.sleep(pause_s)
                assert await read_all(answer, step) == BODY


@pytest.mark.parametrize("size", [100_000, 200_000, 320_000, 450_000])
@both_loops
async def test_nothing_is_lost_when_the_close_has_come_before_the_reader(certificates: Certificates, size: int):
    async def close_early(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await head_read.wait()
        writer.transport.set_write_buffer_limits(0)
        writer.write(BODY[:size])
        await writer.drain()
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)  # right behind the data, without a TLS goodbye

    head_read = asyncio.Event()
    async with (
        serving(close_early, tls=certificates.server) as server,
        client(tls=TlsOptions(ca_bundle=str(certificates.ca))) as http,
        await http.request(server.url()) as answer,
    ):
        head_read.set()
        await asyncio.sleep(0.05)
        assert await read_all(answer, 40_000) == BODY[:size]


@both_loops
async def test_a_tls_connection_that_is_cut_does_not_end_a_body_of_unknown_length(certificates: Certificates):
    async def cut(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async with (
        serving(cut, tls=certificates.server) as server,
        client(tls=TlsOptions(ca_bundle=str(certificates.ca))) as http,
    ):
        answer = await http.request(server.url())
        with pytest.raises(Truncated):
            await answer.read(100)


@both_loops
async def test_a_slow_reader_over_tls_is_safe(certificates: Certificates):
    async with (
        serving(ranged, tls=certificates.server) as server,
        client(tls=TlsOptions(ca_bundle=str(certificates.ca))) as http,
    ):
        answer = await http.request(server.url())
        buffer, found = memoryview(bytearray(400_000)), bytearray()
        while count := await answer.read_into(buffer):
            found += buffer[:count]
            await asyncio.sleep(0.005)
        assert found == BODY


@both_loops
async def test_certificates_are_checked(certificates: Certificates):
    trusting, no_ca = TlsOptions(ca_bundle=str(certificates.ca)), TlsOptions()
    async with serving(OK, tls=certificates.server) as server, client(tls=no_ca) as http:
        with pytest.raises(TlsFailed) as caught:
            await http.request(server.url())
        text = str(caught.value)
        assert f"127.0.0.1:{server.port}" in text and "hub.ca_bundle" in text and "hub.verify_tls" in text
    async with serving(OK, tls=certificates.expired) as server, client(tls=trusting) as http:
        with pytest.raises(TlsFailed, match="expired"):
            await http.request(server.url())
    async with serving(OK, tls=certificates.server) as server, client(tls=trusting) as http:
        server_by_name = server.url().replace("127.0.0.1", "127.0.0.2")
        with pytest.raises((TlsFailed, ConnectFailed)):
            await http.request(server_by_name)
        assert await (await http.request(server.url())).read(2) == b"ok"
        assert await (await http.request(server.url().replace("127.0.0.1", "localhost"))).read(2) == b"ok"


@both_loops
async def test_the_wrong_name_in_a_certificate(certificates: Certificates, monkeypatch: pytest.MonkeyPatch):
    async with (
        serving(OK, tls=certificates.server) as server,
        client(tls=TlsOptions(ca_bundle=str(certificates.ca))) as http,
    ):

        async def resolve(*args: object, **options: object):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

        monkeypatch.setattr("shoal.common.http.dial.resolve", resolve)
        with pytest.raises(TlsFailed, match=r"other\.example"):
            await http.request(f"https://other.example:{server.port}/")


@both_loops
async def test_verification_can_be_switched_off(certificates: Certificates):
    async with serving(OK, tls=certificates.expired) as server, client(tls=TlsOptions(verify=False)) as http:
        assert await (await http.request(server.url())).read(2) == b"ok"


@both_loops
async def test_ssl_cert_file_is_honoured(certificates: Certificates, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    async with serving(OK, tls=certificates.server) as server, client() as http:
        assert await (await http.request(server.url())).read(2) == b"ok"


@both_loops
async def test_ca_bundles_that_cannot_be_used(tmp_path: Path):
    empty = tmp_path / "empty.pem"
    empty.write_text("not a certificate")
    for path in (empty, tmp_path / "missing.pem"):
        async with client(tls=TlsOptions(ca_bundle=str(path))) as http:
            with pytest.raises(UsageError, match="ca_bundle"):
                await http.request("https://127.0.0.1:1/")


@both_loops
async def test_tls_where_there_is_none_and_silence_in_the_handshake():
    async with serving(OK) as server, client() as http:

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with listener:
            with pytest.raises(TlsFailed, match="handshake"):
                await http.request(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/")
    async with serving(silence) as server, client(connect_timeout_s=SILENCE_S) as http:
        with pytest.raises(TimedOut, match="handshake"):
            await http.request(server.url().replace("http:", "https:"))
        await until(lambda: server.open == 0)


@both_loops
async def test_cancellation_in_the_handshake():
    async with serving(silence) as server, client(connections_per_host=1) as http:
        for _ in range(2):
            opened = server.connections
            task = asyncio.ensure_future(http.request(server.url().replace("http:", "https:")))
            await until(lambda: server.connections > opened)  # noqa: B023
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.open == 0)


@both_loops
async def test_https_does_not_fall_back_to_http(certificates: Certificates):
    async with serving(OK) as plain, serving(redirects({"/": (302, plain.url())}), tls=certificates.server) as server:
        async with client(tls=TlsOptions(ca_bundle=str(certificates.ca))) as http:
            with pytest.raises(RedirectRefused, match="not encrypted"):
                await http.request(server.url(), authorization="Bearer t")
        assert plain.connections == 0


# -- proxies


@both_loops
async def test_a_proxy_for_http():
    async with serving(ranged) as proxy:
        settings = {"http": f"http://us%20er:pass@127.0.0.1:{proxy.port}", "no": "direct.example"}
        async with client(proxies=settings) as http:
            for start in (0, 10):
                answer = await http.request("http://origin.example:8080/x?y", byte_range=(start, 10))
                assert await answer.read(10) == BODY[start : start + 10]
        assert proxy.connections == 1
        assert proxy.requests[0].line == "GET http://origin.example:8080/x?y HTTP/1.1"
        assert proxy.requests[0].headers["host"] == "origin.example:8080"
        assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXMgZXI6cGFzcw=="


@asynccontextmanager
async def tunnelling(
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n",
) -> AsyncIterator[tuple[int, list[str]]]:
    """A proxy that connects to where it is asked, if its answer says so."""
    asked: list[str] = []
    writers: list[asyncio.StreamWriter] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answer)
        if b" 200 " not in answer:
            writer.close()
            return
        host, _, port = asked[-1].split(" ")[1].rpartition(":")
        try:
            onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        writers.append(onward_writer)
        await asyncio.gather(pipe(reader, onward_writer), pipe(onward_reader, writer))

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as listener:
        try:
            yield listener.sockets[0].getsockname()[1], asked
        finally:
            for writer in writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@both_loops
async def test_a_tunnel_through_a_proxy(certificates: Certificates):
    async with serving(ranged, tls=certificates.server) as server, tunnelling() as (port, asked):
        options = {
            "tls": TlsOptions(ca_bundle=str(certificates.ca)),
            "proxies": {"https": f"http://u:p@127.0.0.1:{port}"},
        }
        async with client(**options) as http:
            for step in (1 << 20, 50_000):
                async with await http.request(server.url(), authorization="Bearer t") as answer:
                    assert await read_all(answer, step) == BODY
            assert server.connections == 1 and len(asked) == 1
        lines = asked[0].split("\r\n")
        assert lines[0] == f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"
        assert "Proxy-Authorization: Basic dTpw" in lines and "Bearer" not in asked[0]
        assert server.requests[0].line == "GET / HTTP/1.1" and "proxy-authorization" not in server.requests[0].headers
        await until(lambda: server.open == 0)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"HTTP/1.1 407 Auth\r\nContent-Length: 0\r\n\r\n", ConnectFailed, "407"),
        (b"HTTP/1.1 502 Bad\r\n\r\n", ConnectFailed, "502"),
        (b"HTTP/1.1 200 OK\r\n\r\nextra", ShoalError, "proxy"),
        (b"nonsense\r\n\r\n", ProtocolViolation, "not HTTP"),
        (b"", ConnectFailed, "without an answer"),
    ],
)
@both_loops
async def test_proxies_that_refuse(certificates: Certificates, answer: bytes, error: type[ShoalError], text: str):
    async with serving(OK, tls=certificates.server) as server, tunnelling(answer) as (port, _):
        async with client(
            tls=TlsOptions(verify=False), proxies={"https": f"http://u:hunter2@127.0.0.1:{port}"}
        ) as http:
            with pytest.raises(error, match=text) as caught:
                await http.request(server.url())
            assert "hunter2" not in str(caught.value) and f"proxy 127.0.0.1:{port}" in str(caught.value)
        assert len(server.requests) == 0


@both_loops
async def test_certificates_are_checked_in_a_tunnel_too(certificates: Certificates):
    async with (
        serving(OK, tls=certificates.server) as server,
        tunnelling() as (port, _),
        client(proxies={"https": f"http://127.0.0.1:{port}"}) as http,
    ):
        with pytest.raises(TlsFailed, match="not trusted"):
            await http.request(server.url())


@both_loops
async def test_silence_and_cancellation_in_a_tunnels_handshake():
    async with serving(silence) as server, tunnelling() as (port, _):
        proxies = {"https": f"http://127.0.0.1:{port}"}
        async with client(proxies=proxies, connect_timeout_s=SILENCE_S) as http:
            with pytest.raises(TimedOut, match="handshake"):
                await http.request(server.url().replace("http:", "https:"))
            await until(lambda: server.open == 0)
        async with client(proxies=proxies) as http:
            opened = server.connections
            task = asyncio.ensure_future(http.request(server.url().replace("http:", "https:")))
            await until(lambda: server.connections > opened)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.open == 0)


# -- nginx


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[tuple[str, str]]:
    """The plain and the TLS address of an nginx that serves BODY as /body.bin; keeps a connection for 50 requests."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "body.bin").write_bytes(BODY)
    (folder / "large.bin").write_bytes(BODY * 8)
    pem = certificates.ca.parent / "server.pem"
    serves = f"sendfile on; keepalive_requests 50; root {folder}; location /moved {{ return 302 /body.bin; }}"
    with running_nginx(folder / "plain", serves) as plain, running_nginx(folder / "tls", serves, tls=(pem, pem)) as tls:
        yield f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{tls}"


@pytest.mark.system
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@both_loops
async def test_ranges_from_nginx_on_many_connections(nginx: tuple[str, str], certificates: Certificates, secure: bool):
    piece, found = 20_011, bytearray(len(BODY))
    starts = iter(range(0, len(BODY), piece))

    async def work(http: HttpClient, etag: str) -> None:
        for start in starts:
            async with await http.request(
                f"{nginx[secure]}/body.bin", byte_range=(start, piece), if_range=etag
            ) as answer:
                assert answer.status == 206
                size = min(piece, len(BODY) - start)
                assert await answer.read_into(memoryview(found)[start : start + size]) == size

    async with client(tls=TlsOptions(ca_bundle=str(certificates.ca)), connections_per_host=8) as http:
        head = await http.request(f"{nginx[secure]}/body.bin", method="HEAD")
        assert head.headers.get("content-length") == str(len(BODY))
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(work(http, head.headers.get("etag")))
        assert found == BODY
        stale = await http.request(f"{nginx[secure]}/body.bin", byte_range=(0, 10), if_range='"other"')
        assert stale.status == 200 and await read_all(stale) == BODY
        async with await http.request(f"{nginx[secure]}/moved", byte_range=(5, 5)) as answer:
            assert await answer.read(5) == BODY[5:10] and len(answer.redirects) == 1
        beyond = await http.request(f"{nginx[secure]}/body.bin", byte_range=(len(BODY), 10))
        assert beyond.status == 416 and beyond.content_range is None
        await beyond.read(100_000)


@pytest.mark.system
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@both_loops
async def test_large_pieces_from_nginx_keep_their_order(
    nginx: tuple[str, str], certificates: Certificates, secure: bool
):
    """At full speed several receives come before the reader wakes."""
    piece = 8_000_000
    found = bytearray(8 * len(BODY))

    async def work(http: HttpClient, start: int) -> None:
        async with await http.request(f"{nginx[secure]}/large.bin", byte_range=(start, piece)) as answer:
            buffer = memoryview(bytearray(1 << 20))
            while count := await answer.read_into(buffer):
                found[start : start + count] = buffer[:count]
                start += count

    async with (
        client(tls=TlsOptions(ca_bundle=str(certificates.ca)), connections_per_host=2) as http,
        asyncio.TaskGroup() as group,
    ):
        for start in range(0, len(found), piece):
            group.create_task(work(http, start))
    same = found == BODY * 8
    assert same  # not compared in the assert: pytest would work out the difference
