"""Samples of a collected dataset: first rows, pictures by their own bytes, nothing outside of the dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.common.errors import NotFound, StateDamaged, UnsafeName
from shoal.coordinator.collect.samples import ROWS_MAX, media_type, sample_image, sample_rows
from support.datasets import Dataset, row


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    made = Dataset(folder=tmp_path / "birds")
    for host, rows in (("a.example", 3), ("b.example", 100)):
        made.put(host, 0, [row(number, host) for number in range(rows)])
    made.put("a.example", 1, [row(900, "a.example")])
    return made


def test_samples_come_from_each_host_in_turn(dataset: Dataset) -> None:
    found = sample_rows(dataset.folder, host="", per_host=2, limit=10)
    assert [(each.host, each.partition, each.row) for each in found] == [
        ("a.example", 0, 0),
        ("a.example", 0, 1),
        ("b.example", 0, 0),
        ("b.example", 0, 1),
    ]
    assert all(each.uuid and each.url.startswith("http") and each.width for each in found)
    assert len(sample_rows(dataset.folder, host="", per_host=2, limit=3)) == 3
    assert [each.partition for each in sample_rows(dataset.folder, host="a.example", per_host=1, limit=9)] == [
        0,
        0,
        0,
        1,
    ]
    assert len(sample_rows(dataset.folder, host="b.example", per_host=1, limit=1000)) == ROWS_MAX


def test_a_sample_is_the_picture_that_was_collected(dataset: Dataset) -> None:
    data, kind = sample_image(dataset.folder, host="a.example", partition=0, row=2)
    assert kind == "image/jpeg" and data == row(2, "a.example")["image"]
    assert sample_image(dataset.folder, host="b.example", partition=0, row=ROWS_MAX - 1)[0]


@pytest.mark.parametrize(
    ("host", "partition", "number"),
    [
        ("a.example", 0, 3),
        ("a.example", 7, 0),
        ("c.example", 0, 0),
        ("b.example", 0, 99),
        ("../..", 0, 0),
        ("..", 0, 0),
    ],
)
def test_what_is_not_there_is_not_found(dataset: Dataset, host: str, partition: int, number: int) -> None:
    with pytest.raises(NotFound):
        sample_image(dataset.folder, host=host, partition=partition, row=number)


@pytest.mark.parametrize("content", [b"<svg onload=alert(1)>", b"<html>", b"", b"\x00" * 20])
def test_only_pictures_are_shown(tmp_path: Path, content: bytes) -> None:
    dataset = Dataset(folder=tmp_path / "d")
    values: dict[str, Any] = {**row(1, "a.example"), "image": content, "content_type": "image/png"}
    dataset.put("a.example", 0, [values])
    with pytest.raises(NotFound):
        sample_image(dataset.folder, host="a.example", partition=0, row=0)


def test_planted_links_and_damaged_files_lead_nowhere(dataset: Dataset, tmp_path: Path) -> None:
    path = dataset.path("a.example", 0)
    path.unlink()
    path.symlink_to(dataset.path("a.example", 1))
    with pytest.raises(UnsafeName):
        sample_image(dataset.folder, host="a.example", partition=0, row=0)
    path.unlink()
    path.write_bytes(b"PAR1 no")
    with pytest.raises(StateDamaged):
        sample_image(dataset.folder, host="a.example", partition=0, row=0)
    with pytest.raises(NotFound):
        sample_rows(tmp_path / "nothing", host="", per_host=1, limit=1)


def test_media_types_are_told_by_first_bytes() -> None:
    assert media_type(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert media_type(b"RIFF\0\0\0\0WEBPVP8 ") == "image/webp"
    assert media_type(b"RIFF\0\0\0\0AVI LIST") == media_type(b"") == ""
