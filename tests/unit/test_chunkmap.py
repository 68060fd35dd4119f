"""Chunk maps: a map never claims more than was recorded, whatever happens to the file."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.agent.storage import chunkmap
from shoal.agent.storage.chunkmap import HEADER_BYTES, RECORD_BYTES, ChunkMapWriter, decode, encode_header, read_map

IDENTITY = b"identity-of-16-b"
BOOT = b"boot-id-16-bytes"
OTHER_BOOT = b"another-16-bytes"
RECORDED = [(0, 100), (300, 400), (100, 150), (2**40, 2**40 + 7)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "KEY.agent.map"


def writer(
    path: Path, *, boot_id: bytes = BOOT, durable: bool = False, has_digest: bool = True, identity: bytes = IDENTITY
) -> ChunkMapWriter:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    return ChunkMapWriter(
        fd, name=path.name, identity=identity, boot_id=boot_id, durable=durable, has_digest=has_digest
    )


def write(path: Path, intervals: list[tuple[int, int]], **options: bool | bytes) -> bytes:
    made = writer(path, **options)  # type: ignore[arg-type]
    for start, stop in intervals:
        made.append(start, stop)
    made.close()
    made.close()
    return path.read_bytes()


def test_what_was_recorded_is_read_back(path: Path):
    data = write(path, RECORDED)
    assert len(data) == HEADER_BYTES + 4 * RECORD_BYTES
    found = decode(data, identity=IDENTITY)
    assert found.intervals == RECORDED
    assert (found.boot_id, found.durable, found.valid_bytes) == (BOOT, False, len(data))


def test_an_absent_or_empty_map_claims_nothing():
    assert decode(b"", identity=IDENTITY).intervals == []
    assert decode(encode_header(identity=IDENTITY, boot_id=BOOT, durable=True), identity=IDENTITY).intervals == []


def test_every_cut_leaves_a_prefix_of_the_records(path: Path):
    data = write(path, RECORDED)
    for length in range(len(data)):
        found = decode(data[:length], identity=IDENTITY)
        whole = max(0, (length - HEADER_BYTES) // RECORD_BYTES)
        assert found.intervals == RECORDED[:whole]


def test_every_flipped_bit_is_noticed(path: Path):
    data = write(path, RECORDED)
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            found = decode(bytes(damaged), identity=IDENTITY)
            sound = 0 if at < HEADER_BYTES else (at - HEADER_BYTES) // RECORD_BYTES
            assert found.intervals == RECORDED[:sound], (at, bit)


@given(st.binary(max_size=300))
def test_garbage_claims_nothing(data: bytes):
    assert decode(data, identity=IDENTITY).intervals == []


@given(st.binary(max_size=100))
def test_garbage_after_the_records_adds_nothing(data: bytes):
    header = encode_header(identity=IDENTITY, boot_id=BOOT, durable=False)
    assert decode(header + data, identity=IDENTITY).intervals == []


def test_a_map_of_another_object_claims_nothing(path: Path):
    data = write(path, RECORDED)
    assert decode(data, identity=b"another-16-bytes").intervals == []


def test_a_record_of_another_map_is_not_taken_for_one_of_this(path: Path, tmp_path: Path):
    data = write(path, [])
    other = write(tmp_path / "other.map", RECORDED, boot_id=OTHER_BOOT)
    assert decode(data + other[HEADER_BYTES:], identity=IDENTITY).intervals == []


def test_a_reversed_interval_with_a_right_checksum_ends_the_map():
    header = encode_header(identity=IDENTITY, boot_id=BOOT, durable=False)
    body = struct.pack("<QQ", 9, 3)
    record = body + struct.pack("<I", zlib.crc32(body, struct.unpack("<I", header[-4:])[0]))
    assert decode(header + record, identity=IDENTITY).intervals == []


def test_writing_goes_on_after_the_last_sound_record(path: Path):
    data = write(path, RECORDED)
    path.write_bytes(data[:-3] + b"")  # torn by a crash
    again = writer(path)
    assert again.intervals == RECORDED[:3]
    again.append(500, 600)
    again.close()
    assert decode(path.read_bytes(), identity=IDENTITY).intervals == [*RECORDED[:3], (500, 600)]


def test_writing_goes_on_after_a_reboot_when_a_digest_will_tell(path: Path):
    write(path, RECORDED)
    data = write(path, [(7, 8)], boot_id=OTHER_BOOT)
    found = decode(data, identity=IDENTITY)
    assert found.intervals == [*RECORDED, (7, 8)]
    assert found.boot_id == BOOT  # the oldest record decides


def test_a_damaged_header_begins_a_new_map(path: Path):
    path.write_bytes(b"\0" * 500)
    assert decode(write(path, [(1, 2)]), identity=IDENTITY).intervals == [(1, 2)]


def test_without_a_digest_an_undurable_map_does_not_outlive_the_boot(path: Path):
    data = write(path, RECORDED, has_digest=False)
    found = decode(data, identity=IDENTITY)
    assert found.trusted(has_digest=False, boot_id=BOOT)
    assert not found.trusted(has_digest=False, boot_id=OTHER_BOOT)
    assert found.trusted(has_digest=True, boot_id=OTHER_BOOT)
    again = writer(path, has_digest=False, boot_id=OTHER_BOOT)
    assert again.intervals == []
    again.close()
    assert len(path.read_bytes()) == HEADER_BYTES


def test_a_durable_map_outlives_the_boot(path: Path):
    data = write(path, RECORDED, durable=True, has_digest=False)
    assert decode(data, identity=IDENTITY).trusted(has_digest=False, boot_id=OTHER_BOOT)
    again = writer(path, durable=True, has_digest=False, boot_id=OTHER_BOOT)
    assert again.intervals == RECORDED
    again.close()


@pytest.mark.parametrize("before", [True, False])
def test_durable_and_undurable_records_do_not_mix(path: Path, before: bool):
    write(path, RECORDED, durable=before)
    found = decode(write(path, [(1, 2)], durable=not before), identity=IDENTITY)
    assert (found.intervals, found.durable) == ([(1, 2)], not before)


def test_clear_forgets_every_record(path: Path):
    made = writer(path)
    made.append(0, 10)
    made.clear()
    made.append(20, 30)
    made.close()
    assert decode(path.read_bytes(), identity=IDENTITY).intervals == [(20, 30)]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Room for so many bytes; a write takes what fits, the next raises ENOSPC."""
    room = [1 << 30]
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        count = real(fd, data[: room[0]], offset)
        room[0] -= count
        return count

    monkeypatch.setattr(chunkmap.os, "pwrite", pwrite)
    yield room


def test_a_record_torn_by_a_full_disk_does_not_hide_later_ones(path: Path, full_disk: list[int]):
    made = writer(path)
    made.append(0, 10)
    full_disk[0] = RECORD_BYTES - 5
    with pytest.raises(OSError, match="No space"):
        made.append(10, 20)
    assert decode(path.read_bytes(), identity=IDENTITY).intervals == [(0, 10)]
    full_disk[0] = 1 << 30
    made.append(40, 50)
    made.close()
    assert decode(path.read_bytes(), identity=IDENTITY).intervals == [(0, 10), (40, 50)]


def test_no_more_than_the_limit_is_read(path: Path, monkeypatch: pytest.MonkeyPatch):
    write(path, RECORDED)
    monkeypatch.setattr(chunkmap, "MAP_BYTES_MAX", HEADER_BYTES + RECORD_BYTES + 1)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read_map(fd, identity=IDENTITY).intervals == RECORDED[:1]
    finally:
        os.close(fd)
