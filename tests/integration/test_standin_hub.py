"""The stand-in Hub against the real client, and each of its faults seen by a raw one."""

# The client's own annotations leave type arguments out.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib.util
import json
import os
import random
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import huggingface_hub
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, parse_ratelimit_headers
from yarl import URL

from support.contents import SyntheticFile, as_content, git_blob_sha1_hex, read_all, sha256_hex
from support.faults import (
    ChangeFile,
    Compress,
    CutBody,
    Drip,
    DropConnection,
    ExpireUrl,
    Fault,
    FlipByte,
    HtmlPage,
    IgnoreRange,
    Latency,
    NoContentLength,
    Quota,
    RateLimited,
    RedirectLoop,
    Stall,
    Status,
    WrongContentRange,
    WrongSize,
)
from support.http_answer import parse_range
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo, RepoKind
from support.models import minilm_model_dir
from support.origin import FaultOrigin, OriginFile
from support.stand_in import in_thread
from support.switchboard import Faults
from support.throttle import BURST_BYTES, Pacer

KINDS: tuple[RepoKind, ...] = ("model", "dataset", "space")
MIB = 1 << 20
WEIGHTS = SyntheticFile(3 * MIB + 17, seed=1)
FILES: Mapping[str, bytes | SyntheticFile] = {
    "config.json": b'{"hidden_size": 384}\n',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "sub folder/ümlaut #1.txt": b"quoted",
    "sub folder/deep/vocab.txt": b"[PAD]\n" * 1000,
}


def tiny(kind: RepoKind = "model", **options: Any) -> HubRepo:
    return HubRepo("acme/tiny", FILES, kind=kind, **options)


def assert_holds(folder: Path, files: Mapping[str, bytes | SyntheticFile]) -> None:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith(".cache/")} == set(files)
    for name, source in files.items():
        assert (folder / name).read_bytes() == read_all(as_content(source)), name


@pytest.fixture(autouse=True)
def client_session() -> Iterator[None]:
    disable_progress_bars()
    yield
    huggingface_hub.close_session()


@pytest.fixture
async def hub() -> AsyncIterator[StandInHub]:
    async with StandInHub([tiny()]) as stand_in:
        yield stand_in


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


# --- the real client -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "/mirror/hf"])
def test_snapshot_to_folder(kind: RepoKind, prefix: str, tmp_path: Path) -> None:
    with hub_in_thread([tiny(kind)], prefix=prefix) as hub:
        for _ in range(2):
            snapshot_download("acme/tiny", repo_type=kind, local_dir=tmp_path / "tiny", endpoint=hub.url, token=False)
        assert_holds(tmp_path / "tiny", FILES)
        # The second run finds everything in place.
        assert hub.log.bytes_served == sum(as_content(source).size for source in FILES.values())
        assert hub.log.count(kind="unknown") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_snapshot_to_cache_and_offline(kind: RepoKind, tmp_path: Path) -> None:
    with hub_in_thread([tiny(kind)]) as hub:
        online = snapshot_download("acme/tiny", repo_type=kind, cache_dir=tmp_path, endpoint=hub.url, token=False)
        assert_holds(Path(online), FILES)
    offline = snapshot_download("acme/tiny", repo_type=kind, cache_dir=tmp_path, local_files_only=True)
    assert offline == online
    blobs = {path.name for path in (tmp_path / f"{kind}s--acme--tiny" / "blobs").iterdir()}
    assert sha256_hex(WEIGHTS) in blobs


def test_real_model(tmp_path: Path) -> None:
    source = minilm_model_dir()
    with hub_in_thread([HubRepo.from_dir(source, "sentence-transformers/all-MiniLM-L6-v2")]) as hub:
        snapshot_download(
            "sentence-transformers/all-MiniLM-L6-v2", local_dir=tmp_path / "m", endpoint=hub.url, token=False
        )
        assert hub.log.where(kind="cdn", method="GET").bytes_served == (source / "model.safetensors").stat().st_size
    for path in (path for path in source.rglob("*") if path.is_file()):
        copy = tmp_path / "m" / path.relative_to(source)
        assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("ci", [True, False])
def test_missing_model_is_no_skip_in_ci(ci: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find_nothing)
    monkeypatch.setenv("CI", "true" if ci else "")
    with pytest.raises(pytest.fail.Exception if ci else pytest.skip.Exception, match="not installed"):
        minilm_model_dir()


def test_listing_pages() -> None:
    files = {f"dir {n % 3}/file {n:02}.txt": b"%d" % n for n in range(50)}
    with hub_in_thread([HubRepo("acme/many", files)], page_entries=7, prefix="/p") as hub:
        api = HfApi(endpoint=hub.url, token=False)
        tree = list(api.list_repo_tree("acme/many", recursive=True))
        assert len(tree) == 53 and {entry.path for entry in tree} == {*files, "dir 0", "dir 1", "dir 2"}
        assert hub.log.count(kind="tree") == 8  # 53 entries, 7 a page
        for entry in tree:
            if isinstance(entry, huggingface_hub.hf_api.RepoFile):
                assert entry.blob_id == git_blob_sha1_hex(as_content(files[entry.path]))
        assert sorted(entry.path for entry in api.list_repo_tree("acme/many")) == ["dir 0", "dir 1", "dir 2"]
        below = api.list_repo_tree("acme/many", "dir 1", expand=True)
        assert {entry.path for entry in below} == {name for name in files if name.startswith("dir 1/")}
        with pytest.raises(RemoteEntryNotFoundError):
            list(api.list_repo_tree("acme/many", "nowhere"))


def test_api_calls() -> None:
    repo = tiny("dataset")
    first = repo.sha
    repo.point("refs/tags/v1")
    repo.point("refs/pr/1")
    second = repo.commit({"new.txt": b"new", "config.json": None}, branch="dev")
    third = repo.commit({"config.json": b"{}"})
    with hub_in_thread([repo], tokens=["hf_user"]) as hub:
        api = HfApi(endpoint=hub.url, token=False)
        refs = api.list_repo_refs("acme/tiny", repo_type="dataset", include_pull_requests=True)
        assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": third, "dev": second}
        assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", first)]
        assert refs.pull_requests is not None and refs.pull_requests[0].target_commit == first
        for revision, sha in {None: third, "v1": first, "dev": second, "refs/pr/1": first, first: first}.items():
            assert api.dataset_info("acme/tiny", revision=revision).sha == sha
        info = api.dataset_info("acme/tiny", revision="v1", files_metadata=True)
        siblings = {item.rfilename: item for item in info.siblings or []}
        assert set(siblings) == set(FILES)
        lfs = siblings["model.safetensors"].lfs
        assert lfs is not None and (lfs.size, lfs.sha256) == (WEIGHTS.size, sha256_hex(WEIGHTS))
        found = api.get_paths_info("acme/tiny", ["empty.txt", "sub folder", "nope"], repo_type="dataset")
        assert [(type(item).__name__, item.path) for item in found] == [
            ("RepoFile", "empty.txt"),
            ("RepoFolder", "sub folder"),
        ]
        assert api.whoami(token="hf_user")["name"] == "tester"


def test_git_would_agree_on_object_ids() -> None:
    repo = HubRepo("acme/tiny", {**FILES, "hello.txt": b"hello\n"})
    # What `git hash-object` prints for these two.
    assert repo.file("empty.txt").oid == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert repo.file("hello.txt").oid == "ce013625030ba8dba906f756967f9e9ca394464a"
    weights = repo.file("model.safetensors")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{weights.sha256}\nsize {WEIGHTS.size}\n"
    assert weights.oid == hashlib.sha1(f"blob {len(pointer)}\0{pointer}".encode()).hexdigest()
    assert weights.pointer_size == len(pointer)


def test_branch_moves_while_served(tmp_path: Path) -> None:
    repo = HubRepo("tiny", {"a.txt": b"one", "b.txt": b"same"})
    with hub_in_thread([repo]) as hub:
        first = snapshot_download("tiny", cache_dir=tmp_path, endpoint=hub.url, token=False)
        repo.commit({"a.txt": b"two"})
        hub.log.clear()
        second = snapshot_download("tiny", cache_dir=tmp_path, endpoint=hub.url, token=False)
        assert hub.log.bytes_served == len(b"two")
    assert (Path(first, "a.txt").read_bytes(), Path(second, "a.txt").read_bytes()) == (b"one", b"two")


def test_what_is_not_there(tmp_path: Path) -> None:
    with hub_in_thread([tiny()], tokens=["hf_user"]) as hub:
        for missing in ("nope", "0" * 40):
            with pytest.raises(RevisionNotFoundError):
                snapshot_download(
                    "acme/tiny", revision=missing, local_dir=tmp_path / "x", endpoint=hub.url, token=False
                )
        for token, status in ((False, 401), ("hf_user", 404)):
            with pytest.raises(RepositoryNotFoundError) as caught:
                snapshot_download("acme/none", local_dir=tmp_path / "x", endpoint=hub.url, token=token)
            assert caught.value.response.status_code == status
        with pytest.raises(RemoteEntryNotFoundError) as gone:
            hf_hub_download("acme/tiny", "none.txt", cache_dir=tmp_path, endpoint=hub.url, token=False)
        assert gone.value.response.headers["X-Repo-Commit"] == tiny().sha
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            HfApi(endpoint=hub.url, token="hf_wrong").model_info("acme/tiny")


@pytest.mark.parametrize("access", ["private", "gated"])
def test_readers_only(access: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"private": True} if access == "private" else {"gated": "manual"}
    refused = RepositoryNotFoundError if access == "private" else GatedRepoError
    with hub_in_thread([tiny(**options, readers=["hf_reader"])], tokens=["hf_other"]) as hub:
        for token, status in ((False, 401), ("hf_other", 404 if access == "private" else 403)):
            with pytest.raises(refused) as caught:
                snapshot_download("acme/tiny", local_dir=tmp_path / "no", endpoint=hub.url, token=token)
            assert caught.value.response.status_code == status
        snapshot_download("acme/tiny", local_dir=tmp_path / "yes", endpoint=hub.url, token="hf_reader")
        assert_holds(tmp_path / "yes", FILES)
        cdn = hub.log.where(server="cdn")
        assert len(cdn) > 0 and not any("authorization" in record.headers for record in cdn)
        assert any(record.headers.get("authorization") == "Bearer hf_reader" for record in hub.log.where(server="hub"))
        assert "hf_reader" not in repr(hub.log.records)


def test_real_client_takes_a_flipped_byte(tmp_path: Path) -> None:
    with hub_in_thread([tiny()]) as hub:
        hub.faults.add(FlipByte(), path="*.safetensors")
        snapshot_download("acme/tiny", local_dir=tmp_path, endpoint=hub.url, token=False)
    wrong, right = (tmp_path / "model.safetensors").read_bytes(), read_all(WEIGHTS)
    assert [at for at in range(len(right)) if wrong[at] != right[at]] == [len(right) // 2]


def test_real_client_sees_the_xet_announcement() -> None:
    with hub_in_thread([tiny(xet=True)]) as hub:
        url = hf_hub_url("acme/tiny", "model.safetensors", endpoint=hub.url)
        xet = get_hf_file_metadata(url, token=False, endpoint=hub.url).xet_file_data
        entry = HfApi(endpoint=hub.url, token=False).get_paths_info("acme/tiny", "model.safetensors")[0]
        assert xet is not None and isinstance(entry, huggingface_hub.hf_api.RepoFile)
        assert xet.file_hash == entry.xet_hash
        assert xet.refresh_route.startswith(f"{hub.url}/api/models/acme/tiny/xet-read-token/")
        small = hf_hub_url("acme/tiny", "config.json", endpoint=hub.url)
        assert get_hf_file_metadata(small, token=False, endpoint=hub.url).xet_file_data is None


# --- what a behaving server does, seen by a raw client ---------------------------------------------------------------


def resolve(hub: StandInHub, path: str, *, revision: str = "main", repo: str = "acme/tiny") -> str:
    return hf_hub_url(repo, path, revision=revision, endpoint=hub.url)


async def get(http: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, bytes, Mapping[str, str]]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.get(URL(url, encoded=True), headers=names) as response:
        return response.status, await response.read(), response.headers


async def until_ended(hub: StandInHub) -> None:
    """Wait until the server knows that all its answers are over: a client may have the last byte before."""
    await asyncio.to_thread(hub.log.wait_for, lambda log: all(record.ended_at for record in log.records), timeout_s=60)


async def test_redirects(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    async with http.get(resolve(hub, "config.json"), allow_redirects=False) as small:
        assert (small.status, small.headers["Location"][:26]) == (307, "/api/resolve-cache/models/")
    async with http.head(resolve(hub, "model.safetensors"), allow_redirects=False) as big:
        assert big.status == 302 and big.headers["Location"].startswith(f"{hub.cdn_url}/")
        assert big.headers["X-Linked-Etag"] == f'"{sha256_hex(WEIGHTS)}"'
        assert big.headers["X-Linked-Size"] == str(WEIGHTS.size)
        assert big.headers["X-Repo-Commit"] == tiny().sha
        signed = big.headers["Location"]
    assert (await get(http, signed))[0] == 200
    assert (await get(http, signed.replace("Expires=1", "Expires=9")))[0] == 403
    assert (await get(http, signed.partition("?")[0]))[0] == 403
    assert (await get(http, f"{hub.cdn_url}/"))[0] == 403
    assert (await get(http, f"{hub.url}/api/models/acme/tiny/nothing"))[0] == 404


@pytest.mark.parametrize(
    ("value", "size", "wanted"),
    [
        ("bytes=0-0", 10, range(1)),
        ("bytes=3-", 10, range(3, 10)),
        ("bytes=-3", 10, range(7, 10)),
        ("bytes=-30", 10, range(10)),
        ("bytes=5-99", 10, range(5, 10)),
        ("bytes=10-", 10, range(10, 10)),
        ("bytes=0-", 0, range(0)),
        ("bytes=5-4", 10, None),
        ("bytes=-", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("pages=1-2", 10, None),
        ("", 10, None),
    ],
)
def test_parse_range(value: str, size: int, wanted: range | None) -> None:
    assert parse_range(value, size) == wanted


async def test_ranges(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    data, size = read_all(WEIGHTS), WEIGHTS.size
    url = resolve(hub, "model.safetensors")
    status, body, headers = await get(http, url, Range=f"bytes={MIB - 5}-{MIB + 5}")
    assert (status, body) == (206, data[MIB - 5 : MIB + 6])
    assert headers["Content-Range"] == f"bytes {MIB - 5}-{MIB + 5}/{size}"
    etag = headers["ETag"]
    assert (await get(http, url, Range="bytes=-7", If_Range=etag))[:2] == (206, data[-7:])
    assert (await get(http, url, Range="bytes=-7", If_Range='"other"'))[:2] == (200, data)
    assert (await get(http, url, Range="bytes=-7", If_Range=headers["Last-Modified"]))[0] == 206
    assert (await get(http, url, Range="bytes=-7", If_Range="Mon, 01 Jan 2001 00:00:00 GMT"))[0] == 200
    assert (await get(http, url, If_None_Match=etag))[:2] == (304, b"")
    status, _, headers = await get(http, url, Range=f"bytes={size}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{size}")
    async with http.head(url, allow_redirects=True) as head:
        assert (head.status, head.content_length, await head.read()) == (200, size, b"")


async def test_range_required(http: aiohttp.ClientSession) -> None:
    async with StandInHub([tiny(range_required=["model.safetensors"])]) as hub:
        url = resolve(hub, "model.safetensors")
        assert (await get(http, url))[0] == 400
        assert (await get(http, url, Range="bytes=0-9"))[:2] == (206, read_all(WEIGHTS)[:10])


async def test_xet_token_leads_nowhere(http: aiohttp.ClientSession) -> None:
    async with StandInHub([tiny(xet=True)]) as hub:
        status, _, headers = await get(http, f"{hub.url}/api/models/acme/tiny/xet-read-token/main")
        assert (status, headers["X-Xet-Cas-Url"]) == (200, "http://127.0.0.1:1")


async def test_tls(http: aiohttp.ClientSession) -> None:
    async with StandInHub([tiny()], tls=True) as hub:
        assert hub.url.startswith("https://") and hub.cdn_url.startswith("https://")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(http, resolve(hub, "model.safetensors"))
        trust = ssl.create_default_context(cafile=hub.ca_file)
        async with http.get(resolve(hub, "model.safetensors"), ssl=trust) as response:
            assert await response.read() == read_all(WEIGHTS)


async def test_a_hundred_thousand_files(http: aiohttp.ClientSession) -> None:
    files = {f"d{n % 100:02}/{n:06}.txt": SyntheticFile(20, seed=n) for n in range(100_000)}
    async with StandInHub([HubRepo("acme/many", files)]) as hub:
        url: str | None = f"{hub.url}/api/models/acme/many/tree/main?recursive=true"
        seen: dict[str, str] = {}
        while url is not None:
            async with http.get(URL(url, encoded=True)) as page:
                seen |= {entry["path"]: entry["oid"] for entry in await page.json() if entry["type"] == "file"}
                url = str(page.links["next"]["url"]) if "next" in page.links else None
        assert seen.keys() == files.keys()
        assert seen["d07/000007.txt"] == git_blob_sha1_hex(files["d07/000007.txt"])
        assert hub.log.count(kind="tree") == 101


async def test_hostile_names(http: aiohttp.ClientSession) -> None:
    names = ["../../etc/passwd", "/etc/shadow", "a\\..\\b", "nul\0byte", "a//b", "x" * 300, "new\nline", "..", "A", "a"]
    files = {name: name.encode() for name in names}
    async with StandInHub([HubRepo("acme/evil", files)]) as hub:
        status, body, _ = await get(http, f"{hub.url}/api/models/acme/evil/tree/main?recursive=true")
        assert status == 200
        assert {entry["path"] for entry in json.loads(body) if entry["type"] == "file"} == set(names)
        for name in names:
            async with http.get(
                URL(resolve(hub, name, repo="acme/evil"), encoded=True), allow_redirects=False
            ) as first:
                location = first.headers["Location"]
            assert (await get(http, hub.url + location))[:2] == (200, name.encode())


# --- contents, pacing, log -------------------------------------------------------------------------------------------


def test_synthetic_file() -> None:
    file = SyntheticFile(5 * MIB + 3, seed=9)
    data = read_all(file)
    assert len(data) == file.size and hashlib.sha256(data).hexdigest() == sha256_hex(file)
    rng = random.Random(0)
    for _ in range(200):
        start = rng.randrange(file.size)
        piece = bytes(file.read(start, rng.randrange(1, 2 * MIB)))
        assert piece == data[start : start + len(piece)] and piece
    assert bytes(file.read(file.size, 10)) == b""
    # A piece at a wrong place is a wrong piece.
    assert len({data[at : at + 64] for at in range(0, 5 * MIB, 64 * 1024)}) == 80
    assert read_all(SyntheticFile(100, seed=9)) == data[:100] != read_all(SyntheticFile(100, seed=8))


def test_pacer_keeps_the_rate() -> None:
    pacer, now, sent = Pacer(), 100.0, 0
    pacer.begin(rate=MIB, now=now)
    while sent < 4 * MIB:
        now += pacer.take(4096, rate=MIB, now=now)
        sent += 4096
    assert now - 100 == pytest.approx((4 * MIB - BURST_BYTES) / MIB)


def test_pacer_gives_idle_connections_one_burst_only() -> None:
    pacer = Pacer()
    pacer.begin(rate=MIB, now=0)
    pacer.begin(rate=MIB, now=1000)
    assert pacer.take(BURST_BYTES, rate=MIB, now=1000) == pytest.approx(0)
    assert pacer.take(BURST_BYTES, rate=MIB, now=1000) == pytest.approx(BURST_BYTES / MIB)


async def test_connections_and_in_flight(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(Latency(delay_s=2.0), kinds=["file"])
    await asyncio.gather(*(get(http, resolve(hub, "config.json")) for _ in range(6)))
    assert hub.log.where(kind="file").max_in_flight == hub.log.where(kind="file").connections == 6
    assert hub.log.bytes_served == 6 * len(b'{"hidden_size": 384}\n')
    hub.log.clear()
    assert (hub.log.bytes_served, hub.log.max_in_flight, len(hub.log.records)) == (0, 0, 0)


async def test_throttles(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    url = resolve(hub, "model.safetensors")
    hub.faults.connection_rate = 8 * MIB
    await get(http, url, Range="bytes=0-1048575")
    record = hub.log.where(kind="cdn")[0]
    await until_ended(hub)
    assert record.ended_at is not None
    assert record.ended_at - record.started_at >= (MIB - BURST_BYTES) / (8 * MIB)
    hub.log.clear()
    hub.faults.connection_rate, hub.faults.total_rate = None, 16 * MIB
    await asyncio.gather(*(get(http, url, Range="bytes=0-1048575") for _ in range(3)))
    records = list(hub.log.where(kind="cdn"))
    await until_ended(hub)
    span = max(record.ended_at or 0 for record in records) - min(record.started_at for record in records)
    assert span >= (3 * MIB - BURST_BYTES) / (16 * MIB)


def test_wait_for(tmp_path: Path) -> None:
    with hub_in_thread([tiny()]) as hub:
        hub.faults.add(Stall(after=MIB), kinds=["cdn"])
        target = tmp_path / "out"
        with subprocess.Popen(["curl", "-sL", "-o", target, resolve(hub, "model.safetensors")]) as curl:
            hub.log.wait_for(lambda log: log.bytes_served >= MIB, timeout_s=60)
            curl.kill()
        hub.log.wait_for(lambda log: all(record.ended_at for record in log.records), timeout_s=60)
        assert hub.log.bytes_served == MIB
        assert not hub.log.where(kind="cdn")[0].complete
        with pytest.raises(TimeoutError, match=r"model\.safetensors"):
            hub.log.wait_for(lambda log: log.bytes_served > MIB, timeout_s=0.01)


def test_what_is_sent_after_the_log_was_cleared_counts_for_nothing(tmp_path: Path) -> None:
    with hub_in_thread([tiny()]) as hub:
        stall = hub.faults.add(Stall(after=MIB, stall_s=0.2), kinds=["cdn"])
        with subprocess.Popen(["curl", "-sL", "-o", tmp_path / "out", resolve(hub, "model.safetensors")]) as curl:
            hub.log.wait_for(lambda log: log.bytes_served >= MIB, timeout_s=60)
            hub.log.clear()
            assert curl.wait() == 0
        assert stall.hits == 1 and (tmp_path / "out").stat().st_size > MIB
        assert (hub.log.bytes_served, len(hub.log.records)) == (0, 0)


def test_slow_after_so_many_bytes_until_it_is_taken_away(tmp_path: Path) -> None:
    with hub_in_thread([tiny()]) as hub:
        hub.faults.slow_after = (MIB, 1)
        with subprocess.Popen(["curl", "-sL", "-o", tmp_path / "out", resolve(hub, "model.safetensors")]) as curl:
            hub.log.wait_for(lambda log: log.bytes_served >= MIB, timeout_s=60)
            with pytest.raises(TimeoutError):
                hub.log.settled(timeout_s=0.3)
            curl.kill()
        assert hub.log.settled().bytes_served < 2 * MIB
        hub.faults.clear()
        subprocess.run(["curl", "-sfL", "-o", tmp_path / "out", resolve(hub, "model.safetensors")], check=True)


def test_thread_reports_a_taken_port() -> None:
    with hub_in_thread() as hub:
        taken = URL(hub.url).port
        assert taken is not None
        with pytest.raises(OSError, match="in use"), in_thread(StandInHub(port=taken)):
            pass


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "a.txt").write_bytes(b"hello")
    command = ["support.serve_hub", "--repo-dir", str(tmp_path / "repo"), "--id", "acme/cli", "--throttle", "20MiB"]
    tests = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", *command],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": str(tests)},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            ready = json.loads(server.stdout.readline())
            snapshot_download("acme/cli", local_dir=tmp_path / "out", endpoint=ready["url"], token=False)
            assert HfApi(endpoint=ready["url"], token=False).model_info("acme/cli").sha == ready["sha"]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"hello"


# --- the faults, each seen by a raw client ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
async def test_fault_flip_byte(hub: StandInHub, http: aiohttp.ClientSession, path: str) -> None:
    right = read_all(as_content(FILES[path]))
    rule = hub.faults.add(FlipByte(offset=3), path=path, times=1)
    wrong = (await get(http, resolve(hub, path)))[1]
    assert wrong == right[:3] + bytes([right[3] ^ 0xFF]) + right[4:]
    assert (await get(http, resolve(hub, path)))[1] == right
    assert rule.hits == 1


async def test_fault_html_page(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(HtmlPage())
    for path in ("model.safetensors", "config.json"):
        status, body, headers = await get(http, resolve(hub, path), Range="bytes=0-9")
        assert (status, body[:15], headers["Content-Type"][:9]) == (200, b"<!DOCTYPE html>", "text/html")


@pytest.mark.parametrize("size", [0, 100, WEIGHTS.size + 100])
async def test_fault_wrong_size(hub: StandInHub, http: aiohttp.ClientSession, size: int) -> None:
    hub.faults.add(WrongSize(size))
    status, body, headers = await get(http, resolve(hub, "model.safetensors"))
    assert (status, headers["Content-Length"]) == (200, str(size))
    assert body == (read_all(WEIGHTS) + bytes(100))[:size]


@pytest.mark.parametrize("path", ["model.safetensors", "sub folder/deep/vocab.txt"])
@pytest.mark.parametrize("framing", [None, NoContentLength("chunked"), NoContentLength("close")])
async def test_fault_cut_body(hub: StandInHub, http: aiohttp.ClientSession, path: str, framing: Fault | None) -> None:
    hub.faults.add(CutBody(after=1000), path=path)
    if framing is not None:
        hub.faults.add(framing, path=path)
    received = b""
    told = False
    async with http.get(URL(resolve(hub, path), encoded=True)) as response:
        try:
            async for piece in response.content.iter_any():
                received += piece
        except aiohttp.ClientPayloadError:
            told = True
    assert received == read_all(as_content(FILES[path]))[:1000]
    assert told is not (framing == NoContentLength("close"))  # then only the size can tell
    assert not hub.log.where(path=path, method="GET")[-1].complete


async def test_fault_cut_file_on_disk(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(read_all(WEIGHTS))
    async with FaultOrigin({"f": tmp_path / "f"}) as origin:
        origin.faults.add(CutBody(), times=1)
        with pytest.raises(aiohttp.ClientPayloadError):
            await get(http, origin.url_of("f"))
        assert origin.log.bytes_served == WEIGHTS.size // 2
        assert (await get(http, origin.url_of("f"), Range="bytes=5-"))[1] == read_all(WEIGHTS)[5:]


@pytest.mark.parametrize("server", ["hub", "cdn", None])
async def test_fault_fraction_of_503(http: aiohttp.ClientSession, server: Any) -> None:
    async with StandInHub([tiny()], seed=3) as hub:
        rule = hub.faults.add(Status(503), fraction=0.3, server=server)
        answers = [(await get(http, resolve(hub, "model.safetensors"), Range="bytes=0-9"))[0] for _ in range(60)]
        refusing = {record.server for record in hub.log.where(status=503)}
        assert refusing == ({server} if server else {"hub", "cdn"})
        assert rule.hits == hub.log.count(status=503) == answers.count(503)
        assert 5 < rule.hits < 45 and answers.count(206) == 60 - rule.hits


def test_draws_do_not_depend_on_others() -> None:
    def fates(subjects: list[str]) -> dict[str, list[bool]]:
        faults = Faults(seed=5)
        faults.add(Status(), fraction=0.5)
        found: dict[str, list[bool]] = {}
        for path in subjects:
            fired = faults.firing(server="hub", kind="file", method="GET", repo="models/a/b", path=path)
            found.setdefault(path, []).append(bool(fired))
        return found

    subjects = [name for name in "abcdef" for _ in range(20)]
    shuffled = random.Random(1).sample(subjects, len(subjects))
    assert fates(subjects) == fates(shuffled)


async def test_fault_status_with_retry_after(http: aiohttp.ClientSession) -> None:
    async with StandInHub([tiny()], wall_clock=lambda: 1_000_000_000) as hub:
        hub.faults.add(Status(429, retry_after_s=7), kinds=["resolve"], times=1)
        hub.faults.add(Status(503, retry_after_s=7, as_date=True), kinds=["resolve"], skip=1)
        status, _, headers = await get(http, resolve(hub, "config.json"))
        assert (status, headers["Retry-After"]) == (429, "7")
        status, _, headers = await get(http, resolve(hub, "config.json"))
        assert status == 503
        assert parsedate_to_datetime(headers["Retry-After"]).timestamp() == 1_000_000_007


async def test_fault_rate_limited(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(RateLimited(reset_s=55), kinds=["resolve"])
    status, _, headers = await get(http, resolve(hub, "config.json"))
    info = parse_ratelimit_headers(headers)
    assert status == 429 and info is not None
    assert (info.resource_type, info.remaining, info.reset_in_seconds) == ("resolvers", 0, 55)
    assert (info.limit, info.window_seconds) == (3000, 300)


async def test_fault_quota(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    quota = Quota(3, window_s=100)
    hub.faults.add(quota)
    answers = [await get(http, resolve(hub, "config.json")) for _ in range(5)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429, 429]
    info = parse_ratelimit_headers(answers[-1][2])
    assert info is not None and info.remaining == 0 and 0 < info.reset_in_seconds <= 100
    assert quota.refused == 2


async def test_fault_ignore_range(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(IgnoreRange())
    status, body, headers = await get(http, resolve(hub, "model.safetensors"), Range="bytes=5-9")
    assert (status, body, "Content-Range" in headers) == (200, read_all(WEIGHTS), False)


@pytest.mark.parametrize("move_body", [False, True])
async def test_fault_wrong_content_range(hub: StandInHub, http: aiohttp.ClientSession, move_body: bool) -> None:
    hub.faults.add(WrongContentRange(shift=100, move_body=move_body))
    status, body, headers = await get(http, resolve(hub, "model.safetensors"), Range="bytes=5-9")
    assert (status, headers["Content-Range"]) == (206, f"bytes 105-109/{WEIGHTS.size}")
    assert body == (read_all(WEIGHTS)[105:110] if move_body else read_all(WEIGHTS)[5:10])


async def test_fault_expired_url(http: aiohttp.ClientSession) -> None:
    now = [1000.0]
    async with StandInHub([tiny()], wall_clock=lambda: now[0]) as hub:
        rule = hub.faults.add(ExpireUrl(after_s=5))

        async def signed() -> str:
            async with http.get(resolve(hub, "model.safetensors"), allow_redirects=False) as response:
                return response.headers["Location"]

        url = await signed()
        assert (await get(http, url))[0] == 200
        now[0] += 5
        status, body, _ = await get(http, url)
        assert status == 403 and b"expired" in body
        assert (await get(http, await signed()))[0] == 200
        hub.faults.remove(rule)
        url = await signed()
        now[0] += 3599
        assert (await get(http, url))[0] == 200
        hub.faults.add(ExpireUrl(after_uses=2))
        url = await signed()
        assert [(await get(http, url, Range="bytes=0-1"))[0] for _ in range(3)] == [206, 206, 403]


async def test_fault_change_file(http: aiohttp.ClientSession) -> None:
    async with FaultOrigin({"f.bin": WEIGHTS}) as origin:
        origin.faults.add(ChangeFile(), skip=2)
        url = origin.url_of("f.bin")
        _, first, old = await get(http, url, Range="bytes=0-99")
        assert (await get(http, url, Range="bytes=100-199", If_Range=old["ETag"]))[0] == 206
        status, body, new = await get(http, url, Range="bytes=200-299", If_Range=old["ETag"])
        assert status == 200 and new["ETag"] != old["ETag"] and len(body) == WEIGHTS.size
        assert not any(a == b for a, b in zip(body, first))
        assert new["Last-Modified"] > old["Last-Modified"]


async def test_fault_change_file_to_other_content(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(ChangeFile(b"shorter"), path="*.safetensors", skip=1)
    assert (await get(http, resolve(hub, "model.safetensors")))[1] == read_all(WEIGHTS)
    assert (await get(http, resolve(hub, "model.safetensors")))[1] == b"shorter"


async def test_fault_stall(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(Stall(after=10), path="config.json")
    async with http.get(resolve(hub, "config.json")) as response:
        assert await response.content.readexactly(10) == b'{"hidden_s'
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await response.content.read(1)
        assert hub.log.where(kind="file")[-1].ended_at is None
    await until_ended(hub)


async def test_fault_stall_that_ends(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(Stall(stall_s=0.02), path="config.json")
    assert (await get(http, resolve(hub, "config.json")))[1] == FILES["config.json"]


async def test_stopping_ends_a_stall(http: aiohttp.ClientSession) -> None:
    async with StandInHub([tiny()]) as hub:
        hub.faults.add(Stall())
        response = await http.get(resolve(hub, "config.json"))
    with pytest.raises(aiohttp.ClientPayloadError):
        await response.read()


async def test_fault_drip(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(Drip(rate=200), path="config.json")
    async with http.get(resolve(hub, "config.json")) as response:
        pieces = [piece async for piece in response.content.iter_any()]
    assert b"".join(pieces) == FILES["config.json"] and len(pieces) > 1
    record = hub.log.where(kind="file")[-1]
    await until_ended(hub)
    assert record.ended_at is not None and record.ended_at - record.started_at >= 0.1


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
async def test_fault_no_content_length(hub: StandInHub, http: aiohttp.ClientSession, framing: Any, path: str) -> None:
    hub.faults.add(NoContentLength(framing))
    status, body, headers = await get(http, resolve(hub, path))
    assert (status, body) == (200, read_all(as_content(FILES[path])))
    assert "Content-Length" not in headers
    assert (headers.get("Transfer-Encoding"), headers.get("Connection")) == (
        ("chunked", None) if framing == "chunked" else (None, "close")
    )


async def test_fault_redirect_loop(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(RedirectLoop())
    with pytest.raises(aiohttp.TooManyRedirects):
        await get(http, resolve(hub, "config.json"))


async def test_fault_drop_connection(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(DropConnection(), kinds=["info"], times=1)
    url = f"{hub.url}/api/models/acme/tiny"
    # A raw socket: an HTTP client may quietly try a reset connection again.
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(hub.url).port)
    writer.write(b"GET /api/models/acme/tiny HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert hub.log.where(kind="info")[0].status is None
    assert (await get(http, url))[0] == 200


async def test_fault_compress(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(Compress())
    _, body, headers = await get(http, resolve(hub, "config.json"), Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip" and "Content-Length" not in headers
    assert gzip.decompress(body) == FILES["config.json"] and headers["ETag"].startswith("W/")
    assert (await get(http, resolve(hub, "config.json"), Accept_Encoding="identity"))[1] == FILES["config.json"]


async def test_clear_switches_everything_off(hub: StandInHub, http: aiohttp.ClientSession) -> None:
    hub.faults.add(Status(500))
    hub.faults.connection_rate = 1
    assert (await get(http, resolve(hub, "config.json")))[0] == 500
    hub.faults.clear()
    assert (await get(http, resolve(hub, "config.json")))[:2] == (200, FILES["config.json"])


def test_bad_fraction_is_refused() -> None:
    with pytest.raises(ValueError, match="fraction"):
        Faults().add(Status(), fraction=30)


# --- the plain origin --------------------------------------------------------------------------------------------------


async def test_origin_validators(http: aiohttp.ClientSession) -> None:
    files = {
        "bare.bin": OriginFile(content=b"0123456789"),
        "weak.bin": OriginFile(content=b"0123456789", etag='W/"1"'),
        "dir/dated é.bin": OriginFile(content=b"0123456789", last_modified=1_600_000_000),
        "both.bin": b"0123456789",
    }
    async with FaultOrigin(files) as origin:
        _, _, bare = await get(http, origin.url_of("bare.bin"))
        assert "ETag" not in bare and "Last-Modified" not in bare
        assert (await get(http, origin.url_of("weak.bin"), Range="bytes=1-2", If_Range='W/"1"'))[0] == 200
        assert (await get(http, origin.url_of("weak.bin"), If_None_Match='W/"1"'))[0] == 304
        status, body, dated = await get(http, origin.url_of("dir/dated é.bin"), Range="bytes=1-2")
        assert (status, body, dated["Last-Modified"]) == (206, b"12", "Sun, 13 Sep 2020 12:26:40 GMT")
        _, _, old = await get(http, origin.url_of("both.bin"))
        origin.put("both.bin", b"9876543210")
        _, _, new = await get(http, origin.url_of("both.bin") + "?query=ignored")
        assert old["ETag"] != new["ETag"]
        assert (await get(http, f"{origin.url}/none"))[0] == 404
        assert origin.log.count(server="origin", path="both.bin") == 2


def test_origin_in_thread_with_tls(tmp_path: Path) -> None:
    with in_thread(FaultOrigin({"f.bin": WEIGHTS}, tls=True)) as origin:
        assert origin.ca_file is not None
        command = ["curl", "-sS", "--cacert", origin.ca_file, "-o", tmp_path / "f", origin.url_of("f.bin")]
        subprocess.run(command, check=True)
    assert (tmp_path / "f").read_bytes() == read_all(WEIGHTS)
