"""The agent's journal: what was put and not dropped is there after a kill, whatever the end of the file looks like."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.agent.journal import COMPACT_AT, FileJournal, MemoryJournal
from shoal.common.errors import NotWritable
from shoal.common.records import Failure, Outcome, Result

PLAIN = Result(seq=1, unit="r1", token=7, outcome=Outcome.PARTIAL, done=((0, 10), (20, 30)), released=((30, 40),))
FULL = Result(
    seq=2,
    unit="o12",
    token=1 << 40,
    outcome=Outcome.FAILED,
    done=((1 << 45, 1 << 46),),
    fetched=5,
    size=0,
    digest="sha256:00",
    etag='W/"ä\n\u2028"',
    skipped=True,
    failure=Failure(code="timeout", text="späť: \x00 \ud800".encode("utf-8", "replace").decode(), retryable=False),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def read(path: Path) -> dict[int, Result]:
    with closing(FileJournal(path)) as journal:
        return journal.pending


def write(path: Path, *results: Result) -> None:
    with closing(FileJournal(path)) as journal:
        journal.put(results)


def report(seq: int, **changes: object) -> Result:
    return Result(seq=seq, unit=f"r{seq}", token=seq, outcome=Outcome.DONE, **changes)  # pyright: ignore[reportArgumentType]


def test_what_was_put_is_there_again(path: Path) -> None:
    assert read(path) == {}
    write(path, PLAIN, FULL)
    assert read(path) == {1: PLAIN, 2: FULL}
    assert read(path) == {1: PLAIN, 2: FULL}


def test_what_was_dropped_is_gone(path: Path) -> None:
    with closing(FileJournal(path)) as journal:
        journal.put([PLAIN, FULL])
        journal.drop([1, 99])
        assert journal.pending == {2: FULL}
    assert read(path) == {2: FULL}


def test_a_seq_that_is_used_again_counts_anew(path: Path) -> None:
    with closing(FileJournal(path)) as journal:
        journal.put([report(1)])
        journal.drop([1])
        journal.put([report(1, size=5)])
    assert read(path) == {1: report(1, size=5)}


def test_pending_is_a_copy(path: Path) -> None:
    with closing(FileJournal(path)) as journal:
        journal.put([PLAIN])
        journal.pending.clear()
        assert journal.pending == {1: PLAIN}


def test_put_is_on_disk_when_it_returns(path: Path) -> None:
    with closing(FileJournal(path)) as journal:
        journal.put([PLAIN])
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())  # what a kill at this moment leaves
    assert read(copy) == {1: PLAIN}


@given(cut=st.integers(min_value=0), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_keeps_all_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal"
    results = [report(seq, digest="x" * data.draw(st.integers(0, 50))) for seq in range(1, 6)]
    write(path, *results)
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    count = kept.count(b"\n")
    assert read(path) == {result.seq: result for result in results[:count]}


@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_never_invents_a_report(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "journal"
    results = {seq: report(seq) for seq in range(1, 4)}
    write(path, *results.values())
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[position % len(damaged)] ^= 1 << bit
    path.write_bytes(damaged)
    found = read(path)
    assert found == {seq: results[seq] for seq in found}
    assert len(found) < 3 or damaged.lower() == whole.lower()  # noticed, but for the case of a digit of the checksum
    assert list(found) == list(range(1, len(found) + 1))  # nothing after it counts


@pytest.mark.parametrize(
    "body",
    [
        b'{"put":{}}',
        b'{"put":{"seq":1,"unit":"r","token":1,"outcome":"wished","done":[],"released":[]}}',
        b'{"put":{"seq":1,"unit":"r","token":1,"outcome":"done","done":[[1]],"released":[]}}',
        b'{"put":{"seq":1,"unit":"r","token":1,"outcome":"done","done":[],"released":[],"news":1}}',
        b'{"drop":1}',
        b"{}",
        b"[]",
        b"not json",
    ],
)
def test_a_line_of_another_kind_ends_the_reading(path: Path, body: bytes) -> None:
    write(path, PLAIN)
    with path.open("ab") as file:
        file.write(b"%08x %s\n" % (zlib.crc32(body), body))
    assert read(path) == {1: PLAIN}


def test_what_follows_a_damaged_end_can_be_read(path: Path) -> None:
    write(path, PLAIN)
    with path.open("ab") as file:
        file.write(b"0000")
    write(path, FULL)
    assert read(path) == {1: PLAIN, 2: FULL}


def test_it_does_not_grow_for_ever(path: Path) -> None:
    big = "x" * 1000
    with closing(FileJournal(path)) as journal:
        for seq in range(1, 2000):
            journal.put([report(seq, digest=big)])
            journal.drop([seq])
            assert path.stat().st_size <= COMPACT_AT + 4096
        journal.put([PLAIN])
    assert read(path) == {1: PLAIN}
    assert [entry.name for entry in path.parent.iterdir()] == ["journal"]


def test_only_its_owner_may_read_it(path: Path) -> None:
    write(path, PLAIN)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_be_written_is_named(path: Path) -> None:
    path.mkdir()
    with pytest.raises(NotWritable, match="journal"):
        FileJournal(path)


def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[int, memoryview], int] = os.write
    room = 30

    def cramped(fd: int, data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = real(fd, data[:room])
        room -= taken
        return taken

    with closing(FileJournal(path)) as journal:
        journal.put([PLAIN])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", cramped)
            with pytest.raises(OSError, match="No space"):
                journal.put([report(3)])
        journal.put([FULL])
        assert set(journal.pending) == {1, 2, 3}
    assert read(path) == {1: PLAIN, 2: FULL}


def test_one_in_memory_keeps_nothing() -> None:
    journal = MemoryJournal()
    journal.put([PLAIN])
    journal.drop([1])
    assert journal.pending == {}
    journal.close()
