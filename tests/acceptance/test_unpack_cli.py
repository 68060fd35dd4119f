"""``--unpack``: archives are unpacked on arrival, whole or not at all, on one machine and on every agent of a replicated job."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import Shoal, leftovers
from support.fleet import Fleet
from support.origin import FaultOrigin
from support.stand_in import in_thread


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


GOOD = {"env/bin/python": b"#!", "env/lib/a.py": b"a = 1\n" * 1000}


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    files = {
        "env.tar.gz": tar_of(GOOD),
        "env.zip": zip_of(GOOD),
        "escape.tar.gz": tar_of({"ok.txt": b"1", "../evil.txt": b"2"}),
        "cut.tar.gz": tar_of(GOOD)[:-40],
    }
    with in_thread(FaultOrigin(files)) as made:
        yield made


@pytest.fixture
def shoal(tmp_path: Path, origin: FaultOrigin) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=origin.url)


@pytest.mark.parametrize("name", ["env.tar.gz", "env.zip"])
def test_a_good_archive_appears_whole(shoal: Shoal, origin: FaultOrigin, tmp_path: Path, name: str) -> None:
    to = tmp_path / "to"
    for _ in range(2):
        shoal.run("get", origin.url_of(name), "--to", to, "--unpack").expect(0)
        assert {path: (to / path).read_bytes() for path in GOOD} == GOOD
        assert leftovers(to) == [] or all("unpacked" in path for path in map(str, leftovers(to)))


@pytest.mark.parametrize("name", ["escape.tar.gz", "cut.tar.gz"])
def test_a_bad_archive_leaves_nothing(shoal: Shoal, origin: FaultOrigin, tmp_path: Path, name: str) -> None:
    to = tmp_path / "to"
    done = shoal.run("get", origin.url_of(name), "--to", to, "--unpack")
    assert done.exit_code == (7 if "escape" in name else 1)
    assert name in done.stderr
    assert sorted(path.name for path in to.iterdir()) == [".shoal", name]
    assert not (tmp_path / "evil.txt").exists()


def test_every_agent_of_a_replicated_job_unpacks(origin: FaultOrigin, tmp_path: Path) -> None:
    with Fleet(tmp_path / "fleet", endpoint=origin.url) as fleet:
        fleet.coordinator.start()
        for name in ("n1", "n2"):
            fleet.add_agent(name, "--root", str(tmp_path / name))
        fleet.until_alive("n1", "n2")
        job = fleet.submit(origin.url_of("env.tar.gz"), "--to", "/x", "--deliver", "replicate", "--unpack", "/out")
        fleet.ended(job)
        for name in ("n1", "n2"):
            assert {path: (tmp_path / name / "out" / path).read_bytes() for path in GOOD} == GOOD
