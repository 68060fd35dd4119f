"""What only the store on disk must stand: kills, full disks, damage, a second coordinator, and an error at any statement."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shoal.common.errors import Busy, NoSpace, NotWritable, ShoalError, StateDamaged, UsageError
from shoal.common.records import Failure, ObjectSpec, UnitKind
from shoal.coordinator.effects import DropLease, ObjectDone, ObjectFailed, PutJob, PutLease, RequeueFailed, Write
from shoal.coordinator.model import JobRow
from shoal.coordinator.store import statements
from shoal.coordinator.store.base import ObjectStatus
from shoal.coordinator.store.order import cursor_after
from shoal.coordinator.store.sqlite import SqliteStore
from shoal.coordinator.store.state_file import refuse_network

FAILURE = Failure(code="timeout", text="silent")


def job_row(job_id: str = "j1", objects_done: int = 0) -> JobRow:
    return JobRow(
        job_id=job_id,
        uri="u",
        name="n",
        fingerprint="f",
        request="{}",
        priority=0,
        created_at=1.0,
        objects_done=objects_done,
    )


def spec(path: str, size: int | None = 1) -> ObjectSpec:
    return ObjectSpec(object_id=0, path=path, size=size)


def lease(n: int) -> PutLease:
    return PutLease(
        unit=f"r{n}", token=n, agent_id="a", kind=UnitKind.RANGE, job_id="j1", object_id=1, start=0, stop=n + 1
    )


def opened(path: Path, **options: Any) -> SqliteStore:
    store = SqliteStore(path, **options)
    store.open()
    return store


# ---- who may open it, and where ---------------------------------------------------------------------------------------


def test_a_second_coordinator_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    first = opened(tmp_path / "state.db")
    with pytest.raises(Busy, match=f"process {os.getpid()} on .*--state"):
        SqliteStore(tmp_path / "state.db").open()
    first.apply([PutJob(job_row())])
    first.close()
    second = opened(tmp_path / "state.db")
    assert len(second.jobs()) == 1
    second.close()


def test_closing_twice_and_closing_what_was_never_open_is_harmless(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    store.close()
    store.open()
    store.close()
    store.close()
    with pytest.raises(ValueError, match="not open"):
        store.jobs()


def test_incarnations_grow_over_processes(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        store = SqliteStore(tmp_path / "state.db")
        seen.append(store.open())
        store.close()
    assert seen == [1, 2, 3]


def test_the_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = opened(tmp_path / "new" / "deep" / "state.db")
    store.apply([PutJob(job_row())])
    files = list((tmp_path / "new" / "deep").iterdir())
    assert {file.name for file in files} == {
        "state.db",
        "state.db-wal",
        "state.db.lock",
    }  # no shared memory: one connection
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert stat.S_IMODE((tmp_path / "new" / "deep").stat().st_mode) == 0o700
    store.close()


def test_a_state_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotWritable, match="state folder"):
        SqliteStore(tmp_path / "file" / "state.db").open()


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        *[(kind, True) for kind in ("nfs", "nfs4", "lustre", "cifs", "gpfs", "fuse.sshfs", "fuse", "9p")],
        *[(kind, False) for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuse.fuse-overlayfs", "fuseblk")],
    ],
)
def test_network_file_systems_are_refused(kind: str, refused: bool) -> None:
    mounts = [
        "1 0 0:1 / / rw - ext4 /dev/sda rw",
        "2 1 0:2 / /home rw shared:1 - xfs /dev/sdb rw",
        f"3 2 0:3 / /home/my\\040state rw shared:2 master:1 - {kind} server:/x rw",
        "not a mount",
    ]
    if refused:
        with pytest.raises(UsageError, match=rf"\({kind}\).*--state"):
            refuse_network(Path("/home/my state/shoal/state.db"), mounts)
    else:
        refuse_network(Path("/home/my state/shoal/state.db"), mounts)
    refuse_network(Path("/home/my state too/state.db"), mounts)


def test_the_last_of_several_mounts_on_one_point_counts() -> None:
    mounts = ["1 0 0:1 / / rw - nfs s:/ rw", "2 0 0:2 / / rw - ext4 /dev/sda rw"]
    refuse_network(Path("/var/state.db"), mounts)
    with pytest.raises(UsageError):
        refuse_network(Path("/var/state.db"), mounts[::-1])


# ---- what it finds there ----------------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    opened(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 999")
    raw.close()
    with pytest.raises(UsageError, match=r"newer Shoal.*999"):
        SqliteStore(path).open()
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT value FROM meta").fetchone() == (1,)
    raw.close()


def test_a_file_that_is_no_database_is_damaged_state(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"hello, I am no database " * 400)
    with pytest.raises(StateDamaged, match=r"move state\.db"):
        SqliteStore(path).open()
    path.unlink()
    opened(path).close()  # the lock was given back


def test_a_cut_database_is_damaged_state(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = opened(path)
    store.apply([PutJob(job_row())])
    store.add_objects("j1", [spec(f"some/longer/path/{i}") for i in range(3000)])
    store.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StateDamaged):
        SqliteStore(path).open()


def test_flipped_bytes_are_damaged_state_or_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = opened(path)
    store.apply([PutJob(job_row())])
    store.add_objects("j1", [spec(f"some/longer/path/{i}") for i in range(2000)])
    store.close()
    sound = path.read_bytes()
    rng = random.Random(1)
    damaged = 0
    for _ in range(40):
        page = rng.randrange(len(sound) // 4096) * 4096
        path.write_bytes(sound[:page] + rng.randbytes(64) + sound[page + 64 :])
        store = SqliteStore(path)
        try:
            store.open()
            store.list_objects("j1")
        except StateDamaged:
            damaged += 1
        finally:
            store.close()
    assert damaged >= 30


def test_an_empty_file_is_a_new_state(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch()
    store = opened(tmp_path / "state.db")
    assert store.jobs() == []
    store.close()


def test_another_program_in_the_database_is_named_as_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    opened(path).close()
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN EXCLUSIVE")

    def impatient(*args: Any, **options: Any) -> sqlite3.Connection:
        return sqlite3.connect(*args, **{**options, "timeout": 0})

    with pytest.raises(Busy, match="another program"):
        SqliteStore(path, connect=impatient).open()
    raw.close()
    opened(path).close()


# ---- full disks, failing statements -----------------------------------------------------------------------------------


def test_a_full_disk_is_no_space_and_nothing_is_half_applied(tmp_path: Path) -> None:
    connections: list[sqlite3.Connection] = []

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connections.append(sqlite3.connect(*args, **options))
        return connections[-1]

    store = opened(tmp_path / "state.db", connect=connect)
    store.apply([PutJob(job_row()), lease(1)])
    (pages,) = connections[0].execute("PRAGMA page_count").fetchone()
    connections[0].execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(NoSpace, match="nothing was lost"):
        store.add_objects("j1", [spec(f"{i}" * 100) for i in range(1000)])
    with pytest.raises(NoSpace):
        store.apply([DropLease("r1"), PutJob(job_row(objects_done=5)), *[lease(n) for n in range(2, 2000)]])
    assert store.counts("j1") == (0, 0)
    assert store.jobs() == [job_row()]
    assert store.leases() == [lease(1)]
    connections[0].execute("PRAGMA max_page_count = 100000")
    store.apply([DropLease("r1")])
    assert store.leases() == []
    store.close()


class Torture(sqlite3.Connection):
    """A connection whose n-th statement fails, and from then on all the `also` following ones."""

    countdown = 1 << 60
    also = 0

    def _step(self) -> None:
        self.countdown -= 1
        if -self.also <= self.countdown <= 0:
            raise sqlite3.OperationalError("the disk says no")

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._step()
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        def counted() -> Any:
            for row in parameters:
                self._step()  # a statement may fail between two of its rows
                yield row

        return super().executemany(sql, counted())

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        self._step()
        return super().executescript(sql_script)


BATCH: list[Write] = [
    ObjectDone(object_id=1, size=5, digest="d", etag="", skipped=False, agent_id="a"),
    ObjectFailed(object_id=2, failures=3, failure=FAILURE),
    RequeueFailed("j1"),
    DropLease("r1"),
    lease(2),
    lease(3),
    PutJob(job_row(objects_done=1)),
]


def snapshot(store: SqliteStore) -> Sequence[object]:
    return store.jobs(), store.leases(), store.list_objects("j1")


@pytest.mark.parametrize("also", [0, 1, 2])
def test_whichever_statement_of_a_batch_fails_all_or_nothing_is_applied(tmp_path: Path, also: int) -> None:
    failures = 0
    for n in range(1, 60):
        connections: list[Torture] = []

        def connect(*args: Any, made: list[Torture] = connections, **options: Any) -> sqlite3.Connection:
            made.append(sqlite3.connect(*args, factory=Torture, **options))
            return made[-1]

        store = opened(tmp_path / f"{n}.db", connect=connect, synchronous="NORMAL")
        store.apply([PutJob(job_row()), lease(1)])
        store.add_objects("j1", [spec("a"), spec("b")])
        before = snapshot(store)
        connections[0].countdown, connections[0].also = n, also
        try:
            store.apply(BATCH)
        except (ShoalError, sqlite3.Error):
            failures += 1
            connections[0].countdown = 1 << 60
            assert snapshot(store) == before
            store.apply(BATCH)  # as the coordinator does: once more, and it is all there
        connections[0].countdown = 1 << 60
        after = snapshot(store)
        assert after != before
        store.close()
        again = opened(tmp_path / f"{n}.db")
        assert snapshot(again) == after
        again.close()
        if n > failures:  # n is beyond the last statement
            return
    pytest.fail("the batch has more statements than the sweep")


def test_whichever_statement_of_the_opening_fails_the_next_opening_succeeds(tmp_path: Path) -> None:
    for n in range(1, 40):

        def connect(*args: Any, countdown: int = n, **options: Any) -> sqlite3.Connection:
            connection = sqlite3.connect(*args, factory=Torture, **options)
            connection.countdown = countdown
            return connection

        path = tmp_path / f"{n}.db"
        store = SqliteStore(path, connect=connect)
        try:
            store.open()
        except ShoalError:
            again = SqliteStore(path)
            assert again.open() in (1, 2)  # 2 where only what came after the incarnation's commit failed
            assert again.jobs() == []
            again.close()
        else:
            store.close()
            return
    pytest.fail("opening takes more statements than the sweep")


# ---- kills ------------------------------------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from shoal.coordinator.effects import DropLease, PutJob, PutLease
from shoal.coordinator.model import JobRow
from shoal.coordinator.store.sqlite import SqliteStore
from shoal.common.records import UnitKind

store = SqliteStore(Path(sys.argv[1]))
print("open", store.open(), flush=True)
row = next(iter(store.jobs()), None) or JobRow(
    job_id="j1", uri="u", name="n", fingerprint="f", request="{}", priority=0, created_at=1.0)
while True:
    row.objects_done += 1
    n = row.objects_done
    lease = PutLease(unit=f"r{n}", token=n, agent_id="a", kind=UnitKind.RANGE, job_id="j1", object_id=1, start=0, stop=n)
    store.apply([PutJob(row), lease, DropLease(f"r{n - 3}")])
    print(n, flush=True)
"""


def test_what_was_applied_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    rng = random.Random(5)
    reached = 0
    for incarnation in range(1, 6):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"open {incarnation}\n"
            for _ in range(rng.randrange(1, 60)):
                said = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            said = next(iter(process.stdout.read().splitlines()[-1:]), said)
        reached = max(reached, int(said))
    store = SqliteStore(path)
    assert store.open() == 6
    found = store.jobs()[0].objects_done
    assert found in (reached, reached + 1)  # the last one may have been committed and not yet said
    tokens = [put.token for put in store.leases()]
    assert tokens == list(range(max(1, found - 2), found + 1))
    store.close()


# ---- size -------------------------------------------------------------------------------------------------------------


def test_pages_of_work_are_answered_by_the_index(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    store.close()
    raw = sqlite3.connect(tmp_path / "state.db")
    for statement, values, index in [
        (statements.QUEUED_OBJECTS, ("j", 9), "objects_queued"),
        (statements.QUEUED_OBJECTS_AFTER, ("j", -5, 7, 9), "objects_queued"),
        (statements.LIST_FAILED_OBJECTS, ("j", 7, 9), "objects_failed"),
        (statements.LIST_OBJECTS, ("j", 7, 9), "objects_of_job"),
    ]:
        plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        searches = [step for step in plan if step.startswith(("SEARCH", "SCAN")) and "objects" in step]
        assert searches
        assert all(index in step and step.startswith("SEARCH") for step in searches), plan
        assert not any("TEMP B-TREE" in step for step in plan), plan
        if statement is statements.QUEUED_OBJECTS_AFTER:
            assert any("work_order=? AND object_id>?" in step for step in searches), plan
    raw.close()


def test_a_hundred_thousand_objects_go_in_and_come_out_by_pages(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    store.apply([PutJob(job_row())])
    count = 100_000
    for first in range(0, count, 1000):
        store.add_objects("j1", [spec(f"data/train-{i:06}.parquet", i % 5) for i in range(first, first + 1000)])
    assert store.counts("j1") == (count, 2 * count)
    seen: set[int] = set()
    after = None
    while page := store.queued_objects("j1", after, 4096):
        sizes = [found.size or 0 for found, _ in page]
        assert sizes == sorted(sizes, reverse=True)
        seen.update(found.object_id for found, _ in page)
        after = cursor_after(page[-1][0])
    assert len(seen) == count
    assert len(store.list_objects("j1", status=ObjectStatus.QUEUED, after_id=max(seen) - 5)) == 5
    store.close()
