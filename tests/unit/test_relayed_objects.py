"""Objects whose chunks are passed on while they come: who is woken by what, and where their bytes are written."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from shoal.agent.engine import transfer as transfers
from shoal.agent.engine.crew import Crew, Job, done_here
from shoal.agent.engine.memory import BufferPool
from shoal.agent.engine.transfer import Transfer
from shoal.agent.swarm.objects import Kept
from shoal.common.intervals import IntervalSet
from shoal.common.records import ObjectSpec
from support.one_file import OneFile


class File:
    """A partial file that tells which threads wrote to it, and what was recorded."""

    fd = -1

    def __init__(self, *, in_memory: bool) -> None:
        self.in_memory = in_memory
        self.done = IntervalSet()
        self.threads: set[int] = set()
        self.marks: list[tuple[int, int]] = []

    def write(self, data: memoryview, offset: int) -> None:
        self.threads.add(threading.get_ident())

    def mark(self, start: int, stop: int) -> None:
        self.marks.append((start, stop))


def made(file: File, *, relayed: bool) -> tuple[Transfer, BufferPool, Crew]:
    crew, buffers = Crew("test", 1), BufferPool(1 << 22)
    spec = ObjectSpec(object_id=1, path="big.bin", size=1 << 22)
    place = cast("Any", OneFile(file))
    transfer = Transfer(
        spec, location=None, destination=place, disk=crew, hashing=crew, buffers=buffers, relayed=relayed
    )
    return transfer, buffers, crew


@pytest.mark.parametrize(
    ("relayed", "in_memory", "cores", "here"),
    [
        (True, True, 2, True),
        (True, False, 2, False),
        (False, True, 2, False),
        (True, True, 64, False),
    ],
)
def test_only_memory_is_written_in_the_loop(
    relayed: bool, in_memory: bool, cores: int, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_CORES", cores)

    async def run() -> None:
        file = File(in_memory=in_memory)
        transfer, buffers, crew = made(file, relayed=relayed)
        await transfer.open(create=True)
        for number in range(2):
            writing = transfer.write(await buffers.take(), number << 20, 1 << 20)
            assert writing is not None
            await writing.wait()
        assert (file.threads == {threading.get_ident()}) is here
        assert buffers.in_use == 0
        assert transfer.have.covers(0, 2 << 20)
        assert bool(file.marks) is not relayed, "what is relayed is recorded by settle"
        await transfer.settle()
        assert transfer.have.covers(0, 2 << 20)
        assert sum(stop - start for start, stop in file.marks) == 2 << 20
        if relayed:
            assert file.marks == [(0, 2 << 20)]
        await crew.aclose()

    asyncio.run(run())


def test_a_call_that_fails_here_is_told_as_one_of_a_thread_is() -> None:
    async def run() -> None:
        heard: list[BaseException | None] = []

        def fail() -> None:
            raise OSError("full")

        def hear(job: Job[None]) -> None:
            heard.append(job.error)

        job = done_here(fail, hear)
        with pytest.raises(OSError, match="full"):
            await job.wait()
        assert [type(error) for error in heard] == [OSError]

    asyncio.run(run())


def test_bytes_wake_only_who_waits_for_them() -> None:
    async def run() -> None:
        transfer, _, _ = made(File(in_memory=True), relayed=True)
        kept = Kept(0, transfer)
        here, elsewhere, anything = (asyncio.ensure_future(kept.change(at)) for at in (10, 99, None))
        await asyncio.sleep(0)
        transfer.wrote(((0, 20),))
        await asyncio.sleep(0)
        assert (here.done(), elsewhere.done(), anything.done()) == (True, False, True)
        transfer.wrote(((90, 99),))
        await asyncio.sleep(0)
        assert not elsewhere.done(), "the byte behind the last one is not there"
        kept.wake()
        await asyncio.sleep(0)
        assert elsewhere.done()
        gone = asyncio.ensure_future(kept.change(5))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        transfer.wrote(((5, 6),))

    asyncio.run(run())
