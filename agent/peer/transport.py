"""Bytes out of a file into a socket: by ``os.sendfile`` on a plain one, by reading and writing where TLS must see them.

The event loop only waits for sockets (``add_reader``, ``add_writer``: uvloop has no ``sendfile`` of its own, and the loops' own
streams would copy). What lies in the page cache is sent from the loop itself, without a hop to a thread; whether it does is asked
with one byte and RWF_NOWAIT (preadv(2)); tmpfs never waits. A part that must be read from a disk first, or whose file system cannot
tell, is sent by one of a few threads, so that a slow disk never holds up the agent's heartbeats. Measured on loopback, see PART_BYTES.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from ...common.mounts import filesystem_type, is_memory

if TYPE_CHECKING:
    import ssl

PART_BYTES: Final = 1 << 20  # of one system call: under a millisecond from memory; larger ones were not cheaper
TLS_PART_BYTES: Final = 256 * 1024  # what one body may hold in memory, about twice: clear and encrypted
CLOSE_S: Final = 1.0  # for the goodbye of TLS when we are in a hurry: the other side may be gone already
RECEIVE_BYTES: Final = 16 * 1024  # more than any good request
_GONE: Final = ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
_NO_WAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)  # Linux; elsewhere files are always read by threads
_CORK: Final[int | None] = getattr(socket, "TCP_CORK", None)
_memory_devices: dict[int, bool] = {}  # by st_dev; as many as the agent's destinations have file systems
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s: what was not sent is dropped (socket(7))

_T = TypeVar("_T")


class Transport(Protocol):
    """One accepted connection. One task uses it; ``abort`` may come from anywhere on the loop."""

    async def receive(self) -> bytes:
        """Some bytes, at least one; none at the end. Raises OSError."""
        ...

    async def send(self, data: bytes) -> None:
        """Send a few bytes of our own. Raises OSError."""
        ...

    async def send_file(self, fd: int, offset: int, count: int) -> int | None:
        """Send up to ``count`` bytes of a file: how many were, 0 at its end, None when the receiver must first take some."""
        ...

    async def writable(self) -> None:
        """Return when the receiver has taken some. Raises OSError."""
        ...

    def cork(self, on: bool) -> None:
        """Put small pieces into full packets from now on, or send at once what waits for more."""
        ...

    def watch(self, gone: Callable[[], None]) -> None:
        """Call back, once, if the other side goes away before ``unwatch``; meanwhile nothing may be received."""
        ...

    def unwatch(self) -> None: ...

    async def finish(self, linger_s: float, stall_s: float) -> None:
        """End our side after the last answer, and throw away for ``linger_s`` what the other side still sends.

        ``stall_s``: how long the receiver may take for what this side still holds.
        """
        ...

    def abort(self) -> None:
        """Close at once and drop what was not sent; whoever waits gets an OSError. Safe to call twice."""
        ...

    async def aclose(self) -> None:
        """Close; what was sent is still delivered if the other side takes it. Safe to call twice, and after ``abort``."""
        ...


class SocketTransport:
    """A plain TCP connection."""

    def __init__(self, sock: socket.socket, threads: Executor) -> None:
        """Owns ``sock`` from now on, which must not block."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._threads = threads
        self._closed = False
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._watched = False

    async def receive(self) -> bytes:
        while True:
            try:
                return self._sock.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                await self._readable()

    async def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._sock.send(data) :]
            except (BlockingIOError, InterruptedError):
                await self.writable()

    async def send_file(self, fd: int, offset: int, count: int) -> int | None:
        count = min(count, PART_BYTES)
        try:
            if _is_in_memory(fd, offset, count):
                return os.sendfile(self._sock.fileno(), fd, offset, count)
            return await in_thread(self._threads, lambda: os.sendfile(self._sock.fileno(), fd, offset, count))
        except (BlockingIOError, InterruptedError):
            return None

    async def writable(self) -> None:
        future = self._writing = self._loop.create_future()
        self._loop.add_writer(self._sock, _settle, future)
        try:
            await future
        finally:
            self._writing = None
            if not self._closed:
                self._loop.remove_writer(self._sock)

    def cork(self, on: bool) -> None:
        if _CORK is not None and not self._closed:
            self._sock.setsockopt(socket.IPPROTO_TCP, _CORK, int(on))

    def watch(self, gone: Callable[[], None]) -> None:
        self._watched = True
        self._loop.add_reader(self._sock, self._look, gone)

    def unwatch(self) -> None:
        if self._watched:
            self._watched = False
            if not self._closed:
                self._loop.remove_reader(self._sock)

    async def finish(self, linger_s: float, stall_s: float) -> None:
        # To close with unread input makes the kernel reset the connection, and the answer may be lost (RFC 9112 section 9.6).
        try:
            self.cork(False)
            self._sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(linger_s):
                while await self.receive():
                    pass
        except (OSError, TimeoutError):
            pass

    def abort(self) -> None:
        if not self._closed:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass
            self._close()

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self.unwatch()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._closed = True
        self._sock.close()
        for future in (self._reading, self._writing):
            if future is not None and not future.done():
                future.set_exception(_GONE)

    async def _readable(self) -> None:
        future = self._reading = self._loop.create_future()
        self._loop.add_reader(self._sock, _settle, future)
        try:
            await future
        finally:
            self._reading = None
            if not self._closed:
                self._loop.remove_reader(self._sock)

    def _look(self, gone: Callable[[], None]) -> None:
        try:
            left = not self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            left = True
        self.unwatch()  # otherwise the same news would come again and again
        if left:
            gone()


class TlsTransport(asyncio.Protocol):
    """A connection inside TLS: bytes pass through memory, at most a few parts at a time."""

    def __init__(self, threads: Executor) -> None:
        """Made as the protocol of ``open_tls``."""
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._ended = False
        self._full = False  # our side has written as much as it may
        self._paused = False  # the other side sends more than anybody reads
        self._waiter: asyncio.Future[None] | None = None
        self._gone: Callable[[], None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()

    async def receive(self) -> bytes:
        while not self._received and not self._ended:
            await self._wait()
        data = bytes(self._received)
        self._received.clear()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def send(self, data: bytes) -> None:
        self._write(data)
        await self.writable()

    async def send_file(self, fd: int, offset: int, count: int) -> int | None:
        if self._full:
            return None
        count = min(count, TLS_PART_BYTES)
        data = await self._read(fd, offset, count)
        if data:
            self._write(data)
        return len(data)

    async def writable(self) -> None:
        while self._full:
            await self._wait()
        if self._lost.done():
            raise _GONE

    def cork(self, on: bool) -> None:
        pass  # records are written in large parts as it is

    def watch(self, gone: Callable[[], None]) -> None:
        if self._ended:
            self._loop.call_soon(gone)
        else:
            self._gone = gone

    def unwatch(self) -> None:
        self._gone = None

    async def finish(self, linger_s: float, stall_s: float) -> None:
        # The TLS layer itself sends what is left, and reads on until the other side says goodbye.
        await self._close_within(stall_s)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self) -> None:
        await self._close_within(CLOSE_S)
        await settled(self._lost)

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports do not inherit from asyncio's
        self._transport.set_write_buffer_limits(high=TLS_PART_BYTES)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > RECEIVE_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._end()
        return False  # TLS cannot be half closed here: the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._full = False
        self._end()
        self._transport = None
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    async def _close_within(self, seconds: float) -> None:
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._lost)
        except TimeoutError:
            pass
        finally:
            self.abort()

    def _end(self) -> None:
        self._ended = True
        self._wake()
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise _GONE
        self._transport.write(data)

    async def _read(self, fd: int, offset: int, count: int) -> bytes:
        if _NO_WAIT:
            buffer = bytearray(count)
            try:
                found = os.preadv(fd, [buffer], offset, _NO_WAIT)
                return bytes(memoryview(buffer)[:found])
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                    raise
        return await in_thread(self._threads, lambda: os.pread(fd, count, offset))

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def open_tls(
    sock: socket.socket, context: ssl.SSLContext, threads: Executor, *, handshake_s: float, shutdown_s: float
) -> TlsTransport:
    """A TLS session on an accepted socket, which it owns from now on. Raises OSError when the other side does not shake hands."""
    loop = asyncio.get_running_loop()
    transport = TlsTransport(threads)
    try:
        await loop.connect_accepted_socket(
            lambda: transport,
            sock,
            ssl=context,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=shutdown_s,
        )
    except BaseException:
        sock.close()
        raise
    return transport


async def in_thread(threads: Executor, call: Callable[[], _T]) -> _T:
    """Run a call that uses our files in a thread. It is waited for even when cancelled: a descriptor that is closed under it may
    already be another file."""
    future = asyncio.get_running_loop().run_in_executor(threads, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await settled(future)
        if not future.cancelled():
            future.exception()  # the cancellation is what is told
        raise


async def settled(future: asyncio.Future[_T]) -> None:
    """Return when a future is done, whatever came of it; a cancellation meanwhile is told afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _is_in_memory(fd: int, offset: int, count: int) -> bool:
    """Whether both ends of a part of a file lie in the page cache, so probably all of it does. Raises OSError."""
    if not _NO_WAIT:
        return False
    if _memory_devices and _memory_devices.get(os.fstat(fd).st_dev):
        return True
    try:
        one = bytearray(1)
        return all(os.preadv(fd, [one], at, _NO_WAIT) >= 0 for at in (offset + count - 1, offset))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return _lies_in_memory(fd)
        if error.errno == errno.EAGAIN:
            return False
        raise


def _lies_in_memory(fd: int) -> bool:
    """Whether the file's system is memory itself: tmpfs does not know RWF_NOWAIT, and never waits for a disk."""
    device = os.fstat(fd).st_dev
    known = _memory_devices.get(device)
    if known is None:
        known = _memory_devices[device] = is_memory(filesystem_type(Path(f"/proc/self/fd/{fd}")))
    return known


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
