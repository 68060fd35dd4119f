"""Who fetches what, where several independent runs work on one folder: each object is claimed before it is fetched.

A *run* is a job of one coordinator; its *members* are the agents at work on it. Below the work folder::

    jobs/MEMBER.lease        the member lives (common/lease_file.py); MEMBER is RUN.AGENT-LIFE
    claims/KEY/MEMBER        this member's run has the right to fetch what KEY stands for
    claims/NAME.tmp/         a claim that is just being made

A claim is a folder that is made aside and renamed into place: rename(2) replaces an empty folder and never one that holds
something, so of several runs one gets it, on NFS and Lustre too, and it is never there without its owner's name. Members of the
same run join it. The names of members whose lease is gone, or broken, are taken out; then the folder is empty, and free. Who was taken
for dead and lives goes on under a new name (LIFE), so that what is said of the old one cannot be meant for it.

=========  ==========================================================  ==========================================
KEY        stands for                                                  is given up
=========  ==========================================================  ==========================================
16 digits  one object of more than a MiB, or of unknown size           when it is published, or with the member
small-NN   all small objects whose path's hash ends so (64 of them)    when none is under way for a second
=========  ==========================================================  ==========================================

So a hundred thousand small files cost 64 claims. Nobody waits for a second claim while it holds one for an object under way,
so no two runs can wait for each other.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ...common.errors import Busy, UnsafeName
from ...common.lease_file import LeaseFile, alive_clock, break_lease, judge
from ...common.lease_rules import Life, Watch, holder_of
from ...common.records import ObjectSpec
from ...common.safe_root import SafeRoot
from .workfolder import LEASE, TEMPORARY, short_hash

SMALL_BYTES_MAX: Final = 1 << 20
SMALL_CLAIMS: Final = 64
TAKEN_OVER: Final = "this run was silent for too long, and another one may have taken it over"
IDLE_S: Final = 1.0
LOOK_AGAIN_S: Final = 0.25  # a claim that is held is not looked at more often, however many objects wait for it
_TRIES: Final = 100  # a claim that others take and give up meanwhile is tried for so often, and then waited for
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM})


def claim_key(spec: ObjectSpec) -> str:
    """The claim that an object belongs to."""
    digits = short_hash(spec.path, hex_digits=16)
    if spec.size is not None and spec.size <= SMALL_BYTES_MAX:
        return f"small-{int(digits, 16) % SMALL_CLAIMS:02d}"
    return digits


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """Another run has the claim. by names it for people."""

    by: str

    def error(self, thing: str) -> Busy:
        """The error for an object that was waited for long enough, for now."""
        return Busy(thing, cause=f"another run fetches it: {self.by}", remedy="its result is taken when it is there")


@dataclass(slots=True)
class _Mine:
    count: int = 0  # objects under way, for a claim of many
    used: float = 0.0


class Claims:
    """The claims of one member. Thread-safe. Methods raise OSError, UnsafeName."""

    def __init__(
        self,
        root: SafeRoot,
        work: str,
        *,
        run: str,
        agent: str,
        expiry_s: float,
        clock: Callable[[], float] = alive_clock,
    ) -> None:
        """work: the work folder below root; run and agent: plain names; clock: seconds that pass while the machine sleeps, too."""
        self._root = root
        self._work = work
        self._run = run
        self._agent = agent
        self._name = ""  # in this life
        self._expiry_s = expiry_s
        self._clock = clock
        self._disk = threading.RLock()  # held while files are looked at or changed
        self._books = threading.Lock()  # held for a moment: the event loop asks, too
        self._lease = LeaseFile(root, expiry_s=expiry_s, clock=clock, tend=self._tend)
        self._mine: dict[str, _Mine] = {}
        self._lost: set[str] = set()
        self._held: dict[str, tuple[float, HeldElsewhere]] = {}
        self._watches: dict[str, Watch] = {}
        self.met_others = False
        """Whether a claim was ever held by another run."""

    def begin(self) -> None:
        """Show that this member lives. Harmless when it does already."""
        if self._lease.is_ours(cheaply=True):
            return
        with self._disk:
            if self._lease.is_ours(cheaply=True):
                return
            self._lose()
            for is_last_try in (False, True):
                for name in ("jobs", "partial"):  # who took this run for dead may have tidied up
                    self._root.makedirs_beneath(f"{self._work}/{name}")
                name = f"{self._run}.{self._agent}-{secrets.token_hex(4)}"
                try:
                    if self._lease.take(f"{self._work}/jobs/{name}{LEASE}"):
                        self._name = name
                        return
                except FileNotFoundError:
                    if is_last_try:
                        raise  # else a run that ended just now took the empty folder away
            raise FileExistsError(errno.EEXIST, "leases of just these names are there")

    def was_lost(self) -> bool:
        """Whether this member was taken for dead; then it lives anew from now on."""
        if not self._name or self._lease.is_ours():
            return False
        self.begin()
        return True

    def take(self, key: str) -> HeldElsewhere | None:
        """Get the claim, for one more object under way. Says who has it where that is another run."""
        self.begin()
        if _is_shared(key) and self._one_more(key):
            return None
        with self._disk:
            if _is_shared(key) and self._one_more(key):
                return None
            now = self._clock()
            told = self._held.get(key)
            if told is not None and now - told[0] < LOOK_AGAIN_S:
                return told[1]
            held = self._get(key)
            if held is not None:
                self.met_others = True
                self._held[key] = now, held
                return held
            self._held.pop(key, None)
            with self._books:
                self._lost.discard(key)
                self._mine[key] = _Mine(count=1, used=now)
            return None

    def holds(self, key: str) -> bool:
        """Whether the claim is this member's, as far as is known without a look at the disk."""
        with self._books:
            return key in self._mine

    def _one_more(self, key: str) -> bool:
        with self._books:
            mine = self._mine.get(key)
            if mine is not None:
                mine.count += 1
            return mine is not None

    def _lose(self) -> None:
        with self._books:
            self._lost.update(self._mine)
            self._mine.clear()

    def let_go(self, key: str) -> None:
        """One object of a shared claim is no longer under way. Touches nothing; `_tend` gives the claim up when it is idle."""
        with self._books:
            mine = self._mine.get(key)
            if mine is not None:
                mine.count = max(0, mine.count - 1)
                mine.used = self._clock()

    def give_up(self, key: str) -> None:
        """The object has its name: nobody of this run needs its claim any more. Harmless for one that is shared or not ours."""
        if _is_shared(key):
            return
        with self._disk:
            with self._books:
                was_mine = self._mine.pop(key, None) is not None
            if was_mine:
                self._remove(key, whole_run=True)

    def check(self, key: str, thing: str, *, cheaply: bool = False) -> None:
        """Raise Busy when another run may have taken the claim meanwhile: then nothing may be published or thrown away.

        cheaply: without a look at the disk where the lease was touched a moment ago.
        """
        if self.holds(key) and not self._lease.is_ours(cheaply=cheaply):
            with self._disk:
                self.begin()
        with self._books:
            is_lost = key in self._lost
        if is_lost:
            raise Busy(
                thing,
                cause=TAKEN_OVER,
                remedy="it is looked at again",
            )

    def lives(self, run: str) -> bool:
        """Whether a member of another run is alive, or may be."""
        with self._disk:
            self.begin()
            names = self._root.listdir_beneath(f"{self._work}/jobs")
            members = [name for name in names if name.startswith(f"{run}.") and name.endswith(LEASE)]
            return any(self._judge(name.removesuffix(LEASE)) is not None for name in members)

    def is_own_lease(self, name: str) -> bool:
        """Whether a file in ``jobs`` is what shows that this member lives."""
        return name == f"{self._name}{LEASE}"

    def remove_of(self, runs: Collection[str]) -> None:
        """Remove all claims of runs that are over: this member's own run, once its work is done, and dead ones."""
        with self._disk:
            with self._books:
                self._mine.clear()
            try:
                keys = self._root.listdir_beneath(f"{self._work}/claims")
            except FileNotFoundError:
                return
            for key in keys:
                for name in self._members(key):
                    if name.partition(".")[0] in runs:
                        self._unlink(key, name)
                with suppress(OSError):  # somebody else is in it
                    self._root.rmdir_beneath(f"{self._work}/claims/{key}")

    def release(self) -> None:
        """Give everything up and stop showing life. Safe to call twice."""
        with self._disk, self._books:
            is_taken = self._lease.is_taken
            mine = list(self._mine)
            self._mine.clear()
        if is_taken:
            for key in mine:
                with suppress(OSError, UnsafeName):
                    self._remove(key)
        self._lease.release()

    # -- the folder of a claim

    def _get(self, key: str) -> HeldElsewhere | None:
        held = HeldElsewhere("one that comes and goes")
        for _ in range(_TRIES):
            others = self._others(key)
            if others is None:
                if self._put(key):
                    return None
                continue
            if isinstance(others, HeldElsewhere):
                held = others
                break
            if self._join(key):
                return None
        return held

    def _others(self, key: str) -> HeldElsewhere | list[str] | None:
        """Who has the claim: another run, members of this run, or None for nobody. Dead members are taken out."""
        names = self._members(key)
        living = [name for name in names if name.partition(".")[0] == self._run]
        for name in names:
            if name in living:
                continue
            by = self._judge(name)
            if by is not None:
                return HeldElsewhere(by)
            self._unlink(key, name)
        return living or None

    def _members(self, key: str) -> list[str]:
        try:
            fd = self._root.open_beneath(f"{self._work}/claims/{key}", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return []
        except (NotADirectoryError, UnsafeName):
            self._root.unlink_beneath(f"{self._work}/claims/{key}")  # something was planted here
            return []
        try:
            return os.listdir(fd)  # noqa: PTH208 - of a folder that is open
        finally:
            os.close(fd)

    def _judge(self, name: str) -> str | None:
        """None when the member is dead; its lease is broken then, so that it learns of it. Otherwise its name for people."""
        path = f"{self._work}/jobs/{name}{LEASE}"
        watch = self._watches.setdefault(name, Watch(expiry_s=self._expiry_s))
        try:
            server_now_ns = self._lease.server_now_ns()
        except FileNotFoundError:
            self.begin()
            server_now_ns = self._lease.server_now_ns()
        life, seen = judge(self._root, path, watch, now=self._clock(), server_now_ns=server_now_ns)
        if life is Life.DEAD and (seen is None or break_lease(self._root, path, seen)):
            self._watches.pop(name, None)
            return None
        holder = holder_of(seen.text) if seen is not None else None
        return holder.name if holder is not None else "one whose lease file is damaged"

    def _put(self, key: str) -> bool:
        """Make the claim. False when somebody was faster."""
        claims = f"{self._work}/claims"
        aside = f"{claims}/{self._name}.{secrets.token_hex(4)}{TEMPORARY}"
        self._root.makedirs_beneath(aside)
        is_put = False
        try:
            os.close(self._root.open_beneath(f"{aside}/{self._name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            self._root.replace_beneath(aside, f"{claims}/{key}")
            is_put = True
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            with suppress(OSError):  # some file systems do not replace an empty folder either
                self._root.rmdir_beneath(f"{claims}/{key}")
        finally:
            if not is_put:
                with suppress(OSError):
                    self._root.unlink_beneath(f"{aside}/{self._name}")
                with suppress(OSError):
                    self._root.rmdir_beneath(aside)
        return is_put

    def _join(self, key: str) -> bool:
        """Add this member's name to a claim of its run. False when the claim was given up meanwhile."""
        try:
            fd = self._root.open_beneath(f"{self._work}/claims/{key}", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            with suppress(FileExistsError):
                os.close(os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=fd))
            # Between the look and now it may have become another run's.
            names = os.listdir(fd)  # noqa: PTH208 - of a folder that is open
            is_ours = all(name.partition(".")[0] == self._run for name in names)
            if not is_ours:
                os.unlink(self._name, dir_fd=fd)
            return is_ours
        except FileNotFoundError:
            return False
        finally:
            os.close(fd)

    def _remove(self, key: str, *, whole_run: bool = False) -> None:
        names = [self._name]
        if whole_run:
            names = [name for name in self._members(key) if name.partition(".")[0] == self._run]
        for name in names:
            self._unlink(key, name)
        with suppress(OSError):  # others are in it, or it is another run's by now
            self._root.rmdir_beneath(f"{self._work}/claims/{key}")

    def _unlink(self, key: str, name: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            self._root.unlink_beneath(f"{self._work}/claims/{key}/{name}")

    def _tend(self) -> None:
        """By the lease's thread: give up what is idle; remember what was lost."""
        if not self._lease.is_taken:
            self._lose()
            return
        now = self._clock()
        with self._disk:
            with self._books:
                idle = [
                    key
                    for key, mine in self._mine.items()
                    if _is_shared(key) and not mine.count and now - mine.used >= IDLE_S
                ]
                for key in idle:
                    del self._mine[key]
            for key in idle:
                with suppress(OSError, UnsafeName):
                    self._remove(key)


def _is_shared(key: str) -> bool:
    return key.startswith("small-")
