"""Looking before fetching: the files of a source, grouped; the room at a destination."""

# described() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from ...common.errors import Conflict
from ...common.library.quantization import Grouping, group_files
from ...common.room import Room, room_at
from ...common.selection import Selection
from ..inspecting import Found, FoundFile, look_at
from ..sources.base import SourceRequest
from .jobs_api import HUB_CACHE, check_destination, source_of
from .routing import Routes
from .schema import described
from .site import Site

LISTED_MAX = 5000
"""Files that are named; groups and sums count all."""

USED_JOBS_MAX = 50
"""Jobs whose folders are proposed."""

routes = Routes("sources")


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectQuery:
    """Which source."""

    uri: str = described("hf://ORG/NAME[@REV][/PATH], ORG/NAME, s3://…, https://…", minLength=1, maxLength=8192)
    revision: str = described("Branch, tag or commit.", "", maxLength=250)
    profile: str = described("Credentials of [s3.NAME].", "", maxLength=256)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileGroup:
    """Files that belong together: the weights of one quantization, all shards of them, a sidecar."""

    label: str = described("The quantization, such as Q4_K_M, AWQ or FP16.")
    kind: str = described("gguf, safetensors, pytorch, …")
    name: str = described("What people call it: the files' common name.")
    files: tuple[str, ...]
    bytes: int
    shards: int = described("0: one file.")
    missing: int = described("Shards that are not there.")
    bits: float | None = described("Bits per weight, where the configuration tells.")
    sidecar: bool = described("A projector, draft head or importance matrix: fetched beside the weights.")
    default: bool = described("The one to pick when nobody says which.")
    include: tuple[str, ...] = described("What to give POST /download as include.")
    download_bytes: int = described("With the configuration and texts that include names as well.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedName:
    """A name that cannot be written safely."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A source as it is now. Nothing was fetched."""

    uri: str
    repo_id: str
    revision: str
    commit: str
    files_total: int
    bytes_total: int
    cut: bool = described("There are more files than were looked at.")
    files: tuple[FoundFile, ...] = described("At most 5,000.")
    groups: tuple[FileGroup, ...]
    rest: tuple[str, ...] = described("Configuration, tokenizer, texts and whatever else is no weight; at most 5,000.")
    rest_bytes: int
    refused: tuple[RefusedName, ...] = described("Files whose names cannot be written safely.")
    warnings: tuple[str, ...]


@routes.get(
    "/api/inspect",
    summary="Files of a source, grouped by quantization",
    asks_origin=True,
    errors=(401, 403, 404, 409, 429, 502, 503),
)
async def inspect_source(site: Site, *, query: InspectQuery) -> Inspection:
    """Lists the source now. For a gated repo the problem's remedy names the page where access is asked for."""
    uri = await source_of(site, query.uri)
    if site.inspecting.locked():
        raise Conflict("inspect", cause="several sources are being listed already", remedy="try again in a moment")
    async with site.inspecting:
        found = await look_at(
            SourceRequest(uri=uri, revision=query.revision, selection=Selection(), profile=query.profile),
            site.open_source,
        )
    grouping = await asyncio.to_thread(_grouped, found)
    return Inspection(
        uri=found.uri,
        repo_id=found.repo_id,
        revision=found.revision,
        commit=found.commit,
        files_total=len(found.files),
        bytes_total=found.bytes_total,
        cut=found.cut,
        files=found.files[:LISTED_MAX],
        groups=_groups(grouping, {file.path: file.size or 0 for file in found.files}),
        rest=grouping.rest[:LISTED_MAX],
        rest_bytes=grouping.rest_bytes,
        refused=tuple(RefusedName(name=name, reason=reason) for name, reason in found.refused),
        warnings=found.warnings,
    )


def _grouped(found: Found) -> Grouping:
    return group_files(((file.path, file.size) for file in found.files), repo_id=found.repo_id)


def _groups(grouping: Grouping, sizes: Mapping[str, int]) -> tuple[FileGroup, ...]:
    rows = [(row, False) for row in grouping.variants] + [(row, True) for row in grouping.sidecars]
    shown: list[FileGroup] = []
    for row, sidecar in rows:
        wanted = row.files if sidecar else grouping.files_for(row)
        shown.append(
            FileGroup(
                label=row.label,
                kind=row.kind,
                name=row.name,
                files=row.files,
                bytes=row.bytes,
                shards=row.shards,
                missing=row.missing,
                bits=row.bits,
                sidecar=sidecar,
                default=row is grouping.default,
                include=tuple(escape(path) for path in wanted),
                download_bytes=sum(sizes.get(path, 0) for path in wanted),
            )
        )
    return tuple(shown)


@dataclass(frozen=True, kw_only=True, slots=True)
class Destinations:
    """Where downloads may go, and went."""

    allowed: tuple[str, ...] = described("Folders that web.destinations names; empty: all are allowed.")
    hub_cache: str = described("Folder of the Hub's cache; empty where it is not among web.destinations.")
    used: tuple[str, ...] = described("Folders of the newest jobs, newest first.")


@routes.get("/api/destinations", summary="Folders to propose for a download")
async def list_destinations(site: Site) -> Destinations:
    """POST /download takes others, too, unless web.destinations says where downloads may go."""
    allowed = site.settings.web.destinations
    used = [view.destination for view in site.api.list_jobs(limit=USED_JOBS_MAX, after="")]
    return Destinations(
        allowed=tuple(each for each in allowed if each != HUB_CACHE),
        hub_cache=str(site.settings.hub.cache) if not allowed or HUB_CACHE in allowed else "",
        used=tuple(dict.fromkeys(each for each in used if each.startswith("/"))),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceQuery:
    """Which folder."""

    destination: str = described("As POST /download takes it.", "", maxLength=4096)


@routes.get("/api/space", summary="Free space at a destination", errors=(400, 403, 404))
async def get_space(site: Site, *, query: SpaceQuery) -> Room:
    """As the coordinator's machine sees the folder. Agents on other machines look for themselves before they fetch."""
    check_destination(site.settings, query.destination)
    if query.destination in ("", HUB_CACHE):
        folder = site.settings.hub.cache
    else:
        folder = site.settings.agent.root / query.destination.lstrip("/")
    return await asyncio.to_thread(room_at, Path(folder))
