"""Names from outside become safe relative paths here, and only here.

``safe_relative_path`` refuses every name that could leave the destination or mean something else on another system.
``CollisionIndex`` finds names that are fine alone and clash together. ``SafeRoot`` (``safe_root.py``) opens what is below
a folder without following a symlink that somebody planted there.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

from .errors import UnsafeName
from .safe_root import SafeRoot

__all__ = [
    "COMPONENT_BYTES_MAX",
    "PATH_BYTES_MAX",
    "CollisionIndex",
    "CollisionKind",
    "SafeRoot",
    "find_collisions",
    "safe_relative_path",
    "unsafe_character",
]

COMPONENT_BYTES_MAX = 255  # NAME_MAX of ext4, XFS, NFS and APFS
PATH_BYTES_MAX = 4096  # PATH_MAX of Linux

# Device names of Windows, with or without an extension (learn.microsoft.com, "Naming Files, Paths, and Namespaces").
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(?:\.|$)", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")
_PLAIN = re.compile(r"[\x20-\x7e]*")
# Control, format (bidirectional and zero-width among them) and surrogate characters; line and paragraph separators.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_OWN_FOLDERS = (".shoal", ".cache/huggingface")  # where work in progress, manifests and the Hub's metadata live


def unsafe_character(text: str) -> str | None:
    """The first character that does not show, reorders what is shown, or is not text at all; None if there is none."""
    if _PLAIN.fullmatch(text):
        return None
    import unicodedata

    return next((character for character in text if unicodedata.category(character) in _UNSAFE_CATEGORIES), None)


def safe_relative_path(name: str) -> str:
    """The name itself, a relative path with "/" between components, if it is safe on every system.

    Raises: UnsafeName, naming the path (escaped) and the reason.
    """
    reason = _reason_against(name)
    if reason is not None:
        shown = name if len(name) <= 200 else f"{name[:200]}…"
        raise UnsafeName(f"file name {shown!a}", cause=reason, remedy="exclude it with --exclude")
    return name


def _reason_against(name: str) -> str | None:
    if not name:
        return "it is empty"
    if (bad := unsafe_character(name)) is not None:
        return f"it holds the character U+{ord(bad):04X}, which does not show or is not text"
    if "\\" in name:
        return "it holds a backslash, which separates folders on some systems"
    if name[0] == "/":
        return "it is absolute"
    if _DRIVE.match(name):
        return "it starts with a drive letter"
    if len(name.encode()) > PATH_BYTES_MAX:
        return f"it is longer than {PATH_BYTES_MAX} bytes"
    for component in name.split("/"):
        reason = _reason_against_component(component)
        if reason is not None:
            return reason
    # The second test is for file systems that ignore case.
    lowered = f"{name.casefold()}/"
    for own in _OWN_FOLDERS:
        if lowered.startswith(f"{own}/"):
            return f"{own} belongs to Shoal and the Hub's client"
    return None


def _reason_against_component(component: str) -> str | None:
    if component == "":
        return "a part of it is empty"
    if component in (".", ".."):
        return f"a part of it is {component!r}"
    if component[-1] in ". ":
        return "a part of it ends in a dot or a space, which some systems drop"
    if len(component) * 4 > COMPONENT_BYTES_MAX and len(component.encode()) > COMPONENT_BYTES_MAX:
        return f"a part of it is longer than {COMPONENT_BYTES_MAX} bytes"
    if _RESERVED.match(component):
        return f"{component!a} names a device on Windows"
    return None


class CollisionKind(enum.StrEnum):
    """Why two paths cannot both exist."""

    DUPLICATE = "duplicate"  # the same path twice: never possible
    FILE_DIRECTORY = "file-directory"  # "a" and "a/b": never possible
    CASE = "case"  # "A" and "a": impossible where case is ignored
    UNICODE = "unicode"  # composed and decomposed "é": impossible where the file system normalises


class CollisionIndex:
    """The paths seen so far, to be asked about the next one. About 100 bytes a path beyond the path's own text.

    The first of two clashing paths stays; the caller decides about the second. It counts as seen too, so that what clashes
    with it exactly is found even where case matters.
    """

    def __init__(self) -> None:
        # By the hash of the folded path: a folded copy of every path would double the memory. A hit is compared in full;
        # if two foldings ever had one 64-bit hash, the later path would merely not be indexed.
        self._files: dict[int, str] = {}
        self._folders: dict[int, str] = {}
        self._twin_files: set[str] = set()  # spellings other than the first
        self._twin_folders: set[str] = set()

    def add(self, path: str) -> CollisionKind | None:
        """Take in a path, as ``safe_relative_path`` returned it; the kind of its clash with an earlier one, if any."""
        folded = _fold(path)
        kind = self._clash(path, folded)
        if kind in (CollisionKind.DUPLICATE, CollisionKind.FILE_DIRECTORY):
            return kind
        if self._files.setdefault(hash(folded), path) is not path:
            self._twin_files.add(path)
        # Upwards, until a folder that is known in this very spelling: its parents are known too.
        end = path.rfind("/")
        while end > 0:
            folder = path[:end]
            folded = folded[:end] if path.isascii() else _fold(folder)
            if self._is_folder(folder, folded):
                break
            above = self._clash(folder, folded)
            if above is CollisionKind.DUPLICATE:
                return CollisionKind.FILE_DIRECTORY  # a file has the name of this folder
            kind = kind or above
            if self._folders.setdefault(hash(folded), folder) is not folder:
                self._twin_folders.add(folder)
            end = path.rfind("/", 0, end)
        return kind

    def twin_of(self, path: str) -> str | None:
        """The path or folder that an added path clashes with: of two spellings, the one that came first."""
        end = len(path)
        while end > 0:
            part, is_whole = path[:end], end == len(path)
            folded = _fold(part)
            for table, is_clash in ((self._files, not is_whole), (self._folders, is_whole)):
                other = table.get(hash(folded))
                if other is not None and (is_clash if other == part else _fold(other) == folded):
                    return other
            end = path.rfind("/", 0, end)
        return path if self._files.get(hash(_fold(path))) == path else None

    def _clash(self, path: str, folded: str) -> CollisionKind | None:
        """How one name, its parents apart, clashes; DUPLICATE if with a file of this very name."""
        first_file = self._files.get(hash(folded))
        if first_file == path or path in self._twin_files:
            return CollisionKind.DUPLICATE
        if self._is_folder(path, folded):
            return CollisionKind.FILE_DIRECTORY
        for twin in (first_file, self._folders.get(hash(folded))):
            if twin is not None and _fold(twin) == folded:
                return _twin_kind(twin, path)
        return None

    def _is_folder(self, path: str, folded: str) -> bool:
        return self._folders.get(hash(folded)) == path or path in self._twin_folders


def find_collisions(paths: Iterable[str]) -> list[tuple[str, str, CollisionKind]]:
    """Every clash, as (earlier path or folder, later path, kind). The caller decides which kinds matter."""
    index = CollisionIndex()
    found: list[tuple[str, str, CollisionKind]] = []
    for path in paths:
        kind = index.add(path)
        if kind is not None:
            found.append((index.twin_of(path) or path, path, kind))
    return found


def _twin_kind(first: str, second: str) -> CollisionKind:
    import unicodedata

    same = unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second)
    return CollisionKind.UNICODE if same else CollisionKind.CASE


def _fold(path: str) -> str:
    """What file systems that ignore case and normalise Unicode (APFS, HFS+, SMB) take for one name."""
    if path.isascii():
        return path.lower()
    import unicodedata

    # Unicode Standard, D145: canonical caseless matching.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
