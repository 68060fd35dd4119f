"""Sources against the stand-in Hub and a plain web server, by the real HTTP client."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from shoal.common.errors import (
    AccessDenied,
    ConnectFailed,
    HttpStatus,
    NotFound,
    ProtocolViolation,
    TlsFailed,
    Truncated,
    Unauthenticated,
)
from shoal.common.http import HttpClient, HttpLimits, TlsOptions
from shoal.common.records import ObjectSpec
from shoal.common.secrets import Secret
from shoal.common.selection import Selection
from shoal.common.uri import parse_uri
from shoal.coordinator.sources import Source, SourceContext, SourceRequest, open_source
from shoal.coordinator.sources.asking import ATTEMPTS
from support.contents import SyntheticFile
from support.faults import CutBody, DropConnection, HtmlPage, IgnoreRange, NoContentLength, RateLimited, Status
from support.hub import UNREACHABLE_URL, StandInHub
from support.hub_repo import HubRepo
from support.origin import FaultOrigin, OriginFile

FILES: Mapping[str, Any] = {
    "README.md": b"# tiny\n",
    "empty": b"",
    "data/train 1%.parquet": SyntheticFile(5_000_000, seed=1),
    "data/é.txt": b"accent",
    "model.safetensors": SyntheticFile(20_000_000, seed=2),
}
TOKEN = "hf_TestTokenOfAReader0123456789"
ALL_KINDS = ("info", "tree", "unknown", "file")


class Planner:
    """Opens sources against the given endpoints; waits are noted, not made."""

    def __init__(self, client: HttpClient, endpoints: tuple[str, ...], token: str | None) -> None:
        self.waits: list[float] = []
        self._context = SourceContext(
            http=client,
            hub_endpoints=endpoints,
            hub_token=lambda: Secret(token) if token else None,
            clock=time.time,
            sleep=self._sleep,
            rng=random.Random(7),
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def open(self, uri: str, **selection: tuple[str, ...]) -> Source:
        return open_source(SourceRequest(uri=parse_uri(uri), selection=Selection(**selection)), self._context)

    async def plan(self, uri: str, **selection: tuple[str, ...]) -> dict[str, ObjectSpec]:
        source = self.open(uri, **selection)
        await source.resolve()
        return {spec.path: spec async for page in source.pages() for spec in page}


@asynccontextmanager
async def planner(*endpoints: str, token: str | None = None, ca_file: object = "") -> AsyncIterator[Planner]:
    limits = HttpLimits(connections_per_host=2, connect_timeout_s=60, read_timeout_s=60)
    async with HttpClient(limits=limits, user_agent="shoal-test", tls=TlsOptions(ca_bundle=str(ca_file))) as client:
        yield Planner(client, endpoints, token)


def tiny(**options: Any) -> HubRepo:
    return HubRepo("acme/tiny", FILES, **options)


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
async def test_the_manifest_is_what_the_hub_client_lists(kind: Any) -> None:
    repo = tiny(kind=kind)
    first = repo.sha
    repo.point("refs/tags/v1")
    repo.commit({"README.md": b"# newer\n", "new.bin": b"new"})
    prefix = "" if kind == "model" else f"{kind}s/"
    async with StandInHub([repo], page_entries=2) as hub, planner(hub.url) as p:
        source = p.open(f"hf://{prefix}acme/tiny@v1")
        resolved = await source.resolve()
        assert (resolved.commit, resolved.revision, resolved.endpoints) == (first, "v1", (hub.url,))
        objects = {spec.path: spec async for page in source.pages() for spec in page}
        assert hub.log.count(kind="info") == 1
        assert hub.log.count(method="HEAD") == hub.log.count(kind="resolve") == hub.log.count(server="cdn") == 0
        assert len(hub.log.records) == 1 + hub.log.count(kind="tree")

        api = HfApi(endpoint=hub.url)
        theirs = await asyncio.to_thread(
            lambda: list(api.list_repo_tree("acme/tiny", revision=first, repo_type=kind, recursive=True))
        )
        expected = {entry.path: entry for entry in theirs if isinstance(entry, RepoFile)}
        assert objects.keys() == expected.keys() == FILES.keys()
        for path, spec in objects.items():
            entry = expected[path]
            assert spec.size == entry.size
            assert spec.etag == (entry.lfs.sha256 if entry.lfs else entry.blob_id)
            assert spec.digest == (f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git-sha1:{entry.blob_id}")


async def test_the_urls_lead_to_the_files() -> None:
    async with StandInHub([tiny()], prefix="/mirror/hf") as hub, planner(hub.url) as p:
        objects = await p.plan("hf://acme/tiny")
        limits = HttpLimits(connections_per_host=2)
        async with HttpClient(limits=limits, user_agent="shoal-test") as client:
            for spec in objects.values():
                async with await client.request(hub.url + spec.url) as response:
                    assert response.status == 200
                    assert len(await response.read(1 << 26)) == spec.size


async def test_https_with_an_own_authority_below_a_prefix() -> None:
    async with StandInHub([tiny()], prefix="/hf", tls=True, page_entries=1) as hub:
        async with planner(hub.url, ca_file=hub.ca_file) as p:
            assert (await p.plan("hf://acme/tiny")).keys() == FILES.keys()
        async with planner(hub.url) as p:
            with pytest.raises(TlsFailed):
                await p.plan("hf://acme/tiny")


@pytest.mark.parametrize(
    ("uri", "paths"),
    [
        ("hf://acme/tiny/data", {"data/train 1%.parquet", "data/é.txt"}),
        ("hf://acme/tiny/data/train 1%.parquet", {"data/train 1%.parquet"}),
        ("hf://acme/tiny/README.md", {"README.md"}),
    ],
)
async def test_a_path_in_the_uri(uri: str, paths: set[str]) -> None:
    async with StandInHub([tiny()]) as hub, planner(hub.url) as p:
        assert (await p.plan(uri)).keys() == paths


async def test_selection() -> None:
    async with StandInHub([tiny()]) as hub, planner(hub.url) as p:
        assert (await p.plan("hf://acme/tiny", include=("data/", "*.md"), exclude=("*.txt",))).keys() == {
            "README.md",
            "data/train 1%.parquet",
        }
        with pytest.raises(NotFound, match=r"no file matches") as caught:
            await p.plan("hf://acme/tiny", include=("*.gguf",))
        assert "README.md" in caught.value.remedy


# -- refusals ---------------------------------------------------------------------------------------------------------


async def test_what_is_not_there() -> None:
    async with StandInHub([tiny()], tokens=[TOKEN]) as hub:
        async with planner(hub.url) as p:
            with pytest.raises(NotFound, match="HF_TOKEN"):
                await p.plan("hf://acme/nothing")
            with pytest.raises(NotFound, match="no such revision"):
                await p.plan("hf://acme/tiny@v9")
            with pytest.raises(NotFound, match="no such revision"):
                await p.plan(f"hf://acme/tiny@{'0' * 40}")
            with pytest.raises(NotFound, match=r"beside it are .*README\.md"):
                await p.plan("hf://acme/tiny/nothing.bin")
        async with planner(hub.url, token=TOKEN) as p:
            with pytest.raises(NotFound, match="the token may not see it"):
                await p.plan("hf://acme/nothing")


async def test_private_repos_and_tokens() -> None:
    async with StandInHub([tiny(private=True, readers=[TOKEN])]) as hub:
        async with planner(hub.url) as p:
            with pytest.raises(NotFound, match="private"):
                await p.plan("hf://acme/tiny")
        async with planner(hub.url, token=TOKEN) as p:
            assert (await p.plan("hf://acme/tiny")).keys() == FILES.keys()
        async with planner(hub.url, token="hf_AnExpiredToken0123456789") as p:
            with pytest.raises(Unauthenticated) as caught:
                await p.plan("hf://acme/tiny")
            assert "AnExpired" not in str(caught.value)


async def test_gated_listing_is_refused_with_the_page_to_ask_at() -> None:
    async with StandInHub([tiny()]) as hub, planner(hub.url) as p:
        hub.faults.add(GatedTree(), kinds=["tree"])
        with pytest.raises(AccessDenied, match=f"ask for access at {hub.url}/acme/tiny"):
            await p.plan("hf://acme/tiny")


class GatedTree(Status):
    """A Hub that does not even list a gated repo."""

    def on_request(self, head: Any) -> Any:
        from support.http_answer import json_answer

        return json_answer({"error": "gated"}, status=403, headers={"X-Error-Code": "GatedRepo"})


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Status(503), DropConnection(), CutBody()])
async def test_passing_faults(fault: Any) -> None:
    async with StandInHub([tiny()], page_entries=2) as hub, planner(hub.url) as p:
        rule = hub.faults.add(fault, kinds=["info", "tree"], times=2)
        assert (await p.plan("hf://acme/tiny")).keys() == FILES.keys()
        assert rule.hits == 4  # twice for each kind
        assert p.waits


async def test_a_third_of_the_answers_fail() -> None:
    files = {f"f{number:03}": b"x" for number in range(200)}
    async with StandInHub([HubRepo("acme/many", files)], page_entries=5, seed=3) as hub, planner(hub.url) as p:
        rule = hub.faults.add(Status(503), kinds=["info", "tree"], fraction=0.3)
        assert (await p.plan("hf://acme/many")).keys() == files.keys()
        assert rule.hits == len(p.waits) > 3


@pytest.mark.parametrize(
    ("fault", "wait_s"),
    [(RateLimited(reset_s=55, resource="api"), 55), (Status(429, retry_after_s=20), 20), (Status(503, retry_after_s=9), 9)],
)  # fmt: skip
async def test_rate_limits(fault: Any, wait_s: float) -> None:
    async with StandInHub([tiny()]) as hub, planner(hub.url) as p:
        hub.faults.add(fault, kinds=["tree"], times=2)
        assert (await p.plan("hf://acme/tiny")).keys() == FILES.keys()
        assert [wait >= wait_s for wait in p.waits] == [True, True]


@pytest.mark.parametrize(
    ("fault", "cls", "requests"),
    [(Status(500), HttpStatus, ATTEMPTS), (HtmlPage(), ProtocolViolation, 1), (CutBody(), Truncated, ATTEMPTS)],
)
async def test_lasting_faults(fault: Any, cls: type, requests: int) -> None:
    async with StandInHub([tiny()]) as hub, planner(hub.url) as p:
        hub.faults.add(fault, kinds=["info"])
        with pytest.raises(cls):
            await p.plan("hf://acme/tiny")
        assert hub.log.count(kind="info") == requests


async def test_fail_over() -> None:
    other = HubRepo("acme/other", {"x": b"x"})
    async with (
        StandInHub([other]) as poor,
        StandInHub([tiny()], page_entries=2) as rich,
        planner(UNREACHABLE_URL, poor.url, rich.url) as p,
    ):
        source = p.open("hf://acme/tiny")
        assert (await source.resolve()).endpoints == (rich.url, UNREACHABLE_URL, poor.url)
        assert (await p.plan("hf://acme/tiny")).keys() == FILES.keys()
        assert poor.log.count(kind="tree") == 0
        with pytest.raises(NotFound, match=r"127\.0\.0\.1:1"):
            await p.plan("hf://acme/nothing")


async def test_fail_over_in_the_middle_of_a_listing() -> None:
    async with (
        StandInHub([tiny()], page_entries=2) as first,
        StandInHub([tiny()], page_entries=3) as second,
        planner(first.url, second.url) as p,
    ):
        first.faults.add(Status(500), kinds=["tree"], skip=1)
        objects = await p.plan("hf://acme/tiny")
        assert objects.keys() == FILES.keys()
        assert sorted(spec.object_id for spec in objects.values()) == [1, 2, 3, 4, 5]


async def test_no_endpoint_answers() -> None:
    async with planner(UNREACHABLE_URL) as p:
        with pytest.raises(ConnectFailed):
            await p.plan("hf://acme/tiny")
        assert len(p.waits) == ATTEMPTS - 1


async def test_hostile_names() -> None:
    hostile = ["../up", "a/../../b", "/etc/passwd", "C:\\x", "a\x01b", "n" * 300, "CON"]
    repo = HubRepo("acme/evil", {"good": b"1", "Good": b"2", **dict.fromkeys(hostile, b"x")})
    async with StandInHub([repo]) as hub, planner(hub.url) as p:
        source = p.open("hf://acme/evil")
        assert [spec.path async for page in source.pages() for spec in page] == ["Good", "good"]
        assert source.refused_count == len(hostile)
        assert len(source.warnings) == 1


# -- one URL ----------------------------------------------------------------------------------------------------------


async def test_a_url() -> None:
    big, dated = (
        SyntheticFile(50_000_000, seed=1),
        OriginFile(content=b"abc", etag='W/"w"', last_modified=1_700_000_000),
    )
    async with FaultOrigin({"a b.bin": big, "d.txt": dated, "empty": b""}) as origin, planner() as p:
        (spec,) = (await p.plan(origin.url_of("a b.bin"))).values()
        assert (spec.path, spec.size, spec.url) == ("a b.bin", 50_000_000, origin.url_of("a b.bin"))
        assert len(spec.etag) == 32
        assert origin.log.bytes_served <= 1
        (spec,) = (await p.plan(origin.url_of("d.txt"))).values()
        assert (spec.size, spec.etag) == (3, "Tue, 14 Nov 2023 22:13:20 GMT")
        (spec,) = (await p.plan(origin.url_of("empty"))).values()
        assert spec.size == 0
        assert {(record.method, record.range) for record in origin.log.records} == {("GET", "bytes=0-0")}


async def test_a_url_without_ranges_or_length() -> None:
    async with FaultOrigin({"x": SyntheticFile(20_000_000, seed=1)}) as origin, planner() as p:
        origin.faults.add(IgnoreRange())
        assert (await p.plan(origin.url_of("x")))["x"].size == 20_000_000
        origin.faults.add(NoContentLength())
        assert (await p.plan(origin.url_of("x")))["x"].size is None


async def test_a_url_that_is_not_there() -> None:
    async with FaultOrigin({}) as origin, planner() as p:
        with pytest.raises(NotFound):
            await p.plan(origin.url_of("x"))
