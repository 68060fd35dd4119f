"""An object that changed at its origin: what is known of it ends with its life, and so does its partial file."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any, cast

import pytest

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


async def test_who_hears_of_a_change_writes_nothing_more_in_that_life() -> None:
    """The file is left as it is: others may write to it by leases of that very life, until the coordinator has heard."""
    file = File()
    transfer, buffers, crew = await opened(file)
    assert await write(transfer, buffers, 0)
    transfer.poison(Changed("big.bin", cause="it has another ETag"))
    assert not await write(transfer, buffers, MIB)
    for _ in range(2):
        with pytest.raises(
            Changed, match="another ETag"
        ):  # also of a lease that is granted before the coordinator hears
            await transfer.renew(transfer.spec)
    assert not await write(transfer, buffers, MIB)
    await transfer.renew(replace(transfer.spec, life=7))
    assert (file.closed, file.resets, buffers.in_use) == (True, 0, 0)
    await transfer.open(create=True)
    assert await write(transfer, buffers, MIB), "the new version"
    assert list(transfer.have) == [(MIB, 2 * MIB)]
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
    await transfer.renew(transfer.spec)  # nobody began it anew
    assert transfer.have.covers(0, MIB)
    another = replace(transfer.spec, life=7)
    await asyncio.gather(*(transfer.renew(another) for _ in range(3)))
    assert (file.closed, file.resets, transfer.is_open) == (True, 0, False)
    assert not transfer.have and not transfer.validators
    await transfer.open(create=True)
    assert await write(transfer, buffers, MIB)
    await transfer.renew(another)
    assert transfer.is_open and transfer.have.covers(MIB, 2 * MIB)
    await crew.aclose()
