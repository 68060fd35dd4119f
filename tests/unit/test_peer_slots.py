"""Upload slots and the shared rate, without sockets and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from shoal.agent.peer.limits import PeerLimits
from shoal.agent.peer.slots import UploadRate, UploadSlots
from shoal.common.errors import Busy


async def started(call: Awaitable[None]) -> asyncio.Task[None]:
    """A task that has run to its first wait."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    assert isinstance(task, asyncio.Task)
    return task


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_go_to_the_longest_waiting() -> None:
    slots = UploadSlots(1, queue_max=2)
    await slots.take()
    first, second = await started(slots.take()), await started(slots.take())
    assert (slots.free, slots.waiting) == (0, 2)
    slots.give_back()
    await turns()
    assert first.done() and not second.done()
    slots.give_back()
    await second
    slots.give_back()
    assert (slots.free, slots.waiting) == (1, 0)


async def test_the_queue_is_short() -> None:
    slots = UploadSlots(1, queue_max=1)
    await slots.take()
    waiter = await started(slots.take())
    with pytest.raises(Busy):
        await slots.take()
    slots.give_back()
    await waiter


async def test_a_body_that_has_begun_is_never_refused_and_goes_ahead() -> None:
    slots = UploadSlots(1, queue_max=1)
    await slots.take()
    newcomer = await started(slots.take())
    returning = [await started(slots.take_again()) for _ in range(3)]
    for task in returning:
        slots.give_back()
        await turns()
        assert task.done() and not newcomer.done()
    slots.give_back()
    await newcomer


async def test_who_gives_up_leaves_the_queue() -> None:
    slots = UploadSlots(1, queue_max=5)
    await slots.take()
    leaver, stayer = await started(slots.take()), await started(slots.take())
    leaver.cancel()
    await turns()
    assert slots.waiting == 1
    slots.give_back()
    await stayer


@pytest.mark.parametrize("others", [0, 1])
async def test_a_slot_that_comes_together_with_the_cancellation_is_not_lost(others: int) -> None:
    slots = UploadSlots(1, queue_max=5)
    await slots.take()
    leaver = await started(slots.take())
    stayers = [await started(slots.take()) for _ in range(others)]
    slots.give_back()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    for stayer in stayers:
        await stayer
    assert slots.free == 1 - others


class VirtualTime:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        self.now += delay_s
        await asyncio.sleep(0)


async def test_no_rate_no_wait() -> None:
    time = VirtualTime()
    assert await UploadRate(0.0, clock=time, sleep=time.sleep).turn(1 << 40) == 1 << 40
    assert time.now == 0


async def test_the_rate_is_shared() -> None:
    time = VirtualTime()
    rate = UploadRate(1000.0, clock=time, sleep=time.sleep)
    allowed = [await rate.turn(10_000) for _ in range(50)]
    assert set(allowed) == {100}  # a tenth of a second's worth
    assert time.now == pytest.approx(4.0)  # 5000 bytes, of which 1000 were saved up
    assert await rate.turn(7) == 7


async def test_the_slowest_rate_still_moves() -> None:
    time = VirtualTime()
    rate = UploadRate(0.5, clock=time, sleep=time.sleep)
    assert [await rate.turn(100) for _ in range(3)] == [1, 1, 1]
    assert time.now == pytest.approx(4.0)


@pytest.mark.parametrize(
    "change",
    [
        {"upload_slots": 0},
        {"connections_max": 0},
        {"head_timeout_s": 0.0},
        {"upload_rate": -1.0},
        {"slot_wait_s": -1.0},
    ],
)
def test_limits_that_leave_nothing(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="peer exchange"):
        PeerLimits(**change)  # type: ignore[arg-type]
