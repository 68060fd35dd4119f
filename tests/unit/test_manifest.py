"""Manifests: streamed in and out, damage noticed, several jobs merged, folders verified."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.agent.storage.merge import merge_manifest
from shoal.common.errors import Busy, NotFound, StateDamaged, UnsafeName
from shoal.common.lock_file import break_lock
from shoal.common.manifest import (
    ManifestEntry,
    Problem,
    ProblemKind,
    read_manifest,
    verify_folder,
    write_manifest,
)
from shoal.common.manifest_lock import LOCK_EXPIRY_S, LOCK_NAME, LOCK_WAIT_S, manifest_lock
from shoal.common.paths import SafeRoot

WORK = ".shoal"
NAMES = ["config.json", "sub/model.safetensors", "ünïcode/файл 😀.txt", 'quo"te\\n', "a" * 200]


def entry(path: str, content: bytes = b"x", **fields: str | int) -> ManifestEntry:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return ManifestEntry(path=path, size=len(content), digest=digest, **fields)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[SafeRoot]:
    (tmp_path / WORK).mkdir()
    with SafeRoot(tmp_path) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / WORK / "manifest.json"


def read(root: SafeRoot) -> list[ManifestEntry]:
    with read_manifest(root) as manifest:
        assert manifest.count == len(list(manifest))
        return list(manifest)


def write(root: SafeRoot, entries: list[ManifestEntry]) -> None:
    assert write_manifest(root, sources={"hf://a/b": {"commit": "c0ffee"}}, entries=entries) == len(entries)


@pytest.mark.parametrize("count", [0, 1, 2, len(NAMES)])
def test_what_was_written_is_read_back(root: SafeRoot, path: Path, count: int):
    entries = [entry(name, etag="e", mtime_ns=7, source="hf://a/b", revision="main", commit="c") for name in NAMES]
    write(root, entries[:count])
    assert read(root) == entries[:count]
    with read_manifest(root) as manifest:
        assert manifest.sources == {"hf://a/b": {"commit": "c0ffee"}}
    assert os.listdir(path.parent) == ["manifest.json"]


def test_it_is_one_json_document_with_an_object_per_line(root: SafeRoot, path: Path):
    write(root, [entry(name) for name in NAMES])
    document = json.loads(path.read_text())
    assert document["version"] == 1
    assert [item["path"] for item in document["objects"]] == NAMES
    assert set(document["objects"][0]) == {
        *("path", "size", "digest", "etag", "mtime_ns", "source", "revision", "commit"),
    }
    assert len(path.read_text().splitlines()) == len(NAMES) + 2


def test_no_manifest_is_not_found(root: SafeRoot):
    with pytest.raises(NotFound, match="manifest"):
        read_manifest(root)


def test_every_cut_and_every_flipped_byte_is_noticed(root: SafeRoot, path: Path):
    write(root, [entry("a"), entry("b")])
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(StateDamaged):
            read_manifest(root)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(StateDamaged):
            read_manifest(root)
    path.write_bytes(data + b"\n")
    with pytest.raises(StateDamaged):
        read_manifest(root)


def signed(body: str) -> bytes:
    return f'{body}"checksum": "sha256:{hashlib.sha256(body.encode()).hexdigest()}"}}\n'.encode()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]\n",
        '{"version": 1, "sources": [], "objects": [\n], "count": 0, ',
        '{"sources": {}, "objects": [\n], "count": 0, ',
        '{"version": 2, "sources": {}, "objects": [\n], "count": 0, ',
        '{"version": 1, "sources": {}, "objects": [\n], "count": -1, ',
        '{"version": 1, "sources": {}, "objects": [\n], ',
    ],
)
def test_a_right_checksum_does_not_make_a_manifest(root: SafeRoot, path: Path, body: str):
    path.write_bytes(signed(body))
    with pytest.raises(StateDamaged):
        read_manifest(root)


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        "nonsense",
        '{"path": "a", "size": -1, "digest": ""}',
        '{"path": "a", "size": "1", "digest": ""}',
        '{"path": "a", "size": true, "digest": ""}',
        '{"path": "", "size": 1, "digest": ""}',
        '{"path": null, "size": 1, "digest": ""}',
        '{"path": "a", "size": 1}',
    ],
)
def test_an_object_that_is_none_is_damage(root: SafeRoot, path: Path, line: str):
    path.write_bytes(signed('{"version": 1, "sources": {}, "objects": [\n' + line + '\n], "count": 1, '))
    with read_manifest(root) as manifest, pytest.raises(StateDamaged):
        list(manifest)


def test_fields_of_a_later_program_are_ignored():
    assert ManifestEntry.from_json('{"path": "a", "size": 1, "digest": "", "new": [1]}').path == "a"


def test_a_planted_symlink_is_not_read(root: SafeRoot, path: Path, tmp_path: Path):
    write(root, [])
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeName):
        read_manifest(root)


def test_a_failed_write_leaves_the_old_one_and_nothing_else(root: SafeRoot, path: Path):
    write(root, [entry("old")])

    def failing() -> Iterator[ManifestEntry]:
        yield entry("new")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        write_manifest(root, sources={}, entries=failing())
    assert [found.path for found in read(root)] == ["old"]
    assert os.listdir(path.parent) == ["manifest.json"]


def test_many_objects_stream_in_bounded_memory(root: SafeRoot):
    count = 30_000
    entries = (entry(f"folder/{number:06}.bin", source="s3://bucket/") for number in range(count))
    tracemalloc.start()
    try:
        write_manifest(root, sources={}, entries=entries)
        with read_manifest(root) as manifest:
            assert sum(found.size for found in manifest) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 << 20  # the file has 8 MB


# ---- merging --------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def add(root: SafeRoot, *entries: ManifestEntry, source: str = "hf://a/b") -> int:
    clock = Clock()
    return merge_manifest(
        root, WORK, lambda: entries, sources={source: {"commit": "c"}}, monotonic=clock, sleep=clock.sleep
    )


def test_jobs_merge_and_the_new_entry_of_a_path_counts(root: SafeRoot, path: Path):
    assert add(root, entry("a"), entry("b", b"old")) == 2
    assert add(root, entry("b", b"new"), entry("c"), source="s3://bucket") == 3
    assert {found.path: found.size for found in read(root)} == {"a": 1, "b": 3, "c": 1}
    with read_manifest(root) as manifest:
        assert list(manifest.sources) == ["hf://a/b", "s3://bucket"]
    assert os.listdir(path.parent) == ["manifest.json"]


def test_what_is_no_news_of_a_source_is_said_only_where_nothing_is_known(root: SafeRoot):
    add(root, entry("a"))
    for uri in ("hf://a/b", "hf://c/d"):
        assert merge_manifest(root, WORK, lambda: [entry("a")], sources={uri: {"commit": "old"}}, is_news=False) == 1
    with read_manifest(root) as manifest:
        assert manifest.sources == {"hf://a/b": {"commit": "c"}, "hf://c/d": {"commit": "old"}}


def test_of_two_new_entries_of_one_path_the_first_counts(root: SafeRoot):
    add(root, entry("a", b"first"), entry("a", b"second one"))
    assert [found.size for found in read(root)] == [5]


def test_a_damaged_manifest_is_replaced(root: SafeRoot, path: Path):
    add(root, entry("a"))
    path.write_bytes(path.read_bytes()[:-10])
    assert add(root, entry("b")) == 1
    assert [found.path for found in read(root)] == ["b"]


def test_many_at_once_lose_nothing(root: SafeRoot):
    def job(number: int) -> None:
        for item in range(5):
            merge_manifest(
                root,
                WORK,
                lambda: [entry(f"{number}/{item}")],  # noqa: B023 - called before the loop goes on
                sources={f"source {number}": {}},
                sleep=lambda seconds: threading.Event().wait(0.001) and None,
            )

    threads = [threading.Thread(target=job, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found.path for found in read(root)) == sorted(f"{a}/{b}" for a in range(6) for b in range(5))
    with read_manifest(root) as manifest:
        assert len(manifest.sources) == 6


def test_a_manifest_that_changed_meanwhile_is_merged_again(root: SafeRoot):
    """As when a holder was frozen, its lock was broken, and it comes back to life."""
    rounds = itertools.count()

    def entries() -> list[ManifestEntry]:
        if next(rounds) == 0:
            write(root, [entry("somebody else's")])
        return [entry("mine")]

    assert merge_manifest(root, WORK, entries, sources={"s": {}}) == 2
    assert {found.path for found in read(root)} == {"mine", "somebody else's"}


def test_a_held_lock_is_waited_for_and_named(root: SafeRoot, path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    lock = path.parent / LOCK_NAME

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        lock.write_text(f"otherhost 4711 {clock.now}")  # its holder lives

    lock.write_text("otherhost 4711 0")
    with (
        pytest.raises(Busy, match="otherhost pid 4711"),
        manifest_lock(root, WORK, monotonic=clock, sleep=sleep),
    ):
        pytest.fail("the lock was held")
    assert clock.now - 1000.0 >= LOCK_WAIT_S
    assert lock.exists()


@pytest.mark.parametrize("content", [b"", b"deadhost 1 abc"])
def test_the_lock_of_a_dead_holder_expires(root: SafeRoot, path: Path, content: bytes):
    clock = Clock()
    (path.parent / LOCK_NAME).write_bytes(content)
    with manifest_lock(root, WORK, monotonic=clock, sleep=clock.sleep):
        assert LOCK_EXPIRY_S <= clock.now - 1000.0 < LOCK_EXPIRY_S + 1
    assert os.listdir(path.parent) == []


def test_a_long_holder_keeps_its_lock(root: SafeRoot, path: Path):
    clock = Clock()
    lock = path.parent / LOCK_NAME
    with manifest_lock(root, WORK, monotonic=clock, sleep=clock.sleep) as touch:
        os.utime(lock, ns=(1, 1))
        touch()
        assert lock.stat().st_mtime_ns == 1  # not worth the trouble yet
        clock.sleep(LOCK_EXPIRY_S / 2)
        touch()
        assert lock.stat().st_mtime_ns > 1


def test_a_holder_whose_lock_was_broken_leaves_the_new_one(root: SafeRoot, path: Path):
    lock = path.parent / LOCK_NAME
    with manifest_lock(root, WORK):
        lock.unlink()
        lock.write_text("another 1 x")
    assert lock.read_text() == "another 1 x"


def test_a_fresh_lock_that_a_breaker_catches_is_put_back(root: SafeRoot, path: Path):
    lock = path.parent / LOCK_NAME
    lock.write_bytes(b"fresh")
    break_lock(root, f"{WORK}/{LOCK_NAME}", b"expired")
    assert lock.read_bytes() == b"fresh"
    assert os.listdir(path.parent) == [LOCK_NAME]


# ---- verifying ------------------------------------------------------------------------------------------------------


def make(folder: Path, contents: dict[str, bytes]) -> None:
    (folder / WORK).mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with SafeRoot(folder) as root:
        add(root, *(entry(name, content) for name, content in contents.items()))


def problems(folder: Path) -> dict[str, ProblemKind]:
    found: list[Problem] = []
    report = verify_folder(folder, on_problem=found.append)
    assert report.ok == (not found)
    assert sum(report.problems.values()) == len(found)
    assert all(problem.text.startswith(f"{problem.entry.path}: ") for problem in found)
    return {problem.entry.path: problem.kind for problem in found}


def test_a_sound_folder_is_found_sound(tmp_path: Path):
    make(tmp_path, {"a": b"1", "sub/b": b"22", "empty": b""})
    (tmp_path / "of the user's own").write_text("not ours")
    report = verify_folder(tmp_path, on_problem=lambda problem: pytest.fail(str(problem)))
    assert (report.ok, report.checked, report.bytes) == (True, 3, 3)


def test_each_kind_of_damage_is_named(tmp_path: Path):
    contents = dict.fromkeys(("missing", "short", "flipped", "folder", "linked", "sub/hidden", "good"), b"content")
    make(tmp_path, contents)
    (tmp_path / "missing").unlink()
    (tmp_path / "short").write_bytes(b"conten")
    (tmp_path / "flipped").write_bytes(b"cOntent")
    (tmp_path / "folder").unlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").rename(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to("elsewhere")
    (tmp_path / "sub").rename(tmp_path / "sub2")
    (tmp_path / "sub").write_bytes(b"a file where a folder was")
    assert problems(tmp_path) == {
        "missing": ProblemKind.MISSING,
        "short": ProblemKind.SIZE,
        "flipped": ProblemKind.DIGEST,
        "folder": ProblemKind.UNSAFE,
        "linked": ProblemKind.UNSAFE,
        "sub/hidden": ProblemKind.MISSING,
    }


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    make(folder, {})
    with SafeRoot(folder) as root:
        add(root, entry("../secret"), entry("/etc/passwd"), entry("sub/../../secret"), entry("nul\0"))
    assert set(problems(folder).values()) == {ProblemKind.UNSAFE}


def test_a_digest_that_is_none_is_a_problem_not_a_crash(tmp_path: Path):
    make(tmp_path, {"a": b"x"})
    with SafeRoot(tmp_path) as root:
        add(root, ManifestEntry(path="a", size=1, digest="crc32:00"))
    assert problems(tmp_path) == {"a": ProblemKind.DIGEST}


def test_a_folder_without_manifest_cannot_be_verified(tmp_path: Path):
    with pytest.raises(NotFound):
        verify_folder(tmp_path, on_problem=lambda problem: None)
    (tmp_path / "models--a--b").mkdir()
    with pytest.raises(NotFound):
        verify_folder(tmp_path, on_problem=lambda problem: None)


def test_in_the_hubs_cache_a_snapshots_links_are_followed_and_no_others(tmp_path: Path):
    repo = tmp_path / "models--acme--tiny"
    shared = tmp_path / "blobs" / "ab" / ("ab" + "0" * 62)
    for folder in (repo / "blobs", repo / "snapshots" / "c1" / "sub", repo / WORK, shared.parent):
        folder.mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"x")
    (repo / "blobs" / "good").write_bytes(b"x")
    shared.write_bytes(b"x")
    (repo / "blobs" / "shared").symlink_to(f"../../blobs/ab/{shared.name}")
    (repo / "blobs" / "astray").symlink_to("../../secret")
    snapshot = repo / "snapshots" / "c1"
    (snapshot / "good").symlink_to("../../blobs/good")
    (snapshot / "sub" / "shared").symlink_to("../../../blobs/shared")
    (snapshot / "astray").symlink_to("../../blobs/astray")
    (snapshot / "out").symlink_to("../../../secret")
    (snapshot / "absolute").symlink_to(tmp_path / "secret")
    (snapshot / "loop").symlink_to("loop")
    (snapshot / "dangling").symlink_to("../../blobs/none")
    with SafeRoot(repo) as root:
        names = ["good", "sub/shared", "astray", "out", "absolute", "loop", "dangling"]
        add(root, *(entry(f"snapshots/c1/{name}") for name in names))
    expected = {
        "snapshots/c1/astray": ProblemKind.UNSAFE,
        "snapshots/c1/out": ProblemKind.UNSAFE,
        "snapshots/c1/absolute": ProblemKind.UNSAFE,
        "snapshots/c1/loop": ProblemKind.UNSAFE,
        "snapshots/c1/dangling": ProblemKind.MISSING,
    }
    assert problems(repo) == expected
    assert problems(tmp_path) == expected  # the cache as a whole
