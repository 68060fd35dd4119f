"""The range engine against the stand-in servers: the normal ways of each unit."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path

import pytest

from shoal.agent.engine.pieces import MIB
from shoal.common.intervals import IntervalSet
from shoal.common.policy import Policy, RulesInForce
from shoal.common.records import HostBudget, JobSpec, Layout, ObjectSpec, OriginKind, Outcome, UnitKind
from support.contents import SyntheticFile
from support.engine import Bench, engine, hub_job, hub_specs, leftovers, open_files, poll, same, web_job, web_spec
from support.faults import Drip, NoContentLength, RateLimited
from support.hub import StandInHub
from support.hub_repo import HubRepo
from support.origin import FaultOrigin, OriginFile

BIG = SyntheticFile(24 * MIB, seed=1)
TOKEN = "hf_" + "A1b2C3d4" * 4


def small_repo() -> HubRepo:
    files = {f"part-{n:02}.bin": SyntheticFile(100_000 + n, seed=n) for n in range(30)}
    return HubRepo("acme/tiny", {"config.json": b'{"a": 1}', "empty.txt": b"", "model.safetensors": BIG, **files})


async def test_a_repo_comes_down_with_one_resolve_per_file(tmp_path: Path) -> None:
    repo = small_repo()
    specs = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        reports = await bench.whole(specs)
        assert [report.outcome for report in reports] == [Outcome.DONE] * len(specs)
        for spec, report in zip(specs, reports, strict=True):
            assert same(tmp_path / spec.path, repo.file(spec.path).content)
            assert (report.size, report.digest, report.etag) == (spec.size, spec.digest, spec.etag)
            assert report.fetched == spec.size and not report.skipped
        fetched = [spec for spec in specs if spec.size]
        assert hub.log.count(kind="resolve") == len(fetched)
        assert hub.log.count(method="HEAD") == 0
        assert hub.log.count(kind="cdn", path="model.safetensors") > 4, "a big file comes by ranges"
        assert hub.log.records.connections <= 2 * 16 + 2
        bench.objects = specs
        assert (await bench.run(UnitKind.FINALIZE)).outcome is Outcome.DONE
        assert leftovers(tmp_path) == []

        hub.log.clear()
        await bench.run(UnitKind.PREPARE)
        again = await bench.whole(specs)
        assert all(report.skipped and report.outcome is Outcome.DONE for report in again)
        assert len(hub.log.records) == 0


async def test_the_hub_cache_layout(tmp_path: Path) -> None:
    repo = small_repo()
    specs = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path, layout=Layout.HUB_CACHE)) as bench:
        assert {report.outcome for report in await bench.whole(specs)} == {Outcome.DONE}
        bench.objects = specs
        assert (await bench.run(UnitKind.FINALIZE)).outcome is Outcome.DONE
    snapshot = tmp_path / "models--acme--tiny" / "snapshots" / repo.sha
    assert same(snapshot / "model.safetensors", BIG)


async def test_ranges_of_a_big_file(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        report = await bench.by_ranges(spec, 7 * MIB)
        assert (report.outcome, report.digest, report.size) == (Outcome.DONE, spec.digest, spec.size)
        assert hub.log.count(kind="resolve") == 1
        assert hub.log.bytes_served <= BIG.size + 2 * MIB
        done = IntervalSet()
        for told in bench.reports:
            for start, stop in told.done:
                assert done.add(start, stop) == stop - start, "told twice"
        assert list(done) == [(0, BIG.size)]
        assert sum(told.fetched for told in bench.reports) == BIG.size
    assert same(tmp_path / spec.path, BIG)


async def test_open_tells_what_is_there_and_only_the_rest_is_fetched(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub:
        async with engine(hub_job([hub.url], repo, tmp_path)) as bench:
            await bench.run(UnitKind.OPEN, spec)
            assert (await bench.run(UnitKind.RANGE, spec, 4 * MIB, 9 * MIB)).done == ((4 * MIB, 9 * MIB),)
        assert leftovers(tmp_path)
        hub.log.clear()
        async with engine(hub_job([hub.url], repo, tmp_path)) as bench:
            assert (await bench.run(UnitKind.OPEN, spec)).done == ((4 * MIB, 9 * MIB),)
            assert (await bench.run(UnitKind.RANGE, spec, 4 * MIB, 8 * MIB)).done == ((4 * MIB, 8 * MIB),)
            assert hub.log.bytes_served == 0
            (report,) = await bench.whole([spec])
            assert report.outcome is Outcome.DONE and report.fetched == BIG.size - 5 * MIB
    assert same(tmp_path / spec.path, BIG)


async def test_two_agents_on_one_folder(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    half = BIG.size // 2
    async with StandInHub([repo]) as hub:
        job = hub_job([hub.url], repo, tmp_path)
        async with engine(job) as one, engine(job, prepare=False, agent_id="agent-2") as two:
            await one.run(UnitKind.OPEN, spec)
            first, second = one.start(UnitKind.RANGE, spec, 0, half), two.start(UnitKind.RANGE, spec, half, BIG.size)
            assert (await one.last(first)).outcome is (await two.last(second)).outcome is Outcome.DONE
            report = await one.run(UnitKind.PUBLISH, spec)
            assert (report.outcome, report.digest) == (Outcome.DONE, spec.digest)
    assert same(tmp_path / spec.path, BIG)


async def test_publish_refuses_what_is_not_complete(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        await bench.run(UnitKind.OPEN, spec)
        await bench.run(UnitKind.RANGE, spec, 0, MIB)
        report = await bench.run(UnitKind.PUBLISH, spec)
        assert report.failure is not None and report.failure.code == "verification"
        assert not (tmp_path / spec.path).exists()


async def test_an_agent_that_does_not_see_the_folder(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with engine(hub_job(["http://127.0.0.1:9"], repo, tmp_path), prepare=False) as bench:
        (whole,) = await bench.whole([spec])
        ranged = await bench.run(UnitKind.RANGE, spec, 0, MIB)
        for report in (whole, ranged):
            assert report.failure is not None and report.failure.code == "not-shared"


async def test_the_token_goes_to_the_hub_and_nowhere_else(tmp_path: Path) -> None:
    repo = HubRepo("acme/secret", {"config.json": b"{}", "model.safetensors": BIG}, private=True, readers=[TOKEN])
    async with StandInHub([repo], tokens=[TOKEN]) as hub:
        async with engine(hub_job([hub.url], repo, tmp_path), token=TOKEN) as bench:
            assert {report.outcome for report in await bench.whole(hub_specs(repo))} == {Outcome.DONE}
        assert all("authorization" not in record.headers for record in hub.log.where(server="cdn"))
        assert all("authorization" in record.headers for record in hub.log.where(server="hub"))


async def test_endpoints_are_tried_in_order(tmp_path: Path) -> None:
    repo = small_repo()
    specs = hub_specs(repo)
    async with StandInHub([HubRepo("acme/other", {"x": b"x"})]) as mirror, StandInHub([repo]) as hub:
        # The first answers nothing, the second does not have the repo, the third has it.
        job = hub_job(["http://127.0.0.1:1", mirror.url, hub.url], repo, tmp_path)
        async with engine(job) as bench:
            assert {report.outcome for report in await bench.whole(specs)} == {Outcome.DONE}
            assert (
                mirror.log.count(kind="resolve") == hub.log.count(kind="resolve") == len([s for s in specs if s.size])
            )
    assert same(tmp_path / "model.safetensors", BIG)


async def test_an_endpoint_below_a_path_prefix(tmp_path: Path) -> None:
    repo = HubRepo("acme/tiny", {"config.json": b"{}", "model.safetensors": BIG})
    async with StandInHub([repo], prefix="/hf/mirror") as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        assert {report.outcome for report in await bench.whole(hub_specs(repo))} == {Outcome.DONE}


async def test_files_that_are_given_only_in_ranges(tmp_path: Path) -> None:
    repo = HubRepo("acme/huge", {"model.safetensors": BIG}, range_required=["model.safetensors"])
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        (report,) = await bench.whole(hub_specs(repo))
        assert report.outcome is Outcome.DONE


@pytest.mark.parametrize("size", [0, 5, 3 * MIB, 24 * MIB])
@pytest.mark.parametrize("chunked", [False, True])
async def test_unknown_size(tmp_path: Path, size: int, chunked: bool) -> None:
    content = SyntheticFile(size, seed=3)
    async with FaultOrigin({"a": content}) as web, engine(web_job(tmp_path)) as bench:
        if chunked:
            web.faults.add(NoContentLength())
        (report,) = await bench.whole([web_spec(web.url_of("a"), content, sized=False, digested=False)])
        assert report.outcome is Outcome.DONE, report.failure
        assert report.size == size and report.digest.startswith("sha256:")
    assert same(tmp_path / "file.bin", content)


async def test_chunked_bodies_of_known_size(tmp_path: Path) -> None:
    files = {"small": SyntheticFile(5000, seed=1), "big": BIG}
    async with FaultOrigin(dict(files)) as web, engine(web_job(tmp_path)) as bench:
        web.faults.add(NoContentLength())
        for number, (name, content) in enumerate(files.items()):
            spec = web_spec(web.url_of(name), content, path=name)
            (report,) = await bench.whole([ObjectSpec(**{**_fields(spec), "object_id": number})])
            assert report.outcome is Outcome.DONE, report.failure
            assert same(tmp_path / name, content)


def _fields(spec: ObjectSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in ("object_id", "path", "size", "digest", "etag", "url")}


async def test_files_of_this_machine(tmp_path: Path) -> None:
    source, to = tmp_path / "source dir", tmp_path / "to"
    source.mkdir()
    contents = {"small.txt": b"hello", "empty": b"", "big.bin": os.urandom(9 * MIB + 123)}
    specs: list[ObjectSpec] = []
    for number, (name, data) in enumerate(contents.items()):
        (source / name).write_bytes(data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        specs.append(
            ObjectSpec(object_id=number, path=name, size=len(data), digest=digest, url=(source / name).as_uri())
        )  # fmt: skip
    job = JobSpec(job_id="f", source="file:///x", origin=OriginKind.FILE, layout=Layout.FOLDER, destination=str(to))
    async with engine(job) as bench:
        assert {report.outcome for report in await bench.whole(specs)} == {Outcome.DONE}
        ranged = ObjectSpec(**{**_fields(specs[2]), "object_id": 9, "path": "ranged.bin"})  # type: ignore[arg-type]
        assert (await bench.by_ranges(ranged, 4 * MIB)).outcome is Outcome.DONE
        missing = ObjectSpec(object_id=10, path="none", size=5, url=(source / "none").as_uri())
        (report,) = await bench.whole([missing])
        assert report.failure is not None and report.failure.code == "not-found"
        changed = ObjectSpec(**{**_fields(specs[2]), "object_id": 11, "path": "c.bin", "size": 5 * MIB})  # type: ignore[arg-type]
        (report,) = await bench.whole([changed])
        assert report.failure is not None and report.failure.code == "changed"
    for name, data in contents.items():
        assert same(to / name, data)
    assert same(to / "ranged.bin", contents["big.bin"])


async def test_what_was_fetched_of_files_of_this_machine_is_told_to_the_byte(tmp_path: Path) -> None:
    sizes = (0, 1, 4 * MIB - 1, 4 * MIB, 33 * MIB + 5)
    specs: list[ObjectSpec] = []
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(os.urandom(size))
        specs.append(ObjectSpec(object_id=number, path=str(number), size=size, url=(tmp_path / str(number)).as_uri()))
    to = str(tmp_path / "to")
    job = JobSpec(job_id="f", source="file:///x", origin=OriginKind.FILE, layout=Layout.FOLDER, destination=to)
    async with engine(job) as bench:
        await bench.run(UnitKind.OPEN, specs[4])
        assert (await bench.run(UnitKind.RANGE, specs[4], 4 * MIB, 20 * MIB)).outcome is Outcome.DONE
        assert sum(report.fetched for report in bench.reports) == 16 * MIB
    async with engine(job) as bench:
        assert (await bench.run(UnitKind.OPEN, specs[4])).done == ((4 * MIB, 20 * MIB),)
        assert {report.outcome for report in await bench.whole(specs)} == {Outcome.DONE}
        assert sum(report.fetched for report in bench.reports) == sum(sizes) - 16 * MIB
    async with engine(job) as bench:
        assert all(report.skipped for report in await bench.whole(specs))
        assert sum(report.fetched for report in bench.reports) == 0


async def test_rules_that_change_hold_for_what_is_taken_up_from_then_on(tmp_path: Path) -> None:
    repo = HubRepo("acme/tiny", {"a.bin": b"one", "b.bin": SyntheticFile(3 * MIB, seed=5), "c.bin": b"three"})
    rules = RulesInForce()
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), rules=rules) as bench:
        one, two, three = hub_specs(repo)
        (report,) = await bench.whole([one])
        assert report.outcome is Outcome.DONE
        for policy, spec, word in (
            (Policy(object_bytes_max=MIB), two, "max_object_size"),
            (Policy(deny=("acme/*",)), two, "security.deny"),
            (Policy(https_only=True), three, "https"),
        ):
            rules.policy = policy
            hub.log.clear()
            (report,) = await bench.whole([spec])
            assert report.failure is not None and report.failure.code == "refused", report
            assert word in report.failure.text
            assert not hub.log.records
        rules.policy = Policy()
        assert {report.outcome for report in await bench.whole([two, three])} == {Outcome.DONE}


# -- leases that end otherwise


async def arrived(bench: Bench, count: int) -> None:
    """Wait until so many bytes of all leases are on the disk."""
    await poll(lambda: sum(progress.arrived for progress in bench.worker.progress()) >= count)


async def test_a_revoked_lease_is_silent_and_leaves_no_request(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        hub.faults.connection_rate = 1 * MIB
        await bench.run(UnitKind.OPEN, spec)
        ref = bench.start(UnitKind.RANGE, spec, 0, BIG.size)
        await arrived(bench, MIB)
        bench.worker.stop(ref)
        assert bench.worker.held == ()
        reports = [report for report in bench.of(ref) if report.outcome is not Outcome.PARTIAL]
        assert reports == []
        await asyncio.to_thread(hub.log.wait_for, lambda log: all(r.ended_at for r in log.records), timeout_s=30)


async def test_drain_gives_back_what_came(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG, "b.bin": SyntheticFile(2 * MIB, seed=8)})
    spec, other = hub_specs(repo)
    async with StandInHub([repo]) as hub:
        async with engine(hub_job([hub.url], repo, tmp_path)) as bench:
            hub.faults.connection_rate = 1 * MIB
            await bench.run(UnitKind.OPEN, spec)
            ref = bench.start(UnitKind.RANGE, spec, 0, BIG.size)
            await arrived(bench, MIB)
            whole = bench.start(UnitKind.WHOLE, other)
            await bench.worker.drain(5.0)
            assert bench.worker.held == ()
            told = IntervalSet()
            for report in bench.of(ref):
                for start, stop in report.done:
                    told.add(start, stop)
            assert bench.of(ref)[-1].outcome is Outcome.RETURNED and 0 < told.total < BIG.size
            assert bench.of(whole)[-1].outcome is Outcome.RETURNED
            late = bench.start(UnitKind.WHOLE, other)
            assert bench.of(late)[-1].outcome is Outcome.RETURNED
        hub.faults.clear()
        async with engine(hub_job([hub.url], repo, tmp_path)) as bench:
            assert IntervalSet((await bench.run(UnitKind.OPEN, spec)).done) == told, "what was told is on the disk"
            assert (await bench.by_ranges(spec, BIG.size)).outcome is Outcome.DONE
    assert same(tmp_path / spec.path, BIG)


async def test_yield_releases_what_has_not_been_started(tmp_path: Path) -> None:
    big = SyntheticFile(64 * MIB, seed=4)
    repo = HubRepo("acme/big", {"model.safetensors": big})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), connections_per_host=2) as bench:
        hub.faults.connection_rate = 4 * MIB
        await bench.run(UnitKind.OPEN, spec)
        ref = bench.start(UnitKind.RANGE, spec, 0, big.size)
        await arrived(bench, MIB)
        bench.worker.give_back(ref)
        released = IntervalSet(interval for report in bench.of(ref) for interval in report.released)
        assert released.total > big.size // 2
        hub.faults.clear()
        assert (await bench.last(ref)).outcome is Outcome.DONE
        done = IntervalSet(interval for report in bench.of(ref) for interval in report.done)
        assert done.total + released.total == big.size
        for start, stop in done:
            assert not list(released.present(start, stop))
        for start, stop in released:
            other = bench.start(UnitKind.RANGE, spec, start, stop)
            assert (await bench.last(other)).outcome is Outcome.DONE
        assert (await bench.run(UnitKind.PUBLISH, spec)).outcome is Outcome.DONE
    assert same(tmp_path / spec.path, big)


async def test_nothing_is_written_after_the_deadline(tmp_path: Path) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        hub.faults.connection_rate = 1 * MIB
        await bench.run(UnitKind.OPEN, spec)
        ref = bench.start(UnitKind.RANGE, spec, 0, BIG.size)
        await arrived(bench, MIB)
        bench.deadline_s = 0.0
        hub.faults.clear()
        await poll(lambda: not bench.worker.held)
        said = len(bench.reports)
        assert all(report.outcome is Outcome.PARTIAL for report in bench.of(ref))
        bench.deadline_s = float("inf")
        opened = await bench.run(UnitKind.OPEN, spec)
        assert 0 < IntervalSet(opened.done).total < BIG.size
        assert len(bench.reports) == said + 1


async def test_a_blocked_host_is_not_asked(tmp_path: Path) -> None:
    content = SyntheticFile(50_000, seed=1)
    async with FaultOrigin({"a": content}) as web, engine(web_job(tmp_path)) as bench:
        host = web.url.partition("//")[2]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        bench.worker.throttle.set_budgets([HostBudget(host=host, blocked_s=0.5)], began_s)
        (report,) = await bench.whole([web_spec(web.url_of("a"), content)])
        assert report.outcome is Outcome.DONE
        assert loop.time() - began_s >= 0.5
        assert web.log.records[0].started_at - began_s >= 0.5


async def test_a_throttled_host_is_observed_and_not_counted_as_failure(tmp_path: Path) -> None:
    content = SyntheticFile(50_000, seed=1)
    async with FaultOrigin({"a": content}) as web, engine(web_job(tmp_path), transient_retries=0) as bench:
        web.faults.add(RateLimited(reset_s=1), times=2)
        urgent: list[int] = []
        bench.worker.throttle.urgent = lambda: urgent.append(1)
        (report,) = await bench.whole([web_spec(web.url_of("a"), content)])
        assert report.outcome is Outcome.DONE and len(urgent) >= 2
        (observed,) = bench.worker.throttle.take_observations()
        assert (observed.throttled, observed.ok, observed.errors) == (2, 1, 0) and observed.retry_after_s >= 1


async def test_rate_limit_of_the_agent(tmp_path: Path) -> None:
    content = SyntheticFile(3 * MIB, seed=1)
    async with FaultOrigin({"a": content}) as web, engine(web_job(tmp_path), rate_limit=MIB) as bench:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        (report,) = await bench.whole([web_spec(web.url_of("a"), content)])
        assert report.outcome is Outcome.DONE
        assert loop.time() - began_s >= 1.9, "one second of burst, then two seconds' worth"


async def test_memory_is_bounded_by_the_pool(tmp_path: Path) -> None:
    repo = HubRepo("acme/many", {f"f{n}.bin": SyntheticFile(MIB, seed=n) for n in range(40)} | {"big.bin": BIG})
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), memory_limit=3 * MIB) as bench:
        assert {report.outcome for report in await bench.whole(hub_specs(repo))} == {Outcome.DONE}


async def test_nothing_is_left_open(tmp_path: Path) -> None:
    repo = small_repo()
    specs = hub_specs(repo)
    async with StandInHub([repo]) as hub:
        async with engine(hub_job([hub.url], repo, tmp_path / "0")) as bench:
            await bench.whole(specs)
        before = open_files(), len(asyncio.all_tasks())
        for turn in range(1, 4):
            hub.faults.connection_rate = MIB
            async with engine(hub_job([hub.url], repo, tmp_path / str(turn))) as bench:
                for spec in specs:
                    bench.start(UnitKind.WHOLE, spec)
                await arrived(bench, MIB)
                if turn == 2:
                    await bench.worker.drain(0.1)
            hub.faults.clear()
        # The servers' ends close a moment later.
        await poll(lambda: open_files() <= before[0] and len(asyncio.all_tasks()) <= before[1])


async def test_a_dripping_connection_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    content = SyntheticFile(48 * MIB, seed=5)
    async with FaultOrigin({"a": OriginFile(content=content, etag='"v1"')}) as web:
        web.faults.connection_rate = 4 * MIB
        web.faults.add(Drip(), times=1, skip=2)
        async with engine(web_job(tmp_path), connections_per_host=6) as bench:
            (report,) = await bench.whole([web_spec(web.url_of("a"), content)], timeout_s=60)
            assert report.outcome is Outcome.DONE
    assert same(tmp_path / "file.bin", content)


async def test_kill_9_costs_little(tmp_path: Path) -> None:
    """What a process that is gone without a word had brought is found again by the next: all but what was under way."""
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    program = (
        "import asyncio, sys; sys.path.insert(0, sys.argv[1])\n"
        "from support.engine import fetch_for_ever\n"
        "asyncio.run(fetch_for_ever(*sys.argv[2:]))\n"
    )
    async with StandInHub([repo]) as hub:
        hub.faults.total_rate = (
            4 * MIB
        )  # what the kernel holds of a process that gets no turn for a second is lost, too
        tests = str(Path(__file__).parent.parent)
        command = (sys.executable, "-c", program, tests, hub.url, repo.sha, str(BIG.size), spec.digest, str(tmp_path))
        child = await asyncio.create_subprocess_exec(*command)
        await asyncio.to_thread(hub.log.wait_for, lambda log: log.bytes_served > BIG.size // 2, timeout_s=60)
        child.kill()
        await child.wait()
        served = hub.log.bytes_served
        hub.faults.clear()
        hub.log.clear()
        async with engine(hub_job([hub.url], repo, tmp_path)) as bench:
            (report,) = await bench.whole([spec])
            assert report.outcome is Outcome.DONE
        assert served + report.fetched - BIG.size < 16 * MIB / 2, "less than half a MiB per connection"
    assert same(tmp_path / spec.path, BIG)


async def test_a_job_that_is_heard_of_no_more_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = HubRepo("acme/big", {"model.safetensors": BIG})
    (spec,) = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path)) as bench:
        await bench.run(UnitKind.OPEN, spec)
        held = open_files()
        monkeypatch.setattr("shoal.agent.engine.jobs.JOB_IDLE_S", 0.2)
        await poll(lambda: open_files() <= held - 3)  # the folder, the partial file, its chunk map
        assert (await bench.by_ranges(spec, BIG.size)).outcome is Outcome.DONE
    assert same(tmp_path / spec.path, BIG)
