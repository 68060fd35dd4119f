"""Names from outside: refused, found to clash, and opened without following a planted link."""

from __future__ import annotations

import os
import stat
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import UnsafeName
from shoal.common.paths import CollisionIndex, CollisionKind, SafeRoot, find_collisions, safe_relative_path

GOOD = [
    "config.json",
    "a/b/c.bin",
    ".gitattributes",
    "with space.txt",
    " leading",
    "100%.txt",
    "ab:c",
    "2024-01-01T00:00:00.json",
    "文件夹/データ.parquet",
    "café",
    unicodedata.normalize("NFD", "café"),
    "emoji-😀.png",
    "x" * 255,
    "é" * 127,
    "console.txt",
    "com.txt",
    "aux_data",
    ".cache/other",
    ".cache/huggingface2/x",
    "a/.shoal/x",
    ".shoals",
    "..a",
    "a..b/...c",
    "-rf",
    "~",
    "$HOME",
]

BAD = {
    "empty": "",
    "parent": "../x",
    "parent inside": "a/../../x",
    "parent last": "a/..",
    "dot": "./x",
    "dot inside": "a/./b",
    "absolute": "/etc/passwd",
    "double slash": "a//b",
    "trailing slash": "a/",
    "backslash": "a\\..\\b",
    "UNC": "\\\\server\\share",
    "drive": "C:/x",
    "drive relative": "c:x",
    "NUL": "a\0b",
    "newline": "a\nb",
    "escape": "a\x1b[31mb",
    "delete": "a\x7f",
    "C1": "a\x9bb",
    "right-to-left override": "photo\u202egpj.exe",
    "isolate": "a\u2066b",
    "zero-width": "a\u200bb",
    "byte order mark": "\ufeffa",
    "soft hyphen": "a\u00adb",
    "line separator": "a\u2028b",
    "tag character": "a\U000e0041b",
    "surrogate": "a\udc80b",
    "component of 256 bytes": "x" * 256,
    "component of 256 UTF-8 bytes": "é" * 128,
    "path of 4097 bytes": "/".join(["x" * 200] * 21),
    "trailing dot": "a./b",
    "trailing space": "a /b",
    "three dots": "...",
    "device": "nul",
    "device with extension": "a/CON.txt",
    "device with blanks": "aux .txt",
    "device with superscript": "com¹.log",
    "own folder": ".shoal/manifest.json",
    "own folder itself": ".shoal",
    "own folder in capitals": ".SHOAL/x",
    "metadata": ".cache/huggingface/download/x.metadata",
    "metadata in capitals": ".Cache/HuggingFace/x",
    "metadata itself": ".cache/huggingface",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_harmless_name_stays_as_it_is(name: str) -> None:
    assert safe_relative_path(name) == name


@pytest.mark.parametrize("name", BAD.values(), ids=BAD.keys())
def test_a_harmful_name_is_refused_in_plain_ascii(name: str) -> None:
    with pytest.raises(UnsafeName) as caught:
        safe_relative_path(name)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 3000


@given(st.text(st.characters(codec=None), max_size=40))
def test_a_name_that_is_let_through_stays_below_its_root(name: str) -> None:
    try:
        path = safe_relative_path(name)
    except UnsafeName:
        return
    assert os.path.normpath(f"/root/{path}") == f"/root/{path}"
    assert os.fsencode(path).decode() == path


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a", "b", "a/b"[:1] + "c", "d/e", "d/f"], []),
        (["a", "a"], [("a", "a", "duplicate")]),
        (["d/a", "d/A"], [("d/a", "d/A", "case")]),
        (["d/x", "D/y"], [("d", "D/y", "case")]),
        (["d/x", "D/y", "D/z"], [("d", "D/y", "case")]),
        (["a", "a/b"], [("a", "a/b", "file-directory")]),
        (["a/b", "a"], [("a", "a", "file-directory")]),
        (["a/b/c/d", "a/b"], [("a/b", "a/b", "file-directory")]),
        (["a", "a/b/c/d"], [("a", "a/b/c/d", "file-directory")]),
        (["a", "A/b"], [("a", "A/b", "case")]),
        (["A/b", "a"], [("A", "a", "case")]),
        (["straße", "STRASSE"], [("straße", "STRASSE", "case")]),
        (["é", "e\u0301"], [("é", "e\u0301", "unicode")]),
        (["É", "e\u0301"], [("É", "e\u0301", "case")]),
        (["é/a", "e\u0301/b"], [("é", "e\u0301/b", "unicode")]),
        # Where case matters, the caller goes on after "case": what clashes exactly must still be found.
        (["a", "A", "A/b"], [("a", "A", "case"), ("a", "A/b", "file-directory")]),
        (["a", "A", "A"], [("a", "A", "case"), ("a", "A", "duplicate")]),
        (["d/x", "D/y", "D"], [("d", "D/y", "case"), ("d", "D", "file-directory")]),
    ],
)
def test_clashes_are_named(paths: list[str], expected: list[tuple[str, str, str]]) -> None:
    assert find_collisions(paths) == expected


@given(
    st.lists(st.sampled_from(["a", "A", "b", "a/b", "a/B", "A/b", "a/b/c", "é", "e\u0301", "É/x", "b/a"]), max_size=8)
)
def test_the_index_finds_what_a_slow_check_finds(paths: list[str]) -> None:
    def prefixes(path: str) -> list[str]:
        parts = path.split("/")
        return ["/".join(parts[:count]) for count in range(1, len(parts))]

    def fold(path: str) -> str:
        return unicodedata.normalize("NFC", path.casefold())

    index, files, folders = CollisionIndex(), set[str](), set[str]()
    for path in paths:
        kind = index.add(path)
        if path in files:
            assert kind is CollisionKind.DUPLICATE
            continue
        if path in folders or files & set(prefixes(path)):
            assert kind is CollisionKind.FILE_DIRECTORY
            return  # one of the two cannot exist: what follows depends on which
        spellings: dict[str, str] = {fold(name): name for name in files | folders}
        clashes = any(
            spellings.get(fold(name), name) != name and name not in files | folders for name in [path, *prefixes(path)]
        )
        assert (kind is not None) == clashes
        files.add(path)
        folders.update(prefixes(path))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[SafeRoot]:
    with SafeRoot(tmp_path / "root", create=True, folders_open_max=4) as safe:
        yield safe


def put(root: SafeRoot, path: str, data: bytes, flags: int = os.O_WRONLY | os.O_CREAT | os.O_TRUNC) -> None:
    fd = root.open_beneath(path, flags, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def test_a_file_is_made_renamed_and_removed(root: SafeRoot) -> None:
    root.makedirs_beneath("a/b/c")
    root.makedirs_beneath("a/b/c")
    put(root, "a/b/c/part", b"data")
    root.replace_beneath("a/b/c/part", "a/file")
    assert (root.path / "a/file").read_bytes() == b"data"
    assert root.stat_beneath("a/file").st_size == 4
    assert sorted(root.listdir_beneath("a")) == ["b", "file"]
    assert root.listdir_beneath() == ["a"]
    root.sync_folder_beneath("a")
    root.sync_folder_beneath()
    root.unlink_beneath("a/file")
    root.rmdir_beneath("a/b/c")
    assert root.listdir_beneath("a/b") == []


def test_what_was_longer_is_cut(root: SafeRoot) -> None:
    put(root, "f", b"longer")
    put(root, "f", b"s")
    assert (root.path / "f").read_bytes() == b"s"


@pytest.mark.parametrize("path", ["", "/x", "../x", "a/../x", "a//x", "./x", "a/", "a\0b"])
def test_a_path_that_is_not_plain_never_reaches_the_system(root: SafeRoot, path: str) -> None:
    root.makedirs_beneath("a")
    for call in (
        lambda: root.open_beneath(path, os.O_RDONLY),
        lambda: root.makedirs_beneath(path),
        lambda: root.stat_beneath(path),
        lambda: root.unlink_beneath(path),
        lambda: root.replace_beneath(path, "y"),
        lambda: root.replace_beneath("a", path),
        lambda: root.symlink_beneath("t", path),
    ):
        with pytest.raises(UnsafeName):
            call()
    assert root.listdir_beneath() == ["a"]


def test_a_planted_link_is_named_and_nothing_outside_is_touched(root: SafeRoot, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"precious")
    (root.path / "link").symlink_to(outside)
    (root.path / "file").symlink_to(outside / "victim")
    (root.path / "dangling").symlink_to(outside / "new")
    for call in (
        lambda: put(root, "link/new", b"x"),
        lambda: root.makedirs_beneath("link"),
        lambda: root.makedirs_beneath("link/sub"),
        lambda: root.stat_beneath("link/victim"),
        lambda: root.unlink_beneath("link/victim"),
        lambda: root.replace_beneath("link/victim", "here"),
        lambda: root.listdir_beneath("link"),
        lambda: root.symlink_beneath("t", "link/t"),
        lambda: root.open_beneath("link", os.O_RDONLY | os.O_DIRECTORY),
    ):
        with pytest.raises(UnsafeName, match=r"root/link.*symlink"):
            call()
    for name in ("file", "dangling"):
        with pytest.raises(UnsafeName, match=f"root/{name}: it is a symlink"):
            put(root, name, b"x")
    assert [entry.name for entry in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_bytes() == b"precious"


def test_a_rename_replaces_a_planted_link_and_not_its_target(root: SafeRoot, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (root.path / "final").symlink_to(victim)
    put(root, "part", b"new")
    root.replace_beneath("part", "final")
    assert victim.read_bytes() == b"precious"
    assert not (root.path / "final").is_symlink()
    assert (root.path / "final").read_bytes() == b"new"


def test_a_link_planted_after_the_folder_was_used_does_not_lead_away(root: SafeRoot, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root.makedirs_beneath("a")
    put(root, "a/one", b"1")
    (root.path / "a").rename(root.path / "b")
    (root.path / "a").symlink_to(outside)
    put(root, "a/two", b"2")
    assert not any(outside.iterdir())


def test_a_hard_link_to_elsewhere_is_not_written(root: SafeRoot, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.link(victim, root.path / "part")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
        with pytest.raises(UnsafeName, match="hard link"):
            root.open_beneath("part", flags)
    assert victim.read_bytes() == b"precious"
    os.close(root.open_beneath("part", os.O_RDONLY))


def test_a_pipe_is_refused_without_waiting(root: SafeRoot) -> None:
    os.mkfifo(root.path / "pipe")
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(UnsafeName, match="regular"):
            root.open_beneath("pipe", flags)


def test_a_folder_opens_as_a_folder_only(root: SafeRoot) -> None:
    root.makedirs_beneath("a/b")
    fd = root.open_beneath("a/b", os.O_RDONLY | os.O_DIRECTORY)
    assert stat.S_ISDIR(os.fstat(fd).st_mode)
    os.close(fd)
    with pytest.raises(UnsafeName, match="regular"):
        root.open_beneath("a/b", os.O_RDONLY)


def test_system_errors_name_the_path_below_the_root(root: SafeRoot) -> None:
    put(root, "file", b"")
    with pytest.raises(FileNotFoundError) as missing:
        root.open_beneath("a/b", os.O_RDONLY)
    assert missing.value.filename == "a"
    with pytest.raises(NotADirectoryError) as not_folder:
        root.makedirs_beneath("file/sub")
    assert not_folder.value.filename == "file"
    with pytest.raises(FileExistsError) as exists:
        root.open_beneath("file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert exists.value.filename == "file"


def test_a_folder_that_was_removed_and_made_again_is_found(root: SafeRoot) -> None:
    root.makedirs_beneath("a/b")
    put(root, "a/b/one", b"1")
    (root.path / "a/b/one").unlink()
    (root.path / "a/b").rmdir()
    (root.path / "a/b").mkdir()
    put(root, "a/b/two", b"2")
    assert (root.path / "a/b/two").exists()
    (root.path / "a/b/two").unlink()
    (root.path / "a/b").rmdir()
    root.makedirs_beneath("a/b")
    assert (root.path / "a/b").is_dir()


def test_a_renamed_folder_is_not_remembered_under_its_old_name(root: SafeRoot) -> None:
    root.makedirs_beneath("old/sub")
    put(root, "old/sub/f", b"")
    root.replace_beneath("old", "new")
    with pytest.raises(FileNotFoundError):
        root.stat_beneath("old/sub/f")
    root.makedirs_beneath("old/sub")
    put(root, "old/sub/g", b"")
    assert (root.path / "old/sub/g").exists()


def test_symlinks_of_our_own_are_made_and_read(root: SafeRoot) -> None:
    root.makedirs_beneath("snapshots")
    root.symlink_beneath("../blobs/x", "snapshots/model.bin")
    assert root.readlink_beneath("snapshots/model.bin") == "../blobs/x"
    assert stat.S_ISLNK(root.stat_beneath("snapshots/model.bin").st_mode)


def test_the_root_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with SafeRoot(tmp_path / "link") as root:
        put(root, "f", b"x")
    assert (tmp_path / "real/f").exists()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_descriptors_are_few_and_all_closed(tmp_path: Path) -> None:
    before = open_descriptors()
    root = SafeRoot(tmp_path, folders_open_max=4)
    for number in range(50):
        root.makedirs_beneath(f"a/b{number}/c")
        put(root, f"a/b{number}/c/f", b"")
        with pytest.raises(FileNotFoundError):
            root.open_beneath(f"a/b{number}/none/f", os.O_RDONLY)
    assert open_descriptors() <= before + 1 + 4
    root.close()
    root.close()
    assert open_descriptors() <= before  # what other tests left to the collector may go meanwhile
    with pytest.raises(ValueError, match="closed"):
        root.stat_beneath("a")


def test_threads_that_crowd_out_each_others_folders_never_miss(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(name: int, root: SafeRoot) -> None:
        try:
            for number in range(40):
                root.makedirs_beneath(f"t{name}/d{number % 5}")
                put(root, f"t{name}/d{number % 5}/f{number}", f"{name} {number}".encode())
        except BaseException as error:
            failures.append(error)

    with SafeRoot(tmp_path, folders_open_max=1) as root:
        threads = [threading.Thread(target=work, args=(name, root)) for name in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    for name in range(6):
        for number in range(40):
            assert (tmp_path / f"t{name}/d{number % 5}/f{number}").read_text() == f"{name} {number}"
