"""What a dataset says of itself, from the coordinator into its folder; and the end of its staging."""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial

from ...common.dataset_schema import PROFILES
from ...common.errors import NotFound
from ..engine.crew import Crew
from .place import STAGING, TEMPORARY, Place, disk_errors, remove_folder

ReadDocument = Callable[[str, str], AsyncIterator[bytes]]


async def write_document(place: Place, crew: Crew, read: ReadDocument, job_id: str, name: str, *, sync: bool) -> bool:
    """Write a document atomically; False where the coordinator has none of that name. Raises ShoalError."""
    staged = place.staged(f"{secrets.token_hex(8)}.{name}{TEMPORARY}")
    wrote = False
    try:
        try:
            async for block in read(job_id, name):
                await crew.run(partial(_append, place, staged, block)).wait()
                wrote = True
        except NotFound:
            return False
        if not wrote:
            await crew.run(partial(_append, place, staged, b"")).wait()
        await crew.run(partial(_publish, place, staged, name, sync)).wait()
        return True
    except BaseException:
        crew.run(partial(_remove, place, staged))
        raise


async def write_profiles(place: Place, crew: Crew, read: ReadDocument, job_id: str, *, sync: bool) -> None:
    """Write ``profiles.csv``: what the job measured, and of hosts that it did not what is there already. Raises ShoalError."""
    try:
        new = await read_whole(read, job_id, PROFILES)
    except NotFound:
        return
    there = await crew.run(partial(place.read_small, PROFILES)).wait()
    merged = merged_profiles(there[1] if there is not None else b"", new)

    async def blocks(_job_id: str, _name: str) -> AsyncIterator[bytes]:
        yield merged

    await write_document(place, crew, blocks, job_id, PROFILES, sync=sync)


def merged_profiles(old: bytes, new: bytes) -> bytes:
    """Two tables of profiles as one, a line a host, the new word before the old one. An old table of other columns does not count."""
    reader = csv.reader(io.StringIO(new.decode()))
    none: list[str] = []
    head = next(reader, none)
    lines = {line[0]: line for line in reader if line}
    before = csv.reader(io.StringIO(old.decode("utf-8", errors="replace")))
    try:
        if next(before, none) == head:
            lines = {line[0]: line for line in before if len(line) == len(head)} | lines
    except csv.Error:
        pass  # damaged by hand: what was measured now is right
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines[host] for host in sorted(lines))
    return out.getvalue().encode()


async def read_whole(read: ReadDocument, job_id: str, name: str) -> bytes:
    """All of a document. Raises ShoalError."""
    return b"".join([block async for block in read(job_id, name)])


def remove_staging(place: Place) -> None:
    """Remove what is left of the work of batches: all of them are finished. Blocks."""
    root, folder = place.staging, place.staged("").rstrip("/")
    with suppress(OSError):
        for name in root.listdir_beneath(folder):
            remove_folder(root, f"{folder}/{name}")
            with suppress(OSError):
                root.unlink_beneath(f"{folder}/{name}")
        root.rmdir_beneath(folder)
        if folder == STAGING:
            root.rmdir_beneath(STAGING.partition("/")[0])


def _append(place: Place, staged: str, block: bytes) -> None:
    with disk_errors(place.label):
        place.staging.makedirs_beneath(staged.rpartition("/")[0])
        fd = place.staging.open_beneath(staged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with os.fdopen(fd, "wb") as file:
            file.write(block)


def _publish(place: Place, staged: str, name: str, sync: bool) -> None:
    if sync:
        with disk_errors(place.label):
            fd = place.staging.open_beneath(staged, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    place.publish(staged, name)


def _remove(place: Place, staged: str) -> None:
    with suppress(OSError):
        place.staging.unlink_beneath(staged)
