"""An event loop in a thread: how the blocking API runs the asynchronous one.

One loop for the whole process, however many clients are open: gRPC's asyncio side polls for one loop only and fills the log with
errors where there are two (grpc#25364). It runs as long as somebody uses it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from ..common.errors import UsageError

T = TypeVar("T")


class LoopThread:
    """A running event loop. Made by `loop_thread`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._work, name="shoal", daemon=True
        )  # an end without close may not hang
        self._thread.start()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for it. When the wait is interrupted, by Ctrl+C for instance, the coroutine is cancelled and
        has ended on return. Raises what it raises."""
        if threading.current_thread() is self._thread or self._loop.is_closed():
            cause = "it is closed" if self._loop.is_closed() else "it would wait for itself"
            main.close()
            raise UsageError("Client", cause=cause, remedy="in a coroutine use AsyncClient")
        outcome: Future[T] = Future()
        tasks: list[asyncio.Task[None]] = []

        async def carry_over() -> None:
            try:
                outcome.set_result(await main)
            except BaseException as error:
                outcome.set_exception(error)

        def begin() -> None:
            tasks.append(self._loop.create_task(carry_over()))

        self._loop.call_soon_threadsafe(begin)
        try:
            return outcome.result()
        except BaseException:
            if not outcome.done():
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
                outcome.exception()  # waits; what was raised to us is what matters
            raise

    def iterate(self, items: AsyncIterator[T]) -> Generator[T]:
        """The items of an asynchronous generator, which is closed with this one."""
        try:
            while True:
                try:
                    yield self.run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(items, "aclose", None)
            if close is not None and not self._loop.is_closed():
                self.run(close())

    def close(self) -> None:
        """End the loop. What still runs on it is cancelled."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            self._loop.close()


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


_lock = threading.Lock()
_shared: dict[
    int, tuple[LoopThread, int]
] = {}  # by process id, for a fork has no threads: the loop, and how many use it


@contextmanager
def loop_thread() -> Generator[LoopThread]:
    """The loop of this process, started if this is its first user, ended with its last."""
    process = os.getpid()
    with _lock:
        thread, users = _shared.get(process, (None, 0))
        thread = thread or LoopThread()
        _shared[process] = (thread, users + 1)
    try:
        yield thread
    finally:
        with _lock:
            thread, users = _shared[process]
            if users > 1:
                _shared[process] = (thread, users - 1)
            else:
                del _shared[process]
        if users == 1:
            thread.close()
