"""Batches of URL tables on real sockets: what is stored, what becomes an error, and what a run costs its host."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
from PIL import Image

from shoal.common.dataset_schema import errors_schema, successes_schema
from shoal.common.records import Outcome
from support.collecting import collecting, picture, table_of
from support.odd_server import odd_server


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
