"""Token buckets and blocked hosts, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.agent.throttle import BLOCK_S_MAX, Throttle, TokenBucket
from shoal.common.records import HostBudget, HostObservation


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        self.now += delay_s
        await asyncio.sleep(0)


def make(rate_limit: float = 0.0) -> tuple[Throttle, VirtualTime]:
    time = VirtualTime()
    return Throttle(rate_limit=rate_limit, clock=time, sleep=time.sleep), time


def test_no_rate_no_wait() -> None:
    bucket = TokenBucket()
    assert [bucket.take(1e12, now) for now in (0.0, 0.0, 1.0)] == [0, 0, 0]


def test_burst_of_one_second_then_the_rate() -> None:
    bucket = TokenBucket(10)
    assert [bucket.take(1, 0.0) for _ in range(10)] == [0.0] * 10
    assert [bucket.take(1, 0.0) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert bucket.take(1, 0.3) == pytest.approx(0.1)


def test_slow_rates_let_the_first_go_at_once() -> None:
    bucket = TokenBucket(0.1)
    assert bucket.take(1, 0.0) == 0.0
    assert bucket.take(1, 0.0) == pytest.approx(10.0)


def test_large_takes_are_paid_in_order() -> None:
    bucket = TokenBucket(1000)
    assert bucket.take(5000, 0.0) == pytest.approx(4.0)
    assert bucket.take(1, 0.0) == pytest.approx(4.001)


def test_savings_are_bounded() -> None:
    bucket = TokenBucket(10)
    bucket.take(10, 0.0)
    assert [bucket.take(1, 1000.0) for _ in range(11)][-2:] == pytest.approx([0.0, 0.1])


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(10)
    bucket.take(10, 50.0)
    assert bucket.take(1, 40.0) == pytest.approx(0.1)
    assert bucket.take(1, 50.0) == pytest.approx(0.2)


def test_new_rate_counts_from_now_and_debts_stay() -> None:
    bucket = TokenBucket(10)
    bucket.take(20, 0.0)  # ten in debt
    bucket.set_rate(100, 0.0)
    assert bucket.take(0, 0.0) == pytest.approx(0.1)
    bucket.set_rate(0, 1.0)
    assert bucket.take(1e9, 1.0) == 0.0


@given(st.floats(0.5, 1e6), st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1e6)), max_size=50))
def test_never_more_than_rate_and_burst(rate: float, takes: list[tuple[float, float]]) -> None:
    """Tokens used by a moment never exceed one burst, the rate since the start, and the take that is under way."""
    bucket = TokenBucket(rate)
    now, used = 0.0, 0.0
    for gap_s, count in takes:
        now += gap_s
        now += bucket.take(count, now)
        used += count
        assert used <= max(rate, 1.0) + rate * now + count + 1e-6 * used + 1e-6


async def test_blocked_host_is_waited_for() -> None:
    throttle, time = make()
    throttle.throttled("a", 30.0, time.now)
    await throttle.request_turn("b")
    assert time.now == 100.0
    await throttle.request_turn("a")
    assert time.now == pytest.approx(130.0)


async def test_block_that_grows_while_waiting() -> None:
    throttle, time = make()
    throttle.throttled("a", 10.0, time.now)
    waiter = asyncio.create_task(throttle.request_turn("a"))
    await asyncio.sleep(0)
    throttle.throttled("a", 25.0, 100.0)
    await waiter
    assert time.now == pytest.approx(125.0)


async def test_budget_blocks_and_limits() -> None:
    throttle, time = make()
    throttle.set_budgets([HostBudget(host="a", requests_per_s=2.0, blocked_s=5.0)], time.now)
    await throttle.request_turn("a")
    assert time.now == pytest.approx(105.0)
    for _ in range(4):
        await throttle.request_turn("a")
    assert time.now == pytest.approx(106.5)


def test_budget_does_not_shorten_the_hosts_own_word() -> None:
    throttle, _ = make()
    throttle.throttled("a", 60.0, 0.0)
    throttle.set_budgets([HostBudget(host="a", blocked_s=1.0)], 0.0)
    assert throttle.blocked_s("a", 0.0) == 60.0


def test_absurd_waits_are_capped() -> None:
    throttle, _ = make()
    throttle.throttled("a", 1e9, 0.0)
    throttle.throttled("b", -5.0, 0.0)
    assert throttle.blocked_s("a", 0.0) == BLOCK_S_MAX
    assert throttle.blocked_s("b", 0.0) == 0.0


async def test_rate_limit_of_the_whole_agent() -> None:
    throttle, time = make(rate_limit=1000.0)
    for host in ("a", "b", "c"):
        await throttle.bytes_turn(host, 1000)
    assert time.now == pytest.approx(102.0)


async def test_bytes_of_a_host() -> None:
    throttle, time = make()
    throttle.set_budgets([HostBudget(host="a", bytes_per_s=100.0)], time.now)
    await throttle.bytes_turn("b", 10_000)
    await throttle.bytes_turn("a", 300)
    assert time.now == pytest.approx(102.0)


def test_observations_are_told_once() -> None:
    throttle, _ = make()
    calls: list[int] = []
    throttle.urgent = lambda: calls.append(1)
    throttle.answered("a")
    throttle.answered("a")
    throttle.failed("a")
    throttle.throttled("b", 3.0, 0.0)
    throttle.throttled("b", 2.0, 0.0)
    assert throttle.take_observations() == (
        HostObservation(host="a", ok=2, errors=1),
        HostObservation(host="b", throttled=2, retry_after_s=3.0),
    )
    assert throttle.take_observations() == ()
    assert calls == [1, 1]


def test_a_general_budget_holds_for_hosts_without_their_own():
    throttle = Throttle(rate_limit=0.0, clock=lambda: 0.0)
    throttle.set_budgets([HostBudget(host="own.example", requests_per_s=100.0)], 0.0)
    throttle.set_budgets([HostBudget(host="*", requests_per_s=1.0)], 0.0)
    assert [throttle.request_delay_s("any.example", 0.0) for _ in range(3)] == [0.0, 1.0, 2.0]
    assert [throttle.request_delay_s("own.example", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    throttle.set_budgets([HostBudget(host="*", requests_per_s=0.0)], 10.0)
    assert throttle.request_delay_s("any.example", 20.0) == 0.0
