"""``shoal verify`` and ``shoal clean``: what is done to a folder without a coordinator."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import ExitCode, NotFound, UsageError
from ..common.library.repair import repair_requests
from ..common.manifest import MANIFEST_NAME, WORK_FOLDER, ManifestEntry, Problem, verify_folder
from ..common.records import Layout
from ..common.units import format_size, parse_duration
from .output import printable, to_document
from .running import run
from .transfer import exit_code, follow, report

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

_REPO_FOLDER = re.compile(r"(?:models|datasets|spaces)--.+")


def verify(options: argparse.Namespace, settings: Settings) -> int:
    """Hash what the manifest names; with --repair fetch again what is wrong. Returns the exit code."""
    folder = Path(options.dir)
    if not folder.is_dir():
        raise NotFound(str(folder), cause="there is no such folder")
    if not (folder / ".shoal" / "manifest.json").exists() and any(folder.glob("images/server_name=*")):
        raise UsageError(
            str(folder),
            cause="it is a collected dataset, which has no manifest",
            remedy=f"shoal tools run image_verification --data {folder}",
        )
    problems: list[Problem] = []
    on_nas = False

    def tell(problem: Problem) -> None:
        problems.append(problem)
        print(f"{problem.kind.value}: {printable(problem.text)}", file=sys.stderr)

    seen = verify_folder(folder, on_problem=tell)
    code = ExitCode.VERIFICATION if problems else ExitCode.OK
    if any(problem.entry.original for problem in problems):
        on_nas = True  # its paths are not those of the sources
        print(
            "these are copies on a NAS: shoal nas copy DIR, where DIR has the files, copies them again", file=sys.stderr
        )
    if problems and options.repair and not on_nas:
        code = ExitCode(
            run(_repair(folder.absolute(), [problem.entry for problem in problems], settings, options.profile))
        )
    if options.json:
        document = {
            "checked": seen.checked,
            "bytes": seen.bytes,
            "moved": seen.moved,
            "repaired": bool(problems) and options.repair and code == ExitCode.OK,
            "problems": [{"kind": each.kind.value, "text": each.text, **to_document(each.entry)} for each in problems],
        }
        print(json.dumps(document, indent=2))
    else:
        wrong = f"{len(problems)} wrong" if problems else "all right"
        moved = f", {seen.moved} moved to a NAS" if seen.moved else ""
        print(f"{seen.checked} files checked ({format_size(seen.bytes)}), {wrong}{moved}", file=sys.stderr)
    return code


async def _repair(folder: Path, entries: list[ManifestEntry], settings: Settings, profile: str) -> int:
    """Fetch files again, each from the source and commit that it came from; stores are asked with the profile."""
    from .embedded import embedded

    cache = _cache_of(folder)
    layout = Layout.FOLDER if cache is None else Layout.HUB_CACHE
    requests = repair_requests(cache or folder, entries, layout=layout, profile=profile)
    async with embedded(settings) as coordinator:
        submitted = [job for request in requests for job in await coordinator.submit(request)]
        jobs = await follow(coordinator, [each.job.job_id for each in submitted], detach=False)
        failed = [await coordinator.list_objects(job.job_id, status="failed", after_id=0, limit=1000) for job in jobs]
    report(jobs, failed, sys.stderr)
    return exit_code(jobs, failed)


def _cache_of(folder: Path) -> Path | None:
    """The Hub cache that a folder is, or is a repo's folder of; None for a folder of another kind. As `verify_folder` sees it."""
    if _REPO_FOLDER.fullmatch(folder.name) and (folder / "snapshots").is_dir():
        return folder.parent
    return None if (folder / WORK_FOLDER / MANIFEST_NAME).exists() else folder


def clean(options: argparse.Namespace, settings: Settings) -> int:
    """Remove what crashed runs left below a folder. Returns the exit code."""
    from .embedded import clean_destination

    folder = Path(options.dir)
    if not folder.is_dir():
        raise NotFound(str(folder), cause="there is no such folder")
    removed = clean_destination(folder, older_than_s=parse_duration(options.older_than))
    if options.json:
        print(json.dumps({"removed": removed}, indent=2))
    else:
        for path in removed:
            print(printable(path))
        print(f"{len(removed)} removed", file=sys.stderr)
    return ExitCode.OK
