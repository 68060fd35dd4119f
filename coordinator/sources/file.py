"""``file://``: a file or a folder that is already mounted.

A folder is walked in sorted order, one folder's names in memory at a time. What is no regular file is set aside: devices,
pipes, sockets, links that leave the folder and links to folders (which can go in circles). A link to a file inside of the
folder stands for that file.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import quote

from ...common.digests import parse_digest
from ...common.errors import NotFound, UnsafeName, UsageError
from ...common.records import ObjectSpec, OriginKind
from .base import PAGE_OBJECTS_MAX, Resolved, SourceContext, SourceRequest
from .intake import Intake

if TYPE_CHECKING:
    from ...common.uri import FileUri

_OWN_FOLDER = ".shoal"  # what Shoal keeps beside the data that it delivered; it is no part of the data


class FileSource:
    """A local file or folder."""

    def __init__(self, request: SourceRequest, uri: FileUri, context: SourceContext) -> None:
        """Raises UsageError for a request that makes no sense for files."""
        if request.revision:
            raise UsageError(str(uri), cause="a file has no revisions", remedy="leave --revision out")
        self._digest = ":".join(parse_digest(f"sha256:{request.sha256}")) if request.sha256 else ""
        self._uri = uri
        self._root = ""
        self._is_folder = False
        self._context = context
        self._intake = Intake(selection=request.selection, thing=str(uri))

    @property
    def refused(self) -> list[tuple[str, str]]:
        return self._intake.refused

    @property
    def refused_count(self) -> int:
        return self._intake.refused_count

    @property
    def warnings(self) -> list[str]:
        return self._intake.warnings

    async def resolve(self) -> Resolved:
        """Look whether it is there. Raises NotFound, Refused, UsageError."""
        root = await asyncio.to_thread(os.path.realpath, self._uri.path)
        self._context.policy.check_file(root)
        try:
            status = await asyncio.to_thread(os.stat, root)
        except OSError as error:
            cause = f"it cannot be read: {error.strerror}"
            remedy = "the path must exist where the coordinator runs"
            raise NotFound(str(self._uri), cause=cause, remedy=remedy) from None
        self._is_folder = stat.S_ISDIR(status.st_mode)
        if not self._is_folder and not stat.S_ISREG(status.st_mode):
            raise UsageError(str(self._uri), cause="it is neither a file nor a folder")
        if self._is_folder and self._digest:
            raise UsageError(str(self._uri), cause="sha256 is the digest of one file, and this is a folder")
        self._root = root
        return Resolved(source=self._uri.canonical(), origin=OriginKind.FILE)

    async def pages(self) -> AsyncGenerator[list[ObjectSpec], None]:
        """The file, or the files of the folder. Raises as `Source.pages`."""
        if not self._root:
            await self.resolve()
        objects = self._walk() if self._is_folder else self._single()
        while page := await asyncio.to_thread(_take, objects):
            yield page
        self._intake.finish()

    def _single(self) -> Iterator[ObjectSpec]:
        spec = self._object(os.path.basename(self._uri.path), self._root)  # noqa: PTH119 (the name as the user gave it)
        if self._intake.refused:
            raise UnsafeName(str(self._uri), cause=self._intake.refused[0][1])
        if spec is not None:
            yield spec

    def _walk(self) -> Iterator[ObjectSpec]:
        """The objects below the root: a folder's files and folders by name, a folder's content where its name stands."""
        pending = [self._entries("")]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                continue
            name = entry.path[len(self._root) :].lstrip("/")
            if entry.is_symlink():
                spec = self._link(name, entry.path)
            elif entry.is_dir(follow_symlinks=False):
                if name != _OWN_FOLDER:
                    pending.append(self._entries(name))
                continue
            else:
                spec = self._object(name, entry.path)
            if spec is not None:
                yield spec

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:  # noqa: PTH118 (paths of any length, fast)
                return iter(sorted(entries, key=lambda entry: entry.name))
        except OSError as error:
            self._intake.refuse(f"{folder}/", f"the folder cannot be read: {error.strerror}")
            return iter(())

    def _link(self, name: str, path: str) -> ObjectSpec | None:
        target = os.path.realpath(path)
        if not target.startswith(f"{self._root.rstrip('/')}/"):
            self._intake.refuse(name, "it is a link that leaves the folder")
            return None
        if os.path.isdir(target):  # noqa: PTH112 (a thread's plain system call)
            self._intake.refuse(name, "it is a link to a folder")
            return None
        return self._object(name, target)

    def _object(self, name: str, path: str) -> ObjectSpec | None:
        """The object for the file at the absolute ``path``, which holds no link."""
        try:
            status = os.lstat(path)
        except OSError as error:
            self._intake.refuse(name, f"it cannot be read: {error.strerror}")
            return None
        if not stat.S_ISREG(status.st_mode):
            self._intake.refuse(name, "it is not a regular file")
            return None
        admitted = self._intake.admit(name)
        if admitted is None:
            return None
        return ObjectSpec(
            object_id=self._intake.admitted,
            path=admitted,
            size=status.st_size,
            digest=self._digest,
            etag=f"{status.st_size}-{status.st_mtime_ns}",
            url=f"file://{quote(os.fsencode(path))}",
        )


def _take(objects: Iterator[ObjectSpec]) -> list[ObjectSpec]:
    return list(islice(objects, PAGE_OBJECTS_MAX))
