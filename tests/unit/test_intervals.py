"""IntervalSet behaves as a Python set of positions does."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.common.intervals import IntervalSet

POSITIONS = 40
INTERVALS = st.tuples(st.integers(0, POSITIONS), st.integers(0, POSITIONS)).map(lambda pair: (min(pair), max(pair)))
OPERATIONS = st.lists(st.tuples(st.sampled_from(["add", "remove"]), INTERVALS), max_size=30)


def build(operations: list[tuple[str, tuple[int, int]]]) -> tuple[IntervalSet, set[int]]:
    intervals, model = IntervalSet(), set[int]()
    for name, (start, stop) in operations:
        span = set(range(start, stop))
        if name == "add":
            assert intervals.add(start, stop) == len(span - model)
            model |= span
        else:
            assert intervals.remove(start, stop) == len(span & model)
            model -= span
    return intervals, model


def positions(pairs: object) -> list[int]:
    return [at for start, stop in pairs for at in range(start, stop)]  # type: ignore[attr-defined]


@given(OPERATIONS)
def test_it_holds_what_a_set_holds(operations: list[tuple[str, tuple[int, int]]]):
    intervals, model = build(operations)
    assert positions(intervals) == sorted(model)
    assert intervals.total == len(model)
    assert bool(intervals) == bool(model)


@given(OPERATIONS)
@example([("add", (0, 9)), ("remove", (5, 5))])
def test_its_intervals_are_sorted_disjoint_not_touching_and_not_empty(operations: list[tuple[str, tuple[int, int]]]):
    intervals, _ = build(operations)
    pairs = list(intervals)
    assert len(pairs) == len(intervals)
    assert all(start < stop for start, stop in pairs)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(pairs))


@given(OPERATIONS)
def test_equal_sets_are_equal_however_they_were_made(operations: list[tuple[str, tuple[int, int]]]):
    intervals, model = build(operations)
    assert IntervalSet((at, at + 1) for at in sorted(model, reverse=True)) == intervals
    assert (IntervalSet([(0, 1)]) == intervals) == (model == {0})


@given(OPERATIONS, INTERVALS)
@example([("add", (0, 9))], (5, 5))
def test_questions_about_a_span(operations: list[tuple[str, tuple[int, int]]], span: tuple[int, int]):
    intervals, model = build(operations)
    start, stop = span
    asked = set(range(start, stop))
    assert positions(intervals.missing(start, stop)) == sorted(asked - model)
    assert positions(intervals.present(start, stop)) == sorted(asked & model)
    assert all(a < b for a, b in [*intervals.missing(start, stop), *intervals.present(start, stop)])
    assert intervals.covers(start, stop) == (asked <= model)
    frontier = intervals.frontier(start)
    assert frontier >= start
    assert frontier not in model
    assert set(range(start, frontier)) <= model


@given(OPERATIONS, INTERVALS)
def test_a_copy_is_independent(operations: list[tuple[str, tuple[int, int]]], span: tuple[int, int]):
    intervals, model = build(operations)
    twin = intervals.copy()
    twin.add(*span)
    twin.clear()
    assert not twin
    assert positions(intervals) == sorted(model)


@given(OPERATIONS)
def test_it_may_change_while_it_is_walked(operations: list[tuple[str, tuple[int, int]]]):
    intervals, model = build(operations)
    seen: list[int] = []
    for start, stop in intervals:
        seen.extend(range(start, stop))
        intervals.remove(start, stop)
    assert seen == sorted(model)
    assert not intervals


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (-3, -2)])
def test_what_is_not_an_interval_is_refused(start: int, stop: int):
    intervals = IntervalSet([(0, 10)])
    with pytest.raises(ValueError, match="interval"):
        intervals.add(start, stop)
    with pytest.raises(ValueError, match="interval"):
        intervals.remove(start, stop)
    assert list(intervals) == [(0, 10)]


def test_it_cannot_be_a_key_and_shows_what_it_holds():
    with pytest.raises(TypeError):
        hash(IntervalSet())
    assert repr(IntervalSet([(5, 9), (1, 2)])) == "IntervalSet([(1, 2), (5, 9)])"
    assert IntervalSet() != [(1, 2)]


def test_positions_beyond_64_bits_of_a_file_are_no_trouble():
    far = 1 << 70
    intervals = IntervalSet([(far, far + 5)])
    assert intervals.total == 5
    assert list(intervals.missing(far - 1, far + 6)) == [(far - 1, far), (far + 5, far + 6)]
