"""The contract of a job store: one suite for the store in memory and the one in SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.common.errors import NotFound
from shoal.common.records import Failure, JobSpec, Layout, ObjectSpec, OriginKind, UnitKind
from shoal.coordinator.effects import (
    DropLease,
    ObjectBegunAnew,
    ObjectDone,
    ObjectFailed,
    ObjectRetried,
    PutAgent,
    PutFetched,
    PutHostPolicy,
    PutJob,
    PutLease,
    RequeueFailed,
    Write,
)
from shoal.coordinator.model import JobRow, JobStatus
from shoal.coordinator.store.base import ObjectStatus, RevokedRow, Store
from shoal.coordinator.store.memory import MemoryStore
from shoal.coordinator.store.order import cursor_after
from shoal.coordinator.store.sqlite import SqliteStore

NOW = 1_700_000_000.5
FAILURE = Failure(code="timeout", text="a.bin: the server was silent", retryable=True)

MakeStore = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = (
        MemoryStore(clock=lambda: NOW)
        if request.param == "memory"
        else SqliteStore(tmp_path / "state.db", synchronous="NORMAL", clock=lambda: NOW)
    )
    made.open()
    yield made
    made.close()


def job_row(job_id: str = "j1", **changes: object) -> JobRow:
    row = JobRow(
        job_id=job_id,
        uri="hf://acme/tiny",
        name="tiny",
        fingerprint="f",
        request='{"uri": "hf://acme/tiny"}',
        priority=3,
        created_at=NOW,
    )
    return replace(row, **changes)  # pyright: ignore[reportArgumentType]


def spec(path: str, size: int | None = 10, **changes: str) -> ObjectSpec:
    return replace(ObjectSpec(object_id=1, path=path, size=size, digest="sha256:00", etag="e", url="/u"), **changes)


def lease(unit: str, token: int, **changes: object) -> PutLease:
    put = PutLease(
        unit=unit, token=token, agent_id="a1", kind=UnitKind.RANGE, job_id="j1", object_id=7, start=5, stop=1 << 40
    )
    return replace(put, **changes)  # pyright: ignore[reportArgumentType]


def done(object_id: int, **changes: object) -> ObjectDone:
    put = ObjectDone(object_id=object_id, size=10, digest="sha256:11", etag="new", skipped=False, agent_id="a1")
    return replace(put, **changes)  # pyright: ignore[reportArgumentType]


def with_objects(store: Store, *sizes: int | None, job_id: str = "j1") -> list[int]:
    """Puts a job with objects of these sizes. Returns their ids in the order of the listing."""
    store.apply([PutJob(job_row(job_id))])
    store.add_objects(job_id, [spec(f"{i}.bin", size) for i, size in enumerate(sizes)])
    return [row.spec.object_id for row in store.list_objects(job_id)]


def queued_ids(store: Store, job_id: str = "j1") -> list[int]:
    return [found.object_id for found, _ in store.queued_objects(job_id, None, 10_000)]


# ---- jobs -----------------------------------------------------------------------------------------------------------


def test_a_job_row_comes_back_as_it_was_put(store: Store) -> None:
    full = job_row(
        status=JobStatus.FAILED,
        paused=True,
        spec=JobSpec(
            job_id="j1",
            source="hf://acme/tiny",
            origin=OriginKind.HUB,
            layout=Layout.HUB_CACHE,
            destination="/models/ünï",
            endpoints=("https://a.example", "https://b.example/prefix"),
            repo_kind="model",
            commit="0" * 40,
            force=True,
            total_bytes=1 << 50,
            total_objects=2,
        ),
        objects_total=5,
        bytes_total=1 << 50,
        objects_done=2,
        objects_skipped=1,
        objects_failed=3,
        objects_refused=1,
        bytes_done=7,
        bytes_fetched=9,
        failure=FAILURE,
        ended_at=NOW + 1,
    )
    store.apply([PutJob(full)])
    assert store.jobs() == [full]


def test_a_fresh_job_has_neither_spec_nor_failure_nor_end(store: Store) -> None:
    store.apply([PutJob(job_row())])
    assert store.jobs() == [job_row()]


def test_the_last_row_of_a_job_counts(store: Store) -> None:
    store.apply([PutJob(job_row()), PutJob(job_row(objects_done=1))])
    store.apply([PutJob(job_row(objects_done=2, status=JobStatus.RUNNING))])
    assert store.jobs() == [job_row(objects_done=2, status=JobStatus.RUNNING)]


def test_a_row_that_changes_after_it_was_put_changes_nothing_in_the_store(store: Store) -> None:
    row = job_row()
    store.apply([PutJob(row)])
    row.objects_done = 5
    store.jobs()[0].objects_done = 6
    assert store.jobs() == [job_row()]


def test_jobs_come_oldest_first(store: Store) -> None:
    store.apply([PutJob(job_row("b", created_at=2.0)), PutJob(job_row("c", created_at=1.0))])
    store.apply([PutJob(job_row("a", created_at=2.0))])
    assert [row.job_id for row in store.jobs()] == ["c", "a", "b"]


def test_what_each_agent_fetched_is_kept_by_job(store: Store) -> None:
    def put(job_id: str, agent_id: str, bytes_fetched: int) -> PutFetched:
        return PutFetched(job_id=job_id, agent_id=agent_id, bytes_fetched=bytes_fetched)

    store.apply([PutJob(job_row("j1")), put("j1", "a1", 5), put("j1", "a2", 6), PutJob(job_row("j2"))])
    store.apply([put("j1", "a1", 7), put("j1", "a1", 1 << 50)])
    assert store.fetched_by() == {"j1": {"a1": 1 << 50, "a2": 6}}
    store.fetched_by()["j1"]["a2"] = 0
    assert store.fetched_by()["j1"]["a2"] == 6


# ---- objects --------------------------------------------------------------------------------------------------------


def test_objects_get_ids_of_the_store_unique_over_jobs(store: Store) -> None:
    ids = with_objects(store, 1, 2) + with_objects(store, 3, job_id="j2")
    assert len(set(ids)) == 3
    assert store.counts("j1") == (2, 3)
    found = store.get_object(ids[2])
    assert found is not None
    assert (found.job_id, found.spec) == ("j2", replace(spec("0.bin", 3), object_id=ids[2]))
    assert found.status is ObjectStatus.QUEUED


def test_ids_are_not_used_again_after_objects_are_forgotten(store: Store) -> None:
    before = with_objects(store, 1, 2)
    store.forget_objects("j1")
    assert store.counts("j1") == (0, 0)
    assert store.get_object(before[0]) is None
    assert queued_ids(store) == []
    assert min(with_objects(store, 1, 2)) > max(before)


def test_adding_a_path_again_replaces_the_object(store: Store) -> None:
    first, second = with_objects(store, 1, 2)
    store.apply([done(first)])
    store.apply([ObjectFailed(object_id=second, failures=3, failure=FAILURE)])
    store.add_objects("j1", [spec("0.bin", 100), spec("1.bin", None)])
    assert store.counts("j1") == (2, 100)
    rows = store.list_objects("j1")
    assert [row.spec.object_id for row in rows] == [first, second]
    assert [(row.status, row.failures, row.failure, row.agent_id) for row in rows] == [
        (ObjectStatus.QUEUED, 0, None, "")
    ] * 2
    assert queued_ids(store) == [second, first]


def test_a_path_twice_in_one_page_is_one_object(store: Store) -> None:
    store.apply([PutJob(job_row())])
    store.add_objects("j1", [spec("a", 1), spec("a", 2)])
    assert store.counts("j1") == (1, 2)


@pytest.mark.parametrize("page", [[], [spec("a")]])
def test_objects_of_a_job_that_was_never_put_are_refused(store: Store, page: list[ObjectSpec]) -> None:
    with pytest.raises(NotFound, match="j9"):
        store.add_objects("j9", page)
    with pytest.raises(NotFound, match="j9"):
        store.add_failed_objects("j9", [("..", FAILURE)])


def test_an_unknown_job_has_nothing(store: Store) -> None:
    assert store.counts("j9") == (0, 0)
    assert store.queued_objects("j9", None, 5) == []
    assert store.list_objects("j9") == []
    assert store.get_object(99) is None
    store.forget_objects("j9")


def test_work_comes_largest_first_and_unknown_sizes_before_all(store: Store) -> None:
    ids = with_objects(store, 5, None, 1 << 61, 0, 5, None)
    assert queued_ids(store) == [ids[1], ids[5], ids[2], ids[0], ids[4], ids[3]]


def test_the_cursor_walks_the_whole_order_once(store: Store) -> None:
    with_objects(store, *([7] * 10), None, None, *range(10))
    whole = queued_ids(store)
    walked: list[int] = []
    after = None
    while page := store.queued_objects("j1", after, 3):
        walked.extend(found.object_id for found, _ in page)
        after = cursor_after(page[-1][0])
    assert walked == whole
    assert len(walked) == 22


def test_the_cursor_holds_while_objects_end_behind_and_before_it(store: Store) -> None:
    ids = with_objects(store, 9, 8, 7, 6, 5)
    page = store.queued_objects("j1", None, 2)
    store.apply([done(ids[0]), done(ids[2]), ObjectFailed(object_id=ids[1], failures=1, failure=FAILURE)])
    rest = store.queued_objects("j1", cursor_after(page[-1][0]), 10)
    assert [found.object_id for found, _ in rest] == ids[3:]


def test_a_done_object_keeps_what_was_published(store: Store) -> None:
    (object_id,) = with_objects(store, None)
    store.apply([done(object_id, size=77, skipped=True)])
    row = store.get_object(object_id)
    assert row is not None
    assert row.status is ObjectStatus.DONE
    assert (row.spec.size, row.spec.digest, row.spec.etag) == (77, "sha256:11", "new")
    assert (row.skipped, row.agent_id) == (True, "a1")
    assert queued_ids(store) == []
    assert store.counts("j1") == (1, 77)


def test_what_the_agent_did_not_compute_stays_as_the_publisher_named_it(store: Store) -> None:
    (object_id,) = with_objects(store, 10)
    store.apply([done(object_id, digest="", etag="")])
    row = store.get_object(object_id)
    assert row is not None
    assert (row.spec.digest, row.spec.etag) == ("sha256:00", "e")


def test_a_retried_object_stays_queued_with_its_failures(store: Store) -> None:
    (object_id,) = with_objects(store, 10)
    store.apply([ObjectRetried(object_id=object_id, failures=2, failure=FAILURE)])
    assert [failures for _, failures in store.queued_objects("j1", None, 5)] == [2]
    row = store.get_object(object_id)
    assert row is not None
    assert (row.status, row.failure) == (ObjectStatus.QUEUED, FAILURE)


def test_an_object_that_is_begun_anew_keeps_its_life(store: Store) -> None:
    first, second = with_objects(store, 10, 9)
    store.apply([ObjectBegunAnew(first, 7), ObjectRetried(object_id=first, failures=1, failure=FAILURE)])
    store.apply([ObjectBegunAnew(first, 1 << 62), ObjectFailed(object_id=first, failures=3, failure=FAILURE)])
    store.apply([ObjectBegunAnew(99, 5)])  # of a job that is listed anew
    store.close()
    store.open()
    failed = store.get_object(first)
    assert failed is not None and (failed.status, failed.spec.life) == (ObjectStatus.FAILED, 1 << 62)
    store.apply([RequeueFailed("j1")])
    assert [found.life for found, _ in store.queued_objects("j1", None, 9)] == [1 << 62, 0]
    assert [row.spec.life for row in store.list_objects("j1")] == [1 << 62, 0]
    store.add_objects("j1", [spec("0.bin", 11)])
    again = store.get_object(first)
    assert again is not None and (again.spec.size, again.spec.life) == (11, 1 << 62)
    assert [found.object_id for found, _ in store.queued_objects("j1", None, 9)] == [first, second]


def test_a_digest_that_an_agent_computed_ends_with_the_life_that_it_is_of(store: Store) -> None:
    """Of a replicated job: it is computed while others still bring theirs, and one of them may find that it changed."""
    named, nameless = with_objects(store, 10, 9)
    store.add_objects("j1", [spec("1.bin", 9, digest="")])
    store.apply([done(named, digest="sha256:00"), done(nameless), done(nameless)])
    store.apply([ObjectBegunAnew(named, 5), ObjectBegunAnew(nameless, 6)])
    found = {row.spec.object_id: row for row in store.list_objects("j1")}
    assert {row.status for row in found.values()} == {ObjectStatus.QUEUED}
    assert (found[named].spec.digest, found[nameless].spec.digest) == ("sha256:00", "")
    assert [row.object_id for row, _ in store.queued_objects("j1", None, 9)] == [named, nameless]


def test_success_forgets_the_last_failure_but_not_the_count(store: Store) -> None:
    (object_id,) = with_objects(store, 10)
    store.apply([ObjectRetried(object_id=object_id, failures=2, failure=FAILURE), done(object_id)])
    row = store.get_object(object_id)
    assert row is not None
    assert (row.failures, row.failure) == (2, None)


def test_failed_objects_are_listed_and_can_be_requeued(store: Store) -> None:
    ids = with_objects(store, 1, 2, 3)
    other = with_objects(store, 4, job_id="j2")
    fail = [ObjectFailed(object_id=i, failures=3, failure=FAILURE) for i in (*ids[:2], *other)]
    store.apply([*fail, done(ids[2])])
    assert [row.spec.object_id for row in store.list_objects("j1", status=ObjectStatus.FAILED)] == ids[:2]
    store.apply([RequeueFailed("j1")])
    assert store.list_objects("j1", status=ObjectStatus.FAILED) == []
    assert [(found.object_id, failures) for found, failures in store.queued_objects("j1", None, 9)] == [
        (ids[1], 0),
        (ids[0], 0),
    ]
    assert [row.spec.object_id for row in store.list_objects("j1", status=ObjectStatus.DONE)] == [ids[2]]
    assert len(store.list_objects("j2", status=ObjectStatus.FAILED)) == 1


def test_requeueing_sees_the_writes_before_it_and_not_those_after(store: Store) -> None:
    first, second = with_objects(store, 1, 2)
    store.apply(
        [
            ObjectFailed(object_id=first, failures=3, failure=FAILURE),
            RequeueFailed("j1"),
            ObjectFailed(object_id=second, failures=3, failure=FAILURE),
        ]
    )
    assert queued_ids(store) == [first]


def test_refused_names_are_failed_objects_that_no_retry_brings_back(store: Store) -> None:
    (object_id,) = with_objects(store, 1)
    names = ["../up", "nul\0", "lone\ud800", "x" * 5000]
    store.add_failed_objects("j1", [(name, FAILURE) for name in names])
    store.apply([RequeueFailed("j1")])
    failed = store.list_objects("j1", status=ObjectStatus.FAILED)
    assert [row.failure for row in failed] == [FAILURE] * 4
    assert [row.spec.path for row in failed][:2] == names[:2]
    assert queued_ids(store) == [object_id]
    assert store.counts("j1") == (5, 1)


def test_objects_are_listed_by_pages(store: Store) -> None:
    ids = with_objects(store, *range(10))
    store.apply([done(object_id) for object_id in ids[::2]])
    assert [row.spec.object_id for row in store.list_objects("j1", limit=3)] == ids[:3]
    assert [row.spec.object_id for row in store.list_objects("j1", after_id=ids[2], limit=3)] == ids[3:6]
    listed = store.list_objects("j1", status=ObjectStatus.DONE, after_id=ids[0], limit=2)
    assert [row.spec.object_id for row in listed] == [ids[2], ids[4]]
    queued = store.list_objects("j1", status=ObjectStatus.QUEUED, after_id=ids[1])
    assert [row.spec.object_id for row in queued] == ids[3::2]


def test_writes_for_objects_that_were_forgotten_are_harmless(store: Store) -> None:
    (object_id,) = with_objects(store, 1)
    store.forget_objects("j1")
    store.apply([done(object_id), ObjectFailed(object_id=object_id, failures=1, failure=FAILURE)])
    assert store.counts("j1") == (0, 0)


# ---- leases, agents, hosts, credentials -----------------------------------------------------------------------------


def test_leases_come_back_in_the_order_of_their_tokens(store: Store) -> None:
    store.apply([lease("r9", (5 << 32) + 9), lease("o1", 3, kind=UnitKind.WHOLE), lease("jj1", 4, object_id=0)])
    assert [put.token for put in store.leases()] == [3, 4, (5 << 32) + 9]
    assert store.leases()[2] == lease("r9", (5 << 32) + 9)


@pytest.mark.parametrize(
    ("writes", "left"),
    [
        ([lease("o1", 1), DropLease("o1")], []),
        ([DropLease("o1"), lease("o1", 2)], [2]),
        ([lease("o1", 1), DropLease("o1"), lease("o1", 2)], [2]),
        ([lease("o1", 1), DropLease("o1"), lease("o1", 2), DropLease("o1")], []),
        ([lease("o1", 1), lease("o1", 2), DropLease("o2")], [2]),
    ],
)
def test_grants_and_ends_of_a_unit_keep_their_order(store: Store, writes: list[Write], left: list[int]) -> None:
    store.apply([lease("o1", 0)])
    store.apply(writes)
    assert [put.token for put in store.leases()] == left


def test_agents_and_host_policies_are_remembered(store: Store) -> None:
    agent = PutAgent(agent_id="a1", name="one", version="1", zone="")
    policy = PutHostPolicy(host="h.example", requests_per_s=1.5, bytes_per_s=0.0, connections=3)
    store.apply([agent, replace(agent, version="2"), replace(agent, agent_id="a0"), policy])
    store.apply([replace(policy, bytes_per_s=9.0)])
    assert store.agents() == [replace(agent, agent_id="a0"), replace(agent, version="2")]
    assert store.host_policies() == [replace(policy, bytes_per_s=9.0)]


def test_credentials(store: Store) -> None:
    store.put_token("t2", role="admin", name="ops", secret_hash=b"\0\1", expires_at=None)
    store.put_token("t1", role="agent", name="node", secret_hash=b"\2", expires_at=NOW + 5)
    first, second = store.tokens()
    assert (first.token_id, first.role, first.name, first.secret_hash) == ("t1", "agent", "node", b"\2")
    assert (first.created_at, first.expires_at, second.expires_at) == (NOW, NOW + 5, None)
    assert store.delete_token("t1")
    assert not store.delete_token("t1")
    assert [token.token_id for token in store.tokens()] == ["t2"]
    assert store.revoked_tokens() == [RevokedRow(token_id="t1", secret_hash=b"\2", revoked_at=NOW)]
    store.expire_token("t2", NOW + 9)
    store.expire_token("t1", NOW + 9)
    assert [token.expires_at for token in store.tokens()] == [NOW + 9]


def test_identities(store: Store) -> None:
    assert store.identities() == {}
    store.put_identity("a1", "token node")
    store.put_identity("a2", "certificate node")
    store.put_identity("a1", "token other")
    assert store.identities() == {"a1": "token other", "a2": "certificate node"}


def test_incarnations_grow_and_the_state_outlives_them(store: Store) -> None:
    with_objects(store, 1)
    store.apply([lease("o1", 1)])
    store.close()
    again = store.open()
    assert len(store.leases()) == 1
    store.close()
    assert store.open(begins=False) == again, "who only makes credentials is no coordinator"
    store.close()
    assert store.open() == again + 1
    assert len(queued_ids(store)) == 1


# ---- both stores, move by move --------------------------------------------------------------------------------------

_PATHS = st.sampled_from("abcd")
_MAKERS: dict[str, Callable[[int, int], Write]] = {
    "done": lambda object_id, n: done(object_id, size=n),
    "failed": lambda object_id, n: ObjectFailed(object_id=object_id, failures=n, failure=FAILURE),
    "retried": lambda object_id, n: ObjectRetried(object_id=object_id, failures=n, failure=FAILURE),
    "anew": ObjectBegunAnew,
    "lease": lambda _, n: lease(f"o{n % 3}", n),
    "drop": lambda _, n: DropLease(f"o{n % 3}"),
    "requeue": lambda _, n: RequeueFailed(("j1", "j2", "none")[n % 3]),
    "job": lambda _, n: PutJob(job_row("j1", objects_done=n)),
    "fetched": lambda _, n: PutFetched(job_id=("j1", "j2")[n % 2], agent_id=f"a{n % 3}", bytes_fetched=n << 40),
}
_Write = tuple[str, str, int]  # maker, path of the object in j1, number
_Page = tuple[str, list[ObjectSpec]]
_WRITES = st.lists(st.tuples(st.sampled_from(sorted(_MAKERS)), _PATHS, st.integers(0, 9)), min_size=1, max_size=8)
_PAGES = st.lists(st.builds(spec, _PATHS, st.none() | st.integers(0, 5)), max_size=4)
_MOVES = st.lists(st.one_of(_WRITES, st.tuples(st.sampled_from(["j1", "j2"]), _PAGES), st.none()), max_size=12)


@given(moves=_MOVES)
@settings(max_examples=60, deadline=None)
def test_both_stores_agree_on_any_history(
    moves: list[list[_Write] | _Page | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    sqlite = SqliteStore(tmp_path_factory.mktemp("agree") / "state.db", synchronous="NORMAL")
    stores: list[Store] = [MemoryStore(), sqlite]
    for store in stores:
        store.open()
        store.apply([PutJob(job_row("j1")), PutJob(job_row("j2"))])
        store.add_objects("j1", [spec("a", 3), spec("b", None)])
    try:
        for move in moves:
            for store in stores:
                _make_move(store, move)
            assert _everything(stores[0]) == _everything(stores[1])
    finally:
        sqlite.close()


def _make_move(store: Store, move: list[_Write] | _Page | None) -> None:
    if move is None:
        store.forget_objects("j1")
    elif isinstance(move, tuple):
        store.add_objects(*move)
    else:
        ids = {row.spec.path: row.spec.object_id for row in store.list_objects("j1")}
        store.apply([_MAKERS[maker](ids.get(path, 999), n) for maker, path, n in move])


def _everything(store: Store) -> object:
    """All that can be read, but for the ids, which are the store's own."""

    def nameless(found: ObjectSpec) -> ObjectSpec:
        return replace(found, object_id=0)

    jobs = ("j1", "j2")
    return (
        store.jobs(),
        store.fetched_by(),
        store.leases(),
        [store.counts(job) for job in jobs],
        [[replace(row, spec=nameless(row.spec)) for row in store.list_objects(job)] for job in jobs],
        [[(nameless(found), n) for found, n in store.queued_objects(job, None, 3)] for job in jobs],
    )
