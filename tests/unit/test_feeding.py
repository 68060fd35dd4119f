"""When an archive that is still arriving is unpacked, and how much of it its reader is told of."""

from __future__ import annotations

import pytest

from shoal.agent.engine.feeding import RESTARTS_MAX, STEP_BYTES, Feeder

FD = 7


class Attempts:
    """Stands for the threads: every attempt is a list of what it was told."""

    def __init__(self, *, turns: int = 100) -> None:
        self.turns = turns
        self.asked = 0
        self.made: list[Told] = []

    def begin(self, fd: int) -> Told | None:
        assert fd == FD
        self.asked += 1
        if len(self.made) >= self.turns:
            return None
        self.made.append(Told())
        return self.made[-1]


class Told(list[tuple[str, int]]):
    """As Attempt."""

    def advance(self, there: int) -> None:
        self.append(("advance", there))

    def finish(self, size: int) -> None:
        self.append(("finish", size))

    def abandon(self) -> None:
        self.append(("abandon", 0))


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


@pytest.fixture
def feeder(attempts: Attempts) -> Feeder:
    return Feeder(attempts.begin)


def test_nothing_begins_before_the_first_byte_is_there(feeder: Feeder, attempts: Attempts) -> None:
    feeder.advance(FD, 0, 100 * STEP_BYTES)
    assert attempts.asked == 0
    feeder.advance(FD, 1, 100 * STEP_BYTES)
    assert len(attempts.made) == 1


def test_the_reader_is_woken_in_steps_and_once_at_the_end(feeder: Feeder, attempts: Attempts) -> None:
    size = 3 * STEP_BYTES + 5
    for at in (10, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 9, 2 * STEP_BYTES, size - 6, size, size):
        feeder.advance(FD, at, size)
    feeder.published(size)
    assert attempts.made == [
        [("advance", STEP_BYTES), ("advance", 2 * STEP_BYTES), ("finish", size)],
    ]


def test_a_file_of_unknown_size_ends_with_its_publication(feeder: Feeder, attempts: Attempts) -> None:
    feeder.advance(FD, 2 * STEP_BYTES, None)
    feeder.published(2 * STEP_BYTES + 3)
    assert attempts.made == [[("advance", 2 * STEP_BYTES), ("finish", 2 * STEP_BYTES + 3)]]


def test_without_a_turn_it_is_asked_for_again_and_catches_up() -> None:
    attempts = Attempts(turns=0)
    feeder = Feeder(attempts.begin)
    feeder.advance(FD, STEP_BYTES, None)
    feeder.advance(FD, 2 * STEP_BYTES, None)
    assert attempts.asked == 2
    attempts.turns = 1
    feeder.advance(FD, 9 * STEP_BYTES, None)
    assert attempts.made == [[("advance", 9 * STEP_BYTES)]]


def test_without_a_turn_until_the_end_the_finished_file_is_unpacked() -> None:
    attempts = Attempts(turns=0)
    feeder = Feeder(attempts.begin)
    feeder.advance(FD, STEP_BYTES, STEP_BYTES)
    feeder.published(STEP_BYTES)
    attempts.turns = 1
    feeder.advance(FD, STEP_BYTES, STEP_BYTES)
    assert attempts.made == []


def test_wrong_bytes_begin_it_anew_if_they_may_have_been_read(feeder: Feeder, attempts: Attempts) -> None:
    feeder.advance(FD, 3 * STEP_BYTES, None)
    feeder.forget(3 * STEP_BYTES)
    assert attempts.made == [[("advance", 3 * STEP_BYTES)]], "what comes after was not read yet"
    feeder.forget(3 * STEP_BYTES - 1)
    assert attempts.made[0][-1] == ("abandon", 0)
    feeder.advance(FD, STEP_BYTES, None)
    assert attempts.made[1:] == [[("advance", STEP_BYTES)]]


def test_after_its_last_byte_it_can_still_begin_anew(feeder: Feeder, attempts: Attempts) -> None:
    """As when the digest of the whole is wrong."""
    feeder.advance(FD, STEP_BYTES, STEP_BYTES)
    feeder.forget()
    feeder.advance(FD, STEP_BYTES, STEP_BYTES)
    assert attempts.made == [[("finish", STEP_BYTES), ("abandon", 0)], [("finish", STEP_BYTES)]]


def test_it_gives_up_where_bytes_keep_being_wrong(feeder: Feeder, attempts: Attempts) -> None:
    for _ in range(RESTARTS_MAX + 3):
        feeder.advance(FD, STEP_BYTES, None)
        feeder.forget()
    assert len(attempts.made) == RESTARTS_MAX


def test_what_was_published_is_out_of_its_hands(feeder: Feeder, attempts: Attempts) -> None:
    feeder.advance(FD, STEP_BYTES, None)
    feeder.published(STEP_BYTES)
    feeder.forget()
    feeder.advance(FD, STEP_BYTES, None)
    assert attempts.made == [[("advance", STEP_BYTES), ("finish", STEP_BYTES)]]
