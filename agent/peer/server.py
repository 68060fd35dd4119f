"""The port of the peer exchange: who may connect, and that everything is closed in the end.

A full server makes room by turning out whoever has waited longest without asking for anything; only when all connections are at work
is a new one refused. So slow or silent connections, however many, cost no more than ``connections_max`` of them, and lock nobody out.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ...common.errors import Conflict, UsageError
from ...common.logs import get_logger
from .connection import PeerConnection, Service
from .limits import PeerCounters, PeerLimits
from .message import Refusal, refusal_bytes
from .slots import UploadRate, UploadSlots
from .stretch import Shelf
from .transport import SocketTransport, Transport, open_tls, settled

if TYPE_CHECKING:
    import ssl

BACKLOG: Final = (
    1024  # connections that the kernel completes before we accept them: a job's agents may all come at once
)
ACCEPT_PAUSE_S: Final = 0.2  # when the process has no files left: some connection will end soon
REFUSALS_MAX: Final = 32  # connections over the limit that are told so at one time; the others are just closed
THREADS_MAX: Final = 4  # that read what is not in memory: a disk is kept busy by a few

log = get_logger("peer")


class PeerServer:
    """Serves a shelf to other agents. ``start`` and ``aclose`` belong to one event loop; in between it needs nobody."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        key: Callable[[], bytes | None],
        holder: str,
        now: Callable[[], float],
        limits: PeerLimits = PeerLimits(),  # noqa: B008 (frozen)
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Args: key gives the key that capabilities for ``holder`` are signed with, None while there is none; now gives seconds since
        the epoch on the coordinator's clock, for their expiry; tls wraps every connection; clock and sleep serve the rate limit.
        """
        self._limits = limits
        self._tls = tls
        self._counters = PeerCounters()
        self._waiting: dict[PeerConnection, None] = {}
        self._service = Service(
            shelf=shelf,
            key=key,
            holder=holder,
            now=now,
            limits=limits,
            slots=UploadSlots(limits.upload_slots, queue_max=limits.slot_queue_max),
            rate=UploadRate(limits.upload_rate, clock=clock, sleep=sleep),
            counters=self._counters,
            waiting=self._waiting,
        )
        self._threads: ThreadPoolExecutor | None = None
        self._listener: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._by_address: dict[str, int] = {}
        self._refusals = 0

    @property
    def counters(self) -> PeerCounters:
        """A copy of what was counted so far."""
        return replace(self._counters)

    def set_upload_rate(self, rate: float) -> None:
        """Bytes/s that are sent from now on, 0 for no limit."""
        self._service.rate.set_rate(rate)

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address, whose port is a free one for 0. Raises UsageError (host), Conflict (the port is taken)."""
        if self._task is not None:
            raise RuntimeError("the server was started before")
        listener = self._listener = await _listen(host, port)
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="peer-read")
        address = listener.getsockname()
        self._task = asyncio.get_running_loop().create_task(self._run(listener, self._threads))
        return address[0], address[1]

    async def aclose(self) -> None:
        """Stop listening and cut every connection, uploads under way too; returns when all is closed. Safe to call twice."""
        if self._task is None:
            return
        self._task.cancel()
        try:
            await settled(self._task)
        finally:
            if (
                self._listener is not None
            ):  # here and not in the task, which may have been cancelled before its first step
                self._listener.close()
            if self._threads is not None:
                self._threads.shutdown(wait=False)
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            log.error("peer.server_failed", error=type(error).__name__, cause=str(error))

    async def _run(self, listener: socket.socket, threads: ThreadPoolExecutor) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                accepted, address = await _accept(listener)
                group.create_task(self._welcome(accepted, address, threads))
                await asyncio.sleep(0)  # a flood of connections must not keep the loop from everything else

    async def _welcome(self, accepted: socket.socket, address: str, threads: ThreadPoolExecutor) -> None:
        """One connection from its first to its last moment."""
        limits, counters = self._limits, self._counters
        try:
            is_refused = self._by_address.get(address, 0) >= limits.connections_per_address_max
            if is_refused or (counters.connections >= limits.connections_max and not self._make_room()):
                await self._turn_away(accepted, threads)
                return
            counters.connections += 1
            self._by_address[address] = self._by_address.get(address, 0) + 1
            try:
                transport = await self._transport(accepted, threads)
                if transport is not None:
                    await PeerConnection(transport, self._service).run()
            finally:
                counters.connections -= 1
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]
        finally:
            accepted.close()

    async def _transport(self, accepted: socket.socket, threads: ThreadPoolExecutor) -> Transport | None:
        if self._tls is None:
            return SocketTransport(accepted, threads)
        try:
            return await open_tls(
                accepted,
                self._tls,
                threads,
                handshake_s=self._limits.head_timeout_s,
                shutdown_s=self._limits.write_stall_s,
            )
        except OSError as error:
            log.debug("peer.handshake_failed", cause=str(error))
            return None

    def _make_room(self) -> bool:
        """Turn out whoever has waited longest for a request; whether there was one."""
        for connection in self._waiting:
            del self._waiting[connection]
            connection.turn_out()
            return True
        return False

    async def _turn_away(self, accepted: socket.socket, threads: ThreadPoolExecutor) -> None:
        self._counters.refused += 1
        if self._tls is not None or self._refusals >= REFUSALS_MAX:
            return
        self._refusals += 1
        transport = SocketTransport(accepted, threads)
        retry_after = ("Retry-After", str(self._limits.retry_after_s))
        refusal = Refusal(status=503, text="too many connections", fields=(retry_after,))
        try:
            # An answer that comes before the request would be taken for a broken connection.
            async with asyncio.timeout(self._limits.linger_s):
                await transport.receive()
                await transport.send(refusal_bytes(refusal))
            await transport.finish(self._limits.linger_s, 0.0)
        except OSError:  # TimeoutError too
            pass
        finally:
            self._refusals -= 1
            await transport.aclose()


async def _listen(host: str, port: int) -> socket.socket:
    """A listening socket on the first address of ``host``. Raises UsageError, Conflict."""
    loop = asyncio.get_running_loop()
    where = f"peer exchange on {host}:{port}"
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(where, cause=f"the host cannot be resolved: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(where, cause="the port is taken", remedy="choose another, or 0 for a free one") from error
        raise UsageError(where, cause=f"it cannot listen there: {error.strerror}") from error
    except BaseException:
        listener.close()
        raise
    return listener


async def _accept(listener: socket.socket) -> tuple[socket.socket, str]:
    """The next connection and the address that it comes from. Waits out whatever is wrong: a port that is deaf is worse."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            accepted, address = listener.accept()
        except (BlockingIOError, InterruptedError):
            await _readable(loop, listener)
        except ConnectionAbortedError:
            pass
        except OSError as error:
            log.warning("peer.accept_failed", cause=os.strerror(error.errno or 0))
            await asyncio.sleep(ACCEPT_PAUSE_S)
        else:
            accepted.setblocking(False)
            try:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:  # gone already: its first read will say so
                pass
            return accepted, str(address[0])


async def _readable(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(listener, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        loop.remove_reader(listener)
