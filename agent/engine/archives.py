"""Unpacking a job's archives, once all of its objects have their names. For a thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ...common.errors import Changed, NotWritable
from ...common.manifest import WORK_FOLDER
from ...common.paths import SafeRoot
from ...common.records import JobSpec, Layout, ObjectSpec
from ..storage.layouts import base_folder, work_folder
from ..storage.roots import resolve_destination
from .options import EngineOptions

if TYPE_CHECKING:
    from ..storage.destination import Destination
    from ..unpack.formats import UnpackTarget


def unpack_all(
    destination: Destination,
    job: JobSpec,
    objects: Iterable[ObjectSpec],
    options: EngineOptions,
    *,
    cancelled: Callable[[], bool],
) -> int:
    """Unpack those of the objects that are archives, with the digests and ETags that they were published with; how many were.

    What was unpacked from the same bytes before stays. Raises what ``unpack_file`` does; Changed when an archive is not as it was
    published; Refused for a folder that this agent may not write to.
    """
    from ..unpack.formats import unpack_target

    count = 0
    for spec in objects:
        target = unpack_target(spec.path, unpack=job.unpack, unpack_format=job.unpack_format)
        if target is not None:
            _unpack(destination, job, spec, target, options, cancelled)
            count += 1
    return count


def _unpack(
    destination: Destination,
    job: JobSpec,
    spec: ObjectSpec,
    target: UnpackTarget,
    options: EngineOptions,
    cancelled: Callable[[], bool],
) -> None:
    from ..unpack.members import Limits
    from ..unpack.unpacking import unpack_file

    folder, into, work = destination.path, target.into, work_folder(job)
    if target.base:
        folder = resolve_destination(target.base, root=options.root, allow=options.allow_paths)
        work = WORK_FOLDER
    elif job.layout is Layout.HUB_CACHE:  # where the Hub's client finds the archive, too
        into = f"{base_folder(job)}/snapshots/{job.commit}/{into}".rstrip("/")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritable(str(folder), cause=(error.strerror or str(error)).lower()) from None
    fd = destination.open_published(spec, digest=spec.digest, etag=spec.etag)
    if fd is None:
        raise Changed(spec.path, cause="it was removed or changed since it was published")
    try:
        with SafeRoot(folder) as root:
            unpack_file(
                root,
                fd,
                name=spec.path,
                into=into,
                format=target.format,
                limits=Limits(
                    bytes_max=options.unpack_bytes_max,
                    ratio_max=options.unpack_ratio_max,
                    files_max=options.unpack_files_max,
                ),
                stamp=spec.digest or spec.etag,
                cancelled=cancelled,
                work=work,
                sync=options.sync,
            )
    finally:
        os.close(fd)
