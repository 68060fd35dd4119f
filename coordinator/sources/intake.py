"""The gate that every name of a source passes on its way into a manifest.

A name that cannot be written safely costs only its own file: it is set aside with the reason, the others go on. Of two names
that cannot both exist (a file where another file needs a folder) the first stays. Names that differ only in case or in their
Unicode form are let through with a warning, as most file systems keep them apart.
"""

from __future__ import annotations

from typing import Final

from ...common.errors import NotFound, UnsafeName, UsageError
from ...common.paths import CollisionIndex, CollisionKind, safe_relative_path
from ...common.selection import Selection

NOTES_MAX: Final = 1000  # refused names, and warnings, that are kept with their text; the rest is counted
OBJECTS_MAX: Final = 1_000_000  # of one job: the index of names takes about 250 MB for so many
_EXAMPLES_MAX: Final = 5
_SHOWN_CHARS_MAX: Final = 200


class Intake:
    """Selects and checks names, in the order that they come."""

    def __init__(self, *, selection: Selection, thing: str) -> None:
        """Args: thing names the source in errors."""
        self.refused: list[tuple[str, str]] = []
        self.refused_count = 0
        self.warnings: list[str] = []
        self.warnings_count = 0
        self.admitted = 0
        self._selection = selection
        self._thing = thing
        self._index = CollisionIndex()
        self._left_out: list[str] = []
        self._refused_names: set[str] = set()

    def admit(self, name: str) -> str | None:
        """The relative path to write the file to; None when it is not selected, set aside, or was there already.

        Raises UsageError beyond `OBJECTS_MAX`.
        """
        if not self._selection.matches(name):
            if len(self._left_out) < _EXAMPLES_MAX:
                self._left_out.append(shown(name))
            return None
        try:
            path = safe_relative_path(name)
        except UnsafeName as error:
            self.refuse(name, error.cause)
            return None
        clash = self._index.add(path)
        if clash is CollisionKind.DUPLICATE:
            return None
        if clash is CollisionKind.FILE_DIRECTORY:
            self.refuse(name, "the source has a file and a folder of the same name")
            return None
        if clash is not None:
            differ = "case" if clash is CollisionKind.CASE else "Unicode form"
            twin = shown(self._index.twin_of(path))
            self.warn(f"{shown(path)} differs from {twin} only in {differ}: not every file system can hold both")
        if self.admitted >= OBJECTS_MAX:
            remedy = "take it in parts, with --include or a path in the URI"
            raise UsageError(self._thing, cause=f"it has more than {OBJECTS_MAX:,} files", remedy=remedy)
        self.admitted += 1
        return path

    def refuse(self, name: str, reason: str) -> None:
        """Set a file aside. A name that comes again, as it does after a fail-over, counts once while names are kept."""
        if name in self._refused_names:
            return
        self.refused_count += 1
        if len(self.refused) < NOTES_MAX:
            self.refused.append((shown(name), reason))
            self._refused_names.add(name)

    def warn(self, text: str) -> None:
        """Note what the user should know."""
        self.warnings_count += 1
        if len(self.warnings) < NOTES_MAX:
            self.warnings.append(text)

    def finish(self) -> None:
        """All names have been seen. Raises NotFound when there was nothing, or nothing was selected."""
        if self.admitted or self.refused_count:
            return
        if not self._left_out:
            raise NotFound(self._thing, cause="there are no files in it")
        remedy = f"among its files are {', '.join(self._left_out)}"
        raise NotFound(self._thing, cause=f"no file matches {self._selection}", remedy=remedy)


def shown(name: object) -> str:
    """A name from outside for people: quoted, ASCII, of bounded length."""
    text = str(name)
    return ascii(text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…")
