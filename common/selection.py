"""Which files of a source are wanted: include and exclude globs.

The patterns mean what they mean to the Hub's own client (``allow_patterns`` and ``ignore_patterns``), so that people
can carry their lists over: `fnmatch` on the whole path, case matters everywhere, ``*`` also matches ``/``, a pattern
that ends in ``/`` stands for all that is below that folder, and a backslash is a slash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Include and exclude globs. A path is selected when it matches an include (or there is none) and no exclude.

    Raises UsageError for an empty pattern: it matches nothing, which nobody means.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "include", _normalized(self.include, "include"))
        object.__setattr__(self, "exclude", _normalized(self.exclude, "exclude"))

    def matches(self, path: str) -> bool:
        """Whether the file at ``path`` (relative, with ``/`` between components) is wanted."""
        path = path.replace("\\", "/")
        if self.include and not any(fnmatchcase(path, pattern) for pattern in self.include):
            return False
        return not any(fnmatchcase(path, pattern) for pattern in self.exclude)

    def __bool__(self) -> bool:
        """Whether there is any pattern: without one, everything is selected."""
        return bool(self.include or self.exclude)

    def __str__(self) -> str:
        options = [f"--include {pattern}" for pattern in self.include]
        options += [f"--exclude {pattern}" for pattern in self.exclude]
        return " ".join(options) or "everything"


def _normalized(patterns: Iterable[str], kind: str) -> tuple[str, ...]:
    normalized: list[str] = []
    for pattern in patterns:
        if not pattern:
            raise UsageError(f"{kind} pattern ''", cause="it is empty", remedy=f"leave {kind} out to not use it")
        pattern = pattern.replace("\\", "/")
        normalized.append(f"{pattern}*" if pattern.endswith("/") else pattern)
    return tuple(normalized)
