"""Files that are to be copied, made from what their job, or the manifest beside them, says of them."""

from __future__ import annotations

from pathlib import Path

from ...common.manifest import ManifestEntry
from ...common.records import Delivery, JobSpec, Layout
from ..storage.workfolder import job_key
from .book import CopyItem
from .options import NasOptions


def item_of(
    entry: ManifestEntry,
    options: NasOptions,
    *,
    nas: Path,
    folder: Path,
    base: str,
    name: str,
    job_id: str,
    job_key: str = "",
    removable: bool = True,
    shared: bool = False,
) -> CopyItem:
    """The file of an entry below a destination, without a place in a queue yet. removable: nobody needs it here once it is copied."""
    return CopyItem(
        queue="",
        seq=0,
        job_id=job_id,
        job_key=job_key,
        nas=str(nas),
        folder=str(folder),
        base=base,
        path=entry.path,
        source=entry.source,
        name=name,
        size=entry.size,
        digest=entry.digest,
        mtime_ns=entry.mtime_ns,
        etag=entry.etag,
        revision=entry.revision,
        commit=entry.commit,
        preserve=options.preserve_structure,
        remove=options.delete_after_copy and removable,
        shared=shared,
    )


def item_of_job(
    job: JobSpec, entry: ManifestEntry, options: NasOptions, *, nas: Path, folder: Path, base: str, name: str
) -> CopyItem:
    """A file that a job has finished. The Hub's cache shares files between revisions, archives are still to be unpacked, and a
    replicated job is about having the files: in these nothing is removed."""
    spread = job.delivery is Delivery.SPREAD
    return item_of(
        entry,
        options,
        nas=nas,
        folder=folder,
        base=base,
        name=name,
        job_id=job.job_id,
        job_key=job_key(job),
        removable=spread and job.layout is Layout.FOLDER and not job.unpack,
        shared=not spread,
    )
