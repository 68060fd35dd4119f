"""A real worker that unpacks what is still arriving: who waits for whom, what happens to what comes to nothing."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.agent.engine import archive_streams
from shoal.agent.engine.jobs import open_destination
from shoal.agent.engine.options import EngineOptions
from shoal.agent.engine.turns import STREAMS_MAX, Turns
from shoal.agent.unpack import unpacking
from shoal.common.records import Delivery, JobSpec, ObjectSpec, Outcome, UnitKind
from support.archives import member, tar, walk
from support.contents import SyntheticFile, read_all
from support.engine import engine, open_files, poll, web_job, web_spec
from support.fake_swarm import node, replica_job
from support.fake_swarm import specs_of as fleet_specs
from support.origin import FaultOrigin
from support.stand_in import in_thread

MIB = 1 << 20
MEMBERS = {f"m{number}": read_all(SyntheticFile(MIB, seed=number)) for number in range(6)}
COUNT = STREAMS_MAX + 3
ARCHIVES = {
    f"a{number}.tar": tar(*(member(f"a{number}/{name}", content) for name, content in MEMBERS.items()))
    for number in range(COUNT)
}


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with in_thread(FaultOrigin(ARCHIVES)) as made:
        yield made


@pytest.fixture
def job(tmp_path: Path) -> JobSpec:
    return replace(web_job(tmp_path / "to"), unpack=str(tmp_path / "out"))


def specs_of(origin: FaultOrigin) -> list[ObjectSpec]:
    return [
        replace(web_spec(origin.url_of(name), content, path=name), object_id=number)
        for number, (name, content) in enumerate(ARCHIVES.items())
    ]


def is_unpacked(out: Path, number: int) -> bool:
    files = {name: out / f"a{number}" / name for name in MEMBERS}
    return all(file.exists() and file.read_bytes() == MEMBERS[name] for name, file in files.items())


class Counted:
    """How many archives were unpacked as finished files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        really = unpacking.unpack_file

        def unpack_file(*arguments: object, **more: object) -> object:
            self.count += 1
            return really(*arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(unpacking, "unpack_file", unpack_file)


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


class Held:
    """Lets no stream begin to unpack until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.waiting = 0
        counting = threading.Lock()
        really = archive_streams.find_unpacked
        is_first = threading.local()

        def find_unpacked(*arguments: object, **more: object) -> object:
            if not hasattr(is_first, "asked"):
                is_first.asked = True
                with counting:
                    self.waiting += 1
                assert self.go.wait(60)
            return really(*arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(archive_streams, "find_unpacked", find_unpacked)


async def test_more_archives_than_turns(origin: FaultOrigin, job: JobSpec, tmp_path: Path, finished: Counted) -> None:
    before = open_files()
    async with engine(job, is_alone=True) as bench:
        specs = specs_of(origin)
        assert {report.outcome for report in await bench.whole(specs)} == {Outcome.DONE}
        bench.objects = specs
        assert not list((tmp_path / "out").glob("a*"))
        assert (await bench.run(UnitKind.FINALIZE)).outcome is Outcome.DONE
    assert all(is_unpacked(tmp_path / "out", number) for number in range(COUNT))
    assert finished.count <= COUNT - STREAMS_MAX
    assert not (tmp_path / "out/.shoal/partial").exists()
    await poll(lambda: open_files() <= before)  # the stand-in closes its ends, too


async def test_slow_unpacking_never_holds_up_what_arrives(
    origin: FaultOrigin, job: JobSpec, tmp_path: Path, finished: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    async with engine(job, is_alone=True) as bench:
        specs = specs_of(origin)
        assert {report.outcome for report in await bench.whole(specs)} == {Outcome.DONE}
        await poll(lambda: held.waiting == STREAMS_MAX)  # threads of their own, whose turn may come later
        bench.objects = specs
        finalize = bench.start(UnitKind.FINALIZE)
        held.go.set()
        assert (await bench.last(finalize)).outcome is Outcome.DONE
    assert all(is_unpacked(tmp_path / "out", number) for number in range(COUNT))
    assert finished.count == COUNT - STREAMS_MAX


async def test_a_worker_that_leaves_removes_what_is_staged(origin: FaultOrigin, job: JobSpec, tmp_path: Path) -> None:
    """One that is whole and one that is on its way."""
    before = open_files()
    async with engine(job, is_alone=True) as bench:
        specs = specs_of(origin)
        await bench.whole(specs[:1])
        origin.faults.total_rate = 2 * MIB
        bench.start(UnitKind.WHOLE, specs[1])
        await poll(lambda: len(list((tmp_path / "out").glob(".shoal/partial/unpack-*/tree/a1/*"))) > 1)
        (staged,) = (tmp_path / "out").glob(".shoal/partial/unpack-*/tree/a0")
        await poll(lambda: is_unpacked(staged.parent, 0))
        await bench.worker.drain(0)
    assert not (tmp_path / "out").exists()
    await poll(lambda: open_files() <= before)  # the stand-in closes its ends, too


async def test_a_bomb_is_refused_as_if_it_were_finished(tmp_path: Path, job: JobSpec) -> None:
    stream = zlib.compressobj(6, wbits=31)
    data = stream.compress(
        tar(member("noise", read_all(SyntheticFile(2 * MIB, seed=1))), member("zeros", bytes(64 * MIB)))
    )
    files = {"bomb.tar.gz": data + stream.flush()}
    said: list[str] = []
    for is_alone in (True, False):
        with in_thread(FaultOrigin(files)) as bombs:
            spec = web_spec(bombs.url_of("bomb.tar.gz"), files["bomb.tar.gz"], path="bomb.tar.gz")
            async with engine(job, is_alone=is_alone, unpack_ratio_max=10) as bench:
                await bench.whole([spec])
                bench.objects = [spec]
                failure = (await bench.run(UnitKind.FINALIZE)).failure
        assert failure is not None
        assert failure.code == "unsafe-archive"
        said.append(failure.text)
        assert walk(tmp_path / "out") == []
    assert said[0] == said[1]


async def test_the_same_bytes_are_not_staged_again(
    origin: FaultOrigin, job: JobSpec, tmp_path: Path, finished: Counted
) -> None:
    spec = specs_of(origin)[0]
    earlier: dict[str, int] = {}
    for is_second in (False, True):
        async with engine(job, is_alone=True) as bench:
            bench.objects = [spec]
            (report,) = await bench.whole([spec])
            assert report.outcome is Outcome.DONE
            assert (await bench.run(UnitKind.FINALIZE)).outcome is Outcome.DONE
        times = {path: (tmp_path / "out" / path).stat().st_ctime_ns for path in walk(tmp_path / "out")}
        if is_second:
            assert times == earlier
        earlier = times
        (tmp_path / "to/a0.tar").unlink(missing_ok=True)
    assert finished.count == 1, "the second time it is asked, and skips"


async def test_an_archive_without_a_size_or_a_digest(
    origin: FaultOrigin, job: JobSpec, tmp_path: Path, finished: Counted
) -> None:
    spec = web_spec(origin.url_of("a0.tar"), ARCHIVES["a0.tar"], path="a0.tar", sized=False, digested=False)
    async with engine(job, is_alone=True) as bench:
        (report,) = await bench.whole([spec])
        bench.objects = [replace(spec, size=report.size, digest=report.digest, etag=report.etag)]
        assert (await bench.run(UnitKind.FINALIZE)).outcome is Outcome.DONE
    assert is_unpacked(tmp_path / "out", 0)
    assert finished.count == 0


async def test_what_was_staged_from_another_file_is_not_taken(
    origin: FaultOrigin, job: JobSpec, tmp_path: Path, finished: Counted
) -> None:
    spec = specs_of(origin)[0]
    async with engine(job, is_alone=True) as bench:
        await bench.whole([spec])
        archive = tmp_path / "to/a0.tar"
        archive.unlink()
        archive.write_bytes(ARCHIVES["a1.tar"])
        bench.objects = [spec]
        assert (await bench.run(UnitKind.FINALIZE)).outcome is Outcome.DONE
    assert [path.name for path in (tmp_path / "out").glob("a*")] == ["a1"], "the file that has the name now"
    assert finished.count == 1


async def test_an_object_by_ranges(origin: FaultOrigin, job: JobSpec, tmp_path: Path, finished: Counted) -> None:
    spec = specs_of(origin)[0]
    async with engine(job, is_alone=True) as bench:
        assert (await bench.by_ranges(spec, MIB)).outcome is Outcome.DONE
        bench.objects = [spec]
        assert (await bench.run(UnitKind.FINALIZE)).outcome is Outcome.DONE
    assert is_unpacked(tmp_path / "out", 0)
    assert finished.count == 0


async def test_which_objects_are_unpacked_while_they_arrive(tmp_path: Path) -> None:
    def is_streamed(path: str, *, is_alone: bool, **words: object) -> bool:
        job = replace(web_job(tmp_path), **words)  # type: ignore[arg-type]
        options = EngineOptions(agent_id="a", is_alone=is_alone)
        streams = Turns(options).streams(job, open_destination(options, job))
        return streams is not None and streams.feeder(ObjectSpec(object_id=1, path=path, size=9)) is not None

    for name in ("a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar.zst"):
        assert is_streamed(name, is_alone=True, unpack="auto")
        assert is_streamed(name, is_alone=False, unpack="auto", delivery=Delivery.REPLICATE)
        assert not is_streamed(name, is_alone=False, unpack="auto"), "others bring parts of it"
        assert not is_streamed(name, is_alone=True)
    for name in ("a.zip", "a.bin"):
        assert not is_streamed(name, is_alone=True, unpack="auto")
    assert is_streamed("a.bin", is_alone=True, unpack="auto", unpack_format="tar")
    assert not is_streamed("a.tar", is_alone=True, unpack="../x"), "the finished file tells what is wrong"


async def test_a_chunk_that_was_wrong_begins_it_anew(tmp_path: Path, finished: Counted) -> None:
    """Of a replicated job: what was staged from it goes, and comes once more from the right bytes."""
    files: dict[str, object] = {"a0.tar": ARCHIVES["a0.tar"]}
    job = replica_job(tmp_path, unpack="auto")
    async with FaultOrigin(files) as origin, node(1, tmp_path, fleet_specs(origin, files), job=job) as one:
        await one.join()
        one.fetch(*range(5))
        await one.until_has(*range(5))
        staged = tmp_path / ".shoal/partial"
        await poll(lambda: len(list(staged.glob("unpack-*/tree/a0/*"))) >= 3)
        (first,) = staged.glob("unpack-*/tree/a0/m0")
        (part,) = staged.glob("*.part")
        with part.open("r+b") as file:
            file.seek(MIB // 2)
            file.write(b"damaged")
        one.messages.clear()
        one.obey(drop=(0,))
        one.fetch(0, *range(5, len(one.table)))
        await one.until_has(0, *range(5, len(one.table)))
        await poll(lambda: not first.exists())
        await one.publish_all()
    assert is_unpacked(tmp_path, 0)
    assert finished.count == 0
    assert not staged.exists()
