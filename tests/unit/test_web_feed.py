"""Events, samples and changes, tick by tick."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shoal.common.errors import Busy
from shoal.common.records import Delivery
from shoal.common.views import AgentStatus, AgentView, FleetView, HostView, JobStatus
from shoal.coordinator.web.feed import CLIENTS_MAX, KEPT_MAX, WAITING_BYTES_MAX, WAITING_MAX, Feed, encoded
from shoal.coordinator.web.metrics import exposition
from shoal.coordinator.web.models import Job, Sample, Totals
from shoal.coordinator.web.snapshot import (
    CHANGED_JOBS_MAX,
    SAMPLES_MAX,
    STATUS_JOBS_MAX,
    Changes,
    Histories,
    Ring,
    Snapshot,
)

NOW = 1_700_000_000.0


def job(job_id: str, **given: Any) -> Job:
    values: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(Job)}
    texts = {"uri": "hf://a/b", "name": "", "destination": "/d", "revision": "", "commit": ""}
    values |= texts | {"job_id": job_id, "status": JobStatus.RUNNING, "delivery": Delivery.SPREAD, "paused": False}
    values |= {"failure": None, "eta_s": None, "ended_at": None, "created_at": NOW}
    return Job(**(values | given))


def snapshot(*jobs: Job, **given: Any) -> Snapshot:
    values: dict[str, Any] = {
        "taken_at": NOW,
        "fleet": FleetView(version="1", incarnation=3, uptime_s=5.0, jobs_ended=2, rate_bytes_per_s=7.0),
        "totals": Totals(bytes_from_origin=100, bytes_from_peers=50, objects_done=4, objects_failed=1),
        "jobs": {each.job_id: each for each in jobs},
        "agents": (),
        "hosts": (),
    }
    return Snapshot(**(values | given))


# ---- events ---------------------------------------------------------------------------------------------------------


def test_an_event_is_one_line_whatever_it_holds() -> None:
    data = encoded("jobs", {"path": "a\nb\r\ndata: x\u2028\x85<script>"}, "3-1").decode()
    lines = data.split("\n")
    assert (
        lines[0] == "id: 3-1" and lines[1] == "event: jobs" and lines[2].startswith("data: {") and lines[3:] == ["", ""]
    )
    assert "\r" not in data
    assert json.loads(lines[2].removeprefix("data: "))["path"].startswith("a\nb")


def test_who_comes_back_gets_what_it_missed() -> None:
    feed = Feed(3)
    for number in range(5):
        feed.publish("fleet", number)
    assert feed.last_id == "3-5"
    assert [event.number for event in feed.missed("3-3") or ()] == [4, 5]
    assert feed.missed("3-5") == []
    for unknown in ("3-6", "2-3", "", "x", "3-99999999999999999999", "3--1"):
        assert feed.missed(unknown) is None, unknown


def test_what_is_kept_is_bounded() -> None:
    feed = Feed(1)
    for number in range(KEPT_MAX + 10):
        feed.publish("fleet", number)
    assert feed.missed("1-5") is None
    assert len(feed.missed("1-10") or ()) == KEPT_MAX


def test_a_client_that_does_not_read_holds_little() -> None:
    feed = Feed(1)
    with feed.reading() as slow, feed.reading() as quick:
        for number in range(WAITING_MAX * 3):
            feed.publish("fleet", number)
            assert quick.take()
        assert slow.overrun and slow.waiting_bytes == 0
        assert not quick.overrun
        slow.take()
        slow.overrun = False
        feed.publish("fleet", "x")
        assert b'"x"' in slow.take()
        feed.publish("jobs", "y" * (WAITING_BYTES_MAX + 1))
        assert slow.overrun and slow.waiting_bytes == 0
    assert feed.clients == 0


def test_there_are_not_too_many_clients() -> None:
    feed = Feed(1)
    readers = [feed.reading() for _ in range(CLIENTS_MAX)]
    for reader in readers:
        reader.__enter__()
    with pytest.raises(Busy), feed.reading():
        pass
    for reader in readers:
        reader.__exit__(None, None, None)
    assert feed.clients == 0


# ---- changes --------------------------------------------------------------------------------------------------------


def test_only_what_changed_is_told() -> None:
    changes = Changes()
    a, b = job("a"), job("b")
    assert changes.jobs([a, b]) == (a, b)
    assert changes.jobs([a, b]) == ()
    further = dataclasses.replace(a, bytes_arrived=5)
    assert changes.jobs([further, b]) == (further,)
    ended = dataclasses.replace(b, status=JobStatus.DONE)
    assert changes.jobs([ended, further]) == (ended,)
    assert changes.unended == {"a"}


def test_what_has_no_room_in_one_tick_comes_in_the_next() -> None:
    changes = Changes()
    jobs = [job(f"j{number}") for number in range(CHANGED_JOBS_MAX + 50)]
    assert len(changes.jobs(jobs)) == CHANGED_JOBS_MAX
    assert len(changes.jobs(jobs)) == 50
    assert changes.jobs(jobs) == ()


def test_jobs_that_change_all_the_time_keep_nobody_from_his_turn() -> None:
    changes = Changes()
    told: set[str] = set()
    for tick in range(4):
        jobs = [job(f"j{number}", bytes_arrived=tick) for number in range(3 * CHANGED_JOBS_MAX)]
        told |= {each.job_id for each in changes.jobs(jobs)}
    assert len(told) == 3 * CHANGED_JOBS_MAX


def test_an_agent_that_is_merely_silent_is_no_news() -> None:
    changes = Changes()
    agent = AgentView(agent_id="i", name="a", status=AgentStatus.ALIVE, silent_s=1.0)
    assert changes.agents([agent]) == (agent,)
    assert changes.agents([dataclasses.replace(agent, silent_s=2.0, connected_s=9.0)]) == ()
    late = dataclasses.replace(agent, status=AgentStatus.LATE)
    assert changes.agents([late]) == (late,)


def test_status_shows_a_bounded_number_of_jobs() -> None:
    status = snapshot(*(job(f"j{number}") for number in range(STATUS_JOBS_MAX + 7))).status()
    assert len(status.jobs) == STATUS_JOBS_MAX and status.jobs_more == 7


# ---- speed over time ------------------------------------------------------------------------------------------------


def test_a_long_run_stays_in_view_in_bounded_room() -> None:
    ring = Ring()
    seconds = 100_000
    for second in range(seconds):
        ring.add(Sample(at=NOW + second, rate=float(second), bytes_from_origin=0, bytes_from_peers=0), float(second))
    samples = ring.history().samples
    assert SAMPLES_MAX // 4 <= len(samples) < SAMPLES_MAX
    assert samples[0].at == NOW and samples[-1].at > NOW + seconds * 0.98
    steps = [b.at - a.at for a, b in itertools.pairwise(samples)]
    assert max(steps) <= 2.1 * min(steps)


def test_each_job_has_a_history_and_the_fleet_has_one() -> None:
    histories = Histories()
    histories.add(snapshot(job("a", rate_bytes_per_s=5.0), job("b", rows_per_s=3.0)), 0.0)
    assert histories.job("a").samples[0].rate == 5.0 and histories.job("b").samples[0].rate == 3.0
    assert histories.fleet.history().samples[0].rate == 7.0
    assert histories.job("c").samples == ()


# ---- metrics --------------------------------------------------------------------------------------------------------


def families() -> dict[str, Any]:
    from prometheus_client.parser import text_string_to_metric_families

    agents = (AgentView(agent_id="i", name='a"\\\n<script>', status=AgentStatus.ALIVE, sent_bytes=5),)
    hosts = (HostView(host="example.org", ok=3),)
    observer = SimpleNamespace(current=snapshot(job("a"), agents=agents, hosts=hosts), feed=Feed(1))
    text, content_type = exposition(cast("Any", observer))
    assert content_type.startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_metrics_have_names_help_and_types_by_convention() -> None:
    found = families()
    assert len(found) > 20
    for name, family in found.items():
        assert name.startswith("shoal_") and family.documentation and family.type in ("gauge", "counter"), name
        assert not any(word in name for word in ("_ms", "_kb", "_mb", "_percent", "milli"))
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert not {"job", "job_id", "path", "uri"} & set(sample.labels)
    assert found["shoal_received_bytes"].samples[0].labels == {"source": "origin"}
    assert found["shoal_agent_sent_bytes"].samples[0].labels["agent"] == 'a"\\\n<script>'


def test_every_metric_of_the_dashboard_exists() -> None:
    path = Path(__file__).resolve().parents[2] / "docs/grafana/shoal.json"
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    known = {sample.name for family in families().values() for sample in family.samples}
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [str(variable.get("query", "")) for variable in dashboard["templating"]["list"]]
    used = {name for text in asked for name in re.findall(r"\bshoal_\w+", text)}
    assert len(asked) > 8 and len(used) > 8
    assert used <= known, used - known
