"""The peer exchange from the outside: over real sockets, with our client and with raw bytes, on both event loops."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import os
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from shoal.agent.peer import transport as transport_module
from shoal.agent.peer.limits import PeerCounters, PeerLimits
from shoal.agent.peer.server import PeerServer
from shoal.common.capability import Capability, holder_key, issue
from shoal.common.errors import Busy, Conflict, NotFound, ShoalError, StateDamaged, Truncated, UsageError
from shoal.common.http import HttpClient, HttpLimits, Response, TlsOptions
from shoal.common.secrets import Secret
from support.tls import make_certificate, server_context

KEY = holder_key(bytes(32), "holder", "")
CLAIMS = Capability(job_id="job", first_object=1, last_object=100, holder="holder", expires_at=2000.0)
TOKEN = issue(KEY, CLAIMS)
AUTHORIZATION = f"Bearer {TOKEN}"
BODY = random.Random(11).randbytes(3_000_000)
OBJECT = "/v1/jobs/job/objects/1"
TEST_S = 90.0  # of one test, which needs about a tenth of a second


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on asyncio's loop and on uvloop's: what they do with sockets differs."""

    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **arguments: object) -> None:
        async def bounded() -> None:
            # Not left to pytest's own timeout, whose signal may find the loop where it cannot raise.
            async with asyncio.timeout(TEST_S):
                await test(**arguments)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(bounded())

    parameters = inspect.signature(test).parameters.values()
    extra = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*parameters, extra])  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so; the bound of the test bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def open_sockets_and_files() -> int:
    """How many files this process has open. Not /dev/null: uvloop keeps one from the first transport that it closes."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}") != os.devnull
        except FileNotFoundError:  # the listing's own
            pass
    return found


@dataclass
class Part:
    """A file on the disk, of which ``arrived`` bytes may be given out."""

    path: Path
    size: int
    arrived: int
    failure: ShoalError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def arrive(self, count: int) -> None:
        self.arrived += count
        self.changed.set()

    def fail(self, failure: ShoalError) -> None:
        self.failure = failure
        self.changed.set()


class PartStretch:
    """Some bytes of several parts, one after the other."""

    def __init__(self, shelf: TestShelf, parts: list[Part], start: int, stop: int) -> None:
        self.length = stop - start
        self._shelf = shelf
        self._start = start
        self._parts = parts
        self._files = [part.path.open("rb") for part in parts]
        shelf.opened += 1
        shelf.open += 1

    def _find(self, sent: int) -> tuple[int, int]:
        offset = self._start + sent
        for index, part in enumerate(self._parts):
            if offset < part.size:
                return index, offset
            offset -= part.size
        raise AssertionError("asked for more than there is")

    def ready(self, sent: int) -> tuple[int, int, int]:
        index, offset = self._find(sent)
        return self._files[index].fileno(), offset, max(0, self._parts[index].arrived - offset)

    async def more(self, sent: int) -> None:
        part = self._parts[self._find(sent)[0]]
        self._shelf.waits += 1
        while self.ready(sent)[2] == 0:
            if part.failure is not None:
                raise part.failure
            part.changed.clear()
            await part.changed.wait()

    def close(self) -> None:
        self._shelf.open -= 1
        for file in self._files:
            file.close()


class TestShelf:
    """Objects by id, and one bundle of several of them."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[int, Part] = {}
        self.bundles: dict[int, list[int]] = {}
        self.failure: Exception | None = None
        self.opened = self.open = self.waits = 0

    def put(self, object_id: int, data: bytes, arrived: int | None = None) -> Part:
        path = self.folder / str(object_id)
        path.write_bytes(data)
        part = Part(path=path, size=len(data), arrived=len(data) if arrived is None else arrived)
        self.objects[object_id] = part
        return part

    def _part(self, job_id: str, object_id: int) -> Part:
        if self.failure is not None:
            raise self.failure
        if job_id != "job" or object_id not in self.objects:
            raise NotFound(f"{self.folder}/{object_id}")
        return self.objects[object_id]

    def _bundle(self, job_id: str, bundle: int, first_object: int, last_object: int) -> list[Part]:
        ids = self.bundles.get(bundle, [])
        if job_id != "job" or not ids or (ids[0], ids[-1]) != (first_object, last_object):
            raise NotFound(f"bundle {bundle}")
        return [self.objects[object_id] for object_id in ids]

    async def object_size(self, job_id: str, object_id: int) -> int:
        return self._part(job_id, object_id).size

    async def open_object(self, job_id: str, object_id: int, start: int, stop: int) -> PartStretch:
        return PartStretch(self, [self._part(job_id, object_id)], start, stop)

    async def bundle_size(self, job_id: str, bundle: int, first_object: int, last_object: int) -> int:
        return sum(part.size for part in self._bundle(job_id, bundle, first_object, last_object))

    async def open_bundle(
        self, job_id: str, bundle: int, first_object: int, last_object: int, start: int, stop: int
    ) -> PartStretch:
        return PartStretch(self, self._bundle(job_id, bundle, first_object, last_object), start, stop)


@dataclass
class Site:
    """A server under test, and what a test may turn."""

    shelf: TestShelf
    server: PeerServer
    port: int
    scheme: str
    key: bytes | None = KEY
    now: float = 1000.0

    @property
    def counters(self) -> PeerCounters:
        return self.server.counters

    def url(self, path: str = OBJECT) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    @contextmanager
    def raw(self, *, receive_bytes: int | None = None, source: str = "127.0.0.1") -> Iterator[socket.socket]:
        """A plain connection of which the test has every byte in hand."""
        with socket.socket() as sock:
            sock.setblocking(False)
            if receive_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.bind((source, 0))
            try:
                sock.connect(("127.0.0.1", self.port))
            except BlockingIOError:
                pass
            yield sock


@asynccontextmanager
async def site(folder: Path, *, tls: ssl.SSLContext | None = None, **options: object) -> AsyncIterator[Site]:
    """A server with BODY as object 1, and a check that it leaves nothing open."""
    server_options = {name: options.pop(name) for name in ("clock", "sleep") if name in options}
    # A generous patience: what a test does not mean to run out must not, however slow the machine.
    defaults: dict[str, object] = {"slot_wait_s": 60.0, "head_timeout_s": 60.0, "idle_timeout_s": 60.0}
    limits = PeerLimits(**{**defaults, "stall_s": 60.0, "write_stall_s": 60.0, **options})  # type: ignore[arg-type]
    shelf = TestShelf(folder)
    shelf.put(1, BODY)
    before = open_sockets_and_files()
    server = PeerServer(
        shelf,
        key=lambda: found.key,
        holder="holder",
        now=lambda: found.now,
        limits=limits,
        tls=tls,
        **server_options,  # type: ignore[arg-type]
    )
    host, port = await server.start("127.0.0.1", 0)
    assert host == "127.0.0.1"
    found = Site(shelf, server, port, "https" if tls else "http")
    try:
        yield found
    finally:
        await server.aclose()
        await server.aclose()
    assert shelf.open == 0
    counters = server.counters
    assert (counters.connections, counters.active_uploads) == (0, 0)
    # What the test itself has closed may take the loop another turn.
    await until(lambda: open_sockets_and_files() <= before)


def client(connections: int = 4, **options: object) -> HttpClient:
    limits = HttpLimits(connections_per_host=connections, read_timeout_s=60.0)
    return HttpClient(limits=limits, user_agent="test/1", **options)  # type: ignore[arg-type]


async def ask(http: HttpClient, url: str, *, authorization: str | None = AUTHORIZATION, **options: object) -> Response:
    secret = None if authorization is None else Secret(authorization)
    return await http.request(url, authorization=secret, **options)  # type: ignore[arg-type]


async def fetch(http: HttpClient, url: str, *, status: int | None = None, **options: object) -> bytes:
    async with await ask(http, url, **options) as answer:
        expected = status or (206 if "byte_range" in options else 200)
        assert answer.status == expected
        return await answer.read(1 << 30)


def request_bytes(path: str = OBJECT, *fields: str, method: str = "GET", token: str = TOKEN) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: peer", f"Authorization: Bearer {token}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send, and read until the server closes."""
    await say(sock, data)
    return await rest(sock)


async def say(sock: socket.socket, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.wait_for(_connected(sock), 30)
    await loop.sock_sendall(sock, data)


async def _connected(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, lambda: done.done() or done.set_result(None))
    try:
        await done
    finally:
        loop.remove_writer(sock)


async def rest(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        found += data
    return bytes(found)


async def receive(sock: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        data = await asyncio.get_running_loop().sock_recv(sock, count - len(found))
        assert data, "the connection was closed"
        found += data
    return bytes(found)


async def receive_head(sock: socket.socket) -> bytes:
    found = bytearray()
    while not found.endswith(b"\r\n\r\n"):
        found += await receive(sock, 1)
    return bytes(found)


# -- ranges, whole objects, bundles, kept connections


@both_loops
async def test_ranges_over_kept_connections(tmp_path: Path):
    async with site(tmp_path) as peer, client(connections=1) as http:
        found = b"".join(
            [await fetch(http, peer.url(), byte_range=(start, 700_001)) for start in range(0, len(BODY), 700_001)]
        )
        assert found == BODY
        assert await fetch(http, peer.url()) == BODY
        counters = peer.counters
        assert (counters.connections, counters.requests, counters.refused, counters.cut) == (1, 6, 0, 0)
        await until(lambda: counters.sent_bytes == 2 * len(BODY))  # a thread may have sent the last of them


@both_loops
async def test_heads_of_answers(tmp_path: Path):
    async with site(tmp_path) as peer, client() as http:
        async with await ask(http, peer.url(), byte_range=(10, 5)) as answer:
            assert answer.headers.get("content-range") == f"bytes 10-14/{len(BODY)}"
            assert answer.body_length == 5 and await answer.read(5) == BODY[10:15]
        async with await ask(http, peer.url(), byte_range=(len(BODY) - 3, 500)) as answer:
            assert answer.headers.get("content-range") == f"bytes {len(BODY) - 3}-{len(BODY) - 1}/{len(BODY)}"
            assert await answer.read(5) == BODY[-3:]
        with peer.raw() as sock:
            text = await exchange(sock, request_bytes(OBJECT, "Range: bytes=2999990-", "Connection: close"))
            head, _, body = text.partition(b"\r\n\r\n")
            assert b"206" in head and b"bytes 2999990-2999999/3000000" in head and b"Connection: close" in head
            assert body == BODY[-10:]


@both_loops
async def test_an_empty_object(tmp_path: Path):
    async with site(tmp_path) as peer, client() as http:
        peer.shelf.put(2, b"")
        assert await fetch(http, peer.url("/v1/jobs/job/objects/2")) == b""
        assert b"range" in await fetch(http, peer.url("/v1/jobs/job/objects/2"), byte_range=(0, 1), status=416)


@both_loops
async def test_a_bundle_of_small_files(tmp_path: Path):
    async with site(tmp_path) as peer, client(connections=1) as http:
        contents = {number: bytes([number]) * (number * 7) for number in range(10, 60)}
        for number, content in contents.items():
            peer.shelf.put(number, content)
        peer.shelf.put(30, b"")
        peer.shelf.bundles[5] = list(contents)
        whole = b"".join(content for number, content in contents.items() if number != 30)
        url = peer.url("/v1/jobs/job/bundles/5?objects=10-59")
        assert await fetch(http, url) == whole
        assert await fetch(http, url, byte_range=(1000, 4567)) == whole[1000:5567]
        assert peer.counters.connections == 1


@both_loops
async def test_a_bundle_is_allowed_by_the_objects_that_it_really_holds(tmp_path: Path):
    async with site(tmp_path) as peer, client() as http:
        for number in (90, 95, 105):
            peer.shelf.put(number, b"x")
        peer.shelf.bundles[5] = [90, 105]
        await fetch(http, peer.url("/v1/jobs/job/bundles/5?objects=90-105"), status=403)
        await fetch(http, peer.url("/v1/jobs/job/bundles/5?objects=90-95"), status=404)
        await fetch(http, peer.url("/v1/jobs/job/bundles/6?objects=90-95"), status=404)
        await fetch(http, peer.url("/v1/jobs/job/bundles/5"), status=400)


@both_loops
async def test_many_at_once(tmp_path: Path):
    async with site(tmp_path, upload_slots=3, slot_queue_max=100) as peer, client(connections=20) as http:
        starts = range(0, len(BODY), 50_000)
        found = await asyncio.gather(*(fetch(http, peer.url(), byte_range=(start, 50_000)) for start in starts))
        assert b"".join(found) == BODY


@pytest.mark.parametrize("in_memory", [True, False])
@both_loops
async def test_files_on_a_disk_are_read_by_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool):
    """Whether bytes come from the loop or from a thread, they are the same."""
    monkeypatch.setattr(transport_module, "_is_in_memory", lambda *_: in_memory)
    calls: list[int] = []
    real = transport_module.in_thread

    async def counted(threads: object, call: Callable[[], int]) -> int:
        calls.append(1)
        return await real(threads, call)  # type: ignore[arg-type]

    monkeypatch.setattr(transport_module, "in_thread", counted)
    async with site(tmp_path) as peer, client() as http:
        assert await fetch(http, peer.url()) == BODY
    assert bool(calls) is not in_memory


# -- refusals


@both_loops
async def test_who_may_not(tmp_path: Path):
    async with site(tmp_path) as peer, client(connections=1) as http:
        other_key = issue(holder_key(bytes(32), "other", ""), CLAIMS)
        other_holder = issue(KEY, Capability(job_id="job", first_object=1, last_object=9, holder="x", expires_at=2e3))
        other_job = issue(KEY, Capability(job_id="j", first_object=1, last_object=9, holder="holder", expires_at=2e3))
        cases = [(None, 401), ("Bearer x", 401), ("Basic " + TOKEN, 401), (f"Bearer {other_key}", 401),
                 (f"Bearer {TOKEN}x", 401), (f"Bearer {other_holder}", 403), (f"Bearer {other_job}", 403)]  # fmt: skip
        for authorization, status in cases:
            async with await ask(http, peer.url(), authorization=authorization) as answer:
                assert answer.status == status, authorization
                assert (answer.headers.get("www-authenticate") == "Bearer") is (status == 401)
                text = await answer.read(200)
                assert text.count(b"\n") == 1 and TOKEN.encode() not in text
        await fetch(http, peer.url("/v1/jobs/job/objects/101"), status=403)
        await fetch(http, peer.url("/v1/jobs/other/objects/1"), status=403)
        peer.now = 2000.0
        assert b"expired" in await fetch(http, peer.url(), status=403)
        assert peer.counters.refused == len(cases) + 3
        assert peer.counters.connections == 1, "a refusal costs no connection"
        assert peer.shelf.opened == 0


@both_loops
async def test_nobody_is_let_in_without_a_session(tmp_path: Path):
    async with site(tmp_path) as peer, client() as http:
        peer.key = None
        async with await ask(http, peer.url()) as answer:
            assert (answer.status, answer.headers.get("retry-after")) == (503, "1")
        peer.key = KEY
        assert await fetch(http, peer.url()) == BODY


@both_loops
async def test_what_is_not_there(tmp_path: Path):
    async with site(tmp_path) as peer, client(connections=1) as http:
        text = await fetch(http, peer.url("/v1/jobs/job/objects/2"), status=404)
        assert str(tmp_path).encode() not in text
        await fetch(http, peer.url(), byte_range=(len(BODY), 1), status=416)
        for failure, status in ((Busy("x"), 503), (StateDamaged("x"), 500), (UsageError("x"), 500)):
            peer.shelf.failure = failure
            await fetch(http, peer.url(), status=status)
        peer.shelf.failure = None
        assert await fetch(http, peer.url(), byte_range=(0, 10)) == BODY[:10]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request_bytes("/v1/jobs/../../../etc/passwd", "Connection: close"), 404),
        (request_bytes("/v1/jobs/job/objects/../../../../etc/passwd", "Connection: close"), 404),
        (request_bytes("/v1/jobs/%2e%2e/objects/1", "Connection: close"), 404),
        (request_bytes("/v1/jobs/job/objects/..%2f..%2fetc%2fpasswd", "Connection: close"), 404),
        (request_bytes("/etc/passwd", "Connection: close"), 404),
        (request_bytes(method="POST") + b"x" * 100_000, 405),
        (request_bytes(OBJECT, "Connection: close", method="HEAD"), 405),
        (request_bytes(OBJECT, "Content-Length: 5") + b"hello", 400),
        (request_bytes(OBJECT, "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
        (request_bytes(OBJECT, "Range: bytes=-5", "Connection: close"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
        (b"GET / HTTP/1.1\n\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
        (request_bytes(token="x" * 4000, method="GET").replace(b"Host: peer", b"Host: peer\r\nConnection: close"), 401),
    ],
)
@both_loops
async def test_hostile_requests(tmp_path: Path, data: bytes, status: int):
    """Each is answered with one line, and the answer arrives although the server stops reading and closes."""
    async with site(tmp_path, linger_s=60.0) as peer:
        with peer.raw() as sock:
            if status == 405 and data.startswith(
                b"POST"
            ):  # its body is taken for the next request: refused, then closed
                text = await exchange(sock, data)
                assert text.count(b"HTTP/1.1 ") == 2
            else:
                await say(sock, data)
                head = await receive_head(sock)
                sock.shutdown(socket.SHUT_WR)
                text = head + await rest(sock)
                assert text.count(b"HTTP/1.1 ") == 1
            assert text.startswith(f"HTTP/1.1 {status} ".encode())
            assert b"root:" not in text
        assert peer.shelf.opened == 0


@both_loops
async def test_requests_in_small_pieces_and_two_at_once(tmp_path: Path):
    async with site(tmp_path) as peer:
        with peer.raw() as sock:
            for at in range(0, len(request_bytes()), 7):
                await say(sock, request_bytes(OBJECT, "Range: bytes=0-9")[at : at + 7])
            await say(sock, request_bytes(OBJECT, "Range: bytes=0-9")[at + 7 :])
            assert b"206" in await receive_head(sock)
            assert await receive(sock, 10) == BODY[:10]
            await say(sock, request_bytes(OBJECT, "Range: bytes=1-2") + request_bytes(OBJECT, "Range: bytes=3-4"))
            for start in (1, 3):
                assert b"206" in await receive_head(sock)
                assert await receive(sock, 2) == BODY[start : start + 2]


# -- cut-through


@pytest.mark.parametrize("tls", [False, True])
@both_loops
async def test_bytes_that_arrive_while_they_are_asked_for(tmp_path: Path, tls: bool):
    pem = make_certificate(tmp_path, now=datetime.datetime.now(datetime.UTC)) if tls else None
    options = {"tls": TlsOptions(ca_bundle=str(pem))} if pem else {}
    async with site(tmp_path, tls=server_context(pem) if pem else None) as peer, client(**options) as http:
        part = peer.shelf.put(2, BODY, arrived=1000)
        async with await ask(http, peer.url("/v1/jobs/job/objects/2"), byte_range=(500, 100_000)) as answer:
            buffer = memoryview(bytearray(500))
            assert await answer.read_into(buffer) == 500  # what was there came at once
            assert bytes(buffer) == BODY[500:1000]
            await until(lambda: peer.shelf.waits == 1)
            assert peer.counters.active_uploads == 1
            found = bytearray()
            for count in (1, 99, 30_000, 69_400):
                part.arrive(count)
                buffer = memoryview(bytearray(count))
                assert await answer.read_into(buffer) == count
                found += buffer
            assert bytes(found) == BODY[1000:100_500]
        await until(lambda: peer.counters.sent_bytes == 100_000)


@both_loops
async def test_bytes_that_never_arrive(tmp_path: Path):
    async with site(tmp_path, stall_s=0.01) as peer, client() as http:
        peer.shelf.put(2, BODY, arrived=1000)
        async with await ask(http, peer.url("/v1/jobs/job/objects/2")) as answer:
            with pytest.raises(Truncated):
                await answer.read(1 << 30)
            assert answer.received_bytes == 1000
        await until(lambda: peer.counters.active_uploads == 0)
        assert peer.counters.cut == 1


@both_loops
async def test_an_object_that_fails_while_others_wait_for_it(tmp_path: Path):
    async with site(tmp_path) as peer, client() as http:
        part = peer.shelf.put(2, BODY, arrived=0)
        async with await ask(http, peer.url("/v1/jobs/job/objects/2")) as answer:
            await until(lambda: peer.shelf.waits == 1)
            part.fail(StateDamaged("object 2"))
            with pytest.raises(Truncated):
                await answer.read(1 << 30)
        assert await fetch(http, peer.url(), byte_range=(0, 5)) == BODY[:5]


@pytest.mark.parametrize("reset", [False, True])
@both_loops
async def test_who_goes_away_while_it_waits_is_noticed(tmp_path: Path, reset: bool):
    async with site(tmp_path) as peer:
        peer.shelf.put(2, BODY, arrived=10)
        with peer.raw() as sock:
            await say(sock, request_bytes("/v1/jobs/job/objects/2"))
            await until(lambda: peer.shelf.waits == 1)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: peer.shelf.open == 0 and peer.counters.connections == 0)
        assert peer.counters.cut == 1


@both_loops
async def test_who_waits_for_bytes_holds_no_slot(tmp_path: Path):
    async with site(tmp_path, upload_slots=1, slot_queue_max=1) as peer, client(connections=10) as http:
        part = peer.shelf.put(2, BODY, arrived=10)
        waiters = [asyncio.ensure_future(fetch(http, peer.url("/v1/jobs/job/objects/2"))) for _ in range(2)]
        await until(lambda: peer.shelf.waits == 2)
        waiters += [asyncio.ensure_future(fetch(http, peer.url("/v1/jobs/job/objects/2"))) for _ in range(2)]
        await until(lambda: peer.shelf.waits == 4)
        assert await fetch(http, peer.url()) == BODY
        part.arrive(len(BODY) - 10)
        assert await asyncio.gather(*waiters) == [BODY] * 4


# -- what can go wrong on the way


@both_loops
async def test_a_file_that_became_shorter(tmp_path: Path):
    async with site(tmp_path) as peer, client() as http:
        os.truncate(peer.shelf.objects[1].path, 1_000_000)
        async with await ask(http, peer.url()) as answer:
            with pytest.raises(Truncated):
                await answer.read(1 << 30)
            assert answer.received_bytes == 1_000_000
        await until(lambda: peer.counters.connections == 0)
        assert peer.counters.cut == 1


@both_loops
async def test_a_receiver_that_resets(tmp_path: Path):
    async with site(tmp_path) as peer, client() as http:
        peer.shelf.put(2, BODY * 10)
        with peer.raw(receive_bytes=4096) as sock:
            await say(sock, request_bytes("/v1/jobs/job/objects/2"))
            await receive(sock, 1000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: peer.counters.connections == 0)
        assert peer.shelf.open == 0 and peer.counters.cut == 1
        assert await fetch(http, peer.url()) == BODY


@both_loops
async def test_a_receiver_that_takes_nothing(tmp_path: Path):
    async with site(tmp_path, write_stall_s=0.05) as peer:
        peer.shelf.put(2, BODY * 10)
        with peer.raw(receive_bytes=4096) as sock:
            await say(sock, request_bytes("/v1/jobs/job/objects/2"))
            await until(lambda: peer.shelf.opened == 1 and peer.counters.connections == 0)
            assert peer.counters.cut == 1
            with pytest.raises(ConnectionResetError):  # not a goodbye: what was not sent is dropped
                await rest(sock)


@both_loops
async def test_slow_receivers_do_not_hold_the_slots(tmp_path: Path):
    async with site(tmp_path, upload_slots=2, slot_hold_s=0.01) as peer, client() as http:
        peer.shelf.put(2, BODY * 10)
        with ExitStack() as stack:
            slow = [stack.enter_context(peer.raw(receive_bytes=4096)) for _ in range(5)]
            for sock in slow:
                await say(sock, request_bytes("/v1/jobs/job/objects/2", "Connection: close"))
            assert await fetch(http, peer.url()) == BODY
            await until(lambda: peer.counters.active_uploads == 5)
            # They were only slow: each still gets everything.
            for text in await asyncio.gather(*map(rest, slow)):
                assert text.partition(b"\r\n\r\n")[2] == BODY * 10


# -- limits


@both_loops
async def test_slots_and_their_queue(tmp_path: Path):
    gate = asyncio.Event()
    async with (
        site(tmp_path, upload_slots=1, slot_queue_max=1, upload_rate=1000.0, sleep=lambda _: gate.wait()) as peer,
        client(connections=10) as http,
    ):
        first = asyncio.ensure_future(fetch(http, peer.url(), byte_range=(0, 2000)))  # pays, and waits at the gate
        await until(lambda: peer.counters.active_uploads == 1 and peer.counters.sent_bytes == 1000)
        second = asyncio.ensure_future(fetch(http, peer.url(), byte_range=(5, 10)))
        await until(lambda: peer.counters.requests == 2)
        async with await ask(http, peer.url()) as answer:
            assert (answer.status, answer.headers.get("retry-after")) == (503, "1")
        assert not first.done() and not second.done()
        gate.set()
        assert await first == BODY[:2000]
        assert await second == BODY[5:15]
        assert peer.counters.refused == 1


@both_loops
async def test_no_slot_within_the_wait(tmp_path: Path):
    gate = asyncio.Event()
    options = {"upload_slots": 1, "slot_wait_s": 0.01, "upload_rate": 1000.0, "sleep": lambda _: gate.wait()}
    async with site(tmp_path, **options) as peer, client() as http:
        first = asyncio.ensure_future(fetch(http, peer.url(), byte_range=(0, 2000)))
        await until(lambda: peer.counters.sent_bytes == 1000)
        await fetch(http, peer.url(), status=503)
        gate.set()
        assert await first == BODY[:2000]
        assert await fetch(http, peer.url(), byte_range=(0, 9)) == BODY[:9], "no slot was lost"


@both_loops
async def test_a_long_body_lets_others_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shoal.agent.peer.connection.SLOT_BYTES", 1000)
    gate = asyncio.Event()
    options = {"upload_slots": 1, "upload_rate": 1000.0, "sleep": lambda _: gate.wait()}
    async with site(tmp_path, **options) as peer, client() as http:
        long = asyncio.ensure_future(fetch(http, peer.url(), byte_range=(0, 500_000)))
        await until(lambda: peer.counters.sent_bytes == 1000)
        short = asyncio.ensure_future(fetch(http, peer.url(), byte_range=(0, 10)))
        await until(lambda: peer.server._service.slots.waiting == 1)
        gate.set()
        assert await short == BODY[:10]
        assert not long.done() and peer.counters.sent_bytes < 100_000
        assert await long == BODY[:500_000]


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        self.now += delay_s
        await asyncio.sleep(0)


@both_loops
async def test_the_rate_of_all_bodies_together(tmp_path: Path):
    """All pay out of one bucket: 3 MB at 100 kB/s, of which one second's worth was saved up."""
    time = VirtualTime()
    async with (
        site(tmp_path, upload_rate=100_000.0, clock=time, sleep=time.sleep) as peer,
        client(connections=3) as http,
    ):
        starts = range(0, len(BODY), 1_000_000)
        found = await asyncio.gather(*(fetch(http, peer.url(), byte_range=(start, 1_000_000)) for start in starts))
        assert b"".join(found) == BODY
    # The sleepers' clocks add up, as each moves the one clock: never less than the bytes cost.
    assert time.now >= 29.0


@both_loops
async def test_too_many_connections(tmp_path: Path):
    async with site(tmp_path, connections_max=2, upload_slots=4) as peer, client(connections=10) as http:
        part = peer.shelf.put(2, BODY, arrived=10)
        busy = [asyncio.ensure_future(fetch(http, peer.url("/v1/jobs/job/objects/2"))) for _ in range(2)]
        await until(lambda: peer.shelf.waits == 2)
        async with await ask(http, peer.url()) as answer:
            assert (answer.status, answer.headers.get("retry-after")) == (503, "1")
        assert peer.counters.connections == 2 and peer.counters.refused == 1
        part.arrive(len(BODY) - 10)
        assert await asyncio.gather(*busy) == [BODY] * 2


@both_loops
async def test_too_many_connections_of_one_address(tmp_path: Path):
    async with site(tmp_path, connections_per_address_max=2) as peer:
        with peer.raw() as one, peer.raw() as two, peer.raw(source="127.0.0.2") as elsewhere:
            await until(lambda: peer.counters.connections == 3)
            with peer.raw() as third:
                assert (await exchange(third, request_bytes())).startswith(b"HTTP/1.1 503 ")
            for sock in (one, two, elsewhere):
                assert b"206" in await exchange(sock, request_bytes(OBJECT, "Range: bytes=0-1", "Connection: close"))
        await until(lambda: peer.counters.connections == 0)


@both_loops
async def test_who_has_waited_longest_makes_room(tmp_path: Path):
    async with site(tmp_path, connections_max=3) as peer, client() as http:
        with peer.raw() as one, peer.raw() as two, peer.raw() as three:
            await until(lambda: peer.counters.connections == 3)
            for sock in (one, two, three):
                await say(sock, request_bytes(OBJECT, "Range: bytes=0-1"))
                await receive_head(sock)
                await receive(sock, 2)
            assert await fetch(http, peer.url()) == BODY
            with pytest.raises(ConnectionResetError):
                await rest(one)
            for sock in (two, three):
                await say(sock, request_bytes(OBJECT, "Range: bytes=0-1"))
                assert b"206" in await receive_head(sock)


@both_loops
async def test_a_thousand_slow_connections(tmp_path: Path):
    """Half of them silent, half in the middle of a head: they get no more than their share, and somebody else is served."""
    async with site(tmp_path, connections_max=100, connections_per_address_max=2000) as peer, client() as http:
        before = open_sockets_and_files()
        with ExitStack() as stack:
            for number in range(1000):
                sock = stack.enter_context(peer.raw())
                if number % 2:
                    await say(sock, b"GET /v1/jobs/")
                if number % 100 == 0:
                    assert await fetch(http, peer.url(), byte_range=(number, 1000)) == BODY[number : number + 1000]
                await asyncio.sleep(0)
            assert await fetch(http, peer.url()) == BODY
            await until(lambda: open_sockets_and_files() <= before + 1000 + 100 + 8)
            assert peer.counters.connections <= 101
        await until(lambda: peer.counters.connections <= 4)


@both_loops
async def test_silence_before_and_in_a_head(tmp_path: Path):
    async with site(tmp_path, head_timeout_s=0.05) as peer:
        with peer.raw() as silent, peer.raw() as slow:
            await say(slow, b"GET /v1")
            assert await rest(silent) == b""
            try:
                assert await rest(slow) == b""
            except ConnectionError:  # what it said came when the server had closed already
                pass
        await until(lambda: peer.counters.connections == 0)


@both_loops
async def test_a_head_that_drips(tmp_path: Path):
    """Each byte comes in time, the whole head does not."""
    async with site(tmp_path, head_timeout_s=0.1) as peer:
        with peer.raw() as sock, pytest.raises(ConnectionError):
            while True:
                await say(sock, b"G")
                await asyncio.sleep(0.01)
        await until(lambda: peer.counters.connections == 0)
        assert peer.counters.requests == 0


@both_loops
async def test_idle_connections_are_closed(tmp_path: Path):
    async with site(tmp_path, idle_timeout_s=0.01) as peer, client(connections=1) as http:
        assert await fetch(http, peer.url(), byte_range=(0, 5)) == BODY[:5]
        await until(lambda: peer.counters.connections == 0)
        assert await fetch(http, peer.url(), byte_range=(0, 5)) == BODY[:5]


@both_loops
async def test_no_files_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Accepting fails for a while: nobody is lost, and the port is not deaf for good."""
    failures = iter([OSError(24, "Too many open files")] * 3)
    real = socket.socket.accept

    def accept(sock: socket.socket) -> object:
        if (failure := next(failures, None)) is not None:
            raise failure
        return real(sock)

    monkeypatch.setattr("shoal.agent.peer.server.ACCEPT_PAUSE_S", 0.001)
    monkeypatch.setattr(socket.socket, "accept", accept)
    async with site(tmp_path) as peer, client() as http:
        assert await fetch(http, peer.url()) == BODY


# -- TLS


@both_loops
async def test_tls(tmp_path: Path):
    pem = make_certificate(tmp_path, now=datetime.datetime.now(datetime.UTC))
    async with site(tmp_path, tls=server_context(pem)) as peer:
        async with client(connections=2, tls=TlsOptions(ca_bundle=str(pem))) as http:
            ranges = [(start, 700_001) for start in range(0, len(BODY), 700_001)]
            found = await asyncio.gather(*(fetch(http, peer.url(), byte_range=part) for part in ranges))
            assert b"".join(found) == BODY
            await fetch(http, peer.url("/v1/jobs/job/objects/2"), status=404)
            assert peer.counters.connections == 2
        with peer.raw() as plain:  # no handshake
            await say(plain, request_bytes())
            try:
                text = await rest(plain)
            except ConnectionResetError:
                text = b""
            assert b"HTTP/1.1" not in text
        await until(lambda: peer.counters.connections == 0)


@both_loops
async def test_tls_with_a_slow_receiver_and_a_goodbye(tmp_path: Path):
    """The last answer of a connection arrives whole, and the server holds only a little of it at a time."""
    pem = make_certificate(tmp_path, now=datetime.datetime.now(datetime.UTC))
    context = ssl.create_default_context(cafile=pem)
    async with site(tmp_path, tls=server_context(pem)) as peer:
        peer.shelf.put(2, BODY * 10)
        reader, writer = await asyncio.open_connection("127.0.0.1", peer.port, ssl=context, limit=4096)
        writer.write(request_bytes("/v1/jobs/job/objects/2", "Connection: close"))
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(100):  # the reader takes nothing meanwhile
            await asyncio.sleep(0.001)
        assert peer.counters.sent_bytes < 20_000_000
        found = bytearray()
        while data := await reader.read(1 << 16):
            found += data
        assert found == BODY * 10
        writer.close()
        await writer.wait_closed()


@both_loops
async def test_tls_receivers_that_go_away_or_stall(tmp_path: Path):
    pem = make_certificate(tmp_path, now=datetime.datetime.now(datetime.UTC))
    context = ssl.create_default_context(cafile=pem)
    async with site(tmp_path, tls=server_context(pem), write_stall_s=0.05) as peer:
        peer.shelf.put(2, BODY * 10)
        part = peer.shelf.put(3, BODY, arrived=5)
        for path in ("/v1/jobs/job/objects/2", "/v1/jobs/job/objects/3"):
            _, writer = await asyncio.open_connection("127.0.0.1", peer.port, ssl=context, limit=4096)
            writer.write(request_bytes(path))
            if path.endswith("3"):
                await until(lambda: peer.shelf.waits == 1)
                writer.transport.abort()
            await until(lambda: peer.shelf.opened > 0 and peer.shelf.open == 0 and peer.counters.connections == 0)
            writer.transport.abort()
        assert peer.counters.cut == 2 and part.arrived == 5


# -- start and stop


@both_loops
async def test_closing_cuts_uploads_under_way(tmp_path: Path):
    """Waiting for bytes, for the receiver, for the rate, for a slot, for a request: all end at once. `site` checks the files."""
    async with client(connections=10) as http, site(tmp_path, upload_slots=1, slot_hold_s=1000.0) as peer:
        peer.shelf.put(2, BODY, arrived=10)
        peer.shelf.put(3, BODY * 10)
        waiting = await ask(http, peer.url("/v1/jobs/job/objects/2"))
        await until(lambda: peer.shelf.waits == 1)
        with peer.raw(receive_bytes=4096) as slow, peer.raw() as idle, peer.raw() as half:
            await say(slow, request_bytes("/v1/jobs/job/objects/3"))
            await until(lambda: peer.counters.active_uploads == 2)
            queued = asyncio.ensure_future(ask(http, peer.url()))
            await say(half, b"GET /")
            await until(lambda: peer.counters.requests == 3 and peer.counters.connections == 5)
            await peer.server.aclose()
            with pytest.raises(Truncated):
                await waiting.read(1 << 30)
            with pytest.raises(ShoalError):
                await queued
            assert await rest(idle) == b"" and await rest(half) == b""
        assert peer.counters.connections == 0


@both_loops
async def test_closing_while_a_thread_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file stays open until the thread is done with it, however often the task is cancelled."""
    loop = asyncio.get_running_loop()
    begun, go_on = asyncio.Event(), __import__("threading").Event()
    seen: list[str] = []
    real = os.sendfile

    def sendfile(out: int, source: int, offset: int, count: int) -> int:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(60)
        seen.append(os.readlink(f"/proc/self/fd/{source}"))
        return real(out, source, offset, count)

    monkeypatch.setattr(transport_module, "_is_in_memory", lambda *_: False)
    monkeypatch.setattr(os, "sendfile", sendfile)
    async with site(tmp_path) as peer, client() as http:
        asked = asyncio.ensure_future(fetch(http, peer.url()))
        await begun.wait()
        closing = asyncio.ensure_future(peer.server.aclose())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done() and peer.shelf.open == 1
        go_on.set()
        await closing
        with pytest.raises(ShoalError):
            await asked
    assert seen == [str(tmp_path / "1")]


@both_loops
async def test_closing_at_once(tmp_path: Path):
    """Also before the server's task has had its first turn."""
    async with site(tmp_path):
        pass


@both_loops
async def test_ports(tmp_path: Path):
    async with site(tmp_path) as peer:
        other = PeerServer(peer.shelf, key=lambda: KEY, holder="holder", now=lambda: 0.0)
        with pytest.raises(Conflict, match="taken"):
            await other.start("127.0.0.1", peer.port)
        with pytest.raises(UsageError):
            await other.start("192.0.2.1", 0)
        await other.aclose()
        again = PeerServer(peer.shelf, key=lambda: KEY, holder="holder", now=lambda: 1000.0)
        host, port = await again.start("::1", 0)
        async with client() as http:
            assert await fetch(http, f"http://[{host}]:{port}{OBJECT}") == BODY
        await again.aclose()


@both_loops
async def test_a_shelf_with_a_bug_costs_one_connection(tmp_path: Path):
    async with site(tmp_path) as peer, client() as http:
        peer.shelf.failure = RuntimeError("a bug")
        with pytest.raises(ShoalError):
            await fetch(http, peer.url())
        peer.shelf.failure = None
        assert await fetch(http, peer.url()) == BODY
