"""What a program asks for: a request for every node, what became of it, and the error of a call in which some failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common.errors import ShoalError, UsageError
from ..common.nas_records import NAS_OFF
from ..common.records import Delivery, Layout
from ..common.uri import HubUri, S3Uri, check_revision, parse_uri
from ..common.views import JobView, ReplicaStatus, ReplicaView, SubmitRequest

HUB_CACHE = "hf-cache"
"""The destination that stands for the Hub's cache, wherever a node has it."""
AUTO = "auto"
"""Unpack archives where they lie."""
UNPACK_FORMATS = ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip")

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadRequest:
    """One source that every node shall have. Checked when it is made: raises UsageError that names the field.

    uri names one object, or with a trailing slash all under a prefix; Hub repos and ``https://`` files as on the command line.
    destination is the folder that the files keep their paths below, the same on every node, or ``"hf-cache"`` (Hub sources
    only). A relative one is taken from this process's working directory. cache False fetches again what is there already.
    unpack is None, ``"auto"`` (archives, where they lie) or the folder that archives are unpacked into; unpack_format names
    their format where the file's name does not. profile_name names the credentials, the table ``[s3.NAME]`` of the
    configuration. include and exclude are globs on paths; revision is a Hub revision; sha256 is the digest in hex of a
    single object; name is for people.
    """

    uri: str
    destination: str | Path
    cache: bool = True
    unpack: str | Path | None = None
    unpack_format: str = ""
    profile_name: str = ""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    revision: str = ""
    sha256: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        for text in ("uri", "unpack_format", "profile_name", "revision", "sha256", "name"):
            if not isinstance(getattr(self, text), str):
                raise _bad(text, "it is not a string")
        if not isinstance(self.cache, bool):  # pyright: ignore[reportUnnecessaryIsInstance]  # not every caller is checked
            raise _bad("cache", "it is neither True nor False")
        for globs in ("include", "exclude"):
            object.__setattr__(self, globs, _globs(globs, getattr(self, globs)))
        object.__setattr__(self, "destination", _folder("destination", self.destination))
        if self.unpack is not None:
            object.__setattr__(self, "unpack", _folder("unpack", self.unpack))
        self._check_source()
        if self.unpack_format and self.unpack_format not in UNPACK_FORMATS:
            raise _bad("unpack_format", f"{self.unpack_format!r} is none of {', '.join(UNPACK_FORMATS)}")
        if self.unpack_format and self.unpack is None:
            raise _bad("unpack_format", "nothing is unpacked", 'say unpack="auto" or name a folder')

    def _check_source(self) -> None:
        try:
            uri = parse_uri(self.uri, bare_hub=True)
        except UsageError as error:
            raise _bad("uri", f"{error.thing}: {error.cause}", error.remedy) from None
        if self.destination == HUB_CACHE and not isinstance(uri, HubUri):
            raise _bad("destination", "only Hub repos can be put into the Hub cache", "name a folder")
        if self.revision:
            if not isinstance(uri, HubUri):
                raise _bad("revision", "only Hub repos have revisions")
            try:
                check_revision(self.revision)
            except UsageError as error:
                raise _bad("revision", error.cause, error.remedy) from None
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise _bad("sha256", "it is not 64 hexadecimal digits")
        if self.sha256 and isinstance(uri, S3Uri) and uri.is_prefix:
            raise _bad("sha256", "it names the digest of one object, and the uri is a prefix")

    def submit_request(self, delivery: Delivery, hub_endpoints: Sequence[str]) -> SubmitRequest:
        """The same in the coordinator's words."""
        return submit_request(
            [self.uri],
            hub_endpoints=hub_endpoints,
            to=self.destination,
            delivery=delivery,
            include=self.include,
            exclude=self.exclude,
            revision=self.revision,
            force=not self.cache,
            sha256=self.sha256,
            profile=self.profile_name,
            unpack=self.unpack,
            unpack_format=self.unpack_format,
            name=self.name,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributedResult:
    """A request that was fulfilled, and the job that did it."""

    request: DownloadRequest
    job: JobView

    @property
    def destination(self) -> str:
        """The folder, on every node; empty for the Hub cache."""
        return self.job.destination

    @property
    def replicas(self) -> tuple[ReplicaView, ...]:
        """The copy of each node. Empty where this machine alone was the fleet."""
        return self.job.replicas

    @property
    def lost(self) -> tuple[ReplicaView, ...]:
        """Copies of nodes that went away meanwhile."""
        return tuple(replica for replica in self.replicas if replica.status is ReplicaStatus.LOST)


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedRequest:
    """A request that was not fulfilled, and why."""

    request: DownloadRequest
    error: ShoalError = field(compare=False)


class DeliveryFailed(ShoalError):
    """At least one request was not fulfilled."""

    def __init__(self, failed: Sequence[FailedRequest], results: Sequence[DistributedResult]) -> None:
        """Args: failed and results are all requests of the call, each in the order of the call."""
        self.failed = tuple(failed)
        self.results = tuple(results)
        named = "; ".join(f"{each.request.uri}: {each.error}" for each in self.failed)
        count = f"{len(self.failed)} of {len(self.failed) + len(self.results)} requests failed"
        super().__init__(count, cause=named, remedy="what did arrive stays and is not fetched again")


def submit_request(
    uris: Sequence[str],
    *,
    hub_endpoints: Sequence[str],
    to: str | Path | None,
    delivery: Delivery,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    revision: str = "",
    force: bool = False,
    sha256: str = "",
    profile: str = "",
    unpack: str | Path | None = None,
    unpack_format: str = "",
    priority: int = 0,
    name: str = "",
    nas: str | Path | None = None,
) -> SubmitRequest:
    """A request as programs make it, in the coordinator's words. Folders become absolute. Raises UsageError."""
    parsed = [parse_uri(uri, bare_hub=True, hub_endpoints=hub_endpoints) for uri in uris]
    into_cache = to == HUB_CACHE or to is None
    for uri in parsed:
        if into_cache and not isinstance(uri, HubUri):
            cause = "it needs a folder" if to is None else "only Hub repos can be put into the Hub cache"
            raise UsageError(uri.canonical(), cause=cause, remedy="name one with to=")
    return SubmitRequest(
        uris=tuple(uri.canonical() for uri in parsed),
        destination="" if to is None or into_cache else _absolute(to),
        layout=Layout.HUB_CACHE if into_cache else Layout.FOLDER,
        delivery=delivery,
        include=_globs("include", include),
        exclude=_globs("exclude", exclude),
        revision=revision,
        force=force,
        sha256=sha256,
        priority=priority,
        name=name,
        profile=profile,
        unpack="" if unpack is None else AUTO if unpack == AUTO else _absolute(unpack),
        unpack_format=unpack_format,
        nas="" if nas is None else NAS_OFF if nas == NAS_OFF else _absolute(nas),
    )


def _absolute(folder: str | Path) -> str:
    return str(Path.cwd() / Path(folder).expanduser())


def _bad(name: str, cause: str, remedy: str = "") -> UsageError:
    return UsageError(name, cause=cause, remedy=remedy)


def _folder(name: str, value: object) -> str:
    if not isinstance(value, str | Path):
        raise _bad(name, "it is neither a string nor a Path")
    text = str(value)
    if not text or "\0" in text:
        raise _bad(name, "it is no folder's name")
    return text


def _globs(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _bad(name, "it is not a sequence of globs", f'for example {name}=["*.safetensors"]')
    globs = tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not all(isinstance(glob, str) for glob in globs):  # pyright: ignore[reportUnknownVariableType]
        raise _bad(name, "it holds something that is not a string")
    return globs  # pyright: ignore[reportUnknownVariableType]
