"""The range engine against servers that misbehave: the right bytes or a clear error, never a wrong file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shoal.agent.engine.pieces import MIB
from shoal.common.records import Outcome, UnitKind, WorkReport
from support.contents import ContentLike, SyntheticFile, read_all
from support.engine import engine, hub_job, hub_specs, leftovers, same, web_job, web_spec
from support.faults import (
    ChangeFile,
    Compress,
    CutBody,
    DropConnection,
    ExpireUrl,
    FlipByte,
    HtmlPage,
    IgnoreRange,
    NoContentLength,
    Quota,
    RateLimited,
    RedirectLoop,
    Stall,
    Status,
    WrongContentRange,
    WrongSize,
)
from support.hub import StandInHub
from support.hub_repo import HubRepo
from support.origin import FaultOrigin, OriginFile

BIG = SyntheticFile(24 * MIB, seed=1)
SMALL = SyntheticFile(70_000, seed=2)
TOKEN = "hf_" + "A1b2C3d4" * 4


def both() -> HubRepo:
    return HubRepo("acme/both", {"model.safetensors": BIG, "small.bin": SMALL, "config.json": b'{"x": 1}'})


def failure_of(report: WorkReport) -> tuple[str, str]:
    assert report.outcome is Outcome.FAILED and report.failure is not None
    return report.failure.code, report.failure.text


def nothing_published(to: Path, names: list[str]) -> bool:
    return not any((to / name).exists() for name in names)


# -- faults after which the right bytes come


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        pytest.param(Status(status=503), {"fraction": 0.3}, id="30 % of answers are 503"),
        pytest.param(DropConnection(), {"fraction": 0.3}, id="30 % of connections are reset"),
        pytest.param(CutBody(), {"fraction": 0.5}, id="half of the bodies are cut"),
        pytest.param(CutBody(after=300_000), {"times": 5}, id="bodies are cut after some bytes"),
        pytest.param(CutBody(after=0), {"times": 3}, id="heads without a body"),
        pytest.param(Status(status=429, retry_after_s=1), {"times": 1}, id="429 with Retry-After"),
        pytest.param(Status(status=503, retry_after_s=1, as_date=True), {"times": 1}, id="503 with a date"),
        pytest.param(RateLimited(reset_s=1), {"times": 1}, id="429 with RateLimit"),
        pytest.param(Status(status=429), {"times": 3}, id="429 without a word"),
        pytest.param(IgnoreRange(), {}, id="ranges are ignored"),
        pytest.param(IgnoreRange(), {"skip": 3}, id="ranges are ignored from the third on"),
        pytest.param(IgnoreRange(), {"fraction": 0.3}, id="ranges are ignored now and then"),
        pytest.param(NoContentLength(), {}, id="chunked"),
        pytest.param(WrongContentRange(), {"times": 2}, id="Content-Range lies twice"),
        pytest.param(WrongContentRange(move_body=True), {"times": 2}, id="other bytes than asked for, twice"),
        pytest.param(HtmlPage(), {"times": 1}, id="an HTML page once"),
        pytest.param(WrongSize(0), {"times": 1}, id="empty once"),
        pytest.param(Compress(), {"times": 1}, id="compressed once though not asked for"),
        pytest.param(ExpireUrl(after_uses=1), {}, id="signed URLs are good for one request"),
        pytest.param(ExpireUrl(after_uses=4), {}, id="signed URLs are good for four requests"),
    ],
)
async def test_right_bytes_in_spite_of(tmp_path: Path, fault: object, how: dict[str, object]) -> None:
    repo = both()
    specs = hub_specs(repo)
    async with (
        StandInHub([repo], seed=7) as hub,
        engine(hub_job([hub.url], repo, tmp_path), read_timeout_s=2.0) as bench,
    ):
        hub.faults.add(fault, **how)  # type: ignore[arg-type]
        for report in await bench.whole(specs):
            assert report.outcome is Outcome.DONE, report.failure
        assert all(same(tmp_path / spec.path, repo.file(spec.path).content) for spec in specs)


@pytest.mark.parametrize("fault", [Status(status=503), CutBody(), DropConnection()], ids=["503", "cut", "reset"])
async def test_ranges_in_spite_of(tmp_path: Path, fault: object) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo], seed=3) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        hub.faults.add(fault, fraction=0.3)  # type: ignore[arg-type]
        report = await bench.by_ranges(spec, 6 * MIB)
        assert report.outcome is Outcome.DONE, report.failure
    assert same(tmp_path / spec.path, BIG)


async def test_ranges_of_a_server_that_ignores_them(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        hub.faults.add(IgnoreRange())
        report = await bench.by_ranges(spec, 6 * MIB)
        assert report.outcome is Outcome.DONE, report.failure
        assert hub.log.bytes_served < 2 * BIG.size, "one stream serves all leases of this agent"
    assert same(tmp_path / spec.path, BIG)


async def test_what_came_of_a_cut_body_is_kept(tmp_path: Path) -> None:
    async with FaultOrigin({"a": BIG}) as web, engine(web_job(tmp_path)) as bench:
        web.faults.add(CutBody(after=900_000), times=8)
        (report,) = await bench.whole([web_spec(web.url_of("a"), BIG)])
        assert report.outcome is Outcome.DONE
        assert report.fetched == BIG.size, "nothing was fetched twice"


async def test_a_stalled_connection_is_dropped(tmp_path: Path) -> None:
    async with FaultOrigin({"a": BIG, "b": SMALL}) as web, engine(web_job(tmp_path), read_timeout_s=0.3) as bench:
        web.faults.add(Stall(after=1000), times=2)
        for name, content in (("a", BIG), ("b", SMALL)):
            (report,) = await bench.whole([web_spec(web.url_of(name), content, path=name)])
            assert report.outcome is Outcome.DONE
            assert same(tmp_path / name, content)


async def test_a_signed_url_that_expires_costs_one_resolve(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), connections_per_host=4) as bench:
        hub.faults.add(ExpireUrl(after_uses=10), path=spec.path)
        (report,) = await bench.whole([spec])
        assert report.outcome is Outcome.DONE, report.failure
        used = hub.log.count(kind="cdn", status=206)
        assert hub.log.count(kind="resolve") <= 2 + used // 10
    assert same(tmp_path / spec.path, BIG)


async def test_quota_of_the_hub_is_obeyed(tmp_path: Path) -> None:
    repo = HubRepo("acme/many", {f"f{n:02}.txt": b"text %d" % n for n in range(40)})
    specs = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), connections_per_host=4) as bench:
        quota = Quota(15, window_s=1.0)
        hub.faults.add(quota)
        reports = await bench.whole(specs)
        assert {report.outcome for report in reports} == {Outcome.DONE}
        assert quota.refused <= 4 * 3, "each window at most the requests that were under way"


async def test_a_file_that_changes_is_begun_anew(tmp_path: Path) -> None:
    new = SyntheticFile(BIG.size, seed=77)
    async with FaultOrigin({"a": OriginFile(content=BIG, etag='"old"')}) as web, engine(web_job(tmp_path)) as bench:
        web.faults.add(ChangeFile(content=new), skip=4)
        (report,) = await bench.whole([web_spec(web.url_of("a"), BIG, digested=False)])
        assert report.outcome is Outcome.DONE, report.failure
    assert same(tmp_path / "file.bin", new), "wholly the new one, no mixture"


async def test_a_file_that_changes_while_its_ranges_are_leased(tmp_path: Path) -> None:
    async with FaultOrigin({"a": OriginFile(content=BIG, etag='"old"')}) as web, engine(web_job(tmp_path)) as bench:
        spec = web_spec(web.url_of("a"), BIG, digested=False)
        await bench.run(UnitKind.OPEN, spec)
        await bench.run(UnitKind.RANGE, spec, 0, 8 * MIB)
        web.faults.add(ChangeFile())
        report = await bench.run(UnitKind.RANGE, spec, 8 * MIB, BIG.size)
        assert failure_of(report)[0] == "changed" and report.done == ()
        again = await bench.run(UnitKind.OPEN, replace(spec, life=5))
        assert (again.outcome, again.done) == (Outcome.DONE, ()), "what came of the old version is gone"


async def test_ranges_that_meet_a_change_together_leave_the_file_to_its_life(tmp_path: Path) -> None:
    """Another agent may still write to the file of that life, by a lease in force; what comes next goes into another file."""
    new = SyntheticFile(BIG.size, seed=77)
    async with FaultOrigin({"a": OriginFile(content=BIG, etag='"old"')}) as web, engine(web_job(tmp_path)) as bench:
        spec = web_spec(web.url_of("a"), BIG, digested=False)
        await bench.run(UnitKind.OPEN, spec)
        await bench.run(UnitKind.RANGE, spec, 0, MIB)
        (old,) = (tmp_path / ".shoal/partial").glob("*.part")
        with old.open("rb") as held:
            web.faults.add(ChangeFile(content=new))
            leases = [bench.start(UnitKind.RANGE, spec, at * MIB, (at + 1) * MIB) for at in range(1, 9)]
            reports = [await bench.last(lease) for lease in leases]
            assert {failure_of(report)[0] for report in reports} == {"changed"}
            late = await bench.run(UnitKind.RANGE, spec, 9 * MIB, 10 * MIB)
            assert failure_of(late)[0] == "changed", (
                "granted before the coordinator heard: no bytes of two versions in one file"
            )
            assert held.read(MIB) == read_all(BIG)[:MIB]
        spec = replace(spec, life=5)
        assert (await bench.run(UnitKind.OPEN, spec)).done == ()
        (fresh,) = (tmp_path / ".shoal/partial").glob("*.part")
        assert fresh != old
        await bench.run(UnitKind.RANGE, spec, 0, BIG.size)
        await bench.run(UnitKind.PUBLISH, spec)
    assert same(tmp_path / "file.bin", new)


async def test_what_is_remembered_of_a_file_that_is_gone_is_worth_nothing(tmp_path: Path) -> None:
    async with FaultOrigin({"a": OriginFile(content=BIG, etag='"v"')}) as web, engine(web_job(tmp_path)) as bench:
        spec = web_spec(web.url_of("a"), BIG, digested=False)
        await bench.run(UnitKind.OPEN, spec)
        await bench.run(UnitKind.RANGE, spec, 0, MIB)
        for name in (tmp_path / ".shoal/partial").iterdir():
            name.unlink()
        report = await bench.run(UnitKind.RANGE, spec, 0, MIB)
        assert (failure_of(report)[0], report.done) == ("busy", ())


async def test_a_file_that_never_holds_still(tmp_path: Path) -> None:
    async with FaultOrigin({"a": OriginFile(content=BIG, etag='"v"')}) as web, engine(web_job(tmp_path)) as bench:
        for skip in range(2, 60, 2):
            web.faults.add(ChangeFile(), skip=skip)  # each one changes the ETag once more
        (report,) = await bench.whole([web_spec(web.url_of("a"), BIG, digested=False)])
        assert report.outcome is Outcome.DONE or failure_of(report)[0] == "changed"
        assert report.outcome is not Outcome.DONE or not leftovers(tmp_path)


# -- faults that end in a clear error


async def test_a_flipped_byte(tmp_path: Path) -> None:
    repo = both()
    specs = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        hub.faults.add(FlipByte())
        for spec, report in zip(specs, await bench.whole(specs), strict=True):
            code, text = failure_of(report)
            assert code == "verification" and spec.path in text and spec.digest in text
            assert report.failure is not None and report.failure.retryable
        assert nothing_published(tmp_path, [spec.path for spec in specs])
        hub.faults.clear()
        assert {report.outcome for report in await bench.whole(specs)} == {Outcome.DONE}


async def test_a_flipped_byte_in_ranges(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        rule = hub.faults.add(FlipByte())
        assert failure_of(await bench.by_ranges(spec, 8 * MIB))[0] == "verification"
        hub.faults.remove(rule)
        assert (await bench.run(UnitKind.OPEN, spec)).done == ()
        assert (await bench.by_ranges(spec, 8 * MIB)).outcome is Outcome.DONE
    assert same(tmp_path / spec.path, BIG)


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("content", [SMALL, BIG], ids=["small", "big"])
async def test_an_html_page_names_its_title(tmp_path: Path, content: ContentLike, sized: bool) -> None:
    async with FaultOrigin({"a": content}) as web, engine(web_job(tmp_path)) as bench:
        web.faults.add(HtmlPage())
        (report,) = await bench.whole([web_spec(web.url_of("a"), content, sized=sized, digested=False)])
        code, text = failure_of(report)
        assert code == "protocol" and "Sign in" in text
        assert nothing_published(tmp_path, ["file.bin"])


async def test_a_json_error_where_the_size_is_unknown(tmp_path: Path) -> None:
    error = OriginFile(content=b'{"error": "quota exceeded"}', content_type="application/json")
    data = OriginFile(content=b'{"vocabulary": [1, 2, 3]}', content_type="application/json")
    async with FaultOrigin({"e": error, "d": data}) as web, engine(web_job(tmp_path)) as bench:
        (report,) = await bench.whole([web_spec(web.url_of("e"), b"", path="weights.bin", sized=False, digested=False)])
        code, text = failure_of(report)
        assert code == "protocol" and "quota exceeded" in text
        for path, name in (("vocab", "d"), ("error.json", "e")):
            spec = web_spec(web.url_of(name), b"", path=path, sized=False, digested=False)
            (report,) = await bench.whole([spec])
            assert report.outcome is Outcome.DONE, report.failure


@pytest.mark.parametrize("size", [0, 1000, BIG.size - 1, BIG.size + 1])
async def test_a_file_of_another_size(tmp_path: Path, size: int) -> None:
    async with FaultOrigin({"a": BIG}) as web, engine(web_job(tmp_path)) as bench:
        web.faults.add(WrongSize(size))
        (report,) = await bench.whole([web_spec(web.url_of("a"), BIG, digested=False)])
        code, text = failure_of(report)
        assert code == "protocol" and "file.bin" in text
        assert nothing_published(tmp_path, ["file.bin"])


@pytest.mark.parametrize("extra", [-1, 1])
async def test_a_body_of_another_size_than_the_file_without_a_length(tmp_path: Path, extra: int) -> None:
    async with FaultOrigin({"a": SMALL}) as web, engine(web_job(tmp_path)) as bench:
        web.faults.add(WrongSize(SMALL.size + extra))
        web.faults.add(NoContentLength())
        (report,) = await bench.whole([web_spec(web.url_of("a"), SMALL, digested=False)])
        assert failure_of(report)[0] == ("truncated" if extra < 0 else "protocol")


@pytest.mark.parametrize("content", [SMALL, BIG], ids=["small", "big"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Status(status=503), "http-status"),
        (DropConnection(), "connect"),
        (CutBody(after=0), "truncated"),
        (WrongContentRange(), "protocol"),
        (RedirectLoop(), "redirect"),
    ],
    ids=["503", "reset", "cut", "content-range", "redirect loop"],
)
async def test_a_fault_that_stays(tmp_path: Path, content: ContentLike, fault: object, code: str) -> None:
    async with FaultOrigin({"a": content}) as web, engine(web_job(tmp_path), transient_retries=3) as bench:
        web.faults.add(fault)  # type: ignore[arg-type]
        (report,) = await bench.whole([web_spec(web.url_of("a"), content)])
        if isinstance(fault, WrongContentRange) and content is SMALL:
            assert report.outcome is Outcome.DONE, "small files are asked for as a whole"
            return
        found, text = failure_of(report)
        assert found == code and text
        assert nothing_published(tmp_path, ["file.bin"])
        assert len(web.log.records) <= 70


async def test_retries_are_counted_without_progress_only(tmp_path: Path) -> None:
    async with FaultOrigin({"a": SMALL}) as web, engine(web_job(tmp_path), transient_retries=3) as bench:
        web.faults.add(Status(status=503))
        await bench.whole([web_spec(web.url_of("a"), SMALL)])
        assert len(web.log.records) == 4


@pytest.mark.parametrize(
    ("gated", "private", "token", "code", "says"),
    [
        ("manual", False, "", "access-denied", "/acme/closed"),
        ("auto", False, TOKEN, "access-denied", "ask for access at"),
        (False, True, "", "not-found", "private"),
    ],
)
async def test_a_closed_repo(tmp_path: Path, gated: object, private: bool, token: str, code: str, says: str) -> None:
    repo = HubRepo("acme/closed", {"model.safetensors": BIG, "small.txt": b"s"}, gated=gated, private=private)  # type: ignore[arg-type]
    async with (
        StandInHub([repo], tokens=[TOKEN]) as hub,
        engine(hub_job([hub.url], repo, tmp_path), token=token) as bench,
    ):
        for report in await bench.whole(hub_specs(repo)):
            found, text = failure_of(report)
            assert found == code and says in text
            assert TOKEN not in text
            assert report.failure is not None and not report.failure.retryable
        assert hub.log.count(kind="resolve") == 2, "a refusal is final"


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    async with FaultOrigin({}) as web, engine(web_job(tmp_path)) as bench:
        (report,) = await bench.whole([web_spec(web.url_of("none"), SMALL)])
        code, text = failure_of(report)
        assert code == "not-found" and "file.bin" in text
        assert len(web.log.records) == 1


async def test_nobody_there(tmp_path: Path) -> None:
    async with engine(web_job(tmp_path), transient_retries=2) as bench:
        (report,) = await bench.whole([web_spec("http://127.0.0.1:1/a", SMALL)])
        assert failure_of(report)[0] == "connect"


@pytest.mark.parametrize(
    "url", ["ftp://host/a", "http://user:secret@host/a", "http://0x7f.1/a", "/path/without/endpoint"]
)
async def test_urls_that_are_refused(tmp_path: Path, url: str) -> None:
    async with engine(web_job(tmp_path)) as bench:
        for content in (SMALL, BIG):
            (report,) = await bench.whole([web_spec(url, content)])
            code, text = failure_of(report)
            assert code in ("refused", "usage") and "secret" not in text


async def test_the_token_never_reaches_the_cdn_whatever_happens(tmp_path: Path) -> None:
    repo = both()
    async with StandInHub([repo], tokens=[TOKEN], seed=5) as hub:
        hub.faults.add(Status(status=503), fraction=0.2)
        hub.faults.add(ExpireUrl(after_uses=3))
        async with engine(hub_job([hub.url], repo, tmp_path), token=TOKEN) as bench:
            await bench.whole(hub_specs(repo))
        assert hub.log.count(server="cdn") > 0
        assert all("authorization" not in record.headers for record in hub.log.where(server="cdn"))
        assert all(TOKEN not in record.target for record in hub.log.records)
