"""How views are shown to programs and to people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest

from shoal.client.describing import describe
from shoal.client.output import (
    error_lines,
    job_document,
    percent,
    printable,
    progress_line,
    state,
    summary_line,
    table,
    to_document,
)
from shoal.client.transfer import exit_code, report
from shoal.common.errors import ExitCode, all_error_classes
from shoal.common.records import Delivery, Failure
from shoal.common.secrets import Secret
from shoal.common.views import ActiveObjectView, JobStatus, JobView, ObjectStatus, ObjectView

JOB = JobView(
    job_id="j1",
    uri="hf://acme/tiny",
    status=JobStatus.RUNNING,
    created_at=0.0,
    objects_total=4,
    objects_done=1,
    bytes_total=4096,
    bytes_arrived=1024,
)


def failed(code: str, path: str = "a.bin", text: str = "a.bin: broken") -> ObjectView:
    failure = Failure(code=code, text=text, retryable=False)
    return ObjectView(object_id=1, path=path, size=1, status=ObjectStatus.FAILED, failures=3, failure=failure)


def test_a_document_is_plain_json() -> None:
    active = ActiveObjectView(object_id=1, path="a", size=None, done_bytes=3, agents=("x",), done=((0, 3),))
    document = job_document(replace(JOB, active=(active,)), [failed("verification")])
    parsed = json.loads(json.dumps(document))
    assert parsed["status"] == "running"
    assert parsed["active"][0]["done"] == [[0, 3]]
    assert parsed["failed"][0]["failure"] == {"code": "verification", "text": "a.bin: broken", "retryable": False}
    assert parsed["eta_s"] is None


def test_a_document_holds_no_secret() -> None:
    @dataclass
    class Holder:
        token: Secret
        more: Mapping[str, Secret]

    document = to_document(Holder(Secret("hunter2"), MappingProxyType({"k": Secret("hunter2")})))
    assert "hunter2" not in json.dumps(document)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ümläut 漢字", "plain ümläut 漢字"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\0", "a\\nb\\tc\\x00"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_from_outside_moves_the_cursor(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()


def test_a_table_is_aligned_and_safe() -> None:
    rows = [("a", 1), ("bb\x1b[2J", 100)]
    text = table(rows, {"name": lambda row: row[0], "count>": lambda row: str(row[1])})
    assert text.splitlines() == ["NAME       COUNT", "a              1", "bb\\x1b[2J    100"]
    assert table([], {"name": str}) == "none"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, "25%"),
        ({"bytes_arrived": 4096}, "99%"),
        ({"bytes_arrived": 5000}, "99%"),
        ({"bytes_total": 0}, "-"),
        ({"status": JobStatus.DONE, "bytes_total": 0}, "100%"),
    ],
)
def test_percent_says_100_only_when_it_is_done(change: dict[str, Any], shown: str) -> None:
    assert percent(replace(JOB, **change)) == shown


def test_a_paused_job_says_so_until_it_has_ended() -> None:
    assert state(replace(JOB, paused=True)) == "running (paused)"
    assert state(replace(JOB, paused=True, status=JobStatus.DONE)) == "done"


def test_a_progress_line() -> None:
    assert progress_line(JOB) == "hf://acme/tiny: running, 1/4 files, 1KiB of 4KiB"
    busy = replace(JOB, rate_bytes_per_s=2048.0, eta_s=90.0, objects_failed=2)
    assert progress_line(busy) == "hf://acme/tiny: running, 1/4 files, 1KiB of 4KiB, 2KiB/s, 1m30s left, 2 failed"


def test_a_summary_line() -> None:
    done = replace(JOB, status=JobStatus.DONE, objects_done=4, objects_skipped=3, bytes_fetched=1024)
    assert summary_line(done) == "hf://acme/tiny: done, 1 of 4 files fetched (1KiB), 3 were there already"
    bad = replace(JOB, status=JobStatus.FAILED, failure=Failure(code="x", text="gone\x1b[2J", retryable=False))
    assert summary_line(bad) == "hf://acme/tiny: failed: gone\\x1b[2J; 1 of 4 files are there"


def test_a_report_names_what_failed_and_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    job = replace(JOB, status=JobStatus.FAILED, objects_failed=30)
    objects = [failed("timeout", f"f{number}\x1b", "http://host/x: silent") for number in range(30)]
    report([job], [objects], sys.stdout)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  failed: f0\\x1b: http://host/x: silent"
    assert lines[-1] == "  … and 10 more"
    assert len(lines) == 22


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], ExitCode.OK),
        (["verification"], ExitCode.VERIFICATION),
        (["verification", "verification"], ExitCode.VERIFICATION),
        (["unsafe-name", "refused"], ExitCode.POLICY),
        (["verification", "unsafe-name"], ExitCode.FAILED),
        (["no-space", "not-writable"], ExitCode.NO_SPACE),
        (["access-denied", "not-found"], ExitCode.NO_ACCESS),
        (["timeout"], ExitCode.FAILED),
        (["a-code-from-the-future"], ExitCode.FAILED),
    ],
)
def test_the_exit_code_tells_what_went_wrong_if_it_was_the_same_everywhere(
    codes: list[str], expected: ExitCode
) -> None:
    job = replace(JOB, status=JobStatus.FAILED if codes else JobStatus.DONE)
    objects = [failed(code) for code in codes]
    assert exit_code([job], [objects]) == expected
    # The same, spread over several jobs, one of which is fine.
    jobs = [replace(JOB, status=JobStatus.DONE), *[job for _ in codes]]
    assert exit_code(jobs, [[], *[[obj] for obj in objects]]) == expected


def test_a_job_that_failed_as_a_whole_has_the_exit_code_of_its_failure() -> None:
    for cls in all_error_classes():
        failure = Failure(code=cls.code, text="", retryable=False)
        job = replace(JOB, status=JobStatus.FAILED, failure=failure)
        assert exit_code([job], [[]]) == cls.exit_code
    assert exit_code([replace(JOB, status=JobStatus.CANCELLED)], [[]]) == ExitCode.FAILED


def test_a_table_is_told_in_rows() -> None:
    view = replace(
        JOB,
        delivery=Delivery.DATASET,
        status=JobStatus.RUNNING,
        rows_total=1000,
        rows_rejected=3,
        rows_done=500,
        rows_per_s=12.5,
        tally=((200, 400), (404, 30), (-1, 70)),
    )
    assert "500 of 1,000 rows, 12.5 rows/s" in progress_line(view)
    assert summary_line(view).endswith("400 of 1,000 rows collected, 100 errors, 3 rejected")
    assert [line.split() for line in error_lines(view)] == [["70", "-1", "(no", "answer)"], ["30", "404"]]
    told = describe(view)
    assert "500 of 1,000 (50%), 3 rejected" in told and "12.5 rows/s" in told and "-1 (no answer)" in told
    assert "0B" not in told
    planning = replace(view, status=JobStatus.PLANNING, rows_done=0, tally=())
    assert progress_line(planning).endswith("planning, 1,000 rows read")
