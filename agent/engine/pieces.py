"""Which bytes each connection to an origin fetches next. No I/O; every method that needs the time takes ``now``.

Work is what a lease asks of one object: intervals of bytes to fetch. Connections take **pieces** of it: the oldest work
first, and within it the lowest bytes first, so that the contiguous beginning of a file grows and can be hashed while its
bytes are hot.

A piece is so long that waiting for its answer costs little beside fetching it: about a second of the connection's rate on a
far server, less on a near one, because with short pieces the contiguous beginning follows closely. It is never more than
``remaining / (2 * connections)``: long pieces while there is plenty, short ones towards the end, so that all connections end
together. That is guided self-scheduling (Polychronopoulos and Kuck, "Guided Self-Scheduling", IEEE Transactions on Computers
C-36(12), 1987) with the factor 2 of its more cautious variants, because the connections' speeds differ.

When nothing is pending and a connection is idle, it takes the second half of the piece that would end last: the victim's
``stop`` moves down, and it leaves its connection when it gets there. A piece that has become far slower than the others is
taken from its connection and fetched again on a fresh one.

======== ============== ====================================================
piece    on             becomes
======== ============== ====================================================
active   `arrived`      active, nearer to its stop
active   `take` (split) active, shorter
active   `finish`       gone; what it did not bring is pending again
active   `remove`       dropped; what it did not bring is nobody's
======== ============== ====================================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ...common.intervals import Interval, IntervalSet
from .concurrency import Concurrency

KIB: Final = 1 << 10
MIB: Final = 1 << 20
_ALIGN: Final = 64 * KIB  # a multiple of every file system's block size
_SAMPLE_S: Final = 0.2  # shorter samples of a rate measure the scheduler of the kernel, not the line
_SMOOTHING: Final = 0.4  # weight of the newest sample in an exponential average


@dataclass(frozen=True, kw_only=True, slots=True)
class PiecePolicy:
    """The limits of piece planning. Sizes in bytes, times in seconds."""

    connections: int = 16
    piece_bytes_min: int = MIB  # below this the request costs more than the bytes
    piece_bytes_max: int = 16 * MIB
    piece_bytes_first: int = 4 * MIB  # while no rate is known
    piece_s_max: float = 1.0  # a piece should take no longer
    piece_s_min: float = 0.1  # nor less: every request costs both ends some work
    waiting_fraction: float = 0.05  # of a piece's time that may go by until its answer begins
    split_left_s: float = 0.5  # splitting a piece that ends sooner gains less than a request costs
    stall_after_s: float = 5.0  # how long a piece may be slow before it is taken away
    stall_fraction: float = 0.125  # of the median rate: slower than this is slow
    stall_peers: int = 3  # so many other pieces must tell what is normal


@dataclass(slots=True, eq=False)
class Piece:
    """Bytes [start, stop) that one connection is fetching. ``at`` is the next byte to arrive; ``stop`` may move down at any time."""

    work: Work
    start: int
    stop: int
    at: int
    dropped: bool = False  # nobody wants it any more
    rate: float = 0.0  # bytes/s, smoothed; 0 while unknown
    began_s: float = 0.0
    asked_s: float = 0.0
    sampled_at: int = 0
    sampled_s: float = 0.0

    @property
    def left(self) -> int:
        return max(0, self.stop - self.at)

    def left_s(self, now: float, usual_rate: float) -> float:
        """Seconds until it is complete, as far as one can tell. Silence counts against it; a fresh start does not."""
        silent_s = now - self.sampled_s
        rate = self.rate or usual_rate
        if not rate and silent_s <= 5 * _SAMPLE_S:
            return 0.0
        if silent_s > 5 * _SAMPLE_S:
            rate = min(rate, (self.at - self.sampled_at) / silent_s)
        return self.left / rate if rate > 0 else float("inf")


@dataclass(slots=True, eq=False)
class Work:
    """What a lease asks of one object. Works of one object share its ``group``."""

    key: Hashable
    group: Hashable
    undivided: bool  # one connection fetches all of it: a small file, or a body that can only be read from its start
    pending: IntervalSet
    active: list[Piece]
    stalls: int = 0  # how often a piece of it was taken from a slow connection


class PiecePlanner:
    """Plans the pieces of everything that is fetched from one origin."""

    def __init__(self, policy: PiecePolicy) -> None:
        self._policy = policy
        self._works: dict[Hashable, Work] = {}
        self._waiting: dict[Hashable, Work] = {}  # those with pending bytes, oldest first
        self._limits: dict[Hashable, int] = {}  # group -> pieces that may be active at once
        self._active: dict[Piece, None] = {}
        self._group_active: dict[Hashable, int] = {}
        self._outlook: dict[Hashable, int] = {}
        self._pending_bytes = 0
        self._recent: deque[float] = deque(maxlen=policy.connections)  # rates of pieces that have ended
        self._answer_s: float | None = None  # from a request to its answer, smoothed
        self.rate = 0.0  # bytes/s of one connection, smoothed over all of them; 0 while unknown
        self.concurrency = Concurrency(policy.connections)

    # -- work comes and goes

    def add(self, key: Hashable, group: Hashable, intervals: Iterable[Interval], *, undivided: bool = False) -> Work:
        """Fetch these intervals. Works are served in the order in which they were added; an added key must be new."""
        if key in self._works:
            raise ValueError(f"work {key!r} is there already")
        work = Work(key=key, group=group, undivided=undivided, pending=IntervalSet(intervals), active=[])
        self._works[key] = work
        self._pending_bytes += work.pending.total
        self._settle(work)
        return work

    def extend(self, work: Work, start: int, stop: int) -> None:
        """Fetch this as well: the object turned out to be longer, or what was fetched is worthless."""
        if work.key in self._works:
            self._put_back(work, start, stop)

    def remove(self, key: Hashable) -> list[Piece]:
        """Forget the work. Returns its active pieces, now dropped: whoever fetches them must stop and call `finish`."""
        work = self._works.pop(key, None)
        if work is None:
            return []
        self._waiting.pop(key, None)
        self._pending_bytes -= work.pending.total
        work.pending.clear()
        for piece in work.active:
            piece.dropped = True
        return list(work.active)

    def release(self, key: Hashable) -> tuple[Interval, ...]:
        """Give up everything that is pending and the second half of what each connection is fetching; returns what was given up."""
        work = self._works.get(key)
        if work is None or work.undivided:
            return ()
        given = IntervalSet(work.pending)
        self._pending_bytes -= work.pending.total
        work.pending.clear()
        self._waiting.pop(key, None)
        for piece in work.active:
            middle = self._middle(piece)
            if middle is not None:
                given.add(middle, piece.stop)
                piece.stop = middle
        return tuple(given)

    def limit(self, group: Hashable, pieces_max: int | None) -> None:
        """At most so many pieces of the group may be active at once; None for no limit of its own."""
        if pieces_max is None:
            self._limits.pop(group, None)
        else:
            self._limits[group] = pieces_max

    def set_outlook(self, job: Hashable, remaining: int) -> None:
        """So many bytes of the job are held by nobody yet; they count as remaining work."""
        if remaining > 0:
            self._outlook[job] = remaining
        else:
            self._outlook.pop(job, None)

    # -- pieces

    def take(self, now: float) -> Piece | None:
        """The next piece for an idle connection, or None when there is nothing worth its while."""
        for work in self._waiting.values():
            if self._may_start(work):
                return self._cut(work, now)
        return self._split(now)

    def has_work(self, now: float) -> bool:
        """Whether `take` would return a piece."""
        return any(self._may_start(work) for work in self._waiting.values()) or self._victim(now) is not None

    def asked(self, piece: Piece, now: float) -> None:
        """A request for the piece goes out."""
        piece.asked_s = now

    def answered(self, piece: Piece, now: float) -> None:
        """The head of its answer has come."""
        waited_s = max(0.0, now - piece.asked_s)
        self._answer_s = (
            waited_s if self._answer_s is None else self._answer_s + (waited_s - self._answer_s) * _SMOOTHING / 4
        )
        piece.sampled_s = now  # the wait is no part of the line's rate

    def arrived(self, piece: Piece, count: int, now: float) -> None:
        """``count`` more bytes of the piece have come."""
        piece.at += count
        if not piece.work.undivided:
            self.concurrency.arrived(count, now)
        elapsed = now - piece.sampled_s
        if elapsed >= _SAMPLE_S:
            self._sample(piece, elapsed, now)

    def hand_over(self, piece: Piece, key: Hashable) -> None:
        """The piece goes on for another work of its group. Raises KeyError when that is gone."""
        heir = self._works[key]
        piece.work.active.remove(piece)
        heir.active.append(piece)
        piece.work = heir

    def rewind(self, piece: Piece, at: int, now: float) -> None:
        """The bytes from ``at`` on must come again: they were lost on the way, or the server sends the body from there."""
        piece.at = piece.sampled_at = at
        piece.sampled_s = now

    def take_over(self, piece: Piece, stop: int) -> None:
        """The piece's connection will bring everything up to ``stop``: the rest of its work is no longer pending, nor split."""
        work = piece.work
        work.undivided = True
        self._pending_bytes -= work.pending.total
        work.pending.clear()
        self._waiting.pop(work.key, None)
        piece.stop = stop

    def finish(self, piece: Piece, now: float) -> None:
        """The connection is done with the piece, whatever it brought: the rest is pending again, unless the piece was dropped."""
        if piece not in self._active:
            return
        elapsed = now - piece.sampled_s
        if piece.at - piece.sampled_at >= MIB and elapsed > 0:
            self._sample(piece, elapsed, now)
        if piece.rate and not piece.left:
            self._recent.append(piece.rate)
        del self._active[piece]
        work = piece.work
        work.active.remove(piece)
        left = self._group_active[work.group] - 1
        if left:
            self._group_active[work.group] = left
        else:
            del self._group_active[work.group]
        if not piece.dropped and piece.left and work.key in self._works:
            self._put_back(work, piece.at, piece.stop)

    def stalled(self, now: float) -> list[Piece]:
        """Pieces that are far slower than the others and should be dropped from their connections.

        The patience with a work's pieces doubles each time that one is named.
        """
        policy = self._policy
        rates = [piece.rate for piece in self._active if piece.rate]
        rates.extend(self._recent)
        if len(rates) <= policy.stall_peers:
            return []
        floor = sorted(rates)[len(rates) // 2] * policy.stall_fraction
        found: list[Piece] = []
        for piece in self._active:
            patience_s = policy.stall_after_s * (1 << min(piece.work.stalls, 6))
            age_s = now - piece.began_s
            if piece.dropped or piece.left < _ALIGN or age_s < patience_s:
                continue
            if piece.left / piece.left_s(now, self.rate) < floor:
                found.append(piece)
        for piece in found:
            piece.work.stalls += 1
        return found

    def is_active(self, key: Hashable) -> bool:
        """Whether some connection fetches for this work."""
        work = self._works.get(key)
        return work is not None and bool(work.active)

    @property
    def active(self) -> Iterator[Piece]:
        """The pieces that connections are fetching now."""
        return iter(list(self._active))

    @property
    def remaining(self) -> int:
        """Bytes that no connection is fetching yet, here or anywhere."""
        return self._pending_bytes + sum(self._outlook.values())

    def check_invariants(self) -> None:
        """Raises AssertionError when the books do not balance; for tests."""
        assert self._pending_bytes == sum(work.pending.total for work in self._works.values())
        for work in self._works.values():
            assert bool(work.pending) == (work.key in self._waiting)
            claimed = IntervalSet(work.pending)
            for piece in work.active:
                assert piece in self._active and not piece.dropped
                assert claimed.add(piece.at, max(piece.at, piece.stop)) == piece.left, "two fetch the same bytes"
        counts: dict[Hashable, int] = {}
        for piece in self._active:
            counts[piece.work.group] = counts.get(piece.work.group, 0) + 1
        assert counts == self._group_active

    # -- how

    def _may_start(self, work: Work) -> bool:
        limit = self._limits.get(work.group)
        return limit is None or self._group_active.get(work.group, 0) < limit

    def _cut(self, work: Work, now: float) -> Piece:
        start, end = next(iter(work.pending))
        stop = end
        if not work.undivided:
            length = self._length()
            # A rest that is shorter than half a piece is not worth a request of its own.
            if end - start > length + length // 2:
                stop = start + length
        self._pending_bytes -= work.pending.remove(start, stop)
        self._settle(work)
        return self._begin(work, start, stop, now)

    def _begin(self, work: Work, start: int, stop: int, now: float) -> Piece:
        piece = Piece(
            work=work, start=start, stop=stop, at=start, began_s=now, sampled_at=start, sampled_s=now
        )  # fmt: skip
        work.active.append(piece)
        self._active[piece] = None
        self._group_active[work.group] = self._group_active.get(work.group, 0) + 1
        return piece

    def _length(self) -> int:
        policy = self._policy
        piece_s = min(policy.piece_s_max, max(policy.piece_s_min, (self._answer_s or 0.0) / policy.waiting_fraction))
        wanted = int(self.rate * piece_s) if self.rate else policy.piece_bytes_first
        guided = self.remaining // (2 * policy.connections)
        bounded = max(policy.piece_bytes_min, min(policy.piece_bytes_max, wanted, guided))
        return -(-bounded // _ALIGN) * _ALIGN

    def _split(self, now: float) -> Piece | None:
        victim = self._victim(now)
        if victim is None:
            return None
        middle = self._middle(victim)
        assert middle is not None
        stop, victim.stop = victim.stop, middle
        return self._begin(victim.work, middle, stop, now)

    def _victim(self, now: float) -> Piece | None:
        best: Piece | None = None
        best_s = self._policy.split_left_s
        for piece in self._active:
            if piece.dropped or piece.work.undivided or not self._may_start(piece.work) or self._middle(piece) is None:
                continue
            left_s = piece.left_s(now, self.rate)
            if left_s > best_s:
                best, best_s = piece, left_s
        return best

    def _middle(self, piece: Piece) -> int | None:
        """Where to cut the rest of a piece in two; None when a half would be too short to be worth a request."""
        smallest = self._policy.piece_bytes_min
        if piece.left < 2 * smallest:
            return None
        middle = piece.at + piece.left // 2
        aligned = -(-middle // _ALIGN) * _ALIGN
        return aligned if piece.stop - aligned >= smallest else middle

    def _sample(self, piece: Piece, elapsed: float, now: float) -> None:
        rate = (piece.at - piece.sampled_at) / elapsed
        piece.sampled_at, piece.sampled_s = piece.at, now
        piece.rate += (rate - piece.rate) * (_SMOOTHING if piece.rate else 1.0)
        self.rate += (rate - self.rate) * (_SMOOTHING / 4 if self.rate else 1.0)

    def _put_back(self, work: Work, start: int, stop: int) -> None:
        self._pending_bytes += work.pending.add(start, stop)
        self._settle(work)

    def _settle(self, work: Work) -> None:
        """Keep the queue of waiting works true. A work that waits again keeps its age."""
        if not work.pending:
            self._waiting.pop(work.key, None)
        elif work.key not in self._waiting:
            self._waiting[work.key] = work
            newest = next(reversed(self._works))
            if work.key != newest:
                order = [key for key in self._works if key in self._waiting]
                self._waiting = {key: self._waiting[key] for key in order}
