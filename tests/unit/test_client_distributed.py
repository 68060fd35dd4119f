"""Waiting for several jobs: all end before anything is told, and nothing is lost."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

import shoal.client as package
from shoal.client import Client, DeliveryFailed, DownloadRequest
from shoal.client.distributed import async_download_distributed, check_requests, deliver, inside_ray
from shoal.client.sdk import AsyncClient, AsyncJob
from shoal.client.sdk_sync import Job
from shoal.client.watching import watch_patiently
from shoal.common.errors import NotFound, ShoalError, TimedOut, Unreachable, UsageError, VerificationFailed
from shoal.common.records import Delivery, Failure
from shoal.common.views import (
    JobStatus,
    JobView,
    ObjectStatus,
    ObjectView,
    ReplicaStatus,
    ReplicaView,
    SubmitRequest,
    Submitted,
)

HUB = ("https://huggingface.co",)


def failure(code: str, text: str) -> Failure:
    return Failure(code=code, text=text, retryable=False)


class Script:
    """A coordinator that ends each job as it is told to by the job's name."""

    def __init__(self) -> None:
        self.requests: list[SubmitRequest] = []
        self.release = asyncio.Event()
        self.broken = 0

    async def submit(self, request: SubmitRequest) -> list[Submitted]:
        self.requests.append(request)
        if request.name == "refused":
            raise NotFound("refused")
        job = JobView(
            job_id=request.name, uri=request.uris[0], status=JobStatus.PLANNING, created_at=0.0, name=request.name
        )
        return [Submitted(job=job, created=True)]

    async def watch_job(self, job_id: str) -> AsyncIterator[JobView]:
        view = JobView(job_id=job_id, uri="hf://acme/x", status=JobStatus.RUNNING, created_at=0.0)
        yield view
        if self.broken:
            self.broken -= 1
            raise Unreachable("coordinator")
        if job_id == "slow":
            await self.release.wait()
        if job_id == "failing":
            self.release.set()
            yield replace(view, status=JobStatus.FAILED, failure=failure("internal", "1 object failed"))
        elif job_id == "half":
            copies = (
                ReplicaView(agent_id="a", name="n1", status=ReplicaStatus.LOST),
                ReplicaView(agent_id="b", name="n2", status=ReplicaStatus.FAILED, failure=failure("no-space", "full")),
            )
            yield replace(view, status=JobStatus.DONE, replicas=copies)
        elif job_id == "cancelled":
            yield replace(view, status=JobStatus.CANCELLED)
        else:
            yield replace(view, status=JobStatus.DONE)

    async def list_objects(self, job_id: str, *, status: str, after_id: int, limit: int) -> list[ObjectView]:
        bad = failure("verification", "a.bin: wrong bytes")
        return [ObjectView(object_id=1, path="a.bin", size=1, status=ObjectStatus.FAILED, failure=bad)]


def named(*names: str) -> list[DownloadRequest]:
    return [DownloadRequest(uri="hf://acme/x", destination="/to", name=name) for name in names]


async def run(script: Script, *names: str, timeout: float | None = None) -> list[str]:
    results = await deliver(script, named(*names), Delivery.REPLICATE, HUB, timeout=timeout, on_progress=None)
    return [result.job.job_id for result in results]


async def test_results_come_in_the_order_of_the_requests() -> None:
    script = Script()
    script.release.set()
    assert await run(script, "slow", "b", "c") == ["slow", "b", "c"]
    assert {request.delivery for request in script.requests} == {Delivery.REPLICATE}


async def test_one_failure_does_not_end_the_others_early() -> None:
    with pytest.raises(DeliveryFailed, match=r"2 of 4.*wrong bytes.*refused") as caught:
        await run(Script(), "failing", "slow", "refused", "b")
    assert [result.job.job_id for result in caught.value.results] == ["slow", "b"]
    assert [type(each.error) for each in caught.value.failed] == [VerificationFailed, NotFound]
    assert isinstance(caught.value.__cause__, VerificationFailed)


@pytest.mark.parametrize(("name", "match"), [("half", "agent n2: full"), ("cancelled", "it was cancelled")])
async def test_a_failed_copy_and_a_cancelled_job_are_failures(name: str, match: str) -> None:
    with pytest.raises(DeliveryFailed, match=match):
        await run(Script(), name)


async def test_a_timeout_names_what_is_late() -> None:
    with pytest.raises(TimedOut, match="acme/x"):
        await run(Script(), "slow", timeout=0.01)


async def test_progress_shows_all_jobs_and_its_errors_come_through() -> None:
    seen: list[list[str]] = []

    def show(views: Sequence[JobView]) -> None:
        seen.append([view.job_id for view in views])

    await deliver(Script(), named("a", "b"), Delivery.SPREAD, HUB, timeout=None, on_progress=show)
    assert seen[-1] == ["a", "b"]

    def broken(views: Sequence[JobView]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await deliver(Script(), named("a", "b"), Delivery.SPREAD, HUB, timeout=None, on_progress=broken)


async def test_a_coordinator_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def no_wait(delay_s: float) -> None:
        waits.append(delay_s)

    monkeypatch.setattr("shoal.client.watching.asyncio.sleep", no_wait)
    script = Script()
    script.broken = 3
    views = [view async for view in watch_patiently(script, "a")]
    assert views[-1].status is JobStatus.DONE
    assert len(waits) == 3


async def test_a_coordinator_that_was_never_there_is_not() -> None:
    class Nobody(Script):
        async def watch_job(self, job_id: str) -> AsyncIterator[JobView]:
            raise Unreachable("coordinator")
            yield

    with pytest.raises(Unreachable):
        await anext(watch_patiently(Nobody(), "a"))


async def test_requests_are_checked_first() -> None:
    with pytest.raises(UsageError, match="sequence"):
        check_requests(named("a")[0])
    with pytest.raises(UsageError, match="str"):
        check_requests(["s3://bucket/x"])
    assert await async_download_distributed([]) == []


def test_both_clients_have_the_same_methods() -> None:
    def surface(cls: type) -> dict[str, list[str]]:
        members = {name: value for name, value in inspect.getmembers(cls) if not name.startswith("_")}
        calls = {name: value for name, value in members.items() if callable(value)}
        return {name: list(inspect.signature(value).parameters)[1:] for name, value in calls.items()}

    assert surface(Client) == surface(AsyncClient)
    assert surface(Job) == surface(AsyncJob)
    assert {"wait", "watch", "retry", "replicas"} <= set(surface(Job))
    assert list(inspect.signature(Client).parameters) == list(inspect.signature(AsyncClient).parameters)


def test_a_client_needs_a_coordinator_and_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_COORDINATOR_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r'Client\("HOST:7070"\)'):
        Client()
    with pytest.raises(UsageError, match="context manager"):
        Client("127.0.0.1:1").jobs()
    client = Client("127.0.0.1:1", token="hunter2")
    assert "hunter2" not in repr(client.settings)


def test_the_package_offers_what_it_names() -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018
    assert not inside_ray()
    assert issubclass(DeliveryFailed, ShoalError)
