"""What a repair fetches: of each source and commit that wrong files are of, those files alone. Pure."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import Conflict
from ..manifest import ManifestEntry
from ..records import Layout
from ..views import SubmitRequest

_SNAPSHOT = re.compile(r"snapshots/[^/]+/(?P<path>.+)")


def repair_requests(
    folder: Path, entries: Iterable[ManifestEntry], *, layout: Layout, root: Path = Path("/"), profile: str = ""
) -> list[SubmitRequest]:
    """What to submit to bring wrong files back, each from the commit that it is of, wherever its branch is now.

    The sources keep the names that they were fetched by, so that the manifest, and whoever lists by it, goes on to call them that.

    Args: folder is the destination, a Hub cache with that layout; root what agents take destinations below; profile the
    credentials by name that stores are asked with. Raises Conflict for files of which nothing tells where they came from.
    """
    is_cache = layout is Layout.HUB_CACHE
    if not folder.is_relative_to(root):
        raise Conflict(str(folder), cause=f"agents write below agent.root {root} only")
    wanted: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        snapshot = _SNAPSHOT.fullmatch(entry.path) if is_cache else None
        if not entry.source or (is_cache and snapshot is None):
            cause = f"nothing says which file of which revision {entry.path} is"
            raise Conflict(str(folder), cause=cause, remedy="fetch the repo again, with force")
        path = snapshot["path"] if snapshot is not None else entry.path
        wanted.setdefault((entry.source, entry.commit), []).append(path)
    return [
        SubmitRequest(
            uris=(source,),
            destination=f"/{folder.relative_to(root)}",
            layout=layout,
            commit=commit,
            include=tuple(glob.escape(path) for path in paths),
            force=True,
            profile=profile,
        )
        for (source, commit), paths in wanted.items()
    ]
