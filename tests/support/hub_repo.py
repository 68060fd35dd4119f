"""A repo of the stand-in Hub: commits, refs, files, and who may read them."""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .contents import Content, ContentLike, as_content, git_blob_sha1_hex, lfs_pointer, sha256_hex

RepoKind = Literal["model", "dataset", "space"]
FIRST_COMMIT_AT = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)  # each next commit is a minute later
LFS_BYTES_MIN = 10 << 20  # the Hub keeps every file above 10 MiB out of git
LFS_PATTERNS = (  # what the .gitattributes of a new Hub repo sends to LFS, as far as our tests use it
    *("*.bin", "*.safetensors", "*.gguf", "*.pt", "*.pth", "*.onnx", "*.h5", "*.msgpack", "*.ckpt", "*.pkl"),
    *("*.parquet", "*.arrow", "*.tar", "*.gz", "*.zip", "*.zst", "*.7z", "*.npy", "*.npz", "*.model"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file of one commit, as the Hub's API describes it."""

    path: str
    content: Content
    oid: str  # git blob sha1, of the LFS pointer for an LFS file
    sha256: str | None  # LFS files only
    pointer_size: int | None  # bytes; LFS files only

    @property
    def etag(self) -> str:
        """What the Hub gives as ETag, without quotes: the sha256 of an LFS file, else the git blob sha1."""
        return self.sha256 or self.oid

    @property
    def xet_hash(self) -> str | None:
        """A hash of the form that Xet storage uses (64 hex digits); only a Xet client could tell it from a real one."""
        return self.sha256 and hashlib.sha256(f"xet {self.sha256}".encode()).hexdigest()


class Commit:
    """One revision: its files, described when first asked for."""

    def __init__(self, sha: str, files: Mapping[str, Content], *, number: int, lfs: LfsRule) -> None:
        self.sha = sha
        self.files = files
        self.number = number  # from 0
        self._lfs = lfs
        self._described: dict[str, HubFile] = {}
        self._entries: list[str] | None = None

    def file(self, path: str) -> HubFile | None:
        """The file at ``path``; None when there is none."""
        known = self._described.get(path)
        if known is None and (content := self.files.get(path)) is not None:
            known = self._described[path] = self._describe(path, content)
        return known

    def entries(self, folder: str = "", *, recursive: bool) -> list[str]:
        """The paths below ``folder``, sorted; folders end with a slash. Empty: there is no such folder."""
        if self._entries is None:
            self._entries = sorted({*self.files, *(parent for path in self.files for parent in _parents(path))})
        if not folder and recursive:
            return self._entries
        prefix = f"{folder}/" if folder else ""
        below = (entry for entry in self._entries if entry.startswith(prefix) and entry != prefix)
        return [entry for entry in below if recursive or "/" not in entry[len(prefix) :].rstrip("/")]

    def _describe(self, path: str, content: Content) -> HubFile:
        if not self._lfs.takes(path, content.size):
            return HubFile(path=path, content=content, oid=git_blob_sha1_hex(content), sha256=None, pointer_size=None)
        sha256 = sha256_hex(content)
        pointer = lfs_pointer(sha256, content.size)
        oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()
        return HubFile(path=path, content=content, oid=oid, sha256=sha256, pointer_size=len(pointer))


@dataclass(frozen=True, slots=True)
class LfsRule:
    """Which files are LFS files."""

    bytes_min: int
    patterns: tuple[str, ...]

    def takes(self, path: str, size: int) -> bool:
        """Whether the file at ``path`` with ``size`` bytes is kept in LFS. Patterns look at the last component."""
        name = path.rsplit("/", 1)[-1]
        return size >= self.bytes_min or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)


class HubRepo:
    """One repo, which may get commits while it is served.

    Args:
        id: "acme/tiny", or "tiny" for one without an owner.
        files: path -> bytes, Path of a file on disk, or any `Content` such as `SyntheticFile`. Paths may be hostile.
        lfs_bytes_min, lfs_patterns: which files are LFS files (from so many bytes on, or by name).
        private: only ``readers`` see that it exists. gated: all see its listing, only ``readers`` get its files.
        readers: the tokens that may read it.
        xet: announces its LFS files as stored in Xet.
        card: what the repo's card says, as its API tells it; a licence there is a tag as well.
        range_required: paths that answer 400 without a Range header, as files above 50 GB do.
    """

    def __init__(
        self,
        id: str,
        files: Mapping[str, ContentLike],
        *,
        kind: RepoKind = "model",
        lfs_bytes_min: int = LFS_BYTES_MIN,
        lfs_patterns: Iterable[str] = LFS_PATTERNS,
        private: bool = False,
        gated: Literal[False, "auto", "manual"] = False,
        readers: Collection[str] = (),
        xet: bool = False,
        range_required: Collection[str] = (),
        card: Mapping[str, object] | None = None,
    ) -> None:
        self.id = id
        self.card = card
        self.kind: RepoKind = kind
        self.private = private
        self.gated: Literal[False, "auto", "manual"] = gated
        self.readers = frozenset(readers)
        self.xet = xet
        self.range_required = frozenset(range_required)
        self._lfs = LfsRule(lfs_bytes_min, tuple(lfs_patterns))
        self._commits: dict[str, Commit] = {}
        self._refs: dict[str, str] = {}  # full ref name -> sha
        self.commit(files)

    @classmethod
    def from_dir(cls, folder: Path, id: str, *, kind: RepoKind = "model") -> HubRepo:
        """A repo with every file below ``folder``, without folders of git and of the Hub's client."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path for path in paths}
        skipped = (".git/", ".cache/huggingface/", ".shoal/")
        return cls(id, {name: path for name, path in files.items() if not name.startswith(skipped)}, kind=kind)

    @property
    def key(self) -> str:
        """Kind and id as they stand in API paths: "models/acme/tiny"."""
        return f"{self.kind}s/{self.id}"

    @property
    def sha(self) -> str:
        """The commit at the tip of main."""
        return self._refs["refs/heads/main"]

    @property
    def refs(self) -> Mapping[str, str]:
        """Full ref name (refs/heads/main, refs/tags/v1, refs/pr/1, refs/convert/parquet) -> commit."""
        return dict(self._refs)

    def commit(self, changes: Mapping[str, ContentLike | None], *, branch: str = "main") -> str:
        """Adds a commit on top of ``branch``, which moves to it; a new branch starts empty.

        Args: changes (path -> new content, None deletes).
        Returns: the commit's 40 hex digits, the same for the same sequence of commits in every run.
        """
        ref = f"refs/heads/{branch}"
        files = dict(self._commits[self._refs[ref]].files) if ref in self._refs else {}
        for path, source in changes.items():
            if source is None:
                files.pop(path, None)
            else:
                files[path] = as_content(source)
        number = len(self._commits)
        sha = hashlib.sha1(f"{self.key} {number}".encode(), usedforsecurity=False).hexdigest()
        self._commits[sha] = Commit(sha, files, number=number, lfs=self._lfs)
        self._refs[ref] = sha
        return sha

    def point(self, ref: str, sha: str | None = None) -> None:
        """Makes ``ref`` ("refs/tags/v1", "refs/heads/dev", "refs/pr/1") name a commit, main's tip by default."""
        sha = sha or self.sha
        if sha not in self._commits or not ref.startswith("refs/"):
            raise ValueError(f"{ref} cannot name {sha}")
        self._refs[ref] = sha

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag, a full ref or 40 hex digits name."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self._refs:
                return self._commits[self._refs[ref]]
        return self._commits.get(revision)

    def modified_at(self, sha: str) -> datetime.datetime:
        """When the commit ``sha`` was made."""
        return FIRST_COMMIT_AT + datetime.timedelta(minutes=self._commits[sha].number)

    def file(self, path: str, revision: str = "main") -> HubFile:
        """A file, for a test to compare with. Raises KeyError when there is none."""
        commit = self.find(revision)
        file = commit and commit.file(path)
        if file is None:
            raise KeyError(f"{self.key} has no {path!r} at {revision}")
        return file


def _parents(path: str) -> Iterable[str]:
    """The folders above ``path``, each with its final slash."""
    at = path.find("/")
    while at != -1:
        if at:  # an absolute path has no folder above its first slash
            yield path[: at + 1]
        at = path.find("/", at + 1)
