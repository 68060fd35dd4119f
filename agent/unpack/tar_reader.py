"""Reads a tar, strictly: what two programs could read differently is refused.

The standard library's ``tarfile`` takes an archive that is cut at a header for one that ended, reads extended headers of any
size into memory, follows sparse maps, and keeps every member. So the format is read here (pax(1) of POSIX.1-2017, "pax
Interchange Format" and "ustar Interchange Format"; tar(5) of FreeBSD for the GNU extensions).

::

    header block (512) · content, padded to 512 · … · two blocks of zeros · zeros
    'L' (GNU) or 'x' (pax) before a member: its long name, size, time; 'K': its long link target; 'g': remarks on all that follows
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .members import Budget, Member, MemberKind, check_target, damaged, member_path, unsafe
from .sources import Source

BLOCK = 512
_READ_BYTES = 1 << 20  # each read takes the interpreter's lock, which a download beside it needs: few and long ones

LONG_NAME_BYTES_MAX = 8 << 10  # of a GNU long name: PATH_MAX and its end
PAX_BYTES_MAX = 1 << 20
"""Of one extended header. With extended attributes some are a few KiB; Linux allows 64 KiB of those a file."""

_OCTAL_SIZE_MAX = 8 << 30  # 11 octal digits
_SIZE_MAX = 1 << 62
_TIME_S_MAX = 1 << 33  # beyond, some file systems wrap around
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,8}) ")
_PAX_SIZE = re.compile(r"[0-9]{1,19}")
_PAX_TIME = re.compile(r"([0-9]{1,11})(?:\.([0-9]{1,9})[0-9]*)?")

_SPECIAL = {b"3": "a character device", b"4": "a block device", b"6": "a FIFO", b"s": "a socket"}
_CURIOUS = {b"S": "a sparse file", b"D": "a GNU dump", b"M": "a part of a file", b"N": "a GNU rename", b"V": "a label"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    name: str
    mode: int
    size: int
    mtime_s: int
    type: bytes
    target: str


@dataclass(slots=True)
class _Extension:
    """What came before a member to change it."""

    pax: dict[str, str] = field(default_factory=dict[str, str])
    name: str | None = None
    target: str | None = None

    def __bool__(self) -> bool:
        return bool(self.pax) or self.name is not None or self.target is not None


class TarReader:
    """As ArchiveReader. Holds one block and one extended header at a time."""

    def __init__(self, source: Source, *, archive: str, budget: Budget) -> None:
        self._source = source
        self._archive = archive
        self._budget = budget
        self._buffer = b""
        self._at = 0  # where in the buffer
        self._content_left = 0

    def members(self) -> Iterator[tuple[Member, Iterable[bytes]]]:
        """As ArchiveReader. The content of a file must be read to its end."""
        extension = _Extension()
        while True:
            block = self._exactly(BLOCK, "at a header")
            if not any(block):
                if extension:
                    raise damaged(self._archive, "it ends after an extended header")
                self._read_end()
                return
            header = self._header(block)
            if self._extend(header, extension):
                continue
            member, padding = self._member(header, extension)
            extension = _Extension()
            if member.path == "" and member.kind is MemberKind.FOLDER:
                continue  # "./", the folder itself
            self._content_left = member.size
            yield member, self._content()
            if self._content_left:
                raise AssertionError("the content was not read")
            self._budget.take_overhead(padding)
            self._exactly(padding, "in a file")

    def _content(self) -> Iterator[bytes]:
        while self._content_left:
            data = self._some(self._content_left)
            if not data:
                raise damaged(self._archive, "it is cut in a file")
            self._content_left -= len(data)
            yield data

    def _read_end(self) -> None:
        """What comes after the first block of zeros: a second one, and nothing but zeros, to the very end of the source."""
        if any(self._exactly(BLOCK, "at its end")):
            raise damaged(self._archive, "a single empty block stands in it")
        while data := self._some(_READ_BYTES):
            self._budget.take_overhead(len(data))
            if data.count(0) != len(data):
                raise damaged(self._archive, "something follows its end")

    def _some(self, size: int) -> bytes:
        if self._at >= len(self._buffer):
            self._buffer, self._at = self._source.read(_READ_BYTES), 0
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        return data

    def _exactly(self, size: int, where: str) -> bytes:
        found = b""
        while len(found) < size:
            data = self._some(size - len(found))
            if not data:
                raise damaged(self._archive, f"it is cut {where}")
            found += data
        return found

    def _header(self, block: bytes) -> _Header:
        self._budget.take_overhead(BLOCK)
        # The sum of all bytes with the sum's own field as blanks. Some old programs summed signed bytes.
        rest = block[:148] + b" " * 8 + block[156:]
        stated = self._number(block[148:156])
        if stated != sum(rest) and stated != sum(byte - 256 if byte > 127 else byte for byte in rest):
            raise damaged(self._archive, "a header's checksum is wrong")
        name = _text(block[:100])
        # GNU's own format, told by its magic, keeps other things where ustar has the name's first part.
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = f"{prefix}/{name}"
        size = self._number(block[124:136])
        if not 0 <= size < _SIZE_MAX:
            raise damaged(self._archive, "a size in it is not possible")
        return _Header(
            name=name,
            mode=self._number(block[100:108]),
            size=size,
            mtime_s=self._number(block[136:148]),
            type=block[156:157],
            target=_text(block[157:257]),
        )

    def _number(self, data: bytes) -> int:
        """Octal digits, or GNU's base 256, whose first byte is 0x80 or (negative) 0xff."""
        if data[0] in (0x80, 0xFF):
            return int.from_bytes(data[1:], "big") - (256 ** (len(data) - 1) if data[0] == 0xFF else 0)
        digits = data.split(b"\0", 1)[0].strip(b" ")
        if not re.fullmatch(rb"[0-7]*", digits):
            raise damaged(self._archive, "a number in a header is not one")
        return int(digits or b"0", 8)

    def _extend(self, header: _Header, extension: _Extension) -> bool:
        """Read a header that is about others. False when it is a member's own."""
        if header.type not in (b"L", b"K", b"x", b"X", b"g"):
            return False
        is_pax = header.type not in (b"L", b"K")
        size_max = PAX_BYTES_MAX if is_pax else LONG_NAME_BYTES_MAX
        if header.size > size_max:
            raise unsafe(self._archive, header.name, f"its extended header is larger than {size_max} bytes")
        padded = -(-header.size // BLOCK) * BLOCK
        self._budget.take_overhead(padded)
        data = self._exactly(padded, "in an extended header")[: header.size]
        if not is_pax:
            text = _text(data)
            if (extension.name if header.type == b"L" else extension.target) is not None:
                raise unsafe(self._archive, text, "it has two long names")
            if header.type == b"L":
                extension.name = text
            else:
                extension.target = text
            return True
        records = self._pax_records(data, header.name)
        if header.type == b"g":
            if not records.keys().isdisjoint(("path", "linkpath", "size")) or extension:
                raise unsafe(self._archive, header.name, "a global header changes the members after it")
        elif extension.pax:
            raise unsafe(self._archive, header.name, "two extended headers are for one member")
        else:
            extension.pax = records or {"": ""}
        return True

    def _pax_records(self, data: bytes, name: str) -> dict[str, str]:
        """``LENGTH KEYWORD=VALUE\\n``, the length counting all of it."""
        records: dict[str, str] = {}
        at = 0
        while at < len(data):
            found = _PAX_RECORD.match(data, at, at + 10)
            end = at + int(found[1]) if found else 0
            if found is None or end > len(data) or end <= found.end() or data[end - 1] != 0x0A:
                raise damaged(self._archive, "an extended header is not readable")
            keyword, equals, value = data[found.end() : end - 1].partition(b"=")
            key = _decoded(keyword)
            if not equals or key in records:
                raise unsafe(self._archive, name, f"its extended header says {key[:40]!a} twice or says nothing")
            if key.startswith("GNU.sparse."):
                raise unsafe(self._archive, name, "it is a sparse file: its size is not that of its content")
            if key in ("path", "linkpath", "size", "mtime"):
                records[key] = _decoded(value)
            at = end
        return records

    def _member(self, header: _Header, extension: _Extension) -> tuple[Member, int]:
        """The member of a header, and how many bytes of padding follow its content."""
        name, target = header.name, header.target
        if extension.name is not None and "path" in extension.pax:
            raise unsafe(self._archive, extension.name, "it has two long names")
        if extension.target is not None and "linkpath" in extension.pax:
            raise unsafe(self._archive, name, "it has two long targets")
        name = extension.pax.get("path", name if extension.name is None else extension.name)
        target = extension.pax.get("linkpath", target if extension.target is None else extension.target)
        size = self._size(header, extension, name)
        kind = self._kind(header, name)
        if kind is not MemberKind.FILE and size:
            raise unsafe(self._archive, name, "it is no file and yet has content, which not all programs skip")
        path = member_path(self._archive, name)
        if path == "" and kind is not MemberKind.FOLDER:
            raise unsafe(self._archive, name, "it has the name of the folder itself")
        if kind is MemberKind.FILE and name.endswith("/"):
            raise unsafe(self._archive, name, "it is a file with the name of a folder")
        if kind is MemberKind.SYMLINK:
            check_target(self._archive, name, target)
        elif kind is MemberKind.HARDLINK:
            target = member_path(self._archive, target)
            if not target:
                raise unsafe(self._archive, name, "it is a hard link to the folder itself")
        else:
            target = ""
        member = Member(
            path=path,
            kind=kind,
            size=size,
            is_executable=bool(header.mode & 0o100),
            mtime_ns=_mtime_ns(header, extension),
            target=target,
        )
        return member, -size % BLOCK

    def _kind(self, header: _Header, name: str) -> MemberKind:
        if header.type == b"\0" and name.endswith("/"):
            return MemberKind.FOLDER  # as archives had it before there was a type for it
        if header.type in (b"\0", b"0", b"7"):
            return MemberKind.FILE
        if header.type == b"5":
            return MemberKind.FOLDER
        if header.type == b"2":
            return MemberKind.SYMLINK
        if header.type == b"1":
            return MemberKind.HARDLINK
        what = _SPECIAL.get(header.type) or _CURIOUS.get(header.type)
        raise unsafe(self._archive, name, f"it is {what or f'of the unknown type {header.type!r}'}")

    def _size(self, header: _Header, extension: _Extension, name: str) -> int:
        text = extension.pax.get("size")
        if text is None:
            return header.size
        size = int(text) if _PAX_SIZE.fullmatch(text) else _SIZE_MAX
        if size >= _SIZE_MAX:
            raise damaged(self._archive, "a size in it is not possible")
        # Programs write this record where the header's own field is too small. Elsewhere it only serves to have
        # programs that do not know it take content for headers.
        if size != header.size and size < _OCTAL_SIZE_MAX:
            raise unsafe(self._archive, name, "its two headers say different sizes")
        return size


def _mtime_ns(header: _Header, extension: _Extension) -> int | None:
    found = _PAX_TIME.fullmatch(extension.pax.get("mtime", ""))
    seconds = int(found[1]) if found else header.mtime_s
    if not 0 <= seconds < _TIME_S_MAX:
        return None
    return seconds * 10**9 + (int((found[2] or "").ljust(9, "0")) if found else 0)


def _text(data: bytes) -> str:
    return _decoded(data.split(b"\0", 1)[0])


def _decoded(data: bytes) -> str:
    return data.decode(errors="surrogateescape")  # what is not UTF-8 is refused as a name
