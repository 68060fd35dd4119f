"""What an agent knows of its copy of a replicated job, and what follows from orders and events. Pure: no I/O, no clock.

A chunk::

    (absent)  --FetchOrder--> waiting --slot free--> under way --arrived--> there
    under way --FetchOrder of another source--> under way (from there; what has come stays)
    under way --failed--> (absent)          what came of it stays on the disk, the coordinator orders it anew
    any       --drop, reset--> (absent)     its bytes are forgotten

A large object::

    incomplete --last chunk there--> complete --PublishOrder (and its own digest, where that is asked for)--> placed
    any        --reset--> incomplete        any --give_up, forgo--> given up

A bundle's objects are placed one by one, before the bundle is there. The copy is complete when every object is placed or given up.
After `readmit` nothing is ordered: a new session's coordinator learns all from the inventory and orders what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest

from ...common.chunks import Bundle, ChunkTable, Part
from ...common.records import Failure
from ...common.swarm_records import (
    ORIGIN,
    Arrival,
    ChunkProgress,
    FetchFailure,
    FetchOrder,
    PublishOrder,
    SwarmInventory,
    SwarmOrders,
    SwarmReport,
)
from .news import News, inventory
from .steps import Bring, Compute, Finish, Follow, Forget, Place, Reset, Step, Stop


class Book:
    """One copy. Methods that return steps want them done in order."""

    def __init__(self, table: ChunkTable, *, slots: int, compute_all: bool = False) -> None:
        """slots: chunks that may be under way at once; compute_all: every object's digest is computed here, too."""
        self.table = table
        self._slots = slots
        self._compute_all = compute_all
        self.held_bytes = 0  # of the chunks that are there
        self._have = bytearray(-(-len(table) // 8))
        self._placed = bytearray(len(table.object_ids))
        self._open_objects = len(table.object_ids)  # neither placed nor given up
        self._given_up: set[int] = set()
        self._forgone: dict[int, Failure] = {}  # cannot have their names here; others have them
        self._digests: dict[int, bytes] = {}
        self._waiting: dict[int, FetchOrder] = {}
        self._active: dict[int, FetchOrder] = {}
        self._vouch: set[int] = set()
        self._computing: set[int] = set()
        self._computed: dict[int, tuple[str, Failure | None]] = {}
        self._publish: dict[int, PublishOrder] = {}  # ordered, not placed yet
        self._placing: set[int] = set()
        self._finished = False
        self._seen = 0
        self._news = News()

    # ---- questions --------------------------------------------------------------------------------------------------

    def has(self, chunk: int) -> bool:
        """Whether the chunk is there."""
        return bool(self._have[chunk >> 3] >> (chunk & 7) & 1)

    def is_ordered(self, chunk: int) -> bool:
        """Whether the chunk is on its way, or will be soon."""
        return chunk in self._active or chunk in self._waiting

    def order(self, chunk: int) -> FetchOrder | None:
        """The order by which the chunk is brought now."""
        return self._active.get(chunk)

    @property
    def forgone(self) -> Sequence[Failure]:
        """Why objects cannot have their names here: with any of them the copy fails in the end."""
        return tuple(self._forgone.values())

    def unable(self, chunk: int, peer: int = ORIGIN) -> FetchFailure | None:
        """Why the chunk cannot become complete here, wherever it is ordered from."""
        part = self.table.chunk(chunk)
        positions = (part.position,) if isinstance(part, Part) else () if self.missing_of(chunk) else part.positions
        found = next((position for position in positions if position in self._forgone), None)
        return None if found is None else self._unable(chunk, peer, found)

    def _unable(self, chunk: int, peer: int, position: int) -> FetchFailure:
        failure, object_id = self._forgone[position], self.table.object_ids[position]
        return FetchFailure(chunk=chunk, peer=peer, failure=failure, object_id=object_id)

    @property
    def active(self) -> Iterable[int]:
        """Chunks under way."""
        return tuple(self._active)

    def is_placed(self, position: int) -> bool:
        """Whether the object has its name."""
        return bool(self._placed[position])

    def wants_digest(self, position: int) -> bool:
        """Whether the object's digest is to be computed here."""
        return self._compute_all or position in self._vouch

    def is_whole(self, position: int) -> bool:
        """Whether all chunks of the object are there."""
        return all(self.has(chunk) for chunk in self.table.chunks_of(position))

    # ---- what was found at first --------------------------------------------------------------------------------------

    def found_object(self, position: int) -> None:
        """The object is there under its name."""
        self._note_placed(position)

    def found_chunks(self, digests: Mapping[int, bytes]) -> None:
        """These chunks of an unfinished object are on the disk."""
        for chunk, digest in digests.items():
            self._set(chunk)
            self._digests[chunk] = digest

    def looked(self) -> list[Step]:
        """All that is there has been found."""
        for chunk in range(self.table.bundles):
            if not self.missing_of(chunk):
                self._set(chunk)
        for position in self.table.large:
            for chunk in self.table.chunks_of(position) if self._placed[position] else ():
                self._set(chunk)
        return self._finish_if_complete()

    def inventory(self, job_id: str, token: int, lives: tuple[int, ...] = ()) -> SwarmInventory:
        """All that is there. lives: of the large objects, as in `SwarmInventory`."""
        return inventory(job_id, token, self.table, bytes(self._have), self._placed, self._digests, lives)

    def readmit(self) -> list[Step]:
        """A new session stands: earlier orders are void, and reports that were not sent are told by the inventory."""
        steps: list[Step] = [Stop(chunk) for chunk in self._active]
        self._active.clear()
        self._waiting.clear()
        self._vouch.clear()
        self._news.clear()
        self._seen = 0  # another coordinator may count from the beginning
        return steps

    # ---- orders -----------------------------------------------------------------------------------------------------

    def obey(self, orders: SwarmOrders) -> list[Step]:
        """What the swarm wants."""
        self._seen = orders.seq
        steps: list[Step] = []
        for object_id, life in zip_longest(orders.reset, orders.lives):
            if object_id is not None and (position := self.table.position(object_id)) is not None:
                steps += self._reset(position, life)
        for chunk in orders.drop:
            if 0 <= chunk < len(self.table):
                steps += self._drop(chunk)
        for object_id in orders.give_up:
            if (position := self.table.position(object_id)) is not None:
                steps += self._give_up(position)
        for object_id in orders.vouch:
            if (position := self.table.position(object_id)) is not None:
                steps += self._vouch_for(position)
        for order in orders.fetch:
            if 0 <= order.chunk < len(self.table):
                steps += self._fetch(order)
        for order in orders.publish:
            if (position := self.table.position(order.object_id)) is not None:
                self._publish[position] = order
                steps += self._place_if_right(position, anew=True)
        return [*steps, *self._begin(), *self._finish_if_complete()]

    def _fetch(self, order: FetchOrder) -> list[Step]:
        chunk = order.chunk
        if self._finished:
            return []  # a seed brings nothing any more
        if self.has(chunk):
            if chunk in self._digests:  # our word and the order have crossed
                self._news.arrived.append(Arrival(chunk=chunk, digest=self._digests[chunk]))
            return []
        part = self.table.chunk(chunk)
        if isinstance(part, Part) and part.position in self._given_up:
            return []
        if (unable := self.unable(chunk, order.peer)) is not None:
            self._news.failed.append(unable)
            return []
        before = self._active.get(chunk)
        if before is None:
            self._waiting[chunk] = order
            return []
        self._active[chunk] = order
        return [] if before.peer == order.peer else [Bring(order)]

    def _begin(self) -> list[Step]:
        steps: list[Step] = []
        while self._waiting and len(self._active) < self._slots:
            chunk = next(iter(self._waiting))
            order = self._active[chunk] = self._waiting.pop(chunk)
            steps.append(Bring(order))
        return steps

    def _drop(self, chunk: int) -> list[Step]:
        steps = self._stop(chunk)
        self._clear(chunk)
        self._news.take_back((chunk,))
        part = self.table.chunk(chunk)
        for position in part.positions if isinstance(part, Bundle) else (part.position,):
            self._computing.discard(position)
            self._computed.pop(position, None)
            self._note_unplaced(position)
        return [*steps, Forget(chunk)]

    def _reset(self, position: int, life: int | None = None) -> list[Step]:
        steps: list[Step] = []
        for chunk in self.table.chunks_of(position):
            steps += self._stop(chunk)
            self._clear(chunk)
        self._vouch.discard(position)
        self._computing.discard(position)
        self._computed.pop(position, None)
        self._publish.pop(position, None)
        self._note_unplaced(position)
        chunks = self.table.chunks_of(position)
        self._news.take_back(chunks, self.table.object_ids[position])
        return [*steps, Reset(position, life) if chunks.start >= self.table.bundles else Forget(chunks.start)]

    def _give_up(self, position: int) -> list[Step]:
        if position in self._given_up:
            return []
        if not self._placed[position] and not self._is_without(position):
            self._open_objects -= 1
        self._given_up.add(position)
        self._vouch.discard(position)
        self._publish.pop(position, None)
        chunks = self.table.chunks_of(position)
        if chunks.start < self.table.bundles:
            return []  # what is under way of the bundle goes on without it
        return [step for chunk in chunks for step in self._stop(chunk)]

    def _vouch_for(self, position: int) -> list[Step]:
        self._vouch.add(position)
        done = self._computed.get(position)
        if done is not None:
            self._news.vouch(self.table.object_ids[position], *done)
            return []
        return self._compute_if_whole(position) or [Follow(position)]

    # ---- events -----------------------------------------------------------------------------------------------------

    def arrived(self, arrival: Arrival) -> list[Step]:
        """The chunk is on the disk. Nothing happens when it was stopped meanwhile."""
        chunk = arrival.chunk
        if self._active.pop(chunk, None) is None:
            return []
        part = self.table.chunk(chunk)
        if isinstance(part, Part) and arrival.size is not None:
            with suppress(ValueError):  # it was begun anew and has another size now
                self.table.learn_size(part.position, arrival.size)
        self._set(chunk)
        self._digests[chunk] = arrival.digest
        self._news.arrived.append(arrival)
        steps = self._begin()
        if isinstance(part, Part):
            steps += self._compute_if_whole(part.position)
        return [*steps, *self._finish_if_complete()]

    def failed(self, failure: FetchFailure) -> list[Step]:
        """The chunk could not be brought from where it was ordered from."""
        if self._active.pop(failure.chunk, None) is None:
            return []
        self._news.failed.append(failure)
        return [*self._begin(), *self._finish_if_complete()]

    def forgo(self, position: int, failure: Failure) -> list[Step]:
        """The object cannot have its name here. The copy goes on without it; what is ordered of it is answered with the reason."""
        if self._placed[position] or self._is_without(position):
            return []
        self._forgone[position] = failure
        self._open_objects -= 1
        self._publish.pop(position, None)
        steps: list[Step] = []
        chunks = self.table.chunks_of(position)
        for chunk in chunks if chunks.start >= self.table.bundles else ():
            if order := self._active.get(chunk) or self._waiting.get(chunk):
                self._news.failed.append(self._unable(chunk, order.peer, position))
                steps += self._stop(chunk)
        return [*steps, *self._begin(), *self._finish_if_complete()]

    def computed(self, position: int, digest: str, failure: Failure | None) -> list[Step]:
        """An object's digest was computed here. A failure says that it is not the publisher's."""
        self._computing.discard(position)
        if not self.is_whole(position):
            return []  # of bytes that were dropped meanwhile
        self._computed[position] = digest, failure
        if position in self._vouch:
            self._news.vouch(self.table.object_ids[position], digest, failure)
        elif failure is not None:
            return self.lost(position)  # what was right when it came is not any more
        return self._place_if_right(position)

    def placed(self, position: int) -> list[Step]:
        """A large object has its name."""
        self._placing.discard(position)
        if not self.is_whole(position):
            return []  # it was reset meanwhile
        self._publish.pop(position, None)
        self._note_placed(position)
        self._news.published.append(self.table.object_ids[position])
        return self._finish_if_complete()

    def small_placed(self, positions: Iterable[int]) -> None:
        """These objects of a bundle have their names. The coordinator hears of it when the bundle has arrived."""
        for position in positions:
            self._note_placed(position)

    def lost(self, position: int) -> list[Step]:
        """What was there of the object is not there any more, or not right any more."""
        gone = [chunk for chunk in self.table.chunks_of(position) if self.has(chunk)]
        self._news.take_back(gone, self.table.object_ids[position])
        self._news.lost += gone
        if self._finished:
            for chunk in gone:
                self._clear(chunk)
            return []
        return self._reset(position)

    def spoiled(self, chunk: int) -> None:
        """What has come of a chunk under way was wrong, nobody knows by whose fault: all of it comes again."""
        self._news.lost.append(chunk)

    def missing_of(self, chunk: int) -> list[int]:
        """Positions of a bundle's objects that are not in place."""
        part = self.table.chunk(chunk)
        assert isinstance(part, Bundle)
        return [at for at in part.positions if not self._placed[at] and not self._is_without(at)]

    def present_of(self, chunk: int) -> list[int]:
        """Positions of the objects that a bundle consists of: those that were given up are left out."""
        part = self.table.chunk(chunk)
        assert isinstance(part, Bundle)
        return [at for at in part.positions if at not in self._given_up]

    # ---- reports ----------------------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether something happened that the coordinator waits for."""
        return bool(self._news)

    def report(self, job_id: str, token: int, progress: Iterable[ChunkProgress] = ()) -> SwarmReport:
        """What happened since the last report."""
        return self._news.take(job_id, token, progress, seen=self._seen)

    # ---- how --------------------------------------------------------------------------------------------------------

    def _is_without(self, position: int) -> bool:
        return position in self._given_up or position in self._forgone

    def _stop(self, chunk: int) -> list[Step]:
        self._waiting.pop(chunk, None)
        return [] if self._active.pop(chunk, None) is None else [Stop(chunk)]

    def _compute_if_whole(self, position: int) -> list[Step]:
        known = position in self._computed or position in self._computing or self._placed[position]
        if known or not self.wants_digest(position) or not self.is_whole(position):
            return []
        self._computing.add(position)
        return [Compute(position)]

    def _place_if_right(self, position: int, *, anew: bool = False) -> list[Step]:
        order = self._publish.get(position)
        if order is None or position in self._placing:
            return []
        if self._placed[position]:
            del self._publish[position]
            if anew:
                self._news.published.append(order.object_id)
            return []
        if not self.is_whole(position):
            del self._publish[position]  # a chunk of it was dropped meanwhile: it is ordered again
            return []
        if self._compute_all:
            computed = self._computed.get(position)
            if computed is None or computed[1] is not None:
                return self._compute_if_whole(position)
        self._placing.add(position)
        return [Place(position, order)]

    def _finish_if_complete(self) -> list[Step]:
        if self._open_objects or self._finished:
            return []
        self._finished = True
        self._waiting.clear()
        return [Finish()]

    def _note_placed(self, position: int) -> None:
        if not self._placed[position]:
            self._placed[position] = 1
            self._open_objects -= not self._is_without(position)

    def _note_unplaced(self, position: int) -> None:
        if self._placed[position]:
            self._placed[position] = 0
            self._open_objects += not self._is_without(position)

    def _set(self, chunk: int) -> None:
        if not self.has(chunk):
            self._have[chunk >> 3] |= 1 << (chunk & 7)
            self.held_bytes += self.table.chunk_bytes(chunk)

    def _clear(self, chunk: int) -> None:
        if self.has(chunk):
            self._have[chunk >> 3] &= ~(1 << (chunk & 7))
            self.held_bytes -= self.table.chunk_bytes(chunk)
        self._digests.pop(chunk, None)
