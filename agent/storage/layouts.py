"""Where files lie in a destination, as the Hub's own client expects to find them.

Read in huggingface_hub 2.4.0 (``_local_folder.py``, ``file_download.py``, ``_snapshot_download.py``, ``utils/_cache_manager.py``):

- In a folder, the client takes a file for current when ``.cache/huggingface/download/PATH.metadata`` names the commit (or
  the ETag) that it wants, and the file's modification time less 1 s is not after the time in the third line. We write the
  file's own modification time there, so the comparison is between two readings of one clock, the file server's.
- In the cache, a snapshot's entry is a relative symlink to ``blobs/ETAG``, and ``refs/NAME`` holds a commit.
  ``trees/COMMIT.json`` is the client's copy of the Hub's listing. We leave it to the client: it must hold the whole repo,
  and a job may have selected a part.
- What ``scan_cache_dir`` and ``hf cache`` look at in a repo's folder is ``snapshots/``, ``refs/`` and ``blobs/``: a work
  folder beside those is not seen, and goes when the client removes the repo.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ...common.digests import parse_digest
from ...common.errors import UnsafeName, UsageError
from ...common.manifest import WORK_FOLDER, open_finished
from ...common.paths import SafeRoot, safe_relative_path
from ...common.records import JobSpec, Layout, ObjectSpec, OriginKind
from ...common.uri_records import COMMIT

_BLOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REPO_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?")
_REPO_KINDS = frozenset({"model", "dataset", "space"})
_DEFAULT_REVISION = "main"

_CACHE_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# What lies in this folder can be downloaded again: see https://bford.info/cachedir/
"""
"""The first line is the standard's; backup tools skip a folder with such a CACHEDIR.TAG."""

_NO_SYMLINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EACCES})


class FileLayout(Protocol):
    """What differs between the layouts. All paths are below the destination's root unless said otherwise."""

    base: str
    """The folder that holds the work folder: ``""`` for the destination itself."""

    def begin(self) -> None:
        """Make what the layout needs before the first file. Raises OSError, UnsafeName."""
        ...

    def data_path(self, spec: ObjectSpec, *, digest: str, etag: str) -> str:
        """Where the bytes of an object lie. Raises UnsafeName."""
        ...

    def entry_path(self, spec: ObjectSpec) -> str:
        """Where the object is found by its name, below base. Raises UnsafeName."""
        ...

    def open_data(self, spec: ObjectSpec, *, digest: str, etag: str) -> int | None:
        """A descriptor for reading the object's bytes, which the caller owns; None when there is no such file."""
        ...

    def open_entry(self, path: str) -> int:
        """Open what lies at an entry path for reading; the caller owns the descriptor. Raises OSError, UnsafeName."""
        ...

    def placed(self, spec: ObjectSpec, *, digest: str, etag: str, mtime_ns: int) -> None:
        """The bytes are in place: see to it that the Hub's client finds them. Does nothing where that is so already."""
        ...

    def finish(self) -> None:
        """All objects are in place."""
        ...


def layout_for(job: JobSpec, root: SafeRoot, temporary: Callable[[], str]) -> FileLayout:
    """The layout of a job below root. temporary gives a path in the work folder that nobody else uses. Raises UsageError."""
    if job.layout is Layout.HUB_CACHE:
        return HubCacheLayout(job, root, temporary)
    return FolderLayout(job, root)


def base_folder(job: JobSpec) -> str:
    """The folder below the destination that holds a job's work folder; ``""`` is the destination. Raises UsageError."""
    if job.layout is Layout.FOLDER:
        return ""
    if job.repo_kind not in _REPO_KINDS or not _REPO_ID.fullmatch(job.repo_id) or ".." in job.repo_id:
        raise UsageError(
            f"source {job.source}",
            cause="only a Hub repo can go into the Hub's cache",
            remedy="name a folder with --to",
        )
    return f"{job.repo_kind}s--{job.repo_id.replace('/', '--')}"


def work_folder(job: JobSpec) -> str:
    """The job's work folder, below the destination. Raises UsageError."""
    base = base_folder(job)
    return f"{base}/{WORK_FOLDER}" if base else WORK_FOLDER


class FolderLayout:
    """Files under their own paths; for Hub sources with the client's metadata beside them."""

    base = ""

    def __init__(self, job: JobSpec, root: SafeRoot) -> None:
        self._root = root
        self._commit = job.commit if job.origin is OriginKind.HUB else ""

    def begin(self) -> None:
        if self._commit:
            _make_cache_folder(self._root, ".cache/huggingface")
            _write_once(self._root, ".cache/huggingface/.gitignore", b"*\n")

    def data_path(self, spec: ObjectSpec, *, digest: str, etag: str) -> str:
        return safe_relative_path(spec.path)

    def entry_path(self, spec: ObjectSpec) -> str:
        return safe_relative_path(spec.path)

    def open_data(self, spec: ObjectSpec, *, digest: str, etag: str) -> int | None:
        try:
            return self._root.open_beneath(safe_relative_path(spec.path), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open_entry(self, path: str) -> int:
        return self._root.open_beneath(path, os.O_RDONLY)

    def placed(self, spec: ObjectSpec, *, digest: str, etag: str, mtime_ns: int) -> None:
        if not self._commit:
            return
        path = f".cache/huggingface/download/{spec.path}.metadata"
        text = f"{self._commit}\n{_etag(spec, digest, etag)}\n{mtime_ns / 1e9!r}\n".encode()
        try:
            fd = _open_making_folders(self._root, path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return  # with the ending it is too long: the client cannot have it either
            raise
        try:
            if os.pread(fd, len(text) + 1, 0) != text:
                os.ftruncate(fd, 0)
                os.pwrite(fd, text, 0)  # the client drops metadata that a crash has torn, and hashes the file
        finally:
            os.close(fd)

    def finish(self) -> None:
        pass


class HubCacheLayout:
    """The Hub client's cache: blobs by ETag, snapshots of symlinks, refs."""

    def __init__(self, job: JobSpec, root: SafeRoot, temporary: Callable[[], str]) -> None:
        """Raises UsageError when the job is not of a Hub repo pinned to a commit."""
        self.base = base_folder(job)
        if not _BLOB_NAME.fullmatch(job.commit):
            raise UsageError(f"source {job.source}", cause=f"it is not pinned to a commit: {job.commit!r}")
        self._job = job
        self._root = root
        self._temporary = temporary
        self._has_symlinks: bool | None = None

    def begin(self) -> None:
        _write_once(self._root, "CACHEDIR.TAG", _CACHE_TAG)
        self._root.makedirs_beneath(f"{self.base}/blobs")
        self._root.makedirs_beneath(f"{self.base}/snapshots")  # the client calls a repo without this folder corrupt

    def data_path(self, spec: ObjectSpec, *, digest: str, etag: str) -> str:
        # Without symlinks the client moves a new blob to its place in the snapshot; so do we.
        if not self._symlinks_work():
            return f"{self.base}/{self.entry_path(spec)}"
        return f"{self.base}/blobs/{_blob_name(spec, digest, etag)}"

    def entry_path(self, spec: ObjectSpec) -> str:
        return f"snapshots/{self._job.commit}/{safe_relative_path(spec.path)}"

    def open_data(self, spec: ObjectSpec, *, digest: str, etag: str) -> int | None:
        try:
            return open_finished(self._root, self.data_path(spec, digest=digest, etag=etag), base=self.base)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open_entry(self, path: str) -> int:
        return open_finished(self._root, f"{self.base}/{path}", base=self.base)

    def placed(self, spec: ObjectSpec, *, digest: str, etag: str, mtime_ns: int) -> None:
        if not self._symlinks_work():
            return
        name = _blob_name(spec, digest, etag)
        path = f"{self.base}/{self.entry_path(spec)}"
        target = f"{'../' * (spec.path.count('/') + 2)}blobs/{name}"
        try:
            entry = self._root.stat_beneath(path)
        except FileNotFoundError:
            self._root.makedirs_beneath(path.rpartition("/")[0])
        else:
            if stat.S_ISLNK(entry.st_mode) and self._root.readlink_beneath(path) == target:
                return
        # Made aside and renamed: the name is never absent, and what is in the way is replaced, not followed.
        temporary = self._temporary()
        self._root.symlink_beneath(target, temporary)
        try:
            self._root.replace_beneath(temporary, path)
        except BaseException:
            with suppress(OSError):
                self._root.unlink_beneath(temporary)
            raise

    def finish(self) -> None:
        """Point the revision that the user named at the commit, as the client does: not when it is a commit itself, or was asked for
        at a commit that is not its own any more."""
        revision = self._job.revision or _DEFAULT_REVISION
        if self._job.pinned or revision == self._job.commit or COMMIT.fullmatch(revision):
            return
        path = f"{self.base}/refs/{safe_relative_path(revision)}"
        self._root.makedirs_beneath(path.rpartition("/")[0])
        self._root.makedirs_beneath(f"{self.base}/snapshots/{self._job.commit}")  # nor may a ref point at nothing
        temporary = self._temporary()
        fd = self._root.open_beneath(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(fd, self._job.commit.encode())
        finally:
            os.close(fd)
        self._root.replace_beneath(temporary, path)

    def _symlinks_work(self) -> bool:
        if self._has_symlinks is None:
            probe = self._temporary()
            try:
                self._root.symlink_beneath("probe", probe)
            except OSError as error:
                if error.errno not in _NO_SYMLINKS:
                    raise
                self._has_symlinks = False
            else:
                self._root.unlink_beneath(probe)
                self._has_symlinks = True
        return self._has_symlinks


def _etag(spec: ObjectSpec, digest: str, etag: str) -> str:
    """The ETag that the Hub's client compares with: the sha256 of an LFS file, git's blob id of another."""
    if spec.digest:
        return parse_digest(spec.digest)[1]
    return spec.etag or etag or parse_digest(digest)[1]


def _blob_name(spec: ObjectSpec, digest: str, etag: str) -> str:
    name = _etag(spec, digest, etag)
    if not _BLOB_NAME.fullmatch(name):
        raise UnsafeName(f"ETag {name[:100]!r} of {spec.path}", cause="it cannot be a file name in the Hub's cache")
    return name


def _make_cache_folder(root: SafeRoot, path: str) -> None:
    root.makedirs_beneath(path)
    _write_once(root, f"{path}/CACHEDIR.TAG", _CACHE_TAG)


def _write_once(root: SafeRoot, path: str, content: bytes) -> None:
    try:
        fd = root.open_beneath(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def _open_making_folders(root: SafeRoot, path: str, flags: int) -> int:
    try:
        return root.open_beneath(path, flags)
    except FileNotFoundError:
        root.makedirs_beneath(path.rpartition("/")[0])
        return root.open_beneath(path, flags)
