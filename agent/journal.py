"""The journal: reports that the coordinator has not acknowledged yet, kept across a kill of the agent.

An append-only text file, a line an entry: a CRC-32 in hex, a space, JSON. ``{"put": {...}}`` holds a report, ``{"drop": [seq, ...]}``
those that were answered. A line that was cut short or damaged, and all after it, counts as never written: what it reported is
simply done again. There is no fsync: the page cache survives a kill, and after a power failure the files themselves say what is
done.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from ..common.errors import NotWritable, StateDamaged
from ..common.records import Failure, Outcome, Result

COMPACT_AT = 256 << 10
"""Bytes of journal above which it is rewritten as soon as nothing or little is left in it."""


class FileJournal:
    """Unacknowledged reports in a file. One process at a time (the agent holds a lock on its data folder)."""

    def __init__(self, path: Path) -> None:
        """Args: path of the journal file; its folder must exist. Raises NotWritable if it cannot be read or created."""
        self._path = path
        self._file = -1
        try:
            self._pending = _read(path)
            self._rewrite()
        except OSError as error:
            raise NotWritable(
                f"agent journal {path}", cause=str(error), remedy="name another folder with --data"
            ) from None

    @property
    def pending(self) -> dict[int, Result]:
        """Reports by seq, as far as they are not settled."""
        return dict(self._pending)

    def put(self, results: Iterable[Result]) -> None:
        """Remember reports. On return they survive a kill."""
        lines: list[bytes] = []
        for result in results:
            self._pending[result.seq] = result
            lines.append(_line({"put": _to_json(result)}))
        self._append(b"".join(lines))

    def drop(self, seqs: Iterable[int]) -> None:
        """Forget reports that were answered."""
        seqs = list(seqs)
        for seq in seqs:
            self._pending.pop(seq, None)
        self._append(_line({"drop": seqs}))
        if self._size > COMPACT_AT and self._size > 8 * len(self._pending) * 512:
            self._rewrite()

    def close(self) -> None:
        """Close the file; what is pending stays in it."""
        os.close(self._file)

    def _append(self, data: bytes) -> None:
        try:
            _write_all(self._file, data)
        except OSError:
            os.ftruncate(self._file, self._size)  # half a line would hide all that is written after it
            raise
        self._size += len(data)

    def _rewrite(self) -> None:
        """Replace the file by one that holds only what is pending; readers see the old or the new, never a mixture."""
        data = b"".join(_line({"put": _to_json(result)}) for result in self._pending.values())
        temporary = self._path.with_suffix(".new")
        fresh = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fresh, data)
            temporary.replace(self._path)
        except OSError:
            os.close(fresh)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file = fresh
        self._size = len(data)


class MemoryJournal:
    """A journal for agents that do not outlive their coordinator (embedded runs)."""

    def __init__(self) -> None:
        self.pending: dict[int, Result] = {}

    def put(self, results: Iterable[Result]) -> None:
        """Nothing to keep."""

    def drop(self, seqs: Iterable[int]) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to close."""


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _line(entry: dict[str, Any]) -> bytes:
    body = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _read(path: Path) -> dict[int, Result]:
    pending: dict[int, Result] = {}
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return pending
    for line in data.split(b"\n")[:-1]:
        crc, _, body = line.partition(b" ")
        try:
            if int(crc, 16) != zlib.crc32(body):
                break
            entry = json.loads(body)
            if "put" in entry:
                result = _from_json(entry["put"])
                pending[result.seq] = result
            else:
                for seq in entry["drop"]:
                    pending.pop(seq, None)
        except (ValueError, KeyError, TypeError, StateDamaged):
            break
    return pending


def _to_json(result: Result) -> dict[str, Any]:
    data: dict[str, Any] = {
        "seq": result.seq,
        "unit": result.unit,
        "token": result.token,
        "outcome": result.outcome.value,
        "done": result.done,
        "released": result.released,
        "fetched": result.fetched,
        "size": result.size,
        "digest": result.digest,
        "etag": result.etag,
        "skipped": result.skipped,
    }
    if result.failure is not None:
        data["failure"] = [result.failure.code, result.failure.text, result.failure.retryable]
    return data


def _from_json(data: dict[str, Any]) -> Result:
    failure = data.pop("failure", None)
    pairs = {key: tuple((int(a), int(b)) for a, b in data.pop(key)) for key in ("done", "released")}
    if failure is not None:
        code, text, retryable = cast("tuple[str, str, bool]", failure)
        failure = Failure(code=code, text=text, retryable=retryable)
    return Result(outcome=Outcome(data.pop("outcome")), failure=failure, **pairs, **data)
