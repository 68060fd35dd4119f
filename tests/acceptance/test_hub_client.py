"""What ``shoal get`` leaves behind is what the Hub's own client would have left: it finds it, and fetches nothing again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.cli import Shoal, delivered, installed, leftovers
from support.contents import SyntheticFile, read_all
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.models import minilm_model_dir

MIB = 1 << 20
CLIENT_S = 60.0


@pytest.fixture
def model() -> Path:
    return minilm_model_dir()


@pytest.fixture
def hub(model: Path) -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo.from_dir(model, "acme/minilm")]) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=hub.url)


def client(shoal: Shoal, code: str, *arguments: Any, environ: Mapping[str, str] | None = None) -> Any:
    """Runs huggingface_hub as the same person, in a process of its own; `answer` is what it computes."""
    script = f"import json, sys\nimport huggingface_hub\na = json.loads(sys.argv[1])\n{code}\nprint(json.dumps(answer))"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([str(argument) for argument in arguments])],
        env={**shoal.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **(environ or {})},
        capture_output=True,
        text=True,
        timeout=CLIENT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


OFFLINE = {"HF_HUB_OFFLINE": "1"}


def test_a_real_model_in_a_folder(shoal: Shoal, hub: StandInHub, model: Path, tmp_path: Path) -> None:
    to = tmp_path / "minilm"
    shoal.get("hf://acme/minilm", "--to", to)
    wanted = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    wanted = {name: data for name, data in wanted.items() if not name.startswith(".cache/")}
    assert delivered(to) == wanted
    assert "model.safetensors" in wanted

    hub.log.clear()
    shoal.get("hf://acme/minilm", "--to", to)
    assert hub.log.bytes_served == 0

    subprocess.run(
        [installed("hf"), "download", "acme/minilm", "--local-dir", str(to)],
        env=shoal.environ,
        check=True,
        capture_output=True,
        timeout=CLIENT_S,
    )
    assert hub.log.bytes_served == 0, hub.log.records
    assert delivered(to) == wanted
    client(shoal, "answer = huggingface_hub.snapshot_download('acme/minilm', local_dir=a[0])", to, environ=OFFLINE)


def test_a_real_model_in_the_cache(shoal: Shoal, hub: StandInHub, model: Path) -> None:
    run = shoal.get("hf://acme/minilm")
    snapshot = Path(run.stdout.strip())
    assert snapshot.parent == shoal.cache / "models--acme--minilm" / "snapshots"
    assert (snapshot / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert leftovers(shoal.cache) == []

    hub.log.clear()
    download = """
file = huggingface_hub.hf_hub_download('acme/minilm', 'config.json')
answer = [huggingface_hub.snapshot_download('acme/minilm'), file]
"""
    offline = client(shoal, download, environ=OFFLINE)
    assert offline == [str(snapshot), str(snapshot / "config.json")]
    assert len(hub.log.records) == 0
    assert client(shoal, download) == offline
    assert hub.log.bytes_served == 0, hub.log.records
    shoal.get("hf://acme/minilm", "--to", "hf-cache")
    assert hub.log.bytes_served == 0
    assert shoal.run("verify", shoal.cache).exit_code == 0
    assert shoal.run("verify", shoal.cache / "models--acme--minilm").exit_code == 0


def test_the_client_sees_a_sound_cache(shoal: Shoal) -> None:
    shoal.get("hf://acme/minilm")
    code = """
info = huggingface_hub.scan_cache_dir()
answer = [[repo.repo_id, repo.repo_type, repo.nb_files, sorted(repo.refs)] for repo in info.repos], [str(w) for w in info.warnings]
"""
    repos, warnings = client(shoal, code, environ=OFFLINE)
    assert repos == [["acme/minilm", "model", 13, ["main"]]]
    assert warnings == []


def test_transformers_style_access_to_single_files(shoal: Shoal) -> None:
    shoal.get("hf://acme/minilm", "--include", "*.json")
    code = """
from huggingface_hub.errors import LocalEntryNotFoundError
found = huggingface_hub.try_to_load_from_cache('acme/minilm', 'tokenizer.json')
try:
    huggingface_hub.hf_hub_download('acme/minilm', 'model.safetensors')
    missing = False
except LocalEntryNotFoundError:
    missing = True
answer = [bool(found), missing]
"""
    assert client(shoal, code, environ=OFFLINE) == [True, True], "a part of a repo is not taken for the whole"


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_other_kinds(shoal: Shoal, hub: StandInHub, tmp_path: Path, kind: Any) -> None:
    files = {"README.md": b"# card", "data/x.parquet": SyntheticFile(2 * MIB)}
    hub.add(HubRepo("acme/other", files, kind=kind))
    snapshot = shoal.get(f"hf://{kind}s/acme/other").stdout.strip()
    shoal.get(f"hf://{kind}s/acme/other", "--to", tmp_path / "to")
    hub.log.clear()
    code = (
        f"answer = huggingface_hub.snapshot_download('acme/other', repo_type='{kind}', local_dir=a[0] if a else None)"
    )
    assert client(shoal, code, environ=OFFLINE) == snapshot
    assert client(shoal, code) == snapshot
    client(shoal, code, tmp_path / "to")
    assert hub.log.bytes_served == 0, hub.log.records
    assert (Path(snapshot) / "data/x.parquet").read_bytes() == read_all(SyntheticFile(2 * MIB))


def test_revisions_have_refs(shoal: Shoal, hub: StandInHub) -> None:
    repo = hub.add(HubRepo("acme/tags", {"a.txt": b"one"}))
    repo.point("refs/tags/v1")
    repo.point("refs/pr/1")
    repo.commit({"a.txt": b"two"})
    for revision in ("v1", "refs/pr/1", "main"):
        shoal.get("hf://acme/tags", "--revision", revision)
    code = "answer = [open(huggingface_hub.hf_hub_download('acme/tags', 'a.txt', revision=r)).read() for r in a]"
    assert client(shoal, code, "v1", "refs/pr/1", "main", repo.sha, environ=OFFLINE) == ["one", "one", "two", "two"]


def test_what_the_client_began_is_finished(shoal: Shoal, hub: StandInHub, model: Path, tmp_path: Path) -> None:
    """Shoal takes over the client's own downloads, in both layouts, after hashing them."""
    code = "answer = huggingface_hub.snapshot_download('acme/minilm', allow_patterns='*.json', local_dir=a[0] if a else None)"
    client(shoal, code)
    client(shoal, code, tmp_path / "to")
    hub.log.clear()
    shoal.get("hf://acme/minilm")
    shoal.get("hf://acme/minilm", "--to", tmp_path / "to")
    assert hub.log.count(kind="resolve", path="config.json") == 0
    assert hub.log.count(kind="resolve", path="model.safetensors") == 2
    assert shoal.run("verify", tmp_path / "to").exit_code == 0
    assert shoal.run("verify", shoal.cache).exit_code == 0
    assert (tmp_path / "to/vocab.txt").read_bytes() == (model / "vocab.txt").read_bytes()


def test_the_login_of_the_hub_command_line_is_used(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/private", {"a.txt": b"secret"}, private=True, readers=["hf_stored"]))
    assert "acme/private" in shoal.run("get", "hf://acme/private", "--to", tmp_path / "to").expect(3).stderr
    (shoal.home / "hf").mkdir(exist_ok=True)
    (shoal.home / "hf/token").write_text("hf_stored\n")
    shoal.get("hf://acme/private", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == {"a.txt": b"secret"}
