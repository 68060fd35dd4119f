"""The REST API of real daemons: a model's whole story behind nginx under a path; a restart; hostile names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from shoal.common.views import JobStatus
from support.contents import SyntheticFile, sha256_hex
from support.dataset_files import write_csv
from support.fleet import Fleet, file_sha256_hex, free_port
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.image_site import ImageSite, Reply, always
from support.nginx import nginx
from support.web import PASSWORD, PASSWORD_HASH, until_served

MIB = 1 << 20
COLLECT = {
    "SHOAL_COLLECT_ALLOW_PRIVATE_ADDRESSES": "true",
    "SHOAL_COLLECT_REQUEST_TIMEOUT": "5s",
    "SHOAL_COLLECT_IMAGE_WORKERS": "1",
    "SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "50",
}
PREFIX = "/hf-downloader"
WAIT_S = 60.0
HOSTILE = "<script>alert('x')</script>.txt"
Q4 = [f"tiny-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]
FILES: dict[str, Any] = {
    Q4[0]: SyntheticFile(3 * MIB, seed=1),
    Q4[1]: SyntheticFile(2 * MIB, seed=2),
    "tiny-Q8_0.gguf": SyntheticFile(6 * MIB, seed=3),
    HOSTILE: b"harmless",
    "README.md": b"# tiny",
}


@pytest.fixture
def repo() -> HubRepo:
    return HubRepo("acme/tiny-GGUF", FILES)


@pytest.fixture
def hub(repo: HubRepo) -> Iterator[StandInHub]:
    with hub_in_thread([repo]) as stand_in:
        yield stand_in


class Api:
    """A browser that logged in, or a program on loopback."""

    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self.http = http
        self.base = base
        self.headers: dict[str, str] = {}

    async def get(self, path: str, **params: str) -> Any:
        async with self.http.get(f"{self.base}{path}", params=params) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, body: object = None) -> Any:
        async with self.http.post(f"{self.base}{path}", json=body, headers=self.headers) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json() if answer.status != 204 else None

    async def take_token(self) -> None:
        self.headers = {"X-CSRF-Token": (await self.get("/api/session"))["csrf_token"]}

    async def follow(self, job_id: str) -> list[dict[str, Any]]:
        """Everything that the events tell of a job until it has ended."""
        told: list[dict[str, Any]] = []
        timeout = aiohttp.ClientTimeout(total=WAIT_S)
        async with self.http.get(f"{self.base}/api/events", timeout=timeout) as answer:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    data = json.loads(line[6:])
                    told += [job for job in data.get("jobs", ()) if job["job_id"] == job_id]
                    if told and told[-1]["status"] in ("done", "failed", "cancelled"):
                        return told
                    if "jobs_more" in data and not told:  # the snapshot: it may have ended before
                        job = (await self.get(f"/api/jobs/{job_id}"))["job"]
                        told += [job] if job["ended_at"] else []
                        if told:
                            return told
        raise AssertionError("the stream ended")


def web_fleet(folder: Path, hub: StandInHub, models: Path, **environ: str) -> tuple[Fleet, int]:
    port = free_port()
    given = {"SHOAL_WEB_LISTEN": f"127.0.0.1:{port}", "SHOAL_LIBRARY_ROOTS": str(models), "SHOAL_LIBRARY_REFRESH": "0s"}
    return Fleet(folder, endpoint=hub.url, coordinator_environ={**given, **environ}), port


async def started(fleet: Fleet, url: str, *agents: str) -> None:
    await asyncio.to_thread(fleet.start, *agents)
    await asyncio.to_thread(until_served, url)


def unlocked() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


@pytest.mark.system
async def test_a_models_whole_story_behind_nginx_under_a_path(tmp_path: Path, hub: StandInHub, repo: HubRepo) -> None:
    models = tmp_path / "models"
    to = models / "tiny"
    fleet, port = web_fleet(
        tmp_path / "fleet",
        hub,
        models,
        SHOAL_WEB_BASE_URL=PREFIX,
        SHOAL_WEB_TRUSTED_PROXIES="127.0.0.1",
        SHOAL_WEB_PASSWORD_HASH=PASSWORD_HASH,
        SHOAL_WEB_DESTINATIONS=str(models),
    )
    forward = f"""location {PREFIX}/ {{
        proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1;
        proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme; }}"""
    with fleet, nginx(tmp_path / "nginx", forward) as front:
        await started(fleet, f"http://127.0.0.1:{port}{PREFIX}", "a1", "a2")
        async with unlocked() as http:
            api = Api(http, f"http://127.0.0.1:{front}{PREFIX}")
            async with http.get(f"{api.base}/api/status") as answer:
                assert answer.status == 401
            async with http.post(f"{api.base}/api/login", json={"user": "admin", "password": PASSWORD}) as answer:
                assert answer.status == 200 and f"Path={PREFIX}" in answer.headers["Set-Cookie"]
            await api.take_token()

            found = await api.get("/api/inspect", uri="acme/tiny-GGUF")
            assert found["files_total"] == len(FILES) and HOSTILE in found["rest"]
            (pick,) = [group for group in found["groups"] if group["default"]]
            assert (pick["label"], pick["shards"], pick["bytes"]) == ("Q4_K_M", 2, 5 * MIB)
            assert (await api.get("/api/space", destination=str(to)))["free_bytes"] > pick["download_bytes"]

            body = {"uris": ["acme/tiny-GGUF"], "destination": str(to), "include": pick["include"]}
            job_id = (await api.post("/download", body))["jobs"][0]["job"]["job_id"]
            last = (await api.follow(job_id))[-1]
            assert (last["status"], last["objects_done"], last["bytes_arrived"]) == ("done", 2, 5 * MIB)
            assert sorted(path.name for path in to.glob("*.gguf")) == Q4
            assert file_sha256_hex(to / Q4[0]) == sha256_hex(FILES[Q4[0]])
            objects = (await api.get(f"/api/jobs/{job_id}/objects", status="done"))["objects"]
            assert {each["path"] for each in objects} == set(Q4)

            (model,) = (await api.get("/api/models"))["models"]
            assert (model["repo_id"], model["quantizations"], model["bytes"]) == ("acme/tiny-GGUF", ["Q4_K_M"], 5 * MIB)
            ids = {"model_ids": [model["model_id"]]}
            assert (await api.post("/api/models/check", ids))["models"][0]["freshness"] == "current"

            newest = repo.commit({Q4[0]: SyntheticFile(3 * MIB, seed=9)})
            checked = (await api.post("/api/models/check", ids))["models"][0]
            assert (checked["freshness"], checked["latest"]) == ("outdated", newest)
            (update,) = (await api.post("/api/models/update", ids))["models"]
            assert update["reason"] == ""
            assert (await api.follow(update["job"]["job"]["job_id"]))[-1]["status"] == "done"
            assert file_sha256_hex(to / Q4[0]) == sha256_hex(SyntheticFile(3 * MIB, seed=9))
            assert sorted(path.name for path in to.glob("*.gguf")) == Q4  # and no Q8_0
            assert (await api.post("/api/models/check", ids))["models"][0]["freshness"] == "current"

            dry = await api.post("/api/models/delete", {"model_id": model["model_id"], "dry_run": True})
            assert dry["frees_bytes"] >= 5 * MIB and (to / Q4[0]).exists()
            gone = await api.post("/api/models/delete", {"model_id": model["model_id"]})
            assert gone["failed"] == [] and not list(to.rglob("*.gguf"))
            assert (await api.get("/api/models"))["models"] == []


async def test_a_hostile_name_is_data_everywhere(tmp_path: Path, hub: StandInHub) -> None:
    fleet, port = web_fleet(tmp_path / "fleet", hub, tmp_path / "models")
    with fleet:
        await started(fleet, f"http://127.0.0.1:{port}", "a1")
        async with unlocked() as http:
            api = Api(http, f"http://127.0.0.1:{port}")
            await api.take_token()
            body = {
                "uris": ["acme/tiny-GGUF"],
                "destination": str(tmp_path / "models" / "x"),
                "name": HOSTILE,
                "include": ["*.txt"],
            }
            job_id = (await api.post("/download", body))["jobs"][0]["job"]["job_id"]
            await api.follow(job_id)
            for path in (
                f"/api/jobs/{job_id}",
                f"/api/jobs/{job_id}/objects",
                "/api/status",
                "/api/models",
                "/metrics",
                "/",
            ):
                async with http.get(f"{api.base}{path}") as answer:
                    text = await answer.text()
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    assert answer.content_type in ("application/json", "text/plain", "text/html")
                    if answer.content_type != "application/json":
                        assert "<script>alert" not in text
            assert (await api.get(f"/api/jobs/{job_id}/objects"))["objects"][0]["path"] == HOSTILE


async def test_a_killed_coordinator_is_the_same_for_the_api_when_it_is_back(tmp_path: Path, hub: StandInHub) -> None:
    fleet, port = web_fleet(tmp_path / "fleet", hub, tmp_path / "models")
    with fleet:
        await started(fleet, f"http://127.0.0.1:{port}", "a1")
        async with unlocked() as http:
            api = Api(http, f"http://127.0.0.1:{port}")
            await api.take_token()
            body = {"uris": ["acme/tiny-GGUF"], "destination": str(tmp_path / "models" / "x")}
            job_id = (await api.post("/download", body))["jobs"][0]["job"]["job_id"]
            await asyncio.to_thread(fleet.ended, job_id, JobStatus.DONE)
            before = (await api.get("/api/status"))["totals"]
            detail = await api.get(f"/api/jobs/{job_id}")
            ((name, fetched),) = [(agent["name"], agent["from_origin"]) for agent in detail["agents"]]
            assert name == "a1" and fetched == detail["job"]["bytes_from_origin"] > 0
            await asyncio.to_thread(fleet.coordinator.kill)
            await started(fleet, f"http://127.0.0.1:{port}")
        async with unlocked() as http:
            api = Api(http, f"http://127.0.0.1:{port}")
            again = await api.get(f"/api/jobs/{job_id}")
            assert again["job"]["status"] == "done" and again["agents"] == detail["agents"]
            after = await api.get("/api/status")
            assert after["fleet"]["incarnation"] == 2 and after["totals"]["objects_done"] >= before["objects_done"]
        assert await asyncio.to_thread(fleet.coordinator.terminate) == 0


async def test_a_collection_is_shown_by_host_by_error_and_in_pictures(tmp_path: Path, hub: StandInHub) -> None:
    fleet, port = web_fleet(tmp_path / "fleet", hub, tmp_path / "models", **COLLECT)
    with fleet, ImageSite() as site:
        good, bad = site.host(), site.host(always(Reply(status=404)))
        urls = [good.url(f"/{number}.jpg") for number in range(5)] + [bad.url("/x.jpg")]
        write_csv(tmp_path / "t.csv", urls)
        await started(fleet, f"http://127.0.0.1:{port}")
        await asyncio.to_thread(lambda: fleet.add_agent("a1", environ=COLLECT))
        run = ("collect", tmp_path / "t.csv", "--to", tmp_path / "out")
        await asyncio.to_thread(lambda: fleet.shoal.run(*run, environ=COLLECT))
        async with unlocked() as http:
            api = Api(http, f"http://127.0.0.1:{port}")
            (job,) = (await api.get("/api/collections"))["jobs"]
            path = f"/api/collections/{job['job_id']}"
            for _ in range(2):
                shown = await api.get(path)
                assert (shown["rows"], shown["successes"], shown["errors_by_code"]) == (6, 5, {"404": 1})
                hosts = (await api.get(f"{path}/hosts"))["hosts"]
                assert {(host["host"], host["successes"], host["errors"]) for host in hosts} == {
                    (good.url("").split("/")[2], 5, 0),
                    (bad.url("").split("/")[2], 0, 1),
                }
                samples = (await api.get(f"{path}/samples"))["samples"]
                assert len(samples) == 4
                one = samples[0]
                picture = f"{api.base}{path}/samples/{quote(one['host'], safe='')}/{one['partition']}/{one['row']}"
                async with http.get(URL(picture, encoded=True)) as answer:
                    assert answer.status == 200 and answer.content_type == "image/jpeg"
                    assert "sandbox" in answer.headers["Content-Security-Policy"]
                    assert (await answer.read()).startswith(b"\xff\xd8\xff")
                await asyncio.to_thread(
                    fleet.coordinator.terminate
                )  # an ended run is shown from what lies beside the data
                await started(fleet, f"http://127.0.0.1:{port}")
