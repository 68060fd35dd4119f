"""Several jobs end in one folder: their manifests become one.

They may do so at once, on several machines. So merging works under a lock file made with O_EXCL, which holds on NFS where
flock may not (open(2)). A lock that its holder has not touched for LOCK_EXPIRY_S is broken: the waiter goes by its own clock
and the lock's change of state, because the clocks of two machines need not agree. As a broken lock's holder may come back to life, the
new manifest is put in place only if the old one is still the one that was read.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from ...common.errors import NotFound, StateDamaged
from ...common.manifest import Manifest, ManifestEntry, read_manifest, write_manifest
from ...common.manifest_lock import manifest_lock
from ...common.paths import SafeRoot

_TOUCH_EVERY = 1000  # objects between two looks at the clock


def merge_manifest(
    root: SafeRoot,
    work: str,
    entries: Callable[[], Iterable[ManifestEntry]],
    *,
    sources: Mapping[str, Mapping[str, str]],
    is_news: bool = True,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Add entries, and what is known of their sources, to the manifest in a work folder below root. Returns how many objects it
    holds afterwards.

    An entry takes the place of an old one with the same path; of several new ones the first counts. So does what is known of a source,
    unless it is no news: files were brought back from a commit that need not be the last one. What is held in memory is a 64-bit hash
    per new path. entries is called again when somebody else changed the manifest meanwhile. A damaged
    manifest is replaced: files that only it knew are still there, and are hashed when they are next asked for.

    Raises Busy when others hold the lock for LOCK_WAIT_S, UnsafeName, OSError.
    """
    with manifest_lock(root, work, monotonic=monotonic, sleep=sleep) as touch:
        while True:
            old = _read_if_sound(root, work)
            try:
                was = old.checksum if old else ""
                known = dict(old.sources if old else {})
                known |= sources if is_news else {uri: sources[uri] for uri in sources if uri not in known}

                def check_unchanged(was: str = was) -> None:
                    now = _read_if_sound(root, work)
                    if now is not None:
                        now.close()
                    if (now.checksum if now else "") != was:
                        raise _ChangedMeanwhile

                merged = _merged(entries(), old, touch)
                return write_manifest(root, work, sources=known, entries=merged, before_rename=check_unchanged)
            except _ChangedMeanwhile:
                continue
            finally:
                if old is not None:
                    old.close()


class _ChangedMeanwhile(Exception):
    """Somebody broke our lock and wrote a manifest."""


def _read_if_sound(root: SafeRoot, work: str) -> Manifest | None:
    try:
        return read_manifest(root, work)
    except (NotFound, StateDamaged):
        return None


def _merged(new: Iterable[ManifestEntry], old: Manifest | None, touch: Callable[[], None]) -> Iterator[ManifestEntry]:
    seen: set[int] = set()
    for number, entry in enumerate(new):
        if number % _TOUCH_EVERY == 0:
            touch()
        key = path_key(entry.path)
        if key not in seen:
            seen.add(key)
            yield entry
    for number, entry in enumerate(old or ()):
        if number % _TOUCH_EVERY == 0:
            touch()
        if path_key(entry.path) not in seen:
            yield entry


def path_key(path: str) -> int:
    """64 bits that stand for a path where a set of paths would be too large."""
    return int.from_bytes(hashlib.blake2b(path.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
