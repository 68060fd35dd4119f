"""Files that are known to be right, so that they need not be hashed again.

A manifest entry or a journal line says that a file of this path, size and modification time had this digest. For a repo of a
million files that would be hundreds of megabytes; the question is only ever "is just this known?", so a sorted array of 64-bit
fingerprints does. That two of them agree by chance for a changed file has a probability of about n / 2⁶⁴.

Where publishers name no digests, the digest that was computed when a file came is kept beside its fingerprint: it is what the
manifest must go on saying. Hashing the file again instead would take long, and would take damage for the truth.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from ...common.digests import SHA256
from ...common.manifest import ManifestEntry

_RECENT_MAX = 8192
_SHA256_BYTES = 32


class KnownFiles:
    """A set of fingerprints: 24 bytes a file, 64 with digests. Not thread-safe."""

    def __init__(self, entries: Iterable[ManifestEntry], *, by_path: bool, with_digests: bool = False) -> None:
        """by_path: a file is known under its path; otherwise (blobs, which are named by their digest) under its digest alone.
        with_digests: for sources that name none, so that `recorded_digest` has an answer."""
        self._by_path = by_path
        self._with_digests = with_digests
        self._recent: set[int] = set()
        self._recent_digests: dict[int, bytes] = {}
        self._keys = array("Q")  # in the order of the digests
        self._digests = bytearray()
        found = array("Q")
        for entry in entries:
            found.extend(self._fingerprints(entry))
            if with_digests and (raw := _raw_sha256(entry.digest)):
                self._keys.append(self._by_source(entry))
                self._digests += raw
        self._sorted = array("Q", sorted(found))
        self._sort_digests()

    def add(self, entry: ManifestEntry) -> None:
        """Add a file that was finished just now."""
        self._recent.update(self._fingerprints(entry))
        if self._with_digests and (raw := _raw_sha256(entry.digest)):
            self._recent_digests[self._by_source(entry)] = raw
        if len(self._recent) > _RECENT_MAX:
            self._sorted = array("Q", sorted([*self._sorted, *self._recent]))
            self._recent.clear()
            for key, raw in self._recent_digests.items():
                self._keys.append(key)
                self._digests += raw
            self._recent_digests.clear()
            self._sort_digests()

    def has_digest(self, path: str, size: int, mtime_ns: int, digest: str) -> bool:
        """Whether the file was seen to have this digest."""
        return self._holds(self._fingerprint(path, size, mtime_ns, digest))

    def has_validator(self, path: str, size: int, mtime_ns: int, source: str, etag: str) -> bool:
        """Whether the file was fetched from this source under this validator, or under any when etag is empty."""
        return self._holds(self._fingerprint(path, size, mtime_ns, f"{source}\0{etag}"))

    def recorded_digest(self, path: str, size: int, mtime_ns: int, source: str, etag: str) -> str:
        """``sha256:HEX`` as it was computed when the file came from this source under this validator; "" where that is not known."""
        if not self.has_validator(path, size, mtime_ns, source, etag):
            return ""
        key = self._fingerprint(path, size, mtime_ns, f"{source}\0")
        raw = self._recent_digests.get(key)
        if raw is None:
            at = bisect_left(self._keys, key)
            if at == len(self._keys) or self._keys[at] != key:
                return ""
            raw = self._digests[at * _SHA256_BYTES : (at + 1) * _SHA256_BYTES]
        return f"{SHA256}:{raw.hex()}"

    def _sort_digests(self) -> None:
        order = sorted(range(len(self._keys)), key=self._keys.__getitem__)
        digests = memoryview(bytes(self._digests))
        self._keys = array("Q", (self._keys[at] for at in order))
        self._digests = bytearray().join(digests[at * _SHA256_BYTES : (at + 1) * _SHA256_BYTES] for at in order)

    def _by_source(self, entry: ManifestEntry) -> int:
        return self._fingerprint(entry.path, entry.size, entry.mtime_ns, f"{entry.source}\0")

    def _holds(self, fingerprint: int) -> bool:
        at = bisect_left(self._sorted, fingerprint)
        return (at < len(self._sorted) and self._sorted[at] == fingerprint) or fingerprint in self._recent

    def _fingerprints(self, entry: ManifestEntry) -> Iterator[int]:
        for what in {entry.digest, f"{entry.source}\0{entry.etag}", f"{entry.source}\0"}:
            yield self._fingerprint(entry.path, entry.size, entry.mtime_ns, what)

    def _fingerprint(self, path: str, size: int, mtime_ns: int, what: str) -> int:
        text = f"{path if self._by_path else ''}\0{size}\0{mtime_ns}\0{what}".encode(errors="surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _raw_sha256(digest: str) -> bytes:
    """The bytes of ``sha256:HEX``; none for another algorithm."""
    algorithm, _, digits = digest.partition(":")
    return bytes.fromhex(digits) if algorithm == SHA256 else b""
