"""The image workers of an agent: processes that are fed in a stream, watched, killed and replaced.

Several images are on their way to a worker at once, so that it need not wait between two; it answers in the order in which they went.
Whatever ends a worker, the first image that it has not answered is to blame:

============================= ======================== ==============================
what happened                 the image to blame       the others on their way
============================= ======================== ==============================
it took too long              an error row             done again by another worker
the worker died               done once more           the same
the worker died of it again   an error row             the same
the worker never got ready    as the others            the same; thrice: the pool breaks
============================= ======================== ==============================
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from ...common.collect_records import ErrorCode
from ...common.errors import MissingExtra, ShoalError
from ...common.installed import is_installed
from ...common.logs import get_logger
from .image_wire import READY, RESULT, order_head, payload_length, read_result
from .images import ImageMade, ImageOrder, ImageRefused
from .resampling import opencv_missing

WINDOW_JOBS: Final = 32  # on their way to one worker: enough that it never waits, few to be done again
WATCH_S: Final = 1.0  # an image that takes too long is noticed so much later at the most
WINDOW_BYTES: Final = 1 << 20  # of them, beyond the first
START_S_MAX: Final = 60.0  # until a worker is ready; importing takes a tenth of a second on an idle machine
STARTS_MAX: Final = 3  # that fail in a row
DEATHS_MAX: Final = 2  # of workers, that one image may cause
SOCKET_BYTES: Final = 1 << 20

log = get_logger("agent.images")

ImageResult = ImageMade | ImageRefused


class ImageJob:
    """One image on its way. done is called in the loop with the result, or the error that broke the pool; once, unless abandoned."""

    __slots__ = ("abandoned", "data", "deaths", "done", "order", "timeout_s")

    def __init__(
        self,
        data: bytes | bytearray,
        order: ImageOrder,
        timeout_s: float,
        done: Callable[[ImageResult | ShoalError], None],
    ) -> None:
        self.data = data
        self.order = order
        self.timeout_s = timeout_s
        self.done = done
        self.deaths = 0
        self.abandoned = False  # nobody wants the result any more

    def settle(self, result: ImageResult | ShoalError) -> None:
        if not self.abandoned:
            self.abandoned = True
            self.done(result)


class ImagePool:
    """Workers, started when there is work. `run` is their life; everything is called in one event loop."""

    def __init__(self, workers: int = 0) -> None:
        """workers: processes; 0: one for each core that this process may use."""
        self._count = workers or len(os.sched_getaffinity(0))
        self._queue: deque[ImageJob] = deque()  # bounded by the budget that the bodies are held in
        self._workers: list[_Worker] = []
        self._wanted = asyncio.Event()
        self.opencv = False  # an order wanted it: a new worker has it before it is ready, so that no image waits for it
        self._starts_failed = 0
        self.broken: ShoalError | None = None

    @property
    def processes(self) -> tuple[int, ...]:
        """The pids of the workers."""
        return tuple(worker.pid for worker in self._workers if worker.pid)

    def check(self, order: ImageOrder) -> None:
        """Raises MissingExtra where Pillow is not installed, or OpenCV is not and such an order wants it."""
        if not is_installed("PIL"):
            raise MissingExtra("images", cause="Pillow is not installed", remedy="pip install 'shoal[images]'")
        if order.wants_opencv and not is_installed("cv2"):
            raise opencv_missing("OpenCV is not installed")

    def submit(self, job: ImageJob) -> None:
        """Have an image made. Never blocks."""
        if self.broken is not None:
            asyncio.get_running_loop().call_soon(job.settle, self.broken)
            return
        self._queue.append(job)
        self.opencv = self.opencv or job.order.wants_opencv
        self._wanted.set()
        self.feed()

    async def run(self) -> None:
        """Keep the workers alive, until this is cancelled; then they are killed."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._count):
                tasks.create_task(self._keep(), name=f"shoal-image-worker-{number}")

    def feed(self) -> None:
        """Give work to those who have room for it."""
        while self._queue:
            if self._queue[0].abandoned:
                self._queue.popleft()
                continue
            worker = min((w for w in self._workers if w.has_room(self._queue[0])), key=_busy, default=None)
            if worker is None:
                return
            worker.give(self._queue.popleft())
        self._wanted.clear()

    async def _keep(self) -> None:
        while True:
            await self._wanted.wait()
            worker = _Worker(self)
            self._workers.append(worker)
            try:
                await worker.live()
            except OSError as error:
                log.warning("images.worker_not_started", error=str(error))
            finally:
                self._workers.remove(worker)
                await worker.end()
            self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        """What becomes of the images that a dead worker had."""
        again = list(worker.jobs)
        worker.jobs.clear()
        if not worker.ready:
            self._starts_failed += 1
            if self._starts_failed >= STARTS_MAX * self._count:
                self._break(worker.died)
                again.clear()
        else:
            self._starts_failed = 0
            if again and not worker.killed:
                blamed = again[0]
                blamed.deaths += 1
                if blamed.deaths >= DEATHS_MAX:
                    again.pop(0)
                    text = f"its decoder died of it, {blamed.deaths} times ({worker.died})"
                    blamed.settle(ImageRefused(ErrorCode.NOT_AN_IMAGE, text))
            log.warning("images.worker_died", reason=worker.died, again=len(again))
        self._queue.extendleft(reversed(again))
        if self._queue:
            self._wanted.set()
        self.feed()

    def _break(self, died: str) -> None:
        self.broken = ShoalError(
            "image workers", cause=f"they do not start: {died}", remedy="check the installation of Pillow"
        )
        for job in [*self._queue, *(job for worker in self._workers for job in worker.jobs)]:
            job.settle(self.broken)
        self._queue.clear()


class _Worker(asyncio.Protocol):
    """One process, and what is on its way to it."""

    def __init__(self, pool: ImagePool) -> None:
        self._pool = pool
        self.jobs: deque[ImageJob] = deque()  # bounded by WINDOW_JOBS
        self.ready = False
        self.killed = False  # by us, because an image took too long
        self.died = "it was stopped"
        self._bytes = 0
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._loop = asyncio.get_running_loop()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._began_s = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def live(self) -> None:
        """Start the process; returns once it is gone. Raises OSError."""
        ours, theirs = socket.socketpair()
        with contextlib.closing(theirs):
            try:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
                ours.setblocking(False)
                await self._loop.create_unix_connection(lambda: self, sock=ours)
            except BaseException:
                ours.close()
                raise
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "shoal.agent.collect.image_child", str(theirs.fileno())),
                *(["opencv"] if self._pool.opencv else []),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # else NumPy starts a thread for each core
            )
        self._timer = self._loop.call_later(START_S_MAX, self._too_slow)
        await self._gone
        code = await self._process.wait()
        if not self.killed:
            self.died = f"signal {-code}" if code < 0 else f"exit code {code}"

    async def end(self) -> None:
        """Kill what is left of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def has_room(self, job: ImageJob) -> bool:
        """Whether it may be given this one."""
        if not self.ready or self._gone.done() or self.killed or len(self.jobs) >= WINDOW_JOBS:
            return False
        return not self.jobs or self._bytes + len(job.data) <= WINDOW_BYTES

    def give(self, job: ImageJob) -> None:
        assert self._transport is not None
        if not self.jobs:
            self._begins()
        self.jobs.append(job)
        self._bytes += len(job.data)
        self._transport.write(order_head(job.order, len(job.data)))
        self._transport.write(job.data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._gone.done():
            self._gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        if not self.ready:
            self.ready = True
            data = data[len(READY) :]
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(WATCH_S, self._too_slow)
        received = self._received
        received += data
        at = 0
        while len(received) - at >= RESULT.size:
            head = bytes(received[at : at + RESULT.size])
            ends = at + RESULT.size + payload_length(head)
            if len(received) < ends:
                break
            payload = bytes(memoryview(received)[at + RESULT.size : ends])
            at = ends
            job = self.jobs.popleft()
            self._bytes -= len(job.data)
            self._begins()
            job.settle(read_result(head, payload))
        del received[:at]
        self._pool.feed()

    def _begins(self) -> None:
        """The first image of those on their way is now the one that it works on."""
        self._began_s = self._loop.time()

    def _too_slow(self) -> None:
        """One timer for the worker's life: it is set anew when it goes off, not with every image."""
        now = self._loop.time()
        if not self.ready:
            self.died = f"it was not ready within {START_S_MAX:g} s"
        elif not self.jobs:
            self._timer = self._loop.call_later(WATCH_S, self._too_slow)
            return
        else:
            due_s = self._began_s + self.jobs[0].timeout_s
            if now < due_s:
                self._timer = self._loop.call_later(min(WATCH_S, due_s - now), self._too_slow)
                return
            job = self.jobs.popleft()
            self.died = f"decoding one image took longer than {job.timeout_s:g} s"
            job.settle(ImageRefused(ErrorCode.NOT_AN_IMAGE, f"decoding it takes longer than {job.timeout_s:g} s"))
        self.killed = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _busy(worker: _Worker) -> int:
    return len(worker.jobs)
