"""Files that are known to be right, so that they need not be hashed again.

A manifest entry or a journal line says that a file of this path, size and modification time had this digest. For a repo of a
million files that would be hundreds of megabytes; the question is only ever "is just this known?", so a sorted array of 64-bit
fingerprints does. That two of them agree by chance for a changed file has a probability of about n / 2⁶⁴.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from ...common.manifest import ManifestEntry

_RECENT_MAX = 8192


class KnownFiles:
    """A set of fingerprints: 24 bytes a file. Not thread-safe."""

    def __init__(self, entries: Iterable[ManifestEntry], *, by_path: bool) -> None:
        """by_path: a file is known under its path; otherwise (blobs, which are named by their digest) under its digest alone."""
        self._by_path = by_path
        self._recent: set[int] = set()
        found = array("Q")
        for entry in entries:
            found.extend(self._fingerprints(entry))
        self._sorted = array("Q", sorted(found))

    def add(self, entry: ManifestEntry) -> None:
        """Add a file that was finished just now."""
        self._recent.update(self._fingerprints(entry))
        if len(self._recent) > _RECENT_MAX:
            self._sorted = array("Q", sorted([*self._sorted, *self._recent]))
            self._recent.clear()

    def has_digest(self, path: str, size: int, mtime_ns: int, digest: str) -> bool:
        """Whether the file was seen to have this digest."""
        return self._holds(self._fingerprint(path, size, mtime_ns, digest))

    def has_validator(self, path: str, size: int, mtime_ns: int, source: str, etag: str) -> bool:
        """Whether the file was fetched from this source under this validator, or under any when etag is empty."""
        return self._holds(self._fingerprint(path, size, mtime_ns, f"{source}\0{etag}"))

    def _holds(self, fingerprint: int) -> bool:
        at = bisect_left(self._sorted, fingerprint)
        return (at < len(self._sorted) and self._sorted[at] == fingerprint) or fingerprint in self._recent

    def _fingerprints(self, entry: ManifestEntry) -> Iterator[int]:
        for what in {entry.digest, f"{entry.source}\0{entry.etag}", f"{entry.source}\0"}:
            yield self._fingerprint(entry.path, entry.size, entry.mtime_ns, what)

    def _fingerprint(self, path: str, size: int, mtime_ns: int, what: str) -> int:
        text = f"{path if self._by_path else ''}\0{size}\0{mtime_ns}\0{what}".encode(errors="surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
