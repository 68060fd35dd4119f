"""Servers that answer wrongly, slowly, endlessly: every row gets the code and the message that it deserves, no other row suffers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shoal.common.collect_records import Content, DatasetFormat, ErrorCode
from shoal.common.policy import Policy, RulesInForce
from shoal.common.records import Outcome, UnitKind
from support.collecting import MemoryGate, collecting, picture, table_of
from support.odd_server import odd_server

CASES: list[tuple[str, int, int, str, int]] = [
    # path, code, retries, a word of the message, requests that reach the server
    ("status/403", 403, 0, "403", 1),
    ("status/404", 404, 0, "404", 1),
    ("status/410", 410, 0, "410", 1),
    ("status/500", 500, 1, "500", 2),
    ("hang", ErrorCode.NETWORK, 1, "came for 3 s", 2),
    ("drip", ErrorCode.NETWORK, 1, "within", 2),
    ("reset", ErrorCode.NETWORK, 1, "closed", 2),
    ("short", ErrorCode.NETWORK, 1, "before the end", 2),
    ("loop/0", ErrorCode.NETWORK, 0, "circle", 1),
    ("far/0", ErrorCode.NETWORK, 0, "redirects", 1),
    ("to/ftp://x/y", ErrorCode.NETWORK, 0, "cannot be used", 1),
    ("html", ErrorCode.NOT_AN_IMAGE, 0, "HTML", 1),
    ("json", ErrorCode.NOT_AN_IMAGE, 0, "JSON", 1),
    ("cut", ErrorCode.NOT_AN_IMAGE, 0, "truncated", 1),
    ("big", ErrorCode.TOO_LARGE, 0, "larger than", 1),
    ("endless", ErrorCode.TOO_LARGE, 0, "larger than", 1),
    ("bomb", ErrorCode.TOO_LARGE, 0, "larger than", 1),
    ("noai", ErrorCode.OPTED_OUT, 0, "noai", 1),
]


peak = [0]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def largest_resident_bytes() -> None:
    peak[0] = 0
    while True:
        peak[0] = max(peak[0], resident_bytes())
        await asyncio.sleep(0.01)


async def test_every_odd_answer_gets_its_code(tmp_path: Path) -> None:
    async with (
        odd_server(picture(400, 300)) as site,
        collecting(
            tmp_path,
            request_timeout_s=6.0,  # both more than any good answer takes, on a busy machine too
            idle_timeout_s=3.0,
            redirects_max=3,
            body_bytes_max=4 << 20,
            respect_ai_opt_out=True,
            connections=32,
        ) as bench,
    ):
        good = ["ok/1", "gzip", "hop", "then/500"]
        urls = [f"{site.url}/{path}" for path, *_ in CASES] + [f"{site.url}/{path}" for path in good]
        before = resident_bytes()
        most = asyncio.ensure_future(largest_resident_bytes())
        report = await bench.batch(site.host, table_of(urls))
        most.cancel()
        assert report.outcome is Outcome.DONE, report
        errors = bench.rows(site.host, "errors")
        for number, (path, code, retries, word, requests) in enumerate(CASES):
            row = errors[f"u{number}"]
            assert (row["error_code"], row["retry_count"]) == (code, retries), (path, row)
            assert word in row["error_msg"], (path, row)
            assert site.log.count(f"/{path}") == requests or path == "reset", path  # a kept connection may be retried
        assert len(errors) == len(CASES) and len(bench.rows(site.host, "successes")) == len(good)
        codes = Counter(row["error_code"] for row in errors.values())
        assert dict(report.tally) == {200: len(good), **codes}
        assert (
            peak[0] - before < 300 << 20
        )  # of bodies of 5 GB, which both sides of this process hold for a moment, nothing stays
        assert site.sent_bytes < 200 << 20


async def test_throttled_rows_wait_for_their_host(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path, gate=MemoryGate(block_s=0.2)) as bench:
        urls = [f"{site.url}/then/429/after-1", f"{site.url}/then/503/{1}", f"{site.url}/ok/1"]
        report = await bench.batch(site.host, table_of(urls))
        assert report.tally == ((200, 3),)
        throttled = [answer for answer in bench.gate.answers if answer[1] == "throttled"]
        assert {(status, wait) for _, _, status, wait in throttled} == {(429, 1.0), (503, 0.0)}


async def test_a_host_that_stays_blocked_gives_the_slot_back(tmp_path: Path) -> None:
    async with (
        odd_server(picture()) as site,
        collecting(tmp_path, gate=MemoryGate(), attempts=3, connections=1) as bench,
    ):
        urls = [f"{site.url}/ok/1", f"{site.url}/then/429/after-600", f"{site.url}/ok/2"]
        rows = table_of(urls)
        report = await bench.batch(site.host, rows)
        assert report.outcome is Outcome.RETURNED and not (tmp_path / "images").exists()
        bench.gate._blocked.clear()
        report = await bench.batch(site.host, rows)
        assert report.tally == ((200, 3),)
        assert Counter(site.log) == {"/ok/1": 1, "/then/429/after-600": 2, "/ok/2": 1}


async def test_giving_up_makes_the_rest_errors_with_the_last_code(tmp_path: Path) -> None:
    async with (
        odd_server(picture()) as site,
        collecting(tmp_path, gate=MemoryGate(), connections=1, attempts=3) as bench,
    ):
        rows = table_of([f"{site.url}/ok/1", f"{site.url}/status/429/after-600", f"{site.url}/ok/2"])
        assert (await bench.batch(site.host, rows)).outcome is Outcome.RETURNED
        report = await bench.batch(site.host, rows, give_up_code=429)
        assert report.outcome is Outcome.DONE and report.tally == ((200, 1), (429, 2))
        errors = bench.rows(site.host, "errors")
        assert {row["error_code"] for row in errors.values()} == {429} and len(site.log) == 2


async def test_private_addresses_are_refused_at_every_hop(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path, allow_private_addresses=False) as bench:
        urls = [
            f"{site.url}/ok/1",
            f"http://localhost:{site.port}/ok/1",
            "http://169.254.169.254/latest/meta-data/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
        ]
        report = await bench.batch(site.host, table_of(urls))
        assert report.tally == ((ErrorCode.REFUSED, len(urls)),) and not site.log


async def test_a_redirect_to_a_private_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.agent.collect import side

    async with odd_server(picture()) as site:
        # Stands in for a server of the web: everything of this machine but this one server counts as private.
        monkeypatch.setattr(
            side, "inward_reason", lambda address: "" if address == "127.0.0.1" else "a private address"
        )
        async with collecting(tmp_path, allow_private_addresses=False) as bench:
            host = f"web.localhost:{site.port}"
            urls = [
                f"http://{host}/to/http://127.0.0.2:{site.port}/ok/1",
                f"http://{host}/to/http://[::1]/",
                f"http://{host}/ok/2",
            ]
            monkeypatch.setattr(
                asyncio.get_running_loop(), "getaddrinfo", lambda *a, **k: _addresses(site.port), raising=False
            )
            report = await bench.batch(host, table_of(urls))
            assert report.tally == ((200, 1), (ErrorCode.REFUSED, 2)), bench.rows(host, "errors")


async def _addresses(port: int) -> list[Any]:
    import socket

    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


async def test_ignored_hosts_are_not_asked(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        (tmp_path / "ignored.csv").write_text(f"server_name,reason\n{site.host},asked us to\n")
        report = await bench.batch(site.host, table_of([f"{site.url}/ok/1"]))
        assert report.tally == ((ErrorCode.REFUSED, 1),) and not site.log
        assert "asked us to" in bench.rows(site.host, "errors")["u0"]["error_msg"]


@pytest.mark.parametrize(
    ("status", "text", "refused"),
    [
        (200, "User-agent: *\nDisallow: /ok/\nCrawl-delay: 2\n", True),
        (200, "User-agent: Shoal\nDisallow: /*.jpg$\n", False),
        (404, "", False),
        (403, "", False),
        (503, "", True),
    ],
)
async def test_robots_txt_is_obeyed(tmp_path: Path, status: int, text: str, refused: bool) -> None:
    gate = MemoryGate(block_s=0.01)
    async with odd_server(picture()) as site, collecting(tmp_path, robots=True, gate=gate) as bench:
        site.pages["/robots.txt"] = (status, {}, text.encode())
        report = await bench.batch(site.host, table_of([f"{site.url}/ok/1"]), profile=True)
        assert report.tally == (((ErrorCode.REFUSED if refused else 200), 1),)
        assert site.log.count("/robots.txt") == 1
        assert ("/ok/1" in site.log) is not refused
        if "delay" in text:
            assert gate.delays == {site.host: 2.0}
            assert report.profile is not None and report.profile.robots == "disallowed"


async def test_a_profile_is_measured_on_the_first_row(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        report = await bench.batch(site.host, table_of([f"{site.url}/ok/1", f"{site.url}/ok/2"]), profile=True)
        profile = report.profile
        assert profile is not None and profile.reachable and profile.status == 200 and profile.robots == "none"
        assert profile.size == len(site.image) and profile.content_type == "image/jpeg" and profile.latency_s > 0
        assert site.log.count("/ok/1") == 1


async def test_no_credentials_no_cookies_and_a_name(tmp_path: Path) -> None:
    async with (
        odd_server(picture()) as site,
        collecting(tmp_path, user_agent="Reef/1 (+https://reef.example)") as bench,
    ):
        await bench.batch(site.host, table_of([f"{site.url}/hop"]))
        for request in site.requests:
            assert request.headers["user-agent"] == "Reef/1 (+https://reef.example)"
            assert request.headers["accept-encoding"] == "identity"
            assert not {"cookie", "authorization"} & set(request.headers)


async def test_any_content_is_kept_as_bytes(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path, content=Content.ANY) as bench:
        await bench.batch(site.host, table_of([f"{site.url}/html"]))
        row = bench.rows(site.host, "successes")["u0"]
        assert row["image"].startswith(b"<!DOCTYPE") and row["original_size"] is None and row["resized_size"] is None
        assert len(row["hashsum_original"]) == 32


@pytest.mark.parametrize("format", [DatasetFormat.WEBDATASET, DatasetFormat.FILES])
async def test_other_formats_lie_beside(tmp_path: Path, format: DatasetFormat) -> None:
    import tarfile

    async with odd_server(picture()) as site, collecting(tmp_path, format=format) as bench:
        rows = table_of([f"{site.url}/ok/1", f"{site.url}/ok/2"], uuid=["plain", "../../evil"])
        await bench.batch(site.host, rows)
        table = bench.table(site.host, "successes")
        assert table["image"].null_count == 2
        folder = next(tmp_path.glob("images/*/*"))
        if format is DatasetFormat.FILES:
            names = sorted(path.name for path in (folder / "files").iterdir())
        else:
            with tarfile.open(folder / "00000.tar") as tar:
                names = sorted(tar.getnames())
        stems = {name.partition(".")[0] for name in names}
        assert "plain" in stems and any(stem.startswith("sha256-") for stem in stems)
        assert all(name.endswith((".jpg", ".json")) for name in names)


async def test_killing_an_image_worker_loses_nothing(tmp_path: Path) -> None:
    async with odd_server(picture(1200, 900)) as site, collecting(tmp_path, image_size=900) as bench:
        # Some come only after the kill: the batch cannot be done before.
        late = {f"/ok/{n}": asyncio.Event() for n in range(50, 60)}
        site.held.update(late)
        ref = bench.start(UnitKind.BATCH, host=site.host, rows=table_of([f"{site.url}/ok/{n}" for n in range(60)]))
        killed: dict[
            int, object
        ] = {}  # and the image that each worker was at: one that costs two workers is to blame itself
        async with asyncio.timeout(60):
            while not bench.reports[1:]:
                await asyncio.sleep(0.02)
                for worker in bench.collector._tools.images._workers if bench.collector._tools else ():
                    first = worker.jobs[0] if worker.jobs else None
                    if worker.ready and worker.pid not in killed and first not in killed.values() and len(killed) < 2:
                        killed[worker.pid] = first
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(worker.pid, signal.SIGKILL)
                if killed:
                    for event in late.values():
                        event.set()
        report = await bench.last(ref)
        assert killed and report.tally == ((200, 60),), report


async def test_a_bomb_kills_only_its_own_row(tmp_path: Path) -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(out, "PNG")  # 243 MB when decoded
    async with odd_server(picture()) as site, collecting(tmp_path, decode_memory_bytes=100 << 20) as bench:
        site.pages["/bomb.png"] = (200, {}, out.getvalue())
        urls = [f"{site.url}/ok/1", f"{site.url}/bomb.png", f"{site.url}/ok/2"]
        report = await bench.batch(site.host, table_of(urls))
        assert dict(report.tally)[200] == 2
        assert bench.rows(site.host, "errors")["u1"]["error_code"] in (ErrorCode.TOO_LARGE, ErrorCode.NOT_AN_IMAGE)


async def test_decoding_for_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from PIL import Image

    from shoal.agent.collect import image_pool

    monkeypatch.setattr(image_pool, "WATCH_S", 0.02)
    out = io.BytesIO()
    # Half a gigabyte of pixels in a small file: no machine decodes that within the time that is allowed.
    Image.new("RGB", (12_000, 12_000), (1, 2, 3)).save(out, "PNG", compress_level=1)
    async with odd_server(picture()) as site, collecting(tmp_path, decode_timeout_s=0.05) as bench:
        site.pages["/slow.png"] = (200, {}, out.getvalue())
        report = await bench.batch(site.host, table_of([f"{site.url}/slow.png", f"{site.url}/ok/1"]))
        assert bench.rows(site.host, "errors")["u0"]["error_code"] == ErrorCode.NOT_AN_IMAGE, report
        assert "longer than" in bench.rows(site.host, "errors")["u0"]["error_msg"]


async def test_a_redirect_to_a_host_that_must_rest_does_not_hold_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.agent.collect import fetch

    monkeypatch.setattr(fetch, "ELSEWHERE_S", 0.2)
    async with odd_server(picture()) as site, odd_server(picture()) as other, collecting(tmp_path) as bench:
        bench.gate._blocked[other.host] = asyncio.get_running_loop().time() + 3600
        report = await bench.batch(site.host, table_of([f"{site.url}/to/{other.url}/ok/1", f"{site.url}/ok/2"]))
        assert report.tally == ((200, 1), (ErrorCode.NETWORK, 1)) and not other.log
        assert "not free" in bench.rows(site.host, "errors")["u0"]["error_msg"]


async def test_only_https_where_that_is_asked_for(tmp_path: Path) -> None:
    from shoal.agent.collect.options import CollectOptions
    from shoal.agent.engine.options import EngineOptions

    options = CollectOptions(
        engine=EngineOptions(agent_id="a", sync=False, rules=RulesInForce(Policy(https_only=True))), image_workers=1
    )
    async with odd_server(picture()) as site, collecting(tmp_path, options=options) as bench:
        report = await bench.batch(site.host, table_of([f"{site.url}/ok/1"]))
        assert report.tally == ((ErrorCode.REFUSED, 1),) and not site.log


async def test_hops_go_through_their_own_hosts_gate(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, odd_server(picture()) as other, collecting(tmp_path) as bench:
        report = await bench.batch(site.host, table_of([f"{site.url}/to/{other.url}/ok/1"]))
        assert report.tally == ((200, 1),) and bench.gate.entered == [site.host, other.host]


async def test_a_proxy_is_honoured(tmp_path: Path) -> None:
    from shoal.agent.collect.options import CollectOptions
    from shoal.agent.engine.options import EngineOptions

    async with odd_server(picture()) as proxy:
        engine = EngineOptions(agent_id="a", sync=False, proxy=proxy.url)
        proxy.pages["http://far.example/1.jpg"] = (200, {}, proxy.image)
        options = CollectOptions(engine=engine, image_workers=1)
        async with collecting(tmp_path, options=options, allow_private_addresses=False) as bench:
            urls = ["http://far.example/1.jpg", "http://169.254.169.254/2.jpg"]
            report = await bench.batch("far.example", table_of(urls))
            assert report.tally == ((200, 1), (ErrorCode.REFUSED, 1))
            assert proxy.log == ["http://far.example/1.jpg"]


async def test_a_host_that_is_blocked_from_the_start_is_given_back_unmeasured(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path, request_timeout_s=1.0) as bench:
        bench.gate._blocked[site.host] = asyncio.get_running_loop().time() + 3600
        report = await bench.batch(site.host, table_of([f"{site.url}/ok/1"]), profile=True)
        assert report.outcome is Outcome.RETURNED and report.profile is None and not site.log
