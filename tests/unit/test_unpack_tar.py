"""Tar archives: what is unpacked, and what is refused whole."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from shoal.agent.unpack import members
from shoal.agent.unpack.members import Limits
from shoal.common.errors import DamagedArchive, Interrupted, ShoalError, UnsafeArchive
from support.archives import END, Place, folder, hard_link, header, member, padded, pax, symlink, tar, walk

GOOD = member("before", b"good")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refused(
    place: Place, data: bytes, *, match: str | None = None, error: type[ShoalError] = UnsafeArchive, **fields: object
) -> None:
    with pytest.raises(error, match=match):
        place.unpack(data, **fields)  # type: ignore[arg-type]
    assert walk(place.folder) == []


def test_a_good_archive(place: Place) -> None:
    deep = "/".join(["d" * 60] * 5)
    data = tar(
        folder("./"),
        folder("./empty"),
        member("./bin/run", b"#!", mode=0o4775, mtime=1_600_000_000),
        member("bin/data", b"x" * 1000, mode=0o666),
        symlink("bin/link", "run"),
        symlink("up", "bin/../bin/./data"),
        symlink("bin/dangling", "../nothing/here"),
        hard_link("hard", "./bin/run"),
        folder("bin"),
        member(f"{deep}/ünïcode 名", b"deep"),
        member("zero", b"", type=tarfile.AREGTYPE),
    )
    done = place.unpack(data, into="env/new", sync=True)
    out = place.folder / "env/new"
    assert (done.files, done.bytes, done.folder, done.skipped) == (8, 2 + 1000 + 2 + 4, "env/new", False)
    assert (out / "bin/run").read_bytes() == b"#!"
    assert (out / "bin/run").stat().st_mtime == 1_600_000_000
    assert os.readlink(out / "bin/link") == "run"
    assert (out / "up").read_bytes() == b"x" * 1000
    assert os.path.samefile(out / "hard", out / "bin/run")
    assert list((out / "empty").iterdir()) == []
    assert (out / deep / "ünïcode 名").read_bytes() == b"deep"
    modes = [stat.S_IMODE((out / path).stat().st_mode) for path in ("bin/run", "bin/data", "bin", "empty")]
    umask = os.umask(0)
    os.umask(umask)
    assert modes == [mode & ~umask for mode in (0o755, 0o644, 0o755, 0o755)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes(place: Place, format: int) -> None:
    made = io.BytesIO()
    name = "/".join(["p" * 50, "q" * 40, "n" * 90]) if format == tarfile.USTAR_FORMAT else "ü" * 100 + "/" + "x" * 200
    with tarfile.open(fileobj=made, mode="w", format=format) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mtime = 5, 1_500_000_000
        archive.addfile(info, io.BytesIO(b"12345"))
        above, _, base = name.rpartition("/")
        info = tarfile.TarInfo(f"{above}/l")
        info.type, info.linkname = tarfile.SYMTYPE, base
        archive.addfile(info)
    place.unpack(made.getvalue())
    assert place.content(f"out/{name}") == place.content(f"out/{above}/l") == b"12345"


def test_an_empty_archive_makes_an_empty_folder(place: Place) -> None:
    assert place.unpack(tar()).files == 0
    assert place.names() == ["out"]


def test_what_comes_with_git_archive_and_macos_is_passed_over(place: Place) -> None:
    data = tar(
        pax([("comment", "c0ffee")], type=b"g"),
        pax([("SCHILY.xattr.user.x", "y"), ("mtime", "1234567890.5"), ("uid", "99999999")]) + member("a", b"1"),
    )
    place.unpack(data)
    assert (place.folder / "out/a").stat().st_mtime_ns == 1234567890_500000000


BAD_NAMES = [
    "/etc/passwd", "//etc/passwd", "../escape", "a/../../escape", "a/..", "..", "a\\..\\b", "C:/x", "C:x", "con", "a/nul.txt",
    "dot.", "space ", "a/dot./b", "bell\a", "\u202etxt.exe", "zero\u200bwidth", "x" * 256, ".shoal/manifest.json", ".Shoal/x",
    ".cache/huggingface/x", "line\nbreak", "/".join("d" * (members.DEPTH_MAX + 1)),
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("make", ["file", "folder", "symlink", "hard link", "hard link's target", "pax"])
def test_a_bad_name(place: Place, name: str, make: str) -> None:
    made = {
        "file": lambda: member(name, b"x"),
        "folder": lambda: folder(name),
        "symlink": lambda: symlink(name, "before"),
        "hard link": lambda: hard_link(name, "before"),
        "hard link's target": lambda: hard_link("fine", name),
        "pax": lambda: pax([("path", name)]) + member("fine", b"x"),
    }[make]()
    refused(place, tar(GOOD, made))


def test_a_name_with_nul_or_not_in_utf8(place: Place) -> None:
    refused(place, tar(GOOD, pax([("path", "a\0b")]) + member("x")), match="U\\+0000")
    refused(place, tar(GOOD, header(b"latin\xe9", 0, b"0")), match="does not show or is not text")
    refused(place, tar(GOOD, header(b"", 0, b"0")), match="no name")
    refused(place, tar(GOOD, header(b"./", 0, b"2")))


def test_a_name_too_long_for_any_file_system(place: Place) -> None:
    refused(place, tar(GOOD, member("/".join(["d" * 200] * 30), b"x")), match="4096")
    refused(place, tar(header(b"long", 1 << 20, b"L"), bytes(1 << 20), member("x")), match="larger than")


BAD_LINKS = [
    ("l", "/etc"), ("l", "/"), ("l", ".."), ("l", "../x"), ("a/l", "../../x"), ("a/l", "b/../../.."), ("l", "missing/../../x"),
    ("l", "a\\b"), ("l", "C:/x"), ("l", "l"), ("l", "x/\a"), ("l", ".shoal/manifest.json"), ("l", "x" * 300),
    ("l", "a/" * 1500), ("l", "com1"), ("l", "\u202eb"), ("l", "C:\\x"),
]  # fmt: skip


@pytest.mark.parametrize("name, target", BAD_LINKS)
def test_a_symlink_that_leads_outside_or_nowhere_sensible(place: Place, name: str, target: str) -> None:
    refused(place, tar(GOOD, folder("a"), symlink(name, target)))


@pytest.mark.parametrize(
    "links",
    [
        [("here", "."), ("out", "here/..")],
        [("a/here", "."), ("out", "a/here/../..")],
        [("a/up", ".."), ("out", "a/up/..")],
        [("out", "a/up/.."), ("a/up", "..")],
        [("one", "two"), ("two", "three"), ("three", "one")],
        [(f"l{n}", "/".join([f"l{n + 1}"] * 30)) for n in range(20)] + [("l20", ".")],
        [(f"l{n}", f"l{n + 1}") for n in range(60)],
    ],
)
def test_links_through_links(place: Place, links: list[tuple[str, str]]) -> None:
    refused(place, tar(GOOD, folder("a"), *(symlink(*link) for link in links)))


def test_good_chains_of_links(place: Place) -> None:
    data = tar(symlink("lib64", "lib"), symlink("lib/a", "../lib64/b"), symlink("lib/b", "c"), member("lib/c", b"c"))
    place.unpack(data)
    assert place.content("out/lib/a") == b"c"


def test_a_hard_link_to_a_symlink_in_another_folder_is_checked_where_it_lies(place: Place) -> None:
    fine = [folder("a"), symlink("a/up", "../x"), member("x", b"x")]
    refused(place, tar(*fine, hard_link("up", "a/up")), match="leaves the folder")
    place.unpack(tar(*fine, hard_link("a/twin", "a/up")))
    assert place.content("out/a/twin") == b"x"


@pytest.mark.parametrize(
    "bad, match",
    [
        ([symlink("d", "a"), member("d/x", b"x")], "d/x"),
        ([symlink("d", "."), hard_link("e", "d/before")], "symlink"),
        ([symlink("d", "a"), folder("d")], "same name"),
        ([symlink("d", "before"), member("d", b"x")], "same name"),
        ([member("before", b"again")], "same name"),
        ([hard_link("before", "before")], "same name"),
        ([symlink("before", "x")], "same name"),
        ([folder("before")], "same name"),
        ([member("before/x", b"x")], "before"),
        ([folder("d"), member("d", b"x")], "same name"),
        ([hard_link("x", "missing")], "did not come before"),
        ([hard_link("x", "before/x")], "did not come before"),
        ([folder("d"), hard_link("x", "d")], "hard link to a folder"),
        ([hard_link("x", ".")], "folder itself"),
        ([member("dev", type=tarfile.CHRTYPE)], "character device"),
        ([member("dev", type=tarfile.BLKTYPE)], "block device"),
        ([member("fifo", type=tarfile.FIFOTYPE)], "FIFO"),
        ([member("x", type=b"Q")], "unknown type"),
        ([member("x", type=b"M")], "part of a file"),
        ([header(b"sparse", 0, b"S")], "sparse"),
        ([pax([("GNU.sparse.major", "1"), ("GNU.sparse.realsize", str(1 << 60))]) + member("x", b"x")], "sparse"),
        ([header(b"dir", 512, b"5"), bytes(512)], "no file and yet"),
        ([header(b"link", 512, b"2"), bytes(512)], "no file and yet"),
        ([member("x/", b"x")], "name of a folder"),
    ],
)
def test_members_that_are_no_plain_files(place: Place, bad: list[bytes], match: str) -> None:
    refused(place, tar(GOOD, folder("a"), *bad), match=match)


def test_repeated_folders_are_fine(place: Place) -> None:
    place.unpack(tar(folder("d"), member("d/x", b"x"), folder("d"), folder("d/"), member("d/y", b"y")))
    assert place.names() == ["out", "out/d", "out/d/x", "out/d/y"]


@pytest.mark.parametrize(
    "bad, match",
    [
        (pax([("size", "0")]) + member("x", b"x" * 600), "different sizes"),
        (pax([("size", "100000")]) + member("x", b"x"), "different sizes"),
        (pax([("path", "a"), ("path", "b")]) + member("x"), "twice"),
        (pax([("path", "a")]) + pax([("path", "b")]) + member("x"), "two extended headers"),
        (pax([("path", "a")], type=b"g") + member("x"), "global header"),
        (pax([("size", "5")], type=b"g") + member("x"), "global header"),
        (pax([("path", "a")]) + member("n" * 150), "two long names"),
        (header(b"pax", 1 << 40, b"x"), "larger than"),
        (header(b"long", 1 << 40, b"L"), "larger than"),
        (header(b"l", 1, b"L") + padded(b"a") + header(b"l", 1, b"L") + padded(b"b") + member("x"), "two long names"),
    ],
)
def test_extended_headers_that_two_programs_would_read_differently(place: Place, bad: bytes, match: str) -> None:
    refused(place, tar(GOOD, bad), match=match)


@pytest.mark.parametrize(
    "bad",
    [
        header(b"pax", 512, b"x") + b"99 path=x\n".ljust(512, b"\0"),
        header(b"pax", 9, b"x") + padded(b"9 path=x\n"[:8] + b"x") + member("x"),
        header(b"pax", 10, b"x") + padded(b"0010 a=xy\n") + member("x"),
        header(b"pax", 4, b"x") + padded(b"1 \n\n") + member("x"),
        header(b"x", b"9" * 11 + b"\0", b"0"),
        header(b"x", b"\xff" * 12, b"0"),
        header(b"x", b"\x80" + b"\xff" * 11, b"0"),
        header(b"x", b"0x000000010\0", b"0"),
        header(b"x", 0, b"0")[:-1] + b"x",
        b"x" * 512,
        pax([("size", "9" * 19)]) + member("x"),
        pax([("path", "x")]),
    ],
)
def test_headers_that_cannot_be_read(place: Place, bad: bytes) -> None:
    refused(place, tar(GOOD, bad), error=DamagedArchive)


def test_large_sizes_as_large_files_have_them_are_held_against_the_limits(place: Place) -> None:
    size = 20 << 30
    for big in (
        header(b"x", b"\x80" + size.to_bytes(11, "big"), b"0"),
        pax([("size", str(size))]) + header(b"x", 0, b"0"),
    ):
        refused(place, tar(GOOD, big), match="200 times as large")
        refused(place, tar(GOOD, big), limits=Limits(bytes_max=size - 1), match="larger than")


def test_old_formats(place: Place) -> None:
    old = b"\0" * 8
    gnu = header(b"gnu", 1, b"0", prefix=b"12345670123", magic=b"ustar  \0") + padded(b"g")
    data = tar(header(b"v7/", 0, b"\0", magic=old), header(b"v7/x", 1, b"\0", magic=old) + padded(b"x"), gnu)
    place.unpack(data)
    assert place.names() == ["out", "out/gnu", "out/v7", "out/v7/x"]


@pytest.mark.parametrize(
    "end", [b"", bytes(512), bytes(1023), bytes(512) + member("y"), END + b"x", END + member("y") + END]
)
def test_an_end_that_is_none(place: Place, end: bytes) -> None:
    refused(place, GOOD + end, error=DamagedArchive)


def test_padding_after_the_end_is_fine_up_to_a_point(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.unpack(GOOD + END + bytes(10240), into="")
    monkeypatch.setattr(members, "OVERHEAD_FREE_BYTES", 1 << 20)
    with pytest.raises(UnsafeArchive, match="proportion"):
        place.unpack(GOOD + END + bytes(2 << 20))
    assert place.names() == ["before"]


def test_every_truncation_is_noticed(place: Place) -> None:
    data = tar(folder("d"), member("d/x", b"x" * 700), pax([("path", "long")]) + member("y", b"y"), symlink("s", "d"))
    for length in range(0, len(data), 37):
        refused(place, data[:length], error=DamagedArchive)
    place.unpack(data)


def test_whatever_byte_is_changed_it_is_whole_or_refused(place: Place) -> None:
    good = tar(folder("d"), member("d/x", b"x" * 700), pax([("path", "long")]) + member("y", b"y"), symlink("s", "d"))
    chance = random.Random(5)
    outcomes: set[str] = set()
    for number in range(400):
        data = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            place.unpack(bytes(data), into=f"o{number}")
        except (UnsafeArchive, DamagedArchive):
            assert not (place.folder / f"o{number}").exists()
            outcomes.add("refused")
        else:
            assert len(walk(place.folder / f"o{number}")) >= 4
            outcomes.add("unpacked")
        assert not (place.folder / ".shoal/partial").exists()
    assert outcomes == {"refused", "unpacked"}


def test_limits(place: Place) -> None:
    data = tar(member("a/b/c", b"x" * 100), member("d", b"y" * 100))
    refused(place, data, limits=Limits(bytes_max=199), match="199 bytes")
    refused(place, data, limits=Limits(files_max=3), match="more than 3 files")
    assert place.unpack(data, limits=Limits(bytes_max=200, files_max=4)).bytes == 200


def test_cancelled_at_any_time(place: Place) -> None:
    data = tar(*(member(f"f{number}", b"x" * 300_000) for number in range(3)))
    asked = 0
    for patience in range(100):
        asked = 0

        def cancelled(patience: int = patience) -> bool:
            nonlocal asked
            asked += 1
            return asked > patience

        try:
            place.unpack(data, cancelled=cancelled)
        except Interrupted:
            assert walk(place.folder) == []
        else:
            break
    assert 5 < patience < 99
    assert len(place.names()) == 4


def test_memory_does_not_grow_with_the_archive(place: Place) -> None:
    data = tar(member("big", bytes(range(256)) * 100_000), *(member(f"f{n}", b"x") for n in range(2000)))
    place.archive.write_bytes(data)
    tracemalloc.start()
    place.unpack(data)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    place.unpack(data, into="again")
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 6 << 20
