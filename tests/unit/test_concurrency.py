"""The number of connections, in virtual time."""

from __future__ import annotations

from shoal.agent.engine.concurrency import FEW, Concurrency

MB = 10**6


def feed(concurrency: Concurrency, rate: float, seconds: float, start: float = 0.0) -> float:
    """Bytes at a rate in steps of 10 ms; returns the time afterwards."""
    steps = round(seconds * 100)
    for step in range(steps + 1):
        concurrency.arrived(int(rate / 100), start + step / 100)
    return start + steps / 100


def test_slow_lines_keep_all_connections():
    concurrency = Concurrency(16)
    feed(concurrency, 320 * MB, 60.0)
    assert concurrency.limit == 16


def test_a_few_stay_where_they_bring_as_much():
    concurrency = Concurrency(16)
    now = feed(concurrency, 1000 * MB, 0.2)
    assert concurrency.limit == FEW
    feed(concurrency, 950 * MB, 5.0, now)
    assert concurrency.limit == FEW


def test_all_come_back_for_good_where_a_few_bring_less():
    concurrency = Concurrency(16)
    now = feed(concurrency, 1000 * MB, 0.2)
    assert concurrency.limit == FEW
    now = feed(concurrency, 300 * MB, 1.0, now)
    assert concurrency.limit == 16
    feed(concurrency, 1000 * MB, 5.0, now)
    assert concurrency.limit == 16


def test_few_from_the_start_are_left_alone():
    concurrency = Concurrency(2)
    feed(concurrency, 2000 * MB, 1.0)
    assert concurrency.limit == 2
