"""``--unpack`` while an archive is still arriving: hidden until all of it is verified, then there at once."""

from __future__ import annotations

import hashlib
import io
import random
import signal
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from shoal.common.views import JobStatus
from support.cli import Running, Shoal
from support.fleet import Fleet, until
from support.origin import FaultOrigin
from support.stand_in import in_thread

MIB = 1 << 20
MEMBERS = {f"env/lib/m{number:02}.bin": random.Random(number).randbytes(MIB) for number in range(32)}
SLOW = 2 * MIB  # bytes/s: all of it would take 16 s
OPTIONS = ("--set", "fetch.chunk_size=262144", "--set", "fetch.connections_per_host=4")


def archive(mode: str, members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as made:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return out.getvalue()


FILES = {
    "env.tar": archive("w", MEMBERS),
    "env.tar.gz": archive("w:gz", MEMBERS),
    "escape.tar": archive("w", {**MEMBERS, "../evil": b"x"}),
}


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with in_thread(FaultOrigin(FILES)) as made:
        made.faults.total_rate = SLOW
        yield made


@pytest.fixture
def shoal(tmp_path: Path, origin: FaultOrigin) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=origin.url)


def staged(folder: Path) -> list[Path]:
    """The files that were unpacked and cannot be seen yet."""
    return list(folder.glob(".shoal/partial/unpack-*/tree/env/lib/*"))


def visible(folder: Path) -> list[str]:
    """The names on top that people see."""
    return sorted(path.name for path in folder.glob("*") if path.name != ".shoal")


def unpacked(folder: Path) -> bool:
    return {path: (folder / path).read_bytes() for path in MEMBERS} == MEMBERS


def made(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Which files these are and when they were last touched: a file that was unpacked once more is another one."""
    return {(found.st_ino, found.st_ctime_ns) for found in (path.stat() for path in paths)}


def complete(folder: Path) -> set[tuple[int, int]]:
    """The staged files but for the last one, which may still be written to."""
    return made(sorted(staged(folder))[:-1])


def until_staged(origin: FaultOrigin, name: str, folder: Path, count: int = 3) -> set[tuple[int, int]]:
    """Wait for the first files, which must come before the last bytes."""
    until("files to be staged", lambda: len(staged(folder)) >= count)
    assert origin.log.bytes_served < len(FILES[name]), "it came all at once"
    return complete(folder)


def begin(shoal: Shoal, origin: FaultOrigin, name: str, tmp_path: Path, *more: str) -> Running:
    url, out = origin.url_of(name), tmp_path / "out"
    return shoal.start("get", url, "--to", tmp_path / "to", "--unpack", out, *OPTIONS, *more)


@pytest.mark.parametrize("name", ["env.tar", "env.tar.gz"])
def test_it_is_unpacked_while_it_arrives_and_seen_when_it_is_whole(
    shoal: Shoal, origin: FaultOrigin, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    with begin(shoal, origin, name, tmp_path) as run:
        early = until_staged(origin, name, out)
        assert visible(out) == []
        origin.faults.total_rate = None
        run.wait().expect(0)
    assert early <= made((out / "env/lib").iterdir()), "it was unpacked once more"
    assert visible(out) == ["env"]
    assert unpacked(out)
    assert not (out / ".shoal/partial").exists()
    served = origin.log.bytes_served
    shoal.run("get", origin.url_of(name), "--to", tmp_path / "to", "--unpack", out).expect(0)
    assert origin.log.bytes_served - served < MIB


def test_a_digest_that_is_wrong_at_the_end_leaves_nothing(shoal: Shoal, origin: FaultOrigin, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = hashlib.sha256(b"something else").hexdigest()
    with begin(shoal, origin, "env.tar", tmp_path, "--sha256", wrong) as run:
        until_staged(origin, "env.tar", out)
        origin.faults.total_rate = None
        done = run.wait(90)
    assert done.exit_code != 0
    assert wrong in done.stderr
    assert not out.exists()
    assert visible(tmp_path / "to") == []


def test_a_file_that_changes_under_way_is_begun_anew(shoal: Shoal, origin: FaultOrigin, tmp_path: Path) -> None:
    out = tmp_path / "out"
    members = {f"{name}.new": content[::-1] for name, content in MEMBERS.items()}
    with begin(shoal, origin, "env.tar", tmp_path) as run:
        until_staged(origin, "env.tar", out)
        origin.put("env.tar", archive("w", members))
        origin.faults.total_rate = None
        run.wait().expect(0)
    assert {path.name for path in (out / "env/lib").iterdir()} == {Path(name).name for name in members}
    wrong = [name for name, content in members.items() if (out / name).read_bytes() != content]
    assert not wrong, "bytes of before, or of nowhere"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_and_run_again(shoal: Shoal, origin: FaultOrigin, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    with begin(shoal, origin, "env.tar", tmp_path) as run:
        until_staged(origin, "env.tar", out)
        run.signal(number)
        run.wait()
    if number == signal.SIGINT:
        assert not out.exists()
    else:
        assert staged(out)
    origin.faults.total_rate = None
    with begin(shoal, origin, "env.tar", tmp_path) as run:
        run.wait().expect(0)
    assert unpacked(out)
    assert not (out / ".shoal/partial").exists()


def test_an_archive_that_would_escape_is_refused_as_if_it_were_finished(
    shoal: Shoal, origin: FaultOrigin, tmp_path: Path
) -> None:
    """Streamed and not streamed, word for word."""
    out = tmp_path / "out"
    said: list[str] = []
    for _ in range(2):
        with begin(shoal, origin, "escape.tar", tmp_path) as run:
            if not said:
                until_staged(origin, "escape.tar", out)
                origin.faults.total_rate = None
            done = run.wait().expect(7)
        assert visible(out) == []
        assert not staged(out)
        assert not (tmp_path / "evil").exists()
        said.append(next(line for line in done.stderr.splitlines() if "evil" in line))
    assert said[0] == said[1]
    assert visible(tmp_path / "to") == ["escape.tar"]


def test_every_agent_of_a_replicated_job_streams_its_own_copy(origin: FaultOrigin, tmp_path: Path) -> None:
    agents = ("n1", "n2", "n3")
    with Fleet(tmp_path / "fleet", endpoint=origin.url) as fleet:
        fleet.coordinator.start()
        for name in agents:
            fleet.add_agent(name, "--root", str(tmp_path / name))
        fleet.until_alive(*agents)
        job = fleet.submit(origin.url_of("env.tar"), "--to", "/x", "--deliver", "replicate", "--unpack", "/out")
        until("an agent to stage files", lambda: any(staged(tmp_path / name / "out") for name in agents))
        early = {name: complete(tmp_path / name / "out") for name in agents}
        assert fleet.job(job).status is JobStatus.RUNNING
        assert all(visible(tmp_path / name / "out") == [] for name in agents)
        origin.faults.total_rate = None
        fleet.ended(job)
        for name in agents:
            out = tmp_path / name / "out"
            assert unpacked(out)
            assert early[name] <= made((out / "env/lib").iterdir())
            assert not (out / ".shoal/partial").exists()


def test_a_fleet_that_shares_the_work_unpacks_the_finished_file(origin: FaultOrigin, tmp_path: Path) -> None:
    origin.faults.total_rate = None
    to = tmp_path / "shared"
    with Fleet(tmp_path / "fleet", endpoint=origin.url) as fleet:
        fleet.start("n1", "n2")
        fleet.until_alive("n1", "n2")
        fleet.ended(fleet.submit(origin.url_of("env.tar"), "--to", to, "--unpack"))
    assert visible(to) == ["env", "env.tar"]
    assert unpacked(to)
