"""A request is checked when it is made, and says which of its fields is wrong."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from shoal.client.requests import (
    DeliveryFailed,
    DistributedResult,
    DownloadRequest,
    FailedRequest,
    submit_request,
)
from shoal.client.sdk import SubmitOptions
from shoal.common.errors import NotFound, UsageError
from shoal.common.records import Delivery, Layout
from shoal.common.views import JobStatus, JobView, ReplicaStatus, ReplicaView

HUB = ("https://huggingface.co",)
GOOD: dict[str, Any] = {"uri": "s3://bucket/model/", "destination": "/data/model"}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("uri", {"uri": "nonsense://x"}),
        ("uri", {"uri": ""}),
        ("uri", {"uri": 7}),
        ("destination", {"destination": ""}),
        ("destination", {"destination": "a\0b"}),
        ("destination", {"destination": None}),
        ("destination", {"destination": "hf-cache"}),
        ("cache", {"cache": "yes"}),
        ("unpack", {"unpack": ""}),
        ("unpack", {"unpack": True}),
        ("unpack_format", {"unpack": "auto", "unpack_format": "rar"}),
        ("unpack_format", {"unpack_format": "zip"}),
        ("profile_name", {"profile_name": None}),
        ("include", {"include": "*.bin"}),
        ("exclude", {"exclude": [1]}),
        ("revision", {"revision": "main"}),
        ("revision", {"uri": "hf://acme/tiny", "revision": "a..b"}),
        ("sha256", {"uri": "s3://bucket/object", "sha256": "abc"}),
        ("sha256", {"sha256": "a" * 64}),
        ("name", {"name": 3}),
    ],
)
def test_an_error_names_the_field(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        DownloadRequest(**{**GOOD, **values})
    assert caught.value.thing == field


def test_a_request_cannot_be_changed_and_keeps_what_was_said() -> None:
    globs = ["*.bin"]
    request = DownloadRequest(uri="hf://acme/tiny", destination=Path("/data/x"), include=globs)
    globs.append("*")
    assert (request.destination, request.include) == ("/data/x", ("*.bin",))
    with pytest.raises(FrozenInstanceError):
        request.uri = "hf://acme/other"  # type: ignore[misc]
    assert hash(request) == hash(DownloadRequest(uri="hf://acme/tiny", destination="/data/x", include=("*.bin",)))


def test_in_the_coordinators_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    made = DownloadRequest(
        uri="s3://bucket/model/",
        destination="to",
        cache=False,
        unpack="archives",
        unpack_format="tar.zst",
        profile_name="models",
        exclude=["*.md"],
        name="weights",
    ).submit_request(Delivery.REPLICATE, HUB)
    assert made.uris == ("s3://bucket/model/",)
    assert (made.destination, made.layout) == (str(tmp_path / "to"), Layout.FOLDER)
    assert (made.delivery, made.force, made.profile) == (Delivery.REPLICATE, True, "models")
    assert (made.unpack, made.unpack_format) == (str(tmp_path / "archives"), "tar.zst")
    assert (made.exclude, made.name) == (("*.md",), "weights")


def test_unpacking_where_archives_lie_and_the_hub_cache() -> None:
    made = DownloadRequest(uri="acme/tiny", destination="hf-cache", unpack="auto").submit_request(Delivery.SPREAD, HUB)
    assert (made.uris, made.destination, made.layout) == (("hf://acme/tiny",), "", Layout.HUB_CACHE)
    assert (made.unpack, made.force) == ("auto", False)


def test_a_source_without_a_cache_needs_a_folder() -> None:
    with pytest.raises(UsageError, match="folder"):
        submit_request(["s3://bucket/x"], hub_endpoints=HUB, to=None, delivery=Delivery.SPREAD)


def test_the_error_of_a_call_holds_everything() -> None:
    good, bad = DownloadRequest(**GOOD), DownloadRequest(**{**GOOD, "uri": "s3://bucket/absent"})
    lost = ReplicaView(agent_id="b", name="n2", status=ReplicaStatus.LOST)
    replicas = (ReplicaView(agent_id="a", name="n1", status=ReplicaStatus.DONE), lost)
    job = JobView(job_id="j", uri=good.uri, status=JobStatus.DONE, created_at=0.0, destination="/d", replicas=replicas)
    result = DistributedResult(request=good, job=job)
    assert (result.destination, result.lost) == ("/d", (lost,))
    error = DeliveryFailed([FailedRequest(request=bad, error=NotFound("s3://bucket/absent"))], [result])
    assert "1 of 2 requests failed" in str(error)
    assert "s3://bucket/absent" in str(error)
    assert error.results == (result,)
    assert isinstance(error.failed[0].error, NotFound)


def test_the_guides_name_every_field_and_their_examples_are_python() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    guide = (docs / "python.md").read_text(encoding="utf-8")
    for field in fields(DownloadRequest):
        assert f"`{field.name}" in guide, field.name
    for option in SubmitOptions.__annotations__:
        assert f"`{option}`" in guide, option
    for name in ("python.md", "broadcast.md"):
        blocks = re.findall(r"```python\n(.*?)```", (docs / name).read_text(encoding="utf-8"), re.DOTALL)
        assert blocks
        for block in blocks:
            compile(block, name, "exec")
