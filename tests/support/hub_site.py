"""The stand-in Hub's side of its API: info, trees, refs, paths-info, resolve. Every answer is decided from plain data."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, cast
from urllib.parse import parse_qs, quote, urlencode

from .cdn import UrlSigner, cdn_target
from .faults import Fault
from .http_answer import Answer, Entity, Kind, RequestHead, json_answer, redirect_answer
from .hub_access import RepoTable, error_answer
from .hub_repo import Commit, HubFile, HubRepo
from .listener import Route

KINDS = ("models", "datasets", "spaces")
XET_TOKEN_S = 900

_ApiCall = Callable[[RequestHead, HubRepo, Commit, str], Answer]
_FileCall = Callable[[RequestHead, list[Fault], HubRepo, Commit, HubFile], Answer | Entity]


class HubSite:
    """The Hub.

    Args: prefix ("" or a path such as "/hf" that everything is below), page_entries (of a tree listing),
        xet_url (the Xet server that xet repos announce). `base_url` and `cdn_url` are set once the ports are known.
    """

    def __init__(self, repos: RepoTable, signer: UrlSigner, *, prefix: str, page_entries: int, xet_url: str) -> None:
        self.base_url = ""
        self.cdn_url = ""
        self._repos = repos
        self._signer = signer
        self._prefix = prefix
        self._page_entries = page_entries
        self._xet_url = xet_url
        self._api: dict[str, tuple[Kind, _ApiCall]] = {
            "revision": ("info", self._info),
            "tree": ("tree", self._tree),
            "paths-info": ("paths-info", self._paths_info),
            "refs": ("refs", self._refs),
            "xet-read-token": ("xet-token", self._xet_token),
            "auth-check": ("info", self._auth_check),
        }

    def route(self, head: RequestHead) -> Route:
        """Finds the API call or the file that a path means."""
        if not head.path.startswith(f"{self._prefix}/"):
            return Route(kind="unknown", respond=_unknown)
        match head.segments[self._prefix.count("/") :]:
            case ["api", "whoami-v2"]:
                return Route(kind="whoami", respond=self._whoami)
            case ["api", kind] if kind in KINDS:
                return Route(kind="info", respond=self._list)
            case ["api", "resolve-cache", kind, *rest] if kind in KINDS and rest:
                key, rest = self._repos.split(kind, rest)
                return self._file_route("file", key, rest, self._small_file)
            case ["api", kind, *rest] if kind in KINDS and rest:
                key, rest = self._repos.split(kind, rest)
                return self._api_route(key, rest)
            case [kind, *rest] if kind in KINDS and rest:
                key, rest = self._repos.split(kind, rest)
            case segments:
                key, rest = self._repos.split("models", segments)
        if rest[:1] != ["resolve"]:
            return Route(kind="unknown", respond=_unknown)
        return self._file_route("resolve", key, rest[1:], self._resolve)

    def _file_route(self, request_kind: Kind, key: str, rest: list[str], call: _FileCall) -> Route:
        revision, path = _split_revision(rest)

        def respond(head: RequestHead, faults: list[Fault]) -> Answer | Entity:
            found = self._find(head, key, revision, files=True)
            if isinstance(found, Answer):
                return found
            repo, commit = found
            file = commit.file(path)
            if file is None:
                return error_answer(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.sha})
            return call(head, faults, repo, commit, file)

        return Route(kind=request_kind, repo=key, path=path, respond=respond)

    def _api_route(self, key: str, rest: list[str]) -> Route:
        name, arguments = (rest[0], rest[1:]) if rest else ("revision", [])
        if name not in self._api:
            return Route(kind="unknown", repo=key, respond=_unknown)
        request_kind, call = self._api[name]
        revision, path = _split_revision(arguments)

        def respond(head: RequestHead, faults: list[Fault]) -> Answer:
            found = self._find(head, key, revision, files=name == "auth-check")
            return found if isinstance(found, Answer) else call(head, *found, path)

        return Route(kind=request_kind, repo=key, respond=respond)

    def _find(self, head: RequestHead, key: str, revision: str, *, files: bool) -> Answer | tuple[HubRepo, Commit]:
        refusal = self._repos.refusal(head, key, files=files)
        if refusal is not None:
            return refusal
        repo = self._repos[key]
        commit = repo.find(revision)
        if commit is None:
            # A revision can hold what a header cannot: the message must not repeat it.
            return error_answer(404, "RevisionNotFound", "Invalid rev id")
        return repo, commit

    def _resolve(
        self, head: RequestHead, faults: list[Fault], repo: HubRepo, commit: Commit, file: HubFile
    ) -> Answer | Entity:
        if file.sha256 is None:
            # The metadata is on the target's answer: this redirect tells no more than the commit.
            query = urlencode({"etag": f'"{file.etag}"'})
            location = f"{self._prefix}/api/resolve-cache/{quote(repo.key)}/{commit.sha}/{quote(file.path)}?{query}"
            return redirect_answer(307, location, {"X-Repo-Commit": commit.sha})
        headers = {
            "X-Repo-Commit": commit.sha,
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(file.content.size),
            "Accept-Ranges": "bytes",
        }
        if repo.xet:
            token_url = f"{self.base_url}/api/{quote(repo.key)}/xet-read-token/{commit.sha}"
            headers |= {"X-Xet-Hash": file.xet_hash or "", "Link": f'<{token_url}>; rel="xet-auth"'}
        path, query = cdn_target(repo, commit.sha, file)
        signed = self._signer.sign(path, query, wall_now=head.wall_now, faults=faults)
        return redirect_answer(302, self.cdn_url + signed, headers)

    def _small_file(
        self, head: RequestHead, faults: list[Fault], repo: HubRepo, commit: Commit, file: HubFile
    ) -> Answer | Entity:
        return Entity(
            content=file.content,
            etag=f'"{file.etag}"',
            content_type="text/plain; charset=utf-8",
            headers={"X-Repo-Commit": commit.sha},
            range_required=file.path in repo.range_required,
        )

    def _info(self, head: RequestHead, repo: HubRepo, commit: Commit, path: str) -> Answer:
        query = head.query
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
        if query.get("blobs", "").lower() in ("true", "1"):
            siblings = [_sibling(file) for file in _files(commit)]
        date = repo.modified_at(commit.sha).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return json_answer(
            {
                "_id": hashlib.sha256(repo.key.encode()).hexdigest()[:24],
                "id": repo.id,
                **({"modelId": repo.id} if repo.kind == "model" else {}),
                "author": repo.id.split("/")[0],
                "sha": commit.sha,
                "lastModified": date,
                "createdAt": date,
                "private": repo.private,
                "gated": repo.gated,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [f"license:{repo.card['license']}"] if repo.card and repo.card.get("license") else [],
                **({"cardData": repo.card} if repo.card is not None else {}),
                "siblings": siblings,
            },
            headers={"X-Repo-Commit": commit.sha},
        )

    def _auth_check(self, _head: RequestHead, _repo: HubRepo, _commit: Commit, _path: str) -> Answer:
        return json_answer({})

    def _tree(self, head: RequestHead, repo: HubRepo, commit: Commit, path: str) -> Answer:
        query = head.query
        recursive = query.get("recursive", "").lower() in ("true", "1")
        entries = commit.entries(path, recursive=recursive)
        if path and not entries:
            return error_answer(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.sha})
        try:
            first = int(base64.urlsafe_b64decode(query["cursor"])) if "cursor" in query else 0
            limit = min(int(query.get("limit", self._page_entries)), self._page_entries)
        except (ValueError, binascii.Error):
            return error_answer(400, None, "Bad cursor or limit")
        after = first + max(1, limit)
        headers = {"X-Repo-Commit": commit.sha}
        if after < len(entries):
            cursor = base64.urlsafe_b64encode(b"%d" % after).decode()
            url = f"{self.base_url}{head.path.removeprefix(self._prefix)}?{urlencode({**query, 'cursor': cursor})}"
            headers["Link"] = f'<{url}>; rel="next"'
        expand = query.get("expand", "").lower() in ("true", "1")
        return json_answer(
            [_entry(repo, commit, path, expand=expand) for path in entries[first:after]], headers=headers
        )

    def _paths_info(self, head: RequestHead, repo: HubRepo, commit: Commit, path: str) -> Answer:
        paths: list[str]
        try:
            if "json" in head.headers.get("content-type", ""):
                paths = [str(item) for item in json.loads(head.body)["paths"]]
            else:
                paths = parse_qs(head.body.decode()).get("paths", [])
        except (ValueError, KeyError, TypeError):
            return error_answer(400, None, "paths-info wants paths")
        known = set(commit.entries(recursive=True))
        names = [name if name in commit.files else f"{name.rstrip('/')}/" for name in paths]
        return json_answer([_entry(repo, commit, name, expand=False) for name in names if name in known])

    def _refs(self, head: RequestHead, repo: HubRepo, commit: Commit, path: str) -> Answer:
        def below(folder: str) -> list[dict[str, str]]:
            start = f"refs/{folder}/"
            return [
                {"name": ref.removeprefix(start), "ref": ref, "targetCommit": sha}
                for ref, sha in sorted(repo.refs.items())
                if ref.startswith(start)
            ]

        document = {"branches": below("heads"), "tags": below("tags"), "converts": below("convert")}
        return json_answer({**document, "pullRequests": below("pr")} if "include_prs" in head.query else document)

    def _xet_token(self, head: RequestHead, repo: HubRepo, commit: Commit, path: str) -> Answer:
        if not repo.xet:
            return error_answer(404, None, "This repo is not in Xet storage")
        expires = int(head.wall_now) + XET_TOKEN_S
        token = hashlib.sha256(f"xet {repo.key}".encode()).hexdigest()
        headers = {
            "X-Xet-Cas-Url": self._xet_url,
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(expires),
        }
        return json_answer({"casUrl": self._xet_url, "accessToken": token, "exp": expires}, headers=headers)

    def _list(self, head: RequestHead, faults: list[Fault]) -> Answer:
        return json_answer([])

    def _whoami(self, head: RequestHead, faults: list[Fault]) -> Answer:
        if self._repos.token(head) is None:
            return error_answer(401, None, "Invalid credentials in Authorization header")
        return json_answer({"type": "user", "id": "0" * 24, "name": "tester", "fullname": "Tester", "orgs": []})


def _unknown(head: RequestHead, faults: list[Fault]) -> Answer:
    return error_answer(404, None, "Not Found")


def _split_revision(segments: list[str]) -> tuple[str, str]:
    """Revision and path. The Hub takes refs/pr/N and refs/convert/X with their slashes encoded or not."""
    length = 3 if segments[:1] == ["refs"] and len(segments) >= 3 else 1
    return "/".join(segments[:length]) or "main", "/".join(segments[length:])


def _files(commit: Commit) -> Iterable[HubFile]:
    return (cast(HubFile, commit.file(path)) for path in sorted(commit.files))


def _sibling(file: HubFile) -> dict[str, Any]:
    """A file in the form of the repo's info."""
    sibling: dict[str, Any] = {"rfilename": file.path, "blobId": file.oid, "size": file.content.size}
    if file.sha256 is not None:
        sibling["lfs"] = {"sha256": file.sha256, "size": file.content.size, "pointerSize": file.pointer_size}
    return sibling


def _entry(repo: HubRepo, commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
    """A file or a folder (its path ends with a slash) in the form of the tree."""
    file = commit.file(path)
    entry: dict[str, Any]
    if file is None:
        oid = hashlib.sha1(f"{commit.sha} {path}".encode(), usedforsecurity=False).hexdigest()
        entry = {"type": "directory", "oid": oid, "size": 0, "path": path.removesuffix("/")}
    else:
        entry = {"type": "file", "oid": file.oid, "size": file.content.size, "path": path}
        if file.sha256 is not None:
            entry["lfs"] = {"oid": file.sha256, "size": file.content.size, "pointerSize": file.pointer_size}
            if repo.xet:
                entry["xetHash"] = file.xet_hash
    if expand:
        date = repo.modified_at(commit.sha).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        entry["lastCommit"] = {"id": commit.sha, "title": f"Commit {commit.number}", "date": date}
    return entry
