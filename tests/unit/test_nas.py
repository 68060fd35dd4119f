"""Copies on a NAS: what they are called, what is copied when, and the queue that survives a kill."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.agent.nas import queue_file
from shoal.agent.nas.book import HELD_S, JOBS_MAX, CopyBook, CopyItem
from shoal.agent.nas.mounts import Mounts
from shoal.agent.nas.names import identity, second_name, source_label, target_path
from shoal.agent.nas.options import NasOptions
from shoal.agent.nas.priority import NICE, lower_priority
from shoal.agent.nas.queue_file import COMPACT_BYTES, QueueFile, new_queue, take_over
from shoal.agent.nas.trouble import FileTrouble, NasDown, trouble_of
from shoal.common.errors import Refused, UnsafeName
from shoal.common.mounts import mount_of
from shoal.common.nas_records import NasCounts, NasJob, NasReport, together
from shoal.common.paths import COMPONENT_BYTES_MAX, safe_relative_path
from shoal.common.records import Heartbeat, JobSpec, Layout, OriginKind
from shoal.common.retry import Backoff
from shoal.coordinator.reading import Reader
from support.core_fleet import Fleet

# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "path", "preserved", "flat"),
    [
        ("hf://acme/tiny", "sub/a.bin", "acme/tiny/sub/a.bin", "acme_tiny_sub_a.bin"),
        ("hf://acme/tiny@v1", "a.bin", "acme/tiny/a.bin", "acme_tiny_a.bin"),
        ("hf://datasets/acme/d", "x/y.parquet", "datasets/acme/d/x/y.parquet", "datasets_acme_d_x_y.parquet"),
        ("s3://bucket/some/prefix/", "k", "bucket/some/prefix/k", "bucket_some_prefix_k"),
        ("s3://bucket/some/key", "key", "bucket/some/key", "bucket_some_key"),
        ("https://example.org/dir/f.iso", "f.iso", "example.org/dir/f.iso", "example.org_dir_f.iso"),
        ("http://example.org:8080/f.iso", "f.iso", "example.org+8080/f.iso", "example.org+8080_f.iso"),
        ("file:///data/set", "f", "data/set/f", "data_set_f"),
    ],
)
def test_what_a_file_is_called(source: str, path: str, preserved: str, flat: str) -> None:
    assert target_path(source, path, preserve=True) == preserved
    assert target_path(source, path, preserve=False) == flat


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\b", "a\0b", "aux", "a/", "", "a\u202eb", ".shoal/x"])
def test_a_hostile_name_has_no_place_on_the_nas(path: str) -> None:
    for preserve in (True, False):
        with pytest.raises(UnsafeName):
            target_path("hf://acme/tiny", path, preserve=preserve)


def test_hostile_sources_are_plain_folders() -> None:
    assert source_label("https://h/%2e%2e/%00/x") == source_label("https://h/%2e%2e/%00/x")
    for source in ("https://h/..%2f..%2fetc/passwd", "https://h/a%00b/x", "https://h/con/x", "https://h/a:b/x?token=1"):
        label = source_label(source)
        assert all("/" not in part and part not in ("", ".", "..") for part in label)
        assert ":" not in "".join(label)
    one, other = (target_path(f"https://h/x?id={number}", "x", preserve=True) for number in (1, 2))
    assert one != other


def test_revisions_share_a_name_and_sources_do_not() -> None:
    assert identity("hf://acme/tiny@v1", "a") == identity("hf://acme/tiny", "a")
    assert identity("hf://datasets/acme/tiny", "a") != identity("hf://acme/tiny", "a")


def test_flat_names_that_clash_get_a_second_name() -> None:
    one, other = ("hf://a/b", "c_d/e.bin"), ("hf://a/b", "c/d_e.bin")
    flat = target_path(*one, preserve=False)
    assert flat == target_path(*other, preserve=False) == "a_b_c_d_e.bin"
    second = second_name(flat, *other)
    assert second.startswith("a_b_c_d_e~") and second.endswith(".bin")
    assert second != second_name(flat, *one)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp")), min_size=1, max_size=400)
)
def test_every_flat_name_fits_a_file_system(text: str) -> None:
    path = "/".join(part.strip(". ") or "x" for part in text.replace("\\", "_").split("/"))
    try:
        safe_relative_path(path)
    except UnsafeName:
        return
    for name in (target_path("hf://acme/tiny", path, preserve=False), second_name("x" * 255, "hf://acme/tiny", path)):
        assert "/" not in name and len(name.encode()) <= COMPONENT_BYTES_MAX
        assert safe_relative_path(name) == name


# ---- the book -------------------------------------------------------------------------------------------------------


def item(seq: int, **fields: Any) -> CopyItem:
    known: dict[str, Any] = {
        "queue": "q",
        "seq": seq,
        "job_id": "j",
        "job_key": "k",
        "nas": "/nas",
        "folder": "/d",
        "base": "",
        "path": f"f{seq}",
        "source": "hf://a/b",
        "name": f"f{seq}",
        "size": 10,
        "digest": "sha256:0",
        "mtime_ns": 1,
    }
    return CopyItem(**{**known, **fields})


def book(*items: CopyItem, window: int = 1000) -> CopyBook:
    made = CopyBook(backoff=Backoff(initial_s=2.0, max_s=60.0), rng=random.Random(1), window=window)
    for each in items:
        made.expect(each.job_id, each.size)
    made.load(items, 0.0)
    made.check_invariants()
    return made


def counts_of(made: CopyBook) -> NasCounts:
    return made.report().total


def test_copies_in_order_and_counts() -> None:
    made = book(item(1), item(2), item(3))
    assert counts_of(made) == NasCounts(files_waiting=3, bytes_waiting=30)
    first, second = made.next(0.0), made.next(0.0)
    assert first is not None and second is not None and (first.seq, second.seq) == (1, 2)
    made.copied(first, moved=True)
    made.copied(second, moved=False, remove=True)
    assert counts_of(made) == NasCounts(
        files_copied=1, bytes_copied=10, files_there=1, files_to_remove=1, files_waiting=1, bytes_waiting=10
    )
    made.removed("j", count=1)
    third = made.next(0.0)
    assert third is not None and made.next(0.0) is None
    made.refused(third, "it is gone")
    total = counts_of(made)
    assert (total.files_refused, total.files_removed, total.unfinished, total.reason) == (1, 1, False, "it is gone")
    made.check_invariants()


def test_a_nas_that_is_away_costs_one_try_at_a_time() -> None:
    made = book(*(item(number) for number in range(10)))
    first, second = made.next(0.0), made.next(0.0)
    assert first and second
    made.failed_for_all(first, "not there", 1.0)
    made.failed_for_all(second, "not there", 1.0)  # together with the first: the wait is not doubled
    assert made.next(1.0) is None
    wakeup = made.wakeup(1.0)
    assert wakeup is not None and 1.0 < wakeup <= 3.0
    now = wakeup
    tries = 0
    while now < 3600.0:
        probe = made.next(now)
        assert probe is not None and made.next(now) is None, "one file alone asks"
        made.failed_for_all(probe, "not there", now)
        made.check_invariants()
        tries += 1
        wakeup = made.wakeup(now)
        assert wakeup is not None
        now = wakeup
    assert 60 <= tries <= 150, "backoff grows to its ceiling, and tries never end"
    report = made.report()
    assert (report.total.reason, report.jobs[0].counts.files_waiting) == ("not there", 10)
    assert report.total.files_failing >= 1
    probe = made.next(now)
    assert probe
    made.copied(probe, moved=True)
    assert made.next(now) is not None and made.next(now) is not None, "it is back: all go on at once"


def test_a_file_that_fails_alone_keeps_nobody_else_waiting() -> None:
    made = book(item(1), item(2))
    first = made.next(0.0)
    assert first
    assert made.failed_alone(first, "no space", 0.0) == 1
    second = made.next(0.0)
    assert second is not None and second.seq == 2
    made.copied(second, moved=True)
    assert made.next(0.9) is None, "half of the ceiling at least"
    assert counts_of(made).files_failing == 1 and counts_of(made).reason == "no space"
    again = made.next(2.0)
    assert again is not None and again.seq == 1
    made.copied(again, moved=True)
    assert counts_of(made).files_failing == 0 and counts_of(made).reason == ""


def test_another_nas_is_not_held_up() -> None:
    made = book(item(1), item(2, nas="/other"))
    first = made.next(0.0)
    assert first and first.nas == "/nas"
    made.failed_for_all(first, "away", 0.0)
    second = made.next(0.0)
    assert second is not None and second.nas == "/other"


def test_what_somebody_else_copies_is_looked_at_again() -> None:
    made = book(item(1, shared=True))
    assert made.next(0.0) is None, "those that several agents have begin at different moments"
    first = made.next(HELD_S)
    assert first
    made.held(first, HELD_S)
    assert made.next(HELD_S) is None and made.next(2 * HELD_S) is not None


def test_hurry_tries_all_at_once() -> None:
    made = book(item(1), item(2))
    first = made.next(0.0)
    assert first
    made.failed_alone(first, "x", 0.0)
    second = made.next(0.0)
    assert second
    made.failed_for_all(second, "y", 0.0)
    assert made.next(0.0) is None
    made.hurry(0.0)
    assert made.next(0.0) is not None and made.next(0.0) is not None
    assert made.next(1000.0) is None
    made.check_invariants()


def test_memory_is_bounded_by_the_window() -> None:
    made = book(*(item(number) for number in range(5)), window=5)
    assert made.room == 0
    first = made.next(0.0)
    assert first
    made.failed_alone(first, "x", 0.0)
    made.give_way(first)
    assert made.room == 1
    made.load([item(9, failures=3)], 0.0)
    assert [copying.seq for copying in iter(lambda: made.next(0.0), None)] == [1, 2, 3, 4], "what failed waits its turn"
    assert made.next(8.0) is not None
    made.check_invariants()


def test_finished_jobs_are_forgotten_and_still_counted() -> None:
    made = book()
    for number in range(100):
        each = item(number, job_id=f"job{number}")
        made.expect(each.job_id, each.size)
        made.load([each], 0.0)
        assert made.next(0.0) == each
        made.copied(each, moved=True)
    assert len(made.report().jobs) <= JOBS_MAX + 1
    assert counts_of(made).files_copied == 100


def test_counts_of_many() -> None:
    assert together([]) is None and together([None]) is None
    both = together([NasCounts(files_copied=1, reason=""), None, NasCounts(files_copied=2, reason="full")])
    assert both == NasCounts(files_copied=3, reason="full")


# ---- the queue file -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "queue"


def open_queue(folder: Path) -> QueueFile:
    folder.mkdir(exist_ok=True)
    return take_over(folder) or new_queue(folder)


def killed(queue: QueueFile) -> None:
    """As ``kill -9`` leaves it: the lock goes, nothing is written."""
    fd, queue._fd = queue._fd, -1  # pyright: ignore[reportPrivateUsage]
    os.close(fd)


def drained(queue: QueueFile, limit: int = 2) -> Iterator[CopyItem]:
    while found := queue.read(limit):
        yield from found


def test_the_queue_survives_a_kill(folder: Path) -> None:
    queue = open_queue(folder)
    put = [queue.put(item(number, path=f"päth {number}")) for number in range(5)]
    assert [each.path for each in drained(queue)] == [each.path for each in put]
    queue.done(put[1], "copied")
    queue.done(put[3], "refused")
    queue.removed("j", 7)
    killed(queue)
    again = open_queue(folder)
    assert again.pending == 3
    assert [each.path for each in drained(again)] == [put[at].path for at in (0, 2, 4)]
    assert again.counts["j"] == NasCounts(
        files_waiting=3, bytes_waiting=30, files_copied=1, bytes_copied=10, files_refused=1, files_removed=7
    )
    assert again.inherited(put[0]) and not again.inherited(put[1]) and not again.inherited(item(9))
    again.close(keep=True)


def test_a_torn_or_foreign_line_is_skipped(folder: Path) -> None:
    queue = open_queue(folder)
    queue.put(item(1))
    queue.put(item(2))
    path = queue.path
    killed(queue)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut] + b"\nnonsense\n00000000 {}\n")
        again = open_queue(folder)
        found = list(drained(again))
        assert [each.name for each in found] == ["f1", "f2"][: len(found)]
        assert again.pending == len(found)
        again.put(item(3))
        assert [each.name for each in drained(again)] == ["f3"]
        killed(again)
    path.write_bytes(whole.replace(b"/nas", b"/nax"))  # the checksum does not fit
    assert open_queue(folder).pending == 0


def test_wrong_types_in_a_sound_line_are_no_files(folder: Path) -> None:
    queue = open_queue(folder)
    good = queue.put(item(1))
    for wrong in ({"size": "10"}, {"size": -1}, {"path": 7}, {"remove": "yes"}, {"name": None}):
        values = {**json.loads(json.dumps({name: getattr(good, name) for name in CopyItem.__slots__})), **wrong}
        del values["queue"], values["seq"]
        queue._append({"put": values})  # pyright: ignore[reportPrivateUsage]
    queue._append({"put": {"size": 1}})  # pyright: ignore[reportPrivateUsage]
    queue._append({"done": "x"})  # pyright: ignore[reportPrivateUsage]
    assert [each.name for each in drained(queue)] == ["f1"]
    killed(queue)
    assert open_queue(folder).pending == 1


def test_two_processes_have_queues_of_their_own_and_what_is_left_is_taken_over(folder: Path) -> None:
    first, second = open_queue(folder), open_queue(folder)
    assert first.path != second.path
    first.put(item(1))
    second.put(item(2))
    killed(first)
    killed(second)
    third = open_queue(folder)
    assert sorted(each.name for each in drained(third)) == ["f1", "f2"]
    assert len(list(folder.iterdir())) == 1
    for each in (first, second):
        each.close()
    third.close()


def test_where_locks_may_do_nothing_the_queue_of_a_living_process_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_file, "filesystem_type", lambda path: "nfs4")
    queue = open_queue(folder)
    queue.put(item(1))
    name = queue.path.name
    killed(queue)  # its lock is gone, but its process (this one) lives
    assert take_over(folder) is None
    machine, _, rest = name.partition("-")
    gone = folder / f"{machine}-999999999-x.queue"
    (folder / name).rename(gone)
    taken = take_over(folder)
    assert taken is not None and taken.pending == 1
    killed(taken)
    elsewhere = gone.rename(folder / f"0123abcd.89abcdef-{rest}")
    assert take_over(folder) is None, "another machine's"
    os.utime(elsewhere, (0, 0))
    taken = take_over(folder)
    assert taken is not None and taken.pending == 1, "which has been silent for long"
    killed(taken)
    os.utime(elsewhere)
    alone = take_over(folder, alone=True)
    assert alone is not None
    killed(alone)


def test_an_empty_queue_leaves_nothing_and_a_kept_one_its_counts(folder: Path) -> None:
    queue = open_queue(folder)
    queue.done(queue.put(item(1)), "copied")
    queue.close()
    assert list(folder.iterdir()) == []
    queue = open_queue(folder)
    queue.done(queue.put(item(1)), "there")
    queue.close(keep=True)
    assert open_queue(folder).counts["j"].files_there == 1


def test_a_queue_that_has_nothing_to_do_is_written_anew(folder: Path) -> None:
    queue = open_queue(folder)
    long = "x" * 1000
    for number in range(COMPACT_BYTES // 1000):
        put = queue.put(item(number, name=long))
        assert len(list(drained(queue))) == 1
        queue.done(put, "copied")
    assert queue.size > COMPACT_BYTES
    copies = queue.counts["j"].files_copied
    queue.compact()
    assert queue.size < 1000
    put = queue.put(item(1))
    assert list(drained(queue)) == [put]
    killed(queue)
    again = open_queue(folder)
    assert again.counts["j"] == NasCounts(
        files_copied=copies, bytes_copied=10 * copies, files_waiting=1, bytes_waiting=10
    )
    again.close(keep=True)


def test_a_full_disk_loses_no_line_that_was_put(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = open_queue(folder)
    queue.put(item(1))
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2], at))
    with pytest.raises(OSError, match="No space"):
        queue.put(item(2))
    monkeypatch.undo()
    queue.put(item(3))
    assert [each.name for each in drained(queue)] == ["f1", "f3"]
    queue.close(keep=True)


# ---- where the NAS is -----------------------------------------------------------------------------------------------

MOUNTS = ["1 0 8:1 / / rw - ext4 /dev/sda rw", "2 1 0:5 / /mnt/nas rw - nfs4 server:/x rw"]


def test_mount_points() -> None:
    assert mount_of(Path("/mnt/nas/models"), MOUNTS) == ("/mnt/nas", "nfs4")
    assert mount_of(Path("/mnt/nasty"), MOUNTS) == ("/", "ext4")


def test_a_folder_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    mounts = Mounts(tmp_path / "state/mounts.json", require=False)
    with pytest.raises(NasDown, match="not there"):
        mounts.check(tmp_path / "nas")
    (tmp_path / "nas").write_text("")
    with pytest.raises(NasDown, match="not a folder"):
        mounts.check(tmp_path / "nas")


def test_a_nas_on_the_root_file_system_is_refused_where_a_mount_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = "/"
    monkeypatch.setattr("shoal.agent.nas.mounts.mount_of", lambda path: (point, "ext4"))
    with pytest.raises(NasDown, match="root file system"):
        Mounts(tmp_path / "m.json", require=True).check(tmp_path)
    Mounts(tmp_path / "m.json", require=False).check(tmp_path)


def test_a_mount_that_was_seen_must_be_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {str(tmp_path): str(tmp_path)}
    monkeypatch.setattr("shoal.agent.nas.mounts.mount_of", lambda path: (points.get(str(path), "/"), ""))
    file = tmp_path / "state" / "m.json"
    Mounts(file, require=False).check(tmp_path)
    points.clear()
    with pytest.raises(NasDown, match="was mounted when it was used before"):
        Mounts(file, require=False).check(tmp_path)
    file.write_text("{not json")
    Mounts(file, require=False).check(tmp_path)


def test_errors_are_of_the_nas_or_of_a_file() -> None:
    import errno

    for number in (errno.EROFS, errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN):
        assert isinstance(trouble_of(OSError(number, os.strerror(number)), "x"), NasDown)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENAMETOOLONG, errno.EISDIR):
        assert isinstance(trouble_of(OSError(number, os.strerror(number)), "x"), FileTrouble)


# ---- what is copied -------------------------------------------------------------------------------------------------


def job(**fields: Any) -> JobSpec:
    known = {
        "job_id": "j",
        "source": "hf://a/b",
        "origin": OriginKind.HUB,
        "layout": Layout.FOLDER,
        "destination": "/d",
    }
    return JobSpec(**{**known, **fields})  # pyright: ignore[reportArgumentType]


def test_where_a_job_is_copied_to(tmp_path: Path) -> None:
    options = NasOptions(path=Path("/mnt/nas"), state=tmp_path, allow_paths=(tmp_path,))
    assert options.folder_for(job()) == Path("/mnt/nas"), "what the agent is configured for needs no leave"
    assert options.folder_for(job(nas="off")) is None
    assert options.folder_for(job(nas=str(tmp_path / "x"))) == tmp_path / "x"
    with pytest.raises(Refused, match="allow_paths"):
        options.folder_for(job(nas="/etc"))
    assert NasOptions(path=None, state=tmp_path).buffer_bytes * 2 <= 16 << 20
    small = NasOptions(path=None, state=tmp_path, copies=64, memory_limit=1 << 20)
    assert small.buffer_bytes * small.threads <= 1 << 20
    assert NasOptions(path=None, state=tmp_path).folder_for(job()) is None
    assert NasOptions(path=Path("/n"), state=tmp_path, enabled=False).folder_for(job(nas="/n")) is None


def test_what_cannot_be_queued_is_counted() -> None:
    made = book()
    made.not_queued("j", "refused by policy")
    assert counts_of(made) == NasCounts(files_refused=1, reason="refused by policy")


def test_the_threads_of_copies_come_after_others() -> None:
    seen: list[int] = []

    def look() -> None:
        lower_priority()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen[0] == max(before, NICE) and os.getpriority(os.PRIO_PROCESS, 0) == before


# ---- what the coordinator makes of it -------------------------------------------------------------------------------


def test_the_coordinator_shows_the_copies_of_all_agents() -> None:
    fleet = Fleet()
    fleet.job(10, 20)
    for agent in ("a0", "a1"):
        fleet.hello(agent)
    fleet.row.request = '{"destination": "/d", "revision": ""}'
    reader = Reader(fleet.core, (), version="1", started_at=0.0)
    assert reader.job("j", 0.0, active=True).nas is None and reader.fleet(0.0, 0.0, 0.0).nas is None
    one, other = NasCounts(files_copied=1, bytes_copied=10), NasCounts(files_waiting=1, bytes_waiting=20, reason="full")
    past = NasCounts(files_copied=5)
    fleet.say("a0", Heartbeat(seq=1, nas=NasReport(total=one + past, jobs=(NasJob(job_id="j", counts=one),))))
    jobs = (NasJob(job_id="j", counts=other), NasJob(job_id="gone", counts=past))
    fleet.say("a1", Heartbeat(seq=1, nas=NasReport(total=other + past, jobs=jobs)))
    assert reader.job("j", 0.0, active=False).nas == one + other
    assert reader.fleet(0.0, 0.0, 0.0).nas == one + past + other + past
    assert [view.nas for view in reader.agents(0.0)] == [one + past, other + past]
    fleet.say("a1", Heartbeat(seq=2, nas=NasReport(total=one, jobs=(NasJob(job_id="j", counts=one),))))
    assert reader.job("j", 0.0, active=False).nas == one + one, "the newest word counts"
