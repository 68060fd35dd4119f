"""Leases and claims: who is alive, who may fetch what, whatever is killed, frozen, skewed, torn or planted; without real time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.agent.storage.claims import IDLE_S, SMALL_BYTES_MAX, Claims, HeldElsewhere, claim_key
from shoal.common import lease_file
from shoal.common.errors import Busy
from shoal.common.lease_file import LeaseFile, break_lease, look, server_now
from shoal.common.lease_rules import BEATS_PER_EXPIRY, LOOK_SHARE, Holder, Life, Seen, Watch, holder_of
from shoal.common.processes import ProcessName, is_gone, this_process
from shoal.common.records import ObjectSpec
from shoal.common.safe_root import SafeRoot

EXPIRY_S = 90.0
BEAT_S = EXPIRY_S / BEATS_PER_EXPIRY
KEY = "0123456789abcdef"


def holder(**fields: Any) -> Holder:
    process = ProcessName("boot", "namespace", 7, "100")
    return Holder(**{"process": process, "host": "node1", "expiry_s": EXPIRY_S, "token": "t", **fields})


# ---- the rules ------------------------------------------------------------------------------------------------------


def test_a_lease_says_who_holds_it() -> None:
    mine = Holder(process=this_process(), host="here", expiry_s=2.5, token="abc", about="x" * 200)
    text = mine.to_text()
    assert holder_of(text) == Holder(process=this_process(), host="here", expiry_s=2.5, token="abc", about="x" * 80)


@given(st.binary(max_size=200))
def test_what_is_no_lease_is_nobodys(text: bytes) -> None:
    assert holder_of(text) is None


@given(st.integers(0, 400))
def test_a_torn_lease_is_nobodys(cut: int) -> None:
    text = holder().to_text()
    assert holder_of(text[: min(cut, len(text) - 1)]) is None


@pytest.mark.parametrize(
    "more", [b'"pid": 0', b'"pid": true', b'"expiry_s": 0', b'"expiry_s": 1e9', b'"expiry_s": true', b'"boot": 3']
)
def test_a_lease_of_nonsense_is_nobodys(more: bytes) -> None:
    assert holder_of(holder().to_text()[:-1] + b", " + more + b"}") is None


def test_a_process_of_this_machine_is_looked_up_and_no_other() -> None:
    mine = this_process()
    assert is_gone(mine) is False
    assert is_gone(mine._replace(started="1")) is True, "its number went to another one"
    assert is_gone(mine._replace(boot="other")) is None
    assert is_gone(mine._replace(namespace="pid:[1]")) is None, "another container's process 7"
    assert is_gone(mine._replace(pid=2**22 + 1)) is True


@settings(max_examples=300, deadline=None)
@given(
    beats=st.lists(st.floats(0.1, EXPIRY_S / LOOK_SHARE - 1), min_size=5, max_size=30),
    looks=st.lists(st.floats(0.05, 200.0), min_size=1, max_size=60),
    watcher_clock=st.floats(-1e6, 1e6),
    server_clock=st.floats(-1e6, 1e6),
    holder_clock=st.floats(-1e6, 1e6),
)
def test_who_beats_is_never_taken_for_dead(
    beats: list[float], looks: list[float], watcher_clock: float, server_clock: float, holder_clock: float
) -> None:
    """Whatever the clocks say; even where each machine's own clock stamps files, as on Lustre (holder_clock != server_clock)."""
    watch, text = Watch(expiry_s=EXPIRY_S), holder().to_text()
    times, at = [0.0], 0.0
    for pause in beats:
        at += pause
        times.append(at)
    now = 0.0
    for pause in looks:
        now += pause
        if now > at:
            break  # it may be dead by now
        last = max(time for time in times if time <= now)
        seen = Seen(text, int((last + holder_clock) * 1e9))
        life = watch.judge(seen, now=now + watcher_clock, server_now_ns=int((now + server_clock) * 1e9), is_gone=None)
        assert life is Life.LIVING


@settings(max_examples=200, deadline=None)
@given(
    looks=st.lists(st.floats(0.1, 20.0), min_size=40, max_size=60),
    skew=st.floats(-1e6, 1e6),
    text=st.sampled_from([holder().to_text(), b"", b"torn"]),
)
def test_who_is_silent_is_dead_after_an_expiry_whatever_the_clocks_say(
    looks: list[float], skew: float, text: bytes
) -> None:
    watch, now, first, died = Watch(expiry_s=EXPIRY_S), 1000.0, None, None
    seen = Seen(text, int((1000.0 + skew) * 1e9))
    for pause in looks:
        now += pause
        first = first or now
        if watch.judge(seen, now=now, server_now_ns=int(now * 1e9), is_gone=None) is Life.DEAD:
            died = now
            break
        assert now - first < EXPIRY_S
    assert died is not None or now - (first or now) < EXPIRY_S


def test_an_old_lease_is_dead_after_a_shorter_look() -> None:
    watch, seen = Watch(expiry_s=EXPIRY_S), Seen(holder().to_text(), 0)
    old = int(1000 * 1e9)
    assert watch.judge(seen, now=0.0, server_now_ns=old, is_gone=None) is Life.LIVING, "one look is never enough"
    assert watch.judge(seen, now=EXPIRY_S / LOOK_SHARE, server_now_ns=old, is_gone=None) is Life.DEAD


def test_what_is_known_needs_no_look() -> None:
    seen = Seen(holder().to_text(), 0)
    assert Watch(expiry_s=EXPIRY_S).judge(None, now=0.0, server_now_ns=0, is_gone=None) is Life.DEAD
    assert Watch(expiry_s=EXPIRY_S).judge(seen, now=0.0, server_now_ns=0, is_gone=True) is Life.DEAD
    assert Watch(expiry_s=EXPIRY_S).judge(seen, now=0.0, server_now_ns=0, is_gone=False) is Life.LIVING


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Iterator[SafeRoot]:
    (tmp_path / "jobs").mkdir()
    with SafeRoot(tmp_path) as opened:
        yield opened


def test_of_two_that_want_a_lease_one_gets_it(root: SafeRoot, tmp_path: Path) -> None:
    one, two = LeaseFile(root, expiry_s=EXPIRY_S), LeaseFile(root, expiry_s=EXPIRY_S)
    assert one.take("jobs/l") is True
    assert two.take("jobs/l") is False
    assert (one.is_ours(), two.is_ours()) == (True, False)
    one.release()
    one.release()
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_broken_lease_is_noticed(root: SafeRoot, tmp_path: Path) -> None:
    lease = LeaseFile(root, expiry_s=EXPIRY_S)
    lease.take("jobs/l")
    seen = look(root, "jobs/l")
    assert seen is not None
    assert break_lease(root, "jobs/l", seen) is True
    assert break_lease(root, "jobs/l", seen) is False
    assert lease.is_ours(cheaply=True), "it was touched a moment ago"
    assert not lease.is_ours()
    assert not lease.is_taken
    lease.release()
    assert list((tmp_path / "jobs").iterdir()) == []


def test_one_that_was_touched_meanwhile_is_put_back(root: SafeRoot, tmp_path: Path) -> None:
    lease = LeaseFile(root, expiry_s=EXPIRY_S)
    lease.take("jobs/l")
    assert break_lease(root, "jobs/l", Seen(b"what it said long ago", 5)) is False
    assert lease.is_ours()
    lease.release()
    assert list((tmp_path / "jobs").iterdir()) == []


def test_the_servers_clock_is_asked_with_a_file(root: SafeRoot, tmp_path: Path) -> None:
    assert server_now(root, "") == pytest.approx(tmp_path.stat().st_mtime, abs=60)
    assert list(tmp_path.iterdir()) == [tmp_path / "jobs"]


# ---- claims ---------------------------------------------------------------------------------------------------------


class World:
    """Runs over one folder, in virtual time. Files are stamped by the world's clock; each run's own clock is off by anything."""

    def __init__(self, folder: Path, runs: int, skews: list[float], patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.folder = folder
        self.stamps: dict[int, int] = {}
        patch.setattr(lease_file, "_touch", self._touch)
        patch.setattr(lease_file, "_changed_ns", lambda fd: self.stamps.get(os.fstat(fd).st_ino, 0))
        patch.setattr(lease_file.threading.Thread, "start", lambda thread: None)
        patch.setattr(lease_file.threading.Thread, "join", lambda thread, timeout: None)
        self.roots = [SafeRoot(folder) for _ in range(runs)]
        self.claims = [
            Claims(
                self.roots[number],
                "work",
                run=f"r{number}",
                agent="a",
                expiry_s=EXPIRY_S,
                clock=lambda skew=skews[number]: self.now + skew,
            )
            for number in range(runs)
        ]
        self.dead: set[int] = set()
        self.stalled: dict[int, float] = {}  # until when
        self.had: set[int] = set()  # got the claim, and has neither published nor been silent since
        self.wanting: set[int] = set()  # look for it again and again

    def _touch(self, fd: int, text: bytes) -> int:
        os.pwrite(fd, text, 0)
        self.stamps[os.fstat(fd).st_ino] = int(self.now * 1e9)
        return int(self.now * 1e9)

    def acts(self, run: int) -> bool:
        return run not in self.dead and self.stalled.get(run, 0.0) <= self.now

    def wait(self, seconds: float) -> None:
        ends_at = self.now + seconds
        while self.now < ends_at:
            self.now = min(ends_at, self.now + BEAT_S)
            for run, claims in enumerate(self.claims):
                # Who wakes from a stall does something else before its thread comes to touch the lease.
                if self.acts(run) and self.stalled.get(run, 0.0) <= self.now - BEAT_S:
                    claims._lease.beat()
                    claims._tend()
            for run in list(self.wanting):
                self.take(run)

    def take(self, run: int) -> None:
        if not self.acts(run):
            return
        if self.claims[run].take(KEY) is None:
            self.had.add(run)
            self.wanting.discard(run)
        else:
            self.wanting.add(run)

    def owners(self) -> list[int]:
        """The runs that would publish what the key stands for."""
        found: list[int] = []
        for run, claims in enumerate(self.claims):
            if self.acts(run) and claims.holds(KEY):
                try:
                    claims.check(KEY, "x")
                except Busy:
                    continue
                if claims.holds(KEY):
                    found.append(run)
        return found

    def close(self) -> None:
        for claims, root in zip(self.claims, self.roots, strict=True):
            claims.release()
            root.close()


ACTION = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 2)),
    st.tuples(st.just("publish"), st.integers(0, 2)),
    st.tuples(st.just("kill"), st.integers(0, 2)),
    st.tuples(st.just("stall"), st.integers(0, 2), st.floats(1.0, 4 * EXPIRY_S)),
    st.tuples(st.just("thaw"), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.floats(0.1, 2 * EXPIRY_S)),
)


TAKEN_OVER: list[tuple[Any, ...]] = [("take", 0), ("take", 1), ("stall", 0, 300.0), ("wait", 150.0), ("thaw", 0)]


@example(actions=TAKEN_OVER, skews=[0.0, 1e5, -1e5])
@example(actions=[*TAKEN_OVER, ("take", 0), ("publish", 1), ("wait", 20.0), ("publish", 0)], skews=[0.0, 1e5, -1e5])
@example(actions=[("take", 0), ("take", 2), ("stall", 0, 89.0), ("wait", 88.0), ("kill", 2)], skews=[0.0, 0.0, 0.0])
@settings(max_examples=150, deadline=None)
@given(actions=st.lists(ACTION, max_size=40), skews=st.lists(st.floats(-1e5, 1e5), min_size=3, max_size=3))
def test_never_two_owners_and_never_none_for_ever(actions: list[tuple[Any, ...]], skews: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), 3, skews, patch)
        try:
            _play(world, actions)
        finally:
            world.close()


def _play(world: World, actions: list[tuple[Any, ...]]) -> None:
    steady = {0, 1, 2}  # never silent for an expiry
    for name, *words in actions:
        if name == "wait":
            world.wait(words[0])
        elif name == "kill":
            world.dead.add(words[0])
        elif name == "stall" and world.acts(words[0]):
            world.stalled[words[0]] = world.now + words[1]
            if words[1] >= EXPIRY_S / LOOK_SHARE:
                steady.discard(words[0])
        elif name == "thaw":
            world.stalled[words[0]] = min(world.now, world.stalled.get(words[0], 0.0))
        elif name == "take":
            world.take(words[0])
        elif name == "publish" and world.acts(words[0]):
            if words[0] in world.owners():
                world.claims[words[0]].give_up(KEY)
            world.had.discard(words[0])
        owners = world.owners()
        assert len(owners) <= 1, owners
        kept = {run for run in world.had & steady if world.acts(run)}
        assert kept <= set(owners), "who is never silent keeps what it has"
    survivors = [run for run in range(3) if run not in world.dead]
    if not survivors:
        return
    world.now = max([world.now, *world.stalled.values()])
    for run in survivors[1:]:
        world.dead.add(run)
    for _ in range(int(3 * EXPIRY_S)):
        if world.claims[survivors[0]].take(KEY) is None:
            return
        world.wait(1.0)
    pytest.fail("the last one never got it")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, 2, [0.0, 5.0], monkeypatch)
    yield made
    made.close()


def test_small_objects_share_few_claims() -> None:
    specs = [ObjectSpec(object_id=n, path=f"images/{n}.png", size=1000) for n in range(10_000)]
    assert len({claim_key(spec) for spec in specs}) == 64
    big = ObjectSpec(object_id=1, path="a", size=SMALL_BYTES_MAX + 1)
    unknown = ObjectSpec(object_id=1, path="a", size=None)
    assert claim_key(big) == claim_key(unknown)
    assert len(claim_key(big)) == 16


def test_a_claim_of_many_is_given_up_when_it_is_idle(world: World) -> None:
    one, two = world.claims
    for _ in range(3):
        assert one.take("small-07") is None
    for _ in range(3):
        world.wait(5.0)
        assert isinstance(two.take("small-07"), HeldElsewhere)
        one.let_go("small-07")
    one.let_go("small-07")
    world.now += IDLE_S
    one._tend()
    assert two.take("small-07") is None
    one.let_go("small-07")


def test_what_was_planted_where_claims_lie_is_removed_and_leads_nowhere(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    claims = tmp_path / "work/claims"
    claims.mkdir(parents=True)
    (claims / KEY).symlink_to(outside)
    (claims / "small-01").write_text("a file")
    assert world.claims[0].take(KEY) is None
    assert world.claims[0].take("small-01") is None
    assert [path.name for path in outside.iterdir()] == ["keep"]


def test_everything_is_gone_when_a_run_ends(world: World, tmp_path: Path) -> None:
    one, two = world.claims
    one.take(KEY)
    one.take("small-01")
    two.take("fedcba9876543210")
    assert two.lives("r0")
    one.release()
    one.release()
    assert not two.lives("r0")
    two.give_up("fedcba9876543210")
    assert list((tmp_path / "work/claims").iterdir()) == []
