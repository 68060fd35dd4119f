"""A dataset below an s3:// prefix: batches are made in the agent's own data folder, finished files are uploaded.

An object that is there is complete, so the order of uploads is that of renames in a folder: successes last. The footer also stands in
the objects' user metadata, so that one HEAD tells whether a batch is complete. Keys stay with the agent: see docs/s3.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from ...common.dataset_schema import ERRORS, SUCCESSES
from ...common.errors import NotFound, ShoalError, UsageError
from ...common.paths import SafeRoot
from ...common.records import JobSpec
from ...common.s3_errors import store_error
from ...common.s3_profiles import S3Store
from ...common.uri import parse_uri
from ...common.uri_records import S3Uri
from ..storage.workfolder import plain_name, short_hash
from .footer import KEY, Footer, footer_from_json, footer_of_pair
from .options import CollectOptions
from .place import SMALL_BYTES_MAX, disk_errors, next_shard

_PROBE: Final = ".shoal/probe"
_MULTIPART_BYTES: Final = 16 << 20


def store_place(job: JobSpec, options: CollectOptions) -> StorePlace:
    """The place of a job whose destination is a prefix in a store. Raises UsageError, MissingExtra."""
    uri = parse_uri(job.destination)
    if not isinstance(uri, S3Uri) or options.stores is None or options.staging is None:
        raise UsageError(f"destination {job.destination}", cause="this agent cannot write to a store")
    prefix = uri.key.strip("/")
    folder = options.staging / short_hash(job.destination, hex_digits=16)
    return StorePlace(
        options.stores(job.profile),
        bucket=uri.bucket,
        prefix=f"{prefix}/" if prefix else "",
        folder=folder,
        agent=plain_name(options.engine.agent_id),
    )


class StorePlace:
    """A prefix of a bucket."""

    def __init__(self, store: S3Store, *, bucket: str, prefix: str, folder: Path, agent: str) -> None:
        """prefix ends in a slash, or is empty; folder: staging."""
        self._store = store
        self._bucket = bucket
        self._prefix = prefix
        self._folder = folder
        self._agent = agent
        self._root: SafeRoot | None = None

    @property
    def label(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    @property
    def staging(self) -> SafeRoot:
        if self._root is None:
            with disk_errors(str(self._folder)):
                self._root = SafeRoot(self._folder, create=True)
        return self._root

    def staged(self, name: str) -> str:
        return f"work/{name}"

    def prepare(self) -> None:
        self.staging.makedirs_beneath("work")
        key = f"{self._prefix}{_PROBE}-{self._agent}"
        with self._errors(self.label):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=b"x")
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def find(self, batch: str) -> Footer | None:
        heads: list[dict[str, Any]] = []
        for name in (SUCCESSES, ERRORS):
            head = self._head(f"{batch}/{name}")
            if head is None:
                return None
            heads.append(head)
        try:
            first, second = (footer_from_json(head["Metadata"][KEY.decode()]) for head in heads)
        except (KeyError, ValueError):  # not of our making, or copied by a tool that drops metadata
            with self.open_result(f"{batch}/{SUCCESSES}") as successes, self.open_result(f"{batch}/{ERRORS}") as errors:
                return footer_of_pair(successes, errors)
        return first if first.pair == second.pair else None

    def open_result(self, path: str) -> BinaryIO:
        file = cast("BinaryIO", tempfile.TemporaryFile(dir=self.staging.path))  # noqa: SIM115 (the caller closes it)
        try:
            with self._errors(path):
                self._client.download_fileobj(self._bucket, self._prefix + path, file)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def publish(self, staged: str, path: str, footer: Footer | None = None) -> None:
        from boto3.s3.transfer import TransferConfig  # pyright: ignore[reportMissingTypeStubs]

        extra: dict[str, Any] = {"Metadata": {KEY.decode(): footer.to_json()}} if footer is not None else {}
        with self._errors(path):
            self._client.upload_file(
                str(self.staging.path / staged),
                self._bucket,
                self._prefix + path,
                ExtraArgs=extra,
                Config=TransferConfig(multipart_chunksize=_MULTIPART_BYTES, use_threads=False),
            )
        with disk_errors(staged):
            self.staging.unlink_beneath(staged)

    def shards(self, batch: str) -> int:
        names: list[str] = []
        start = f"{self._prefix}{batch}/"
        with self._errors(batch):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start):
                names += [str(found["Key"])[len(start) :] for found in page.get("Contents", ())]
        return next_shard(names)

    def read_small(self, path: str) -> tuple[object, bytes] | None:
        head = self._head(path)
        if head is None:
            return None
        with self.open_result(path) as file:
            return head.get("ETag"), file.read(SMALL_BYTES_MAX)

    @contextmanager
    def locked(self, name: str) -> Generator[None]:
        yield  # a store has no locks: the footers' pairs tell

    def close(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            root.close()

    @property
    def _client(self) -> Any:
        return self._store.place(self._bucket, self.label).client

    def _head(self, path: str) -> dict[str, Any] | None:
        try:
            with self._errors(path):
                return self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
        except NotFound:
            return None

    @contextmanager
    def _errors(self, thing: str) -> Generator[None]:
        try:
            yield
        except ShoalError:
            raise
        except Exception as error:
            raise store_error(error, thing=f"{self.label}{thing}", profile=self._store.profile) from error
