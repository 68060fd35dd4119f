"""Layouts: what lies where, byte for byte, without the Hub's client. Its own view is in tests/integration."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.agent.storage.cleaning import clean_folder
from shoal.agent.storage.destination import Destination
from shoal.common.errors import UnsafeName, UsageError
from shoal.common.manifest import read_manifest, verify_folder
from shoal.common.paths import SafeRoot
from shoal.common.records import JobSpec, Layout, ObjectSpec, OriginKind

COMMIT = "c0ffee" * 6 + "c0ff"
OTHER_COMMIT = "decade" * 6 + "deca"
REPO = "models--acme--tiny"


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs(path: str, content: bytes) -> ObjectSpec:
    digest = hashlib.sha256(content).hexdigest()
    return ObjectSpec(object_id=1, path=path, size=len(content), digest=f"sha256:{digest}", etag=digest)


def small(path: str, content: bytes) -> ObjectSpec:
    digest = git_sha1(content)
    return ObjectSpec(object_id=1, path=path, size=len(content), digest=f"git-sha1:{digest}", etag=digest)


Make = Callable[..., Destination]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Destination] = []

    def make(layout: Layout = Layout.HUB_CACHE, *, prepare: bool = True, **fields: Any) -> Destination:
        given: dict[str, Any] = {
            "job_id": f"j{len(made)}",
            "source": "hf://acme/tiny",
            "origin": OriginKind.HUB,
            "repo_kind": "model",
            "repo_id": "acme/tiny",
            "revision": "main",
            "commit": COMMIT,
            "destination": str(tmp_path),
            **fields,
        }
        made.append(Destination(JobSpec(layout=layout, **given), root=Path("/"), allow=(), sync=False, agent_id="a"))
        if prepare:
            made[-1].prepare()
        return made[-1]

    yield make
    for destination in made:
        destination.close()


def publish(destination: Destination, spec: ObjectSpec, content: bytes, *, through_partial: bool = False) -> str:
    if not through_partial:
        return destination.publish_bytes(spec, [content], digest=spec.digest, etag=spec.etag).path
    partial = destination.open_partial(spec)
    partial.write(memoryview(content), 0)
    partial.mark(0, len(content))
    return destination.publish(spec, partial, digest=spec.digest, etag=spec.etag).path


def tree(folder: Path) -> dict[str, str]:
    """Path -> content, or "-> target" for a symlink."""
    return {
        path.relative_to(folder).as_posix(): f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# ---- a folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through_partial", [False, True])
def test_a_hub_folder_holds_the_clients_metadata(make: Make, tmp_path: Path, through_partial: bool):
    destination = make(Layout.FOLDER)
    spec, config = lfs("sub/model.bin", b"weights"), small("config.json", b"{}")
    assert publish(destination, spec, b"weights", through_partial=through_partial) == "sub/model.bin"
    publish(destination, config, b"{}", through_partial=through_partial)
    destination.finalize([spec, config])
    found = tree(tmp_path)
    manifest = found.pop(".shoal/manifest.json")
    assert '"revision": "main", "commit": "' + COMMIT in manifest
    assert set(found) == {
        ".cache/huggingface/.gitignore",
        ".cache/huggingface/CACHEDIR.TAG",
        ".cache/huggingface/download/config.json.metadata",
        ".cache/huggingface/download/sub/model.bin.metadata",
        "config.json",
        "sub/model.bin",
    }
    assert found[".cache/huggingface/.gitignore"].strip() == "*"
    assert found[".cache/huggingface/CACHEDIR.TAG"].startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    for each in (spec, config):
        commit, etag, time = found[f".cache/huggingface/download/{each.path}.metadata"].splitlines()
        assert (commit, etag) == (COMMIT, each.etag)
        assert abs(float(time) - (tmp_path / each.path).stat().st_mtime) < 1e-3


def test_a_file_that_is_found_present_gets_metadata_of_the_new_commit(make: Make, tmp_path: Path):
    spec = lfs("model.bin", b"weights")
    (tmp_path / "model.bin").write_bytes(b"weights")
    assert make(Layout.FOLDER).find_present(spec) is not None
    metadata = tmp_path / ".cache/huggingface/download/model.bin.metadata"
    assert metadata.read_text().splitlines()[:2] == [COMMIT, spec.etag]
    metadata.write_text("a much longer text than there should be " * 10)
    assert make(Layout.FOLDER, commit=OTHER_COMMIT).find_present(spec) is not None
    assert metadata.read_text().splitlines()[:2] == [OTHER_COMMIT, spec.etag]


def test_metadata_by_the_client_is_no_proof(make: Make, tmp_path: Path):
    """The client checks sizes alone, so a flipped byte may have its blessing."""
    spec = lfs("model.bin", b"weights")
    publish(make(Layout.FOLDER), spec, b"weights")
    stat = (tmp_path / "model.bin").stat()
    (tmp_path / "model.bin").write_bytes(b"wEights")
    os.utime(tmp_path / "model.bin", ns=(stat.st_mtime_ns - 1, stat.st_mtime_ns - 1))
    assert make(Layout.FOLDER).find_present(spec) is None


def test_other_sources_get_no_metadata(make: Make, tmp_path: Path):
    destination = make(Layout.FOLDER, origin=OriginKind.HTTP, source="https://example.org/", commit="")
    publish(destination, small("a", b"a"), b"a")
    destination.finalize([])
    assert set(tree(tmp_path)) == {".shoal/manifest.json", "a"}


def test_a_name_that_is_too_long_with_the_metadatas_ending_has_none(make: Make, tmp_path: Path):
    destination = make(Layout.FOLDER)
    name = "n" * 250
    publish(destination, small(name, b"a"), b"a")
    assert (tmp_path / name).read_bytes() == b"a"


def test_metadata_does_not_follow_a_planted_link(make: Make, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    destination = make(Layout.FOLDER, destination=str(tmp_path / "dir"))
    (tmp_path / "dir/.cache/huggingface/download").symlink_to(outside)
    with pytest.raises(UnsafeName):
        publish(destination, small("a", b"a"), b"a")
    assert list(outside.iterdir()) == []


def test_sources_share_a_folder_and_its_manifest(make: Make, tmp_path: Path):
    first, second = make(Layout.FOLDER), make(Layout.FOLDER, source="hf://acme/other", repo_id="acme/other")
    publish(first, small("a", b"a"), b"a")
    publish(second, small("b", b"b"), b"b")
    second.finalize([])
    first.finalize([])
    with SafeRoot(tmp_path) as root, read_manifest(root) as manifest:
        assert set(manifest.sources) == {"hf://acme/tiny", "hf://acme/other"}
        assert {entry.path: entry.source for entry in manifest} == {"a": "hf://acme/tiny", "b": "hf://acme/other"}


# ---- the Hub's cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through_partial", [False, True])
def test_a_cache_holds_blobs_snapshots_and_refs(make: Make, tmp_path: Path, through_partial: bool):
    destination = make()
    spec, config, twin = (
        lfs("sub/deep/model.bin", b"weights"),
        small("config.json", b"{}"),
        small("sub/twin.json", b"{}"),
    )
    paths = [
        publish(destination, each, content, through_partial=through_partial)
        for each, content in ((spec, b"weights"), (config, b"{}"), (twin, b"{}"))
    ]
    assert paths[0] == f"{REPO}/snapshots/{COMMIT}/sub/deep/model.bin"
    assert not (tmp_path / REPO / "refs").exists()
    destination.finalize([spec, config, twin])
    found = tree(tmp_path)
    assert found.pop("CACHEDIR.TAG").startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert found.pop(f"{REPO}/.shoal/manifest.json")
    assert found == {
        f"{REPO}/blobs/{spec.etag}": "weights",
        f"{REPO}/blobs/{config.etag}": "{}",
        f"{REPO}/refs/main": COMMIT,
        f"{REPO}/snapshots/{COMMIT}/config.json": f"-> ../../blobs/{config.etag}",
        f"{REPO}/snapshots/{COMMIT}/sub/twin.json": f"-> ../../../blobs/{config.etag}",
        f"{REPO}/snapshots/{COMMIT}/sub/deep/model.bin": f"-> ../../../../blobs/{spec.etag}",
    }
    for folder in (tmp_path, tmp_path / REPO):
        assert verify_folder(folder, on_problem=lambda problem: pytest.fail(str(problem))).checked == 3


@pytest.mark.parametrize(
    ("revision", "refs"),
    [
        ("main", {"main"}),
        ("", {"main"}),
        ("refs/pr/1", {"refs/pr/1"}),
        ("c0ffee", {"c0ffee"}),
        (COMMIT, set[str]()),
    ],
)
def test_a_ref_is_written_for_a_name_and_not_for_a_commit(make: Make, tmp_path: Path, revision: str, refs: set[str]):
    make(revision=revision).finalize([])
    folder = tmp_path / REPO / "refs"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == refs
    assert all((folder / ref).read_text() == COMMIT for ref in refs)


def test_a_ref_moves_with_its_branch(make: Make, tmp_path: Path):
    make().finalize([])
    make(commit=OTHER_COMMIT).finalize([])
    assert (tmp_path / REPO / "refs/main").read_text() == OTHER_COMMIT


def test_a_ref_stays_where_a_commit_was_asked_for_beside_it(make: Make, tmp_path: Path):
    make(commit=OTHER_COMMIT).finalize([])
    make(pinned=True).finalize([])
    assert (tmp_path / REPO / "refs/main").read_text() == OTHER_COMMIT


def test_a_new_commit_costs_only_links_for_what_did_not_change(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = lfs("model.bin", b"weights")
    first = make()
    publish(first, spec, b"weights")
    first.finalize([spec])
    monkeypatch.setattr("shoal.agent.storage.present.digest_of_file", lambda *_: pytest.fail("it was hashed"))
    second = make(commit=OTHER_COMMIT)
    found = second.find_present(spec)
    assert found is not None
    assert found.path == f"{REPO}/snapshots/{OTHER_COMMIT}/model.bin"
    assert (tmp_path / found.path).read_bytes() == b"weights"


def test_blobs_of_unknown_making_are_hashed(make: Make, tmp_path: Path):
    good, bad = lfs("good", b"good"), lfs("bad", b"bad!")
    blobs = tmp_path / REPO / "blobs"
    blobs.mkdir(parents=True)
    (blobs / good.etag).write_bytes(b"good")
    (blobs / bad.etag).write_bytes(b"bAd!")
    destination = make()
    assert destination.find_present(good) is not None
    assert destination.find_present(bad) is None
    publish(destination, bad, b"bad!")
    assert (tmp_path / REPO / "snapshots" / COMMIT / "bad").read_bytes() == b"bad!"


def test_a_blob_in_the_store_that_the_client_shares_counts(make: Make, tmp_path: Path):
    good, bad = lfs("good", b"good"), lfs("bad", b"bad!")
    blobs, store = tmp_path / REPO / "blobs", tmp_path / "blobs" / "ab"
    blobs.mkdir(parents=True)
    store.mkdir(parents=True)
    for number, (spec, content) in enumerate(((good, b"good"), (bad, b"bAd!"))):
        xet = f"ab{number:062}"
        (store / xet).write_bytes(content)
        (blobs / spec.etag).symlink_to(f"../../blobs/ab/{xet}")
    destination = make()
    assert destination.find_present(good) is not None
    assert destination.find_present(bad) is None
    publish(destination, bad, b"bad!")
    assert not (blobs / bad.etag).is_symlink()
    assert sorted(path.read_bytes() for path in store.iterdir()) == [b"bAd!", b"good"]  # the store is not ours


def test_a_blob_that_leads_elsewhere_is_replaced_not_followed(make: Make, tmp_path: Path):
    spec = lfs("model.bin", b"weights")
    destination = make(destination=str(tmp_path / "cache"))
    (tmp_path / "secret").write_bytes(b"weights")
    blob = tmp_path / "cache" / REPO / "blobs" / spec.etag
    blob.symlink_to("../../../secret")
    with pytest.raises(UnsafeName):
        destination.find_present(spec)
    publish(destination, spec, b"weights")
    assert not blob.is_symlink()


@pytest.mark.parametrize("kind", ["wrong link", "planted link", "file"])
def test_what_has_a_snapshots_name_is_replaced(make: Make, tmp_path: Path, kind: str):
    spec = lfs("model.bin", b"weights")
    destination = make()
    (tmp_path / "outside").write_bytes(b"precious")
    pointer = tmp_path / REPO / "snapshots" / COMMIT / "model.bin"
    pointer.parent.mkdir(parents=True)
    if kind == "file":
        pointer.write_bytes(b"old")
    else:
        pointer.symlink_to("../../blobs/other" if kind == "wrong link" else tmp_path / "outside")
    publish(destination, spec, b"weights")
    assert os.readlink(pointer) == f"../../blobs/{spec.etag}"
    assert (tmp_path / "outside").read_bytes() == b"precious"
    assert not list((tmp_path / REPO / ".shoal/partial").iterdir())


@pytest.mark.parametrize("name", [REPO, f"{REPO}/blobs", f"{REPO}/snapshots", f"{REPO}/.shoal"])
def test_a_planted_folder_link_is_refused(make: Make, tmp_path: Path, name: str):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "cache" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(UnsafeName):
        make(destination=str(tmp_path / "cache"))
    assert list(outside.iterdir()) == []


def test_without_symlinks_files_lie_in_the_snapshot(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def symlink(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("shoal.common.safe_root.os.symlink", symlink)
    destination = make()
    spec, config = lfs("sub/model.bin", b"weights"), small("config.json", b"{}")
    publish(destination, spec, b"weights", through_partial=True)
    publish(destination, config, b"{}")
    destination.finalize([spec, config])
    snapshot = tmp_path / REPO / "snapshots" / COMMIT
    assert tree(snapshot) == {"config.json": "{}", "sub/model.bin": "weights"}
    assert list((tmp_path / REPO / "blobs").iterdir()) == []
    assert make().find_present(spec) is not None
    assert verify_folder(tmp_path, on_problem=lambda problem: pytest.fail(str(problem))).checked == 2


def test_without_a_digest_the_etag_names_the_blob(make: Make, tmp_path: Path):
    spec = ObjectSpec(object_id=1, path="a", size=1, etag="abc-1")
    destination = make()
    digest = "sha256:" + hashlib.sha256(b"a").hexdigest()
    destination.publish_bytes(spec, [b"a"], digest=digest, etag="abc-1")
    assert (tmp_path / REPO / "blobs/abc-1").read_bytes() == b"a"
    assert destination.find_present(spec) is not None
    assert destination.find_present(ObjectSpec(object_id=1, path="a", size=1)) is None


@pytest.mark.parametrize("etag", ["../../x", "a/b", ".hidden", "x" * 200, "a b"])
def test_an_etag_that_is_no_file_name_is_refused(make: Make, tmp_path: Path, etag: str):
    destination = make()
    spec = ObjectSpec(object_id=1, path="a", size=1, etag=etag)
    with pytest.raises(UnsafeName):
        destination.publish_bytes(spec, [b"a"], digest="sha256:" + hashlib.sha256(b"a").hexdigest(), etag="")
    assert not list((tmp_path / REPO / "blobs").iterdir())
    assert not list((tmp_path / REPO / ".shoal/partial").iterdir())


@pytest.mark.parametrize(
    "fields",
    [
        {"repo_id": "../../etc"},
        {"repo_id": "a/b/c"},
        {"repo_id": ".."},
        {"repo_id": "a/.."},
        {"repo_id": ""},
        {"repo_kind": "kernel"},
        {"repo_kind": ""},
        {"commit": ""},
        {"commit": "../x"},
        {"commit": "a/b"},
    ],
)
def test_only_a_hub_repo_at_a_commit_goes_into_the_cache(make: Make, tmp_path: Path, fields: dict[str, str]):
    with pytest.raises(UsageError):
        make(**fields)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_revision_that_leads_elsewhere_is_refused(make: Make, tmp_path: Path):
    with pytest.raises(UnsafeName):
        make(revision="../../up").finalize([])
    assert not (tmp_path / "up").exists()


def test_datasets_and_spaces_have_their_own_folders(make: Make, tmp_path: Path):
    for kind in ("dataset", "space"):
        publish(make(repo_kind=kind, repo_id="gpt2"), small("a", b"a"), b"a")
    assert {path.name for path in tmp_path.iterdir()} >= {"datasets--gpt2", "spaces--gpt2"}


def test_clean_reaches_the_repos_of_a_cache(make: Make, tmp_path: Path):
    destination = make()
    destination.open_partial(lfs("model.bin", b"weights")).close()
    destination.close()
    removed = clean_folder(tmp_path, older_than_s=0, now=4e9)
    assert {Path(name).suffix for name in removed} == {".part", ".map", ".marker"}
    assert not (tmp_path / REPO / ".shoal").exists()
