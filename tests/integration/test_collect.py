"""Batches of URL tables on real sockets: what is stored, what becomes an error, and what a run costs its host."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from shoal.agent.collect.options import CollectOptions
from shoal.agent.engine.options import EngineOptions
from shoal.agent.worker import Worker
from shoal.common.collect_records import ImageEncoding, batch_path
from shoal.common.dataset_schema import errors_schema, successes_schema
from shoal.common.errors import NotFound
from shoal.common.records import (
    Delivery,
    JobSpec,
    Layout,
    Lease,
    ObjectSpec,
    OriginKind,
    Outcome,
    UnitKind,
    WorkReport,
)
from shoal.common.settings import load_settings
from shoal.common.wiring import s3_profiles
from support.collecting import SPEC, as_stream, collecting, picture, table_of
from support.odd_server import odd_server
from support.s3 import Store


async def test_a_batch_becomes_two_files_to_the_letter(tmp_path: Path) -> None:
    image = picture()
    async with odd_server(image) as site, collecting(tmp_path) as bench:
        rows = table_of([f"{site.url}/ok/0", f"{site.url}/status/404", f"{site.url}/ok/2"], extra=[1, 2, 3])
        report = await bench.batch(site.host, rows)
        assert report.outcome is Outcome.DONE, report
        assert report.tally == ((200, 2), (404, 1))
        assert report.fetched == 2 * len(image)
        successes, errors = bench.table(site.host, "successes"), bench.table(site.host, "errors")
        assert successes.schema.remove_metadata() == successes_schema(pa.schema([("extra", pa.int64())]))
        assert errors.schema.remove_metadata() == errors_schema()
        row = bench.rows(site.host, "successes")["u2"]
        assert row["hashsum_original"] == hashlib.md5(image).hexdigest()
        assert row["hashsum_resized"] == hashlib.md5(row["image"]).hexdigest()
        assert (row["original_size"], row["resized_size"], row["extra"]) == ([48, 96], [32, 64], 3)
        assert Image.open(io.BytesIO(row["image"])).size == (64, 32)
        assert row["is_license_full"] and row["http_status"] == 200 and row["content_type"] == "image/jpeg"
        error = bench.rows(site.host, "errors")["u1"]
        assert (error["error_code"], error["retry_count"]) == (404, 0) and "404" in error["error_msg"]


async def test_every_column_keeps_its_type_without_rows(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        await bench.batch(site.host, table_of([f"{site.url}/status/404"]), 0)
        await bench.batch(site.host, table_of([f"{site.url}/ok/1"]), 1)
        for name, partition, schema in (("successes", 0, successes_schema()), ("errors", 1, errors_schema())):
            table = bench.table(site.host, name, partition)
            assert table.num_rows == 0 and table.schema.remove_metadata() == schema


async def test_row_groups_are_bounded_and_pages_are_indexed(tmp_path: Path) -> None:
    async with odd_server(picture(400, 300)) as site:
        encoding = ImageEncoding.RAW_BGR
        async with collecting(tmp_path, image_size=300, image_encoding=encoding, row_group_bytes=1 << 20) as bench:
            await bench.batch(site.host, table_of([f"{site.url}/ok/{n}" for n in range(30)]))
            file = pq.ParquetFile(tmp_path / batch_path(site.host, 0) / "successes.parquet")
            assert file.num_row_groups > 3
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                assert group.total_byte_size < 4 << 20
                assert group.column(0).compression == "ZSTD" and group.column(0).has_column_index
            assert file.read().num_rows == 30


async def test_the_license_is_full_only_with_all_three(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        rows = table_of([f"{site.url}/ok/{n}" for n in range(3)], license=["CC0", "", None], title=["t", "t", "t"])
        await bench.batch(site.host, rows)
        found = bench.rows(site.host, "successes")
        assert [found[f"u{n}"]["is_license_full"] for n in range(3)] == [True, False, False]


async def test_the_worker_takes_leases_of_dataset_jobs(tmp_path: Path) -> None:
    reports: asyncio.Queue[WorkReport] = asyncio.Queue(10)

    async def none(job_id: str, *, unfinished_too: bool = False) -> AsyncIterator[Sequence[ObjectSpec]]:
        raise AssertionError("a dataset job has no manifest")
        yield ()

    async with odd_server(picture()) as site:
        rows = as_stream(table_of([f"{site.url}/ok/1"]))

        async def read_document(job_id: str, name: str) -> AsyncIterator[bytes]:
            if name != "batch/7":
                raise NotFound(name)
            yield rows

        job = JobSpec(
            job_id="job1",
            source="t",
            origin=OriginKind.HTTP,
            layout=Layout.FOLDER,
            destination=str(tmp_path),
            delivery=Delivery.DATASET,
            collect=SPEC,
        )
        worker = Worker(
            EngineOptions(agent_id="a", sync=False),
            report=reports.put_nowait,
            list_objects=none,
            hub_token=lambda: None,
            read_document=read_document,
        )
        batch = ObjectSpec(object_id=7, path=batch_path(site.host, 0), size=None)
        async with worker:
            for kind, spec in ((UnitKind.PREPARE, None), (UnitKind.BATCH, batch), (UnitKind.FINALIZE, None)):
                worker.start(Lease(unit="u", token=1, kind=kind, job_id="job1", object=spec), job, lambda: float("inf"))
                assert len(worker.held) == 1
                assert (await reports.get()).outcome is Outcome.DONE
            await worker.drain(1.0)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]  # no manifest, nothing of the Hub's


async def test_a_store_takes_finished_batches(tmp_path: Path) -> None:
    with Store(tmp_path / "store", access="AK1", secret="SK1") as store:
        (tmp_path / "store" / "data").mkdir()
        config = tmp_path / "shoal.toml"
        config.write_text(store.profile("lab", endpoint=f'"http://127.0.0.1:{store.backend_port}"'))
        settings = load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path, config_file=config)
        options = CollectOptions(
            engine=EngineOptions(agent_id="a", sync=False),
            image_workers=1,
            staging=tmp_path / "staging",
            stores=s3_profiles(settings, version="1").store,
        )
        async with odd_server(picture()) as site:
            rows = table_of([f"{site.url}/ok/1", f"{site.url}/status/404"])
            async with collecting(tmp_path, options=options, prepare=False) as bench:
                bench.destination, bench.profile = "s3://data/set/", "lab"
                assert (await bench.last(bench.start(UnitKind.PREPARE))).outcome is Outcome.DONE, bench.reports
                assert (await bench.batch(site.host, rows)).tally == ((200, 1), (404, 1)), bench.reports
                report = await bench.batch(site.host, rows)
                assert report.skipped and report.tally == ((200, 1), (404, 1))
                bench.documents["overview.json"] = b"{}"
                assert (await bench.last(bench.start(UnitKind.FINALIZE))).outcome is Outcome.DONE
            found = sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())
            assert found == ["errors.parquet", "overview.json", "successes.parquet"]
            assert not [path for path in (tmp_path / "staging").rglob("*") if path.is_file()]


async def test_what_was_collected_from_another_table_is_not_taken_for_this_one(tmp_path: Path) -> None:
    async with odd_server(picture()) as site, collecting(tmp_path) as bench:
        await bench.batch(site.host, table_of([f"{site.url}/ok/{n}" for n in range(3)]))
        other = table_of([f"{site.url}/ok/{n}" for n in range(5)])
        report = await bench.batch(site.host, other, rows_known=5)
        assert report.outcome is Outcome.FAILED and report.failure is not None
        assert "another table" in report.failure.text
        assert (await bench.batch(site.host, other, rows_known=3)).skipped
