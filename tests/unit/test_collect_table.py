"""URL tables become batches: every row is in one batch or among the rejects, whatever the tables hold."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.common.collect_records import CollectSpec, Restart
from shoal.common.dataset_rows import BLOCK_BYTES_MAX, END_OF_STREAM, read_rows
from shoal.common.dataset_schema import batch_schema, rejects_schema
from shoal.common.errors import (
    Conflict,
    Interrupted,
    NoSpace,
    NotFound,
    NotWritable,
    ProtocolViolation,
    Refused,
    ShoalError,
    StateDamaged,
    UsageError,
)
from shoal.common.policy import Policy
from shoal.coordinator.collect import Plan, cutting, duplicates, make_plan, open_plan, partition, reading

HEADER = "uuid,identifier,source_id"


def plan_of(*tables: Path | str, work: Path, policy: Policy | None = None, **spec: Any) -> Plan:
    return make_plan(
        CollectSpec(tables=tuple(map(str, tables)), **spec),
        work=work,
        policy=policy or Policy(),
        should_stop=lambda: False,
        progress=lambda rows: None,
    )


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in (header, *rows)), encoding="utf-8")
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def rows_of(plan: Plan) -> dict[tuple[str, int], list[dict[str, Any]]]:
    return {
        (batch.host, batch.partition): plan.read_batch(batch.host, batch.partition).to_pylist()
        for batch in plan.batches()
    }


def uuids(plan: Plan) -> dict[tuple[str, int], list[str]]:
    return {key: [row["uuid"] for row in rows] for key, rows in rows_of(plan).items()}


def rejects(plan: Plan) -> list[dict[str, Any]]:
    table = pq.read_table(plan.rejects_path)
    assert table.schema == rejects_schema()
    assert table.num_rows == plan.rows_rejected
    return table.to_pylist()


def reasons(plan: Plan) -> dict[int, str]:
    return {row["row"]: row["reason"] for row in rejects(plan)}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


# ---- formats ---------------------------------------------------------------------------------------------------------------


def test_rows_go_to_batches_by_server_in_the_order_of_the_table(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t.csv", *(f"u{i},https://h{i % 2}.example/{i},s{i}" for i in range(7)))
    plan = plan_of(table, work=work, batch_size=2)
    assert uuids(plan) == {
        ("h0.example", 0): ["u0", "u2"],
        ("h0.example", 1): ["u4", "u6"],
        ("h1.example", 0): ["u1", "u3"],
        ("h1.example", 1): ["u5"],
    }
    assert (plan.rows_total, plan.rows_rejected, plan.hosts, plan.batches_total) == (7, 0, 2, 4)
    first = plan.read_batch("h0.example", 0)
    assert first.schema == batch_schema() == plan.schema
    assert first.to_pylist()[1] == {
        "uuid": "u2",
        "identifier": "https://h0.example/2",
        "source_id": "s2",
        "license": None,
        "source": None,
        "title": None,
    }
    assert [(batch.rows, batch.bytes > 0) for batch in plan.batches()] == [(2, True), (2, True), (2, True), (1, True)]
    assert rejects(plan) == []


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.csv.gz", "t.csv.bz2", "t.csv.zst", "t.csv.lz4"])
def test_csv_plain_and_compressed(name: str, tmp_path: Path, work: Path) -> None:
    compression = {"gz": "gzip", "zst": "zstd"}.get(name.rpartition(".")[2].lower(), name.rpartition(".")[2].lower())
    with pa.output_stream(str(tmp_path / name), compression=None if compression == "csv" else compression) as out:
        out.write(f"{HEADER}\nu1,https://a.example/1,s1\n".encode())
    assert uuids(plan_of(tmp_path / name, work=work)) == {("a.example", 0): ["u1"]}


def test_tsv_byte_order_mark_crlf_quotes_and_newlines_in_values(tmp_path: Path, work: Path) -> None:
    tsv = tmp_path / "a.tsv"
    tsv.write_bytes(b"\xef\xbb\xbfuuid\tidentifier\tsource_id\ttitle\r\nu1\thttp://a.example/x,y\t1\tone, two\r\n")
    csv = write(tmp_path / "b.csv", 'u2,http://a.example/2,1,"one\ntwo, ""three"""', header=f"{HEADER},title")
    rows = rows_of(plan_of(tsv, csv, work=work))[("a.example", 0)]
    assert [row["title"] for row in rows] == ["one, two", 'one\ntwo, "three"']
    assert rows[0]["identifier"] == "http://a.example/x,y"


def test_folders_globs_and_files_are_read_in_order_and_once(tmp_path: Path, work: Path) -> None:
    data = tmp_path / "data"
    write(data / "b" / "2.csv", "u2,http://a.example/2,1")
    write(data / "a.csv", "u1,http://a.example/1,1")
    parquet(data / "c.parquet", uuid=["u3"], identifier=["http://a.example/3"], source_id=["1"])
    write(data / "_SUCCESS.csv", "never,read")
    write(data / ".hidden" / "x.csv", "never,read")
    (data / "readme.txt").write_text("no table")
    glob = str(data / "*.csv").replace("*", "[a-z]")
    plan = plan_of(glob, data, data / "a.csv", work=work)
    assert uuids(plan) == {("a.example", 0): ["u1", "u2", "u3"]}


def test_a_name_that_looks_like_a_pattern_is_a_name_if_it_is_there(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t[1].csv", "u1,http://a.example/1,1")
    write(tmp_path / "t1.csv", "u2,http://a.example/1,1")
    assert uuids(plan_of(table, work=work)) == {("a.example", 0): ["u1"]}


def test_columns_are_mapped_and_carried_with_their_types(tmp_path: Path, work: Path) -> None:
    when = pa.array([1, None], pa.timestamp("us", tz="UTC"))
    kind = pa.array(["x", None]).dictionary_encode()
    table = pa.table(
        {
            "ID": pa.array([7, 8], pa.int64()),
            "url": pa.array(["http://a.example/1", "http://a.example/2"], pa.large_string()),
            "src": pa.array([b"s", b"t"], pa.binary()),
            "license": pa.array([None, None], pa.float64()),
            "when": when,
            "kind": kind,
            "tags": pa.array([["a"], []], pa.list_(pa.string())),
            "unused": [1, 2],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    names = (("uuid", "ID"), ("identifier", "url"), ("source_id", "src"))
    plan = plan_of(tmp_path / "t.parquet", work=work, columns=names, carry=("tags", "when", "kind"))
    batch = plan.read_batch("a.example", 0)
    carried = pa.schema(
        [("tags", pa.list_(pa.string())), ("when", pa.timestamp("us", tz="UTC")), ("kind", pa.string())]
    )
    assert batch.schema.equals(batch_schema(carried)) or batch.schema.names == batch_schema(carried).names
    assert batch.schema.field("when").type == pa.timestamp("us", tz="UTC")
    assert batch.schema.field("kind").type == pa.string()
    assert batch["uuid"].to_pylist() == ["7", "8"]
    assert batch["source_id"].to_pylist() == ["s", "t"]
    assert batch["license"].to_pylist() == [None, None]
    assert batch["tags"].to_pylist() == [["a"], []]
    assert batch["when"].to_pylist() == when.to_pylist()


def test_uuids_of_sixteen_bytes_become_text(tmp_path: Path, work: Path) -> None:
    name = uuid.UUID(int=5)
    table = parquet(
        tmp_path / "t.parquet",
        uuid=pa.array([name.bytes], pa.binary(16)),
        identifier=["http://a.example/1"],
        source_id=["1"],
    )
    assert uuids(plan_of(table, work=work)) == {("a.example", 0): [str(name)]}


def test_numbers_in_a_csv_stay_as_they_are_written(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t.csv", "0012,http://a.example/1,1.50,007", header=f"{HEADER},extra")
    (row,) = rows_of(plan_of(table, work=work, carry=("extra",)))[("a.example", 0)]
    assert (row["uuid"], row["source_id"], row["extra"]) == ("0012", "1.50", "007")


# ---- rejects ---------------------------------------------------------------------------------------------------------------


def test_every_reason(tmp_path: Path, work: Path) -> None:
    long = "http://a.example/" + "x" * 9000
    lines = [
        ("u0", "http://a.example/ok", "1", None),
        ("", "http://a.example/1", "1", "missing uuid"),
        ("u2", "http://a.example/2", " ", "missing source_id"),
        ("u3", "", "1", "missing URL"),
        ("u4", "ftp://a.example/4", "1", "scheme other than http and https"),
        ("u5", "mailto:someone@a.example", "1", "scheme other than http and https"),
        ("u6", "a.example/6", "1", "unparsable URL: it is not absolute"),
        ("u7", "http://user:secret@a.example/7", "1", "unparsable URL: it holds a user name"),
        ("u8", "http://a.example:99999/8", "1", "unparsable URL: its port is out of range"),
        ("u9", "http://a.example:x/9", "1", "unparsable URL: its host or port is malformed"),
        ("u10", "http:///10", "1", "unparsable URL: its host is empty or malformed"),
        ("u11", "http://a.example/\x01", "1", "unparsable URL: it holds a control character"),
        ("u12", "http://a.example/\0", "1", "unparsable URL: it holds a control character"),
        ("u13", "http://2130706433/13", "1", "unparsable URL: its host is a number but not a plain IPv4 address"),
        ("u14", "http://[::1/14", "1", "unparsable URL: its host or port is malformed"),
        ("u15", long, "1", "URL longer than 8192 bytes"),
        ("u0", "http://b.example/16", "1", "duplicate uuid"),
        ("u3", "http://a.example/17", "1", None),  # the first u3 is no row that could be used
        ("u18", "http://a b.example/18", "1", "unparsable URL: its host is empty or malformed"),
        ("u19", "http://" + "a" * 300 + ".example/", "1", "unparsable URL: its host is empty or malformed"),
    ]
    table = write(tmp_path / "t.csv", *(",".join(line[:3]) for line in lines))
    plan = plan_of(table, work=work)
    assert reasons(plan) == {row: line[3] for row, line in enumerate(lines) if line[3]}
    assert uuids(plan) == {("a.example", 0): ["u0", "u3"]}
    assert plan.rows_total == len(lines)
    assert plan.rejects["scheme other than http and https"] == 2
    assert plan.rejects["unparsable URL"] == 11
    by_row = {row["row"]: row for row in rejects(plan)}
    assert by_row[4] | {"reason": ""} == {
        "file": str(table),
        "row": 4,
        "uuid": "u4",
        "identifier": "ftp://a.example/4",
        "source_id": "1",
        "reason": "",
    }
    assert len(by_row[15]["identifier"]) == 8192


def test_rows_with_a_wrong_number_of_columns_are_kept_and_the_others_keep_their_numbers(
    tmp_path: Path, work: Path
) -> None:
    table = write(
        tmp_path / "t.csv",
        "u0,http://a.example/0",
        "u1,ftp://a.example/1,1",
        "u,u,u,u",
        "",
        "u2,http://a.example/2,1",
        "x",
    )
    plan = plan_of(table, work=work)
    assert reasons(plan) == {0: "wrong number of columns", 1: "scheme other than http and https"} | dict.fromkeys(
        (2, 4), "wrong number of columns"
    )
    assert {row["row"]: row["identifier"] for row in rejects(plan)}[2] == "u,u,u,u"
    assert plan.rows_total == 5
    assert uuids(plan) == {("a.example", 0): ["u2"]}


def test_a_table_of_broken_rows_alone(tmp_path: Path, work: Path) -> None:
    plan = plan_of(
        write(tmp_path / "t.csv", *["x"] * 5000), write(tmp_path / "u.csv", "u,http://a.example/,1"), work=work
    )
    assert plan.rejects == {"wrong number of columns": 5000}
    assert plan.rows_total == 5001


def test_text_that_is_not_utf8_costs_its_row_alone(tmp_path: Path, work: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(f"{HEADER},title\nu0,http://a.example/0,1,ok\nu1,http://a.example/1,1,".encode() + b"\xff\n")
    plan = plan_of(table, work=work)
    assert reasons(plan) == {1: "not UTF-8"}
    assert uuids(plan) == {("a.example", 0): ["u0"]}


def test_a_url_of_ten_megabytes_is_a_reject(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t.csv", "u0,http://a.example/" + "x" * 10_000_000 + ",1", "u1,http://a.example/1,1")
    plan = plan_of(table, work=work)
    assert reasons(plan) == {0: "URL longer than 8192 bytes"}
    assert uuids(plan) == {("a.example", 0): ["u1"]}


def test_policy(tmp_path: Path, work: Path) -> None:
    rows = [
        "u0,https://good.example/,1",
        "u1,https://bad.example./,1",
        "u2,https://BAD.example:8443/,1",
        "u3,http://good.example/,1",
    ]
    policy = Policy(deny=("bad.example",), https_only=True)
    plan = plan_of(write(tmp_path / "t.csv", *rows), work=work, policy=policy)
    assert {row: reason.partition(":")[0] for row, reason in reasons(plan).items()} == dict.fromkeys(
        (1, 2, 3), "refused by policy"
    )
    assert "security.https_only" in reasons(plan)[3]
    with pytest.raises(Refused):
        plan_of(tmp_path / "t.csv", work=tmp_path / "other", policy=Policy(deny=(f"file://{tmp_path}/*",)))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://EXAMPLE.org/A", "example.org"),
        ("HTTPS://example.org", "example.org"),
        ("https://example.org./", "example.org"),
        ("https://example.org:443/", "example.org"),
        ("https://example.org:80/", "example.org:80"),
        ("http://example.org:8080?q", "example.org:8080"),
        ("https://bücher.example/ä b", "xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("https://例え.テスト/", "xn--r8jz45g.xn--zckzah"),
        ("http://[2001:DB8::1]/", "[2001:db8::1]"),
        ("http://[::1]:81/", "[::1]:81"),
        ("http://192.0.2.1/", "192.0.2.1"),
        ("  https://example.org/x \t", "example.org"),
        ("https://example.org#f", "example.org"),
    ],
)
def test_servers(url: str, host: str, tmp_path: Path, work: Path) -> None:
    table = parquet(tmp_path / "t.parquet", uuid=["u"], identifier=[url], source_id=["1"])
    plan = plan_of(table, work=work)
    assert list(rows_of(plan)) == [(host, 0)]
    assert plan.read_batch(host, 0)["identifier"].to_pylist() == [url.strip()]


# ---- duplicates ------------------------------------------------------------------------------------------------------------


def test_the_first_row_with_a_uuid_wins_across_files_and_blocks(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.coordinator.collect import checking

    monkeypatch.setattr(checking, "_JOINED_ROWS", 1)
    one = write(tmp_path / "1.csv", "a,http://z.example/1,1", "b,http://z.example/2,1")
    two = write(tmp_path / "2.csv", "b,http://y.example/3,1", "c,http://y.example/4,1", "a,http://x.example/5,1")
    plan = plan_of(two, one, work=work)
    assert uuids(plan) == {("x.example", 0): ["a"], ("y.example", 0): ["b", "c"]}
    assert sorted((Path(row["file"]).name, row["row"], row["uuid"]) for row in rejects(plan)) == [
        ("1.csv", 0, "a"),
        ("1.csv", 1, "b"),
    ]


def test_buckets_that_are_too_large_are_split(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are made tiny, so that every way through the three passes is taken with a small table."""
    from shoal.coordinator.collect import checking

    monkeypatch.setattr(checking, "_JOINED_ROWS", 100)
    monkeypatch.setattr(reading, "_BLOCK_ROWS_MIN", 100)
    monkeypatch.setattr(reading, "_BLOCK_ROWS_MAX", 100)
    monkeypatch.setattr(duplicates, "_BUCKET_BYTES_MAX", 2000)
    monkeypatch.setattr(partition, "_BUCKET_BYTES_MAX", 3000)
    monkeypatch.setattr(partition, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(cutting, "_CONTAINER_BYTES_AIMED", 20_000)
    monkeypatch.setattr(cutting, "SHARED_ROWS_MAX", 5)
    hosts = ["big.example"] * 6 + [f"h{i}.example" for i in range(40)]
    urls = [f"http://{hosts[i % len(hosts)]}/{i}" for i in range(2000)]
    names = [f"u{i % 1500}" for i in range(2000)]
    table = parquet(tmp_path / "t.parquet", uuid=names, identifier=urls, source_id=["s"] * 2000)
    plan = plan_of(table, work=work, batch_size=16)
    expected: dict[str, list[str]] = {}
    for url in urls[:1500]:
        expected.setdefault(url.split("/")[2], []).append(url)
    found: dict[str, list[str]] = {}
    for (host, number), rows in rows_of(plan).items():
        assert number == len(found.get(host, [])) // 16
        found.setdefault(host, []).extend(row["identifier"] for row in rows)
    assert found == expected
    assert sorted(reasons(plan)) == list(range(1500, 2000))
    assert len(plan.record.container_sizes) > 1
    assert list(uuids(plan)) == sorted(uuids(plan))


def test_many_servers_with_one_row_each(tmp_path: Path, work: Path) -> None:
    count = 20_000
    table = parquet(
        tmp_path / "t.parquet",
        uuid=[str(i) for i in range(count)],
        identifier=[f"http://h{i}.example/" for i in range(count)],
        source_id=["s"] * count,
    )
    plan = plan_of(table, work=work)
    assert (plan.hosts, plan.batches_total) == (count, count)
    assert sum(1 for _ in work.iterdir()) == 4
    listed = list(plan.batches())
    assert [batch.host for batch in listed] == sorted(f"h{i}.example" for i in range(count))
    for i in (0, 1, 4095, 4096, 12345, count - 1):
        assert plan.read_batch(f"h{i}.example", 0)["uuid"].to_pylist() == [str(i)]
    with pytest.raises(NotFound):
        plan.read_batch("h1.example", 1)


VALUE = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.sampled_from(
        ["a", "b", "http://a.example/", "HTTP://A.example:80/x", "https://b.example", "http://c.example:8/", "ftp://x/"]
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(VALUE, VALUE, VALUE), min_size=1, max_size=40),
    size=st.integers(1, 5),
    split=st.integers(0, 40),
)
def test_no_row_is_lost_or_taken_twice(
    rows: list[tuple[str | None, str | None, str | None]],
    size: int,
    split: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("property")
    files = [part for part in (rows[:split], rows[split:]) if part]
    paths: list[Path] = []
    for number, part in enumerate(files):
        columns = dict(zip(("uuid", "identifier", "source_id"), zip(*part)))
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)
        paths.append(path)
    plan = plan_of(*paths, work=folder / "work", batch_size=size)
    batches = rows_of(plan)
    assert all(1 <= len(batch) <= size for batch in batches.values())
    kept = [(row["uuid"], row["identifier"], row["source_id"]) for batch in batches.values() for row in batch]
    refused = [(row["uuid"], row["identifier"], row["source_id"]) for row in rejects(plan)]
    places = [(row["file"], row["row"]) for row in rejects(plan)]
    assert len(set(places)) == len(places)
    assert sorted(map(_bare, kept + refused)) == sorted(map(_bare, rows))
    names = [row[0] for row in kept]
    assert len(set(names)) == len(names)
    assert plan.rows_total == len(rows)


def _bare(row: tuple[str | None, str | None, str | None]) -> tuple[str, ...]:
    return (str(row[0]), str(row[1]).strip(" \t\r\n"), str(row[2]))


# ---- what ends the job -----------------------------------------------------------------------------------------------------


def failure(kind: type[ShoalError], *tables: Path | str, work: Path, **spec: Any) -> str:
    with pytest.raises(kind) as caught:
        plan_of(*tables, work=work, **spec)
    assert type(caught.value) is kind
    assert caught.value.remedy
    assert not (work / "plan.json").exists()
    return str(caught.value)


def test_missing_columns_are_named_with_the_nearest(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t.csv", "1,2,3", header="UUID,identifer,source_id")
    text = failure(UsageError, table, work=work)
    assert "t.csv" in text and "'uuid'" in text and "nearest: 'UUID'" in text and "collect.columns" in text
    assert "'identifer'" in failure(UsageError, table, work=work, columns=(("uuid", "UUID"),))
    text = failure(UsageError, write(tmp_path / "u.csv", "1,http://a.example/,3"), work=work, carry=("taxn",))
    assert "collect.carry" in text
    doubled = write(tmp_path / "d.csv", "1,2,3,4", header=f"{HEADER},uuid")
    assert "2 times" in failure(UsageError, doubled, work=work)


@pytest.mark.parametrize(
    "spec", [{"columns": (("url", "x"),)}, {"carry": ("image",)}, {"carry": ("a", "a")}, {"carry": ("host",)}]
)
def test_columns_that_make_no_sense(spec: dict[str, Any], tmp_path: Path, work: Path) -> None:
    failure(UsageError, write(tmp_path / "t.csv", "u,http://a.example/,1"), work=work, **spec)


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"identifier": pa.array([1])}, "identifier"),
        ({"uuid": pa.array([1.0])}, "whole numbers"),
        ({"source_id": pa.array([["x"]])}, "source_id"),
        ({"title": pa.array([{"x": 1}])}, "title"),
        ({"uuid": pa.array([b"abc"], pa.binary(3))}, "uuid"),
    ],
)
def test_wrong_types(columns: dict[str, Any], word: str, tmp_path: Path, work: Path) -> None:
    good: dict[str, Any] = {"uuid": ["u"], "identifier": ["http://a.example/"], "source_id": ["1"]}
    text = failure(UsageError, parquet(tmp_path / "t.parquet", **(good | columns)), work=work)
    assert word in text and "t.parquet" in text


def test_files_that_differ_in_the_type_of_a_carried_column(tmp_path: Path, work: Path) -> None:
    one = parquet(tmp_path / "1.parquet", uuid=["a"], identifier=["http://a.example/"], source_id=["1"], n=[1])
    two = parquet(tmp_path / "2.parquet", uuid=["b"], identifier=["http://a.example/"], source_id=["1"], n=["1"])
    text = failure(UsageError, one, two, work=work, carry=("n",))
    assert "int64" in text and "string" in text and "2.parquet" in text


def test_inputs_that_are_not_there_or_no_tables(tmp_path: Path, work: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.xlsx").write_bytes(b"x")
    (tmp_path / "zero.csv").touch()
    os.mkfifo(tmp_path / "pipe.csv")
    failure(NotFound, tmp_path / "none.csv", work=work)
    failure(NotFound, tmp_path / "*.parquet", work=work)
    failure(NotFound, tmp_path / "empty", work=work)
    failure(UsageError, tmp_path / "t.xlsx", work=work)
    failure(UsageError, tmp_path / "zero.csv", work=work)
    failure(UsageError, tmp_path / "pipe.csv", work=work)
    failure(UsageError, "s3://bucket/t.csv", work=work)
    failure(UsageError, "a\0b.csv", work=work)
    failure(UsageError, "x" * 300 + ".csv", work=work)
    failure(UsageError, work=work)
    assert "no table has a row" in failure(UsageError, write(tmp_path / "head.csv"), work=work)


def damaged(tmp_path: Path) -> Iterable[Path]:
    good = pa.table(
        {"uuid": [str(i) for i in range(5000)], "identifier": ["http://a.example/"] * 5000, "source_id": ["1"] * 5000}
    )
    pq.write_table(good, tmp_path / "good.parquet")
    whole = (tmp_path / "good.parquet").read_bytes()
    for name, data in {
        "cut.parquet": whole[: len(whole) // 2],
        "page.parquet": whole[:200] + bytes(len(whole) // 2) + whole[200 + len(whole) // 2 :],
        "text.parquet": b"uuid,identifier,source_id\n",
        "cut.csv.gz": gzip.compress(os.urandom(50_000))[:20_000],
        "not.csv.gz": b"uuid,identifier,source_id\n1,2,3\n",
        "wide.csv": f"{HEADER}\n".encode().decode().encode("utf-16"),
        "latin.csv": "größe,uuid,identifier,source_id\n1,2,3,4\n".encode("latin-1"),
        "blank.csv": b"\n\n\n",
        "quote.csv": f'{HEADER}\nu,"http://a.example/'.encode() + b"\nx" * (20 << 20),
    }.items():
        (tmp_path / name).write_bytes(data)
        yield tmp_path / name


def test_a_failure_while_rejects_are_written_is_not_blamed_on_the_table(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shoal.coordinator.collect.rejects._ROWS_MAX", 10)
    monkeypatch.setattr("shoal.coordinator.collect.rejects.Rejects._write", full)
    with pytest.raises(NoSpace):
        plan_of(write(tmp_path / "t.csv", *["x"] * 50), work=work)


def test_damaged_files_are_named(tmp_path: Path, work: Path) -> None:
    for path in damaged(tmp_path):
        assert path.name in failure(UsageError, path, work=work), path


def test_a_truncated_gzip_in_the_middle_leaves_nothing(tmp_path: Path, work: Path) -> None:
    body = "".join(f"{uuid.uuid4()},http://a.example/{i},1\n" for i in range(200_000))
    data = gzip.compress(f"{HEADER}\n{body}".encode(), 1)
    (tmp_path / "t.csv.gz").write_bytes(data[:-1000])
    assert "t.csv.gz" in failure(UsageError, tmp_path / "t.csv.gz", work=work)
    assert list(work.iterdir()) == []


def test_a_work_folder_that_cannot_be_written(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "u,http://a.example/,1")
    (tmp_path / "file").touch()
    with pytest.raises(NotWritable):
        plan_of(table, work=tmp_path / "file" / "work")


def test_a_full_disk(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partition, "write_plan", full)
    with pytest.raises(NoSpace):
        plan_of(write(tmp_path / "t.csv", "u,http://a.example/,1"), work=work)
    assert list(work.iterdir()) == []


# ---- plans -----------------------------------------------------------------------------------------------------------------


def contents(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(work.iterdir())}


def test_the_same_input_gives_the_same_plan_to_the_byte(tmp_path: Path) -> None:
    rows = [f"u{i % 900},http://h{i % 37}.example/{i},1" for i in range(1000)]
    table = write(tmp_path / "t.csv", *rows, "broken")
    plan_of(table, work=tmp_path / "one", batch_size=7)
    code = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]); from unit import test_collect_table as t;"
    code += "t.plan_of(sys.argv[1], work=Path(sys.argv[2]), batch_size=7)"
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(table), str(tmp_path / "two"), tests], check=True, env=environment)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_finished_plan_is_used_again_until_the_input_changes(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t.csv", "u,http://a.example/,1")
    plan_of(table, work=work)
    before = (work / "plan.json").stat().st_ino
    assert uuids(plan_of(table, work=work)) == {("a.example", 0): ["u"]}
    assert (work / "plan.json").stat().st_ino == before
    with pytest.raises(Conflict, match="--restart partitioning"):
        plan_of(table, work=work, batch_size=5)
    write(table, "v,http://a.example/,1", "w,http://a.example/,1")
    with pytest.raises(Conflict, match=r"t\.csv"):
        plan_of(table, work=work)
    assert uuids(open_plan(work)) == {("a.example", 0): ["u"]}
    assert uuids(plan_of(table, work=work, restart=Restart.PARTITIONING)) == {("a.example", 0): ["v", "w"]}


def test_a_table_that_changes_while_it_is_read(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t.csv", "u,http://a.example/,1")

    def touch(rows: int) -> None:
        os.utime(table, (1, 1))

    with pytest.raises(Conflict, match="while it was read"):
        make_plan(
            CollectSpec(tables=(str(table),)), work=work, policy=Policy(), should_stop=lambda: False, progress=touch
        )


def test_stop(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t.csv", *(f"u{i},http://h{i}.example/,1" for i in range(50)))
    work.mkdir()
    (work / "of somebody else").touch()
    for patience in range(1, 12):
        answers = iter([False] * patience)
        try:
            make_plan(
                CollectSpec(tables=(str(table),)),
                work=work,
                policy=Policy(),
                should_stop=lambda answers=answers: next(answers, True),
                progress=lambda rows: None,
            )
        except Interrupted:
            assert [path.name for path in work.iterdir()] == ["of somebody else"]
        else:
            break
    else:
        pytest.fail("it asks whether to stop more often than thought")
    assert patience > 3


def test_progress_tells_the_rows_read(tmp_path: Path, work: Path) -> None:
    tables = [write(tmp_path / f"{i}.csv", *(f"{i}-{j},http://a.example/,1" for j in range(10))) for i in range(3)]
    told: list[int] = []
    spec = CollectSpec(tables=tuple(map(str, tables)))
    make_plan(spec, work=work, policy=Policy(), should_stop=lambda: False, progress=told.append)
    assert told == sorted(told) and told[-1] == 30


def plan_and_stand_still(table: str, work: Path) -> None:
    """For a process that will be killed: it says when rows have been spilled to the disk, and does no more."""

    def spilled(rows: int) -> None:
        if any(work.glob("spill/0/*")):
            print("spilled", flush=True)
            signal.pause()

    make_plan(CollectSpec(tables=(table,)), work=work, policy=Policy(), should_stop=lambda: False, progress=spilled)


def test_a_killed_run_is_begun_anew(tmp_path: Path, work: Path) -> None:
    big = tmp_path / "big.csv"
    count = 300_000
    pcsv.write_csv(
        pa.table(
            {
                "uuid": [f"{i:032d}" for i in range(count)],
                "identifier": [f"http://h{i % 50}.example/{i}" for i in range(count)],
                "source_id": ["1"] * count,
            }
        ),
        big,
    )
    code = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]); from unit import test_collect_table as t;"
    code += "t.plan_and_stand_still(sys.argv[1], Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(big), str(work), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"spilled\n"
        process.send_signal(signal.SIGKILL)
    assert (work / "spill").exists()
    with pytest.raises(NotFound):
        open_plan(work)
    (work / "batches-00007.arrows").touch()
    plan = plan_of(big, work=work)
    assert plan.rows_total == count == sum(batch.rows for batch in plan.batches())
    assert sorted(path.name for path in work.iterdir()) == [
        "batches-00000.arrows",
        "index.arrow",
        "plan.json",
        "rejects.parquet",
    ]


def test_damage_is_told_with_a_remedy(tmp_path: Path, work: Path) -> None:
    table = write(tmp_path / "t.csv", *(f"u{i},http://h{i % 3}.example/{i},1" for i in range(100)))
    plan_of(table, work=work, batch_size=10)
    for path in sorted(work.iterdir()):
        data = path.read_bytes()
        for wrong in (data[:-1], b"", data + b"x"):
            path.write_bytes(wrong)
            if path.name == "plan.json" and wrong == data[:-1] + data[-1:]:
                continue
            with pytest.raises(StateDamaged, match="--restart partitioning"):
                open_plan(work)
        path.unlink()
        with pytest.raises(NotFound if path.name == "plan.json" else StateDamaged):
            open_plan(work)
        path.write_bytes(data)
    text = (work / "plan.json").read_text()
    (work / "plan.json").write_text(text.replace('"rows_total": 100', '"rows_total": 101'))
    with pytest.raises(StateDamaged, match="checksum"):
        plan_of(table, work=work, batch_size=10)
    (work / "plan.json").write_text(text)
    container = work / "batches-00000.arrows"
    data = bytearray(container.read_bytes())
    data[-5] ^= 1
    container.write_bytes(data)
    plan = open_plan(work)
    with pytest.raises(StateDamaged, match="checksum"):
        rows_of(plan)


# ---- bytes for agents ------------------------------------------------------------------------------------------------------


def blocks_of(plan: Plan, host: str) -> Sequence[bytes]:
    return list(plan.batch_bytes(host, 0))


def test_batches_travel_in_bounded_blocks(tmp_path: Path, work: Path) -> None:
    count = 20_000
    title = [os.urandom(100).hex() for _ in range(count)]
    table = parquet(
        tmp_path / "t.parquet",
        uuid=[str(i) for i in range(count)],
        identifier=["http://a.example/"] * count,
        source_id=["s"] * count,
        title=title,
    )
    plan = plan_of(table, work=work, batch_size=1_000_000)
    blocks = blocks_of(plan, "a.example")
    assert len(blocks) > 3 and max(map(len, blocks)) <= BLOCK_BYTES_MAX
    rows = read_rows(b"".join(blocks))
    assert rows["title"].to_pylist() == title
    assert rows.equals(plan.read_batch("a.example", 0))


def test_bytes_that_are_cut_or_strange_are_refused(tmp_path: Path, work: Path) -> None:
    plan = plan_of(write(tmp_path / "t.csv", "u,http://a.example/,1"), work=work)
    whole = b"".join(blocks_of(plan, "a.example"))
    for wrong in (
        b"",
        whole[:-8],
        whole[: len(whole) // 2],
        whole[: len(whole) // 2] + END_OF_STREAM,
        b"x" * 100 + END_OF_STREAM,
    ):
        with pytest.raises(ProtocolViolation):
            read_rows(wrong)
