"""Reads the files of a zip, each held against what the directory says of it.

The standard library's ``zipfile`` reads the whole directory into memory and believes it: sizes of the local headers are not
compared, bytes shared by several files not noticed. Its parsing is short, so it is done here.
"""

from __future__ import annotations

import bz2
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator

from ...common.errors import Interrupted, UnsafeArchive
from ...common.paths import PATH_BYTES_MAX
from .members import Budget, Member, MemberKind, check_target, damaged, member_path, unsafe
from .zip_directory import DESCRIPTOR_FLAG, LOCAL, UTF8_FLAG, ZipDirectory, ZipEntry, decode_name

_BLOCK_BYTES = 256 << 10
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12  # 4.4.5
_METHODS = frozenset({_STORED, _DEFLATED, _BZIP2})


class ZipReader:
    """As ArchiveReader, of the whole file open at fd."""

    def __init__(
        self, fd: int, *, size: int, archive: str, budget: Budget, files_max: int, cancelled: Callable[[], bool]
    ) -> None:
        self._fd = fd
        self._size = size
        self._archive = archive
        self._budget = budget
        self._files_max = files_max
        self._cancelled = cancelled

    def members(self) -> Iterator[tuple[Member, Iterable[bytes]]]:
        """As ArchiveReader. The whole directory is checked before the first member."""
        directory = ZipDirectory(self._fd, size=self._size, archive=self._archive)
        if directory.count > self._files_max:
            raise UnsafeArchive(
                self._archive,
                cause=f"it holds more than {self._files_max} files and folders",
                remedy="if you trust it, raise fetch.unpack_files_max",
            )
        total = 0
        for entry in directory.check_overlaps(directory.entries()):
            self._check_cancelled()
            self._member(entry)
            total += entry.size
            self._budget.check_content(total)
        for entry in directory.entries():
            member = self._member(entry)
            if member.kind is MemberKind.SYMLINK:
                target = b"".join(self._content(directory, entry)).decode(errors="surrogateescape")
                yield _symlink(member, check_target(self._archive, entry.name, target)), ()
                continue
            content = self._content(directory, entry)
            if member.path:
                yield member, content
            for _ in content:  # of a folder, or of the folder itself: nothing, and so it must be
                raise AssertionError("the content was not read")

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise Interrupted("unpacking", cause="it was cancelled")

    def _member(self, entry: ZipEntry) -> Member:
        """The member of an entry, without a symlink's target. Raises UnsafeArchive."""
        name = entry.name
        path = member_path(self._archive, name)
        if entry.method not in _METHODS:
            raise unsafe(self._archive, name, f"it is compressed by method {entry.method}, which is not known here")
        if entry.method == _STORED and entry.size != entry.compressed:
            raise unsafe(self._archive, name, "it is not compressed and yet has two sizes")
        kind = {0: MemberKind.FILE, stat.S_IFREG: MemberKind.FILE, stat.S_IFDIR: MemberKind.FOLDER}.get(
            stat.S_IFMT(entry.mode)
        )
        if stat.S_ISLNK(entry.mode):
            kind = MemberKind.SYMLINK
            if entry.size >= PATH_BYTES_MAX:
                raise unsafe(self._archive, name, "it is a symlink whose target is no path")
        if kind is None:
            raise unsafe(self._archive, name, "it is a device, a FIFO or a socket")
        if name.endswith("/"):
            if stat.S_IFMT(entry.mode) not in (0, stat.S_IFDIR) or entry.size:
                raise unsafe(self._archive, name, "it is a file with the name of a folder")
            kind = MemberKind.FOLDER
        elif kind is MemberKind.FOLDER or not path:
            raise unsafe(self._archive, name, "it is a folder with the name of a file")
        size = entry.size if kind is MemberKind.FILE else 0
        return Member(path=path, kind=kind, size=size, is_executable=bool(entry.mode & 0o100))

    def _content(self, directory: ZipDirectory, entry: ZipEntry) -> Iterator[bytes]:
        """The content, checked for length, CRC and place. Each step makes at most a block."""
        at = self._content_at(directory, entry)
        left, made, crc = entry.compressed, 0, 0
        # Some programs say that they compressed what is empty, and wrote nothing at all.
        decompress = _decompressor(entry.method if left else _STORED)
        while True:
            self._check_cancelled()
            data = os.pread(self._fd, min(left, _BLOCK_BYTES), at) if left else b""
            if left and not data:
                raise damaged(self._archive, "it is cut in a file")
            at += len(data)
            left -= len(data)
            for out in decompress(data, self._archive, not left):
                made += len(out)
                if made > entry.size:
                    raise unsafe(self._archive, entry.name, "it is larger than it says")
                crc = zlib.crc32(out, crc)
                yield out
            if not left:
                break
        if made != entry.size:
            raise unsafe(self._archive, entry.name, "it is smaller than it says")
        if crc != entry.crc:
            raise damaged(self._archive, f"the checksum of {entry.name!a} is wrong")
        self._check_descriptor(directory, entry, at)

    def _content_at(self, directory: ZipDirectory, entry: ZipEntry) -> int:
        """Where the content begins; the local header is held against the directory."""
        data = os.pread(self._fd, LOCAL.size, entry.offset)
        if len(data) < LOCAL.size or data[:4] != b"PK\x03\x04":
            raise damaged(self._archive, f"{entry.name!a} is not where the directory says")
        _, _, flags, method, _, _, crc, compressed, size, name_bytes, extra_bytes = LOCAL.unpack(data)
        rest = os.pread(self._fd, name_bytes + extra_bytes, entry.offset + LOCAL.size)
        stated = directory.widened(rest[name_bytes:], (size, compressed), entry.name)
        has_descriptor = bool(flags & DESCRIPTOR_FLAG)
        expected = (entry.size, entry.compressed)
        is_same = (crc, *stated) == (entry.crc, *expected)
        if has_descriptor and not is_same:  # then the header may leave each of them open
            is_same = crc in (0, entry.crc) and all(said in (0, really) for said, really in zip(stated, expected))
        is_same = is_same and method == entry.method and not (flags ^ entry.flags) & (DESCRIPTOR_FLAG | UTF8_FLAG)
        if not is_same or decode_name(rest[:name_bytes], flags) != entry.name:
            raise unsafe(self._archive, entry.name, "its header and the directory say different things")
        at = entry.offset + LOCAL.size + len(rest)
        if at + entry.compressed > directory.stop_of(entry):
            raise unsafe(self._archive, entry.name, "it shares bytes with another file")
        return at

    def _check_descriptor(self, directory: ZipDirectory, entry: ZipEntry, at: int) -> None:
        """What follows the content where the local header left sizes open: with or without a signature, short or long."""
        if not entry.flags & DESCRIPTOR_FLAG:
            return
        data = os.pread(self._fd, min(24, directory.stop_of(entry) - at), at)
        for width in (4, 8):
            said = b"".join(
                (entry.crc.to_bytes(4, "little"), *(_fitted(n, width) for n in (entry.compressed, entry.size)))
            )
            if data.startswith((said, b"PK\x07\x08" + said)):
                return
        raise unsafe(self._archive, entry.name, "what follows it and the directory say different things")


def _fitted(number: int, width: int) -> bytes:
    return (number & (256**width - 1)).to_bytes(width, "little")


def _symlink(member: Member, target: str) -> Member:
    return Member(path=member.path, kind=MemberKind.SYMLINK, target=target)


def _decompressor(method: int) -> Callable[[bytes, str, bool], Iterator[bytes]]:
    """A function of the next input, the archive's name, and whether that was all; it makes bounded output."""
    if method == _STORED:
        return lambda data, archive, is_last: iter((data,) if data else ())
    return _deflated() if method == _DEFLATED else _bzipped()


def _deflated() -> Callable[[bytes, str, bool], Iterator[bytes]]:
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)

    def step(data: bytes, archive: str, is_last: bool) -> Iterator[bytes]:
        while True:
            try:
                out = stream.decompress(data, _BLOCK_BYTES)
            except zlib.error as error:
                raise damaged(archive, f"it cannot be decompressed: {error}") from None
            if out:
                yield out
            data = stream.unconsumed_tail
            if not data and len(out) < _BLOCK_BYTES:
                break
        if stream.unused_data or is_last != stream.eof:
            raise damaged(archive, "the compressed data of a file does not end where it says")

    return step


def _bzipped() -> Callable[[bytes, str, bool], Iterator[bytes]]:
    stream = bz2.BZ2Decompressor()

    def step(data: bytes, archive: str, is_last: bool) -> Iterator[bytes]:
        while data or not stream.needs_input:
            try:
                out = stream.decompress(data, _BLOCK_BYTES)
            except (OSError, EOFError) as error:
                raise damaged(archive, f"it cannot be decompressed: {error}") from None
            data = b""
            if out:
                yield out
            if stream.eof:
                break
        if stream.unused_data or is_last != stream.eof:
            raise damaged(archive, "the compressed data of a file does not end where it says")

    return step
