"""The folder of partial files: opening one with its chunk maps, and removing what is stale."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial as bind

from ...common.errors import Busy, UnsafeName
from ...common.intervals import IntervalSet
from ...common.paths import SafeRoot
from ...common.records import JobSpec, ObjectSpec
from ...common.room import preallocate
from .chunkmap import ChunkMapWriter, read_map
from .partial import MAP, PART, Partial, map_names, remove_maps
from .workfolder import object_identity, object_key, object_prefix

_OPEN_TRIES = 5  # a file that is renamed or removed between open and lock is opened anew


class PartialFolder:
    """``.shoal/partial`` of one destination. Thread-safe, as each object's calls come from one thread at a time."""

    def __init__(
        self,
        root: SafeRoot,
        path: str,
        *,
        agent: str,
        boot_id: bytes,
        is_network: bool,
        is_memory: bool,
        in_company: Callable[[], bool],
    ) -> None:
        """path is below root; agent is a plain name; is_network and is_memory tell of the file system. in_company: whether another
        job of the same source may be alive: then its partial files may be in use."""
        self._root = root
        self._path = path
        self._agent = agent
        self._boot_id = boot_id
        self._is_network = is_network
        self._is_memory = is_memory
        self._in_company = in_company
        self._preallocate = bind(preallocate, reserve=not (is_network or is_memory))

    def open(self, job: JobSpec, spec: ObjectSpec, *, create: bool) -> Partial | None:
        """The object's partial file; None when it is not there and must not be made. Raises UnsafeName, OSError."""
        key = object_key(job, spec)
        part = f"{self._path}/{key}{PART}"
        if create:
            self._remove_stale(object_prefix(job, spec), key)
        opened = self._open_part(part, create=create)
        if opened is None:
            return None
        fd, fresh = opened
        try:
            # One that was cut, as by a power failure, is begun anew too: its maps claim bytes that are lost.
            if fresh or (create and spec.size is not None and os.fstat(fd).st_size != spec.size):
                fresh = True
                remove_maps(self._root, part)  # first: without them nothing is claimed, whatever happens next
                os.ftruncate(fd, 0)
                if spec.size is not None:
                    self._preallocate(fd, spec.size)
            return self._with_maps(fd, part, spec, identity=object_identity(job, spec), fresh=fresh)
        except BaseException:
            os.close(fd)
            raise

    def _with_maps(self, fd: int, part: str, spec: ObjectSpec, *, identity: bytes, fresh: bool) -> Partial:
        durable = self._is_network or not spec.digest
        own = f"{part.removesuffix(PART)}.{self._agent}{MAP}"
        writer = self._open_map(own, identity=identity, durable=durable, has_digest=bool(spec.digest))
        try:
            return Partial(
                fd,
                thing=spec.path,
                root=self._root,
                path=part,
                size=spec.size,
                writer=writer,
                durable=durable,
                fresh=fresh,
                in_memory=self._is_memory,
                preallocate=self._preallocate,
                read_maps=bind(self._read_maps, part, identity, bool(spec.digest)),
            )
        except BaseException:
            writer.close()
            raise

    def _open_part(self, part: str, *, create: bool) -> tuple[int, bool] | None:
        """A descriptor of the partial file, and whether it was made just now; None when it is not there."""
        for _ in range(_OPEN_TRIES):
            fresh = False
            try:
                fd = self._open_file(part, os.O_RDWR)
            except FileNotFoundError:
                if not create:
                    return None
                try:
                    fd = self._open_file(part, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                except FileExistsError:
                    continue
                fresh = True
            try:
                if self._is_still(fd, part):
                    return fd, fresh
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise Busy(part, cause="it keeps being replaced", remedy="see whether another job fetches the same object")

    def _open_file(self, path: str, flags: int) -> int:
        """Open a file of ours. What was planted in its place is removed: a link itself, never what it points to."""
        try:
            return self._root.open_beneath(path, flags)
        except UnsafeName:
            self._root.unlink_beneath(path)
            raise FileNotFoundError(path) from None

    def _is_still(self, fd: int, path: str) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._root.stat_beneath(path))
        except FileNotFoundError:
            return False

    def _open_map(self, path: str, *, identity: bytes, durable: bool, has_digest: bool) -> ChunkMapWriter:
        try:
            fd = self._root.open_beneath(path, os.O_RDWR | os.O_CREAT)
        except UnsafeName:
            self._root.unlink_beneath(path)
            fd = self._root.open_beneath(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            return ChunkMapWriter(
                fd,
                name=path.rpartition("/")[2],
                identity=identity,
                boot_id=self._boot_id,
                durable=durable,
                has_digest=has_digest,
            )
        except BaseException:
            os.close(fd)
            raise

    def _read_maps(self, part: str, identity: bytes, has_digest: bool) -> IntervalSet:
        done = IntervalSet()
        for name in map_names(self._root, part):
            try:
                fd = self._root.open_beneath(f"{self._path}/{name}", os.O_RDONLY)
            except (UnsafeName, FileNotFoundError):
                continue
            try:
                found = read_map(fd, identity=identity)
            finally:
                os.close(fd)
            if found.trusted(has_digest=has_digest, boot_id=self._boot_id):
                for start, stop in found.intervals:
                    done.add(start, stop)
        return done

    def _remove_stale(self, prefix: str, key: str) -> None:
        """Remove what is left of other versions of an object, unless another job may work on it."""
        found = self._names(lambda name: name.startswith(prefix) and not name.startswith(key))
        if found and not self._in_company():
            self._remove(found)

    def remove(self, is_wanted: Callable[[str], bool]) -> None:
        """Remove the files whose names are wanted gone. Nobody may work on them. Raises OSError, UnsafeName."""
        self._remove(self._names(is_wanted))

    def _names(self, is_wanted: Callable[[str], bool]) -> list[str]:
        return [name for name in self._root.listdir_beneath(self._path) if is_wanted(name)]

    def _remove(self, found: Iterable[str]) -> None:
        # The maps first: a partial file without them is fetched anew, maps without it would claim what is gone.
        for name in sorted(found, key=lambda name: name.endswith(PART)):
            with suppress(FileNotFoundError):
                self._root.unlink_beneath(f"{self._path}/{name}")
