"""Web servers as a collector of images meets them: good ones, refusing ones, and ones that hang, drip, reset, lie or never end. ::

with ImageSite() as site:
    good = site.host(images)                      # /N.jpg is a JPEG of its own
    bad = site.host(always(Reply(403)))
    ... f"http://{good.name}/1.jpg" ...
    good.requests                                 # (seconds on the monotonic clock, path, status) of each
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import Literal, NamedTuple, Self

HEAD_MAX = 64 << 10
START_S = 30.0
DRIP_S = 0.2
BLOCK = b"\0" * (256 << 10)

Manner = Literal["plain", "hang", "drip", "reset", "truncated", "endless"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One answer. manner: hang says nothing, drip sends a byte now and then, reset cuts the connection without a word, truncated
    stops half-way through the body, endless sends as many bytes as length says."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    manner: Manner = "plain"
    length: int | None = None  # what Content-Length says


class Asked(NamedTuple):
    """One request as the server's log has it."""

    at: float
    path: str
    status: int


Answerer = Callable[[str, int], Reply]
"""What a host answers, by path and by how often that path was asked for before."""


@cache
def jpeg(number: int, *, width: int = 320, height: int = 240) -> bytes:
    """A JPEG of its own for each number: noise on a gradient, so that no two are alike."""
    from PIL import Image

    tone = Image.linear_gradient("L").resize((width, height))
    noise = Image.effect_noise((width, height), 20 + number % 20)
    picture = Image.merge("RGB", (tone, noise, Image.new("L", (width, height), number % 256)))
    picture.putpixel((number % width, number // width % height), (255, 0, 0))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85, comment=str(number).encode())
    return out.getvalue()


def png_bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, and that has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def images(path: str, _before: int) -> Reply:
    """``/N.jpg`` is JPEG number N; nothing else is there."""
    name, _, suffix = path.rpartition("/")[2].partition(".")
    if suffix != "jpg":
        return Reply(status=404)
    number = int(name)
    return Reply(body=jpeg(number), headers={"Content-Type": "image/jpeg", "ETag": f'"{number}"'})


def always(reply: Reply) -> Answerer:
    """The same answer to everything."""
    return lambda _path, _before: reply


def first(reply: Reply, then: Answerer, times: int = 1) -> Answerer:
    """So many times one answer for each path, then another."""
    return lambda path, before: reply if before < times else then(path, before)


class WebHost:
    """One server on a port of its own; its name is what a URL table calls it."""

    def __init__(self, answer: Answerer, address: str) -> None:
        self.answer = answer
        self.requests: list[Asked] = []
        self.open = 0
        self.open_max = 0
        self.connected = 0  # connections
        self._counts: dict[str, int] = {}
        self._socket = socket.create_server((address, 0), backlog=256)
        self.name = f"{address}:{self._socket.getsockname()[1]}"

    def url(self, path: str) -> str:
        """Of a path that begins with a slash."""
        return f"http://{self.name}{path}"

    async def start(self) -> asyncio.Server:
        """Serve."""
        return await asyncio.start_server(self._serve, sock=self._socket, limit=HEAD_MAX)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = head.split(" ", 2)[1]
                before = self._counts.get(path, 0)
                self._counts[path] = before + 1
                reply = self.answer(path, before)
                self.requests.append(Asked(time.monotonic(), path, reply.status))
                self.open += 1
                self.open_max = max(self.open_max, self.open)
                try:
                    if not await self._reply(writer, reply, body=not head.startswith("HEAD ")):
                        return
                finally:
                    self.open -= 1
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # cancelled by `_stop` alone, which awaits it
        finally:
            self.connected -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _reply(self, writer: asyncio.StreamWriter, reply: Reply, *, body: bool) -> bool:
        """Send it. Returns whether the connection goes on."""
        if reply.manner == "hang":
            await asyncio.sleep(3600)
        if reply.manner == "reset":
            peer = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        length = len(reply.body) if reply.length is None else reply.length
        lines = [
            f"HTTP/1.1 {reply.status} X",
            f"Content-Length: {length}",
            *(f"{k}: {v}" for k, v in reply.headers.items()),
        ]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if not body:
            return True
        if reply.manner == "drip":
            for byte in itertools.cycle(reply.body or b"x"):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(DRIP_S)
        if reply.manner == "endless":
            for _ in range(length // len(BLOCK)):
                writer.write(BLOCK)
                await writer.drain()
            return False
        if reply.manner == "truncated":
            writer.write(reply.body[: len(reply.body) // 2])
            await writer.drain()
            return False
        writer.write(reply.body)
        await writer.drain()
        return True


class ImageSite:
    """Web hosts in a thread of their own. A context manager; hosts may be added while it runs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="image-site", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def host(self, answer: Answerer = images, *, address: str = "127.0.0.1") -> WebHost:
        """One more server."""
        made = WebHost(answer, address)
        started: Future[asyncio.Server] = asyncio.run_coroutine_threadsafe(made.start(), self._loop)
        self._servers.append(started.result(START_S))
        return made

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
