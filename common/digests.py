"""Content digests as the publishers name them.

``sha256:HEX`` is plain SHA-256. ``git-sha1:HEX`` is git's blob id: the SHA-1 of ``"blob SIZE\\0"`` and then the content
(https://git-scm.com/book/en/v2/Git-Internals-Git-Objects), which the Hub names for files outside LFS.
"""

from __future__ import annotations

import hashlib
import os

from .errors import UsageError

SHA256 = "sha256"
GIT_SHA1 = "git-sha1"

_HEX_DIGITS = {SHA256: 64, GIT_SHA1: 40}
_READ_BYTES = 1 << 20
"""Large enough that the lock of the interpreter is not taken often, small enough for a core's cache."""

_LOWER_HEX = frozenset("0123456789abcdef")


class Hasher:
    """A running digest. hashlib releases the interpreter lock on buffers above 2 KiB, so hashing in threads runs in parallel."""

    __slots__ = ("_hash", "algorithm")

    def __init__(self, algorithm: str, *, size: int | None = None) -> None:
        """Args: algorithm (``sha256`` or ``git-sha1``), size (bytes of the whole content, which git-sha1 hashes first).

        Raises UsageError for another algorithm, or git-sha1 without a size.
        """
        self.algorithm = algorithm
        if algorithm == SHA256:
            self._hash = hashlib.sha256(usedforsecurity=False)
        elif algorithm == GIT_SHA1 and size is not None:
            self._hash = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        elif algorithm == GIT_SHA1:
            raise UsageError("digest git-sha1", cause="git's blob id cannot be computed before the size is known")
        else:
            raise UsageError(
                f"digest algorithm {algorithm!r}", cause="it is not known", remedy="use sha256 or git-sha1"
            )

    def update(self, data: memoryview | bytes | bytearray) -> None:
        """Feed the next bytes of the content."""
        self._hash.update(data)

    def result(self) -> str:
        """``ALGORITHM:HEX`` of what was fed so far."""
        return f"{self.algorithm}:{self._hash.hexdigest()}"


def new_hasher(digest: str, size: int | None) -> Hasher:
    """The hasher that computes what ``digest`` names; SHA-256 when it names nothing. Raises UsageError."""
    return Hasher(parse_digest(digest)[0] if digest else SHA256, size=size)


def matches(expected: str, actual: str) -> bool:
    """Whether a computed digest is the expected one. An empty expectation is met by everything. Raises UsageError."""
    return not expected or parse_digest(expected) == parse_digest(actual)


def parse_digest(text: str) -> tuple[str, str]:
    """Split ``ALGORITHM:HEX`` into algorithm and lower-case hex. Raises UsageError for anything else."""
    algorithm, colon, value = text.partition(":")
    value = value.lower()
    if not colon or len(value) != _HEX_DIGITS.get(algorithm) or not _LOWER_HEX.issuperset(value):
        raise UsageError(
            f"digest {text[:100]!r}",
            cause="it is not valid",
            remedy="write sha256: and 64, or git-sha1: and 40, hex digits",
        )
    return algorithm, value


def digest_of_file(fd: int, digest: str, size: int) -> str:
    """Hash the file open at fd from its beginning, as ``new_hasher(digest, size)`` does. Raises OSError, UsageError."""
    hasher = new_hasher(digest, size)
    buffer = memoryview(bytearray(min(_READ_BYTES, max(size, 1))))
    at = 0
    while count := os.preadv(fd, [buffer], at):
        hasher.update(buffer[:count])
        at += count
    return hasher.result()
