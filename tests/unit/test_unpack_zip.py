"""Zip archives: what is unpacked, and what is refused whole."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from shoal.agent.unpack.formats import ArchiveFormat
from shoal.agent.unpack.members import Limits
from shoal.common.errors import DamagedArchive, Interrupted, ShoalError, UnsafeArchive
from support.archives import Place, walk, zip_central, zip_end, zip_info, zip_local, zipped

BAD = (UnsafeArchive, DamagedArchive)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def unpack(place: Place, data: bytes, **fields: object) -> None:
    place.unpack(data, name="a.zip", format=ArchiveFormat.ZIP, **fields)  # type: ignore[arg-type]


def refused(
    place: Place,
    data: bytes,
    *,
    match: str | None = None,
    error: type[ShoalError] | tuple[type[ShoalError], ...] = UnsafeArchive,
    **fields: object,
) -> None:
    with pytest.raises(error, match=match):
        unpack(place, data, **fields)
    assert walk(place.folder) == []


def one(local: bytes, central: bytes, *, count: int = 1, before: bytes = b"", comment: bytes = b"") -> bytes:
    return before + local + central + zip_end(central, len(before + local), count, comment=comment)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_good_archive(place: Place, method: int) -> None:
    content = random.Random(1).randbytes(700_000) + bytes(700_000)
    data = zipped(
        (zip_info("empty/", stat.S_IFDIR | 0o755), b""),
        (zip_info("bin/run", stat.S_IFREG | 0o4755), content),
        (zip_info("bin/link", stat.S_IFLNK | 0o777), b"run"),
        ("ünïcode/名", b"u"),
        ("zero", b""),
        method=method,
    )
    unpack(place, data)
    out = place.folder / "out"
    assert (out / "bin/link").read_bytes() == content
    assert (out / "bin/link").is_symlink()
    assert (out / "bin/run").stat().st_mode & 0o7100 == 0o100
    assert (out / "ünïcode/名").stat().st_mode & 0o7100 == 0
    assert place.names() == ["out", *(f"out/{name}" for name in walk(out))]
    assert len(walk(out)) == 7


def test_data_descriptors_and_zip64_as_streams_have_them(place: Place) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

        def seek(self, *_: object) -> int:
            raise OSError

    made = Pipe()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a", "w", force_zip64=True) as file:
            file.write(b"a" * 100)
        archive.writestr("b", b"b")
    unpack(place, made.getvalue())
    assert (place.content("out/a"), place.content("out/b")) == (b"a" * 100, b"b")
    spoiled = made.getvalue().replace(zlib.crc32(b"b").to_bytes(4, "little"), b"\1\2\3\4", 1)
    with pytest.raises(BAD):
        unpack(place, spoiled, into="other")
    assert not (place.folder / "other").exists()


def test_more_files_than_the_old_format_counts(place: Place) -> None:
    data = zipped(*((f"{n}", b"") for n in range(0x10000 + 5)), method=zipfile.ZIP_STORED)
    refused(place, data, limits=Limits(files_max=1000), match="1000 files")
    at = data.rindex(b"PK\6\7")
    refused(place, data[:at] + b"xx" + data[at + 2 :], error=DamagedArchive, match="not there")


def test_an_empty_archive(place: Place) -> None:
    unpack(place, zipped())
    assert place.names() == ["out"]


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../../x", "a\\..\\x", "C:/x", "nul", "x.", "\u202ex", ".shoal/x", "a\x07"]
)
def test_a_bad_name(place: Place, name: str) -> None:
    for kind in (name, zip_info(name, stat.S_IFLNK | 0o777), zip_info(name + "/", stat.S_IFDIR | 0o755)):
        refused(place, zipped(("fine", b"x"), (kind, b"" if not isinstance(kind, str) and kind.is_dir() else b"t")))


@pytest.mark.parametrize("target", ["/etc", "..", "a/../..", "x\\y", "", "a\0b", "\u202ex", "link", "x" * 5000])
def test_a_bad_symlink(place: Place, target: str) -> None:
    data = zipped(("a/fine", b"x"), (zip_info("link", stat.S_IFLNK | 0o777), target.encode()))
    refused(place, data, match="symlink")


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_special_file(place: Place, mode: int) -> None:
    refused(place, zipped(("fine", b"x"), (zip_info("x", mode | 0o644), b"")), match="device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "files",
    [
        [("a", b"1"), ("a", b"2")],
        [("a", b"1"), ("./a", b"2")],
        [("a", b"1"), ("a/b", b"2")],
        [("a/b", b"1"), ("a", b"2")],
        [(zip_info("a", stat.S_IFLNK | 0o777), b"d"), ("a/x", b"2"), ("d/", b"")],
        [(zip_info("a", stat.S_IFDIR | 0o755), b"")],
        [(zip_info("a/", stat.S_IFREG | 0o755), b"")],
        [("a/", b"content")],
    ],
)
def test_members_in_one_anothers_way(place: Place, files: list[tuple[str | zipfile.ZipInfo, bytes]]) -> None:
    refused(place, zipped(*files))


def test_encrypted_patched_or_compressed_by_something_else(place: Place) -> None:
    for flags, match in ((1, "encrypted"), (0x41, "encrypted"), (0x2000, "encrypted"), (0x20, "patch")):
        data = one(zip_local(b"x", b"12", flags=flags), zip_central(b"x", b"12", 0, flags=flags))
        refused(place, data, match=match)
    refused(place, one(zip_local(b"x", b"12", method=14), zip_central(b"x", b"12", 0, method=14)), match="method 14")


def test_the_header_and_the_directory_say_different_things(place: Place) -> None:
    good = zip_local(b"x", b"12"), zip_central(b"x", b"12", 0)
    unpack(place, one(*good), into="")
    assert place.names() == ["x"]
    (place.folder / "x").unlink()
    for path in (place.folder / ".shoal/unpacked").iterdir():
        path.unlink()
    (place.folder / ".shoal/unpacked").rmdir()
    (place.folder / ".shoal").rmdir()
    for local in (
        zip_local(b"y", b"12"),
        zip_local(b"x", b"12", size=5),
        zip_local(b"x", b"13"),
        zip_local(b"x", b"12", method=8),
        zip_local(b"x", b"12", flags=8),
        zip_local(b"x", b"12", flags=0x800),
    ):
        refused(place, one(local, good[1]), match="different things")
    refused(place, one(good[0], zip_central(b"x", b"12", 0, size=3)), match="two sizes")
    refused(place, one(good[0], zip_central(b"x", b"12", 1)), error=BAD)
    refused(place, one(good[0], zip_central(b"x", b"12", 1 << 30)), match="does not lie in")


def test_a_file_larger_or_smaller_than_it_says(place: Place) -> None:
    stream = zlib.compressobj(wbits=-15)
    packed = stream.compress(bytes(5_000_000)) + stream.flush()
    for size in (100, 4_999_999, 5_000_001):
        crc = zlib.crc32(bytes(5_000_000))
        local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(packed), size, 1, 0) + b"x" + packed
        fields = (b"PK\1\2", 0x0314, 20, 0, 8, 0, 0, crc, len(packed), size, 1, 0, 0, 0, 0, 0o100644 << 16, 0)
        refused(place, one(local, struct.pack("<4s6H3I5H2I", *fields) + b"x"), match="than it says")


def test_a_wrong_checksum(place: Place) -> None:
    data = zipped(("fine", b"1"), ("x", b"content"), method=zipfile.ZIP_STORED)
    refused(place, data.replace(b"content", b"c0ntent"), error=DamagedArchive, match="checksum")


def test_files_that_share_bytes(place: Place) -> None:
    """Many names for one content, and quoted headers within contents: how small archives become huge."""
    local = zip_local(b"x", b"12")
    twice = zip_central(b"x", b"12", 0) + zip_central(b"x", b"12", 0)
    refused(place, one(local, twice, count=2), error=DamagedArchive, match="same place")
    inner = zip_local(b"y", b"34")
    outer = zip_local(b"x", inner)
    both = zip_central(b"x", inner, 0) + zip_central(b"y", b"34", 31)
    refused(place, one(outer, both, count=2), match="shares bytes")
    refused(place, one(local, zip_central(b"x", b"12", 0), before=b"", count=2), error=DamagedArchive)


def test_several_ends_prefixes_and_suffixes(place: Place) -> None:
    local, central = zip_local(b"x", b"12"), zip_central(b"x", b"12", 0)
    end = zip_end(central, len(local), 1)
    good = local + central + end
    refused(place, good + b"junk", error=DamagedArchive, match="not there")
    refused(place, b"PK\3\4" + good, error=DamagedArchive)
    refused(
        place, local + central + zip_end(central, len(local), 1, comment=end), error=DamagedArchive, match="several"
    )
    refused(place, local + central + zip_end(central, len(local), 2), error=DamagedArchive)
    refused(place, local + central + b"gap" + end, error=DamagedArchive, match="not where")
    refused(place, local + central + zip_end(central, 0, 0), error=DamagedArchive)
    unpack(place, local + central + zip_end(central, len(local), 1, comment=b"made by hand"))
    assert place.content("out/x") == b"12"


def test_a_bomb_is_refused_by_its_directory(place: Place) -> None:
    data = zipped(("x", bytes(40_000_000)))
    assert len(data) < 60_000
    refused(place, data, match="200 times")
    refused(place, data, limits=Limits(ratio_max=100_000, bytes_max=39_999_999), match="bytes")
    unpack(place, data, limits=Limits(ratio_max=100_000))


def test_every_truncation_is_noticed(place: Place) -> None:
    data = zipped(("a/b", b"x" * 300), ("c", b"y" * 1000), (zip_info("l", stat.S_IFLNK | 0o777), b"c"))
    for length in range(0, len(data), 11):
        refused(place, data[:length], error=DamagedArchive)


def test_whatever_byte_is_changed_it_is_whole_or_refused(place: Place) -> None:
    good = zipped(("a/b", b"x" * 300), ("c", bytes(range(256))), (zip_info("l", stat.S_IFLNK | 0o777), b"c"))
    chance = random.Random(6)
    outcomes: set[str] = set()
    for number in range(400):
        data = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            unpack(place, bytes(data), into=f"o{number}")
        except BAD:
            assert not (place.folder / f"o{number}").exists()
            outcomes.add("refused")
        else:
            assert len(walk(place.folder / f"o{number}")) == 4
            outcomes.add("unpacked")
        assert not (place.folder / ".shoal/partial").exists()
    assert outcomes == {"refused", "unpacked"}


def test_cancelled_while_the_directory_is_read_or_a_file(place: Place) -> None:
    data = zipped(*((f"f{n}", random.Random(n).randbytes(400_000)) for n in range(3)))
    for patience in (0, 1, 3, 6, 9):
        asked: list[int] = []

        def cancelled(asked: list[int] = asked, patience: int = patience) -> bool:
            asked.append(1)
            return len(asked) > patience

        refused(place, data, error=Interrupted, cancelled=cancelled)
