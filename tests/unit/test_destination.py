"""Destinations: partial files, publishing, finding what is there, resuming, cleaning; hostile folders and full disks."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.agent.storage import claims, filesystems, opened
from shoal.agent.storage.claims import SMALL_BYTES_MAX, HeldElsewhere
from shoal.agent.storage.cleaning import clean_folder
from shoal.agent.storage.destination import Destination, Published
from shoal.agent.storage.filesystems import disk_error
from shoal.agent.storage.partial import Partial
from shoal.common import room, roots
from shoal.common.errors import (
    Busy,
    Conflict,
    NoSpace,
    NotShared,
    NotWritable,
    Refused,
    ShoalError,
    UnsafeName,
    VerificationFailed,
)
from shoal.common.manifest import ManifestEntry, read_manifest, verify_folder
from shoal.common.mounts import filesystem_type, is_network
from shoal.common.paths import SafeRoot
from shoal.common.records import JobSpec, Layout, ObjectSpec, OriginKind

CONTENT = b"0123456789" * 10


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def an_object(path: str = "sub/file.bin", content: bytes = CONTENT, **fields: Any) -> ObjectSpec:
    fields = {"object_id": 1, "size": len(content), "digest": sha256(content), **fields}
    return ObjectSpec(path=path, **fields)


def a_job(folder: Path, **fields: Any) -> JobSpec:
    fields = {"job_id": "j1", "source": "https://example.org/data/", "origin": OriginKind.HTTP, **fields}
    return JobSpec(layout=Layout.FOLDER, destination=str(folder), **fields)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


Make = Callable[..., Destination]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "dir"


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made: list[Destination] = []

    def make(
        agent_id: str = "a1", *, sync: bool = False, prepare: bool = True, is_alone: bool = False, **job: Any
    ) -> Destination:
        made.append(
            Destination(a_job(folder, **job), root=Path("/"), allow=(), sync=sync, agent_id=agent_id, is_alone=is_alone)
        )
        if prepare:
            made[-1].prepare()
        return made[-1]

    yield make
    for destination in made:
        destination.close()
        destination.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered, and nothing waits."""
    monkeypatch.setattr(claims, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(claims, "IDLE_S", 0.0)
    monkeypatch.setattr(opened, "_LEARN_S", 0.0)


def fill(partial: Partial, content: bytes = CONTENT) -> Partial:
    partial.write(memoryview(content), 0)
    partial.mark(0, len(content))
    return partial


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


# ---- the plain way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_a_job_from_prepare_to_finalize(make: Make, folder: Path, sync: bool):
    destination = make(sync=sync)
    small, large, unknown = an_object("small"), an_object("sub/large"), an_object("unknown", size=None, digest="")
    assert destination.find_present(large) is None
    partial = destination.open_partial(large)
    assert (partial.fresh, list(partial.done)) == (True, [])
    partial.write(memoryview(CONTENT)[50:], 50)
    partial.mark(50, 100)
    partial.write(memoryview(CONTENT)[:50], 0)
    partial.mark(0, 50)
    assert partial.done.covers(0, 100)
    assert not (folder / "sub").exists()
    published = destination.publish(large, partial, digest=large.digest, etag="e")
    assert (published.path, published.size, published.digest, published.skipped) == (
        "sub/large",
        100,
        large.digest,
        False,
    )
    destination.publish_bytes(small, [CONTENT[:30], memoryview(CONTENT)[30:]], digest=small.digest, etag="")
    growing = fill(destination.open_partial(unknown))
    destination.publish(unknown, growing, digest=sha256(CONTENT), etag="")
    destination.finalize(iter([small, large]))
    assert files(folder) == [".shoal/manifest.json", "small", "sub/large", "unknown"]
    assert {(folder / name).read_bytes() for name in ("small", "sub/large", "unknown")} == {CONTENT}
    assert verify_folder(folder, on_problem=lambda problem: pytest.fail(str(problem))).checked == 3


def test_what_is_there_is_not_fetched_again(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch):
    spec = an_object()
    first = make()
    first.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    first.finalize([spec])
    monkeypatch.setattr("shoal.agent.storage.present.digest_of_file", lambda *_: pytest.fail("it was hashed"))
    again = make(job_id="j2").find_present(spec)
    assert again is not None
    assert (again.skipped, again.path, again.size, again.digest) == (True, "sub/file.bin", 100, spec.digest)


def test_a_file_of_unknown_making_counts_when_its_digest_is_right(make: Make, folder: Path):
    destination = make()
    (folder / "good").write_bytes(CONTENT)
    (folder / "flipped").write_bytes(b"X" + CONTENT[1:])
    (folder / "short").write_bytes(CONTENT[1:])
    (folder / "folder").mkdir()
    found = destination.find_present(an_object("good"))
    assert found is not None
    assert found.skipped
    for name in ("flipped", "short", "absent", "absent/file", "good/file"):
        assert destination.find_present(an_object(name)) is None, name
    destination.finalize([an_object("good"), an_object("absent")])
    assert verify_folder(folder, on_problem=lambda problem: pytest.fail(str(problem))).checked == 1


def test_a_changed_file_is_noticed_in_spite_of_the_manifest(make: Make, folder: Path):
    spec = an_object()
    destination = make()
    destination.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    destination.finalize([spec])
    (folder / spec.path).write_bytes(b"X" + CONTENT[1:])
    assert make(job_id="j2").find_present(spec) is None


def test_a_damaged_manifest_costs_hashing_and_no_fetch(make: Make, folder: Path):
    spec = an_object()
    destination = make()
    destination.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    destination.finalize([spec])
    manifest = folder / ".shoal/manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    again = make(job_id="j2")
    assert again.find_present(spec) is not None
    again.finalize([spec])
    assert verify_folder(folder, on_problem=lambda problem: pytest.fail(str(problem))).checked == 1


def test_what_is_gone_or_changed_before_the_end_is_not_vouched_for(make: Make, folder: Path):
    destination = make()
    gone, changed, kept = (an_object(name) for name in ("gone", "changed", "kept"))
    for spec in (gone, changed, kept):
        destination.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    (folder / "gone").unlink()
    (folder / "changed").write_bytes(b"by the user")
    destination.finalize([kept])
    with SafeRoot(folder) as root, read_manifest(root) as manifest:
        assert [entry.path for entry in manifest] == ["kept"]


def test_without_a_digest_the_record_of_the_fetch_decides(make: Make, folder: Path):
    spec = an_object(digest="", etag="v1")
    destination = make()
    destination.publish_bytes(spec, [CONTENT], digest=sha256(CONTENT), etag="v1")
    destination.finalize([])
    again = make(job_id="j2")
    found = again.find_present(spec)
    assert found is not None
    assert found.digest == sha256(CONTENT)
    assert again.find_present(an_object(digest="", etag="")) is not None
    assert again.find_present(an_object(digest="", etag="v2")) is None
    assert make(job_id="j3", source="https://elsewhere/").find_present(spec) is None
    os.utime(folder / spec.path, ns=(1, 1))
    assert make(job_id="j4").find_present(spec) is None


def test_force_skips_only_what_this_very_job_has_fetched(make: Make, folder: Path):
    spec = an_object()
    make().publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    forced = make(job_id="j2", force=True)
    assert forced.find_present(spec) is None
    forced.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    assert forced.find_present(spec) is not None
    forced.close()
    assert make(job_id="j2", force=True).find_present(spec) is not None
    assert make(job_id="j3", force=True).find_present(spec) is None


def test_a_killed_job_is_not_hashed_again(make: Make, monkeypatch: pytest.MonkeyPatch):
    spec = an_object()
    make().publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")  # and then kill -9: no finalize, no close
    monkeypatch.setattr("shoal.agent.storage.present.digest_of_file", lambda *_: pytest.fail("it was hashed"))
    assert make().find_present(spec) is not None


@pytest.mark.parametrize(("sync", "hashed"), [(False, True), (True, False)])
def test_after_a_reboot_the_journal_counts_only_for_fsynced_files(
    make: Make, monkeypatch: pytest.MonkeyPatch, sync: bool, hashed: bool
):
    spec = an_object()
    make(sync=sync).publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    calls: list[int] = []
    monkeypatch.setattr("shoal.agent.storage.finishing.boot_id", lambda: b"another boot 16b")

    def digest_of_file(*_: object) -> str:
        calls.append(1)
        return spec.digest

    monkeypatch.setattr("shoal.agent.storage.present.digest_of_file", digest_of_file)
    assert make(sync=sync).find_present(spec) is not None
    assert bool(calls) == hashed


def test_bytes_that_are_not_the_objects_get_no_name(make: Make, folder: Path):
    destination, spec = make(), an_object()
    partial = fill(destination.open_partial(spec))
    with pytest.raises(VerificationFailed, match="digest"):
        destination.publish(spec, partial, digest=sha256(b""), etag="")
    partial.close()
    with pytest.raises(VerificationFailed, match="digest"):
        destination.publish_bytes(spec, [b"x" * 100], digest=sha256(b"x" * 100), etag="")
    with pytest.raises(VerificationFailed, match="99 bytes"):
        destination.publish_bytes(spec, [CONTENT[1:]], digest=spec.digest, etag="")
    assert not (folder / spec.path).exists()
    assert not list((folder / ".shoal/partial").glob("*.tmp"))


# ---- partial files --------------------------------------------------------------------------------------------------


def test_a_partial_is_resumed_after_kill_9(make: Make):
    spec = an_object()
    partial = make().open_partial(spec)
    partial.write(memoryview(CONTENT)[20:60], 20)
    partial.mark(20, 60)
    partial.write(memoryview(CONTENT)[60:], 60)  # written, but not marked
    again = make().open_partial(spec)
    assert (again.fresh, list(again.done)) == (False, [(20, 60)])
    again.close()
    again.close()


def test_a_new_commit_with_the_same_digest_goes_on_with_the_bytes(make: Make):
    spec = an_object()
    fill(make(commit="c1").open_partial(spec)).close()
    with_new_commit = make(commit="c2").open_partial(spec)
    assert list(with_new_commit.done) == [(0, 100)]
    with_new_commit.close()


@pytest.mark.parametrize(
    "other",
    [
        {"digest": sha256(b"new")},
        {"digest": "", "etag": "new"},
        {"size": 101},
        {"size": None},
    ],
)
def test_another_version_begins_anew_and_removes_the_stale_one(make: Make, folder: Path, other: dict[str, Any]):
    destination = make()
    fill(destination.open_partial(an_object())).close()
    assert len(list((folder / ".shoal/partial").iterdir())) == 2
    partial = destination.open_partial(an_object(**other))
    assert (partial.fresh, list(partial.done)) == (True, [])
    assert len(list((folder / ".shoal/partial").iterdir())) == 2
    partial.close()


def test_a_stale_version_that_somebody_works_on_stays(make: Make, folder: Path):
    destination, other = make(), make("a2", job_id="j2")
    old = fill(other.open_partial(an_object()))
    destination.open_partial(an_object(digest=sha256(b"new"))).close()
    assert len(list((folder / ".shoal/partial").glob("*.part"))) == 2
    old.close()


def test_without_any_version_bytes_of_two_jobs_do_not_mix(make: Make):
    spec = an_object(digest="")
    fill(make().open_partial(spec)).close()
    partial = make().open_partial(spec)
    assert list(partial.done) == [(0, 100)]
    partial.close()
    partial = make(job_id="j2").open_partial(spec)
    assert partial.fresh
    partial.close()


@pytest.mark.parametrize("size", [100, None])
def test_maps_without_their_file_claim_nothing(make: Make, folder: Path, size: int | None):
    spec = an_object(size=size)
    fill(make().open_partial(spec)).close()
    next((folder / ".shoal/partial").glob("*.part")).unlink()
    partial = make("a2").open_partial(spec)
    assert (partial.fresh, list(partial.done)) == (True, [])
    assert [path.name.split(".")[1] for path in (folder / ".shoal/partial").glob("*.map")] == ["a2"]
    partial.close()


def test_a_file_that_lost_bytes_is_begun_anew(make: Make, folder: Path):
    spec = an_object()
    fill(make().open_partial(spec)).close()
    os.truncate(next((folder / ".shoal/partial").glob("*.part")), 40)
    partial = make().open_partial(spec)
    assert (partial.fresh, list(partial.done), os.fstat(partial.fd).st_size) == (True, [], 100)
    partial.close()


@pytest.mark.parametrize("damage", [b"", b"\0" * 200, b"SHOALMAP"])
def test_a_damaged_map_claims_nothing_and_is_begun_anew(make: Make, folder: Path, damage: bytes):
    spec = an_object()
    fill(make().open_partial(spec)).close()
    next((folder / ".shoal/partial").glob("*.map")).write_bytes(damage)
    partial = make().open_partial(spec)
    assert list(partial.done) == []
    fill(partial).close()
    partial = make().open_partial(spec)
    assert list(partial.done) == [(0, 100)]
    partial.close()


def test_several_agents_write_one_file(make: Make, folder: Path):
    spec = an_object()
    opener = make("a1").open_partial(spec)
    second = make("a 2/../…").open_partial(spec, create=False)
    opener.write(memoryview(CONTENT)[:50], 0)
    opener.mark(0, 50)
    second.write(memoryview(CONTENT)[50:], 50)
    second.mark(50, 100)
    assert list(opener.done) == [(0, 50)]
    opener.refresh()
    assert list(opener.done) == [(0, 100)]
    third = make("a3")
    partial = third.open_partial(spec, create=False)
    assert list(partial.done) == [(0, 100)]
    third.publish(spec, partial, digest=spec.digest, etag="")
    assert (folder / spec.path).read_bytes() == CONTENT
    assert list((folder / ".shoal/partial").iterdir()) == []
    opener.close()
    second.close()


def test_an_agent_that_was_frozen_writes_into_nobodys_published_file(make: Make, folder: Path):
    spec = an_object()
    frozen = make("a1").open_partial(spec)
    other = make("a2")
    other.publish(spec, fill(other.open_partial(spec)), digest=spec.digest, etag="")
    for act in (
        lambda: frozen.write(memoryview(b"bad bytes"), 0),
        frozen.reset,
        lambda: make("a1").publish(spec, frozen, digest=spec.digest, etag=""),
    ):
        with pytest.raises(Busy, match="another agent"):
            act()
    frozen.mark(0, 9)
    frozen.discard()
    assert (folder / spec.path).read_bytes() == CONTENT


def test_reset_forgets_everything_of_everybody(make: Make, folder: Path):
    spec = an_object()
    fill(make("a1").open_partial(spec)).close()
    partial = make("a2").open_partial(spec)
    partial.reset()
    assert not partial.done
    assert os.pread(partial.fd, 200, 0) == b"\0" * 100
    partial.write(memoryview(CONTENT)[:7], 0)
    partial.mark(0, 7)
    partial.close()
    partial = make("a3").open_partial(spec)
    assert list(partial.done) == [(0, 7)]
    partial.close()


def test_discard_leaves_nothing(make: Make, folder: Path):
    destination, spec = make(), an_object()
    fill(destination.open_partial(spec)).discard()
    assert list((folder / ".shoal/partial").iterdir()) == []
    partial = destination.open_partial(spec)
    assert partial.fresh
    partial.close()
    partial.discard()
    assert list((folder / ".shoal/partial").iterdir()) == []


def test_only_a_network_or_a_missing_digest_costs_fdatasync(make: Make, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    monkeypatch.setattr("shoal.agent.storage.partial.os.fdatasync", calls.append)
    fill(make().open_partial(an_object("a"))).close()
    assert not calls
    fill(make().open_partial(an_object("b", digest=""))).close()
    assert len(calls) == 1
    monkeypatch.setattr("shoal.agent.storage.opened.filesystem_type", lambda path: "lustre")
    fill(make().open_partial(an_object("c"))).close()
    assert len(calls) == 2


def test_threads_write_and_mark_one_partial(make: Make, folder: Path):
    content = os.urandom(64 << 10)
    spec = an_object(content=content)
    destination = make()
    partial = destination.open_partial(spec)

    def work(number: int) -> None:
        for start in range(number << 10, len(content), 8 << 10):
            partial.write(memoryview(content)[start : start + 1024], start)
            partial.mark(start, start + 1024)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(partial.done) == [(0, len(content))]
    partial.refresh()
    assert list(partial.done) == [(0, len(content))]
    destination.publish(spec, partial, digest=spec.digest, etag="")
    assert (folder / spec.path).read_bytes() == content


# ---- shared folders, locks ------------------------------------------------------------------------------------------


def test_a_folder_of_another_machine_is_not_shared(make: Make, folder: Path):
    with pytest.raises(NotShared):
        make(prepare=False).check_shared()
    folder.mkdir()
    with pytest.raises(NotShared):
        make(prepare=False).check_shared()
    make("a1")
    make("a2", prepare=False).check_shared()
    with pytest.raises(NotShared):
        make("a2", prepare=False, job_id="j2").check_shared()
    with pytest.raises(NotShared):
        make("a2").open_partial(an_object(), create=False)


def test_the_end_of_one_job_leaves_another_at_work(make: Make, folder: Path):
    first, second = make(job_id="j1"), make(job_id="j2")
    other_source = make(job_id="j3", source="https://other/")
    mine, theirs = fill(second.open_partial(an_object())), fill(other_source.open_partial(an_object()))
    first.finalize([])
    second.check_shared()
    second.publish(an_object(), mine, digest=sha256(CONTENT), etag="")
    theirs.write(memoryview(CONTENT), 0)
    theirs.close()
    second.finalize([])
    other_source.finalize([])
    assert files(folder) == [".shoal/manifest.json", "sub/file.bin"]


@pytest.mark.usefixtures("impatient")
def test_what_one_run_fetches_another_waits_for_and_takes(make: Make, folder: Path):
    first, second = make("a1", job_id="j1"), make("a2", job_id="j2")
    spec, small = an_object(size=SMALL_BYTES_MAX + 1, digest=""), an_object("small")
    assert first.claim(spec) is None
    assert first.claim(small) is None
    held = second.claim(spec)
    assert isinstance(held, HeldElsewhere)
    assert f"process {os.getpid()} on " in held.by
    with pytest.raises(Busy, match="another run"):
        second.hold(spec)
    partial = first.open_partial(spec)
    partial.write(memoryview(bytes(SMALL_BYTES_MAX + 1)), 0)
    digest = sha256(bytes(SMALL_BYTES_MAX + 1))
    first.publish(spec, partial, digest=digest, etag="")
    taken = second.claim(spec)
    assert isinstance(taken, Published)
    assert (taken.skipped, taken.digest) == (True, digest)
    assert isinstance(second.claim(small), HeldElsewhere)
    first.publish_bytes(small, [CONTENT], digest=sha256(CONTENT), etag="")
    found = second.claim(small)
    assert isinstance(found, Published)
    assert found.skipped
    first.finalize([spec, small])
    second.finalize([spec, small])
    assert files(folder) == [".shoal/manifest.json", "small", "sub/file.bin"]


@pytest.mark.usefixtures("impatient")
def test_agents_of_one_job_share_its_claims(make: Make, folder: Path):
    spec = an_object(size=SMALL_BYTES_MAX + 1)
    one, two, other = make("a1"), make("a2"), make("a3", job_id="j2")
    assert one.claim(spec) is None
    two.hold(spec)
    assert two.holds(spec)
    one.close()
    assert isinstance(other.claim(spec), HeldElsewhere), "the other agent goes on"
    two.close()
    assert other.claim(spec) is None


@pytest.mark.usefixtures("impatient")
def test_a_run_that_was_taken_over_notices_before_it_publishes(make: Make, folder: Path):
    one, two = make("a1", job_id="j1"), make("a2", job_id="j2")
    spec = an_object(size=SMALL_BYTES_MAX + 1, digest="")
    assert one.claim(spec) is None
    partial = one.open_partial(spec)
    partial.write(memoryview(bytes(SMALL_BYTES_MAX + 1)), 0)
    (lease,) = (folder / ".shoal/jobs").glob("*.a1-*.lease")
    lease.unlink()  # as who breaks it does
    assert two.claim(spec) is None
    with pytest.raises(Busy, match="silent for too long"):
        one.publish(spec, partial, digest=sha256(bytes(SMALL_BYTES_MAX + 1)), etag="")
    with pytest.raises(Busy, match="silent for too long"):
        partial.reset()
    assert not (folder / spec.path).exists()
    partial.close()


@pytest.mark.usefixtures("impatient")
def test_small_claims_are_given_up_when_they_are_idle(make: Make, folder: Path):
    one, two = make("a1", job_id="j1"), make("a2", job_id="j2")
    spec = an_object("small")
    assert one.claim(spec) is None
    assert isinstance(two.claim(spec), HeldElsewhere)
    one.let_go(spec)
    assert one._here is not None
    one._here.claims._tend()  # its thread does so every second
    assert two.claim(spec) is None


def test_a_run_after_a_killed_one_leaves_nothing_orphaned(make: Make, folder: Path):
    killed = make(job_id="j1", is_alone=True)
    fill(killed.open_partial(an_object())).close()
    fill(killed.open_partial(an_object("gone upstream"))).close()
    killed.publish_bytes(an_object("done"), [CONTENT], digest=sha256(CONTENT), etag="")
    (folder / ".shoal/partial" / f"{next(iter((folder / '.shoal/jobs').iterdir())).name[:17]}.a1.1.0.tmp").touch()
    killed.close()
    again = make(job_id="j2", prepare=False)
    again.prepare()
    again.publish(an_object(), again.open_partial(an_object()), digest=sha256(CONTENT), etag="")
    again.finalize([an_object(), an_object("done")])
    assert files(folder) == [".shoal/manifest.json", "done", "sub/file.bin"]


# ---- room -----------------------------------------------------------------------------------------------------------


def test_a_job_that_cannot_fit_is_refused_before_it_begins(make: Make):
    with pytest.raises(NoSpace, match="bytes are to come"):
        make(total_bytes=1 << 60)


def test_a_folder_that_is_complete_is_not_refused_on_a_full_disk(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    folder.mkdir()
    (folder / "big").write_bytes(os.urandom(1 << 20))
    real = os.statvfs(folder)

    class Full:
        f_bavail, f_frsize, f_files, f_favail = 10, 4096, real.f_files, 10

    monkeypatch.setattr(room.os, "statvfs", lambda path: Full)
    make(total_bytes=1 << 20)
    with pytest.raises(NoSpace, match="free"):
        make(total_bytes=(1 << 20) + 1000 * 4096)
    with pytest.raises(NoSpace, match="inodes"):
        make(total_objects=100)


def test_a_full_disk_is_named_when_a_file_takes_its_place(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def fallocate(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shoal.agent.storage.opened.filesystem_type", lambda path: "ext4")
    monkeypatch.setattr(room.os, "posix_fallocate", fallocate)
    with pytest.raises(NoSpace, match=r"sub/file\.bin.*space"):
        make().open_partial(an_object())


@pytest.mark.parametrize("kind", ["tmpfs", "nfs4"])
def test_where_space_cannot_be_reserved_it_is_looked_at(make: Make, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr("shoal.agent.storage.opened.filesystem_type", lambda path: kind)
    monkeypatch.setattr(room.os, "posix_fallocate", lambda *_: pytest.fail("it must not be called there"))
    destination = make()
    destination.open_partial(an_object()).close()
    with pytest.raises(NoSpace):
        destination.open_partial(an_object(size=1 << 60))


def test_a_file_system_without_fallocate_gives_a_file_of_the_size(make: Make, monkeypatch: pytest.MonkeyPatch):
    def unsupported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("shoal.agent.storage.opened.filesystem_type", lambda path: "ext4")
    monkeypatch.setattr(room.os, "posix_fallocate", unsupported)
    partial = make().open_partial(an_object())
    assert os.fstat(partial.fd).st_size == 100
    partial.close()


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EIO, NotWritable),
        (errno.EROFS, NotWritable),
        (errno.ESTALE, NotWritable),
    ],
)
def test_a_write_that_fails_says_why(make: Make, monkeypatch: pytest.MonkeyPatch, number: int, error: type[ShoalError]):
    destination, spec = make(), an_object()
    partial = destination.open_partial(spec)
    real = os.pwrite
    calls: list[int] = []

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(number, os.strerror(number))
        return real(fd, data[:10], offset)

    monkeypatch.setattr("shoal.agent.storage.partial.os.pwrite", pwrite)
    with pytest.raises(error, match=r"sub/file\.bin"):
        partial.write(memoryview(CONTENT), 0)
    assert calls == [0, 10]
    with pytest.raises(error, match=r"sub/file\.bin"):
        partial.mark(0, 10)
    assert not partial.done
    partial.close()


def test_short_writes_go_on(make: Make, monkeypatch: pytest.MonkeyPatch):
    real = os.pwrite
    partial = make().open_partial(an_object())
    monkeypatch.setattr("shoal.agent.storage.partial.os.pwrite", lambda fd, data, at: real(fd, data[:7], at))
    partial.write(memoryview(CONTENT), 0)
    assert os.pread(partial.fd, 100, 0) == CONTENT
    partial.close()


@pytest.fixture
def mounted(folder: Path) -> Iterator[Callable[[str], None]]:
    """Mounts a small tmpfs at the destination; needs root."""
    mounts: list[Path] = []

    def mount(options: str) -> None:
        folder.mkdir(exist_ok=True)
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "shoal", folder]).returncode:
            pytest.skip("mounting needs root")
        mounts.append(folder)

    yield mount
    for path in mounts:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.system
def test_a_disk_that_is_really_full(make: Make, mounted: Callable[[str], None], folder: Path):
    mounted("size=256k")
    with pytest.raises(NoSpace):
        make(total_bytes=1 << 20)
    destination = make(job_id="j2")
    with pytest.raises(NoSpace):
        destination.open_partial(an_object(size=1 << 20))
    big = os.urandom(400 << 10)
    with pytest.raises(NoSpace):
        destination.publish_bytes(an_object(content=big), [big], digest=sha256(big), etag="")
    assert not list((folder / ".shoal/partial").glob("*.tmp"))
    partial = destination.open_partial(an_object(content=big, size=None))
    with pytest.raises(NoSpace):
        partial.write(memoryview(big), 0)
    partial.discard()
    destination.publish_bytes(an_object(), [CONTENT], digest=sha256(CONTENT), etag="")


@pytest.mark.system
def test_a_folder_that_is_really_read_only(make: Make, mounted: Callable[[str], None]):
    mounted("size=256k,ro")
    with pytest.raises(NotWritable, match="read-only"):
        make()


def test_too_many_open_files(make: Make, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(disk_error(OSError(errno.EMFILE, "Too many open files"), "x"), NotWritable)
    assert "ulimit" in str(disk_error(OSError(errno.EMFILE, "Too many open files"), "x"))


# ---- hostile folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the destination that nothing may touch."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "file.bin").write_bytes(b"precious")
    before = sorted((name.name, name.read_bytes()) for name in path.iterdir())
    yield path
    assert sorted((name.name, name.read_bytes()) for name in path.iterdir()) == before


@pytest.mark.parametrize("name", [".shoal", ".shoal/partial", ".shoal/jobs"])
def test_a_work_folder_that_leads_elsewhere_is_refused(make: Make, folder: Path, outside: Path, name: str):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(UnsafeName, match="symlink"):
        make()


def test_a_planted_folder_link_is_refused(make: Make, folder: Path, outside: Path):
    destination, spec = make(), an_object()
    (folder / "sub").symlink_to(outside)
    with pytest.raises(UnsafeName, match="symlink"):
        destination.find_present(spec)
    with pytest.raises(UnsafeName, match="symlink"):
        destination.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    partial = fill(destination.open_partial(spec))
    with pytest.raises(UnsafeName, match="symlink"):
        destination.publish(spec, partial, digest=spec.digest, etag="")
    partial.close()
    destination.finalize([spec])
    assert not list((folder / ".shoal").rglob("*.tmp"))


def test_a_planted_link_with_a_files_name_is_replaced_not_followed(make: Make, folder: Path, outside: Path):
    destination, spec = make(), an_object("file.bin")
    (folder / "file.bin").symlink_to(outside / "file.bin")
    with pytest.raises(UnsafeName):
        destination.find_present(spec)
    destination.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    assert not (folder / "file.bin").is_symlink()
    assert (folder / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo"])
@pytest.mark.parametrize("ending", ["part", "map"])
def test_planted_work_files_are_replaced(make: Make, folder: Path, outside: Path, kind: str, ending: str):
    spec, destination = an_object(), make()
    fill(destination.open_partial(spec)).close()
    victim = next((folder / ".shoal/partial").glob(f"*.{ending}"))
    victim.unlink()
    if kind == "symlink":
        victim.symlink_to(outside / "file.bin")
    elif kind == "hard link":
        victim.hardlink_to(outside / "file.bin")
    else:
        os.mkfifo(victim)
    partial = destination.open_partial(spec)
    assert list(partial.done) == []
    destination.publish(spec, fill(partial), digest=spec.digest, etag="")
    assert (folder / spec.path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "path",
    ["../up", "/etc/x", "a/../../x", "a//b", ".", "nul\0", "ctrl\x07", ".shoal/manifest.json", ".SHOAL/x", "x" * 300],
)
def test_an_unsafe_name_is_refused_by_every_door(make: Make, folder: Path, path: str):
    destination, spec = make(), an_object(path)
    for door in (
        lambda: destination.find_present(spec),
        lambda: destination.open_partial(spec),
        lambda: destination.publish_bytes(spec, [CONTENT], digest=spec.digest, etag=""),
    ):
        with pytest.raises(UnsafeName):
            door()
    assert list((folder / ".shoal/partial").iterdir()) == []
    destination.finalize([spec])
    assert files(folder) == [".shoal/manifest.json"]


def test_a_folder_where_a_file_should_be(make: Make, folder: Path):
    destination, spec = make(), an_object()
    (folder / spec.path).mkdir(parents=True)
    with pytest.raises(Conflict, match="in the way"):
        destination.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    partial = fill(destination.open_partial(spec))
    with pytest.raises(Conflict, match="in the way"):
        destination.publish(spec, partial, digest=spec.digest, etag="")
    partial.close()


def test_a_file_where_a_folder_should_be(make: Make, folder: Path):
    destination, spec = make(), an_object()
    (folder / "sub").write_bytes(b"")
    with pytest.raises(Conflict, match="in the way"):
        destination.publish_bytes(spec, [CONTENT], digest=spec.digest, etag="")
    assert not list((folder / ".shoal/partial").glob("*.tmp"))


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_where_the_destination_should_be(folder: Path, below: str):
    folder.write_bytes(b"")
    destination = Destination(a_job(folder / below), root=Path("/"), allow=(), sync=False, agent_id="a")
    with pytest.raises(NotWritable, match="file"):
        destination.prepare()


def test_twins_meet_where_case_is_ignored(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shoal.agent.storage.opened.ignores_case", lambda root, probe: True)
    destination = make()
    first, again, second = an_object("Sub/README"), an_object("Sub/README"), an_object("sub/readme")
    destination.publish_bytes(first, [CONTENT], digest=first.digest, etag="")
    destination.publish_bytes(again, [CONTENT], digest=first.digest, etag="")
    with pytest.raises(Conflict, match="Sub is there"):
        destination.publish_bytes(second, [CONTENT], digest=second.digest, etag="")


def test_twins_are_two_files_where_case_counts(make: Make, folder: Path):
    destination = make()
    for name in ("README", "readme"):
        destination.publish_bytes(an_object(name), [CONTENT], digest=sha256(CONTENT), etag="")
    assert {path.name for path in folder.iterdir()} >= {"README", "readme"}


# ---- where an agent may write ---------------------------------------------------------------------------------------


def resolve(destination: str, root: Path, *allow: Path) -> Path:
    return roots.resolve_destination(destination, root=root, allow=allow)


def test_a_destination_is_taken_below_the_root(tmp_path: Path):
    assert resolve(str(tmp_path / "x"), Path("/")) == tmp_path / "x"
    assert resolve("/models/x", tmp_path) == tmp_path / "models/x"
    assert resolve("models/../x", tmp_path) == tmp_path / "x"


@pytest.mark.parametrize("destination", ["..", "../x", "/a/../../x", "link", "link/x", "x/../link/../../y", "", "a\0b"])
def test_a_destination_does_not_leave_the_root(tmp_path: Path, destination: str):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(Refused):
        resolve(destination, root)


def test_a_destination_is_below_an_allowed_folder(tmp_path: Path):
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed/link").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "allowed")
    allowed = tmp_path / "allowed"
    for name in ("allowed", "allowed/x", "other/x"):
        assert resolve(str(tmp_path / name), Path("/"), Path("/nowhere"), allowed).is_relative_to(allowed)
    for name in ("", "allowed2", "allowed/../x", "allowed/link/x"):
        with pytest.raises(Refused, match=r"agent\.allow_paths"):
            resolve(str(tmp_path / name), Path("/"), Path("/nowhere"), allowed)


# ---- file systems ---------------------------------------------------------------------------------------------------

MOUNTS = [
    "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw",
    "40 22 0:45 / /data rw master:1 - nfs4 server:/export rw",
    "41 40 0:46 / /data/fast rw - lustre mgs@tcp:/scratch rw",
    "42 22 0:47 / /with\\040blank rw - fuse.sshfs host: rw",
    "43 40 0:48 / /data/fast rw - tmpfs tmpfs rw",
    "garbage",
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/database", "ext4"),
        ("/data/x", "nfs4"),
        ("/data/fast/x", "tmpfs"),
        ("/with blank/x", "fuse.sshfs"),
    ],
)
def test_the_innermost_last_mount_decides(path: str, kind: str):
    assert filesystem_type(Path(path), MOUNTS) == kind


def test_network_file_systems_are_known():
    assert all(map(is_network, ["nfs", "nfs4", "lustre", "gpfs", "cifs", "fuse.glusterfs", "ceph"]))
    assert not any(map(is_network, ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", ""]))
    assert filesystem_type(Path("/proc")) in ("proc", "")
    assert len(filesystems.boot_id()) == 16


# ---- cleaning -------------------------------------------------------------------------------------------------------


def age(folder: Path, seconds: float, now: float) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (now - seconds, now - seconds), follow_symlinks=False)


def test_clean_removes_what_is_old_and_nobodys(make: Make, folder: Path):
    dead = make()
    fill(dead.open_partial(an_object())).close()
    dead.publish_bytes(an_object("done"), [CONTENT], digest=sha256(CONTENT), etag="")
    dead.close()
    for name in ("partial/x.a.1.0.tmp", "manifest.lock", "manifest.json.abc.tmp"):
        (folder / ".shoal" / name).touch()
    (folder / ".shoal/notes").touch()
    now = (folder / "done").stat().st_mtime + 5
    assert clean_folder(folder, older_than_s=100, now=now) == []
    age(folder, 200, now)
    removed = clean_folder(folder, older_than_s=100, now=now)
    assert len(removed) == 7  # part, map, three temporary or lock files, marker, journal
    assert files(folder) == [".shoal/notes", "done"]
    assert clean_folder(folder, older_than_s=100, now=now) == []


def test_clean_leaves_what_is_in_use(make: Make, folder: Path):
    alive = make()
    assert alive.claim(an_object()) is None
    partial = fill(alive.open_partial(an_object()))
    now = 2e9
    age(folder, 200, now)
    (lease,) = (folder / ".shoal/jobs").glob("*.lease")
    os.utime(lease, (now - 20, now - 20))
    assert clean_folder(folder, older_than_s=100, now=now) == []
    os.utime(lease, (now - 89, now - 89))
    assert clean_folder(folder, older_than_s=0, now=now) == [], "within its expiry"
    partial.close()
    alive.close()
    age(folder, 200, now)
    os.utime(next((folder / ".shoal/partial").glob("*.map")), (now - 50, now - 50))  # as from another machine
    assert [Path(name).suffix for name in clean_folder(folder, older_than_s=100, now=now)] == [".marker"]


def test_clean_goes_where_no_link_leads(folder: Path, outside: Path):
    (outside / "partial").mkdir()
    folder.mkdir()
    (folder / ".shoal").symlink_to(outside)
    with pytest.raises(UnsafeName):
        clean_folder(folder, older_than_s=0, now=4e9)
    (outside / "partial").rmdir()


def test_clean_of_a_folder_without_work_does_nothing(folder: Path):
    folder.mkdir()
    (folder / "file").touch()
    assert clean_folder(folder, older_than_s=0, now=4e9) == []
    assert files(folder) == ["file"]


# ---- resources ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_nothing_stays_open(folder: Path):
    before = open_files()
    for number in range(3):
        destination = Destination(a_job(folder, job_id=f"j{number}"), root=Path("/"), allow=(), sync=True, agent_id="a")
        destination.prepare()
        destination.check_shared()
        for name in ("a", "b", "x/../y"):
            try:
                destination.find_present(an_object(name))
                partial = destination.open_partial(an_object(name))
                with pytest.raises(VerificationFailed):
                    destination.publish(an_object(name), partial, digest=sha256(b""), etag="")
                destination.publish(an_object(name), fill(partial), digest=sha256(CONTENT), etag="")
            except UnsafeName:
                pass
        destination.open_partial(an_object("c")).discard()
        destination.finalize([an_object("a")])
        destination.close()
    assert open_files() <= before  # what other tests left to the collector may go meanwhile


def test_entries_are_plain_records():
    assert ManifestEntry(path="a", size=1, digest="").to_json().startswith('{"path": "a", "size": 1')
