"""What the stand-in servers have in common: life, log, faults, certificate, and running in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from .http_answer import ServerName
from .listener import Listener, Site
from .request_log import RequestLog
from .switchboard import Faults
from .throttle import Pacer
from .tls import make_certificate, server_context

START_S = 30.0  # to bind two ports on a busy machine


class StandIn:
    """One or more servers with one log and one switchboard of faults. Use it as an async context manager.

    Args: tls (serve https with a certificate of our own, see `ca_file`), seed (of the faults' draws), wall_clock (seconds
        since 1970: for expiry and dates).
    """

    def __init__(self, *, tls: bool, seed: int, wall_clock: Callable[[], float]) -> None:
        self.faults = Faults(seed)
        self.log = RequestLog()
        self.ca_file: Path | None = None  # with tls, once started: the CA bundle that clients need
        self._tls = tls
        self._wall_clock = wall_clock
        self._total = Pacer()
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Starts listening. Raises OSError when a port is taken."""
        async with AsyncExitStack() as stack:
            await self._start(stack, self._server_tls(stack))
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def _start(self, stack: AsyncExitStack, tls: ssl.SSLContext | None) -> None:
        """Starts the servers by `_listen`."""
        raise NotImplementedError

    async def _listen(
        self, stack: AsyncExitStack, name: ServerName, site: Site, host: str, port: int, tls: ssl.SSLContext | None
    ) -> str:
        """Starts one server, to be stopped by ``stack``. Returns: its URL."""
        listener = Listener(
            name,
            site,
            log=self.log,
            faults=self.faults,
            total=self._total,
            wall_clock=self._wall_clock,
            host=host,
            port=port,
            tls=tls,
        )
        stack.push_async_callback(listener.stop)
        await listener.start()
        return listener.url

    def _server_tls(self, stack: AsyncExitStack) -> ssl.SSLContext | None:
        if not self._tls:
            return None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stand-in-")))
        now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)  # the client's TLS library has no other clock
        self.ca_file = make_certificate(folder, now=now)
        return server_context(self.ca_file)


_StandIn = TypeVar("_StandIn", bound=StandIn)


@contextmanager
def in_thread(stand_in: _StandIn) -> Generator[_StandIn]:
    """Runs ``stand_in`` in a thread with an event loop of its own, for tests that block (subprocesses, the real client).

    Its log and its faults may be used from any thread. Raises what the start raises.
    """
    started: Future[Callable[[], None]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            async with stand_in:
                started.set_result(lambda: _call_threadsafe(loop, stop.set))
                await stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="stand-in", daemon=True)
    thread.start()
    stop = started.result(timeout=START_S)
    try:
        yield stand_in
    finally:
        stop()
        thread.join()


def _call_threadsafe(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the thread ended by itself
        loop.call_soon_threadsafe(call)
