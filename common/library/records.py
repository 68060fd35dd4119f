"""What the library knows of one thing on disk. Plain records that go to JSON and come back, and are checked when they do."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast


class Place(enum.StrEnum):
    """How files lie."""

    HUB_CACHE = "hf-cache"  # blobs, snapshots, refs, as the Hub's client keeps them
    FOLDER = "folder"  # under their own paths


class Freshness(enum.StrEnum):
    """Whether there is a newer revision."""

    CURRENT = "current"
    OUTDATED = "outdated"
    PINNED = "pinned"  # fetched by commit: nothing newer is wanted
    UNKNOWN = "unknown"  # nobody could be asked, or nothing says where it came from


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """One revision on disk. refs are the names by which it was fetched ("main"), none for a commit that was named itself.

    bytes counts what this revision uses, shared with others or not; fetched_at is seconds since 1970.
    """

    commit: str
    refs: tuple[str, ...] = ()
    files: int = 0
    bytes: int = 0
    fetched_at: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A repo, or the files of another source, in one place.

    model_id is short, stays the same as long as it lies there, and names it in URLs and commands. kind is "model", "dataset", "space",
    or the scheme of another source ("s3", "https"). source is the canonical URI without a revision; "" where nothing says where
    the files came from. path is the folder: the repo's in a Hub cache, else the destination. bytes on disk count what revisions
    share once; files counts the same way. fetched_at is of the newest file, seconds since 1970.
    """

    model_id: str
    kind: str
    repo_id: str
    source: str
    place: Place
    path: str
    owner: str = ""
    family: str = ""
    quantizations: tuple[str, ...] = ()
    revisions: tuple[Revision, ...] = ()
    bytes: int = 0
    files: int = 0
    fetched_at: float = 0.0
    shared: tuple[
        tuple[str, int], ...
    ] = ()  # blobs in the store that repos of a cache share: name and bytes, part of bytes

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. By hand: `dataclasses.asdict` copies deeply, which took three times as long for 10,000 models."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        values["place"] = self.place.value
        values["quantizations"] = list(self.quantizations)
        values["revisions"] = [
            {**{name: getattr(each, name) for name in each.__slots__}, "refs": list(each.refs)}
            for each in self.revisions
        ]
        values["shared"] = [list(each) for each in self.shared]
        return values

    @classmethod
    def from_json(cls, value: object) -> Model:
        """Raises ValueError for anything that `to_json` did not write."""
        try:
            fields: dict[str, Any] = dict(cast("Mapping[str, Any]", value))
            revisions = tuple(_revision(each) for each in fields["revisions"])
            shared = tuple((str(name), int(size)) for name, size in fields["shared"])
            fields |= {
                "place": Place(fields["place"]),
                "quantizations": tuple(fields["quantizations"]),
                "revisions": revisions,
                "shared": shared,
            }
            found = cls(**fields)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"not a model of the library: {error}") from None
        texts = (found.model_id, found.kind, found.repo_id, found.source, found.path, found.owner, found.family)
        if not all(isinstance(text, str) for text in texts) or type(found.bytes) is not int:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("not a model of the library: a field has the wrong type")
        return found


def _revision(value: dict[str, Any]) -> Revision:
    fields: dict[str, Any] = dict(value)
    fields["refs"] = tuple(fields["refs"])
    return Revision(**fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """A file of a model: path below the repo, bytes, the commits that hold it, what it shares its bytes with.

    data is the blob's name in a Hub cache, where several paths and revisions may have the same one; "" in a folder. state is
    "" where all is well, "missing" or "changed" (its size is not the manifest's).
    """

    path: str
    bytes: int
    commits: tuple[str, ...] = ()
    data: str = ""
    state: str = ""
    mtime: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What the Hub said of one model. latest is the newest commit of the ref that was fetched; reason says why nothing is known."""

    freshness: Freshness
    ref: str = ""
    commit: str = ""
    latest: str = ""
    reason: str = ""
    checked_at: float = 0.0
