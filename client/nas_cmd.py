"""``shoal nas``: what waits to be copied to a NAS below a folder."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import ExitCode, NotFound, UsageError
from ..common.manifest import WORK_FOLDER
from ..common.nas_records import NasCounts
from .copies import finish, nas_line, waiting_line
from .output import to_document
from .running import run

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

_REPO_FOLDER = re.compile(r"(?:models|datasets|spaces)--.+")


def nas(options: argparse.Namespace, settings: Settings) -> int:
    """Copy what waits below a folder, or show it. Returns the exit code."""
    folder = Path.cwd() / options.dir
    if not folder.is_dir():
        raise NotFound(str(folder), cause="there is no such folder")
    destinations = list(_destinations(folder))
    if options.action == "status":
        return _status(destinations, as_json=options.json)
    if settings.nas.path is None:
        raise UsageError("shoal nas copy", cause="no NAS is named", remedy="add --nas DIR, or set nas.path")
    if not settings.nas.enabled:
        raise UsageError("shoal nas copy", cause="nas.enabled is false", remedy="add --nas DIR, or set it to true")
    return run(_copy(destinations, settings, as_json=options.json))


def _destinations(folder: Path) -> Iterator[tuple[Path, str]]:
    """Destinations that a folder is or holds, each with the folder of the repo below it (of the Hub's cache; else "")."""
    if _REPO_FOLDER.fullmatch(folder.name) and (folder / "snapshots").is_dir():
        yield folder.parent, folder.name
        return
    yield folder, ""
    for path in sorted(folder.iterdir()):
        if _REPO_FOLDER.fullmatch(path.name) and (path / WORK_FOLDER).is_dir():
            yield folder, path.name


def _status(destinations: list[tuple[Path, str]], *, as_json: bool) -> int:
    from .embedded import waiting_copies

    counts = sum((waiting_copies(folder / base) for folder, base in destinations), NasCounts())
    if as_json:
        print(json.dumps(to_document(counts), indent=2))
    elif counts.unfinished:
        print(waiting_line(counts))
    else:
        print("NAS: nothing waits")
    return ExitCode.OK


async def _copy(destinations: list[tuple[Path, str]], settings: Settings, *, as_json: bool) -> int:
    from .embedded import nas_copier, queue_finished

    async with nas_copier(settings) as copier:
        for folder, base in destinations:
            queue_finished(copier, folder, base)
        report = await finish(
            copier, wait_s=settings.nas.wait, tell=lambda text: print(text, file=sys.stderr, flush=True)
        )
    counts = report.total
    if as_json:
        print(json.dumps(to_document(counts), indent=2))
    print(f"NAS: {nas_line(counts)}", file=sys.stderr)
    if counts.unfinished:
        print("  what is not copied stays in the queue: run it again", file=sys.stderr)
        return ExitCode.NO_SPACE
    return ExitCode.FAILED if counts.files_refused else ExitCode.OK
