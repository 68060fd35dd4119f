"""What a source URI means, as records. ``uri.py`` reads them from text."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote, unquote_to_bytes

from .secrets import redact

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit's id, as the Hub writes it; what else a revision may be is a name."""
DEFAULT_PORTS = {"http": 80, "https": 443}


class RepoKind(enum.StrEnum):
    """The kinds of Hub repo that Shoal fetches."""

    MODEL = "model"
    DATASET = "dataset"
    SPACE = "space"

    @property
    def prefix(self) -> str:
        """``""``, ``"datasets/"`` or ``"spaces/"``: what stands before the id in URIs and Hub URLs."""
        return "" if self is RepoKind.MODEL else f"{self}s/"


class _Source:
    """What every source has: a canonical text, and a repr that shows no credential of a signed URL."""

    __slots__ = ()

    def canonical(self) -> str:
        """The one spelling of this source; ``parse_uri`` reads it back into an equal source."""
        raise NotImplementedError

    def __str__(self) -> str:
        return redact(self.canonical())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class HubUri(_Source):
    """A repo (path ``""``), or a folder or file in it. ``revision`` None: the default branch."""

    kind: RepoKind
    repo_id: str  # "ORG/NAME"
    revision: str | None = None
    path: str = ""  # below the repo, without a slash at either end

    def canonical(self) -> str:
        """The default branch is not written: ``hf://a/b@main`` and ``hf://a/b`` are the same source."""
        revision = "" if self.revision in (None, "main") else "@" + quote(self.revision, safe="")
        return f"hf://{self.kind.prefix}{self.repo_id}{revision}{'/' if self.path else ''}{self.path}"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class S3Uri(_Source):
    """An object, or (key empty or ending in a slash) everything under a prefix. Keys are literal."""

    bucket: str
    key: str

    @property
    def is_prefix(self) -> bool:
        """Does it name many objects?"""
        return not self.key or self.key.endswith("/")

    def canonical(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class HttpUri(_Source):
    """One file on a web server, normalised after RFC 3986, section 6.2.2."""

    scheme: str  # "http" or "https"
    host: str  # lower case, punycode; IPv6 without brackets
    port: int
    path: str  # percent-encoded, starts with "/"
    query: str = ""  # percent-encoded, without "?"

    @property
    def origin(self) -> str:
        """``https://HOST[:PORT]``: where credentials may travel."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")

    @property
    def name(self) -> str:
        """The last component of the path, decoded; ``""`` when the path ends in a slash. Not yet a safe file name."""
        return unquote_to_bytes(self.path.rpartition("/")[2]).decode(errors="replace")

    def canonical(self) -> str:
        return f"{self.origin}{self.path}{'?' if self.query else ''}{self.query}"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class FileUri(_Source):
    """A local file or folder by its absolute path."""

    path: str

    def canonical(self) -> str:
        return "file://" + quote(self.path, safe="/")


SourceUri: TypeAlias = HubUri | S3Uri | HttpUri | FileUri
