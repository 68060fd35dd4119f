"""The loop that the blocking API runs in: one, only as long as it is used, and nothing goes on in it unseen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shoal.client.loop_thread import LoopThread, loop_thread
from shoal.common.errors import UsageError


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "shoal"]


def test_there_is_one_thread_and_none_afterwards() -> None:
    async def loop() -> Any:
        return asyncio.get_running_loop()

    with loop_thread() as first:
        with loop_thread() as second:
            assert first is second
            assert first.run(loop()) is second.run(loop())
        assert threads() == ["shoal"]
    assert threads() == []


def test_errors_come_through() -> None:
    async def broken() -> None:
        raise LookupError("this")

    with loop_thread() as thread, pytest.raises(LookupError, match="this"):
        thread.run(broken())


def test_an_interrupted_wait_cancels_the_work_and_waits_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), []

    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    from concurrent.futures import Future

    real = Future.result

    def interrupted(self: Future[Any], timeout: float | None = None) -> Any:
        monkeypatch.setattr(Future, "result", real)
        begun.wait()
        raise KeyboardInterrupt

    with loop_thread() as thread:
        monkeypatch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            thread.run(long())
        assert ended == [True]


def test_waiting_within_the_loop_itself_is_refused() -> None:
    async def inner() -> None:
        pass

    with loop_thread() as thread:

        async def outer() -> None:
            thread.run(inner())

        with pytest.raises(UsageError, match="AsyncClient"):
            thread.run(outer())


def test_a_generator_is_closed_with_the_loop_over_it() -> None:
    closed: list[bool] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(10):
                yield number
        finally:
            closed.append(True)

    with loop_thread() as thread:
        items = thread.iterate(numbers())
        assert next(items) == 0
        items.close()
        assert closed == [True]
        assert list(thread.iterate(numbers())) == list(range(10))


def test_what_is_left_is_cancelled_at_the_end() -> None:
    thread, ended = LoopThread(), []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tasks: list[asyncio.Task[None]] = []

    async def begin() -> None:
        tasks.append(asyncio.get_running_loop().create_task(forever()))
        await asyncio.sleep(0)

    thread.run(begin())
    thread.close()
    assert ended == [True]
    with pytest.raises(UsageError, match="closed"):
        thread.run(begin())
