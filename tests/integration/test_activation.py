"""The relay between systemd's sockets and gRPC: every byte, both ways, no faster than it is read, and everything closed in the end."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.coordinator.activation import HIGH_WATER_BYTES, Relay, address_of

Run = Callable[[Coroutine[Any, Any, None]], None]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Runs a test in a loop of this kind: the two call protocols in slightly different orders."""
    factory = None if request.param == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@asynccontextmanager
async def relayed(handler: Handler, *, early: bytes = b"") -> AsyncIterator[tuple[Relay, socket.socket]]:
    """A relay to a server with this handler, and a client that connected (and said something) before it was started."""
    folder = Path(tempfile.mkdtemp(prefix="run-"))  # a socket's path must be short
    client = socket.socket()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client.connect(listener.getsockname())
        client.sendall(early)
        client.setblocking(False)
        relay = Relay([listener], {"RUNTIME_DIRECTORY": f"{folder}:/elsewhere"})
        server = await asyncio.start_unix_server(handler, str(relay.path))
        await relay.start()
        try:
            yield relay, client
        finally:
            await relay.stop()
            server.close()
            client.close()
    folder.rmdir()  # which it cannot be unless it is empty


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write(b"end")
    writer.close()


def test_every_byte_goes_through_whoever_speaks_first(run: Run) -> None:
    async def main() -> None:
        sent = os.urandom(5 << 20)
        async with relayed(echo, early=b"early") as (_relay, client):
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(sent)
            writer.write_eof()  # the other direction goes on
            assert await reader.read() == b"early" + sent + b"end"
            writer.close()

    run(main())


def test_a_reader_that_is_slow_holds_up_the_writer(run: Run) -> None:
    async def main() -> None:
        written = 0
        released = asyncio.Event()

        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            while not released.is_set():
                writer.write(bytes(1 << 16))
                written += 1 << 16
                try:
                    async with asyncio.timeout(0.3):
                        await writer.drain()
                except TimeoutError:
                    released.set()
            writer.transport.abort()

        async with relayed(flood) as (_relay, client):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            await asyncio.wait_for(released.wait(), 30)
            assert written < 64 * HIGH_WATER_BYTES  # what the kernel's buffers hold, and the relay's

    run(main())


def test_who_goes_takes_the_other_end_along(run: Run) -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            gone.set()

        async with relayed(wait, early=b"x") as (_relay, client):
            client.close()
            await asyncio.wait_for(gone.wait(), 30)

    run(main())


def test_a_server_that_is_not_there_closes_the_connection(run: Run) -> None:
    async def main() -> None:
        async with relayed(echo) as (relay, client):
            relay.path.unlink()
            with socket.create_connection(client.getpeername()) as late:
                late.setblocking(False)
                try:
                    assert await asyncio.get_running_loop().sock_recv(late, 10) == b""
                except ConnectionResetError:
                    pass

    run(main())


def test_stopping_cuts_what_is_open(run: Run) -> None:
    async def main() -> None:
        async with relayed(echo, early=b"x") as (relay, client):
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(client, 10) == b"x"
            await relay.stop()
            try:
                assert await loop.sock_recv(client, 10) == b""
            except ConnectionResetError:
                pass
            await relay.stop()

    run(main())


def test_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert address_of(listener) == f"127.0.0.1:{listener.getsockname()[1]}"
    with socket.socket(socket.AF_UNIX) as unix:
        assert address_of(unix) == ""
