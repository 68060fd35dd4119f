"""Other downloaders in place of our connections: the same files, the same checks, and our own engine where they fail."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.agent.engine.pieces import MIB
from shoal.common import logs
from shoal.common.records import Outcome, UnitKind
from support.contents import SyntheticFile
from support.engine import engine, hub_job, hub_specs, leftovers, same
from support.faults import FlipByte, Status
from support.hub import StandInHub
from support.hub_repo import HubRepo

BIG = SyntheticFile(24 * MIB, seed=1)
TOKEN = "hf_" + "A1b2C3d4" * 4
BACKENDS = ["hf_transfer", "hub"]


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream=stream)
    yield stream
    logs.configure()


def repo_of(*, private: bool = False) -> HubRepo:
    files = {"weights/model.safetensors": BIG, "config.json": b"{}"}
    return HubRepo("acme/backend", files, private=private, readers=[TOKEN] if private else [])


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_private_repo(tmp_path: Path, backend: str) -> None:
    repo = repo_of(private=True)
    specs = hub_specs(repo)
    async with StandInHub([repo], tokens=[TOKEN]) as hub:
        async with engine(hub_job([hub.url], repo, tmp_path), token=TOKEN, backend=backend) as bench:
            reports = await bench.whole(specs)
            assert [report.outcome for report in reports] == [Outcome.DONE] * 2, reports
            assert sum(report.fetched for report in reports) == BIG.size + 2
            bench.objects = specs
            assert (await bench.run(UnitKind.FINALIZE)).outcome is Outcome.DONE
        cdn = hub.log.where(server="cdn")
        assert cdn and all("authorization" not in record.headers for record in cdn)
        assert not any("shoal" in record.headers.get("user-agent", "") for record in cdn if record.body_bytes > MIB)
    assert same(tmp_path / "weights/model.safetensors", BIG)
    assert leftovers(tmp_path) == [] and [path.name for path in (tmp_path / ".shoal").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_by_open_and_publish(tmp_path: Path, backend: str) -> None:
    repo = repo_of()
    spec = hub_specs(repo)[0]
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), backend=backend) as bench:
        opened = await bench.run(UnitKind.OPEN, spec)
        assert opened.done == ((0, BIG.size),) and opened.fetched == BIG.size
        published = await bench.run(UnitKind.PUBLISH, spec)
        assert (published.outcome, published.digest) == (Outcome.DONE, spec.digest)
    assert same(tmp_path / spec.path, BIG)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_wrong_bytes_are_found(tmp_path: Path, backend: str) -> None:
    repo = repo_of()
    spec = hub_specs(repo)[0]
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), backend=backend) as bench:
        rule = hub.faults.add(FlipByte())
        (report,) = await bench.whole([spec])
        assert report.failure is not None and report.failure.code == "verification"
        assert not (tmp_path / spec.path).exists()
        hub.faults.remove(rule)
        (report,) = await bench.whole([spec])
        assert report.outcome is Outcome.DONE
    assert same(tmp_path / spec.path, BIG)


@pytest.mark.parametrize(("backend", "module"), [("hf_transfer", "hf_transfer"), ("hub", "huggingface_hub")])
async def test_without_the_package_our_own_engine_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: io.StringIO, backend: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    repo = HubRepo("acme/backend", {"a.safetensors": BIG, "b.safetensors": SyntheticFile(3 * MIB, seed=2)})
    specs = hub_specs(repo)
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), backend=backend) as bench:
        assert {report.outcome for report in await bench.whole(specs)} == {Outcome.DONE}
    assert all(same(tmp_path / spec.path, repo.file(spec.path).content) for spec in specs)
    assert logged.getvalue().count("backend.failed") == 1


async def test_a_backend_that_fails(tmp_path: Path, logged: io.StringIO) -> None:
    repo = repo_of()
    async with StandInHub([repo]) as hub, engine(hub_job([hub.url], repo, tmp_path), backend="hf_transfer") as bench:
        # The first request to the CDN is our own, of the resolve; the next ones are hf_transfer's.
        hub.faults.add(Status(status=500), server="cdn", skip=1, times=8)
        assert {report.outcome for report in await bench.whole(hub_specs(repo))} == {Outcome.DONE}
    assert same(tmp_path / "weights/model.safetensors", BIG)
    assert leftovers(tmp_path) == []
    said = logged.getvalue()
    assert "backend.failed" in said and hub.cdn_url in said
    assert said.count("Signature=") == said.count("Signature=***") > 0


async def test_drain_does_not_wait_for_a_backend(tmp_path: Path) -> None:
    repo = repo_of()
    spec = hub_specs(repo)[0]
    async with StandInHub([repo]) as hub:
        hub.faults.connection_rate = MIB
        async with engine(hub_job([hub.url], repo, tmp_path), backend="hf_transfer", connections_per_host=2) as bench:
            ref = bench.start(UnitKind.WHOLE, spec)
            await bench.until_asked(hub.log, kind="cdn")
            await bench.worker.drain(1.0)
            assert bench.of(ref)[-1].outcome is Outcome.RETURNED
    assert not (tmp_path / spec.path).exists()
