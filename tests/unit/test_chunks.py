"""The table of chunks: every byte in one chunk, the same table from the same objects, sizes that fit the fleet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.chunks import (
    BUNDLE_OBJECTS_MAX,
    MIB,
    SMALL_BYTES_MAX,
    Bundle,
    ChunkSizes,
    ChunkTable,
    Part,
    choose_sizes,
)

PLAN = ChunkSizes(chunk_bytes=MIB)


def table_of(*sizes: int | None) -> ChunkTable:
    return ChunkTable(range(10, 10 + len(sizes)), sizes, PLAN)


@given(st.lists(st.none() | st.integers(0, 5 * MIB) | st.integers(0, 2000), max_size=200))
def test_every_byte_is_in_one_chunk(sizes: list[int | None]) -> None:
    table = table_of(*sizes)
    covered: dict[int, int] = {}
    for number in range(len(table)):
        chunk = table.chunk(number)
        if isinstance(chunk, Bundle):
            assert 0 < len(chunk.positions) <= BUNDLE_OBJECTS_MAX
            assert table.chunk_bytes(number) <= MIB
            for position in chunk.positions:
                assert position not in covered
                covered[position] = sizes[position] or 0
        else:
            assert covered.setdefault(chunk.position, 0) == chunk.start
            covered[chunk.position] = -1 if chunk.stop is None else chunk.stop
        for position in chunk.positions if isinstance(chunk, Bundle) else (chunk.position,):
            assert number in table.chunks_of(position)
    assert covered == {position: -1 if size is None else size for position, size in enumerate(sizes)}


@given(st.lists(st.integers(0, 3 * MIB), max_size=50))
def test_objects_are_found_by_their_id(sizes: list[int]) -> None:
    table = table_of(*sizes)
    assert [table.position(10 + at) for at in range(len(sizes))] == list(range(len(sizes)))
    assert table.position(9) is table.position(10 + len(sizes)) is None


def test_bundles_come_first_and_large_objects_are_cut() -> None:
    table = table_of(2 * MIB + 1, 5, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1)
    assert [table.chunk(number) for number in range(len(table))] == [
        Bundle((1, 2)),
        Part(0, 0, MIB),
        Part(0, MIB, 2 * MIB),
        Part(0, 2 * MIB, 2 * MIB + 1),
        Part(3, 0, SMALL_BYTES_MAX + 1),
    ]
    with pytest.raises(IndexError):
        table.chunk(5)


def test_a_size_that_becomes_known_keeps_the_numbers() -> None:
    table = table_of(None, MIB)
    assert table.chunk(0) == Part(0, 0, None)
    table.learn_size(0, 7 * MIB)
    assert table.chunk(0) == Part(0, 0, 7 * MIB)
    assert table.chunk_bytes(0) == 7 * MIB
    assert len(table) == 2
    with pytest.raises(ValueError, match="has"):
        table.learn_size(0, 3)


def test_ids_must_ascend() -> None:
    with pytest.raises(ValueError, match="ascend"):
        ChunkTable([2, 1], [1, 1], PLAN)


def test_a_gibibyte_travels_in_hundreds_of_chunks_and_a_huge_fleet_gets_larger_ones() -> None:
    assert choose_sizes(largest=1 << 30, total=1 << 30, agents=4).chunk_bytes == 8 * MIB
    assert choose_sizes(largest=1 << 30, total=1 << 30, agents=1).chunk_bytes == 16 * MIB
    assert choose_sizes(largest=1 << 30, total=1 << 30, agents=100).chunk_bytes == 4 * MIB
    assert choose_sizes(largest=100, total=100, agents=4).chunk_bytes == MIB
    model = 140 * 10**9
    thousands = choose_sizes(largest=model // 30, total=model, agents=10_000).chunk_bytes
    assert model / thousands * 10_000 < 3_000_000
    assert choose_sizes(largest=1 << 30, total=1 << 30, agents=4, fixed=8 * MIB).chunk_bytes == 8 * MIB
