"""Sockets that systemd listens on for the coordinator, and how their connections reach gRPC.

gRPC's Python API cannot take a socket that exists already: its core can, when it is built with libsystemd, which the published
packages are not (https://github.com/grpc/grpc/issues/19133); and binding the same address a second time with SO_REUSEPORT needs the
same user, while systemd's socket is root's, and would leave half of the connections waiting at systemd's. So gRPC listens on a Unix
socket of its own, in a folder that nobody else can enter, and the bytes of each connection are handed on. TLS, keepalive and flow
control stay between the client and gRPC. Only messages of the fleet pass here, never what is downloaded.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from ..common.logs import get_logger

HIGH_WATER_BYTES = 256 << 10
"""What waits for a slow reader before the other side is read no further."""

BASE_BYTES_MAX = 80
"""The path of a Unix socket has room for 107 bytes (unix(7)), ours takes up to 20."""

log = get_logger("coordinator.activation")


def address_of(listener: socket.socket) -> str:
    """HOST:PORT, or empty for a Unix socket, which the permissions of its file guard."""
    if listener.family == socket.AF_UNIX:
        return ""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Relay:
    """Hands the connections of listening sockets on to a Unix socket. Use: `path`, then ``await start()``, ``await stop()``."""

    def __init__(self, listeners: Sequence[socket.socket], environ: Mapping[str, str]) -> None:
        """listeners: whoever made them closes them, too. environ: ``RUNTIME_DIRECTORY`` is where the Unix socket lies."""
        self._listeners = listeners
        base = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        self._folder = tempfile.TemporaryDirectory(
            prefix="shoal-", dir=base if 0 < len(os.fsencode(base)) < BASE_BYTES_MAX else None
        )
        self.path = Path(self._folder.name, "grpc")
        self._stack = AsyncExitStack()
        self._open: set[_End] = set()

    async def start(self) -> None:
        """Begin to accept; whoever connected before is served first."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            listener.setblocking(False)
            server = await loop.create_server(lambda: _Outer(self.path, self._open), sock=listener)
            self._stack.callback(server.close)

    async def stop(self) -> None:
        """Accept no more and cut what is open. Safe to call when `start` failed, and twice."""
        await self._stack.aclose()
        for end in list(self._open):
            end.abort()
        for listener in self._listeners:
            listener.close()
        self._folder.cleanup()


class _End(asyncio.Protocol):
    """One end of a connection: what arrives here leaves at the other end, no faster than it is read there."""

    def __init__(self, ends: set[_End]) -> None:
        self._ends = ends
        self._transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not of that class
        self._ends.add(self)
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.write(data)

    def eof_received(self) -> bool:
        if self.other is not None and self.other._transport is not None and self.other._transport.can_write_eof():
            self.other._transport.write_eof()
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._ends.discard(self)
        self._transport = None
        if self.other is not None and self.other._transport is not None:
            self.other._transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.resume_reading()

    def abort(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()


class _Outer(_End):
    """The end towards the client: it makes the other one."""

    def __init__(self, path: Path, ends: set[_End]) -> None:
        super().__init__(ends)
        self._path = path
        self._joining: asyncio.Task[None] | None = None
        self._early = bytearray()  # uvloop may deliver once what had arrived before reading was paused
        self._ended_early = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._transport is not None
        self._transport.pause_reading()
        self._joining = asyncio.get_running_loop().create_task(self._join())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._joining is not None:
            self._joining.cancel()

    async def _join(self) -> None:
        inner = _End(self._ends)
        inner.other = self
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: inner, str(self._path))
        except OSError as error:
            log.error("activation.not_joined", error=str(error))
            self.abort()
            return
        except asyncio.CancelledError:
            inner.abort()
            raise
        self.other = inner
        if self._early:
            super().data_received(bytes(self._early))
            self._early.clear()
        if self._ended_early:
            super().eof_received()
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early += data
        else:
            super().data_received(data)

    def eof_received(self) -> bool:
        self._ended_early = self.other is None
        return super().eof_received()
