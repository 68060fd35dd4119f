"""This agent's own rules, asked before it takes up work: a coordinator cannot make it break them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ...common.records import OriginKind
from ...common.uri import S3Uri, parse_uri

if TYPE_CHECKING:
    from ...common.policy import Policy
    from ...common.records import JobSpec, ObjectSpec


def check_job(rules: Policy, job: JobSpec) -> None:
    """Before anything is done for a job. Raises Refused."""
    rules.check_job_size(job.source, job.total_bytes)
    if job.origin is OriginKind.HUB:
        rules.check_repo(job.repo_kind or "model", job.repo_id)
        rules.check_licenses(job.source, job.licenses)
        for endpoint in job.endpoints:
            rules.check_denied_host(urlsplit(endpoint).hostname or "")
            rules.check_encrypted(endpoint, f"Hub at {endpoint}")
    elif job.origin is OriginKind.S3:
        uri = parse_uri(job.source)
        if isinstance(uri, S3Uri):
            rules.check_bucket(uri.bucket, uri.key)


def check_object(rules: Policy, job: JobSpec, spec: ObjectSpec) -> None:
    """Before an object is fetched. Raises Refused."""
    rules.check_object_size(spec.path, spec.size)
    if job.origin is OriginKind.FILE:
        path = unquote(urlsplit(spec.url).path) if spec.url.startswith("file:") else spec.url
        rules.check_file(str(Path(path).resolve()) if rules.allow or rules.deny else path)
    elif spec.url and not spec.url.startswith("/"):
        host = urlsplit(spec.url).hostname or ""
        if job.origin is OriginKind.HTTP:
            rules.check_host(host)
        else:
            rules.check_denied_host(host)
        rules.check_encrypted(spec.url, spec.path)
