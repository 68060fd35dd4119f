"""Putting in place what was unpacked: conflicts, replacing, skipping, and every call failing or being the last one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.agent.unpack import record, staging
from shoal.agent.unpack.formats import ArchiveFormat
from shoal.agent.unpack.placing import place_lock
from shoal.agent.unpack.staging import remove_stale
from shoal.agent.unpack.unpacking import find_unpacked, recover_all
from shoal.common.errors import Busy, Conflict, Interrupted, NotWritable, ShoalError, UnsafeArchive, UnsafeName
from shoal.common.paths import SafeRoot
from support.archives import Place, folder, hard_link, member, symlink, tar, walk

OLD = tar(member("top", b"old"), member("d/x", b"old x"), member("gone", b"g"), symlink("l", "top"))
NEW = tar(member("top", b"new"), member("d/y", b"new y"), folder("e"), symlink("l", "d/y"), hard_link("h", "top"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def state(place: Place) -> dict[str, str]:
    """What can be seen of the destination, the work folder apart."""
    found: dict[str, str] = {}
    for name in walk(place.folder):
        path = place.folder / name
        if name.split("/")[0] == ".shoal":
            continue
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


def leftovers(place: Place) -> list[str]:
    return [
        name for name in walk(place.folder / ".shoal") if not name.endswith((".json", ".list")) and name != "unpacked"
    ]


def seen(place: Place, into: str, stamp: str) -> object:
    with SafeRoot(place.folder) as root:
        return find_unpacked(root, name="a.tar", into=into, format=ArchiveFormat.TAR, stamp=stamp)


@pytest.mark.parametrize("into", ["", "deep/er"])
def test_skipped_when_unpacked_from_the_same_bytes(place: Place, into: str) -> None:
    first = place.unpack(OLD, into=into, stamp="s1")
    before = state(place)
    inode = (place.folder / into / "top").stat().st_ino
    again = place.unpack(OLD, into=into, stamp="s1")
    assert (first.skipped, again.skipped) == (False, True)
    assert (again.files, again.bytes, again.folder) == (first.files, first.bytes, first.folder) == (4, 9, into)
    assert (place.folder / into / "top").stat().st_ino == inode
    assert state(place) == before
    assert leftovers(place) == []


def spoil_record(place: Place) -> None:
    path = next((place.folder / ".shoal/unpacked").glob("*.json"))
    path.write_text(path.read_text().replace('"files": 4', '"files": 5'))


def spoil_list(place: Place) -> None:
    path = next((place.folder / ".shoal/unpacked").glob("*.list"))
    path.write_bytes(path.read_bytes()[:-30])


def replace_list(place: Place) -> None:
    path = next((place.folder / ".shoal/unpacked").glob("*.list"))
    path.write_text(json.dumps(["end", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]) + "\n")


CHANGES: dict[str, Callable[[Place], object]] = {
    "touched": lambda place: os.utime(place.folder / "top", ns=(1, 1)),
    "grown": lambda place: (place.folder / "top").write_text("longer"),
    "gone": lambda place: (place.folder / "gone").unlink(),
    "other link": lambda place: ((place.folder / "l").unlink(), (place.folder / "l").symlink_to("gone")),
    "no link": lambda place: ((place.folder / "l").unlink(), (place.folder / "l").write_text("x")),
    "a file for a folder": lambda place: (
        (place.folder / "d").rename(place.folder / "f"),
        (place.folder / "d").write_text("x"),
    ),
    "record": spoil_record,
    "list": spoil_list,
    "no record": lambda place: next((place.folder / ".shoal/unpacked").glob("*.json")).unlink(),
    "no list": lambda place: next((place.folder / ".shoal/unpacked").glob("*.list")).unlink(),
    "another list": replace_list,
}


@pytest.mark.parametrize("change", CHANGES)
def test_unpacked_again_when_something_is_not_as_it_was(place: Place, change: str) -> None:
    place.unpack(OLD, into="", stamp="s1")
    before = state(place)
    CHANGES[change](place)
    assert seen(place, "", "s1") is None
    if change == "another list":  # says that nothing was made: then nothing is ours
        with pytest.raises(Conflict):
            place.unpack(OLD, into="", stamp="s1")
        return
    assert place.unpack(OLD, into="", stamp="s1").skipped is False
    if change == "a file for a folder":
        before |= {"f": "/", "f/x": "old x"}
    assert state(place) == before
    assert leftovers(place) == []


@pytest.mark.parametrize("into", ["", "out"])
def test_a_changed_archive_takes_the_place_of_its_former_self(place: Place, into: str) -> None:
    place.unpack(OLD, into=into, stamp="s1")
    (place.folder / into / "mine").write_text("mine")
    assert seen(place, into, "s2") is None
    assert place.unpack(NEW, into=into, stamp="s2").skipped is False
    prefix = f"{into}/" if into else ""
    wanted = {"top": "new", "d": "/", "d/y": "new y", "e": "/", "l": "-> d/y", "h": "new", "mine": "mine"}
    assert state(place) == {f"{prefix}{name}": what for name, what in wanted.items()} | ({into: "/"} if into else {})
    assert seen(place, into, "s2") is not None
    assert leftovers(place) == []


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_what_was_there_before_is_a_conflict_and_stays(place: Place, there: str) -> None:
    path = place.folder / "d"
    if there == "file":
        path.write_text("mine")
    elif there == "folder":
        path.mkdir()
    else:
        path.symlink_to("/nowhere")
    before = state(place)
    with pytest.raises(Conflict, match="not from unpacking"):
        place.unpack(OLD, into="")
    assert state(place) == before
    assert not (place.folder / ".shoal").exists()


def test_two_archives_in_one_folder(place: Place) -> None:
    place.unpack(OLD, into="", stamp="s1")
    before = state(place)
    with pytest.raises(Conflict):
        place.unpack(NEW, name="b.tar", into="", stamp="s2")
    assert state(place) == before
    place.unpack(tar(member("other", b"o")), name="b.tar", into="", stamp="s2")
    assert state(place) == before | {"other": "o"}


def test_a_file_or_a_planted_link_where_the_folder_should_be(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (place.folder / "file").write_text("mine")
    (place.folder / "link").symlink_to(outside)
    for into, error in (("file", Conflict), ("file/x", Conflict), ("link", UnsafeName), ("link/x", UnsafeName)):
        with pytest.raises(error):
            place.unpack(OLD, into=into)
    assert list(outside.iterdir()) == []
    assert state(place) == {"file": "mine", "link": f"-> {outside}"}
    (place.folder / ".shoal").symlink_to(outside)
    with pytest.raises(UnsafeName):
        place.unpack(OLD, into="out")
    assert list(outside.iterdir()) == []


def test_a_link_through_a_link_that_was_planted(place: Place) -> None:
    (place.folder / "evil").symlink_to("/etc")
    (place.folder / "real").mkdir()
    (place.folder / "real/evil").symlink_to("/etc")
    for target in ("evil/passwd", "evil", "real/evil/passwd", "d/../real/evil"):
        with pytest.raises(UnsafeArchive, match="there before"):
            place.unpack(tar(folder("d"), symlink("l", target)), into="")
    place.unpack(tar(folder("d"), symlink("l", "real/nothing")), into="")
    assert os.readlink(place.folder / "l") == "real/nothing"


def test_names_that_the_file_system_takes_for_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where case is ignored the second of two files finds the first; here the file system is made to."""

    class Ignoring(SafeRoot):
        def open_beneath(self, path: str, flags: int, mode: int = 0o666) -> int:
            at = path.find("/tree/")
            return super().open_beneath(path if at < 0 else path[:at] + path[at:].lower(), flags, mode)

    both = tar(member("a/README", b"1"), member("a/readme", b"2"))
    with pytest.raises(UnsafeArchive, match="same name"):
        place.unpack(both, root_class=Ignoring)
    assert walk(place.folder) == []
    place.unpack(both)
    assert len(state(place)) == 4  # both are there where case matters


class Killed(BaseException):
    """kill -9: nothing runs afterwards."""


class Faults:
    """Fails the n-th call to the file system: once with EIO, or for good."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at = -1
        self.is_kill = False
        self.is_dead = False
        for name in ("write", "fsync", "utime", "link", "mkdir"):
            really: Callable[..., Any] = getattr(os, name)
            monkeypatch.setattr(os, name, self._wrapped(really))
        for name in (
            *("open_beneath", "makedirs_beneath", "replace_beneath", "stat_beneath", "unlink_beneath", "rmdir_beneath"),
            *("symlink_beneath", "readlink_beneath", "listdir_beneath", "sync_folder_beneath"),
        ):
            monkeypatch.setattr(SafeRoot, name, self._wrapped(getattr(SafeRoot, name)))

    def _wrapped(self, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.count += 1
            if self.is_dead or self.count == self.at:
                if self.is_kill:
                    self.is_dead = True
                    raise Killed
                raise OSError(errno.EIO, "injected")
            return really(*args, **more)

        return call

    def fail_at(self, at: int, *, is_kill: bool) -> None:
        self.count, self.at, self.is_kill, self.is_dead = 0, at, is_kill, False

    def stop(self) -> None:
        self.at, self.is_dead = -1, False


@pytest.mark.parametrize("is_kill", [False, True], ids=["fails", "is the last"])
@pytest.mark.parametrize("scene", ["a new folder", "a folder with other files", "a former version"])
def test_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: str, is_kill: bool) -> None:
    """Whatever call fails: what is seen is the old or the new, and the next run ends with the new and nothing left."""
    monkeypatch.setattr(record, "TOPS_MAX", 2)
    faults = Faults(monkeypatch)
    into = "deep/out" if scene == "a new folder" else ""
    wanted: dict[str, str] | None = None
    outcomes: set[str] = set()
    for at in range(500):
        (tmp_path / str(at)).mkdir()
        place = Place(tmp_path / str(at))
        faults.stop()
        if scene != "a new folder":
            (place.folder / "mine").write_text("mine")
        if scene == "a former version":
            place.unpack(OLD, into=into, stamp="s1")
        before = state(place)
        faults.fail_at(at, is_kill=is_kill)
        try:
            place.unpack(NEW, into=into, stamp="s2", sync=True)
        except (ShoalError, Killed):
            outcome = "failed"
        else:
            outcome = "done"
        calls = faults.count
        faults.stop()
        after = state(place)
        wanted = wanted or after  # of the first round, where nothing fails
        outcomes.add(outcome)
        if not is_kill:
            assert after == (before if outcome == "failed" else wanted), f"call {at}: {outcome}"
        else:
            whole = {**before, **wanted}
            assert all(what in (before.get(name), whole.get(name)) for name, what in after.items()), f"call {at}"
        done = place.unpack(NEW, into=into, stamp="s2")
        assert state(place) == wanted, f"call {at}"
        assert done.files == 4
        assert leftovers(place) == [], f"call {at}"
        if at > calls:
            break
    else:
        pytest.fail("it never ended")
    assert outcomes == {"failed", "done"}
    assert at > 60


def test_a_conflict_that_arises_while_it_was_dead_takes_everything_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.unpack(OLD, into="", stamp="s1")
    before = state(place)

    def dying(self: SafeRoot, source: str, destination: str, really: Any = SafeRoot.replace_beneath) -> None:
        if source.endswith("/tree/e"):
            raise Killed
        really(self, source, destination)

    with monkeypatch.context() as patched:
        patched.setattr(SafeRoot, "replace_beneath", dying)
        with pytest.raises(Killed):
            place.unpack(NEW, into="", stamp="s2")
    assert state(place)["top"] == "new"
    (place.folder / "e").write_text("mine")
    with SafeRoot(place.folder) as root:
        recover_all(root)
    assert state(place) == before | {"e": "mine"}
    assert leftovers(place) == []
    assert seen(place, "", "s1") is not None


def test_what_was_left_half_in_place_is_finished_by_whoever_comes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self: SafeRoot, source: str, destination: str, really: Any = SafeRoot.replace_beneath) -> None:
        if source.endswith("/tree/e"):
            raise Killed
        really(self, source, destination)

    with monkeypatch.context() as patched:
        patched.setattr(SafeRoot, "replace_beneath", dying)
        with pytest.raises(Killed):
            place.unpack(NEW, into="", stamp="s2")
    assert "e" not in state(place)
    with SafeRoot(place.folder) as root:
        assert remove_stale(root, ".shoal") == []  # the journal needs it
        recover_all(root)
        recover_all(root)
    assert state(place)["e"] == "/"
    assert seen(place, "", "s2") is not None
    assert leftovers(place) == []


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"staged": "../../x", "into": "", "whole": true}', "\0"])
def test_a_journal_that_is_not_ours_is_removed(place: Place, text: str) -> None:
    unpacked = place.folder / ".shoal/unpacked"
    unpacked.mkdir(parents=True)
    (unpacked / "0123456789abcdef.journal").write_text(text)
    with SafeRoot(place.folder) as root:
        fields = {"staged": "unpack-x/../..", "into": "..", "whole": True}
        record.write_sealed(root, ".shoal/unpacked/b.journal", fields, temporary=".shoal/tmp")
        recover_all(root)
    assert walk(place.folder) == []


def test_what_a_killed_run_staged_is_removed_by_the_next_and_by_cleaning(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: object) -> None:
        raise Killed

    def die() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(staging.Stage, "finish", dying)
            patched.setattr(staging.Stage, "discard", staging.Stage.release)
            with pytest.raises(Killed):
                place.unpack(NEW)

    die()
    assert len(leftovers(place)) > 5
    with SafeRoot(place.folder) as root:
        assert remove_stale(root, ".shoal", before=0.0) == []
        assert len(remove_stale(root, ".shoal", before=1e12)) == 1
    assert leftovers(place) == ["partial"]
    die()
    place.unpack(NEW)
    assert leftovers(place) == []


def test_one_that_is_at_work_is_left_alone(place: Place) -> None:
    with SafeRoot(place.folder) as root:
        from shoal.agent.unpack.members import Budget, Limits

        budget = Budget(Limits(), archive="a")
        stage = staging.Stage(root, ".shoal", key="0" * 16, archive="a", budget=budget, sync=False)
        assert remove_stale(root, ".shoal") == []
        stage.discard()
        stage.discard()
    assert leftovers(place) == ["partial"]


def test_the_lock_is_waited_for(place: Place) -> None:
    waits: list[float] = []
    (place.folder / ".shoal").mkdir()
    with SafeRoot(place.folder) as root, place_lock(root, ".shoal", cancelled=lambda: False):
        with (
            pytest.raises(Busy),
            place_lock(
                root,
                ".shoal",
                cancelled=lambda: False,
                monotonic=lambda: len(waits) * 100.0,
                sleep=waits.append,
            ),
        ):
            pass
        assert len(waits) == 3
        with pytest.raises(Interrupted), place_lock(root, ".shoal", cancelled=lambda: True):
            pass


def test_a_full_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.common.errors import NoSpace

    big = tar(member("big", bytes(20 << 20)))

    class Full:
        f_bavail = 10
        f_frsize = 4096

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstatvfs", lambda _: Full)
        with pytest.raises(NoSpace, match="40960 are free"):
            place.unpack(big)
    assert walk(place.folder) == []

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(NoSpace):
            place.unpack(OLD)
    assert walk(place.folder) == []


def test_other_trouble_with_the_disk_has_a_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(NotWritable, match="not permitted"):
        place.unpack(NEW)
    assert walk(place.folder) == []
