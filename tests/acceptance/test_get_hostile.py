"""Hostile names, planted links, full disks: nothing outside of the destination is touched, and the good files arrive."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import Shoal, delivered
from support.contents import SyntheticFile, read_all
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.origin import FaultOrigin
from support.stand_in import in_thread

MIB = 1 << 20
GOOD = {"config.json": b"{}", "sub/model.safetensors": read_all(SyntheticFile(3 * MIB, seed=2))}
HOSTILE = [
    "../escape.txt",
    "sub/../../escape.txt",
    "..",
    ".",
    "/etc/shoal-was-here",
    "//double",
    "sub//empty",
    "nul\0byte.txt",
    "new\nline.txt",
    "escape\x1b[2Jsequence.txt",
    "bell\x07.txt",
    "right\u202eto-left.txt",
    "zero\u200bwidth.txt",
    "back\\slash.txt",
    "C:drive.txt",
    "con",
    "aux.txt",
    "trailing.",
    "trailing ",
    "x" * 300,
    "é" * 130,
    "deep/" * 1000 + "file",
    ".shoal/manifest.json",
    ".SHOAL/manifest.json",
    ".cache/huggingface/download/config.json.metadata",
]


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/good", GOOD)]) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=hub.url)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folder", "hf-cache"])
def test_every_hostile_name_is_refused_and_the_others_arrive(
    shoal: Shoal, hub: StandInHub, tmp_path: Path, layout: str
) -> None:
    hub.add(HubRepo("acme/hostile", {**GOOD, **dict.fromkeys(HOSTILE, b"owned")}))
    around = tmp_path / "around"
    around.mkdir()
    to = around / "to" if layout == "folder" else "hf-cache"
    run = shoal.run("get", "hf://acme/hostile", "--to", to, "--json").expect(7)
    (job,) = run.document()["jobs"]
    assert job["objects_done"] == len(GOOD)
    assert job["objects_failed"] == len(HOSTILE) == len(job["failed"])
    assert {failed["failure"]["code"] for failed in job["failed"]} == {"unsafe-name"}
    if layout == "folder":
        assert delivered(around / "to") == GOOD
        assert {path.name for path in around.iterdir()} == {"to"}
    else:
        (snapshot,) = shoal.cache.glob("models--acme--hostile/snapshots/*")
        assert delivered(snapshot) == GOOD
        assert {path.name for path in around.iterdir()} == set()
    assert not Path("/etc/shoal-was-here").exists()
    assert hub.log.count(kind="resolve") == len(GOOD)
    shown = run.stderr.replace("\n", "")
    assert shown.isprintable(), "nothing from outside reaches the terminal unescaped"


def test_the_same_again_is_refused_again_but_fetches_nothing(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/hostile", {**GOOD, "../escape.txt": b"owned"}))
    shoal.run("get", "hf://acme/hostile", "--to", tmp_path / "to").expect(7)
    hub.log.clear()
    run = shoal.run("get", "hf://acme/hostile", "--to", tmp_path / "to").expect(7)
    assert "escape.txt" in run.stderr and "--exclude" in run.stderr
    assert hub.log.bytes_served == 0
    dry = shoal.run("get", "hf://acme/hostile", "--dry-run").expect(7)
    assert "escape.txt" in dry.stderr and "escape.txt" not in dry.stdout
    shoal.get("hf://acme/hostile", "--to", tmp_path / "to", "--exclude", "../*")


def test_a_refused_name_and_a_failure_are_not_only_policy(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    from support.faults import FlipByte

    hub.add(HubRepo("acme/hostile", {**GOOD, "../escape.txt": b"owned"}))
    hub.faults.add(FlipByte(), path="config.json")
    shoal.run("get", "hf://acme/hostile", "--to", tmp_path / "to").expect(1)


def test_names_that_differ_only_in_case_or_form(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    """Both arrive where the file system keeps them apart, and the user is told that others would not."""
    twins = {"README.md": b"upper", "readme.md": b"lower", "caf\u00e9": b"composed", "cafe\u0301": b"decomposed"}
    hub.add(HubRepo("acme/twins", twins))
    run = shoal.get("hf://acme/twins", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == twins
    assert "differs from" in run.stderr and "case" in run.stderr


def test_a_file_where_a_folder_must_be(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/clash", {"a": b"file", "a/b": b"below", "c": b"fine"}))
    shoal.run("get", "hf://acme/clash", "--to", tmp_path / "to").expect(7)
    found = delivered(tmp_path / "to")
    assert found["c"] == b"fine"
    assert found.get("a") == b"file" or found.get("a/b") == b"below"


@pytest.mark.parametrize("path", ["..%2Fescape.txt", "%2e%2e%2fescape.txt", "a%00b", "con", "x" * 300])
def test_hostile_urls(shoal: Shoal, tmp_path: Path, path: str) -> None:
    (tmp_path / "to").mkdir()
    with in_thread(
        FaultOrigin({"../escape.txt": b"owned", "a\0b": b"owned", "con": b"owned", "x" * 300: b"owned"})
    ) as origin:
        run = shoal.run("get", f"{origin.url}/{path}", "--to", tmp_path / "to")
    assert run.exit_code in (2, 7), run
    assert delivered(tmp_path / "to") == {}
    assert not (tmp_path / "escape.txt").exists()


# --- planted links --------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.txt").write_bytes(b"precious")
    return folder


def assert_untouched(outside: Path) -> None:
    assert tree(outside) == {"precious.txt"}
    assert (outside / "precious.txt").read_bytes() == b"precious"


def test_a_planted_folder_link(shoal: Shoal, tmp_path: Path, outside: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/sub").symlink_to(outside)
    run = shoal.run("get", "hf://acme/good", "--to", tmp_path / "to").expect(7)
    assert "sub" in run.stderr and "link" in run.stderr
    assert_untouched(outside)
    assert (tmp_path / "to/config.json").read_bytes() == b"{}"


def test_a_planted_file_link(shoal: Shoal, tmp_path: Path, outside: Path) -> None:
    """Replaced or refused, but never written through."""
    (tmp_path / "to").mkdir()
    (tmp_path / "to/config.json").symlink_to(outside / "precious.txt")
    run = shoal.run("get", "hf://acme/good", "--to", tmp_path / "to")
    assert run.exit_code in (0, 7)
    assert_untouched(outside)
    if run.exit_code == 0:
        assert delivered(tmp_path / "to") == GOOD
        assert not (tmp_path / "to/config.json").is_symlink()
    assert (tmp_path / "to/sub/model.safetensors").read_bytes() == GOOD["sub/model.safetensors"]


@pytest.mark.parametrize(
    "name", [".shoal", ".shoal/partial", ".shoal/jobs", ".cache", ".cache/huggingface", ".cache/huggingface/download"]
)
def test_planted_links_in_the_work_folders(shoal: Shoal, tmp_path: Path, outside: Path, name: str) -> None:
    link = tmp_path / "to" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    run = shoal.run("get", "hf://acme/good", "--to", tmp_path / "to").expect(7)
    assert str(tmp_path / "to") in run.stderr or name in run.stderr
    assert_untouched(outside)


@pytest.mark.parametrize("name", ["models--acme--good", "models--acme--good/blobs", "models--acme--good/snapshots"])
def test_planted_links_in_the_cache(shoal: Shoal, outside: Path, name: str) -> None:
    link = shoal.cache / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    shoal.run("get", "hf://acme/good").expect(7)
    assert_untouched(outside)


def test_a_destination_that_is_itself_a_link_is_the_users_choice(shoal: Shoal, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "to").symlink_to(tmp_path / "real")
    shoal.get("hf://acme/good", "--to", tmp_path / "to")
    assert delivered(tmp_path / "real") == GOOD


def test_clean_and_verify_do_not_follow_planted_links(shoal: Shoal, tmp_path: Path, outside: Path) -> None:
    (outside / "partial").mkdir()
    (outside / "partial/00.part").write_bytes(b"precious")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/.shoal").symlink_to(outside)
    shoal.run("clean", tmp_path / "to", "--older-than", "0s").expect(7)
    shoal.run("verify", tmp_path / "to").expect(7)
    assert (outside / "partial/00.part").read_bytes() == b"precious"


# --- disks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=200", "shoal-test", str(folder)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_no_space_is_said_before_a_byte_is_fetched(shoal: Shoal, hub: StandInHub, small_disk: Path) -> None:
    hub.add(HubRepo("acme/big", {"big.bin": SyntheticFile(20 * MIB), "small.txt": b"small"}))
    run = shoal.run("get", "hf://acme/big", "--to", small_disk / "to").expect(5)
    assert str(small_disk / "to") in run.stderr
    assert "20971525 bytes" in run.stderr and "free" in run.stderr
    assert hub.log.bytes_served == 0
    shoal.get("hf://acme/big", "--to", small_disk / "to", "--exclude", "*.bin")
    assert delivered(small_disk / "to") == {"small.txt": b"small"}


def test_the_disk_fills_on_the_way(shoal: Shoal, small_disk: Path) -> None:
    """A file of unknown size: nothing can be said before."""
    from support.faults import IgnoreRange, NoContentLength

    with in_thread(FaultOrigin({"stream.bin": SyntheticFile(20 * MIB)})) as origin:
        origin.faults.add(NoContentLength())
        origin.faults.add(IgnoreRange())
        run = shoal.run("get", origin.url_of("stream.bin"), "--to", small_disk / "to").expect(5)
    assert "stream.bin" in run.stderr
    assert delivered(small_disk / "to") == {}


def test_no_inodes(shoal: Shoal, hub: StandInHub, small_disk: Path) -> None:
    hub.add(HubRepo("acme/many", {f"{number:04}.txt": b"%d" % number for number in range(400)}))
    run = shoal.run("get", "hf://acme/many", "--to", small_disk / "to").expect(5)
    assert str(small_disk / "to") in run.stderr
    assert hub.log.bytes_served == 0


def test_a_destination_that_is_a_file(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("a file")
    run = shoal.run("get", "hf://acme/good", "--to", tmp_path / "to").expect(5)
    assert str(tmp_path / "to") in run.stderr
    assert (tmp_path / "to").read_text() == "a file"
    assert hub.log.bytes_served == 0


def test_a_read_only_file_system(shoal: Shoal, hub: StandInHub, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    run = shoal.run("get", "hf://acme/good", "--to", small_disk / "to").expect(5)
    assert str(small_disk / "to") in run.stderr and "read-only" in run.stderr.lower()
    assert hub.log.bytes_served == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_destination_without_permission(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    run = shoal.run("get", "hf://acme/good", "--to", tmp_path / "locked/to").expect(5)
    assert "locked" in run.stderr
    assert hub.log.bytes_served == 0


def test_a_folder_in_the_place_of_a_file(shoal: Shoal, tmp_path: Path) -> None:
    """Somebody's folder is not removed; the other files arrive."""
    (tmp_path / "to/config.json").mkdir(parents=True)
    (tmp_path / "to/config.json/mine").write_text("mine")
    run = shoal.run("get", "hf://acme/good", "--to", tmp_path / "to")
    assert run.exit_code == 7
    assert "config.json" in run.stderr
    assert (tmp_path / "to/config.json/mine").read_text() == "mine"
    assert (tmp_path / "to/sub/model.safetensors").read_bytes() == GOOD["sub/model.safetensors"]
