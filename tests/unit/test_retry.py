import random

import pytest

from shoal.common.retry import Backoff


def test_ceiling_doubles_up_to_the_maximum():
    backoff = Backoff(initial_s=1.0, max_s=10.0)
    assert [backoff.ceiling_s(failures) for failures in (1, 2, 3, 4, 5, 6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_million_failures_do_not_overflow():
    assert Backoff(initial_s=0.001, max_s=3600.0).ceiling_s(1_000_000) == 3600.0


def test_delays_fill_the_whole_span_and_replay_from_a_seed():
    backoff = Backoff(initial_s=8.0, max_s=8.0)
    delays = [backoff.delay_s(1, random.Random(seed)) for seed in range(200)]
    assert all(0.0 <= delay <= 8.0 for delay in delays)
    assert min(delays) < 0.5 and max(delays) > 7.5
    assert delays == [backoff.delay_s(1, random.Random(seed)) for seed in range(200)]


def test_what_the_server_asked_for_is_a_floor_with_jitter_on_top():
    backoff = Backoff(initial_s=2.0, max_s=2.0)
    delays = {backoff.delay_s(1, random.Random(seed), at_least_s=55.0) for seed in range(50)}
    assert min(delays) >= 55.0 and max(delays) <= 57.0 and len(delays) > 40


@pytest.mark.parametrize(("initial_s", "max_s"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_nonsense_shapes_are_refused(initial_s: float, max_s: float):
    with pytest.raises(ValueError):
        Backoff(initial_s=initial_s, max_s=max_s)


def test_a_wait_without_a_failure_is_refused():
    with pytest.raises(ValueError):
        Backoff().delay_s(0, random.Random(1))
