"""``hf://``: a Hub repo at one commit becomes a manifest, from its tree listing alone.

One request pins the revision (none when it is a commit already), one request per 1,000 files lists them. The tree gives
size and digest of every file, so nothing else is asked before the bytes are.

A path in the URI is a folder or one file. The Hub answers 404 for the tree of a file, so a path that is no folder is looked
up among its siblings.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Final, cast
from urllib.parse import quote, urlsplit

from ...common.digests import GIT_SHA1, SHA256
from ...common.errors import NotFound, ProtocolViolation, UsageError
from ...common.hub_errors import repo_path
from ...common.records import ObjectSpec, OriginKind
from ...common.uri import HubUri, check_revision
from ...common.uri_records import COMMIT
from .base import Resolved, SourceContext, SourceRequest
from .hub_api import HubApi, JsonObject
from .intake import Intake, shown

DEFAULT_REVISION: Final = "main"
LICENSES_CHARACTERS_MAX: Final = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubSource:
    """A model, dataset or space."""

    def __init__(self, request: SourceRequest, uri: HubUri, context: SourceContext) -> None:
        """Raises UsageError for a request that contradicts itself."""
        if request.sha256:
            raise UsageError("sha256", cause="the Hub names the digest of every file itself", remedy="leave it out")
        if request.revision and uri.revision and request.revision != uri.revision:
            cause = f"the URI names revision {uri.revision!r}, the option {request.revision!r}"
            raise UsageError(str(uri), cause=cause, remedy="name one of them")
        if not context.hub_endpoints:
            raise UsageError("hub.endpoint", cause="it is empty", remedy="name at least one Hub endpoint")
        self._context = context
        if request.revision:
            uri = replace(uri, revision=check_revision(request.revision))
        self._revision = uri.revision or DEFAULT_REVISION
        if request.commit and COMMIT.fullmatch(self._revision) and request.commit != self._revision:
            raise UsageError(str(uri), cause=f"it is a commit itself, not {request.commit}", remedy="name one of them")
        self._is_pinned = bool(request.commit)
        self._asked = request.commit or self._revision
        self._path = uri.path
        self._uri = uri
        self._commit = ""
        self._api = HubApi(context, repo_kind=str(uri.kind), repo_id=uri.repo_id, revision=self._asked)
        self._intake = Intake(selection=request.selection, thing=str(uri))
        self._unknown_types = 0
        self._without_digest = 0
        self._licenses: tuple[str, ...] = ()

    @property
    def refused(self) -> list[tuple[str, str]]:
        return self._intake.refused

    @property
    def refused_count(self) -> int:
        return self._intake.refused_count

    @property
    def warnings(self) -> list[str]:
        return self._intake.warnings

    async def resolve(self) -> Resolved:
        """Pin the revision. Raises as `Source.resolve`."""
        policy = self._context.policy
        policy.check_repo(self._uri.kind, self._uri.repo_id)
        for endpoint in self._context.hub_endpoints:
            policy.check_denied_host(urlsplit(endpoint).hostname or "")
            policy.check_encrypted(endpoint, f"Hub at {endpoint}")
        is_known = COMMIT.fullmatch(self._asked) and not policy.rules_licenses
        self._commit = self._asked if is_known else await self._ask_commit()
        return Resolved(
            source=self._uri.canonical(),
            origin=OriginKind.HUB,
            endpoints=self._api.endpoints,
            repo_kind=str(self._uri.kind),
            repo_id=self._uri.repo_id,
            revision=self._revision,
            commit=self._commit,
            licenses=self._licenses,
            pinned=self._is_pinned,
        )

    async def pages(self) -> AsyncGenerator[list[ObjectSpec], None]:
        """The repo's files at the commit. Raises as `Source.pages`."""
        if not self._commit:
            await self.resolve()
        async with aclosing(self._entries()) as pages:
            async for entries in pages:
                objects = [spec for entry in entries if (spec := self._object(entry)) is not None]
                if objects:
                    yield objects
        if self._unknown_types:
            self._intake.warn(f"{self._unknown_types} entries of a type that is not known were left out")
        if self._without_digest:
            self._intake.warn(f"{self._without_digest} files come without a digest: only their size can be verified")
        self._intake.finish()

    async def read_json(self, path: str) -> JsonObject:
        """A small JSON object of the repo, parsed. Raises NotFound, ProtocolViolation for anything else, and as `resolve`."""
        if not self._commit:
            await self.resolve()
        repo = repo_path(self._uri.kind, quote(self._uri.repo_id))
        return await self._api.get_object(f"{repo}/resolve/{self._commit}/{quote(path)}")

    async def _ask_commit(self) -> str:
        path = self._api_path()
        if self._asked != DEFAULT_REVISION:
            path += f"/revision/{quote(self._asked, safe='')}"
        # `expand` leaves out the list of files, which has megabytes in a big repo. Spaces are never gated.
        query = "expand=sha&expand=cardData&expand=tags" + ("" if self._uri.kind == "space" else "&expand=gated")
        answer = await self._api.get_object(f"{path}?{query}")
        commit, repo_id = answer.get("sha"), answer.get("id")
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise _malformed(self._uri, "the Hub names no commit for it")
        if isinstance(repo_id, str):
            # A repo that was renamed is answered for under its new name, which the rules may refuse.
            self._context.policy.check_repo(self._uri.kind, repo_id)
        licenses = sorted(licenses_of(answer))
        self._context.policy.check_licenses(str(self._uri), licenses)
        # For the agents' own rules. A list that nobody would write is as good as none: it is not known.
        if sum(map(len, licenses)) <= LICENSES_CHARACTERS_MAX:
            self._licenses = tuple(licenses)
        if answer.get("gated"):
            # Everybody may list a gated repo: without this, every single file would be refused later.
            await self._api.check_access(f"{self._api_path()}/auth-check")
        return commit

    def _api_path(self) -> str:
        return f"/api/{self._uri.kind}s/{quote(self._uri.repo_id)}"

    def _tree_path(self, folder: str, *, recursive: bool) -> str:
        below = f"/{quote(folder)}" if folder else ""
        return f"{self._api_path()}/tree/{self._commit}{below}?recursive={str(recursive).lower()}&expand=false"

    async def _entries(self) -> AsyncGenerator[list[JsonObject], None]:
        """Pages of tree entries; below the URI's path, where it names one."""
        found = False
        try:
            async with aclosing(self._api.pages(self._tree_path(self._path, recursive=True))) as pages:
                async for page in pages:
                    if self._path:
                        page = [entry for entry in page if f"{entry.get('path')}/".startswith(f"{self._path}/")]
                    found = found or bool(page)
                    yield page
        except NotFound:
            if found or not self._path:
                raise
        if self._path and not found:
            yield [await self._file_entry()]

    async def _file_entry(self) -> JsonObject:
        """The entry of the one file that the URI names. Raises NotFound."""
        folder = self._path.rpartition("/")[0]
        names: list[str] = []
        async with aclosing(self._api.pages(self._tree_path(folder, recursive=False))) as pages:
            async for page in pages:
                for entry in page:
                    if entry.get("path") == self._path and entry.get("type") == "file":
                        return entry
                    if len(names) < 5:
                        names.append(shown(entry.get("path")))
        cause = f"{self._uri.kind} {self._uri.repo_id}@{self._asked} has no such file or folder"
        raise NotFound(shown(self._path), cause=cause, remedy=f"beside it are {', '.join(names)}" if names else "")

    def _object(self, entry: JsonObject) -> ObjectSpec | None:
        """The object that a tree entry stands for; None for what is no file or is left out.

        Raises ProtocolViolation for an entry that makes no sense.
        """
        kind, name = entry.get("type"), entry.get("path")
        if kind != "file":
            self._unknown_types += kind != "directory"
            return None
        if not isinstance(name, str) or not name:
            raise _malformed(self._uri, "the Hub lists a file without a path")
        path = self._intake.admit(name)
        if path is None:
            return None
        size, digest = _size_and_digest(entry)
        if size is None:
            raise _malformed(self._uri, f"the Hub lists {shown(name)} with a size or digest that makes no sense")
        self._without_digest += not digest
        return ObjectSpec(
            object_id=self._intake.admitted,
            path=path,
            size=size,
            digest=digest,
            etag=digest.partition(":")[2],
            url=f"{repo_path(self._uri.kind, quote(self._uri.repo_id))}/resolve/{self._commit}/{quote(name)}",
        )


def licenses_of(info: JsonObject) -> set[str]:
    """The licences that a repo's card names, and those among its tags; what makes no sense is left out.

    A card that says "other" may name it itself, as ``license_name``: then that counts.
    """
    found: set[str] = set()
    card = info.get("cardData")
    if isinstance(card, dict):
        fields = cast(JsonObject, card)
        for value in (fields.get("license"), fields.get("license_name")):
            values = cast("list[object]", value) if isinstance(value, list) else [value]
            found.update(each for each in values if isinstance(each, str))
    tags = info.get("tags")
    if isinstance(tags, list):
        texts = [tag for tag in cast("list[object]", tags) if isinstance(tag, str)]
        found.update(tag.partition(":")[2] for tag in texts if tag.startswith("license:"))
    return found - {"other"} or found


def _size_and_digest(entry: JsonObject) -> tuple[int | None, str]:
    """Bytes and ``ALGORITHM:HEX`` of a file's tree entry; no size when anything in it is malformed, no digest when it names none."""
    lfs = entry.get("lfs")
    if lfs is not None and not isinstance(lfs, dict):
        return None, ""
    described = cast(JsonObject, lfs) if lfs else entry
    size, oid = described.get("size", entry.get("size")), described.get("oid")
    if type(size) is not int or size < 0:
        return None, ""
    if oid is None:
        return size, ""
    if not isinstance(oid, str) or not (_SHA256 if lfs else COMMIT).fullmatch(oid):
        return None, ""
    return size, f"{SHA256 if lfs else GIT_SHA1}:{oid}"


def _malformed(uri: HubUri, cause: str) -> ProtocolViolation:
    return ProtocolViolation(str(uri), cause=cause, remedy="check that hub.endpoint names a Hub")
