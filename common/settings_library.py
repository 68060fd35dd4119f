"""The table of settings of the library: what is on disk."""

# ruff: noqa: RUF009  # setting() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .settings_fields import setting
from .settings_kinds import BOOLEAN, DURATION, PATH, integer, list_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LibrarySettings:
    roots: tuple[Path, ...] = setting(
        list_of(PATH),
        [],
        "Folders that models are looked for in, besides the Hub cache and the folders that downloads went to: "
        "a Hub cache, a model's folder, or a folder with some of them, up to three levels down.",
    )
    places: bool = setting(BOOLEAN, True, "Look in the Hub cache and in the folders that downloads went to.")
    state: Path = setting(
        PATH, "$XDG_STATE_HOME/shoal/library", "Folder of the index. What is in it can be lost: it is made again."
    )
    refresh: float = setting(
        DURATION, "10s", "How old an answer of the web page about what is on disk may be before it looks again."
    )
    checks: int = setting(integer(1, 64), 4, "Questions for newer revisions that are put to the Hub at once.")
