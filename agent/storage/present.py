"""Whether an object is there already, by what the manifest and the journals know, or by hashing it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...common.digests import digest_of_file, matches
from ...common.records import Delivery, JobSpec, Layout, ObjectSpec, OriginKind
from .finishing import MOVED_NS

if TYPE_CHECKING:
    from .opened import OpenDestination


def digest_of_present(
    here: OpenDestination, job: JobSpec, spec: ObjectSpec, fd: int, found: os.stat_result
) -> str | None:
    """The digest of the file open at fd when it is the object's present version, else None. May hash it. Raises OSError."""
    if spec.size is not None and found.st_size != spec.size:
        return None
    key = here.layout.entry_path(spec), found.st_size, found.st_mtime_ns
    if spec.digest:
        if here.knows(lambda known: known.has_digest(*key, spec.digest)):
            return spec.digest
        if job.force:
            return None
        actual = digest_of_file(fd, spec.digest, found.st_size)
        return actual if matches(spec.digest, actual) else None
    # Nothing but the record of how it was fetched tells what it is. Whether its bytes still are those is for `shoal verify`.
    recorded = here.knows(lambda known: known.recorded_digest(*key, job.source, spec.etag))
    if recorded:
        return recorded
    # A Hub's digests are not kept in memory: its files that have none are few.
    if job.origin is OriginKind.HUB and here.knows(lambda known: known.has_validator(*key, job.source, spec.etag)):
        return digest_of_file(fd, "", found.st_size)
    return None


def digest_of_moved(here: OpenDestination, job: JobSpec, spec: ObjectSpec) -> str | None:
    """The digest of a file that was removed here after a verified copy on a NAS, so that it is not fetched again; None for no such.

    A job that needs the file itself, to unpack it or to pass it on, does not count it. The NAS is not asked: it may hang.
    """
    if job.layout is not Layout.FOLDER or job.unpack or job.delivery is not Delivery.SPREAD or spec.size is None:
        return None
    key = here.layout.entry_path(spec), spec.size, MOVED_NS
    if spec.digest:
        return spec.digest if here.knows(lambda known: known.has_digest(*key, spec.digest)) else None
    return here.knows(lambda known: known.recorded_digest(*key, job.source, spec.etag)) or None
