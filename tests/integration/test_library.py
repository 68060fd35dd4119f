"""The library beside the Hub's real client: what one wrote the other sees alike, before and after a deletion."""

# The client's own annotations leave type arguments out.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from shoal.common.errors import Busy, NotFound
from shoal.common.library.deletion import delete
from shoal.common.library.library import Library
from shoal.common.library.query import Query
from shoal.common.library.records import Model, Place
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

FILES = {
    "config.json": b'{"torch_dtype": "bfloat16"}',
    "copy/config.json": b'{"torch_dtype": "bfloat16"}',  # the same blob
    "model.safetensors": os.urandom(50_000),
    "tokenizer.json": b"{}",
}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    disable_progress_bars()
    repos = [
        HubRepo("acme/tiny", FILES),
        HubRepo("acme/words", {"train.csv": b"a,b\n" * 100}, kind="dataset"),
        HubRepo("other/Tiny-7B-GGUF", {f"tiny-7b-{label}.gguf": os.urandom(1000) for label in ("Q4_K_M", "Q8_0")}),
    ]
    with hub_in_thread(repos) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def library(tmp_path: Path, cache: Path) -> Library:
    return Library([cache], tmp_path / "state", clock=lambda: time.time() + 60)


def fetch(hub: StandInHub, cache: Path, repo_id: str, **options: str) -> str:
    return snapshot_download(repo_id, cache_dir=cache, endpoint=hub.url, token=False, **options)


def new_revision(hub_repo: HubRepo) -> str:
    return hub_repo.commit({"model.safetensors": os.urandom(60_000)})


def only(library: Library) -> Model:
    models = library.models()
    assert len(models) == 1
    return models[0]


def agree(library: Library, cache: Path) -> None:
    """The library and the client name the same repos, revisions, refs, sizes; the client finds nothing odd."""
    seen = scan_cache_dir(cache)
    assert not seen.warnings
    theirs = {
        (repo.repo_type, repo.repo_id): (
            repo.size_on_disk,
            repo.nb_files,
            {each.commit_hash: (each.refs, each.size_on_disk, len(each.files)) for each in repo.revisions},
        )
        for repo in seen.repos
    }
    ours = {
        (model.kind, model.repo_id): (
            model.bytes,
            model.files,
            {each.commit: (frozenset(each.refs), each.bytes, each.files) for each in model.revisions},
        )
        for model in library.models()
    }
    assert ours == theirs
    assert library.page(Query()).bytes == seen.size_on_disk


def test_a_cache_that_the_client_wrote(hub: StandInHub, library: Library, cache: Path) -> None:
    fetch(hub, cache, "acme/tiny")
    fetch(hub, cache, "acme/words", repo_type="dataset")
    fetch(hub, cache, "other/Tiny-7B-GGUF")
    agree(library, cache)
    models = {model.repo_id: model for model in library.models()}
    assert models["acme/tiny"].files == 3  # two paths are one blob
    assert models["acme/tiny"].quantizations == ("BF16",)
    assert models["other/Tiny-7B-GGUF"].quantizations == ("Q4_K_M", "Q8_0")
    assert (models["other/Tiny-7B-GGUF"].owner, models["other/Tiny-7B-GGUF"].family) == ("other", "Tiny")
    assert models["acme/words"].source == "hf://datasets/acme/words"
    files = {file.path: file.bytes for file in library.files(models["acme/tiny"])}
    assert files == {path: len(content) for path, content in FILES.items()}


def test_one_revision_goes_and_the_other_stays_whole(hub: StandInHub, library: Library, cache: Path) -> None:
    repo = hub.add(HubRepo("acme/two", FILES))
    first = Path(fetch(hub, cache, "acme/two")).name
    hf_hub_download("acme/two", "config.json", cache_dir=cache, endpoint=hub.url, revision=first)
    new_revision(repo)
    second = fetch(hub, cache, "acme/two")
    agree(library, cache)
    model = only(library)
    assert len(model.revisions) == 2
    assert model.bytes == sum(map(len, FILES.values())) - len(FILES["config.json"]) + 60_000

    plan = library.plan_deletion(model, revision=first[:8])
    theirs = scan_cache_dir(cache).delete_revisions(first)
    listing = (cache / f"models--acme--two/trees/{first}.json").stat().st_size  # the client does not count it
    assert (plan.revision, plan.frees) == (first, theirs.expected_freed_size + listing)
    assert theirs.expected_freed_size == 50_000
    assert not plan.kept
    done = library.delete(plan)
    assert not done.failed
    agree(library, cache)
    assert [each.commit for each in only(library).revisions] == [repo.sha]
    hub.log.clear()
    assert fetch(hub, cache, "acme/two", revision=repo.sha) == second
    assert not hub.log.count(kind="resolve"), "the other revision is whole"


def test_all_of_a_repo_goes_and_the_client_has_nothing_to_say(hub: StandInHub, library: Library, cache: Path) -> None:
    fetch(hub, cache, "acme/tiny")
    fetch(hub, cache, "other/Tiny-7B-GGUF")
    with pytest.raises(Exception, match="404"):
        hf_hub_download("acme/tiny", "absent.json", cache_dir=cache, endpoint=hub.url)
    assert list(cache.glob("models--acme--tiny/.no_exist/*/absent.json"))
    size = sum(path.lstat().st_size for path in (cache / "models--acme--tiny/blobs").iterdir())
    plan = library.plan_deletion(library.find("acme/tiny"))
    assert plan.frees >= size
    assert not plan.kept
    assert not library.delete(plan).failed
    assert not (cache / "models--acme--tiny").exists()
    assert not (cache / ".locks/models--acme--tiny").exists()
    agree(library, cache)
    assert only(library).repo_id == "other/Tiny-7B-GGUF"
    with pytest.raises(NotFound):
        library.plan_deletion(plan.model)
    fetch(hub, cache, "acme/tiny")
    agree(library, cache)


def test_what_nobody_named_stays(hub: StandInHub, library: Library, cache: Path, tmp_path: Path) -> None:
    fetch(hub, cache, "acme/tiny")
    repo = cache / "models--acme--tiny"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (repo / "notes.txt").write_text("mine")
    (repo / "blobs/todo.txt").write_text("mine")
    snapshot = next((repo / "snapshots").iterdir())
    (snapshot / "finetuned.safetensors").write_text("mine")
    (snapshot / "elsewhere").symlink_to(outside)
    (repo / "refs/elsewhere").symlink_to(outside)
    (repo / "snapshots/my experiment").mkdir()
    (repo / "snapshots/my experiment/result").write_text("mine")
    plan = library.plan_deletion(library.find("acme/tiny"))
    named = {path.removeprefix("models--acme--tiny/") for path, _ in plan.kept}
    inside = f"snapshots/{snapshot.name}"
    assert named == {
        *("notes.txt", "blobs/todo.txt", "refs/elsewhere", "snapshots/my experiment"),
        *(f"{inside}/finetuned.safetensors", f"{inside}/elsewhere"),
    }
    library.delete(plan)
    left = {path.relative_to(repo).as_posix() for path in repo.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert left == (named - {"snapshots/my experiment"}) | {"snapshots/my experiment/result"}
    assert (outside / "precious").read_text() == "mine"


def test_nothing_goes_while_the_client_downloads(hub: StandInHub, library: Library, cache: Path) -> None:
    fetch(hub, cache, "acme/tiny")
    lock = next((cache / ".locks/models--acme--tiny").glob("*.lock"), None)
    if lock is None:
        lock = cache / ".locks/models--acme--tiny/0.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    plan = library.plan_deletion(library.find("acme/tiny"))
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="a download is at work"):
            library.delete(plan)
    agree(library, cache)
    library.delete(plan)
    assert not library.models()


def test_a_folder_that_the_client_wrote(hub: StandInHub, tmp_path: Path) -> None:
    folder = tmp_path / "models/tiny"
    snapshot_download("acme/tiny", local_dir=folder, endpoint=hub.url, token=False)
    library = Library([tmp_path / "models"], tmp_path / "state")
    model = only(library)
    assert (model.place, model.kind, model.repo_id, model.source) == (Place.FOLDER, "model", "tiny", "")
    assert model.bytes == sum(map(len, FILES.values()))
    assert [each.commit for each in model.revisions] == [HfApi(endpoint=hub.url).model_info("acme/tiny").sha]
    lock = next((folder / ".cache/huggingface/download").rglob("*.lock"))
    with lock.open("r+") as held:  # as the client does while it downloads the file
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="a download is at work"):
            delete(library.plan_deletion(model))
    (folder / "mine.txt").write_text("mine")
    plan = library.plan_deletion(model)
    assert [path for path, _ in plan.kept] == ["mine.txt"]
    delete(plan)
    assert [path.name for path in folder.rglob("*")] == ["mine.txt"]
    assert not library.models()


def test_blobs_that_repos_share_count_once_and_stay(hub: StandInHub, library: Library, cache: Path) -> None:
    """The client's own store of shared blobs (``blobs/XX/HASH``), laid out by hand as it does for Xet files."""
    fetch(hub, cache, "acme/tiny")
    twin = hub.add(HubRepo("acme/twin", FILES))
    fetch(hub, cache, "acme/twin")
    etag = twin.file("model.safetensors").etag
    store = cache / "blobs" / "ab" / f"ab{'0' * 62}"
    store.parent.mkdir(parents=True)
    (cache / "blobs/.huggingface-shared-blobs").write_text("1\n")
    for name in ("models--acme--tiny", "models--acme--twin"):
        blob = cache / name / "blobs" / etag
        if not store.exists():
            blob.rename(store)
        blob.unlink(missing_ok=True)
        blob.symlink_to(f"../../blobs/ab/{store.name}")
    agree(library, cache)
    library.page(Query())
    plan = library.plan_deletion(library.find("acme/twin"))
    assert (plan.shared, plan.frees < 50_000) == (50_000, True)
    library.delete(plan)
    assert store.exists()
    agree(library, cache)
    assert snapshot_download("acme/tiny", cache_dir=cache, local_files_only=True)
