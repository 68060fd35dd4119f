"""``shoal collect`` run again, twice at once, and over what tools have changed: nothing is lost, nothing is there twice."""

from __future__ import annotations

import csv
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance.test_collect_cli import QUICK, collect, urls_of

from support.cli import Shoal, files_below
from support.dataset_files import errors, outcomes, successes, write_csv
from support.fleet import until
from support.image_site import ImageSite, Reply, always, images
from support.s3 import Store


@pytest.fixture
def site() -> Iterator[ImageSite]:
    with ImageSite() as made:
        yield made


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    return Shoal(tmp_path / "person", environ=QUICK)


def profiled(out: Path) -> dict[str, str]:
    """server_name -> latency, of profiles.csv."""
    with (out / "profiles.csv").open() as file:
        return {row["server_name"]: row["latency_s"] for row in csv.DictReader(file)}


def test_profiles_stay_and_are_made_anew_when_asked(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    hosts = [site.host(), site.host()]
    write_csv(tmp_path / "t.csv", [url for host in hosts for url in urls_of(host, 5)])
    out = tmp_path / "out"
    collect(shoal, tmp_path / "t.csv", "--to", out).expect(0)
    first = profiled(out)
    assert set(first) == {host.name for host in hosts}
    collect(shoal, tmp_path / "t.csv", "--to", out).expect(0)
    assert profiled(out) == first, "a run that measured nothing forgets nothing"
    for host in hosts:
        host.requests.clear()
    collect(shoal, tmp_path / "t.csv", "--to", out, "--restart", "profiling").expect(0)
    again = profiled(out)
    assert set(again) == set(first)
    assert all(again[host] != first[host] for host in first)
    for host in hosts:
        assert len([entry for entry in host.requests if entry.path != "/robots.txt"]) == 1
    assert len(successes(out)) == 10


def test_one_run_at_a_time(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    host.answer = lambda path, before: Reply(manner="hang") if len(host.requests) >= 30 else images(path, before)
    uuids = write_csv(tmp_path / "t.csv", urls_of(host, 60))
    arguments = (tmp_path / "t.csv", "--to", tmp_path / "out")
    patient = {"SHOAL_COLLECT_REQUEST_TIMEOUT": "1h", "SHOAL_COLLECT_IDLE_TIMEOUT": "1h"}
    with shoal.start("collect", *arguments, environ=patient) as running:
        until("half of it", lambda: len(host.requests) > 30)
        refused = collect(shoal, *arguments).expect(1)
        assert f"by process {running.pid}" in refused.stderr
        assert collect(shoal, *arguments, "--force", "--confirm", "out").exit_code == 1
        tool = shoal.run("tools", "run", "size_based", "--data", tmp_path / "out")
        assert tool.exit_code == 1
        assert "shoal collect is at work" in tool.stderr
        running.signal(signal.SIGKILL)
        running.wait()
    host.answer = images
    host.requests.clear()
    collect(shoal, *arguments).expect(0)
    assert sorted(outcomes(tmp_path / "out")) == sorted(uuids)
    assert len(host.requests) < 45, "what was collected first is still there"


def test_what_a_tool_moved_is_not_fetched_again(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host(lambda path, before: Reply(status=404) if path == "/3.jpg" else images(path, before))
    out = tmp_path / "out"
    write_csv(tmp_path / "t.csv", urls_of(host, 10))
    collect(shoal, tmp_path / "t.csv", "--to", out).expect(0)
    shoal.run("tools", "run", "size_based", "--data", out, "--threshold-size", "300").expect(0)
    assert successes(out) == []
    host.requests.clear()
    collect(shoal, tmp_path / "t.csv", "--to", out).expect(0)
    collect(shoal, tmp_path / "t.csv", "--to", out, "--restart", "partitioning").expect(0)
    assert host.requests == []
    collect(shoal, tmp_path / "t.csv", "--to", out, "--restart", "failed").expect(0)
    assert {entry.path for entry in host.requests} - {"/robots.txt"} == {"/3.jpg"}
    shoal.run("tools", "restore", "size_based", "--data", out).expect(0)
    assert len(successes(out)) == 9
    assert len(errors(out)) == 1


def test_a_failed_beginning_leaves_nothing_and_names_the_cause_once(shoal: Shoal, tmp_path: Path) -> None:
    refused = collect(shoal, tmp_path / "none.csv", "--to", tmp_path / "out" / "deep").expect(3)
    assert refused.stderr.count("there is no such file") == 1
    assert refused.stdout == ""
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    write_csv(tmp_path / "t.csv", ["http://a.example/1.jpg"])
    assert "Errno" not in collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "file").expect(5).stderr


def test_verify_says_what_checks_a_dataset(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", urls_of(site.host(), 2))
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out").expect(0)
    before = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    refused = shoal.run("verify", tmp_path / "out").expect(2)
    assert "shoal tools run image_verification" in refused.stderr
    shoal.run("clean", tmp_path / "out", "--older-than", "0s").expect(0)
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == before


def test_a_host_that_is_waited_for_can_be_ignored_meanwhile(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    busy = site.host(always(Reply(status=429, headers={"Retry-After": "3600"})))
    write_csv(tmp_path / "t.csv", urls_of(busy, 30))
    out = tmp_path / "out"
    patient = {"SHOAL_COLLECT_HOST_PATIENCE": "1h"}
    with shoal.start("collect", tmp_path / "t.csv", "--to", out, environ=patient) as running:
        until("the host to be asked", lambda: bool(busy.requests))
        (out / "ignored.csv").write_text(f"server_name,reason\n{busy.name},too slow\n")
        assert running.wait(60).exit_code == 0
    assert {row["error_code"] for row in errors(out).values()} == {-3}
    assert len(busy.requests) < 20


def test_settings_of_single_hosts(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    def answer(path: str, before: int) -> Reply:
        return Reply(body=b"User-agent: *\nDisallow: /1.jpg\n") if path == "/robots.txt" else images(path, before)

    strict, free, ignored, slow, narrow = (site.host(answer) for _ in range(5))
    (tmp_path / "shoal.toml").write_text(
        f'''
        [collect]
        connections_per_host = 8
        [hosts."{strict.name}"]
        robots = true
        [hosts."{free.name}"]
        robots = false
        [hosts."{ignored.name.partition(":")[0]}:{ignored.name.partition(":")[2]}"]
        ignore = true
        [hosts."{slow.name}"]
        rate = 5
        [hosts."{narrow.name}"]
        connections = 1
        '''
    )
    write_csv(tmp_path / "t.csv", [url for host in (strict, free, ignored, slow, narrow) for url in urls_of(host, 20)])
    out = tmp_path / "out"
    collect(shoal, tmp_path / "t.csv", "--to", out, "--config", tmp_path / "shoal.toml").expect(0)
    found = {row["identifier"]: row["error_code"] for row in errors(out).values()}
    assert found == {strict.url("/1.jpg"): -3} | dict.fromkeys(urls_of(ignored, 20), -3)
    assert ignored.requests == []
    assert slow.requests[-1].at - slow.requests[0].at > 2.0, "20 at 5 a second, with a burst of 5"
    assert narrow.open_max == 1


def test_a_profile_is_of_the_host_itself_and_who_asks_is_named(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    there = site.host()
    here = site.host(lambda path, _before: Reply(status=302, headers={"Location": there.url(path), "Server": "here"}))
    write_csv(tmp_path / "t.csv", urls_of(here, 3))
    collect(shoal, tmp_path / "t.csv", "--to", tmp_path / "out", "--set", "collect.contact=https://me.example").expect(
        0
    )
    assert len(successes(tmp_path / "out")) == 3
    with (tmp_path / "out" / "profiles.csv").open() as file:
        (profile,) = csv.DictReader(file)
    assert (profile["reachable"], profile["status"], profile["server"]) == ("True", "302", "here")


def test_a_stop_does_not_wait_for_servers_that_hang(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    hang = site.host(always(Reply(manner="hang")))
    write_csv(tmp_path / "t.csv", urls_of(hang, 5))
    slow = {"SHOAL_COLLECT_IDLE_TIMEOUT": "1h", "SHOAL_COLLECT_REQUEST_TIMEOUT": "1h"}
    with shoal.start("collect", tmp_path / "t.csv", "--to", tmp_path / "out", environ=slow) as running:
        until("the host to be asked", lambda: bool(hang.requests))
        running.signal(signal.SIGINT)
        assert running.wait().exit_code == 130


def test_a_dataset_in_a_store_goes_on_and_keeps_what_it_is(site: ImageSite, shoal: Shoal, tmp_path: Path) -> None:
    host = site.host()
    write_csv(tmp_path / "t.csv", urls_of(host, 40))
    folder = tmp_path / "store" / "birds" / "run1"
    with Store(tmp_path / "store", access="AK1", secret="SK1") as store:
        (tmp_path / "store" / "birds").mkdir()
        config = tmp_path / "shoal.toml"
        config.write_text(store.profile("lab", endpoint=f'"http://127.0.0.1:{store.backend_port}"'))
        command = (tmp_path / "t.csv", "--to", "s3://birds/run1", "--profile", "lab", "--config", config)
        more = ("--set", "collect.batch_size=10")
        with shoal.start("collect", *command, *more, environ={"SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "10"}) as running:
            until("two batches", lambda: sum(path.name == "successes.parquet" for path in files_below(folder)) >= 2)
            running.signal(signal.SIGKILL)
            running.wait()
        until("the server to have read all that was sent", lambda: not host.connected)
        host.requests.clear()
        collect(shoal, *command, *more).expect(0)
        assert len(successes(folder)) == 40
        # The newer of both may still have been on its way into the store.
        assert len([entry for entry in host.requests if entry.path != "/robots.txt"]) <= 30
        first = profiled(folder)
        host.requests.clear()
        collect(shoal, *command, *more).expect(0)
        assert (host.requests, profiled(folder)) == ([], first)
        refused = collect(shoal, *command, *more, "--restart", "partitioning").expect(1)
        assert "another place" in refused.stderr
