"""The planner of pieces: what each connection fetches next."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.agent.engine.pieces import MIB, Piece, PiecePlanner, PiecePolicy
from shoal.common.intervals import IntervalSet

POLICY = PiecePolicy(connections=4)


def drain(planner: PiecePlanner, now: float = 0.0) -> list[Piece]:
    """Take pieces until there are none."""
    pieces: list[Piece] = []
    while (piece := planner.take(now)) is not None:
        pieces.append(piece)
    return pieces


def bring(planner: PiecePlanner, piece: Piece, count: int, now: float) -> None:
    planner.arrived(piece, count, now)


def test_pieces_ascend_and_cover_everything_once() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("r1", "o1", [(0, 64 * MIB)])
    pieces = drain(planner)
    covered = IntervalSet()
    for piece in pieces:
        assert covered.add(piece.start, piece.stop) == piece.stop - piece.start
    assert list(covered) == [(0, 64 * MIB)]
    assert [piece.start for piece in pieces] == sorted(piece.start for piece in pieces)


def test_oldest_work_first() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("old", "o1", [(0, 2 * MIB)])
    planner.add("new", "o2", [(0, 2 * MIB)])
    assert next(piece.work.key for piece in drain(planner)) == "old"


def test_work_that_waits_again_keeps_its_age() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("old", "o1", [(0, MIB)])
    planner.add("new", "o2", [(0, MIB)])
    failed = planner.take(0.0)
    assert failed is not None and failed.work.key == "old"
    planner.finish(failed, 1.0)
    again = planner.take(1.0)
    assert again is not None and again.work.key == "old"


def test_first_pieces_have_the_first_size() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("r", "o", [(0, 1024 * MIB)])
    piece = planner.take(0.0)
    assert piece is not None and piece.stop - piece.start == POLICY.piece_bytes_first


@pytest.mark.parametrize(
    ("rate", "answer_s", "expected"),
    [
        (100 * MIB, 0.001, 10 * MIB),  # near: a tenth of a second
        (100 * MIB, 1.0, POLICY.piece_bytes_max),  # far and fast: the largest
        (8 * MIB, 0.04, 6.4 * MIB),  # 40 ms are 5 % of 0.8 s
        (8 * MIB, 0.2, 8 * MIB),  # never more than a second
        (100_000, 0.2, POLICY.piece_bytes_min),  # slow: the smallest
    ],
)
def test_size_follows_rate_and_distance(rate: float, answer_s: float, expected: float) -> None:
    planner = PiecePlanner(POLICY)
    planner.add("r", "o", [(0, 8192 * MIB)])
    piece = planner.take(0.0)
    assert piece is not None
    planner.asked(piece, 0.0)
    planner.answered(piece, answer_s)
    bring(planner, piece, int(rate * 0.04), answer_s + 0.04)
    assert planner.rate == 0, "a sample this short says nothing"
    piece.at = piece.start
    bring(planner, piece, int(rate), answer_s + 1.0)
    following = planner.take(answer_s + 1.0)
    assert following is not None and following.stop - following.start == pytest.approx(expected, rel=0.02)


def test_pieces_shrink_towards_the_end_and_with_what_others_hold() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("r", "o", [(0, 32 * MIB)])
    lengths = [piece.stop - piece.start for piece in drain(planner)]
    assert lengths[0] == 4 * MIB and lengths[:-1] == sorted(lengths[:-1], reverse=True)
    assert MIB <= lengths[-1] < 1.5 * MIB

    alone, shared = PiecePlanner(POLICY), PiecePlanner(POLICY)
    for planner in (alone, shared):
        planner.add("r", "o", [(0, 8 * MIB)])
    shared.set_outlook("job", 1 << 30)
    small, large = alone.take(0.0), shared.take(0.0)
    assert small is not None and large is not None
    assert small.stop == MIB and large.stop == 4 * MIB


def test_a_short_rest_is_not_cut_off() -> None:
    planner = PiecePlanner(PiecePolicy(connections=1, piece_bytes_first=4 * MIB))
    planner.set_outlook("job", 1 << 30)
    planner.add("r", "o", [(0, 5 * MIB)])
    piece = planner.take(0.0)
    assert piece is not None and (piece.start, piece.stop) == (0, 5 * MIB)


def test_undivided_work_is_one_piece_and_never_split() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("w", "w", [(0, 512 * MIB)], undivided=True)
    piece = planner.take(0.0)
    assert piece is not None and piece.stop == 512 * MIB
    assert planner.take(100.0) is None
    assert not planner.has_work(100.0)


def slow_and_fast(left: int) -> tuple[PiecePlanner, Piece]:
    """A planner whose only piece has ``left`` bytes to go at 1 MiB/s."""
    planner = PiecePlanner(PiecePolicy(connections=2, piece_bytes_first=16 * MIB))
    planner.set_outlook("job", 1 << 30)
    planner.add("r", "o", [(0, MIB + left)])
    piece = planner.take(0.0)
    assert piece is not None and piece.left == MIB + left
    planner.arrived(piece, MIB, 1.0)
    return planner, piece


def test_split_leaves_two_halves() -> None:
    planner, victim = slow_and_fast(8 * MIB)
    thief = planner.take(1.0)
    assert thief is not None
    assert (victim.stop, thief.start, thief.stop) == (5 * MIB, 5 * MIB, 9 * MIB)
    planner.check_invariants()


def test_no_split_below_two_smallest_pieces() -> None:
    planner, _ = slow_and_fast(2 * MIB - 1)
    assert planner.take(1.0) is None


def test_no_split_of_what_ends_soon() -> None:
    planner = PiecePlanner(PiecePolicy(connections=2, piece_bytes_first=16 * MIB))
    planner.set_outlook("job", 1 << 30)
    planner.add("r", "o", [(0, 16 * MIB)])
    piece = planner.take(0.0)
    assert piece is not None
    planner.arrived(piece, 12 * MIB, 0.3)  # 40 MiB/s: the rest takes 0.1 s
    assert planner.take(0.3) is None
    assert planner.take(8.0) is not None, "by now it has been silent for long"


def test_group_limit() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("r", "o", [(0, 64 * MIB)])
    planner.limit("o", 1)
    first = planner.take(0.0)
    assert first is not None
    assert planner.take(0.0) is None and not planner.has_work(0.0)
    planner.limit("o", None)
    assert planner.take(0.0) is not None


def test_limited_group_does_not_block_others() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("a", "o1", [(0, 64 * MIB)])
    planner.add("b", "o2", [(0, 64 * MIB)])
    planner.limit("o1", 1)
    assert [piece.work.key for piece in (planner.take(0.0), planner.take(0.0)) if piece] == ["a", "b"]


def test_finish_puts_back_what_did_not_come() -> None:
    planner = PiecePlanner(POLICY)
    work = planner.add("r", "o", [(0, 2 * MIB)])
    piece = planner.take(0.0)
    assert piece is not None
    planner.arrived(piece, 1000, 0.1)
    planner.finish(piece, 0.1)
    assert list(work.pending) == [(1000, 2 * MIB)]
    planner.finish(piece, 0.2)
    planner.check_invariants()


def test_remove_drops_active_pieces() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("r", "o", [(0, 64 * MIB)])
    pieces = [planner.take(0.0), planner.take(0.0)]
    dropped = planner.remove("r")
    assert dropped == pieces and all(piece.dropped for piece in dropped)
    assert planner.take(0.0) is None and planner.remaining == 0
    for piece in dropped:
        planner.finish(piece, 1.0)
    assert planner.take(0.0) is None
    assert planner.remove("r") == []
    planner.check_invariants()


def test_release_gives_all_pending_and_half_of_what_is_under_way() -> None:
    planner = PiecePlanner(PiecePolicy(connections=2, piece_bytes_first=8 * MIB))
    planner.add("r", "o", [(0, 64 * MIB)])
    piece = planner.take(0.0)
    assert piece is not None and piece.stop == 8 * MIB
    released = planner.release("r")
    assert released == ((4 * MIB, 64 * MIB),)
    assert piece.stop == 4 * MIB and not piece.dropped
    planner.check_invariants()
    assert planner.take(0.0) is None or piece.stop < 4 * MIB


def test_release_keeps_undivided_work() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("w", "w", [(0, MIB)], undivided=True)
    assert planner.release("w") == ()
    assert planner.take(0.0) is not None


def test_take_over_makes_one_piece_of_the_rest() -> None:
    planner = PiecePlanner(POLICY)
    work = planner.add("r", "o", [(0, 64 * MIB)])
    piece = planner.take(0.0)
    assert piece is not None
    planner.take_over(piece, 64 * MIB)
    planner.rewind(piece, 0, 0.0)
    assert piece.stop == 64 * MIB and not work.pending and planner.take(100.0) is None
    planner.check_invariants()


def stalled_planner() -> tuple[PiecePlanner, list[Piece]]:
    """Five pieces; all but the first fetch 10 MiB/s."""
    planner = PiecePlanner(PiecePolicy(connections=5))
    planner.set_outlook("job", 1 << 40)
    planner.add("r", "o", [(0, 1 << 30)])
    pieces = [piece for _ in range(5) if (piece := planner.take(0.0))]
    for piece in pieces:
        piece.stop = piece.start + (1 << 29)  # far away: nothing ends in this test
    return planner, pieces


def test_stalled_piece_is_named_once() -> None:
    planner, pieces = stalled_planner()
    for second in range(1, 12):
        for piece in pieces[1:]:
            planner.arrived(piece, 10 * MIB, float(second))
        planner.arrived(pieces[0], 10 * MIB if second == 1 else 10, float(second))
        if (found := planner.stalled(float(second))) or second == 11:
            break
    assert found == [pieces[0]] and 5 <= second <= 8
    assert planner.stalled(float(second)) == [], "now there is more patience with its work"
    planner.finish(pieces[0], float(second))
    assert next(iter(pieces[0].work.pending))[0] == pieces[0].at


def test_nothing_is_stalled_where_all_are_slow_or_few() -> None:
    planner, pieces = stalled_planner()
    for second in range(1, 20):
        for piece in pieces:
            planner.arrived(piece, 1000, float(second))
        assert planner.stalled(float(second)) == []
    few = PiecePlanner(PiecePolicy(connections=2))
    few.add("r", "o", [(0, 1 << 30)])
    for rate in (10 * MIB, 10):
        piece = few.take(0.0)
        assert piece is not None
        few.arrived(piece, rate, 1.0)
    assert few.stalled(100.0) == []


def test_a_key_cannot_be_added_twice() -> None:
    planner = PiecePlanner(POLICY)
    planner.add("r", "o", [(0, 1)])
    with pytest.raises(ValueError, match="already"):
        planner.add("r", "o", [(0, 1)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=4))
def test_any_course_of_events_brings_every_byte_once(seed: int, connections: int, sizes: list[int]) -> None:
    """Connections of any speed, failures, limits and stalls: no byte is lost, none is fetched by two at a time."""
    rng = random.Random(seed)
    planner = PiecePlanner(PiecePolicy(connections=connections))
    brought = {n: IntervalSet() for n in range(len(sizes))}
    for n, size in enumerate(sizes):
        planner.add(n, f"o{n % 2}", [(0, size)], undivided=rng.random() < 0.2)
    active: list[Piece] = []
    now = 0.0
    for step in range(20_000):
        now += rng.random() * 0.5
        if len(active) < connections and (piece := planner.take(now)) is not None:
            active.append(piece)
        if not active:
            if all(brought[n].covers(0, size) for n, size in enumerate(sizes)):
                break
            planner.limit("o0", None)
            planner.limit("o1", None)
            continue
        piece = rng.choice(active)
        event = rng.random()
        if event < 0.1:
            planner.limit(f"o{rng.randrange(2)}", rng.choice([1, None]))
        elif event < 0.15 and step < 10_000:
            active.remove(piece)
            planner.finish(piece, now)  # its connection broke
        else:
            count = min(piece.left, rng.randrange(1, 4 * MIB))
            brought[piece.work.key].add(piece.at, piece.at + count)  # type: ignore[index]
            planner.arrived(piece, count, now)
            if not piece.left:
                active.remove(piece)
                planner.finish(piece, now)
        planner.check_invariants()
        for stalled in planner.stalled(now):
            active.remove(stalled)
            planner.finish(stalled, now)
    else:
        pytest.fail("it does not come to an end")
    assert planner.remaining == 0
