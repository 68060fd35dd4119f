"""Unpacking a job's archives, once all of its objects have their names. For a thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.errors import Changed, NotWritable
from ...common.manifest import WORK_FOLDER
from ...common.paths import SafeRoot
from ...common.records import JobSpec, Layout, ObjectSpec
from ...common.roots import resolve_destination
from ..storage.layouts import base_folder, work_folder
from .options import EngineOptions

if TYPE_CHECKING:
    from ..storage.destination import Destination
    from ..unpack.formats import UnpackTarget
    from ..unpack.members import Limits
    from .archive_streams import ArchiveStreams


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackPlace:
    """An open folder, where below it an archive goes, and the work folder below it. Close it.

    made are the folders that were missing on the way there, the uppermost first.
    """

    root: SafeRoot
    into: str
    work: str
    made: tuple[Path, ...]

    def close(self) -> None:
        """Close the folder."""
        self.root.close()


def unpack_place(destination: Destination, job: JobSpec, target: UnpackTarget, options: EngineOptions) -> UnpackPlace:
    """Make and open the folder that an archive is unpacked into.

    Raises NotWritable; Refused for a folder that this agent may not write to.
    """
    folder, into, work = destination.path, target.into, work_folder(job)
    if target.base:
        folder = resolve_destination(target.base, root=options.root, allow=options.allow_paths)
        work = WORK_FOLDER
    elif job.layout is Layout.HUB_CACHE:  # where the Hub's client finds the archive, too
        into = f"{base_folder(job)}/snapshots/{job.commit}/{into}".rstrip("/")
    missing = tuple(above for above in (*reversed(folder.parents), folder) if not above.exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return UnpackPlace(root=SafeRoot(folder), into=into, work=work, made=missing)
    except OSError as error:
        raise NotWritable(str(folder), cause=(error.strerror or str(error)).lower()) from None


def limits_of(options: EngineOptions) -> Limits:
    """How much may come out of one archive."""
    from ..unpack.members import Limits

    return Limits(
        bytes_max=options.unpack_bytes_max, ratio_max=options.unpack_ratio_max, files_max=options.unpack_files_max
    )


def unpack_all(
    destination: Destination,
    job: JobSpec,
    objects: Iterable[ObjectSpec],
    options: EngineOptions,
    *,
    cancelled: Callable[[], bool],
    streams: ArchiveStreams | None = None,
) -> int:
    """Unpack those of the objects that are archives, with the digests and ETags that they were published with; how many were.

    What was unpacked from the same bytes before stays; what was unpacked while it arrived (streams) is only put in place. Raises
    what ``unpack_file`` does; Changed when an archive is not as it was published; what ``unpack_place`` does.
    """
    from ..unpack.formats import unpack_target

    count = 0
    for spec in objects:
        target = unpack_target(spec.path, unpack=job.unpack, unpack_format=job.unpack_format)
        if target is not None:
            _unpack(destination, job, spec, target, options, cancelled, streams)
            count += 1
    return count


def _unpack(
    destination: Destination,
    job: JobSpec,
    spec: ObjectSpec,
    target: UnpackTarget,
    options: EngineOptions,
    cancelled: Callable[[], bool],
    streams: ArchiveStreams | None,
) -> None:
    from ..unpack.unpacking import unpack_file

    stamp = spec.digest or spec.etag
    stream = streams.take(spec.object_id) if streams is not None else None
    try:
        fd = destination.open_published(spec, digest=spec.digest, etag=spec.etag)
        if fd is None:
            raise Changed(spec.path, cause="it was removed or changed since it was published")
        try:
            if stream is not None and stream.commit(fd, stamp, cancelled):
                return
            place = unpack_place(destination, job, target, options)
            try:
                unpack_file(
                    place.root,
                    fd,
                    name=spec.path,
                    into=place.into,
                    format=target.format,
                    limits=limits_of(options),
                    stamp=stamp,
                    cancelled=cancelled,
                    work=place.work,
                    sync=options.sync,
                )
            finally:
                place.close()
        finally:
            os.close(fd)
    finally:
        if stream is not None:
            stream.end()
