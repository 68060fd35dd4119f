"""What a site allows: licences, sizes, quotas, and an agent's own rules. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shoal.agent.engine.rules import check_job, check_object
from shoal.common.errors import OverQuota, Refused
from shoal.common.policy import Policy
from shoal.common.records import Failure, JobSpec, Layout, ObjectSpec, OriginKind
from shoal.common.views import JobStatus
from shoal.coordinator.model import JobRow
from shoal.coordinator.quotas import Quotas
from shoal.coordinator.sources.hub import licenses_of


@pytest.mark.parametrize(
    ("rules", "named", "allowed"),
    [
        ({}, [], True),
        ({"licenses_allow": ("mit",)}, ["MIT"], True),
        ({"licenses_allow": ("cc-by-*",)}, ["cc-by-4.0"], True),
        ({"licenses_allow": ("mit",)}, ["mit", "gpl-3.0"], False),
        ({"licenses_allow": ("mit",)}, [], False),
        ({"licenses_allow": ("mit",)}, ["unknown"], False),
        ({"licenses_allow": ("mit",), "unknown_license": "allow"}, ["unknown"], True),
        ({"licenses_deny": ("cc-by-nc-*",)}, ["cc-by-nc-4.0"], False),
        ({"licenses_deny": ("cc-by-nc-*",)}, ["cc-by-4.0"], True),
        ({"licenses_deny": ("mit",), "licenses_allow": ("*",)}, ["mit"], False),
    ],
)
def test_licences(rules: dict[str, Any], named: list[str], allowed: bool) -> None:
    policy = Policy(**rules)
    if allowed:
        policy.check_licenses("repo", named)
    else:
        with pytest.raises(Refused, match=r"licen[cs]e"):
            policy.check_licenses("repo", named)


@pytest.mark.parametrize(
    ("info", "licences"),
    [
        ({}, set()),
        ({"cardData": None, "tags": None}, set()),
        ({"cardData": {"license": "mit"}, "tags": ["license:mit", "pytorch"]}, {"mit"}),
        ({"cardData": {"license": ["mit", "gpl-3.0"]}}, {"mit", "gpl-3.0"}),
        ({"tags": ["license:bsd", 3]}, {"bsd"}),
        ({"cardData": {"license": "other", "license_name": "acme-1"}, "tags": ["license:other"]}, {"acme-1"}),
        ({"cardData": {"license": "other"}}, {"other"}),
        ({"cardData": {"license": {"a": 1}, "license_name": 7}, "tags": "license:mit"}, set()),
        ({"cardData": [1]}, set()),
    ],
)
def test_what_a_repo_says_of_its_licence(info: dict[str, object], licences: set[str]) -> None:
    assert licenses_of(info) == licences


def test_sizes() -> None:
    policy = Policy(object_bytes_max=10, job_bytes_max=100)
    policy.check_object_size("f", 10)
    policy.check_object_size("f", None)
    policy.check_job_size("job", 100)
    with pytest.raises(Refused, match="max_object_size"):
        policy.check_object_size("f", 11)
    with pytest.raises(Refused, match="max_job_size"):
        policy.check_job_size("job", 101)
    Policy().check_object_size("f", 1 << 60)


# ---- quotas ---------------------------------------------------------------------------------------------------------


def job(**fields: Any) -> JobRow:
    spec = JobSpec(job_id="j", source="s", origin=OriginKind.HUB, layout=Layout.FOLDER, destination="/d")
    base = {"job_id": "j", "uri": "u", "name": "", "fingerprint": "f", "request": "{}", "priority": 0}
    return JobRow(**{**base, "created_at": 1000.0, "user": "me", "spec": spec, **fields})


def test_jobs_of_the_last_period_count() -> None:
    quotas = Quotas(jobs=2, period_s=100.0)
    jobs = [job(), job(created_at=905.0), job(user="other"), job(user="other")]
    quotas.check_jobs("me", jobs, 1005.5, more=1)
    with pytest.raises(OverQuota, match="2 jobs were submitted, 1 more"):
        quotas.check_jobs("me", jobs, 1004.5, more=1)
    quotas.check_jobs("me", jobs, 1004.5, more=0)
    with pytest.raises(OverQuota):
        quotas.check_jobs("third", jobs, 1000.0, more=3)
    Quotas().check_jobs("me", jobs * 100, 1000.0, more=100)


def test_what_was_refused_counts_for_nothing() -> None:
    refused = job(spec=None, status=JobStatus.FAILED, failure=Failure(code="refused", text="no", retryable=False))
    quotas = Quotas(jobs=1)
    quotas.check_jobs("me", [refused] * 5, 1000.0, more=1)
    with pytest.raises(OverQuota):  # one that is being listed counts: else a hundred could be submitted at once
        quotas.check_jobs("me", [job(spec=None, status=JobStatus.PLANNING)], 1000.0, more=1)


def test_bytes_count_when_they_are_known() -> None:
    quotas = Quotas(bytes=100)
    jobs = [job(bytes_total=60), job(bytes_total=1000, user="other")]
    quotas.check_bytes("me", jobs, 1000.0, more=40)
    with pytest.raises(OverQuota, match="quota of me"):
        quotas.check_bytes("me", jobs, 1000.0, more=41)
    assert (OverQuota.code, int(OverQuota.exit_code)) == ("over-quota", 7)


# ---- an agent's own rules -------------------------------------------------------------------------------------------


def a_job(origin: OriginKind, **fields: Any) -> JobSpec:
    base = {"job_id": "j", "source": "hf://acme/tiny", "layout": Layout.FOLDER, "destination": "/d"}
    return JobSpec(**{**base, "origin": origin, **fields})


HUB = a_job(OriginKind.HUB, repo_kind="model", repo_id="acme/tiny", endpoints=("http://hub.example/x",))
S3 = a_job(OriginKind.S3, source="s3://weights/llm/")
WEB = a_job(OriginKind.HTTP, source="https://a.example/f")
LOCAL = a_job(OriginKind.FILE, source="file:///data/f")


@pytest.mark.parametrize(
    ("rules", "spec", "allowed"),
    [
        ({}, HUB, True),
        ({"deny": ("acme/*",)}, HUB, False),
        ({"allow": ("other/*",)}, HUB, False),
        ({"allow": ("acme/*",)}, HUB, True),
        ({"deny": ("hub.example",)}, HUB, False),
        ({"https_only": True}, HUB, False),
        ({"deny": ("s3://weights/*",)}, S3, False),
        ({"deny": ("s3://other/*",)}, S3, True),
        ({"job_bytes_max": 9}, a_job(OriginKind.HTTP, total_bytes=10), False),
        ({"licenses_deny": ("cc-by-nc-*",)}, replace(HUB, licenses=("mit", "cc-by-nc-4.0")), False),
        ({"licenses_deny": ("cc-by-nc-*",)}, replace(HUB, licenses=("mit",)), True),
        ({"licenses_deny": ("cc-by-nc-*",)}, HUB, False),
        ({"licenses_deny": ("cc-by-nc-*",), "unknown_license": "allow"}, HUB, True),
        ({"licenses_allow": ("mit",)}, WEB, True),
    ],
)
def test_jobs_that_an_agent_takes_up(rules: dict[str, Any], spec: JobSpec, allowed: bool) -> None:
    if allowed:
        check_job(Policy(**rules), spec)
    else:
        with pytest.raises(Refused):
            check_job(Policy(**rules), spec)


@pytest.mark.parametrize(
    ("rules", "spec", "url", "allowed"),
    [
        ({}, WEB, "http://a.example/f", True),
        ({"https_only": True}, WEB, "http://a.example/f", False),
        ({"deny": ("a.example",)}, WEB, "https://A.example:8080/f", False),
        ({"allow": ("b.example",)}, WEB, "https://a.example/f", False),
        ({"allow": ("acme/*",)}, HUB, "https://cdn.example/f", True),
        ({"deny": ("cdn.example",)}, HUB, "https://cdn.example/f", False),
        ({"https_only": True}, HUB, "/acme/tiny/resolve/main/f", True),
        ({"deny": ("file:///data/*",)}, LOCAL, "file:///data/f", False),
        ({"allow": ("file:///scratch/*",)}, LOCAL, "file:///data/f", False),
        ({"object_bytes_max": 9}, WEB, "https://a.example/f", False),
    ],
)
def test_objects_that_an_agent_takes_up(rules: dict[str, Any], spec: JobSpec, url: str, allowed: bool) -> None:
    obj = ObjectSpec(object_id=1, path="f", size=10, url=url)
    if allowed:
        check_object(Policy(**rules), spec, obj)
    else:
        with pytest.raises(Refused):
            check_object(Policy(**rules), spec, obj)
