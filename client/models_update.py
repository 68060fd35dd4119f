"""``shoal models outdated`` and ``update``: what the Hub has that is newer, and fetching it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..common.errors import ExitCode, ShoalError, UsageError
from ..common.library.deletion import delete
from ..common.library.deletion_folder import plan_folder
from ..common.library.records import Check, Freshness, Model, Place
from ..common.library.update import update_request
from ..common.units import format_size
from .models_cmd import describe_plan, full_name, model_document, shortened, terminal_width
from .output import printable, table, to_document
from .running import run

if TYPE_CHECKING:
    import argparse

    from ..common.library.library import Library
    from ..common.settings import Settings
    from ..common.views import JobView, SubmitRequest


def outdated(options: argparse.Namespace, settings: Settings, library: Library) -> int:
    """Ask the Hub about models. Returns the exit code: 1 when some could not be asked about."""
    found = [library.find(name) for name in options.models] or list(library.models())
    checks = run(_check(settings, library, found))
    pairs = list(zip(found, checks, strict=True))
    if options.json:
        print(json.dumps({"models": [model_document(model, check) for model, check in pairs]}, indent=2))
    else:
        newer = [pair for pair in pairs if pair[1].freshness is Freshness.OUTDATED]
        print(table(newer, _columns()))
    unsure = [pair for pair in pairs if pair[1].freshness is Freshness.UNKNOWN]
    for model, check in unsure:
        if check.ref or options.models:
            print(f"{printable(full_name(model))}: unknown: {printable(check.reason)}", file=sys.stderr)
    asked = sum(check.freshness in (Freshness.CURRENT, Freshness.OUTDATED) for check in checks)
    pinned = sum(check.freshness is Freshness.PINNED for check in checks)
    print(f"{asked} asked about, {pinned} pinned to a commit, {len(unsure)} unknown", file=sys.stderr)
    failed = any(check.ref for _, check in unsure) and not settings.hub.offline
    return ExitCode.FAILED if failed else ExitCode.OK


def _columns() -> dict[str, Callable[[tuple[Model, Check]], str]]:
    width = max(20, terminal_width() - 40)
    return {
        "name": lambda pair: shortened(full_name(pair[0]), width),
        "ref": lambda pair: pair[1].ref,
        "here": lambda pair: pair[1].commit[:12],
        "hub": lambda pair: pair[1].latest[:12],
    }


async def _check(settings: Settings, library: Library, found: Sequence[Model]) -> list[Check]:
    from .embedded import hub_questions

    async with hub_questions(settings) as questions:
        return await library.check(found, questions.commit)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Update:
    model: Model
    check: Check
    request: SubmitRequest


def update(options: argparse.Namespace, settings: Settings, library: Library) -> int:
    """Bring models up to date. Returns the exit code."""
    if bool(options.models) == options.all:
        cause = "it names models and says --all" if options.all else "no model was named"
        raise UsageError("shoal models update", cause=cause, remedy="name one, or say --all")
    return run(_update(options, settings, library), fast=True)


async def _update(options: argparse.Namespace, settings: Settings, library: Library) -> int:
    named = [library.find(name) for name in options.models]
    found = named or list(library.models())
    checks = await _check(settings, library, found)
    updates: list[_Update] = []
    code = ExitCode.OK
    for model, check in zip(found, checks, strict=True):
        if check.freshness is Freshness.UNKNOWN and (named or check.ref):
            print(f"{printable(full_name(model))}: unknown: {printable(check.reason)}", file=sys.stderr)
            code = ExitCode.FAILED
        elif check.freshness is Freshness.OUTDATED:
            updates.append(_Update(model=model, check=check, request=await _request(settings, library, model, check)))
        elif named:
            why = "it was fetched by commit" if check.freshness is Freshness.PINNED else "it is the newest"
            print(f"{printable(full_name(model))}: {check.commit[:12]}: {why}", file=sys.stderr)
    if options.dry_run:
        for each in updates:
            files = f"{len(each.request.include)} files" if each.request.include else "all files"
            print(
                f"{printable(full_name(each.model))}: {each.check.commit[:12]} -> {each.check.latest[:12]}, {files}",
                file=sys.stderr,
            )
        if options.json:
            print(json.dumps({"models": [model_document(each.model, each.check) for each in updates]}, indent=2))
        return code
    jobs = await _fetch(settings, updates) if updates else []
    documents: list[dict[str, Any]] = []
    for each, (job, job_code) in zip(updates, jobs, strict=True):
        pruned = 0
        if job_code != ExitCode.OK:
            code = job_code if code in (ExitCode.OK, job_code) else ExitCode.FAILED
        elif options.prune:
            pruned = _prune(each, job.commit)
        library.forget(each.model)
        documents.append({**model_document(each.model, each.check), "job": to_document(job), "pruned_bytes": pruned})
    if options.json:
        print(json.dumps({"models": documents}, indent=2))
    elif not updates and code is ExitCode.OK:
        print("everything is up to date", file=sys.stderr)
    return code


async def _request(settings: Settings, library: Library, model: Model, check: Check) -> SubmitRequest:
    from .embedded import hub_questions

    have = [file.path for file in library.files(model) if check.commit in file.commits and file.state != "missing"]
    async with hub_questions(settings) as questions:
        return await update_request(model, have, questions.files, root=settings.agent.root)


async def _fetch(settings: Settings, updates: Sequence[_Update]) -> list[tuple[JobView, ExitCode]]:
    """Fetch by this process alone: the library is this machine's, whatever coordinator is configured."""
    from .embedded import embedded
    from .transfer import exit_code, failed_objects, follow, report

    async with embedded(settings) as coordinator:
        submitted = [job for each in updates for job in await coordinator.submit(each.request)]
        jobs = await follow(coordinator, [each.job.job_id for each in submitted], detach=False)
        failed = [await failed_objects(coordinator, job) for job in jobs]
    report(jobs, failed, sys.stderr)
    return [(job, ExitCode(exit_code([job], [objects]))) for job, objects in zip(jobs, failed, strict=True)]


def _prune(update: _Update, commit: str) -> int:
    """Delete what only the old revision had. Returns how many bytes that freed."""
    from ..common.library.deletion import plan_deletion

    try:
        if update.model.place is Place.HUB_CACHE:
            plan = plan_deletion(update.model, revision=update.check.commit)
        else:
            plan = plan_folder(update.model, older_than=commit)
        if not plan.files:
            return 0
        print(describe_plan(plan), file=sys.stderr)
        delete(plan)
    except (ShoalError, OSError) as error:
        print(f"{printable(full_name(update.model))}: the old revision stays: {error}", file=sys.stderr)
        return 0
    print(f"{printable(full_name(update.model))}: {format_size(plan.frees)} freed", file=sys.stderr)
    return plan.frees
