"""Buffers, threads and the digest that follows."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.agent.engine.crew import Crew
from shoal.agent.engine.follower import HashFollower
from shoal.agent.engine.memory import BufferPool
from shoal.agent.engine.pieces import MIB
from shoal.common.errors import VerificationFailed


async def test_the_pool_is_bounded_and_fair() -> None:
    pool = BufferPool(3 * 1024, buffer_bytes=1024)
    held = [await pool.take() for _ in range(3)]
    assert all(len(buffer) == 1024 for buffer in held) and pool.in_use == 3
    assert pool.try_take() is None
    waiters = [asyncio.create_task(pool.take()) for _ in range(2)]
    await asyncio.sleep(0)
    pool.give(held.pop())
    await asyncio.sleep(0)
    assert [task.done() for task in waiters] == [True, False]
    pool.give(held.pop())
    assert await waiters[1]
    for buffer in (held.pop(), waiters[0].result(), waiters[1].result()):
        pool.give(buffer)
    assert pool.in_use == 0


async def test_a_cancelled_taker_loses_no_buffer() -> None:
    pool = BufferPool(2, buffer_bytes=1)
    held = [await pool.take(), await pool.take()]
    early, late = asyncio.create_task(pool.take()), asyncio.create_task(pool.take())
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.sleep(0)
    pool.give(held.pop())
    late.cancel()  # it has just been given one
    with pytest.raises(asyncio.CancelledError):
        await late
    pool.give(held.pop())
    assert pool.in_use == 0


async def test_two_buffers_whatever_the_limit() -> None:
    pool = BufferPool(1, buffer_bytes=MIB)
    assert pool.try_take() is not None and pool.try_take() is not None and pool.try_take() is None


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    crew = Crew("test", 2)
    yield crew
    await crew.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shoal-test")]


async def test_results_and_errors(crew: Crew) -> None:
    assert await crew.run(lambda: 5).wait() == 5
    job = crew.run(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await job.wait()
    assert isinstance(job.error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        await job.wait()


async def test_then_comes_before_the_waiters_and_after_cancellation(crew: Crew) -> None:
    order: list[str] = []
    go = threading.Event()
    job = crew.run(lambda: go.wait(60), lambda job: order.append("then"))

    async def wait() -> None:
        await job.wait()
        order.append("waiter")

    cancelled, waiting = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0)
    assert not job.done, "the call goes on"
    go.set()
    await waiting
    assert order == ["then", "waiter"] and job.result() is True


async def test_many_jobs_lose_nothing(crew: Crew) -> None:
    jobs = [crew.run(lambda n=n: n * n) for n in range(2000)]
    assert [await job.wait() for job in jobs] == [n * n for n in range(2000)]
    await crew.idle()


def write(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


async def test_the_digest_follows(crew: Crew, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 5)
    fd = write(tmp_path / "f", data)
    follower = HashFollower(crew, fd, digest="", size=len(data), name="f")
    for frontier in (1, 5, 5, MIB, 2 * MIB + 1, 3):
        follower.advance(frontier)
    assert await follower.finish(len(data)) == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert await follower.finish(len(data)) == f"sha256:{hashlib.sha256(data).hexdigest()}"
    await follower.stop()
    os.close(fd)


async def test_git_digest_and_empty_file(crew: Crew, tmp_path: Path) -> None:
    fd = write(tmp_path / "f", b"")
    follower = HashFollower(crew, fd, digest="git-sha1:" + "0" * 40, size=0, name="f")
    assert await follower.finish(0) == "git-sha1:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    os.close(fd)


async def test_a_file_that_is_too_short(crew: Crew, tmp_path: Path) -> None:
    fd = write(tmp_path / "f", b"12345")
    follower = HashFollower(crew, fd, digest="", size=10, name="f")
    with pytest.raises(VerificationFailed, match="byte 5"):
        await follower.finish(10)
    os.close(fd)


async def test_a_stopped_follower_reads_no_more(crew: Crew, tmp_path: Path) -> None:
    fd = write(tmp_path / "f", bytes(8 * MIB))
    follower = HashFollower(crew, fd, digest="", size=8 * MIB, name="f")
    follower.advance(8 * MIB)
    await follower.stop()
    os.close(fd)
    at = follower.position
    follower.advance(8 * MIB)
    await crew.idle()
    assert follower.position == at
