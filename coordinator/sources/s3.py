"""``s3://``: an object of an S3-compatible store, or everything under a prefix.

A prefix costs one request for a thousand objects: the listing gives key, size, ETag and time of change, and each page is handed
over before the next is asked for. Digests come only with a single object, where the store keeps a SHA-256 of the whole; an ETag
is a validator and never taken for a digest, because what it is the hash of depends on how the object was uploaded.

boto3 blocks, so every call of it runs in a thread.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from ...common.digests import SHA256, parse_digest
from ...common.errors import NotFound, ProtocolViolation, UnsafeName, UsageError
from ...common.records import ObjectSpec, OriginKind
from ...common.s3_errors import store_error
from ...common.s3_signing import object_url
from .base import PAGE_OBJECTS_MAX, Resolved, SourceContext, SourceRequest
from .intake import Intake, shown

if TYPE_CHECKING:
    from ...common.s3_profiles import Place
    from ...common.uri import S3Uri

T = TypeVar("T")

_SHA256_BYTES: Final = 32


class S3Source:
    """An object or a prefix."""

    def __init__(self, request: SourceRequest, uri: S3Uri, context: SourceContext) -> None:
        """Raises UsageError for a request that makes no sense for a store."""
        thing = str(uri)
        if request.revision:
            raise UsageError(thing, cause="a store has no revisions", remedy="leave --revision out")
        if request.sha256 and uri.is_prefix:
            raise UsageError(thing, cause="sha256 is the digest of one object, and this is a prefix")
        if context.s3 is None:
            raise UsageError(thing, cause="no stores can be reached from here")
        self._digest = ":".join(parse_digest(f"sha256:{request.sha256}")) if request.sha256 else ""
        self._uri = uri
        self._thing = thing
        self._profile = request.profile
        self._policy = context.policy
        self._profiles = context.s3
        self._intake = Intake(selection=request.selection, thing=thing)
        self._place: Place | None = None
        self._object: ObjectSpec | None = None

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
        """Find the store, and the object where one is named. Raises as `Source.resolve`."""
        place = self._place = await asyncio.to_thread(self._locate)
        if not self._uri.is_prefix:
            self._object = await self._ask_object(place)
        return Resolved(source=self._uri.canonical(), origin=OriginKind.S3)

    async def pages(self) -> AsyncGenerator[list[ObjectSpec], None]:
        """The object, or those under the prefix. Raises as `Source.pages`."""
        if self._place is None:
            await self.resolve()
        if self._object is not None:
            yield [self._object]
        if not self._uri.is_prefix or self._place is None:
            return
        listing = self._place.client.get_paginator("list_objects_v2").paginate(
            Bucket=self._uri.bucket, Prefix=self._uri.key, PaginationConfig={"PageSize": PAGE_OBJECTS_MAX}
        )
        answers = iter(listing)
        while (answer := await self._call(lambda: next(answers, None))) is not None:
            specs = [spec for entry in answer.get("Contents", ()) if (spec := self._listed(entry)) is not None]
            if specs:
                yield specs
        self._intake.finish()

    # -- the store

    def _locate(self) -> Place:
        """In a thread. What the rules forbid is never asked anything."""
        bucket, policy = self._uri.bucket, self._policy
        policy.check_bucket(bucket, self._uri.key)
        store = self._profiles.store(self._profile)
        place = store.place(bucket, self._thing)
        for url in (place.endpoint, place.base_url):
            policy.check_store(bucket, self._uri.key, urlsplit(url).hostname or "")
            policy.check_encrypted(url, f"{self._thing} at {place.endpoint}")
        return place

    async def _call(self, call: Callable[[], T]) -> T:
        """Run a call of boto3 in a thread. Raises what its errors stand for."""
        try:
            return await asyncio.to_thread(call)
        except Exception as error:
            endpoint = self._place.endpoint if self._place is not None else ""
            raise store_error(error, thing=self._thing, profile=self._profile, endpoint=endpoint) from None

    async def _ask_object(self, place: Place) -> ObjectSpec | None:
        """The object that the URI names; None when it is not selected. Raises NotFound, UnsafeName."""
        key = self._uri.key
        name = key.rpartition("/")[2]
        path = self._intake.admit(name)
        if self._intake.refused:
            raise UnsafeName(self._thing, cause=self._intake.refused[0][1])
        self._intake.finish()
        if path is None:
            return None
        try:
            head: Any = await self._call(
                lambda: place.client.head_object(Bucket=self._uri.bucket, Key=key, ChecksumMode="ENABLED")
            )
        except NotFound as error:
            raise await self._not_there(place, error) from None
        digest = self._digest or _whole_sha256(head)
        return self._spec(path, key, head.get("ContentLength"), digest, head)

    async def _not_there(self, place: Place, error: NotFound) -> NotFound:
        """Why there is no such object: a HEAD does not tell. Raises what asking does."""
        below = f"{self._uri.key}/"
        answer = await self._call(
            lambda: place.client.list_objects_v2(Bucket=self._uri.bucket, Prefix=below, MaxKeys=1)
        )
        if answer.get("KeyCount", 0) or answer.get("Contents"):
            remedy = f"write {self._uri.canonical()}/ for everything under it"
            return NotFound(self._thing, cause="there is no such object, but there are some under it", remedy=remedy)
        return error

    # -- objects

    def _listed(self, entry: Any) -> ObjectSpec | None:
        """The object of one entry of the listing; None for what is left out. Raises ProtocolViolation."""
        key: object = entry.get("Key")
        if not isinstance(key, str) or not key.startswith(self._uri.key):
            raise ProtocolViolation(self._thing, cause="the store lists what it was not asked for")
        name, size = key[len(self._uri.key) :], entry.get("Size")
        if not name or (key.endswith("/") and size == 0):
            return None  # what consoles make to show an empty folder
        path = self._intake.admit(name)
        return None if path is None else self._spec(path, key, size, "", entry)

    def _spec(self, path: str, key: str, size: object, digest: str, facts: Any) -> ObjectSpec:
        if type(size) is not int or size < 0:
            raise ProtocolViolation(self._thing, cause=f"the store names no size for {shown(key)}")
        assert self._place is not None
        return ObjectSpec(
            object_id=self._intake.admitted,
            path=path,
            size=size,
            digest=digest,
            etag=_validator(facts),
            url=object_url(self._place.base_url, key),
        )


def _validator(facts: Any) -> str:
    """The ETag without quotes; where there is none the time of change as HTTP writes it, which holds blanks as no ETag does."""
    etag = str(facts.get("ETag") or "").strip().strip('"')
    if etag and not etag.startswith("W/"):
        return etag
    changed = facts.get("LastModified")
    return format_datetime(changed.astimezone(UTC), usegmt=True) if isinstance(changed, datetime) else ""


def _whole_sha256(head: Any) -> str:
    """The digest that the store keeps of the whole object; "" where it has none, or one of the parts' digests."""
    value: object = head.get("ChecksumSHA256")
    if not isinstance(value, str) or head.get("ChecksumType") == "COMPOSITE":
        return ""
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return ""  # "…=-3": of three parts
    return f"{SHA256}:{digest.hex()}" if len(digest) == _SHA256_BYTES else ""
