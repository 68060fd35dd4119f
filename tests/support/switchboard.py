"""The switchboard of a stand-in's faults: which requests each fault hits, and how often. Usable from any thread."""

from __future__ import annotations

import fnmatch
import hashlib
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from .faults import Fault
from .http_answer import Kind, ServerName


@dataclass(kw_only=True, slots=True, eq=False)
class Rule:
    """One fault, and when it fires. `hits` counts how often it did."""

    fault: Fault
    path: str | None  # a file's path, exactly or as an fnmatch pattern; None: any request
    repo: str | None
    server: ServerName | None
    kinds: frozenset[Kind] | None
    methods: frozenset[str] | None
    fraction: float
    skip: int
    times: int | None
    seed: str
    hits: int = 0
    _seen: Counter[str] = field(default_factory=Counter[str])
    _fired: Counter[str] = field(default_factory=Counter[str])

    def concerns(self, *, server: ServerName, kind: Kind, method: str, repo: str | None, path: str | None) -> bool:
        """Whether a request is one that this rule is about."""
        return (
            (self.server is None or self.server == server)
            and (self.kinds is None or kind in self.kinds)
            and (self.methods is None or method in self.methods)
            and (self.repo is None or self.repo == repo)
            and (
                self.path is None or (path is not None and (path == self.path or fnmatch.fnmatchcase(path, self.path)))
            )
        )

    def fires(self, subject: str) -> bool:
        """Counts one request about ``subject`` and says whether this one gets the fault.

        The draw is a hash of seed, subject and count, so that one request's fate does not depend on how the requests of
        others interleave with it.
        """
        self._seen[subject] += 1
        nth = self._seen[subject]
        if nth <= self.skip or (self.times is not None and self._fired[subject] >= self.times):
            return False
        draw = int.from_bytes(hashlib.sha256(f"{self.seed} {subject} {nth}".encode("utf-8", "replace")).digest()[:8])
        if draw >= self.fraction * 2**64:
            return False
        self._fired[subject] += 1
        self.hits += 1
        return True


class Faults:
    """The switchboard of one stand-in: change it at any time, from any thread.

    `connection_rate` and `total_rate` (bytes/s, None: no limit) pace each TCP connection, and all of them together. `slow_after`
    (bytes, bytes/s) is the total rate once so many bytes of files were served: whoever is to be met half-way is then still there when a
    busy machine gets round to it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.connection_rate: float | None = None
        self.total_rate: float | None = None
        self.slow_after: tuple[int, float] | None = None
        self._seed = seed
        self._added = 0
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(
        self,
        fault: Fault,
        *,
        path: str | None = None,
        repo: str | None = None,
        server: ServerName | None = None,
        kinds: Collection[Kind] | None = None,
        methods: Collection[str] | None = None,
        fraction: float = 1.0,
        skip: int = 0,
        times: int | None = None,
    ) -> Rule:
        """Switches ``fault`` on.

        Args: path (a file's path, exactly or as an fnmatch pattern), repo ("models/acme/tiny"), server, kinds and methods
            (which requests; the fault's own choice unless given; ``kinds=()`` means all), fraction (of the requests that
            fit, 0 to 1), skip (that many first requests are spared), times (at most so many). skip and times count for
            each path apart, so ``times=1`` with no path gives every file one fault.
        Returns: the rule, to remove it again and to see its `hits`.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be from 0 to 1, not {fraction}")
        with self._lock:
            self._added += 1
            rule = Rule(
                fault=fault,
                path=path,
                repo=repo,
                server=server,
                kinds=fault.kinds if kinds is None else frozenset(kinds) or None,
                methods=fault.methods if methods is None else frozenset(methods) or None,
                fraction=fraction,
                skip=skip,
                times=times,
                seed=f"{self._seed} {self._added}",
            )
            self._rules.append(rule)
            return rule

    def remove(self, rule: Rule) -> None:
        """Switches one rule off. Raises ValueError when it is not on."""
        with self._lock:
            self._rules.remove(rule)

    def clear(self) -> None:
        """Switches everything off, the rates too."""
        with self._lock:
            self._rules.clear()
            self.connection_rate = self.total_rate = self.slow_after = None

    def total_rate_at(self, served: int) -> float | None:
        """`total_rate`, or what follows it once so many bytes were served."""
        total, slow = self.total_rate, self.slow_after
        if slow is None or served < slow[0]:
            return total
        return slow[1] if total is None else min(total, slow[1])

    def firing(
        self, *, server: ServerName, kind: Kind, method: str, repo: str | None, path: str | None
    ) -> Sequence[Fault]:
        """The faults of one request, in the order in which they were added."""
        with self._lock:
            return [
                rule.fault
                for rule in self._rules
                if rule.concerns(server=server, kind=kind, method=method, repo=repo, path=path)
                and rule.fires(f"{repo}/{path}" if path is not None else kind)
            ]
