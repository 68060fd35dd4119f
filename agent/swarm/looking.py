"""What blocks of a copy: looking for what is there, hashing chunks, reading and publishing bundles. For threads."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...common.chunks import Bundle, ChunkTable
from ...common.digests import matches, new_hasher
from ...common.errors import (
    Changed,
    Conflict,
    NoSpace,
    NotShared,
    NotWritable,
    ShoalError,
    UnsafeName,
    VerificationFailed,
)
from ...common.intervals import Interval
from ...common.records import ObjectSpec
from ..engine.pieces import MIB
from ..engine.units import wrong_digest

if TYPE_CHECKING:
    from ..storage.destination import Destination, Published

READ_BYTES = 2 * MIB
NAME_ERRORS = (Conflict, UnsafeName)
"""One object cannot have its name on this agent; what others have of it is as good as ever, and so are all other names."""
LOOK_BATCH = 32
"""Small objects that one thread looks for in one go."""


class ChunkHash:
    """The BLAKE3 digest of bytes [start, stop) of a file, while they come in order; what came otherwise is read back in the end.

    One thread at a time uses it: a chunk's writes follow each other.
    """

    def __init__(self, start: int, stop: int) -> None:
        from blake3 import blake3

        self.position = start  # the byte that is to be heard next
        self.stop = stop
        self._hash = blake3()

    def update(self, data: memoryview) -> None:
        """The next bytes."""
        self._hash.update(data)
        self.position += len(data)

    def finish(self, fd: int, stop: int) -> bytes:
        """Read what was not heard, up to ``stop``; the digest. Raises VerificationFailed when the file ends before, OSError."""
        if self.position < stop:
            buffer = memoryview(mmap.mmap(-1, min(READ_BYTES, stop - self.position)))
            while self.position < stop:
                count = os.preadv(fd, [buffer[: stop - self.position]], self.position)
                if not count:
                    raise VerificationFailed("chunk", cause=f"its partial file ends at byte {self.position}")
                self.update(buffer[:count])
        return self._hash.digest()


def digest_of(data: memoryview) -> bytes:
    """BLAKE3 of bytes in memory."""
    from blake3 import blake3

    return blake3(data).digest()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there of an object: its final file, or chunks (start: digest) in its partial file."""

    published: Published | None
    chunks: dict[int, bytes]


def look(destination: Destination, objects: Iterable[tuple[ObjectSpec, Sequence[Interval]]]) -> list[Seen]:
    """Look for objects. With each come the bounds of its chunks; none for a small one. Raises what the disk raises."""
    seen: list[Seen] = []
    for spec, chunks in objects:
        try:
            present = destination.find_present(spec)
            known = present is not None or not chunks or spec.size is None
            seen.append(Seen(present, {} if known else _hash_partial(destination, spec, chunks)))
        except NAME_ERRORS:
            seen.append(Seen(None, {}))  # what is to be done of it will say why it cannot be
    return seen


def _hash_partial(destination: Destination, spec: ObjectSpec, chunks: Sequence[Interval]) -> dict[int, bytes]:
    try:
        partial = destination.open_partial(spec, create=False)
    except NotShared:  # there is none
        return {}
    try:
        if os.fstat(partial.fd).st_size != spec.size:
            return {}  # a power failure has cut it: it is begun anew when it is opened to be written
        whole = ((start, stop) for start, stop in chunks if partial.done.covers(start, stop))
        return {start: ChunkHash(start, stop).finish(partial.fd, stop) for start, stop in whole}
    except OSError:
        return {}
    finally:
        partial.close()


OpenFile = Callable[[ObjectSpec], int | None]


def digest_of_files(open_file: OpenFile, specs: Iterable[ObjectSpec]) -> bytes:
    """BLAKE3 of files one after the other. Raises Changed when one is not as it was published, OSError."""
    from blake3 import blake3

    whole = blake3()
    for spec in specs:
        if spec.size == 0:
            continue
        fd = open_file(spec)
        if fd is None:
            raise Changed(spec.path, cause="it was removed or changed since it was published")
        try:
            assert spec.size is not None, "an object without a size is not bundled"
            at = 0
            while at < spec.size:
                data = os.pread(fd, spec.size - at, at)
                if not data:
                    raise Changed(spec.path, cause=f"it ends at byte {at}")
                whole.update(data)
                at += len(data)
        finally:
            os.close(fd)
    return whole.digest()


@dataclass(frozen=True, slots=True)
class BundlePlaced:
    """A bundle that came from a peer: its digest, those of its objects, and which of them could not have their names."""

    digest: bytes
    digests: tuple[str, ...]
    refused: dict[int, ShoalError]  # by place in the bundle


def publish_bundle(
    destination: Destination, specs: Sequence[ObjectSpec], wanted: Sequence[bool], data: memoryview, expected: bytes
) -> BundlePlaced:
    """Verify a bundle and its files, then publish those that are wanted. data: of all of them, one after the other.

    Raises VerificationFailed, and then nothing was published; what ``Destination.publish_bytes`` does, but for `NAME_ERRORS`.
    """
    digest = digest_of(data)
    if expected and digest != expected:
        raise VerificationFailed("bundle", cause="what came is not what the first agent had that fetched it")
    pieces: list[tuple[ObjectSpec, memoryview, str]] = []
    at = 0
    for spec in specs:
        assert spec.size is not None
        piece = data[at : at + spec.size]
        at += spec.size
        hasher = new_hasher(spec.digest, spec.size)
        hasher.update(piece)
        actual = hasher.result()
        if not matches(spec.digest, actual):
            raise wrong_digest(spec, actual)
        pieces.append((spec, piece, actual))
    refused: dict[int, ShoalError] = {}
    for place, ((spec, piece, actual), want) in enumerate(zip(pieces, wanted, strict=True)):
        if not want:
            continue
        try:
            destination.publish_bytes(spec, (piece,), digest=actual, etag=spec.etag)
        except NAME_ERRORS as error:
            refused[place] = error
    return BundlePlaced(digest, tuple(actual for _, _, actual in pieces), refused)


def is_ours(error: BaseException) -> bool:
    """Whether the error is of this agent's own disk, so that no source can help, and not of one name alone."""
    return isinstance(error, NoSpace | NotWritable | NotShared | OSError)


def batches(table: ChunkTable) -> Iterator[list[int]]:
    """Positions to look for together: many small ones, a large one alone."""
    large = set(table.large)
    batch: list[int] = []
    for position in range(len(table.object_ids)):
        if position in large:
            yield [position]
            continue
        batch.append(position)
        if len(batch) == LOOK_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def bounds_of(table: ChunkTable, position: int) -> list[Interval]:
    """The chunks of a large object of known size, as bytes of it."""
    bounds: list[Interval] = []
    for chunk in table.chunks_of(position):
        part = table.chunk(chunk)
        if isinstance(part, Bundle) or part.stop is None:
            return []
        bounds.append((part.start, part.stop))
    return bounds
