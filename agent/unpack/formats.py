"""Which objects are archives, of which format, and where they are unpacked to."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ...common.errors import DamagedArchive, UsageError
from ...common.paths import safe_relative_path


class ArchiveFormat(enum.StrEnum):
    """A format as ``JobSpec.unpack_format`` names it."""

    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_BZ2 = "tar.bz2"
    TAR_XZ = "tar.xz"
    TAR_ZST = "tar.zst"
    ZIP = "zip"


_SUFFIXES = {
    ".tar": ArchiveFormat.TAR,
    ".tar.gz": ArchiveFormat.TAR_GZ,
    ".tgz": ArchiveFormat.TAR_GZ,
    ".tar.bz2": ArchiveFormat.TAR_BZ2,
    ".tbz2": ArchiveFormat.TAR_BZ2,
    ".tbz": ArchiveFormat.TAR_BZ2,
    ".tar.xz": ArchiveFormat.TAR_XZ,
    ".txz": ArchiveFormat.TAR_XZ,
    ".tar.zst": ArchiveFormat.TAR_ZST,
    ".tzst": ArchiveFormat.TAR_ZST,
    ".zip": ArchiveFormat.ZIP,
}

HEAD_BYTES = 512  # what check_magic needs: a tar header names itself at 257

# RFC 1952 2.3.1; bzip2's format; the .xz file format 2.1.1.1; RFC 8878 3.1 (a frame, a skippable frame); APPNOTE 4.3.7, 4.3.16.
_MAGIC: dict[ArchiveFormat, tuple[bytes, ...]] = {
    ArchiveFormat.TAR_GZ: (b"\x1f\x8b\x08",),
    ArchiveFormat.TAR_BZ2: (b"BZh",),
    ArchiveFormat.TAR_XZ: (b"\xfd7zXZ\x00",),
    ArchiveFormat.TAR_ZST: (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))),
    ArchiveFormat.ZIP: (b"PK\x03\x04", b"PK\x05\x06"),
}

AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackTarget:
    """Where one archive goes. base is an absolute folder, or "" for the job's destination; into is below it ("": itself)."""

    base: str
    into: str
    format: ArchiveFormat


def format_by_name(name: str) -> ArchiveFormat | None:
    """The format that a file's name says; None when it says none. Wheels, jars and the like are files of their own kind."""
    lowered = name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lowered.endswith(suffix)), None)


def parse_format(text: str) -> ArchiveFormat:
    """The format of that name; ``tgz`` and the like are understood. Raises UsageError."""
    found = _SUFFIXES.get("." + text.lower().removeprefix("."))
    if found is None:
        raise UsageError(
            f"archive format {text[:40]!r}", cause="it is not known", remedy=f"use one of {', '.join(ArchiveFormat)}"
        )
    return found


def unpack_target(path: str, *, unpack: str, unpack_format: str) -> UnpackTarget | None:
    """Where a job's object at path is unpacked to; None when it is left alone. unpack and unpack_format as in JobSpec.

    A format that was given holds for every object of the job, whatever its name. Raises UsageError, UnsafeName.
    """
    if not unpack:
        return None
    kind = parse_format(unpack_format) if unpack_format else format_by_name(path)
    if kind is None:
        return None
    if unpack == AUTO:
        return UnpackTarget(base="", into=path.rpartition("/")[0], format=kind)
    if unpack.startswith("/"):
        return UnpackTarget(base=unpack, into="", format=kind)
    parts = [part for part in unpack.split("/") if part not in ("", ".")]
    return UnpackTarget(base="", into=safe_relative_path("/".join(parts)) if parts else "", format=kind)


def check_magic(head: bytes, kind: ArchiveFormat, name: str) -> None:
    """head is the first HEAD_BYTES of the file, or all of a shorter one. Raises DamagedArchive when it is not of this kind."""
    if kind is ArchiveFormat.TAR:
        # Before POSIX a tar header had no magic: there the reader's checksum tells. An empty archive begins with zeros.
        if len(head) == HEAD_BYTES and not any(head.startswith(magic) for kinds in _MAGIC.values() for magic in kinds):
            return
    elif head.startswith(_MAGIC[kind]):
        return
    really = next((str(other) for other, magics in _MAGIC.items() if head.startswith(magics)), "")
    if not really and head[257:262] == b"ustar":
        really = str(ArchiveFormat.TAR)
    raise DamagedArchive(
        name,
        cause=f"it is not of the format {kind}" + (f", it begins like {really}" if really else ""),
        remedy="name the format, or check what the publisher calls it",
    )
