"""Destinations: can they be written, is there room, and what their file system can do. The state folders, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.disk_errors import disk_error
from ...common.errors import NoSpace, ShoalError
from ...common.mounts import bears_database, filesystem_type, is_network
from ...common.room import check_room, nearest_folder
from ...common.units import format_size
from ...common.uri import HubUri, SourceUri
from .access import Planned, planned
from .disk_probing import Looked, look_at
from .records import Finding, failed, failed_by, ok, skipped, warning
from .visit import in_thread

if TYPE_CHECKING:
    from .visit import Visit

FREE_SHARE_MIN = 20
"""Less than a twentieth free is worth a word even where everything fits: others write there, too."""


async def looked_at(visit: Visit) -> list[Looked]:
    """All destinations of this run."""
    return [
        await visit.once(f"folder {place}", lambda place=place: in_thread(lambda: look_at(visit.settings, place)))
        for place in visit.wishes.destinations
    ]


# ---- the checks ---------------------------------------------------------------------------------------------------------


async def check_destination(visit: Visit) -> list[Finding]:
    """Whether the folder is there or can be made, and can be written: a file is made, synced, renamed and removed."""
    return [judge_destination(looked) for looked in await looked_at(visit)]


def judge_destination(looked: Looked) -> Finding:
    """Can it be written?"""
    subject = str(looked.folder)
    if looked.error is not None:
        return failed_by(looked.error, subject=subject)
    there = "" if looked.nearest == looked.folder else f", can be made below {looked.nearest}"
    return ok(f"writable{there}: a file was written, synced, renamed, removed", subject=subject)


async def check_space(visit: Visit) -> list[Finding]:
    """Free space against the sources that were named, with what is already there counted."""
    return [await _room(visit, looked, judge_space) for looked in await looked_at(visit)]


async def check_inodes(visit: Visit) -> list[Finding]:
    """Free inodes against the number of files."""
    return [await _room(visit, looked, judge_inodes) for looked in await looked_at(visit)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is to come into a folder. unknown: sources whose size could not be learned."""

    total_bytes: int = 0
    objects: int = 0
    files_each: int = 1
    sources: int = 0
    unknown: int = 0


async def _room(visit: Visit, looked: Looked, judge: Callable[[Looked, Load, ShoalError | None], Finding]) -> Finding:
    if looked.size_bytes == 0 and looked.error is not None:
        return skipped("the folder cannot be looked at", subject=str(looked.folder))
    plans: list[Planned] = []
    unknown = 0
    for uri in _coming(visit, looked):
        try:
            plans.append(await planned(visit, uri))
        except ShoalError:
            unknown += 1
    load = Load(
        total_bytes=sum(plan.total_bytes for plan in plans),
        objects=sum(plan.objects for plan in plans),
        files_each=2 if any(plan.endpoint for plan in plans) else 1,  # as PREPARE counts: metadata or a link
        sources=len(plans),
        unknown=unknown,
    )
    short = await in_thread(lambda: _short(looked, load, judge is judge_inodes))
    return judge(looked, load, short)


def _coming(visit: Visit, looked: Looked) -> list[SourceUri]:
    """The sources that go into this folder: all of them, unless Hub repos go into the cache and the others elsewhere."""
    wishes = visit.wishes
    if len(wishes.destinations) == 1:
        return list(wishes.uris)
    into_cache = looked.folder == Path(os.path.realpath(visit.settings.hub.cache))
    return [uri for uri in wishes.uris if isinstance(uri, HubUri) == into_cache]


def _short(looked: Looked, load: Load, files: bool) -> ShoalError | None:
    """PREPARE's own rule. In a thread: where room looks short it counts what is there."""
    try:
        check_room(
            looked.folder,
            total_bytes=0 if files else load.total_bytes,
            total_objects=load.objects if files else 0,
            files_each=load.files_each,
            on=looked.nearest,
        )
    except NoSpace as error:
        return error
    except OSError as error:
        return disk_error(error, str(looked.folder))
    return None


def judge_space(looked: Looked, load: Load, short: ShoalError | None) -> Finding:
    """Do the bytes fit?"""
    subject = str(looked.folder)
    free = f"{format_size(looked.free_bytes)} of {format_size(looked.size_bytes)} are free"
    if short is not None:
        seen = f"{format_size(load.total_bytes)} are to come, {free}"
        return failed(
            seen,
            subject=subject,
            remedy="free some space or quota, or choose another destination",
            exit_code=short.exit_code,
            code=short.code,
        )
    if looked.free_bytes == 0:
        error = NoSpace(subject, cause=free, remedy="free some space or quota, or choose another destination")
        return failed_by(error, subject=subject)
    seen = free + _coming_text(load, format_size(load.total_bytes))
    if load.unknown:
        remedy = "see the check sources; what it holds could not be counted"
        number = f"{load.unknown} source{'' if load.unknown == 1 else 's'}"
        return warning(f"{seen}; the size of {number} is not known", subject=subject, remedy=remedy)
    if looked.free_bytes * FREE_SHARE_MIN < looked.size_bytes and not load.sources:
        return warning(f"{seen}: that is little", subject=subject, remedy="name the sources, to see whether they fit")
    return ok(seen, subject=subject)


def judge_inodes(looked: Looked, load: Load, short: ShoalError | None) -> Finding:
    """Do the files fit?"""
    subject = str(looked.folder)
    if looked.free_files is None:
        return ok("this file system makes inodes as it needs them", subject=subject)
    free = f"{looked.free_files:,} inodes are free"
    remedy = "remove files, ask for more inodes, or choose another destination"
    if short is not None:
        seen = f"{load.objects * load.files_each:,} files are to come, {free}"
        return failed(seen, subject=subject, remedy=remedy, exit_code=short.exit_code, code=short.code)
    if looked.free_files == 0:
        return failed_by(NoSpace(subject, cause=free, remedy=remedy), subject=subject)
    return ok(free + _coming_text(load, f"{load.objects * load.files_each:,}"), subject=subject)


def _coming_text(load: Load, amount: str) -> str:
    return f", {amount} are to come" if load.sources else ""


async def check_filesystem(visit: Visit) -> list[Finding]:
    """The kind of file system, and whether rename, O_EXCL, flock and copy_file_range do what they should there."""
    return [judge_filesystem(looked) for looked in await looked_at(visit)]


_NEEDED = {"O_EXCL", "rename"}
_MEANINGS = {
    "flock": "locks between runs rest on lock files that expire instead",
    "copy_file_range": "copies on it pass through this machine",
}


def judge_filesystem(looked: Looked) -> Finding:
    """What it cannot do. Only O_EXCL and rename are indispensable."""
    subject = str(looked.folder)
    if not looked.abilities:
        return skipped("it cannot be written", subject=subject)
    where = "shared or network" if is_network(looked.kind) else "local"
    kind = f"{looked.kind or 'unknown type'} ({where})"
    broken = [ability for ability in looked.abilities if ability.reason]
    needed = [ability for ability in broken if ability.name in _NEEDED]
    if needed:
        seen = f"{kind}: {'; '.join(f'{ability.name}: {ability.reason}' for ability in needed)}"
        remedy = "choose a destination on a POSIX file system; on this one a finished file could be lost or mixed"
        error = NoSpace(subject, cause=seen, remedy=remedy)
        return failed(seen, subject=subject, remedy=remedy, exit_code=error.exit_code, code=error.code)
    if looked.ignores_case:
        remedy = (
            "files whose names differ only in case are refused here: choose another file system if a source has such"
        )
        return warning(f"{kind}: it takes A and a for one name", subject=subject, remedy=remedy)
    if broken:
        seen = f"{kind}: {'; '.join(f'{ability.name}: {ability.reason}' for ability in broken)}"
        return warning(seen, subject=subject, remedy="; ".join(_MEANINGS[ability.name] for ability in broken))
    return ok(f"{kind}: {', '.join(ability.name for ability in looked.abilities)} work", subject=subject)


async def check_state(visit: Visit) -> list[Finding]:
    """Whether the state folders are on a local disk and can be written."""
    settings = visit.settings
    folders = {"coordinator.state": settings.coordinator.state, "agent.data": settings.agent.data}
    return [await in_thread(lambda name=name, path=path: _state(name, path)) for name, path in folders.items()]


def _state(name: str, path: Path) -> Finding:
    subject = f"{name} {path}"
    try:
        nearest = nearest_folder(path)
        writable = os.access(nearest, os.W_OK | os.X_OK)
        return judge_state(subject, filesystem_type(nearest), writable=writable, nearest=nearest)
    except ShoalError as error:
        return failed_by(error, subject=subject)
    except OSError as error:
        return failed_by(disk_error(error, str(path)), subject=subject)


def judge_state(subject: str, kind: str, *, writable: bool, nearest: Path) -> Finding:
    """A warning at most: a client alone needs neither."""
    name = subject.partition(" ")[0]
    if not bears_database(kind):
        seen = f"it lies on {kind}, where locks and databases cannot be relied on: a coordinator refuses it"
        if name != "coordinator.state":
            seen = f"it lies on {kind}: every agent needs a folder of its own there, and a slow one delays its reports"
        return warning(seen, subject=subject, remedy=f"set {name} to a folder on a local disk")
    if not writable:
        remedy = f"make it, or set {name} to a folder that can be written"
        return warning(f"{nearest} cannot be written by this account", subject=subject, remedy=remedy)
    return ok(f"{kind or 'unknown type'} (local)", subject=subject)
