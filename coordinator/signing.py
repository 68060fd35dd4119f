"""Signs URLs of stores' objects for agents, which have no keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..common.errors import Conflict, NotFound, UsageError
from ..common.records import JobSpec, ObjectSpec, OriginKind
from ..common.s3_signing import ANONYMOUS_VALID_S, SignedUrl, sign
from ..common.uri import S3Uri, parse_uri
from .store.base import ObjectRow

if TYPE_CHECKING:
    from ..common.s3_profiles import S3Profiles
    from .model import JobState
    from .store.runner import StoreRunner


class UrlSigner:
    """Knows the profiles; the store knows which object is whose."""

    def __init__(self, profiles: S3Profiles | None = None) -> None:
        self._profiles = profiles

    async def sign_objects(self, store: StoreRunner, state: JobState, object_ids: Sequence[int]) -> list[SignedUrl]:
        """As `CoordinatorApi.sign_objects`, for a job that is known."""
        job, spec = state.row, state.row.spec
        if spec is None or job.status.ended:
            raise Conflict(f"job {job.job_id}", cause=f"it is {job.status.value}: nobody is to fetch for it")

        def read() -> list[ObjectRow | None]:
            return [store.store.get_object(object_id) for object_id in object_ids]

        objects: list[ObjectSpec] = []
        for object_id, row in zip(object_ids, await store.run(read), strict=True):
            if row is None or row.job_id != job.job_id:
                raise NotFound(f"object {object_id}", cause=f"job {job.job_id} has no such object")
            objects.append(row.spec)
        return await asyncio.to_thread(self.sign, spec, objects)

    def sign(self, job: JobSpec, objects: Sequence[ObjectSpec]) -> list[SignedUrl]:
        """A URL for each object that the store accepts from anybody for a while. Blocks; safe to call from several threads.

        Raises UsageError for a job whose origin wants no signatures, Conflict when its profile has moved to another store since
        it was listed, and what the profile's keys raise.
        """
        uri = parse_uri(job.source) if job.origin is OriginKind.S3 else None
        if not isinstance(uri, S3Uri) or self._profiles is None:
            raise UsageError(f"job {job.job_id}", cause="its origin wants no signatures")
        store = self._profiles.store(job.profile)
        place = store.place(uri.bucket, job.source)
        for spec in objects:
            # Else the keys of one store would sign what another one was asked for.
            if not spec.url.startswith(f"{place.base_url}/"):
                raise Conflict(
                    job.source,
                    cause="its store has another address than when the job was listed",
                    remedy="submit it again",
                )
        credentials, valid_s = store.credentials(job.source)
        if credentials is None:
            return [SignedUrl(spec.object_id, spec.url, ANONYMOUS_VALID_S) for spec in objects]
        urls = [(spec.object_id, spec.url) for spec in objects]
        return list(sign(urls, credentials, region=place.region, valid_s=valid_s))
