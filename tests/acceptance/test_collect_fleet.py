"""``shoal collect`` on a fleet: one budget for each host, agents and coordinators that die, results in a store."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shoal.common.views import JobStatus
from support.cli import Running
from support.dataset_files import errors, outcomes, successes, write_csv
from support.fleet import Fleet, until
from support.image_site import ImageSite, Reply, WebHost, images
from support.s3 import Store

ENVIRON = {
    "SHOAL_COLLECT_ALLOW_PRIVATE_ADDRESSES": "true",
    "SHOAL_COLLECT_REQUEST_TIMEOUT": "5s",
    "SHOAL_COLLECT_BACKOFF_INITIAL": "1s",
    "SHOAL_COLLECT_HOST_PATIENCE": "5s",
    "SHOAL_COLLECT_BATCH_SIZE": "40",
    "SHOAL_COLLECT_IMAGE_WORKERS": "1",
    "SHOAL_COORDINATOR_LEASE_TTL": "4s",
    "SHOAL_COORDINATOR_HEARTBEAT": "500ms",
}
RUN_S = 100.0


@pytest.fixture
def site() -> Iterator[ImageSite]:
    with ImageSite() as made:
        yield made


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", endpoint="http://127.0.0.1:9", environ=ENVIRON) as made:
        made.coordinator.start()
        yield made


def collecting(fleet: Fleet, tmp_path: Path, urls: Sequence[str], **environ: str) -> tuple[Running, list[str]]:
    uuids = write_csv(tmp_path / "t.csv", urls)
    running = fleet.shoal.start("collect", tmp_path / "t.csv", "--to", tmp_path / "out", environ=environ)
    return running, uuids


def urls_of(host: WebHost, count: int) -> list[str]:
    return [host.url(f"/{number}.jpg") for number in range(count)]


def most_within(host: WebHost, seconds: float) -> int:
    """The most requests in any window of so many seconds, by the server's own log."""
    at = sorted(entry.at for entry in host.requests)
    return max(bisect_left(at, start + seconds) - index for index, start in enumerate(at))


def test_one_budget_for_the_whole_fleet_with_one_agent_killed_and_one_added(
    fleet: Fleet, site: ImageSite, tmp_path: Path
) -> None:
    host = site.host()
    for name in ("n1", "n2", "n3", "n4"):
        fleet.add_agent(name)
    fleet.until_alive("n1", "n2", "n3", "n4")
    running, uuids = collecting(
        fleet,
        tmp_path,
        urls_of(host, 400),
        SHOAL_COLLECT_DEFAULT_RATE_LIMIT="20",
        SHOAL_COLLECT_RATE_MULTIPLIER="0",
    )
    with running:
        until("a quarter of it", lambda: len(host.requests) > 100)
        fleet.agent("n2").kill()
        fleet.add_agent("n5")
        assert running.wait(RUN_S).exit_code == 0, running.stderr
    burst = 20
    late_s = 1.0  # a busy machine reads some requests late, and so several at once
    for seconds in (1.0, 2.0, 5.0):
        assert most_within(host, seconds) <= 20 * (seconds + late_s) + burst, seconds
    ended = outcomes(tmp_path / "out")
    assert sorted(ended) == sorted(uuids)
    assert set(ended.values()) == {"success"}


def test_a_host_that_asks_to_wait_sees_a_handful_of_requests_from_the_fleet(
    fleet: Fleet, site: ImageSite, tmp_path: Path
) -> None:
    good = site.host()
    throttled: list[str] = []

    def relents(path: str, _before: int) -> Reply:
        """When the good host has been asked for everything. If that waited for this one, nobody would end before the patience."""
        if len({entry.path for entry in good.requests} - {"/robots.txt"}) == 60:
            return Reply(status=404)
        throttled.append(path)
        return Reply(status=429, headers={"Retry-After": "2"})

    waiting = site.host(relents)
    for name in ("n1", "n2", "n3"):
        fleet.add_agent(name)
    fleet.until_alive("n1", "n2", "n3")
    running, uuids = collecting(
        fleet,
        tmp_path,
        [*urls_of(waiting, 10), *urls_of(good, 60)],
        SHOAL_COLLECT_DEFAULT_RATE_LIMIT="30",
        SHOAL_COLLECT_HOST_PATIENCE="10m",
    )
    with running:
        assert running.wait(RUN_S).exit_code == 0, running.stderr
    assert sorted(outcomes(tmp_path / "out")) == sorted(uuids)
    assert {row["error_code"] for row in errors(tmp_path / "out").values()} == {404}
    assert len(successes(tmp_path / "out")) == 60
    assert 1 <= len(throttled) <= 25


@pytest.mark.slow
@pytest.mark.timeout(240)  # limited hosts rest for some time after a coordinator was killed
def test_agents_and_coordinator_that_are_killed_finish_every_row_once(
    fleet: Fleet, site: ImageSite, tmp_path: Path
) -> None:
    hosts = [site.host() for _ in range(3)]
    urls = [url for host in hosts for url in urls_of(host, 160)]
    for name in ("n1", "n2"):
        fleet.add_agent(name)
    fleet.until_alive("n1", "n2")
    uuids = write_csv(tmp_path / "t.csv", urls)
    command = ("collect", tmp_path / "t.csv", "--to", tmp_path / "out", "--name", "birds")
    environ = {"SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "25"}
    running = fleet.shoal.start(*command, environ=environ)
    done_before: dict[Path, int] = {}
    for target, victim in ((60, "n1"), (150, "coordinator"), (270, "n2"), (360, "n1")):
        until(f"{target} rows", lambda target=target: sum(len(host.requests) for host in hosts) > target)
        done_before |= {
            path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("images/*/*/successes.parquet")
        }
        daemon = fleet.coordinator if victim == "coordinator" else fleet.agent(victim)
        daemon.kill()
        daemon.start()
    with running:
        running.wait(RUN_S)  # the client's call may have broken with the coordinator; the job goes on
    until("the coordinator to answer", lambda: fleet.run("jobs").exit_code == 0)
    until("the job to end", lambda: fleet.job("birds").ended, timeout_s=RUN_S)
    assert fleet.job("birds").status is JobStatus.DONE
    ended = outcomes(tmp_path / "out")
    assert sorted(ended) == sorted(uuids)
    assert set(ended.values()) == {"success"}
    assert {path: path.stat().st_mtime_ns for path in done_before} == done_before, "no finished batch was made anew"
    again = sum(len(host.requests) for host in hosts) - len(urls)
    assert again < 160, f"{again} of {len(urls)} were asked for again"


def test_hosts_are_shown_and_changed_while_running(fleet: Fleet, site: ImageSite, tmp_path: Path) -> None:
    host = site.host()
    fleet.add_agent("n1")
    fleet.until_alive("n1")
    running, _ = collecting(fleet, tmp_path, urls_of(host, 120), SHOAL_COLLECT_DEFAULT_RATE_LIMIT="0.5")
    with running:
        until("it to begin", lambda: len(host.requests) > 1)
        listed = {view["host"]: view for view in fleet.ask("hosts")["hosts"]}
        assert host.name in listed
        assert len(host.requests) < 60
        fleet.run("hosts", "set", host.name, "--rate", "200").expect(0)
        assert running.wait(RUN_S).exit_code == 0  # at half a request a second it would take four minutes
    assert len(successes(tmp_path / "out")) == 120


def test_the_result_goes_into_a_store(site: ImageSite, fleet: Fleet, tmp_path: Path) -> None:
    from support.dataset_files import rows

    host = site.host(lambda path, before: Reply(status=404) if path == "/3.jpg" else images(path, before))
    with Store(tmp_path / "store", access="AK1", secret="SK1") as store:
        (tmp_path / "store" / "birds").mkdir(parents=True, exist_ok=True)
        keys = {
            "AWS_ACCESS_KEY_ID": "AK1",
            "AWS_SECRET_ACCESS_KEY": "SK1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.backend_port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        write_csv(tmp_path / "t.csv", urls_of(host, 12))
        finished = fleet.shoal.run(
            "collect",
            tmp_path / "t.csv",
            "--to",
            "s3://birds/run1",
            environ={**keys, "SHOAL_COORDINATOR_ADDRESS": "", "SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "0"},
            timeout_s=RUN_S,
        )
        finished.expect(0)
        folder = next(path for path in (tmp_path / "store").rglob("run1"))
        assert len(rows(folder, "successes")) == 11
        assert len(rows(folder, "errors")) == 1
        assert (folder / "overview.json").is_file()
