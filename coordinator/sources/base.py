"""What every kind of source offers: a user's URI in, a pinned manifest out, page by page.

::

    source = open_source(SourceRequest(uri=parse_uri("hf://acme/tiny")), context)
    resolved = await source.resolve()
    async for page in source.pages():
        ...                               # store the page's objects
    source.refused, source.warnings       # complete once the pages are over

A source is used once, by one task.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from ...common.policy import Policy
from ...common.records import ObjectSpec, OriginKind
from ...common.selection import Selection

if TYPE_CHECKING:
    import random

    from ...common.http import HttpClient
    from ...common.s3_profiles import S3Profiles
    from ...common.secrets import Secret
    from ...common.uri import SourceUri

PAGE_OBJECTS_MAX: Final = 1000  # objects handed over at once by sources that choose their own pages


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRequest:
    """What the user asked for."""

    uri: SourceUri
    revision: str = ""  # from an option; the URI may name one as well
    commit: str = ""  # 40 hex digits: what the revision is pinned to, wherever it points now
    selection: Selection = field(default_factory=Selection)
    sha256: str = ""  # 64 hex digits: what the one file must be
    profile: str = ""  # the credentials by name that a store is asked with


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A source whose revision is pinned."""

    source: str  # the canonical URI
    origin: OriginKind
    endpoints: tuple[str, ...] = ()  # Hub endpoints, the one that answered first
    repo_kind: str = ""  # "model", "dataset", "space" for Hub sources
    repo_id: str = ""
    revision: str = ""  # as the user named it
    commit: str = ""  # 40 hex digits, "" where there is no such thing
    licenses: tuple[str, ...] = ()  # that a Hub repo names, in order; none where they were not asked for
    pinned: bool = False  # the commit was asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceContext:
    """What sources may use of the world."""

    http: HttpClient
    hub_endpoints: tuple[str, ...]  # in order of preference, without a slash at the end
    hub_token: Callable[[], Secret | None]  # asked anew for every request: tokens rotate
    clock: Callable[[], float]  # seconds since 1970
    sleep: Callable[[float], Awaitable[None]]  # seconds
    rng: random.Random
    policy: Policy = field(default_factory=Policy)
    s3: S3Profiles | None = None


class Source(Protocol):
    """A place that objects come from."""

    async def resolve(self) -> Resolved:
        """Pin the source to a revision. Raises NotFound, AccessDenied, Unauthenticated, Refused, UsageError, TransferError."""
        ...

    def pages(self) -> AsyncGenerator[list[ObjectSpec], None]:
        """The objects that were selected, ``object_id`` counting from 1, in pages that are not empty.

        Raises what `resolve` raises; NotFound when nothing is there or nothing was selected.
        """
        ...

    @property
    def refused(self) -> list[tuple[str, str]]:
        """Files that cannot be delivered: name (as ``ascii`` shows it) and reason; at most `NOTES_MAX` of them."""
        ...

    @property
    def refused_count(self) -> int:
        """How many files cannot be delivered."""
        ...

    @property
    def warnings(self) -> list[str]:
        """What the user should know though it stops nothing; at most `NOTES_MAX` of them."""
        ...
