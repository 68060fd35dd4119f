"""Compressed tars and archives that are still arriving: every format, every cut, every bomb."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zstandard

from shoal.agent.unpack import streams, zstd
from shoal.agent.unpack.formats import (
    ArchiveFormat,
    UnpackTarget,
    check_magic,
    format_by_name,
    parse_format,
    unpack_target,
)
from shoal.agent.unpack.members import Limits
from shoal.agent.unpack.sources import Arrival
from shoal.agent.unpack.streams import decompressed
from shoal.agent.unpack.unpacking import StreamingUnpacker
from shoal.common.errors import DamagedArchive, Interrupted, TransferError, UnsafeArchive, UnsafeName, UsageError
from shoal.common.paths import SafeRoot
from support.archives import Place, member, symlink, tar, walk

F = ArchiveFormat
COMPRESS = {
    F.TAR_GZ: lambda data: gzip.compress(data, mtime=0),
    F.TAR_BZ2: bz2.compress,
    F.TAR_XZ: lzma.compress,
    F.TAR_ZST: lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
NOISE = random.Random(3).randbytes(1_500_000)
DATA = tar(member("noise", NOISE), member("d/zeros", bytes(900_000)), symlink("l", "d/zeros"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def never() -> bool:
    return False


class Bytes(io.BytesIO):
    """A source; what a read gave is at most a few bytes where that is asked."""

    def __init__(self, data: bytes, step: int = 1 << 30) -> None:
        super().__init__(data)
        self.step = step

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None and size > 0
        return super().read(min(size, self.step))


@pytest.mark.parametrize("kind", COMPRESS)
def test_good_in_one_stream_and_in_several(place: Place, kind: ArchiveFormat) -> None:
    halves = COMPRESS[kind](DATA[:700_001]) + COMPRESS[kind](DATA[700_001:])
    for into, data in (("one", COMPRESS[kind](DATA)), ("several", halves)):
        place.unpack(data, name=f"a.{kind}", into=into, format=kind)
        assert place.content(f"{into}/noise") == NOISE
        assert place.content(f"{into}/l") == bytes(900_000)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("step", [1, 1000])
def test_input_in_small_pieces_and_output_in_bounded_ones(kind: ArchiveFormat, step: int) -> None:
    plain = bytes(3_000_000) + NOISE[:3000]
    source = decompressed(Bytes(COMPRESS[kind](plain), step), kind, "a")
    found = b""
    while data := source.read(100_000):
        assert len(data) <= 100_000
        found += data
    assert found == plain


@pytest.mark.parametrize("kind", COMPRESS)
def test_every_truncation_is_noticed(place: Place, kind: ArchiveFormat) -> None:
    data = COMPRESS[kind](tar(member("a", NOISE[:3000]), symlink("l", "a")))
    for length in [*range(0, len(data), 151), *range(len(data) - 20, len(data))]:
        with pytest.raises(DamagedArchive):
            place.unpack(data[:length], name=f"a.{kind}", format=kind)
        assert walk(place.folder) == []


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_changed_byte_is_noticed(place: Place, kind: ArchiveFormat) -> None:
    good = COMPRESS[kind](tar(member("a", NOISE[:3000])))
    for at in [*range(12, len(good), 97), len(good) - 3]:
        data = bytearray(good)
        data[at] ^= 0x55
        with pytest.raises((DamagedArchive, UnsafeArchive)):
            place.unpack(bytes(data), name=f"a.{kind}", format=kind)
        assert walk(place.folder) == []


@pytest.mark.parametrize("kind", COMPRESS)
def test_what_follows_the_last_stream(place: Place, kind: ArchiveFormat) -> None:
    data = COMPRESS[kind](tar(member("a", b"x")))
    for suffix in (b"junk", b"\0\0junk", COMPRESS[kind](b"more")):
        with pytest.raises(DamagedArchive):
            place.unpack(data + suffix, name=f"a.{kind}", format=kind)
    if kind in (F.TAR_GZ, F.TAR_XZ):
        place.unpack(data + bytes(1024), name=f"a.{kind}", format=kind)
        assert place.names() == ["out", "out/a"]


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_bomb_is_refused_before_it_is_written(place: Place, kind: ArchiveFormat) -> None:
    data = COMPRESS[kind](tar(member("a", b"x"), member("bomb", bytes(60_000_000))))
    assert len(data) < 300_000
    with pytest.raises(UnsafeArchive, match="200 times as large"):
        place.unpack(data, name=f"a.{kind}", format=kind)
    assert walk(place.folder) == []


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_bomb_of_headers_and_padding(place: Place, kind: ArchiveFormat) -> None:
    data = COMPRESS[kind](tar(member("a", b"x")) + bytes(40 << 20))
    with pytest.raises(UnsafeArchive, match="proportion"):
        place.unpack(data, name=f"a.{kind}", format=kind)
    assert walk(place.folder) == []


def test_a_block_of_zstd_that_is_four_bytes_makes_no_gigabytes_at_once() -> None:
    blocks = b"".join((128 << 10 << 3 | 1 << 1).to_bytes(3, "little") + b"\0" for _ in range(20_000))
    last = (1 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0x70]) + blocks + last  # no checksum, window of 16 MiB
    source = zstd.ZstdSource(Bytes(frame), "a")
    for _ in range(50):
        assert 0 < len(source.read(1 << 30)) <= 2 << 20
    with pytest.raises(DamagedArchive, match="cannot be decompressed"):
        zstd.ZstdSource(Bytes(b"\x28\xb5\x2f\xfd" + bytes([0x00, 0xF0]) + blocks + last), "a").read(10)


def test_skippable_frames_of_zstd_are_skipped(place: Place) -> None:
    skip = b"\x5a\x2a\x4d\x18" + (300_000).to_bytes(4, "little") + NOISE[:300_000]
    data = skip + COMPRESS[F.TAR_ZST](tar(member("a", b"x"))) + skip
    place.unpack(data, name="a.tar.zst", format=F.TAR_ZST)
    assert place.names() == ["out", "out/a"]
    with pytest.raises(DamagedArchive, match="cut"):
        place.unpack(data[:-1], name="a.tar.zst", into="b", format=F.TAR_ZST)


def test_xz_that_asks_for_gigabytes_of_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "XZ_MEMORY_MAX", 1 << 20)
    with pytest.raises(DamagedArchive, match=r"[Mm]emory"):
        place.unpack(lzma.compress(DATA), name="a.tar.xz", format=F.TAR_XZ)


def test_without_zstandard_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['zstandard'] = None\n"
        "from shoal.agent.unpack.zstd import ZstdSource\n"
        "from shoal.common.errors import MissingExtra\n"
        "try: ZstdSource(None, 'a')\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "shoal[unpack]" in done.stdout


def test_formats_by_name() -> None:
    names = {
        "a.tar": F.TAR, "a.TAR.GZ": F.TAR_GZ, "x/a.tgz": F.TAR_GZ, "a.tbz2": F.TAR_BZ2, "a.tar.bz2": F.TAR_BZ2, "a.txz": F.TAR_XZ,
        "a.tar.xz": F.TAR_XZ, "a.tar.zst": F.TAR_ZST, "a.zip": F.ZIP, "a.gz": None, "a.whl": None, "tar": None, "a.zip.txt": None,
    }  # fmt: skip
    assert {name: format_by_name(name) for name in names} == names
    assert [parse_format(text) for text in ("tgz", "tar.zst", "ZIP")] == [F.TAR_GZ, F.TAR_ZST, F.ZIP]
    with pytest.raises(UsageError):
        parse_format("rar")


def test_where_an_object_is_unpacked_to() -> None:
    def target(path: str, unpack: str, unpack_format: str = "") -> UnpackTarget | None:
        return unpack_target(path, unpack=unpack, unpack_format=unpack_format)

    assert target("a/b.tar", "") is None
    assert target("a/README.md", "auto") is None
    assert target("a/b.tar", "auto") == UnpackTarget(base="", into="a", format=F.TAR)
    assert target("b.zip", "auto") == UnpackTarget(base="", into="", format=F.ZIP)
    assert target("a/b.bin", "./env//x/", "tgz") == UnpackTarget(base="", into="env/x", format=F.TAR_GZ)
    assert target("b.zip", ".") == UnpackTarget(base="", into="", format=F.ZIP)
    assert target("b.zip", "/opt/env") == UnpackTarget(base="/opt/env", into="", format=F.ZIP)
    for bad in ("../x", "a/../../b", ".shoal/x", "a\\b"):
        with pytest.raises(UnsafeName):
            target("b.zip", bad)


def test_a_name_that_does_not_fit_the_content() -> None:
    heads = {kind: compress(DATA)[:512] for kind, compress in COMPRESS.items()} | {
        F.TAR: DATA[:512],
        F.ZIP: b"PK\3\4" + bytes(508),
    }
    for kind in F:
        for other, head in heads.items():
            if kind is other:
                check_magic(head, kind, "a")
            else:
                with pytest.raises(DamagedArchive, match=f"begins like {other}"):
                    check_magic(head, kind, "a")
        with pytest.raises(DamagedArchive, match="not of the format"):
            check_magic(b"<html>", kind, "a")


class Streamed:
    """An archive that arrives piece by piece while a thread unpacks it."""

    def __init__(self, place: Place, *, kind: ArchiveFormat = F.TAR_GZ, size: int | None = None) -> None:
        self.arrival = Arrival()
        self.error: BaseException | None = None
        self.cancelled = threading.Event()
        self._root = SafeRoot(place.folder)
        self._file = place.archive.open("w+b")
        self.unpacker = StreamingUnpacker(
            self._root,
            self._file.fileno(),
            self.arrival,
            name=f"a.{kind}",
            into="out",
            format=kind,
            limits=Limits(),
            cancelled=self.cancelled.is_set,
            size=size,
            sync=False,
        )
        self._thread = threading.Thread(target=self._run)
        self._there = 0

    def __enter__(self) -> Streamed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.arrival.fail(TransferError("test", cause="over"))
        self.join()
        self.unpacker.discard()
        self._root.close()
        self._file.close()

    def _run(self) -> None:
        try:
            self.unpacker.run()
        except BaseException as error:
            self.error = error

    def bring(self, data: bytes) -> None:
        os.pwrite(self._file.fileno(), data, self._there)
        self._there += len(data)
        self.arrival.advance(self._there)

    def finish(self) -> None:
        self.arrival.finish(self._there)
        self.join()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("kind", [F.TAR, *COMPRESS, F.ZIP])
@pytest.mark.parametrize("is_size_known", [True, False])
def test_unpacked_while_it_arrives_and_visible_when_it_is_said_to_be_right(
    place: Place, kind: ArchiveFormat, is_size_known: bool
) -> None:
    from support.archives import zipped

    data = zipped(("noise", NOISE), ("d/zeros", bytes(900_000))) if kind is F.ZIP else COMPRESS.get(kind, bytes)(DATA)
    with Streamed(place, kind=kind, size=len(data) if is_size_known else None) as streamed:
        for at in range(0, len(data), 100_000):
            streamed.bring(data[at : at + 100_000])
        streamed.finish()
        assert streamed.error is None
        assert not (place.folder / "out").exists()
        done = streamed.unpacker.commit("sha256:1")
        assert done.bytes == 2_400_000
    assert place.content("out/noise") == NOISE
    assert not (place.folder / ".shoal/partial").exists()


def test_discarded_when_the_digest_was_wrong(place: Place) -> None:
    with Streamed(place, kind=F.TAR) as streamed:
        streamed.bring(DATA)
        streamed.finish()
        assert streamed.error is None
        streamed.unpacker.discard()
        streamed.unpacker.discard()
        assert walk(place.folder) == []


def test_it_does_not_arrive(place: Place) -> None:
    for how in ("fails", "is cut", "is cancelled"):
        with Streamed(place, kind=F.TAR) as streamed:
            streamed.bring(DATA[:800_000])
            if how == "fails":
                streamed.arrival.fail(TransferError("x", cause="gone"))
            elif how == "is cut":
                streamed.arrival.finish(800_000)
            else:
                streamed.cancelled.set()
                streamed.bring(DATA[800_000:900_000])
            streamed.join()
            expected = {"fails": TransferError, "is cut": DamagedArchive, "is cancelled": Interrupted}[how]
            assert isinstance(streamed.error, expected)
        assert walk(place.folder) == []


def test_a_bomb_of_unknown_size_is_held_against_what_has_come(place: Place) -> None:
    data = COMPRESS[F.TAR_GZ](tar(member("bomb", bytes(60_000_000))))
    with Streamed(place) as streamed:
        streamed.bring(data)
        streamed.finish()
        assert isinstance(streamed.error, UnsafeArchive)
    assert walk(place.folder) == []
    mixed = tar(member("noise", NOISE * 30), member("zeros", bytes(1000)))
    with Streamed(place, kind=F.TAR) as streamed:
        streamed.bring(mixed)
        streamed.finish()
        assert streamed.error is None
