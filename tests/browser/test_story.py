"""A model's whole story in a real browser: paste, pick, start, watch, find, update, verify, delete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.browser import Browser, chromium
from support.cli import until_tidy
from support.contents import SyntheticFile, sha256_hex
from support.fleet import Fleet, file_sha256_hex, free_port
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.nginx import nginx
from support.web import PASSWORD, PASSWORD_HASH, until_served

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("browser")]

MIB = 1 << 20
PREFIX = "/hf-downloader"
HOSTILE = "<script>window.hacked=1</script>.txt"
Q4 = [f"tiny-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]
FILES: dict[str, Any] = {
    Q4[0]: SyntheticFile(8 * MIB, seed=1),
    Q4[1]: SyntheticFile(4 * MIB, seed=2),
    "tiny-Q8_0.gguf": SyntheticFile(20 * MIB, seed=3),
    HOSTILE: b"harmless",
    "README.md": b"# tiny",
}
SLOWLY = MIB / 4  # bytes/s, until its progress was seen under way


@pytest.fixture
def repo() -> HubRepo:
    return HubRepo("acme/tiny-GGUF", FILES)


@pytest.fixture
def hub(repo: HubRepo) -> Iterator[StandInHub]:
    gated = HubRepo("acme/closed", {"model.safetensors": SyntheticFile(MIB, seed=9)}, gated="manual")
    with hub_in_thread([repo, gated]) as stand_in:
        yield stand_in


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_models_whole_story(tmp_path: Path, hub: StandInHub, repo: HubRepo, prefix: str) -> None:
    models, port = tmp_path / "models", free_port()
    environ = {
        "SHOAL_WEB_LISTEN": f"127.0.0.1:{port}",
        "SHOAL_LIBRARY_ROOTS": str(models),
        "SHOAL_LIBRARY_REFRESH": "0s",
        "SHOAL_WEB_DESTINATIONS": str(models),
    }
    if prefix:
        environ |= {
            "SHOAL_WEB_BASE_URL": prefix,
            "SHOAL_WEB_TRUSTED_PROXIES": "127.0.0.1",
            "SHOAL_WEB_PASSWORD_HASH": PASSWORD_HASH,
        }
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(tmp_path / "fleet", endpoint=hub.url, coordinator_environ=environ))
        fleet.start("a1")
        base = f"http://127.0.0.1:{port}"
        until_served(f"{base}{prefix}")
        if prefix:
            base = f"http://127.0.0.1:{stack.enter_context(nginx(tmp_path / 'nginx', _forward(port)))}{prefix}"
        browser = stack.enter_context(chromium())
        if prefix:
            _log_in(browser, base)
        else:
            browser.open(f"{base}/")
        hub.faults.total_rate = SLOWLY
        _start(browser, models / "tiny")
        _watch(browser, hub)
        assert sorted(path.name for path in (models / "tiny").glob("*.gguf")) == Q4
        _update(browser, hub, repo, models / "tiny")
        _repair(browser, base, repo, models / "tiny")
        _delete(browser, models / "tiny")
        if prefix:
            browser.button("Log out")
            browser.until("the login", lambda: f"{prefix}/login" in browser.driver.current_url)
        else:
            _lose_the_coordinator(browser, base, fleet)
        assert not browser.run("return window.hacked")


def _forward(port: int) -> str:
    return f"""location {PREFIX}/ {{
        proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1;
        proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme; }}"""


def _log_in(browser: Browser, base: str) -> None:
    browser.driver.get(f"{base}/library?sort=size")
    browser.until("the login", lambda: browser.driver.current_url.startswith(f"{base}/login?"))
    browser.ready()
    browser.check_page()
    browser.one("#user").send_keys("admin")
    browser.one("#password").send_keys("wrong\n")
    browser.says("#login-state", "User or password is wrong")
    browser.one("#password").send_keys(PASSWORD + "\n")
    browser.until(
        "to be where somebody wanted to go", lambda: browser.driver.current_url == f"{base}/library?sort=size"
    )
    browser.ready()
    browser.says("#models-empty", "Nothing is on disk yet")
    browser.click(".tabs a[href$='/hf-downloader/']")
    browser.ready()


def _start(browser: Browser, to: Path) -> None:
    """Paste, look, pick, choose a folder, start."""
    browser.check_page()
    browser.paste("#uri", "acme/closed")
    browser.says("#look-state", "ask for access first")
    assert browser.one("#look-state a").get_attribute("href").endswith("/acme/closed")
    browser.paste("#uri", "acme/tiny-GGUF")
    browser.says("#found-name", "acme/tiny-GGUF")
    picked = [row.text for row in browser.all("#group-rows tr.picked")]
    assert len(picked) == 1 and "Q4_K_M" in picked[0] and "suggested" in picked[0] and "2 shards" in picked[0]
    browser.says("#rest-note", "left out: 2 files")
    browser.click("input[value=files]")
    assert HOSTILE in browser.text("#file-rows")
    browser.check_page()
    browser.click("input[value=groups]")
    q8 = browser.one("#group-rows tr:not(.picked) input")
    q8.click()
    browser.says("#sum-picked", "32.0 MiB")
    q8.click()
    browser.says("#sum-picked", "12.0 MiB")
    browser.click("input[value=folder]")
    folder = browser.one("#folder")
    folder.clear()
    folder.send_keys(str(to.parent.parent / "elsewhere"))
    browser.says("#sum-space", "not below any of web.destinations")
    folder.clear()
    folder.send_keys(str(to))
    browser.says("#sum-space", "free in")
    browser.check_page()
    browser.click("#start")


def _watch(browser: Browser, hub: StandInHub) -> None:
    """Follow it to its end, without a reload."""
    browser.until("the job's page", lambda: "/activity?job=" in browser.driver.current_url)
    browser.ready()

    def percent() -> int:
        return int(browser.run("return document.querySelector('#job .bar')?.getAttribute('aria-valuenow')") or 0)

    browser.until("progress under way", lambda: 0 < percent() < 100)
    hub.faults.total_rate = None
    browser.until("100 %", lambda: percent() == 100 and "Done" in browser.text("#job .state"))
    browser.says("#job", "All of it is there, and verified")

    def by_agent() -> bool:
        words = browser.text("#job section[aria-label=Agents] tbody").split()
        return words[:1] == ["a1"] and words[-2:] == ["100", "%"]

    browser.until("who brought it", by_agent)
    browser.until("files that are done", lambda: browser.text("#job .tight").count("Done") == 2)
    assert browser.one("#job .plot svg").get_attribute("aria-label").startswith("Speed of this download")
    browser.check_page()
    browser.click("#job a.back")
    browser.button("All", within="#list")
    browser.says("#jobs li", "acme/tiny-GGUF")
    browser.check_page()


def _update(browser: Browser, hub: StandInHub, repo: HubRepo, to: Path) -> None:
    """Find it in the library; a new revision on the Hub; update."""
    browser.click(".tabs a[href$='/library']")
    browser.ready()
    browser.says("tr[data-model]", "acme/tiny-GGUF")
    row = browser.text("tr[data-model]")
    assert "Q4_K_M" in row and "12.0 MiB" in row and "main @" in row and "Not asked" in row
    browser.click("#check")
    browser.says("tr[data-model] .fresh", "Up to date")
    repo.commit({Q4[0]: SyntheticFile(8 * MIB, seed=7)})
    browser.click("#check")
    browser.says("tr[data-model] .fresh", "Update")
    hub.faults.total_rate = SLOWLY
    browser.click("tr[data-model] [data-action=update]")
    browser.says("tr[data-model] .fresh", "Updating")
    hub.faults.total_rate = None
    browser.says("tr[data-model] .fresh", "Up to date")
    assert file_sha256_hex(to / Q4[0]) == sha256_hex(SyntheticFile(8 * MIB, seed=7))
    assert sorted(path.name for path in to.glob("*.gguf")) == Q4
    browser.click(".open-model")
    browser.says(".model-more", "2 files")
    browser.check_page()
    browser.run(
        "document.querySelector('#group').value = 'owner'; document.querySelector('#group').dispatchEvent(new Event('change'))"
    )
    browser.says(".group", "acme")
    browser.says(".group tr[data-model]", "Q4_K_M")
    browser.check_page()


def _repair(browser: Browser, base: str, repo: HubRepo, to: Path) -> None:
    """Verify, find damage, repair from the commit that was fetched: it is one model after as before."""
    revision = f"main @ {repo.sha[:7]}"
    browser.click("tr[data-model] [data-action=verify]")
    browser.says("#toasts", "all right, 2 files")
    damaged = bytearray((to / Q4[1]).read_bytes())
    damaged[1000] ^= 1
    (to / Q4[1]).write_bytes(damaged)
    browser.click("tr[data-model] [data-action=verify]")
    browser.says("dialog", Q4[1])
    browser.check_console()
    repo.commit({Q4[1]: SyntheticFile(4 * MIB, seed=8)})
    browser.button("Fetch them again", within="dialog")
    browser.says("#toasts", "1 repair under way")
    browser.until("the repair", lambda: file_sha256_hex(to / Q4[1]) == sha256_hex(FILES[Q4[1]]))
    until_tidy(to)
    browser.open(f"{base}/library")
    browser.says("tr[data-model]", revision)
    assert len(browser.driver.find_elements("css selector", "tr[data-model]")) == 1


def _delete(browser: Browser, to: Path) -> None:
    """Delete, knowing what that frees."""
    browser.click("tr[data-model] [data-action=delete]")
    browser.says("dialog", "12.0 MiB")
    browser.button("Keep it", within="dialog")
    assert (to / Q4[0]).exists()
    browser.click("tr[data-model] [data-action=delete]")
    browser.until("the button", lambda: browser._press("Delete, free 12.0 MiB", "dialog"))
    browser.says("#models-empty", "Nothing is on disk yet")
    assert not list(to.rglob("*.gguf"))
    browser.check_page()


def _lose_the_coordinator(browser: Browser, base: str, fleet: Fleet) -> None:
    """The page says that the connection is lost, and goes on by itself when it is back."""
    browser.open(f"{base}/fleet")
    browser.says("#agents", "Alive")
    browser.says("#bytes-split", "From the origin")
    browser.check_page()
    fleet.coordinator.kill()
    browser.says("#link", "Connection lost")
    fleet.start()
    browser.until("the sign to go", lambda: browser.text("#link") == "")
    browser.says("#agents", "Alive")
    browser.click("[data-action=drain]")
    browser.says("dialog", "Drain a1?")
    browser.button("Drain it", within="dialog")  # with a token that is another one since the restart
    browser.says("#agents", "Left")
