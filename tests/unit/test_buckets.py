"""Token buckets, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.buckets import TokenBucket, burst_of


def test_no_rate_no_wait() -> None:
    bucket = TokenBucket()
    assert [bucket.take(1e12, now) for now in (0.0, 0.0, 1.0)] == [0, 0, 0]
    assert bucket.take_at_once(0.0) == 0.0


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


def test_taking_at_once_lends_nothing() -> None:
    bucket = TokenBucket(2.0, burst=1.0, level=0.0)
    assert bucket.take_at_once(0.0) == pytest.approx(0.5)
    assert bucket.take_at_once(0.4) == pytest.approx(0.1)
    assert bucket.take_at_once(0.5) == 0.0
    bucket.set_rate(0.5, 0.5, burst=1.0)
    assert bucket.take_at_once(0.5) == pytest.approx(2.0)  # nobody was promised anything at the old rate


def test_a_copy_goes_its_own_way() -> None:
    bucket = TokenBucket(1.0, burst=3.0, level=2.0)
    other = bucket.copy()
    assert [other.take_at_once(0.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert bucket.level(0.0) == 2.0


@given(st.floats(0.5, 1e6), st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1e6)), max_size=50))
def test_never_more_than_rate_and_burst(rate: float, takes: list[tuple[float, float]]) -> None:
    """Tokens used by a moment never exceed one burst, the rate since the start, and the take that is under way."""
    bucket = TokenBucket(rate)
    now, used = 0.0, 0.0
    for gap_s, count in takes:
        now += gap_s
        now += bucket.take(count, now)
        used += count
        assert used <= burst_of(rate) + rate * now + count + 1e-6 * used + 1e-6


@given(st.floats(0.1, 100), st.floats(1, 20), st.lists(st.floats(0, 3), max_size=80))
def test_in_no_interval_more_than_rate_and_burst(rate: float, burst: float, gaps: list[float]) -> None:
    bucket = TokenBucket(rate, burst=burst)
    now = 0.0
    taken: list[float] = []
    for gap_s in gaps:
        now += gap_s
        while bucket.take_at_once(now) == 0.0:
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= rate * (taken[last] - taken[first]) + burst + 1e-6
