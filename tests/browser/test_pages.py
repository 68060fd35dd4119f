"""Every page in a real browser: without anything, with much, with hostile names, by keyboard alone."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from shoal.common.manifest import ManifestEntry, write_manifest
from shoal.common.records import Capacity, Hello
from shoal.common.safe_root import SafeRoot
from shoal.common.views import JobStatus, SubmitRequest
from support.browser import Browser, chromium
from support.contents import SyntheticFile
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.nginx import nginx
from support.s3 import Store
from support.web import WebSite, web_site

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("browser")]

PAGES = ("/", "/activity", "/library", "/fleet", "/collections")
HOSTILE = "<img src=x onerror=window.hacked=1>\"'&<script>window.hacked=1</script>"
BY_AGENT = "#job section[aria-label=Agents]"
JOBS = 300
MODELS = 1000
HUGE = 12 << 30
ENDED_S = 60.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    files: dict[str, Any] = {
        "tiny-Q4_K_M.gguf": SyntheticFile(1 << 20, seed=1),
        f"{HOSTILE}.txt".replace("/", "_"): b"x",
    }
    with hub_in_thread([HubRepo("acme/tiny-GGUF", files)]) as stand_in:
        yield stand_in


@pytest.fixture
async def site(tmp_path: Path, hub: StandInHub) -> AsyncIterator[WebSite]:
    overrides = {"hub.endpoint": [hub.url], "library.roots": [str(tmp_path / "models")], "library.refresh": "60s"}
    async with web_site(tmp_path, overrides) as made:
        yield made


async def test_pages_without_anything_say_what_to_do(browser: Browser, site: WebSite) -> None:
    words = {
        "/": "Bring something home",
        "/activity": "Nothing is under way",
        "/library": "Nothing is on disk yet",
        "/fleet": "No agent has come yet",
        "/collections": "No table was collected yet",
    }

    def look() -> None:
        for path in PAGES:
            browser.open(site.url + path)
            browser.says("main", words[path])
            browser.check_page()
        browser.open(f"{site.url}/login")  # nobody needs it here: on to the first page
        browser.until("the first page", lambda: browser.driver.current_url == f"{site.url}/")
        browser.open(f"{site.url}/activity?job=none-such")
        browser.says("#job", "There is no job with this id")
        browser.open(f"{site.url}/?uri=acme/none-such")
        browser.says("#look-state", "has no such model")
        browser.says("#look-state", "What helps: ")

    await asyncio.to_thread(look)


async def test_everything_by_keyboard(browser: Browser, site: WebSite) -> None:
    def drive() -> None:
        browser.open(f"{site.url}/activity")
        browser.keys(Keys.TAB)
        assert browser.run("return document.activeElement.className") == "skip"
        browser.keys(Keys.ENTER)
        assert browser.run("return document.activeElement.id") == "main"
        browser.tab_to("[data-state=active]", most=1)
        browser.open(f"{site.url}/")
        assert browser.run("return document.activeElement.id") == "uri"
        browser.keys("acme/tiny-GGUF", Keys.ENTER)
        browser.says("#found-name", "acme/tiny-GGUF")
        browser.tab_to("#group-rows input")
        browser.keys(Keys.SPACE)
        browser.says("#sum-picked", "Nothing is picked")
        assert not browser.one("#start").is_enabled()
        browser.keys(Keys.SPACE)
        browser.tab_to("input[name=place]")
        browser.keys(Keys.ARROW_DOWN)
        browser.until("the folder to be next", lambda: browser.run("return document.activeElement.id") == "folder")
        browser.keys("/data/tiny")
        browser.says("#sum-space", "free in")
        browser.tab_to("#start")
        browser.keys(Keys.ENTER)
        browser.until("the job's page", lambda: "/activity?job=" in browser.driver.current_url)
        browser.ready()
        browser.says("#job h1", "acme/tiny-GGUF")
        browser.tab_to("[data-action=cancel]")
        browser.keys(Keys.ENTER)
        browser.one("dialog")
        browser.keys(Keys.ESCAPE)
        browser.until("the dialog to close", lambda: not browser.all("dialog"))
        assert browser.run("return document.activeElement.dataset.action") == "cancel", "the focus went astray"
        browser.keys(Keys.ENTER)
        browser.one("dialog")
        browser.tab_to("dialog button[value=yes]")
        browser.keys(Keys.ENTER)
        browser.says("#job .state", "Cancelled")
        browser.check_page()

    await asyncio.to_thread(drive)


async def test_hostile_names_are_text_everywhere(browser: Browser, site: WebSite, hub: StandInHub) -> None:
    async with site.client() as http:
        headers = await site.csrf(http)
        body = {"uris": ["acme/tiny-GGUF"], "destination": "/data/x", "name": HOSTILE}
        async with http.post(f"{site.url}/download", json=body, headers=headers) as answer:
            job_id = (await answer.json())["jobs"][0]["job"]["job_id"]
    capacity = Capacity(slots=1, units_max=1, bytes_max=1)
    hello = Hello(agent_id="a1", name=HOSTILE[:60], version=HOSTILE, capacity=capacity)
    await site.coordinator.open_session(hello, lambda _message: None, lambda _reason: None)
    site.coordinator.core.jobs[job_id].fetched("a1", 3 << 20)

    def look() -> None:
        browser.open(f"{site.url}/?uri=acme/tiny-GGUF")
        browser.click("input[value=files]")
        browser.says("#file-rows", "<img src=x onerror=")
        browser.open(f"{site.url}/activity")
        browser.says("#jobs", HOSTILE)
        browser.open(f"{site.url}/activity?job={job_id}")
        browser.says("#job h1", HOSTILE)
        browser.says("#job .tight", "<img src=x onerror=")
        browser.says(BY_AGENT, HOSTILE[:60])
        browser.says(BY_AGENT, "3.00 MiB")
        browser.check_page()
        browser.open(f"{site.url}/fleet")
        browser.says("#agents", "<img src=x")
        browser.says("#queue", HOSTILE)
        browser.check_page()
        for path in (
            "/?uri=%3Cscript%3Ewindow.hacked=1%3C/script%3E",
            "/activity?job=%3Cscript%3E",
            "/library?search=%3Cscript%3E",
        ):
            browser.open(site.url + path)
        assert not browser.run("return window.hacked")
        browser.check_console()

    await asyncio.to_thread(look)


async def test_a_job_tells_which_agent_brought_how_much(browser: Browser, site: WebSite) -> None:
    (submitted,) = await site.coordinator.submit(SubmitRequest(uris=("hf://acme/tiny-GGUF",), destination="/data/x"))
    job = site.coordinator.core.jobs[submitted.job.job_id]
    hello = Hello(agent_id="a1", name="node-1", version="1", capacity=Capacity(slots=1, units_max=1, bytes_max=1))
    await site.coordinator.open_session(hello, lambda _message: None, lambda _reason: None)

    def look() -> None:
        browser.open(f"{site.url}/activity?job={submitted.job.job_id}")
        browser.says("#job h1", "acme/tiny-GGUF")
        assert not browser.text(BY_AGENT), "nobody brought anything yet"

    def row(name: str) -> list[str]:
        rows = browser.run(f"return [...document.querySelectorAll('{BY_AGENT} tbody tr')].map((row) => row.innerText)")
        texts = (re.split(r"\s*[\t\n]\s*", text.strip()) for text in rows)
        return next((cells for cells in texts if cells[0] == name), [])

    def follow() -> None:
        browser.until("what node-1 brought", lambda: row("node-1") == ["node-1", "6.00 MiB", "75 %", "0 B/s"])
        assert row("a2") == ["a2", "2.00 MiB", "25 %", "not known"]
        assert not [each for each in browser.all(f"{BY_AGENT} button") if each.is_displayed()]
        browser.check_page()

    def follow_many() -> None:
        browser.until("the others", lambda: row("node-1")[1:2] == ["7.00 MiB"] and not row("b9"))
        assert len(browser.all(f"{BY_AGENT} tbody tr")) == 10
        browser.tab_to(f"{BY_AGENT} button")
        browser.keys(Keys.ENTER)
        browser.until("all that are told", lambda: len(browser.all(f"{BY_AGENT} tbody tr")) == 100)
        assert row("a2")[2:] == ["21 %", "not known"] and row("b9")[2] == "under 1 %"
        browser.says(BY_AGENT, "and 2 agents more")
        browser.check_page()

    await asyncio.to_thread(look)
    job.fetched("a1", 6 << 20)
    job.fetched("a2", 2 << 20)
    await asyncio.to_thread(follow)
    job.fetched("a1", 1 << 20)
    for number in range(100):
        job.fetched(f"b{number}", 1000 + number)
    await asyncio.to_thread(follow_many)


async def test_pages_stay_small_with_many_jobs_and_models(browser: Browser, site: WebSite, tmp_path: Path) -> None:
    uris = tuple(f"hf://acme/none-{number}" for number in range(JOBS))
    submitted = await site.coordinator.submit(SubmitRequest(uris=uris, destination="/data/x"))
    assert len(submitted) == JOBS
    await asyncio.to_thread(_make_models, tmp_path / "models")
    async with asyncio.timeout(ENDED_S):
        while site.coordinator.fleet().jobs_active:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert site.coordinator.get_job(submitted[0].job.job_id).status is JobStatus.FAILED

    def look() -> None:
        browser.open(f"{site.url}/activity")
        browser.button("Failed", within="#list")
        browser.until("a page of jobs", lambda: len(browser.all("#jobs > li")) == 50)
        browser.click("#jobs-more")
        browser.until("two pages of jobs", lambda: len(browser.all("#jobs > li")) == 100)
        browser.check_page()
        browser.open(f"{site.url}/library")
        browser.says("#library-line", "1,000 models")
        assert len(browser.all("tr[data-model]")) == 100
        browser.button("Show more of 1,000 models")
        browser.until("two pages of models", lambda: len(browser.all("tr[data-model]")) == 200)
        browser.one("#search").send_keys("o7/m0427")
        browser.says("#library-line", "1 model,")
        browser.check_page()
        browser.open(f"{site.url}/library?group=owner&sort=-size")
        browser.until("groups", lambda: len(browser.all(".group")) == 10)
        browser.click(".group:nth-child(3) summary")
        browser.until("the models of one", lambda: len(browser.all("tr[data-model]")) == 100)
        browser.check_page()

    await asyncio.to_thread(look)


def _make_models(cache: Path) -> None:
    """A Hub cache of many repos, each of one small file."""
    commit = "c" * 40
    for number in range(MODELS):
        repo = cache / f"models--o{number % 10}--m{number:04}"
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit)
        (repo / "blobs").mkdir()
        (repo / "blobs" / "b1").write_bytes(b"x")
        (snapshot / "config.json").symlink_to("../../blobs/b1")
    (cache / "CACHEDIR.TAG").write_text(json.dumps({}))


async def test_without_a_stream_the_page_asks_instead(browser: Browser, site: WebSite, tmp_path: Path) -> None:
    """A proxy that lets no event stream through."""
    rules = f"""location = /api/events {{ return 502; }}
        location / {{ proxy_pass {site.origin}; proxy_set_header Host $http_host; }}"""

    def look(front: int) -> None:
        browser.open(f"http://127.0.0.1:{front}/activity")
        browser.says("#link", "No live updates")
        browser.says("#jobs-empty", "Nothing is under way")

    with nginx(tmp_path / "nginx", rules) as front:
        await asyncio.to_thread(look, front)
        await site.coordinator.submit(SubmitRequest(uris=("hf://acme/tiny-GGUF",), destination="/data/x", name="later"))
        await asyncio.to_thread(browser.says, "#jobs", "later")


async def test_what_frees_much_must_be_named_before_it_is_deleted(
    browser: Browser, site: WebSite, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "huge"
    (folder / ".shoal").mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(HUGE)  # takes no room
    entry = ManifestEntry(
        path="model.safetensors", size=HUGE, digest="", source="hf://acme/huge", revision="main", commit="c" * 40
    )
    with SafeRoot(folder) as root:
        write_manifest(root, sources={"hf://acme/huge": {"revision": "main", "commit": "c" * 40}}, entries=[entry])

    def delete() -> None:
        browser.open(f"{site.url}/library")
        browser.click("[data-action=delete]")
        browser.says("dialog", "12.0 GiB")
        assert not browser.one("dialog button[value=yes]").is_enabled()
        browser.one("dialog input").send_keys("acme/hug")
        assert not browser.one("dialog button[value=yes]").is_enabled()
        browser.one("dialog input").send_keys("e")
        browser.check_console()
        browser.click("dialog button[value=yes]")
        browser.says("#models-empty", "Nothing is on disk yet")

    await asyncio.to_thread(delete)
    assert not (folder / "model.safetensors").exists()


async def test_a_bucket_is_looked_into_with_the_credentials_that_are_named(browser: Browser, tmp_path: Path) -> None:
    with Store(tmp_path / "store", access="AKIDEXAMPLE", secret="not-for-the-page") as store:
        store.write("bucket/models/a.bin", b"1" * 2048)
        store.write("bucket/models/b.bin", b"2" * 1024)
        (tmp_path / "shoal.toml").write_text(store.profile("lab"))
        async with web_site(tmp_path) as site:
            await asyncio.to_thread(_look_into_the_bucket, browser, site.url)


def _look_into_the_bucket(browser: Browser, url: str) -> None:
    browser.open(f"{url}/")
    assert not browser.one("body").find_element("id", "profile").is_displayed()
    browser.paste("#uri", "s3://bucket/models/")
    browser.says("#look-state", "What helps: ")
    browser.one("#profile").send_keys("lab", Keys.ENTER)
    browser.says("#found-facts", "2 files")
    browser.says("#sum-picked", "2 files, 3.00 KiB")
    assert browser.one("input[value=folder]").is_selected() and not browser.one("#start").is_enabled()
    browser.one("#folder").send_keys("/data/models")
    browser.says("#sum-space", "free in")
    browser.check_page()
    browser.click("#start")
    browser.until("the job's page", lambda: "/activity?job=" in browser.driver.current_url)
    browser.ready()
    browser.says("#job .facts", "s3://bucket/models")
    browser.check_page()
