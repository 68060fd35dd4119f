"""What an archive may hold: kinds of members, their names, and how much of all that."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ...common.errors import DamagedArchive, UnsafeArchive, UnsafeName
from ...common.paths import PATH_BYTES_MAX, safe_relative_path, unsafe_character

DEPTH_MAX = 100
"""Folders above a file. The deepest trees in use (nested node_modules) have about 40; walking one costs a descriptor a level."""

RATIO_FREE_BYTES = 16 << 20
"""Up to here the ratio is not looked at: a few empty files of one test set compress a thousandfold and hurt nobody."""

OVERHEAD_FREE_BYTES = 16 << 20
OVERHEAD_BYTES_PER_ENTRY = 8 << 10
"""Headers and padding of a tar. One entry has 0.5 to 2 KiB of headers; extended attributes may double that a few times."""

LINK_HOPS_MAX = 40  # MAXSYMLINKS of Linux


class MemberKind(enum.StrEnum):
    """What a member becomes. The values stand in the list of what was unpacked."""

    FILE = "f"
    FOLDER = "d"
    SYMLINK = "l"
    HARDLINK = "h"  # in an archive only: on the disk it is a file


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member, checked by itself. target is a symlink's text, or the path of the member that a hard link is one to."""

    path: str
    kind: MemberKind
    size: int = 0
    is_executable: bool = False
    mtime_ns: int | None = None
    target: str = ""


class ArchiveReader(Protocol):
    """Reads an archive from its beginning to its end."""

    def members(self) -> Iterator[tuple[Member, Iterable[bytes]]]:
        """Each member with its content, to be read before the next is asked for. Ends only when the archive is sound.

        Raises UnsafeArchive, DamagedArchive, and what the source raises.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one archive may grow to. bytes_max and ratio_max bound the files' content, files_max counts folders and links too."""

    bytes_max: int = 1 << 40
    ratio_max: int = 200
    files_max: int = 2_000_000


class Budget:
    """What was taken of the limits. Asked before a byte is written."""

    def __init__(self, limits: Limits, *, archive: str, compressed: int = 0) -> None:
        """compressed is the archive's size in bytes, or 0 when it is not known yet."""
        self.compressed = compressed
        self.entries = 0
        self.content = 0
        self._is_known = compressed > 0
        self._made = 0
        self._limits = limits
        self._archive = archive
        self._overhead = 0

    def take_entry(self) -> None:
        """One more file, folder or link. Raises UnsafeArchive."""
        self.entries += 1
        if self.entries > self._limits.files_max:
            raise self._refusal(f"it holds more than {self._limits.files_max} files and folders", "unpack_files_max")

    def take_content(self, size: int) -> None:
        """A file of size bytes is to come. Raises UnsafeArchive."""
        self.content += size
        self.check_content(self.content)

    def take_made(self, size: int) -> None:
        """Bytes of a file came out: what the ratio is held against where the archive's size is not known. Raises UnsafeArchive."""
        self._made += size
        self._check_ratio(self._made)

    def check_content(self, total: int) -> None:
        """Raises UnsafeArchive when files of total bytes are too much."""
        if total > self._limits.bytes_max:
            raise self._refusal(f"its files are larger than {self._limits.bytes_max} bytes", "unpack_bytes_max")
        if self._is_known:
            self._check_ratio(total)

    def _check_ratio(self, total: int) -> None:
        if total > max(RATIO_FREE_BYTES, self._limits.ratio_max * self.compressed):
            raise self._refusal(
                f"its files are more than {self._limits.ratio_max} times as large as itself", "unpack_ratio_max"
            )

    def take_overhead(self, size: int) -> None:
        """Bytes of a decompressed archive that are no file's content. Raises UnsafeArchive."""
        self._overhead += size
        if self._overhead > OVERHEAD_FREE_BYTES + OVERHEAD_BYTES_PER_ENTRY * self.entries:
            raise UnsafeArchive(self._archive, cause="its headers and padding are out of all proportion")

    def _refusal(self, cause: str, setting: str) -> UnsafeArchive:
        return UnsafeArchive(self._archive, cause=cause, remedy=f"if you trust it, raise fetch.{setting}")


def unsafe(archive: str, member: str, reason: str) -> UnsafeArchive:
    """The refusal of an archive because of one of its members."""
    return UnsafeArchive(archive, cause=f"member {_shown(member)}: {reason}")


def damaged(archive: str, reason: str) -> DamagedArchive:
    """The refusal of an archive that cannot be read to its end."""
    return DamagedArchive(archive, cause=reason, remedy="fetch it again, or ask its publisher")


def member_path(archive: str, name: str) -> str:
    """The path of a member below the archive's folder, "" for that folder itself. Raises UnsafeArchive.

    Parts that say nothing ("./", "//") are left out; a trailing "/" is.
    """
    if name.startswith("/"):
        raise unsafe(archive, name, "its name is absolute")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not name or (not parts and not name.startswith(".")):
        raise unsafe(archive, name, "it has no name")
    if not parts:
        return ""
    if len(parts) > DEPTH_MAX:
        raise unsafe(archive, name, f"it lies more than {DEPTH_MAX} folders deep")
    try:
        return safe_relative_path("/".join(parts))
    except UnsafeName as error:
        raise unsafe(archive, name, error.cause) from None


def check_target(archive: str, name: str, target: str) -> str:
    """A symlink's target as it may be written; where it leads is checked when all members are there. Raises UnsafeArchive."""
    if not target or "\0" in target or len(target.encode(errors="surrogateescape")) >= PATH_BYTES_MAX:
        raise unsafe(archive, name, "it is a symlink whose target is no path")
    if target.startswith("/"):
        raise unsafe(archive, name, "it is a symlink to an absolute path")
    if "\\" in target or target[1:2] == ":":
        raise unsafe(archive, name, "it is a symlink whose target means something else on other systems")
    if unsafe_character(target) is not None:
        raise unsafe(archive, name, "it is a symlink whose target holds characters that do not show")
    return target


def joined(folder: str, name: str) -> str:
    """A path below a folder, where "" is the folder on top."""
    return f"{folder}/{name}" if folder else name


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 200 else f"{name[:200]}…")
