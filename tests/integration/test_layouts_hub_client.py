"""What Shoal puts on the disk, seen by the Hub's real client: nothing is left for it to fetch, and it finds nothing odd."""

# The client's own annotations leave type arguments out.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import disable_progress_bars

from shoal.agent.storage.destination import Destination
from shoal.common.manifest import verify_folder
from shoal.common.records import JobSpec, Layout, ObjectSpec, OriginKind
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

FILES = {
    "config.json": b'{"hidden_size": 384}\n',
    "empty.txt": b"",
    "model.safetensors": os.urandom(100_000),
    "sub folder/ümlaut #1.txt": b"quoted",
    "sub folder/twin of config.json": b'{"hidden_size": 384}\n',
}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    disable_progress_bars()
    with hub_in_thread([HubRepo("acme/tiny", FILES)]) as running:
        yield running


@pytest.fixture
def repo(hub: StandInHub) -> HubRepo:
    return hub.add(HubRepo("acme/other", FILES))


Make = Callable[..., Destination]


@pytest.fixture
def make(repo: HubRepo) -> Iterator[Make]:
    made: list[Destination] = []

    def make(folder: Path, layout: Layout, *, revision: str = "main") -> Destination:
        commit = repo.find(revision)
        assert commit is not None
        job = JobSpec(
            job_id=f"j{len(made)}",
            source=f"hf://{repo.id}@{revision}",
            origin=OriginKind.HUB,
            layout=layout,
            destination=str(folder),
            repo_kind=repo.kind,
            repo_id=repo.id,
            revision=revision,
            commit=commit.sha,
        )
        made.append(Destination(job, root=Path("/"), allow=(), sync=False, agent_id="a"))
        made[-1].prepare()
        return made[-1]

    yield make
    for destination in made:
        destination.close()


def specs(repo: HubRepo, revision: str = "main") -> dict[str, ObjectSpec]:
    """The objects of a revision, as the Hub's listing describes them."""
    commit = repo.find(revision)
    assert commit is not None
    described = {path: repo.file(path, revision) for path in commit.files}
    return {
        path: ObjectSpec(
            object_id=number,
            path=path,
            size=file.content.size,
            digest=f"sha256:{file.sha256}" if file.sha256 else f"git-sha1:{file.oid}",
            etag=file.etag,
        )
        for number, (path, file) in enumerate(described.items())
    }


def fetch(destination: Destination, objects: dict[str, ObjectSpec], files: dict[str, bytes]) -> None:
    """What an agent does, with bytes that need no network; large ones through a partial file."""
    for path, spec in objects.items():
        if destination.find_present(spec) is not None:
            continue
        if len(files[path]) < 1000:
            destination.publish_bytes(spec, [files[path]], digest=spec.digest, etag=spec.etag)
            continue
        partial = destination.open_partial(spec)
        partial.write(memoryview(files[path]), 0)
        partial.mark(0, len(files[path]))
        destination.publish(spec, partial, digest=spec.digest, etag=spec.etag)
    destination.finalize(objects.values())


def assert_holds(folder: Path, files: dict[str, bytes]) -> None:
    assert {path: (folder / path).read_bytes() for path in files} == files


def assert_only_listed(hub: StandInHub) -> None:
    """The client asked what there is and fetched nothing, not even a file's metadata."""
    assert hub.log.bytes_served == 0
    assert hub.log.count(kind="resolve") == 0
    assert len(hub.log.records) > 0


def test_a_folder_is_complete_for_the_client(hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path):
    folder = tmp_path / "dir"
    fetch(make(folder, Layout.FOLDER), specs(repo), FILES)
    snapshot_download(repo.id, local_dir=folder, endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert_only_listed(hub)
    assert_holds(folder, FILES)
    for path in FILES:
        hf_hub_download(repo.id, path, local_dir=folder, revision=repo.sha, endpoint=hub.url, cache_dir=tmp_path / "c")
    assert_only_listed(hub)
    assert verify_folder(folder, on_problem=lambda problem: pytest.fail(str(problem))).checked == len(FILES)


def test_a_folder_at_a_new_commit_costs_the_client_no_file_bytes(
    hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path
):
    folder = tmp_path / "dir"
    fetch(make(folder, Layout.FOLDER), specs(repo), FILES)
    repo.commit({"config.json": b"{}"})
    changed = {**FILES, "config.json": b"{}"}
    fetch(make(folder, Layout.FOLDER), specs(repo), changed)
    snapshot_download(repo.id, local_dir=folder, endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert_only_listed(hub)
    assert_holds(folder, changed)


def test_a_folder_that_the_client_made_costs_us_no_fetch(hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path):
    folder = tmp_path / "dir"
    snapshot_download(repo.id, local_dir=folder, endpoint=hub.url, cache_dir=tmp_path / "cache")
    destination = make(folder, Layout.FOLDER)
    assert all(destination.find_present(spec) for spec in specs(repo).values())
    destination.finalize(specs(repo).values())
    hub.log.clear()
    snapshot_download(repo.id, local_dir=folder, endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert_only_listed_or_cached(hub)


def assert_only_listed_or_cached(hub: StandInHub) -> None:
    """As assert_only_listed, where the client has a listing of its own already."""
    assert hub.log.bytes_served == 0
    assert hub.log.count(kind="resolve") == 0


def test_the_client_notices_a_file_that_was_changed_later(hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path):
    """Our metadata must not vouch for what somebody did to the file afterwards."""
    folder = tmp_path / "dir"
    fetch(make(folder, Layout.FOLDER), specs(repo), FILES)
    path = folder / "model.safetensors"
    path.write_bytes(b"x" * len(FILES["model.safetensors"]))
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))
    snapshot_download(repo.id, local_dir=folder, endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert_holds(folder, FILES)
    assert hub.log.bytes_served >= len(FILES["model.safetensors"])


def test_a_cache_is_complete_for_the_client_online(hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path):
    fetch(make(tmp_path, Layout.HUB_CACHE), specs(repo), FILES)
    folder = Path(snapshot_download(repo.id, cache_dir=tmp_path, endpoint=hub.url))
    assert_only_listed(hub)
    assert_holds(folder, FILES)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(FILES)


def test_a_cache_is_complete_for_the_client_offline(repo: HubRepo, make: Make, tmp_path: Path):
    fetch(make(tmp_path, Layout.HUB_CACHE), specs(repo), FILES)
    for revision in ("main", None, repo.sha):
        folder = Path(snapshot_download(repo.id, revision=revision, cache_dir=tmp_path, local_files_only=True))
        assert_holds(folder, FILES)
    for path, content in FILES.items():
        found = hf_hub_download(repo.id, path, cache_dir=tmp_path, local_files_only=True)
        assert Path(found).read_bytes() == content
        assert try_to_load_from_cache(repo.id, path, cache_dir=tmp_path) == found


def test_a_cache_works_in_a_process_that_is_offline(repo: HubRepo, make: Make, tmp_path: Path):
    """As ``from_pretrained`` asks: a branch by name, without a word about local files, under HF_HUB_OFFLINE=1."""
    fetch(make(tmp_path, Layout.HUB_CACHE), specs(repo), FILES)
    code = (
        "import sys; from huggingface_hub import *\n"
        f"path = hf_hub_download({repo.id!r}, 'config.json')\n"
        f"folder = snapshot_download({repo.id!r})\n"
        "sys.stdout.write(open(path).read())"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    assert ran.stderr == b""
    assert ran.stdout == FILES["config.json"]


def test_a_part_of_a_repo_is_found_by_the_client(repo: HubRepo, make: Make, tmp_path: Path):
    """What was left out by --include does not make the client call the snapshot incomplete."""
    chosen = {path: spec for path, spec in specs(repo).items() if path.endswith(".json")}
    fetch(make(tmp_path, Layout.HUB_CACHE), chosen, FILES)
    folder = Path(snapshot_download(repo.id, cache_dir=tmp_path, local_files_only=True))
    assert_holds(folder, {path: FILES[path] for path in chosen})


def test_the_client_completes_a_part_by_what_is_missing(hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path):
    chosen = {path: spec for path, spec in specs(repo).items() if path != "empty.txt"}
    fetch(make(tmp_path, Layout.HUB_CACHE), chosen, FILES)
    folder = Path(snapshot_download(repo.id, cache_dir=tmp_path, endpoint=hub.url))
    assert_holds(folder, FILES)
    assert {record.path for record in hub.log.where(kind="resolve")} == {"empty.txt"}


def test_a_cache_that_the_client_made_costs_us_no_fetch(hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path):
    snapshot_download(repo.id, cache_dir=tmp_path, endpoint=hub.url)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    destination = make(tmp_path, Layout.HUB_CACHE)
    assert all(destination.find_present(spec) for spec in specs(repo).values())
    destination.finalize(specs(repo).values())
    after = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if ".shoal" not in path.parts)
    assert after == before
    assert verify_folder(tmp_path, on_problem=lambda problem: pytest.fail(str(problem))).checked == len(FILES)


def test_two_revisions_share_their_blobs(repo: HubRepo, make: Make, tmp_path: Path):
    repo.point("refs/tags/v1")
    repo.commit({"config.json": b"{}"})
    for revision, files in (("v1", FILES), ("main", {**FILES, "config.json": b"{}"})):
        fetch(make(tmp_path, Layout.HUB_CACHE, revision=revision), specs(repo, revision), files)
        folder = Path(snapshot_download(repo.id, revision=revision, cache_dir=tmp_path, local_files_only=True))
        assert_holds(folder, files)
    (info,) = scan_cache_dir(tmp_path).repos
    assert {ref for revision in info.revisions for ref in revision.refs} == {"v1", "main"}
    assert info.nb_files == 5  # blobs: four of the first revision (two files are twins) and the new config.json


def assert_nothing_odd(cache: Path, *, revisions: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = scan_cache_dir(cache)
    assert info.warnings == []
    assert info.incomplete_files == frozenset()
    (found,) = info.repos
    assert (found.repo_id, found.repo_type, len(found.revisions)) == ("acme/other", "model", revisions)


def test_the_clients_scan_finds_nothing_odd_before_during_and_after(repo: HubRepo, make: Make, tmp_path: Path):
    destination, objects = make(tmp_path, Layout.HUB_CACHE), specs(repo)
    assert_nothing_odd(tmp_path, revisions=0)
    partial = destination.open_partial(objects["model.safetensors"])
    destination.publish_bytes(
        objects["config.json"], [FILES["config.json"]], digest=objects["config.json"].digest, etag=""
    )
    assert_nothing_odd(tmp_path, revisions=1)
    partial.close()
    fetch(destination, objects, FILES)
    assert_nothing_odd(tmp_path, revisions=1)


def test_a_job_of_no_files_leaves_a_cache_with_nothing_odd(make: Make, tmp_path: Path):
    make(tmp_path, Layout.HUB_CACHE).finalize([])
    assert_nothing_odd(tmp_path, revisions=1)


def hf(*arguments: str, cache: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": endpoint, "NO_COLOR": "1"}
    command = [str(Path(sys.executable).with_name("hf")), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_the_clients_command_line_works_on_our_cache(hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path):
    fetch(make(tmp_path, Layout.HUB_CACHE), specs(repo), FILES)
    listed = hf("cache", "ls", cache=tmp_path, endpoint=hub.url)
    assert listed.returncode == 0, listed.stderr
    assert "acme/other" in listed.stdout
    assert "warning" not in (listed.stdout + listed.stderr).lower()
    verified = hf("cache", "verify", repo.id, "--fail-on-extra-files", cache=tmp_path, endpoint=hub.url)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    removed = hf("cache", "rm", f"model/{repo.id}", "--yes", cache=tmp_path, endpoint=hub.url)
    assert removed.returncode == 0, removed.stdout + removed.stderr
    assert not (tmp_path / "models--acme--other").exists()


@pytest.mark.slow
def test_the_clients_command_line_finds_our_folder_complete(hub: StandInHub, repo: HubRepo, make: Make, tmp_path: Path):
    folder = tmp_path / "dir"
    fetch(make(folder, Layout.FOLDER), specs(repo), FILES)
    ran = hf("download", repo.id, "--local-dir", str(folder), cache=tmp_path / "cache", endpoint=hub.url)
    assert ran.returncode == 0, ran.stderr
    assert_only_listed(hub)


def test_the_client_is_the_one_that_was_read():
    """The layouts were read in its source; a change of these names would be a change of them."""
    assert (constants.REPO_ID_SEPARATOR, constants.DEFAULT_REVISION) == ("--", "main")
