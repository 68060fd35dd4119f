"""``shoal collect`` on a fleet: second runs, what the logs and the overview tell, hosts that never answer."""

from __future__ import annotations

import json
from pathlib import Path

from acceptance.test_collect_fleet import RUN_S, collecting, fleet, site, urls_of

from support.dataset_files import errors, outcomes, successes, write_csv
from support.fleet import Fleet, until
from support.image_site import ImageSite, Reply, always, images

__all__ = ["fleet", "site"]


def test_a_second_job_for_a_dataset_is_refused_and_an_equal_one_is_joined(
    fleet: Fleet, site: ImageSite, tmp_path: Path
) -> None:
    host = site.host()
    fleet.add_agent("n1")
    fleet.until_alive("n1")
    slowly = {"SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "1"}  # it must not end before the others were started
    running, uuids = collecting(fleet, tmp_path, urls_of(host, 80), **slowly)
    out = tmp_path / "out"
    with running:
        until("it to begin", lambda: len(host.requests) > 1)
        refused = fleet.shoal.run("collect", tmp_path / "t.csv", "--to", out, "--restart", "failed").expect(1)
        assert "shoal cancel" in refused.stderr
        forced = fleet.shoal.run("collect", tmp_path / "t.csv", "--to", out, "--force", "--confirm", "out").expect(1)
        assert "shoal cancel" in forced.stderr
        with fleet.shoal.start("collect", tmp_path / "t.csv", "--to", out, environ=slowly) as second:
            fleet.run("hosts", "set", host.name, "--rate", "200").expect(0)
            assert second.wait(RUN_S).exit_code == 0
        assert running.wait(RUN_S).exit_code == 0
    assert sorted(outcomes(out)) == sorted(uuids)
    assert len(host.requests) <= 82


def test_what_failed_is_tried_again_after_the_coordinator_came_back(
    fleet: Fleet, site: ImageSite, tmp_path: Path
) -> None:
    broken = {"/3.jpg": 500, "/4.jpg": 404}
    host = site.host(lambda path, before: Reply(status=broken[path]) if path in broken else images(path, before))
    fleet.add_agent("n1")
    fleet.until_alive("n1")
    out = tmp_path / "out"
    write_csv(tmp_path / "t.csv", urls_of(host, 12))
    environ = {"SHOAL_COLLECT_DEFAULT_RATE_LIMIT": "0", "SHOAL_COLLECT_ATTEMPTS": "1"}
    command = ("collect", tmp_path / "t.csv", "--to", out)

    def again(*options: str) -> set[str]:
        host.requests.clear()
        fleet.shoal.run(*command, *options, environ=environ, timeout_s=RUN_S).expect(0)
        return {entry.path for entry in host.requests} - {"/robots.txt"}

    again()
    assert len(successes(out)) == 10
    assert again("--restart", "failed", "--code", "500") == {"/3.jpg"}
    assert again("--restart", "failed", "--code", "500") == {"/3.jpg"}, "a job that ended is no reason to do nothing"
    fleet.coordinator.kill()
    fleet.coordinator.start()
    fleet.until_alive("n1")
    broken.clear()
    assert again("--restart", "failed") == {"/3.jpg", "/4.jpg"}
    assert (len(successes(out)), errors(out)) == (12, {})
    assert len(again("--restart", "profiling")) == 1
    assert again() == set()


def test_logs_and_overview_tell_of_batches_and_of_hosts_in_trouble_once(
    fleet: Fleet, site: ImageSite, tmp_path: Path
) -> None:
    good, silent = site.host(), site.host(always(Reply(manner="hang")))
    agent = fleet.add_agent("n1")
    fleet.until_alive("n1")
    urls = [*urls_of(good, 50), *urls_of(silent, 300), *(f"http://no-such-name.invalid/{n}.jpg" for n in range(50))]
    running, uuids = collecting(
        fleet, tmp_path, urls, SHOAL_COLLECT_DEFAULT_RATE_LIMIT="50", SHOAL_COLLECT_IDLE_TIMEOUT="1s"
    )
    with running:
        assert running.wait(RUN_S).exit_code == 0, running.stderr
    out = tmp_path / "out"
    assert sorted(outcomes(out)) == sorted(uuids)
    failed = list(errors(out).values())
    assert len(failed) == 350 and {row["error_code"] for row in failed} == {-1}
    assert len(silent.requests) < 60
    batches = agent.events("batch.done")
    assert sum(event["rows"] for event in batches) == len(urls)
    assert {event["host"] for event in batches} == {good.name, silent.name, "no-such-name.invalid"}
    assert sum(event["errors"] for event in batches) == 350
    assert all(event["seconds"] >= 0 and event["partition"] >= 0 for event in batches)
    assert len(agent.events("batch.started")) >= len(batches)
    parked = [event["host"] for event in fleet.coordinator.events("host.parked")]
    assert sorted(parked) == sorted([silent.name, "no-such-name.invalid"])
    overview = json.loads((out / "overview.json").read_text())
    assert (overview["left"], overview["under_way"], overview["errors_by_code"]) == (0, 0, {"-1": 350})
    assert overview["hosts_in_trouble"] == 2
    assert overview["hosts"][silent.name]["blocked_until"] is not None
    assert overview["hosts"][good.name]["successes"] == 50
