"""Where a job's files land on this agent, and everything that happens to them there.

A final name always names a complete file: bytes come in below ``.shoal/partial`` and get their name by rename(2). Everything
below the destination goes through ``SafeRoot``, so that a symlink planted there leads nowhere.

With ``sync`` a file is fsynced before it gets its name and its folder after, so both survive a power failure. Without, a power
failure may take files that were finished within the kernel's write-back delay (about 30 s on Linux); ``shoal verify`` finds
them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ...common.digests import matches
from ...common.errors import Busy, Conflict, NotShared, NotWritable, VerificationFailed
from ...common.manifest import ManifestEntry
from ...common.paths import SafeRoot
from ...common.records import JobSpec, Layout, ObjectSpec, OriginKind
from ...common.room import check_room, prove_writable
from ...common.roots import find_twin, resolve_destination
from . import workfolder as names
from .claims import SMALL_BYTES_MAX, TAKEN_OVER, HeldElsewhere, claim_key
from .filesystems import disk_error
from .finishing import finish_job
from .layouts import work_folder
from .opened import OpenDestination
from .partial import Partial
from .present import digest_of_moved, digest_of_present

EXPIRY_S: Final = 90.0
"""NFS clients cache attributes for up to 60 s (nfs(5), acregmax), and a holder touches its lease every 15 s."""

_UNSEEN: Final = object()

Placed: TypeAlias = Callable[[JobSpec, Path, str, str, ManifestEntry], None]
"""Hears of a file under its final name: its job, the destination on this machine, the folder of the layout below it, the file's
path within the source, and its manifest entry, whose path is below that folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A file under its final name.

    path is relative to the destination as the user finds it; size in bytes; digest ``ALGORITHM:HEX``; skipped says that it
    was there already.
    """

    path: str
    size: int
    digest: str
    skipped: bool


class Destination:
    """One job's destination on this agent. Synchronous; safe to call from several threads; owns its file descriptors.

    Unless said otherwise a method raises NoSpace, NotWritable, Conflict (something else has the name) and UnsafeName (a name
    or a planted link that could lead elsewhere).
    """

    def __init__(
        self,
        job: JobSpec,
        *,
        root: Path,
        allow: Sequence[Path],
        sync: bool,
        agent_id: str,
        expiry_s: float = EXPIRY_S,
        is_alone: bool = False,
        places: Path | None = None,
        placed: Placed | None = None,
    ) -> None:
        """Touches nothing yet. sync: fsync files before they get their final name. expiry_s: after so many seconds of silence other
        runs take over what this one has claimed. is_alone: the job ends with this process. places: the library's state folder, in
        which the destination is noted when the job is whole. placed: hears of every file that has its final name, in the thread
        that gave it or found it there; it must not raise.

        Raises Refused when the destination leaves root or is below none of the allowed folders (if there are any).
        """
        self.path = resolve_destination(job.destination, root=root, allow=allow)
        """The destination folder on this machine; for HUB_CACHE the cache folder that holds ``models--…``."""
        self._job = job
        self._sync = sync
        self._placed = placed
        self._places = places
        self._agent = names.plain_name(agent_id)
        self._work = work_folder(job)
        self._lock = threading.Lock()
        self._here: OpenDestination | None = None
        self._is_alone = is_alone
        self._expiry_s = expiry_s
        self._waiting: dict[int, object] = {}  # by object: what lay under its name when another run had claimed it

    def prepare(self) -> None:
        """PREPARE unit: make the folder, prove that it can be written and has room, write the shared marker."""
        with self._errors(str(self.path)):
            self._make_folder()
            here = self._open()
            check_room(
                self.path,
                total_bytes=self._job.total_bytes,
                total_objects=self._job.total_objects,
                files_each=2 if self._job.origin is OriginKind.HUB else 1,  # its metadata or symlink
            )
            for is_last_try in (False, True):
                here.make_folders()
                try:
                    here.join(create=True)
                except FileNotFoundError:
                    if is_last_try:
                        raise
                    continue  # a job that ended took the empty folders away meanwhile
                break
            prove_writable(here.root, here.temporary(), here.temporary())
            here.layout.begin()

    def check_shared(self) -> None:
        """Raises NotShared when the marker that PREPARE wrote is not visible here."""
        with self._errors(str(self.path)):
            here = self._open()
            try:
                here.join(create=False)
            except FileNotFoundError:
                raise self._not_shared(str(self.path)) from None

    def claim(self, spec: ObjectSpec) -> Published | HeldElsewhere | None:
        """Before an object is fetched: what is there already (as `find_present`), or who of another run fetches it; None when it is
        for this run to fetch now. From a thread; `let_go` is called once for every None.
        """
        with self._errors(spec.path):
            here = self._open()
            here.layout.entry_path(spec)  # refuses an unsafe name before anything is made for it
            before = self._identity(here, spec)
            was = self._waiting.get(spec.object_id, before if before is None else _UNSEEN)
            if was != before:
                if was is not _UNSEEN:
                    self._learn(here, spec)
                present = self.find_present(spec)
                if present is not None:
                    self._waiting.pop(spec.object_id, None)
                    return present
            held = here.claims.take(claim_key(spec))
            if held is not None:
                self._waiting[spec.object_id] = before
                return held
            waited = self._waiting.pop(spec.object_id, _UNSEEN) is not _UNSEEN
            after = self._identity(here, spec)
            if after is not None and (waited or after != before):
                self._learn(here, spec)
                present = self.find_present(spec)
                if present is not None:
                    here.claims.give_up(claim_key(spec))
                    self.let_go(spec)
                    return present
            return None

    def _learn(self, here: OpenDestination, spec: ObjectSpec) -> None:
        """Learn what other runs have finished; a small file that has a digest is hashed sooner than that."""
        if not (spec.digest and spec.size is not None and spec.size <= SMALL_BYTES_MAX):
            here.learn()

    def hold(self, spec: ObjectSpec) -> None:
        """Before a part of an object is fetched or it is published: another agent of the job has claimed it, and this one joins.

        Raises also Busy when another run has taken it over.
        """
        with self._errors(spec.path):
            held = self._open().claims.take(claim_key(spec))
            if held is not None:
                raise held.error(spec.path)
            self.let_go(spec)

    def holds(self, spec: ObjectSpec) -> bool:
        """Whether `hold` has nothing to do. Touches nothing."""
        here = self._here
        return here is not None and here.claims.holds(claim_key(spec))

    def let_go(self, spec: ObjectSpec) -> None:
        """An object that was claimed is no longer under way here. Touches nothing."""
        here = self._here
        if here is not None:
            here.claims.let_go(claim_key(spec))

    def _identity(self, here: OpenDestination, spec: ObjectSpec) -> object:
        """What lies under the object's name, to see whether that changes; None for nothing."""
        if self._job.layout is Layout.HUB_CACHE and not (spec.digest or spec.etag):
            return None
        fd = here.layout.open_data(spec, digest="", etag=spec.etag)
        if fd is None:
            return None
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotWritable(
                str(self.path), cause="a file lies where a folder should be", remedy="choose another destination"
            ) from None

    def find_present(self, spec: ObjectSpec) -> Published | None:
        """The final file when it is there and right (skipped=True), else None. May hash the file: call from a thread.

        A file counts unhashed when the manifest or a journal knows its very size and modification time; with job.force only
        when this same job has fetched it. The Hub client's metadata does not count: that client checks no digests.
        """
        if self._job.layout is Layout.HUB_CACHE and not (spec.digest or spec.etag):
            return None
        with self._errors(spec.path):
            here = self._open()
            fd = here.layout.open_data(spec, digest="", etag=spec.etag)
            if fd is None:
                moved = digest_of_moved(here, self._job, spec)
                if moved is None or spec.size is None:
                    return None
                return Published(path=here.layout.entry_path(spec), size=spec.size, digest=moved, skipped=True)
            try:
                found = os.fstat(fd)
                digest = digest_of_present(here, self._job, spec, fd, found)
            finally:
                os.close(fd)
            if digest is None:
                return None
            return self._finish_one(here, spec, found, digest, spec.etag, skipped=True)

    def open_published(self, spec: ObjectSpec, *, digest: str, etag: str) -> int | None:
        """A descriptor for reading a file that was published with this digest and ETag, which the caller owns.

        None when it is not there, or has another size than the object.
        """
        with self._errors(spec.path):
            fd = self._open().layout.open_data(spec, digest=digest, etag=etag)
            if fd is not None and spec.size is not None and os.fstat(fd).st_size != spec.size:
                os.close(fd)
                return None
            return fd

    def open_partial(self, spec: ObjectSpec, *, create: bool = True) -> Partial:
        """The object's partial file, preallocated when its size is known. The caller closes it.

        Stale partial files of other versions of the object are removed, unless somebody works on them. Raises also NotShared
        (create=False and it is not there) and Busy (it keeps being replaced).
        """
        with self._errors(spec.path):
            here = self._open()
            here.layout.entry_path(spec)  # refuses an unsafe name before anything is made for it
            partial = here.partials.open(self._job, spec, create=create)
            if partial is None:
                raise self._not_shared(spec.path)
            partial.guard = lambda: here.claims.check(claim_key(spec), spec.path)
            return partial

    def publish(self, spec: ObjectSpec, partial: Partial, *, digest: str, etag: str) -> Published:
        """Give a complete, verified partial its final name, with the layout's metadata; remove its chunk maps; close it.

        digest is what was computed over the bytes, etag what the origin named. Where the object's size is not known, the file
        ends where it was written to last: an attempt that begins again resets it first. Raises also VerificationFailed, and
        Busy when this run was silent for so long that another one may have taken the object over.
        """
        with self._errors(spec.path):
            here = self._open()
            found = os.fstat(partial.fd)
            self._check(spec, found.st_size, digest)
            partial.check_ours()
            if self._sync:
                os.fsync(partial.fd)
            here.claims.check(claim_key(spec), spec.path)
            self._place(here, partial.path, spec, digest, etag)
            published = self._finish_one(here, spec, found, digest, etag, skipped=False)
            here.claims.give_up(claim_key(spec))
            partial.close()
            partial.remove_maps()
            return published

    def publish_bytes(
        self, spec: ObjectSpec, data: Sequence[memoryview | bytes], *, digest: str, etag: str
    ) -> Published:
        """Publish a small whole object from memory. digest is what was computed over data. Raises also VerificationFailed."""
        with self._errors(spec.path):
            here = self._open()
            self._check(spec, sum(map(len, data)), digest)
            here.layout.entry_path(spec)
            temporary = here.temporary()
            found = here.write_new(temporary, data, sync=self._sync)
            try:
                here.claims.check(claim_key(spec), spec.path, cheaply=True)
                self._place(here, temporary, spec, digest, etag)
            except BaseException:
                with suppress(OSError):
                    here.root.unlink_beneath(temporary)
                raise
            return self._finish_one(here, spec, found, digest, etag, skipped=False)

    def finalize(self, objects: Iterable[ObjectSpec]) -> None:
        """FINALIZE unit: merge into the manifest, write refs, remove what only the work needed. Raises also Busy.

        objects are the finished ones, streamed, with the digests that were computed for them where the publisher named none.
        One that is not on the disk is left out.
        """
        with self._errors(str(self.path)):
            here = self._open()
            here.make_folders()
            here.release()
            spool = here.temporary()
            finish_job(self._job, here.root, self._work, here.layout, here.partials, objects, spool, here.claims)

    def close(self) -> None:
        """Close every descriptor. Safe to call twice."""
        with self._lock:
            here, self._here = self._here, None
        if here is not None:
            here.close()

    def _check(self, spec: ObjectSpec, size: int, digest: str) -> None:
        if spec.size is not None and size != spec.size:
            raise VerificationFailed(spec.path, cause=f"it has {size} bytes, not {spec.size}")
        if not matches(spec.digest, digest):
            raise VerificationFailed(spec.path, cause=f"its digest is {digest}, not {spec.digest}")

    def _place(self, here: OpenDestination, source: str, spec: ObjectSpec, digest: str, etag: str) -> None:
        """Rename source to the final name."""
        final = here.layout.data_path(spec, digest=digest, etag=etag)
        if here.ignores_case and (twin := find_twin(here.root, final)) is not None:
            raise Conflict(
                spec.path,
                cause=f"{twin} is there, and this file system does not tell them apart",
                remedy="choose a destination that does, or exclude one of them",
            )
        try:
            here.root.replace_beneath(source, final)
        except FileNotFoundError:
            here.root.makedirs_beneath(final.rpartition("/")[0])
            here.root.replace_beneath(source, final)
        if self._sync:
            here.root.sync_folder_beneath(final.rpartition("/")[0])

    def _finish_one(
        self, here: OpenDestination, spec: ObjectSpec, found: os.stat_result, digest: str, etag: str, *, skipped: bool
    ) -> Published:
        """The bytes have their name: the layout's metadata, a line in the journal."""
        here.layout.placed(spec, digest=digest, etag=etag, mtime_ns=found.st_mtime_ns)
        path = here.layout.entry_path(spec)
        entry = ManifestEntry(
            path=path,
            size=found.st_size,
            digest=digest,
            etag=spec.etag or etag,
            mtime_ns=found.st_mtime_ns,
            source=self._job.source,
            revision=self._job.revision,
            commit=self._job.commit,
        )
        here.note(entry)
        base = here.layout.base
        if self._placed is not None:
            self._placed(self._job, self.path, base, spec.path, entry)
        return Published(path=f"{base}/{path}" if base else path, size=found.st_size, digest=digest, skipped=skipped)

    def _open(self) -> OpenDestination:
        with self._lock:
            if self._here is None:
                try:
                    root = SafeRoot(self.path)
                except FileNotFoundError:
                    raise self._not_shared(str(self.path)) from None
                try:
                    self._here = OpenDestination(
                        self._job,
                        root,
                        self._work,
                        agent=self._agent,
                        sync=self._sync,
                        expiry_s=self._expiry_s,
                        is_alone=self._is_alone,
                    )
                except BaseException:
                    root.close()
                    raise
            return self._here

    def _not_shared(self, thing: str) -> NotShared:
        return NotShared(
            thing,
            cause="this agent does not see what another agent has made there",
            remedy="mount the shared folder at the same path on every agent, or use --deliver replicate",
        )

    @contextmanager
    def _errors(self, thing: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            here = self._here
            if isinstance(error, FileNotFoundError) and here is not None and here.claims.was_lost():
                raise Busy(thing, cause=TAKEN_OVER, remedy="it is looked at again") from None
            raise disk_error(error, thing) from error
