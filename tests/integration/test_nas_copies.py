"""Copies on a NAS, on real file systems: what is copied, verified, resumed and refused, and what becomes of it when the NAS fails."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.agent.nas import claims, copying
from shoal.agent.nas.book import CopyItem
from shoal.agent.nas.copier import Copier, queue_folder_of
from shoal.agent.nas.copying import ByteMover
from shoal.agent.nas.mounts import Mounts
from shoal.agent.nas.options import NasOptions
from shoal.agent.nas.place import PARTIAL, Brought, NasPlace
from shoal.agent.nas.removal import remove_local
from shoal.agent.nas.trouble import CopyTrouble, FileTrouble, Held, NasDown, NeverCopied, Stopped
from shoal.agent.storage.destination import Destination
from shoal.common.manifest import verify_folder
from shoal.common.nas_records import NasCounts
from shoal.common.records import Delivery, JobSpec, Layout, ObjectSpec, OriginKind
from support.nas import TmpfsNas, an_item, digest_of, files_of, tmpfs_nas

BIG = random.Random(1).randbytes(3 << 20)
WAIT_S = 30.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "local").mkdir()
    return tmp_path / "local"


@pytest.fixture
def nas(tmp_path: Path) -> Path:
    (tmp_path / "nas").mkdir()
    return tmp_path / "nas"


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[TmpfsNas]:
    with tmpfs_nas(tmp_path / "tmpfs", "4m") as mounted:
        yield mounted


def a_place(nas: Path, owner: str = "a1", *, recheck: bool = False) -> NasPlace:
    mounts = Mounts(nas.parent / "state" / "m.json", require=False)
    return NasPlace(nas, owner=owner, mounts=mounts, recheck=recheck, clock=time.monotonic)


def a_mover(pace: Callable[[int], None] = lambda count: None) -> ByteMover:
    return ByteMover(64 << 10, pace=pace, clock=time.monotonic)


def bring(nas: Path, item: CopyItem, **options: Any) -> Brought:
    return a_place(nas, **options).bring(item, a_mover())


def work_files(nas: Path) -> list[str]:
    return sorted(path.name for path in (nas / PARTIAL).iterdir())


# ---- one copy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [True, False], ids=["in the kernel", "through a buffer"])
@pytest.mark.parametrize("content", [b"", b"x", BIG], ids=["empty", "small", "big"])
def test_a_copy(folder: Path, nas: Path, content: bytes, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel:

        def refuse(*_: object) -> int:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "copy_file_range", refuse)
    brought = bring(nas, an_item(folder, nas, content=content))
    assert (brought.target, brought.moved) == ("acme/tiny/sub/file.bin", True)
    assert files_of(nas) == {"acme/tiny/sub/file.bin": content}
    assert work_files(nas) == []


def test_another_file_system(folder: Path, tmpfs: TmpfsNas) -> None:
    assert bring(tmpfs.path, an_item(folder, tmpfs.path, content=BIG)).moved
    assert files_of(tmpfs.path) == {"acme/tiny/sub/file.bin": BIG}


def test_a_git_digest_and_a_repo_of_the_hub_cache(folder: Path, nas: Path) -> None:
    repo = folder / "models--acme--tiny"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots" / "c0ffee").mkdir(parents=True)
    (repo / "blobs" / "abc").write_bytes(b"{}")
    (repo / "snapshots/c0ffee/config.json").symlink_to("../../blobs/abc")
    item = replace(
        an_item(folder, nas, "unused", b"{}"),
        base="models--acme--tiny",
        path="snapshots/c0ffee/config.json",
        name="config.json",
        digest="git-sha1:" + hashlib.sha1(b"blob 2\0{}").hexdigest(),
        mtime_ns=(repo / "blobs" / "abc").stat().st_mtime_ns,
    )
    assert bring(nas, item).target == "acme/tiny/config.json"
    assert files_of(nas) == {"acme/tiny/config.json": b"{}"}


def test_what_is_there_is_not_copied_again(folder: Path, nas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = an_item(folder, nas)
    place = a_place(nas)
    assert place.bring(item, a_mover()).moved
    place.merge(time.sleep)
    hashed: list[int] = []
    monkeypatch.setattr(ByteMover, "digest", lambda self, fd, digest, size: hashed.append(fd) or digest)
    assert not bring(nas, item, owner="a2").moved, "by its record, of another agent, from the manifest"
    assert not hashed
    assert not bring(nas, item, recheck=True).moved
    assert hashed
    assert verify_folder(nas, on_problem=lambda problem: pytest.fail(problem.text)).checked == 1


def test_a_file_without_a_record_is_hashed_once(folder: Path, nas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = an_item(folder, nas)
    (nas / "acme/tiny/sub").mkdir(parents=True)
    (nas / "acme/tiny/sub/file.bin").write_bytes(b"content")
    assert not bring(nas, item).moved
    monkeypatch.setattr(ByteMover, "digest", lambda *_: pytest.fail("it has a record now"))
    assert not bring(nas, item).moved


def test_another_file_of_the_name_stays_until_the_new_one_is_complete(
    folder: Path, nas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = an_item(folder, nas, content=b"newer")
    target = nas / "acme/tiny/sub/file.bin"
    target.parent.mkdir(parents=True)
    for old in (b"older", b"of another size"):
        target.write_bytes(old)
        seen: list[bytes] = []
        real = os.replace

        def replace(*args: Any, seen: list[bytes] = seen, real: Any = real, **kwargs: Any) -> None:
            seen.append(target.read_bytes())
            real(*args, **kwargs)

        monkeypatch.setattr(os, "replace", replace)
        assert bring(nas, item).moved
        monkeypatch.undo()
        assert seen == [old] and target.read_bytes() == b"newer"


def test_flat_names_and_their_collisions(folder: Path, nas: Path) -> None:
    one = an_item(folder, nas, "c_d/e.bin", b"one", source="hf://a/b", preserve=False)
    other = an_item(folder, nas, "c/d_e.bin", b"other", source="hf://a/b", preserve=False)
    first, second = bring(nas, one).target, bring(nas, other, owner="a2").target
    assert first == "a_b_c_d_e.bin" and second.startswith("a_b_c_d_e~")
    assert files_of(nas) == {first: b"one", second: b"other"}
    for again, target in ((one, first), (other, second)):
        brought = bring(nas, again)
        assert (brought.target, brought.moved) == (target, False), "each finds its own again"
    newer = an_item(folder, nas, "c_d/e.bin", b"one, newer", source="hf://a/b@v2", preserve=False)
    assert bring(nas, newer).target == first, "a newer version takes the place of the older one"
    assert files_of(nas) == {first: b"one, newer", second: b"other"}
    foreign = an_item(folder, nas, "x.bin", b"ours", source="hf://a/b", preserve=False)
    (nas / "a_b_x.bin").write_bytes(b"somebody else's")
    assert bring(nas, foreign).target.startswith("a_b_x~")
    assert files_of(nas)["a_b_x.bin"] == b"somebody else's"


# ---- what must not be believed --------------------------------------------------------------------------------------


def test_wrong_bytes_on_the_nas_never_get_the_name(folder: Path, nas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = an_item(folder, nas, content=BIG)
    real = os.copy_file_range

    def corrupt(source: int, target: int, count: int, at: int, to: int) -> int:
        moved = real(source, target, count, at, to)
        os.pwrite(target, b"\xff\x00", to)
        return moved

    monkeypatch.setattr(os, "copy_file_range", corrupt)
    with pytest.raises(FileTrouble, match="not what was written"):
        bring(nas, item)
    assert files_of(nas) == {} and work_files(nas) == []
    monkeypatch.undo()
    assert bring(nas, item).moved


def test_a_local_file_that_changed_or_went_is_given_up(folder: Path, nas: Path) -> None:
    item = an_item(folder, nas)
    (folder / item.path).write_bytes(b"changed")
    with pytest.raises(NeverCopied, match="has changed"):
        bring(nas, item)
    (folder / item.path).unlink()
    with pytest.raises(NeverCopied, match="not in"):
        bring(nas, item)
    (folder / item.path).symlink_to("/etc/passwd")
    with pytest.raises(NeverCopied, match="symlink"):
        bring(nas, item)
    damaged = an_item(folder, nas, "d.bin", b"content", digest=digest_of(b"CONTENT"))
    with pytest.raises(NeverCopied, match="damaged"):
        bring(nas, damaged)
    with pytest.raises(NeverCopied, match="absolute"):
        bring(nas, an_item(folder, nas, name="/etc/passwd"))
    assert files_of(nas) == {}


@pytest.mark.parametrize("planted", [".shoal", ".shoal/partial", "acme", "acme/tiny", "acme/tiny/sub"])
def test_planted_links_lead_nowhere(folder: Path, nas: Path, tmp_path: Path, planted: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (nas / planted).parent.mkdir(parents=True, exist_ok=True)
    (nas / planted).symlink_to(elsewhere)
    with pytest.raises(CopyTrouble, match="symlink"):
        bring(nas, an_item(folder, nas))
    assert list(elsewhere.iterdir()) == []


def test_a_planted_link_of_the_files_own_name_is_replaced_itself(folder: Path, nas: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"content")
    (nas / "acme/tiny/sub").mkdir(parents=True)
    (nas / "acme/tiny/sub/file.bin").symlink_to(victim)
    assert bring(nas, an_item(folder, nas)).moved
    assert not (nas / "acme/tiny/sub/file.bin").is_symlink() and victim.read_bytes() == b"content"


def test_a_folder_in_the_way_is_told(folder: Path, nas: Path) -> None:
    (nas / "acme/tiny/sub/file.bin").mkdir(parents=True)
    with pytest.raises(FileTrouble):
        bring(nas, an_item(folder, nas))


def test_the_destination_may_be_the_nas_itself(nas: Path) -> None:
    brought = bring(nas, an_item(nas / "acme/tiny", nas))
    assert brought.itself and not brought.moved
    assert files_of(nas) == {"acme/tiny/sub/file.bin": b"content"}


# ---- broken off -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As a kill would: nothing after it runs that is not done by the kernel."""


CALLS = (
    *("open", "write", "pwrite", "writev", "fsync", "replace", "unlink", "mkdir", "ftruncate", "preadv"),
    *("copy_file_range", "stat", "fstat", "fstatvfs", "listdir", "close"),
)


class Saboteur:
    """Fails the n-th call of the file system that this thread makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException]) -> None:
        self.calls = itertools.count(1)
        self.hit = False
        mine = threading.get_ident()
        for name in CALLS:
            real = getattr(os, name)

            def call(*args: Any, real: Any = real, name: str = name, **kwargs: Any) -> Any:
                if threading.get_ident() == mine and next(self.calls) == at:
                    self.hit = True
                    if name == "close":
                        real(*args, **kwargs)  # a close that fails has closed all the same
                    raise error()
                return real(*args, **kwargs)

            monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EACCES, errno.EROFS, 0])
def test_any_call_may_fail_and_the_next_try_succeeds(
    folder: Path, nas: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 stands for a kill. Whatever fails, the name is absent or whole, and a try without a fault makes it whole."""
    target = nas / "acme/tiny/sub/file.bin"
    content = BIG[: 300 << 10]
    for at in itertools.count(1):
        item = an_item(folder, nas, content=content)
        with monkeypatch.context() as patch:
            saboteur = Saboteur(patch, at, lambda: OSError(number, os.strerror(number)) if number else Killed())
            try:
                bring(nas, item)
            except (CopyTrouble, Killed):
                pass
            except OSError as error:
                pytest.fail(f"call {at}: {error!r} escaped")
        if not saboteur.hit:
            break
        assert not target.exists() or target.read_bytes() == content, f"call {at}"
        for lock in (nas / PARTIAL).glob("*.lock") if (nas / PARTIAL).is_dir() else ():
            lock.unlink()  # this process lives on, so its lock would be waited for
        assert bring(nas, item).target and target.read_bytes() == content, f"call {at}"
        assert verify_folder_if_any(nas), f"call {at}"
        target.unlink()
    assert at > 40


def verify_folder_if_any(nas: Path) -> bool:
    a_place(nas).merge(time.sleep)
    return verify_folder(nas, on_problem=lambda problem: pytest.fail(problem.text)).ok


def test_a_copy_that_was_broken_off_goes_on(folder: Path, nas: Path) -> None:
    item = an_item(folder, nas, content=BIG)
    moved: list[int] = []

    def stop(count: int) -> None:
        moved.append(count)
        if sum(moved) >= 1 << 20:
            raise Stopped("stopping")

    with pytest.raises(Stopped):
        a_place(nas).bring(item, a_mover(stop))
    (partial,) = work_files(nas)
    have = (nas / PARTIAL / partial).stat().st_size
    assert 1 << 20 <= have < len(BIG)
    copied: list[int] = []
    assert a_place(nas).bring(item, a_mover(copied.append)).moved
    assert sum(copied) == len(BIG) - have + len(BIG), "what was missing, and all of it to verify"
    assert files_of(nas) == {"acme/tiny/sub/file.bin": BIG}


def test_a_damaged_partial_costs_a_try(folder: Path, nas: Path) -> None:
    item = an_item(folder, nas, content=BIG)
    with pytest.raises(Stopped):
        a_place(nas).bring(item, a_mover(raise_stopped))
    (partial,) = work_files(nas)
    with (nas / PARTIAL / partial).open("r+b") as file:
        file.write(b"\xff\xff")
    with pytest.raises(FileTrouble, match="read back"):
        bring(nas, item)
    assert bring(nas, item).moved


def raise_stopped(count: int) -> None:
    raise Stopped("stopping")


def test_two_do_not_copy_one_file(folder: Path, nas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = an_item(folder, nas, content=BIG)
    inside: list[type[BaseException]] = []

    def meanwhile(count: int) -> None:
        if not inside:
            inside.append(Exception)
            with pytest.raises(Held):
                bring(nas, item, owner="a2")

    assert a_place(nas).bring(item, a_mover(meanwhile)).moved and inside
    assert not bring(nas, item, owner="a2").moved

    lock = nas / PARTIAL
    held = an_item(folder, nas, "held.bin")
    place = a_place(nas)
    with pytest.raises(Stopped):
        place.bring(held, a_mover(raise_stopped))
    name = next(path.name for path in lock.iterdir()).partition("-")[0]
    (lock / f"{name}.lock").write_text("elsewhere 1 abc\n")  # of another machine, that is gone
    with pytest.raises(Held):
        place.bring(held, a_mover())
    monkeypatch.setattr(claims, "EXPIRY_S", 0.0)
    assert place.bring(held, a_mover()).moved


def test_a_claim_of_a_process_that_died_is_taken_over_at_once(folder: Path, nas: Path) -> None:
    item = an_item(folder, nas)
    with pytest.raises(Stopped):
        a_place(nas).bring(item, a_mover(raise_stopped))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    mine = claims.Claims(time.monotonic)
    name = next(path.name for path in (nas / PARTIAL).iterdir()).partition("-")[0]
    owner = f"{mine._machine} {child} abc\n"  # pyright: ignore[reportPrivateUsage]
    (nas / PARTIAL / f"{name}.lock").write_text(owner)
    assert bring(nas, item).moved


# ---- a NAS that fails -----------------------------------------------------------------------------------------------


def a_copier(tmp_path: Path, nas: Path, **fields: Any) -> Copier:
    known: dict[str, Any] = {"backoff_initial_s": 0.05, "backoff_max_s": 0.2, "drain_s": 1.0, **fields}
    options = NasOptions(path=nas, state=tmp_path / "state", **known)
    return Copier(options, owner="a1", clock=time.monotonic, rng=random.Random(1))


async def until(what: str, condition: Callable[[], object]) -> None:
    ends_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_s, f"not within {WAIT_S} s: {what}"
        await asyncio.sleep(0.01)


def counts_of(copier: Copier) -> NasCounts:
    report = copier.report()
    return report.total if report is not None else NasCounts()


def put(copier: Copier, folder: Path, nas: Path, *paths: str, content: bytes = b"content", **fields: Any) -> None:
    for path in paths:
        copier.put(an_item(folder, nas, path, content, **fields), queue_folder_of(folder))


async def test_copies_and_leaves_nothing_behind(folder: Path, nas: Path, tmp_path: Path) -> None:
    async with a_copier(tmp_path, nas) as copier:
        put(copier, folder, nas, *(f"f{number}" for number in range(20)))
        await until("all copies", lambda: not copier.unfinished)
        assert counts_of(copier) == NasCounts(files_copied=20, bytes_copied=140)
    assert len(files_of(nas)) == 20
    assert verify_folder(nas, on_problem=lambda problem: pytest.fail(problem.text)).checked == 20
    assert not (folder / ".shoal").exists() and work_files(nas) == [] and list((nas / ".shoal/nas").iterdir()) == []


async def test_missing_read_only_full_removed_and_back(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "shelf/mnt"
    async with a_copier(tmp_path, path) as copier:
        put(copier, folder, path, "a")
        await until("the report", lambda: "not there" in counts_of(copier).reason)
        with tmpfs_nas(path, "1m") as nas:
            await until("a", lambda: counts_of(copier).files_copied == 1)
            await until("the manifest", lambda: not copier.unfinished)

            nas.remount("ro")
            put(copier, folder, path, "b")
            await until("the report", lambda: "read-only" in counts_of(copier).reason)
            assert (counts_of(copier).files_waiting, counts_of(copier).files_failing) == (1, 1)
            nas.remount("rw")
            await until("b", lambda: counts_of(copier).files_copied == 2)

            put(copier, folder, path, "big", content=BIG[: 2 << 20])
            await until("the report", lambda: "full" in counts_of(copier).reason)
            put(copier, folder, path, "c")
            await until("c, though the NAS is full for another", lambda: counts_of(copier).files_copied == 3)
            nas.remount("size=8m")
            await until("big", lambda: counts_of(copier).files_copied == 4)
            await until("the manifest", lambda: not copier.unfinished)

            nas.unmount()  # nothing of it is kept open
            put(copier, folder, path, "d")
            await until("the report", lambda: "was mounted when it was used before" in counts_of(copier).reason)
            assert list(path.iterdir()) == [], "nothing goes to the file system below"
            nas.mount()
            await until("d", lambda: counts_of(copier).files_copied == 5)
            assert counts_of(copier).reason == "" and not counts_of(copier).unfinished
            assert files_of(path) == {"acme/tiny/d": b"content"}


async def test_renamed_away_and_back(folder: Path, nas: Path, tmp_path: Path) -> None:
    away = nas.with_name("away")
    async with a_copier(tmp_path, nas) as copier:
        put(copier, folder, nas, "a")
        await until("a", lambda: not copier.unfinished)
        nas.rename(away)
        put(copier, folder, nas, "b")
        await until("the report", lambda: "not there" in counts_of(copier).reason)
        away.rename(nas)
        await until("b", lambda: not copier.unfinished)
    assert set(files_of(nas)) == {"acme/tiny/a", "acme/tiny/b"}


async def test_a_nas_that_hangs_holds_nobody_up(
    folder: Path, nas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that does not return stands for a thread in uninterruptible sleep: it cannot be broken off from outside either."""
    hangs, release = threading.Event(), threading.Event()

    def hang(fd: int) -> None:
        hangs.set()
        release.wait()

    real = copying.forget_cached
    monkeypatch.setattr(copying, "forget_cached", hang)
    try:
        async with a_copier(tmp_path, nas, copies=1, stall_s=0.2, drain_s=0.3) as copier:
            put(copier, folder, nas, "a")
            await asyncio.to_thread(hangs.wait)
            put(copier, folder, nas, "b", "c")
            await until("the report", lambda: "has not answered" in counts_of(copier).reason)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < WAIT_S
        assert len(list(queue_folder_of(folder).glob("*.queue"))) == 1, "what is left is remembered"
    finally:
        release.set()
    monkeypatch.setattr(copying, "forget_cached", real)
    async with a_copier(tmp_path, nas) as copier:
        copier.adopt(queue_folder_of(folder))
        await until("all of them", lambda: not copier.unfinished)
    assert len(files_of(nas)) == 3


async def test_a_slow_nas_and_the_rate_limit(folder: Path, nas: Path, tmp_path: Path) -> None:
    """The limit stands for a slow line: the copy goes on, stopping breaks it off, and the next process goes on from there."""
    async with a_copier(tmp_path, nas, rate_limit=16 << 10) as copier:  # minutes for the whole file
        put(copier, folder, nas, "big", content=BIG)
        await until("some of it", lambda: any((nas / PARTIAL).glob("*.part")) and copier.quiet_s < 5)
        assert counts_of(copier).files_waiting == 1
    assert files_of(nas) == {} and work_files(nas)
    async with a_copier(tmp_path, nas) as copier:
        copier.adopt(queue_folder_of(folder))
        await until("all of it", lambda: not copier.unfinished)
    assert files_of(nas) == {"acme/tiny/big": BIG}


async def test_more_files_than_memory_holds(folder: Path, nas: Path, tmp_path: Path) -> None:
    async with a_copier(tmp_path, nas) as copier:
        copier._book._window = 5  # pyright: ignore[reportPrivateUsage]
        bad = [f"bad{number}" for number in range(8)]
        for path in bad:  # before their files are put: a copier may be done with a file before the next line runs
            (nas / "acme/tiny" / path / "x").mkdir(parents=True)
        put(copier, folder, nas, *bad)
        put(copier, folder, nas, *(f"f{number}" for number in range(30)))
        await until("the good ones", lambda: counts_of(copier).files_copied >= 30)
        for path in bad:
            (nas / "acme/tiny" / path / "x").rmdir()
            (nas / "acme/tiny" / path).rmdir()
        await until("the others", lambda: not copier.unfinished)
    assert len(files_of(nas)) == 38


# ---- the destination ------------------------------------------------------------------------------------------------


def a_destination(folder: Path, copier: Copier | None = None, **fields: Any) -> tuple[Destination, JobSpec]:
    known: dict[str, Any] = {"job_id": "j1", "source": "hf://acme/tiny", "origin": OriginKind.HTTP, **fields}
    job = JobSpec(layout=Layout.FOLDER, destination=str(folder), **known)
    placed = copier.placed if copier is not None else None
    return Destination(job, root=Path("/"), allow=(), sync=False, agent_id="a1", placed=placed), job


def an_object(path: str, content: bytes = b"content", number: int = 1) -> ObjectSpec:
    return ObjectSpec(object_id=number, path=path, size=len(content), digest=digest_of(content))


async def test_removed_after_the_job_has_ended_and_never_fetched_again(folder: Path, nas: Path, tmp_path: Path) -> None:
    spec = an_object("sub/a.bin")
    async with a_copier(tmp_path, nas, delete_after_copy=True) as copier:
        destination, _ = a_destination(folder, copier)
        destination.prepare()
        destination.publish_bytes(spec, (b"content",), digest=spec.digest, etag="")
        await until("the copy", lambda: counts_of(copier).files_copied == 1)
        copier.hurry()
        await until("the look at the job", lambda: counts_of(copier).files_to_remove == 1)
        assert (folder / "sub/a.bin").exists(), "the job has not ended"
        destination.finalize([spec])
        destination.close()
        copier.hurry()
        await until("the removal", lambda: not copier.unfinished)
        assert counts_of(copier).files_removed == 1
    assert not (folder / "sub").exists() and files_of(nas) == {"acme/tiny/sub/a.bin": b"content"}
    seen = verify_folder(folder, on_problem=lambda problem: pytest.fail(problem.text))
    assert (seen.moved, seen.ok) == (1, True)

    again, _ = a_destination(folder, job_id="j2")
    again.prepare()
    present = again.find_present(spec)
    assert present is not None and present.skipped and present.digest == spec.digest
    again.finalize([spec])
    again.close()
    assert verify_folder(folder, on_problem=lambda problem: pytest.fail(problem.text)).moved == 1
    for fields in ({"force": True}, {"delivery": Delivery.REPLICATE}, {"unpack": "auto"}):
        other, _ = a_destination(folder, job_id="j3", **fields)
        other.prepare()
        assert other.find_present(spec) is None, fields
        other.close()
    newer, _ = a_destination(folder, job_id="j4")
    newer.prepare()
    assert newer.find_present(an_object("sub/a.bin", b"newer")) is None
    newer.close()


@pytest.mark.parametrize("wrong", ["digest", "gone", "changed here"])
async def test_a_local_file_stays_unless_the_nas_has_it(folder: Path, nas: Path, tmp_path: Path, wrong: str) -> None:
    spec = an_object("a.bin")
    target = nas / "acme/tiny/a.bin"
    async with a_copier(tmp_path, nas, delete_after_copy=True) as copier:
        if wrong == "digest":  # a record says that it is right, and it is not
            assert a_place(nas).bring(an_item(folder, nas, "a.bin"), a_mover()).moved
            status = target.stat()
            target.write_bytes(b"CONTENT")
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        destination, _ = a_destination(folder, copier)
        destination.prepare()
        destination.publish_bytes(spec, (b"content",), digest=spec.digest, etag="")
        await until("the copy", lambda: not counts_of(copier).files_waiting)
        assert target.read_bytes() == b"content"
        if wrong == "gone":
            target.unlink()
        if wrong == "changed here":
            (folder / "a.bin").write_bytes(b"changed")
        destination.finalize([spec])
        destination.close()
        copier.hurry()
        await until("the end", lambda: not copier.unfinished)
    assert target.read_bytes() == b"content", "copied once more"
    assert (folder / "a.bin").exists() == (wrong == "changed here")


async def test_what_cannot_be_spared_is_not_removed(folder: Path, nas: Path, tmp_path: Path) -> None:
    async with a_copier(tmp_path, nas, delete_after_copy=True) as copier:
        for number, fields in enumerate(({"unpack": "auto"}, {"delivery": Delivery.REPLICATE})):
            destination, _ = a_destination(folder, copier, job_id=f"j{number}", **fields)
            destination.prepare()
            spec = an_object(f"{number}.bin")
            destination.publish_bytes(spec, (b"content",), digest=spec.digest, etag="")
            destination.finalize([spec])
            destination.close()
        await until("the copies", lambda: not copier.unfinished)
    assert (folder / "0.bin").exists() and (folder / "1.bin").exists() and len(files_of(nas)) == 2


async def test_a_queue_that_cannot_be_written_fails_no_download(folder: Path, nas: Path, tmp_path: Path) -> None:
    async with a_copier(tmp_path, nas) as copier:
        destination, _ = a_destination(folder, copier)
        destination.prepare()
        (folder / ".shoal/nas").write_text("a file lies where the folder should be")
        spec = an_object("a.bin")
        assert destination.publish_bytes(spec, (b"content",), digest=spec.digest, etag="").size == 7
        destination.close()
        assert counts_of(copier).files_waiting == 0
    assert (folder / "a.bin").read_bytes() == b"content"


def test_claims_that_were_taken_over_end_the_copy(folder: Path, nas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "TOUCH_S", 0.0)

    def steal(count: int) -> None:
        for lock in (nas / PARTIAL).glob("*.lock"):
            lock.write_text("somebody else\n")

    with pytest.raises(Held):
        a_place(nas).bring(an_item(folder, nas, content=BIG), a_mover(steal))
    assert files_of(nas) == {}


def test_nas_trouble_is_told_apart(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NasDown, match="not there"):
        bring(tmp_path / "missing", an_item(folder, tmp_path / "missing"))


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, 0])
def test_any_call_of_a_removal_may_fail(folder: Path, nas: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local file is there, or the manifest says where its copy is; the next pass ends what this one began."""
    for at in itertools.count(1):
        item = an_item(folder, nas, "sub/a.bin")
        brought = bring(nas, item)
        item = replace(item, target=brought.target, target_mtime_ns=brought.mtime_ns)
        place = a_place(nas)

        def check(each: CopyItem, place: NasPlace = place) -> bool:
            return place.check(each.target, each.size, each.target_mtime_ns)

        with monkeypatch.context() as patch:
            saboteur = Saboteur(patch, at, lambda: OSError(number, os.strerror(number)) if number else Killed())
            try:
                remove_local([item], check, sleep=time.sleep)
            except (CopyTrouble, Killed):
                pass
        if not saboteur.hit:
            break
        if not (folder / item.path).exists():
            assert verify_folder(folder, on_problem=lambda problem: pytest.fail(problem.text)).moved == 1
        for lock in folder.glob(".shoal/*.lock"):
            lock.unlink()  # this process lives on, so its lock would be waited for
        outcome = remove_local([item], check, sleep=time.sleep)
        assert len(outcome.removed) + len(outcome.kept) == 1 and not (folder / item.path).exists(), f"call {at}"
        assert verify_folder(folder, on_problem=lambda problem: pytest.fail(problem.text)).moved == 1
    assert at > 20
