"""Models that are verified where they lie: one at a time, in a thread, while requests ask how far it is.

What a manifest names is hashed as ``shoal verify`` does it. What the Hub's own client fetched has no manifest, but its cache names
each blob by the digest of its content, so that is held against it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ...common.digests import GIT_SHA1, SHA256, digest_of_file
from ...common.errors import Busy, Conflict, NotFound, ShoalError
from ...common.library.records import Model, Place
from ...common.manifest import ManifestEntry, Problem, ProblemKind, verify_folder
from ...common.paths import SafeRoot

WAITING_MAX = 100
"""Models that wait to be verified."""
KEPT_MAX = 200
"""Verifications that are remembered."""
PROBLEMS_MAX = 1000
"""Wrong files that are named of one model; all are counted."""

_BLOB = {re.compile(r"[0-9a-f]{64}"): SHA256, re.compile(r"[0-9a-f]{40}"): GIT_SHA1}


class VerifyState(StrEnum):
    """How far a verification is."""

    RUNNING = "running"  # or waiting for its turn
    DONE = "done"
    FAILED = "failed"  # it could not be done; what is wrong with the files is no failure


@dataclass(kw_only=True, slots=True)
class Verification:
    """One model's. Written by the thread that hashes, read by others: each field is replaced as a whole. Sizes are in bytes."""

    model: Model
    state: VerifyState = VerifyState.RUNNING
    reason: str = ""
    checked: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])
    problems_total: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def add(self, problem: Problem) -> None:
        """Something is wrong."""
        self.problems_total += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems = [*self.problems, problem]


class Stopped(Exception):
    """The coordinator ends: nobody wants to know any more."""


class Verifications:
    """All of them. Use: ``run()`` in a task, for as long as others may ask."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Verification] = OrderedDict()
        self._waiting: asyncio.Queue[Verification] = asyncio.Queue(WAITING_MAX)

    def begin(self, model: Model) -> Verification:
        """Verify a model, or go on if that is under way. Raises Busy."""
        known = self._known.get(model.model_id)
        if known is not None and known.state is VerifyState.RUNNING:
            return known
        made = Verification(model=model)
        try:
            self._waiting.put_nowait(made)
        except asyncio.QueueFull:
            raise Busy("verify", cause=f"{WAITING_MAX} models wait already", remedy="try again later") from None
        self._known[model.model_id] = made
        self._known.move_to_end(model.model_id)
        while len(self._known) > KEPT_MAX:
            self._known.popitem(last=False)
        return made

    def find(self, model_id: str) -> Verification:
        """The last verification of a model. Raises NotFound."""
        known = self._known.get(model_id)
        if known is None:
            raise NotFound(f"verification of {model_id}", cause="nobody asked for one since the coordinator started")
        return known

    def wrong(self, model_id: str) -> Verification:
        """A verification that found something wrong. Raises NotFound, Conflict."""
        known = self.find(model_id)
        if known.state is not VerifyState.DONE or not known.problems:
            raise Conflict(f"model {model_id}", cause="its last verification found nothing wrong", remedy="verify it")
        return known

    async def run(self) -> None:
        """Verify what waits, one after the other, until this is cancelled."""
        while True:
            turn = await self._waiting.get()
            try:
                await _in_thread(turn)
            finally:
                turn.stopped.set()


async def _in_thread(turn: Verification) -> None:
    """In a thread that the process does not wait for when it ends: a file can take minutes to read."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def work() -> None:
        _verify(turn)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=work, name="verify", daemon=True).start()
    await ended.wait()


def _verify(turn: Verification) -> None:
    try:
        if turn.model.place is Place.HUB_CACHE and not (Path(turn.model.path) / ".shoal" / "manifest.json").exists():
            _hash_blobs(turn)
        else:
            _hash_named(turn)
    except Stopped:
        turn.reason = "the coordinator ended"
        turn.state = VerifyState.FAILED
    except (ShoalError, OSError) as error:
        turn.reason = str(error)
        turn.state = VerifyState.FAILED
    else:
        turn.state = VerifyState.DONE


def _is_of(entry: ManifestEntry, model: Model) -> bool:
    """Whether a file belongs to the model: several sources may share a folder."""
    return not model.source or not entry.source or entry.source.partition("@")[0] == model.source.partition("@")[0]


def _hash_named(turn: Verification) -> None:
    def checked(entry: ManifestEntry) -> None:
        if turn.stopped.is_set():
            raise Stopped
        if _is_of(entry, turn.model):
            turn.checked += 1
            turn.bytes += entry.size

    def wrong(problem: Problem) -> None:
        if _is_of(problem.entry, turn.model):
            turn.add(problem)

    verify_folder(Path(turn.model.path), on_problem=wrong, on_checked=checked)


def _hash_blobs(turn: Verification) -> None:
    """Hold each blob of a repo in the Hub's cache against its name. Raises NotFound, OSError."""
    with SafeRoot(turn.model.path) as root:
        for name in sorted(root.listdir_beneath("blobs")):
            algorithm = next((kind for pattern, kind in _BLOB.items() if pattern.fullmatch(name)), None)
            if algorithm is None:
                continue  # unfinished, or not named by its content
            if turn.stopped.is_set():
                raise Stopped
            _hash_blob(turn, root, name, algorithm)


def _hash_blob(turn: Verification, root: SafeRoot, name: str, algorithm: str) -> None:
    fd = root.open_beneath(f"blobs/{name}", os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        actual = digest_of_file(fd, f"{algorithm}:{name}", size)
    finally:
        os.close(fd)
    turn.checked += 1
    turn.bytes += size
    if actual != f"{algorithm}:{name}":
        entry = ManifestEntry(path=f"blobs/{name}", size=size, digest=f"{algorithm}:{name}", source=turn.model.source)
        turn.add(Problem(kind=ProblemKind.DIGEST, entry=entry, text=f"blobs/{name}: its digest is {actual}"))
