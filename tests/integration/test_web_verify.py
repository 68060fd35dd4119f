"""Models verified and repaired through the API, counted with filters; folders that are proposed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shoal.common.manifest import ManifestEntry, write_manifest
from shoal.common.safe_root import SafeRoot
from shoal.common.views import SubmitRequest
from support.web import WebSite, web_site

COMMIT = "c" * 40
SOURCE = "hf://acme/tiny-GGUF"
DEADLINE_S = 30.0


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[WebSite]:
    overrides = {"hub.offline": True, "library.roots": [str(tmp_path / "models")], "library.refresh": "0s"}
    async with web_site(tmp_path, overrides) as made:
        yield made


async def get(site: WebSite, path: str, status: int = 200, **params: str) -> Any:
    async with site.client() as http, http.get(f"{site.url}{path}", params=params) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def post(site: WebSite, path: str, body: object, status: int = 202) -> Any:
    async with (
        site.client() as http,
        http.post(f"{site.url}{path}", json=body, headers=await site.csrf(http)) as answer,
    ):
        assert answer.status == status, await answer.text()
        return await answer.json()


async def verified(site: WebSite, model_id: str) -> Any:
    found = await post(site, "/api/models/verify", {"model_id": model_id})
    async with asyncio.timeout(DEADLINE_S):
        while found["state"] == "running":
            await asyncio.sleep(0.01)
            found = await get(site, f"/api/models/{model_id}/verification")
    return found


def folder_with(folder: Path, files: dict[str, bytes], source: str = SOURCE) -> None:
    """A destination as a download leaves it."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    entries = [
        ManifestEntry(
            path=name,
            size=len(data),
            digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
            source=source,
            revision="main",
            commit=COMMIT,
        )
        for name, data in files.items()
    ]
    (folder / ".shoal").mkdir()
    with SafeRoot(folder) as root:
        write_manifest(root, sources={source: {"revision": "main", "commit": COMMIT}}, entries=entries)


async def test_a_model_is_verified_and_what_is_wrong_is_named(site: WebSite, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "tiny"
    folder_with(folder, {"tiny-Q4_K_M.gguf": b"weights", "README.md": b"# tiny", "gone.txt": b"x"})
    (model,) = (await get(site, "/api/models"))["models"]
    await get(site, f"/api/models/{model['model_id']}/verification", status=404)
    found = await verified(site, model["model_id"])
    assert (found["state"], found["checked"], found["bytes"], found["problems_total"]) == ("done", 3, 14, 0)
    await post(site, "/api/models/repair", {"model_id": model["model_id"]}, status=409)
    (folder / "tiny-Q4_K_M.gguf").write_bytes(b"Weights")
    (folder / "gone.txt").unlink()
    found = await verified(site, model["model_id"])
    assert (found["state"], found["problems_total"]) == ("done", 2)
    assert sorted(each["kind"] for each in found["problems"]) == ["digest", "missing"]
    assert any("tiny-Q4_K_M.gguf" in each["text"] for each in found["problems"])
    await post(site, "/api/models/verify", {"model_id": "none-such"}, status=404)


async def test_a_repair_is_of_the_commit_by_the_name_that_was_fetched(site: WebSite, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "tiny"
    folder_with(folder, {"a.bin": b"one", "b.bin": b"two"}, f"{SOURCE}@release")
    (model,) = (await get(site, "/api/models"))["models"]
    (folder / "a.bin").write_bytes(b"One")
    assert (await verified(site, model["model_id"]))["problems_total"] == 1
    (job,) = (await post(site, "/api/models/repair", {"model_id": model["model_id"]}))["jobs"]
    assert (job["created"], job["job"]["uri"], job["job"]["destination"]) == (True, f"{SOURCE}@release", str(folder))
    asked = json.loads(site.coordinator.core.jobs[job["job"]["job_id"]].row.request)
    assert (asked["commit"], asked["revision"], asked["include"], asked["force"]) == (COMMIT, "", ["a.bin"], True)


async def test_another_source_in_the_same_folder_is_not_its_business(site: WebSite, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "both"
    folder_with(folder, {"a.bin": b"one"})
    with SafeRoot(folder) as root:
        entry = ManifestEntry(
            path="b.bin", size=3, digest="sha256:" + "0" * 64, source="hf://acme/other", commit=COMMIT
        )
        own = ManifestEntry(path="a.bin", size=3, digest="", source=SOURCE, revision="main", commit=COMMIT)
        sources = {SOURCE: {"commit": COMMIT}, "hf://acme/other": {"commit": COMMIT}}
        write_manifest(root, sources=sources, entries=[own, entry])
    (folder / "b.bin").write_bytes(b"two")
    models = {model["repo_id"]: model["model_id"] for model in (await get(site, "/api/models"))["models"]}
    assert (await verified(site, models["acme/tiny-GGUF"]))["problems_total"] == 0
    assert (await verified(site, models["acme/other"]))["problems_total"] == 1


async def test_a_cache_of_the_hubs_client_is_held_against_the_names_of_its_blobs(site: WebSite, tmp_path: Path) -> None:
    repo = tmp_path / "models" / "models--acme--tiny"
    name = hashlib.sha256(b"weights").hexdigest()
    for folder in ("blobs", f"snapshots/{COMMIT}", "refs"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "blobs" / name).write_bytes(b"weights")
    (repo / "snapshots" / COMMIT / "model.safetensors").symlink_to(f"../../blobs/{name}")
    (model,) = (await get(site, "/api/models"))["models"]
    found = await verified(site, model["model_id"])
    assert (found["state"], found["checked"], found["problems_total"]) == ("done", 1, 0)
    (repo / "blobs" / name).write_bytes(b"WEIGHTS")
    assert (await verified(site, model["model_id"]))["problems"][0]["kind"] == "digest"
    await post(site, "/api/models/repair", {"model_id": model["model_id"]}, status=409)


async def test_groups_are_counted_of_what_is_searched(site: WebSite, tmp_path: Path) -> None:
    folder_with(tmp_path / "models" / "one", {"one-Q4_K_M.gguf": b"1"}, "hf://acme/one-GGUF")
    folder_with(tmp_path / "models" / "two", {"two-Q8_0.gguf": b"22"}, "hf://beta/two-GGUF")
    folder_with(tmp_path / "models" / "data", {"x.csv": b"333"}, "https://example.org/x.csv")
    assert len((await get(site, "/api/models/groups", by="quantization"))["groups"]) == 3
    found = await get(site, "/api/models/groups", by="owner", search="gguf")
    assert {(each["name"], each["models"]) for each in found["groups"]} == {("acme", 1), ("beta", 1)}
    assert (await get(site, "/api/models/groups", by="owner", freshness="outdated"))["groups"] == []
    (without,) = (await get(site, "/api/models", quantization="(none)"))["models"]
    assert without["kind"] == "https"


async def test_folders_are_proposed(tmp_path: Path) -> None:
    overrides = {"hub.offline": True, "web.destinations": ["/data/models", "/tmp"], "library.places": False}
    async with web_site(tmp_path, overrides) as site:
        await site.coordinator.submit(SubmitRequest(uris=("hf://acme/x",), destination="/tmp/there"))
        found = await get(site, "/api/destinations")
        assert found == {"allowed": ["/data/models", "/tmp"], "hub_cache": "", "used": ["/tmp/there"]}
