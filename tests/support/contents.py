"""File contents that the stand-in servers hand out: bytes, files on disk, and files that exist only as a rule.

Every content answers ``read(offset, limit)`` like ``os.pread``: at most ``limit`` bytes, fewer at an inner boundary or at
the end, none past the end. Contents are immutable and safe to share between repos, servers and threads.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 1 << 20
# Each block of a SyntheticFile is the first one, rotated. The step is a prime, so that a piece written at a wrong place
# (a multiple of any usual piece size away) always differs from what belongs there.
ROTATION_BYTES = 611_953


class Content(Protocol):
    """A sequence of bytes of known size that can be read anywhere."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read(self, offset: int, limit: int) -> bytes | memoryview:
        """At most ``limit`` bytes from ``offset``; empty only past the end or when ``limit`` is 0."""
        ...


ContentLike = bytes | Path | Content


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Content held in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, limit: int) -> memoryview:
        return memoryview(self.data)[offset : offset + limit]


@dataclass(frozen=True, slots=True)
class FileContent:
    """Content of a file on disk, taken with the size that it had when it was named."""

    path: Path
    size: int

    def read(self, offset: int, limit: int) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), max(0, min(limit, self.size - offset)), offset)


@functools.lru_cache(maxsize=16)
def _doubled_block(seed: int) -> memoryview:
    """One pseudo-random block, twice in a row, so that each of its rotations is one slice of it (2 MiB)."""
    return memoryview(_prefix(seed, BLOCK_BYTES) * 2)


def _prefix(seed: int, size: int) -> bytes:
    """The first ``size`` bytes of the block of ``seed``: SHAKE-128 is an extendable output, so short ones are cheap."""
    return hashlib.shake_128(b"synthetic %d" % seed).digest(size)


@dataclass(frozen=True, slots=True)
class SyntheticFile:
    """Deterministic pseudo-random content that takes no disk and next to no memory.

    Args: size (bytes), seed (files of one seed begin alike; different seeds share nothing).
    """

    size: int
    seed: int = 0

    def read(self, offset: int, limit: int) -> bytes | memoryview:
        length = max(0, min(limit, self.size - offset))
        if self.size <= BLOCK_BYTES:
            return memoryview(_prefix(self.seed, offset + length))[offset:] if length else b""
        block, within = divmod(offset, BLOCK_BYTES)
        start = block * ROTATION_BYTES % BLOCK_BYTES + within
        if start >= BLOCK_BYTES:
            start -= BLOCK_BYTES
        return _doubled_block(self.seed)[start : start + min(length, BLOCK_BYTES - within)]


@dataclass(frozen=True, slots=True)
class FlippedContent:
    """Another content with every bit of one byte inverted."""

    base: Content
    offset: int

    @property
    def size(self) -> int:
        return self.base.size

    def read(self, offset: int, limit: int) -> bytes | memoryview:
        data = self.base.read(offset, limit)
        at = self.offset - offset
        if not 0 <= at < len(data):
            return data
        changed = bytearray(data)
        changed[at] ^= 0xFF
        return bytes(changed)


@dataclass(frozen=True, slots=True)
class InvertedContent:
    """Another content with every bit inverted: the same size, no byte in common."""

    base: Content

    @property
    def size(self) -> int:
        return self.base.size

    def read(self, offset: int, limit: int) -> bytes:
        return bytes(self.base.read(offset, limit)).translate(_INVERSE)


_INVERSE = bytes(255 - value for value in range(256))


@dataclass(frozen=True, slots=True)
class ResizedContent:
    """Another content, cut or padded with zero bytes to ``size``."""

    base: Content
    size: int

    def read(self, offset: int, limit: int) -> bytes | memoryview:
        length = max(0, min(limit, self.size - offset))
        if offset >= self.base.size:
            return bytes(length)
        return self.base.read(offset, min(length, self.base.size - offset))


def as_content(source: ContentLike) -> Content:
    """The content of ``source``. Raises FileNotFoundError when a Path names nothing."""
    if isinstance(source, bytes):
        return BytesContent(source)
    if isinstance(source, Path):
        return FileContent(source, source.stat().st_size)
    return source


def read_all(content: Content) -> bytes:
    """All bytes of ``content``, in one piece: for what is known to be small."""
    parts: list[bytes] = []
    offset = 0
    while offset < content.size:
        data = content.read(offset, BLOCK_BYTES)
        parts.append(bytes(data))
        offset += len(data)
    return b"".join(parts)


def sha256_hex(content: Content) -> str:
    """The sha256 of ``content``, computed once per process for each big SyntheticFile (a GiB takes 0.6 s)."""
    if isinstance(content, SyntheticFile) and content.size > BLOCK_BYTES:
        return _synthetic_sha256_hex(content)
    return _digest(content, hashlib.sha256())


@functools.lru_cache(maxsize=256)
def _synthetic_sha256_hex(content: SyntheticFile) -> str:
    return _digest(content, hashlib.sha256())


def git_blob_sha1_hex(content: Content) -> str:
    """git's object id of ``content``: the sha1 of ``blob SIZE``, a zero byte, then the bytes."""
    return _digest(content, hashlib.sha1(b"blob %d\0" % content.size, usedforsecurity=False))


def lfs_pointer(sha256: str, size: int) -> bytes:
    """What git stores in place of an LFS file (the pointer format of git-lfs, version 1)."""
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (sha256.encode(), size)


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def _digest(content: Content, state: _Hash) -> str:
    offset = 0
    while offset < content.size:
        data = content.read(offset, BLOCK_BYTES)
        if not data:
            raise OSError(f"{content!r} ends at {offset} of {content.size} bytes")
        state.update(data)
        offset += len(data)
    return state.hexdigest()
