"""What the ranks of a fleet tell each other while they work: one TCP connection from each rank to rank 0, in JSON lines.

    rank → 0   {"rank": 3, "key": "…"}     who I am; the key is that of this run
    0 → rank   {"welcome": true}
    rank → 0   {"agents": 1}               so many of my agents run now
    rank → 0   {"stop": true}              I was told to stop: all shall
    0 → rank   {"end": 0}                  the run is over; the exit code of all
    rank → 0   {"drained": true}           my agents have ended in order
    0 → rank   (closes)                    all have drained: leave

A connection that breaks is a rank that died; MPI is not asked. TLS is that of the coordinator: the ranks trust its certificate alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ..common.errors import Unreachable
from ..common.logs import get_logger
from ..common.secrets import Secret
from .addresses import ANY

CONNECT_S = 5.0
"""An address that swallows packets is given up after this; there are more of them."""
ROUNDS = 3
HELLO_S = 10.0
LINE_BYTES_MAX = 4096
KEEPALIVE = ((socket.SO_KEEPALIVE, 1), ("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
"""tcp(7): a node without power is noticed after half a minute."""

log = get_logger("launch")
Message = dict[str, Any]


class Line:
    """One end of a lifeline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        _keep_alive(writer.get_extra_info("socket"))

    async def read(self) -> Message | None:
        """The next message; None at the end, also after one that makes no sense."""
        try:
            found = json.loads(await self._reader.readline())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType]

    def send(self, **message: object) -> None:
        """Say something. A line that is broken already is noticed by who reads."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def close(self) -> None:
        """Close it, with what was said before."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await self._writer.wait_closed()


# ---- rank 0 -------------------------------------------------------------------------------------------------------------


def listening_socket(host: str) -> socket.socket:
    """A socket on any free port of an address. The caller owns it, until `Lifelines.serving` does."""
    if host == ANY and socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


class Lifelines:
    """Rank 0's ends of all lifelines. Use within `serving`, on one event loop."""

    def __init__(self, ranks: Sequence[int], key: Secret, on_message: Callable[[int, Message], None]) -> None:
        """Args: ranks that will call, all but 0; on_message is called with each message and its rank, and with ``{"gone": true}``
        when a rank's line ended.
        """
        self.waiting = set(ranks)
        """Ranks that have not called yet."""
        self.open: dict[int, Line] = {}
        self._key = key
        self._on_message = on_message
        self._end: int | None = None
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def serving(self, listening: socket.socket, tls: ssl.SSLContext | None) -> AsyncGenerator[None]:
        """Answer as long as the block runs; then all lines are closed."""
        answering: set[asyncio.Task[None]] = set()

        def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._answer(Line(reader, writer)))
            answering.add(task)
            task.add_done_callback(answering.discard)

        server = await asyncio.start_server(called, sock=listening, ssl=tls, limit=LINE_BYTES_MAX)
        try:
            yield
        finally:
            server.close()
            for task in answering:
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)

    def end(self, code: int) -> None:
        """Tell all ranks, also those that call later, that the run is over, and how."""
        self._end = code
        for line in self.open.values():
            line.send(end=code)

    async def until(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something holds, looked at after each message, at most timeout_s. Returns whether it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not reached():
                    self._changed.clear()
                    await self._changed.wait()
        return reached()

    async def _answer(self, line: Line) -> None:
        rank = -1
        try:
            async with asyncio.timeout(HELLO_S):
                hello = await line.read() or {}
            if not hmac.compare_digest(str(hello.get("key")).encode(), self._key.reveal().encode()):
                return
            if hello.get("rank") not in self.waiting:
                return
            rank = int(hello["rank"])
            self.waiting.discard(rank)
            self.open[rank] = line
            line.send(welcome=True)
            if self._end is not None:
                line.send(end=self._end)
            while (message := await line.read()) is not None:
                self._tell(rank, message)
        except TimeoutError:
            pass
        finally:
            if self.open.pop(rank, None) is not None:
                self._tell(rank, {"gone": True})
            await line.close()

    def _tell(self, rank: int, message: Message) -> None:
        self._on_message(rank, message)
        self._changed.set()


def server_tls(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS with a certificate and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


# ---- the other ranks ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def lifeline(
    hosts: Sequence[str], port: int, *, rank: int, key: Secret, authority: str
) -> AsyncGenerator[tuple[str, Line]]:
    """A rank's line, by the first address that answers; the address, too. Raises Unreachable if none does."""
    tls = ssl.create_default_context(cadata=authority) if authority else None
    line, host = None, ""
    for host in [*hosts] * ROUNDS:
        line = await _call(host, port, rank=rank, key=key, tls=tls)
        if line is not None:
            break
        await asyncio.sleep(0.2)
    if line is None:
        raise Unreachable(
            "rank 0",
            cause=f"none of its addresses answers from rank {rank}: {', '.join(hosts)}",
            remedy="name one that the nodes reach with --host",
        )
    try:
        yield host, line
    finally:
        await line.close()


async def _call(host: str, port: int, *, rank: int, key: Secret, tls: ssl.SSLContext | None) -> Line | None:
    line = None
    try:
        async with asyncio.timeout(CONNECT_S):
            line = Line(*await asyncio.open_connection(host, port, ssl=tls, limit=LINE_BYTES_MAX))
            line.send(rank=rank, key=key.reveal())
            if (await line.read() or {}).get("welcome"):
                return line
    except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError: what answers there is another program
        log.debug("launch.address_tried", host=host, port=port, error=str(error) or type(error).__name__)
    if line is not None:
        await line.close()
    return None


def _keep_alive(sock: Any) -> None:
    for name, value in KEEPALIVE:
        option = getattr(socket, name, None) if isinstance(name, str) else name
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP if isinstance(name, str) else socket.SOL_SOCKET, option, value)
