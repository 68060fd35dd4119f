"""An object that changed at its origin: its partial file is emptied once, and never under what comes afterwards."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

from shoal.agent.engine.crew import Crew
from shoal.agent.engine.memory import BufferPool
from shoal.agent.engine.transfer import Transfer
from shoal.common.errors import Changed
from shoal.common.intervals import IntervalSet
from shoal.common.records import ObjectSpec
from support.one_file import OneFile

MIB = 1 << 20


class File:
    """A partial file whose bytes are only counted; a reset waits until it may go on."""

    fd = -1
    in_memory = False

    def __init__(self) -> None:
        self.done = IntervalSet()
        self.resets = 0
        self.closed = False
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def close(self) -> None:
        self.closed = True

    def write(self, data: memoryview, offset: int) -> None: ...
    def mark(self, start: int, stop: int) -> None: ...

    def reset(self) -> None:
        self.resets += 1
        self.begun.set()
        assert self.may_end.wait(30)


async def opened(file: File) -> tuple[Transfer, BufferPool, Crew]:
    crew, buffers = Crew("test", 2), BufferPool(4 * MIB)
    spec, place = ObjectSpec(object_id=1, path="big.bin", size=4 * MIB), cast("Any", OneFile(file))
    transfer = Transfer(spec, location=None, destination=place, disk=crew, hashing=crew, buffers=buffers)
    await transfer.open(create=True)
    return transfer, buffers, crew


async def write(transfer: Transfer, buffers: BufferPool, at: int) -> bool:
    writing = transfer.write(await buffers.take(), at, MIB)
    if writing is not None:
        await writing.wait()
    return writing is not None


async def test_leases_that_hear_of_a_change_together_empty_the_file_once() -> None:
    file = File()
    transfer, buffers, crew = await opened(file)
    assert await write(transfer, buffers, 0)
    heard_at = transfer.resets
    transfer.poison(Changed("big.bin"))
    assert not await write(transfer, buffers, MIB)
    await asyncio.gather(*(transfer.reset(after=heard_at) for _ in range(3)))
    assert (file.resets, bool(transfer.have)) == (1, False)
    assert await write(transfer, buffers, MIB), "the new version"
    await transfer.reset(after=heard_at)  # of a lease that was slow to hear
    assert file.resets == 1
    assert transfer.have.covers(MIB, 2 * MIB)
    transfer.poison(Changed("big.bin"))
    await transfer.reset(after=transfer.resets)
    assert (file.resets, bool(transfer.have), buffers.in_use) == (2, False, 0)
    await crew.aclose()


async def test_what_comes_while_the_file_is_emptied_is_not_taken_for_what_is_in_it() -> None:
    file = File()
    transfer, buffers, crew = await opened(file)
    file.may_end.clear()
    emptying = asyncio.create_task(transfer.reset())
    await asyncio.to_thread(file.begun.wait, 30)
    assert not await write(transfer, buffers, 0)
    file.may_end.set()
    await emptying
    assert not transfer.have
    assert await write(transfer, buffers, 0)
    assert transfer.have.covers(0, MIB)
    await crew.aclose()


async def test_what_is_known_from_another_life_counts_no_more() -> None:
    file = File()
    transfer, buffers, crew = await opened(file)
    assert await write(transfer, buffers, 0)
    transfer.validators["a.example"] = '"old"'
    await transfer.renew(0)  # nobody began it anew
    assert transfer.have.covers(0, MIB)
    await asyncio.gather(*(transfer.renew(7) for _ in range(3)))
    assert (file.closed, file.resets, transfer.is_open) == (True, 0, False)
    assert not transfer.have and not transfer.validators
    await transfer.open(create=True)
    assert await write(transfer, buffers, MIB)
    await transfer.renew(7)
    assert transfer.is_open and transfer.have.covers(MIB, 2 * MIB)
    await crew.aclose()
