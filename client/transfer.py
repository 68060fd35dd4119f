"""``shoal get`` and ``shoal submit``."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from ..common.errors import ExitCode, Interrupted, UsageError, error_class
from ..common.nas_records import NAS_OFF, NasReport, together
from ..common.records import Delivery, Layout
from ..common.uri import HubUri, SourceUri, parse_list_file, parse_uri
from ..common.views import Control, JobView, ObjectView, SubmitRequest, Submitted
from .copies import Copies, finish, nas_line
from .output import job_document, reason_of, to_document
from .running import run
from .watching import RECONNECT_S, watch_patiently

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

LAUNCH_VARIABLE = "SHOAL_LAUNCH"
"""Set by `fleet_jobs` for a command whose fleet ends with it."""
FAILURES_SHOWN = 20
ERRORS_PAGE = 1000


class Transfers(Protocol):
    """What following jobs needs, of an embedded coordinator or one far away."""

    async def submit(self, request: SubmitRequest) -> list[Submitted]: ...
    def watch_job(self, job_id: str) -> AsyncIterator[JobView]: ...
    async def list_objects(self, job_id: str, *, status: str, after_id: int, limit: int) -> list[ObjectView]: ...
    async def control(self, job_id: str, action: Control) -> JobView: ...


def get(options: argparse.Namespace, settings: Settings) -> int:
    """Fetch and wait. Returns the exit code."""
    requests = _requests(options, settings)
    if options.dry_run:
        return run(_dry_run(options, settings, requests))
    return run(_get(options, settings, requests))


def submit(options: argparse.Namespace, settings: Settings) -> int:
    """Submit and return. Prints the id of each job. Returns the exit code."""
    if not settings.coordinator.address:
        raise UsageError(
            "shoal submit", cause="no coordinator is named", remedy="add --coordinator HOST:PORT, or use shoal get"
        )
    return run(_submit(options, settings, _requests(options, settings)))


def _requests(options: argparse.Namespace, settings: Settings) -> list[SubmitRequest]:
    requests = read_requests(options, settings)
    if not options.quant:
        return requests
    from .quantizations import with_quantizations

    return run(with_quantizations(settings, requests, options.quant))


def read_requests(options: argparse.Namespace, settings: Settings) -> list[SubmitRequest]:
    """What the command line asks for: one request for the sources of each kind of destination."""
    texts: list[str] = list(options.uris)
    if options.from_file:
        texts += [uri.canonical() for uri in _from_file(options.from_file, settings.hub.endpoint)]
    if not texts:
        raise UsageError(
            f"shoal {options.command}", cause="no source was named", remedy="name a URI, or a list with --from-file"
        )
    uris = [parse_uri(text, bare_hub=True, hub_endpoints=settings.hub.endpoint) for text in texts]
    base = SubmitRequest(
        uris=(),
        delivery=Delivery(options.deliver),
        include=tuple(options.include),
        exclude=tuple(options.exclude),
        revision=options.revision,
        force=options.force,
        sha256=options.sha256,
        priority=options.priority,
        name=options.name,
        profile=options.profile,
        unpack=options.unpack if options.unpack in ("", "auto") else str(Path.cwd() / options.unpack),
        unpack_format=options.unpack_format,
        nas=NAS_OFF if options.no_nas else str(Path.cwd() / Path(options.nas).expanduser()) if options.nas else "",
    )
    into_cache = options.to == "hf-cache"
    hub = tuple(uri.canonical() for uri in uris if isinstance(uri, HubUri))
    others = tuple(uri.canonical() for uri in uris if not isinstance(uri, HubUri))
    if into_cache and others:
        raise UsageError(
            others[0], cause="only Hub repos can be put into the Hub cache", remedy="name a folder with --to"
        )
    if options.to is not None and not into_cache:
        folder = str(Path.cwd() / Path(options.to).expanduser())
        return [replace(base, uris=(*hub, *others), destination=folder, layout=Layout.FOLDER)]
    requests: list[SubmitRequest] = []
    if hub:
        requests.append(replace(base, uris=hub, layout=Layout.HUB_CACHE))
    if others:
        requests.append(replace(base, uris=others, destination=str(Path.cwd()), layout=Layout.FOLDER))
    return requests


def _from_file(name: str, endpoints: Sequence[str]) -> Sequence[SourceUri]:
    if name == "-":
        return parse_list_file(sys.stdin, bare_hub=True, hub_endpoints=endpoints)
    try:
        with Path(name).open(encoding="utf-8") as file:
            return parse_list_file(file, bare_hub=True, hub_endpoints=endpoints)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--from-file {name}", cause=str(error)) from None


# ---- get ----------------------------------------------------------------------------------------------------------------


async def _get(options: argparse.Namespace, settings: Settings, requests: list[SubmitRequest]) -> int:
    remote = bool(settings.coordinator.address)
    if not remote:  # every agent is this one
        # The settings say which NAS: the command line's is among them.
        requests = [replace(request, delivery=Delivery.SPREAD, nas="") for request in requests]
    copies = NasEnd(settings)
    async with transfers(settings, finish=copies.wait) as coordinator:
        submitted = [job for request in requests for job in await coordinator.submit(request)]
        jobs = await follow(coordinator, [each.job.job_id for each in submitted], detach=remote)
        failed = [await failed_objects(coordinator, job) for job in jobs]
        for job, objects in zip(jobs, failed, strict=True):
            report([job], [objects], sys.stderr)
    jobs = [copies.seen_by(job) for job in jobs]
    copies.tell(jobs, sys.stderr)
    if options.json:
        documents = [job_document(job, objects) for job, objects in zip(jobs, failed, strict=True)]
        print(json.dumps({"jobs": documents, **copies.document()}, indent=2))
    else:
        for job in jobs:
            if job.objects_done:
                print(place(job, settings))
    return exit_code(jobs, failed)


@asynccontextmanager
async def transfers(
    settings: Settings, *, finish: Callable[[Copies], Awaitable[None]] | None = None
) -> AsyncGenerator[Transfers]:
    """The configured coordinator, or one in this process; finish waits for the latter's copies on a NAS."""
    if settings.coordinator.address:
        from .remote import connect

        async with connect(settings) as remote:
            yield remote
    else:
        from .embedded import embedded

        async with embedded(settings, **({"finish": finish} if finish is not None else {})) as coordinator:
            yield coordinator


async def follow(transfers: Transfers, job_ids: Sequence[str], *, detach: bool) -> list[JobView]:
    """Show the progress of jobs until all have ended, and return their last views. A coordinator that restarts is waited for, except in
    a launch: there it has ended for good.

    On SIGINT or SIGTERM: with detach the jobs go on without us, else the work is given back; raises Interrupted either way. A second
    signal ends the process at once.
    """
    from .progress import open_display

    latest: dict[str, JobView] = {}
    with open_display(sys.stderr) as display:

        async def watch(job_id: str) -> None:
            async for view in watch_patiently(transfers, job_id, patience_s=0.0 if _is_launched() else RECONNECT_S):
                latest[job_id] = view
                display.show(list(latest.values()))

        watching = asyncio.gather(*(watch(job_id) for job_id in dict.fromkeys(job_ids)))
        with _on_signals(watching.cancel) as signalled:
            try:
                await watching
            except asyncio.CancelledError:
                if not signalled:
                    raise
    if signalled:
        going_on = [job_id for job_id, view in latest.items() if not view.ended]
        goes_on = detach and not _is_launched() and bool(going_on)
        remedy = f"the job goes on; shoal cancel {going_on[0]} ends it" if goes_on else "run it again to go on"
        raise Interrupted("", cause="interrupted", remedy=remedy)
    return [latest[job_id] for job_id in dict.fromkeys(job_ids)]


class NasEnd:
    """The copies on a NAS at the end of a run: waited for, a bounded time, and told of."""

    def __init__(self, settings: Settings) -> None:
        self._wait_s = settings.nas.wait
        self._remote = bool(settings.coordinator.address)
        self._report: NasReport | None = None
        self._interrupted = False

    async def wait(self, copies: Copies) -> None:
        """Wait for the copies of a run on one machine. A signal ends the wait; raises Interrupted."""
        waiting = asyncio.ensure_future(
            finish(copies, wait_s=self._wait_s, tell=lambda text: print(text, file=sys.stderr, flush=True))
        )
        with _on_signals(waiting.cancel) as signalled:
            try:
                self._report = await waiting
            except asyncio.CancelledError:
                if not signalled:
                    raise
                remedy = "all is downloaded; run it again, or shoal nas copy DIR, to copy the rest"
                raise Interrupted("", cause="interrupted while copying to the NAS", remedy=remedy) from None

    def seen_by(self, job: JobView) -> JobView:
        """A job with its copies as they stand at the end."""
        found = [each.counts for each in self._report.jobs if each.job_id == job.job_id] if self._report else []
        return replace(job, nas=found[0]) if found else job

    def tell(self, jobs: Sequence[JobView], out: TextIO) -> None:
        """Tell a person what was copied, and what waits and how to go on."""
        total = self._report.total if self._report else together(job.nas for job in jobs)
        if total is None:
            return
        print(f"NAS: {nas_line(total)}", file=out)
        if total.unfinished and self._remote:
            print(f"  the agents go on with the copies: shoal status {jobs[0].job_id}", file=out)
        elif total.unfinished:
            where = next((job.destination for job in jobs if job.destination), "DIR")
            print(
                "  warning: what is not copied stays in the queue. To go on, run the same command again, or", file=out
            )
            print(f"  shoal nas copy {shlex.quote(where)}", file=out)

    def document(self) -> dict[str, object]:
        """The copies for a program; empty where there are none."""
        return {"nas": to_document(self._report.total)} if self._report else {}


class _on_signals:  # reads as a statement
    """Calls back at the first SIGINT or SIGTERM; the second one ends the process as if nothing was installed.

    In a launch the second one is ignored: who cancels it there reaches this process twice, by the launcher and by its parent, and the
    parent ends what takes too long.
    """

    def __init__(self, callback: object) -> None:
        self._callback = callback
        self._seen: list[int] = []
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> list[int]:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._signalled, number)
        return self._seen

    def __exit__(self, *_: object) -> None:
        if not self._seen:
            self._restore()

    def _signalled(self, number: int) -> None:
        self._seen.append(number)
        self._restore()
        print("stopping" if _is_launched() else "stopping; once more to stop at once", file=sys.stderr)
        self._callback()  # type: ignore[operator]

    def _restore(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if self._seen and _is_launched() else signal.SIG_DFL)


def _is_launched() -> bool:
    return LAUNCH_VARIABLE in os.environ


async def failed_objects(transfers: Transfers, job: JobView) -> list[ObjectView]:
    """The objects of a job that failed for good, the first of them."""
    if not job.objects_failed:
        return []
    return await transfers.list_objects(job.job_id, status="failed", after_id=0, limit=ERRORS_PAGE)


def report(jobs: Sequence[JobView], failed: Sequence[Sequence[ObjectView]], out: TextIO) -> None:
    """Tell a person how the jobs ended: a line each, and what failed."""
    from .output import summary_line

    for job, objects in zip(jobs, failed, strict=True):
        print(summary_line(job), file=out)
        for obj in objects[:FAILURES_SHOWN]:
            print(f"  failed: {reason_of(obj)}", file=out)
        if job.objects_failed > FAILURES_SHOWN:
            print(f"  … and {job.objects_failed - FAILURES_SHOWN} more", file=out)


def place(job: JobView, settings: Settings) -> str:
    """Where the job's files lie, for standard output."""
    if job.destination:
        return job.destination
    uri = parse_uri(job.uri)
    assert isinstance(uri, HubUri)
    folder = f"{uri.kind.value}s--{uri.repo_id.replace('/', '--')}"
    return str(settings.hub.cache / folder / "snapshots" / job.commit)


def exit_code(jobs: Sequence[JobView], failed: Sequence[Sequence[ObjectView]]) -> int:
    """One exit code for all jobs: what went wrong if it was the same everywhere, else 1."""
    codes: set[int] = set()
    for job, objects in zip(jobs, failed, strict=True):
        if objects:
            codes |= {int(error_class(obj.failure.code if obj.failure else "").exit_code) for obj in objects}
        elif job.failure is not None:
            codes.add(int(error_class(job.failure.code).exit_code))
        elif job.status.value != "done":
            codes.add(int(ExitCode.FAILED))
    if not codes:
        return ExitCode.OK
    return codes.pop() if len(codes) == 1 else ExitCode.FAILED


async def _dry_run(options: argparse.Namespace, settings: Settings, requests: list[SubmitRequest]) -> int:
    from ..common.units import format_size
    from .embedded import described, planned

    objects = total = refused = 0
    listing: dict[str, list[dict[str, object]]] = {}
    for request in requests:
        async for resolved, source in planned(settings, request):
            found = listing.setdefault(described(resolved), [])
            async for page in source.pages():
                for spec in page:
                    objects += 1
                    total += spec.size or 0
                    if options.json:
                        found.append({"path": spec.path, "size": spec.size, "digest": spec.digest})
                    else:
                        size = "?" if spec.size is None else format_size(spec.size)
                        print(f"{size:>10}  {spec.path}")
            refused += source.refused_count
            for refused_name, reason in source.refused:
                print(f"refused: {refused_name}: {reason}", file=sys.stderr)
    if options.json:
        document = {"sources": listing, "objects": objects, "bytes": total, "refused": refused}
        print(json.dumps(document, indent=2))
    else:
        print(f"{objects} files, {format_size(total)}; nothing was fetched", file=sys.stderr)
    return ExitCode.POLICY if refused else ExitCode.OK


# ---- submit -------------------------------------------------------------------------------------------------------------


async def _submit(options: argparse.Namespace, settings: Settings, requests: list[SubmitRequest]) -> int:
    async with transfers(settings) as coordinator:
        submitted = [job for request in requests for job in await coordinator.submit(request)]
    if options.json:
        documents = [{**to_document(each.job), "created": each.created} for each in submitted]
        print(json.dumps({"jobs": documents}, indent=2))
        return ExitCode.OK
    for each in submitted:
        print(each.job.job_id)
        word = "submitted" if each.created else "asked for already"
        print(f"{each.job.job_id}  {word}: {each.job.uri}", file=sys.stderr)
    return ExitCode.OK
