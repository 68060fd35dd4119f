"""``shoal models``: the library on this machine's disks."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..common.errors import ExitCode, UsageError
from ..common.library.library import Library, open_library
from ..common.library.quantization import group_files
from ..common.library.query import Group, Query
from ..common.library.records import Check, Freshness, Model, ModelFile, Place
from ..common.units import format_size
from .output import moment, printable, table, to_document

if TYPE_CHECKING:
    import argparse

    from ..common.library.deletion import DeletionPlan
    from ..common.settings import Settings

AGE_S = 60.0
"""One command takes what it has seen for what is there: it lives for moments."""
FILES_SHOWN = 20
LABELS_SHOWN = 3
WIDE = 100
_DAY_S = 86400
_WORDS = {Freshness.OUTDATED: "newer", Freshness.CURRENT: "current", Freshness.PINNED: "pinned"}


def models(options: argparse.Namespace, settings: Settings) -> int:
    """Run an action of ``shoal models``. Returns the exit code."""
    library = open_library(settings, max_age_s=AGE_S)
    if options.action == "list":
        return _list(options, library)
    if options.action == "show":
        return _show(options, library)
    if options.action == "delete":
        return _delete(options, library)
    from . import models_update

    return (
        models_update.outdated(options, settings, library)
        if options.action == "outdated"
        else models_update.update(options, settings, library)
    )


def model_document(model: Model, check: Check | None) -> dict[str, Any]:
    """A model as JSON, with what the Hub last said of it; None where it was not asked."""
    return {**model.to_json(), "check": None if check is None else to_document(check)}


def full_name(model: Model) -> str:
    """What people call it: "ORG/NAME", with its kind in front where it is no model."""
    prefix = {"model": "", "dataset": "datasets/", "space": "spaces/", "unknown": ""}
    return f"{prefix.get(model.kind, model.kind + '://')}{model.repo_id}"


def shortened(text: str, width: int) -> str:
    """At most width characters, with the middle left out: the ends of names tell most."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def age(then_s: float, now_s: float) -> str:
    """How long ago, in one unit."""
    passed = max(0.0, now_s - then_s)
    for size, unit in ((365 * _DAY_S, "y"), (_DAY_S, "d"), (3600, "h"), (60, "m")):
        if passed >= size:
            return f"{int(passed // size)}{unit}"
    return "now"


def labels(found: Sequence[str], shown: int) -> str:
    """The first quantizations, and how many more there are."""
    more = f" +{len(found) - shown}" if len(found) > shown else ""
    return (", ".join(found[:shown]) + more) or "-"


# ---- list, show ---------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, library: Library) -> int:
    query = Query(
        search=options.search,
        owner=options.owner,
        family=options.family,
        quantization=options.quant,
        kind=options.kind,
        sort=options.sort,
    )
    library.refresh(rescan=options.rescan)
    page, checks = library.page(query), library.checks
    if options.group:
        from ..common.library.query import groups

        return _print_groups(options, groups(page.models, options.group))
    if options.json:
        document = {
            "models": [model_document(model, checks.get(model.model_id)) for model in page.models],
            "total": page.total,
            "bytes": page.bytes,
        }
        print(json.dumps(document, indent=2))
        return ExitCode.OK
    print(table(page.models, _columns(page.models, checks, time.time())))
    newer = sum(
        checks[model.model_id].freshness is Freshness.OUTDATED for model in page.models if model.model_id in checks
    )
    told = f", {newer} outdated" if newer else ""
    print(f"{page.total} in the library, {format_size(page.bytes)} on disk{told}", file=sys.stderr)
    return ExitCode.OK


def _print_groups(options: argparse.Namespace, found: Sequence[Group]) -> int:
    if options.json:
        print(json.dumps({"groups": to_document(list(found))}, indent=2))
        return ExitCode.OK
    columns: dict[str, Callable[[Group], str]] = {
        options.group: lambda group: group.name or "-",
        "models>": lambda group: str(group.models),
        "size>": lambda group: format_size(group.bytes),
    }
    print(table(found, columns))
    return ExitCode.OK


def _columns(found: Sequence[Model], checks: Mapping[str, Check], now: float) -> Mapping[str, Callable[[Model], str]]:
    """The columns of the list; names are shortened to what the terminal has left."""

    def hub(model: Model) -> str:
        check = checks.get(model.model_id)
        return _WORDS.get(check.freshness, "-") if check else "-"

    shown = LABELS_SHOWN if terminal_width() >= WIDE else 1
    rest: dict[str, Callable[[Model], str]] = {
        "quant": lambda model: labels(model.quantizations, shown),
        "size>": lambda model: format_size(model.bytes),
        "age>": lambda model: age(model.fetched_at, now),
        "revision": lambda model: model.revisions[0].commit[:7] if model.revisions else "-",
        "hub": hub,
        "in": lambda model: "cache" if model.place is Place.HUB_CACHE else "folder",
    }
    taken = sum(2 + max([len(head.rstrip(">")), *(len(show(model)) for model in found)]) for head, show in rest.items())
    width = max(16, terminal_width() - taken)
    return {"name": lambda model: shortened(printable(full_name(model)), width), **rest}


def terminal_width() -> int:
    """Columns of the terminal; so many on a pipe that nothing is shortened, unless COLUMNS says how many."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return 10_000
    return shutil.get_terminal_size().columns


def _show(options: argparse.Namespace, library: Library) -> int:
    model = library.find(options.model)
    files = library.files(model)
    check = library.checks.get(model.model_id)
    grouping = group_files(
        {file.path: file.bytes for file in files if file.state != "missing"}.items(), repo_id=model.repo_id
    )
    if options.json:
        rows = [*grouping.variants, *grouping.sidecars] if model.kind == "model" else []
        document = {
            **model_document(model, check),
            "rows": to_document(rows),
            "file_list": to_document(files),
        }
        print(json.dumps(document, indent=2))
        return ExitCode.OK
    newer = f" (newer on the Hub: {check.latest[:12]})" if check and check.freshness is Freshness.OUTDATED else ""
    lines = [
        f"name       {printable(full_name(model))}",
        f"id         {model.model_id}",
        f"source     {printable(model.source) or 'unknown: the Hub client does not write it down'}",
        f"in         {printable(model.path)} ({'Hub cache' if model.place is Place.HUB_CACHE else 'folder'})",
        f"family     {printable(model.family)}",
        f"quant      {', '.join(model.quantizations) or '-'}",
        f"size       {format_size(model.bytes)} in {model.files} files",
        f"fetched    {moment(model.fetched_at)}",
    ]
    for revision in model.revisions:
        refs = f" {', '.join(revision.refs)}" if revision.refs else " (by commit)"
        size = format_size(revision.bytes)
        lines.append(f"revision   {revision.commit}{printable(refs)}, {size}, {revision.files} files{newer}")
        newer = ""
    print("\n".join(lines))
    shown = files if options.files else files[:FILES_SHOWN]
    columns: dict[str, Callable[[ModelFile], str]] = {
        "size>": lambda file: format_size(file.bytes),
        "file": lambda file: file.path + (f"  ({file.state})" if file.state else ""),
    }
    print()
    print(table(shown, columns))
    if len(shown) < len(files):
        print(f"… and {len(files) - len(shown)} more: --files lists them", file=sys.stderr)
    return ExitCode.OK


# ---- delete -------------------------------------------------------------------------------------------------------------


def _delete(options: argparse.Namespace, library: Library) -> int:
    model = library.find(options.model)
    plan = library.plan_deletion(model, revision=options.revision)
    if not options.json or not options.yes:
        print(describe_plan(plan), file=sys.stderr)
    if options.dry_run:
        if options.json:
            print(json.dumps({**plan_document(plan), "deleted": False}, indent=2))
        return ExitCode.OK
    if not options.yes and not _confirmed(model):
        print("nothing was deleted", file=sys.stderr)
        return ExitCode.FAILED
    done = library.delete(plan)
    for path, reason in done.failed:
        print(f"not deleted: {printable(path)}: {reason}", file=sys.stderr)
    if options.json:
        print(
            json.dumps(
                {**plan_document(plan), "deleted": True, "failed": [list(each) for each in done.failed]}, indent=2
            )
        )
    else:
        print(f"{done.removed} files deleted", file=sys.stderr)
    return ExitCode.NO_SPACE if done.failed else ExitCode.OK


def describe_plan(plan: DeletionPlan) -> str:
    """What a deletion does, for a person."""
    what = f"revision {plan.revision[:12]} of {full_name(plan.model)}" if plan.revision else full_name(plan.model)
    lines = [
        f"{printable(what)} in {printable(plan.model.path)}: {len(plan.files)} files, frees {format_size(plan.frees)}"
    ]
    if plan.shared:
        lines.append(f"  {format_size(plan.shared)} stay in the store that repos of this cache share")
    lines += [f"  stays: {printable(path)}: {reason}" for path, reason in plan.kept]
    if plan.kept_more:
        lines.append(f"  and {plan.kept_more} more stay")
    return "\n".join(lines)


def plan_document(plan: DeletionPlan) -> dict[str, Any]:
    """A deletion as JSON."""
    return {
        "model_id": plan.model.model_id,
        "repo_id": plan.model.repo_id,
        "path": plan.model.path,
        "revision": plan.revision,
        "files": len(plan.files),
        "frees": plan.frees,
        "shared": plan.shared,
        "kept": [{"path": path, "reason": reason} for path, reason in plan.kept],
        "kept_more": plan.kept_more,
    }


def _confirmed(model: Model) -> bool:
    """Whether the person types the name. Raises UsageError where there is no person."""
    if not sys.stdin.isatty():
        raise UsageError(
            f"shoal models delete {model.repo_id}",
            cause="nobody is there to be asked",
            remedy="add --yes, or --dry-run",
        )
    print(f"type {printable(model.repo_id)} to delete it: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == model.repo_id
