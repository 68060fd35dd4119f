"""A batch goes on from where it was, whoever was at it and however it ended; a batch that is complete stays complete."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shoal.agent.collect.place import FolderPlace
from shoal.agent.collect.segments import Entry, Recorded, Segment, SegmentWriter, settled_frames
from shoal.common.collect_records import ImageEncoding, Resampler, Restart, batch_path
from shoal.common.errors import NoSpace, UnsafeName
from shoal.common.records import Outcome, UnitKind
from shoal.common.safe_root import SafeRoot
from support.collecting import collecting, picture, table_of
from support.odd_server import odd_server


def entries(*rows: int, code: int = 200) -> list[Entry]:
    return [Entry(row, code, 0, image=bytes([row]) * 100 if code == 200 else None) for row in rows]


def recorded_rows(to: Path) -> set[int]:
    """The rows of the only batch that is under way."""
    known = Recorded()
    with SafeRoot(to) as root:
        for folder in [path for path in (to / ".shoal/collect").glob("*") if path.is_dir()]:
            known.read(root, str(folder.relative_to(to)))
    return known.settled


def test_segments_hold_what_was_written(tmp_path: Path) -> None:
    with SafeRoot(tmp_path) as root:
        writer = SegmentWriter(root, "a.seg")
        writer.append([*entries(0, 1), *entries(2, code=404), Entry(3, 0, 2), Entry(4, 200, 0, image=b"")])
        writer.close()
        writer.close()
        (frame,) = settled_frames(root, [Segment("a.seg", sys.maxsize)])
        assert frame.column("row").to_pylist() == [0, 1, 2, 4]
        assert frame.column("image").to_pylist() == [b"\0" * 100, b"\1" * 100, None, b""]
        recorded = Recorded()
        (tmp_path / "f").mkdir()
        (tmp_path / "a.seg").rename(tmp_path / "f" / "a.seg")
        recorded.read(root, "f")
        assert recorded.settled == {0, 1, 2, 4} and recorded.tries == {3: 2}
        assert recorded.counts == Counter({200: 3, 404: 1})


def test_a_torn_tail_is_cut_wherever_it_is_torn(tmp_path: Path) -> None:
    with SafeRoot(tmp_path) as root:
        writer = SegmentWriter(root, "x.seg")
        writer.append(entries(0, 1))
        whole = (tmp_path / "x.seg").stat().st_size
        writer.append(entries(2))
        writer.close()
        data = (tmp_path / "x.seg").read_bytes()
        for cut in range(whole, len(data), 7):
            (tmp_path / "x.seg").write_bytes(data[:cut])
            frames = list(settled_frames(root, [Segment("x.seg", sys.maxsize)]))
            assert [frame.column("row").to_pylist() for frame in frames] == [[0, 1]], cut
        for at in range(whole, len(data), 11):
            wrong = bytearray(data)
            wrong[at] ^= 0xFF
            (tmp_path / "x.seg").write_bytes(wrong)
            frames = list(settled_frames(root, [Segment("x.seg", sys.maxsize)]))
            assert [frame.column("row").to_pylist() for frame in frames] == [[0, 1]], at


def test_rows_of_several_agents_count_once_and_no_further_than_was_looked(tmp_path: Path) -> None:
    with SafeRoot(tmp_path) as root:
        first, second = SegmentWriter(root, "a.seg"), SegmentWriter(root, "b.seg")
        first.append(entries(0, 1))
        ends = (tmp_path / "a.seg").stat().st_size
        first.append(entries(5))  # of an agent that was fenced, and writes on
        second.append(entries(1, 2))
        for writer in (first, second):
            writer.close()
        frames = settled_frames(root, [Segment("a.seg", ends), Segment("b.seg", sys.maxsize)])
        assert [row for frame in frames for row in frame.column("row").to_pylist()] == [0, 1, 2]


async def test_a_complete_batch_is_not_fetched_again(tmp_path: Path) -> None:
    async with odd_server(picture()) as site:
        rows = table_of([f"{site.url}/ok/1", f"{site.url}/status/404"])
        async with collecting(tmp_path) as bench:
            await bench.batch(site.host, rows)
        async with collecting(tmp_path, agent="agent-2") as bench:
            report = await bench.batch(site.host, rows)
            assert report.skipped and report.tally == ((200, 1), (404, 1)) and report.fetched == 0
        assert len(site.log) == 2


async def test_files_that_do_not_belong_together_are_no_result(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        rows = table_of([f"{site.url}/ok/1"])
        await bench.batch(site.host, rows)
        folder = tmp_path / batch_path(site.host, 0)
        errors = pq.ParquetFile(folder / "errors.parquet").read()
        pq.write_table(errors.replace_schema_metadata({}), folder / "errors.parquet")
        assert (await bench.batch(site.host, rows)).skipped is False
        for name in ("successes", "errors"):  # as another tool writes them
            table = pq.ParquetFile(folder / f"{name}.parquet").read()
            pq.write_table(table.replace_schema_metadata({}), folder / f"{name}.parquet")
        report = await bench.batch(site.host, rows)
        assert report.skipped and report.tally == ((200, 1),)
        (folder / "successes.parquet").write_bytes(b"PAR1 no")
        assert (await bench.batch(site.host, rows)).skipped is False


async def test_stopping_keeps_what_was_recorded_and_reports_nothing(tmp_path: Path) -> None:
    async with odd_server(picture()) as site:
        site.delay_s = 0.05  # so that the batch is far from done when the image worker is ready, on a slow machine too
        rows = table_of([f"{site.url}/ok/{n}" for n in range(400)])
        async with collecting(tmp_path, connections=4) as bench:
            ref = bench.start(UnitKind.BATCH, host=site.host, rows=rows)
            while len(site.log) < 60 or not recorded_rows(tmp_path):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            bench.collector.stop(ref)
            assert bench.collector.held == ()
            await asyncio.sleep(0.2)
            assert len(bench.reports) == 1  # of PREPARE
            assert bench.collector._tools is not None
            while bench.collector._tools.budget.used:  # noqa: ASYNC110  # nothing of it stays taken
                await asyncio.sleep(0.02)
        before, kept = len(site.log), len(recorded_rows(tmp_path))
        site.delay_s = 0.0
        async with collecting(tmp_path, agent="agent-2") as bench:
            report = await bench.batch(site.host, rows)
            assert report.tally == ((200, 400),)
            assert len(bench.rows(site.host, "successes")) == 400
        assert kept and len(site.log) == before + 400 - kept


async def test_draining_returns_what_is_under_way(tmp_path: Path) -> None:
    async with odd_server(picture()) as site:
        site.delay_s = 0.05
        rows = table_of([f"{site.url}/ok/{n}" for n in range(100)])
        async with collecting(tmp_path, connections=2) as bench:
            ref = bench.start(UnitKind.BATCH, host=site.host, rows=rows)
            while len(site.log) < 10:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await bench.collector.drain(60.0)
            report = await bench.last(ref)
            assert report.outcome is Outcome.RETURNED
        fetched = len(site.log)
        async with collecting(tmp_path, connections=8) as bench:
            assert (await bench.batch(site.host, rows)).tally == ((200, 100),)
        assert len(site.log) == 100 and fetched < 100  # not one row was fetched twice


@pytest.mark.parametrize("encoding", [ImageEncoding.JPEG, ImageEncoding.ORIGINAL])
async def test_what_another_resampler_made_is_not_mixed_in(tmp_path: Path, encoding: ImageEncoding) -> None:
    async with odd_server(picture()) as site:
        site.delay_s = 0.05
        rows = table_of([f"{site.url}/ok/{n}" for n in range(40)])
        async with collecting(tmp_path, connections=2, image_encoding=encoding, resampler=Resampler.PILLOW) as bench:
            ref = bench.start(UnitKind.BATCH, host=site.host, rows=rows)
            while len(site.log) < 10:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await bench.collector.drain(60.0)
            assert (await bench.last(ref)).outcome is Outcome.RETURNED
        fetched = len(site.log)
        async with collecting(tmp_path, image_encoding=encoding, resampler=Resampler.OPENCV) as bench:
            assert (await bench.batch(site.host, rows)).tally == ((200, 40),)
        again = fetched if encoding is ImageEncoding.JPEG else 0  # what is kept as served was made by neither
        assert fetched < 40 and len(site.log) == 40 + again


async def test_a_fenced_agent_publishes_nothing(tmp_path: Path) -> None:
    async with odd_server(picture()) as site:
        rows = table_of([f"{site.url}/ok/{n}" for n in range(10)])
        async with collecting(tmp_path) as bench:
            bench.deadline_s = 0.0
            ref = bench.start(UnitKind.BATCH, host=site.host, rows=rows)
            while bench.collector.held:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert not [
                report for report in bench.reports if report.unit == ref.unit and report.outcome is Outcome.DONE
            ]
            assert not (tmp_path / "images").exists()


async def test_two_agents_at_one_batch_make_one_result(tmp_path: Path) -> None:
    async with odd_server(picture()) as site:
        site.delay_s = 0.01
        rows = table_of([f"{site.url}/ok/{n}" for n in range(80)])
        async with (
            collecting(tmp_path, connections=3) as one,
            collecting(tmp_path, agent="agent-2", connections=3) as two,
        ):
            refs = (
                one.start(UnitKind.BATCH, host=site.host, rows=rows),
                two.start(UnitKind.BATCH, host=site.host, rows=rows),
            )
            reports = [await one.last(refs[0]), await two.last(refs[1])]
            assert any(report.tally == ((200, 80),) for report in reports)
            assert len(one.rows(site.host, "successes")) == 80
            footer = FolderPlace(str(tmp_path), root=Path("/"), allow=(), agent_id="x", sync=False).find(
                batch_path(site.host, 0)
            )
            assert footer is not None and footer.tally == ((200, 80),)


async def test_failed_rows_are_fetched_again_and_merged(tmp_path: Path) -> None:
    async with odd_server(picture()) as site:
        paths = ["ok/1", "status/404", "gone", "status/500"]
        rows = table_of([f"{site.url}/{path}" for path in paths])
        async with collecting(tmp_path, attempts=1) as bench:
            report = await bench.batch(site.host, rows)
            assert report.tally == ((200, 1), (404, 2), (500, 1))
        site.pages["/gone"] = (200, {}, site.image)
        site.log.clear()
        again = {"attempts": 1, "restart": Restart.FAILED, "restart_codes": (404,)}
        async with collecting(tmp_path, agent="agent-2", **again) as bench:
            bench.job_id = "job2"
            report = await bench.batch(site.host, rows)
            assert report.outcome is Outcome.DONE and report.tally == ((200, 2), (404, 1), (500, 1)), report
            assert sorted(site.log) == ["/gone", "/status/404"]
            assert set(bench.rows(site.host, "successes")) == {"u0", "u2"}
            errors = bench.rows(site.host, "errors")
            assert {uuid: row["error_code"] for uuid, row in errors.items()} == {"u1": 404, "u3": 500}
            site.log.clear()
            report = await bench.batch(site.host, rows)  # the same run: it is done
            assert report.skipped and not site.log


async def test_kill_9_at_any_time_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The agent's process dies again and again in the middle; what it had recorded is not fetched again."""
    async with odd_server(picture()) as site:
        site.delay_s = 0.05  # so that a process is far from done when its image worker is ready, on a slow machine too
        count, recorded = 400, 0
        urls = [f"{site.url}/ok/{n}" for n in range(count)]
        code = (
            "import asyncio, sys; from pathlib import Path; sys.path[:0] = sys.argv[3].split(':');"
            "from support.collecting import collect_for_ever; asyncio.run(collect_for_ever(Path(sys.argv[1]), sys.argv[2].split(' ')))"
        )
        path = ":".join(entry for entry in sys.path if entry)
        for wanted in (40, 40):
            seen = len(site.log)
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, str(tmp_path), " ".join(urls), path, stderr=asyncio.subprocess.DEVNULL
            )
            while len(site.log) < seen + wanted:
                assert child.returncode is None
                await asyncio.sleep(0.01)
            while len(recorded_rows(tmp_path)) <= recorded:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            os.kill(child.pid, signal.SIGKILL)
            await child.wait()
            known = recorded_rows(tmp_path)
            recorded = len(known)
            for row in known:
                site.pages[f"/ok/{row}"] = (500, {}, b"this row was recorded")
        site.delay_s = 0.0
        async with collecting(tmp_path, agent="agent-3", prepare=False) as bench:
            report = await bench.batch(site.host, table_of(urls))
            assert report.tally == ((200, count),)
            assert len(bench.rows(site.host, "successes")) == count


async def test_a_full_disk_ends_the_batch_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        monkeypatch.setattr(os, "writev", full)
        report = await bench.batch(site.host, table_of([f"{site.url}/ok/1"]))
        assert report.outcome is Outcome.FAILED and report.failure is not None and report.failure.code == NoSpace.code
        assert not (tmp_path / "images").exists()


async def test_a_planted_symlink_leads_nowhere(tmp_path: Path) -> None:
    to, elsewhere = tmp_path / "to", tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with odd_server(picture()) as site, collecting(to) as bench:
        (to / "images").symlink_to(elsewhere)
        report = await bench.batch(site.host, table_of([f"{site.url}/ok/1"]))
        assert report.failure is not None and report.failure.code == UnsafeName.code
        assert not list(elsewhere.iterdir())


async def test_finalize_writes_the_documents_and_tidies(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        bench.documents |= {"profiles.csv": b"host\n", "overview.json": b"{}"}
        await bench.batch(site.host, table_of([f"{site.url}/ok/1"]))
        assert (tmp_path / "overview.json").read_bytes() == b"{}"  # refreshed while the run goes on
        bench.documents["overview.json"] = b'{"done": 1}'
        assert (await bench.last(bench.start(UnitKind.FINALIZE))).outcome is Outcome.DONE
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["images", "overview.json", "profiles.csv"]
        assert (tmp_path / "overview.json").read_bytes() == b'{"done": 1}'


async def test_many_slow_hosts_at_once(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path, memory_limit=1 << 20, connections=64) as bench:
        site.crowd = 21
        refs = [
            bench.start(
                UnitKind.BATCH,
                host=f"h{n}.test",
                partition=n,
                rows=table_of([f"{site.url}/ok/{n}/{k}" for k in range(3)]),
            )
            for n in range(20)
        ]
        for ref in refs:
            assert (await bench.last(ref)).tally == ((200, 3),)
        assert site.together_max >= site.crowd


async def test_a_drain_that_is_cut_short_still_returns_the_leases(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        ref = bench.start(UnitKind.BATCH, host=site.host, rows=table_of([f"{site.url}/hang"]))
        while not site.log:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        draining = asyncio.ensure_future(bench.collector.drain(60.0))
        await asyncio.sleep(0.1)
        draining.cancel()
        assert (await bench.last(ref)).outcome is Outcome.RETURNED
        after = bench.start(UnitKind.BATCH, host=site.host, rows=table_of([f"{site.url}/ok/1"]), partition=1)
        assert (await bench.last(after)).outcome is Outcome.RETURNED
