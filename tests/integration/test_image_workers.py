"""Image workers as processes: when they have OpenCV, what it costs them, and what a job meets that wants it where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from shoal.agent.collect.image_pool import ImageJob, ImagePool
from shoal.agent.collect.image_wire import READY, RESULT, order_head, payload_length, read_result
from shoal.agent.collect.images import ImageMade, ImageOrder, ImageRefused
from shoal.common.collect_records import ErrorCode, ImageEncoding, Resampler
from shoal.common.errors import MissingExtra, ShoalError
from support.collecting import picture

BY_PILLOW = ImageOrder(ImageEncoding.JPEG, 64, 95, 10**9, 48 << 20, Resampler.PILLOW)
BY_OPENCV = replace(BY_PILLOW, resampler=Resampler.OPENCV)
WAIT_S = 60.0


def flat(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(out, "PNG", compress_level=1)
    return out.getvalue()


class Child:
    """An image worker without its pool."""

    def __init__(self, line: socket.socket, pid: int) -> None:
        self._line = line
        self.pid = pid
        self._input = line.makefile("rb")
        assert self._input.read(len(READY)) == READY

    def close(self) -> None:
        self._input.close()

    def make(self, data: bytes, order: ImageOrder) -> ImageMade | ImageRefused | MissingExtra:
        self._line.sendall(order_head(order, len(data)) + data)
        head = self._input.read(RESULT.size)
        return read_result(head, self._input.read(payload_length(head)))

    @property
    def has_opencv(self) -> bool:
        return "/cv2/" in Path(f"/proc/{self.pid}/maps").read_text()


@contextmanager
def image_child(*arguments: str, **environ: str) -> Iterator[Child]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(WAIT_S)
        command = [sys.executable, "-m", "shoal.agent.collect.image_child", str(theirs.fileno()), *arguments]
        with subprocess.Popen(command, pass_fds=(theirs.fileno(),), env={**os.environ, **environ}) as process:
            theirs.close()
            try:
                with contextlib.closing(Child(ours, process.pid)) as child:
                    yield child
            finally:
                process.kill()


def test_opencv_is_there_when_it_is_wanted_and_not_before() -> None:
    data = picture(900, 600)
    with image_child() as child:
        assert isinstance(child.make(data, BY_PILLOW), ImageMade) and not child.has_opencv
        as_served = replace(BY_OPENCV, encoding=ImageEncoding.ORIGINAL)
        assert isinstance(child.make(data, as_served), ImageMade)
        assert isinstance(child.make(data, replace(BY_OPENCV, size=0)), ImageMade) and not child.has_opencv
        # The memory of an image is what it was: the library's hundreds of megabytes of addresses are not counted.
        assert isinstance(child.make(data, BY_OPENCV), ImageMade) and child.has_opencv
        assert isinstance(child.make(flat(3000, 2000), BY_OPENCV), ImageMade)
        refused = child.make(flat(9000, 6000), BY_OPENCV)  # 162 MB
        assert isinstance(refused, ImageRefused) and refused.code is ErrorCode.TOO_LARGE
        assert isinstance(child.make(data, BY_OPENCV), ImageMade)
    with image_child("opencv") as child:
        assert child.has_opencv
        assert isinstance(child.make(data, BY_OPENCV), ImageMade)


def test_two_workers_give_the_same_bytes_whatever_processor_they_have() -> None:
    pictures = [picture(900, 607, kind=kind, seed=seed) for kind in ("JPEG", "PNG") for seed in range(3)]
    orders = [replace(BY_OPENCV, size=size) for size in (64, 301, 480, 777)]
    made: list[list[object]] = []
    for environ in ({}, {"OPENCV_CPU_DISABLE": "AVX2,FMA3,FP16,AVX512_COMMON"}):
        with image_child("opencv", **environ) as child:
            made.append([child.make(data, order) for data in pictures for order in orders])
    assert made[0] == made[1] and all(isinstance(each, ImageMade) for each in made[0])
    with image_child() as child:
        by_pillow = [
            child.make(data, replace(order, resampler=Resampler.PILLOW)) for data in pictures for order in orders
        ]
    assert all(one != other for one, other in zip(by_pillow, made[0])), "then this test says nothing"


@asynccontextmanager
async def running_pool() -> AsyncIterator[ImagePool]:
    pool = ImagePool(1)
    running = asyncio.create_task(pool.run())
    try:
        yield pool
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def make(pool: ImagePool, order: ImageOrder, data: bytes) -> ImageMade | ImageRefused | ShoalError:
    done: asyncio.Future[ImageMade | ImageRefused | ShoalError] = asyncio.get_running_loop().create_future()
    pool.submit(ImageJob(data, order, WAIT_S, done.set_result))
    return await asyncio.wait_for(done, WAIT_S)


async def test_a_worker_has_one_thread() -> None:
    """There is a worker for each core: NumPy's and OpenCV's own threads would only be in the way."""
    async with running_pool() as pool:
        large = replace(BY_OPENCV, size=2000, memory_bytes=1 << 30)  # OpenCV shares out what is worth it
        assert isinstance(await make(pool, large, flat(3000, 2000)), ImageMade)
        (pid,) = pool.processes
        assert len(os.listdir(f"/proc/{pid}/task")) == 1


async def test_a_broken_opencv_ends_the_job_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for first in (BY_OPENCV, BY_PILLOW):  # a worker that begins with it, and one that meets it later
        async with running_pool() as pool:
            await make(pool, first, picture())
            for _ in range(2):
                error = await make(pool, BY_OPENCV, picture())
                assert isinstance(error, MissingExtra)
                assert "libGL.so.1" in str(error) and "collect.resampler to pillow" in error.remedy
            assert isinstance(await make(pool, BY_PILLOW, picture()), ImageMade)
            assert pool.broken is None


def test_opencv_that_is_not_there_is_told_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    pool = ImagePool(1)
    pool.check(BY_PILLOW)
    pool.check(replace(BY_OPENCV, encoding=ImageEncoding.ORIGINAL))
    pool.check(replace(BY_OPENCV, size=0))
    with pytest.raises(MissingExtra, match=r"OpenCV is not installed .*shoal\[images\].* collect\.resampler to pillow"):
        pool.check(BY_OPENCV)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match="Pillow is not installed"):
        pool.check(BY_PILLOW)
