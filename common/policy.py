"""What the site allows to be fetched: ``security.allow``, ``deny``, ``https_only``, sizes and licences.

The coordinator asks before a source is listed and before a job begins, each agent again before it takes up work, by its own
settings. No I/O.

Rules are globs (`fnmatch`, where ``*`` also matches ``/``). Repos and hosts are compared without case, because the Hub
answers to any case of a name. Which things a rule speaks of is told by its form:

=================================== ====================================================================================
rule                                speaks of
=================================== ====================================================================================
``*``                               everything
``bigcode/*``, ``bigcode/``         Hub repos of any kind, as ``ORG/NAME``
``datasets/bigcode/*``              Hub repos of one kind (``models/``, ``datasets/``, ``spaces/``)
``example.org``, ``*.example.org``  hosts of http(s) sources, without port; also a Hub repo without an owner (``gpt2``)
``s3://weights/*``                  stores' objects and prefixes by bucket; host rules count for them as well
``file:///scratch/*``               local files
=================================== ====================================================================================

A host rule never matches a repo with an owner, nor a repo rule a host: ``*.org`` must not allow ``evil/x.org``. A deny rule
wins. With any allow rule, what no allow rule names is refused.

Licences are those that a Hub repo names in its card or tags (``apache-2.0``, ``mit``, ``cc-by-4.0``; the Hub's words are SPDX's in
lower case where there is one), compared without case, as globs. A repo may name several: one that is denied refuses it, and with
any allowed licence all must be. They are known of Hub repos alone: other sources are ruled by their hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from .errors import Refused
from .units import format_size

if TYPE_CHECKING:
    from .settings import Settings

_REMEDY = "whoever set the site's rules can change them"


def policy_of(settings: Settings) -> Policy:
    """The rules that this machine's settings make."""
    security = settings.security
    return Policy(
        allow=security.allow,
        deny=security.deny,
        https_only=security.https_only,
        object_bytes_max=security.max_object_size,
        job_bytes_max=security.max_job_size,
        licenses_allow=security.allow_licenses,
        licenses_deny=security.deny_licenses,
        unknown_license=security.unknown_license,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The site's rules. Every ``check_`` method raises Refused that names the rule, and is to be called before any request."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    https_only: bool = False
    object_bytes_max: int = 0  # 0: no limit
    job_bytes_max: int = 0
    licenses_allow: tuple[str, ...] = ()
    licenses_deny: tuple[str, ...] = ()
    unknown_license: Literal["allow", "refuse"] = "refuse"

    @property
    def rules_licenses(self) -> bool:
        """Whether a repo's licences must be known."""
        return bool(self.licenses_allow or self.licenses_deny)

    @property
    def rules_redirects(self) -> bool:
        """Whether some places that an allowed host may lead to are refused."""
        return bool(self.deny or self.https_only)

    def check_licenses(self, thing: str, licenses: Collection[str]) -> None:
        """The licences that a Hub repo names; none where it names none, or says that it is not known."""
        if not self.rules_licenses:
            return
        named = {name.strip().lower() for name in licenses} - {"", "unknown"}
        if not named and self.unknown_license == "refuse":
            cause = "it names no licence, and security.unknown_license refuses that"
            raise Refused(thing, cause=cause, remedy=_REMEDY)
        for name in sorted(named):
            for rule in self.licenses_deny:
                if fnmatchcase(name, rule.strip().lower()):
                    cause = f"its licence is {name}, which {rule!r} of security.deny_licenses refuses"
                    raise Refused(thing, cause=cause, remedy=_REMEDY)
            if self.licenses_allow and not any(fnmatchcase(name, rule.strip().lower()) for rule in self.licenses_allow):
                allowed = ", ".join(self.licenses_allow[:5]) + (", ..." if len(self.licenses_allow) > 5 else "")
                cause = f"its licence is {name}, and security.allow_licenses allows only {allowed}"
                raise Refused(thing, cause=cause, remedy=_REMEDY)

    def check_object_size(self, thing: str, size: int | None) -> None:
        """An object's size in bytes; one that is not known is asked about again when it is."""
        if self.object_bytes_max and size is not None and size > self.object_bytes_max:
            limit = format_size(self.object_bytes_max)
            cause = f"it has {format_size(size)}, and security.max_object_size is {limit}"
            raise Refused(thing, cause=cause, remedy=_REMEDY)

    def check_job_size(self, thing: str, total: int) -> None:
        """The bytes of all objects of a job whose size is known."""
        if self.job_bytes_max and total > self.job_bytes_max:
            limit = format_size(self.job_bytes_max)
            cause = f"its files have {format_size(total)} together, and security.max_job_size is {limit}"
            raise Refused(thing, cause=cause, remedy=f"take less of it with --include; {_REMEDY}")

    def check_repo(self, kind: str, repo_id: str) -> None:
        """A Hub repo: kind is "model", "dataset" or "space", repo_id ``ORG/NAME`` or ``NAME``."""
        self._check(f"{kind} {repo_id}", lambda rule: _matches_repo(rule.lower(), kind, repo_id.lower()))

    def check_host(self, host: str) -> None:
        """A host of an http(s) source, without port."""
        self._check(f"host {host}", lambda rule: _matches_host(rule.lower(), host.lower().rstrip(".")))

    def check_denied_host(self, host: str) -> None:
        """A host that an allowed one redirects to: only deny rules count."""
        if self.deny:
            Policy(deny=self.deny).check_host(host)

    def check_bucket(self, bucket: str, key: str) -> None:
        """What of a store is asked for, before anything is known of the store: only what is refused whatever its host."""
        Policy(deny=self.deny)._check(f"bucket {bucket}", lambda rule: _matches_bucket(rule, bucket, key))

    def check_store(self, bucket: str, key: str, host: str) -> None:
        """An object or prefix of a bucket, at one of the names that its store has."""
        self._check(
            f"bucket {bucket} at host {host}",
            lambda rule: _matches_bucket(rule, bucket, key) or _matches_host(rule.lower(), host.lower().rstrip(".")),
        )

    def check_file(self, path: str) -> None:
        """An absolute path without symlinks of a local file or folder."""
        self._check(f"file {path}", lambda rule: _matches_file(rule, path))

    def check_encrypted(self, url: str, thing: str) -> None:
        """The URL's scheme. ``thing`` names it in the error, as a URL may hold secrets."""
        if self.https_only and not url.lower().startswith("https:"):
            remedy = f"use an https URL; {_REMEDY}"
            raise Refused(thing, cause="security.https_only allows nothing but https", remedy=remedy)

    def _check(self, thing: str, matches: Callable[[str], bool]) -> None:
        for rule in self.deny:
            if matches(_normalized(rule)):
                raise Refused(thing, cause=f"the rule {rule!r} of security.deny refuses it", remedy=_REMEDY)
        if self.allow and not any(matches(_normalized(rule)) for rule in self.allow):
            rules = ", ".join(self.allow[:5]) + (", ..." if len(self.allow) > 5 else "")
            raise Refused(thing, cause=f"no rule of security.allow names it ({rules})", remedy=_REMEDY)


class RulesInForce:
    """The rules of a daemon, which a reload exchanges: whoever asks reads `policy` anew."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()

    def is_https_only(self) -> bool:
        """Whether every http URL is refused."""
        return self.policy.https_only

    def check_denied_host(self, host: str) -> None:
        """As `Policy.check_denied_host`. Raises Refused."""
        self.policy.check_denied_host(host)


def _normalized(rule: str) -> str:
    rule = rule.strip()
    return f"{rule}*" if rule.endswith("/") else rule


def _matches_repo(rule: str, kind: str, repo_id: str) -> bool:
    if rule == "*":
        return True
    if rule.startswith(("file:", "s3:")):
        return False
    if "/" not in rule:
        return rule == repo_id
    return fnmatchcase(repo_id, rule) or fnmatchcase(f"{kind}s/{repo_id}", rule)


def _matches_host(rule: str, host: str) -> bool:
    return "/" not in rule and fnmatchcase(host, rule)


def _matches_bucket(rule: str, bucket: str, key: str) -> bool:
    return rule == "*" or (rule.startswith("s3://") and fnmatchcase(f"s3://{bucket}/{key}", rule))


def _matches_file(rule: str, path: str) -> bool:
    return rule == "*" or (rule.startswith("file://") and fnmatchcase(f"file://{path}", rule))
