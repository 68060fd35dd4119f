"""A web server that answers as the web does: wrongly, slowly, endlessly. What a path does is told by its first component."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

BOMB = gzip.compress(bytes(100 << 20), 1)  # 100 MiB in some hundred kB


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    number: int  # of requests for this path, from 1


@dataclass
class OddServer:
    """Serves ``pages`` (path to status, headers, body) and the odd paths below. ``log`` holds every path that was asked for.

    ``held``: path to what must be set before it is answered. ``crowd``: nobody is answered before so many have asked at the same time.
    """

    pages: dict[str, tuple[int, Mapping[str, str], bytes]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    delay_s: float = 0.0
    port: int = 0
    image: bytes = b""
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    crowd: int = 0
    together: int = 0
    together_max: int = 0
    _crowded: asyncio.Event = field(default_factory=asyncio.Event)
    _counts: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        self._counts[path] += 1
        request = Request(method, path, headers, self._counts[path])
        self.log.append(path)
        self.requests.append(request)
        self.together += 1
        self.together_max = max(self.together, self.together_max)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if path in self.held:
                await self.held[path].wait()
            if self.together >= self.crowd:
                self._crowded.set()
            await self._crowded.wait()
            if path in self.pages:
                status, extra, body = self.pages[path]
                await self.answer(writer, status, body, extra)
                return True
            return await self._odd(request, writer)
        finally:
            self.together -= 1

    async def answer(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        fields = {"Content-Length": str(len(body) if length is None else length), **(headers or {})}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        self.sent_bytes += len(body)
        await writer.drain()

    async def _odd(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        word, _, rest = request.path.removeprefix("/").partition("/")
        image, jpeg = self.image, {"Content-Type": "image/jpeg"}
        match word:
            case "ok":
                await self.answer(writer, 200, image, jpeg)
            case "status":
                code, _, extra = rest.partition("/")
                wait = {"Retry-After": extra.removeprefix("after-")} if extra.startswith("after-") else {}
                await self.answer(writer, int(code), b"no", wait)
            case "then":  # the first answer has this status, the others are good
                code, _, extra = rest.partition("/")
                wait = {"Retry-After": extra.removeprefix("after-")} if extra.startswith("after-") else {}
                if request.number == 1:
                    await self.answer(writer, int(code), b"no", wait)
                else:
                    await self.answer(writer, 200, image, jpeg)
            case "hang":
                await asyncio.sleep(3600)
            case "drip":
                await self.answer(writer, 200, b"", jpeg, length=len(image))
                for byte in image:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.05)
            case "reset":
                writer.transport.abort()
                return False
            case "loop":
                await self.answer(writer, 302, b"", {"Location": f"/loop/{(int(rest) + 1) % 3}"})
            case "far":
                await self.answer(writer, 302, b"", {"Location": f"/far/{int(rest) + 1}"})
            case "to":
                await self.answer(writer, 302, b"", {"Location": rest})
            case "hop":
                await self.answer(writer, 301, b"moved", {"Location": "/ok/moved"})
            case "html":
                await self.answer(writer, 200, b"<!DOCTYPE html><html>no</html>", {"Content-Type": "text/html"})
            case "json":
                await self.answer(writer, 200, b'{"no": 1}', {"Content-Type": "application/json"})
            case "short":
                await self.answer(writer, 200, image[: len(image) // 2], jpeg, length=len(image))
                return False
            case "cut":  # a truncated image with the right length
                await self.answer(writer, 200, image[: len(image) // 2], jpeg)
            case "big":  # says so
                await self.answer(writer, 200, b"", jpeg, length=5 << 30)
                await self._pour(writer)
            case "endless":  # does not say so
                writer.write(b"HTTP/1.1 200 X\r\nContent-Type: image/jpeg\r\nConnection: close\r\n\r\n\xff\xd8\xff")
                await self._pour(writer)
            case "bomb":
                await self.answer(writer, 200, BOMB, {"Content-Encoding": "gzip", **jpeg})
            case "gzip":
                await self.answer(writer, 200, gzip.compress(image), {"Content-Encoding": "gzip", **jpeg})
            case "noai":
                await self.answer(writer, 200, image, {"X-Robots-Tag": "noai", **jpeg})
            case _:
                await self.answer(writer, 404, b"nothing here")
        return True

    async def _pour(self, writer: asyncio.StreamWriter) -> None:
        block = bytes(1 << 20)
        for _ in range(5 << 10):
            writer.write(block)
            await writer.drain()
            self.sent_bytes += len(block)


@asynccontextmanager
async def odd_server(image: bytes = b"") -> AsyncIterator[OddServer]:
    """A server on a free port of this machine."""
    site = OddServer(image=image)
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await site.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            connections.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 16)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()
