"""The manifest that lies beside finished files: ``.shoal/manifest.json``.

One JSON document, written so that it streams: a first line with version and sources, one object per line, a last line with
the count and a SHA-256 over all that comes before it::

    {"version": 1, "sources": {"hf://acme/tiny": {"revision": "main", "commit": "c0ffee…"}}, "objects": [
    {"path": "config.json", "size": 2, "digest": "git-sha1:…", "etag": "…", "mtime_ns": 17…, "source": "hf://acme/tiny", …},
    …
    ], "count": 2, "checksum": "sha256:…"}

It is replaced as a whole (temporary file, fsync, rename), so a reader sees the old one or the new one. One that was cut or
changed by something else is noticed by its checksum before a word of it is believed.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import posixpath
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from .digests import digest_of_file, matches
from .errors import NotFound, StateDamaged, UnsafeName, UsageError
from .paths import SafeRoot

WORK_FOLDER = ".shoal"
MANIFEST_NAME = "manifest.json"

_VERSION = 1
_TAIL = '"checksum": "sha256:%s"}\n'
_FOOT = re.compile(rb'\n\], "count": (\d{1,18}), $')
_FOOT_BYTES_MAX = 64
_TAIL_BYTES = len(_TAIL % ("0" * 64))

_REPO_FOLDER = re.compile(r"(?:models|datasets|spaces)--.+")
_SHARED_BLOB = re.compile(r"blobs/[0-9a-f]{2}/[0-9a-f]{64}")

_RARE = frozenset({"original", "moved_to"})  # written where they say something

Sources = Mapping[str, Mapping[str, str]]
"""Canonical source URI to what is known of it, such as revision and commit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestEntry:
    """A finished file. path is relative to the folder that holds ``.shoal``; size in bytes; mtime_ns as lstat(2) gives it.

    original is its path within its source, where path is another one: on a NAS. moved_to is where its copy lies when the file
    itself was removed after a verified copy.
    """

    path: str
    size: int
    digest: str
    etag: str = ""
    mtime_ns: int = 0
    source: str = ""
    revision: str = ""
    commit: str = ""
    original: str = ""
    moved_to: str = ""

    def to_json(self) -> str:
        """One line of JSON, without a line end."""
        names = (name for name in self.__slots__ if name not in _RARE or getattr(self, name))
        return json.dumps({name: getattr(self, name) for name in names})

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """The entry on a line. Unknown fields are ignored. Raises ValueError."""
        value: Any = json.loads(line)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        known = {name: item for name, item in cast("dict[str, Any]", value).items() if name in cls.__slots__}
        for name, item in known.items():
            if type(item) is not (int if name in ("size", "mtime_ns") else str):
                raise ValueError(f"{name} has the wrong type")
        try:
            entry = cls(**known)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if entry.size < 0 or not entry.path:
            raise ValueError("size or path is not possible")
        return entry


class Manifest:
    """A manifest that was found sound. Iterating reads it again from the disk, entry by entry. Close it, or use ``with``."""

    def __init__(self, file: BinaryIO, *, sources: Sources, count: int, checksum: str) -> None:
        self._file = file
        self.sources = sources
        self.count = count
        self.checksum = checksum

    def __iter__(self) -> Iterator[ManifestEntry]:
        self._file.seek(0)
        self._file.readline()
        for number in range(self.count):
            line = self._file.readline().rstrip(b",\n")
            try:
                yield ManifestEntry.from_json(line)
            except ValueError as error:
                raise StateDamaged(MANIFEST_NAME, cause=f"object {number} is not readable: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_manifest(root: SafeRoot, work: str = WORK_FOLDER) -> Manifest:
    """Open the manifest in a work folder below root and check all of it.

    Raises NotFound, StateDamaged (cut, changed, or written by a newer version), UnsafeName, OSError.
    """
    path = f"{work}/{MANIFEST_NAME}"
    thing = str(root.path / path)
    try:
        fd = root.open_beneath(path, os.O_RDONLY)
    except FileNotFoundError:
        raise NotFound(thing, cause="there is no manifest", remedy="name a folder that shoal downloaded to") from None
    file = os.fdopen(fd, "rb")
    try:
        return _check(file, thing)
    except BaseException:
        file.close()
        raise


def _check(file: BinaryIO, name: str) -> Manifest:
    def damaged(cause: str) -> StateDamaged:
        return StateDamaged(name, cause=cause, remedy="download again: files in place are checked, not fetched")

    digest = hashlib.sha256(usedforsecurity=False)
    left = os.fstat(file.fileno()).st_size - _TAIL_BYTES
    last = b""
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
        last = (last + block)[-_FOOT_BYTES_MAX:]
    checksum = digest.hexdigest()
    if left != 0 or file.read() != (_TAIL % checksum).encode():
        raise damaged("its checksum does not match: it was cut or changed")
    file.seek(0)
    try:
        head: Any = json.loads(file.readline() + b"]}")
        version: object = head["version"]
        sources: object = head["sources"]
    except (ValueError, LookupError, TypeError):
        raise damaged("it is not a manifest") from None
    if version != _VERSION:
        raise StateDamaged(
            name, cause=f"it has version {version!r}, this program knows {_VERSION}", remedy="upgrade shoal"
        )
    foot = _FOOT.search(last)
    if not isinstance(sources, dict) or foot is None:
        raise damaged("it is not a manifest")
    return Manifest(file, sources=cast("Sources", sources), count=int(foot[1]), checksum=checksum)


def write_manifest(
    root: SafeRoot,
    work: str = WORK_FOLDER,
    *,
    sources: Sources,
    entries: Iterable[ManifestEntry],
    before_rename: Callable[[], None] = lambda: None,
) -> int:
    """Write a manifest in place of the one in a work folder below root, if any. Streams entries. Returns how many there were.

    before_rename may raise to leave the old manifest in place. Raises OSError, UnsafeName.
    """
    path = f"{work}/{MANIFEST_NAME}"
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    fd = root.open_beneath(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(fd, "wb", buffering=1 << 16) as file:
            digest = hashlib.sha256(usedforsecurity=False)

            def put(text: str) -> None:
                data = text.encode()
                digest.update(data)
                file.write(data)

            put(json.dumps({"version": _VERSION, "sources": sources})[:-1] + ', "objects": [')
            count = 0
            for entry in entries:
                put((",\n" if count else "\n") + entry.to_json())
                count += 1
            put(f'\n], "count": {count}, ')
            file.write((_TAIL % digest.hexdigest()).encode())
            file.flush()
            os.fsync(fd)
        before_rename()
        root.replace_beneath(temporary, path)
        root.sync_folder_beneath(work)
    except BaseException:
        with suppress(OSError):
            root.unlink_beneath(temporary)
        raise
    return count


class ProblemKind(enum.StrEnum):
    """What is wrong with a file that a manifest names."""

    MISSING = "missing"
    SIZE = "size"
    DIGEST = "digest"
    UNSAFE = "unsafe"  # a symlink, a folder or a device lies there
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A file that is not what the manifest says. entry tells where to fetch it again; text names it, for people."""

    kind: ProblemKind
    entry: ManifestEntry
    text: str


@dataclass(slots=True)
class VerifyReport:
    """What `verify_folder` saw. checked counts files, bytes those that were hashed, moved files that were removed after a
    verified copy; problems counts by kind."""

    checked: int = 0
    bytes: int = 0
    moved: int = 0
    problems: dict[ProblemKind, int] = field(default_factory=dict[ProblemKind, int])

    @property
    def ok(self) -> bool:
        """Whether every file is what the manifest says."""
        return not self.problems


def verify_folder(
    folder: Path,
    *,
    on_problem: Callable[[Problem], None],
    on_checked: Callable[[ManifestEntry], None] = lambda entry: None,
) -> VerifyReport:
    """Hash every file that the manifest in folder names, and tell of each that is missing or different.

    folder is a destination, one repo's folder in the Hub's cache, or the cache with all of them. Files that no manifest knows
    are none of our business. Raises NotFound (no manifest), StateDamaged, UnsafeName, OSError.
    """
    report = VerifyReport()
    folder = folder.absolute()
    if _REPO_FOLDER.fullmatch(folder.name) and (folder / "snapshots").is_dir():
        with SafeRoot(folder.parent) as root:
            _verify(root, folder.name, report, on_problem, on_checked)
        return report
    with SafeRoot(folder) as root:
        try:
            _verify(root, "", report, on_problem, on_checked)
        except NotFound:
            repos = [name for name in sorted(root.listdir_beneath()) if _REPO_FOLDER.fullmatch(name)]
            repos = [name for name in repos if (folder / name / WORK_FOLDER / MANIFEST_NAME).exists()]
            if not repos:
                raise
            for name in repos:
                _verify(root, name, report, on_problem, on_checked)
    return report


def _verify(
    root: SafeRoot,
    base: str,
    report: VerifyReport,
    on_problem: Callable[[Problem], None],
    on_checked: Callable[[ManifestEntry], None],
) -> None:
    prefix = f"{base}/" if base else ""
    with read_manifest(root, prefix + WORK_FOLDER) as manifest:
        for entry in manifest:
            problem = _problem(root, base, prefix + entry.path, entry, report)
            report.checked += 1
            if problem is not None:
                report.problems[problem.kind] = report.problems.get(problem.kind, 0) + 1
                on_problem(problem)
            on_checked(entry)


def _problem(root: SafeRoot, base: str, path: str, entry: ManifestEntry, report: VerifyReport) -> Problem | None:
    def problem(kind: ProblemKind, text: str) -> Problem:
        return Problem(kind=kind, entry=entry, text=f"{entry.path}: {text}")

    try:
        fd = open_finished(root, path, base=base)
    except (FileNotFoundError, NotADirectoryError):
        if entry.moved_to:
            report.moved += 1
            return None
        return problem(ProblemKind.MISSING, "it is not there")
    except UnsafeName as error:
        return problem(ProblemKind.UNSAFE, error.cause)
    except OSError as error:
        return problem(ProblemKind.UNREADABLE, error.strerror or str(error))
    try:
        size = os.fstat(fd).st_size
        if size != entry.size:
            return problem(ProblemKind.SIZE, f"it has {size} bytes, not {entry.size}")
        actual = digest_of_file(fd, entry.digest, size)
        report.bytes += size
        if not matches(entry.digest, actual):
            return problem(ProblemKind.DIGEST, f"its digest is {actual}, not {entry.digest}")
    except OSError as error:
        return problem(ProblemKind.UNREADABLE, error.strerror or str(error))
    except UsageError as error:
        return problem(ProblemKind.DIGEST, str(error))
    finally:
        os.close(fd)
    return None


def open_finished(root: SafeRoot, path: str, *, base: str) -> int:
    """Open a finished file for reading; the caller owns the descriptor. path and base are below root.

    base is the repo's folder in the Hub's cache: there a snapshot's entry is a symlink to ``blobs/NAME``, and a blob may be
    one into the store that the client shares between repos, ``blobs/XX/HASH`` beside the repo's folder. These two are
    followed, each step checked; no other link is, and none when base is empty. Raises OSError, UnsafeName.
    """
    for hops_left in (2, 1, 0):
        try:
            return root.open_beneath(path, os.O_RDONLY)
        except UnsafeName:
            target = _link_target(root, path, base) if base and hops_left else None
            if target is None:
                raise
            path = target
    raise AssertionError("the last hop returns or raises")


def _link_target(root: SafeRoot, path: str, base: str) -> str | None:
    """Where a symlink of the Hub's cache points, below root; None when it is another kind of thing or points elsewhere."""
    if not stat.S_ISLNK(root.stat_beneath(path).st_mode):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), root.readlink_beneath(path)))
    in_repo = target.startswith(f"{base}/blobs/") and target.count("/") == 2
    return target if in_repo or _SHARED_BLOB.fullmatch(target) else None
