"""Looking at one repo's folder in the Hub client's cache: ``models--ORG--NAME/{blobs,snapshots,refs}``.

Nothing is followed that the layout does not name: a snapshot's entry may be a symlink to ``blobs/NAME``, a blob one into the
store that repos of the cache share (``blobs/XX/HASH`` beside them). Whatever else lies there is not ours to count.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

from ..errors import UnsafeName
from ..paths import SafeRoot
from ..uri_records import COMMIT
from .naming import family_of, owner_of
from .quantization import group_files, labels_of
from .records import Model, ModelFile, Place, Revision

KINDS: Final = {"models": "model", "datasets": "dataset", "spaces": "space"}
REPO_FOLDER: Final = re.compile(r"(models|datasets|spaces)--(?!-)[A-Za-z0-9_.-]{1,240}")
BLOB: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
IGNORED: Final = frozenset({".DS_Store"})  # of the client's own list
CONFIG_BYTES_MAX: Final = 1 << 20
REF_BYTES_MAX: Final = 512
DEPTH_MAX: Final = 64  # folders below a snapshot

_SHARED = re.compile(r"blobs/[0-9a-f]{2}/([0-9a-f]{64})")


@dataclass(slots=True)
class CachedRepo:
    """What lies in a repo's folder. Paths are below the cache; sizes in bytes, times in seconds since 1970."""

    name: str  # of the folder
    refs: dict[str, str] = field(default_factory=dict[str, str])  # ref -> commit
    entries: dict[str, dict[str, str]] = field(
        default_factory=dict[str, dict[str, str]]
    )  # commit -> path -> blob or ""
    sizes: dict[str, int] = field(default_factory=dict[str, int])  # blob -> bytes; "commit/path" for files without one
    times: dict[str, float] = field(default_factory=dict[str, float])
    shared: dict[str, tuple[str, int]] = field(
        default_factory=dict[str, tuple[str, int]]
    )  # blob -> store's name, bytes
    folders: list[str] = field(
        default_factory=list[str]
    )  # that were read, below the cache: their times tell of changes
    config: dict[str, Any] | None = None

    def key(self, commit: str, path: str) -> str:
        """What the sizes of a snapshot's entry are known under."""
        return self.entries[commit][path] or f"{commit}/{path}"


def repo_of_folder(name: str) -> tuple[str, str] | None:
    """Kind and repo id of a repo's folder; None for another name."""
    if REPO_FOLDER.fullmatch(name) is None:
        return None
    prefix, _, rest = name.partition("--")
    return KINDS[prefix], rest.replace("--", "/")


def read_repo(root: SafeRoot, name: str) -> CachedRepo | None:
    """Read a repo's folder below a cache; None when it is none, or is gone. Raises OSError."""
    repo = CachedRepo(name)
    try:
        commits = _names(root, f"{name}/snapshots", repo)
        _read_refs(root, name, repo)
        blobs = _names(root, f"{name}/blobs", repo) or []
    except (NotADirectoryError, UnsafeName):
        return None
    if commits is None:
        return None
    for blob in blobs:
        if BLOB.fullmatch(blob) and not blob.endswith(".incomplete"):
            _read_blob(root, repo, blob)
    for commit in commits:
        if COMMIT.fullmatch(commit):
            repo.entries[commit] = {}
            for path in _walk(root, f"{name}/snapshots/{commit}", repo):
                _read_entry(root, repo, commit, path)
    repo.config = _config(root, repo)
    return repo


def model_of(root: SafeRoot, repo: CachedRepo) -> Model | None:
    """The library's record of a repo; None when nothing of it is on disk."""
    named = repo_of_folder(repo.name)
    if named is None or not repo.entries:
        return None
    kind, repo_id = named
    names = {commit: tuple(sorted(ref for ref, to in repo.refs.items() if to == commit)) for commit in repo.entries}
    revisions = tuple(
        sorted((_revision(repo, commit, names[commit]) for commit in repo.entries), key=lambda each: -each.fetched_at)
    )
    used = {repo.key(commit, path) for commit, paths in repo.entries.items() for path in paths}
    files: dict[str, int] = {}
    for commit, paths in repo.entries.items():
        for path in paths:
            files.setdefault(path, repo.sizes[repo.key(commit, path)])
    grouping = group_files(files.items(), config=repo.config, repo_id=repo_id) if kind == "model" else None
    path = str(root.path / repo.name)
    return Model(
        model_id=model_id(path, ""),
        kind=kind,
        repo_id=repo_id,
        source=f"hf://{'' if kind == 'model' else kind + 's/'}{repo_id}",
        place=Place.HUB_CACHE,
        path=path,
        owner=owner_of(repo_id),
        family=family_of(repo_id),
        quantizations=labels_of(grouping) if grouping else (),
        revisions=revisions,
        bytes=sum(repo.sizes[key] for key in used),
        files=len(used),
        fetched_at=max(each.fetched_at for each in revisions),
        shared=tuple(sorted({repo.shared[key] for key in used if key in repo.shared})),
    )


def files_of(repo: CachedRepo) -> Iterator[ModelFile]:
    """The files of a repo, by path; a path that two revisions have with other bytes comes twice."""
    found: dict[tuple[str, str], list[str]] = {}
    for commit, paths in repo.entries.items():
        for path in paths:
            found.setdefault((path, repo.key(commit, path)), []).append(commit)
    for (path, key), commits in sorted(found.items()):
        blob = "" if "/" in key else key
        yield ModelFile(
            path=path, bytes=repo.sizes[key], commits=tuple(commits), data=blob, mtime=repo.times.get(key, 0.0)
        )


def model_id(path: str, source: str) -> str:
    """12 hex digits (48 bits: among 10,000 a clash has a chance of 2e-7) for a source in a folder."""
    return hashlib.sha256(f"{path}\0{source}".encode(errors="surrogatepass")).hexdigest()[:12]


def _revision(repo: CachedRepo, commit: str, refs: tuple[str, ...]) -> Revision:
    keys = {repo.key(commit, path) for path in repo.entries[commit]}
    return Revision(
        commit=commit,
        refs=refs,
        files=len(repo.entries[commit]),
        bytes=sum(repo.sizes[key] for key in keys),
        fetched_at=max((repo.times[key] for key in keys), default=repo.times.get(f"/{commit}", 0.0)),
    )


def _names(root: SafeRoot, path: str, repo: CachedRepo) -> list[str] | None:
    try:
        found = root.listdir_beneath(path)
    except FileNotFoundError:
        return None
    repo.folders.append(path)
    return sorted(name for name in found if name not in IGNORED)


def _walk(root: SafeRoot, top: str, repo: CachedRepo) -> Iterator[str]:
    """The paths of everything below a folder that is no folder; ``top`` itself is not part of them."""
    pending = [(top, "")]
    while pending:
        folder, below = pending.pop()
        try:
            names = _names(root, folder, repo)
        except (NotADirectoryError, UnsafeName):
            continue
        if not below and top.count("/") == 2 and names is not None:
            repo.times[f"/{top.rpartition('/')[2]}"] = root.stat_beneath(top).st_mtime
        for name in names or ():
            path = f"{below}/{name}" if below else name
            if stat.S_ISDIR(root.stat_beneath(f"{folder}/{name}").st_mode):
                if path.count("/") < DEPTH_MAX:
                    pending.append((f"{folder}/{name}", path))
            else:
                yield path


def _read_refs(root: SafeRoot, name: str, repo: CachedRepo) -> None:
    for path in _walk(root, f"{name}/refs", repo):
        try:
            commit = _text(root, f"{name}/refs/{path}", REF_BYTES_MAX)
        except (OSError, UnsafeName, UnicodeDecodeError):
            continue
        if COMMIT.fullmatch(commit):
            repo.refs[path] = commit


def _read_blob(root: SafeRoot, repo: CachedRepo, blob: str) -> None:
    path = f"{repo.name}/blobs/{blob}"
    found = root.stat_beneath(path)
    if stat.S_ISLNK(found.st_mode):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), root.readlink_beneath(path)))
        stored = _SHARED.fullmatch(target)
        if stored is None:
            return
        try:
            found = root.stat_beneath(target)
        except (OSError, UnsafeName):
            return
        repo.shared[blob] = (stored[1], found.st_size)
    if stat.S_ISREG(found.st_mode):
        repo.sizes[blob], repo.times[blob] = found.st_size, found.st_mtime


def _read_entry(root: SafeRoot, repo: CachedRepo, commit: str, path: str) -> None:
    at = f"{repo.name}/snapshots/{commit}/{path}"
    found = root.stat_beneath(at)
    if stat.S_ISLNK(found.st_mode):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(at), root.readlink_beneath(at)))
        folder, _, blob = target.rpartition("/")
        if folder == f"{repo.name}/blobs" and blob in repo.sizes:
            repo.entries[commit][path] = blob
    elif stat.S_ISREG(found.st_mode):  # file systems without symlinks
        repo.entries[commit][path] = ""
        repo.sizes[f"{commit}/{path}"], repo.times[f"{commit}/{path}"] = found.st_size, found.st_mtime


def _config(root: SafeRoot, repo: CachedRepo) -> dict[str, Any] | None:
    newest = sorted(repo.entries, key=lambda commit: commit in repo.refs.values(), reverse=True)
    for commit in newest:
        if "config.json" in repo.entries[commit]:
            blob = repo.entries[commit]["config.json"]
            if blob in repo.shared:
                continue  # a store holds large files
            path = f"{repo.name}/blobs/{blob}" if blob else f"{repo.name}/snapshots/{commit}/config.json"
            return read_config(root, path)
    return None


def read_config(root: SafeRoot, path: str) -> dict[str, Any] | None:
    """A parsed ``config.json`` below root; None when it is not a JSON object, or not readable."""
    import json

    try:
        value: object = json.loads(_text(root, path, CONFIG_BYTES_MAX))
    except (OSError, UnsafeName, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _text(root: SafeRoot, path: str, bytes_max: int) -> str:
    fd = root.open_beneath(path, os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        return file.read(bytes_max).decode().strip()
