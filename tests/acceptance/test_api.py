"""``from shoal.client import download``: the same as the command, in this process, with nothing left open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.client import download
from shoal.common.errors import NotFound, Refused, UsageError, VerificationFailed
from support.cli import delivered
from support.contents import SyntheticFile, read_all
from support.faults import FlipByte
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

FILES = {"config.json": b"{}", "sub/model.safetensors": read_all(SyntheticFile(5 << 20, seed=1))}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with hub_in_thread([HubRepo("acme/tiny", FILES)]) as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        yield stand_in


def test_download_returns_paths_and_digests(hub: StandInHub, tmp_path: Path) -> None:
    result = download("hf://acme/tiny", to=tmp_path / "to")
    assert result.folder == tmp_path / "to"
    assert delivered(tmp_path / "to") == FILES
    assert {file.path: file.path.read_bytes() for file in result.files} == {
        tmp_path / "to" / name: data for name, data in FILES.items()
    }
    digests = {file.path.name: file.digest for file in result.files}
    assert digests["model.safetensors"] == f"sha256:{hashlib.sha256(FILES['sub/model.safetensors']).hexdigest()}"
    assert len(result.commit) == 40
    assert not any(file.skipped for file in result.files)
    assert all(file.skipped for file in download("acme/tiny", to="to").files)


def test_download_into_the_cache(hub: StandInHub, tmp_path: Path) -> None:
    result = download("acme/tiny", include=["*.json"])
    (file,) = result.files
    assert file.path == result.folder / "config.json"
    assert file.path.read_bytes() == b"{}"
    assert result.folder.is_relative_to(tmp_path / "hf/hub/models--acme--tiny/snapshots")


def test_download_raises_what_went_wrong(hub: StandInHub, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="acme/absent"):
        download("acme/absent", to=tmp_path / "to")
    with pytest.raises(UsageError):
        download("nonsense://", to=tmp_path / "to")
    with pytest.raises(Refused, match=r"security\.deny"):
        download("acme/tiny", to=tmp_path / "to", settings={"security.deny": ["acme/*"]})
    hub.faults.add(FlipByte(), path="config.json")
    with pytest.raises(VerificationFailed, match=r"config\.json"):
        download("acme/tiny", to=tmp_path / "to", settings={"fetch.attempts": 1})
    assert set(delivered(tmp_path / "to")) == {"sub/model.safetensors"}
