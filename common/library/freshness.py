"""Whether the Hub has a newer revision of what was fetched.

A ref that moves (a branch, a pull request, a tag that was set anew) is asked for its commit. What was fetched by commit is pinned.
Where nobody answers, nothing is claimed: the answer is "unknown", with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ..errors import ShoalError
from ..uri import HubUri, parse_uri
from ..uri_records import COMMIT
from .records import Check, Freshness, Model, Revision

AskCommit = Callable[[HubUri], Awaitable[str]]
"""A repo and its ref (`HubUri.revision`) -> the commit that it stands at now. Raises ShoalError."""


def ref_of(model: Model) -> tuple[str, Revision] | None:
    """The ref that is asked about, and the revision that it led to: "main" where there is one, else the newest. None: none was."""
    named = [(ref, revision) for revision in model.revisions for ref in revision.refs if not COMMIT.fullmatch(ref)]
    named.sort(key=lambda each: (each[0] != "main", -each[1].fetched_at))
    return named[0] if named else None


def without_asking(model: Model, *, offline: bool, now: float) -> Check | None:
    """The answer where the Hub need not, or cannot, be asked; else None."""
    if not model.source.startswith("hf://"):
        reason = "it is not of the Hub" if model.source else "nothing says which repo it is of"
        return Check(freshness=Freshness.UNKNOWN, reason=reason, checked_at=now)
    named = ref_of(model)
    if named is None:
        if not model.revisions:
            return Check(freshness=Freshness.UNKNOWN, reason="nothing says which revision it is", checked_at=now)
        return Check(freshness=Freshness.PINNED, commit=model.revisions[0].commit, checked_at=now)
    if offline:
        ref, revision = named
        return Check(
            freshness=Freshness.UNKNOWN, ref=ref, commit=revision.commit, reason="hub.offline is set", checked_at=now
        )
    return None


async def check_freshness(
    models: Sequence[Model],
    ask: AskCommit,
    *,
    clock: Callable[[], float],
    at_once: int,
    offline: bool = False,
    on_checked: Callable[[Model, Check], None] = lambda model, check: None,
) -> list[Check]:
    """Ask about every model, at most at_once at a time; the answers are in the order of models. clock: seconds since 1970.

    A repo that lies in several places is asked for once. Raises nothing but what cancels it.
    """
    turns = asyncio.Semaphore(at_once)
    asked: dict[str, asyncio.Task[tuple[str, str]]] = {}

    async def latest(uri: HubUri) -> tuple[str, str]:
        async with turns:
            try:
                return await ask(uri), ""
            except ShoalError as error:
                return "", error.cause

    async def one(model: Model, tasks: asyncio.TaskGroup) -> Check:
        known = without_asking(model, offline=offline, now=clock())
        if known is None:
            known = await asked_of(model, tasks)
        on_checked(model, known)
        return known

    async def asked_of(model: Model, tasks: asyncio.TaskGroup) -> Check:
        named = ref_of(model)
        assert named is not None, "without_asking answered for models without a ref"
        ref, revision = named
        uri = parse_uri(model.source)
        assert isinstance(uri, HubUri), "without_asking answered for other sources"
        wanted = HubUri(kind=uri.kind, repo_id=uri.repo_id, revision=ref)
        key = wanted.canonical()
        if key not in asked:
            asked[key] = tasks.create_task(latest(wanted))
        commit, reason = await asked[key]
        told = Freshness.CURRENT if commit == revision.commit else Freshness.OUTDATED
        state = Freshness.UNKNOWN if reason else told
        return Check(freshness=state, ref=ref, commit=revision.commit, latest=commit, reason=reason, checked_at=clock())

    async with asyncio.TaskGroup() as tasks:
        checks = [tasks.create_task(one(model, tasks)) for model in models]
    return [check.result() for check in checks]
