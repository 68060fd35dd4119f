"""Looking at a plain folder that files were fetched to: by Shoal's manifest, else by the Hub client's metadata.

``DIR/.shoal/manifest.json`` names source, revision and every file. ``DIR/.cache/huggingface/download/PATH.metadata`` is what the Hub's
client leaves: commit, ETag and time of every file, but not which repo it was. What neither names is not ours.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import NotFound, ShoalError, StateDamaged, UnsafeName
from ..manifest import MANIFEST_NAME, WORK_FOLDER, ManifestEntry, read_manifest
from ..paths import SafeRoot
from ..uri import HubUri, S3Uri, parse_uri
from ..uri_records import COMMIT
from .hub_cache import DEPTH_MAX, model_id, read_config
from .naming import family_of, owner_of
from .quantization import group_files, labels_of
from .records import Model, ModelFile, Place, Revision

MANIFEST: Final = f"{WORK_FOLDER}/{MANIFEST_NAME}"
CLIENT: Final = ".cache/huggingface/download"
METADATA: Final = ".metadata"
METADATA_BYTES_MAX: Final = 1024
_BESIDE: Final = (".lock", ".incomplete")  # what the client leaves beside its metadata


@dataclass(slots=True)
class FolderSource:
    """The files of one source in a folder. uri is as the manifest has it; "" for files of the Hub's client."""

    uri: str
    revision: str = ""
    commit: str = ""
    files: list[ModelFile] = field(default_factory=list[ModelFile])


@dataclass(slots=True)
class PlainFolder:
    """What lies in a folder. watched are the paths below it whose times tell of changes."""

    sources: dict[str, FolderSource] = field(default_factory=dict[str, FolderSource])
    watched: list[str] = field(default_factory=list[str])
    config: dict[str, Any] | None = None
    damaged: str = ""  # what is wrong with the manifest


def read_folder(root: SafeRoot) -> PlainFolder:
    """Read what is recorded of a folder, and look at each file that is named. Raises OSError."""
    found = PlainFolder(watched=["", MANIFEST, CLIENT])
    known: set[str] = set()
    try:
        with read_manifest(root) as manifest:
            for uri, about in manifest.sources.items():
                found.sources[uri] = FolderSource(uri, str(about.get("revision", "")), str(about.get("commit", "")))
            for entry in manifest:
                source = found.sources.setdefault(
                    entry.source, FolderSource(entry.source, entry.revision, entry.commit)
                )
                source.files.append(_file_of(root, entry))
                known.add(entry.path)
    except (NotFound, UnsafeName):
        pass
    except StateDamaged as error:
        found.damaged = error.cause
    client = FolderSource("")
    for path, commit in _client_files(root, found):
        if path not in known and (file := _look(root, path, commit)) is not None:
            client.files.append(file)
    if client.files:
        newest = max(client.files, key=lambda file: file.mtime)
        client.commit = newest.commits[0] if newest.commits else ""
        found.sources[""] = client
    if any(file.path == "config.json" for source in found.sources.values() for file in source.files):
        found.config = read_config(root, "config.json")
    return found


def models_of(root: SafeRoot, folder: PlainFolder) -> list[Model]:
    """The library's records of a folder: one for each source that has files there."""
    path = str(root.path)
    return [
        _model(path, source, folder.config)
        for source in folder.sources.values()
        if any(file.state != "missing" for file in source.files)
    ]


def _model(path: str, source: FolderSource, config: dict[str, Any] | None) -> Model:
    kind, repo_id, uri = _identity(source.uri, path)
    there = [file for file in source.files if file.state != "missing"]
    fetched_at = max((file.mtime for file in there), default=0.0)
    grouping = group_files(((file.path, file.bytes) for file in there), config=config, repo_id=repo_id)
    refs = (source.revision or "main",) if source.uri and not COMMIT.fullmatch(source.revision) else ()
    is_repo = kind in ("model", "dataset", "space")
    size = sum(file.bytes for file in there)
    return Model(
        model_id=model_id(path, source.uri),
        kind=kind,
        repo_id=repo_id,
        source=uri,
        place=Place.FOLDER,
        path=path,
        owner=owner_of(repo_id) if is_repo else repo_id.partition("/")[0],
        family=family_of(repo_id) if is_repo else repo_id,
        quantizations=labels_of(grouping) if kind == "model" else (),
        revisions=(
            Revision(
                commit=source.commit,
                refs=refs if is_repo else (),
                files=len(there),
                bytes=size,
                fetched_at=fetched_at,
            ),
        )
        if source.commit
        else (),
        bytes=size,
        files=len(there),
        fetched_at=fetched_at,
    )


def _identity(source: str, path: str) -> tuple[str, str, str]:
    """Kind, name and canonical URI without a revision, of a source as a manifest names it."""
    name = path.rstrip("/").rpartition("/")[2]
    if not source:
        return "model", name, ""
    try:
        uri = parse_uri(source)
    except ShoalError:
        return "unknown", name, ""
    if isinstance(uri, HubUri):
        whole = HubUri(kind=uri.kind, repo_id=uri.repo_id, revision=None, path=uri.path)
        return uri.kind.value, uri.repo_id, whole.canonical()
    if isinstance(uri, S3Uri):
        return "s3", f"{uri.bucket}/{uri.key}".rstrip("/"), uri.canonical()
    return source.partition(":")[0], str(uri).partition("://")[2].partition("?")[0], source


def _file_of(root: SafeRoot, entry: ManifestEntry) -> ModelFile:
    commits = (entry.commit,) if entry.commit else ()
    found = _look(root, entry.path, entry.commit)
    if found is None:
        return ModelFile(path=entry.path, bytes=0, commits=commits, state="missing")
    if found.bytes != entry.size:
        return ModelFile(path=entry.path, bytes=found.bytes, commits=commits, state="changed", mtime=found.mtime)
    return found


def _look(root: SafeRoot, path: str, commit: str) -> ModelFile | None:
    """A file that is named, if a regular one is there."""
    try:
        found = root.stat_beneath(path)
    except (OSError, UnsafeName):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return ModelFile(path=path, bytes=found.st_size, commits=(commit,) if commit else (), mtime=found.st_mtime)


def _client_files(root: SafeRoot, found: PlainFolder) -> Iterator[tuple[str, str]]:
    """Paths and commits that the Hub client's metadata names."""
    pending = [CLIENT]
    while pending:
        folder = pending.pop()
        try:
            names = root.listdir_beneath(folder)
        except (OSError, UnsafeName):
            continue
        if folder != CLIENT:
            found.watched.append(folder)
        for name in sorted(names):
            path = f"{folder}/{name}"
            with suppress(OSError, UnsafeName):
                if name.endswith(METADATA):
                    yield path[len(CLIENT) + 1 : -len(METADATA)], _commit_of(root, path)
                elif (
                    path.count("/") < DEPTH_MAX
                    and not name.endswith(_BESIDE)
                    and stat.S_ISDIR(root.stat_beneath(path).st_mode)
                ):
                    pending.append(path)


def _commit_of(root: SafeRoot, path: str) -> str:
    fd = root.open_beneath(path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        commit = file.read(METADATA_BYTES_MAX).partition(b"\n")[0].decode(errors="replace").strip()
    return commit if COMMIT.fullmatch(commit) else ""
