"""The real web server over a real coordinator: lists, control, events, metrics, many jobs."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.common.records import Capacity, Hello
from shoal.common.views import Control, SubmitRequest
from shoal.coordinator.web import feed as feeds
from support.web import WebSite, web_site

OFFLINE = {"hub.offline": True, "library.places": False}
DEADLINE_S = 30.0


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[WebSite]:
    async with web_site(tmp_path, OFFLINE) as made:
        yield made


async def submit(site: WebSite, *uris: str) -> list[str]:
    """Jobs whose listing is refused: there is no Hub. They end at once, as failed."""
    request = SubmitRequest(uris=uris, destination="/data")
    return [each.job.job_id for each in await site.coordinator.submit(request)]


async def get(site: WebSite, path: str, **params: str) -> Any:
    async with site.client() as http, http.get(f"{site.url}{path}", params=params) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def ended(site: WebSite, *job_ids: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not all(site.coordinator.get_job(job_id).ended for job_id in job_ids):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Events:
    """A reader of the stream."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.last_id = ""

    async def next(self, *kinds: str) -> tuple[str, Any]:
        """The next event of one of these kinds."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                kind, data = "", ""
                while line := (await self._answer.content.readline()).decode().rstrip("\n"):
                    name, _, value = line.partition(": ")
                    if name == "id":
                        self.last_id = value
                    elif name == "event":
                        kind = value
                    elif name == "data":
                        data = value
                if self._answer.content.at_eof():
                    raise EOFError
                if kind and (not kinds or kind in kinds):
                    return kind, json.loads(data)


# ---- jobs -----------------------------------------------------------------------------------------------------------


async def test_a_job_is_submitted_shown_and_controlled(site: WebSite) -> None:
    async with site.client() as http:
        token = await site.csrf(http)

        async def post(path: str, body: object = None) -> tuple[int, Any]:
            async with http.post(f"{site.url}{path}", json=body, headers=token) as answer:
                return answer.status, await answer.json()

        body = {
            "uris": ["acme/tiny", "hf://acme/tiny"],
            "destination": "/data",
            "name": "<script>alert(1)</script>",
            "priority": 3,
        }
        status, made = await post("/download", body)
        assert (status == 202 and [each["created"] for each in made["jobs"]] == [True, False]) or len(made["jobs"]) == 1
        job_id = made["jobs"][0]["job"]["job_id"]
        await ended(site, job_id)
        shown = (await get(site, f"/api/jobs/{job_id}"))["job"]
        assert (shown["status"], shown["priority"], shown["failure"]["code"]) == ("failed", 3, "refused")
        assert shown["name"] == body["name"]  # as data: who shows it, escapes it
        status, problem = await post(f"/api/jobs/{job_id}/pause")
        assert (status, problem["code"]) == (409, "conflict")
        status, problem = await post(f"/api/jobs/{job_id}/priority", {"priority": 1})
        assert (status, problem["code"]) == (409, "conflict")
        status, again = await post(f"/api/jobs/{job_id}/retry")
        assert status == 200 and again["job_id"] == job_id
        assert (await post("/api/jobs/none/retry"))[0] == 404
        assert (await get(site, f"/api/jobs/{job_id}/history")).keys() == {"samples"}


async def test_jobs_come_in_pages_by_state(site: WebSite) -> None:
    ids = await submit(site, *(f"hf://acme/r{number}" for number in range(7)))
    await ended(site, *ids)
    seen: list[str] = []
    page: dict[str, Any] = {"next_cursor": ""}
    while page["next_cursor"] is not None:
        page = await get(site, "/api/jobs", limit="3", cursor=page["next_cursor"], state="failed")
        seen += [job["job_id"] for job in page["jobs"]]
    assert sorted(seen) == sorted(ids) and len(seen) == len(set(seen))
    for state in ("active", "paused", "done", "cancelled"):
        assert (await get(site, "/api/jobs", state=state))["jobs"] == []


async def test_priority_changes_who_is_served_first(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # listings that never come: jobs stay
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with web_site(tmp_path, {"hub.endpoint": endpoint}) as site, site.client() as http:
            ids = await submit(site, "hf://acme/a", "hf://acme/b")
            first, second = (job["job_id"] for job in (await get(site, "/api/queue"))["jobs"])
            assert {first, second} == set(ids)
            token = await site.csrf(http)
            async with http.post(
                f"{site.url}/api/jobs/{second}/priority", json={"priority": 9}, headers=token
            ) as answer:
                assert (await answer.json())["priority"] == 9
            assert [job["job_id"] for job in (await get(site, "/api/queue"))["jobs"]] == [second, first]
            async with http.post(f"{site.url}/api/jobs/{second}/pause", headers=token) as answer:
                assert (await answer.json())["paused"] is True
            assert [job["job_id"] for job in (await get(site, "/api/jobs", state="paused"))["jobs"]] == [second]
            for job_id in (first, second):
                await site.coordinator.control(job_id, Control.CANCEL)


async def test_hosts_are_limited(site: WebSite) -> None:
    async with site.client() as http:
        token = await site.csrf(http)
        url = f"{site.url}/api/hosts/Example.org/rate"
        async with http.post(url, json={"requests_per_s": 2.5, "connections": 4}, headers=token) as answer:
            assert (await answer.json())["requests_per_s"] == 2.5
        async with http.post(url, json={"bytes_per_s": 1000}, headers=token) as answer:
            host = await answer.json()
        assert (host["host"], host["requests_per_s"], host["bytes_per_s"], host["connections"]) == (
            "example.org",
            2.5,
            1000,
            4,
        )
        async with http.post(url, json={"requests_per_s": -1}, headers=token) as answer:
            assert answer.status == 400
        assert (await get(site, "/api/hosts"))["hosts"][0]["host"] == "example.org"


async def test_agents_are_shown_and_drained(site: WebSite) -> None:
    told: list[object] = []
    capacity = Capacity(slots=1, units_max=1, bytes_max=1)
    hello = Hello(agent_id="i1", name="a1", version="1", capacity=capacity)
    session = await site.coordinator.open_session(hello, told.append, lambda reason: None)
    assert [(agent["name"], agent["status"]) for agent in (await get(site, "/api/agents"))["agents"]] == [
        ("a1", "alive")
    ]
    async with site.client() as http:
        async with http.post(f"{site.url}/api/agents/a1/drain", headers=await site.csrf(http)) as answer:
            assert answer.status == 204
        assert (await get(site, "/api/agents"))["agents"][0]["status"] == "draining"
    session.lost()


# ---- events ---------------------------------------------------------------------------------------------------------


async def test_events_tell_what_changes(site: WebSite) -> None:
    async with site.client() as http, http.get(f"{site.url}/api/events") as answer:
        assert answer.content_type == "text/event-stream" and answer.headers["Cache-Control"] == "no-store"
        events = Events(answer)
        kind, begin = await events.next()
        assert kind == "snapshot" and begin["jobs"] == [] and begin["fleet"]["jobs_ended"] == 0
        (job_id,) = await submit(site, "hf://acme/tiny")
        while True:
            _, told = await events.next("jobs")
            states = {job["job_id"]: job["status"] for job in told["jobs"]}
            if states.get(job_id) == "failed":
                break
        _, fleet = await events.next("fleet")
        assert fleet["fleet"]["jobs_ended"] == 1


async def test_a_stream_goes_on_where_it_broke(site: WebSite) -> None:
    async with site.client() as http:
        async with http.get(f"{site.url}/api/events") as answer:
            events = Events(answer)
            await events.next("fleet")
        (job_id,) = await submit(site, "hf://acme/tiny")
        await ended(site, job_id)
        await site.server.site.observer.tick()
        async with http.get(f"{site.url}/api/events", headers={"Last-Event-ID": events.last_id}) as answer:
            kind, told = await Events(answer).next("jobs", "snapshot")
            assert kind == "jobs" and told["jobs"][0]["job_id"] == job_id
        async with http.get(f"{site.url}/api/events", headers={"Last-Event-ID": "999-1"}) as answer:
            assert (await Events(answer).next())[0] == "snapshot"


async def test_a_stream_tells_one_jobs_details(site: WebSite) -> None:
    (job_id,) = await submit(site, "hf://acme/tiny")
    async with site.client() as http:
        async with http.get(f"{site.url}/api/events", params={"job": job_id}) as answer:
            assert (await Events(answer).next("job"))[1]["job"]["job_id"] == job_id
        async with http.get(f"{site.url}/api/events", params={"job": "none"}) as answer:
            assert answer.status == 404


async def test_a_client_that_reads_nothing_costs_little_and_gets_a_snapshot(site: WebSite) -> None:
    feed = site.server.site.observer.feed
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    writer.write(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await reader.readuntil(b"event: snapshot")
    async with asyncio.timeout(DEADLINE_S):
        while feed.clients != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        (client,) = feed._clients  # pyright: ignore[reportPrivateUsage]
        while not client.overrun:
            feed.publish("jobs", "x" * 100_000)
            assert client.waiting_bytes <= feeds.WAITING_BYTES_MAX
            await asyncio.sleep(0)
        feed.publish("jobs", "dropped")
        assert client.waiting_bytes == 0
        rest = b""
        while b"event: snapshot" not in rest:
            rest = rest[-20:] + await reader.read(65_536)
    writer.close()
    async with asyncio.timeout(DEADLINE_S):
        while feed.clients:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_stopping_ends_streams(tmp_path: Path) -> None:
    async with web_site(tmp_path, OFFLINE) as site:
        http = site.client()
        answer = await http.get(f"{site.url}/api/events")
        await answer.content.readuntil(b"event: snapshot")
    async with asyncio.timeout(DEADLINE_S):
        await answer.content.read()
    await http.close()


# ---- the rest -------------------------------------------------------------------------------------------------------


async def test_metrics_can_be_scraped(site: WebSite) -> None:
    async with site.client() as http, http.get(f"{site.url}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        names = {family.name for family in text_string_to_metric_families(await answer.text())}
    assert {"shoal_jobs", "shoal_agents", "shoal_received_bytes"} <= names


async def test_everything_lies_below_base_url(tmp_path: Path) -> None:
    async with web_site(tmp_path, {**OFFLINE, "web.base_url": "/hf-downloader/"}) as site, site.client() as http:
        assert site.url.endswith("/hf-downloader")
        document = await get(site, "/openapi.json")
        assert document["servers"] == [{"url": "/hf-downloader"}]
        async with http.get(site.url, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (308, "/hf-downloader/")
        async with http.get(f"{site.url}/") as answer:
            assert answer.status == 200 and 'href="/hf-downloader/' in await answer.text()
        for path in ("/", "/api/status", "/healthz", "/openapi.json"):
            async with http.get(f"{site.origin}{path}") as answer:
                assert answer.status == 404


async def test_a_thousand_jobs_cost_a_look_no_walk_over_what_has_ended(
    site: WebSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await submit(site, *(f"hf://acme/r{number}" for number in range(1000)))
    await ended(site, *ids)
    observer = site.server.site.observer
    for _ in range(10):  # CHANGED_JOBS_MAX a tick
        await observer.tick()
    looked: list[str] = []
    get_job = site.coordinator.get_job

    def counted(job_id: str, *, active: bool = True) -> Any:
        looked.append(job_id)
        return get_job(job_id, active=active)

    monkeypatch.setattr(site.coordinator, "get_job", counted)
    await observer.tick()
    status = await get(site, "/api/status")
    assert status["fleet"]["jobs_ended"] == 1000
    assert looked == []
    page = await get(site, "/api/jobs", limit="10")
    assert len(page["jobs"]) == 10 and page["next_cursor"]


async def test_the_page_is_there(site: WebSite) -> None:
    async with site.client() as http, http.get(f"{site.url}/") as answer:
        assert answer.status == 200 and answer.content_type == "text/html"
