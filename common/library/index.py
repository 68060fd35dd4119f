"""The incremental index: what was found below the roots, and the times by which a change shows.

A refresh asks for the time of each folder that it knows (a handful of stat(2) calls a model) and reads again only what changed:
a new file changes the time of ``blobs/`` or of the manifest, a new revision that of ``snapshots/``, a moved branch that of its
file below ``refs/``. Where a time is so young that a change right after could have the same one, it is not relied on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from ..errors import UnsafeName
from ..logs import get_logger
from ..paths import SafeRoot
from .folders import CLIENT, models_of, read_folder
from .hub_cache import model_of, read_repo, repo_of_folder
from .records import Model

DEPTH_MAX: Final = 3  # folders below a root: ROOT/ORG/NAME, and one more
RACY_NS: Final = 2_000_000_000  # the coarsest file times in use are of 2 s (FAT); most others of some ms
CHILDREN_MAX: Final = 100_000  # of one folder that are looked at
UNSURE: Final = -1  # no file has this time: what was seen is read again

_VERSION = 1
log = get_logger("library")
_CACHE_TAG = "CACHEDIR.TAG"
_OWN = (".shoal", ".cache")


@dataclass(slots=True)
class _Listing:
    """A folder that was listed: its time, and the folders in it."""

    time_ns: int
    folders: list[str]
    is_cache: bool = False


@dataclass(slots=True)
class _Thing:
    """A repo's folder of a cache, or a plain folder: its models, the times that tell of changes, folders that its files are in."""

    times: dict[str, int]
    models: list[Model] = field(default_factory=list[Model])
    owned: list[str] = field(default_factory=list[str])


class Index:
    """What lies below some roots. Not thread-safe: `Library` sees to that."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        """clock_ns: nanoseconds since 1970, by the clock that file times are from."""
        self._clock_ns = clock_ns
        self._listings: dict[str, _Listing] = {}
        self._things: dict[str, _Thing] = {}
        self._seen: set[str] = set()  # folders that were listed in this refresh
        self._seen_things: set[str] = set()
        self._is_changed = False

    def models(self) -> list[Model]:
        """Everything that was found, each once."""
        return list({model.model_id: model for thing in self._things.values() for model in thing.models}.values())

    def refresh(self, roots: Iterable[Path], places: Iterable[Path]) -> bool:
        """Look at what changed below roots, and in places themselves. Returns whether anything did.

        What cannot be read is passed over: it is as if it was not there.
        """
        self._seen, self._seen_things = set(), set()
        self._is_changed = False
        for root in roots:
            self._visit(os.path.realpath(root), 0)
        for place in places:
            self._visit(os.path.realpath(place), DEPTH_MAX)
        kept: dict[str, Any]
        for kept, seen in ((self._listings, self._seen), (self._things, self._seen_things)):
            gone = [path for path in kept if path not in seen]
            self._is_changed |= bool(gone)
            for path in gone:
                del kept[path]
        return self._is_changed

    def forget(self, path: str) -> None:
        """Read this repo's folder or plain folder anew at the next refresh."""
        if (thing := self._things.get(path)) is not None:
            thing.times = {"": UNSURE}

    def _visit(self, path: str, depth: int) -> None:
        if path in self._seen:
            return
        listing = self._listing(path)
        if listing is None:
            return
        self._seen.add(path)
        if listing.is_cache:
            self._visit_cache(path, listing)
            return
        owned: Sequence[str] = ()
        if any(name in _OWN for name in listing.folders):
            thing = self._looked_at(path, self._read_folder)
            owned = thing.owned if thing else ()
        if depth < DEPTH_MAX:
            for name in listing.folders:
                if not name.startswith(".") and name not in owned:
                    self._visit(f"{path.rstrip('/')}/{name}", depth + 1)

    def _visit_cache(self, path: str, listing: _Listing) -> None:
        with suppress(OSError), SafeRoot(path) as root:
            for name in listing.folders:
                if repo_of_folder(name) is None:
                    continue

                def read(_path: str, name: str = name) -> _Thing | None:
                    repo = read_repo(root, name)
                    if repo is None:
                        return None
                    watched = [*repo.folders, *(f"{name}/refs/{ref}" for ref in repo.refs)]
                    model = model_of(root, repo)
                    return _Thing(self._times(path, watched), [model] if model else [])

                at = f"{path}/{name}"
                self._looked_at(at, read, base=path)

    def _looked_at(self, path: str, read: Callable[[str], _Thing | None], *, base: str = "") -> _Thing | None:
        """What is known of a folder, read anew if any of its times is another one. base: what its times are below."""
        known = self._things.get(path)
        self._seen_things.add(path)
        if known is not None and all(
            _time_ns(f"{base or path}/{name}" if name else base or path) == time for name, time in known.times.items()
        ):
            return known
        try:
            found = read(path)
        except (OSError, UnsafeName):
            found = None
        self._is_changed = True
        if found is None:
            self._things.pop(path, None)
        else:
            self._things[path] = found
        return found

    def _read_folder(self, path: str) -> _Thing | None:
        with SafeRoot(path) as root:
            folder = read_folder(root)
            models = models_of(root, folder)
        if folder.damaged:
            log.warning(
                "library.manifest_damaged", folder=path, cause=folder.damaged, remedy="download again: shoal get"
            )
        files = (file.path for source in folder.sources.values() for file in source.files)
        owned = sorted({name.partition("/")[0] for name in files if "/" in name})
        return _Thing(self._times(path, folder.watched), models, owned)

    def _times(self, base: str, watched: Iterable[str]) -> dict[str, int]:
        unsure_from = self._clock_ns() - RACY_NS
        found = {name: _time_ns(f"{base}/{name}" if name else base) for name in watched}
        return {name: UNSURE if time > unsure_from else time for name, time in found.items()}

    def _listing(self, path: str) -> _Listing | None:
        time = _time_ns(path)
        known = self._listings.get(path)
        if known is not None and known.time_ns == time:
            return known
        self._is_changed = True
        folders: list[str] = []
        is_tagged = False
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    is_tagged |= entry.name == _CACHE_TAG
                    if entry.is_dir(follow_symlinks=False) and len(folders) < CHILDREN_MAX:
                        folders.append(entry.name)
        except OSError:
            self._listings.pop(path, None)
            return None
        is_cache = any(repo_of_folder(name) for name in folders)
        found = _Listing(UNSURE if time > self._clock_ns() - RACY_NS else time, sorted(folders), is_cache)
        self._listings[path] = found
        return found

    # ---- the state file -------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "version": _VERSION,
            "listings": {
                path: [known.time_ns, known.is_cache, known.folders] for path, known in self._listings.items()
            },
            "things": {
                path: [thing.times, thing.owned, [model.to_json() for model in thing.models]]
                for path, thing in self._things.items()
            },
        }

    def load(self, value: object) -> None:
        """Take up what `to_json` wrote; anything else, or of another version, is as if there was nothing."""
        try:
            state = cast("Mapping[str, Any]", value)
            if state["version"] != _VERSION:
                return
            listings = {
                str(path): _Listing(int(time), [str(name) for name in folders], bool(is_cache))
                for path, (time, is_cache, folders) in state["listings"].items()
            }
            things = {
                str(path): _Thing(
                    {str(name): int(time) for name, time in times.items()},
                    [Model.from_json(model) for model in models],
                    [str(name) for name in owned],
                )
                for path, (times, owned, models) in state["things"].items()
            }
        except (TypeError, KeyError, ValueError, AttributeError):
            return
        self._listings, self._things = listings, things


def _time_ns(path: str) -> int:
    """The modification time of a folder or file itself, not of what a symlink leads to; 0 when it is not there."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    if stat.S_ISLNK(found.st_mode) and path.endswith(CLIENT):
        return 0
    return found.st_mtime_ns
