"""Threads for what blocks: disk and digests.

``run_in_executor`` costs two futures and a wake-up of the loop per call, which is more than a small file's other costs
together. Here a finished job goes into a list, and the loop is woken once for all that finished meanwhile. A job is not a
future: cancelling the task that waits for it leaves the job alone, so buffers and descriptors that a thread still uses are
never taken from under it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


class Job(Generic[T]):
    """A call on its way through a thread."""

    __slots__ = ("_call", "_error", "_result", "_then", "_waiters", "done")

    def __init__(self, call: Callable[[], T], then: Callable[[Job[T]], None] | None) -> None:
        self._call: Callable[[], T] | None = call
        self._then = then
        self._result: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self.done = False

    @property
    def error(self) -> BaseException | None:
        """What the call raised; None before it is done."""
        return self._error

    def result(self) -> T:
        """What the call returned; raises what it raised. Only once it is done."""
        assert self.done
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    async def wait(self) -> T:
        """Wait for the call; returns or raises what it did. Cancelling the wait does not cancel the call."""
        if not self.done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self.result()

    def run(self) -> None:
        """In the thread."""
        call, self._call = self._call, None
        assert call is not None
        try:
            self._result = call()
        except BaseException as error:
            self._error = error

    def deliver(self) -> None:
        """In the loop."""
        self.done = True
        if self._then is not None:
            self._then(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


def done_here(call: Callable[[], T], then: Callable[[Job[T]], None]) -> Job[T]:
    """Run ``call()`` now, in the loop: for what is over before a thread would have woken."""
    job = Job(call, then)
    job.run()
    job.deliver()
    return job


class Crew:
    """A few threads that run jobs in the order in which they came. Used from one event loop."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._threads_max = threads
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Job[object] | None] = (
            queue.SimpleQueue()
        )  # bounded by the buffers and leases behind the jobs
        self._finished: deque[Job[object]] = deque()
        self._woken = False
        self._threads: list[threading.Thread] = []
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def run(self, call: Callable[[], T], then: Callable[[Job[T]], None] | None = None) -> Job[T]:
        """Run ``call()`` in a thread. ``then`` is called in the loop when it is done, before those who wait go on."""
        job = Job(call, then)
        self._outstanding += 1
        self._idle.clear()
        if not self._threads:
            self._start_threads()
        self._jobs.put(cast("Job[object]", job))
        return job

    def _start_threads(self) -> None:
        """All at once, at the first job: starting one waits until it runs, which takes milliseconds beside busy ones."""
        for number in range(self._threads_max):
            thread = threading.Thread(target=self._work, name=f"shoal-{self._name}-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    async def idle(self) -> None:
        """Wait until no job is under way."""
        await self._idle.wait()

    async def aclose(self) -> None:
        """Wait for what is under way and end the threads."""
        await self._idle.wait()
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            self._finished.append(job)
            del job
            if not self._woken:
                self._woken = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the loop is closed: nobody waits for the result any more
                    return

    def _deliver(self) -> None:
        self._woken = False  # before the list is emptied: what is appended from now on wakes the loop again
        while self._finished:
            job = self._finished.popleft()
            self._outstanding -= 1
            job.deliver()
        if not self._outstanding:
            self._idle.set()
