"""The end of a job: its manifest entries, and the removal of what only the work needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from ...common.digests import digest_of_file
from ...common.errors import NotFound, ShoalError, StateDamaged, UnsafeName
from ...common.manifest import ManifestEntry, read_manifest
from ...common.paths import SafeRoot
from ...common.records import JobSpec, Layout, ObjectSpec, OriginKind
from . import workfolder as names
from .claims import Claims
from .filesystems import boot_id
from .journal import read_journal
from .known import KnownFiles
from .layouts import FileLayout
from .merge import merge_manifest, path_key
from .partials import PartialFolder

MOVED_NS = -1
"""Stands for the modification time of a file that is not there any more because it was moved to a NAS."""


def known_files(job: JobSpec, root: SafeRoot, work: str) -> KnownFiles:
    """What earlier work knows of the files below root; for a forced job only what this very job has fetched already."""

    def entries() -> Iterator[ManifestEntry]:
        yield from _journal_entries(root, work, names.job_key(job) if job.force else names.source_key(job))
        if job.force:
            return
        try:
            with read_manifest(root, work) as manifest:
                for entry in manifest:
                    yield replace(entry, mtime_ns=MOVED_NS) if entry.moved_to else entry
        except (NotFound, StateDamaged):
            return

    return KnownFiles(
        entries(), by_path=job.layout is not Layout.HUB_CACHE, with_digests=job.origin is not OriginKind.HUB
    )


def finish_job(
    job: JobSpec,
    root: SafeRoot,
    work: str,
    layout: FileLayout,
    partials: PartialFolder,
    objects: Iterable[ObjectSpec],
    spool: str,
    claims: Claims,
) -> None:
    """Write a job's manifest entries and refs, then remove its marker, journals, partial files and empty folders.

    objects are walked once; spool is a free path below root for the time between that and the merge, which may have to begin
    again. What killed runs of the source left goes too, once nobody else is at work on it.

    Raises Busy, UnsafeName, OSError.
    """
    fd = root.open_beneath(spool, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with os.fdopen(fd, "w+b") as file:
        try:
            for entry in _job_entries(job, root, work, layout, objects):
                file.write(entry.to_json().encode() + b"\n")

            def spooled() -> Iterator[ManifestEntry]:
                file.seek(0)
                return (ManifestEntry.from_json(line) for line in file)

            about = {"revision": job.revision, "commit": job.commit}
            merge_manifest(root, work, spooled, sources={job.source: about}, is_news=not job.pinned)
        finally:
            root.unlink_beneath(spool)
    layout.finish()
    _remove_work(job, root, work, partials, claims)
    tidy(root, work)


def tidy(root: SafeRoot, work: str) -> None:
    """Remove the folders of a work folder that are empty. Where a job still has its marker, all stay: it needs them."""
    with suppress(OSError, UnsafeName):
        root.rmdir_beneath(f"{work}/jobs")
        with suppress(FileNotFoundError):
            root.rmdir_beneath(f"{work}/claims")
        root.rmdir_beneath(f"{work}/partial")
        root.rmdir_beneath(work)


def _job_entries(
    job: JobSpec, root: SafeRoot, work: str, layout: FileLayout, objects: Iterable[ObjectSpec]
) -> Iterator[ManifestEntry]:
    """An entry per finished object: from the journals of all agents, and from the objects themselves where those lack one."""
    seen: set[int] = set()
    for entry in _journal_entries(root, work, names.job_key(job)):
        key = path_key(entry.path)
        if key not in seen and _is_as_noted(root, layout, entry):
            seen.add(key)
            yield entry
    for spec in objects:
        try:
            path = layout.entry_path(spec)
            if path_key(path) in seen:
                continue
            fd = layout.open_data(spec, digest=spec.digest, etag=spec.etag)
        except (ShoalError, OSError):
            continue  # a name that was refused, or a file that cannot be read: it is not there for a manifest either
        if fd is None:
            continue
        try:
            found = os.fstat(fd)
            yield ManifestEntry(
                path=path,
                size=found.st_size,
                digest=spec.digest or digest_of_file(fd, "", found.st_size),
                etag=spec.etag,
                mtime_ns=found.st_mtime_ns,
                source=job.source,
                revision=job.revision,
                commit=job.commit,
            )
        finally:
            os.close(fd)


def _is_as_noted(root: SafeRoot, layout: FileLayout, entry: ManifestEntry) -> bool:
    try:
        fd = layout.open_entry(entry.path)
    except (OSError, UnsafeName):
        return False
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return (found.st_size, found.st_mtime_ns) == (entry.size, entry.mtime_ns)


def _journal_entries(root: SafeRoot, work: str, prefix: str) -> Iterator[ManifestEntry]:
    try:
        found = root.listdir_beneath(f"{work}/jobs")
    except FileNotFoundError:
        return
    for name in found:
        if not (name.startswith(prefix) and name.endswith(names.LOG)):
            continue
        try:
            fd = root.open_beneath(f"{work}/jobs/{name}", os.O_RDONLY)
        except (UnsafeName, FileNotFoundError):
            continue
        try:
            yield from read_journal(fd, boot_id=boot_id())
        finally:
            os.close(fd)


def other_runs(job: JobSpec, root: SafeRoot, work: str, claims: Claims) -> Iterator[tuple[str, bool]]:
    """The other jobs of the source that left anything here, and whether each is known to be over.

    One that a coordinator may go on with is not over as long as its marker is there: ``shoal clean`` goes by its age.
    """
    own, source = names.job_key(job), names.source_key(job)
    try:
        found = root.listdir_beneath(f"{work}/jobs")
    except FileNotFoundError:
        return
    for run in {name.partition(".")[0] for name in found if name.startswith(f"{source}-")} - {own}:
        marker = f"{run}{names.MARKER}"
        goes_on = marker in found and not _ends_with_its_process(root, f"{work}/jobs/{marker}")
        yield run, not goes_on and not claims.lives(run)


def _ends_with_its_process(root: SafeRoot, marker: str) -> bool:
    try:
        fd = root.open_beneath(marker, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return os.read(fd, len(names.ALONE)) == names.ALONE
    finally:
        os.close(fd)


def _remove_work(job: JobSpec, root: SafeRoot, work: str, partials: PartialFolder, claims: Claims) -> None:
    over = [names.job_key(job)]
    others = False
    for run, is_over in other_runs(job, root, work, claims):
        if is_over:
            over.append(run)
        else:
            others = True
    for name in root.listdir_beneath(f"{work}/jobs"):
        if name.partition(".")[0] in over and not claims.is_own_lease(name):
            with suppress(FileNotFoundError):
                root.unlink_beneath(f"{work}/jobs/{name}")
    claims.remove_of(over)
    # Another job of the same source may go on with the same partial files.
    temporary = tuple(f"{run}." for run in over)
    source = names.source_key(job)
    partials.remove(lambda name: name.startswith(temporary if others else source))
    claims.release()
