"""``shoal collect`` on one machine: the result to the letter, hosts of every kind, resume, restarts."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from shoal.common.dataset_schema import errors_schema, successes_schema
from support.absent import without
from support.cli import Finished, Shoal, files_below
from support.dataset_files import errors, outcomes, rejects, successes, write_csv
from support.fleet import until
from support.image_site import Answerer, ImageSite, Reply, WebHost, always, first, images, jpeg, png_bomb

QUICK = {
    "SHOAL_COLLECT_ALLOW_PRIVATE_ADDRESSES": "true",
    "SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "0",
    "SHOAL_COLLECT_REQUEST_TIMEOUT": "20s",
    "SHOAL_COLLECT_IDLE_TIMEOUT": "10s",
    "SHOAL_COLLECT_BACKOFF_INITIAL": "1s",
    "SHOAL_COLLECT_HOST_PATIENCE": "5s",
    "SHOAL_COLLECT_ATTEMPTS": "2",
    "SHOAL_COLLECT_IMAGE_WORKERS": "1",
}
IMPATIENT = {"SHOAL_COLLECT_REQUEST_TIMEOUT": "4s", "SHOAL_COLLECT_IDLE_TIMEOUT": "1s"}
"""For servers that hang or drip. Where all are good, a machine that stands still for a second must not make one a bad one."""
RUN_S = 100.0


@pytest.fixture
def site() -> Iterator[ImageSite]:
    with ImageSite() as made:
        yield made


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    return Shoal(tmp_path / "person", environ=QUICK)


def collect(shoal: Shoal, *arguments: str | Path, **environ: str) -> Finished:
    return shoal.run("collect", *arguments, environ=environ, timeout_s=RUN_S)


def urls_of(host: WebHost, count: int) -> list[str]:
    return [host.url(f"/{number}.jpg") for number in range(count)]


def test_a_table_over_four_hosts_becomes_a_dataset(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    hosts = [site.host() for _ in range(4)]
    missing = hosts[3]
    missing.answer = lambda path, before: Reply(status=404) if path == "/7.jpg" else images(path, before)
    urls = [url for host in hosts for url in urls_of(host, 25)]
    table = tmp_path / "t.csv"
    uuids = write_csv(table, [*urls, "ftp://example.org/x.jpg", "no url at all"], license="CC0", source="S", title="T")
    out = tmp_path / "out"
    finished = collect(shoal, table, "--to", out, "--image-size", "100", "--json").expect(0)
    document = finished.document()
    assert (document["rows"], document["successes"], document["errors"], document["rejected"]) == (100, 99, 1, 2)
    ended = outcomes(out)
    assert sorted(ended) == sorted(uuids)
    assert list(ended.values()).count("success") == 99
    assert errors(out)[missing.url("/7.jpg")]["error_code"] == 404
    assert {row["server_name"] for row in successes(out)} == {host.name.replace(":", "%3A") for host in hosts}
    for row in successes(out):
        number = int(row["identifier"].rpartition("/")[2].partition(".")[0])
        assert row["hashsum_original"] == hashlib.md5(jpeg(number)).hexdigest()
        assert row["hashsum_resized"] == hashlib.md5(row["image"]).hexdigest()
        assert (row["original_size"], row["resized_size"]) == ([240, 320], [75, 100])
        assert Image.open(io.BytesIO(row["image"])).size == (100, 75)
        assert row["is_license_full"] is True
        assert (row["content_type"], row["http_status"], row["etag"]) == ("image/jpeg", 200, f'"{number}"')
    assert json.loads((out / "overview.json").read_text())["successes"] == 99
    profiles = list(csv.DictReader((out / "profiles.csv").read_text().splitlines()))
    assert {row["server_name"] for row in profiles} == {host.name for host in hosts}
    assert all(row["reachable"] == "True" for row in profiles)
    assert len(rejects(out)) == 2


def test_the_files_have_the_reference_schema_even_without_rows(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    good, bad = site.host(), site.host(always(Reply(status=404)))
    table = tmp_path / "t.csv"
    write_csv(table, [good.url("/1.jpg"), bad.url("/1.jpg")])
    collect(shoal, table, "--to", tmp_path / "out").expect(0)
    for path in (tmp_path / "out" / "images").rglob("*.parquet"):
        expected = successes_schema() if path.name == "successes.parquet" else errors_schema()
        schema = pq.read_schema(path)
        assert schema.names == expected.names, path
        assert schema.types == expected.types, path


def test_raw_pixels_are_what_the_reference_tool_stores(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    write_csv(tmp_path / "t.csv", [host.url("/5.jpg")])
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", "--image-encoding", "raw-bgr").expect(0)
    (row,) = successes(tmp_path / "out")
    height, width = row["resized_size"]
    assert (height, width) == (168, 224)
    assert len(row["image"]) == height * width * 3
    assert row["hashsum_resized"] == hashlib.md5(row["image"]).hexdigest()
    blue, _, red = Image.frombytes("RGB", (width, height), row["image"]).split()
    original = Image.open(io.BytesIO(jpeg(5))).resize((width, height), Image.Resampling.BOX)
    middle = (width // 2, height // 2)
    assert abs(red.getpixel(middle) - original.getpixel(middle)[0]) < 60  # type: ignore[operator, index]
    assert abs(blue.getpixel(middle) - original.getpixel(middle)[2]) < 60  # type: ignore[operator, index]


def svg(_path: str, _before: int) -> Reply:
    return Reply(body=b'<svg xmlns="http://www.w3.org/2000/svg"/>', headers={"Content-Type": "image/svg+xml"})


def redirect_to_itself(path: str, _before: int) -> Reply:
    return Reply(status=302, headers={"Location": path})


ODD: dict[str, tuple[Answerer, int]] = {
    "403": (always(Reply(status=403)), 403),
    "404": (always(Reply(status=404)), 404),
    "410": (always(Reply(status=410)), 410),
    "429": (always(Reply(status=429)), 429),
    "429 with Retry-After": (always(Reply(status=429, headers={"Retry-After": "2"})), 429),
    "503": (always(Reply(status=503)), 503),
    "hang": (always(Reply(manner="hang")), -1),
    "drip": (always(Reply(manner="drip", length=1_000_000)), -1),
    "reset": (always(Reply(manner="reset")), -1),
    "redirects in a loop": (redirect_to_itself, -1),
    "HTML": (always(Reply(body=b"<html>not here</html>", headers={"Content-Type": "text/html"})), -2),
    "a truncated JPEG": (always(Reply(body=jpeg(1)[:5000])), -2),
    "a body cut short": (always(Reply(body=jpeg(1), manner="truncated")), -1),
    "60,000 x 60,000": (always(Reply(body=png_bomb(60_000, 60_000))), -4),
    "SVG": (svg, -2),
    "EPS": (always(Reply(body=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")), -2),
    "5 GB": (always(Reply(manner="endless", length=5 << 30)), -4),
}


def test_odd_hosts_become_rows_of_errors_and_cost_the_others_nothing(
    site: ImageSite, shoal: Shoal, tmp_path: Path
) -> None:
    hosts = {what: site.host(answer) for what, (answer, _) in ODD.items()}
    good = site.host()
    urls = [url for host in hosts.values() for url in urls_of(host, 3)] + urls_of(good, 60)
    write_csv(tmp_path / "t.csv", urls)
    out = tmp_path / "out"
    finished = collect(shoal, tmp_path / "t.csv", "--to", out, **IMPATIENT).expect(0)
    assert len(outcomes(out)) == len(urls)
    found = errors(out)
    codes = {what: {found[url]["error_code"] for url in urls_of(host, 3)} for what, host in hosts.items()}
    assert codes == {what: {code} for what, (_, code) in ODD.items()}
    assert all(row["error_msg"] for row in found.values())
    assert len(successes(out)) == 60
    asked_bad = max(
        entry.at for entry in hosts["429 with Retry-After"].requests
    )  # every two seconds, until it is given up
    assert max(entry.at for entry in good.requests) < asked_bad, "the good host was not held up"
    assert finished.peak_rss_bytes < 400 << 20


def test_a_host_that_asks_to_wait_is_asked_a_handful_of_times(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host(always(Reply(status=429, headers={"Retry-After": "6"})))
    write_csv(tmp_path / "t.csv", urls_of(host, 10))
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", SHOAL_COLLECT_HOST_PATIENCE="15s").expect(0)
    assert {row["error_code"] for row in errors(tmp_path / "out").values()} == {429}
    assert 2 <= len(host.requests) <= 25
    later = sorted(entry.at for entry in host.requests)
    under_way = [at for at in later if at < later[0] + 4]  # when the first answer came; a busy server reads it late
    assert later[len(under_way)] >= later[0] + 5.9, "nobody asks before the six seconds are over"


def test_a_host_that_relents_is_collected_whole(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    state = {"until": 0}

    def answer(path: str, before: int) -> Reply:
        state["until"] += 1
        return Reply(status=503, headers={"Retry-After": "1"}) if state["until"] <= 2 else images(path, before)

    host = site.host(answer)
    write_csv(tmp_path / "t.csv", urls_of(host, 10))
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", SHOAL_COLLECT_ATTEMPTS="5").expect(0)
    assert len(successes(tmp_path / "out")) == 10


def test_errors_that_pass_are_tried_again(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host(first(Reply(status=500), images))
    write_csv(tmp_path / "t.csv", urls_of(host, 8))
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", SHOAL_COLLECT_ATTEMPTS="3").expect(0)
    assert len(successes(tmp_path / "out")) == 8
    assert len(host.requests) >= 16


def test_run_again_fetches_nothing(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    write_csv(tmp_path / "t.csv", urls_of(host, 20))
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out").expect(0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.parquet")}
    asked = len(host.requests)
    document = collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", "--json").expect(0).document()
    assert document["successes"] == 20
    assert len(host.requests) == asked
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_killed_at_any_moment_it_goes_on_inside_the_batch(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    hosts = [site.host(), site.host()]
    urls = [url for host in hosts for url in urls_of(host, 150)]
    uuids = write_csv(tmp_path / "t.csv", urls)
    slow = {"SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "40"}
    arguments = ("collect", tmp_path / "t.csv", "--to", tmp_path / "out")
    row_bytes = 224 * 168 * 3  # raw pixels, as they are recorded
    with shoal.start(*arguments, environ=slow) as running:
        until("some rows", lambda: bytes_below(tmp_path / "out" / ".shoal") > 20 * row_bytes)
        running.signal(signal.SIGKILL)
        running.wait()
    recorded = bytes_below(tmp_path / "out" / ".shoal") // row_bytes
    until("the servers to have read all that was sent", lambda: not any(host.connected for host in hosts))
    asked = sum(len(host.requests) for host in hosts)
    collect(shoal, *arguments[1:]).expect(0)
    ended = outcomes(tmp_path / "out")
    assert sorted(ended) == sorted(uuids)
    assert set(ended.values()) == {"success"}
    again = sum(len(host.requests) for host in hosts) - asked
    cut_short = 2 * (1 << 20) // row_bytes  # two hosts' last frames
    assert again <= len(urls) - recorded + cut_short, f"{again} of {len(urls)} were asked for again"


def bytes_below(folder: Path) -> int:
    """Of all files that are there now."""
    total = 0
    for path in files_below(folder):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_interrupted_it_stops_at_once_and_goes_on_later(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    uuids = write_csv(tmp_path / "t.csv", urls_of(host, 200))
    arguments = ("collect", tmp_path / "t.csv", "--to", tmp_path / "out")
    with shoal.start(*arguments, environ={"SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "10"}) as running:
        until("some rows", lambda: len(host.requests) > 30)
        running.signal(signal.SIGINT)
        assert running.wait().exit_code == 130
    collect(shoal, *arguments[1:]).expect(0)
    assert sorted(outcomes(tmp_path / "out")) == sorted(uuids)
    assert len(host.requests) < 240


def test_only_failed_urls_are_tried_again(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    broken = {"/3.jpg": 500, "/4.jpg": 404}
    host.answer = lambda path, before: Reply(status=broken[path]) if path in broken else images(path, before)
    uuids = write_csv(tmp_path / "t.csv", urls_of(host, 12))
    out = tmp_path / "out"
    collect(shoal, tmp_path / "t.csv", "--to", out).expect(0)
    assert len(successes(out)) == 10
    host.answer = images
    host.requests.clear()
    collect(shoal, tmp_path / "t.csv", "--to", out, "--restart", "failed", "--code", "500").expect(0)
    assert {entry.path for entry in host.requests} - {"/robots.txt"} == {"/3.jpg"}
    assert len(successes(out)) == 11
    collect(shoal, tmp_path / "t.csv", "--to", out, "--restart", "failed").expect(0)
    assert len(successes(out)) == 12
    assert errors(out) == {}
    assert sorted(outcomes(out)) == sorted(uuids)


def test_a_table_that_changed_is_refused_until_it_is_read_anew(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    out = tmp_path / "out"
    write_csv(tmp_path / "t.csv", urls_of(host, 10))
    collect(shoal, tmp_path / "t.csv", "--to", out).expect(0)
    host.requests.clear()
    uuids = write_csv(tmp_path / "t.csv", urls_of(host, 15))
    refused = collect(shoal, tmp_path / "t.csv", "--to", out)
    assert refused.exit_code != 0
    assert "--restart partitioning" in refused.stderr
    collect(shoal, tmp_path / "t.csv", "--to", out, "--restart", "partitioning").expect(0)
    asked = [entry.path for entry in host.requests if entry.path != "/robots.txt"]
    assert len(asked) == 5, "what was collected is not fetched again"
    assert sorted(outcomes(out)) == sorted(uuids)


def test_force_deletes_only_after_the_name_was_given(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    out = tmp_path / "out"
    write_csv(tmp_path / "t.csv", urls_of(host, 5))
    collect(shoal, tmp_path / "t.csv", "--to", out).expect(0)
    refused = collect(shoal, tmp_path / "t.csv", "--to", out, "--force").expect(2)
    assert "--confirm out" in refused.stderr
    assert len(successes(out)) == 5
    host.requests.clear()
    collect(shoal, tmp_path / "t.csv", "--to", out, "--force", "--confirm", "out").expect(0)
    assert len(host.requests) >= 5
    assert len(successes(out)) == 5


def test_private_addresses_are_refused_unless_allowed(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    write_csv(tmp_path / "t.csv", [host.url("/1.jpg"), f"http://localhost:{host.name.partition(':')[2]}/1.jpg"])
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", SHOAL_COLLECT_ALLOW_PRIVATE_ADDRESSES="false").expect(
        0
    )
    assert {row["error_code"] for row in errors(tmp_path / "out").values()} == {-3}
    assert host.requests == []


def test_robots_are_obeyed_when_asked(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    def answer(path: str, before: int) -> Reply:
        if path == "/robots.txt":
            return Reply(body=b"User-agent: *\nDisallow: /private/\n", headers={"Content-Type": "text/plain"})
        return images(path, before)

    host = site.host(answer)
    write_csv(tmp_path / "t.csv", [host.url("/1.jpg"), host.url("/private/2.jpg")])
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", "--robots").expect(0)
    assert errors(tmp_path / "out")[host.url("/private/2.jpg")]["error_code"] == -3
    assert len(successes(tmp_path / "out")) == 1
    assert "/private/2.jpg" not in {entry.path for entry in host.requests}


def test_any_content_is_kept_as_bytes(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host(lambda path, _before: Reply(body=path.encode() * 100, headers={"Content-Type": "text/plain"}))
    write_csv(tmp_path / "t.csv", [host.url(f"/{number}.txt") for number in range(5)])
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", "--content", "any").expect(0)
    found = {row["identifier"].rpartition("/")[2]: row["image"] for row in successes(tmp_path / "out")}
    assert found == {f"{number}.txt": f"/{number}.txt".encode() * 100 for number in range(5)}


@pytest.mark.parametrize("table", ["missing.csv", "*.csv", "empty.csv", "columns.csv"])
def test_a_table_that_cannot_be_read_is_named(shoal: Shoal, tmp_path: Path, table: str) -> None:
    (tmp_path / "columns.csv" if table == "columns.csv" else tmp_path / "unused").write_text(
        "id,identifer\n1,http://x/\n"
    )
    if table == "empty.csv":
        (tmp_path / table).write_text("")
    refused = collect(shoal, (tmp_path / "none" if "*" in table else tmp_path) / table, "--to", tmp_path / "out")
    assert refused.exit_code in (2, 3)
    assert table in refused.stderr
    if table == "columns.csv":
        assert "uuid" in refused.stderr
        assert "identifer" in refused.stderr, "the nearest name is told"


def test_from_python_with_a_configuration_file(
    site: ImageSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.client import collect as collect_from_python

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    host = site.host(lambda path, before: Reply(status=410) if path == "/2.jpg" else images(path, before))
    table = tmp_path / "birds.csv"
    lines = [f"{number},{host.url(f'/{number}.jpg')},g{number},owl" for number in range(6)]
    table.write_text("\n".join(["id,image_url,gbif,species", *lines]) + "\n")
    config = tmp_path / "birds.toml"
    config.write_text(
        f"""
[collect]
input = ["{table}"]
output = "{tmp_path / "out"}"
columns = {{ uuid = "id", identifier = "image_url", source_id = "gbif" }}
carry = ["species"]
image_size = 64
image_workers = 1
default_rate_limit = 0
allow_private_addresses = true
"""
    )
    result = collect_from_python(config)
    assert (result.rows, result.successes, result.errors, result.rejected) == (6, 5, 1, 0)
    assert result.errors_by_code == {410: 1}
    found = successes(tmp_path / "out")
    assert {(row["species"], max(row["resized_size"])) for row in found} == {("owl", 64)}
    assert {row["source_id"] for row in found} == {"g0", "g1", "g3", "g4", "g5"}


def test_without_opencv_a_run_says_what_to_do_and_pillow_does_it(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    table, out = tmp_path / "t.csv", tmp_path / "out"
    write_csv(table, urls_of(host, 3))
    absent = without(tmp_path / "absent", "cv2")
    finished = collect(shoal, table, "--to", out, "--image-size", "100", **absent)
    assert finished.exit_code != 0
    assert (
        "OpenCV is not installed (pip install 'shoal[images]', or set collect.resampler to pillow)" in finished.stderr
    )
    assert not host.requests, "nothing is fetched that cannot be made"
    by_pillow = {**absent, "SHOAL_COLLECT_RESAMPLER": "pillow"}
    collect(shoal, table, "--to", out, "--image-size", "100", **by_pillow).expect(0)
    pillow = {row["identifier"]: row["hashsum_resized"] for row in successes(out)}
    collect(shoal, table, "--to", tmp_path / "other", "--image-size", "100").expect(0)
    opencv = {row["identifier"]: row["hashsum_resized"] for row in successes(tmp_path / "other")}
    assert pillow.keys() == opencv.keys() and len(pillow) == 3
    assert not set(pillow.values()) & set(opencv.values())
