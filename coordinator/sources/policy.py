"""What the site allows to be fetched: ``security.allow``, ``security.deny`` and ``security.https_only``.

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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ...common.errors import Refused

_REMEDY = "whoever runs this coordinator can change it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The site's rules. Every ``check_`` method raises Refused that names the rule, and is to be called before any request."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    https_only: bool = False

    def check_repo(self, kind: str, repo_id: str) -> None:
        """A Hub repo: kind is "model", "dataset" or "space", repo_id ``ORG/NAME`` or ``NAME``."""
        self._check(f"{kind} {repo_id}", lambda rule: _matches_repo(rule.lower(), kind, repo_id.lower()))

    def check_host(self, host: str) -> None:
        """A host of an http(s) source, without port."""
        self._check(f"host {host}", lambda rule: _matches_host(rule.lower(), host.lower().rstrip(".")))

    def check_denied_host(self, host: str) -> None:
        """A host that an allowed one redirects to: only deny rules count."""
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
