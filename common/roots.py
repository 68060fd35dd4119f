"""Which folder of this machine a job's destination is, and whether an agent may write there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from .errors import Refused
from .paths import SafeRoot


def resolve_destination(destination: str, *, root: Path, allow: Sequence[Path]) -> Path:
    """The destination taken below root, with every symlink and ``..`` resolved as the kernel would.

    An absolute destination counts from root too, so with a root of ``/`` it is itself. Raises Refused when it leaves root, or
    is below none of the allowed folders (if there are any).
    """
    if not destination or "\0" in destination:
        raise Refused(f"destination {destination!r}", cause="it names no folder", remedy="name one with --to")
    top = Path(os.path.realpath(root))
    path = Path(os.path.realpath(top / destination.lstrip("/")))
    if not path.is_relative_to(top):
        raise Refused(
            f"destination {destination}", cause=f"it is not below this agent's root {top}", remedy="see --root"
        )
    if allow and not any(path.is_relative_to(os.path.realpath(folder)) for folder in allow):
        raise Refused(
            f"destination {path}",
            cause="it is below none of the folders that this agent may write to",
            remedy="add it to agent.allow_paths",
        )
    return path


def ignores_case(root: SafeRoot, probe: str) -> bool:
    """Whether the file system takes names that differ in case for one. probe is a free lower-case name below root."""
    os.close(root.open_beneath(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    folder, _, name = probe.rpartition("/")
    try:
        root.stat_beneath(f"{folder}/{name.upper()}")
    except FileNotFoundError:
        return False
    finally:
        root.unlink_beneath(probe)
    return True


def find_twin(root: SafeRoot, path: str) -> str | None:
    """The name on the disk that stands in the way of path below root where case is ignored; None when none does.

    Composed and decomposed spellings of one name are not told apart: a file system that ignores the difference may give
    back the other one than it was given.
    """
    folder = ""
    for name in path.split("/"):
        try:
            there = root.listdir_beneath(folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        wanted = unicodedata.normalize("NFC", name)
        found = {unicodedata.normalize("NFC", other) for other in there}
        if wanted not in found:
            twins = (other for other in there if unicodedata.normalize("NFC", other).casefold() == wanted.casefold())
            twin = next(twins, None)
            return None if twin is None else f"{folder}/{twin}".lstrip("/")
        folder = f"{folder}/{name}".lstrip("/")
    return None
