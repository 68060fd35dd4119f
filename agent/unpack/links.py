"""Where the symlinks of an archive lead: nowhere outside its folder, not through one another either.

A chain of links can leave a folder though no single one seems to (``a -> .``, ``b -> a/..``). So each is followed by the
kernel's rules, one component at a time, over what was unpacked, and where that meets a folder that was there before, over
that too: a link through somebody else's link is refused.
"""

from __future__ import annotations

import errno
import stat

from ...common.errors import UnsafeName
from ...common.paths import SafeRoot, safe_relative_path
from .members import LINK_HOPS_MAX, MemberKind, joined, unsafe
from .record import read_entries

STEPS_MAX = 1000
"""Components looked at for one link. Links to links multiply: 40 hops of 2,000 components each would be work for nothing."""


def check_links(root: SafeRoot, list_path: str, tree: str, *, archive: str, beside: str | None = None) -> None:
    """Check every symlink that the list names, in the tree below root.

    beside is the folder that the tree's entries will join, "" for the root; None when they get a folder of their own. A link
    may lead to nothing. Raises UnsafeArchive, OSError.
    """
    for entry in read_entries(root, list_path):
        if entry.kind is MemberKind.SYMLINK:
            _check_link(_View(root, tree, beside), archive, entry.path, entry.target)


class _View:
    """The tree as it will stand beside what is there already."""

    def __init__(self, root: SafeRoot, tree: str, beside: str | None) -> None:
        self._root = root
        self._tree = tree
        self._beside = beside

    def link_at(self, parts: list[str]) -> tuple[str | None, bool]:
        """The target of the symlink at a path, None where there is none; and whether it is the archive's own."""
        if self._mode(joined(self._tree, parts[0])) is not None or self._beside is None:
            path, is_own = joined(self._tree, "/".join(parts)), True
        else:
            path, is_own = joined(self._beside, "/".join(parts)), False
        mode = self._mode(path)
        if mode is None or not stat.S_ISLNK(mode):
            return None, is_own
        return self._root.readlink_beneath(path), is_own

    def _mode(self, path: str) -> int | None:
        try:
            return self._root.stat_beneath(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return None  # no such name can be


def _check_link(view: _View, archive: str, path: str, target: str) -> None:
    at = path.split("/")[:-1]
    todo = target.split("/")[::-1]
    hops = steps = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        steps += 1
        if steps > STEPS_MAX:
            raise unsafe(archive, path, "it is a symlink by too long a way")
        if part == "..":
            if not at:
                raise unsafe(archive, path, "it is a symlink that leaves the folder")
            at.pop()
            continue
        at.append(part)
        found, is_own = view.link_at(at)
        if found is None:
            continue
        if not is_own:
            raise unsafe(archive, path, "it is a symlink through a symlink that was there before")
        hops += 1
        if hops > LINK_HOPS_MAX:
            raise unsafe(archive, path, "it is a symlink in a circle")
        at.pop()
        todo.extend(found.split("/")[::-1])
    if at:
        try:
            safe_relative_path("/".join(at))
        except UnsafeName as error:
            raise unsafe(archive, path, f"it is a symlink to a name that cannot be: {error.cause}") from None
