"""Which repos the stand-in Hub has, who may see them, and how it says no."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from .http_answer import Answer, RequestHead, json_answer
from .hub_repo import HubRepo

# What may follow a repo's id in a path. It ends the id of a repo without an owner.
SUB_PATHS = frozenset({"resolve", "revision", "tree", "paths-info", "refs", "xet-read-token"})


def error_answer(status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error of the Hub: JSON, with X-Error-Code (which its client goes by) and X-Error-Message."""
    codes = {"X-Error-Code": code} if code else {}
    return json_answer(
        {"error": message}, status=status, headers={**codes, "X-Error-Message": message, **(headers or {})}
    )


class RepoTable:
    """The repos of one stand-in Hub.

    Args: repos; tokens (valid, but good for no private or gated repo; those name their readers themselves).
    """

    def __init__(self, repos: Iterable[HubRepo], tokens: Collection[str]) -> None:
        self._by_key: dict[str, HubRepo] = {}
        self._tokens = set(tokens)
        for repo in repos:
            self.add(repo)

    def add(self, repo: HubRepo) -> None:
        """Publishes one more repo. Raises ValueError when its kind and id are taken."""
        if repo.key in self._by_key:
            raise ValueError(f"{repo.key} is there already")
        self._by_key[repo.key] = repo
        self._tokens |= repo.readers

    def __getitem__(self, key: str) -> HubRepo:
        return self._by_key[key]

    def split(self, kind: str, segments: Sequence[str]) -> tuple[str, list[str]]:
        """Splits path components into the repo's key ("models/acme/tiny") and what follows its id."""
        if f"{kind}/{'/'.join(segments[:2])}" in self._by_key:
            length = 2
        elif f"{kind}/{segments[0]}" in self._by_key:
            length = 1
        else:
            length = 1 if len(segments) > 1 and segments[1] in SUB_PATHS else 2
        return "/".join([kind, *segments[:length]]), list(segments[length:])

    def token(self, head: RequestHead) -> str | None:
        """The token of a request, when it is a valid one."""
        token = head.headers.get("authorization", "").removeprefix("Bearer ")
        return token if token in self._tokens else None

    def refusal(self, head: RequestHead, key: str, *, files: bool) -> Answer | None:
        """Why a request may not see the repo ``key`` (with ``files``: get its files); None when it may.

        As on the Hub, a private repo looks like none at all, and a gated one shows its listing to all.
        """
        token = self.token(head)
        if token is None and "authorization" in head.headers:
            return error_answer(401, None, "Invalid credentials in Authorization header")
        repo = self._by_key.get(key)
        if repo is None or (repo.private and token not in repo.readers):
            return error_answer(401 if token is None else 404, "RepoNotFound", "Repository not found")
        if files and repo.gated and token not in repo.readers:
            message = f"Access to {repo.kind} {repo.id} is restricted. Ask for access on the page of the repo."
            return error_answer(401 if token is None else 403, "GatedRepo", message)
        return None
