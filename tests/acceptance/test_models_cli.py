"""``shoal models`` and ``--quant``, as a person uses them, against the stand-in Hub and beside the Hub's real client."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir

from support.cli import Shoal, delivered, leftovers
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

KIB = 1 << 10
QUANTS = {f"tiny-7b-{label}.gguf": os.urandom(20 * KIB) for label in ("Q2_K", "Q4_K_M", "UD-Q6_K_XL")}
GGUF = {
    **QUANTS,
    "tiny-7b-Q8_0-00001-of-00002.gguf": os.urandom(20 * KIB),
    "tiny-7b-Q8_0-00002-of-00002.gguf": os.urandom(20 * KIB),
    "README.md": b"# Tiny\n",
}
PLAIN = {
    "config.json": json.dumps({"quantization_config": {"quant_method": "awq", "bits": 4}}).encode(),
    "model-00001-of-00002.safetensors": os.urandom(200 * KIB),
    "model-00002-of-00002.safetensors": os.urandom(100 * KIB),
    "tokenizer.json": b"{}",
}


@pytest.fixture
def repo() -> HubRepo:
    return HubRepo("acme/plain", PLAIN)


@pytest.fixture
def hub(repo: HubRepo) -> Iterator[StandInHub]:
    with hub_in_thread([repo, HubRepo("acme/Tiny-7B-GGUF", GGUF)]) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    return Shoal(tmp_path, endpoint=hub.url)


def listed(shoal: Shoal, *options: str) -> list[dict[str, Any]]:
    return shoal.run("models", "list", "--json", *options).expect(0).document()["models"]


# --- --quant --------------------------------------------------------------------------------------------------------


def test_one_quantization_is_fetched(shoal: Shoal, tmp_path: Path) -> None:
    to = tmp_path / "to"
    shoal.get("acme/Tiny-7B-GGUF", "--quant", "q4_k_m", "--to", to)
    assert delivered(to) == {"tiny-7b-Q4_K_M.gguf": QUANTS["tiny-7b-Q4_K_M.gguf"]}
    shoal.get("acme/Tiny-7B-GGUF", "--quant", "Q8_0", "--include", "*.md", "--to", to)
    assert len(delivered(to)) == 4, "both shards and what was included besides"


def test_a_quantization_that_is_none_lists_those_that_are(shoal: Shoal) -> None:
    for wrong in ("Q6_K", "Q4", "Q6_K_XL"):  # never a part of a name
        run = shoal.run("get", "acme/Tiny-7B-GGUF", "--quant", wrong).expect(3)
        assert "Q2_K, Q4_K_M, Q8_0, UD-Q6_K_XL" in run.stderr
    assert "--quant Q4_K_M" in shoal.run("get", "hf://acme/Tiny-7B-GGUF:Q4_K_M").expect(2).stderr
    shoal.run("get", "https://example.org/x", "--quant", "Q4_K_M").expect(2)


def test_a_quantization_that_the_configuration_tells(shoal: Shoal, tmp_path: Path) -> None:
    listing = shoal.run("get", "acme/plain", "--quant", "AWQ", "--dry-run", "--json").expect(0).document()
    assert listing["objects"] == len(PLAIN), "weights are of no use without their configuration"


# --- list and show --------------------------------------------------------------------------------------------------


def test_what_was_fetched_is_listed_wherever_it_went(shoal: Shoal, tmp_path: Path, repo: HubRepo) -> None:
    assert "none" in shoal.run("models", "list").expect(0).stdout
    shoal.get("acme/plain")
    shoal.get("acme/Tiny-7B-GGUF", "--quant", "Q4_K_M", "--to", tmp_path / "some where")
    found = {model["repo_id"]: model for model in listed(shoal)}
    assert set(found) == {"acme/plain", "acme/Tiny-7B-GGUF"}
    plain, gguf = found["acme/plain"], found["acme/Tiny-7B-GGUF"]
    assert (plain["place"], plain["quantizations"]) == ("hf-cache", ["AWQ"])
    assert (plain["bytes"], plain["files"]) == (sum(map(len, PLAIN.values())), len(PLAIN))
    assert [(each["commit"], each["refs"]) for each in plain["revisions"]] == [(repo.sha, ["main"])]
    assert (gguf["place"], gguf["path"]) == ("folder", str(tmp_path / "some where"))
    assert (gguf["owner"], gguf["family"], gguf["quantizations"]) == ("acme", "Tiny", ["Q4_K_M"])
    assert [model["repo_id"] for model in listed(shoal, "--sort", "size")] == ["acme/plain", "acme/Tiny-7B-GGUF"]
    assert [model["repo_id"] for model in listed(shoal, "--sort=-size")] == ["acme/Tiny-7B-GGUF", "acme/plain"]
    assert [model["repo_id"] for model in listed(shoal, "--search", "GGUF tiny")] == ["acme/Tiny-7B-GGUF"]
    assert [model["repo_id"] for model in listed(shoal, "--quant", "q4_k_m")] == ["acme/Tiny-7B-GGUF"]
    assert not listed(shoal, "--owner", "nobody")
    groups = shoal.run("models", "list", "--group", "owner", "--json").expect(0).document()["groups"]
    assert [(group["name"], group["models"]) for group in groups] == [("acme", 2)]
    shoal.run("models", "list", "--sort", "colour").expect(2)


def test_the_table_has_room_in_80_columns(shoal: Shoal) -> None:
    shoal.get("acme/Tiny-7B-GGUF")
    shoal.get("acme/plain")
    lines = shoal.run("models", "list", environ={"COLUMNS": "80"}).expect(0).stdout.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["NAME", "QUANT", "SIZE", "AGE", "REVISION", "HUB", "IN"]


def test_one_model_is_shown(shoal: Shoal, repo: HubRepo) -> None:
    shoal.get("acme/plain")
    shown = shoal.run("models", "show", "ACME/plain").expect(0).stdout
    assert repo.sha in shown and "model-00001-of-00002.safetensors" in shown and "AWQ" in shown
    document = shoal.run("models", "show", "acme/plain", "--json").expect(0).document()
    assert {file["path"] for file in document["file_list"]} == set(PLAIN)
    again = shoal.run("models", "show", document["model_id"], "--json").expect(0).document()
    assert again["path"] == document["path"]
    assert "acme/absent" in shoal.run("models", "show", "acme/absent").expect(3).stderr


def test_two_places_of_one_repo_are_told_apart(shoal: Shoal, tmp_path: Path) -> None:
    shoal.get("acme/plain")
    shoal.get("acme/plain", "--to", tmp_path / "to")
    run = shoal.run("models", "show", "acme/plain").expect(1)
    ids = [model["model_id"] for model in listed(shoal)]
    assert all(model_id in run.stderr for model_id in ids)
    shoal.run("models", "show", tmp_path / "to").expect(0)


# --- outdated, update, delete ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["hf-cache", "folder"])
def test_a_new_revision_is_seen_fetched_and_deleted(
    shoal: Shoal, hub: StandInHub, repo: HubRepo, tmp_path: Path, to: str
) -> None:
    place = to if to == "hf-cache" else str(tmp_path / to)
    shoal.get("acme/plain", "--to", place)
    first = repo.sha
    assert "none" in shoal.run("models", "outdated").expect(0).stdout
    assert listed(shoal)[0]["check"]["freshness"] == "current"
    changed = os.urandom(150 * KIB)
    second = repo.commit({"model-00002-of-00002.safetensors": changed, "generation_config.json": b"{ }"})
    found = shoal.run("models", "outdated", "--json").expect(0).document()["models"]
    assert [(each["check"]["commit"], each["check"]["latest"]) for each in found] == [(first, second)]
    assert second[:12] in shoal.run("models", "outdated", "acme/plain").expect(0).stdout
    assert listed(shoal)[0]["check"]["freshness"] == "outdated"
    assert "outdated" in shoal.run("models", "list").expect(0).stderr

    shoal.run("models", "update", "acme/plain", "--dry-run").expect(0)
    hub.log.clear()
    run = shoal.run("models", "update", "--all", "--prune", "--json").expect(0)
    job = run.document()["models"][0]["job"]
    assert job["bytes_fetched"] == len(changed) + len(b"{ }"), "only what changed costs bytes"
    assert hub.log.count(kind="resolve") == 2
    model = listed(shoal)[0]
    assert [(each["commit"], each["refs"]) for each in model["revisions"]] == [(second, ["main"])]
    assert model["bytes"] == sum(len(repo.file(path).content.read(0, 1 << 20)) for path in repo.find(second).files)  # type: ignore[union-attr]
    if to == "hf-cache":
        seen = scan_cache_dir(shoal.cache)
        assert not seen.warnings
        assert [each.commit_hash for repo in seen.repos for each in repo.revisions] == [second]
    assert model["check"]["freshness"] == "current", "nobody need ask again"
    assert "up to date" in shoal.run("models", "update", "--all").expect(0).stderr
    shoal.run("verify", shoal.cache if to == "hf-cache" else place).expect(0)

    plan = shoal.run("models", "delete", "acme/plain", "--dry-run", "--json").expect(0).document()
    assert plan["frees"] >= model["bytes"]
    assert listed(shoal)
    shoal.run("models", "delete", "acme/plain").expect(2)  # nobody is there to be asked
    shoal.run("models", "delete", "acme/plain", "--yes").expect(0)
    assert not listed(shoal)
    if to == "hf-cache":
        assert not list(shoal.cache.glob("models--*"))
        assert not scan_cache_dir(shoal.cache).warnings
    else:
        assert not Path(place).exists()


def test_an_update_keeps_the_selection(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    repo = hub.add(HubRepo("acme/Other-7B-GGUF", GGUF))
    to = tmp_path / "to"
    shoal.get("acme/Other-7B-GGUF", "--quant", "Q8_0", "--to", to)
    renamed = {f"other-7b-Q8_0-0000{n}-of-00003.gguf": os.urandom(10 * KIB) for n in (1, 2, 3)}
    gone = dict.fromkeys(path for path in GGUF if "Q8_0" in path)
    repo.commit({**gone, **renamed, "other-7b-Q3_K_S.gguf": os.urandom(KIB), "README.md": b"new"})
    shoal.run("models", "update", "acme/Other-7B-GGUF", "--prune").expect(0)
    assert delivered(to) == renamed
    assert not leftovers(to)


def test_the_hub_that_does_not_answer_is_no_news(shoal: Shoal, repo: HubRepo) -> None:
    shoal.get("acme/plain")
    shoal.get("acme/Tiny-7B-GGUF", "--revision", "main", "--quant", "Q2_K")
    repo.commit({"tokenizer.json": b"[]"})
    shoal.run("models", "outdated").expect(0)
    offline = shoal.run("models", "outdated", "--json", environ={"HF_HUB_OFFLINE": "1"}).expect(0).document()
    assert {each["check"]["freshness"] for each in offline["models"]} == {"unknown"}
    assert {model["repo_id"]: model["check"]["freshness"] for model in listed(shoal)} == {
        "acme/plain": "outdated",
        "acme/Tiny-7B-GGUF": "current",
    }, "an answer of before is not forgotten"
    dead = {"HF_ENDPOINT": "http://127.0.0.1:1", "SHOAL_FETCH_CONNECT_TIMEOUT": "1s"}
    run = shoal.run("models", "outdated", environ=dead).expect(1)
    assert "acme/plain: unknown" in run.stderr


def test_what_was_fetched_by_commit_is_pinned(shoal: Shoal, repo: HubRepo) -> None:
    shoal.get("acme/plain", "--revision", repo.sha)
    repo.commit({"tokenizer.json": b"[]"})
    run = shoal.run("models", "outdated").expect(0)
    assert "none" in run.stdout and "1 pinned" in run.stderr
    assert "by commit" in shoal.run("models", "update", "acme/plain").expect(0).stderr


@pytest.mark.parametrize("revision", ["", "release", "COMMIT"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_repaired_folder_is_one_model_at_its_revision(
    shoal: Shoal, repo: HubRepo, tmp_path: Path, revision: str, moved: bool
) -> None:
    repo.point("refs/heads/release")
    named = revision.replace("COMMIT", repo.sha)
    shoal.get(f"hf://acme/plain@{named}" if named else "acme/plain", "--to", tmp_path / "to")
    (before,) = listed(shoal)
    manifest = _sources(tmp_path / "to")
    if moved:
        for branch in ("main", "release"):
            repo.commit({"config.json": b"{}", "tokenizer.json": b"[]"}, branch=branch)
    (tmp_path / "to/config.json").write_bytes(b"damaged")
    shoal.run("verify", tmp_path / "to", "--repair").expect(0)
    assert delivered(tmp_path / "to") == PLAIN
    (after,) = listed(shoal)
    changing = {"fetched_at": 0, "revisions": [], "check": None}
    assert {**after, **changing} == {**before, **changing}
    assert [(each["commit"], each["refs"]) for each in after["revisions"]] == [
        (each["commit"], each["refs"]) for each in before["revisions"]
    ]
    assert _sources(tmp_path / "to") == manifest
    assert "config.json" in shoal.run("models", "show", after["model_id"]).expect(0).stdout


def _sources(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ".shoal/manifest.json").read_text().partition("\n")[0] + "]}")["sources"]


def test_a_repair_of_an_old_commits_file_leaves_the_newer_revision_what_it_is(
    shoal: Shoal, repo: HubRepo, tmp_path: Path
) -> None:
    shoal.get("acme/plain", "--to", tmp_path / "to")
    repo.commit({"tokenizer.json": None, "added.json": b"{}"})
    shoal.run("models", "update", "acme/plain").expect(0)
    assert (tmp_path / "to/tokenizer.json").exists()
    for name in ("tokenizer.json", "added.json"):
        (tmp_path / "to" / name).unlink()
    shoal.run("verify", tmp_path / "to", "--repair").expect(0)
    assert (tmp_path / "to/tokenizer.json").exists() and (tmp_path / "to/added.json").exists()
    (model,) = listed(shoal)
    assert [(each["commit"], each["refs"]) for each in model["revisions"]] == [(repo.sha, ["main"])]


def test_a_repair_in_the_cache_moves_no_ref(shoal: Shoal, repo: HubRepo) -> None:
    old = Path(shoal.get("acme/plain").stdout.strip())
    repo.commit({"tokenizer.json": b"[1]"})
    shoal.get("acme/plain")
    (old / "tokenizer.json").resolve().unlink()
    shoal.run("verify", shoal.cache, "--repair").expect(0)
    assert (old / "tokenizer.json").read_bytes() == PLAIN["tokenizer.json"]
    assert (shoal.cache / "models--acme--plain/refs/main").read_text() == repo.sha
    (model,) = listed(shoal)
    assert {each["commit"]: each["refs"] for each in model["revisions"]} == {repo.sha: ["main"], old.name: []}


def test_a_file_that_was_changed_by_hand_stays(shoal: Shoal, tmp_path: Path) -> None:
    to = tmp_path / "to"
    shoal.get("acme/plain", "--to", to)
    (to / "config.json").write_text('{"mine": true}')
    (to / "notes.txt").write_text("mine")
    run = shoal.run("models", "delete", "acme/plain", "--yes").expect(0)
    assert "config.json: it was changed" in run.stderr and "notes.txt: nothing says" in run.stderr
    assert {path.name for path in to.iterdir() if path.is_file()} == {"config.json", "notes.txt"}


def test_two_sources_in_one_folder_go_one_by_one(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    to = tmp_path / "to"
    shoal.get("acme/plain", "--to", to)
    shoal.get("acme/Tiny-7B-GGUF", "--quant", "Q2_K", "--to", to)
    assert {model["repo_id"] for model in listed(shoal)} == {"acme/plain", "acme/Tiny-7B-GGUF"}
    shoal.run("models", "delete", "acme/plain", "--yes").expect(0)
    assert list(delivered(to)) == ["tiny-7b-Q2_K.gguf"]
    assert [model["repo_id"] for model in listed(shoal)] == ["acme/Tiny-7B-GGUF"]
    shoal.run("verify", to).expect(0)


def test_a_damaged_index_is_made_again(shoal: Shoal) -> None:
    shoal.get("acme/plain")
    before = listed(shoal)
    state = shoal.home / "state/shoal/library"
    for damage in (b"", b"\0" * 100, (state / "index.json").read_bytes()[:-20], b'{"version": 1}'):
        (state / "index.json").write_bytes(damage)
        assert listed(shoal) == before
    shutil.rmtree(state)
    assert listed(shoal) == before, "the Hub cache is looked at whatever is remembered"
